"""Polygons, many at once: (M, K, 2) float64, corners in order. One of fewer than K corners repeats its last one, which
changes neither its shape nor its area."""

import numpy as np

# How far an edge on the square's may seem to reach into it, from rounding.
_TOUCHING = 1e-6


def rectangles(boxes: np.ndarray) -> np.ndarray:
    """(M, 4), x0 y0 x1 y1, as (M, 4, 2)."""
    return boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)


def envelopes(polygons: np.ndarray) -> np.ndarray:
    """(M, 4), x0 y0 x1 y1."""
    return np.concatenate([polygons.min(axis=1), polygons.max(axis=1)], axis=1)


def areas(polygons: np.ndarray) -> np.ndarray:
    """(M,), by the shoelace formula, seen from the first corner: far from the origin nothing is lost."""
    x, y = np.moveaxis(polygons - polygons[:, :1], -1, 0)
    return np.abs((x * np.roll(y, -1, axis=1) - np.roll(x, -1, axis=1) * y).sum(axis=1)) / 2


def subdivided(polygons: np.ndarray, pieces: int) -> np.ndarray:
    """With each edge in so many pieces of one length: (M, pieces · K, 2)."""
    edges = np.roll(polygons, -1, axis=1) - polygons
    corners = polygons[:, :, None] + np.arange(pieces)[:, None] / pieces * edges[:, :, None]
    return corners.reshape(len(polygons), pieces * polygons.shape[1], 2)


def clipped(polygons: np.ndarray, size: float) -> np.ndarray:
    """What of them lies in the square from 0 to `size` (Sutherland & Hodgman 1974). Of one that lies outside, or only
    touches the square, one point is left, without an area."""
    for axis in (0, 1):
        polygons = _half_plane(polygons, axis, 0, 1)
        polygons = _half_plane(polygons, axis, size, -1)
    return polygons


def _half_plane(polygons: np.ndarray, axis: int, border: float, side: int) -> np.ndarray:
    """What of them lies where the coordinate is at least the border (side 1) or at most (side −1)."""
    distance = side * (polygons[..., axis] - border)
    inside = distance >= 0
    inside &= (distance > _TOUCHING).any(axis=1, keepdims=True)
    if inside.all():
        return polygons
    crosses = inside != np.roll(inside, -1, axis=1)
    drop = np.where(crosses, distance - np.roll(distance, -1, axis=1), 1)
    crossing = polygons + (distance / drop)[..., None] * (np.roll(polygons, -1, axis=1) - polygons)
    crossing[..., axis] = border  # exactly
    # After each corner comes the crossing of the edge that begins there; of both those that exist are kept, in order.
    corners = np.stack([polygons, crossing], axis=2).reshape(len(polygons), -1, 2)
    exists = np.stack([inside, crosses], axis=2).reshape(len(polygons), -1)
    count = exists.sum(axis=1)
    place = np.minimum(np.arange(max(count.max(), 1)), np.maximum(count - 1, 0)[:, None])
    order = np.take_along_axis(np.argsort(~exists, axis=1, kind="stable"), place, axis=1)
    kept = np.take_along_axis(corners, order[..., None], axis=1)
    return np.where(count[:, None, None] > 0, kept, 0)
