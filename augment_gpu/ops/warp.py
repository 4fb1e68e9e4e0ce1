"""Images sampled where a grid says, bilinearly; what comes from outside is filled."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.functional import grid_sample

from augment_gpu.ops.rows import on_rows

Fill = float | Sequence[float]


def checked_fill(fill: Fill) -> Fill:
    """Raises ValueError unless it is a number, or several."""
    if isinstance(fill, str) or np.ndim(fill) > 1 or not np.isfinite(fill).all():
        raise ValueError(f"fill is {fill!r}; wanted a number, or one per channel")
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
    if np.ndim(fill) and np.size(fill) not in (1, images.shape[1]):
        raise ValueError(f"fill is {fill}; wanted a number, or one for each of {images.shape[1]} channels")
    filling = np.broadcast_to(np.asarray(fill, dtype=np.float32), (len(chosen), images.shape[1]))
    black = not np.any(fill)

    def sample(rows: torch.Tensor, filling: torch.Tensor, *tables: torch.Tensor) -> torch.Tensor:
        if black:
            return grid_sample(rows, grid(*tables), align_corners=False)
        filling = filling[:, :, None, None]
        return grid_sample(rows - filling, grid(*tables), align_corners=False).add_(filling)

    return on_rows(name, images, chosen, sample, filling, *values)
