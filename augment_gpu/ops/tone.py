"""Ops on the values of pixels, with torchvision's meanings, each sample by its own parameters: grayscale, invert,
solarize, posterize, autocontrast, equalize, sharpness.

All take (B, C, H, W) floating point images in [0, 1] and compute in float32, on the rows alone that drew the op. They
return a new tensor, or the very tensor they got where no row drew it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.rows import (
    ChosenParams,
    Span,
    check_images,
    draw_chosen,
    draw_span,
    draw_whole,
    on_rows,
    one_by_one,
    span_of,
)
from augment_gpu.rng import Key

# ---- grayscale


class GrayscaleParams(ChosenParams):
    """chosen: (B,) bool, which samples lose their colour."""


def sample_grayscale(key: Key, index: ArrayLike, *, p: float = 0.1) -> GrayscaleParams:
    return GrayscaleParams(draw_chosen(key, index, "grayscale", p))


def grayscale_reference(images: torch.Tensor, params: GrayscaleParams) -> torch.Tensor:
    """The definition: torchvision's rgb_to_grayscale."""
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    return one_by_one(images, params.chosen, lambda image: rgb_to_grayscale(image, 3))


def grayscale(images: torch.Tensor, params: GrayscaleParams) -> torch.Tensor:
    """Three equal channels, the luma of ITU-R BT.601. Raises ValueError for images of other than three channels."""
    from kornia.color import rgb_to_grayscale

    check_images("grayscale", images, len(params))
    if images.shape[1] != 3:
        raise ValueError(f"grayscale got {images.shape[1]} channels; it needs 3: red, green and blue")
    return on_rows("grayscale", images, params.chosen, lambda rows: rgb_to_grayscale(rows).expand_as(rows))


# ---- invert


class InvertParams(ChosenParams):
    """chosen: (B,) bool, which samples become their negatives."""


def sample_invert(key: Key, index: ArrayLike, *, p: float = 0.5) -> InvertParams:
    return InvertParams(draw_chosen(key, index, "invert", p))


def invert_reference(images: torch.Tensor, params: InvertParams) -> torch.Tensor:
    """The definition: 1 − value."""
    return one_by_one(images, params.chosen, lambda image: 1 - image)


def invert(images: torch.Tensor, params: InvertParams) -> torch.Tensor:
    from kornia.enhance import invert as negative

    return on_rows("invert", images, params.chosen, negative)


# ---- solarize


@dataclass(frozen=True, eq=False)
class SolarizeParams:
    """threshold: (B,) float32 in [0, 1], from which on values are inverted; infinity leaves a sample alone."""

    threshold: np.ndarray

    def __len__(self) -> int:
        return len(self.threshold)


def sample_solarize(key: Key, index: ArrayLike, *, threshold: Span = 0.5, p: float = 0.5) -> SolarizeParams:
    """threshold: in [0, 1] (torchvision's for uint8 goes to 255), or the range that it is uniform over."""
    drawn = draw_span(key, index, "solarize", p, span_of("threshold", threshold, 0, 1), np.inf)
    return SolarizeParams(drawn.astype(np.float32))


def solarize_reference(images: torch.Tensor, params: SolarizeParams) -> torch.Tensor:
    """The definition: torchvision's solarize."""
    from torchvision.transforms.v2.functional import solarize as solarized

    return one_by_one(images, np.isfinite(params.threshold), solarized, params.threshold)


def solarize(images: torch.Tensor, params: SolarizeParams) -> torch.Tensor:
    return on_rows("solarize", images, np.isfinite(params.threshold), solarize_rows, params.threshold)


def solarize_rows(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """On a CPU torch.where, which Kornia's goes by, takes ten times as long as these passes."""
    bright = images.clone().ge_(threshold.view(-1, 1, 1, 1))
    # value − 1, turned about, for the bright ones: 1 − value to the last bit
    return (images - bright).mul_(bright.mul_(-2).add_(1))


# ---- posterize


@dataclass(frozen=True, eq=False)
class PosterizeParams:
    """bits: (B,) int64 in [0, 8], that are kept of each value; 8 leaves a sample alone."""

    bits: np.ndarray

    def __len__(self) -> int:
        return len(self.bits)


def sample_posterize(key: Key, index: ArrayLike, *, bits: int | tuple[int, int] = 4, p: float = 0.5) -> PosterizeParams:
    """bits: a whole number in [0, 8], or the range, both ends included, that it is uniform over."""
    return PosterizeParams(draw_whole(key, index, "posterize", p, "bits", bits, (0, 8), 8))


def posterize_reference(images: torch.Tensor, params: PosterizeParams) -> torch.Tensor:
    """The definition: torchvision's posterize of floating point images, in which the level k of 2**bits is
    k / 2**bits. On uint8 it keeps the upper bits, which is the same level, less than one grey level brighter."""
    from torchvision.transforms.v2.functional import posterize as posterized

    return one_by_one(images, params.bits < 8, posterized, params.bits)


def posterize(images: torch.Tensor, params: PosterizeParams) -> torch.Tensor:
    return on_rows("posterize", images, params.bits < 8, posterize_rows, np.exp2(params.bits).astype(np.float32))


def posterize_rows(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Kornia's goes through uint8 and back twice, and takes ten times as long."""
    levels = levels.view(-1, 1, 1, 1)
    return (images * levels).floor_().minimum(levels - 1).div_(levels)


# ---- autocontrast


class AutocontrastParams(ChosenParams):
    """chosen: (B,) bool, which samples are stretched."""


def sample_autocontrast(key: Key, index: ArrayLike, *, p: float = 0.5) -> AutocontrastParams:
    return AutocontrastParams(draw_chosen(key, index, "autocontrast", p))


def autocontrast_reference(images: torch.Tensor, params: AutocontrastParams) -> torch.Tensor:
    """The definition: torchvision's autocontrast."""
    from torchvision.transforms.v2.functional import autocontrast as stretched

    return one_by_one(images, params.chosen, stretched)


def autocontrast(images: torch.Tensor, params: AutocontrastParams) -> torch.Tensor:
    """Each channel stretched until its darkest value is 0 and its brightest 1; a channel of one value stays."""
    return on_rows("autocontrast", images, params.chosen, autocontrast_rows)


def autocontrast_rows(images: torch.Tensor) -> torch.Tensor:
    """Kornia has normalize_min_max, which makes a channel of one value black."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = low == high
    return (images - low.masked_fill(flat, 0)).div_((high - low).masked_fill(flat, 1))


# ---- equalize


class EqualizeParams(ChosenParams):
    """chosen: (B,) bool, which samples have their histograms flattened."""


def sample_equalize(key: Key, index: ArrayLike, *, p: float = 0.5) -> EqualizeParams:
    return EqualizeParams(draw_chosen(key, index, "equalize", p))


def equalize_reference(images: torch.Tensor, params: EqualizeParams) -> torch.Tensor:
    """The definition: torchvision's equalize, by Pillow's rule."""
    from torchvision.transforms.v2.functional import equalize as flattened

    return one_by_one(images, params.chosen, flattened)


def equalize(images: torch.Tensor, params: EqualizeParams) -> torch.Tensor:
    """Each channel's values rounded to 256 levels, and these spread so that their histogram is flat. Values out of
    [0, 1] count as its ends."""
    return on_rows("equalize", images, params.chosen, equalize_rows)


def equalize_rows(images: torch.Tensor) -> torch.Tensor:
    """Kornia's rounds otherwise than torchvision, by up to a level before levels are spread, and takes half as long
    again."""
    rows, channels, height, width = images.shape
    if images.device.type == "cpu":  # half the time of what follows; on a GPU bincount would wait for the result
        # A range of 256 for each channel of each row, which no value may leave.
        level = images.flatten(2).nan_to_num(0).mul_(256 - 1e-3).floor_().clamp_(0, 255)
        first = torch.arange(0, rows * channels * 256, 256).view(rows, channels, 1)
        level = level.long() + first
        count = level.flatten().bincount(minlength=rows * channels * 256).view(rows, channels, 256)
    else:
        level = (images.flatten(2) * (256 - 1e-3)).long().clamp_(0, 255)
        count = torch.zeros(rows, channels, 256, dtype=torch.int64, device=images.device)
        count.scatter_add_(2, level, count.new_ones(1).expand_as(level))
    total = count.cumsum(2)
    # The brightest level is the first whose running sum is all.
    brightest = count.gather(2, total.argmax(2, keepdim=True))
    step = (height * width - brightest) // 255
    spread = ((total - count + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    table = torch.where(step > 0, spread, torch.arange(256, device=images.device)) / 255
    if images.device.type == "cpu":
        return table.flatten().index_select(0, level.flatten()).view_as(images)
    return table.gather(2, level).view_as(images)


# ---- sharpness


@dataclass(frozen=True, eq=False)
class SharpnessParams:
    """factor: (B,) float32, at least 0: 0 is smoothed, 2 is sharpened, 1 leaves a sample alone."""

    factor: np.ndarray

    def __len__(self) -> int:
        return len(self.factor)


def sample_sharpness(key: Key, index: ArrayLike, *, sharpness_factor: Span = 2.0, p: float = 0.5) -> SharpnessParams:
    """sharpness_factor: at least 0, or the range that it is uniform over."""
    drawn = draw_span(key, index, "sharpness", p, span_of("sharpness_factor", sharpness_factor, 0, np.inf), 1)
    return SharpnessParams(drawn.astype(np.float32))


def sharpness_reference(images: torch.Tensor, params: SharpnessParams) -> torch.Tensor:
    """The definition: torchvision's adjust_sharpness."""
    from torchvision.transforms.v2.functional import adjust_sharpness

    return one_by_one(images, params.factor != 1, adjust_sharpness, params.factor)


def sharpness(images: torch.Tensor, params: SharpnessParams) -> torch.Tensor:
    """Away from, or towards, the mean of 3 × 3 pixels in which the middle counts fivefold; the border stays."""
    return on_rows("sharpness", images, params.factor != 1, sharpness_rows, params.factor)


def sharpness_rows(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Kornia's takes 2.5 times as long, and its convolution may go another way for a row alone."""
    columns = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
    smooth = columns[..., :-2, :] + columns[..., 1:-1, :] + columns[..., 2:, :]
    middle = images[..., 1:-1, 1:-1]
    smooth.add_(middle * 4).div_(13)
    result = images.clone()
    result[..., 1:-1, 1:-1] = (middle - smooth).mul_(factor.view(-1, 1, 1, 1)).add_(smooth).clamp_(0, 1)
    return result
