"""Ops that move pixels, with torchvision's meanings, each sample by its own parameters: affine and its special cases
rotate, shear and translate; perspective; vertical_flip.

All take (B, C, H, W) floating point images and compute in float32, bilinearly, on the rows alone that drew the op. They
return a new tensor, or the very tensor they got where no row drew it. What comes from outside the image is `fill`, in
the units of the images: a number, or one per channel.

affine_matrix, perspective_matrix and vertical_flip_matrix say where pixels go: (B, 3, 3) float64, from (x, y, 1) in the
image to (x', y', 1) in the result, up to a factor; in pixels, of which pixel j covers [j, j + 1), as boxes have it. Of
a sample that is left alone they are the identity, exactly.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.rows import ChosenParams, Span, check_images, check_probability, draw_chosen, on_rows, one_by_one
from augment_gpu.ops.warp import Fill, checked_fill, fill_of_reference, warp
from augment_gpu.rng import Key, uniform

# ---- affine


@dataclass(frozen=True, eq=False)
class AffineParams:
    """In this order, about the image's centre: shear, scale and rotation, then translation.

    angle: (B,) degrees, clockwise. translate: (B, 2) shares of the width and of the height, to the right and downwards,
    rounded to whole pixels. scale: (B,). shear: (B, 2) degrees along x and along y. All float64. A sample whose values
    are 0, 0, 1 and 0 is left alone.
    """

    angle: np.ndarray
    translate: np.ndarray
    scale: np.ndarray
    shear: np.ndarray
    fill: Fill = 0.0

    def __len__(self) -> int:
        return len(self.angle)


def sample_affine(
    key: Key,
    index: ArrayLike,
    *,
    degrees: Span = 0.0,
    translate: tuple[float, float] | None = None,
    scale: tuple[float, float] | None = None,
    shear: float | Sequence[float] | None = None,
    fill: Fill = 0.0,
    p: float = 1.0,
) -> AffineParams:
    """torchvision's RandomAffine, with probability p: all uniform, in degrees or ±degrees; ±translate, two shares of
    the sides; scale; shear or ±shear degrees along x, or four numbers, two ranges along x and y."""
    return _draw("affine", key, index, p, fill, degrees=degrees, translate=translate, scale=scale, shear=shear)


def _draw(
    name: str,
    key: Key,
    index: ArrayLike,
    p: float,
    fill: Fill,
    *,
    degrees: Span = 0.0,
    translate: tuple[float, float] | None = None,
    scale: tuple[float, float] | None = None,
    shear: float | Sequence[float] | None = None,
) -> AffineParams:
    check_probability(p)
    shares = (0.0, 0.0) if translate is None else translate
    if np.shape(shares) != (2,) or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"translate is {translate}; wanted two shares in [0, 1], of the width and of the height")
    sizes = (1.0, 1.0) if scale is None else scale
    if np.shape(sizes) != (2,) or not 0 < sizes[0] <= sizes[1] < np.inf:
        raise ValueError(f"scale is {scale}; wanted 0 < low <= high")
    moves = [(-share, share) for share in shares]
    low, high = np.array([_symmetric("degrees", degrees), *moves, sizes, *_shears(shear)]).T
    u = uniform(key, np.asarray(index), name, 7)
    drawn = np.where(u[:, 6:] < p, low + (high - low) * u[:, :6], [0, 0, 0, 1, 0, 0])
    return AffineParams(drawn[:, 0], drawn[:, 1:3], drawn[:, 3], drawn[:, 4:], checked_fill(fill))


def _symmetric(name: str, value: float | Sequence[float], bound: float = np.inf) -> tuple[float, float]:
    """d stands for (−d, d). Raises ValueError unless both ends lie inside (−bound, bound)."""
    low, high = (
        (-value, value) if isinstance(value, int | float) else value if np.shape(value) == (2,) else (np.nan, np.nan)
    )
    if not -bound < low <= high < bound:
        limits = "finite" if np.isinf(bound) else f"inside ({-bound}, {bound})"
        raise ValueError(f"{name} is {value}; wanted d >= 0, for (-d, d), or low <= high, {limits}")
    return low, high


def _shears(shear: float | Sequence[float] | None) -> list[tuple[float, float]]:
    if shear is None:
        return [(0, 0), (0, 0)]
    if isinstance(shear, int | float) or len(shear) != 4:
        return [_symmetric("shear", shear, 90), (0, 0)]
    return [_symmetric("shear", shear[:2], 90), _symmetric("shear", shear[2:], 90)]


def affine_matrix(params: AffineParams, size: Sequence[int]) -> np.ndarray:
    """(B, 3, 3) float64: where the pixels of images of size (H, W) go."""
    sides = np.array([size[1], size[0]])
    angle, slope = np.radians(params.angle), np.tan(np.radians(params.shear))
    one, zero = np.ones(len(params)), np.zeros(len(params))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear_x, shear_y = np.array([[one, -slope[:, 0]], [zero, one]]), np.array([[one, zero], [-slope[:, 1], one]])
    rotation, shear_x, shear_y = (factor.transpose(2, 0, 1) for factor in (rotation, shear_x, shear_y))
    matrix = np.zeros((len(params), 3, 3))
    matrix[:, :2, :2] = params.scale[:, None, None] * (rotation @ shear_y @ shear_x)
    matrix[:, :2, 2] = sides / 2 - matrix[:, :2, :2] @ (sides / 2) + np.rint(params.translate * sides)
    matrix[:, 2, 2] = 1
    return matrix


def affine_reference(images: torch.Tensor, params: AffineParams) -> torch.Tensor:
    """The definition: torchvision's affine, bilinear, of what differs from the filling."""
    from torchvision.transforms.v2 import functional as F

    fill = fill_of_reference(images, params.fill)
    pixels = np.rint(params.translate * [images.shape[3], images.shape[2]])

    def each(
        image: torch.Tensor, angle: float, translate: list[float], scale: float, shear: list[float]
    ) -> torch.Tensor:
        moved = F.affine(image - fill, angle, translate, scale, shear, F.InterpolationMode.BILINEAR)
        return moved + fill

    return one_by_one(images, _moves(params), each, params.angle, pixels, params.scale, params.shear)


def affine(images: torch.Tensor, params: AffineParams) -> torch.Tensor:
    check_images("affine", images, len(params))
    matrix = affine_matrix(params, images.shape[2:])
    return _through("affine", images, _moves(params), matrix, params.fill, affine_grid)


def _moves(params: AffineParams) -> np.ndarray:
    """(B,) bool: which samples are not left alone."""
    moves: np.ndarray = (params.angle != 0) | (params.scale != 1)
    return moves | (params.translate != 0).any(axis=1) | (params.shear != 0).any(axis=1)


# ---- rotate, shear, translate: affine of one kind of motion, each with a stream of draws of its own

rotate = shear = translate = affine
rotate_reference = shear_reference = translate_reference = affine_reference


def sample_rotate(
    key: Key, index: ArrayLike, *, degrees: Span = 30.0, fill: Fill = 0.0, p: float = 1.0
) -> AffineParams:
    """Uniform in degrees or ±degrees, counter-clockwise, as torchvision's RandomRotation has it; with probability p."""
    params = _draw("rotate", key, index, p, fill, degrees=degrees)
    return replace(params, angle=-params.angle)


def sample_shear(
    key: Key, index: ArrayLike, *, shear: float | Sequence[float] = 15.0, fill: Fill = 0.0, p: float = 1.0
) -> AffineParams:
    """Uniform in shear or ±shear degrees along x, or in four numbers, ranges along x and y; with probability p."""
    return _draw("shear", key, index, p, fill, shear=shear)


def sample_translate(
    key: Key, index: ArrayLike, *, translate: tuple[float, float] = (0.1, 0.1), fill: Fill = 0.0, p: float = 1.0
) -> AffineParams:
    """Uniform in ±translate, shares of the width and of the height; with probability p."""
    return _draw("translate", key, index, p, fill, translate=translate)


# ---- perspective

# Which way the corners, clockwise from the upper left, go inwards, and where they are, in sides.
_INWARDS = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
_CORNERS = (1 - _INWARDS) / 2


@dataclass(frozen=True, eq=False)
class PerspectiveParams:
    """corners: (B, 4, 2) float64 in [0, 1): how far the corners, clockwise from the upper left, move inwards, as shares
    of half the width and half the height. A sample whose corners stay, all 0, is left alone."""

    corners: np.ndarray
    fill: Fill = 0.0

    def __len__(self) -> int:
        return len(self.corners)


def sample_perspective(
    key: Key, index: ArrayLike, *, distortion_scale: float = 0.5, fill: Fill = 0.0, p: float = 0.5
) -> PerspectiveParams:
    """torchvision's RandomPerspective, but for its rounding to whole pixels: each corner moves inwards by up to
    distortion_scale, in [0, 1], of half the sides, uniformly."""
    check_probability(p)
    if not 0 <= distortion_scale <= 1:
        raise ValueError(f"distortion_scale is {distortion_scale}; it must lie in [0, 1]")
    u = uniform(key, np.asarray(index), "perspective", 9)
    corners = np.where(u[:, 8:] < p, distortion_scale * u[:, :8], 0)
    return PerspectiveParams(corners.reshape(-1, 4, 2), checked_fill(fill))


def perspective_matrix(params: PerspectiveParams, size: Sequence[int]) -> np.ndarray:
    """(B, 3, 3) float64: where the pixels of images of size (H, W) go."""
    sides = np.array([size[1], size[0]])
    x, y = (_CORNERS * sides).T
    end = (_CORNERS + _INWARDS * params.corners / 2) * sides
    # Of each corner two equations: (a x + b y + c) − x' (g x + h y) = x', and the same of d, e, f and y'.
    equations = np.zeros((len(params), 4, 2, 8))
    equations[:, :, 0, :3] = equations[:, :, 1, 3:6] = np.stack([x, y, np.ones(4)], axis=1)
    equations[..., 6], equations[..., 7] = -end * x[:, None], -end * y[:, None]
    matrix = np.ones((len(params), 9))
    matrix[:, :8] = np.linalg.solve(equations.reshape(-1, 8, 8), end.reshape(-1, 8, 1))[..., 0]
    return np.where(_leans(params)[:, None, None], matrix.reshape(-1, 3, 3), np.eye(3))


def perspective_reference(images: torch.Tensor, params: PerspectiveParams) -> torch.Tensor:
    """The definition: torchvision's perspective, bilinear, of what differs from the filling."""
    from torchvision.transforms.v2 import functional as F

    fill = fill_of_reference(images, params.fill)
    sides = np.array([images.shape[3], images.shape[2]])
    start, end = (_CORNERS * sides).tolist(), (_CORNERS + _INWARDS * params.corners / 2) * sides
    chosen = _leans(params)
    return one_by_one(images, chosen, lambda image, to: F.perspective(image - fill, start, to) + fill, end)


def perspective(images: torch.Tensor, params: PerspectiveParams) -> torch.Tensor:
    check_images("perspective", images, len(params))
    matrix = perspective_matrix(params, images.shape[2:])
    return _through("perspective", images, _leans(params), matrix, params.fill, _projective_grid)


def _leans(params: PerspectiveParams) -> np.ndarray:
    """(B,) bool: which samples are not left alone."""
    leans: np.ndarray = (params.corners != 0).any(axis=(1, 2))
    return leans


# ---- vertical_flip


class VerticalFlipParams(ChosenParams):
    """chosen: (B,) bool, which samples are turned upside down."""


def sample_vertical_flip(key: Key, index: ArrayLike, *, p: float = 0.5) -> VerticalFlipParams:
    return VerticalFlipParams(draw_chosen(key, index, "vertical_flip", p))


def vertical_flip_matrix(params: VerticalFlipParams, size: Sequence[int]) -> np.ndarray:
    """(B, 3, 3) float64: where the pixels of images of size (H, W) go."""
    upside_down = np.array([[1.0, 0, 0], [0, -1, size[0]], [0, 0, 1]])
    return np.where(params.chosen[:, None, None], upside_down, np.eye(3))


def vertical_flip_reference(images: torch.Tensor, params: VerticalFlipParams) -> torch.Tensor:
    """The definition: torchvision's vertical_flip."""
    from torchvision.transforms.v2.functional import vertical_flip as flipped

    return one_by_one(images, params.chosen, flipped)


def vertical_flip(images: torch.Tensor, params: VerticalFlipParams) -> torch.Tensor:
    return on_rows("vertical_flip", images, params.chosen, lambda rows: rows.flip(2))


# ---- what they share


def inverse_matrix(matrix: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """(B, 3, 3) float32, of matrices as affine_matrix gives them: from a place in the result, in pixels, to where it
    comes from, in [−1, 1] from edge to edge, as grid_sample has it. Inverted in float64 on the host; Kornia's
    warp_perspective does that on the device, in float32."""
    scaled: np.ndarray = np.array([[2 / size[1], 0, -1], [0, 2 / size[0], -1], [0, 0, 1]]) @ np.linalg.inv(matrix)
    return scaled.astype(np.float32)


def affine_grid(inverse: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(n, H, W, 2) for grid_sample. inverse: (n, 3, 3), of inverse_matrix, whose last row is (0, 0, 1)."""
    grid = torch.empty(len(inverse), height, width, 2, device=inverse.device)
    for axis, places in enumerate(_products(inverse[:, :2], height, width)):
        torch.add(*places, out=grid[..., axis])
    return grid


def _projective_grid(inverse: torch.Tensor, height: int, width: int) -> torch.Tensor:
    to_x, to_y, depth = (across + down for across, down in _products(inverse, height, width))
    return torch.stack([to_x / depth, to_y / depth], dim=3)


def _products(inverse: torch.Tensor, height: int, width: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each row of the matrices times (x, y, 1), as two terms: (n, 1, W) and (n, H, 1). Products and sums one by one: a
    matrix product may take another order, and give other last bits, for another number of rows."""
    x = torch.arange(width, device=inverse.device) + 0.5
    y = (torch.arange(height, device=inverse.device) + 0.5)[:, None]
    for row in inverse[..., None, None].unbind(1):
        yield row[:, 0] * x, row[:, 1] * y + row[:, 2]


def _through(
    name: str,
    images: torch.Tensor,
    chosen: np.ndarray,
    matrix: np.ndarray,
    fill: Fill,
    grid: Callable[[torch.Tensor, int, int], torch.Tensor],
) -> torch.Tensor:
    """The chosen rows, seen through matrix (B, 3, 3). grid: which of the two above."""
    height, width = images.shape[2:]
    inverse = inverse_matrix(matrix, (height, width))
    return warp(name, images, chosen, fill, lambda tables: grid(tables, height, width), inverse)
