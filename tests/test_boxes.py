"""Boxes: torchvision's algorithms in distribution, and exactly where nothing is drawn."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

import augment_gpu as ag

KEY = ag.Key(20171208, 2)
MANY = 200_000


def chi_square(count: np.ndarray) -> float:
    """Pearson's statistic of counts that should be equal, over the value that it exceeds once in a thousand (Wilson and
    Hilferty's approximation). The keys are fixed, so what passes once passes always."""
    freedom = count.size - 1
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * np.sqrt(2 / (9 * freedom))) ** 3
    expected = count.sum() / count.size
    assert expected > 50, "too few draws for a chi-square test"
    return float(((count - expected) ** 2 / expected).sum() / limit)


def kolmogorov(first: np.ndarray, second: np.ndarray) -> float:
    """The largest distance of two samples' distributions, over what it exceeds once in a thousand (less often still for
    whole numbers, which have ties)."""
    grid = np.unique(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(draws), grid, side="right") / len(draws) for draws in (first, second)]
    return float(np.abs(shares[0] - shares[1]).max() / (1.95 * np.sqrt(1 / len(first) + 1 / len(second))))


def sizes(height: int, width: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.arange(count), np.full(count, height), np.full(count, width)


def torchvision_boxes(height: int, width: int, count: int, scale: Any, ratio: Any) -> np.ndarray:
    """(count, 4) x0 y0 x1 y1, as torchvision draws them."""
    image = torch.empty(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(count)]
    return np.array([(left, top, left + w, top + h) for top, left, h, w in drawn])


def features(box: np.ndarray) -> dict[str, np.ndarray]:
    x0, y0, x1, y1 = box.T.astype(np.float64)
    return {"left": x0, "top": y0, "width": x1 - x0, "height": y1 - y0, "area": (x1 - x0) * (y1 - y0)}


def test_the_mean_area_on_500_by_375_is_433_thousandths() -> None:
    box = ag.sample_random_resized_crop(KEY, *sizes(375, 500, MANY)).box
    area = features(box)["area"] / (500 * 375)
    # the design's figure has three digits; the standard error of 200 thousand draws is 0.0005
    assert area.mean() == pytest.approx(0.433, abs=0.002)
    assert 0.08 * 0.99 < area.min() < 0.082  # sides are rounded to pixels, the smallest of 92 and more
    assert area.max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (375, 500, (0.08, 1.0), (3 / 4, 4 / 3)),
        (500, 375, (0.35, 1.0), (3 / 4, 4 / 3)),
        (33, 47, (0.08, 1.0), (0.5, 2.0)),  # small and odd: rounding matters
        (300, 300, (0.1, 0.5), (0.5, 0.8)),  # all upright: width and height may not be exchanged
        (60, 200, (0.3, 1.0), (3 / 4, 4 / 3)),  # two tries seldom fit, and ten fail for half the samples
    ],
)
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, scale: Any, ratio: Any) -> None:
    ours = features(ag.sample_random_resized_crop(KEY, *sizes(height, width, MANY), scale=scale, ratio=ratio).box)
    theirs = features(torchvision_boxes(height, width, 20_000, scale, ratio))
    for name, values in ours.items():
        standard_error = np.sqrt(theirs[name].var() * (1 / 20_000 + 1 / MANY))
        assert abs(values.mean() - theirs[name].mean()) <= 4 * standard_error, name
        assert kolmogorov(values, theirs[name]) < 1, name


def test_offsets_are_uniform_and_include_the_last() -> None:
    """A crop of 3 × 3 in 5 rows of 7: 3 × 5 places."""
    box = ag.sample_random_resized_crop(KEY, *sizes(5, 7, 30_000), scale=(9 / 35, 9 / 35), ratio=(1, 1)).box
    np.testing.assert_array_equal(box[:, 2:] - box[:, :2], 3)
    assert (box[:, 0].max(), box[:, 1].max()) == (4, 2)
    count = np.bincount((box[:, 1] * 5 + box[:, 0]).astype(int), minlength=15)
    assert count.size == 15
    assert chi_square(count) < 1


def test_a_crop_of_the_whole_image_has_one_place() -> None:
    box = ag.sample_random_resized_crop(KEY, *sizes(17, 17, 100), scale=(1, 1), ratio=(1, 1)).box
    np.testing.assert_array_equal(box, np.tile([0, 0, 17, 17], (100, 1)))


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 200), (200, 1), (10, 1000), (1000, 10), (1, 1), (375, 500), (500, 375), (33, 47), (3, 4), (4, 3), (101, 134)],
)
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1, 1), (0.5, 0.6), (1.9, 2.5)])
def test_the_fallback_is_torchvisions(height: int, width: int, ratio: Any) -> None:
    scale = (4.0, 4.0)  # four times the image never fits, so all ten tries fail
    theirs = torchvision_boxes(height, width, 1, scale, ratio)
    ours = ag.sample_random_resized_crop(KEY, *sizes(height, width, 3), scale=scale, ratio=ratio).box
    np.testing.assert_array_equal(ours, np.repeat(theirs, 3, axis=0))


@pytest.mark.parametrize(("height", "width"), [(1, 200), (200, 1), (10, 1000), (1000, 10)])
def test_extreme_images_fall_back_by_themselves(height: int, width: int) -> None:
    """At torchvision's own scale and ratio: 10 × 1000 is kept to 4 : 3 about its centre."""
    ours = ag.sample_random_resized_crop(KEY, *sizes(height, width, 50), scale=(0.5, 1.0)).box
    theirs = torchvision_boxes(height, width, 50, (0.5, 1.0), (3 / 4, 4 / 3))
    np.testing.assert_array_equal(ours, theirs)
    if width == 1000:  # by hand: 10 · 4 / 3 = 13.3, (1000 − 13) // 2 = 493
        np.testing.assert_array_equal(ours[0], [493, 0, 506, 10])


@pytest.mark.parametrize(("height", "width", "ratio"), [(1, 200, (0.1, 0.2)), (200, 1, (5.0, 9.0))])
def test_a_fallback_is_never_empty(height: int, width: int, ratio: Any) -> None:
    """torchvision rounds 1 · 0.2 to a box without a column, and 1 / 5 to one without a row."""
    crop = ag.sample_random_resized_crop(KEY, *sizes(height, width, 3), scale=(4, 4), ratio=ratio)
    crop.check(np.full(3, height), np.full(3, width))


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 2), (2, 1), (1, 200), (200, 1), (3, 3), (33, 47), (375, 500), (4000, 6000)]
)
@pytest.mark.parametrize("scale", [(0.08, 1.0), (1e-6, 1e-5), (0.9, 3.0)])  # the usual, less than a pixel, too much
def test_boxes_are_whole_pixels_inside_the_image(height: int, width: int, scale: Any) -> None:
    index, heights, widths = sizes(height, width, 500)
    crop = ag.sample_random_resized_crop(KEY, index, heights, widths, scale=scale)
    crop.check(heights, widths)
    np.testing.assert_array_equal(crop.box, np.rint(crop.box))
    assert (crop.box.dtype, crop.source.dtype, crop.flip.dtype) == (np.float32, np.int64, np.bool_)
    assert crop.box.shape == (500, 4)
    np.testing.assert_array_equal(crop.source, index)
    assert crop.taps == "box"


@pytest.mark.parametrize("flip", [0.0, 0.3, 0.5, 1.0])
def test_the_share_of_flips_is_the_probability(flip: float) -> None:
    for crop in (
        ag.sample_random_resized_crop(KEY, *sizes(375, 500, MANY), flip=flip),
        ag.sample_scale_jitter_crop(KEY, *sizes(375, 500, MANY), flip=flip),
    ):
        # four standard errors of a share; none at 0 and 1
        assert crop.flip.mean() == pytest.approx(flip, abs=4 * np.sqrt(flip * (1 - flip) / MANY))


@pytest.mark.parametrize("sample", [ag.sample_random_resized_crop, ag.sample_scale_jitter_crop])
def test_the_flip_is_independent_of_the_box(sample: Any) -> None:
    crop = sample(KEY, *sizes(375, 500, MANY))
    mirrored, plain = features(crop.box[crop.flip]), features(crop.box[~crop.flip])
    for name in mirrored:
        assert kolmogorov(mirrored[name], plain[name]) < 1, name


@pytest.mark.parametrize("sample", [ag.sample_random_resized_crop, ag.sample_scale_jitter_crop])
def test_an_alternating_flip_shows_each_sample_both_ways_in_any_two_successive_epochs(sample: Any) -> None:
    def flips(epoch: int, seed: int = 3, count: int = MANY) -> np.ndarray:
        return sample(ag.Key(seed, epoch), *sizes(375, 500, count), flip="alternate").flip

    first = flips(0)
    for epoch in (1, 2, 3, 90, 2**32 - 1):  # the last that there is
        np.testing.assert_array_equal(flips(epoch), first ^ (epoch % 2 == 1))
    # a coin of the sample and the seed: four standard errors of a share
    assert first.mean() == pytest.approx(0.5, abs=2 / np.sqrt(MANY))
    assert (first == flips(0, seed=4)).mean() == pytest.approx(0.5, abs=2 / np.sqrt(MANY))
    np.testing.assert_array_equal(flips(1, count=17), flips(1)[:17])


def test_an_alternating_flip_leaves_the_boxes_as_they_are() -> None:
    for sample in (ag.sample_random_resized_crop, ag.sample_scale_jitter_crop):
        boxes = [sample(KEY, *sizes(375, 500, 99), flip=flip).box for flip in ("alternate", 0.5)]
        np.testing.assert_array_equal(*boxes)


MIXED_HEIGHTS = np.array([375, 1, 500, 60, 1000, 33, 2160])
MIXED_WIDTHS = np.array([500, 1, 375, 200, 10, 47, 3840])
MIXED_INDEX = np.array([5, 0, 2**40, 7, 11, 2**63 - 1, 12])


@pytest.mark.parametrize("sample", [ag.sample_random_resized_crop, ag.sample_scale_jitter_crop])
def test_a_row_alone_equals_its_row_in_the_batch(sample: Any) -> None:
    for epoch in range(20):
        key = ag.Key(1, epoch)
        together = sample(key, MIXED_INDEX, MIXED_HEIGHTS, MIXED_WIDTHS)
        order = np.array([6, 3, 4, 1, 0, 2, 5])
        permuted = sample(key, MIXED_INDEX[order], MIXED_HEIGHTS[order], MIXED_WIDTHS[order])
        np.testing.assert_array_equal(permuted.box, together.box[order])
        np.testing.assert_array_equal(permuted.flip, together.flip[order])
        for i in range(len(MIXED_INDEX)):
            alone = sample(key, MIXED_INDEX[i : i + 1], MIXED_HEIGHTS[i : i + 1], MIXED_WIDTHS[i : i + 1])
            np.testing.assert_array_equal(alone.box[0], together.box[i])
            assert alone.flip[0] == together.flip[i]


@pytest.mark.parametrize("sample", [ag.sample_random_resized_crop, ag.sample_scale_jitter_crop])
def test_an_empty_batch_has_no_boxes(sample: Any) -> None:
    crop = sample(KEY, [], [], [])
    assert len(crop) == 0
    assert crop.box.shape == (0, 4)
    assert crop.flip.shape == (0,)
    crop.check(np.array([]), np.array([]))


def test_lists_serve_as_arrays() -> None:
    for sample in (ag.sample_random_resized_crop, ag.sample_scale_jitter_crop):
        listed = sample(KEY, [3, 4], [375, 500], [500, 333])
        np.testing.assert_array_equal(
            listed.box, sample(KEY, np.array([3, 4]), np.array([375, 500]), np.array([500, 333])).box
        )
    assert ag.center_crop_boxes([375], [500]).box.shape == (1, 4)


def resized_size(height: int, width: int, length: int) -> tuple[int, int]:
    """What torchvision's Resize(length) gives; the meta device has shapes and no pixels."""
    resized = F.resize(torch.empty(1, height, width, device="meta"), [length])
    return resized.shape[1], resized.shape[2]


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (256, 256)])
def test_the_jittered_side_is_uniform_over_the_integers_both_ends_included(height: int, width: int) -> None:
    box = ag.sample_scale_jitter_crop(KEY, *sizes(height, width, MANY)).box.astype(np.float64)
    short = 0 if width <= height else 1
    length = 224 * min(height, width) / (box[:, 2 + short] - box[:, short])
    # float32 corners up to 512 are off by 2**-16, and the length by 480 / 224 · 2 · 2**-16 pixels and a little
    np.testing.assert_allclose(length, np.rint(length), atol=1e-3)
    count = np.bincount(np.rint(length).astype(int) - 256, minlength=225)
    assert count.size == 225
    assert chi_square(count) < 1


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (256, 256), (33, 47), (1, 17), (2160, 3840)])
def test_a_jittered_box_lies_on_pixels_of_the_resized_image(height: int, width: int) -> None:
    index, heights, widths = sizes(height, width, 400)
    crop = ag.sample_scale_jitter_crop(KEY, index, heights, widths, size=64, short_side=(64, 97))
    crop.check(heights, widths)
    assert crop.taps == "image"
    box = crop.box.astype(np.float64)
    short = 0 if width <= height else 1
    for row, length in enumerate(np.rint(64 * min(height, width) / (box[:, 2 + short] - box[:, short])).astype(int)):
        resized_height, resized_width = resized_size(height, width, length)
        scale = np.array([resized_width / width, resized_height / height])
        corner = box[row, :2] * scale
        np.testing.assert_allclose(corner, np.rint(corner), atol=1e-3)  # float32 boxes
        np.testing.assert_allclose((box[row, 2:] - box[row, :2]) * scale, 64, atol=1e-3)
        assert (np.rint(corner) + 64 <= (resized_width, resized_height)).all()


def test_jittered_offsets_are_uniform_and_include_the_last() -> None:
    """6 rows of 8 with the short side 5, 6 or 7: 5 × 6, 6 × 8 and 7 × 9 pixels, a patch of 5 in (1 · 2), (2 · 4) and
    (3 · 5) places."""
    box = ag.sample_scale_jitter_crop(KEY, *sizes(6, 8, 60_000), size=5, short_side=(5, 7)).box.astype(np.float64)
    length = np.rint(5 * 6 / (box[:, 3] - box[:, 1])).astype(int)
    for short, long in ((5, 6), (6, 8), (7, 9)):
        corner = box[length == short, :2] * [long / 8, short / 6]
        np.testing.assert_allclose(corner, np.rint(corner), atol=1e-5)  # float32
        places = long - 4
        count = np.bincount((np.rint(corner[:, 1]) * places + np.rint(corner[:, 0])).astype(int))
        assert count.size == (short - 4) * places
        assert chi_square(count) < 1


@pytest.mark.parametrize("size", [64, 224])
def test_a_patch_at_the_edge_ends_on_the_edge(size: int) -> None:
    """left + size == resized width must give the width itself, and not a float beyond it, for any size of image."""
    random = np.random.default_rng(0)
    heights, widths = random.integers(1, 5000, (2, MANY))
    crop = ag.sample_scale_jitter_crop(KEY, np.arange(MANY), heights, widths, size=size, short_side=(size, size))
    crop.check(heights, widths)
    short = np.where(heights <= widths, 1, 0)
    np.testing.assert_array_equal(crop.box[np.arange(MANY), short], 0)
    np.testing.assert_array_equal(crop.box[np.arange(MANY), 2 + short], np.minimum(heights, widths))


CENTER_SIZES = [
    (375, 500),
    (500, 375),
    (256, 256),
    (224, 224),
    (257, 256),
    (333, 500),
    (500, 334),
    (1, 1),
    (1, 9),
    (17, 5),
]


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (224, 224), (17, 33), (1, 1), (224, 257)])  # odd differences
@pytest.mark.parametrize(("height", "width"), CENTER_SIZES)
def test_the_center_crop_is_torchvisions(height: int, width: int, size: int, resize: int) -> None:
    resized_height, resized_width = resized_size(height, width, resize)
    places = torch.arange(resized_height * resized_width).view(1, resized_height, resized_width)
    first = int(F.center_crop(places, [size, size])[0, 0, 0])
    left, top = first % resized_width, first // resized_width
    crop = ag.center_crop_boxes([height], [width], size=size, resize=resize)
    wanted = np.array([left, top, left + size, top + size])
    scale = np.tile([width / resized_width, height / resized_height], 2)
    # float32: half a unit in the last place of a coordinate below 512
    np.testing.assert_allclose(crop.box[0], wanted * scale, atol=2**-16, rtol=0)
    crop.check(np.array([height]), np.array([width]))
    assert not crop.flip.any()
    assert crop.taps == "image"


def test_many_sizes_at_once_are_each_size_alone() -> None:
    heights, widths = np.array(CENTER_SIZES).T
    together = ag.center_crop_boxes(heights, widths)
    np.testing.assert_array_equal(together.source, np.arange(len(heights)))
    for i in range(len(heights)):
        np.testing.assert_array_equal(
            ag.center_crop_boxes(heights[i : i + 1], widths[i : i + 1]).box[0], together.box[i]
        )


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scale": (0.0, 1.0)}, "scale"),
        ({"scale": (-0.1, 1.0)}, "scale"),
        ({"scale": (1.0, 0.08)}, "scale"),
        ({"scale": (0.08, INF)}, "scale"),
        ({"scale": (NAN, 1.0)}, "scale"),
        ({"scale": (0.08, NAN)}, "scale"),
        ({"ratio": (4 / 3, 3 / 4)}, "ratio"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"ratio": (1.0, NAN)}, "ratio"),
        ({"flip": -0.1}, "flip"),
        ({"flip": 1.5}, "flip"),
        ({"flip": NAN}, "flip"),
        ({"flip": "alternating"}, 'flip is .alternating.; wanted a probability in .0, 1., or "alternate"'),
    ],
)
def test_a_bad_range_or_probability_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ag.sample_random_resized_crop(KEY, [0], [375], [500], **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 225, "short_side": (224, 256)}, "short_side"),  # the patch would not fit
        ({"short_side": (480, 256)}, "short_side"),
        ({"size": 0}, "size"),
        ({"size": -3}, "size"),
        ({"flip": 2.0}, "flip"),
    ],
)
def test_a_bad_jitter_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ag.sample_scale_jitter_crop(KEY, [0], [375], [500], **options)


@pytest.mark.parametrize(("size", "resize"), [(257, 256), (0, 256), (-1, 256)])
def test_a_bad_center_crop_is_named(size: int, resize: int) -> None:
    with pytest.raises(ValueError, match="size"):
        ag.center_crop_boxes([375], [500], size=size, resize=resize)


@pytest.mark.parametrize("sample", [ag.sample_random_resized_crop, ag.sample_scale_jitter_crop])
@pytest.mark.parametrize(
    ("heights", "widths"),
    [([375], [500, 500]), ([375], [[500]]), ([], []), ([0], [500]), ([375], [0]), ([-1], [500]), ([NAN], [500])],
)
def test_sizes_without_an_image_are_refused(sample: Any, heights: Any, widths: Any) -> None:
    with pytest.raises(ValueError, match=r"heights|smallest"):
        sample(KEY, [0], heights, widths)


@pytest.mark.parametrize(("heights", "widths"), [([0], [500]), ([375], [0]), ([-1], [500]), ([375], [500, 500])])
def test_a_center_crop_of_no_image_is_refused(heights: Any, widths: Any) -> None:
    with pytest.raises(ValueError, match=r"heights|smallest"):
        ag.center_crop_boxes(heights, widths)


HEIGHTS, WIDTHS = np.array([20, 30]), np.array([40, 50])


def crop_params(box: Any = (0, 0, 40, 20), source: int = 0, flip: Any = False) -> ag.CropParams:
    """Three rows, the last of which is given."""
    good = (1.5, 2.5, 3.5, 4.5)
    return ag.CropParams(np.array([1, 0, source]), np.array([good, good, box]), np.array([True, False, flip]))


def test_good_boxes_pass() -> None:
    crop_params().check(HEIGHTS, WIDTHS)
    crop_params((0, 0, 50, 30), source=1).check(HEIGHTS, WIDTHS)  # each box is held against its own image
    crop_params((39.999996, 0, 40, 1e-30)).check(HEIGHTS, WIDTHS)  # thin, and yet not empty


@pytest.mark.parametrize(
    "box",
    [
        (NAN, 0, 40, 20),
        (0, NAN, 40, 20),
        (0, 0, NAN, 20),
        (0, 0, 40, NAN),
        (0, 0, INF, 20),
        (0, 0, 40, INF),
        (-INF, 0, 40, 20),
        (-0.001, 0, 40, 20),
        (0, -1, 40, 20),
        (30, 0, 10, 20),
        (0, 15, 40, 5),
        (10, 0, 10, 20),
        (0, 5, 40, 5),
        (0, 0, 40.001, 20),
        (0, 0, 40, 21),
        (0, 0, 50, 20),  # fits the other image
        (0, 0, 40, 1e30),
    ],
)
def test_a_box_that_is_no_part_of_its_image_is_refused_by_row(box: Any) -> None:
    with pytest.raises(ValueError, match="row 2"):
        crop_params(box).check(HEIGHTS, WIDTHS)


def test_sizes_may_be_fractions() -> None:
    height, width = crop_params((0, 0, 40.25, 20)).check(np.array([20.5, 30.0]), np.array([40.5, 50.0]))
    assert (height.tolist(), width.tolist()) == ([30.0, 20.5, 20.5], [50.0, 40.5, 40.5])


def test_a_row_of_an_empty_batch_is_refused_by_row() -> None:
    none = np.empty(0, dtype=np.int32)
    with pytest.raises(IndexError, match="row 0 wants image 0 of a batch of 0"):
        ag.CropParams([0], [(0, 0, 4, 4)], [False]).check(none, none)


@pytest.mark.parametrize("source", [2, -1, 2**40])
def test_a_source_outside_the_batch_is_refused_by_row(source: int) -> None:
    with pytest.raises(IndexError, match=f"row 2.*{source}.* 2"):
        crop_params(source=source).check(HEIGHTS, WIDTHS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"box": np.zeros((3, 3))}, "box"),
        ({"box": np.ones((2, 4))}, "box"),
        ({"box": np.ones(4)}, "box"),
        ({"flip": np.zeros(2, bool)}, "flip"),
        ({"flip": np.zeros((3, 1), bool)}, "flip"),
        ({"source": np.zeros((3, 1), int)}, "source"),
        ({"taps": "crop"}, "taps"),
        ({"taps": None}, "taps"),
    ],
)
def test_wrong_shapes_and_taps_are_named(change: dict[str, Any], named: str) -> None:
    good = {"source": np.zeros(3, int), "box": np.tile([0, 0, 4, 4], (3, 1)), "flip": np.zeros(3, bool)}
    with pytest.raises(ValueError, match=f"^{named}"):
        ag.CropParams(**(good | change)).check(HEIGHTS, WIDTHS)


def test_lists_become_arrays_of_the_documented_types() -> None:
    crop = ag.CropParams([0], [(0, 0, 4, 4)], [1])
    assert (crop.source.dtype, crop.box.dtype, crop.flip.dtype) == (np.int64, np.float32, np.bool_)


def test_take_gives_the_named_rows_in_order() -> None:
    crop = crop_params((0, 0, 40, 20), flip=True).take([2, 0, 2])
    assert crop.source.tolist() == [0, 1, 0]
    assert crop.flip.tolist() == [True, True, True]
    np.testing.assert_array_equal(crop.box, [(0, 0, 40, 20), (1.5, 2.5, 3.5, 4.5), (0, 0, 40, 20)])
    assert len(crop.take([])) == 0
    crop.take([]).check(HEIGHTS, WIDTHS)
