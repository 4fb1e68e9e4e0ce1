"""A torchvision Compose as a Recipe."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from augment_gpu.recipe import Recipe

# They only change a type, which a stage does by itself.
_CONVERSIONS = ("ToTensor", "PILToTensor", "ToImage", "ToDtype", "ConvertImageDtype", "ToPureTensor", "Identity")


def from_torchvision(compose: Any) -> Recipe:
    """The Recipe that does what a torchvision Compose (v1 or v2, or a list of transforms) does.

    Known, in this order and each at most once: RandomResizedCrop, or Resize and CenterCrop; ops, those of _OPS below,
    each also inside RandomApply; Normalize; RandomErasing with its default ranges. RandomHorizontalFlip may stand
    anywhere before Normalize, but not after RandomRotation or RandomAffine, whose ranges it would turn about, nor after
    a policy, which shears about a corner; conversions anywhere. Fills and thresholds before a conversion to floating
    point go up to 255, afterwards to 1. Raises ValueError for anything else, and for another order, in which a recipe
    would do something else.
    """
    fields: dict[str, Any] = {"flip": 0.0, "mean": None, "std": None}
    ops: list[tuple[str, dict[str, Any]]] = []
    seen: list[str] = []
    top = 255
    for transform in getattr(compose, "transforms", compose):
        name = type(transform).__name__
        if name in _CONVERSIONS:
            fields |= (converted := _conversion(transform))
            top = 1 if converted or name == "ToTensor" else top
            continue
        p = 1.0
        if name == "RandomApply" and len(transform.transforms) == 1:
            p, transform = transform.p, transform.transforms[0]
            name = type(transform).__name__
        if name not in _ORDER or (p != 1.0 and name not in _OPS):
            raise ValueError(f"{name} has no counterpart in a Recipe; known are {', '.join([*_ORDER, *_CONVERSIONS])}")
        if name in seen:
            raise ValueError(f"{name} stands there twice")
        for earlier in seen:
            flips = "RandomHorizontalFlip" in (name, earlier) and "Normalize" not in (name, earlier)
            turned = name == "RandomHorizontalFlip" and earlier in _TURNED
            if turned or (_ORDER[earlier] > _ORDER[name] and not flips):
                raise ValueError(f"{name} stands after {earlier}; a Recipe does it before")
        seen.append(name)
        if name in _OPS:
            op, options_of = _OPS[name]
            options = options_of(transform, top)
            ops.append((op, {**options, "p": p * options.get("p", 1.0)}))
        else:
            fields |= _FIELDS[name](transform)
    if ("RandomResizedCrop" in seen) == ("CenterCrop" in seen) or ("Resize" in seen) != ("CenterCrop" in seen):
        raise ValueError(f"{seen} does not crop; wanted RandomResizedCrop, or Resize and CenterCrop")
    return Recipe(**fields, ops=tuple(ops))


def _conversion(transform: Any) -> dict[str, Any]:
    """What a change of type means: the output's dtype, and values in [0, 1]."""
    dtype = getattr(transform, "dtype", None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return {}
    if getattr(transform, "scale", True) is False:
        raise ValueError("ToDtype has scale=False, which leaves values in [0, 255]; a Recipe's images lie in [0, 1]")
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"{type(transform).__name__} has dtype {dtype}; wanted float32, float16 or bfloat16")
    return {"dtype": str(dtype).removeprefix("torch.")}


def _side(size: Any, name: str) -> int:
    sides = [size] if isinstance(size, int) else list(size)
    if len(set(sides)) != 1:
        raise ValueError(f"{name} has size {size}; a Recipe's output is square")
    return sides[0]


def _interpolation(transform: Any) -> dict[str, Any]:
    mode = getattr(transform.interpolation, "value", transform.interpolation)
    if mode == "nearest-exact":  # what Pillow calls nearest, and a Recipe too
        mode = "nearest"
    if mode not in ("bilinear", "bicubic", "nearest"):
        raise ValueError(f"{type(transform).__name__} has interpolation {mode!r}; wanted bilinear, bicubic or nearest")
    return {"interpolation": mode, "antialias": bool(transform.antialias)}


def _random_resized_crop(transform: Any) -> dict[str, Any]:
    crop = {"crop": "random_resized", "size": _side(transform.size, "RandomResizedCrop")}
    return {**crop, "scale": tuple(transform.scale), "ratio": tuple(transform.ratio), **_interpolation(transform)}


def _resize(transform: Any) -> dict[str, Any]:
    sides = [transform.size] if isinstance(transform.size, int) else list(transform.size)
    if len(sides) != 1 or transform.max_size is not None:
        raise ValueError(f"Resize has size {transform.size}; wanted one number, the short side")
    return {"resize": sides[0], **_interpolation(transform)}


def _random_erasing(transform: Any) -> dict[str, Any]:
    if tuple(transform.scale) != (0.02, 0.33) or tuple(transform.ratio) != (0.3, 3.3):
        raise ValueError("RandomErasing has ranges of its own; a Recipe's reprob has the published ones")
    # torchvision v2 keeps "random" as None
    value = transform.value
    if value is None or value == "random":
        return {"reprob": transform.p, "fill": "noise"}
    numbers = (value,) if isinstance(value, int | float) else tuple(value)
    return {"reprob": transform.p, "fill": numbers[0] if len(numbers) == 1 else numbers}


def _sigma(transform: Any, _: int) -> dict[str, Any]:
    sides = set(transform.kernel_size)
    if len(sides) != 1:
        raise ValueError(f"GaussianBlur has kernel_size {transform.kernel_size}; wanted a square kernel")
    return {"kernel_size": sides.pop(), "sigma": tuple(transform.sigma)}


def _attributes(*names: str) -> Callable[[Any, int], dict[str, Any]]:
    """Options of the same names."""
    return lambda transform, _: {name: getattr(transform, name) for name in names}


def _moved(*names: str, modes: tuple[str, ...] = ("bilinear",)) -> Callable[[Any, int], dict[str, Any]]:
    """Options of these names, and the filling, of what samples pixels elsewhere."""

    def options(transform: Any, top: int) -> dict[str, Any]:
        name = type(transform).__name__
        mode = getattr(transform.interpolation, "value", transform.interpolation)
        if mode not in modes:
            raise ValueError(f"{name} has interpolation {mode!r}; an op has {' or '.join(modes)}")
        if getattr(transform, "center", None) is not None or getattr(transform, "expand", False):
            raise ValueError(f"{name} has a centre of its own, or expands the image; an op does neither")
        if isinstance(transform.fill, dict):
            raise ValueError(f"{name} has a fill for each type; wanted one number, or one per channel")
        fill = np.asarray(0 if transform.fill is None else transform.fill, dtype=np.float64) / top
        filling = {"fill": tuple(fill.tolist()) if fill.ndim and fill.size > 1 else float(fill.reshape(-1)[0])}
        chosen = {"interpolation": mode} if len(modes) > 1 else {}
        return {**_attributes(*names)(transform, top), **chosen, **filling}

    return options


def _elastic(transform: Any, top: int) -> dict[str, Any]:
    alpha, sigma = set(transform.alpha), set(transform.sigma)
    if len(alpha) > 1 or len(sigma) > 1:
        raise ValueError(
            f"ElasticTransform has alpha {transform.alpha}, sigma {transform.sigma}; an op has one of each"
        )
    return {"alpha": alpha.pop(), "sigma": sigma.pop(), **_moved()(transform, top)}


def _policy(transform: Any, top: int) -> dict[str, Any]:
    return {"policy": transform.policy.value, **_moved(modes=_MODES)(transform, top)}


def _strengths(transform: Any, _: int) -> dict[str, Any]:
    """torchvision keeps each strength as a range, mostly about the neutral value."""
    strengths: dict[str, Any] = {}
    for name, neutral in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        span = getattr(transform, name)
        if span is None:
            continue
        low, high = span
        strength = high - neutral
        about = abs(low - max(neutral - strength, 0 if neutral else -0.5)) < 1e-6
        strengths[name] = strength if about else (low, high)
    return strengths


_FIELDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "RandomResizedCrop": _random_resized_crop,
    "Resize": _resize,
    "CenterCrop": lambda t: {"crop": "center", "size": _side(t.size, "CenterCrop")},
    "RandomHorizontalFlip": lambda t: {"flip": t.p},
    "Normalize": lambda t: {"mean": tuple(t.mean), "std": tuple(t.std)},
    "RandomErasing": _random_erasing,
}
_MODES = ("nearest", "bilinear")
# What does something else to a picture that is flipped afterwards.
_TURNED = ("RandomRotation", "RandomAffine", "AutoAugment", "RandAugment", "TrivialAugmentWide", "AugMix")
_OPS: dict[str, tuple[str, Callable[[Any, int], dict[str, Any]]]] = {
    "ColorJitter": ("color_jitter", _strengths),
    "GaussianBlur": ("gaussian_blur", _sigma),
    "RandomGrayscale": ("grayscale", _attributes("p")),
    "RandomInvert": ("invert", _attributes("p")),
    "RandomSolarize": ("solarize", lambda t, top: {"threshold": t.threshold / top, "p": t.p}),
    "RandomPosterize": ("posterize", _attributes("bits", "p")),
    "RandomAutocontrast": ("autocontrast", _attributes("p")),
    "RandomEqualize": ("equalize", _attributes("p")),
    "RandomAdjustSharpness": ("sharpness", _attributes("sharpness_factor", "p")),
    "RandomRotation": ("rotate", _moved("degrees")),
    "RandomAffine": ("affine", _moved("degrees", "translate", "scale", "shear")),
    "RandomPerspective": ("perspective", _moved("distortion_scale", "p")),
    "RandomVerticalFlip": ("vertical_flip", _attributes("p")),
    "ElasticTransform": ("elastic", _elastic),
    "GaussianNoise": ("gaussian_noise", _attributes("mean", "sigma", "clip")),
    "JPEG": ("jpeg", _attributes("quality")),
    "AutoAugment": ("auto_augment", _policy),
    "RandAugment": ("rand_augment", _moved("num_ops", "magnitude", "num_magnitude_bins", modes=_MODES)),
    "TrivialAugmentWide": ("trivial_augment_wide", _moved("num_magnitude_bins", modes=_MODES)),
    "AugMix": (
        "aug_mix",
        _moved("severity", "mixture_width", "chain_depth", "alpha", "all_ops", modes=_MODES),
    ),
}
_ORDER = {
    "Resize": 0,
    "RandomResizedCrop": 1,
    "CenterCrop": 1,
    **dict.fromkeys(_OPS, 2),
    "RandomHorizontalFlip": 2,
    "Normalize": 3,
    "RandomErasing": 4,
}
