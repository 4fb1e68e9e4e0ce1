"""crop_resize_flip: from uint8 images of any size to finished network input, one read and one write.

The filter is the triangle ("bilinear") or Keys' cubic with a = −0.5 ("bicubic"; Keys 1981), evaluated at pixel centres,
stretched by max(scale, 1) where antialiased, its weights divided by their sum: the definition that Pillow and
torchvision's antialiased resize share, here without the 8 bits that both store between the two axes. The cubic's
overshoot is clamped once, at the end, as torchvision does for float images; where 8-bit rounding is welcome (the CPU's
default) after each axis, as torchvision does for uint8. "nearest" takes the pixel that the centre falls into, as Pillow
does.
"""

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu import memory
from augment_gpu.ops.boxes import CropParams
from augment_gpu.ops.crop_torch import FILTER_REACH, crop_rows, is_diagonal
from augment_gpu.ops.path import runs_triton
from augment_gpu.ops.upload import upload
from augment_gpu.ragged import RaggedBatch

Interpolation = Literal["bilinear", "bicubic", "nearest"]
Images = RaggedBatch | torch.Tensor

_OUT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def crop_resize_flip_reference(
    images: Images,
    crop: CropParams,
    *,
    size: int = 224,
    interpolation: Interpolation = "bilinear",
    antialias: bool = True,
    color: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    dtype: torch.dtype = torch.float64,
) -> torch.Tensor:
    """The definition of crop_resize_flip: both axes as dense matrices of weights, in float64. (V, C, S, S)."""
    matrix = color_matrix(images, len(crop), color, mean, std)
    out = []
    for v, (source, (x0, y0, x1, y1), flip) in enumerate(zip(crop.source, crop.box, crop.flip, strict=True)):
        image = (images[source] if isinstance(images, RaggedBatch) else images[source].permute(1, 2, 0)).double()
        across = _weights(x0, x1, image.shape[1], size, interpolation, antialias, crop.taps).to(image.device)
        down = _weights(y0, y1, image.shape[0], size, interpolation, antialias, crop.taps).to(image.device)
        resized = torch.einsum("yh,hwc,xw->cyx", down, image, across)
        if interpolation == "bicubic":  # the cubic overshoots, and no pixel is brighter than white
            resized = resized.clamp(0, _white(images))
        if flip:
            resized = resized.flip(-1)
        affine = torch.from_numpy(matrix[v % len(matrix)]).to(image.device)
        out.append(torch.einsum("dc,cyx->dyx", affine[:, :-1], resized) + affine[:, -1, None, None])
    channels = matrix.shape[1]
    return torch.stack(out).to(dtype) if out else torch.empty(0, channels, size, size, dtype=dtype)


def _weights(
    start: float, stop: float, length: int, size: int, interpolation: Interpolation, antialias: bool, taps: str
) -> torch.Tensor:
    """(size, length) float64: the share of each source pixel in each output pixel along one axis."""
    start, stop = float(start), float(stop)
    center = start + (2 * torch.arange(size, dtype=torch.float64) + 1) * (stop - start) / (2 * size)
    low, high = (np.floor(start), np.ceil(stop)) if taps == "box" else (0, length)
    pixel = torch.arange(length, dtype=torch.float64)
    if interpolation == "nearest":
        return (pixel == center.floor().clamp(low, high - 1)[:, None]).double()
    stretch = max((stop - start) / size, 1) if antialias else 1
    t = ((pixel + 0.5 - center[:, None]) / stretch).abs()
    if interpolation == "bilinear":
        weight = (1 - t).clamp(min=0)
    else:
        near, far = (1.5 * t - 2.5) * t**2 + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2
        weight = torch.where(t <= 1, near, torch.where(t < 2, far, 0))
    weight = weight * ((pixel >= low) & (pixel < high))
    return weight / weight.sum(1, keepdim=True)


def crop_resize_flip(
    images: Images,
    crop: CropParams,
    *,
    size: int = 224,
    interpolation: Interpolation = "bilinear",
    antialias: bool = True,
    color: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    exact: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cuts each row's box out of its image, resizes it to `size` × `size`, mirrors it, and maps its colours.

    images: a RaggedBatch, or a dense (B, C, H, W) tensor, uint8 or float32 in [0, 1]; C is 1, 3 or 4. crop: V rows,
    each naming its source image, so many rows may look at one image. color: (C, C + 1) or (V, C, C + 1), an affine map
    of the channels in [0, 1], applied after the resize; mean, std: (C,) or numbers, applied last; where neither is
    given the output lies in [0, 1]. dtype: float32, float16 or bfloat16. out: a (V, C, S, S) tensor to write to, whose
    dtype and memory format then count. Returns (V, C, S, S), on the device of the images.

    exact: on a CPU the default for antialiased uint8 is within one grey level of what torchvision makes of uint8: boxes
    of whole pixels with taps="box" are resized by torch's uint8 kernels, which are faster and round to 8 bits after
    each axis; bicubic overshoot is cut off after each axis, which beside hard edges is a matter of several levels. True
    computes in float and clamps once, as every path on a GPU does.

    Raises ValueError or IndexError for a box that is no part of its image, TypeError for a dtype; before any launch.
    """
    _check(images, crop, size, interpolation, dtype if out is None else out.dtype)
    matrix = color_matrix(images, len(crop), color, mean, std)
    channels = matrix.shape[1]
    device = images.device
    shape = (len(crop), channels, size, size)
    if out is None:
        out = _empty(shape, dtype, channels_last, device)
    elif out.shape != shape or out.device != device:
        raise ValueError(f"out is {tuple(out.shape)} on {out.device}; wanted {shape} on {device}")
    span = sum(stride * (length - 1) for stride, length in zip(out.stride()[1:], shape[1:], strict=True))
    if span >= 2**31 or repeats_memory(out):
        raise ValueError(
            f"out has strides {out.stride()}; its rows must not overlap, and one must span less than 2**31"
        )
    if len(crop) == 0:
        return out
    pixels, offset, geometry, strides = _geometry(images, crop)
    white = _white(images)
    if not runs_triton(device):
        rounded = device.type == "cpu" and white == 255 and antialias and not exact
        crop_rows(
            pixels,
            offset,
            geometry,
            crop,
            matrix,
            out,
            strides=strides,
            interpolation=interpolation,
            antialias=antialias,
            rounded=rounded,
            white=white,
        )
        return out
    from augment_gpu.kernels.crop import launch_crop_resize_flip

    axis, filters, ranges = _tables(crop, geometry, size, interpolation, antialias)
    tables = upload(device, offset, axis, filters, ranges, matrix.astype(np.float32))
    return launch_crop_resize_flip(
        pixels,
        *tables,
        out=out,
        strides=strides,
        reach=FILTER_REACH[interpolation],
        white=white,
        diagonal=is_diagonal(matrix),
    )


def _tables(
    crop: CropParams, geometry: np.ndarray, size: int, interpolation: Interpolation, antialias: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kernel's axis (V, 4) int64, filter (V, 3) float32 and range (V, 7) int32 tables, as its signature has them.

    Positions are fixed point with 32 bits of fraction, since float32 leaves no fraction for a crop far from the corner
    of a large photograph, and float64 is slow on most GPUs.
    """
    start, stop = crop.box[:, :2].astype(np.float64), crop.box[:, 2:].astype(np.float64)
    scale = (stop - start) / size
    stretch = np.maximum(scale, 1) if antialias else np.ones_like(scale)
    reach = FILTER_REACH[interpolation] * stretch
    # Across, the first pixel whose centre lies under the filter is floor(centre − reach + ½); down, the last pixel at
    # or above the centre is floor(centre − ½). A nearest pixel holds the centre itself, which may lie exactly on the
    # pixel's edge: rounded up, no position falls short of it.
    nearest = interpolation == "nearest"
    position = start + scale / 2
    if not nearest:
        position += np.stack([0.5 - reach[:, 0], np.full(len(crop), -0.5)], axis=1)
    rounding = np.ceil if nearest else np.rint
    fixed_start, fixed_step = (rounding(value * 2**32).astype(np.int64) for value in (position, scale))
    # A mirrored row starts at the last column and steps back.
    fixed_start[:, 0] += np.where(crop.flip, (size - 1) * fixed_step[:, 0], 0)
    fixed_step[:, 0] *= np.where(crop.flip, -1, 1)
    axis = np.stack([fixed_start[:, 0], fixed_step[:, 0], fixed_start[:, 1], fixed_step[:, 1]], axis=1)
    filters = np.concatenate([1 / stretch, 1 - reach[:, :1]], axis=1).astype(np.float32)
    height, width, y_stride = geometry.T
    zero = np.zeros_like(height)
    if crop.taps == "image":
        low_high = [zero, width, zero, height]
    else:
        low, high = np.floor(start), np.ceil(stop)
        low_high = [low[:, 0], high[:, 0], low[:, 1], high[:, 1]]
    taps = np.ceil(2 * reach[:, 0])
    window, path = _paths(taps, low_high[1] - low_high[0], stretch[:, 1] > 1, int(FILTER_REACH[interpolation]))
    ranges = np.stack([*low_high, y_stride, window, path], axis=1).astype(np.int32)
    return axis, filters, ranges


def _paths(taps: np.ndarray, width: np.ndarray, shrinks: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """How many pixels across the kernel reads for each output pixel, and by which of its paths: (V,) each. taps: how
    many the filter has; width: how many there are to read; shrinks: whether the filter is stretched down the image."""
    from augment_gpu.kernels.crop import paths

    window, path = taps.copy(), np.zeros(len(taps), dtype=np.int64)
    for place, (down, unrolled) in reversed(list(enumerate(paths(reach)))):
        # In turn from the most general path, so that the cheapest that serves has the last word.
        size = np.full(len(taps), unrolled) if unrolled > 0 else np.ceil(taps / 4) * 4 if unrolled == 0 else taps
        serves = (shrinks == down) & (size >= taps) & ((size <= width) | (unrolled < 0))
        window, path = np.where(serves, size, window), np.where(serves, place, path)
    return window, path


def repeats_memory(tensor: torch.Tensor) -> bool:
    """Whether the tensor was expanded, so that what is written to one place of it appears in another."""
    return any(stride == 0 < length - 1 for stride, length in zip(tensor.stride(), tensor.shape, strict=True))


def color_matrix(
    images: Images, rows: int, color: ArrayLike | None, mean: ArrayLike | None, std: ArrayLike | None
) -> np.ndarray:
    """(1 or V, C, C + 1) float64: from pixel values as stored to the output, (color − mean) / std in one affine map."""
    channels = images.channels if isinstance(images, RaggedBatch) else images.shape[1]
    if color is None:
        matrix = np.eye(channels, channels + 1)[None]
    else:
        matrix = np.array(color, dtype=np.float64)
        if matrix.shape not in ((channels, channels + 1), (rows, channels, channels + 1)):
            raise ValueError(
                f"color has shape {matrix.shape}; wanted {(channels, channels + 1)} or {(rows, channels, channels + 1)}"
            )
        matrix = matrix.reshape(-1, channels, channels + 1)
    matrix[:, :, :-1] /= _white(images)
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


def _white(images: Images) -> float:
    """The largest pixel value: 255 for uint8, 1 for float images."""
    return 255.0 if isinstance(images, RaggedBatch) or images.dtype == torch.uint8 else 1.0


def _empty(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, device: torch.device) -> torch.Tensor:
    if device.type != "cpu":
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        try:
            return torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
        except torch.OutOfMemoryError as error:
            wanted = math.prod(shape) * dtype.itemsize
            free, total = torch.cuda.mem_get_info(device)
            raise torch.OutOfMemoryError(
                f"the output, {shape} {dtype}, takes {wanted} bytes; {free} of {total} are free on {device}"
            ) from error
    rows, channels, height, width = shape
    return (
        memory.empty((rows, height, width, channels), dtype).permute(0, 3, 1, 2)
        if channels_last
        else memory.empty(shape, dtype)
    )


def _geometry(images: Images, crop: CropParams) -> tuple[torch.Tensor, np.ndarray, np.ndarray, tuple[int, int]]:
    """Where each row's image lies: the values, offset (V,) int64 of its first one, geometry (V, 3) int32 height, width,
    values from one image row to the next, and the values from one column and from one channel to the next."""
    if isinstance(images, RaggedBatch):
        channels = images.channels
        height, width = images.height.numpy()[crop.source], images.width.numpy()[crop.source]
        geometry = np.stack([height, width, width * channels], axis=1)
        return images.pixels, images.offset.numpy()[crop.source], geometry, (channels, 1)
    geometry = np.array([images.shape[2], images.shape[3], images.stride(2)], dtype=np.int32)
    offset = crop.source * images.stride(0)
    return images, offset, np.broadcast_to(geometry, (len(crop), 3)), (images.stride(3), images.stride(1))


def _check(images: Images, crop: CropParams, size: int, interpolation: str, dtype: torch.dtype) -> None:
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
    if dtype not in _OUT_DTYPES:
        raise TypeError(f"dtype is {dtype}; wanted one of {', '.join(map(str, _OUT_DTYPES))}")
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    crop.check(heights, widths)
