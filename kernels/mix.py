"""mixup, CutMix and mixed targets out of class numbers, one launch each: bound by memory, not by instructions.

Every output element is written once, and read from its row, from the partner, or from both where both count. Rows are
flat runs of memory, so that contiguous and channels_last images are the same to mixup, and differ for CutMix only in
what a line of the picture is.
"""

import torch
import triton
import triton.language as tl

from augment_gpu.kernels.launch import launch

BLOCK = 2048  # elements that a program mixes: 16 a thread, several wide loads in flight
BLOCK_CLASSES = 1024
NUM_WARPS = 4
_WIDE = 16  # bytes of the widest load or store


@triton.jit
def _mix(own, other, lam):
    """lam · own + (1 − lam) · other in float32, in the form of torch.lerp: exact at both ends, and where own equals
    other."""
    own, other = own.to(tl.float32), other.to(tl.float32)
    nearer = lam >= 0.5
    return tl.where(nearer, own, other) + tl.where(nearer, lam - 1, lam) * (own - other)


@triton.jit
def _mixup(
    values_ptr,  # (rows or more, LENGTH) floating point, row_stride elements from one row to the next
    partner_ptr,  # (rows,) int64: rows of values
    lam_ptr,  # (rows,) float32 in [0, 1]
    out_ptr,  # (rows, LENGTH) of the same dtype, dense
    row_stride,
    LENGTH,
    blocks,  # programs a row
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) // blocks).to(tl.int64)  # a big batch passes 2**31 elements
    i = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < LENGTH
    partner = tl.load(partner_ptr + row)
    lam = tl.load(lam_ptr + row)
    own = tl.load(values_ptr + row * row_stride + i, mask=mask)
    # A row that stays as it is does not look at its partner, and keeps its bits, the sign of a zero among them.
    stays = lam == 1
    other = tl.load(values_ptr + partner * row_stride + i, mask=i < tl.where(stays, 0, LENGTH), other=0.0)
    mixed = tl.where(stays, own, _mix(own, other, lam).to(own.dtype))
    tl.store(out_ptr + row * LENGTH + i, mixed, mask=mask)


@triton.jit
def _cutmix(
    values_ptr,  # (rows or more, PLANES, LINES, LINE) floating point, row_stride elements from one row to the next
    partner_ptr,  # (rows,) int64: rows of values
    box_ptr,  # (rows, 4) int32: x0, y0, x1, y1 in pixels
    stay_ptr,  # (rows,) float32 in [0, 1], what is kept of a row outside its box; or None: all of it
    out_ptr,  # (rows, PLANES, LINES, LINE) of the same dtype, dense
    row_stride,
    PLANES,
    LINES,
    LINE,
    tiles_y,
    tiles_x,
    SPAN: tl.constexpr,  # elements of a line from one pixel to the next: 1, or in channels_last the channels
    GROUP: tl.constexpr,  # elements of one wide load
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    tile_x = tl.program_id(0) % tiles_x
    tile_y = tl.program_id(0) // tiles_x % tiles_y
    plane = tl.program_id(0) // (tiles_x * tiles_y)
    row = (plane // PLANES).to(tl.int64)
    plane = (plane % PLANES).to(tl.int64)
    partner = tl.load(partner_ptr + row)
    left = tl.load(box_ptr + 4 * row) * SPAN
    top = tl.load(box_ptr + 4 * row + 1)
    right = tl.load(box_ptr + 4 * row + 2) * SPAN
    bottom = tl.load(box_ptr + 4 * row + 3)
    y = tile_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    x = tile_x * BLOCK_X + tl.arange(0, BLOCK_X)
    # A mask that differs within a group would split its wide load into single elements. So a source is read in groups:
    # both sources where an edge of the box crosses a group, one of them everywhere else.
    group = x // GROUP * GROUP
    across = (y >= top) & (y < bottom)
    inside = across[:, None] & ((x >= left) & (x < right))[None, :]
    whole = across[:, None] & ((group >= left) & (group + GROUP <= right))[None, :]
    touched = across[:, None] & ((group + GROUP > left) & (group < right))[None, :]
    mask = (y < LINES)[:, None] & (x < LINE)[None, :]
    i = ((plane * LINES + y) * LINE)[:, None] + x[None, :]
    if stay_ptr is not None:
        stay = tl.load(stay_ptr + row)
        touched = tl.where(stay == 1, touched, mask)
    own = tl.load(values_ptr + row * row_stride + i, mask=mask & ~whole)
    other = tl.load(values_ptr + partner * row_stride + i, mask=mask & touched)
    around = own
    if stay_ptr is not None:
        around = tl.where(stay == 1, own, _mix(own, other, stay).to(own.dtype))
    tl.store(out_ptr + row * PLANES * LINES * LINE + i, tl.where(inside, other, around), mask=mask)


@triton.jit
def _mix_targets(
    labels_ptr,  # (rows or more,) integers: classes
    partner_ptr,  # (rows,) int64: rows of labels
    lam_ptr,  # (rows,) float32 in [0, 1]
    out_ptr,  # (rows, CLASSES) float32
    CLASSES,
    blocks,  # programs a row
    on,  # a target where the class is the label's
    off,  # and where it is not
    BLOCK: tl.constexpr,
):
    row = (tl.program_id(0) // blocks).to(tl.int64)
    classes = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    own = tl.load(labels_ptr + row)
    other = tl.load(labels_ptr + tl.load(partner_ptr + row))
    lam = tl.load(lam_ptr + row)
    mixed = _mix(tl.where(classes == own, on, off), tl.where(classes == other, on, off), lam)
    tl.store(out_ptr + row * CLASSES + classes, mixed, mask=classes < CLASSES)


def launch_mixup(
    values: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, *, out: torch.Tensor, block: int = BLOCK
) -> torch.Tensor:
    """values: (N, …), each row a gapless run of memory. Writes and returns `out`, (len(partner), …), laid out as the
    rows are, without gaps between them."""
    if not out.numel():
        return out
    count = out.shape[0]
    length = out.numel() // count
    blocks = -(-length // block)
    tensors = values, partner, lam, out
    launch(_mixup, count * blocks, tensors, values.stride(0), length, blocks, block, num_warps=NUM_WARPS)
    return out


def launch_cutmix(
    values: torch.Tensor,
    partner: torch.Tensor,
    box: torch.Tensor,
    stay: torch.Tensor | None = None,
    *,
    out: torch.Tensor,
    block: int = BLOCK,
) -> torch.Tensor:
    """values: (N, C, H, W), each row contiguous or channels_last. stay: with it rows are blended outside their boxes.
    Writes and returns `out`, (len(partner), C, H, W), laid out as the rows are, without gaps between them. The caller
    has checked every box."""
    if not out.numel():
        return out
    _, channels, height, width = values.shape
    span = 1 if values.is_contiguous() or values[:1].is_contiguous() else channels
    planes, line = channels // span, width * span
    block_x = min(1 << (line - 1).bit_length(), block)
    block_y = block // block_x
    tiles_y, tiles_x = -(-height // block_y), -(-line // block_x)
    launch(
        _cutmix,
        out.shape[0] * planes * tiles_y * tiles_x,
        (values, partner, box, stay, out),
        values.stride(0),
        planes,
        height,
        line,
        tiles_y,
        tiles_x,
        span,
        _WIDE // values.element_size(),
        block_y,
        block_x,
        num_warps=NUM_WARPS,
    )
    return out


def launch_mix_targets(
    labels: torch.Tensor, partner: torch.Tensor, lam: torch.Tensor, *, out: torch.Tensor, on: float, off: float
) -> torch.Tensor:
    """labels: (N,) contiguous integers; one that names no class gives a row without an `on`. Writes and returns `out`,
    (len(partner), classes) float32."""
    if not out.numel():
        return out
    count, classes = out.shape
    block = min(1 << (classes - 1).bit_length(), BLOCK_CLASSES)
    blocks = -(-classes // block)
    tensors = labels, partner, lam, out
    launch(_mix_targets, count * blocks, tensors, classes, blocks, on, off, block, num_warps=NUM_WARPS)
    return out
