"""The views of test-time augmentation: fixed crops of an image resized to several scales.

Two forms that agree. Tensor ops cut a batch that was resized before. Boxes are rows of one crop_resize_flip launch
straight from the source images: nothing resized is ever stored.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.boxes import CropParams, box_in_source, checked_sizes, resized_sides

SCALES = (224, 256, 384, 480, 640)
Crops = int | tuple[int, int]


def ten_crop(images: torch.Tensor, size: int = 224) -> torch.Tensor:
    """(B, C, H, W), any dtype, to (B, 10, C, S, S): top left, top right, bottom left, bottom right, centre, then the
    same five of the mirror image, as torchvision's TenCrop orders them. The crops are cut as views and copied once,
    into the result. Raises ValueError for images smaller than `size`."""
    if images.ndim != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}; wanted (B, C, H, W)")
    height, width = images.shape[2:]
    if size < 1 or size > min(height, width):
        raise ValueError(f"size is {size}; it must lie in [1, {min(height, width)}], the short side of the images")
    top, left = _corners(10, np.array([height - size]), np.array([width - size]))
    views = [
        images[:, :, y : y + size, x : x + size] for y, x in zip(top[0].astype(int), left[0].astype(int), strict=True)
    ]
    return torch.stack([view.flip(-1) if flip else view for view, flip in zip(views, _flips(10), strict=True)], dim=1)


def multi_scale_ten_crop(
    images: torch.Tensor, size: int = 224, scales: Sequence[int] = SCALES, *, interpolation: str = "bilinear"
) -> torch.Tensor:
    """(B, C, H, W), uint8 or floating point, to (B, 10 · len(scales), C, S, S): for each scale in turn the images
    resized, antialiased, by torchvision, until their short side is that long, and ten_crop of that. Floating point is
    resized in float64, since torch's float32 errs by up to 0.01 of a grey level on large photographs. Of floating point
    of any range a cubic's overshoot is not clamped, as torchvision leaves it; crop_resize_flip does clamp it."""
    _check_scales(size, scales)
    return torch.cat([ten_crop(resized_images(images, scale, interpolation), size) for scale in scales], dim=1)


def resized_images(images: torch.Tensor, scale: int, interpolation: str, antialias: bool = True) -> torch.Tensor:
    """(..., C, H, W) with the short side resized to `scale`."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    # What Pillow and crop_resize_flip call nearest
    mode = InterpolationMode("nearest-exact" if interpolation == "nearest" else interpolation)
    if not images.is_floating_point():
        return F.resize(images, [scale], mode, antialias=antialias)
    return F.resize(images.double(), [scale], mode, antialias=antialias).to(images.dtype)


def ten_crop_boxes(
    heights: ArrayLike, widths: ArrayLike, size: int = 224, scales: Sequence[int] = SCALES
) -> CropParams:
    """multi_scale_ten_crop as rows of crop_resize_flip: for each image 10 · len(scales) rows, in the same order."""
    return view_boxes(heights, widths, size, scales, 10)


def view_boxes(
    heights: ArrayLike, widths: ArrayLike, size: int = 224, scales: Sequence[int] = SCALES, crops: Crops = 10
) -> CropParams:
    """All views of all images: B images × scales × crops rows, in that order.

    heights, widths: (B,) pixels. scales: lengths of the short side, each at least `size`. crops: 1 the centre; 2 the
    centre and its mirror image; 5 the corners and the centre; 10 these and their mirror images, in torchvision's order;
    or (rows, columns), a grid that reaches from edge to edge. The filter reaches past a crop's edge, as it does when an
    image is resized before it is cropped. Boxes are float32, whose rounding moves a crop at the far end of a side of
    thousands of pixels by up to 1e-4 pixels. Raises ValueError for anything else.
    """
    heights = np.asarray(heights)
    index = np.arange(heights.size)
    _, height, width = checked_sizes(index, heights, widths)
    _check_scales(size, scales)
    flips = _flips(crops)
    boxes = []
    for scale in scales:
        sides = resized_sides(height, width, np.full_like(height, scale))
        top, left = _corners(crops, sides[0] - size, sides[1] - size)
        source_height, source_width, *resized = (value[:, None] for value in (height, width, *sides))
        boxes.append(box_in_source(source_height, source_width, resized[0], resized[1], top, left, size))
    box = np.stack(boxes, axis=1)
    views = len(scales) * len(flips)
    flip = np.tile(flips, heights.size * len(scales))
    return CropParams(np.repeat(index, views), box.reshape(heights.size * views, 4), flip, "image")


def _check_scales(size: int, scales: Sequence[int]) -> None:
    if len(scales) == 0:
        raise ValueError("scales is empty; at least one length of the short side is wanted")
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1")
    for scale in scales:
        if not isinstance(scale, int | np.integer):
            raise ValueError(f"scales holds {scale!r}; whole numbers of pixels are wanted")
        if scale < size:
            raise ValueError(f"scales holds {scale}; a crop of {size} is larger than an image resized to that")


def _flips(crops: Crops) -> np.ndarray:
    """Which of an image's crops at one scale are mirrored, (n,) bool. Raises ValueError for an unknown choice."""
    if isinstance(crops, tuple):
        if len(crops) != 2 or not all(isinstance(side, int) and side >= 1 for side in crops):
            raise ValueError(f"crops is {crops}; a grid is (rows, columns), each at least 1")
        return np.zeros(crops[0] * crops[1], dtype=bool)
    if crops not in (1, 2, 5, 10):
        raise ValueError(f"crops is {crops!r}; it must be 1, 2, 5, 10 or (rows, columns)")
    return np.arange(crops) >= (crops + 1) // 2


def _corners(crops: Crops, free_y: np.ndarray, free_x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top and left of each crop, (B, n), in pixels of resized images. free_y, free_x: (B,) how far a crop can move."""
    free_y, free_x = free_y.astype(np.float64), free_x.astype(np.float64)
    middle_y, middle_x = np.rint(free_y / 2), np.rint(free_x / 2)  # half to even, as torchvision's center_crop
    if isinstance(crops, tuple):
        # From edge to edge; a single row or column lies in the middle.
        rows, columns = (
            np.rint(np.outer(free, np.arange(count) / (count - 1))) if count > 1 else middle[:, None]
            for free, middle, count in ((free_y, middle_y, crops[0]), (free_x, middle_x, crops[1]))
        )
        return np.repeat(rows, crops[1], axis=1), np.tile(columns, crops[0])
    zero = np.zeros_like(free_y)
    if crops in (1, 2):
        top, left = middle_y[:, None], middle_x[:, None]
    else:
        top = np.stack([zero, zero, free_y, free_y, middle_y], axis=1)
        left = np.stack([zero, free_x, zero, free_x, middle_x], axis=1)
    if crops in (2, 10):  # the mirror image's crops, seen in the image itself
        top, left = np.tile(top, 2), np.concatenate([left, free_x[:, None] - left], axis=1)
    return top, left
