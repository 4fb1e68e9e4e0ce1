"""The host part of crop_resize_flip: arguments checked, and turned into the tables that its device part reads."""

from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.boxes import CropParams
from augment_gpu.ops.crop_torch import FILTER_REACH
from augment_gpu.ragged import RaggedBatch

Images = RaggedBatch | torch.Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def plan_crop(
    images: Images,
    crop: CropParams,
    matrix: np.ndarray,
    size: int,
    interpolation: str,
    antialias: bool,
    *,
    triton: bool,
) -> list[np.ndarray]:
    """The tables of the Triton kernel, or of plain torch. matrix: from color_matrix. Everything must have been checked.

    triton: offset (V,) int64, axis, filter, range and colour, as the kernel's signature has them. Plain torch: offset
    (V,) int64, geometry (V, 3) int64, box (V, 4) float32, flip (V,) bool, colour (1 or V, C, C + 1) float64, and
    whether the taps are confined to the box, (1,) bool.
    """
    offset, geometry = _geometry(images, crop)
    if triton:
        return [
            offset,
            *_kernel_tables(crop, geometry, matrix.shape[1], size, interpolation, antialias),
            matrix.astype(np.float32),
        ]
    return [offset, geometry, crop.box, crop.flip, matrix, np.array([crop.taps == "box"])]


def _kernel_tables(
    crop: CropParams, geometry: np.ndarray, channels: int, size: int, interpolation: str, antialias: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kernel's axis (V, 4) int64, filter (V, 3) float32 and range (V, 7) int32 tables, as its signature has them.

    Positions are fixed point with 32 bits of fraction, since float32 leaves no fraction for a crop far from the corner
    of a large photograph, and float64 is slow on most GPUs.
    """
    rows, nearest = len(crop), interpolation == "nearest"
    start, stop = crop.box[:, :2].astype(np.float64), crop.box[:, 2:].astype(np.float64)
    scale = (stop - start) / size
    stretch = np.maximum(scale, 1) if antialias else np.ones_like(scale)
    reach = FILTER_REACH[interpolation] * stretch[:, 0]
    position = np.empty((rows, 2, 2))  # x, y; start, step
    position[:, :, 0], position[:, :, 1] = start + scale / 2, scale
    # Across, the first pixel whose centre lies under the filter is floor(centre − reach + ½); down, the last pixel at
    # or above the centre is floor(centre − ½). A nearest pixel holds the centre itself, which may lie exactly on the
    # pixel's edge: rounded up, no position falls short of it.
    if not nearest:
        position[:, 0, 0] += 0.5 - reach
        position[:, 1, 0] -= 0.5
    position *= 2.0**32
    axis = (np.ceil if nearest else np.rint)(position, out=position).astype(np.int64).reshape(rows, 4)
    # A mirrored row starts at the last column and steps back.
    axis[:, 0] += axis[:, 1] * crop.flip * (size - 1)
    axis[:, 1] *= 1 - 2 * crop.flip.view(np.int8)
    filters = np.empty((rows, 3), dtype=np.float32)
    filters[:, :2], filters[:, 2] = 1 / stretch, 1 - reach
    ranges = np.empty((rows, 7), dtype=np.int32)
    if crop.taps == "image":
        ranges[:, 0:4:2], ranges[:, 1:4:2] = 0, geometry[:, 1::-1]
    else:
        ranges[:, 0:4:2], ranges[:, 1:4:2] = np.floor(start), np.ceil(stop)
    ranges[:, 4] = geometry[:, 2]
    if not nearest:
        width = ranges[:, 1] - ranges[:, 0]
        ranges[:, 5], ranges[:, 6] = _paths(np.ceil(2 * reach), width, stretch[:, 1] > 1, interpolation, channels)
    return axis, filters, ranges


def _paths(
    taps: np.ndarray, width: np.ndarray, shrinks: np.ndarray, interpolation: str, channels: int
) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels across the kernel reads for each output pixel, and by which of its paths: (V,) each. taps: how
    many the filter has; width: how many there are to read; shrinks: whether the filter is stretched down the image."""
    sizes, paths, narrow_path = _path_table(interpolation, channels)
    count, down = np.minimum(taps, paths.shape[1] - 1).astype(np.int64), shrinks.view(np.int8).astype(np.int64)
    window = np.where(sizes[down, count] > 0, sizes[down, count], np.ceil(taps / 4) * 4)
    narrow = window > width
    return np.where(narrow, taps, window), np.where(narrow, narrow_path[down], paths[down, count])


@cache
def _path_table(interpolation: str, channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By (shrinks, number of taps): the window of the cheapest path, 0 for a multiple of four, and its place in the
    kernel's list; by shrinks: the place of the path for boxes narrower than that window."""
    from augment_gpu.kernels.crop import UNROLLED, paths

    known = paths(int(FILTER_REACH[interpolation]), channels)
    place = np.zeros((2, UNROLLED + 2), dtype=np.int64)
    for taps in range(UNROLLED + 2):
        for down in (False, True):
            fitting = [unrolled for shrinks, unrolled in known if shrinks == down and unrolled >= max(taps, 1)]
            place[int(down), taps] = known.index((down, min(fitting, default=0)))
    sizes = np.array([unrolled for _, unrolled in known])[place]
    return sizes, place, np.array([known.index((False, -1)), known.index((True, -1))])


def color_matrix(
    images: Images, rows: int, color: ArrayLike | None, mean: ArrayLike | None, std: ArrayLike | None
) -> np.ndarray:
    """(1 or V, C, C + 1) float64: from pixel values as stored to the output, (color − mean) / std in one affine map.
    Not to be written to."""
    channels = images.channels if isinstance(images, RaggedBatch) else images.shape[1]
    constants: tuple[Any, Any] = (mean, std)
    if color is None and all(isinstance(value, tuple | float | None) for value in constants):
        return _normalization(channels, white_of(images), *constants)  # as a recipe has them, the same for every batch
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


def _geometry(images: Images, crop: CropParams) -> tuple[np.ndarray, np.ndarray]:
    """Where each row's image lies: offset (V,) int64 of its first value; geometry (V, 3) int64: height, width, values
    from one image row to the next."""
    if isinstance(images, RaggedBatch):
        height, width = images.height.numpy()[crop.source], images.width.numpy()[crop.source]
        geometry = np.stack([height, width, width * images.channels], axis=1, dtype=np.int64)
        return images.offset.numpy()[crop.source], geometry
    dense = np.array([images.shape[2], images.shape[3], images.stride(2)], dtype=np.int64)
    return crop.source * images.stride(0), np.broadcast_to(dense, (len(crop), 3))


def check_crop(images: Images, crop: CropParams, size: int, interpolation: str) -> None:
    """Raises ValueError, IndexError or TypeError unless every row can be computed without reading outside its image."""
    if isinstance(images, RaggedBatch):
        channels, heights, widths = images.channels, images.height.numpy(), images.width.numpy()
        sizes = heights.astype(np.int64) * widths * channels
        largest = int(sizes.max(initial=0))
        ends, offsets = images.offset.numpy() + sizes, images.offset.numpy()
        if images.pixels.dtype != torch.uint8 or not images.pixels.is_contiguous():
            raise TypeError(f"the batch's pixels are {images.pixels.dtype}; wanted contiguous torch.uint8")
        if offsets.min(initial=0) < 0 or ends.max(initial=0) > images.pixels.numel() or sizes.min(initial=1) < 1:
            raise ValueError(f"the batch's images do not lie within its {images.pixels.numel()} pixel values")
    elif isinstance(images, torch.Tensor):
        if images.ndim != 4:
            raise ValueError(f"images have shape {tuple(images.shape)}; wanted (B, C, H, W) or a RaggedBatch")
        if images.dtype not in (torch.uint8, torch.float32):
            raise TypeError(f"images are {images.dtype}; wanted torch.uint8, or torch.float32 in [0, 1]")
        batch, channels, height, width = images.shape
        heights, widths = np.full(batch, height), np.full(batch, width)
        largest = sum(images.stride(d) * (images.shape[d] - 1) for d in (1, 2, 3)) + 1
    else:
        raise TypeError(f"images is a {type(images).__name__}; wanted a RaggedBatch or a (B, C, H, W) tensor")
    if channels not in (1, 3, 4):
        raise ValueError(f"the images have {channels} channels; wanted 1, 3 or 4")
    side = max(heights.max(initial=0), widths.max(initial=0))
    if side >= 2**24:  # where float32 boxes and the kernel's positions stop being exact
        raise ValueError(f"the longest side is {side} pixels; it must stay below 2**24")
    if largest >= 2**31:
        raise ValueError(f"the largest image spans {largest} values; one image must stay below 2**31")
    if interpolation not in FILTER_REACH:
        raise ValueError(f"interpolation is {interpolation!r}; it must be one of {', '.join(FILTER_REACH)}")
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    crop.check(heights, widths)
