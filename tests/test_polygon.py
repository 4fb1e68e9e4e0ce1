"""Polygons: areas and what a square leaves of them, by hand and by counting points."""

import math

import numpy as np
import pytest

from augment_gpu.ops.polygon import areas, clipped, envelopes, rectangles, subdivided

DIAMOND = [[5, -3], [13, 5], [5, 13], [-3, 5]]  # of half-diagonal 8 about (5, 5): 128 square pixels


def test_of_a_diamond_on_a_square_an_octagon_is_left() -> None:
    """Off each corner goes a triangle of height 3 and base 6."""
    left = clipped(np.array([DIAMOND], dtype=float), 10)
    assert areas(left) == pytest.approx([128 - 4 * 9])
    assert envelopes(left)[0] == pytest.approx([0, 0, 10, 10])


def test_the_smaller_shapes_of_a_batch_are_untouched_by_the_larger() -> None:
    """A diamond becomes eight corners; beside it a rectangle inside, one partly outside, one wholly, one without an
    area, one that touches the square along an edge, of which a point is left."""
    boxes = np.array([[1, 2, 4, 9], [7, -5, 30, 4], [11, 2, 14, 9], [3, 3, 3, 8], [10, 1, 12, 9]], dtype=float)
    left = clipped(np.concatenate([rectangles(boxes), [DIAMOND]]), 10)
    assert areas(left) == pytest.approx([21, 12, 0, 0, 0, 92])
    assert envelopes(left)[[0, 1, 3]] == pytest.approx(np.array([[1, 2, 4, 9], [7, 0, 10, 4], [3, 3, 3, 8]]))
    assert (left[4] == left[4, 0]).all()


def test_a_dented_shape_may_fall_apart() -> None:
    """A V whose point lies below the square: two arms, each a parallelogram 2 wide and 10 high."""
    shape = [[0, 0], [2, 0], [5, 15], [8, 0], [10, 0], [6, 20], [4, 20]]
    left = clipped(np.array([shape], dtype=float), 10)
    y, x = np.mgrid[:2000, :2000] / 200 + 1 / 400
    inner = (x > 2 + y / 5) & (x < 8 - y / 5)  # between the arms
    outer = (x > y / 5) & (x < 10 - y / 5)
    assert areas(left)[0] == pytest.approx((outer & ~inner).mean() * 100, abs=0.05)
    assert envelopes(left)[0] == pytest.approx([0, 0, 10, 10])


def test_random_quadrangles_against_points_counted() -> None:
    """Convex ones, about the square's corner and edges: 10⁴ points tell an area to some tenths."""
    random = np.random.default_rng(0)
    angle = np.sort(random.uniform(0, 2 * math.pi, (40, 4)), axis=1)
    centre = random.uniform(-2, 12, (40, 1, 2))
    shapes = centre + 6 * np.stack([np.cos(angle), np.sin(angle)], axis=2)  # on a circle, so convex
    points = np.stack(np.meshgrid(*2 * [np.arange(0.05, 10, 0.1)]), axis=2).reshape(-1, 1, 2)
    for shape, area, box in zip(shapes, areas(clipped(shapes, 10)), envelopes(clipped(shapes, 10)), strict=True):
        edge, to = np.roll(shape, -1, axis=0) - shape, points - shape
        inside = points[(edge[:, 0] * to[..., 1] - edge[:, 1] * to[..., 0] >= 0).all(axis=1), 0]
        assert area == pytest.approx(len(inside) / 100, abs=0.6)
        if len(inside):
            assert (box[:2] <= inside.min(axis=0) + 1e-9).all()
            assert (box[2:] >= inside.max(axis=0) - 1e-9).all()


def test_subdividing_keeps_the_shape() -> None:
    shapes = np.array([DIAMOND, [[0, 0], [1, 0], [1, 1], [0, 1]]], dtype=float)
    fine = subdivided(shapes, 5)
    steps = np.hypot(*np.moveaxis(np.roll(fine, -1, axis=1) - fine, -1, 0))
    assert steps == pytest.approx(np.repeat([[8 * math.sqrt(2) / 5], [1 / 5]], 20, axis=1))
    assert areas(fine) == pytest.approx([128, 1])
    assert (subdivided(shapes, 1) == shapes).all()


def test_none() -> None:
    nothing = rectangles(np.empty((0, 4)))
    assert subdivided(clipped(nothing, 10), 3).shape == (0, 12, 2)
    assert areas(nothing).shape == (0,)
    assert envelopes(nothing).shape == (0, 4)
