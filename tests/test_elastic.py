"""elastic: torchvision's picture for the same field, where a dot goes, and how far pixels are pushed."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as nn
from torchvision.transforms import v2

import augment_gpu as ag
from augment_gpu.testing import check_augmentation

pytestmark = pytest.mark.usefixtures("threads")

MANY = 5000  # draws of a distribution


def smooth(rows: int, channels: int = 3, size: tuple[int, int] = (33, 47)) -> torch.Tensor:
    patches = torch.rand(rows, channels, 4, 5, generator=torch.Generator().manual_seed(0))
    return nn.interpolate(patches, size, mode="bicubic", align_corners=False).clamp(0, 1)


def pushes(params: ag.ElasticParams, size: tuple[int, int]) -> torch.Tensor:
    """(B, 2, H, W): how far to the right and below of each pixel of the result it comes from, in pixels: seen on ramps
    along x and y, away from whose border, where the filling is seen, they are exact."""
    height, width = size
    x, y = torch.arange(width) + 0.5, torch.arange(height)[:, None] + 0.5
    ramps = torch.stack([x.expand(size) / width, y.expand(size) / height]).repeat(len(params), 1, 1, 1)
    return (ag.elastic(ramps, params) - ramps) * torch.tensor([width, height]).view(2, 1, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("fill", [0.0, 0.4])
def test_it_keeps_the_promises_the_reference_being_torchvisions(
    channels: int, dtype: torch.dtype, memory_format: torch.memory_format, fill: float
) -> None:
    check_augmentation(
        ag.elastic,
        lambda key, index: ag.sample_elastic(key, index, alpha=(20, 90), sigma=3.0, fill=fill, p=0.6),
        ag.elastic_reference,
        channels=channels,
        dtype=dtype,
        memory_format=memory_format,
    )


def test_pixels_are_pushed_as_far_as_by_torchvision() -> None:
    """Far from the border, where the reflection counts values twice. Neighbours within 5 pixels or so are alike, which
    leaves about 8 · 40² / 80 = 160 independent numbers of either."""
    size = (80, 90)
    ours = pushes(ag.sample_elastic(ag.Key(0), np.arange(8)), size)[:, :, 20:60, 20:60]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fields = [v2.ElasticTransform().make_params([torch.zeros(3, *size)])["displacement"] for _ in range(8)]
    theirs = torch.cat(fields).permute(0, 3, 1, 2) * torch.tensor([90, 80]).view(2, 1, 1) / 2
    # Of a kernel of σ = 5 the squares sum to 1 / (4 π σ²); the uniform numbers' variance is 1/3.
    predicted = 25 * math.sqrt(1 / 3 / (4 * math.pi * 25))
    assert predicted == pytest.approx(0.8, abs=0.05)
    for axis in (0, 1):
        assert ours[:, axis].std().item() == pytest.approx(predicted, rel=0.2)
        assert theirs[:, axis, 20:60, 20:60].std().item() == pytest.approx(predicted, rel=0.2)
    across, down = ours[:, 0].flatten(), ours[:, 1].flatten()
    assert abs(np.corrcoef(across, down)[0, 1]) < 5 / math.sqrt(160)


def test_a_larger_alpha_pushes_the_same_way_further() -> None:
    seed = np.array([[1, 2]], dtype=np.uint32)
    small, large = (
        pushes(ag.ElasticParams(np.float32([alpha]), seed, 4.0), (60, 60))[:, :, 20:40, 20:40] for alpha in (10, 20)
    )
    torch.testing.assert_close(large, 2 * small, rtol=0, atol=1e-4)


def test_what_comes_from_outside_is_filled() -> None:
    colour = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(4, 3, 33, 47).contiguous()
    params = ag.sample_elastic(ag.Key(0), np.arange(4), alpha=300, sigma=3.0, fill=(0.1, 0.5, 0.9))
    torch.testing.assert_close(ag.elastic(colour, params), colour, rtol=0, atol=1e-6)
    assert ag.elastic(torch.zeros(4, 3, 33, 47), params)[:, 2].max() == pytest.approx(0.9)


def test_samples_that_drew_nothing_keep_every_bit_and_the_rest_are_what_they_are_without() -> None:
    images, index = smooth(9), np.arange(9)
    params = ag.sample_elastic(ag.Key(0), index, sigma=3.0, p=0.5)
    some, every = ag.elastic(images, params), ag.elastic(images, ag.sample_elastic(ag.Key(0), index, sigma=3.0))
    chosen = torch.from_numpy(params.alpha > 0)
    assert 0 < chosen.sum() < 9
    assert torch.equal(some[~chosen], images[~chosen])
    assert torch.equal(some[chosen], every[chosen])
    assert ag.elastic(images, ag.sample_elastic(ag.Key(0), index, p=0.0, sigma=3.0)) is images


def test_the_strength_is_uniform_and_a_share_p_draws_one(assert_strengths: Callable[..., None]) -> None:
    params = ag.sample_elastic(ag.Key(0), np.arange(2 * MANY), alpha=(10, 90), p=0.5)
    assert_strengths(params.alpha, 10, 90)


def test_a_recipe_takes_it() -> None:
    recipe = ag.Recipe(size=24, ops=(("elastic", {"sigma": 2.0}),), mean=None, std=None)
    assert ag.Recipe.from_dict(recipe.to_dict()) == recipe
    images, index = (smooth(3) * 255).byte(), np.arange(3)
    plain = ag.Stage(ag.Recipe(size=24, mean=None, std=None))(images, index=index)[0]
    wanted = ag.elastic(plain, ag.sample_elastic(ag.Key(0), index, sigma=2.0))
    torch.testing.assert_close(ag.Stage(recipe)(images, index=index)[0], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(20, 47), (47, 20)])
def test_a_smoothing_that_reaches_past_the_far_side_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(
        ValueError, match=r"sigma is 5.0, whose kernel is 41 pixels wide; images of \(.*\) are too small"
    ):
        ag.elastic(smooth(2, 3, size), ag.sample_elastic(ag.Key(0), [0, 1]))
    assert ag.elastic(smooth(2, 3, (21, 21)), ag.sample_elastic(ag.Key(0), [0, 1])).shape == (2, 3, 21, 21)


def test_parameters_for_another_number_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match="elastic got 3 parameters for 2 images"):
        ag.elastic(smooth(2), ag.sample_elastic(ag.Key(0), [0, 1, 2]))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("alpha", value) for value in (-1, math.inf, (5, 2))),
        *(("sigma", value) for value in (0, -1, math.nan, math.inf)),
        ("fill", "noise"),
        ("p", 1.5),
    ],
)
def test_an_option_out_of_range_is_named(
    refuses_option: Callable[[str, str, Any], None], option: str, value: Any
) -> None:
    refuses_option("elastic", option, value)
