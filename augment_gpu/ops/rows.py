"""What the per-sample ops share: checked options, which samples drew an op, and the work on those rows alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.upload import upload
from augment_gpu.rng import Key, uniform

Span = float | tuple[float, float]
# Values that a CPU works on at once, 2 MB of float32: what one pass over them writes, the next finds in the cache.
_AT_ONCE = 2**19


@dataclass(frozen=True, eq=False)
class ChosenParams:
    """chosen: (B,) bool, the samples that an op without strength is done to."""

    chosen: np.ndarray

    def __len__(self) -> int:
        return len(self.chosen)


def is_number(value: Any) -> bool:
    return isinstance(value, float | int | np.number)


def check_probability(p: float) -> None:
    if not is_number(p) or not 0 <= p <= 1:
        raise ValueError(f"p is {p!r}; a probability lies in [0, 1]")


def span_of(name: str, value: Span, low: float, high: float) -> tuple[float, float]:
    """An option that is one number or the two ends of a range, as the ends. Raises ValueError, naming it, unless
    low <= its lower end <= its upper end <= high, and both are finite."""
    pair = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if (
        len(pair) != 2
        or not all(map(is_number, pair))
        or not low <= pair[0] <= pair[1] <= high
        or not np.isfinite(pair).all()
    ):
        bounds = f"at least {low}" if np.isinf(high) else f"in [{low}, {high}]"
        raise ValueError(f"{name} is {value!r}; wanted a number or (low, high) {bounds}")
    return pair


def draw_chosen(key: Key, index: ArrayLike, name: str, p: float) -> np.ndarray:
    """(B,) bool: each sample with probability p, a function of (key, index, name)."""
    check_probability(p)
    return uniform(key, np.asarray(index), name)[:, 0] < p


def draw_span(key: Key, index: ArrayLike, name: str, p: float, span: tuple[float, float], neutral: float) -> np.ndarray:
    """(B,) float64: uniform over the span with probability p, else `neutral`."""
    check_probability(p)
    u = uniform(key, np.asarray(index), name, 2)
    return np.where(u[:, 0] < p, span[0] + (span[1] - span[0]) * u[:, 1], neutral)


def draw_whole(
    key: Key, index: ArrayLike, name: str, p: float, option: str, value: Span, limits: tuple[int, int], neutral: int
) -> np.ndarray:
    """(B,) int64: uniform over the whole numbers of an option's span, both ends included, with probability p, else
    `neutral`. Raises ValueError, naming the option, where an end is out of the limits or no whole number."""
    low, high = span_of(option, value, *limits)
    if low != int(low) or high != int(high):
        raise ValueError(f"{option} is {value}; wanted whole numbers")
    # Each whole number has a unit of length of its own.
    return np.floor(draw_span(key, index, name, p, (low, high + 1), neutral)).astype(np.int64)


def check_images(name: str, images: torch.Tensor, count: int) -> None:
    """Raises ValueError, naming the op, unless `images` is (count, C, H, W) floating point."""
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"{name} got {images.dtype} {tuple(images.shape)}; wanted floating point (B, C, H, W)")
    if count != len(images):
        raise ValueError(f"{name} got {count} parameters for {len(images)} images")


def on_rows(
    name: str,
    images: torch.Tensor,
    chosen: np.ndarray,
    function: Callable[..., torch.Tensor],
    *values: np.ndarray,
) -> torch.Tensor:
    """A new tensor, of the dtype and memory format of `images`, whose chosen rows are function(rows, *their values);
    `images` itself where none is chosen.

    images: (B, C, H, W) floating point. chosen: (B,) bool. values: (B, …), of which the function gets the chosen rows
    as tensors beside the images. It gets the images as contiguous float32, perhaps the caller's own memory, which it
    must not change. name: of the op, for what is raised.
    """
    check_images(name, images, len(chosen))
    rows = np.flatnonzero(chosen)
    if len(rows) == 0:
        return images
    where, *tables = upload(images.device, rows, *(value[rows] for value in values))
    everything = len(rows) == len(images)
    part = images if everything else images[where]
    # In one memory format, since the order of a sum, and with it the last bits, may go by the format.
    computed = function(part.float().contiguous(), *tables)
    if everything:
        return torch.empty_like(images).copy_(computed)
    result = images.clone()
    result[where] = computed.to(images.dtype)
    return result


class Group(NamedTuple):
    """Work on some rows of a batch: function(images, values), which may overwrite the images that it is given.

    rows: (n,) int64, none of them twice. values: (n, …), one row for each.
    """

    function: Callable[..., torch.Tensor]
    rows: np.ndarray
    values: np.ndarray


def in_turn(images: torch.Tensor, groups: Sequence[Group]) -> None:
    """In place on contiguous (B, C, H, W) float32: the groups one after the other. What they need goes to the images'
    device in one copy; a group without rows is left out. On a CPU a group goes in parts, which stay in the cache from
    the first pass over them to the last."""
    groups = [group for group in groups if len(group.rows)]
    tables = iter(upload(images.device, *(table for _, rows, values in groups for table in (rows, values))))
    at_once = len(images)
    if images.device.type == "cpu" and groups:
        at_once = max(1, _AT_ONCE // max(1, images[0].numel()))
    for function, _, _ in groups:
        for rows, values in zip(next(tables).split(at_once), next(tables).split(at_once), strict=True):
            images.index_copy_(0, rows, function(images.index_select(0, rows), values))


def one_by_one(
    images: torch.Tensor, chosen: np.ndarray, function: Callable[..., torch.Tensor], *values: np.ndarray
) -> torch.Tensor:
    """The form of every reference: function(image as (C, H, W) float32, *its values) for each chosen row, one after the
    other; values as Python numbers or lists."""
    result = images.clone()
    for row in np.flatnonzero(chosen):
        arguments: list[Any] = [value[row].tolist() for value in values]
        result[row] = function(images[row].float(), *arguments)
    return result
