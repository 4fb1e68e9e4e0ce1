"""Recipe: its checks, its way through JSON; from_torchvision: the same augmentation, or a refusal."""

import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as tv

import augment_gpu as ag
from augment_gpu.recipe import OPS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Every field away from its default.
FULL: dict[str, Any] = {
    "size": 96,
    "crop": "scale_jitter",
    "scale": (0.2, 0.9),
    "ratio": (0.5, 2.0),
    "short_side": (100, 200),
    "flip": 0.25,
    "interpolation": "bicubic",
    "antialias": False,
    "color_twist": {"brightness": (0.8, 1.1), "hue": 0.1, "channel_mixing": 0.2, "p": 0.5},
    "ops": (
        ("color_jitter", {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1, "p": 0.8}),
        ("gaussian_blur", {"kernel_size": 9, "p": 0.1}),
    ),
    "cutout": 16,
    "reprob": 0.3,
    "fill": (0.1, 0.2, 0.3),
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "cutmix_minmax": (0.2, 0.8),
    "switch_prob": 0.7,
    "mixup_prob": 0.9,
    "mixup_mode": "pair",
    "label_smoothing": 0.1,
    "num_classes": 10,
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "dtype": "bfloat16",
    "channels_last": False,
    "resize": 128,
    "exact": True,
    "view": 1,
}


pytestmark = pytest.mark.usefixtures("threads")


def through_json(recipe: ag.Recipe) -> ag.Recipe:
    return ag.Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))


# ---- the record


def test_the_full_recipe_above_has_every_field_and_no_default() -> None:
    assert set(FULL) == {field.name for field in fields(ag.Recipe)}
    assert [name for name, value in FULL.items() if getattr(ag.Recipe(), name) == value] == []


@pytest.mark.parametrize("options", [{}, FULL], ids=["defaults", "full"])
def test_a_recipe_comes_back_from_json_as_it_was(options: dict[str, Any]) -> None:
    recipe = ag.Recipe(**options)
    assert through_json(recipe) == recipe
    assert through_json(recipe).to_dict() == recipe.to_dict()


@pytest.mark.parametrize("fill", [0.5, 0, "noise", (0.1, 0.2, 0.3)])
def test_every_kind_of_fill_comes_back_from_json(fill: Any) -> None:
    assert through_json(ag.Recipe(cutout=8, fill=fill)).fill == fill


def test_an_option_that_is_a_pair_comes_back_from_json_as_it_was() -> None:
    recipe = ag.Recipe(ops=(("gaussian_blur", {"sigma": (0.1, 2.0)}),))
    assert through_json(recipe) == recipe


def test_an_alternating_flip_comes_back_from_json() -> None:
    assert through_json(ag.Recipe(flip="alternate")) == ag.Recipe(flip="alternate")


def test_no_mean_and_no_std_come_back_from_json() -> None:
    recipe = through_json(ag.Recipe(mean=None, std=None))
    assert (recipe.mean, recipe.std) == (None, None)


def test_to_dict_is_plain_json() -> None:
    values = ag.Recipe(**FULL).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert list(values) == [field.name for field in fields(ag.Recipe)]


def test_a_part_of_a_dict_takes_the_defaults_for_the_rest() -> None:
    assert ag.Recipe.from_dict({"size": 32}) == ag.Recipe(size=32)
    assert ag.Recipe.from_dict({}) == ag.Recipe()


def test_the_defaults_are_torchvisions_and_imagenets() -> None:
    recipe, crop = ag.Recipe(), v1.RandomResizedCrop(224)
    assert recipe.size == 224
    assert recipe.scale == crop.scale
    assert recipe.ratio == pytest.approx(crop.ratio)
    assert recipe.interpolation == crop.interpolation.value
    assert recipe.antialias is crop.antialias is True
    assert recipe.flip == v1.RandomHorizontalFlip().p
    # torchvision's published preset, torchvision.transforms._presets.ImageClassification
    assert (recipe.mean, recipe.std) == (MEAN, STD)
    assert recipe.evaluation_resize == 256
    assert recipe.channels_last
    assert not recipe.mixes
    assert not recipe.soft_targets


def test_lists_become_tuples() -> None:
    recipe = ag.Recipe(scale=[0.5, 1.0], mean=[0.1, 0.2, 0.3], ops=[["gaussian_blur", {"p": 0.2}]], fill=[1.0])  # type: ignore[arg-type]
    assert recipe.scale == (0.5, 1.0)
    assert recipe.mean == (0.1, 0.2, 0.3)
    assert recipe.ops == (("gaussian_blur", {"p": 0.2}),)
    assert recipe.fill == (1.0,)


def test_a_recipe_is_frozen_and_keeps_no_hold_of_its_callers_options() -> None:
    options = {"p": 0.2}
    recipe = ag.Recipe(ops=(("gaussian_blur", options),), color_twist=options)
    with pytest.raises(FrozenInstanceError):
        recipe.size = 3  # type: ignore[misc]
    options["p"] = 0.9
    assert recipe.ops == (("gaussian_blur", {"p": 0.2}),)
    assert recipe.color_twist == {"p": 0.2}
    values = recipe.to_dict()
    values["ops"][0][1]["p"] = 0.7
    assert recipe.ops == (("gaussian_blur", {"p": 0.2}),)


def test_replace_checks_again() -> None:
    assert replace(ag.Recipe(), size=32).size == 32
    with pytest.raises(ValueError, match="size is 0"):
        replace(ag.Recipe(), size=0)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_torch_dtype_is_torchs_dtype_of_that_name(name: Any) -> None:
    assert ag.Recipe(dtype=name).torch_dtype == getattr(torch, name)


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (32, 37), (1, 1), (7, 8)])  # 36.57; the smallest; 8/7 exactly
def test_the_evaluation_resize_is_eight_sevenths_of_the_size(size: int, resize: int) -> None:
    assert ag.Recipe(size=size).evaluation_resize == resize
    assert ag.Recipe(size=size, resize=size + 3).evaluation_resize == size + 3


@pytest.mark.parametrize(
    ("options", "mixes", "soft"),
    [
        ({}, False, False),
        ({"num_classes": 5}, False, False),
        ({"label_smoothing": 0.1}, False, True),
        ({"mixup_alpha": 0.2}, True, True),
        ({"cutmix_alpha": 1.0}, True, True),
    ],
)
def test_mixing_and_smoothing_make_targets_soft(options: dict[str, Any], mixes: bool, soft: bool) -> None:
    recipe = ag.Recipe(**{"num_classes": 5, **options})
    assert (recipe.mixes, recipe.soft_targets) == (mixes, soft)


# ---- what is refused

NAN, INF = math.nan, math.inf
BAD: list[tuple[str, Any, dict[str, Any]]] = [
    *(("size", value, {}) for value in (0, -1)),
    ("crop", "random", {}),
    *(
        (name, value, {})
        for name in ("scale", "ratio")
        for value in ((0, 1), (-1, 1), (1, 0.5), (NAN, 1), (0.1, INF), (0.1,), (0.1, 0.2, 0.3))
    ),
    *(("short_side", value, {"crop": "scale_jitter"}) for value in ((100, 300), (300, 256))),
    ("interpolation", "lanczos", {}),
    *((name, value, {}) for name in ("flip", "reprob", "switch_prob") for value in (-0.1, 1.1, NAN)),
    *(("label_smoothing", value, {"num_classes": 3}) for value in (-0.1, 1.1, NAN)),
    *((name, value, {"num_classes": 3}) for name in ("mixup_alpha", "cutmix_alpha") for value in (-1, NAN, INF)),
    *(("cutout", value, {}) for value in (-1, NAN, INF)),
    ("dtype", "float64", {}),
    ("resize", 223, {}),
    ("fill", "random", {}),
    *(("num_classes", value, {"label_smoothing": 0.1}) for value in (None, 0, -5)),
    *(("std", value, {}) for value in ((0, 0, 0), (1, -1, 1), (NAN, 1, 1))),
    ("mean", (NAN, 0, 0), {}),
    ("flip", "alternating", {}),
    *(("color_twist", value, {}) for value in (0.4, "brightness", ("brightness",))),
    ("ops", ("gaussian_blur",), {}),
    ("ops", (("emboss", {}),), {}),
]


@pytest.mark.parametrize(("name", "value", "others"), BAD, ids=[f"{name}={value}" for name, value, _ in BAD])
def test_a_bad_value_is_refused_by_the_name_of_its_field(name: str, value: Any, others: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        ag.Recipe(**{name: value, **others})


@pytest.mark.parametrize("options", [{"mixup_alpha": 0.2}, {"cutmix_alpha": 1.0}, {"label_smoothing": 0.1}])
def test_mixing_and_smoothing_need_the_number_of_classes(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="num_classes is None; mixing and label smoothing need"):
        ag.Recipe(**options)  # type: ignore[arg-type]


def test_a_short_side_has_two_ends() -> None:
    with pytest.raises(ValueError, match=r"^short_side is"):
        ag.Recipe(crop="scale_jitter", short_side=(256, 300, 400))  # type: ignore[arg-type]


def test_an_unknown_op_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=f"^ops names 'solarise'; known are {', '.join(OPS)}$"):
        ag.Recipe(ops=(("solarise", {}),))


def test_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^gaussian_blur has no option 'radius'; known are kernel_size, sigma, p$"):
        ag.Recipe(ops=(("gaussian_blur", {"radius": 3}),))


def test_an_unknown_option_of_the_twist_lists_the_known_ones() -> None:
    known = "brightness, contrast, saturation, hue, channel_mixing, p"
    with pytest.raises(ValueError, match=f"^color_twist has no option 'gamma'; known are {known}$"):
        ag.Recipe(color_twist={"gamma": 2.0})


def test_an_op_may_stand_only_once() -> None:
    with pytest.raises(ValueError, match=r"^ops names 'gaussian_blur' twice"):
        ag.Recipe(ops=(("gaussian_blur", {}), ("color_jitter", {}), ("gaussian_blur", {})))


@pytest.mark.parametrize(
    ("op", "options", "message"),
    [
        ("gaussian_blur", {"kernel_size": 4}, "kernel_size is 4"),
        ("gaussian_blur", {"sigma": (2, 1)}, "sigma is"),
        ("color_jitter", {"hue": 0.6}, "hue is 0.6"),
        ("color_jitter", {"brightness": -1}, "brightness is -1"),
        ("color_jitter", {"brightness": "a"}, "brightness is 'a'; wanted a number or"),
        ("color_jitter", {"p": "a"}, "p is 'a'; a probability"),
        ("rotate", {"fill": 128}, r"fill is 128; it must lie in \[0, 1\]"),
        ("rotate", {"fill": (0.1, 0.2)}, r"fill is \(0.1, 0.2\); wanted a number, or one per channel"),
        ("rand_augment", {"fill": None}, "fill is None; wanted a number"),
        ("rand_augment", {"num_ops": "x"}, "num_ops is 'x'; wanted a whole number"),
        ("rand_augment", {"magnitude": None}, "magnitude is None; wanted a whole number"),
    ],
)
def test_an_option_out_of_range_is_refused_when_the_recipe_is_made(op: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ag.Recipe(ops=((op, options),))


@pytest.mark.parametrize("op", ["gaussian_blur", "three_augment", "elastic"])
def test_a_kernel_too_large_for_the_pictures_is_refused_when_the_recipe_is_made(op: str) -> None:
    with pytest.raises(ValueError, match=rf"^{op} has a kernel of \d+ pixels, for which size 8 is too small"):
        ag.Recipe(size=8, resize=8, ops=((op, {}),))
    ag.Recipe(ops=(("rotate", {"fill": (0, 0, 0, 1.0)}),), mean=None, std=None)  # of four channels


@pytest.mark.parametrize("name", OPS)
def test_no_op_looks_at_what_lies_on_the_device(name: str) -> None:
    """It would wait for it there. A meta tensor has no values: to look at one raises."""
    params = OPS[name][0](ag.Key(0), np.arange(40))
    images = torch.empty(40, 3, 48, 48, device="meta")
    assert OPS[name][1](images, params).shape == images.shape


def test_a_name_that_no_recipe_has_is_refused_with_the_known_names() -> None:
    with pytest.raises(ValueError, match=r"a recipe has no 'sise'; known are size, crop, .*, exact"):
        ag.Recipe.from_dict({"sise": 224})


# ---- from_torchvision: what it understands


def conversions(module: Any) -> list[Any]:
    return [module.ToTensor()] if module is v1 else [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


modules = pytest.mark.parametrize("module", [v1, v2], ids=["v1", "v2"])


@modules
def test_a_training_compose_becomes_its_recipe(module: Any) -> None:
    compose = module.Compose(
        [
            module.RandomResizedCrop(96, scale=(0.2, 1.0), ratio=(0.5, 2.0), interpolation=InterpolationMode.BICUBIC),
            module.RandomHorizontalFlip(0.3),
            module.ColorJitter(0.4, 0.3, 0.2, 0.1),
            module.RandomApply([module.GaussianBlur(9, sigma=(0.1, 2.0))], p=0.4),
            *conversions(module),
            module.Normalize(MEAN, STD),
            module.RandomErasing(p=0.25, value=(0.1, 0.2, 0.3)),
        ]
    )
    recipe = ag.from_torchvision(compose)
    (jitter, strengths), (blur, blur_options) = recipe.ops
    assert jitter == "color_jitter"
    assert strengths == pytest.approx({"brightness": 0.4, "contrast": 0.3, "saturation": 0.2, "hue": 0.1, "p": 1.0})
    assert (blur, blur_options) == ("gaussian_blur", {"kernel_size": 9, "sigma": (0.1, 2.0), "p": 0.4})
    assert replace(recipe, ops=()) == ag.Recipe(
        size=96,
        scale=(0.2, 1.0),
        ratio=(0.5, 2.0),
        interpolation="bicubic",
        flip=0.3,
        reprob=0.25,
        fill=(0.1, 0.2, 0.3),
        mean=MEAN,
        std=STD,
    )


@modules
def test_what_a_compose_leaves_out_the_recipe_leaves_out(module: Any) -> None:
    recipe = ag.from_torchvision([module.RandomResizedCrop((32, 32), antialias=False)])
    assert recipe == ag.Recipe(size=32, flip=0.0, mean=None, std=None, antialias=False)


@modules
def test_color_jitter_and_blur_stand_alone_or_in_random_apply(module: Any) -> None:
    crop, jitter, blur = module.RandomResizedCrop(32), module.ColorJitter(hue=0.5), module.GaussianBlur(3, 1.5)
    inside = ag.from_torchvision([crop, module.RandomApply([jitter], p=0.8), blur])
    assert inside.ops == (
        ("color_jitter", {"hue": 0.5, "p": 0.8}),
        ("gaussian_blur", {"kernel_size": 3, "sigma": (1.5, 1.5), "p": 1.0}),
    )
    assert ag.from_torchvision([crop, blur, jitter]).ops[0][0] == "gaussian_blur"


@modules
@pytest.mark.parametrize(
    ("column", "name", "strength"),
    [
        *((0, "brightness", strength) for strength in (0.4, 1.0, 2.0)),  # at 2 torchvision cuts the range off at 0
        *((0, "brightness", span) for span in ((0.8, 1.1), (0.2, 0.5), (1.3, 1.7))),
        (3, "hue", (-0.1, 0.2)),
    ],
)
def test_a_strength_keeps_its_range(module: Any, column: int, name: str, strength: Any) -> None:
    jitter = module.ColorJitter(**{name: strength})
    recipe = through_json(ag.from_torchvision([module.RandomResizedCrop(32), jitter]))
    factor = ag.sample_color_jitter(ag.Key(0), np.arange(2000), **recipe.ops[0][1]).factor[:, column]
    low, high = getattr(jitter, name)
    # of 2,000 uniform draws the outermost lie within 1 % of the ends, but for a chance of 4e-9
    assert factor.min() == pytest.approx(low, abs=0.01 * (high - low))
    assert factor.max() == pytest.approx(high, abs=0.01 * (high - low))


LINEAR = InterpolationMode.BILINEAR
MOVED = {"fill": 0.0, "p": 1.0}


@modules
@pytest.mark.parametrize(
    ("build", "op", "options"),
    [
        (lambda m: m.RandomGrayscale(0.2), "grayscale", {"p": 0.2}),
        (lambda m: m.RandomApply([m.RandomInvert(0.4)], p=0.5), "invert", {"p": 0.2}),
        (lambda m: m.RandomSolarize(51, 0.3), "solarize", {"threshold": 0.2, "p": 0.3}),
        (lambda m: m.RandomPosterize(3, 0.3), "posterize", {"bits": 3, "p": 0.3}),
        (lambda m: m.RandomAutocontrast(0.3), "autocontrast", {"p": 0.3}),
        (lambda m: m.RandomEqualize(0.3), "equalize", {"p": 0.3}),
        (lambda m: m.RandomAdjustSharpness(1.5, 0.3), "sharpness", {"sharpness_factor": 1.5, "p": 0.3}),
        (lambda m: m.RandomVerticalFlip(0.3), "vertical_flip", {"p": 0.3}),
        (lambda m: m.RandomRotation((3, 7), LINEAR, fill=51), "rotate", {"degrees": (3, 7), "fill": 0.2, "p": 1.0}),
        (
            lambda m: m.RandomAffine(5, (0.1, 0.2), (0.8, 1.1), 3, LINEAR, (0, 51, 255)),
            "affine",
            {
                "degrees": (-5, 5),
                "translate": (0.1, 0.2),
                "scale": (0.8, 1.1),
                "shear": (-3, 3),
                "fill": (0, 0.2, 1),
                "p": 1,
            },
        ),
        (lambda m: m.RandomPerspective(0.3, 0.4), "perspective", {"distortion_scale": 0.3, "fill": 0.0, "p": 0.4}),
        (lambda m: m.ElasticTransform(40.0, 4.0), "elastic", {"alpha": 40, "sigma": 4, **MOVED}),
        (
            lambda m: m.AutoAugment(m.AutoAugmentPolicy.SVHN),
            "auto_augment",
            {"policy": "svhn", "interpolation": "nearest", **MOVED},
        ),
        (
            lambda m: m.RandAugment(3, 7, 21, LINEAR, [51.0, 0.0, 0.0]),
            "rand_augment",
            {
                "num_ops": 3,
                "magnitude": 7,
                "num_magnitude_bins": 21,
                "interpolation": "bilinear",
                "fill": (0.2, 0, 0),
                "p": 1,
            },
        ),
        (
            lambda m: m.TrivialAugmentWide(21),
            "trivial_augment_wide",
            {"num_magnitude_bins": 21, "interpolation": "nearest", **MOVED},
        ),
        (
            lambda m: m.AugMix(4, 2, 5, 0.5, False),
            "aug_mix",
            {
                "severity": 4,
                "mixture_width": 2,
                "chain_depth": 5,
                "alpha": 0.5,
                "all_ops": False,
                "interpolation": "bilinear",
                **MOVED,
            },
        ),
    ],
)
def test_an_op_becomes_ours(module: Any, build: Any, op: str, options: dict[str, Any]) -> None:
    transforms = [module.RandomResizedCrop(32), module.RandomHorizontalFlip(), build(module), *conversions(module)]
    ((name, found),) = ag.from_torchvision(transforms).ops  # type: ignore[misc]
    assert name == op
    assert set(found) == set(options)
    for option, value in options.items():
        if isinstance(value, str):
            assert found[option] == value
        else:
            assert found[option] == pytest.approx(value)


def test_noise_and_jpeg_become_ours_and_what_follows_a_conversion_is_in_its_units() -> None:
    made = [v2.RandomResizedCrop(32), v2.JPEG((30, 60)), *conversions(v2), v2.GaussianNoise(0.1, 0.2, False)]
    recipe = ag.from_torchvision([*made, v2.RandomSolarize(0.4), v2.RandomRotation(5, LINEAR, fill=0.5)])
    assert recipe.ops == (
        ("jpeg", {"quality": (30, 60), "p": 1.0}),
        ("gaussian_noise", {"mean": 0.1, "sigma": 0.2, "clip": False, "p": 1.0}),
        ("solarize", {"threshold": 0.4, "p": 0.5}),
        ("rotate", {"degrees": (-5, 5), "fill": 0.5, "p": 1.0}),
    )


@modules
@pytest.mark.parametrize(("value", "fill"), [("random", "noise"), (0.5, 0.5), ((0.1, 0.2, 0.3), (0.1, 0.2, 0.3))])
def test_random_erasing_keeps_its_filling(module: Any, value: Any, fill: Any) -> None:
    recipe = ag.from_torchvision([module.RandomResizedCrop(32), module.RandomErasing(p=0.1, value=value)])
    assert recipe.reprob == 0.1
    # v2 keeps a number as a list of one, which fills every channel alike
    assert recipe.fill in (fill, (fill,))


def photo(height: int, width: int) -> Image.Image:
    """Soft patches of colour with a little grain, as of a camera, not black nor white: the cubic overshoots there,
    and Pillow cuts that off after each of its two passes."""
    generator = torch.Generator().manual_seed(height)
    patches = torch.rand(1, 3, 6, 8, generator=generator) * 1.4 - 0.2
    smooth = torch.nn.functional.interpolate(patches, (height, width), mode="bicubic", align_corners=False)[0]
    grain = torch.randn(3, height, width, generator=generator) * 0.03
    return tv.to_pil_image(((smooth.clamp(0.2, 0.8) + grain).clamp(0, 1) * 255).round().byte())


@modules
@pytest.mark.parametrize("interpolation", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC], ids=str)
@pytest.mark.parametrize("size", [(60, 90), (93, 61), (47, 33)])  # landscape, portrait, and one that is enlarged
def test_resize_and_center_crop_give_torchvisions_picture(
    module: Any, interpolation: InterpolationMode, size: tuple[int, int]
) -> None:
    compose = module.Compose([module.Resize(37, interpolation), module.CenterCrop(32), *conversions(module)])
    image = photo(*size)
    recipe = ag.from_torchvision(compose)
    assert (recipe.crop, recipe.size, recipe.resize) == ("center", 32, 37)
    stage = ag.Stage(recipe)
    # Pillow rounds to 8 bits twice, half a level each; the cubic, with weights below 0, may stretch the first of them
    tolerance = (1.0 if interpolation == InterpolationMode.BILINEAR else 1.25) / 255 + 1e-5
    for mode in (True, False):  # the view of training and of evaluation is one
        seen, _ = stage.train(mode)([np.array(image)])
        torch.testing.assert_close(seen[0], compose(image), rtol=0, atol=tolerance)


# ---- from_torchvision: what it refuses


@modules
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: [m.RandomResizedCrop(32), m.Pad(3)], "Pad has no counterpart in a Recipe"),
        (lambda m: [m.RandomResizedCrop(32), m.RandomRotation(5)], "RandomRotation has interpolation 'nearest'"),
        (lambda m: [m.RandomResizedCrop(32), m.RandomRotation(5, LINEAR, True)], "RandomRotation has a centre"),
        (
            lambda m: [m.RandomResizedCrop(32), m.RandomRotation(5, LINEAR), m.RandomHorizontalFlip()],
            "RandomHorizontalFlip stands after RandomRotation",
        ),
        (
            lambda m: [m.RandomResizedCrop(32), m.RandAugment(), m.RandomHorizontalFlip()],
            "RandomHorizontalFlip stands after RandAugment",
        ),
        (
            lambda m: [m.RandomResizedCrop(32), m.RandAugment(interpolation=InterpolationMode.BICUBIC)],
            "RandAugment has interpolation 'bicubic'; an op has nearest or bilinear",
        ),
        (lambda m: [m.RandomResizedCrop(32), m.ElasticTransform([10.0, 20.0])], "ElasticTransform has alpha"),
        (lambda m: [m.RandomCrop(32)], "RandomCrop has no counterpart in a Recipe"),
        (
            lambda m: [m.RandomResizedCrop(32), m.RandomApply([m.ColorJitter(0.1), m.GaussianBlur(3)])],
            "RandomApply has no counterpart in a Recipe",
        ),
        (
            lambda m: [m.RandomResizedCrop(32), m.RandomApply([m.Normalize(MEAN, STD)], p=0.5)],
            "Normalize has no counterpart in a Recipe",
        ),
        (lambda m: [m.RandomResizedCrop((32, 48))], r"RandomResizedCrop has size \(32, 48\); .* square"),
        (lambda m: [m.Resize(64), m.CenterCrop((32, 48))], r"CenterCrop has size \(32, 48\); .* square"),
        (lambda m: [m.Resize((64, 64)), m.CenterCrop(32)], r"Resize has size .*; wanted one number"),
        (lambda m: [m.Resize(64, max_size=80), m.CenterCrop(32)], "Resize has size .*; wanted one number"),
        (lambda m: [m.Resize(30), m.CenterCrop(32)], "resize is 30; it must be at least size, 32"),
        (
            lambda m: [m.RandomResizedCrop(32, interpolation=InterpolationMode.LANCZOS)],
            "RandomResizedCrop has interpolation 'lanczos'",
        ),
        (lambda m: [m.ColorJitter(0.4), m.RandomResizedCrop(32)], "RandomResizedCrop stands after ColorJitter"),
        (
            lambda m: [m.RandomApply([m.GaussianBlur(3)]), m.RandomResizedCrop(32)],
            "RandomResizedCrop stands after GaussianBlur",
        ),
        (lambda m: [m.RandomResizedCrop(32), m.GaussianBlur((3, 5))], "GaussianBlur has"),
        (lambda m: [m.RandomResizedCrop(32), m.RandomErasing(scale=(0.1, 0.2))], "RandomErasing has ranges"),
        (lambda m: [m.RandomResizedCrop(32), m.RandomErasing(ratio=(1, 2))], "RandomErasing has ranges"),
        (lambda m: [m.Resize(32)], "does not crop; wanted RandomResizedCrop, or Resize and CenterCrop"),
        (lambda m: [], "does not crop; wanted RandomResizedCrop, or Resize and CenterCrop"),
    ],
)
def test_what_no_recipe_does_is_refused_by_name(module: Any, build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ag.from_torchvision(module.Compose(build(module)) if build(module) else [])


@modules
@pytest.mark.parametrize(
    "build",
    [
        # torchvision would jitter normalised values
        lambda m: [m.RandomResizedCrop(32), *conversions(m), m.Normalize(MEAN, STD), m.ColorJitter(0.4)],
        # torchvision would fill in [0, 1] and normalise that
        lambda m: [m.RandomResizedCrop(32), *conversions(m), m.RandomErasing(), m.Normalize(MEAN, STD)],
        # torchvision would not resize at all
        lambda m: [m.CenterCrop(32)],
        # torchvision would resize after the crop
        lambda m: [m.CenterCrop(32), m.Resize(64)],
        # torchvision would crop twice
        lambda m: [m.RandomResizedCrop(48), m.Resize(40), m.CenterCrop(32)],
        # torchvision would normalise twice
        lambda m: [m.RandomResizedCrop(32), *conversions(m), m.Normalize(MEAN, STD), m.Normalize(MEAN, STD)],
    ],
    ids=[
        "jitter after normalize",
        "erasing before normalize",
        "center crop alone",
        "resize after crop",
        "two crops",
        "two normalize",
    ],
)
def test_an_order_of_known_transforms_that_no_recipe_has_is_refused(module: Any, build: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        ag.from_torchvision(module.Compose(build(module)))


@modules
def test_a_mirrored_center_crop_is_mirrored_in_training_and_not_at_evaluation(module: Any) -> None:
    transforms = [module.Resize(40), module.CenterCrop(32), module.RandomHorizontalFlip(p=1.0)]
    stage = ag.Stage(ag.from_torchvision(module.Compose(transforms)))
    images = [np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)]
    mirrored, _ = stage(images)
    plain, _ = stage.eval()(images)
    torch.testing.assert_close(mirrored, plain.flip(3), rtol=0, atol=1e-6)  # float32, sums in another order


@pytest.mark.parametrize(
    "change", [{"size": "16"}, {"size": 16.5}, {"flip": None}, {"ops": 5}, {"resize": "x"}], ids=str
)
def test_a_value_of_another_type_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} is "):
        ag.Recipe(**change)


def test_values_left_in_255_are_refused() -> None:
    transforms = [v2.ToImage(), v2.RandomResizedCrop(32), v2.ToDtype(torch.float32), v2.Normalize(MEAN, STD)]
    with pytest.raises(ValueError, match="scale=False"):
        ag.from_torchvision(v2.Compose(transforms))


def test_the_output_dtype_is_that_of_the_last_conversion() -> None:
    transforms = [v2.RandomResizedCrop(32), v2.ToDtype(torch.float16, scale=True)]
    assert ag.from_torchvision(v2.Compose(transforms)).dtype == "float16"
