"""Masks, (N, H, W) or (H, W), moved as the pixels of their image were; each pixel takes one source pixel's value."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from augment_gpu.ops.boxes import CropParams, within
from augment_gpu.ops.motion import Motion, in_picture, pixel_centres


def checked_mask(name: str, mask: Any, box: np.ndarray, fill: float) -> Any:
    """A tensor, or an array. Raises ValueError, naming it, unless it holds the crop, and its type the filling."""
    mask = mask if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if mask.ndim not in (2, 3):
        raise ValueError(f"{name} has shape {tuple(mask.shape)}; wanted (N, H, W) or (H, W)")
    height, width = mask.shape[-2:]
    if not within(box[None], [[width], [height]], empty=False).all():
        raise ValueError(
            f"{name} is {height} × {width} and does not hold the crop {box.tolist()}; wanted the size of its image"
        )
    tensor = isinstance(mask, torch.Tensor)
    held = (torch.tensor(fill).to(mask.dtype) if tensor else np.array(fill).astype(mask.dtype)).item()
    if not isinstance(held, float) and held != fill:
        raise ValueError(f"fill is {fill}, which {name}, {mask.dtype}, cannot hold")
    return mask


def moved_mask(mask: Any, row: int, crop: CropParams, motions: Sequence[Motion], size: int, fill: float) -> Any:
    """The mask as the pixels of this row of the batch went, (N, size, size) or (size, size). motions: the crop's, and
    what follows."""
    cropping, ops, box = motions[0], [motion for motion in motions[1:] if motion.moves[row]], crop.box[row]
    low, high = np.floor(box[:2]), np.ceil(box[2:])

    def on_device(index: np.ndarray) -> Any:
        return torch.from_numpy(index).to(mask.device) if isinstance(mask, torch.Tensor) else index

    def source_pixels(points: np.ndarray) -> np.ndarray:
        """(..., 2) int64: the pixels of the source that points of the crop fall into."""
        return np.clip(np.floor(cropping.back(points, row)), low, high - 1).astype(np.int64)

    if not ops:  # a column's x is one, and a row's y
        x, y = source_pixels(np.repeat(np.arange(size)[:, None] + 0.5, 2, axis=1)).T
        return mask[..., on_device(y[:, None]), on_device(x)]
    points, seen = pixel_centres((size, size)).reshape(-1, 2), np.arange(size * size)
    for motion in reversed(ops):
        points = motion.back(points, row)
        inside = in_picture(points, size)
        points, seen = points[inside], seen[inside]
    x, y = source_pixels(points).T
    shape = (*mask.shape[:-2], size * size)
    moved = mask.new_full(shape, fill) if isinstance(mask, torch.Tensor) else np.full(shape, fill, mask.dtype)
    moved[..., on_device(seen)] = mask[..., on_device(y), on_device(x)]
    return moved.reshape(*mask.shape[:-2], size, size)
