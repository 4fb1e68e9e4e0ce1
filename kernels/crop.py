"""The fused crop, antialiased resize, flip, colour map, cast and cutout, as one Triton kernel.

A program walks down a strip of columns of one output image. It filters each source row across once, for its columns,
and adds the result to the two output rows (four for the cubic) whose filters reach that source row; a finished output
row is coloured, cast and written, and makes room for the next. At last it overwrites the hole's part of its strip;
where that is all of it, nothing is computed. See benchmarks/README.md for what else was tried.
"""

from functools import cache

import torch
import triton
import triton.language as tl

from augment_gpu.kernels.cutout import normals
from augment_gpu.kernels.launch import HIP, launch

COLUMNS = 64 if HIP else 32  # of a program: one a thread, of which a warp of AMD's has 64
ROWS = 32  # of a program: each strip filters some source rows of the strip above again
NUM_WARPS = 1

# What the kernel is told of an output row, as fields of a NumPy record: 80 bytes in one run. Positions are fixed point,
# in 2**-32 pixels, since float32 leaves no fraction for a crop far from the corner of a large photograph, and float64
# is slow on most GPUs. What follows from these numbers a program computes by itself, in less time than the host would.
ROW = (
    ("offset", "<i8"),  # of its image's first value; a big batch passes 2**31 bytes
    # x, y: across of the first pixel under the first column's filter; down, see kernel_rows. And the same two again,
    # from one output pixel to the next.
    ("positions", "<i8", 4),
    ("limits", "<i4", 4),  # x, y: the first pixel that may be read; and x, y: the one after the last
    ("y_stride", "<i4"),  # values from one line of the image to the next
    ("flags", "<i4"),  # the sum of the two below, where they hold
    ("hole", "<i4", 4),  # x0, y0, x1, y1: the output pixels that are overwritten, if any are
)
MIRRORED = tl.constexpr(1)  # left to right
ANTIALIASED = tl.constexpr(2)  # the filter is stretched where the image shrinks
_ONE = tl.constexpr(2**32)  # pixel, or stretch of 1

UNROLLED = 16  # taps at the most
UNROLLED_RGBA_HIP = 8  # of four channels on AMD, whose compiler otherwise keeps registers in memory


@cache
def paths(reach: int, channels: int) -> tuple[tuple[bool, int], ...]:
    """How a strip may be computed: (shrinks, taps). shrinks: the filter is stretched down the image; else an output row
    is made of 2 · reach source rows. taps: how many across, unrolled; or 0, any number, in groups of four; or -1, any
    number, one by one, where the box is narrower than the window. An image that does not shrink downwards hardly
    shrinks more than twice across: those are left to the groups."""
    most = UNROLLED_RGBA_HIP if HIP and channels == 4 else UNROLLED
    taps = [reach * per_reach for per_reach in (2, 3, 4, 6, 8, 12, 16) if reach * per_reach <= most]
    return (
        *((False, count) for count in (*taps[:3], 0, -1)),
        *((True, count) for count in (*taps, 0, -1)),
    )


@triton.jit
def _fraction(position):
    """The fraction of a position in 2**-32 pixels, in [0, 1]."""
    return position.to(tl.uint32).to(tl.float32) * 2.3283064365386963e-10


@triton.jit
def _pixels(position):
    """A position in 2**-32 pixels, as float32."""
    return position.to(tl.float32) * 2.3283064365386963e-10


@triton.jit
def _inverse(x):
    """1 / x to 22 bits, for positive x neither tiny nor huge; a division would take seven more instructions to serve
    those too. The absolute value costs nothing, and spares output rows that are not written a warning of theirs."""
    root = tl.rsqrt(tl.abs(x))
    return root * root


@triton.jit
def _weight(distance, REACH: tl.constexpr):
    """The filter's weight at this distance from its centre, in stretched pixels."""
    t = tl.abs(distance)
    if REACH == 1:
        weight = tl.maximum(1 - t, 0.0)
    else:
        near = (1.5 * t - 2.5) * t * t + 1
        far = ((2.5 - 0.5 * t) * t - 4) * t + 2
        weight = tl.where(t <= 1, near, tl.where(t < 2, far, 0.0))
    return weight


@triton.jit
def _shares(u, REACH: tl.constexpr):
    """The weights of 2 REACH neighbours at distances u, 1 - u for the bilinear filter, 1 + u, u, 1 - u, 2 - u for the
    cubic; u in [0, 1]."""
    v = 1 - u
    if REACH == 1:
        shares = v, u
    else:
        near_u, near_v = (1.5 * u - 2.5) * u * u + 1, (1.5 * v - 2.5) * v * v + 1
        shares = -0.5 * u * v * v, near_u, near_v, -0.5 * v * u * u
    return shares


@triton.jit
def _multiply_add(sums, weight, values, START: tl.constexpr):
    """`sums` with weight · values added to the elements from START on."""
    added = ()
    for i in tl.static_range(len(sums)):
        if i >= START and i < START + len(values):
            added = added + (sums[i] + weight * values[i - START],)
        else:
            added = added + (sums[i],)
    return added


@triton.jit
def _scaled(values, factor):
    scaled = ()
    for i in tl.static_range(len(values)):
        scaled = scaled + (values[i] * factor,)
    return scaled


@triton.jit
def _repeated(value, COUNT: tl.constexpr):
    repeated = ()
    for _ in tl.static_range(COUNT):
        repeated = repeated + (value,)
    return repeated


@triton.jit
def _fetch(ptr, channel_stride, X_STRIDE: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr):
    """The channels of TAPS pixels from `ptr` on, as they are stored: float32, or bytes in an int32."""
    stored = ()
    for tap in tl.static_range(TAPS):
        for c in tl.static_range(CHANNELS):
            value = tl.load(ptr + tap * X_STRIDE + c * channel_stride)
            stored = stored + (value.to(tl.int32) if value.dtype == tl.uint8 else value,)
    return stored


@triton.jit
def _floats(stored):
    """What _fetch gave, as float32; bytes as 256 + value."""
    values = ()
    for i in tl.static_range(len(stored)):
        value = stored[i]
        if value.dtype == tl.int32:
            # 256 + value, written into the mantissa: as many instructions as a conversion, which runs at a quarter of
            # the speed on a GPU's slowest unit.
            value = (value * 32768 + 0x43800000).to(tl.float32, bitcast=True)
        values = values + (value,)
    return values


@triton.jit
def _pixel(ptr, channel_stride, CHANNELS: tl.constexpr):
    """The channels of the pixels at `ptr`, as _floats has them."""
    return _floats(_fetch(ptr, channel_stride, 0, CHANNELS, 1))


@triton.jit
def _color_lines(color_ptr, OFFSET: tl.constexpr, CHANNELS: tl.constexpr):
    """The C lines of C + 1 numbers of a colour map, for values that are greater by OFFSET."""
    color = ()
    for c in tl.static_range(CHANNELS):
        total = 0.0
        for other in tl.static_range(CHANNELS):
            factor = tl.load(color_ptr + c * (CHANNELS + 1) + other)
            color = color + (factor,)
            total += factor
        color = color + (tl.load(color_ptr + c * (CHANNELS + 1) + CHANNELS) - OFFSET * total,)
    return color


@triton.jit
def _weighted(stored, weights, CHANNELS: tl.constexpr):
    """The sum of weights · pixels, which _fetch gave: CHANNELS times (COLUMNS,) float32."""
    values = _floats(stored)
    total = _scaled(values[:CHANNELS], weights[0])
    for tap in tl.static_range(1, len(weights)):
        total = _multiply_add(total, weights[tap], values[tap * CHANNELS : (tap + 1) * CHANNELS], 0)
    return total


@triton.jit
def _across(
    ptr,  # (COLUMNS,) where the windows begin in this source row
    channel_stride,
    first,  # (COLUMNS,) int32: the first pixel of each column's window
    distance,  # (COLUMNS,) float32: its distance from the filter's centre, in pixels
    inverse,  # 1 / stretch
    low,
    high,
    taps,
    weights,
    X_STRIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    REACH: tl.constexpr,
    TAPS: tl.constexpr,
):
    """One source row filtered across: CHANNELS times (COLUMNS,) float32. TAPS: how many taps, with their weights; 0:
    `window` of them, in groups of four; -1: `window` of them, some of which lie outside [low, high)."""
    if TAPS > 0:
        total = _weighted(_fetch(ptr, channel_stride, X_STRIDE, CHANNELS, TAPS), weights, CHANNELS)
    else:
        total = _repeated(distance * 0, CHANNELS)
        if TAPS == 0:
            for start in range(0, taps, 4):
                for tap in tl.static_range(4):
                    weight = _weight((distance + (start + tap)) * inverse, REACH)
                    pixel = _pixel(ptr + (start + tap) * X_STRIDE, channel_stride, CHANNELS)
                    total = _multiply_add(total, weight, pixel, 0)
        else:
            for tap in range(taps):
                pixel = first + tap
                weight = _weight((distance + tap) * inverse, REACH)
                weight = tl.where((pixel >= low) & (pixel < high), weight, 0.0)
                clamped = tl.minimum(tl.maximum(pixel, low), high - 1)
                value = _pixel(ptr + (clamped - first) * X_STRIDE, channel_stride, CHANNELS)
                total = _multiply_add(total, weight, value, 0)
        total = _scaled(total, weights[0])
    return total


@triton.jit
def _weights_across(first, distance, inverse, low, high, window, REACH: tl.constexpr, TAPS: tl.constexpr):
    """The weights of TAPS taps, which sum to 1; where TAPS says that they are not kept, 1 / their sum."""
    total = distance * 0
    if TAPS > 0:
        weights = ()
        for tap in tl.static_range(TAPS):
            weights = weights + (_weight((distance + tap) * inverse, REACH),)
            total += weights[tap]
    else:
        weights = (total + 1,)
        for tap in range(window):
            weight = _weight((distance + tap) * inverse, REACH)
            if TAPS < 0:
                weight = tl.where((first + tap >= low) & (first + tap < high), weight, 0.0)
            total += weight
    return _scaled(weights, 1 / total)


@triton.jit
def _write(
    where,
    mask,
    channel_stride,
    total,
    color,
    low,
    high,
    CHANNELS: tl.constexpr,
    REACH: tl.constexpr,
    DIAGONAL: tl.constexpr,
):
    """Maps the colours of one output row and stores it. color: C lines of C + 1 numbers. low, high: what the cubic's
    overshoot is clamped to."""
    if REACH == 2:
        clamped = ()
        for c in tl.static_range(CHANNELS):
            clamped = clamped + (tl.minimum(tl.maximum(total[c], low), high),)
        total = clamped
    for c in tl.static_range(CHANNELS):
        value = color[c * (CHANNELS + 1) + CHANNELS] + color[c * (CHANNELS + 2)] * total[c]
        if not DIAGONAL:
            for other in tl.static_range(CHANNELS):
                if other != c:
                    value += color[c * (CHANNELS + 1) + other] * total[other]
        tl.store(where + c * channel_stride, value.to(where.dtype.element_ty), mask=mask)


@triton.jit
def _flag(row_ptr, FLAG: tl.constexpr):
    return (tl.load(row_ptr.to(tl.pointer_type(tl.int32)) + 15) & FLAG) != 0


@triton.jit
def _stretch(row_ptr, AXIS: tl.constexpr):
    """By how much the filter is stretched along an axis, 0 being across; in 2**-32."""
    return tl.where(_flag(row_ptr, ANTIALIASED), tl.maximum(tl.load(row_ptr + 3 + AXIS), _ONE), _ONE)


@triton.jit
def _window(x_stretch, REACH: tl.constexpr, TAPS: tl.constexpr):
    """How many pixels across a path reads for each output pixel; and how many taps the filter has."""
    taps = ((2 * REACH * x_stretch + (_ONE - 1)) >> 32).to(tl.int32)
    window = taps if TAPS < 0 else (taps + 3) & -4 if TAPS == 0 else TAPS
    return window, taps


@triton.jit
def _limits(row_ptr, AXIS: tl.constexpr):
    """The first pixel that may be read along an axis, and the one after the last."""
    half_ptr = row_ptr.to(tl.pointer_type(tl.int32))
    return tl.load(half_ptr + 10 + AXIS), tl.load(half_ptr + 12 + AXIS)


@triton.jit
def _positions(row_ptr, out_x, SIZE):
    """Where each output column lies in the image, in 2**-32 pixels. A mirrored row begins at the last column. Columns
    beyond the output are computed as its last one, and not written."""
    column = tl.minimum(out_x, SIZE - 1)
    column = tl.where(_flag(row_ptr, MIRRORED), SIZE - 1 - column, column)
    return tl.load(row_ptr + 1) + column.to(tl.int64) * tl.load(row_ptr + 3)


@triton.jit(noinline=True)
def _strip(
    image_ptr,
    row_ptr,
    color_ptr,
    out_ptr,
    channel_stride,
    out_c_stride,
    out_y_stride,
    out_x_stride,
    SIZE,
    white,
    left,
    top,
    X_STRIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    REACH: tl.constexpr,
    DIAGONAL: tl.constexpr,
    SHRINKS: tl.constexpr,
    TAPS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """The output rows [top, top + ROWS) of the columns [left, left + COLUMNS). The pointers are those of one row of
    each table; `paths` says what SHRINKS and TAPS mean."""
    out_x = left + tl.arange(0, COLUMNS)
    column_mask = out_x < SIZE
    bottom = tl.minimum(top + ROWS, SIZE)
    OFFSET: tl.constexpr = 256.0 if image_ptr.dtype.element_ty == tl.uint8 else 0.0  # of the values that _pixel gives
    color = _color_lines(color_ptr, OFFSET, CHANNELS)

    x_stretch = _stretch(row_ptr, 0)
    window, taps = _window(x_stretch, REACH, TAPS)
    x_low, x_high = _limits(row_ptr, 0)
    at_x = _positions(row_ptr, out_x, SIZE)
    first = (at_x >> 32).to(tl.int32)
    stretch = _pixels(x_stretch)
    distance = (1 - REACH * stretch) - _fraction(at_x)
    inverse_x = 1 / stretch
    if TAPS >= 0:
        # A window that begins or ends outside is pushed inside: it still holds every pixel under the filter, and the
        # weight of the others is 0 by their distance. So no load is clamped or masked.
        inside = tl.minimum(tl.maximum(first, x_low), x_high - window)
        distance += (inside - first).to(tl.float32)
        first = inside
    weights = _weights_across(first, distance, inverse_x, x_low, x_high, window, REACH, TAPS)

    y_low, y_high = _limits(row_ptr, 1)
    y_stride = tl.load(row_ptr.to(tl.pointer_type(tl.int32)) + 14)
    y_start, y_step = tl.load(row_ptr + 2), tl.load(row_ptr + 4)
    zero = distance * 0
    rows = _repeated(zero, 2 * REACH * CHANNELS)
    if SHRINKS:
        # Steps from one output row's centre to the next. The source rows of step k, beyond the centre of output row k,
        # serve the output rows k - REACH + 1 to k + REACH, of which the first is then complete.
        inverse_y = 1 / _pixels(y_step)
        sums = _repeated(inverse_y * 0, 2 * REACH)
        begin, end = top - REACH, bottom + REACH - 1
        out_y = begin - REACH + 1
        where = out_ptr + (out_x * out_x_stride + out_y * out_y_stride)
        at = y_start + begin.to(tl.int64) * y_step
        row = tl.maximum((at >> 32).to(tl.int32) + 1, y_low)
        ptr = image_ptr + row * y_stride + first * X_STRIDE
        for _ in range(begin, end, 2):
            # Two output rows a turn: what is shifted from one to the next then changes its name instead of its place.
            for _ in tl.static_range(2):
                d = (row - (at >> 32).to(tl.int32)).to(tl.float32) - _fraction(at)
                at += y_step
                stop = tl.minimum((at >> 32).to(tl.int32) + 1, y_high)
                for _ in range(row, stop):
                    filtered = _across(
                        ptr, channel_stride, first, distance, inverse_x, x_low, x_high, taps, weights,
                        X_STRIDE, CHANNELS, REACH, TAPS,
                    )  # fmt: skip
                    shares = _shares(d * inverse_y, REACH)
                    for i in tl.static_range(2 * REACH):
                        rows = _multiply_add(rows, shares[i], filtered, i * CHANNELS)
                    sums = _multiply_add(sums, 1.0, shares, 0)
                    d += 1
                    ptr += y_stride
                row = tl.maximum(row, stop)
                total = _scaled(rows[:CHANNELS], _inverse(sums[0]))
                mask = column_mask & (out_y >= top) & (out_y < bottom)
                _write(where, mask, out_c_stride, total, color, OFFSET, white + OFFSET, CHANNELS, REACH, DIAGONAL)
                where += out_y_stride
                out_y += 1
                rows = rows[CHANNELS:] + _repeated(zero, CHANNELS)
                sums = sums[1:] + (inverse_y * 0,)
    else:
        # The 2 REACH source rows about an output row's centre are kept, and shifted when the centre moves on.
        where = out_ptr + (out_x * out_x_stride + top * out_y_stride)
        at = y_start + top.to(tl.int64) * y_step
        row = (at >> 32).to(tl.int32) - REACH + 1
        # A row of two taps is fetched while the one before it is computed. More would take registers that cost more
        # warps than the wait does.
        AHEAD: tl.constexpr = TAPS == 2
        if AHEAD:
            ptr = image_ptr + tl.minimum(tl.maximum(row, y_low), y_high - 1) * y_stride + first * X_STRIDE
            ahead = _fetch(ptr, channel_stride, X_STRIDE, CHANNELS, TAPS)
        for _ in range(top, bottom):
            fraction = _fraction(at)
            begin = (at >> 32).to(tl.int32) - REACH + 1
            at += y_step
            for y in range(tl.maximum(row, begin), begin + 2 * REACH):
                if AHEAD:
                    stored = ahead
                    # Where the step is over one row, without antialiasing, the next output row may begin further down.
                    skips_to = tl.where(y + 1 < begin + 2 * REACH, 0, (at >> 32).to(tl.int32) - REACH + 1)
                    following = tl.minimum(tl.maximum(tl.maximum(y + 1, skips_to), y_low), y_high - 1)
                    ahead = _fetch(
                        image_ptr + following * y_stride + first * X_STRIDE, channel_stride, X_STRIDE, CHANNELS, TAPS
                    )
                    filtered = _weighted(stored, weights, CHANNELS)
                else:
                    ptr = image_ptr + tl.minimum(tl.maximum(y, y_low), y_high - 1) * y_stride + first * X_STRIDE
                    filtered = _across(
                        ptr, channel_stride, first, distance, inverse_x, x_low, x_high, taps, weights,
                        X_STRIDE, CHANNELS, REACH, TAPS,
                    )  # fmt: skip
                rows = rows[CHANNELS:] + filtered
            row = begin + 2 * REACH
            shares = _shares(fraction, REACH)
            total = _repeated(zero, CHANNELS)
            weights_sum = stretch * 0
            for i in tl.static_range(2 * REACH):
                weight = tl.where((begin + i >= y_low) & (begin + i < y_high), shares[i], 0.0)
                total = _multiply_add(total, weight, rows[i * CHANNELS : (i + 1) * CHANNELS], 0)
                weights_sum += weight
            total = _scaled(total, _inverse(weights_sum))
            _write(where, column_mask, out_c_stride, total, color, OFFSET, white + OFFSET, CHANNELS, REACH, DIAGONAL)
            where += out_y_stride


@triton.jit
def _nearest_strip(
    image_ptr,
    row_ptr,
    color_ptr,
    out_ptr,
    channel_stride,
    out_c_stride,
    out_y_stride,
    out_x_stride,
    SIZE,
    left,
    top,
    X_STRIDE: tl.constexpr,
    CHANNELS: tl.constexpr,
    DIAGONAL: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """As _strip, each output pixel being the one that its centre lies in."""
    out_x = left + tl.arange(0, COLUMNS)
    OFFSET: tl.constexpr = 256.0 if image_ptr.dtype.element_ty == tl.uint8 else 0.0
    color = _color_lines(color_ptr, OFFSET, CHANNELS)
    x_low, x_high = _limits(row_ptr, 0)
    y_low, y_high = _limits(row_ptr, 1)
    x = (_positions(row_ptr, out_x, SIZE) >> 32).to(tl.int32)
    x = tl.minimum(tl.maximum(x, x_low), x_high - 1)
    y_stride = tl.load(row_ptr.to(tl.pointer_type(tl.int32)) + 14)
    y_start, y_step = tl.load(row_ptr + 2), tl.load(row_ptr + 4)
    where = out_ptr + (out_x * out_x_stride + top * out_y_stride)
    at = y_start + top.to(tl.int64) * y_step
    for _ in range(top, tl.minimum(top + ROWS, SIZE)):
        y = tl.minimum(tl.maximum((at >> 32).to(tl.int32), y_low), y_high - 1)
        pixel = _pixel(image_ptr + y * y_stride + x * X_STRIDE, channel_stride, CHANNELS)
        _write(where, out_x < SIZE, out_c_stride, pixel, color, 0.0, 0.0, CHANNELS, 0, DIAGONAL)
        at += y_step
        where += out_y_stride


@triton.jit
def _path(row_ptr, REACH: tl.constexpr, PATHS: tl.constexpr):
    """The first of PATHS that serves: with room for all of the filter's taps, in a window no wider than what may be
    read."""
    x_stretch, shrinks = _stretch(row_ptr, 0), _stretch(row_ptr, 1) > _ONE
    low, high = _limits(row_ptr, 0)
    path = shrinks.to(tl.int32) * 0
    for i in tl.static_range(len(PATHS) - 1, -1, -1):
        serves = shrinks == PATHS[i][0]
        if PATHS[i][1] >= 0:
            window, taps = _window(x_stretch, REACH, PATHS[i][1])
            serves = serves & (taps <= window) & (high - low >= window)
        path = tl.where(serves, i, path)
    return path


@triton.jit
def _place(SIZE, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """Which output row this program computes a strip of, and the strip's first column and line."""
    strips_x = tl.cdiv(SIZE, COLUMNS)
    strips = strips_x * tl.cdiv(SIZE, ROWS)
    strip = tl.program_id(0) % strips
    return tl.program_id(0) // strips, (strip % strips_x) * COLUMNS, (strip // strips_x) * ROWS


@triton.jit
def _hole(row_ptr):
    """x0, y0, x1, y1 of the output pixels that are overwritten."""
    half_ptr = row_ptr.to(tl.pointer_type(tl.int32)) + 16
    return tl.load(half_ptr), tl.load(half_ptr + 1), tl.load(half_ptr + 2), tl.load(half_ptr + 3)


@triton.jit
def _overlap(row_ptr, left, top, SIZE, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """Whether the hole meets a strip, and whether it covers all of it."""
    x0, y0, x1, y1 = _hole(row_ptr)
    right, bottom = tl.minimum(left + COLUMNS, SIZE), tl.minimum(top + ROWS, SIZE)
    meets = (x0 < right) & (x1 > left) & (y0 < bottom) & (y1 > top)
    return meets, (x0 <= left) & (x1 >= right) & (y0 <= top) & (y1 >= bottom)


@triton.jit(noinline=True)
def _fill(
    table_ptr,
    fill_ptr,
    out_ptr,
    out_v_stride,
    out_c_stride,
    out_y_stride,
    out_x_stride,
    SIZE,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Overwrites what of the hole lies in this program's strip. A thread has the column that it wrote before, so that
    its own writes follow one another. The pointers are the kernel's, and the strip is found again, since what is kept
    while the strip is computed takes registers there."""
    v, left, top = _place(SIZE, COLUMNS, ROWS)
    x0, y0, x1, y1 = _hole(table_ptr + 10 * v)
    out_x = left + tl.arange(0, COLUMNS)
    mask = (out_x >= x0) & (out_x < x1)
    first, end = tl.maximum(top, y0), tl.minimum(top + ROWS, y1)
    where = out_ptr + v.to(tl.int64) * out_v_stride + (out_x * out_x_stride + first * out_y_stride)
    constant = ()
    if fill_ptr.dtype.element_ty == tl.float32:
        for c in tl.static_range(CHANNELS):
            constant = constant + (tl.broadcast_to(tl.load(fill_ptr + c), (COLUMNS,)),)
    for y in range(first, end):
        if fill_ptr.dtype.element_ty == tl.float32:
            values = constant
        else:
            values = normals(fill_ptr + 2 * v, y * SIZE + out_x)
        for c in tl.static_range(CHANNELS):
            tl.store(where + c * out_c_stride, values[c].to(out_ptr.dtype.element_ty), mask=mask)
        where += out_y_stride


# Compiled anew only for what changes the code: a stride of 1, but not one that 16 divides, since no access is wide.
@triton.jit(
    do_not_specialize=["color_stride", "out_v_stride", "out_y_stride", "SIZE"],
    do_not_specialize_on_alignment=["channel_stride", "out_c_stride", "out_x_stride"],
)
def _crop_resize_flip(
    pixels_ptr,  # uint8 or float32: the images, ragged or dense
    table_ptr,  # (V, 10) int64, of which each row is one `ROW`
    color_ptr,  # (1 or V, C, C + 1) float32: from pixel values to the output
    fill_ptr,  # what holes are filled by: (C,) float32; noise by (V, 2) int32, see normals; or None: there are none
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
    DIAGONAL: tl.constexpr,  # no channel of the colour maps sees another
    PATHS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    v, left, top = _place(SIZE, COLUMNS, ROWS)
    row_ptr = table_ptr + 10 * v
    image_ptr = pixels_ptr + tl.load(row_ptr)
    color_ptr += v * color_stride
    row_out_ptr = out_ptr + v.to(tl.int64) * out_v_stride
    path = 0
    if REACH > 0:
        path = _path(row_ptr, REACH, PATHS)
    if fill_ptr is not None:
        meets, covers = _overlap(row_ptr, left, top, SIZE, COLUMNS, ROWS)
        path = tl.where(covers, -1, path)
    if REACH == 0:
        if path == 0:
            _nearest_strip(
                image_ptr, row_ptr, color_ptr, row_out_ptr, channel_stride, out_c_stride, out_y_stride, out_x_stride,
                SIZE, left, top, X_STRIDE, CHANNELS, DIAGONAL, COLUMNS, ROWS,
            )  # fmt: skip
    else:
        for i in tl.static_range(len(PATHS)):
            if path == i:
                _strip(
                    image_ptr, row_ptr, color_ptr, row_out_ptr, channel_stride, out_c_stride, out_y_stride,
                    out_x_stride, SIZE, white, left, top, X_STRIDE, CHANNELS, REACH, DIAGONAL, PATHS[i][0], PATHS[i][1],
                    COLUMNS, ROWS,
                )  # fmt: skip
    if fill_ptr is not None:
        if meets:
            _fill(
                table_ptr, fill_ptr, out_ptr, out_v_stride, out_c_stride, out_y_stride, out_x_stride, SIZE, CHANNELS,
                COLUMNS, ROWS,
            )  # fmt: skip


def launch_crop_resize_flip(
    pixels: torch.Tensor,
    table: torch.Tensor,
    color: torch.Tensor,
    fill: torch.Tensor | None = None,
    *,
    out: torch.Tensor,
    strides: tuple[int, int],
    reach: float,
    white: float,
    diagonal: bool,
    columns: int = COLUMNS,
    rows: int = ROWS,
) -> torch.Tensor:
    """Writes and returns `out`, (V, C, S, S). What the tables hold stands at the kernel's signature; strides: values
    from one column and from one channel to the next. The caller has checked every box against its image, and every
    hole against the output."""
    count, channels, size, _ = out.shape
    launch(
        _crop_resize_flip,
        # Not triton.cdiv: called from the host, it takes over a microsecond.
        count * -(-size // columns) * -(-size // rows),
        (pixels, table, color, fill, out),
        0 if color.shape[0] == 1 else color.stride(0),
        strides[1],
        *out.stride(),
        size,
        white,
        strides[0],
        channels,
        int(reach),
        diagonal,
        paths(int(reach), channels),
        columns,
        rows,
        num_warps=NUM_WARPS,
    )
    return out
