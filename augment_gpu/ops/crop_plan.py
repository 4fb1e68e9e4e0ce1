"""The host part of crop_resize_flip: arguments checked, and turned into the tables that its device part reads."""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.boxes import CropParams
from augment_gpu.ops.crop_torch import FILTER_REACH
from augment_gpu.ragged import RaggedBatch

Images = RaggedBatch | torch.Tensor

_HASHABLE = (tuple, float, type(None))
_PIXEL = 2.0**32  # in the fixed point of the kernel's positions

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Places(NamedTuple):
    """Where images lie, an element for each: its first value, its sides in pixels, values from image row to row."""

    offset: np.ndarray
    height: np.ndarray
    width: np.ndarray
    stride: np.ndarray


def plan_crop(
    places: Places,
    crop: CropParams,
    matrix: np.ndarray,
    size: int,
    interpolation: str,
    antialias: bool,
    *,
    filling: Sequence[np.ndarray] = (),
    triton: bool,
) -> list[np.ndarray]:
    """The tables of the Triton kernel, or of plain torch. places: from check_crop. matrix: from color_matrix. filling:
    from plan_cutout, of the holes that the crop's own launch fills.

    triton: the kernel's rows, (V, 10) int64, colour (1 or V, C, C + 1) float32, and what fills the holes. Plain torch:
    offset (V,) int64, geometry (V, 3) int64, box (V, 4) float32, flip (V,) bool, colour (1 or V, C, C + 1) float64,
    whether the taps are confined to the box, (1,) bool, and the holes' two tables.
    """
    if triton:
        rows = kernel_rows(crop, places, size, interpolation, antialias)
        if filling:
            rows["hole"] = filling[0]
        table = rows.view(np.int64).reshape(len(rows), rows.itemsize // 8)
        return [table, matrix.astype(np.float32), *filling[1:]]
    geometry = np.stack(places[1:], axis=1, dtype=np.int64)
    return [places.offset, geometry, crop.box, crop.flip, matrix, np.array([crop.taps == "box"]), *filling]


def kernel_rows(crop: CropParams, places: Places, size: int, interpolation: str, antialias: bool) -> np.ndarray:
    """(V,) records, of which the kernel's ROW says what they hold; without holes."""
    rows, corners = np.zeros(len(crop), _row_dtype()), crop.box.T.astype(np.float64, order="C")
    low, high = corners[:2], corners[2:]  # (2, V): x, y
    positions = np.empty_like(corners)
    start, step = positions[:2], positions[2:]
    np.multiply(high - low, _PIXEL / size, out=step)
    np.add(low * _PIXEL, step / 2, out=start)  # the centre of the first output pixel
    if interpolation == "nearest":
        # A centre may lie exactly on a pixel's edge: rounded up, no position falls short of it, as long as float64
        # holds it, in the first 2**21 pixels.
        np.ceil(positions, out=positions)
    else:
        # Across, the first pixel whose centre lies under the filter is floor(centre − reach + ½); down, the last pixel
        # at or above the centre is floor(centre − ½).
        reach = FILTER_REACH[interpolation] * (np.maximum(step[0], _PIXEL) if antialias else _PIXEL)
        start[0] -= reach - _PIXEL / 2
        start[1] -= _PIXEL / 2
    if crop.taps == "image":
        corners[:2], corners[2], corners[3] = 0, places.width, places.height
    np.ceil(high, out=high)
    rows["positions"].T[...], rows["limits"].T[...] = positions, corners
    rows["offset"], rows["y_stride"] = places.offset, places.stride
    rows["flags"] = crop.flip.view(np.uint8) | (2 * bool(antialias))  # MIRRORED and ANTIALIASED, as the kernel has them
    return rows


@cache
def _row_dtype() -> np.dtype:
    from augment_gpu.kernels.crop import ROW

    return np.dtype(list(ROW))


def color_matrix(
    images: Images, rows: int, color: ArrayLike | None, mean: ArrayLike | None, std: ArrayLike | None
) -> np.ndarray:
    """(1 or V, C, C + 1) float64: from pixel values as stored to the output, (color − mean) / std in one affine map.
    Not to be written to."""
    channels = images.channels if isinstance(images, RaggedBatch) else images.shape[1]
    if color is None and isinstance(mean, _HASHABLE) and isinstance(std, _HASHABLE):
        return _normalization(channels, white_of(images), mean, std)  # as a recipe has them, the same for every batch
    return _color_matrix(channels, white_of(images), rows, color, mean, std)


@lru_cache(maxsize=16)
def _normalization(channels: int, white: float, mean: Any, std: Any) -> np.ndarray:
    return _color_matrix(channels, white, 1, None, mean, std)


def _color_matrix(
    channels: int, white: float, rows: int, color: ArrayLike | None, mean: ArrayLike | None, std: ArrayLike | None
) -> np.ndarray:
    if color is None:
        matrix = np.eye(channels, channels + 1)[None]
    else:
        matrix = np.array(color, dtype=np.float64)
        if matrix.shape not in ((channels, channels + 1), (rows, channels, channels + 1)):
            raise ValueError(
                f"color has shape {matrix.shape}; wanted {(channels, channels + 1)} or {(rows, channels, channels + 1)}"
            )
        matrix = matrix.reshape(-1, channels, channels + 1)
    matrix[:, :, :-1] /= white
    for name, value in (("mean", mean), ("std", std)):
        if value is not None and np.shape(value) not in ((), (1,), (channels,)):
            raise ValueError(f"{name} is {value!r}; the images have {channels} channels")
    if mean is not None:
        matrix[:, :, -1] -= np.asarray(mean, dtype=np.float64)
    if std is not None:
        deviation = np.broadcast_to(np.asarray(std, dtype=np.float64), (channels,))
        if not ((deviation > 0) & (deviation < np.inf)).all():
            raise ValueError(f"std is {std!r}; each must be above 0 and finite")
        matrix /= deviation[:, None]
    if not np.isfinite(matrix).all():
        raise ValueError("color, mean or std holds a value that is not finite")
    return matrix


def white_of(images: Images) -> float:
    """The largest pixel value: 255 for uint8, 1 for float images."""
    return 255.0 if isinstance(images, RaggedBatch) or images.dtype == torch.uint8 else 1.0


def image_sizes(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths, (B,) each, on the host."""
    if isinstance(images, RaggedBatch):
        return images.height.numpy(), images.width.numpy()
    if images.ndim != 4:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; wanted (B, C, H, W), a RaggedBatch or a list of images"
        )
    count, _, height, width = images.shape
    return np.full(count, height), np.full(count, width)


def check_crop(images: Images, crop: CropParams, size: int, interpolation: str) -> Places:
    """Where each row's image lies. Raises ValueError, IndexError or TypeError unless every row can be computed without
    reading outside its image."""
    if isinstance(images, RaggedBatch):
        channels, (places, largest) = images.channels, _ragged_places(images)
    elif isinstance(images, torch.Tensor):
        places, largest = _dense_places(images)
        channels = images.shape[1]
    else:
        raise TypeError(f"images is a {type(images).__name__}; wanted a RaggedBatch or a (B, C, H, W) tensor")
    if channels not in (1, 3, 4):
        raise ValueError(f"the images have {channels} channels; wanted 1, 3 or 4")
    # An image without gaps has no side that is longer than it has values; of 32-bit sides these never wrap to so few.
    gapless = isinstance(images, RaggedBatch) and places.height.dtype == places.width.dtype == np.int32
    side = 0 if gapless and largest < 2**24 else np.maximum(places.height, places.width).max(initial=0)
    if side >= 2**24:  # where float32 boxes and the kernel's positions stop being exact
        raise ValueError(f"the longest side is {side} pixels; it must stay below 2**24")
    if largest >= 2**31:
        raise ValueError(f"the largest image spans {largest} values; one image must stay below 2**31")
    if interpolation not in FILTER_REACH:
        raise ValueError(f"interpolation is {interpolation!r}; it must be one of {', '.join(FILTER_REACH)}")
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    height, width = crop.check(places.height, places.width)
    return Places(places.offset[crop.source], height, width, places.stride[crop.source])


def _ragged_places(images: RaggedBatch) -> tuple[Places, int]:
    """Where the images of a batch lie, checked; and how many values the largest of them has."""
    offset, height, width = images.offset.numpy(), images.height.numpy(), images.width.numpy()
    stride = width.astype(np.int64) * images.channels
    sizes = height * stride
    ends = offset + sizes
    if images.pixels.dtype != torch.uint8 or not images.pixels.is_contiguous():
        raise TypeError(f"the batch's pixels are {images.pixels.dtype}; wanted contiguous torch.uint8")
    if offset.min(initial=0) < 0 or ends.max(initial=0) > images.pixels.numel() or sizes.min(initial=1) < 1:
        raise ValueError(f"the batch's images do not lie within its {images.pixels.numel()} pixel values")
    return Places(offset, height, width, stride), int(sizes.max(initial=0))


def _dense_places(images: torch.Tensor) -> tuple[Places, int]:
    """The same of a (B, C, H, W) tensor."""
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}; wanted (B, C, H, W) or a RaggedBatch")
    if images.dtype not in (torch.uint8, torch.float32):
        raise TypeError(f"images are {images.dtype}; wanted torch.uint8, or torch.float32 in [0, 1]")
    count, _, height, width = images.shape
    largest = sum(images.stride(d) * (images.shape[d] - 1) for d in (1, 2, 3)) + 1
    same = (np.full(count, value) for value in (height, width, images.stride(2)))
    return Places(np.arange(count) * images.stride(0), *same), largest
