"""The views of test-time augmentation: tensor ops against torchvision, boxes against the tensor ops."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

import augment_gpu as ag
from augment_gpu.ops.views import view_boxes

Pixels = Callable[..., np.ndarray]


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (50, 32), (61, 60)])  # no room, odd room, room one way
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_ten_crops_are_torchvisions(noise: Pixels, shape: tuple[int, int], dtype: torch.dtype) -> None:
    images = torch.from_numpy(np.stack([noise(*shape, seed=seed) for seed in range(2)])).permute(0, 3, 1, 2).to(dtype)
    views = ag.ten_crop(images, size=32)
    assert views.shape == (2, 10, 3, 32, 32)
    assert views.dtype == dtype
    for image, mine in zip(images, views, strict=True):
        assert torch.equal(mine, torch.stack(F.ten_crop(image, [32, 32])))


def test_the_crops_of_a_small_picture_are_what_the_eye_sees() -> None:
    """3 × 3 pixels, numbered; crops of 2."""
    image = torch.arange(9.0).view(1, 1, 3, 3)
    corners = [crop.flatten().tolist() for crop in ag.ten_crop(image, size=2)[0, :, 0]]
    assert corners[:4] == [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    assert corners[5] == [2, 1, 5, 4]  # top left of the mirror image


@pytest.mark.parametrize("shape", [(48, 64), (90, 41), (20, 200), (17, 23)])  # both ways, 10:1, smaller than a crop
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_boxes_give_what_resizing_and_cropping_gives(
    photo: Pixels, shape: tuple[int, int], interpolation: Any
) -> None:
    assert_forms_agree(photo(*shape), 32, (32, 41, 70), interpolation, "cpu")


def test_the_kernel_makes_the_same_views(photo: Pixels, kernel_device: str) -> None:
    assert_forms_agree(photo(17, 21), 8, (8, 11), "bilinear", kernel_device)


def assert_forms_agree(image: np.ndarray, size: int, scales: tuple[int, ...], mode: Any, device: str) -> None:
    boxes = ag.ten_crop_boxes([image.shape[0]], [image.shape[1]], size=size, scales=scales)
    assert len(boxes) == 10 * len(scales)
    batch = ag.RaggedBatch.from_images([image], device=device)
    views = ag.crop_resize_flip(batch, boxes, size=size, interpolation=mode, exact=True).cpu()
    resized = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    wanted = ag.multi_scale_ten_crop(resized, size, scales, interpolation=mode).clamp(0, 1)
    torch.testing.assert_close(views.double() * 255, wanted[0] * 255, rtol=0, atol=0.005)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_multi_scale_views_are_torchvisions_resize_then_ten_crop(photo: Pixels, dtype: torch.dtype) -> None:
    image = torch.from_numpy(photo(90, 120)).permute(2, 0, 1).to(dtype)
    views = ag.multi_scale_ten_crop(image[None], size=32, scales=(32, 64))
    assert views.shape == (1, 20, 3, 32, 32)
    for i, scale in enumerate((32, 64)):
        resized = F.resize(image, [scale], InterpolationMode.BILINEAR, antialias=True)
        wanted = torch.stack(F.ten_crop(resized, [32, 32]))
        # floating point by way of float64: a few units in float32's last place at 255
        torch.testing.assert_close(
            views[0, 10 * i : 10 * i + 10], wanted, rtol=0, atol=0 if dtype == torch.uint8 else 1e-4
        )


def test_the_forms_agree_at_the_real_scales_in_float32(photo: Pixels) -> None:
    """A photograph's size, where torch's own float32 resize is off by more than is promised."""
    image = photo(709, 794)
    boxes = ag.ten_crop_boxes([709], [794])
    views = ag.crop_resize_flip(ag.RaggedBatch.from_images([image]), boxes, exact=True)
    wanted = ag.multi_scale_ten_crop(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0]
    torch.testing.assert_close(views * 255, wanted * 255, rtol=0, atol=0.005)


def test_nearest_is_the_same_in_both_forms(noise: Pixels) -> None:
    """At sizes at which no centre falls on the edge between two pixels."""
    image = noise(50, 70)
    boxes = ag.ten_crop_boxes([50], [70], size=32, scales=(32, 40))
    views = ag.crop_resize_flip(ag.RaggedBatch.from_images([image]), boxes, size=32, interpolation="nearest")
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    wanted = ag.multi_scale_ten_crop(pixels, 32, (32, 40), interpolation="nearest")[0]
    assert torch.equal((views * 255).round().byte(), wanted)


def test_the_rows_go_by_image_then_scale_then_crop() -> None:
    boxes = view_boxes([64, 32], [64, 96], size=32, scales=(32, 64), crops=5)
    assert boxes.source.tolist() == [0] * 10 + [1] * 10
    assert boxes.taps == "image"
    assert boxes.box[0].tolist() == [0, 0, 64, 64]  # scale 32: the whole picture
    assert boxes.box[5].tolist() == [0, 0, 32, 32]  # scale 64: a corner
    assert boxes.box[8].tolist() == [32, 32, 64, 64]
    assert boxes.box[9].tolist() == [16, 16, 48, 48]
    assert boxes.box[10].tolist() == [0, 0, 32, 32]  # a wide image, resized to 32 x 96
    assert boxes.box[11].tolist() == [64, 0, 96, 32]


def test_one_crop_is_the_evaluation_view() -> None:
    sizes = [75, 33, 40], [101, 33, 400]
    mine, usual = view_boxes(*sizes, size=32, scales=(40,), crops=1), ag.center_crop_boxes(*sizes, size=32, resize=40)
    np.testing.assert_array_equal(mine.box, usual.box)
    assert not mine.flip.any()


def test_two_crops_are_the_centre_and_its_mirror_image(noise: Pixels) -> None:
    """An odd number of columns to spare: torchvision rounds in the mirror image, so its centre lies one beside."""
    image = noise(32, 35)
    boxes = view_boxes([32], [35], size=32, scales=(32,), crops=2)
    views = ag.crop_resize_flip(ag.RaggedBatch.from_images([image]), boxes, size=32, exact=True)
    chw = torch.from_numpy(image).permute(2, 0, 1)
    wanted = torch.stack([F.center_crop(chw, [32, 32]), F.center_crop(F.horizontal_flip(chw), [32, 32])])
    assert torch.equal((views * 255).round().byte(), wanted)


@pytest.mark.parametrize(
    ("grid", "corners"),
    [
        ((2, 2), [(0, 0), (32, 0), (0, 8), (32, 8)]),
        ((1, 3), [(0, 4), (16, 4), (32, 4)]),
        ((3, 1), [(16, 0), (16, 4), (16, 8)]),
        ((1, 1), [(16, 4)]),
    ],
)
def test_a_grid_reaches_from_edge_to_edge(grid: tuple[int, int], corners: list[tuple[int, int]]) -> None:
    boxes = view_boxes([40], [64], size=32, scales=(40,), crops=grid)
    assert [tuple(box) for box in boxes.box[:, :2].tolist()] == corners
    assert not boxes.flip.any()


def test_the_longest_side_of_the_last_crop_is_the_images_edge() -> None:
    """Every size: a box that passed the edge by a rounding would be refused."""
    for height in range(1, 60):
        width = 7 * height + 3
        boxes = ag.ten_crop_boxes([height], [width], size=8, scales=(8, 13))
        boxes.check(np.array([height]), np.array([width]))


def test_no_images_have_no_views() -> None:
    assert len(ag.ten_crop_boxes([], [])) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": ()}, "scales is empty"),
        ({"scales": (256, 200)}, "scales holds 200; a crop of 224 is larger"),
        ({"size": 0}, "size is 0"),
        ({"crops": 3}, "crops is 3; it must be 1, 2, 5, 10"),
        ({"crops": (0, 2)}, "a grid is"),
        ({"crops": (2, 2, 2)}, "a grid is"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view_boxes([300], [300], **arguments)


def test_a_crop_larger_than_the_images_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size is 33; it must lie in \[1, 32\]"):
        ag.ten_crop(torch.zeros(1, 3, 32, 40), size=33)
    with pytest.raises(ValueError, match=r"images have shape \(3, 32, 40\)"):
        ag.ten_crop(torch.zeros(3, 32, 40), size=8)
