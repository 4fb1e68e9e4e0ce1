"""The fused crop, antialiased resize, flip, colour map and cast, as one Triton kernel.

Direct taps: each program computes one tile of one output image and reads every source pixel under the filter itself.
What was tried, and what it costs in instructions a thread for each output pixel of an interior tile (bilinear, RGB, 8
pixels a thread, sm_90, counted in the compiled code at scale 1.5):

  330  positions in float64 in the kernel, both loops over taps rolled
  266  positions in fixed point from the host, which also makes the flip a negative step
  229  two to four horizontal taps unrolled: their weights are computed once for all rows of the tile
  197  tiles that touch no edge of their box: no clamping, no masks, and one address for neighbouring taps

Horizontally filtered rows shared between the output rows that need them (a rolling window) save loads, and pay as much
for weights that are mostly zero. Threads of 4 rows × 2 columns save a tenth of the loop, and waste the eighth column
tile of a 224 × 224 output.
"""

import torch
import triton
import triton.language as tl

BLOCK_Y = 16
BLOCK_X = 32
NUM_WARPS = 2


@triton.jit
def _look(start, step, position, rest):
    """Where each output position looks along one axis: the first pixel under the filter, and its distance from the
    filter's centre in pixels. start, step: in 2**-32 pixels. rest: what the distance is where that pixel is met
    exactly."""
    at = start + position.to(tl.int64) * step
    return (at >> 32).to(tl.int32), rest - at.to(tl.uint32).to(tl.float32) * 2.3283064365386963e-10


@triton.jit
def _weight(tap, first, distance, inverse_stretch, low, high, REACH: tl.constexpr, INSIDE: tl.constexpr):
    """The weight of each position's tap, and the pixel to read. Unless INSIDE says that all taps of the tile lie in
    [low, high), the weight is 0 outside and the pixel clamped, so that no load needs a mask."""
    pixel = first + tap
    if REACH == 0:
        weight = tl.full(distance.shape, 1, tl.float32)
    else:
        t = tl.abs((distance + tap) * inverse_stretch)
        if REACH == 1:
            weight = tl.maximum(1 - t, 0.0)
        else:
            near = (1.5 * t - 2.5) * t * t + 1
            far = ((2.5 - 0.5 * t) * t - 4) * t + 2
            weight = tl.where(t <= 1, near, tl.where(t < 2, far, 0.0))
    if not INSIDE:
        # One unsigned comparison serves both ends.
        weight = tl.where((pixel - low).to(tl.uint32) < (high - low).to(tl.uint32), weight, 0.0)
        pixel = tl.minimum(tl.maximum(pixel, low), high - 1)
    return weight, pixel


@triton.jit
def _add(sum_0, sum_1, sum_2, sum_3, weight, ptr, channel_stride, CHANNELS: tl.constexpr):
    """One horizontal tap of every channel. Unused channels stay as they are, and are compiled away."""
    sum_0 += weight[None, :] * tl.load(ptr).to(tl.float32)
    if CHANNELS >= 3:
        sum_1 += weight[None, :] * tl.load(ptr + channel_stride).to(tl.float32)
        sum_2 += weight[None, :] * tl.load(ptr + 2 * channel_stride).to(tl.float32)
    if CHANNELS == 4:
        sum_3 += weight[None, :] * tl.load(ptr + 3 * channel_stride).to(tl.float32)
    return sum_0, sum_1, sum_2, sum_3


@triton.jit
def _resample(
    image_ptr,
    y_stride,
    channel_stride,
    first_x,  # (BLOCK_X,) int32, and the four that follow: one axis
    distance_x,  # (BLOCK_X,) float32
    inverse_x,
    x_low,
    x_high,
    count_x,
    first_y,
    distance_y,
    inverse_y,
    y_low,
    y_high,
    count_y,
    X_STRIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    REACH: tl.constexpr,
    TAPS: tl.constexpr,  # horizontal taps unrolled, 1 to 4
    INSIDE: tl.constexpr,
):
    """The four (BLOCK_Y, BLOCK_X) float32 channels of a tile, in pixel values."""
    zero = (first_y[:, None] * 0 + first_x[None, :] * 0).to(tl.float32)
    total_0, total_1, total_2, total_3 = zero, zero, zero, zero
    sum_x = distance_x * 0
    sum_y = distance_y * 0
    groups = 0.0
    for tap_x in range(0, count_x, TAPS):
        groups += 1.0
        weight_0, pixel_0 = _weight(tap_x, first_x, distance_x, inverse_x, x_low, x_high, REACH, INSIDE)
        sum_x += weight_0
        if TAPS > 1:
            weight_1, pixel_1 = _weight(tap_x + 1, first_x, distance_x, inverse_x, x_low, x_high, REACH, INSIDE)
            sum_x += weight_1
        if TAPS > 2:
            weight_2, pixel_2 = _weight(tap_x + 2, first_x, distance_x, inverse_x, x_low, x_high, REACH, INSIDE)
            sum_x += weight_2
        if TAPS > 3:
            weight_3, pixel_3 = _weight(tap_x + 3, first_x, distance_x, inverse_x, x_low, x_high, REACH, INSIDE)
            sum_x += weight_3
        for tap_y in range(count_y):
            weight_y, pixel_y = _weight(tap_y, first_y, distance_y, inverse_y, y_low, y_high, REACH, INSIDE)
            sum_y += weight_y
            row_ptr = image_ptr + (pixel_y * y_stride)[:, None]
            ptr = row_ptr + (pixel_0 * X_STRIDE)[None, :]
            row_0, row_1, row_2, row_3 = _add(zero, zero, zero, zero, weight_0, ptr, channel_stride, CHANNELS)
            # Inside, a tap's address is its neighbour's plus a constant, which the load instruction adds for nothing.
            if TAPS > 1:
                tap_ptr = ptr + X_STRIDE if INSIDE else row_ptr + (pixel_1 * X_STRIDE)[None, :]
                row_0, row_1, row_2, row_3 = _add(
                    row_0, row_1, row_2, row_3, weight_1, tap_ptr, channel_stride, CHANNELS
                )
            if TAPS > 2:
                tap_ptr = ptr + 2 * X_STRIDE if INSIDE else row_ptr + (pixel_2 * X_STRIDE)[None, :]
                row_0, row_1, row_2, row_3 = _add(
                    row_0, row_1, row_2, row_3, weight_2, tap_ptr, channel_stride, CHANNELS
                )
            if TAPS > 3:
                tap_ptr = ptr + 3 * X_STRIDE if INSIDE else row_ptr + (pixel_3 * X_STRIDE)[None, :]
                row_0, row_1, row_2, row_3 = _add(
                    row_0, row_1, row_2, row_3, weight_3, tap_ptr, channel_stride, CHANNELS
                )
            total_0 += weight_y[:, None] * row_0
            if CHANNELS >= 3:
                total_1 += weight_y[:, None] * row_1
                total_2 += weight_y[:, None] * row_2
            if CHANNELS == 4:
                total_3 += weight_y[:, None] * row_3
    # sum_y was summed once for each group.
    norm = (1 / sum_y)[:, None] * (groups / sum_x)[None, :]
    return total_0 * norm, total_1 * norm, total_2 * norm, total_3 * norm


@triton.jit
def _crop_resize_flip(
    pixels_ptr,  # uint8 or float32: the images, ragged or dense
    offset_ptr,  # (V,) int64: a big batch passes 2**31 bytes
    axis_ptr,  # (V, 4) int64: x start, x step, y start, y step, in 2**-32 pixels
    filter_ptr,  # (V, 4) float32: x, y: 1 / stretch; x, y: distance of a first tap that is met exactly
    range_ptr,  # (V, 7) int32: x low, x high, y low, y high: pixels to read; x taps, y taps; values from row to row
    color_ptr,  # (1 or V, C, C + 1) float32: from pixel values to the output
    out_ptr,  # (V, C, S, S) float32, float16 or bfloat16, any strides
    color_stride,  # 0 where all rows share one colour map
    channel_stride,
    out_v_stride,
    out_c_stride,
    out_y_stride,
    out_x_stride,
    SIZE,
    white,  # 255.0 or 1.0: what a bicubic overshoot is clamped to
    X_STRIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    REACH: tl.constexpr,  # 0 nearest, 1 bilinear, 2 bicubic
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    tiles_x = tl.cdiv(SIZE, BLOCK_X)
    tiles = tiles_x * tl.cdiv(SIZE, BLOCK_Y)
    v = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    top = (tile // tiles_x) * BLOCK_Y
    left = (tile % tiles_x) * BLOCK_X
    out_y = top + tl.arange(0, BLOCK_Y)
    out_x = left + tl.arange(0, BLOCK_X)

    image_ptr = pixels_ptr + tl.load(offset_ptr + v)
    x_start, x_step = tl.load(axis_ptr + 4 * v), tl.load(axis_ptr + 4 * v + 1)
    y_start, y_step = tl.load(axis_ptr + 4 * v + 2), tl.load(axis_ptr + 4 * v + 3)
    inverse_x, inverse_y = tl.load(filter_ptr + 4 * v), tl.load(filter_ptr + 4 * v + 1)
    first_x, distance_x = _look(x_start, x_step, out_x, tl.load(filter_ptr + 4 * v + 2))
    first_y, distance_y = _look(y_start, y_step, out_y, tl.load(filter_ptr + 4 * v + 3))
    x_low, x_high = tl.load(range_ptr + 7 * v), tl.load(range_ptr + 7 * v + 1)
    y_low, y_high = tl.load(range_ptr + 7 * v + 2), tl.load(range_ptr + 7 * v + 3)
    count_x, count_y = tl.load(range_ptr + 7 * v + 4), tl.load(range_ptr + 7 * v + 5)
    y_stride = tl.load(range_ptr + 7 * v + 6)

    if REACH == 0:
        total_0, total_1, total_2, total_3 = _resample(
            image_ptr, y_stride, channel_stride,
            first_x, distance_x, inverse_x, x_low, x_high, 1,
            first_y, distance_y, inverse_y, y_low, y_high, 1,
            X_STRIDE, CHANNELS, REACH, 1, False,
        )  # fmt: skip
    else:
        # A tile whose outermost taps lie inside needs no clamping. Unrolling may read up to three taps further, whose
        # weight is 0; a flip makes the first column the rightmost.
        x_left = ((x_start + left.to(tl.int64) * x_step) >> 32).to(tl.int32)
        x_right = ((x_start + (left + BLOCK_X - 1).to(tl.int64) * x_step) >> 32).to(tl.int32)
        y_top = ((y_start + top.to(tl.int64) * y_step) >> 32).to(tl.int32)
        y_bottom = ((y_start + (top + BLOCK_Y - 1).to(tl.int64) * y_step) >> 32).to(tl.int32)
        inside = (tl.minimum(x_left, x_right) >= x_low) & (tl.maximum(x_left, x_right) + count_x + 3 <= x_high)
        inside = inside & (y_top >= y_low) & (y_bottom + count_y <= y_high)
        thirds = (count_x == 3) | (count_x == 5) | (count_x == 6) | (count_x == 9)  # fewer taps computed in vain
        if not inside:
            total_0, total_1, total_2, total_3 = _resample(
                image_ptr, y_stride, channel_stride,
                first_x, distance_x, inverse_x, x_low, x_high, count_x,
                first_y, distance_y, inverse_y, y_low, y_high, count_y,
                X_STRIDE, CHANNELS, REACH, 3, False,
            )  # fmt: skip
        elif count_x <= 2:
            total_0, total_1, total_2, total_3 = _resample(
                image_ptr, y_stride, channel_stride,
                first_x, distance_x, inverse_x, x_low, x_high, count_x,
                first_y, distance_y, inverse_y, y_low, y_high, count_y,
                X_STRIDE, CHANNELS, REACH, 2, True,
            )  # fmt: skip
        elif thirds:
            total_0, total_1, total_2, total_3 = _resample(
                image_ptr, y_stride, channel_stride,
                first_x, distance_x, inverse_x, x_low, x_high, count_x,
                first_y, distance_y, inverse_y, y_low, y_high, count_y,
                X_STRIDE, CHANNELS, REACH, 3, True,
            )  # fmt: skip
        else:
            total_0, total_1, total_2, total_3 = _resample(
                image_ptr, y_stride, channel_stride,
                first_x, distance_x, inverse_x, x_low, x_high, count_x,
                first_y, distance_y, inverse_y, y_low, y_high, count_y,
                X_STRIDE, CHANNELS, REACH, 4, True,
            )  # fmt: skip
    if REACH == 2:
        total_0 = tl.minimum(tl.maximum(total_0, 0.0), white)
        total_1 = tl.minimum(tl.maximum(total_1, 0.0), white)
        total_2 = tl.minimum(tl.maximum(total_2, 0.0), white)
        total_3 = tl.minimum(tl.maximum(total_3, 0.0), white)

    where = out_ptr + v.to(tl.int64) * out_v_stride + (out_y * out_y_stride)[:, None] + (out_x * out_x_stride)[None, :]
    mask = (out_y < SIZE)[:, None] & (out_x < SIZE)[None, :]
    color_ptr += v * color_stride
    for c in tl.static_range(CHANNELS):
        line = color_ptr + c * (CHANNELS + 1)
        value = tl.load(line + CHANNELS) + tl.load(line) * total_0
        if CHANNELS >= 3:
            value += tl.load(line + 1) * total_1
            value += tl.load(line + 2) * total_2
        if CHANNELS == 4:
            value += tl.load(line + 3) * total_3
        tl.store(where + c * out_c_stride, value.to(out_ptr.dtype.element_ty), mask=mask)


def launch_crop_resize_flip(
    pixels: torch.Tensor,
    offset: torch.Tensor,
    axis: torch.Tensor,
    filters: torch.Tensor,
    ranges: torch.Tensor,
    color: torch.Tensor,
    *,
    out: torch.Tensor,
    strides: tuple[int, int],
    reach: float,
    white: float,
    block_y: int = BLOCK_Y,
    block_x: int = BLOCK_X,
) -> torch.Tensor:
    """Writes and returns `out`, (V, C, S, S). What the tables hold stands at the kernel's signature; strides: values
    from one column and from one channel to the next. The caller has checked every box against its image."""
    rows, channels, size, _ = out.shape
    grid = (rows * triton.cdiv(size, block_x) * triton.cdiv(size, block_y),)
    with torch.cuda.device_of(out):
        _crop_resize_flip[grid](
            pixels,
            offset,
            axis,
            filters,
            ranges,
            color,
            out,
            0 if len(color) == 1 else color[0].numel(),
            strides[1],
            *out.stride(),
            size,
            white,
            X_STRIDE=strides[0],
            CHANNELS=channels,
            REACH=int(reach),
            BLOCK_Y=block_y,
            BLOCK_X=block_x,
            num_warps=NUM_WARPS,
        )
    return out
