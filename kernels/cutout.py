"""Overwrites one rectangle per image, in place: reads nothing but its tables, writes nothing but the holes."""

import torch
import triton
import triton.language as tl

BLOCK_Y = 8
BLOCK_X = 64


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


# The tile counts follow the largest hole of a batch: specialised, each new value could compile anew.
@triton.jit(do_not_specialize=["tiles_x", "tiles_y"])
def _cutout(
    images_ptr,  # (B, C, H, W) floating point, any strides
    box_ptr,  # (B, 4) int32: x0, y0, x1, y1
    seed_ptr,  # (B, 2) int32: the key of Philox4x32-10, read as unsigned
    fill_ptr,  # (C,) float32
    b_stride,
    c_stride,
    y_stride,
    x_stride,
    WIDTH,
    tiles_x,
    tiles_y,
    CHANNELS: tl.constexpr,
    NOISE: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    tiles = tiles_x * tiles_y
    b = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    x0 = tl.load(box_ptr + 4 * b)
    y0 = tl.load(box_ptr + 4 * b + 1)
    x1 = tl.load(box_ptr + 4 * b + 2)
    y1 = tl.load(box_ptr + 4 * b + 3)
    # The grid covers the largest hole of the batch; programs past a smaller one have an empty mask.
    x = x0 + (tile % tiles_x) * BLOCK_X + tl.arange(0, BLOCK_X)
    y = y0 + (tile // tiles_x) * BLOCK_Y + tl.arange(0, BLOCK_Y)
    mask = (y < y1)[:, None] & (x < x1)[None, :]
    where = images_ptr + b.to(tl.int64) * b_stride + (y * y_stride)[:, None] + (x * x_stride)[None, :]
    if NOISE:
        position = (y * WIDTH)[:, None] + x[None, :]
        zero = position * 0
        key_0 = tl.load(seed_ptr + 2 * b).to(tl.uint32, bitcast=True)
        key_1 = tl.load(seed_ptr + 2 * b + 1).to(tl.uint32, bitcast=True)
        seed = (key_1.to(tl.uint64) << 32) | key_0.to(tl.uint64)
        w0, w1, w2, w3 = tl.philox(seed, position, zero, zero, zero)
        normal_0, normal_2 = _normal_pair(w0, w1)
        normal_1, normal_3 = _normal_pair(w2, w3)
    for c in tl.static_range(CHANNELS):
        if NOISE:
            if c == 0:
                value = normal_0
            elif c == 1:
                value = normal_1
            elif c == 2:
                value = normal_2
            else:
                value = normal_3
        else:
            value = tl.load(fill_ptr + c) + tl.zeros((BLOCK_Y, BLOCK_X), tl.float32)
        tl.store(where + c * c_stride, value.to(images_ptr.dtype.element_ty), mask=mask)


def launch_cutout(
    images: torch.Tensor,
    box: torch.Tensor,
    seed: torch.Tensor,
    fill: torch.Tensor,
    *,
    noise: bool,
    width: int,
    height: int,
    block_y: int = BLOCK_Y,
    block_x: int = BLOCK_X,
) -> torch.Tensor:
    """Writes to and returns `images`. width, height: of the largest hole. The caller has checked every hole."""
    tiles_x, tiles_y = triton.cdiv(width, block_x), triton.cdiv(height, block_y)
    with torch.cuda.device_of(images):
        _cutout[(len(images) * tiles_x * tiles_y,)](
            images,
            box,
            seed,
            fill,
            *images.stride(),
            images.shape[3],
            tiles_x,
            tiles_y,
            CHANNELS=images.shape[1],
            NOISE=noise,
            BLOCK_Y=block_y,
            BLOCK_X=block_x,
            num_warps=4,
        )
    return images
