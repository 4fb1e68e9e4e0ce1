"""Images sampled where a grid says, bilinearly; what comes from outside is filled."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import grid_sample

from augment_gpu.ops.rows import on_rows

Fill = float | Sequence[float]


def checked_fill(fill: Fill) -> Fill:
    """Raises ValueError unless it is a number in [0, 1], or one for each of 1, 3 or 4 channels."""
    numbers = np.asarray(fill)
    if numbers.dtype.kind not in "fiu" or numbers.shape not in ((), (1,), (3,), (4,)):
        raise ValueError(f"fill is {fill!r}; wanted a number, or one per channel")
    if not ((numbers >= 0) & (numbers <= 1)).all():
        raise ValueError(f"fill is {fill!r}; it must lie in [0, 1]")
    return fill


def fill_of_reference(images: torch.Tensor, fill: Fill) -> torch.Tensor:
    """float32, to subtract from a (C, H, W) image before torchvision samples it with 0 outside, and to add again."""
    return torch.as_tensor(fill, dtype=torch.float32, device=images.device).reshape(-1, 1, 1)


def warp(
    name: str,
    images: torch.Tensor,
    chosen: np.ndarray,
    fill: Fill,
    grid: Callable[..., torch.Tensor],
    *values: np.ndarray,
) -> torch.Tensor:
    """on_rows, the function being a sampling at grid(*values): (n, H, W, 2), x and y in [−1, 1] from edge to edge."""
    filling = filling_of(fill, len(chosen), images.shape[1])
    black = not filling.any()

    def sample(rows: torch.Tensor, filling: torch.Tensor, *tables: torch.Tensor) -> torch.Tensor:
        return sample_at(rows, grid(*tables), None if black else filling)

    return on_rows(name, images, chosen, sample, filling, *values)


def filling_of(fill: Fill, rows: int, channels: int) -> np.ndarray:
    """(rows, channels) float32. Raises ValueError for a fill of another number of channels."""
    if np.ndim(fill) and np.size(fill) not in (1, channels):
        raise ValueError(f"fill is {fill}; wanted a number, or one for each of {channels} channels")
    return np.broadcast_to(np.asarray(fill, dtype=np.float32), (rows, channels))


def sample_at(
    images: torch.Tensor, grid: torch.Tensor, filling: torch.Tensor | None, mode: str = "bilinear"
) -> torch.Tensor:
    """Images seen at grid (n, H, W, 2), x and y in [−1, 1] from edge to edge. filling: (n, C), what lies outside, or
    None for 0. mode: "bilinear" or "nearest"."""
    if filling is None:
        return grid_sample(images, grid, mode=mode, align_corners=False)
    filling = filling[:, :, None, None]
    return grid_sample(images - filling, grid, mode=mode, align_corners=False).add_(filling)
