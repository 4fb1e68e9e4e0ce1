"""Stage: its ops one after the other, for every kind of input, the same in any batch, and as torchvision evaluates."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms as v1
from torchvision.transforms import functional as tv

import augment_gpu as ag
from augment_gpu.ops.crop_plan import image_sizes
from augment_gpu.pipeline import Draws, augment, draw, draw_mix, evaluation_draws, prepare

SIZE = 32
JITTER = ("color_jitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1})
TWIST = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "p": 0.7}
BLUR = ("gaussian_blur", {"kernel_size": 9, "p": 0.6})
# Every family of per-sample work, alone and all together.
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "exact": {"exact": True},
    "bicubic": {"interpolation": "bicubic"},
    "nearest": {"interpolation": "nearest"},
    "scale jitter": {"crop": "scale_jitter", "short_side": (SIZE, 48)},
    "center": {"crop": "center"},
    "alternating flip": {"flip": "alternate"},
    "twist": {"color_twist": TWIST},
    "twist, contiguous": {"color_twist": TWIST, "channels_last": False},
    "color_jitter": {"ops": (JITTER,)},
    "blur": {"ops": (BLUR,)},
    "cutout": {"cutout": 12, "fill": (0.5, 0.0, -0.5)},
    "noise": {"cutout": 12, "reprob": 0.5, "fill": "noise"},
    "everything": {
        "color_twist": TWIST,
        "ops": (JITTER, BLUR),
        "cutout": 12,
        "reprob": 0.5,
        "fill": "noise",
        "dtype": "bfloat16",
    },
    "contiguous": {"channels_last": False, "dtype": "float16"},
}
recipes = pytest.mark.parametrize("options", RECIPES.values(), ids=RECIPES.keys())
modes = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


pytestmark = pytest.mark.usefixtures("threads")


def recipe(**options: Any) -> ag.Recipe:
    return ag.Recipe(**{"size": SIZE, **options})


def noise(batch: int, channels: int = 3) -> list[np.ndarray]:
    """Grain of full contrast in odd sizes, none alike, some smaller and some larger than the output: errors show."""
    generator = np.random.default_rng(0)
    sizes = [(33 + 3 * i % 40, 47 - 5 * i % 31) for i in range(batch)]
    return [generator.integers(0, 256, (height, width, channels), dtype=np.uint8) for height, width in sizes]


def dense(batch: int, channels: int = 3) -> torch.Tensor:
    """(batch, channels, 33, 47) uint8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, channels, 33, 47), generator=generator, dtype=torch.uint8)


def photo(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: soft patches of colour with a little grain."""
    generator = torch.Generator().manual_seed(height)
    patches = torch.rand(1, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(patches, (height, width), mode="bicubic", align_corners=False)[0]
    grain = torch.randn(3, height, width, generator=generator) * 0.05
    return ((smooth + grain).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


# ---- what goes in


@modes
@pytest.mark.parametrize("options", [{}, {"exact": True}, {"ops": (JITTER,)}], ids=["plain", "exact", "jitter"])
def test_every_kind_of_uint8_input_gives_the_same_picture(training: bool, options: dict[str, Any]) -> None:
    images = dense(5)
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    stage = ag.Stage(recipe(**options), seed=1).train(training)
    kinds: dict[str, Any] = {
        "arrays": arrays,
        "tensors": list(images),
        "mixed list": [arrays[0], *images[1:]],
        "dense": images,
        "dense, channels last": images.contiguous(memory_format=torch.channels_last),
        "dense, a part of something larger": torch.nn.functional.pad(images, (3, 4, 1, 2))[:, :, 1:-2, 3:-4],
    }
    wanted, _ = stage(ag.RaggedBatch.from_images(arrays), index=np.arange(5))
    for name, batch in kinds.items():
        assert torch.equal(stage(batch, index=np.arange(5))[0], wanted), name


@modes
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.001), (torch.float64, 0.001), (torch.float16, 0.1)])
def test_float_images_in_0_to_1_give_the_picture_of_the_uint8_ones(
    training: bool, dtype: torch.dtype, tolerance: float
) -> None:
    """In grey levels. float32 sums of some 16 products below 1; float16 holds a level of 255 within 1/16."""
    images = dense(5)
    stage = ag.Stage(recipe(exact=True, mean=None, std=None), seed=1).train(training)
    wanted, _ = stage(images, index=np.arange(5))
    given, _ = stage((images.double() / 255).to(dtype), index=np.arange(5))
    assert given.dtype == torch.float32
    torch.testing.assert_close(given, wanted, rtol=0, atol=tolerance / 255)


def test_by_default_uint8_pictures_are_at_most_a_grey_level_off_the_exact_ones() -> None:
    images = dense(7)
    exact, fast = (
        ag.Stage(recipe(exact=exact, mean=None, std=None))(images, index=np.arange(7))[0] for exact in (True, False)
    )
    # two 8-bit roundings of half a level each
    torch.testing.assert_close(fast, exact, rtol=0, atol=1.0001 / 255)
    assert not torch.equal(fast, exact)


def test_the_input_is_not_changed() -> None:
    images = dense(3).float() / 255
    before = images.clone()
    ag.Stage(recipe(crop="center", resize=33, cutout=12, ops=(JITTER,), mean=(0.5,)))(images)
    assert torch.equal(images, before)


@modes
@recipes
def test_an_empty_batch_keeps_its_shape_and_dtype(options: dict[str, Any], training: bool) -> None:
    stage = ag.Stage(recipe(**options)).train(training)
    for batch in ([], dense(0)):
        images, targets = stage(batch, torch.empty(0, dtype=torch.int64))
        assert images.shape == (0, 3, SIZE, SIZE)
        assert images.dtype == stage.recipe.torch_dtype
        assert targets.shape == (0,)


def test_an_empty_batch_of_a_mixing_recipe_has_soft_targets() -> None:
    _, targets = ag.Stage(recipe(mixup_alpha=0.2, cutmix_alpha=1.0, num_classes=5))(
        [], torch.empty(0, dtype=torch.int64)
    )
    assert targets.shape == (0, 5)
    assert targets.dtype == torch.float32


@modes
@pytest.mark.parametrize("options", [{}, {"ops": (JITTER,)}, {"mixup_alpha": 1.0, "num_classes": 2}])
def test_what_a_caller_keeps_is_not_written_to_again(options: dict[str, Any], training: bool) -> None:
    """At 224 pixels a batch is large enough (from 1 MiB) for its memory to be used again."""
    stage, images = ag.Stage(ag.Recipe(**options)).train(training), noise(2)
    kept = stage(images, [0, 1])[0]
    copy = kept.clone()
    for _ in range(4):
        stage(images[::-1], [0, 1])
    assert torch.equal(kept, copy)


# ---- what comes out: equal to the ops by hand


@pytest.mark.parametrize("options", [{}, {"cutout": 12, "fill": "noise"}, {"exact": True, "dtype": "bfloat16"}])
def test_without_ops_training_is_one_crop_with_normalisation_then_holes(options: dict[str, Any]) -> None:
    images, index, key = noise(5), np.arange(5) + 9, ag.Key(7, 2)
    made, _ = ag.Stage(recipe(**options), seed=7)(images, index=index, epoch=2)
    batch, settings = ag.RaggedBatch.from_images(images), recipe(**options)
    crop = ag.sample_random_resized_crop(key, index, *image_sizes(batch))
    wanted = ag.crop_resize_flip(
        batch,
        crop,
        size=SIZE,
        mean=settings.mean,
        std=settings.std,
        dtype=settings.torch_dtype,
        channels_last=True,
        exact=settings.exact,
    )
    if settings.cutout:
        ag.cutout(wanted, ag.sample_cutout(key, index, size=SIZE, length=12, fill="noise"))
    assert torch.equal(made, wanted)


def test_with_ops_training_is_crop_then_ops_then_normalisation_then_holes() -> None:
    images, index, key = noise(5), np.arange(5) + 9, ag.Key(7, 2)
    made, _ = ag.Stage(recipe(ops=(BLUR, JITTER), reprob=0.7, fill=(1.0, 2.0, 3.0)), seed=7)(
        images, index=index, epoch=2
    )
    batch = ag.RaggedBatch.from_images(images)
    crop = ag.sample_random_resized_crop(key, index, *image_sizes(batch))
    wanted = ag.crop_resize_flip(batch, crop, size=SIZE, channels_last=True)
    wanted = ag.gaussian_blur(wanted, ag.sample_gaussian_blur(key, index, **BLUR[1]))
    wanted = ag.color_jitter(wanted, ag.sample_color_jitter(key, index, **JITTER[1]))
    wanted = tv.normalize(wanted, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ag.cutout(wanted, ag.sample_random_erasing(key, index, size=SIZE, p=0.7, fill=(1.0, 2.0, 3.0)))
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2.0**-6), ("float16", 2.0**-9)])
@pytest.mark.parametrize("exact", [False, True])
def test_normalisation_in_the_crop_equals_normalisation_after_the_ops(
    dtype: Any, tolerance: float, exact: bool
) -> None:
    """With an op that does nothing. Values reach 2.6: the tolerance is one step of the dtype between 2 and 4, since two
    nearly equal numbers may round to neighbours; for float32 some roundings more."""
    images, idle = noise(5), (("gaussian_blur", {"p": 0.0, "kernel_size": 3}),)
    fused, unfused = (
        ag.Stage(recipe(ops=ops, dtype=dtype, exact=exact))(images, index=np.arange(5))[0] for ops in ((), idle)
    )
    torch.testing.assert_close(fused.float(), unfused.float(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("mean", "std"), [(None, None), ((0.5,) * 3, None), (None, (0.25,) * 3), ((0.5,), (0.25,))])
@pytest.mark.parametrize("ops", [(), (BLUR,)], ids=["fused", "after ops"])
def test_mean_and_std_may_be_left_out_or_be_one_number_for_all(mean: Any, std: Any, ops: Any) -> None:
    images = noise(3)
    plain, _ = ag.Stage(recipe(ops=ops, mean=None, std=None))(images, index=np.arange(3))
    assert plain.min() >= 0
    assert plain.max() <= 1 + 1e-6
    made, _ = ag.Stage(recipe(ops=ops, mean=mean, std=std))(images, index=np.arange(3))
    wanted = (plain - (0 if mean is None else mean[0])) / (1 if std is None else std[0])
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["mixup_alpha", "cutmix_alpha"])
def test_mixing_comes_last_and_treats_images_and_targets_alike(kind: str) -> None:
    images, index, key = noise(5), np.arange(5) + 9, ag.Key(7, 2)
    options = {"ops": (JITTER,), "cutout": 12, "label_smoothing": 0.1, "num_classes": 6}
    made, targets = ag.Stage(recipe(**{kind: 1.0}, **options), seed=7)(images, [0, 1, 2, 3, 5], index=index, epoch=2)
    unmixed, smooth = ag.Stage(recipe(**options), seed=7)(images, [0, 1, 2, 3, 5], index=index, epoch=2)
    sample: dict[str, Any] = {
        "mixup_alpha": lambda: ag.sample_mixup(key, index, alpha=1.0),
        "cutmix_alpha": lambda: ag.sample_cutmix(key, index, alpha=1.0, size=SIZE),
    }
    params = sample[kind]()
    mixed = ag.cutmix if isinstance(params, ag.CutmixParams) else ag.mixup
    assert torch.equal(made, mixed(unmixed, params))
    assert torch.equal(targets, mixed(smooth, params))
    assert torch.equal(smooth, ag.one_hot(torch.tensor([0, 1, 2, 3, 5]), 6, smoothing=0.1))


def test_where_both_are_on_a_batch_is_cut_or_blended_with_switch_prob() -> None:
    settings = recipe(mixup_alpha=0.2, cutmix_alpha=1.0, switch_prob=0.3, num_classes=5)
    cuts = [isinstance(draw_mix(settings, ag.Key(0, epoch), [4, 2, 9]), ag.CutmixParams) for epoch in range(400)]
    assert np.mean(cuts) == pytest.approx(0.3, abs=5 * np.sqrt(0.3 * 0.7 / 400))
    # whatever order the samples come in
    again = [isinstance(draw_mix(settings, ag.Key(0, epoch), [2, 9, 4]), ag.CutmixParams) for epoch in range(400)]
    assert cuts == again


@pytest.mark.parametrize(("prob", "kind"), [(0.0, ag.MixupParams), (1.0, ag.CutmixParams)])
def test_switch_prob_0_always_blends_and_1_always_cuts(prob: float, kind: type) -> None:
    settings = recipe(mixup_alpha=0.2, cutmix_alpha=1.0, switch_prob=prob, num_classes=5)
    assert all(isinstance(draw_mix(settings, ag.Key(0, epoch), [0, 1]), kind) for epoch in range(20))


@modes
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("mix", [{}, {"mixup_alpha": 0.4}, {"cutmix_alpha": 1.0}], ids=["", "mixup", "cutmix"])
@pytest.mark.parametrize("ops", [(), (JITTER,), (JITTER, BLUR)], ids=["fused", "jitter", "jitter and blur"])
def test_dtype_and_memory_format_are_the_recipes_whatever_was_done(
    ops: Any, mix: dict[str, float], dtype: Any, channels_last: bool, training: bool
) -> None:
    settings = recipe(ops=ops, dtype=dtype, channels_last=channels_last, num_classes=4, cutout=5, **mix)
    images, _ = ag.Stage(settings).train(training)(noise(3), [0, 1, 2])
    assert images.dtype == settings.torch_dtype
    assert images.shape == (3, 3, SIZE, SIZE)
    assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("options", [{}, {"ops": (JITTER,)}], ids=["fused", "with an op"])
def test_grey_pictures_are_augmented_as_one_channel(options: dict[str, Any]) -> None:
    images, _ = ag.Stage(recipe(mean=(0.5,), std=(0.5,), **options))(noise(3, channels=1))
    assert images.shape == (3, 1, SIZE, SIZE)
    assert images.min() >= -1
    assert images.max() <= 1 + 1e-6


# ---- training and evaluation


def test_training_draws_anew_each_epoch_and_evaluation_never() -> None:
    images, stage = noise(3), ag.Stage(recipe())
    first, again, second = (stage(images, index=[0, 1, 2], epoch=epoch)[0] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    stage.eval()
    assert torch.equal(stage(images, epoch=0)[0], stage(images, epoch=1)[0])


@pytest.mark.parametrize("crop", ["center", "random_resized"])
def test_an_alternating_flip_mirrors_each_picture_in_every_other_epoch(crop: Any) -> None:
    """And nothing else changes from epoch to epoch, where the crop is the central or the whole picture."""
    settings = recipe(crop=crop, scale=(1, 1), ratio=(1, 1), exact=True, flip="alternate")
    images, stage = [photo(40, 40) for _ in range(9)], ag.Stage(settings)
    zero, one, six = (stage(images, index=np.arange(9), epoch=epoch)[0] for epoch in (0, 1, 6))
    torch.testing.assert_close(one, zero.flip(3), rtol=0, atol=1e-6)  # float32, sums in another order
    assert torch.equal(six, zero)
    assert len({picture.sum(dim=(0, 1)).argmax().item() for picture in zero}) == 2  # some begin the other way


def test_evaluation_is_the_same_for_every_recipe_that_differs_in_training_only() -> None:
    options = {"ops": (JITTER, BLUR), "cutout": 12, "reprob": 1.0, "flip": 1.0, "mixup_alpha": 1.0, "num_classes": 9}
    options["color_twist"] = TWIST
    wild, plain = (ag.Stage(settings).eval()(noise(3), [1, 2, 3]) for settings in (recipe(**options), recipe()))
    assert torch.equal(wild[0], plain[0])
    assert wild[1].tolist() == plain[1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (300, 300), (240, 641), (225, 229), (100, 130)])
def test_evaluation_is_torchvisions_resize_and_center_crop(size: tuple[int, int]) -> None:
    """Landscape, portrait, square, a panorama, hardly larger than the crop, and one to be enlarged; in grey levels
    before normalisation, since Pillow rounds to 8 bits twice, half a level each."""
    image, stage = photo(*size), ag.Stage(ag.Recipe()).eval()
    std = torch.tensor(stage.recipe.std).view(3, 1, 1)
    preset = v1.Compose(
        [v1.Resize(256), v1.CenterCrop(224), v1.ToTensor(), v1.Normalize(stage.recipe.mean, stage.recipe.std)]
    )
    difference = (stage([image])[0][0] - preset(Image.fromarray(image))) * std * 255
    assert difference.abs().max() <= 1.001
    assert difference.abs().mean() < 0.35  # two roundings, each uniform within half a level: 0.33 at the most


def test_the_evaluation_draws_hold_nothing_random() -> None:
    draws = evaluation_draws(recipe(flip=1.0, ops=(JITTER,), cutout=9), [33, 50], [47, 40])
    assert draws.ops == draws.holes == ()
    assert not draws.crop.flip.any()


# ---- targets


@modes
@pytest.mark.parametrize("kind", [list, tuple, np.asarray, torch.tensor])
def test_hard_targets_are_the_labels_as_int64(kind: Any, training: bool) -> None:
    _, targets = ag.Stage(recipe()).train(training)(noise(3), kind([3, 1, 2]))
    assert targets.dtype == torch.int64
    assert targets.tolist() == [3, 1, 2]


@modes
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_another_integer_type_become_int64_which_torchs_losses_want(
    dtype: torch.dtype, training: bool
) -> None:
    _, targets = ag.Stage(recipe()).train(training)(noise(2), torch.tensor([3, 1], dtype=dtype))
    assert targets.dtype == torch.int64


@modes
def test_without_labels_there_are_no_targets(training: bool) -> None:
    for settings in (recipe(), recipe(mixup_alpha=0.2, num_classes=3)):
        assert ag.Stage(settings).train(training)(noise(2))[1] is None


def test_smoothed_targets_are_soft_in_training_alone() -> None:
    stage = ag.Stage(recipe(label_smoothing=0.2, num_classes=4))
    _, soft = stage(noise(1), [2])
    torch.testing.assert_close(soft, torch.tensor([[0.05, 0.05, 0.85, 0.05]]), rtol=0, atol=1e-7)
    _, hard = stage.eval()(noise(1), [2])
    assert hard.tolist() == [2]


def test_targets_that_are_soft_already_are_mixed_as_they_are() -> None:
    soft = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    _, kept = ag.Stage(recipe())(noise(3), soft)
    assert torch.equal(kept, soft)
    _, mixed = ag.Stage(recipe(mixup_alpha=1.0, num_classes=4))(noise(3), soft, index=[0, 1, 2])
    assert torch.equal(mixed, ag.mixup(soft, ag.sample_mixup(ag.Key(0), [0, 1, 2], alpha=1.0)))


# ---- a sample's picture is its own


@recipes
@pytest.mark.parametrize("channels", [1, 3])
def test_a_samples_picture_has_the_same_bits_alone_in_a_batch_of_7_and_of_32(
    options: dict[str, Any], channels: int, threads: Callable[[int], None]
) -> None:
    options = {**options, "mean": (0.5,) * channels, "std": (0.25,) * channels}
    if channels == 1 and isinstance(options.get("fill"), tuple):
        options["fill"] = 0.5
    images, index = noise(32, channels), np.arange(32) + 1000
    stage = ag.Stage(recipe(**options), seed=3)
    wanted, _ = stage(images, index=index, epoch=4)
    for count in (1, 8):
        threads(count)
        assert torch.equal(stage(images, index=index, epoch=4)[0], wanted), f"{count} threads"
        for first in range(0, 32, 4):
            alone, _ = stage([images[first]], index=index[[first]], epoch=4)
            assert torch.equal(alone[0], wanted[first]), f"sample {first} alone, {count} threads"
            rows = (first + 5 * np.arange(7)) % 32
            seven, _ = stage([images[row] for row in rows], index=index[rows], epoch=4)
            assert torch.equal(seven, wanted[rows]), f"sample {first} in a batch of 7, {count} threads"


@pytest.mark.parametrize("op", [JITTER, BLUR], ids=["color_jitter", "blur"])
def test_the_bits_are_the_same_at_224_pixels_with_many_threads(op: Any, threads: Callable[[int], None]) -> None:
    """Beyond 32,768 pixels torch splits the sum over a single picture among its threads."""
    images = noise(6)
    stage = ag.Stage(ag.Recipe(ops=(op,)))
    wanted, _ = stage(images, index=np.arange(6))
    threads(8)
    for row in range(6):
        assert torch.equal(stage([images[row]], index=[row])[0][0], wanted[row]), f"sample {row} alone"


@recipes
def test_replay_gives_the_very_picture_that_the_stage_gave(options: dict[str, Any]) -> None:
    dataset = [(image, 0) for image in noise(9)]
    index = np.array([4, 0, 8])
    made, _ = ag.Stage(recipe(**options), seed=11)([dataset[i][0] for i in index], index=index, epoch=6)
    for row, i in enumerate(index.tolist()):
        assert torch.equal(ag.replay(recipe(**options), dataset, i, 6, 11), made[row])


def test_replay_gives_the_picture_before_mixing() -> None:
    dataset = [(image, 0) for image in noise(3)]
    settings = recipe(mixup_alpha=1.0, num_classes=2)
    unmixed, _ = ag.Stage(recipe(), seed=1)([image for image, _ in dataset], index=[0, 1, 2])
    assert torch.equal(ag.replay(settings, dataset, 1, 0, 1), unmixed[1])


@pytest.mark.parametrize("change", [{"seed": 6}, {"epoch": 1}, {"index": 2}])
def test_another_seed_epoch_or_sample_is_drawn_otherwise(change: dict[str, int]) -> None:
    given = {"seed": 5, "epoch": 0, "index": 1}
    dataset = [(photo(60, 60), 0)] * 3  # the same picture under three numbers
    one = ag.replay(recipe(), dataset, **given)
    assert not torch.equal(one, ag.replay(recipe(), dataset, **{**given, **change}))


def test_one_ops_options_do_not_change_the_draws_of_the_others() -> None:
    sizes = [33, 50], [47, 40]
    plain = draw(recipe(), ag.Key(1), [4, 5], *sizes)
    more = draw(recipe(color_twist=TWIST, ops=(BLUR, JITTER), cutout=9, reprob=0.5), ag.Key(1), [4, 5], *sizes)
    assert (plain.crop.box == more.crop.box).all()
    assert (plain.crop.flip == more.crop.flip).all()
    alone = draw(recipe(ops=(JITTER,)), ag.Key(1), [4, 5], *sizes)
    assert (alone.ops[0].factor == more.ops[1].factor).all()


def test_augment_takes_any_number_of_rows_an_image() -> None:
    batch = ag.RaggedBatch.from_images(noise(2))
    crop = ag.center_crop_boxes(*image_sizes(batch), size=SIZE, resize=37).take([1, 0, 1])
    images, _ = augment(prepare(batch, Draws(crop), recipe()), recipe())
    assert images.shape == (3, 3, SIZE, SIZE)
    assert torch.equal(images[0], images[2])


# ---- numbering


def test_without_an_index_the_samples_are_numbered_as_they_come() -> None:
    images, counting, told = noise(5), ag.Stage(recipe()), ag.Stage(recipe())
    for start, batch in ((0, images[:2]), (2, images[2:]), (5, images[:1])):
        made, _ = counting(batch)
        assert torch.equal(made, told(batch, index=start + np.arange(len(batch)))[0])
    assert told.seen == 0


def test_the_same_picture_is_never_drawn_the_same_twice() -> None:
    stage, image = ag.Stage(recipe()), photo(60, 60)
    made = torch.cat([stage([image] * 4)[0] for _ in range(5)])
    assert len(torch.unique(made.flatten(1), dim=0)) == 20


def test_neither_evaluation_nor_a_given_index_nor_a_refused_batch_counts() -> None:
    stage, images = ag.Stage(recipe()), noise(2)
    stage(images, index=[7, 8])
    stage.eval()(images)
    stage.train()
    with pytest.raises(ValueError, match="labels"):
        stage(images, [1])
    assert stage.seen == 0
    stage(images)
    assert stage.seen == 2


def test_the_numbering_goes_on_after_a_state_dict() -> None:
    images, first, second = noise(3), ag.Stage(recipe()), ag.Stage(recipe())
    first(images)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(images)[0], first(images)[0])
    inside = torch.nn.Sequential(ag.Stage(recipe()))  # as a part of somebody's model
    inside.load_state_dict(torch.nn.Sequential(first).state_dict())
    assert inside[0].seen == 6


_WORKER = """
import json, sys
import numpy as np, torch
import augment_gpu as ag
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
stage = ag.Stage(ag.Recipe(size=4))
numbers = []
number = stage._number
stage._number = lambda count: numbers.append(number(count)) or numbers[-1]
for count in (3, 3, 2):
    stage([np.zeros((5, 5, 3), dtype=np.uint8)] * count)
json.dump([batch.tolist() for batch in numbers], open(out, "w"))
torch.distributed.barrier()  # whoever leaves before the other has come breaks the other's connection
torch.distributed.destroy_process_group()
"""


def test_two_processes_of_torch_distributed_number_their_samples_apart(tmp_path: Path) -> None:
    outs = [tmp_path / f"{rank}.json" for rank in (0, 1)]
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(_WORKER)]
    root = Path(ag.__file__).parents[1]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), str(out)],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    numbers = [json.loads(out.read_text()) for out in outs]
    assert numbers == [[[0, 1, 2], [6, 7, 8], [12, 13]], [[3, 4, 5], [9, 10, 11], [14, 15]]]


def test_an_alternating_flip_must_be_told_which_sample_it_is() -> None:
    stage = ag.Stage(recipe(flip="alternate"))
    with pytest.raises(ValueError, match='flip is "alternate", every other epoch of a sample: it needs index'):
        stage(noise(2))
    with pytest.raises(ValueError, match='flip is "alternate"'):
        next(iter(stage.wrap([(noise(2), [0, 1])])))
    assert len(stage.eval()(noise(2))[0]) == 2


# ---- wrap


def test_wrapping_a_loader_goes_one_epoch_further_each_pass() -> None:
    images, labels = noise(4), torch.tensor([3, 2, 1, 0])
    batches = [(images[:3], labels[:3], [0, 1, 2]), (images[3:], labels[3:], [3])]
    loader, stage = ag.Stage(recipe(), seed=2).wrap(batches), ag.Stage(recipe(), seed=2)
    assert len(loader) == 2
    for epoch in range(3):
        made = list(loader)
        assert torch.cat([targets for _, targets in made]).tolist() == [3, 2, 1, 0]
        wanted, _ = stage(images, index=np.arange(4), epoch=epoch)
        assert torch.equal(torch.cat([pictures for pictures, _ in made]), wanted)


def test_without_an_index_a_wrapped_loaders_samples_are_numbered() -> None:
    image, stage = photo(60, 60), ag.Stage(recipe())
    made = [pictures for _ in range(2) for pictures, _ in stage.wrap([([image], [0])] * 3)]
    assert stage.seen == 6
    assert len(torch.unique(torch.cat(made).flatten(1), dim=0)) == 6


@pytest.mark.parametrize("kind", ["array", "tensor", "pil"])
def test_a_torch_data_loader_with_our_collate_feeds_the_stage(kind: str) -> None:
    images = noise(5)
    form: dict[str, Callable[[np.ndarray], Any]] = {
        "array": lambda image: image,
        "tensor": lambda image: torch.from_numpy(image).permute(2, 0, 1),
        "pil": Image.fromarray,
    }
    dataset = [(form[kind](image), label) for label, image in enumerate(images)]
    loader = ag.Stage(recipe(num_classes=5, mixup_alpha=0.0)).wrap(
        DataLoader(dataset, batch_size=2, collate_fn=ag.collate)  # type: ignore[arg-type]
    )
    assert len(loader) == 3
    made = list(loader)
    wanted = [ag.Stage(recipe())(images, index=np.arange(5))[0]]
    assert torch.equal(torch.cat([pictures for pictures, _ in made]), torch.cat(wanted))
    assert torch.cat([targets for _, targets in made]).tolist() == [0, 1, 2, 3, 4]


def test_a_wrapped_loader_in_evaluation_mode_gives_the_evaluation_view() -> None:
    images, stage = noise(2), ag.Stage(recipe()).eval()
    ((made, _),) = stage.wrap([(images, [0, 1])])
    assert torch.equal(made, stage(images)[0])


# ---- errors


@modes
def test_another_number_of_labels_than_images_is_refused(training: bool) -> None:
    with pytest.raises(ValueError, match="there are 2 labels for 3 images"):
        ag.Stage(recipe()).train(training)(noise(3), [0, 1])


@pytest.mark.parametrize("index", [[0, 1], [[0], [1], [2]], [], 5])
def test_an_index_of_another_shape_is_refused(index: Any) -> None:
    with pytest.raises(ValueError, match=r"index has shape .* for 3 images; wanted one position a sample"):
        ag.Stage(recipe())(noise(3), index=index)


def test_a_negative_position_is_refused() -> None:
    with pytest.raises(ValueError, match="index holds -1"):
        ag.Stage(recipe())(noise(2), index=[0, -1])


@modes
def test_a_single_image_without_a_batch_is_refused(training: bool) -> None:
    with pytest.raises(ValueError, match=r"images have shape \(3, 33, 47\); wanted \(B, C, H, W\), a RaggedBatch"):
        ag.Stage(recipe()).train(training)(dense(1)[0])


@pytest.mark.parametrize("options", [{}, {"ops": (BLUR,)}, {"ops": (JITTER,)}], ids=["fused", "blur", "jitter"])
def test_three_means_for_grey_pictures_are_refused_with_the_number_of_channels(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"mean is \(0.485, 0.456, 0.406\); the images have 1 channels"):
        ag.Stage(recipe(**options))(noise(2, channels=1))


def test_images_of_another_integer_type_are_refused() -> None:
    with pytest.raises(TypeError, match=r"images are torch.int32; wanted torch.uint8"):
        ag.Stage(recipe())(dense(2).int())


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed is"):
        ag.Stage(recipe(), seed=seed)


def test_the_stage_shows_its_recipe_and_seed() -> None:
    assert "Recipe(size=32" in repr(ag.Stage(recipe(), seed=17))
    assert "seed=17" in repr(ag.Stage(recipe(), seed=17))


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    stage = ag.Stage(recipe(num_classes=2, label_smoothing=0.1))
    with pytest.raises(ValueError, match="the recipe has num_classes 2"):
        stage(noise(2), [0, label])


def test_labels_that_are_not_class_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"labels are torch\.float32"):
        ag.Stage(recipe())(noise(2), [0.5, 1.7])


@pytest.mark.parametrize(("drawn", "given"), [("noise", 0.5), (0.5, "noise")])
def test_holes_are_filled_as_they_were_drawn(drawn: Any, given: Any, device: str) -> None:
    """Whatever the recipe of the stage that is given the draws would have filled them with."""
    images, index = noise(4), [3, 4, 5, 6]
    drawing, other = (ag.Stage(recipe(cutout=20, fill=fill)).to(device) for fill in (drawn, given))
    wanted, _ = drawing(images, index=index)
    assert torch.equal(other(images, index=index, draws=drawing.draw(images, index=index))[0], wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"cutout": 20},
        {"reprob": 1.0, "fill": "noise"},
        {"mixup_alpha": 1.0},
        {"cutmix_alpha": 1.0},
        {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "mixup_mode": "elem"},
    ],
    ids=str,
)
def test_an_op_with_a_weight_to_learn_gets_its_gradient(options: dict[str, Any], device: str) -> None:
    """The images are linear in the weight, so the gradient is how they change with it."""
    sums = []
    weights = [torch.tensor(value, device=device, requires_grad=True) for value in (1.0, 2.0)]
    for weight in weights:
        stage = ag.Stage(recipe(ops=(lambda x, w=weight: x * w,), mean=None, std=None, num_classes=5, **options)).to(
            device
        )
        images, _ = stage(noise(4), index=np.arange(4))
        sums.append(images.double().sum())
    sums[0].backward()
    torch.testing.assert_close(weights[0].grad.double(), (sums[1] - sums[0]).detach(), rtol=1e-4, atol=1e-2)


def test_targets_that_want_a_gradient_get_it(device: str) -> None:
    stage, index = ag.Stage(recipe(mixup_alpha=1.0, num_classes=5)).to(device), np.arange(3)
    given = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    _, targets = stage(noise(3), given, index=index)
    weights = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)).to(device)
    (targets * weights).sum().backward()
    mix = ag.sample_mix(ag.Key(0), index, mixup_alpha=1.0, mode="sample", size=32)
    wanted = torch.zeros(3, 5)
    for row, (partner, lam) in enumerate(zip(mix.partner.tolist(), mix.lam.tolist(), strict=True)):
        wanted[row] += lam * weights[row].cpu()
        wanted[partner] += (1 - lam) * weights[row].cpu()
    torch.testing.assert_close(given.grad.cpu(), wanted)
