"""What a policy's draws are, and how a batch is put through them: each sample one op after another, of its own choice.

In each place the rows are grouped by the op that stands there, and each group is computed on at once. Images are
(B, C, H, W) floating point in [0, 1], C = 1 or 3. Policies return a new tensor, or the very tensor they got where no
sample drew anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch

from augment_gpu import memory
from augment_gpu.ops.blur import blur_rows
from augment_gpu.ops.color import adjust_brightness, adjust_contrast, adjust_saturation
from augment_gpu.ops.geometry import affine_grid, inverse_matrix
from augment_gpu.ops.rows import Group, check_images, in_turn, on_rows, one_by_one
from augment_gpu.ops.tone import autocontrast_rows, equalize_rows, posterize_rows, sharpness_rows, solarize_rows
from augment_gpu.ops.warp import Fill, checked_fill, fill_of_reference, filling_of, sample_at

Interpolation = Literal["nearest", "bilinear"]
_BLUR = 17  # pixels of the kernel: four of the greatest σ that a policy draws, 2, to each side, where there is room


class _Op(NamedTuple):
    """function(rows, values), values being magnitudes of float32. still: the magnitude that leaves a sample alone."""

    function: Callable[..., torch.Tensor] | None
    still: float | None = None
    values: Callable[[np.ndarray], np.ndarray] = lambda magnitude: magnitude


def _solarize_add(images: torch.Tensor, add: torch.Tensor) -> torch.Tensor:
    dark = images.clone().lt_(127.5 / 255)  # of a value's 256 levels the lower 128
    return (images + dark.mul_(add.view(-1, 1, 1, 1))).minimum(images.clamp(min=1))


def _kernel(images: torch.Tensor) -> int:
    """The blur's kernel: a reflected border ends at the image's far side."""
    return min(_BLUR, 2 * min(images.shape[-2:]) - 1)


# An op's number in PolicyParams is its place here. Those without a function move pixels.
_OPS = {
    "identity": _Op(None),
    "shear_x": _Op(None, 0),
    "shear_y": _Op(None, 0),
    "translate_x": _Op(None, 0),
    "translate_y": _Op(None, 0),
    "translate_x_rel": _Op(None, 0),
    "translate_y_rel": _Op(None, 0),
    "translate_x_abs": _Op(None, 0),
    "translate_y_abs": _Op(None, 0),
    "rotate": _Op(None, 0),
    "brightness": _Op(adjust_brightness, 0, lambda magnitude: 1 + magnitude),
    "color": _Op(adjust_saturation, 0, lambda magnitude: 1 + magnitude),
    "contrast": _Op(adjust_contrast, 0, lambda magnitude: 1 + magnitude),
    "sharpness": _Op(sharpness_rows, 0, lambda magnitude: 1 + magnitude),
    "posterize": _Op(posterize_rows, 8, np.exp2),
    "solarize": _Op(solarize_rows),
    "solarize_add": _Op(_solarize_add, 0),
    "autocontrast": _Op(lambda rows, _: autocontrast_rows(rows)),
    "equalize": _Op(lambda rows, _: equalize_rows(rows)),
    "invert": _Op(lambda rows, _: 1 - rows),
    "gaussian_blur": _Op(lambda rows, sigma: blur_rows(rows, sigma, size=_kernel(rows)), 0),
}
POLICY_OPS = tuple(_OPS)
NUMBER = {name: number for number, name in enumerate(POLICY_OPS)}
_RANGES = {"posterize": (0, 8), "gaussian_blur": (0, 2)}  # of those magnitudes with which no picture can be computed
_MOVES = range(NUMBER["shear_x"], NUMBER["rotate"] + 1)


@dataclass(frozen=True, eq=False)
class PolicyParams:
    """op: (B, n) int64, places in POLICY_OPS, first to last. magnitude: (B, n) float64, of which ops without strength
    take no notice:

    shear_x, shear_y: pixels a pixel, about the upper left corner. translate_x, translate_y: share of the side, cut off
    to whole pixels; …_rel: share of the side; …_abs: pixels. rotate: degrees, counter-clockwise. brightness, color,
    contrast, sharpness: 0 leaves a sample alone, −1 is black, grey, flat, smooth. posterize: bits that are kept.
    solarize: threshold in [0, 1], from which on values are inverted. solarize_add: what is added to values below half.
    gaussian_blur: σ in pixels, at most 2.

    interpolation, fill: of the ops that move pixels; see geometry.

    Raises ValueError for arrays of other shapes, numbers of no op, magnitudes that are not finite or that their op
    cannot take, and options that no op has.
    """

    op: np.ndarray
    magnitude: np.ndarray
    interpolation: Interpolation = "nearest"
    fill: Fill = 0.0

    def __post_init__(self) -> None:
        given = np.asarray(self.op)
        if given.size and given.dtype.kind not in "iu":
            raise ValueError(f"op is {given.dtype}; wanted whole numbers")
        for name, dtype in (("op", np.int64), ("magnitude", np.float64)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=dtype))
        if self.op.ndim != 2 or self.magnitude.shape != self.op.shape:
            raise ValueError(f"op has shape {self.op.shape} and magnitude {self.magnitude.shape}; wanted (B, n) each")
        unknown = (self.op < 0) | (self.op >= len(POLICY_OPS))
        if unknown.any():
            raise ValueError(f"op holds {self.op[unknown][0]}; wanted places in POLICY_OPS, below {len(POLICY_OPS)}")
        if not np.isfinite(self.magnitude).all():
            raise ValueError("magnitude holds a number that is not finite")
        for name, (low, high) in _RANGES.items():
            amounts = self.magnitude[self.op == NUMBER[name]]
            wrong = (amounts < low) | (amounts > high)
            if wrong.any():
                raise ValueError(f"{name} is {amounts[wrong][0]:g}; it must lie in [{low}, {high}]")
        if self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(f"interpolation is {self.interpolation!r}; it must be nearest or bilinear")
        checked_fill(self.fill)

    def __len__(self) -> int:
        return len(self.op)


@dataclass(frozen=True, eq=False)
class AugMixParams:
    """weight: (B, 1 + chains) float32, of the sample itself and of what each chain makes of it, with the sum 1."""

    weight: np.ndarray
    chains: tuple[PolicyParams, ...]

    def __len__(self) -> int:
        return len(self.weight)


def movement(op: np.ndarray, magnitude: np.ndarray, height: int, width: int) -> np.ndarray:
    """(B, 3, 3) float64: where the pixels go, in geometry's terms. op, magnitude: (B,)."""
    matrix = np.tile(np.eye(3), (len(op), 1, 1))

    def amount(name: str) -> np.ndarray:
        return np.where(op == NUMBER[name], magnitude, 0.0)

    for axis, name, side in ((0, "x", width), (1, "y", height)):
        matrix[:, axis, 1 - axis] = -amount(f"shear_{name}")
        matrix[:, axis, 2] = np.trunc(amount(f"translate_{name}") * side)
        matrix[:, axis, 2] += amount(f"translate_{name}_rel") * side + amount(f"translate_{name}_abs")
    turn = op == NUMBER["rotate"]
    angle, centre = np.radians(magnitude[turn]), np.array([width, height]) / 2
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    matrix[turn, :2, :2], matrix[turn, :2, 2] = turned, centre - turned @ centre
    return matrix


def active(params: PolicyParams, channels: int) -> np.ndarray:
    """(B, n) bool: where a sample has something done to it."""
    neutral = np.array([np.nan if op.still is None else op.still for op in _OPS.values()])
    does: np.ndarray = (params.op != NUMBER["identity"]) & (params.magnitude != neutral[params.op])
    return does if channels == 3 else does & (params.op != NUMBER["color"])


def policy(images: torch.Tensor, params: PolicyParams, name: str = "a policy") -> torch.Tensor:
    """images: (B, C, H, W) floating point in [0, 1]; on one channel `color` does nothing, as in torchvision. name: of
    the op, for what is raised."""
    check_images(name, images, len(params))
    channels, height, width = images.shape[1:]
    if channels not in (1, 3):
        raise ValueError(f"{name} got {channels} channels; wanted 1 or 3")
    does = active(params, channels)
    if not does.any():
        return images
    groups: list[Group] = []
    for op, magnitude, chosen in zip(params.op.T, params.magnitude.T, does.T, strict=True):
        groups += _moves(op, magnitude, chosen, params, (channels, height, width))
        for number in np.unique(op[chosen]):
            function, _, values = _OPS[POLICY_OPS[number]]
            if function is not None:
                where = np.flatnonzero(chosen & (op == number))
                groups.append(Group(function, where, values(magnitude[where]).astype(np.float32)))
    result = _copy(images)
    in_turn(result, groups)
    # Its own memory already, where it is float32 and contiguous.
    return result.to(images.dtype, memory_format=_format_of(images))


def _moves(
    op: np.ndarray, magnitude: np.ndarray, chosen: np.ndarray, params: PolicyParams, shape: tuple[int, int, int]
) -> list[Group]:
    """The rows whose pixels move, as one group, whatever the movement. shape: (C, H, W)."""
    channels, height, width = shape
    where = np.flatnonzero(chosen & np.isin(op, _MOVES))
    inverse = inverse_matrix(movement(op[where], magnitude[where], height, width), (height, width))
    filling = filling_of(params.fill, len(where), channels)
    black = not filling.any()

    def move(rows: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        grid = affine_grid(values[:, :9].view(-1, 3, 3), height, width)
        return sample_at(rows, grid, None if black else values[:, 9:], params.interpolation)

    return [Group(move, where, np.concatenate([inverse.reshape(-1, 9), filling], axis=1))]


def _copy(images: torch.Tensor) -> torch.Tensor:
    """Contiguous float32 of its own; on a CPU in memory that was used before."""
    on_cpu = images.device.type == "cpu"
    copy = memory.empty(images.shape, torch.float32) if on_cpu else torch.empty(images.shape, device=images.device)
    return copy.copy_(images)


def _format_of(images: torch.Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def aug_mix(images: torch.Tensor, params: AugMixParams) -> torch.Tensor:
    """The weighted sum of a sample and what several chains of ops make of it."""
    chosen = params.weight[:, 0] < 1
    chains = [replace(chain, op=chain.op[chosen], magnitude=chain.magnitude[chosen]) for chain in params.chains]

    def mix(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        weight = weight[..., None, None, None]
        mixed = rows * weight[:, 0]
        for place, chain in enumerate(chains):
            # Product and sum by themselves: a fused one has other last bits, and may be taken for some rows alone.
            mixed.add_(policy(rows, chain, "aug_mix") * weight[:, 1 + place])
        return mixed

    return on_rows("aug_mix", images, chosen, mix, params.weight)


# ---- the definitions


def policy_reference(images: torch.Tensor, params: PolicyParams) -> torch.Tensor:
    """The definition: torchvision's functions, one image and one op after the other."""
    fill = fill_of_reference(images, params.fill)

    def each(image: torch.Tensor, op: list[int], magnitude: list[float]) -> torch.Tensor:
        for number, strength in zip(op, magnitude, strict=True):
            image = _apply_reference(image, POLICY_OPS[number], strength, params.interpolation, fill)
        return image

    return one_by_one(images, np.ones(len(params), dtype=bool), each, params.op, params.magnitude)


def _apply_reference(
    image: torch.Tensor, name: str, magnitude: float, interpolation: Interpolation, fill: torch.Tensor
) -> torch.Tensor:
    from torchvision.transforms.v2 import functional as F

    width, height = image.shape[2], image.shape[1]
    plain: dict[str, Callable[[], Any]] = {
        "identity": lambda: image,
        "brightness": lambda: F.adjust_brightness(image, 1 + magnitude),
        "color": lambda: F.adjust_saturation(image, 1 + magnitude),
        "contrast": lambda: F.adjust_contrast(image, 1 + magnitude),
        "sharpness": lambda: F.adjust_sharpness(image, 1 + magnitude),
        "posterize": lambda: F.posterize(image, int(magnitude)) if magnitude < 8 else image,
        "solarize": lambda: torch.where(image >= magnitude, 1 - image, image),
        "solarize_add": lambda: torch.where(image < 127.5 / 255, (image + magnitude).clamp(max=1), image),
        "autocontrast": lambda: F.autocontrast(image),
        "equalize": lambda: F.equalize(image),
        "invert": lambda: F.invert(image),
        "gaussian_blur": lambda: F.gaussian_blur(image, [_kernel(image)] * 2, [magnitude, magnitude]),
    }
    if name in plain:
        return cast(torch.Tensor, plain[name]())
    mode = F.InterpolationMode(interpolation)
    if name == "rotate":
        return F.rotate(image - fill, magnitude, mode) + fill
    kind, axis, *_ = name.split("_")
    along = float(axis == "x"), float(axis == "y")
    side = width if axis == "x" else height
    slope = [np.degrees(np.arctan(magnitude)) * share for share in along] if kind == "shear" else [0.0, 0.0]
    shift = [0.0, 0.0]
    if kind == "translate":
        pixels = magnitude if name.endswith("_abs") else magnitude * side
        shift = [(pixels if name.endswith(("_abs", "_rel")) else float(int(pixels))) * share for share in along]
    return F.affine(image - fill, 0, shift, 1, slope, mode, center=[0, 0]) + fill


def aug_mix_reference(images: torch.Tensor, params: AugMixParams) -> torch.Tensor:
    """The definition: the weighted sum of the chains' definitions."""
    own = images.float()
    parts = torch.stack([own, *(policy_reference(own, chain) for chain in params.chains)], dim=1)
    weight = torch.from_numpy(params.weight).to(images.device)[..., None, None, None]
    return (parts * weight).sum(dim=1).to(images.dtype)
