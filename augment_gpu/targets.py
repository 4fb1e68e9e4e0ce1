"""Boxes, keypoints and masks that move with the pixels, on the host, by the draws that moved these.

All are given for each image, in pixels of the source image, of which pixel j covers [j, j + 1), as torchvision and
Detectron2 have it: the whole image is the box (0, 0, width, height), and the centre of the first pixel is 0.5. They
come back in pixels of the picture that the stage makes, and as what they came as: NumPy arrays, or tensors on their
device, where that is a GPU after waiting for it.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from augment_gpu.ops.geometry import affine_matrix, perspective_matrix, vertical_flip_matrix
from augment_gpu.ops.mask import checked_mask, moved_mask
from augment_gpu.ops.motion import Motion, crop_motion, elastic_motion, in_picture, projective_motion
from augment_gpu.ops.policy import AugMixParams, movement
from augment_gpu.ops.polygon import areas, clipped, envelopes, rectangles, subdivided
from augment_gpu.pipeline import Draws
from augment_gpu.recipe import Recipe

Values = Sequence[Any] | torch.Tensor | np.ndarray  # of each image what NumPy or torch make an array of

# The ops that move pixels, each with its matrices for (parameters, size); those that do not; elastic, which has no
# matrix; and policies, whose every place has one. What is none of these is refused, and so is AugMix, which shows
# several copies of a picture at once.
_MATRICES: dict[str, Callable[..., np.ndarray]] = {
    "affine": affine_matrix,
    "rotate": affine_matrix,
    "shear": affine_matrix,
    "translate": affine_matrix,
    "perspective": perspective_matrix,
    "vertical_flip": vertical_flip_matrix,
}
_STILL = {
    "color_jitter",
    "gaussian_blur",
    "grayscale",
    "invert",
    "solarize",
    "posterize",
    "autocontrast",
    "equalize",
    "sharpness",
    "gaussian_noise",
    "jpeg",
    "three_augment",
}
_POLICIES = {"auto_augment", "rand_augment", "trivial_augment_wide", "timm_augment"}

# How much of a box's area may seem to be lost when nothing is: what elastic's search for a point's place makes.
_AREA = 1e-3


class MovedBoxes(NamedTuple):
    """Of each image: boxes (n, 4) x0 y0 x1 y1, within [0, size]; their labels, or None where none were given; and which
    of the boxes given they are, (n,) int64, in order."""

    boxes: list[Any]
    labels: list[Any] | None
    kept: list[np.ndarray]


class MovedKeypoints(NamedTuple):
    """Of each image: keypoints (..., 2) x y, within [0, size], and (0, 0) where they are not visible; and visible,
    (...), bool, or of the type of the visibility given, 0 where they are not."""

    keypoints: list[Any]
    visible: list[Any]


def move_boxes(
    boxes: Values,
    draws: Draws,
    recipe: Recipe,
    *,
    labels: Values | None = None,
    min_size: float = 1.0,
    min_visibility: float = 0.0,
) -> MovedBoxes:
    """The boxes around what is still to be seen of the given ones.

    boxes: of each image (N, 4) x0 y0 x1 y1, or an empty list. draws: of stage.draw. labels: of each image (N,), or
    anything else of which each box has a row. min_size: a box with a shorter side, in pixels of the picture, is
    dropped, and its label with it (torchvision's SanitizeBoundingBoxes). min_visibility: so is one of whose area, in
    the source image, a smaller share is to be seen; holes hide nothing.

    A box is followed as a polygon, cut off at the edge of the picture after the crop and after each op, and then
    enclosed in a box: so nothing comes back that an earlier op had moved out of sight, and a box is as tight as a
    full rectangle's own; that of a smaller object within it may be tighter. Under elastic the polygon has corners at
    half of the field's sigma, within some hundredths of a pixel of the edge for the default field.

    Raises ValueError, naming the argument, for boxes of another shape or without order, another number of images or
    labels; and naming the op for draws of training by a recipe that holds a callable, AugMix, or an op that is not
    known here, or mixes images.
    """
    if not 0 <= min_size < np.inf:
        raise ValueError(f"min_size is {min_size}; it must be at least 0")
    if not 0 <= min_visibility <= 1:
        raise ValueError(f"min_visibility is {min_visibility}; it must lie in [0, 1]")
    motions, given = _motions(draws, recipe), _checked_boxes(boxes, draws)
    counts = [len(part) for part in given]
    if labels is not None and [len(part) for part in labels] != counts:
        raise ValueError(f"labels are for {[len(part) for part in labels]} boxes; there are {counts}")
    polygons = rectangles(np.concatenate([np.empty((0, 4)), *given]))
    moved, seen = _followed(polygons, np.repeat(np.arange(len(given)), counts), motions, recipe.size)
    keep = (seen > 0) & (seen >= (min_visibility - _AREA) * areas(polygons))
    keep &= (moved[:, 2:] - moved[:, :2] >= min_size).all(axis=1)
    kept = [np.flatnonzero(part) for part in _split(keep, counts)]
    parts = [part[rows] for part, rows in zip(_split(moved, counts), kept, strict=True)]
    return MovedBoxes(
        [_like(part, original) for part, original in zip(parts, boxes, strict=True)],
        None if labels is None else [_rows(part, rows) for part, rows in zip(labels, kept, strict=True)],
        kept,
    )


def _followed(
    polygons: np.ndarray, rows: np.ndarray, motions: list[Motion], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of polygons (M, K, 2) in the images `rows`: the boxes, (M, 4), around what is to be seen of them, and its area in
    the source image, (M,)."""
    for motion in motions:
        moving = motion.moves[rows]
        if moving.any():
            polygons = subdivided(polygons, motion.pieces)
            polygons[moving] = motion.there(polygons[moving], rows[moving, None])
            polygons = clipped(polygons, size)
    boxes = envelopes(polygons)
    for motion in reversed(motions):
        moving = motion.moves[rows]
        polygons[moving] = motion.back(polygons[moving], rows[moving, None])
    return boxes, areas(polygons)


def move_keypoints(
    keypoints: Values, draws: Draws, recipe: Recipe, *, visibility: Values | None = None
) -> MovedKeypoints:
    """Where the points are to be seen; none is dropped.

    keypoints: of each image (N, 2) or (N, K, 2) x y, or an empty list. visibility: of each image (N,) or (N, K), of
    which 0 (COCO) and False say that there is no point. A point that the crop or an op moves out of sight is not
    visible, and stays so. elastic's field is inverted to 1e-4 pixels where it is one-to-one; one of alpha above about
    4 sigma² folds here and there and shows a point in several places, of which one is given. A point keeps its place in
    the array: where left and right have places of their own, they are to be swapped in the images of draws.crop.flip,
    and of a vertical flip. draws, and what is raised:
    see move_boxes.
    """
    motions, given = _motions(draws, recipe), _arrays("keypoints", keypoints, draws, 2)
    shapes = [part.shape[:-1] for part in given]
    counts = [part.size // 2 for part in given]
    flags = [np.ones(shape, dtype=bool) for shape in shapes] if visibility is None else list(visibility)
    known = [_numpy(flag) for flag in flags]
    if [flag.shape for flag in known] != shapes:
        raise ValueError(f"visibility has shapes {[flag.shape for flag in known]}; the keypoints' are {shapes}")
    rows = np.repeat(np.arange(len(given)), counts)
    points = np.concatenate([np.empty((0, 2)), *(part.reshape(-1, 2) for part in given)])
    visible = np.concatenate([np.empty(0, dtype=bool), *(flag.reshape(-1) != 0 for flag in known)])
    for motion in motions:
        moving = np.flatnonzero(visible & motion.moves[rows])
        points[moving] = motion.there(points[moving], rows[moving])
        visible[moving] = in_picture(points[moving], recipe.size)
    points = np.where(visible[:, None], np.clip(points, 0, recipe.size), 0)
    parts = [part.reshape(*shape, 2) for part, shape in zip(_split(points, counts), shapes, strict=True)]
    seen = [part.reshape(shape) for part, shape in zip(_split(visible, counts), shapes, strict=True)]
    return MovedKeypoints(
        [_like(part, original) for part, original in zip(parts, keypoints, strict=True)],
        [_like_flags(flag * part, original) for flag, part, original in zip(known, seen, flags, strict=True)],
    )


def move_masks(masks: Values, draws: Draws, recipe: Recipe, *, fill: float = 0) -> list[Any]:
    """The masks as the pixels went: of each image (N, size, size), or (size, size), of the type that it had.

    masks: of each image (N, H, W), or an (H, W) map of classes, of the source image's size and any type. fill: what
    stands where an op shows what is outside the picture, such as 255 for a class to be ignored. Each pixel takes the
    value of the one source pixel that its centre comes from: after the crop that of interpolation="nearest"; after ops
    the motions are composed and sampled once, so nothing is rounded in between. draws, and what is raised: see
    move_boxes; and ValueError where a mask does not hold its crop.
    """
    motions = _motions(draws, recipe)
    if len(masks) != len(draws.crop):
        raise ValueError(f"masks are of {len(masks)} images; the draws are of {len(draws.crop)}")
    checked = [
        checked_mask(f"masks[{row}]", mask, box, fill)
        for row, (mask, box) in enumerate(zip(masks, draws.crop.box, strict=True))
    ]
    return [moved_mask(mask, row, draws.crop, motions, recipe.size, fill) for row, mask in enumerate(checked)]


def _motions(draws: Draws, recipe: Recipe) -> list[Motion]:
    """What moves pixels, in order: the crop, then the ops that were drawn."""
    draws.check_recipe(recipe)
    if recipe.mixes and draws.training:
        raise ValueError("the recipe mixes images (mixup_alpha, cutmix_alpha), whose boxes and masks are not followed")
    motions, size = [crop_motion(draws.crop, recipe.size)], (recipe.size, recipe.size)
    for op, name, params in zip(recipe.ops, recipe.op_names, draws.ops, strict=True) if draws.ops else ():
        if name == "aug_mix" or isinstance(params, AugMixParams):
            raise ValueError(f"ops holds {name}, which shows several copies of a picture at once, each moved elsewhere")
        if callable(op) or name not in {*_MATRICES, *_STILL, *_POLICIES, "elastic"}:
            raise ValueError(f"ops holds {name}, of which it is not known where it moves pixels to")
        if name in _POLICIES:
            motions += [
                projective_motion(movement(number, magnitude, *size))
                for number, magnitude in zip(params.op.T, params.magnitude.T, strict=True)
            ]
        elif name in _MATRICES:
            motions.append(projective_motion(_MATRICES[name](params, size)))
        elif name == "elastic":
            motions.append(elastic_motion(params, size))
    return motions


# ---- what comes in and goes out


def _arrays(name: str, values: Values, draws: Draws, columns: int) -> list[np.ndarray]:
    """Of each image an array (..., columns) float64. Raises ValueError, naming what is wrong."""
    if len(values) != len(draws.crop):
        raise ValueError(f"{name} are of {len(values)} images; the draws are of {len(draws.crop)}")
    arrays = []
    for image, value in enumerate(values):
        array = _numpy(value).astype(np.float64)
        array = array.reshape(0, columns) if array.shape == (0,) else array
        if array.ndim < 2 or array.shape[-1] != columns:
            raise ValueError(f"{name}[{image}] has shape {array.shape}; wanted (N, {columns})")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}[{image}] holds a number that is not finite")
        arrays.append(array)
    return arrays


def _checked_boxes(boxes: Values, draws: Draws) -> list[np.ndarray]:
    """Of each image (N, 4) float64. Raises ValueError, naming what is wrong."""
    given = _arrays("boxes", boxes, draws, 4)
    for image, part in enumerate(given):
        layout = getattr(getattr(boxes[image], "format", None), "value", "XYXY")  # of torchvision's BoundingBoxes
        if layout != "XYXY":
            raise ValueError(f"boxes[{image}] are {layout}; wanted XYXY")
        if part.ndim != 2:
            raise ValueError(f"boxes[{image}] has shape {part.shape}; wanted (N, 4)")
        good = (part[:, :2] <= part[:, 2:]).all(axis=1)
        if not good.all():
            box = int((~good).argmax())
            raise ValueError(f"box {box} of boxes[{image}] is {part[box].tolist()}; wanted x0 <= x1 and y0 <= y1")
    return given


def _numpy(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _split(values: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    return np.split(values, np.cumsum(counts)[:-1]) if counts else []


def _like(array: np.ndarray, original: Any) -> Any:
    """In the floating point type of the original, or in float32; on its device, if it is a tensor."""
    if isinstance(original, torch.Tensor):
        dtype = original.dtype if original.is_floating_point() else torch.float32
        return torch.from_numpy(array).to(original.device, dtype)
    kind = getattr(original, "dtype", np.dtype(np.float32))
    return array.astype(kind if np.issubdtype(kind, np.floating) else np.float32)


def _like_flags(flags: np.ndarray, original: Any) -> Any:
    return torch.from_numpy(flags).to(original.device) if isinstance(original, torch.Tensor) else flags


def _rows(values: Any, rows: np.ndarray) -> Any:
    if isinstance(values, torch.Tensor):
        return values[torch.from_numpy(rows).to(values.device)]
    return np.asarray(values)[rows]
