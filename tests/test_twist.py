"""color_twist: its parts by hand or by a published formula, its draws, and the same colours within the crop."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import ColorJitter
from torchvision.transforms import functional as tv

import augment_gpu as ag
from augment_gpu.pipeline import draw, prepare
from augment_gpu.testing import check_augmentation

MANY = 4000
ALL = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "channel_mixing": 0.3}
# Wikipedia's "YIQ" has four digits; the weights of luma are exact.
YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])

channel_counts = pytest.mark.parametrize("channels", [1, 3])
pytestmark = pytest.mark.usefixtures("threads")


def images(batch: int, channels: int = 3, height: int = 33, width: int = 47, *, low: float = 0.0) -> torch.Tensor:
    """(batch, channels, height, width), uniform in [low, 1 - low]."""
    generator = torch.Generator().manual_seed(0)
    return low + (1 - 2 * low) * torch.rand(batch, channels, height, width, generator=generator)


def fixed(rows: int = 1, **options: float) -> ag.ColorTwistParams:
    """Of each option the one value that is given."""
    pairs: dict[str, Any] = {name: (value, value) for name, value in options.items()}
    return ag.sample_color_twist(ag.Key(0), np.arange(rows), **pairs)


def sample(key: ag.Key, index: Any) -> ag.ColorTwistParams:
    return ag.sample_color_twist(key, index, **ALL)


def ragged(count: int, channels: int = 3) -> list[np.ndarray]:
    """Grain of full contrast, of sizes none alike."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (13 + 3 * i, 19 - 2 * i, channels), dtype=np.uint8) for i in range(count)]


# ---- the map


def test_a_pixel_by_hand() -> None:
    """(0.2, 0.4, 0.8) has the luma 0.3858. Nothing is cut off."""
    pixel = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1)
    for options, wanted in (
        ({"brightness": 1.5}, [0.3, 0.6, 1.2]),
        ({"contrast": 2.0}, [-0.1, 0.3, 1.1]),
        ({"contrast": 0.0}, [0.5, 0.5, 0.5]),
        ({"saturation": 0.0}, [0.3858, 0.3858, 0.3858]),
        ({"saturation": 2.0}, [0.0142, 0.4142, 1.2142]),
        ({"hue": 0.0}, [0.2, 0.4, 0.8]),
    ):
        twisted = ag.color_twist(pixel, fixed(**options)).flatten()
        torch.testing.assert_close(twisted, torch.tensor(wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "adjust", "tolerance"),
    [
        ("brightness", tv.adjust_brightness, 1e-6),
        ("saturation", tv.adjust_saturation, 1e-4),  # torchvision weighs red by 0.2989
    ],
)
@pytest.mark.parametrize("factor", [0.0, 0.7, 1.0, 1.3])
@channel_counts
def test_brightness_and_saturation_are_torchvisions_where_nothing_is_cut_off(
    name: str, adjust: Any, tolerance: float, factor: float, channels: int
) -> None:
    soft = images(2, channels, low=0.25)
    twisted = ag.color_twist(soft, fixed(2, **{name: factor}))
    torch.testing.assert_close(twisted, adjust(soft, factor), rtol=0, atol=tolerance)


def test_contrast_is_torchvisions_for_a_picture_whose_mean_is_a_half() -> None:
    soft = images(1, 1, low=0.25)
    soft = torch.cat([soft, 1 - soft], dim=3)
    twisted = ag.color_twist(soft, fixed(contrast=1.7))
    torch.testing.assert_close(twisted, tv.adjust_contrast(soft, 1.7), rtol=0, atol=1e-6)


@pytest.mark.parametrize("turns", [-0.5, -0.2, 0.01, 0.25, 0.5])
def test_hue_turns_i_and_q_by_the_published_matrix(turns: float) -> None:
    """Red to green to blue, which is backwards in that plane."""
    sine, cosine = np.sin(-2 * np.pi * turns), np.cos(2 * np.pi * turns)
    wanted = np.linalg.inv(YIQ) @ [[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]] @ YIQ
    np.testing.assert_allclose(fixed(hue=turns).matrix[0, :, :3], wanted, rtol=0, atol=1e-3)


def test_hue_goes_the_way_that_torchvisions_goes() -> None:
    primaries = torch.eye(3).view(3, 3, 1, 1)
    twisted = ag.color_twist(primaries, fixed(3, hue=1 / 3)).flatten(1)
    assert twisted.argmax(dim=1).tolist() == tv.adjust_hue(primaries, 1 / 3).flatten(1).argmax(dim=1).tolist()
    # and on average as far, in quite another direction of the three: the docstring says so
    soft = images(1, height=99, width=101, low=0.1)
    ours, theirs = ag.color_twist(soft, fixed(hue=0.02)) - soft, tv.adjust_hue(soft, 0.02) - soft
    assert ours.norm() / theirs.norm() == pytest.approx(1, abs=0.1)
    assert (ours * theirs).sum() / ours.norm() / theirs.norm() == pytest.approx(0.65, abs=0.1)


def test_hue_and_saturation_leave_luma_and_greys_as_they_are() -> None:
    params = ag.sample_color_twist(ag.Key(0), np.arange(50), saturation=2.0, hue=0.5)
    linear = params.matrix[:, :, :3]
    np.testing.assert_allclose(YIQ[0] @ linear, np.broadcast_to(YIQ[0], (50, 3)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(linear @ np.ones(3), np.ones((50, 3)), rtol=0, atol=1e-12)
    assert (params.matrix[:, :, 3] == 0).all()


def test_brightness_and_contrast_are_done_in_either_order_by_a_coin() -> None:
    """(2x − 0.5) · 1.5 or 2 · 1.5x − 0.5, whatever the other options."""
    matrix = fixed(MANY, brightness=1.5, contrast=2.0, saturation=0.3, hue=0.2).matrix
    np.testing.assert_allclose(matrix[:, :, :3].sum(axis=2), 3, rtol=0, atol=1e-12)
    first = np.isclose(matrix[:, :, 3], -0.75).all(axis=1)
    assert (first | np.isclose(matrix[:, :, 3], -0.5).all(axis=1)).all()
    assert first.mean() == pytest.approx(0.5, abs=5 * math.sqrt(0.25 / MANY))


def test_channel_mixing_by_the_whole_gives_mixtures_of_the_channels() -> None:
    weights = fixed(MANY, channel_mixing=1.0).matrix[:, :, :3]
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=2), 1, rtol=0, atol=1e-12)
    # uniform among weights that sum to 1: each has the mean 1/3 and the variance 1/18
    deviation = math.sqrt(1 / 18 / MANY)
    np.testing.assert_allclose(weights.mean(axis=0), 1 / 3, rtol=0, atol=5 * deviation)
    np.testing.assert_allclose(weights.var(axis=0), 1 / 18, rtol=0, atol=5 * 0.06 / math.sqrt(MANY))


def test_a_share_of_channel_mixing_keeps_the_rest_and_comes_last() -> None:
    whole, part = (fixed(5, channel_mixing=share).matrix[:, :, :3] for share in (1.0, 0.25))
    np.testing.assert_allclose(part, 0.75 * np.eye(3) + 0.25 * whole, rtol=0, atol=1e-12)
    others = {"brightness": 1.2, "saturation": 0.5, "hue": 0.1}
    composed = part @ fixed(5, **others).matrix[:, :, :3]
    np.testing.assert_allclose(fixed(5, channel_mixing=0.25, **others).matrix[:, :, :3], composed, rtol=0, atol=1e-12)


def test_of_one_channel_the_map_is_that_of_a_grey_pixel() -> None:
    grey, params = images(17, 1), sample(ag.Key(2), np.arange(17))
    wanted = ag.color_twist(grey.expand(-1, 3, -1, -1), params)
    twisted = ag.color_twist(grey, params)
    torch.testing.assert_close(twisted.expand(-1, 3, -1, -1), wanted, rtol=0, atol=1e-6)
    assert torch.equal(ag.color_twist(grey, fixed(17, saturation=0.1, hue=0.4)), grey)


# ---- draws


@pytest.mark.parametrize("options", [{"brightness": 0.4}, {"brightness": 1.5}, {"brightness": (0.2, 0.9)}])
@pytest.mark.parametrize("p", [1.0, 0.5])  # whether a sample is twisted says nothing about its factors
def test_factors_are_distributed_as_torchvisions(options: dict[str, Any], p: float) -> None:
    low, high = ColorJitter(**options).brightness
    gains = ag.sample_color_twist(ag.Key(0), np.arange(MANY), p=p, **options).matrix[:, 0, 0]
    chosen = gains[gains != 1]
    assert len(chosen) / MANY == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / MANY))
    count, _ = np.histogram(chosen, 20, (low, high))
    assert count.sum() == len(chosen)
    # χ² of 19 degrees of freedom exceeds 60 with probability 4e-6
    assert ((count - len(chosen) / 20) ** 2 / (len(chosen) / 20)).sum() < 60


@pytest.mark.parametrize(("span", "low", "high"), [(0.2, -0.2, 0.2), ((0.1, 0.3), 0.1, 0.3)])
def test_hue_is_drawn_from_its_range_in_turns(span: Any, low: float, high: float) -> None:
    """The angle is that between a colour difference and what becomes of it."""
    turned = ag.sample_color_twist(ag.Key(0), np.arange(MANY), hue=span).matrix[:, :, :3]
    color = YIQ @ turned @ np.linalg.inv(YIQ) @ [0, 1, 0]
    turns = np.arctan2(-color[:, 2], color[:, 1]) / (2 * np.pi)
    assert turns.min() == pytest.approx(low, abs=0.002)
    assert turns.max() == pytest.approx(high, abs=0.002)
    assert turns.mean() == pytest.approx((low + high) / 2, abs=5 * (high - low) / math.sqrt(12 * MANY) + 0.001)


def test_the_options_are_drawn_independently() -> None:
    """Gain, difference of red, and shift stand for brightness, saturation and contrast."""
    one: dict[str, Any] = {"brightness": 0.4, "saturation": 0.4, "contrast": 0.4}
    alone = [ag.sample_color_twist(ag.Key(3), np.arange(MANY), **{name: one[name]}).matrix for name in one]
    columns = np.stack([alone[0][:, 0, 0], alone[1][:, 0, 1], alone[2][:, 0, 3]])
    assert np.abs(np.corrcoef(columns) - np.eye(3)).max() < 5 / math.sqrt(MANY)


def test_one_option_does_not_change_the_draws_of_the_others() -> None:
    index = np.arange(9)
    hue = ag.sample_color_twist(ag.Key(3), index, hue=0.3).matrix[:, :, :3]
    bright = ag.sample_color_twist(ag.Key(3), index, brightness=0.4).matrix[:, :, :3]
    both = ag.sample_color_twist(ag.Key(3), index, hue=0.3, brightness=0.4).matrix[:, :, :3]
    np.testing.assert_allclose(both, hue @ bright, rtol=0, atol=1e-12)


def test_draws_do_not_depend_on_the_batch_around_a_sample() -> None:
    whole, alone = sample(ag.Key(1, 4), [2**40, 3, 17]), sample(ag.Key(1, 4), [17])
    assert (alone.matrix[0] == whole.matrix[2]).all()


def test_samples_that_are_left_alone_keep_every_bit() -> None:
    params = ag.sample_color_twist(ag.Key(0), np.arange(17), **ALL, p=0.5)
    pictures = images(17)
    same = (ag.color_twist(pictures, params) == pictures).all(dim=(1, 2, 3)).numpy()
    assert 0 < same.sum() < 17
    assert (params.matrix[same] == np.eye(3, 4)).all()


def test_diagonal_is_said_by_the_options_and_true_of_the_maps() -> None:
    for names in itertools.chain.from_iterable(itertools.combinations(ALL, count) for count in range(6)):
        options: dict[str, Any] = {name: ALL[name] for name in names}
        params = ag.sample_color_twist(ag.Key(0), np.arange(5), **options)
        assert params.diagonal == ({"saturation", "hue", "channel_mixing"}.isdisjoint(names)), names
        assert params.diagonal == (params.matrix[:, :, :3] * (1 - np.eye(3)) == 0).all(), names
        assert ag.sample_color_twist(ag.Key(0), np.arange(5), **options, p=0.0).diagonal == params.diagonal


# ---- by itself


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@channel_counts
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_color_twist_keeps_the_promises(dtype: torch.dtype, channels: int, memory_format: torch.memory_format) -> None:
    """Values reach 2.1: a rounding there is twice that of a value below 1."""
    check_augmentation(
        ag.color_twist,
        sample,
        ag.color_twist_reference,
        dtype=dtype,
        channels=channels,
        memory_format=memory_format,
        atol={torch.float32: 1e-6, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}[dtype],
    )
    pictures = images(2, channels).contiguous(memory_format=memory_format)
    assert ag.color_twist(pictures, sample(ag.Key(0), [0, 1])).is_contiguous(memory_format=memory_format)


@channel_counts
def test_color_twist_gives_the_same_bits_alone_at_full_size(threads: Callable[[int], None], channels: int) -> None:
    pictures, index = images(3, channels, 224, 224), np.arange(3)
    whole = ag.color_twist(pictures, sample(ag.Key(1), index))
    threads(2)
    for row in range(3):
        alone = ag.color_twist(pictures[row : row + 1], sample(ag.Key(1), index[row : row + 1]))
        assert torch.equal(alone[0], whole[row]), f"row {row} alone"


# ---- within the launch of the crop


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_the_crop_applies_the_same_map_before_normalisation(interpolation: Any, device: str) -> None:
    batch, index = ag.RaggedBatch.from_images(ragged(2)), np.arange(2)
    crop = ag.sample_random_resized_crop(ag.Key(0), index, batch.height, batch.width)
    params = sample(ag.Key(0), index)
    plain = ag.crop_resize_flip_reference(batch, crop, size=9, interpolation=interpolation)
    wanted = tv.normalize(ag.color_twist_reference(plain, params), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]).float()
    twisted = ag.crop_resize_flip(
        batch.to(device),
        crop,
        size=9,
        interpolation=interpolation,
        exact=True,
        color=params.matrix,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )
    # 0.005 grey level of the crop, stretched by gains of up to 2.1 and 1 / 0.2
    torch.testing.assert_close(twisted.cpu(), wanted, rtol=0, atol=2e-4)


def test_a_stages_kernel_and_its_plain_torch_twist_alike(kernel_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = ag.RaggedBatch.from_images(ragged(2))
    stage = ag.Stage(recipe(size=9, color_twist=ALL))
    by_kernel = stage(batch.to(kernel_device), index=[3, 4])[0].cpu()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    torch.testing.assert_close(by_kernel, stage(batch, index=[3, 4])[0], rtol=0, atol=2e-4)


def recipe(**options: Any) -> ag.Recipe:
    return ag.Recipe(**{"size": 17, "exact": True, **options})


@channel_counts
@pytest.mark.parametrize("twist", [ALL, {"brightness": 0.4, "contrast": (0.5, 2.0)}], ids=["all", "diagonal"])
def test_a_recipe_twists_colours_within_the_crop_and_not_at_evaluation(channels: int, twist: dict[str, Any]) -> None:
    constants = {"mean": (0.4,) * channels, "std": (0.3,) * channels}
    pictures, index = ragged(4, channels), np.arange(4) + 9
    stage = ag.Stage(recipe(color_twist=twist, **constants), seed=7)
    plain = ag.Stage(recipe(mean=None, std=None), seed=7)
    made, unchanged = (one(pictures, index=index)[0] for one in (stage, plain))
    params = ag.sample_color_twist(ag.Key(7), index, **twist)
    wanted = (ag.color_twist(unchanged, params) - 0.4) / 0.3
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)
    assert made.max() > (1 - 0.4) / 0.3 + 0.1  # not clamped
    central = ag.Stage(recipe(**constants)).eval()(pictures)[0]
    assert torch.equal(stage.eval()(pictures)[0], central)


def test_ops_that_follow_see_clamped_colours_and_come_before_normalisation() -> None:
    blur: Any = ("gaussian_blur", {"kernel_size": 3, "p": 0.6})
    pictures, index = ragged(4), np.arange(4)
    made, _ = ag.Stage(recipe(color_twist=ALL, ops=(blur,), cutout=3), seed=7)(pictures, index=index)
    plain, _ = ag.Stage(recipe(mean=None, std=None), seed=7)(pictures, index=index)
    twisted = ag.color_twist(plain, sample(ag.Key(7), index)).clamp(0, 1)
    blurred = ag.gaussian_blur(twisted, ag.sample_gaussian_blur(ag.Key(7), index, **blur[1]))
    wanted = tv.normalize(blurred, recipe().mean, recipe().std)
    ag.cutout(wanted, ag.sample_cutout(ag.Key(7), index, size=17, length=3))
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("p", [0.0, 0.1, 1.0])
def test_whether_channels_are_mixed_depends_on_the_recipe_and_not_on_the_draws(p: float) -> None:
    """Else a sample's last bits, the kernel, and a CUDA graph would depend on the batch around it."""
    batch = ag.RaggedBatch.from_images(ragged(2))
    for twist, mixed in (({"saturation": 0.4}, True), ({"contrast": 0.4}, False)):
        settings = recipe(color_twist={**twist, "p": p})
        prepared = prepare(batch, draw(settings, ag.Key(0), [0, 1], batch.height, batch.width), settings)
        assert prepared.diagonal is not mixed


# ---- errors


@pytest.mark.parametrize("channels", [2, 4])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"color_twist got {channels} channels; wanted 1 or 3"):
        ag.color_twist(images(2, channels), sample(ag.Key(0), [0, 1]))


def test_a_recipe_refuses_four_channels_with_a_twist() -> None:
    with pytest.raises(ValueError, match="color_twist got 4 channels; wanted 1 or 3"):
        ag.Stage(recipe(color_twist=ALL, mean=None, std=None))(ragged(2, 4))


def test_parameters_for_another_number_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match="color_twist got 3 parameters for 2 images"):
        ag.color_twist(images(2), sample(ag.Key(0), [0, 1, 2]))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        *((name, value, "at least 0") for name in ("brightness", "contrast") for value in (-0.1, math.inf)),
        *(("saturation", value, "at least 0") for value in (math.nan, (-0.1, 1.0), (1.2, 0.8), (0.5, 1.0, 1.5))),
        *(("hue", value, "in .0, 0.5.") for value in (-0.1, 0.51)),
        ("hue", (-0.6, 0.1), "in .-0.5, 0.5."),
        *(("channel_mixing", value, "in .0, 1.") for value in (-0.1, 1.1, (0.5, 1.1))),
        *(("p", value, "in .0, 1.") for value in (-0.1, 1.1, math.nan)),
    ],
)
def test_an_option_out_of_range_is_named_with_its_range(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is .*{wanted}"):
        ag.sample_color_twist(ag.Key(0), [0], **{name: value})
    with pytest.raises(ValueError, match=f"^color_twist: {name} is .*{wanted}"):
        ag.Recipe(color_twist={name: value})
