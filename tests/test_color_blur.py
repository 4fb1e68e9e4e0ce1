"""color_jitter and gaussian_blur: against torchvision, image by image, and against the distribution of its draws."""

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import ColorJitter, GaussianBlur
from torchvision.transforms import functional as tv

import augment_gpu as ag
from augment_gpu.testing import check_augmentation

# torchvision weighs red by 0.2989 and Kornia by 0.299: 0.0001 · 255 · the strength, at most 1 here, is 0.026 grey level
# a step; float32 adds less than 0.001. Four steps, each of which may stretch the error of those before it by up to 1.4.
ONE_STEP = 0.03 / 255
FOUR_STEPS = 0.15 / 255
NEUTRAL = np.array([1, 1, 1, 0], dtype=np.float32)
ADJUST = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
ORDERS = np.array(list(itertools.permutations(range(4))))
MANY = 5000  # draws of each side of a distribution
BINS = 20

# float16 is torch's own business: the ops compute in float32 and round once, as for bfloat16.
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
channel_counts = pytest.mark.parametrize("channels", [1, 3])
formats = pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)


pytestmark = pytest.mark.usefixtures("threads")


def photo(batch: int, channels: int = 3, height: int = 33, width: int = 47) -> torch.Tensor:
    """(batch, channels, height, width) in [0, 1]: soft patches of colour, from black to white."""
    patches = torch.rand(batch, channels, 5, 7, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    return F.interpolate(patches, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def jitter_params(factor: Any, order: Any = (0, 1, 2, 3), rows: int = 1) -> ag.ColorJitterParams:
    """The same factors and order for every row, unless they are tables."""
    factor, order = np.asarray(factor, dtype=np.float32), np.asarray(order)
    return ag.ColorJitterParams(np.broadcast_to(factor, (rows, 4)), np.broadcast_to(order, (rows, 4)))


def one_step(step: int, factor: float) -> np.ndarray:
    factors = NEUTRAL.copy()
    factors[step] = factor
    return factors


def by_torchvision(image: torch.Tensor, factor: np.ndarray, order: np.ndarray) -> torch.Tensor:
    for step in order.tolist():
        image = ADJUST[step](image, float(factor[step]))
    return image


def sample_jitter(key: ag.Key, index: Any) -> ag.ColorJitterParams:
    return ag.sample_color_jitter(key, index, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def sample_blur(key: ag.Key, index: Any) -> ag.GaussianBlurParams:
    return ag.sample_gaussian_blur(key, index, kernel_size=23, p=0.6)


def histograms_agree(ours: np.ndarray, theirs: np.ndarray, low: float, high: float) -> None:
    """Both samples lie in [low, high] and their histograms differ by chance alone."""
    assert low - 1e-6 <= min(ours.min(), theirs.min())
    assert max(ours.max(), theirs.max()) <= high + 1e-6
    one, other = (np.histogram(values, BINS, (low - 1e-6, high + 1e-6))[0] for values in (ours, theirs))
    # χ² of two samples of equal size; of 19 degrees of freedom it exceeds 60 with probability 4e-6
    assert len(ours) == len(theirs)
    assert ((one - other) ** 2 / np.maximum(one + other, 1)).sum() < 60


# ---- color_jitter: pixels


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        *((step, factor) for step in (0, 1, 2) for factor in (0.0, 0.3, 0.97, 1.0, 1.8)),
        *((3, turns) for turns in (-0.5, -0.23, 0.0, 0.01, 0.1, 0.5)),
    ],
)
@channel_counts
def test_each_step_is_torchvisions(step: int, factor: float, channels: int) -> None:
    images = photo(3, channels)
    jittered = ag.color_jitter(images, jitter_params(one_step(step, factor), rows=3))
    wanted = torch.stack([ADJUST[step](image, factor) for image in images])
    torch.testing.assert_close(jittered, wanted, rtol=0, atol=ONE_STEP)


def test_all_24_orders_in_one_batch_are_torchvisions_one_after_the_other() -> None:
    images, factors = photo(24), np.array([1.3, 0.7, 1.4, 0.08], dtype=np.float32)
    jittered = ag.color_jitter(images, jitter_params(factors, ORDERS, rows=24))
    wanted = torch.stack([by_torchvision(image, factors, order) for image, order in zip(images, ORDERS, strict=True)])
    torch.testing.assert_close(jittered, wanted, rtol=0, atol=FOUR_STEPS)


def test_the_order_matters() -> None:
    image = photo(1).repeat(2, 1, 1, 1)
    jittered = ag.color_jitter(image, jitter_params([1.6, 0.5, 1, 0], [[0, 1, 2, 3], [1, 0, 2, 3]], rows=2))
    assert (jittered[0] - jittered[1]).abs().max() > 10 / 255


def test_drawn_parameters_give_torchvisions_picture() -> None:
    images = photo(17)  # odd, and no two rows alike
    params = sample_jitter(ag.Key(0), np.arange(17))
    wanted = [by_torchvision(*row) for row in zip(images, params.factor, params.order, strict=True)]
    torch.testing.assert_close(ag.color_jitter(images, params), torch.stack(wanted), rtol=0, atol=FOUR_STEPS)


@pytest.mark.parametrize(("step", "factor"), [(0, 0.8), (1, 1.2), (2, 1.3)])
def test_a_step_is_pillows_but_for_its_rounding(step: int, factor: float) -> None:
    """Pillow cuts the result off to 8 bits, so it is less than 1 level darker, and rounds the grey that it blends with,
    which counts |1 − factor| of half a level. Not for hue, which Pillow turns in 8-bit HSV."""
    pixels = (photo(1)[0] * 255).round().byte()
    pil = tv.pil_to_tensor(ADJUST[step](Image.fromarray(pixels.permute(1, 2, 0).numpy()), factor))
    jittered = ag.color_jitter(pixels[None] / 255, jitter_params(one_step(step, factor)))[0] * 255
    torch.testing.assert_close(jittered, pil.float(), rtol=0, atol=1.2)


def test_a_pixel_by_hand() -> None:
    """Brightness 1.5 on (0.2, 0.4, 0.8) clips blue; a hue of one third of a turn carries red to green to blue."""
    pixel = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1)
    bright = ag.color_jitter(pixel, jitter_params(one_step(0, 1.5))).flatten()
    torch.testing.assert_close(bright, torch.tensor([0.3, 0.6, 1.0]), rtol=0, atol=1e-6)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    turned = ag.color_jitter(red, jitter_params(one_step(3, 1 / 3))).flatten()
    torch.testing.assert_close(turned, torch.tensor([0.0, 1.0, 0.0]), rtol=0, atol=1e-5)


@dtypes
@channel_counts
@formats
def test_color_jitter_keeps_the_promises(dtype: torch.dtype, channels: int, memory_format: torch.memory_format) -> None:
    check_augmentation(
        ag.color_jitter,
        sample_jitter,
        ag.color_jitter_reference,
        dtype=dtype,
        channels=channels,
        memory_format=memory_format,
    )


@pytest.mark.parametrize("count", [1, 2])
@channel_counts
def test_color_jitter_gives_the_same_bits_alone_at_full_size(
    threads: Callable[[int], None], channels: int, count: int
) -> None:
    """224 × 224 is beyond 32,768 pixels, from where torch splits a single sum among its threads."""
    images, index = photo(4, channels, 224, 224), np.arange(4)
    threads(1)
    whole = ag.color_jitter(images, sample_jitter(ag.Key(1), index))
    threads(count)
    for row in range(4):
        alone = ag.color_jitter(images[row : row + 1], sample_jitter(ag.Key(1), index[row : row + 1]))
        assert torch.equal(alone[0], whole[row]), f"row {row} alone"
    assert torch.equal(ag.color_jitter(images, sample_jitter(ag.Key(1), index)), whole)


def test_samples_that_are_left_alone_keep_every_bit_and_the_rest_are_what_they_are_without() -> None:
    images, index = photo(17), np.arange(17)
    jittered = ag.color_jitter(images, ag.sample_color_jitter(ag.Key(0), index, brightness=0.5, hue=0.2, p=0.5))
    always = ag.color_jitter(images, ag.sample_color_jitter(ag.Key(0), index, brightness=0.5, hue=0.2))
    untouched = (jittered == images).all(dim=(1, 2, 3))
    assert 0 < untouched.sum() < 17
    assert torch.equal(jittered[~untouched], always[~untouched])
    none = ag.sample_color_jitter(ag.Key(0), index, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.2, p=0.0)
    assert torch.equal(ag.color_jitter(images, none), images)


# ---- color_jitter: draws


@pytest.mark.parametrize("strength", [0.4, 1.5])  # 1.5: the lower end is cut off at 0
@pytest.mark.parametrize("p", [1.0, 0.3])  # whether a sample is jittered says nothing about its factors
def test_factors_are_distributed_as_torchvisions(strength: float, p: float) -> None:
    theirs = ColorJitter(strength, strength, strength, 0.1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ranges = theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue
        draws = [ColorJitter.get_params(*ranges) for _ in range(MANY)]
    ours = ag.sample_color_jitter(
        ag.Key(0), np.arange(4 * MANY), brightness=strength, contrast=strength, saturation=strength, hue=0.1, p=p
    )
    chosen = ours.factor[(ours.factor != NEUTRAL).any(axis=1)][:MANY]
    for step, span in enumerate(ranges):
        histograms_agree(chosen[:, step], np.array([draw[step + 1] for draw in draws]), *span)


def test_the_order_is_uniform_over_the_24_permutations() -> None:
    orders = sample_jitter(ag.Key(3), np.arange(24 * 200)).order
    place = {tuple(order): i for i, order in enumerate(ORDERS.tolist())}
    counts = np.bincount([place[tuple(order)] for order in orders.tolist()], minlength=24)
    # χ² of 23 degrees of freedom exceeds 66 with probability 4e-6
    assert ((counts - 200) ** 2 / 200).sum() < 66


def test_the_four_factors_and_the_order_are_independent() -> None:
    params = ag.sample_color_jitter(ag.Key(3), np.arange(MANY), brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    columns = np.concatenate([params.factor, params.order[:, :1]], axis=1).T
    off_diagonal = np.corrcoef(columns) - np.eye(5)
    assert np.abs(off_diagonal).max() < 5 / math.sqrt(MANY)


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_a_share_p_of_the_samples_is_jittered(p: float) -> None:
    factor = ag.sample_color_jitter(ag.Key(5), np.arange(MANY), brightness=0.4, p=p).factor
    share = (factor != NEUTRAL).any(axis=1).mean()
    assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / MANY))


# ---- color_jitter: errors


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"color_jitter got {channels} channels; wanted 1 or 3"):
        ag.color_jitter(photo(2, channels), sample_jitter(ag.Key(0), [0, 1]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("brightness", "contrast", "saturation") for value in (-0.1, math.nan, math.inf)),
        *((name, value) for name in ("brightness", "hue") for value in ((1.2, 0.8), (-2.0, 0.1), (0.1,))),
        *(("hue", value) for value in (-0.1, 0.51, math.nan, (-0.1, 0.6))),
        *(("p", value) for value in (-0.1, 1.1, math.nan)),
    ],
)
def test_an_option_of_color_jitter_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {re.escape(str(value))}"):
        ag.sample_color_jitter(ag.Key(0), [0], **{name: value})


@pytest.mark.parametrize(("op", "sample"), [(ag.color_jitter, sample_jitter), (ag.gaussian_blur, sample_blur)])
def test_parameters_for_another_number_of_images_are_refused(op: Any, sample: Any) -> None:
    with pytest.raises(ValueError, match=f"{op.__name__} got 3 parameters for 2 images"):
        op(photo(2), sample(ag.Key(0), [0, 1, 2]))


# ---- gaussian_blur


@pytest.mark.parametrize(
    ("kernel_size", "size"),
    [
        (1, (1, 1)),  # the smallest of both
        (3, (33, 47)),
        (23, (33, 47)),
        (23, (12, 17)),  # the smallest side whose reflection still holds half a kernel of 11
    ],
)
@channel_counts
def test_blur_is_torchvisions(kernel_size: int, size: tuple[int, int], channels: int) -> None:
    images = photo(4, channels, *size)
    sigma = np.array([0.1, 0.7, 2.0, 5.0], dtype=np.float32)
    blurred = ag.gaussian_blur(images, ag.GaussianBlurParams(sigma, kernel_size))
    wanted = [
        tv.gaussian_blur(image, [kernel_size] * 2, [s, s]) for image, s in zip(images, sigma.tolist(), strict=True)
    ]
    # sums of at most 23² float32 products below 1, added in another order
    torch.testing.assert_close(blurred, torch.stack(wanted), rtol=0, atol=1e-5)


def test_the_blur_of_a_dot_is_the_gaussian_by_hand() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 1
    blurred = ag.gaussian_blur(image, ag.GaussianBlurParams(np.ones(1, dtype=np.float32), 3))
    side = math.exp(-0.5) / (1 + 2 * math.exp(-0.5))
    line = torch.tensor([0, side, 1 - 2 * side, side, 0])
    torch.testing.assert_close(blurred[0, 0], torch.outer(line, line), rtol=0, atol=1e-7)


@dtypes
@channel_counts
@formats
@pytest.mark.parametrize("kernel_size", [3, 23])
def test_gaussian_blur_keeps_the_promises(
    dtype: torch.dtype, channels: int, memory_format: torch.memory_format, kernel_size: int
) -> None:
    check_augmentation(
        ag.gaussian_blur,
        lambda key, index: ag.sample_gaussian_blur(key, index, kernel_size=kernel_size, p=0.6),
        ag.gaussian_blur_reference,
        dtype=dtype,
        channels=channels,
        memory_format=memory_format,
    )


@pytest.mark.parametrize("count", [1, 2])
@channel_counts
def test_gaussian_blur_gives_the_same_bits_alone_at_full_size(
    threads: Callable[[int], None], channels: int, count: int
) -> None:
    images, index = photo(4, channels, 224, 224), np.arange(4)
    threads(1)
    whole = ag.gaussian_blur(images, sample_blur(ag.Key(1), index))
    threads(count)
    for row in range(4):
        alone = ag.gaussian_blur(images[row : row + 1], sample_blur(ag.Key(1), index[row : row + 1]))
        assert torch.equal(alone[0], whole[row]), f"row {row} alone"


def test_samples_that_drew_no_blur_keep_every_bit_and_a_share_p_drew_one() -> None:
    params = ag.sample_gaussian_blur(ag.Key(5), np.arange(MANY), p=0.3)
    assert (params.sigma > 0).mean() == pytest.approx(0.3, abs=5 * math.sqrt(0.3 * 0.7 / MANY))
    images = photo(17)
    params = ag.sample_gaussian_blur(ag.Key(5), np.arange(17), p=0.5)
    same = (ag.gaussian_blur(images, params) == images).all(dim=(1, 2, 3)).numpy()
    assert (same == (params.sigma == 0)).all()
    assert 0 < same.sum() < 17
    assert torch.equal(ag.gaussian_blur(images, ag.sample_gaussian_blur(ag.Key(5), np.arange(17), p=0.0)), images)


@pytest.mark.parametrize("p", [1.0, 0.3])  # whether a sample is blurred says nothing about its σ
def test_sigma_is_distributed_as_torchvisions(p: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([GaussianBlur.get_params(0.1, 2.0) for _ in range(MANY)])
    ours = ag.sample_gaussian_blur(ag.Key(0), np.arange(4 * MANY), sigma=(0.1, 2.0), p=p).sigma
    histograms_agree(ours[ours > 0][:MANY], theirs, 0.1, 2.0)


@pytest.mark.parametrize("size", [(11, 47), (47, 11), (1, 1)])
def test_a_kernel_that_reaches_past_the_far_side_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"kernel_size is 23; images of \(.*\) are too small for it"):
        ag.gaussian_blur(photo(2, 3, *size), sample_blur(ag.Key(0), [0, 1]))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("kernel_size", value) for value in (0, -1, 4)),
        *(("sigma", value) for value in ((0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0))),
        *(("p", value) for value in (-0.1, 1.1, math.nan)),
    ],
)
def test_an_option_of_gaussian_blur_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} is"):
        ag.sample_gaussian_blur(ag.Key(0), [0], **{name: value})


# ---- both of them


@pytest.mark.parametrize(("op", "sample"), [(ag.color_jitter, sample_jitter), (ag.gaussian_blur, sample_blur)])
@formats
def test_the_memory_format_is_kept(op: Any, sample: Any, memory_format: torch.memory_format) -> None:
    images = photo(4).to(torch.bfloat16).contiguous(memory_format=memory_format)
    assert op(images, sample(ag.Key(0), np.arange(4))).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("sample", [sample_jitter, sample_blur])
def test_draws_do_not_depend_on_the_batch_around_a_sample(sample: Any) -> None:
    index = np.array([2**40, 3, 17])
    whole, alone = sample(ag.Key(1, 4), index), sample(ag.Key(1, 4), [17])
    for name, values in vars(whole).items():
        if isinstance(values, np.ndarray):
            assert (getattr(alone, name)[0] == values[2]).all()
