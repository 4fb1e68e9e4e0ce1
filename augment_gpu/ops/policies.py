"""The published policies, with torchvision's options and distributions: auto_augment (Cubuk et al., CVPR 2019),
rand_augment (Cubuk et al., 2020), trivial_augment_wide (Müller and Hutter, ICCV 2021) and aug_mix (Hendrycks et al.,
ICLR 2020). Each sample draws its own ops, magnitudes and signs, and with probability 1 − p none.

interpolation: "nearest" or "bilinear". fill: what comes from outside the image, in [0, 1]: a number, or one per
channel.
"""

from functools import lru_cache, partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from augment_gpu.ops.policy import (
    NUMBER,
    AugMixParams,
    Interpolation,
    PolicyParams,
    policy,
    policy_reference,
)
from augment_gpu.ops.policy_tables import POLICIES, Table
from augment_gpu.ops.rows import check_probability, draw_chosen
from augment_gpu.ops.warp import Fill
from augment_gpu.rng import Key, beta, dirichlet, uniform

auto_augment = partial(policy, name="auto_augment")
rand_augment = partial(policy, name="rand_augment")
trivial_augment_wide = partial(policy, name="trivial_augment_wide")
auto_augment_reference = rand_augment_reference = trivial_augment_wide_reference = policy_reference


class _Bins(NamedTuple):
    """Magnitudes, evenly from the first bin's to the last's; signed: a coin turns them about; whole: whole numbers."""

    first: float = 0.0
    last: float = 0.0
    signed: bool = False
    whole: bool = False


# torchvision's _AUGMENTATION_SPACE of each policy, in its order. Its translations are shares of the side, but for
# trivial_augment_wide, which goes by pixels.
_COLOR = ("brightness", "color", "contrast", "sharpness")
_RAND = {
    "identity": _Bins(),
    **dict.fromkeys(("shear_x", "shear_y"), _Bins(0, 0.3, signed=True)),
    **dict.fromkeys(("translate_x", "translate_y"), _Bins(0, 150 / 331, signed=True)),
    "rotate": _Bins(0, 30, signed=True),
    **dict.fromkeys(_COLOR, _Bins(0, 0.9, signed=True)),
    "posterize": _Bins(8, 4, whole=True),
    "solarize": _Bins(1, 0),
    "autocontrast": _Bins(),
    "equalize": _Bins(),
}
_AUTO = {**_RAND, "invert": _Bins()}
_WIDE = {
    "identity": _Bins(),
    **dict.fromkeys(("shear_x", "shear_y"), _Bins(0, 0.99, signed=True)),
    **dict.fromkeys(("translate_x_abs", "translate_y_abs"), _Bins(0, 32, signed=True)),
    "rotate": _Bins(0, 135, signed=True),
    **dict.fromkeys(_COLOR, _Bins(0, 0.99, signed=True)),
    "posterize": _Bins(8, 2, whole=True),
    "solarize": _Bins(1, 0),
    "autocontrast": _Bins(),
    "equalize": _Bins(),
}
_MIX = {
    **dict.fromkeys(("shear_x", "shear_y"), _Bins(0, 0.3, signed=True)),
    **dict.fromkeys(("translate_x", "translate_y"), _Bins(0, 1 / 3, signed=True)),
    "rotate": _Bins(0, 30, signed=True),
    "posterize": _Bins(4, 0, whole=True),
    "solarize": _Bins(1, 0),
    "autocontrast": _Bins(),
    "equalize": _Bins(),
}
_MIX_ALL = {**_MIX, **dict.fromkeys(_COLOR, _Bins(0, 0.9, signed=True))}
_SPACES = {"rand": _RAND, "auto": _AUTO, "wide": _WIDE, "mix": _MIX, "mix all": _MIX_ALL}


@lru_cache
def _space(name: str, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ops,) numbers in POLICY_OPS, (ops, bins) magnitudes, and (ops,) bool, which are signed."""
    space = _SPACES[name]
    magnitude = np.array([_evenly(op.first, op.last, bins) for op in space.values()])
    whole = np.array([op.whole for op in space.values()])
    magnitude[whole] = np.rint(magnitude[whole])
    pixels = np.array([op.endswith("_abs") for op in space])
    magnitude[pixels] = np.trunc(magnitude[pixels])
    return np.array([NUMBER[op] for op in space]), magnitude, np.array([op.signed for op in space.values()])


def _evenly(first: float, last: float, bins: int) -> np.ndarray:
    """(bins,) float64, the values of torch.linspace in float32, on every machine: from either end to the middle, and
    rounded once. A last bit decides on which side of solarize's threshold a grey level lies, and whether 16 pixels are
    15."""
    start, end = np.float32(first), np.float32(last)
    step, place = float((end - start) / np.float32(bins - 1)), np.arange(bins)
    values = np.where(place < bins // 2, start + step * place, end - step * place[::-1])
    return values.astype(np.float32).astype(np.float64)


def _draw(
    space: str, bins: int, op: np.ndarray, place: np.ndarray | int, coin: np.ndarray, does: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(B, n) numbers and magnitudes. op: (B, n) uniform in [0, 1), or whole numbers, places in the space. place: of the
    magnitude, among the bins. coin: (B, n) uniform. does: (B, n) or (B, 1) bool, where something is done."""
    numbers, magnitudes, signed = _space(space, bins)
    which = op if op.dtype.kind == "i" else (op * len(numbers)).astype(np.int64)
    magnitude = magnitudes[which, place] * np.where(signed[which] & (coin < 0.5), -1, 1)
    return np.where(does, numbers[which], NUMBER["identity"]), np.where(does, magnitude, 0)


def _check_count(name: str, value: int, low: int, high: float = np.inf) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not low <= value <= high:
        bounds = f"of at least {low}" if np.isinf(high) else f"in [{low}, {high}]"
        raise ValueError(f"{name} is {value!r}; wanted a whole number {bounds}")


# ---- auto_augment


def sample_auto_augment(
    key: Key,
    index: ArrayLike,
    *,
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet",
    interpolation: Interpolation = "nearest",
    fill: Fill = 0.0,
    p: float = 1.0,
) -> PolicyParams:
    """One of a policy's 25 pairs of ops, each of which is done with a probability, and has a magnitude, of its own.
    timm's variants are timm_augment's."""
    known = ("imagenet", "cifar10", "svhn")
    if policy not in known:
        raise ValueError(f"policy is {policy!r}; known are {', '.join(known)}")
    index = np.asarray(index)
    u = uniform(key, index, "auto_augment", 5)
    table = POLICIES[policy]
    names, chances, bins = columns(table, tuple(_AUTO))
    which = (u[:, 0] * len(table)).astype(np.int64)
    does = (u[:, 1:3] < chances[which]) & draw_chosen(key, index, "auto_augment.p", p)[:, None]
    drawn = _draw("auto", 10, names[which], bins[which], u[:, 3:5], does)
    return PolicyParams(*drawn, interpolation, fill)


def columns(table: Table, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(policies, ops) places of the ops among the names, probabilities, and magnitudes."""
    rows = [[(names.index(name), chance, magnitude) for name, chance, magnitude in pair] for pair in table]
    columns = np.array(rows).transpose(2, 0, 1)
    return columns[0].astype(np.int64), columns[1], columns[2].astype(np.int64)


# ---- rand_augment


def sample_rand_augment(
    key: Key,
    index: ArrayLike,
    *,
    num_ops: int = 2,
    magnitude: int = 9,
    num_magnitude_bins: int = 31,
    interpolation: Interpolation = "nearest",
    fill: Fill = 0.0,
    p: float = 1.0,
) -> PolicyParams:
    """num_ops of 14 ops, one after the other, all at bin `magnitude` of num_magnitude_bins. timm's variants are
    timm_augment's."""
    _check_count("num_ops", num_ops, 0)
    _check_count("num_magnitude_bins", num_magnitude_bins, 2)
    _check_count("magnitude", magnitude, 0, num_magnitude_bins - 1)
    index = np.asarray(index)
    u = uniform(key, index, "rand_augment", 2 * num_ops)
    does = draw_chosen(key, index, "rand_augment.p", p)[:, None]
    drawn = _draw("rand", num_magnitude_bins, u[:, :num_ops], magnitude, u[:, num_ops:], does)
    return PolicyParams(*drawn, interpolation, fill)


# ---- trivial_augment_wide


def sample_trivial_augment_wide(
    key: Key,
    index: ArrayLike,
    *,
    num_magnitude_bins: int = 31,
    interpolation: Interpolation = "nearest",
    fill: Fill = 0.0,
    p: float = 1.0,
) -> PolicyParams:
    """One of 14 ops, at any of num_magnitude_bins magnitudes."""
    _check_count("num_magnitude_bins", num_magnitude_bins, 2)
    check_probability(p)
    u = uniform(key, np.asarray(index), "trivial_augment_wide", 4)
    place = (u[:, 1:2] * num_magnitude_bins).astype(np.int64)
    drawn = _draw("wide", num_magnitude_bins, u[:, :1], place, u[:, 2:3], u[:, 3:] < p)
    return PolicyParams(*drawn, interpolation, fill)


# ---- aug_mix


def sample_aug_mix(
    key: Key,
    index: ArrayLike,
    *,
    severity: int = 3,
    mixture_width: int = 3,
    chain_depth: int = -1,
    alpha: float = 1.0,
    all_ops: bool = True,
    interpolation: Interpolation = "bilinear",
    fill: Fill = 0.0,
    p: float = 1.0,
) -> AugMixParams:
    """mixture_width chains of chain_depth ops (−1: of one to three), each at one of the first `severity` of 10
    magnitudes; mixed with the sample by weights of Dirichlet and Beta distributions, both with `alpha`. all_ops: also
    brightness, color, contrast and sharpness, with which the corruptions of ImageNet-C overlap."""
    _check_count("severity", severity, 1, 10)
    index = np.asarray(index)
    weight, does = draw_mixture(key, index, "aug_mix", mixture_width, chain_depth, alpha, p)
    count = does[0].shape[1]
    chains = []
    for chain, done in enumerate(does):
        u = uniform(key, index, f"aug_mix.{chain}", 3 * count).reshape(-1, 3, count)
        place = (u[:, 1] * severity).astype(np.int64)
        drawn = _draw("mix all" if all_ops else "mix", 10, u[:, 0], place, u[:, 2], done)
        chains.append(PolicyParams(*drawn, interpolation, fill))
    return AugMixParams(weight, tuple(chains))


def draw_mixture(
    key: Key, index: np.ndarray, name: str, width: int, depth: int, alpha: float, p: float
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Of AugMix: the weights, (B, 1 + width) float32, and of each chain (B, most ops) bool, which of its places are
    used."""
    _check_count("mixture_width", width, 1)
    _check_count("chain_depth", depth, -1)
    chosen = draw_chosen(key, index, f"{name}.p", p)
    share = np.where(chosen, beta(key, index, f"{name}.share", alpha), 0)
    weight = np.column_stack([1 - share, share[:, None] * dirichlet(key, index, f"{name}.weight", alpha, width)])
    # No chain of no op: torchvision takes every depth below 1 for −1.
    most = depth if depth > 0 else 3
    lengths = np.full((len(index), width), depth)
    if depth < 1:
        lengths = 1 + (3 * uniform(key, index, f"{name}.depth", width)).astype(np.int64)
    places = np.arange(most) < (lengths * chosen[:, None])[:, :, None]
    return weight.astype(np.float32), list(places.transpose(1, 0, 2))
