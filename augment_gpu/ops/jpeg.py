"""jpeg: what is left of images that were stored as JPEG files, each sample at its own quality.

libjpeg's arithmetic, as torchvision and Pillow call it: chroma at half the size, Annex K's tables scaled by the
quality, and integers wherever the file and the decoder have integers. Kornia's codec, made to be differentiated, rounds
softly: it differs from libjpeg by 30 grey levels at quality 10 and by 10 at 95, takes three channels, and more time.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional as nn

from augment_gpu.ops.rows import check_images, draw_whole, on_rows, one_by_one
from augment_gpu.rng import Key

# ITU-R T.81, tables K.1 and K.2
_LUMA = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
_CHROMA = np.full((8, 8), 99)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_TABLES = np.array([_LUMA, _CHROMA])
# Rows are the cosines of the frequencies 0 to 7, each of length 1.
_COSINES = np.cos(np.outer(np.arange(8), np.arange(1, 16, 2)) * np.pi / 16) * np.sqrt([1 / 8] + [1 / 4] * 7)[:, None]
# Exact halves are frequent here. They are rounded up, although the sums before are off by some 1e-13 either way.
_HALF = 0.5 + 1e-9


@dataclass(frozen=True, eq=False)
class JpegParams:
    """quality: (B,) int64 in [1, 100], libjpeg's; 0 leaves a sample alone."""

    quality: np.ndarray

    def __len__(self) -> int:
        return len(self.quality)


def sample_jpeg(
    key: Key, index: ArrayLike, *, quality: int | tuple[int, int] = (50, 100), p: float = 1.0
) -> JpegParams:
    """torchvision's JPEG, with probability p. quality: a whole number in [1, 100], or the range, both ends included,
    that it is uniform over."""
    return JpegParams(draw_whole(key, index, "jpeg", p, "quality", quality, (1, 100), 0))


def jpeg_reference(images: torch.Tensor, params: JpegParams) -> torch.Tensor:
    """The definition: torchvision's jpeg, of images rounded to 8 bits, on the CPU."""
    from torchvision.transforms.v2.functional import jpeg as coded

    def each(image: torch.Tensor, quality: int) -> torch.Tensor:
        levels = (image * 255).round().clamp(0, 255).byte().cpu()
        return coded(levels, quality).to(image) / 255

    return one_by_one(images, params.quality > 0, each, params.quality)


def jpeg(images: torch.Tensor, params: JpegParams) -> torch.Tensor:
    """images: (B, C, H, W) floating point in [0, 1], C = 1 or 3, rounded to 8 bits. Returns a new tensor, in which the
    samples alone that drew the op are computed on; the very tensor it got where none did. Raises ValueError for another
    C. Equals libjpeg's result, but where its integer cosines round a coefficient to a neighbouring step."""
    check_images("jpeg", images, len(params))
    if images.shape[1] not in (1, 3):
        raise ValueError(f"jpeg got {images.shape[1]} channels; wanted 1 or 3")
    cosines = np.broadcast_to(_COSINES, (len(params), 8, 8))
    return on_rows("jpeg", images, params.quality > 0, _jpeg, _tables(params.quality), cosines)


def _tables(quality: np.ndarray) -> np.ndarray:
    """(B, 2, 8, 8) float64: the steps of the coefficients of luma and chroma, as libjpeg scales them."""
    quality = np.maximum(quality, 1)
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((_TABLES * scale[:, None, None, None] + 50) // 100, 1, 255).astype(np.float64)


def _jpeg(images: torch.Tensor, tables: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """In float64, so that sums in another order, of another batch or device, are rounded to the same integers."""
    luma, chroma = tables[:, 0], tables[:, 1]
    levels = (images.double() * 255).round_().clamp_(0, 255)
    if images.shape[1] == 1:
        return _coded(levels, luma, cosines[0]) / 255
    height, width = images.shape[2:]
    y = _floor(_weighed(levels, 0.299, 0.587, 0.114), _HALF)
    # Halves down: libjpeg must not reach 256.
    cb = _floor(_weighed(levels, -0.16874, -0.33126, 0.5), 128.5 - 2**-16)
    cr = _floor(_weighed(levels, 0.5, -0.41869, -0.08131), 128.5 - 2**-16)
    coded = [_coded(y, luma, cosines[0])]
    coded += [_doubled(_coded(_halved(part), chroma, cosines[0]), height, width).sub_(128) for part in (cb, cr)]
    parts = torch.cat(coded, dim=1)
    decoded = [_weighed(parts, *weights) for weights in ((1, 0, 1.402), (1, -0.34414, -0.71414), (1, 1.772, 0))]
    return _floor(torch.cat(decoded, dim=1), _HALF).clamp_(0, 255).div_(255)


def _weighed(images: torch.Tensor, *weights: float) -> torch.Tensor:
    """(n, 1, H, W): the weighed sum of three channels of whole numbers, exact, since libjpeg's weights have 16 bits
    after the point."""
    first, *others = (round(weight * 2**16) / 2**16 for weight in weights)
    total = images[:, :1] * first
    for channel, weight in enumerate(others, 1):
        total.add_(images[:, channel : channel + 1], alpha=weight)
    return total


def _floor(values: torch.Tensor, shift: float | torch.Tensor) -> torch.Tensor:
    """The whole numbers below values + shift, in their place."""
    return values.add_(shift).floor_()


def _coded(plane: torch.Tensor, steps: torch.Tensor, cosines: torch.Tensor) -> torch.Tensor:
    """(n, 1, H, W) levels, their 8 × 8 blocks transformed, divided by steps (n, 8, 8), rounded, and all of it back."""
    height, width = plane.shape[2:]
    padded = nn.pad(plane, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = padded[:, 0].unflatten(1, (-1, 8)).unflatten(3, (-1, 8)).transpose(2, 3) - 128
    steps = steps.transpose(1, 2)[:, None, None]
    # In eighths, and then halves of a step away from 0.
    waves = _floor(_transformed(blocks, cosines.T).mul_(8), _HALF).div_(8 * steps)
    waves = _floor(waves.abs(), _HALF).copysign_(waves).mul_(steps)
    blocks = _floor(_transformed(waves, cosines), 128 + _HALF).clamp_(0, 255)
    return blocks.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, None, :height, :width]


def _transformed(blocks: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Of each block (…, 8, 8) the transpose of matrixᵀ · block · matrix: along the lines, rounded as libjpeg's accurate
    integer transform (jfdctint.c, jidctint.c) rounds between its passes, and along the columns."""
    unit = 4 * 8**0.5
    lines = _floor(blocks @ (matrix * unit), _HALF)
    return lines.transpose(-1, -2) @ (matrix / unit)


def _halved(plane: torch.Tensor) -> torch.Tensor:
    """Means of 2 × 2, rounded down and up in turn from column to column, as libjpeg does."""
    height, width = plane.shape[2:]
    # To whole blocks before columns are averaged, but after lines are.
    total = nn.avg_pool2d(nn.pad(plane, (0, -width % 16, 0, height % 2), mode="replicate"), 2) * 4
    turn = torch.arange(total.shape[3], device=plane.device) % 2
    return _floor(total.add_(turn).div_(4), 0.25)


def _doubled(plane: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """libjpeg's fancy upsampling: linear, halves rounded up and down in turn from column to column; to H × W."""
    fine = nn.interpolate(plane[..., : (width + 1) // 2], scale_factor=2, mode="bilinear", align_corners=False)
    turn = torch.arange(fine.shape[3], device=plane.device) % 2
    return _floor(fine, (8 - turn) / 16)[..., :height, :width]
