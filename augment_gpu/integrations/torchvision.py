"""A torchvision Compose as a Recipe."""

from collections.abc import Callable
from typing import Any

from augment_gpu.recipe import Recipe

# They only change a type, which a stage does by itself.
_CONVERSIONS = ("ToTensor", "PILToTensor", "ToImage", "ToDtype", "ConvertImageDtype", "ToPureTensor", "Identity")


def from_torchvision(compose: Any) -> Recipe:
    """The Recipe that does what a torchvision Compose (v1 or v2, or a list of transforms) does.

    Known: RandomResizedCrop, or Resize followed by CenterCrop; RandomHorizontalFlip, ColorJitter, GaussianBlur, each of
    the last two also inside RandomApply; Normalize; RandomErasing with its default ranges; conversions. Raises
    ValueError for anything else, and for a colour op before the crop, which would see other pixels.
    """
    fields: dict[str, Any] = {"flip": 0.0, "mean": None, "std": None}
    ops: list[tuple[str, dict[str, Any]]] = []
    for transform in getattr(compose, "transforms", compose):
        name = type(transform).__name__
        if name in _CONVERSIONS:
            continue
        p = 1.0
        if name == "RandomApply" and len(transform.transforms) == 1:
            p, transform = transform.p, transform.transforms[0]
            name = type(transform).__name__
        if name in _OPS:
            if "crop" not in fields:
                raise ValueError(f"{name} stands before the crop; a Recipe's ops come after it")
            ops.append((_OPS[name][0], {**_OPS[name][1](transform), "p": p}))
        elif name in _FIELDS and p == 1.0:
            fields |= _FIELDS[name](transform)
        else:
            known = ", ".join([*_FIELDS, *_OPS, *_CONVERSIONS])
            raise ValueError(f"{name} has no counterpart in a Recipe; known are {known}")
    if "crop" not in fields:
        raise ValueError("there is no RandomResizedCrop and no CenterCrop: a Recipe needs to know its output's size")
    return Recipe(**fields, ops=tuple(ops))


def _side(size: Any, name: str) -> int:
    sides = [size] if isinstance(size, int) else list(size)
    if len(set(sides)) != 1:
        raise ValueError(f"{name} has size {size}; a Recipe's output is square")
    return sides[0]


def _interpolation(transform: Any) -> dict[str, Any]:
    mode = getattr(transform.interpolation, "value", transform.interpolation)
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
    random = transform.value is None or transform.value == "random"
    return {"reprob": transform.p, "fill": "noise" if random else transform.value}


def _sigma(transform: Any) -> dict[str, Any]:
    return {"kernel_size": _side(transform.kernel_size, "GaussianBlur"), "sigma": tuple(transform.sigma)}


def _strengths(transform: Any) -> dict[str, Any]:
    """torchvision keeps each strength as a range about the neutral value."""
    strengths = {}
    for name, neutral in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0)):
        span = getattr(transform, name)
        if span is None:
            continue
        low, high = span
        strength = high - neutral
        if abs(low - max(neutral - strength, 0 if neutral else -0.5)) > 1e-6:
            raise ValueError(f"ColorJitter has {name} in {(low, high)}; wanted a range about {neutral}")
        strengths[name] = strength
    return strengths


_FIELDS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "RandomResizedCrop": _random_resized_crop,
    "Resize": _resize,
    "CenterCrop": lambda t: {"crop": "center", "size": _side(t.size, "CenterCrop")},
    "RandomHorizontalFlip": lambda t: {"flip": t.p},
    "Normalize": lambda t: {"mean": tuple(t.mean), "std": tuple(t.std)},
    "RandomErasing": _random_erasing,
}
_OPS: dict[str, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    "ColorJitter": ("color_jitter", _strengths),
    "GaussianBlur": ("gaussian_blur", _sigma),
}
