"""The ops on the values of pixels: against torchvision, float and uint8, at fixed parameters; and their draws."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import augment_gpu as ag
from augment_gpu.recipe import OPS
from augment_gpu.testing import check_augmentation

pytestmark = pytest.mark.usefixtures("threads")

MANY = 5000  # draws of a distribution
LEVEL = 1 / 255
# torchvision weighs red by 0.2989 and Kornia by 0.299: 0.026 grey level.
LUMA = 0.03 * LEVEL


class Case(NamedTuple):
    """An op at one parameter: what torchvision calls it, on floating point and on uint8. exact: the tolerance to the
    first; the second may round each value to a level, and is given two levels."""

    name: str
    params: Callable[[int], Any]
    floating: Callable[[torch.Tensor], torch.Tensor]
    uint8: Callable[[torch.Tensor], torch.Tensor]
    exact: float = 1e-6


def case(name: str, function: Callable[..., Any], value: float | None = None, field: str = "", **options: Any) -> Case:
    """value: the parameter of all rows and torchvision's argument, for uint8 times 255 where it is a threshold."""
    record = getattr(ag, f"{name.capitalize()}Params")
    if value is None:
        return Case(name, lambda rows: record(np.ones(rows, dtype=bool)), function, function, **options)
    scale = 255 if field == "threshold" else 1
    dtype = np.int64 if field == "bits" else np.float32
    return Case(
        name,
        lambda rows: record(np.full(rows, value, dtype=dtype)),
        lambda image: function(image, value),
        lambda image: function(image, value * scale),
        **options,
    )


CASES = [
    case("grayscale", lambda image: F.rgb_to_grayscale(image, 3), exact=LUMA),
    case("invert", F.invert),
    *(case("solarize", F.solarize, value, "threshold") for value in (0.0, 0.25, 0.5, 1.0)),
    *(case("posterize", F.posterize, bits, "bits") for bits in range(8)),
    case("autocontrast", F.autocontrast),
    case("equalize", F.equalize),
    *(case("sharpness", F.adjust_sharpness, value, "factor") for value in (0.0, 0.4, 1.9, 5.0)),
]
NAMES = list(dict.fromkeys(case.name for case in CASES))
# The ops of torchvision that draw: what each of ours does by its defaults, but for p.
SAMPLERS = {
    "grayscale": v2.RandomGrayscale(),
    "invert": v2.RandomInvert(),
    "solarize": v2.RandomSolarize(0.5),
    "posterize": v2.RandomPosterize(4),
    "autocontrast": v2.RandomAutocontrast(),
    "equalize": v2.RandomEqualize(),
    "sharpness": v2.RandomAdjustSharpness(2.0),
}

cases = pytest.mark.parametrize("case", CASES, ids=[f"{case.name}-{i}" for i, case in enumerate(CASES)])
names = pytest.mark.parametrize("name", NAMES)
channel_counts = pytest.mark.parametrize("channels", [1, 3])


def sampler(name: str, **options: Any) -> Callable[[ag.Key, Any], Any]:
    return lambda key, index: OPS[name][0](key, index, **options)


def touched(params: Any) -> np.ndarray:
    """Which samples the drawn parameters do something to."""
    neutral = {"chosen": False, "threshold": np.inf, "bits": 8, "factor": 1}
    (field,) = fields(params)
    different: np.ndarray = getattr(params, field.name) != neutral[field.name]
    return different


@pytest.fixture
def images(photo: Callable[..., np.ndarray]) -> Callable[..., torch.Tensor]:
    """(rows, channels, 33, 47) uint8 pictures, no two alike."""

    def make(rows: int, channels: int = 3) -> torch.Tensor:
        return torch.from_numpy(np.stack([photo(33, 47, channels, seed).transpose(2, 0, 1) for seed in range(rows)]))

    return make


# ---- pixels


@cases
@channel_counts
def test_it_is_torchvisions(case: Case, channels: int, images: Callable[..., torch.Tensor]) -> None:
    if case.name == "grayscale" and channels == 1:
        pytest.skip("it needs three channels")
    pictures = images(3, channels)
    result = getattr(ag, case.name)(pictures / 255, case.params(3))
    floating = torch.stack([case.floating(picture / 255) for picture in pictures])
    torch.testing.assert_close(result, floating, rtol=0, atol=case.exact)
    uint8 = torch.stack([case.uint8(picture) for picture in pictures]) / 255
    torch.testing.assert_close(result, uint8, rtol=0, atol=2 * LEVEL)


@cases
def test_it_is_torchvisions_between_levels(case: Case) -> None:
    """A crop's values lie anywhere in [0, 1], its ends among them."""
    values = torch.rand(3, 3, 17, 23, generator=torch.Generator().manual_seed(0))
    values[:, :, :2, 0], values[:, :, 2:4, 0] = 0, 1
    floating = torch.stack([case.floating(value) for value in values])
    torch.testing.assert_close(getattr(ag, case.name)(values, case.params(3)), floating, rtol=0, atol=case.exact)


@pytest.mark.parametrize(("name", "pillow"), [("autocontrast", ImageOps.autocontrast), ("equalize", ImageOps.equalize)])
def test_histograms_go_by_pillows_rule(
    name: str, pillow: Callable[..., Image.Image], images: Callable[..., torch.Tensor]
) -> None:
    picture = images(1)
    wanted = np.asarray(pillow(Image.fromarray(picture[0].permute(1, 2, 0).numpy()))).astype(np.float32)
    result = getattr(ag, name)(picture / 255, getattr(ag, f"{name.capitalize()}Params")(np.ones(1, dtype=bool)))
    # Pillow cuts autocontrast's result off to 8 bits
    torch.testing.assert_close(result[0].permute(1, 2, 0) * 255, torch.from_numpy(wanted), rtol=0, atol=1.001)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 3), (5, 2)])  # less than a kernel's side, and just one
@names
def test_the_smallest_pictures(name: str, size: tuple[int, int]) -> None:
    values = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    params = sampler(name, p=1.0)(ag.Key(0), [0, 1])
    reference = getattr(ag, f"{name}_reference")
    torch.testing.assert_close(OPS[name][1](values, params), reference(values, params), rtol=0, atol=LUMA)


@pytest.mark.parametrize("level", [0, 7, 255])
def test_a_picture_of_one_value_has_no_histogram_to_stretch_or_spread(level: int) -> None:
    flat = torch.full((1, 3, 40, 40), level / 255)
    always = np.ones(1, dtype=bool)
    assert torch.equal(ag.autocontrast(flat, ag.AutocontrastParams(always)), flat)
    assert torch.equal(ag.equalize(flat, ag.EqualizeParams(always)), flat)


def test_channels_are_stretched_and_spread_each_by_itself() -> None:
    ramp = torch.linspace(0.2, 0.6, 256 * 256).view(256, 256)  # less, and Pillow's whole steps are coarse
    picture = torch.stack([ramp, ramp * 0.5, torch.full_like(ramp, 0.3)])[None]
    stretched = ag.autocontrast(picture, ag.AutocontrastParams(np.ones(1, dtype=bool)))[0]
    assert stretched.amin((1, 2)).tolist() == pytest.approx([0, 0, 0.3])
    assert stretched.amax((1, 2)).tolist() == pytest.approx([1, 1, 0.3])
    spread = ag.equalize(picture, ag.EqualizeParams(np.ones(1, dtype=bool)))[0]
    # A flat histogram: half of the pixels lie below the middle. The ramps have 103 and 52 levels.
    assert ((spread[:2] < 0.5).float().mean((1, 2)) - 0.5).abs().max() < 1 / 50


def test_values_out_of_range_are_the_ends_of_the_histogram() -> None:
    """They come of a bicubic filter, or of an op before; an index out of a table would read anywhere."""
    picture = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0)) * 3 - 1
    params = ag.EqualizeParams(np.ones(1, dtype=bool))
    assert torch.equal(ag.equalize(picture, params), ag.equalize(picture.clamp(0, 1), params))


def test_a_pixel_by_hand() -> None:
    """0.7 with a threshold of 0.6; two bits of 0.7 are the level 2 of 4; a dot amid black, at a factor of 2."""
    pixel = torch.full((1, 1, 1, 1), 0.7)
    assert ag.solarize(pixel, ag.SolarizeParams(np.float32([0.6]))).item() == pytest.approx(0.3)
    assert ag.posterize(pixel, ag.PosterizeParams(np.array([2]))).item() == 0.5
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 0.4
    sharp = ag.sharpness(dot, ag.SharpnessParams(np.float32([2])))
    assert sharp[0, 0, 2, 2].item() == pytest.approx(0.4 + (0.4 - 0.4 * 5 / 13))
    soft = ag.sharpness(dot, ag.SharpnessParams(np.float32([0])))
    assert soft[0, 0, 1, 3].item() == pytest.approx(0.4 / 13)


# ---- promises


@names
@channel_counts
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_it_keeps_the_promises(
    name: str, channels: int, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    if name == "grayscale" and channels == 1:
        pytest.skip("it needs three channels")
    reference = getattr(ag, f"{name}_reference")
    options: dict[str, Any] = {"channels": channels, "dtype": dtype, "memory_format": memory_format}
    if dtype == torch.float32:
        options["atol"] = LUMA
    check_augmentation(OPS[name][1], sampler(name, p=0.5), reference, **options)


@names
def test_samples_that_drew_nothing_keep_every_bit_and_the_rest_are_what_they_are_without(name: str) -> None:
    values, index = torch.rand(17, 3, 9, 9, generator=torch.Generator().manual_seed(0)), np.arange(17)
    op = OPS[name][1]
    params = sampler(name, p=0.5)(ag.Key(0), index)
    some, every = op(values, params), op(values, sampler(name, p=1.0)(ag.Key(0), index))
    chosen = torch.from_numpy(touched(params))
    assert 0 < chosen.sum() < 17
    assert torch.equal(some[~chosen], values[~chosen])
    assert torch.equal(some[chosen], every[chosen])
    assert not torch.equal(some[chosen], values[chosen])


@pytest.mark.parametrize("name", [*NAMES, "color_jitter", "gaussian_blur"])
def test_without_a_sample_to_work_on_nothing_is_copied(name: str) -> None:
    values = torch.rand(4, 3, 33, 33)
    assert OPS[name][1](values, sampler(name, p=0.0)(ag.Key(0), np.arange(4))) is values


@names
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("p", [0.5, 1.0])  # 1: all rows, which go another way
def test_the_memory_format_is_kept(name: str, memory_format: torch.memory_format, p: float) -> None:
    values = torch.rand(6, 3, 9, 9).contiguous(memory_format=memory_format)
    result = OPS[name][1](values, sampler(name, p=p)(ag.Key(0), np.arange(6)))
    assert result.is_contiguous(memory_format=memory_format)


@names
def test_a_recipe_takes_it(name: str, images: Callable[..., torch.Tensor]) -> None:
    recipe = ag.Recipe(size=16, ops=((name, {"p": 1.0}),))
    assert ag.Recipe.from_dict(recipe.to_dict()) == recipe
    pictures, index = images(5), np.arange(5)
    result = ag.Stage(recipe)(pictures, index=index)[0]
    without = ag.Stage(ag.Recipe(size=16, mean=None, std=None))(pictures, index=index)[0]
    wanted = OPS[name][1](without, sampler(name, p=1.0)(ag.Key(0), index))
    wanted = F.normalize(wanted, list(recipe.mean or ()), list(recipe.std or ()))
    # 1e-5: the crop is rounded to 8 bits in one recipe and its normalisation fused in the other
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-5)


# ---- draws


@names
@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_a_share_p_of_the_samples_draws_it(name: str, p: float) -> None:
    share = touched(sampler(name, p=p)(ag.Key(5), np.arange(MANY))).mean()
    assert share == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / MANY))


@names
def test_the_defaults_are_torchvisions(name: str) -> None:
    theirs = SAMPLERS[name]
    share = touched(OPS[name][0](ag.Key(5), np.arange(MANY))).mean()
    assert share == pytest.approx(theirs.p, abs=5 * math.sqrt(theirs.p * (1 - theirs.p) / MANY))


def test_the_ops_draw_independently_of_each_other() -> None:
    drawn = np.stack([touched(sampler(name, p=0.5)(ag.Key(5), np.arange(MANY))) for name in NAMES])
    assert np.abs(np.corrcoef(drawn) - np.eye(len(NAMES))).max() < 5 / math.sqrt(MANY)


@names
def test_draws_do_not_depend_on_the_batch_around_a_sample(name: str) -> None:
    whole, alone = (touched(OPS[name][0](ag.Key(1, 4), index)) for index in ([2**40, 3, 17], [17]))
    assert alone[0] == whole[2]


@pytest.mark.parametrize(
    ("name", "field", "option", "span"),
    [
        ("solarize", "threshold", "threshold", (0.2, 0.9)),
        ("sharpness", "factor", "sharpness_factor", (0.1, 1.9)),
    ],
)
def test_a_range_is_drawn_from_uniformly(name: str, field: str, option: str, span: tuple[float, float]) -> None:
    params = sampler(name, p=0.5, **{option: span})(ag.Key(0), np.arange(2 * MANY))
    values = getattr(params, field)[touched(params)]
    counts = np.histogram(values, 20, span)[0]
    assert counts.sum() == len(values)
    # χ² of 19 degrees of freedom exceeds 60 with probability 4e-6
    assert ((counts - len(values) / 20) ** 2 / (len(values) / 20)).sum() < 60


def test_bits_are_drawn_from_both_ends_of_the_range_and_all_between() -> None:
    bits = ag.sample_posterize(ag.Key(0), np.arange(MANY), bits=(2, 5), p=1.0).bits
    counts = np.bincount(bits, minlength=9)
    assert counts[[0, 1, 6, 7, 8]].sum() == 0
    assert np.abs(counts[2:6] - MANY / 4).max() < 5 * math.sqrt(MANY * 3 / 16)


# ---- errors


def test_grayscale_wants_three_channels() -> None:
    with pytest.raises(ValueError, match=r"^grayscale got 1 channels; it needs 3: red, green and blue$"):
        ag.grayscale(torch.rand(2, 1, 5, 5), ag.sample_grayscale(ag.Key(0), [0, 1]))


@names
def test_parameters_for_another_number_of_images_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} got 3 parameters for 2 images"):
        OPS[name][1](torch.rand(2, 3, 5, 5), OPS[name][0](ag.Key(0), [0, 1, 2]))


@names
@pytest.mark.parametrize("images", [torch.zeros(2, 3, 5, 5, dtype=torch.uint8), torch.zeros(3, 5, 5)], ids=["u8", "3d"])
def test_other_tensors_are_refused(name: str, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=rf"^{name} got torch\.\w+ \(.*\); wanted floating point \(B, C, H, W\)"):
        OPS[name][1](images, OPS[name][0](ag.Key(0), np.arange(len(images))))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *((name, "p", value) for name in NAMES for value in (-0.1, 1.1, math.nan)),
        *(("solarize", "threshold", value) for value in (-0.1, 1.1, math.nan, (0.5, 0.2), (0.1, 0.2, 0.3), (0, 128))),
        *(("posterize", "bits", value) for value in (-1, 9, 2.5, (5, 2), (0, 9), (0.5, 3))),
        *(("sharpness", "sharpness_factor", value) for value in (-0.1, math.inf, math.nan, (2, 1), (0, math.inf))),
    ],
)
def test_an_option_out_of_range_is_named(
    refuses_option: Callable[[str, str, Any], None], name: str, option: str, value: Any
) -> None:
    refuses_option(name, option, value)
