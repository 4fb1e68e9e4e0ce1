"""crop_resize_flip in plain torch: one image at a time, each finished while it lies in a CPU's cache.

Two ways to resize. On a CPU, torch's uint8 antialias kernels (the ones that torchvision calls) where they apply and
8-bit rounding is welcome: to whole boxes, and to whole images of which squares are cut. Otherwise both axes, across and
then down, as sums over taps in float32, whose positions and weights are computed in float64. Where rounding is welcome
these cut the cubic's overshoot off where the kernels do, after each axis, so that a CPU's picture does not depend on
which of the two ways it took.

Several threads serve as torch shares out single operations. A pool of threads over chunks of rows was tried, each with
a scratch image of its own and with OpenMP held to one thread there. On two quiet cores it was 1.3 times as fast as this
at 128 rows, no faster at 32, and slower at 16 and in float, since between its operations each thread waits for Python's
lock; under the Loader, where decoding keeps all cores busy, the two were equal.
"""

from collections.abc import Callable

import numpy as np
import torch

from augment_gpu.ops.boxes import CropParams

# How far each filter reaches at scale 1, in source pixels.
FILTER_REACH = {"bilinear": 1.0, "bicubic": 2.0, "nearest": 0.0}

# The functions behind torch.nn.functional.interpolate(antialias=True), which itself has no out=.
_ATEN_RESIZE: dict[str, Callable[..., torch.Tensor]] = {
    "bilinear": torch._C._nn._upsample_bilinear2d_aa,
    "bicubic": torch._C._nn._upsample_bicubic2d_aa,
}


def crop_rows(
    pixels: torch.Tensor,
    offset: np.ndarray,
    geometry: np.ndarray,
    crop: CropParams,
    matrix: np.ndarray,
    out: torch.Tensor,
    *,
    strides: tuple[int, int],
    interpolation: str,
    antialias: bool,
    rounded: bool,
    white: float,
    diagonal: bool,
) -> None:
    """Fills `out`, (V, C, S, S), on any device.

    pixels, offset, geometry, strides: where the images lie, as the kernel takes them. matrix: (1 or V, C, C + 1), from
    pixel values to the output. rounded: 8-bit rounding is welcome, and torch's uint8 kernels with it. diagonal: in no
    row's colours a channel sees another.
    """
    _, channels, size, _ = out.shape
    x_stride, channel_stride = strides
    interleaved_source = strides == (channels, 1)
    output_size = [size, size]
    clamp_both = rounded and interpolation == "bicubic"
    aten_resize = _ATEN_RESIZE.get(interpolation) if rounded else None
    start = (offset + pixels.storage_offset()).tolist()
    # By torch's uint8 kernels: in taps="box" boxes of whole pixels, and in taps="image" squares of a resized image.
    by_kernel = (crop.box == np.rint(crop.box)).all(axis=1).tolist()
    if crop.taps == "image":
        grids, corners, on_grid = _squares_of_resized_images(crop.box, geometry, size)
        by_kernel, grids, corners = on_grid.tolist(), grids.tolist(), corners.tolist()
    # The resized image that the row before was cut from: ten crops in turn share one.
    latest, whole = None, torch.empty(0)
    # Views are made once, not per row: a view costs about as much as normalising ten lines of a picture.
    interleaved = diagonal and out.stride()[1:] == (1, size * channels, channels)
    finish = _finisher(matrix, out, diagonal, interleaved)
    targets = _seen(out, interleaved).unbind(0)
    # One scratch image for all rows: fresh memory would cost more in page faults than the resize costs in arithmetic.
    resized = torch.empty((1, channels, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
    resized_view = _seen(resized, interleaved)[0]
    for v, ((height, width, y_stride), box, flip) in enumerate(
        zip(geometry.tolist(), crop.box.tolist(), crop.flip.tolist(), strict=True)
    ):
        if aten_resize is not None and by_kernel[v] and crop.taps == "image":
            if latest != (start[v], grids[v]):
                latest = start[v], grids[v]
                image = pixels.as_strided(
                    (1, channels, height, width), (0, channel_stride, y_stride, x_stride), start[v]
                ).contiguous(memory_format=torch.channels_last)
                whole = torch.empty((1, channels, *grids[v]), dtype=torch.uint8, memory_format=torch.channels_last)
                aten_resize(image, grids[v], False, None, None, out=whole)
            top, left = corners[v]
            square = whole[:, :, top : top + size, left : left + size]
            finish(v, targets[v], _seen(square.flip(3) if flip else square, interleaved)[0])
        elif aten_resize is not None and by_kernel[v]:
            x0, y0, x1, y1 = map(int, box)
            part = pixels.as_strided(
                (1, channels, y1 - y0, x1 - x0),
                (0, channel_stride, y_stride, x_stride),
                start[v] + y0 * y_stride + x0 * x_stride,
            )
            if not interleaved_source:
                # torch's kernel fails on some planar images where its output is interleaved
                part = torch.empty(part.shape, dtype=torch.uint8, memory_format=torch.channels_last).copy_(part)
            aten_resize(part, output_size, False, None, None, out=resized)
            # A new tensor, since torch's flip has no out= of its own: flip.out flips and then copies.
            finish(v, targets[v], _seen(resized.flip(3), interleaved)[0] if flip else resized_view)
        else:
            image = pixels.as_strided((height, width, channels), (y_stride, x_stride, channel_stride), start[v])
            in_float = _resize_in_float(
                image, box, flip, size, interpolation, antialias, crop.taps, white=white, clamp_both=clamp_both
            )
            finish(v, targets[v], _seen(in_float[None], interleaved)[0])


def _squares_of_resized_images(
    box: np.ndarray, geometry: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes that a crop of `size` in a resized image gave, as evaluation and ten crops have them: the height and width
    of that image and the crop's top and left, (V, 2) each, and (V,) which boxes are of that kind. Not those of images
    that would become much larger than what is cut out of them."""
    sides = geometry[:, :2].astype(np.float64)
    low, high = box[:, 1::-1].astype(np.float64), box[:, :1:-1].astype(np.float64)  # y, x
    scale = (high - low) / size
    resized, corner = sides / scale, low / scale
    whole, corners = np.rint(resized).astype(np.int64), np.rint(corner).astype(np.int64)
    # float32 boxes keep seven digits
    near = (np.abs(resized - whole) < 1e-6 * resized + 1e-3) & (np.abs(corner - corners) < 1e-3)
    fits = near.all(axis=1) & (corners + size <= whole).all(axis=1)
    return whole, corners, fits & (whole.prod(axis=1) <= np.maximum(sides.prod(axis=1), 16 * size**2))


def is_diagonal(matrix: np.ndarray) -> bool:
    """Whether in none of these colour maps, (V, C, C + 1), a channel sees another."""
    return bool((matrix[:, :, :-1] * (1 - np.eye(matrix.shape[1])) == 0).all())


def _seen(images: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """(B, C, S, S) images as their colours are mapped: lines (B, S, S · C) of interleaved channels, or as they are."""
    return images.permute(0, 2, 3, 1).flatten(2) if interleaved else images


def _resize_in_float(
    image: torch.Tensor,
    box: list[float],
    flip: bool,
    size: int,
    interpolation: str,
    antialias: bool,
    taps: str,
    *,
    white: float,
    clamp_both: bool,
) -> torch.Tensor:
    """image: (H, W, C), to (C, S, S) float32, channels last, in the values of the image. clamp_both: cut the cubic's
    overshoot off after the first axis too, as 8 bits between the axes would."""
    height, width, channels = image.shape
    x0, y0, x1, y1 = box
    down, down_weight = axis_taps(y0, y1, height, size, interpolation, antialias, taps)
    across, across_weight = axis_taps(x0, x1, width, size, interpolation, antialias, taps)
    if flip:
        across, across_weight = across[::-1], across_weight[::-1]
    top, left = down.min(), across.min()
    part = image[top : down.max() + 1, left : across.max() + 1].float()
    columns = part.transpose(0, 1).reshape(part.shape[1], -1)
    narrowed = _weighted_sum(columns, across - left, across_weight)
    if clamp_both:
        narrowed.clamp_(0, white)
    rows = narrowed.view(size, -1, channels).transpose(0, 1).reshape(len(part), -1)
    resized = _weighted_sum(rows, down - top, down_weight).view(size, size, channels)
    if interpolation == "bicubic":  # the cubic overshoots, and no pixel is brighter than white
        resized.clamp_(0, white)
    return resized.permute(2, 0, 1)


def axis_taps(
    start: float, stop: float, length: int, size: int, interpolation: str, antialias: bool, taps: str
) -> tuple[np.ndarray, np.ndarray]:
    """Along one axis: which source pixels each output pixel reads, (S, T) int64, and their weights, (S, T) float64."""
    # Multiplied before it is divided: where a centre falls on a pixel's edge, it does so exactly, on every device.
    center = start + (2 * np.arange(size) + 1) * (stop - start) / (2 * size)
    low, high = (int(np.floor(start)), int(np.ceil(stop))) if taps == "box" else (0, length)
    stretch = max((stop - start) / size, 1.0) if antialias else 1.0
    reach = FILTER_REACH[interpolation] * stretch
    if interpolation == "nearest":
        return np.clip(np.floor(center), low, high - 1).astype(np.int64)[:, None], np.ones((size, 1))
    first = np.floor(center - reach + 0.5)
    pixel = first[:, None] + np.arange(np.ceil(2 * reach))
    t = np.abs(pixel + 0.5 - center[:, None]) / stretch
    if interpolation == "bilinear":
        weight = np.maximum(1 - t, 0)
    else:
        near, far = (1.5 * t - 2.5) * t**2 + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2
        weight = np.where(t <= 1, near, np.where(t < 2, far, 0))
    weight *= (pixel >= low) & (pixel < high)
    return np.clip(pixel, low, high - 1).astype(np.int64), weight / weight.sum(axis=1, keepdims=True)


def _weighted_sum(values: torch.Tensor, index: np.ndarray, weight: np.ndarray) -> torch.Tensor:
    """values: (n, m) float32. Row i of the result is the sum over taps t of weight[i, t] · values[index[i, t]].

    Elementwise on purpose: a matrix product may split its sums by thread count, or run in bfloat16 where the user has
    lowered torch.set_float32_matmul_precision.
    """
    indices = torch.from_numpy(np.ascontiguousarray(index.T)).to(values.device)
    weights = torch.from_numpy(np.ascontiguousarray(weight.T, dtype=np.float32))[:, :, None].to(values.device)
    total = values[indices[0]].mul_(weights[0])
    gathered = torch.empty_like(total)
    for tap in range(1, len(indices)):
        torch.index_select(values, 0, indices[tap], out=gathered)
        total.addcmul_(gathered, weights[tap])
    return total


def _finisher(
    matrix: np.ndarray, out: torch.Tensor, diagonal: bool, interleaved: bool
) -> Callable[[int, torch.Tensor, torch.Tensor], None]:
    """finish(v, target, image): maps the colours of image v, uint8 or float32, into its target.

    float32 is computed in place, in the target; other dtypes in a scratch image, and rounded once. Colours that see
    each other are computed plane by plane, each plane in one piece, and brought to the target's order of channels.
    """
    size = out.shape[2]
    scale = matrix[:, :, :-1].sum(axis=2)  # the diagonal, where there is nothing else
    shift = torch.from_numpy(matrix[:, :, -1].astype(np.float32)).to(out.device)
    if interleaved:
        lines = torch.from_numpy(np.tile(scale.astype(np.float32), size)).to(out.device)
        scale_lines, shift_lines = lines.unbind(0), shift.repeat(1, size).unbind(0)
    if not diagonal:
        planes, mixed = torch.empty((2, *out.shape[1:]), device=out.device).unbind(0)
    scales, shifts = scale.tolist(), [line.unbind(0) for line in shift]

    def finish(v: int, target: torch.Tensor, image: torch.Tensor) -> None:
        row = v % len(matrix)
        if interleaved:
            target.copy_(image)
            torch.addcmul(shift_lines[row], target, scale_lines[row], out=target)
        elif diagonal:
            target.copy_(image)
            for plane, factor, summand in zip(target.unbind(0), scales[row], shifts[row], strict=True):
                torch.add(summand, plane, alpha=factor, out=plane)
        else:
            planes.copy_(image)
            for plane, weights in zip(mixed.unbind(0), matrix[row].tolist(), strict=True):
                plane.fill_(weights[-1])
                for channel, weight in zip(planes.unbind(0), weights[:-1], strict=True):
                    plane.add_(channel, alpha=weight)
            target.copy_(mixed)

    if out.dtype == torch.float32:
        return finish
    scratch = torch.empty_like(_seen(out[:1], interleaved)[0], dtype=torch.float32)

    def finish_and_round(v: int, target: torch.Tensor, image: torch.Tensor) -> None:
        finish(v, scratch, image)
        target.copy_(scratch)

    return finish_and_round
