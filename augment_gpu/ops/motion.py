"""Where points go when pixels are moved: forwards, as boxes and keypoints need it, and back, as masks do.

Points are (..., 2) float64, x and y in pixels, of which pixel j covers [j, j + 1). With them come the rows of the batch
that they belong to, (...) int64 or one number.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from augment_gpu.ops.boxes import CropParams
from augment_gpu.ops.elastic import ElasticParams, elastic_field

Move = Callable[[np.ndarray, np.ndarray | int], np.ndarray]

# Of the search for a point's place in an elastic field: when it is found, in pixels, and how often it is corrected.
_NEAR = 1e-4
_CORRECTIONS = 100

# How far past the picture's edge a point still counts as on it: what rounding makes.
_EDGE = 1e-6


class Motion(NamedTuple):
    """moves: (B,) bool, the rows that are not left alone; nothing may be asked of others. there, back: points to where
    they go, and to where they come from. pieces: of a line, which are straight afterwards as well."""

    moves: np.ndarray
    there: Move
    back: Move
    pieces: int = 1


def crop_motion(crop: CropParams, size: int) -> Motion:
    """What crop_resize_flip does: from the source image to the picture of `size`."""
    corners = crop.box.astype(np.float64)
    start, sides = corners[:, :2], corners[:, 2:] - corners[:, :2]

    def mirrored(points: np.ndarray, rows: np.ndarray | int) -> np.ndarray:
        x, y = points[..., 0], points[..., 1]
        return np.stack([np.where(crop.flip[rows], size - x, x), y], axis=-1)

    def there(points: np.ndarray, rows: np.ndarray | int) -> np.ndarray:
        return mirrored((points - start[rows]) * size / sides[rows], rows)

    def back(points: np.ndarray, rows: np.ndarray | int) -> np.ndarray:
        # Multiplied before it is divided, as crop_resize_flip does: a centre on a pixel's edge lies there exactly.
        return start[rows] + mirrored(points, rows) * sides[rows] / size

    return Motion(np.ones(len(crop), dtype=bool), there, back)


def projective_motion(matrix: np.ndarray) -> Motion:
    """What (B, 3, 3) says, the identity being a row that is left alone."""
    return Motion((matrix != np.eye(3)).any(axis=(1, 2)), _through(matrix), _through(np.linalg.inv(matrix)))


def _through(matrix: np.ndarray) -> Move:
    def move(points: np.ndarray, rows: np.ndarray | int) -> np.ndarray:
        across, down, constant = np.moveaxis(matrix[rows], -1, 0)
        moved = across * points[..., :1] + (down * points[..., 1:] + constant)
        with np.errstate(divide="ignore", invalid="ignore"):  # what lies on the horizon is in no picture
            return moved[..., :2] / moved[..., 2:]

    return move


def elastic_motion(params: ElasticParams, size: tuple[int, int]) -> Motion:
    """What elastic does to pictures of size (H, W). Back it is exact. There the place is sought that the field pulls
    the point from: found to 1e-4 pixels where the field is one-to-one. Fields of alpha above about 4 sigma² fold here
    and there, and show a point in several places: then one of these is given, to 1e-2 pixels; or in far stronger
    fields, where none was found, the pixel that comes nearest."""
    field, chosen = elastic_field(params, size), params.alpha > 0
    place = np.cumsum(chosen) - 1  # of a row in the field

    def push(points: np.ndarray, rows: np.ndarray | int) -> np.ndarray:
        return _sampled(field, points, place[rows])

    def there(points: np.ndarray, rows: np.ndarray | int) -> np.ndarray:
        wanted, rows = points.reshape(-1, 2), np.broadcast_to(rows, points.shape[:-1]).reshape(-1)
        found, pending = wanted - push(wanted, rows), np.arange(len(wanted))
        for _ in range(_CORRECTIONS):
            miss = wanted[pending] - found[pending] - push(found[pending], rows[pending])
            far = np.abs(miss).max(axis=1) >= _NEAR
            pending = pending[far]
            found[pending] += miss[far] / 2  # by halves it also converges where neighbours are pushed well apart
        miss = wanted[pending] - found[pending] - push(found[pending], rows[pending])
        for point in pending[np.abs(miss).max(axis=1) > 0.5]:
            found[point] = _nearest(field[place[rows[point]]], wanted[point])
        return found.reshape(points.shape)

    pieces = math.ceil(2 * max(size) / params.sigma)
    return Motion(chosen, there, lambda points, rows: points + push(points, rows), pieces)


def _sampled(field: np.ndarray, points: np.ndarray, rows: np.ndarray | int) -> np.ndarray:
    """The field (n, H, W, 2) at points, bilinearly; beyond the outermost centres as it is there."""
    sides = np.array(field.shape[2:0:-1])
    position = np.clip(points - 0.5, 0, sides - 1)
    low = position.astype(np.int64)
    high = np.minimum(low + 1, sides - 1)
    (left, top), (right, bottom) = np.moveaxis(low, -1, 0), np.moveaxis(high, -1, 0)
    across, down = np.split(position - low, 2, axis=-1)
    above = (1 - across) * field[rows, top, left] + across * field[rows, top, right]
    below = (1 - across) * field[rows, bottom, left] + across * field[rows, bottom, right]
    return (1 - down) * above + down * below


def _nearest(field: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The centre of the pixel whose place in the field (H, W, 2) is nearest to a point."""
    centres = pixel_centres(field.shape[:2])
    y, x = np.unravel_index(((centres + field - point) ** 2).sum(axis=2).argmin(), field.shape[:2])
    return centres[y, x]


def pixel_centres(size: tuple[int, int]) -> np.ndarray:
    """(H, W, 2) float64."""
    return np.stack(np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5), axis=-1)


def in_picture(points: np.ndarray, size: int) -> np.ndarray:
    """(...) bool: which points lie in [0, size], on either axis. NaN does not."""
    return np.all((points >= -_EDGE) & (points <= size + _EDGE), axis=-1)
