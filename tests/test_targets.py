"""Boxes, keypoints and masks: real pixels are moved by a stage, and found where the targets say."""

import contextlib
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

import augment_gpu as ag
from augment_gpu.ops.elastic import elastic_field
from augment_gpu.ops.motion import elastic_motion
from augment_gpu.ops.policy import POLICY_OPS, PolicyParams
from augment_gpu.recipe import OPS

pytestmark = pytest.mark.usefixtures("threads")

SIZE = 64
# Sides by which the crop enlarges, shrinks, and does one of each; 64 is the output's own.
SIDES = [(33, 47), (64, 64), (17, 211), (150, 90), (301, 203)]
MOVES: dict[str, dict[str, Any]] = {
    "affine": {"degrees": 40, "translate": (0.2, 0.1), "scale": (0.7, 1.3), "shear": (-20, 20, -10, 10)},
    "rotate": {"degrees": (10, 170)},
    "shear": {"shear": 30},
    "translate": {"translate": (0.3, 0.2)},
    "perspective": {"distortion_scale": 0.6, "p": 0.8},
    "vertical_flip": {"p": 0.6},
    "elastic": {"alpha": 20.0, "sigma": 3.0, "p": 0.8},
}
POLICIES: dict[str, dict[str, Any]] = {
    "auto_augment": {"interpolation": "bilinear"},
    "rand_augment": {"interpolation": "bilinear", "num_ops": 3, "magnitude": 15},
    "trivial_augment_wide": {"interpolation": "bilinear"},
    "timm_augment": {"auto_augment": "rand-m9-n3-p1-mstd1", "fill": 0.0},
}
# Alone; and all of them, among ops that move nothing.
GENTLE = ("affine", {"degrees": 20, "scale": (0.8, 1.0)}), ("perspective", {"distortion_scale": 0.3})
OPTIONS: dict[str, dict[str, Any]] = {
    "crop": {},
    "crop, exact": {"exact": True},
    "crop, bicubic, mirrored": {"interpolation": "bicubic", "flip": 1.0},
    "scale jitter": {"crop": "scale_jitter", "short_side": (SIZE, 90)},
    "center": {"crop": "center", "flip": "alternate"},
    **{name: {"ops": ((name, options),)} for name, options in (MOVES | POLICIES).items()},
    "everything": {
        "scale": (0.5, 1.0),
        "color_twist": {"brightness": 0.2},
        "ops": (
            ("gaussian_blur", {"kernel_size": 3}),
            ("vertical_flip", {}),
            *GENTLE,
            ("elastic", MOVES["elastic"]),
            ("rotate", {"degrees": 15}),
            ("color_jitter", {"brightness": 0.2}),
        ),
    },
}
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


def recipe(**options: Any) -> ag.Recipe:
    return ag.Recipe(**{"size": SIZE, "mean": None, "std": None, **options})


def sides_of(count: int) -> list[tuple[int, int]]:
    return [SIDES[i % len(SIDES)] for i in range(count)]


def pictures(images: list[np.ndarray], made: ag.Recipe, training: bool = True) -> tuple[np.ndarray, Any]:
    """What a stage makes of (H, W) images, (B, S, S), and its draws."""
    stage = ag.Stage(made, seed=3).train(training)
    batch = ag.RaggedBatch.from_images([np.repeat(image[:, :, None], 3, axis=2) for image in images])
    draws = stage.draw(batch, index=np.arange(len(images)), epoch=1)
    draws = replace(draws, ops=tuple(moves_of(params) for params in draws.ops))
    return stage(batch, draws=draws)[0][:, 1].numpy(), draws


def moves_of(params: Any) -> Any:
    """Of a policy the ops that move pixels: of dots and patches equalize and invert would leave nothing."""
    if not isinstance(params, PolicyParams):
        return params
    moves = [number for number, name in enumerate(POLICY_OPS) if name.startswith(("shear", "translate", "rotate"))]
    return replace(params, op=np.where(np.isin(params.op, moves), params.op, POLICY_OPS.index("identity")))


def drawn(box: Any, flip: bool = False, taps: Any = "box", *ops: Any) -> Any:
    """Draws of one image, by hand."""
    return ag.Draws(ag.CropParams(np.array([0]), np.array([box]), np.array([flip]), taps), ops=ops)


def affine(angle: float = 0.0, translate: tuple[float, float] = (0, 0)) -> ag.AffineParams:
    return ag.AffineParams(np.array([angle]), np.array([translate]), np.ones(1), np.zeros((1, 2)))


# ---- planted pixels


@options
@pytest.mark.parametrize("training", [True, False])
def test_a_planted_dot_is_found_where_the_keypoint_says(options: dict[str, Any], training: bool) -> None:
    """Of 3 × 3 pixels, or larger where the image is shrunk: of an image's grid the middle, the borders and others."""
    random, images, points, dots = np.random.default_rng(0), [], [], []
    for height, width in sides_of(60):
        reach = 1 + min(height, width) // 100
        y, x = random.integers(reach, height - reach), random.integers(reach, width - reach)
        image = np.zeros((height, width), dtype=np.uint8)
        image[y - reach : y + reach + 1, x - reach : x + reach + 1] = 255
        images.append(image)
        points.append([[x + 0.5, y + 0.5]])
        dots.append([x - reach, y - reach, x + reach + 1, y + reach + 1])
    made = recipe(**options)
    seen, draws = pictures(images, made, training)
    moved, visible = ag.move_keypoints(points, draws, made)
    centre = np.arange(SIZE) + 0.5
    whole = ((dots - draws.crop.box) * [1, 1, -1, -1] >= 0).all(axis=1)  # not cut off by the crop
    bends = training and any(name == "elastic" for name, _ in made.ops)  # a dot, out of shape
    found = 0
    for picture, (point,), (there,), complete in zip(seen, moved, visible, whole, strict=True):
        if not there:
            # Less than half of it, if its centre is outside; enlarged, it is some hundred pixels
            assert picture.sum() < 60
            assert (point == 0).all()
            continue
        mass = picture.sum()
        bright = np.argwhere(picture > 0.02)
        assert len(bright), "a visible keypoint, and nothing to be seen"
        if complete and bright.min() > 0 and bright.max() < SIZE - 1:  # nor by an op
            light = [(picture.sum(axis=0) * centre).sum() / mass, (picture.sum(axis=1) * centre).sum() / mass]
            assert point == pytest.approx(light, abs=1 if bends else 0.25)
            found += 1
    assert found >= 12


@options
def test_a_filled_box_is_bounded_by_the_moved_one(options: dict[str, Any]) -> None:
    random, images, boxes = np.random.default_rng(1), [], []
    for height, width in sides_of(40):
        y0, x0 = random.integers(0, [height, width])
        y1, x1 = random.integers([y0, x0], [height, width]) + 1
        image = np.zeros((height, width), dtype=np.uint8)
        image[y0:y1, x0:x1] = 255
        images.append(image)
        boxes.append(np.array([[x0, y0, x1, y1]]))
    made = recipe(**options)
    seen, draws = pictures(images, made)
    moved, _, kept = ag.move_boxes(boxes, draws, made, min_size=4)
    found = 0
    for picture, (box,) in [(picture, part) for picture, part in zip(seen, moved, strict=True) if len(part)]:
        # Light ends within half a pixel of an edge; at a sharp corner half the light ends before, and none behind.
        bright, lit = (envelope(picture > level * picture.max()) for level in (0.5, 0.02))
        assert (box[:2] < bright[:2] + 0.75).all()
        assert (box[2:] > bright[2:] - 0.75).all()
        assert (box[:2] > lit[:2] - 0.5).all()
        assert (box[2:] < lit[2:] + 0.5).all()
        if not made.ops:
            assert box == pytest.approx(bright, abs=0.51)
        found += 1
    assert found >= 12
    assert sum(map(len, kept)) == found


def envelope(bright: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(bright)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


@options
@pytest.mark.parametrize("training", [True, False])
def test_a_mask_goes_where_the_pixels_go(options: dict[str, Any], training: bool) -> None:
    """Large patches of two classes, as black and white; what comes from outside is grey, and class 255. Picture and
    mask differ along the borders of the patches alone, and more so when either is shifted by a pixel, equally to either
    side."""
    images = []
    for number, (height, width) in enumerate(sides_of(20)):
        patches = torch.rand(1, 1, 4, 5, generator=torch.Generator().manual_seed(number))
        images.append((nn.interpolate(patches, (height, width), mode="bicubic")[0, 0] > 0.5).numpy().astype(np.uint8))
    ops = [
        (name, given if name == "vertical_flip" else {**given, "fill": 0.5})
        for name, given in options.get("ops", ())
        if name in MOVES | POLICIES
    ]
    made = recipe(**{**options, "color_twist": None, "ops": tuple(ops)})
    seen, draws = pictures([255 * image for image in images], made, training)
    moved = np.stack(ag.move_masks(images, draws, made, fill=255))
    assert moved.dtype == np.uint8
    wanted = np.where(moved == 255, 0.5, moved)
    alike = torch.from_numpy(wanted)[:, None]
    same = (nn.max_pool2d(alike, 3, 1, 1) == -nn.max_pool2d(-alike, 3, 1, 1))[:, 0].numpy()
    assert same.mean() > 0.75
    # Of strips narrower than a pixel of the output a mask may see nothing.
    assert np.quantile(np.abs(seen - wanted)[same], 0.99) < 0.15
    inner = np.s_[:, 4:-4, 4:-4]
    here, left, right, above, below = (
        np.abs(seen - np.roll(wanted, shift, axis=(1, 2)))[inner].mean()
        for shift in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0))
    )
    assert here < 0.8 * min(left, right, above, below)
    assert left == pytest.approx(right, rel=0.15)
    assert above == pytest.approx(below, rel=0.15)
    if training and any(op[0] in ("rotate", "translate") for op in made.ops):
        assert 0.02 < (moved == 255).mean() < 0.6


@pytest.mark.parametrize("taps", ["box", "image"])
def test_after_the_crop_masks_are_those_of_nearest(taps: str) -> None:
    """To the bit; at 2 : 1 and 1 : 1 centres lie on the edges of pixels."""
    random = np.random.default_rng(0)
    masks = [random.integers(0, 256, (height, width), dtype=np.uint8) for height, width in sides_of(9)]
    batch = ag.RaggedBatch.from_images(masks)
    whole = np.array([[0, 0, mask.shape[1], mask.shape[0]] for mask in masks])
    for box in (
        whole * [[0.11, 0.07, 0.93, 0.61]],
        np.tile([2, 1, 18, 17], (9, 1)),
        np.tile([1, 0, 33, 16], (9, 1)),
        whole,
    ):
        crop = ag.CropParams(np.arange(9), np.minimum(box, whole), np.arange(9) % 2 == 1, taps)  # type: ignore[arg-type]
        wanted = ag.crop_resize_flip(batch, crop, size=16, interpolation="nearest")
        moved = ag.move_masks(masks, ag.Draws(crop), ag.Recipe(size=16))
        assert (np.stack(moved) == (wanted[:, 0] * 255).round().byte().numpy()).all()


@pytest.mark.parametrize("name", MOVES | POLICIES)
def test_keypoints_masks_and_boxes_agree(name: str) -> None:
    """On an image of the output's size, uncropped: 49 points as 49 pixels of a mask, and as boxes of one pixel, which
    stay within a pixel of each other, shrunk to nothing or spread over several pixels as they may be."""
    y, x = (place.ravel() for place in np.mgrid[4:60:9, 4:60:9])
    mask = np.zeros((len(x), SIZE, SIZE), dtype=bool)
    mask[np.arange(len(x)), y, x] = True
    always = {} if name == "timm_augment" else {"p": 1.0}
    made = recipe(ops=((name, {**(MOVES | POLICIES)[name], **always}),))
    for sample in range(4):
        draws = drawn([0, 0, SIZE, SIZE], sample % 2 == 1, "box", OPS[name][0](ag.Key(1), [sample], **made.ops[0][1]))
        points, visible = ag.move_keypoints([np.stack([x, y], axis=1) + 0.5], draws, made)
        boxes, _, kept = ag.move_boxes([np.stack([x, y, x + 1, y + 1], axis=1)], draws, made, min_size=0)
        masks = ag.move_masks([mask], draws, made)
        assert len(np.setxor1d(kept[0], np.flatnonzero(visible[0]))) < 5  # half in sight
        for box, place in zip(boxes[0], kept[0], strict=True):
            point = points[0][place]
            if visible[0][place]:
                assert (box[:2] < point).all()
                assert (box[2:] > point).all()
            lit = np.argwhere(masks[0][place])[:, ::-1]
            assert (np.abs(lit + 0.5 - (box[:2] + box[2:]) / 2) <= (box[2:] - box[:2]) / 2 + 1e-4).all()
        assert visible[0].sum() > 20


# ---- by hand


def test_a_box_is_clipped_to_the_crop_and_scaled() -> None:
    """A crop of 20 × 40 made 40 × 40: across by 2, down by 1. Of the first box 10 × 20 of 15 × 30 pixels are in it, of
    the second 0.4 × 5, of the third nothing; the last covers the crop."""
    boxes = [[[5, 10, 20, 40], [29.6, 30, 50, 35], [0, 0, 10, 20], [0, 0, 100, 100]]]
    labels = [["cat", "dog", "cow", "sky"]]
    settings = recipe(size=40)
    moved = ag.move_boxes(boxes, drawn([10, 20, 30, 60]), settings, labels=labels, min_size=0)
    assert moved.boxes[0] == pytest.approx(np.array([[0, 0, 20, 20], [39.2, 10, 40, 15], [0, 0, 40, 40]]), abs=1e-4)
    assert moved.labels is not None
    assert moved.labels[0].tolist() == ["cat", "dog", "sky"]
    assert moved.kept[0].tolist() == [0, 1, 3]
    mirrored = ag.move_boxes(boxes, drawn([10, 20, 30, 60], flip=True), settings)
    assert mirrored.boxes[0] == pytest.approx(np.array([[20, 0, 40, 20], [0, 0, 40, 40]]))  # 0.8 is below min_size
    assert mirrored.labels is None
    for share, kept in ((0.44, [0]), (0.45, [])):  # 200 of 450; 800 of 10000
        assert ag.move_boxes(boxes, drawn([10, 20, 30, 60]), settings, min_visibility=share).kept[0].tolist() == kept
    for side, kept in ((20, [0, 3]), (20.1, [3]), (41, [])):
        assert ag.move_boxes(boxes, drawn([10, 20, 30, 60]), settings, min_size=side).kept[0].tolist() == kept


def test_a_quarter_turn_clockwise() -> None:
    """(x, y) goes to (40 − y, x)."""
    settings, draws = recipe(size=40, ops=(("rotate", {}),)), drawn([0, 0, 40, 40], False, "box", affine(90))
    boxes = [[[5, 10, 8, 30], [-3, 10, 0, 30], [40, 10, 43, 30]]]  # two touch the picture from outside
    moved = ag.move_boxes(boxes, draws, settings, min_size=0)
    assert moved.boxes[0] == pytest.approx(np.array([[10, 5, 30, 8]]))
    points, visible = ag.move_keypoints([[[5, 10], [0, 0], [40, 40], [40.5, 3]]], draws, settings)
    assert points[0] == pytest.approx(np.array([[30, 5], [40, 0], [0, 40], [0, 0]]))
    assert visible[0].tolist() == [True, True, True, False]  # what lies on the picture's edge is in it
    mask = np.arange(1600).reshape(40, 40)
    assert (ag.move_masks([mask], draws, settings)[0] == np.rot90(mask, -1)).all()


def test_an_eighth_of_a_turn_of_the_whole_picture_leaves_an_octagon() -> None:
    """Of area 2 (√2 − 1), 0.828, of it, whose box is the picture; a square within, whose half side is 10, gets a half
    side of 10 √2."""
    settings, draws = recipe(size=40, ops=(("rotate", {}),)), drawn([0, 0, 40, 40], False, "box", affine(45))
    boxes = [[[0, 0, 40, 40], [10, 10, 30, 30]]]
    moved = ag.move_boxes(boxes, draws, settings, min_visibility=0.826)
    half = 10 * math.sqrt(2)
    assert moved.boxes[0] == pytest.approx(np.array([[0, 0, 40, 40], [20 - half, 20 - half, 20 + half, 20 + half]]))
    assert ag.move_boxes(boxes, draws, settings, min_visibility=0.831).kept[0].tolist() == [1]
    assert ag.move_masks([np.ones((40, 40))], draws, settings)[0].mean() == pytest.approx(0.828, abs=0.01)


@pytest.mark.parametrize("name", ["affine", "rotate", "shear", "translate", "perspective"])
def test_boxes_wholly_in_sight_are_torchvisions(name: str) -> None:
    y, x = (place.ravel() for place in np.mgrid[22:36:6, 18:38:7])
    boxes = np.stack([x, y, x + 7, y + 4], axis=1).astype(np.float32)
    options = {**MOVES[name], "p": 1.0}
    params = OPS[name][0](ag.Key(2), np.arange(8), **options)
    crop = ag.CropParams(np.arange(8), np.tile([0, 0, SIZE, SIZE], (8, 1)), np.zeros(8))
    made = recipe(ops=((name, options),))
    moved, _, kept = ag.move_boxes([boxes] * 8, ag.Draws(crop, ops=(params,)), made, min_size=0)
    for row in range(8):
        given = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(SIZE, SIZE))  # type: ignore[call-arg]
        if name == "perspective":
            start = [[0, 0], [SIZE, 0], [SIZE, SIZE], [0, SIZE]]
            ends = ag.perspective_matrix(params, (SIZE, SIZE))[row] @ np.array([[*corner, 1] for corner in start]).T
            wanted = F.perspective(given, start, (ends[:2] / ends[2]).T.tolist())
        else:
            pixels = np.rint(params.translate[row] * SIZE).tolist()
            wanted = F.affine(given, params.angle[row], pixels, params.scale[row], params.shear[row].tolist())
        inside = ((wanted > 0.5) & (wanted < SIZE - 0.5)).all(dim=1).numpy()
        assert inside[kept[row]].sum() > 2
        here = [list(kept[row]).index(place) for place in np.flatnonzero(inside)]
        assert moved[row][here] == pytest.approx(wanted[inside].numpy(), abs=1e-3)


def test_what_an_op_moves_out_of_sight_does_not_come_back() -> None:
    """Half the width to the right, and back again; of the middle third its left half is left."""
    settings = recipe(size=60, ops=(("translate", {}), ("affine", {})))
    draws = drawn([0, 0, 60, 60], False, "box", affine(0, (0.5, 0)), affine(0, (-0.5, 0)))
    boxes = [np.array([[40, 10, 50, 20], [20, 10, 40, 20], [2, 3, 4, 5]], dtype=np.float64)]
    moved = ag.move_boxes(boxes, draws, settings)
    assert moved.boxes[0] == pytest.approx(np.array([[20, 10, 30, 20], [2, 3, 4, 5]]))
    points, visible = ag.move_keypoints([[[40, 10], [20, 10]]], draws, settings)
    assert points[0].tolist() == [[0, 0], [20, 10]]
    assert visible[0].tolist() == [False, True]
    mask = ag.move_masks([np.ones((60, 60), dtype=np.int64)], draws, settings, fill=-1)[0]
    assert (mask[:, :30] == 1).all()
    assert (mask[:, 30:] == -1).all()


def test_a_box_wholly_in_sight_is_wholly_visible() -> None:
    """Whatever rounding says: nothing is lost to min_visibility=1."""
    for name in MOVES:
        made = recipe(ops=((name, {**MOVES[name], "p": 1.0}),))
        draws = ag.Stage(made).draw(torch.zeros(16, 3, SIZE, SIZE), index=np.arange(16))
        whole = ag.Draws(
            ag.CropParams(np.arange(16), np.tile([0, 0, SIZE, SIZE], (16, 1)), np.zeros(16)), ops=draws.ops
        )
        boxes = np.tile([[30, 30, 32.5, 31], [28, 27, 36, 37]], (16, 1, 1))
        for kept in ag.move_boxes(boxes, whole, made, min_size=0, min_visibility=1).kept:
            assert kept.tolist() == [0, 1], name


@pytest.mark.parametrize(("alpha", "error"), [(75.0, 1e-4), (150.0, 0.03), (2000.0, 3.0)])
def test_an_elastic_field_is_inverted(alpha: float, error: float) -> None:
    """One-to-one; folded here and there; and torn to pieces, where some pixel near by is found."""
    params = ag.sample_elastic(ag.Key(1), np.arange(3), alpha=alpha)
    field, motion = elastic_field(params, (120, 130)), elastic_motion(params, (120, 130))
    stretch = np.diff(field[..., 0], axis=2)
    assert (stretch.min() > -1) == (alpha < 100)
    points, rows = np.random.default_rng(0).uniform(30, 90, (400, 2)), np.arange(400) % 3
    there = motion.there(points, rows)
    assert np.abs(there - points).max() > 1
    missed = np.abs(motion.back(there, rows) - points).max(axis=1)
    assert np.quantile(missed, 0.97) < error
    assert missed.max() < 2 * error


# ---- what goes in and comes out


def test_images_without_anything_and_empty_batches() -> None:
    made = recipe(ops=(("rotate", {}), ("elastic", {"sigma": 3.0})))
    draws = ag.Stage(made).draw(torch.zeros(3, 3, 40, 50), index=[0, 1, 2])
    boxes, labels, kept = ag.move_boxes([[], np.empty((0, 4)), [[20, 20, 30, 30]]], draws, made, labels=[[], [], [7]])
    assert [part.shape for part in boxes] == [(0, 4), (0, 4), (1, 4)]
    assert labels is not None
    assert [len(part) for part in labels] == [0, 0, 1]
    assert [len(part) for part in kept] == [0, 0, 1]
    points, visible = ag.move_keypoints([[], np.empty((0, 17, 2)), [[20, 20]]], draws, made)
    assert [part.shape for part in points] == [(0, 2), (0, 17, 2), (1, 2)]
    assert [part.shape for part in visible] == [(0,), (0, 17), (1,)]
    masks = ag.move_masks([np.zeros((0, 40, 50)), np.zeros((40, 50)), np.zeros((2, 40, 50))], draws, made)
    assert [part.shape for part in masks] == [(0, SIZE, SIZE), (SIZE, SIZE), (2, SIZE, SIZE)]
    for settings in (made, recipe()):
        nothing = ag.Stage(settings).draw([], index=[])
        assert ag.move_boxes([], nothing, settings, labels=[]) == ([], [], [])
        assert ag.move_keypoints([], nothing, settings) == ([], [])
        assert ag.move_masks([], nothing, settings) == []


def test_a_type_comes_back() -> None:
    draws, settings = drawn([0, 0, 32, 32]), recipe()
    for given, wanted in (
        ([[1, 2, 3, 4]], np.float32),
        (np.array([[1, 2, 3, 4]]), np.float32),
        (np.ones((1, 4), dtype=np.float64), np.float64),
        (torch.tensor([[1, 2, 3, 4]]), torch.float32),
        (torch.ones(1, 4, dtype=torch.float64), torch.float64),
    ):
        moved, labels, _ = ag.move_boxes([given], draws, settings, labels=[torch.tensor([5])], min_size=0)
        points, _ = ag.move_keypoints([given[:, :2] if not isinstance(given, list) else [[1, 2]]], draws, settings)
        assert moved[0].dtype == points[0].dtype == wanted
        assert labels is not None
        assert isinstance(labels[0], torch.Tensor)
    read_only = np.ones((2, 32, 32), dtype=np.uint16)
    read_only.flags.writeable = False
    turned = recipe(ops=(("rotate", {}),))
    turn = drawn([0, 0, 32, 32], False, "box", affine(30))
    for mask in (
        np.ones((32, 32), dtype=bool),
        torch.ones(3, 32, 32, dtype=torch.int64),
        np.ones((32, 32))[::-1],
        read_only,
    ):
        for moved_mask in (*ag.move_masks([mask], draws, settings), *ag.move_masks([mask], turn, turned, fill=False)):
            assert type(moved_mask) is type(mask)
            assert moved_mask.dtype == mask.dtype
            assert moved_mask.shape == (*mask.shape[:-2], SIZE, SIZE)
    assert np.isnan(ag.move_masks([np.ones((32, 32))], turn, turned, fill=math.nan)[0][0, 0])
    coco = [torch.tensor([[2, 1, 0, 2]])]
    points, visible = ag.move_keypoints(
        [torch.tensor([[[3, 3], [4, 4], [5, 5], [33, 3]]])], draws, settings, visibility=coco
    )
    assert visible[0].tolist() == [[2, 1, 0, 0]]
    assert points[0].tolist() == [[[6, 6], [8, 8], [0, 0], [0, 0]]]


def test_inputs_are_not_changed() -> None:
    made = recipe(ops=(("rotate", {}),))
    draws = ag.Stage(made).draw(torch.zeros(1, 3, 40, 40), index=[0])
    box, point, mask, flag = torch.tensor([[1.0, 2, 30, 40]]), np.array([[3.0, 4]]), np.eye(40), np.array([2])
    copies = box.clone(), point.copy(), mask.copy(), flag.copy()
    ag.move_boxes([box], draws, made)
    ag.move_keypoints([point], draws, made, visibility=[flag])
    ag.move_masks([mask], draws, made)
    for value, copy in zip((box, point, mask, flag), copies, strict=True):
        assert (value == copy).all()


def test_draws_do_not_depend_on_the_batch_around_a_sample() -> None:
    made = recipe(**OPTIONS["everything"])
    images, index = torch.zeros(6, 3, 50, 70), np.array([5, 0, 2**40, 7, 11, 12])
    boxes = np.tile([[10.0, 10, 40, 30], [0, 0, 70, 50]], (6, 1, 1))
    stage = ag.Stage(made)
    whole = ag.move_boxes(boxes, stage.draw(images, index=index), made).boxes
    for row in range(6):
        alone = ag.move_boxes(boxes[:1], stage.draw(images[:1], index=index[[row]]), made).boxes
        assert (alone[0] == whole[row]).all()


def test_every_op_is_followed_or_refused() -> None:
    """Dots on grey stay the places where something is to be seen under each op that is taken to move nothing."""
    image = torch.full((2, 3, SIZE, SIZE), 0.4)
    image[..., 8::16, 8::16] = 0.9
    box = np.array([[[20.0, 12, 40, 31]]])
    still = []
    for name, (sample, op) in OPS.items():
        params, made = sample(ag.Key(0), [0, 1]), recipe(ops=((name, {}),))
        with contextlib.suppress(ValueError):  # which is to be refused
            moved = ag.move_boxes(box, drawn([0, 0, SIZE, SIZE], False, "box", params), made)
            if name not in MOVES | POLICIES:
                still.append(name)
                assert moved.boxes[0].tolist() == box[0].tolist()
                result = op(image, params)
                ground = result.flatten(2).median(dim=2).values[:, :, None, None]
                contrast = (result - ground).abs().sum(dim=(0, 1))
                assert contrast.sum() == 0 or contrast[8::16, 8::16].mean() > 4 * contrast[::16, ::16].mean(), name
    assert len(still) >= 12


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[[1, 2, 3]]], r"boxes\[0\] has shape \(1, 3\); wanted \(N, 4\)"),
        ([[1, 2, 3, 4]], r"boxes\[0\] has shape \(4,\); wanted"),
        ([[[[1, 2, 3, 4]]]], r"boxes\[0\] has shape \(1, 1, 4\); wanted"),
        ([[[1, 2, 3, 4], [9, 2, 3, 4]]], r"box 1 of boxes\[0\] is \[9.0, 2.0, 3.0, 4.0\]; wanted x0 <= x1"),
        ([[[1, 5, 3, 4]]], "and y0 <= y1"),
        ([[[1, 2, math.nan, 4]]], r"boxes\[0\] holds a number that is not finite"),
        ([[], []], "boxes are of 2 images; the draws are of 1"),
    ],
)
def test_boxes_that_are_none(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ag.move_boxes(given, drawn([0, 0, 9, 9]), recipe())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda draws: ag.move_boxes([[]], draws, recipe(), min_size=-1), "min_size is -1"),
        (lambda draws: ag.move_boxes([[]], draws, recipe(), min_visibility=1.5), "min_visibility is 1.5"),
        (
            lambda draws: ag.move_boxes([[]], draws, recipe(), labels=[[3]]),
            r"labels are for \[1\] boxes; there are \[0\]",
        ),
        (lambda draws: ag.move_boxes([[]], draws, recipe(), labels=[]), r"labels are for \[\] boxes"),
        (lambda draws: ag.move_keypoints([], draws, recipe()), "keypoints are of 0 images; the draws are of 1"),
        (lambda draws: ag.move_keypoints([[[1, 2, 3]]], draws, recipe()), r"keypoints\[0\] has shape \(1, 3\)"),
        (
            lambda draws: ag.move_keypoints([[[1, 2]]], draws, recipe(), visibility=[[1, 1]]),
            r"visibility has shapes \[\(2,\)\]; the keypoints' are \[\(1,\)\]",
        ),
        (lambda draws: ag.move_masks([], draws, recipe()), "masks are of 0 images; the draws are of 1"),
        (lambda draws: ag.move_masks([np.zeros(9)], draws, recipe()), r"masks\[0\] has shape \(9,\); wanted"),
        (
            lambda draws: ag.move_masks([np.zeros((5, 9))], draws, recipe()),
            r"masks\[0\] is 5 × 9 and does not hold the crop",
        ),
        (
            lambda draws: ag.move_masks([np.zeros((9, 9), np.uint8)], draws, recipe(), fill=0.5),
            "fill is 0.5, which masks",
        ),
        (
            lambda draws: ag.move_masks([np.zeros((9, 9), np.uint8)], draws, recipe(), fill=256),
            "fill is 256, which masks",
        ),
        (
            lambda draws: ag.move_masks([np.zeros((9, 9))], draws, recipe(mixup_alpha=0.2, num_classes=2)),
            "the recipe mixes images",
        ),
    ],
)
def test_what_is_refused(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(drawn([0, 0, 9, 9]))


def test_a_callable_is_refused_in_training_alone() -> None:
    def swirl(images: torch.Tensor) -> torch.Tensor:
        return images

    made = recipe(ops=(swirl,))
    stage, images = ag.Stage(made), torch.zeros(1, 3, 40, 50)
    with pytest.raises(ValueError, match="ops holds swirl, of which it is not known where it moves pixels to"):
        ag.move_boxes([[]], stage.draw(images), made)
    assert ag.move_boxes([[[0, 0, 50, 40]]], stage.eval().draw(images), made).boxes[0].tolist() == [[0, 0, SIZE, SIZE]]


@pytest.mark.parametrize("op", [("aug_mix", {}), "augmix-m3"])
def test_aug_mix_is_refused(op: Any) -> None:
    made = recipe(ops=(op,))
    with pytest.raises(ValueError, match="shows several copies of a picture at once"):
        ag.move_boxes([[]], ag.Stage(made).draw(torch.zeros(1, 3, 40, 50)), made)


def test_mixing_is_refused_in_training_alone() -> None:
    made = recipe(mixup_alpha=0.2, num_classes=2)
    stage, images = ag.Stage(made), torch.zeros(1, 3, 40, 50)
    with pytest.raises(ValueError, match="the recipe mixes images"):
        ag.move_boxes([[]], stage.draw(images), made)
    assert ag.move_boxes([[[0, 0, 50, 40]]], stage.eval().draw(images), made).boxes[0].tolist() == [[0, 0, SIZE, SIZE]]


def test_boxes_of_another_layout_are_refused() -> None:
    boxes = tv_tensors.BoundingBoxes([[1, 2, 3, 4]], format="XYWH", canvas_size=(9, 9))  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"boxes\[0\] are XYWH; wanted XYXY"):
        ag.move_boxes([boxes], drawn([0, 0, 9, 9]), recipe())


# ---- the stage's draws


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"size": 32}, "draws are of a recipe of size 64; the recipe has size 32"),
        ({"ops": (("rotate", {"degrees": 9}),)}, r"draws are of the ops \('elastic',\); the recipe has \('rotate',\)"),
        ({}, r"draws are of the ops \('elastic',\); the recipe has \(\)"),
    ],
)
def test_draws_of_another_recipe_are_refused(other: dict[str, Any], said: str) -> None:
    made, images = recipe(ops=(("elastic", {}),)), torch.zeros(1, 3, 40, 50)
    draws = ag.Stage(made).draw(images)
    with pytest.raises(ValueError, match=said):
        ag.move_boxes([[]], draws, recipe(**{"ops": made.ops if "size" in other else (), **other}))
    with pytest.raises(ValueError, match=said):
        ag.Stage(recipe(**{"ops": made.ops if "size" in other else (), **other}))(images, draws=draws)
    with pytest.raises(ValueError, match="draws are of 1 ops; the recipe has 0"):
        ag.move_boxes([[]], replace(draws, names=None), recipe())


def test_draws_of_another_process_and_of_evaluation_fit_the_recipe() -> None:
    blur = torch.nn.AvgPool2d(3, 1, 1)
    made, images = recipe(ops=(blur, ("vertical_flip", {}))), torch.rand(1, 3, 40, 50)
    stage = ag.Stage(made)
    draws = pickle.loads(pickle.dumps(stage.draw(images, index=[3])))
    assert torch.equal(stage(images, draws=draws)[0], stage(images, index=[3])[0])
    moved = ag.move_boxes([[[0, 0, 50, 40]]], ag.Stage(recipe()).eval().draw(images), made).boxes[0]
    assert moved.tolist() == [[0, 0, SIZE, SIZE]]


@pytest.mark.parametrize("training", [True, False])
def test_a_stage_takes_the_draws_that_it_made(training: bool) -> None:
    """With index and without, in which case they are numbered once."""
    images = torch.randint(256, (4, 3, 33, 47), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = recipe(**OPTIONS["everything"], cutout=9)
    plain, drawing = (ag.Stage(made, seed=3).train(training) for _ in range(2))
    for _ in range(2):
        wanted, _ = plain(images)
        assert torch.equal(drawing(images, draws=drawing.draw(images))[0], wanted)
    assert drawing.seen == plain.seen == (8 if training else 0)
    wanted, _ = plain(images, index=[9, 8, 7, 6], epoch=5)
    draws = drawing.draw([image.permute(1, 2, 0).numpy() for image in images], index=[9, 8, 7, 6], epoch=5)
    assert torch.equal(drawing(images, draws=draws)[0], wanted)
    assert torch.equal(drawing.augment(drawing.prepare(images, draws=draws))[0], wanted)


def test_draws_of_other_images_are_refused() -> None:
    stage, images = ag.Stage(recipe(scale=(1, 1))), torch.zeros(4, 3, 33, 47)
    draws = stage.draw(images)
    with pytest.raises(ValueError, match="draws are of 4 samples, for 3 images"):
        stage(images[:3], draws=draws)
    with pytest.raises(ValueError, match=r"box .* of row 0 must satisfy"):
        stage(images[:, :, :20], draws=draws)


def test_beside_draws_mixing_goes_by_the_index() -> None:
    stage, images = ag.Stage(recipe(mixup_alpha=1.0, num_classes=3)), torch.rand(4, 3, 33, 47)
    draws = stage.draw(images, index=[4, 5, 6, 7], epoch=2)
    with pytest.raises(ValueError, match="the recipe mixes, which draws do not say"):
        stage(images, [0, 1, 2, 0], draws=draws)
    mixed = stage(images, [0, 1, 2, 0], draws=draws, index=[4, 5, 6, 7], epoch=2)
    for value, wanted in zip(mixed, stage(images, [0, 1, 2, 0], index=[4, 5, 6, 7], epoch=2), strict=True):
        assert torch.equal(value, wanted)


def test_the_readmes_example_runs() -> None:
    section = (
        (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split("## Boxes, masks and keypoints")
    )
    program = section[1].split("```python")[1].split("```")[0]
    images = ag.RaggedBatch.from_images([np.zeros((60, 80, 3), np.uint8), np.zeros((90, 70, 3), np.uint8)])
    boxes = [torch.tensor([[0, 0, 80, 60]]), torch.empty(0, 4)]
    masks = [torch.ones(60, 80, dtype=torch.uint8), torch.ones(90, 70, dtype=torch.uint8)]
    names: dict[str, Any] = {"ag": ag, "loader": [(images, boxes, [torch.tensor([3]), torch.empty(0)], masks)]}
    exec(program, names)
    assert names["pictures"].shape == (2, 3, 512, 512)
    assert names["boxes"][0].shape == (1, 4)
    assert [labels.tolist() for labels in names["labels"]] == [[3], []]
    assert [mask.shape for mask in names["masks"]] == [(512, 512)] * 2
