"""timm's ops for its automatic augmentations, their levels, and the sets of them that its strings name."""

from collections.abc import Callable
from functools import partial

import numpy as np

from augment_gpu.ops.policy_tables import POLICIES, Table, read_table

DENOMINATOR = 10  # a level of 10 is an op's full strength

# ---- levels: (level, sign, chance) to the magnitude of PolicyParams. level: (n,) at least 0. sign: ±1, (n,). chance:
# (n,) uniform in [0, 1).

Level = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _signed(most: float) -> Level:
    return lambda level, sign, _: sign * level / DENOMINATOR * most


def _enhance(level: np.ndarray, _: np.ndarray, __: np.ndarray) -> np.ndarray:
    """A factor from 0.1 to 1.9."""
    return level / DENOMINATOR * 1.8 + 0.1 - 1


def _enhance_increasing(level: np.ndarray, sign: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.maximum(0.1, 1 + sign * level / DENOMINATOR * 0.9) - 1


def _whole(level: np.ndarray, most: int, limit: int) -> np.ndarray:
    return np.minimum(limit, np.trunc(level / DENOMINATOR * most))


def _posterize(level: np.ndarray, _: np.ndarray, __: np.ndarray, *, first: int, step: int) -> np.ndarray:
    return np.clip(first + step * _whole(level, 4, 8), 0, 8)


def _solarize(level: np.ndarray, _: np.ndarray, __: np.ndarray, *, increasing: bool) -> np.ndarray:
    threshold = _whole(level, 256, 256)
    # Halfway to the grey level below, so that no rounding of a value decides.
    return ((256 - threshold if increasing else threshold) - 0.5) / 255


def _desaturate(level: np.ndarray, _: np.ndarray, __: np.ndarray) -> np.ndarray:
    return -np.clip(0.5 + 0.5 * level / DENOMINATOR, 0.5, 1)


def _none(level: np.ndarray, _: np.ndarray, __: np.ndarray) -> np.ndarray:
    return np.zeros_like(level)


# By name, which op with which levels.
LEVELS: dict[str, tuple[str, Level]] = {
    "autocontrast": ("autocontrast", _none),
    "equalize": ("equalize", _none),
    "invert": ("invert", _none),
    "rotate": ("rotate", _signed(30)),
    "posterize": ("posterize", partial(_posterize, first=0, step=1)),
    "posterize_increasing": ("posterize", partial(_posterize, first=4, step=-1)),
    "posterize_original": ("posterize", partial(_posterize, first=4, step=1)),
    "solarize": ("solarize", partial(_solarize, increasing=False)),
    "solarize_increasing": ("solarize", partial(_solarize, increasing=True)),
    "solarize_add": ("solarize_add", lambda level, _, __: _whole(level, 110, 128) / 255),
    **{name: (name, _enhance) for name in ("color", "contrast", "brightness", "sharpness")},
    **{f"{name}_increasing": (name, _enhance_increasing) for name in ("color", "contrast", "brightness", "sharpness")},
    **{f"shear_{axis}": (f"shear_{axis}", _signed(0.3)) for axis in "xy"},
    **{f"translate_{axis}_rel": (f"translate_{axis}_rel", _signed(0.45)) for axis in "xy"},
    "desaturate": ("color", _desaturate),
    "gaussian_blur": ("gaussian_blur", lambda level, _, __: np.clip(0.1 + 1.9 * level / DENOMINATOR, 0.1, 2)),
    "gaussian_blur_rand": (
        "gaussian_blur",
        lambda level, _, chance: 0.1 + (2 * np.clip(level / DENOMINATOR, 0, 1) - 0.1) * chance,
    ),
}

# ---- sets of ops


def _renamed(table: Table, posterize: str) -> Table:
    """The table with another kind of posterize."""
    return tuple(
        tuple((posterize if name == "posterize" else name, chance, level) for name, chance, level in policy)
        for policy in table
    )


_MOVED = ("shear_x", "shear_y", "translate_x_rel", "translate_y_rel")
_COLOR = ("color", "contrast", "brightness", "sharpness")
_RISING = tuple(f"{name}_increasing" for name in _COLOR)
SETS = {
    "plain": (
        "autocontrast",
        "equalize",
        "invert",
        "rotate",
        "posterize",
        "solarize",
        "solarize_add",
        *_COLOR,
        *_MOVED,
    ),
    "increasing": (
        *("autocontrast", "equalize", "invert", "rotate", "posterize_increasing", "solarize_increasing"),
        *("solarize_add", *_RISING, *_MOVED),
    ),
    "augmix": (
        *("autocontrast", *_RISING, "equalize", "rotate", "posterize_increasing", "solarize_increasing"),
        *_MOVED,
    ),
    "3a": ("solarize_increasing", "desaturate", "gaussian_blur"),
}
# Those that are drawn with unequal probabilities, and never twice for a sample.
WEIGHTED = {
    "3aw": {
        **dict.fromkeys(SETS["3a"], 6.0),
        "rotate": 3.0,
        **dict.fromkeys(("shear_x", "shear_y"), 2.0),
        **dict.fromkeys(("posterize_increasing", "autocontrast", *_RISING, "equalize", "invert"), 1.0),
    },
    "weights": {
        "rotate": 3.0,
        **dict.fromkeys(("shear_x", "shear_y"), 2.0),
        **dict.fromkeys(("translate_x_rel", "translate_y_rel"), 1.0),
        **dict.fromkeys(("color_increasing", "sharpness_increasing", "autocontrast"), 0.25),
        **dict.fromkeys(("solarize_increasing", "solarize_add", "contrast_increasing", "brightness_increasing"), 0.05),
        **dict.fromkeys(("equalize", "posterize_increasing", "invert"), 0.05),
    },
}
_V0, _ORIGINAL = POLICIES["v0"], POLICIES["imagenet"]
TABLES = {
    "original": _renamed(_ORIGINAL, "posterize_original"),
    "originalr": _renamed(_ORIGINAL, "posterize_increasing"),
    "v0": _V0,
    "v0r": _renamed(_V0, "posterize_increasing"),
    "3a": read_table("solarize 1 5 | desaturate 1 10 | gaussian_blur_rand 1 10"),
}
