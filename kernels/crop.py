"""The fused crop, antialiased resize, flip, colour map and cast, as one Triton kernel.

Direct taps: each program computes one tile of one output image and reads every source pixel under the filter itself,
once per tile; weights are computed in registers. Positions are computed in float64 (a handful of operations per row
and column of the tile, not per pixel), since float32 leaves no fraction for a crop far from the corner of a large
photograph; the distances and weights derived from them are float32.
"""

import torch
import triton
import triton.language as tl

BLOCK_Y = 16
BLOCK_X = 32
NUM_WARPS = 2


@triton.jit
def _first_tap(start, stop, position, low, high, SIZE, REACH: tl.constexpr, ANTIALIAS: tl.constexpr):
    """Along one axis, for each output position: the first source pixel under the filter (int32), its distance from the
    filter's centre in source pixels (float32), and for all of them the filter's stretch (float32) and count of taps."""
    extent = stop - start
    # Multiplied before it is divided: where a centre falls on a pixel's edge, it does so exactly, on every device.
    center = start + (2 * position + 1) * extent / (2 * SIZE)
    if REACH == 0:
        first = tl.floor(center)
        count = 1
        stretch = extent * 0 + 1  # of extent's type
    else:
        stretch = extent / SIZE
        stretch = tl.maximum(stretch, 1.0) if ANTIALIAS else stretch * 0 + 1
        first = tl.floor(center - REACH * stretch + 0.5)
        count = tl.ceil(2 * REACH * stretch).to(tl.int32)
    distance = (first + 0.5 - center).to(tl.float32)
    return first.to(tl.int32), distance, stretch.to(tl.float32), count


@triton.jit
def _weight(tap, first, distance, inverse_stretch, low, high, REACH: tl.constexpr):
    """The weight of each position's tap (float32), 0 outside [low, high), and the pixel to read, always inside it."""
    pixel = first + tap
    inside = (pixel >= low) & (pixel < high)
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
        weight = tl.where(inside, weight, 0.0)
    return weight, tl.minimum(tl.maximum(pixel, low), high - 1)


@triton.jit
def _crop_resize_flip(
    pixels_ptr,  # uint8 or float32: the images, ragged or dense
    offset_ptr,  # (V,) int64: a big batch passes 2**31 bytes
    geometry_ptr,  # (V, 3) int32: height, width, values from one row to the next
    box_ptr,  # (V, 4) float32: x0, y0, x1, y1
    flip_ptr,  # (V,) int32: 0 or 1
    color_ptr,  # (1 or V, C, C + 1) float32: from pixel values to the output
    out_ptr,  # (V, C, S, S) float32, float16 or bfloat16, any strides
    color_stride,  # 0 where all rows share one colour map
    x_stride,
    channel_stride,
    out_v_stride,
    out_c_stride,
    out_y_stride,
    out_x_stride,
    SIZE,
    white,  # 255.0 or 1.0: what a bicubic overshoot is clamped to
    CHANNELS: tl.constexpr,
    REACH: tl.constexpr,  # 0 nearest, 1 bilinear, 2 bicubic
    ANTIALIAS: tl.constexpr,
    IMAGE_TAPS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    tiles_x = tl.cdiv(SIZE, BLOCK_X)
    tiles = tiles_x * tl.cdiv(SIZE, BLOCK_Y)
    v = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    out_y = (tile // tiles_x) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    out_x = (tile % tiles_x) * BLOCK_X + tl.arange(0, BLOCK_X)

    height = tl.load(geometry_ptr + 3 * v)
    width = tl.load(geometry_ptr + 3 * v + 1)
    y_stride = tl.load(geometry_ptr + 3 * v + 2)
    x0 = tl.load(box_ptr + 4 * v).to(tl.float64)
    y0 = tl.load(box_ptr + 4 * v + 1).to(tl.float64)
    x1 = tl.load(box_ptr + 4 * v + 2).to(tl.float64)
    y1 = tl.load(box_ptr + 4 * v + 3).to(tl.float64)
    if IMAGE_TAPS:
        x_low, y_low, x_high, y_high = 0, 0, width, height
    else:
        x_low, y_low = tl.floor(x0).to(tl.int32), tl.floor(y0).to(tl.int32)
        x_high, y_high = tl.ceil(x1).to(tl.int32), tl.ceil(y1).to(tl.int32)

    # The flip mirrors where a column looks, not where it is stored, so stores stay contiguous.
    look_x = tl.where(tl.load(flip_ptr + v) != 0, SIZE - 1 - out_x, out_x)
    first_x, distance_x, stretch_x, count_x = _first_tap(x0, x1, look_x, x_low, x_high, SIZE, REACH, ANTIALIAS)
    first_y, distance_y, stretch_y, count_y = _first_tap(y0, y1, out_y, y_low, y_high, SIZE, REACH, ANTIALIAS)
    inverse_x = 1 / stretch_x
    inverse_y = 1 / stretch_y

    image_ptr = pixels_ptr + tl.load(offset_ptr + v)
    sum_x = tl.zeros((BLOCK_X,), tl.float32)
    for tap in range(count_x):
        weight_x, _ = _weight(tap, first_x, distance_x, inverse_x, x_low, x_high, REACH)
        sum_x += weight_x
    sum_y = tl.zeros((BLOCK_Y,), tl.float32)
    total_0 = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    total_1 = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    total_2 = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    total_3 = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
    for tap_y in range(count_y):
        weight_y, pixel_y = _weight(tap_y, first_y, distance_y, inverse_y, y_low, y_high, REACH)
        sum_y += weight_y
        row_ptr = image_ptr + (pixel_y * y_stride)[:, None]
        row_0 = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
        row_1 = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
        row_2 = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
        row_3 = tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
        for tap_x in range(count_x):
            weight_x, pixel_x = _weight(tap_x, first_x, distance_x, inverse_x, x_low, x_high, REACH)
            # No masks: every index was clamped into the image, also in the tile's part beyond the output.
            ptr = row_ptr + (pixel_x * x_stride)[None, :]
            row_0 += weight_x[None, :] * tl.load(ptr).to(tl.float32)
            if CHANNELS >= 3:
                row_1 += weight_x[None, :] * tl.load(ptr + channel_stride).to(tl.float32)
                row_2 += weight_x[None, :] * tl.load(ptr + 2 * channel_stride).to(tl.float32)
            if CHANNELS == 4:
                row_3 += weight_x[None, :] * tl.load(ptr + 3 * channel_stride).to(tl.float32)
        total_0 += weight_y[:, None] * row_0
        total_1 += weight_y[:, None] * row_1
        total_2 += weight_y[:, None] * row_2
        total_3 += weight_y[:, None] * row_3

    norm = 1 / (sum_y[:, None] * sum_x[None, :])
    total_0 *= norm
    total_1 *= norm
    total_2 *= norm
    total_3 *= norm
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
    geometry: torch.Tensor,
    box: torch.Tensor,
    flip: torch.Tensor,
    color: torch.Tensor,
    *,
    out: torch.Tensor,
    strides: tuple[int, int],
    reach: float,
    antialias: bool,
    image_taps: bool,
    white: float,
    block_y: int = BLOCK_Y,
    block_x: int = BLOCK_X,
) -> torch.Tensor:
    """Writes and returns `out`, (V, C, S, S). What the tables hold stands at the kernel's signature; strides:
    values from one column and from one channel to the next. The caller has checked every box against its image."""
    rows, channels, size, _ = out.shape
    grid = (rows * triton.cdiv(size, block_x) * triton.cdiv(size, block_y),)
    with torch.cuda.device_of(out):
        _crop_resize_flip[grid](
            pixels,
            offset,
            geometry,
            box,
            flip,
            color,
            out,
            0 if len(color) == 1 else color[0].numel(),
            *strides,
            *out.stride(),
            size,
            white,
            CHANNELS=channels,
            REACH=int(reach),
            ANTIALIAS=antialias,
            IMAGE_TAPS=image_taps,
            BLOCK_Y=block_y,
            BLOCK_X=block_x,
            num_warps=NUM_WARPS,
        )
    return out
