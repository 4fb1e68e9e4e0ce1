"""Overwrites one rectangle per image, in place: reads nothing but its tables, writes nothing but the holes.

The grid knows the images' shape alone. A fixed number of programs shares each hole, whose extents they read from the
table: so no draw is looked at on the host, and a captured CUDA graph can be replayed with other holes.
"""

import torch
import triton
import triton.language as tl

from augment_gpu.kernels.launch import launch

PROGRAMS = 8  # that share a hole, or in planar images one channel of it
FILL_Y, FILL_X = 8, 256  # lines and elements that a program fills at once
EDGE_Y = 32  # lines whose ends it fills at once
NOISE_Y, NOISE_X = 8, 64  # lines and pixels
_WIDE = 16  # bytes of the widest store


@triton.jit
def _cos_sin(turns):
    """Cosine and sine of an angle in turns, [0, 1]. The library's own keep an array in local memory, for angles of any
    size; here a quarter turn is subtracted as often as it goes, and Taylor's series of the rest errs by under 3e-8."""
    quarters = tl.floor(4 * turns + 0.5)
    r = (4 * turns - quarters) * 1.5707963267948966  # [−π/4, π/4]
    square = r * r
    cos = 1 + square * (-1 / 2 + square * (1 / 24 + square * (-1 / 720 + square * (1 / 40320))))
    sin = r * (1 + square * (-1 / 6 + square * (1 / 120 + square * (-1 / 5040 + square * (1 / 362880)))))
    quarter = quarters.to(tl.int32) & 3
    swapped = (quarter & 1) != 0
    turned_cos, turned_sin = tl.where(swapped, sin, cos), tl.where(swapped, cos, sin)
    return tl.where((quarter == 1) | (quarter == 2), -turned_cos, turned_cos), tl.where(
        quarter >= 2, -turned_sin, turned_sin
    )


@triton.jit
def _normal_pair(word_0, word_1):
    """Two 32-bit words to two standard normal numbers (Box and Muller)."""
    # As the reference: (word + 1) / 2**32 lies in (0, 1]. float32 rounds both to 24 bits.
    radius = tl.sqrt(-2 * tl.log((word_0.to(tl.float32) + 1) * 2.3283064365386963e-10))
    cos, sin = _cos_sin(word_1.to(tl.float32) * 2.3283064365386963e-10)
    return radius * cos, radius * sin


@triton.jit
def normals(seed_ptr, position):
    """Four standard normal numbers for each position. seed_ptr: 2 int32, the key of Philox4x32-10, read as unsigned."""
    key_0 = tl.load(seed_ptr).to(tl.uint32, bitcast=True)
    key_1 = tl.load(seed_ptr + 1).to(tl.uint32, bitcast=True)
    seed = (key_1.to(tl.uint64) << 32) | key_0.to(tl.uint64)
    zero = position * 0
    w0, w1, w2, w3 = tl.philox(seed, position, zero, zero, zero)
    normal_0, normal_2 = _normal_pair(w0, w1)
    normal_1, normal_3 = _normal_pair(w2, w3)
    return normal_0, normal_1, normal_2, normal_3


@triton.jit
def _fill_holes(
    images_ptr,  # (B, PLANES, H, W · SPAN) floating point, any strides
    box_ptr,  # (B, 4) int32: x0, y0, x1, y1 in pixels
    fill_ptr,  # (PLANES · SPAN,) float32
    b_stride,
    plane_stride,
    y_stride,
    x_stride,
    PLANES: tl.constexpr,
    SPAN: tl.constexpr,  # elements of a line from one pixel to the next: 1, or in channels_last the channels
    GROUP: tl.constexpr,  # elements of one wide store
    PROGRAMS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    EDGE_Y: tl.constexpr,
):
    program = tl.program_id(0) % PROGRAMS
    plane = tl.program_id(0) // PROGRAMS % PLANES
    b = tl.program_id(0) // (PROGRAMS * PLANES)
    left = tl.load(box_ptr + 4 * b) * SPAN
    top = tl.load(box_ptr + 4 * b + 1)
    right = tl.load(box_ptr + 4 * b + 2) * SPAN
    bottom = tl.load(box_ptr + 4 * b + 3)
    origin = images_ptr + b.to(tl.int64) * b_stride + plane.to(tl.int64) * plane_stride
    # A wide store takes a group that begins at a multiple of its size. Those that lie wholly in the hole, [first,
    # last), are written so; what is left of the hole on either side, less than a group, element by element.
    first = (left + GROUP - 1) // GROUP * GROUP
    last = right // GROUP * GROUP
    for start in range(first, last, BLOCK_X):
        x = start + tl.arange(0, BLOCK_X)
        value = tl.load(fill_ptr + plane + x % SPAN).to(images_ptr.dtype.element_ty)
        for upper in range(top + program * BLOCK_Y, bottom, PROGRAMS * BLOCK_Y):
            y = upper + tl.arange(0, BLOCK_Y)
            where = origin + (y.to(tl.int64) * y_stride)[:, None] + (x.to(tl.int64) * x_stride)[None, :]
            mask = (y < bottom)[:, None] & (x < last)[None, :]
            tl.store(where, tl.broadcast_to(value[None, :], (BLOCK_Y, BLOCK_X)), mask=mask)
    BOTH: tl.constexpr = 2 * GROUP
    i = tl.arange(0, BOTH)
    x = tl.where(i < GROUP, left + i, last + i - GROUP)
    # A hole within one group has last < first; it counts as what is left of it on the left.
    stop = tl.where(i < GROUP, tl.minimum(first, right), tl.where(first <= last, right, 0))
    value = tl.load(fill_ptr + plane + x % SPAN).to(images_ptr.dtype.element_ty)
    for upper in range(top + program * EDGE_Y, bottom, PROGRAMS * EDGE_Y):
        y = upper + tl.arange(0, EDGE_Y)
        where = origin + (y.to(tl.int64) * y_stride)[:, None] + (x.to(tl.int64) * x_stride)[None, :]
        mask = (y < bottom)[:, None] & (x < stop)[None, :]
        tl.store(where, tl.broadcast_to(value[None, :], (EDGE_Y, BOTH)), mask=mask)


@triton.jit
def _noise_holes(
    images_ptr,  # (B, C, H, W) floating point, any strides
    box_ptr,  # (B, 4) int32: x0, y0, x1, y1
    seed_ptr,  # (B, 2) int32, see normals
    b_stride,
    c_stride,
    y_stride,
    x_stride,
    WIDTH,
    CHANNELS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    b = tl.program_id(0) // PROGRAMS
    x0 = tl.load(box_ptr + 4 * b)
    y0 = tl.load(box_ptr + 4 * b + 1)
    x1 = tl.load(box_ptr + 4 * b + 2)
    y1 = tl.load(box_ptr + 4 * b + 3)
    origin = images_ptr + b.to(tl.int64) * b_stride
    tiles_x = tl.cdiv(x1 - x0, BLOCK_X)
    tiles = tiles_x * tl.cdiv(y1 - y0, BLOCK_Y)
    for tile in range(tl.program_id(0) % PROGRAMS, tiles, PROGRAMS):
        x = x0 + (tile % tiles_x) * BLOCK_X + tl.arange(0, BLOCK_X)
        y = y0 + (tile // tiles_x) * BLOCK_Y + tl.arange(0, BLOCK_Y)
        mask = (y < y1)[:, None] & (x < x1)[None, :]
        where = origin + (y.to(tl.int64) * y_stride)[:, None] + (x.to(tl.int64) * x_stride)[None, :]
        values = normals(seed_ptr + 2 * b, (y * WIDTH)[:, None] + x[None, :])
        for c in tl.static_range(CHANNELS):
            tl.store(where + c * c_stride, values[c].to(images_ptr.dtype.element_ty), mask=mask)


def launch_fill(images: torch.Tensor, box: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Writes to and returns `images`. fill: one value per channel. The caller has checked every hole."""
    if not images.numel():
        return images
    batch, channels, _, _ = images.shape
    b_stride, c_stride, y_stride, x_stride = images.stride()
    planes, span = channels, 1
    if c_stride == 1 and x_stride == channels:  # a line of all channels is one run
        planes, span, x_stride = 1, channels, 1
    launch(
        _fill_holes,
        batch * planes * PROGRAMS,
        (images, box, fill),
        b_stride,
        c_stride,
        y_stride,
        x_stride,
        planes,
        span,
        _WIDE // images.element_size(),
        PROGRAMS,
        FILL_Y,
        FILL_X,
        EDGE_Y,
        num_warps=4,
    )
    return images


def launch_noise(images: torch.Tensor, box: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Writes to and returns `images`. The caller has checked every hole."""
    if not images.numel():
        return images
    launch(
        _noise_holes,
        len(images) * PROGRAMS,
        (images, box, seed),
        *images.stride(),
        images.shape[3],
        images.shape[1],
        PROGRAMS,
        NOISE_Y,
        NOISE_X,
        num_warps=4,
    )
    return images
