"""crop_resize_flip in plain torch: one image at a time, each finished while it lies in a CPU's cache.

Two ways to resize. On a CPU, torch's uint8 antialias kernels (the ones that torchvision calls) where they apply and
8-bit rounding is welcome; otherwise both axes as sums over taps in float32, whose positions and weights are computed in
float64.
"""

import numpy as np
import torch

from augment_gpu.ops.boxes import CropParams

# How far each filter reaches at scale 1, in source pixels.
FILTER_REACH = {"bilinear": 1.0, "bicubic": 2.0, "nearest": 0.0}

_ATEN_RESIZE = {
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
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
) -> None:
    """Fills `out`, (V, C, S, S), on any device.

    pixels, offset, geometry, strides: where the images lie, as the kernel takes them. matrix: (1 or V, C, C + 1), from
    pixel values to the output. rounded: 8-bit rounding is welcome, and torch's uint8 kernels with it.
    """
    _, channels, size, _ = out.shape
    x_stride, channel_stride = strides
    aten_resize = _ATEN_RESIZE.get(interpolation) if rounded and crop.taps == "box" else None
    whole_pixels = (crop.box == np.rint(crop.box)).all(axis=1).tolist()
    start = (offset + pixels.storage_offset()).tolist()
    # One scratch image for all rows: fresh memory would cost more in page faults than the resize costs in arithmetic.
    resized = torch.empty((1, channels, size, size), dtype=torch.uint8, memory_format=torch.channels_last)
    mirrored = torch.empty_like(resized)
    finish = _Finish(matrix, out)
    for v, ((height, width, y_stride), box, flip) in enumerate(
        zip(geometry.tolist(), crop.box.tolist(), crop.flip.tolist(), strict=True)
    ):
        if aten_resize is not None and whole_pixels[v]:
            x0, y0, x1, y1 = map(int, box)
            part = pixels.as_strided(
                (1, channels, y1 - y0, x1 - x0),
                (0, channel_stride, y_stride, x_stride),
                start[v] + y0 * y_stride + x0 * x_stride,
            )
            aten_resize(part, [size, size], False, None, None, out=resized)
            if flip:
                torch.ops.aten.flip.out(resized, [3], out=mirrored)
            finish(v, mirrored[0] if flip else resized[0])
        else:
            image = pixels.as_strided((height, width, channels), (y_stride, x_stride, channel_stride), start[v])
            exact = _resize_exactly(image, box, flip, size, interpolation, antialias, crop.taps)
            # the cubic overshoots, and no pixel is brighter than white
            finish(v, exact.clamp_(0, white) if interpolation == "bicubic" else exact)


def _resize_exactly(
    image: torch.Tensor, box: list[float], flip: bool, size: int, interpolation: str, antialias: bool, taps: str
) -> torch.Tensor:
    """image: (H, W, C), to (C, S, S) float32, channels last, in the values of the image."""
    height, width, channels = image.shape
    x0, y0, x1, y1 = box
    down, down_weight = axis_taps(y0, y1, height, size, interpolation, antialias, taps)
    across, across_weight = axis_taps(x0, x1, width, size, interpolation, antialias, taps)
    if flip:
        across, across_weight = across[::-1], across_weight[::-1]
    top, left = down.min(), across.min()
    part = image[top : down.max() + 1, left : across.max() + 1].float()
    rows = _weighted_sum(part.reshape(len(part), -1), down - top, down_weight).view(size, -1, channels)
    columns = rows.transpose(0, 1).reshape(rows.shape[1], -1)
    resized = _weighted_sum(columns, across - left, across_weight).view(size, size, channels)
    return resized.permute(2, 1, 0)


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


class _Finish:
    """Maps the colours of one resized image after the other into its row of the output."""

    def __init__(self, matrix: np.ndarray, out: torch.Tensor) -> None:
        _, channels, size, _ = out.shape
        self.matrix = matrix
        self.out = out
        self.diagonal = bool((matrix[:, :, :-1] * (1 - np.eye(channels)) == 0).all())
        self.interleaved = out[0].stride() == (1, size * channels, channels)
        # float32 is computed in place, in the output; other dtypes in a scratch image and rounded once
        self.scratch = None if out.dtype == torch.float32 else torch.empty_like(out[0], dtype=torch.float32)
        if self.diagonal:
            self.scale = matrix[:, :, :-1].sum(axis=2).tolist()
            self.shift = torch.from_numpy(matrix[:, :, -1].astype(np.float32)).to(out.device)
        if self.diagonal and self.interleaved:
            lines = np.concatenate([matrix[:, :, :-1].sum(axis=2), matrix[:, :, -1]]).astype(np.float32)
            self.lines = torch.from_numpy(np.tile(lines, size)).to(out.device).view(2, len(matrix), size * channels)

    def __call__(self, v: int, image: torch.Tensor) -> None:
        """image: (C, S, S), uint8 or float32, channels last."""
        target = self.out[v] if self.scratch is None else self.scratch
        row = v % len(self.matrix)
        if self.diagonal and self.interleaved:
            flat = target.permute(1, 2, 0).view(len(target[0]), -1)
            flat.copy_(image.permute(1, 2, 0).reshape(flat.shape))
            torch.addcmul(self.lines[1, row], flat, self.lines[0, row], out=flat)
        elif self.diagonal:
            target.copy_(image)
            for plane, scale, shift in zip(target, self.scale[row], self.shift[row], strict=True):
                torch.add(shift, plane, alpha=scale, out=plane)
        else:
            planes = image.float()
            for plane, weights in zip(target, self.matrix[row].tolist(), strict=True):
                plane.fill_(weights[-1])
                for channel, weight in zip(planes, weights[:-1], strict=True):
                    plane.add_(channel, alpha=weight)
        if self.scratch is not None:
            self.out[v].copy_(target)
