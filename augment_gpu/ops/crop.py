"""crop_resize_flip: from uint8 images of any size to finished network input, one read and one write.

The filter is the triangle ("bilinear") or Keys' cubic with a = −0.5 ("bicubic"; Keys 1981), evaluated at pixel centres,
stretched by max(scale, 1) where antialiased, its weights divided by their sum: the definition that Pillow and
torchvision's antialiased resize share, here without the 8 bits that both store between the two axes. The cubic's
overshoot is clamped once, at the end, as torchvision does for uint8 on a GPU; where 8-bit rounding is welcome (the
CPU's default) after each axis, as torchvision does for uint8 there. "nearest" takes the pixel that the centre falls
into, as Pillow does.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu import memory
from augment_gpu.ops.boxes import CropParams
from augment_gpu.ops.crop_plan import Images, check_crop, color_matrix, plan_crop, white_of
from augment_gpu.ops.crop_torch import FILTER_REACH, crop_rows, is_diagonal
from augment_gpu.ops.cutout import CutoutParams, fill_holes, plan_cutout
from augment_gpu.ops.operator import device_op, writes_in_place, written
from augment_gpu.ops.path import runs_triton, table_device
from augment_gpu.ops.upload import upload
from augment_gpu.ragged import RaggedBatch

Interpolation = Literal["bilinear", "bicubic", "nearest"]

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
            resized = resized.clamp(0, white_of(images))
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
    holes: CutoutParams | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cuts each row's box out of its image, resizes it to `size` × `size`, mirrors it, maps its colours, and
    overwrites its hole.

    images: a RaggedBatch, or a dense (B, C, H, W) tensor, uint8 or float32 in [0, 1]; C is 1, 3 or 4. crop: V rows,
    each naming its source image, so many rows may look at one image. color: (C, C + 1) or (V, C, C + 1), an affine map
    of the channels in [0, 1], applied after the resize; mean, std: (C,) or numbers, applied last; where neither is
    given the output lies in [0, 1]. dtype: float32, float16 or bfloat16. holes: V rows in pixels of the output, filled
    as by cutout, in the same launch. out: a (V, C, S, S) tensor to write to, whose dtype and memory format then count.
    Returns (V, C, S, S), on the device of the images.

    exact: on a CPU the default for antialiased uint8 is within one grey level of what torchvision makes of uint8: boxes
    of whole pixels with taps="box", and crops of a resized image with taps="image", are resized by torch's uint8
    kernels, which are faster and round to 8 bits after each axis; bicubic overshoot is cut off after each axis, which
    beside hard edges is a matter of several levels. True computes in float and clamps once, as every path on a GPU.

    Raises ValueError or IndexError for a box that is no part of its image, or a hole that is none of the output,
    TypeError for a dtype; before any launch.
    """
    places = check_crop(images, crop, size, interpolation)
    matrix = color_matrix(images, len(crop), color, mean, std)
    channels, device = matrix.shape[1], images.device
    if out is None:
        out = empty_images((len(crop), channels, size, size), dtype, channels_last, device)
    else:
        _check_out(out, (len(crop), channels, size, size), device)
    filling = () if holes is None else plan_cutout(out.shape, holes)
    if len(crop) == 0:
        return out
    how = size, interpolation, antialias
    arrays = plan_crop(places, crop, matrix, *how, filling=filling, triton=runs_triton(device))
    tables = upload(table_device(device), *arrays)
    pixels = images.pixels if isinstance(images, RaggedBatch) else images
    run_crop(pixels, tables, out, interpolation, antialias, exact, color is None or is_diagonal(matrix))
    written(out)
    return out


@device_op(
    "crop_resize_flip(Tensor images, Tensor[] tables, Tensor(a!) out, str interpolation, bool antialias, bool exact, "
    "bool diagonal) -> ()",
    writes_in_place,
)
def run_crop(
    images: torch.Tensor,
    tables: Sequence[torch.Tensor],
    out: torch.Tensor,
    interpolation: str,
    antialias: bool,
    exact: bool,
    diagonal: bool,
) -> None:
    """The device part: fills `out`. images: the (N,) pixels of a ragged batch, or (B, C, H, W). tables: of plan_crop.
    diagonal: whether in no row's colours a channel sees another."""
    if out.shape[0] == 0:
        return
    white = white_of(images)
    strides = (out.shape[1], 1) if images.ndim == 1 else (images.stride(3), images.stride(1))
    if runs_triton(images.device):
        from augment_gpu.kernels.crop import launch_crop_resize_flip

        launch_crop_resize_flip(
            images,
            *tables,
            out=out,
            strides=strides,
            reach=FILTER_REACH[interpolation],
            white=white,
            diagonal=diagonal,
        )
        return
    offset, geometry, box, flip, matrix, confined, *filling = tables
    crop_rows(
        images,
        offset.numpy(),
        geometry.numpy(),
        CropParams(np.zeros(len(box)), box.numpy(), flip.numpy(), "box" if confined else "image"),
        matrix.numpy(),
        out,
        strides=strides,
        interpolation=interpolation,
        antialias=antialias,
        rounded=images.device.type == "cpu" and white == 255 and antialias and not exact,
        white=white,
        diagonal=diagonal,
    )
    if filling:
        fill_holes(out, *filling)


def _check_out(out: torch.Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    _check_dtype(out.dtype)
    if out.shape != shape or out.device != device:
        raise ValueError(f"out is {tuple(out.shape)} on {out.device}; wanted {shape} on {device}")
    span = sum(stride * (length - 1) for stride, length in zip(out.stride()[1:], shape[1:], strict=True))
    if span >= 2**31 or memory.repeats(out):
        raise ValueError(
            f"out has strides {out.stride()}; its rows must not overlap, and one must span less than 2**31"
        )


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in _OUT_DTYPES:
        raise TypeError(f"dtype is {dtype}; wanted one of {', '.join(map(str, _OUT_DTYPES))}")


def empty_images(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool, device: torch.device) -> torch.Tensor:
    """(V, C, S, S), not initialised. Raises TypeError for a dtype that crop_resize_flip does not write."""
    _check_dtype(dtype)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    if torch.compiler.is_compiling():  # the compiler plans memory by itself
        return torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)
    if device.type != "cpu":
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
