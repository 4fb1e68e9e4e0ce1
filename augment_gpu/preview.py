"""A picture of what a recipe does: originals at the left, their augmentations beside them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from augment_gpu.data.sources import Dataset
from augment_gpu.ops.boxes import center_crop_boxes
from augment_gpu.ops.crop import crop_resize_flip
from augment_gpu.ragged import RaggedBatch, as_array
from augment_gpu.recipe import Recipe
from augment_gpu.rng import Key, uniform
from augment_gpu.stage import Stage

_GAP = 6  # white pixels between pictures


def preview(dataset: Dataset, recipe: Recipe, *, rows: int = 6, columns: int = 6, seed: int = 0) -> Image.Image:
    """A grid of `rows` samples drawn at random: each one's evaluation view, then how it looks in `columns` epochs."""
    if rows < 1 or columns < 1:
        raise ValueError(f"the grid is {rows} x {columns}; it needs at least one row and one column")
    numbers = np.argsort(uniform(Key(seed), np.arange(len(dataset)), "preview")[:, 0])[:rows]
    images = RaggedBatch.from_images([as_array(dataset[int(number)][0]) for number in numbers])
    labels = [dataset[int(number)][1] for number in numbers]
    stage = Stage(recipe, seed)
    original = center_crop_boxes(images.height, images.width, recipe.size, recipe.evaluation_resize)
    grid = [crop_resize_flip(images, original, size=recipe.size)]
    for epoch in range(columns):
        augmented, _ = stage(images, labels, index=numbers, epoch=epoch)
        grid.append(_denormalize(augmented.float(), recipe))
    return _mosaic(grid)


def _denormalize(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    channels = images.shape[1]
    mean = torch.tensor(recipe.mean or (0.0,) * channels).view(-1, 1, 1)
    std = torch.tensor(recipe.std or (1.0,) * channels).view(-1, 1, 1)
    return images.cpu() * std + mean


def _mosaic(columns: Sequence[torch.Tensor]) -> Image.Image:
    """columns: each (rows, C, S, S) in [0, 1]."""
    rows, channels, size, _ = columns[0].shape
    step = size + _GAP
    canvas = np.full((rows * step + _GAP, len(columns) * step + _GAP, channels), 255, dtype=np.uint8)
    for x, column in enumerate(columns):
        pictures = (column.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for y, picture in enumerate(pictures):
            top, left = y * step + _GAP, x * step + _GAP
            canvas[top : top + size, left : left + size] = picture
    return Image.fromarray(canvas)
