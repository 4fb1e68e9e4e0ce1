"""jpeg: what libjpeg, through torchvision, makes of the same pictures."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

import augment_gpu as ag
from augment_gpu.testing import check_augmentation

pytestmark = pytest.mark.usefixtures("threads")

MANY = 5000  # draws of a distribution
QUALITIES = [1, 5, 25, 49, 50, 75, 95, 100]


def pictures(photo: Callable[..., np.ndarray], size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    """(8, C, H, W) uint8, one for each of QUALITIES."""
    rows = [photo(*size, channels, seed).transpose(2, 0, 1) for seed in range(len(QUALITIES))]
    return torch.from_numpy(np.stack(rows))


def at(*quality: int) -> ag.JpegParams:
    return ag.JpegParams(np.array(quality))


def by_torchvision(images: torch.Tensor, qualities: list[int]) -> torch.Tensor:
    return torch.stack([F.jpeg(image, quality) for image, quality in zip(images, qualities, strict=True)]).float()


# Sides that are whole blocks of chroma, of luma, and of neither; a part of a block; one pixel.
sizes = pytest.mark.parametrize("size", [(64, 96), (24, 40), (33, 47), (70, 34), (2, 9), (1, 1)])


@sizes
def test_grey_pictures_are_libjpegs_within_one_level(size: tuple[int, int], photo: Callable[..., np.ndarray]) -> None:
    images = pictures(photo, size, 1)
    result = ag.jpeg(images / 255, at(*QUALITIES)) * 255
    torch.testing.assert_close(result, by_torchvision(images, QUALITIES), rtol=0, atol=1.001)


@sizes
def test_pictures_in_colour_are_libjpegs_but_for_single_waves(
    size: tuple[int, int], photo: Callable[..., np.ndarray]
) -> None:
    """A coefficient half-way between two steps may go to the other one, since libjpeg's cosines have 13 bits; of chroma
    that is seen in up to 18 × 18 pixels. All else is within one level."""
    images = pictures(photo, size)
    error = (ag.jpeg(images / 255, at(*QUALITIES)) * 255 - by_torchvision(images, QUALITIES)).abs()
    assert error.mean() < 0.1
    assert (error > 1.001).float().mean() < 0.02


def test_noise_is_libjpegs_but_for_single_waves() -> None:
    """The largest coefficients, and levels cut off at both ends."""
    images = torch.randint(0, 256, (3, 3, 48, 48), generator=torch.Generator().manual_seed(0)).byte()
    error = (ag.jpeg(images / 255, at(10, 50, 95)) * 255 - by_torchvision(images, [10, 50, 95])).abs()
    assert error.mean() < 0.3
    assert (error > 2.001).float().mean() < 0.03


def test_a_grey_block_by_hand() -> None:
    """A block of one value v has the coefficient 8 (v − 128) alone. At quality 50 its step is 16: of v = 141 the
    104 is six and a half steps, which become seven, 112, and v = 142."""
    flat = torch.full((1, 1, 8, 8), 141 / 255)
    torch.testing.assert_close(ag.jpeg(flat, at(50)) * 255, torch.full((1, 1, 8, 8), 142.0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_it_keeps_the_promises(channels: int, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    """atol: noise, in which single waves may differ; how far it equals libjpeg is tested above."""
    check_augmentation(
        ag.jpeg,
        lambda key, index: ag.sample_jpeg(key, index, quality=(20, 95), p=0.6),
        ag.jpeg_reference,
        channels=channels,
        dtype=dtype,
        memory_format=memory_format,
        atol=30 / 255,
    )


def test_a_picture_of_halves_is_the_same_alone(photo: Callable[..., np.ndarray]) -> None:
    """Of few even levels, whose coefficients often lie half-way between two steps, at full size."""
    images = (pictures(photo, (224, 224))[:3] // 16 * 16) / 255
    whole = ag.jpeg(images, at(50, 50, 75))
    for row, quality in enumerate((50, 50, 75)):
        assert torch.equal(ag.jpeg(images[row : row + 1], at(quality))[0], whole[row]), f"row {row} alone"


def test_samples_that_drew_nothing_keep_every_bit_and_the_rest_are_what_they_are_without() -> None:
    images, index = torch.rand(17, 3, 9, 9, generator=torch.Generator().manual_seed(0)), np.arange(17)
    params = ag.sample_jpeg(ag.Key(0), index, p=0.5)
    some, every = ag.jpeg(images, params), ag.jpeg(images, ag.sample_jpeg(ag.Key(0), index))
    chosen = torch.from_numpy(params.quality > 0)
    assert 0 < chosen.sum() < 17
    assert torch.equal(some[~chosen], images[~chosen])
    assert torch.equal(some[chosen], every[chosen])
    assert ag.jpeg(images, ag.sample_jpeg(ag.Key(0), index, p=0.0)) is images


def test_the_quality_is_uniform_over_the_range_with_both_ends() -> None:
    quality = ag.sample_jpeg(ag.Key(0), np.arange(2 * MANY), quality=(91, 100), p=0.5).quality
    counts = np.bincount(quality, minlength=101)
    assert counts[0] == pytest.approx(MANY, abs=5 * math.sqrt(MANY / 2))
    assert counts[1:91].sum() == 0
    assert np.abs(counts[91:] - MANY / 10).max() < 5 * math.sqrt(MANY / 10)


def test_a_recipe_takes_it(photo: Callable[..., np.ndarray]) -> None:
    recipe = ag.Recipe(size=24, ops=(("jpeg", {"quality": (30, 60)}),), mean=None, std=None)
    assert ag.Recipe.from_dict(recipe.to_dict()) == recipe
    images, index = pictures(photo, (33, 47)), np.arange(8)
    plain = ag.Stage(ag.Recipe(size=24, mean=None, std=None))(images, index=index)[0]
    wanted = ag.jpeg(plain, ag.sample_jpeg(ag.Key(0), index, quality=(30, 60)))
    assert torch.equal(ag.Stage(recipe)(images, index=index)[0], wanted)


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="jpeg got 2 channels; wanted 1 or 3"):
        ag.jpeg(torch.rand(1, 2, 8, 8), at(50))


def test_parameters_for_another_number_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match="jpeg got 3 parameters for 2 images"):
        ag.jpeg(torch.rand(2, 3, 8, 8), at(50, 60, 70))


@pytest.mark.parametrize(
    ("option", "value"),
    [*(("quality", value) for value in (0, 101, 50.5, (60, 50), (0, 50), math.nan)), ("p", 1.1)],
)
def test_an_option_out_of_range_is_named(
    refuses_option: Callable[[str, str, Any], None], option: str, value: Any
) -> None:
    refuses_option("jpeg", option, value)
