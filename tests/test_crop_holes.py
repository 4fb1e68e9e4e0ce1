"""Holes within the launch of the crop: what crop_resize_flip and then cutout give, to the last bit."""

from typing import Any

import numpy as np
import pytest
import torch

import augment_gpu as ag
from augment_gpu.ops import cutout as cutout_ops
from augment_gpu.pipeline import Draws, augment, prepare

SIZE = 40  # strips of the kernel are 32 (AMD: 64) × 32 pixels: the first, and what is left
HOLES = [
    (0, 0, 40, 40),  # every strip
    (0, 0, 32, 32),  # one of them
    (32, 0, 40, 40),  # those that are cut off
    (31, 31, 33, 33),  # a pixel of each
    (5, 20, 40, 21),
    (0, 5, 40, 5),  # none
]
COUNT = len(HOLES)
OPTIONS: dict[str, Any] = {"size": SIZE, "mean": 0.5, "std": 0.25}


def holes(fill: Any = -1.75) -> ag.CutoutParams:
    seed = np.random.default_rng(0).integers(0, 2**32, (COUNT, 2), dtype=np.uint32)
    return ag.CutoutParams(np.array(HOLES), seed, fill)


def crops(height: int = 24, width: int = 30) -> ag.CropParams:
    box = ag.sample_random_resized_crop(ag.Key(3), np.arange(COUNT), np.full(COUNT, height), np.full(COUNT, width)).box
    return ag.CropParams(np.zeros(COUNT), box, np.arange(COUNT) % 2 == 0)


def image(device: str, channels: int = 3) -> ag.RaggedBatch:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 30, channels), dtype=np.uint8)
    return ag.RaggedBatch.from_images([pixels], device=device)


def assert_same_bits(one: torch.Tensor, other: torch.Tensor) -> None:
    assert torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
    assert one.stride() == other.stride()


def assert_same_noise(one: torch.Tensor, other: torch.Tensor) -> None:
    """Of two programs, which a compiler may have round otherwise: as close as test_cutout.py has it of one."""
    torch.testing.assert_close(one, other, rtol=0, atol=5e-4)
    assert one.stride() == other.stride()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("dtype", "channels_last"), [(torch.bfloat16, True), (torch.float32, False)])
def test_a_crop_with_holes_is_a_crop_and_then_cutout(
    interpolation: Any, dtype: torch.dtype, channels_last: bool, device: str
) -> None:
    options = OPTIONS | {"interpolation": interpolation, "channels_last": channels_last, "dtype": dtype}
    plain = ag.crop_resize_flip(image(device), crops(), **options)
    assert_same_bits(
        ag.crop_resize_flip(image(device), crops(), holes=holes(), **options), ag.cutout_reference(plain, holes())
    )


@pytest.mark.parametrize(("channels", "fill"), [(1, 3.5), (3, (0.5, -2.0, 7.25)), (4, 0.0)])
def test_each_channel_has_its_own_fill(channels: int, fill: Any, device: str) -> None:
    plain = ag.crop_resize_flip(image(device, channels), crops(), **OPTIONS)
    assert_same_bits(
        ag.crop_resize_flip(image(device, channels), crops(), holes=holes(fill), **OPTIONS),
        ag.cutout_reference(plain, holes(fill)),
    )


@pytest.mark.parametrize("size", [7, 33])
def test_holes_of_pictures_of_every_size(size: int, device: str) -> None:
    clipped = ag.CutoutParams(np.minimum(holes().box, size), holes().seed, 9.0)
    options = OPTIONS | {"size": size}
    plain = ag.crop_resize_flip(image(device), crops(), **options)
    assert_same_bits(
        ag.crop_resize_flip(image(device), crops(), holes=clipped, **options), ag.cutout_reference(plain, clipped)
    )


@pytest.mark.parametrize("size", [32, 40])
def test_a_strip_that_a_hole_covers_is_not_computed(size: int, kernel_device: str, monkeypatch: Any) -> None:
    from augment_gpu.kernels import crop as crop_kernel

    if kernel_device != "cpu":
        pytest.skip("Triton's interpreter alone can be told to refuse a strip")

    def refuse(*_: Any) -> None:
        raise AssertionError("a strip was computed")

    monkeypatch.setattr(crop_kernel, "_strip", refuse)
    options = OPTIONS | {"size": size, "holes": ag.CutoutParams([(0, 0, size, size)], [(1, 2)], 9.0)}
    assert bool((ag.crop_resize_flip(image("cpu"), crops().take([0]), **options) == 9.0).all())
    with pytest.raises(Exception, match="a strip was computed"):
        ag.crop_resize_flip(image("cpu"), crops().take([0]), **(options | {"holes": None}))


def test_noise_is_that_of_cutout(device: str) -> None:
    plain = ag.crop_resize_flip(image(device), crops(), **OPTIONS)
    made = ag.crop_resize_flip(image(device), crops(), holes=holes("noise"), **OPTIONS)
    assert_same_noise(made, ag.cutout(plain, holes("noise")))


def test_nothing_around_an_out_with_holes_is_touched(device: str) -> None:
    whole = torch.full((COUNT, 3, SIZE + 4, SIZE + 6), 123.0, device=device)
    part = whole[:, :, 2:-2, 3:-3]
    plain = ag.crop_resize_flip(image(device), crops(), **OPTIONS)
    ag.crop_resize_flip(image(device), crops(), holes=holes(), out=part, **OPTIONS)
    assert torch.equal(part, ag.cutout_reference(plain, holes()))
    part.fill_(123.0)
    assert bool((whole == 123.0).all())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (ag.CutoutParams(np.array(HOLES[1:]), np.zeros((COUNT - 1, 2))), f"{COUNT - 1} holes for {COUNT} images"),
        (ag.CutoutParams(np.add(HOLES, (0, 0, 1, 0)), np.zeros((COUNT, 2))), "hole .* of row 0 lies outside"),
        (holes((1.0, 2.0)), "3 numbers"),
        (holes("gray"), "fill is 'gray'"),
    ],
)
@pytest.mark.parametrize("rows", ["all", "none"])
def test_bad_holes_raise_before_anything_is_written(changed: Any, message: str, rows: str, device: str) -> None:
    crop = crops() if rows == "all" else crops().take([])
    if rows == "none":
        message = f"{len(changed)} holes for 0 images"
    out = torch.full((len(crop), 3, SIZE, SIZE), 5.0, device=device)
    with pytest.raises(ValueError, match=message):
        ag.crop_resize_flip(image(device), crop, holes=changed, out=out, **OPTIONS)
    assert bool((out == 5.0).all())


@pytest.mark.parametrize(
    ("options", "launches_of_cutout"),
    [
        ({"cutout": 20}, 0),
        ({"reprob": 1.0}, 0),
        ({"cutout": 20, "reprob": 1.0}, 1),
        ({"cutout": 20, "reprob": 1.0, "fill": "noise"}, 1),
        ({"cutout": 20, "reprob": 1.0, "ops": (("posterize", {"bits": 4}),)}, 2),
    ],
    ids=str,
)
def test_a_recipe_fills_holes_in_order_the_first_with_the_crop(
    options: dict[str, Any], launches_of_cutout: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ag.Recipe(size=SIZE, mean=(0.5,), std=(0.25,), **options)
    key, index = ag.Key(4), np.arange(COUNT)
    drawn = [holes(recipe.fill)] if recipe.cutout else []
    if recipe.reprob:
        drawn.append(ag.sample_random_erasing(key, index, size=SIZE, p=1.0, fill=recipe.fill))
    ops = tuple(ag.sample_posterize(key, index, bits=4) for _ in recipe.ops)
    draws = Draws(crops(), ops=ops, holes=tuple(drawn))
    wanted, _ = augment(prepare(image(device), Draws(crops(), ops=ops), recipe), recipe)
    for each in drawn:
        ag.cutout(wanted, each)

    calls: list[Any] = []
    run = cutout_ops.run_cutout
    monkeypatch.setattr(cutout_ops, "run_cutout", lambda *tables: calls.append(tables) or run(*tables))
    made, _ = augment(prepare(image(device), draws, recipe), recipe)
    (assert_same_noise if recipe.fill == "noise" else assert_same_bits)(made, wanted)
    assert len(calls) == launches_of_cutout
