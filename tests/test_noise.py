"""gaussian_noise: its distribution, and that a sample's noise is its own."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import augment_gpu as ag
from augment_gpu.testing import check_augmentation

pytestmark = pytest.mark.usefixtures("threads")

MANY = 5000  # draws of a distribution
GREY = torch.full((6, 3, 64, 65), 0.5)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("clip", [True, False])
def test_it_keeps_the_promises(
    channels: int, dtype: torch.dtype, memory_format: torch.memory_format, clip: bool
) -> None:
    check_augmentation(
        ag.gaussian_noise,
        lambda key, index: ag.sample_gaussian_noise(key, index, mean=0.02, sigma=(0.05, 0.2), clip=clip, p=0.6),
        ag.gaussian_noise_reference,
        channels=channels,
        dtype=dtype,
        memory_format=memory_format,
        # Unclipped sums pass 1, where bfloat16's steps are twice as wide.
        atol=2**-6 if dtype == torch.bfloat16 and not clip else None,
    )


def test_it_runs_through_the_kernel_as_well(kernel_device: str) -> None:
    """Whose logarithms and cosines are of float32."""
    images = torch.full((2, 3, 5, 7), 0.5, device=kernel_device)
    params = ag.sample_gaussian_noise(ag.Key(0), [3, 4], sigma=0.2)
    wanted = ag.gaussian_noise_reference(images, params)
    torch.testing.assert_close(ag.gaussian_noise(images, params), wanted, rtol=0, atol=1e-5)


def test_the_noise_is_normal_of_the_wanted_mean_and_sigma() -> None:
    """Of 4,160 numbers the mean errs by σ / 64, and the deviation by σ / 91; 5 times that. Beyond 2 σ lie 4.55 %."""
    params = ag.sample_gaussian_noise(ag.Key(0), np.arange(6), mean=0.1, sigma=(0.02, 0.3), clip=False)
    noise = ag.gaussian_noise(GREY, params) - GREY
    sigma = torch.from_numpy(params.sigma)[:, None]
    planes = noise.flatten(2)
    assert ((planes.mean(2) - 0.1).abs() < 5 * sigma / 64).all()
    assert ((planes.std(2) - sigma).abs() < 5 * sigma / 91).all()
    outside = ((planes - 0.1).abs() > 2 * sigma[..., None]).float().mean(2)
    assert (outside - 0.0455).abs().max() < 5 * math.sqrt(0.0455 * 0.9545 / 4160)


def test_samples_channels_and_neighbours_have_noise_of_their_own() -> None:
    noise = ag.gaussian_noise(GREY, ag.sample_gaussian_noise(ag.Key(0), np.arange(6), sigma=0.1)) - GREY
    planes = np.concatenate([noise.flatten(0, 1).flatten(1).numpy(), noise.roll(1, 3).flatten(0, 1).flatten(1).numpy()])
    assert np.abs(np.corrcoef(planes) - np.eye(len(planes))).max() < 5 / 64


def test_it_is_cut_off_to_the_range_unless_told_otherwise() -> None:
    noisy = ag.gaussian_noise(GREY, ag.sample_gaussian_noise(ag.Key(0), np.arange(6), sigma=1.0))
    assert (noisy.min(), noisy.max()) == (0, 1)
    noisy = ag.gaussian_noise(GREY, ag.sample_gaussian_noise(ag.Key(0), np.arange(6), sigma=1.0, clip=False))
    assert noisy.min() < 0 < 1 < noisy.max()


def test_samples_that_drew_nothing_keep_every_bit_and_the_rest_are_what_they_are_without() -> None:
    images, index = torch.rand(17, 3, 9, 9, generator=torch.Generator().manual_seed(0)), np.arange(17)
    params = ag.sample_gaussian_noise(ag.Key(0), index, mean=0.1, p=0.5)
    some = ag.gaussian_noise(images, params)
    every = ag.gaussian_noise(images, ag.sample_gaussian_noise(ag.Key(0), index, mean=0.1))
    chosen = torch.from_numpy(params.sigma > 0)
    assert 0 < chosen.sum() < 17
    assert torch.equal(some[~chosen], images[~chosen])
    assert torch.equal(some[chosen], every[chosen])
    assert ag.gaussian_noise(images, ag.sample_gaussian_noise(ag.Key(0), index, mean=0.1, p=0.0)) is images


def test_gradients_pass_through() -> None:
    images = (torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)) / 2 + 0.25).requires_grad_()
    ag.gaussian_noise(images, ag.sample_gaussian_noise(ag.Key(0), [0, 1], sigma=0.01)).sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))  # type: ignore[arg-type]


def test_the_strength_is_uniform_and_a_share_p_draws_one(assert_strengths: Callable[..., None]) -> None:
    params = ag.sample_gaussian_noise(ag.Key(0), np.arange(2 * MANY), sigma=(0.1, 0.5), p=0.5)
    assert_strengths(params.sigma, 0.1, 0.5)


def test_a_recipe_takes_it() -> None:
    recipe = ag.Recipe(size=8, ops=(("gaussian_noise", {"sigma": (0.1, 0.2)}),), mean=None, std=None)
    assert ag.Recipe.from_dict(recipe.to_dict()) == recipe
    images, index = (GREY * 255).byte(), np.arange(6)
    plain = ag.Stage(ag.Recipe(size=8, mean=None, std=None))(images, index=index)[0]
    wanted = ag.gaussian_noise(plain, ag.sample_gaussian_noise(ag.Key(0), index, sigma=(0.1, 0.2)))
    torch.testing.assert_close(ag.Stage(recipe)(images, index=index)[0], wanted, rtol=0, atol=1e-6)


def test_five_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="the images have 5 channels; noise fills at most 4"):
        ag.gaussian_noise(torch.rand(2, 5, 4, 4), ag.sample_gaussian_noise(ag.Key(0), [0, 1]))


def test_parameters_for_another_number_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match="gaussian_noise got 3 parameters for 6 images"):
        ag.gaussian_noise(GREY, ag.sample_gaussian_noise(ag.Key(0), [0, 1, 2]))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("sigma", value) for value in (-0.1, math.inf, math.nan, (0.2, 0.1))),
        *(("mean", value) for value in (math.inf, math.nan)),
        ("p", -0.5),
    ],
)
def test_an_option_out_of_range_is_named(
    refuses_option: Callable[[str, str, Any], None], option: str, value: Any
) -> None:
    refuses_option("gaussian_noise", option, value)
