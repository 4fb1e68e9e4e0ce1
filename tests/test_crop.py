"""crop_resize_flip: the reference against torch, Pillow and hand calculation; every path against the reference."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

import augment_gpu as ag
from augment_gpu.ops import crop_plan

Pixels = Callable[..., np.ndarray]
# What the design promises of every path but the CPU's 8-bit one: 0.005 of a grey level from the float64 reference.
EXACT = 0.005 / 255
# One rounding to the output's dtype: half a unit in the last place, relative to the value.
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
# Triton's interpreter cuts a bfloat16 off where a GPU rounds it: a whole unit in the last place.
CUT_OFF = ROUNDING | {torch.bfloat16: 2.0**-7}
# Two roundings to 8 bits, of half a level each. The second of the cubic's passes enlarges what the first one rounded by
# at most the sum of its weights' magnitudes, 20/16, half-way between pixels.
TWO_ROUNDINGS = {"bilinear": 1.0, "bicubic": 1.125}
PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
TORCHVISION = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
# torchvision resizes uint8 in 8-bit arithmetic where the CPU has AVX2, and in float elsewhere
BYTES_NATIVE = any(name in torch.backends.cpu.get_cpu_capability() for name in ("AVX2", "AVX512"))


def crop_of(*boxes: Any, source: Any = None, flip: Any = False, taps: Any = "box") -> ag.CropParams:
    rows = len(boxes)
    return ag.CropParams(
        np.arange(rows) if source is None else source,
        np.array(boxes, dtype=np.float32).reshape(rows, 4),
        np.broadcast_to(flip, rows).copy(),
        taps,
    )


def ragged(*images: np.ndarray, device: str = "cpu") -> ag.RaggedBatch:
    return ag.RaggedBatch.from_images(images, device=device)


def on_cpu(images: Any) -> Any:
    return images.to("cpu")


def assert_exact(images: Any, crop: ag.CropParams, *, slope: float = 1.0, **options: Any) -> torch.Tensor:
    """Runs crop_resize_flip with exact=True and compares it with the reference. slope: how much steeper than from
    [0, 255] to [0, 1] the colour map is."""
    out = ag.crop_resize_flip(images, crop, exact=True, **options)
    defining = {name: value for name, value in options.items() if name not in ("dtype", "channels_last", "out")}
    wanted = ag.crop_resize_flip_reference(on_cpu(images), crop, **defining)
    assert out.shape == wanted.shape
    assert out.device == images.device
    rounding = CUT_OFF if os.environ.get("TRITON_INTERPRET") == "1" else ROUNDING
    error = (out.cpu().double() - wanted).abs() - rounding[out.dtype] * wanted.abs()
    assert float(error.max()) <= EXACT * slope
    return out


def rows_of(images: ag.RaggedBatch, crop: ag.CropParams, size: int, interpolation: str) -> np.ndarray:
    """The kernel's records."""
    places = crop_plan.check_crop(images, crop, size, interpolation)
    return crop_plan.kernel_rows(crop, places, size, interpolation, True)


def torchvision_crop(image: torch.Tensor, box: Any, size: int, mode: str, flip: bool = False) -> torch.Tensor:
    x0, y0, x1, y1 = box
    result = F.resized_crop(image, y0, x0, y1 - y0, x1 - x0, [size, size], TORCHVISION[mode], antialias=True)
    return F.horizontal_flip(result) if flip else result


# ---------------------------------------------------------------------------------- the reference, by independent means


def interpolate(image: torch.Tensor, height: int, width: int, mode: str, antialias: bool = True) -> torch.Tensor:
    """torch's resize in float64. image: (H, W, C) uint8. Returns (C, height, width) in [0, 1]."""
    chw = image.permute(2, 0, 1)[None].double()
    resized = functional.interpolate(chw, (height, width), mode=mode, align_corners=False, antialias=antialias)[0]
    return resized.clamp(0, 255) / 255


# (height, width) of the image, box, size: from enlarged 4 times to shrunk 6 times, sides of one pixel, odd ones
WHOLE_BOXES = [
    ((33, 47), (0, 0, 47, 33), 32),
    ((33, 47), (5, 3, 13, 11), 32),
    ((33, 47), (46, 32, 47, 33), 17),  # one pixel
    ((1, 17), (0, 0, 17, 1), 5),
    ((200, 190), (1, 2, 187, 199), 31),
    ((40, 40), (4, 4, 36, 36), 32),  # nothing to resize
    ((33, 47), (0, 0, 47, 33), 1),
]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("shape", "box", "size"), WHOLE_BOXES)
def test_taps_in_the_box_are_crop_then_resize(noise: Pixels, shape: Any, box: Any, size: int, mode: Any) -> None:
    image = torch.from_numpy(noise(*shape))
    x0, y0, x1, y1 = box
    result = ag.crop_resize_flip_reference(ragged(image.numpy()), crop_of(box), size=size, interpolation=mode)[0]
    wanted = interpolate(image[y0:y1, x0:x1], size, size, mode)
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-12)  # both in float64


@pytest.mark.parametrize(("shape", "box", "size"), WHOLE_BOXES)
def test_bilinear_without_antialias_is_torchs(noise: Pixels, shape: Any, box: Any, size: int) -> None:
    image = torch.from_numpy(noise(*shape))
    x0, y0, x1, y1 = box
    result = ag.crop_resize_flip_reference(ragged(image.numpy()), crop_of(box), size=size, antialias=False)[0]
    wanted = interpolate(image[y0:y1, x0:x1], size, size, "bilinear", antialias=False)
    torch.testing.assert_close(result, wanted, rtol=0, atol=1e-12)  # both in float64


def keys_cubic(t: float) -> float:
    """Keys 1981, equation 4 with a = -1/2."""
    t = abs(t)
    if t < 1:
        return 3 / 2 * t**3 - 5 / 2 * t**2 + 1
    return -1 / 2 * t**3 + 5 / 2 * t**2 - 4 * t + 2 if t < 2 else 0.0


def keys_row(values: list[float], start: float, stop: float, size: int) -> list[float]:
    """A row of pixels sampled at `size` places in [start, stop) without antialias, by the definition."""
    row = []
    for i in range(size):
        center = start + (i + 0.5) * (stop - start) / size
        weights = [keys_cubic(j + 0.5 - center) for j in range(len(values))]
        row.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return row


@pytest.mark.parametrize(("start", "stop", "size"), [(0, 12, 5), (0, 12, 30), (1.3, 11.9, 4), (5.5, 6.1, 7)])
def test_bicubic_without_antialias_is_keys_formula(noise: Pixels, start: float, stop: float, size: int) -> None:
    """torch's own takes a = -0.75 there, so it cannot serve as the yardstick."""
    image = noise(1, 12, 1) // 3 + 80  # a third of the contrast: no overshoot reaches 0 or 255
    start, stop = float(np.float32(start)), float(np.float32(stop))
    crop = crop_of((start, 0, stop, 1), taps="image")
    result = ag.crop_resize_flip_reference(ragged(image), crop, size=size, interpolation="bicubic", antialias=False)
    wanted = np.array(keys_row(image[0, :, 0].tolist(), start, stop, size)) / 255
    np.testing.assert_allclose(result[0, 0].numpy(), np.tile(wanted, (size, 1)), atol=1e-12)  # both in float64


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "resize", "size"),
    [(375, 500, 256, 224), (500, 333, 96, 64), (33, 47, 80, 33), (60, 41, 41, 17)],  # shrunk and enlarged
)
def test_taps_in_the_image_are_resize_then_center_crop(
    photo: Pixels, height: int, width: int, resize: int, size: int, mode: Any
) -> None:
    image = photo(height, width)
    crop = ag.center_crop_boxes([height], [width], size=size, resize=resize)
    result = ag.crop_resize_flip_reference(ragged(image), crop, size=size, interpolation=mode)[0]
    resized_height, resized_width = F.resize(torch.empty(1, height, width, device="meta"), [resize]).shape[1:]
    whole = interpolate(torch.from_numpy(image), resized_height, resized_width, mode)
    wanted = F.center_crop(whole, [size, size])
    torch.testing.assert_close(result, wanted, rtol=0, atol=EXACT)  # the box is float32


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_taps_in_the_image_are_resize_then_any_crop(photo: Pixels, mode: Any) -> None:
    image = photo(70, 90)
    heights, widths = np.full(8, 70), np.full(8, 90)
    crop = ag.sample_scale_jitter_crop(ag.Key(1), np.arange(8), heights, widths, size=33, short_side=(33, 80), flip=0.5)
    crop = ag.CropParams(np.zeros(8, int), crop.box, crop.flip, crop.taps)
    result = ag.crop_resize_flip_reference(ragged(image), crop, size=33, interpolation=mode)
    for i, (x0, y0, _, y1) in enumerate(crop.box.astype(float)):
        height = round(33 * 70 / (y1 - y0))
        width = int(height * 90 / 70)
        top, left = round(y0 * height / 70), round(x0 * width / 90)
        wanted = interpolate(torch.from_numpy(image), height, width, mode)[:, top : top + 33, left : left + 33]
        wanted = wanted.flip(-1) if crop.flip[i] else wanted
        torch.testing.assert_close(result[i], wanted, rtol=0, atol=EXACT)  # the box is float32


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "box", [(0, 0, 47, 33), (3.25, 1.5, 20.75, 30.125), (40, 30.5, 47, 33), (20.1, 10.1, 22.3, 11.2)]
)
def test_taps_in_the_image_are_pillows_resize_of_a_box(photo: Pixels, box: Any, mode: Any) -> None:
    image = photo(33, 47)
    result = ag.crop_resize_flip_reference(ragged(image), crop_of(box, taps="image"), size=17, interpolation=mode)[0]
    wanted = np.asarray(Image.fromarray(image).resize((17, 17), PILLOW[mode], box=box)).astype(float)
    # Pillow rounds to 8 bits after each of two passes
    np.testing.assert_allclose(result.permute(1, 2, 0).numpy() * 255, wanted, rtol=0, atol=TWO_ROUNDINGS[mode])


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("shape", "box", "size"), WHOLE_BOXES)
def test_taps_in_the_box_are_pillows_crop_then_resize(
    photo: Pixels, shape: Any, box: Any, size: int, mode: Any
) -> None:
    image = photo(*shape)
    result = ag.crop_resize_flip_reference(ragged(image), crop_of(box), size=size, interpolation=mode)[0]
    wanted = np.asarray(Image.fromarray(image).crop(box).resize((size, size), PILLOW[mode])).astype(float)
    np.testing.assert_allclose(result.permute(1, 2, 0).numpy() * 255, wanted, rtol=0, atol=TWO_ROUNDINGS[mode])


@pytest.mark.parametrize("taps", ["box", "image"])
@pytest.mark.parametrize(("shape", "box", "size"), [*WHOLE_BOXES, ((33, 47), (0, 0, 47, 33), 40)])
def test_nearest_is_pillows(noise: Pixels, shape: Any, box: Any, size: int, taps: Any, device: str) -> None:
    image = noise(*shape)
    crop = crop_of(box, taps=taps)
    wanted = np.asarray(Image.fromarray(image).crop(box).resize((size, size), PILLOW["nearest"]))
    for antialias in (True, False):  # which nearest ignores, as torchvision does
        options: dict[str, Any] = {"size": size, "interpolation": "nearest", "antialias": antialias}
        for result in (
            ag.crop_resize_flip_reference(ragged(image), crop, **options),
            ag.crop_resize_flip(ragged(image, device=device), crop, **options).cpu(),
        ):
            np.testing.assert_array_equal((result[0] * 255).round().permute(1, 2, 0).numpy(), wanted)


# ------------------------------------------------------------------------------- pictures small enough to check by eye


def grey(rows: Any) -> np.ndarray:
    return np.array(rows, dtype=np.uint8)[:, :, None]


def levels(image: np.ndarray, device: str, **options: Any) -> np.ndarray:
    """The whole image through the reference and through the path, in grey levels; both must agree."""
    height, width, _ = image.shape
    crop = crop_of((0, 0, width, height), flip=options.pop("flip", False))
    wanted = ag.crop_resize_flip_reference(ragged(image), crop, **options)[0, 0].numpy() * 255
    result = ag.crop_resize_flip(ragged(image, device=device), crop, exact=True, **options)[0, 0].cpu().numpy() * 255
    np.testing.assert_allclose(result, wanted, atol=0.005)
    return wanted


def test_two_pixels_become_four(device: str) -> None:
    """The centres of four pixels lie at 1/4, 3/4, 5/4, 7/4; those of the two at 1/2 and 3/2."""
    result = levels(grey([[0, 100], [200, 40]]), device, size=4, antialias=False)
    first, last = np.array([0, 25, 75, 100]), np.array([200, 160, 80, 40])
    wanted = [first, (3 * first + last) / 4, (first + 3 * last) / 4, last]
    np.testing.assert_allclose(result, wanted, atol=1e-9)


def test_four_pixels_become_two(device: str) -> None:
    """The triangle about 1 reaches from -1 to 3: weights 3/4, 3/4, 1/4 of the pixels at 1/2, 3/2, 5/2, over 7/4."""
    result = levels(grey([[70, 0, 0, 0]] * 4), device, size=2)
    np.testing.assert_allclose(result, [[30, 0]] * 2, atol=1e-9)
    result = levels(grey([[0, 0, 70, 0]] * 4), device, size=2)
    np.testing.assert_allclose(result, [[10, 30]] * 2, atol=1e-9)
    result = levels(grey([[49, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4]), device, size=2)
    np.testing.assert_allclose(result, [[9, 0], [0, 0]], atol=1e-9)


def test_four_pixels_become_two_without_antialias(device: str) -> None:
    """The triangle about 1 reaches from 0 to 2: the mean of the two pixels."""
    result = levels(grey([[10, 20, 50, 70]] * 4), device, size=2, antialias=False)
    np.testing.assert_allclose(result, [[15, 60]] * 2, atol=1e-9)


def test_keys_weights_half_way_are_nine_sixteenths(device: str) -> None:
    """Four pixels to two without antialias: half-way between pixels Keys' cubic has the weights -1, 9, 9, -1 over 16,
    and at the border the one outside is dropped: 9, 9, -1 over 17."""
    result = levels(grey([[34, 68, 102, 51]] * 4), device, size=2, antialias=False, interpolation="bicubic")
    wanted = [(9 * 34 + 9 * 68 - 102) / 17, (-68 + 9 * 102 + 9 * 51) / 17]
    np.testing.assert_allclose(result, [wanted] * 2, atol=1e-9)


def test_a_flip_mirrors_left_and_right(device: str) -> None:
    np.testing.assert_allclose(levels(grey([[1, 2, 3]]), device, size=3, flip=True), [[3, 2, 1]] * 3, atol=1e-9)
    np.testing.assert_allclose(levels(grey([[1], [2], [3]]), device, size=3, flip=True).T, [[1, 2, 3]] * 3, atol=1e-9)


def test_a_cubic_never_leaves_the_range(device: str) -> None:
    """An edge from black to white overshoots on both sides and is clamped."""
    result = levels(grey([[0, 0, 255, 255]] * 4), device, size=16, interpolation="bicubic")
    assert result.min() == 0
    assert result.max() == pytest.approx(255, abs=1e-9)  # float64
    np.testing.assert_allclose(result[:, :4], 0, atol=1e-9)
    np.testing.assert_allclose(result[:, -4:], 255, atol=1e-9)


def test_a_constant_stays_constant(device: str) -> None:
    """Weights are divided by their sum, at the border too. 1 × 17: a side on which every tap but one is outside."""
    for interpolation in ("bilinear", "bicubic", "nearest"):
        for size in (5, 33):
            image = np.full((1, 17, 1), 77, dtype=np.uint8)
            np.testing.assert_allclose(levels(image, device, size=size, interpolation=interpolation), 77, atol=1e-9)


def test_the_colour_matrix_maps_input_channels_to_output_channels(device: str) -> None:
    """Red to green, green to blue, blue doubled to red, and each an offset."""
    image = np.full((2, 2, 3), (51, 102, 25.5 * 2), dtype=np.uint8)
    color = [[0, 0, 2, 0.25], [1, 0, 0, 0.5], [0, 1, 0, -1]]
    out = ag.crop_resize_flip(ragged(image, device=device), crop_of((0, 0, 2, 2)), size=2, color=color, exact=True)
    wanted = torch.tensor([0.4 + 0.25, 0.2 + 0.5, 0.4 - 1])
    torch.testing.assert_close(out.cpu()[0, :, 0, 1], wanted, rtol=0, atol=1e-6)  # float32


def test_mean_and_std_come_after_the_colour(device: str) -> None:
    image = np.full((2, 2, 3), 51, dtype=np.uint8)  # 0.2
    color = np.hstack([2 * np.eye(3), np.full((3, 1), 0.1)])
    for mean, std in ((0.25, 0.5), ([0.25], [0.5]), ([0.25, 0.25, 0.25], (0.5, 0.5, 0.5)), (torch.tensor(0.25), 0.5)):
        out = ag.crop_resize_flip(
            ragged(image, device=device), crop_of((0, 0, 2, 2)), size=2, color=color, mean=mean, std=std, exact=True
        )
        torch.testing.assert_close(out.cpu(), torch.full((1, 3, 2, 2), 0.5), rtol=0, atol=1e-6)  # (0.5 - 0.25) / 0.5


# ----------------------------------------------------------------------------------- every path against the reference


# Five rows of three images: fractional and whole boxes, thin ones, at the corners, repeated and unordered sources.
SHAPES = [(33, 47), (1, 17), (21, 5)]
BOXES = [
    (0, 0.7, 4.3, 20.9),
    (3.3, 1.7, 30.9, 22.25),
    (0, 0, 17, 1),
    (46.5, 32.25, 47, 33),
    (11, 7, 12.5, 8.5),
]
SOURCE = [2, 0, 1, 0, 0]
FLIP = [True, False, True, False, True]


def five_rows(taps: Any = "box") -> ag.CropParams:
    return crop_of(*BOXES, source=SOURCE, flip=FLIP, taps=taps)


def three_rows() -> ag.CropParams:
    """Of the same images, for 9 × 9 outputs: hardly shrunk, so that the interpreter is done soon."""
    boxes = [(0, 0.7, 4.3, 9.9), (3.3, 1.7, 12.9, 10.25), (1, 0, 10, 1)]
    return crop_of(*boxes, source=[2, 0, 1], flip=[True, False, True])


@pytest.mark.parametrize("taps", ["box", "image"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_every_filter_equals_the_reference(
    noise: Pixels, interpolation: Any, antialias: bool, taps: Any, device: str
) -> None:
    images = ragged(*(noise(*shape, seed=i) for i, shape in enumerate(SHAPES)), device=device)
    assert_exact(images, five_rows(taps), size=9, interpolation=interpolation, antialias=antialias)


# 1: one pixel. The others lie within, at and over the edges of strips of 32 × 32.
@pytest.mark.parametrize("size", [1, 2, 16, 32, 33, 65])
def test_every_size_equals_the_reference(noise: Pixels, size: int, device: str) -> None:
    images = ragged(noise(33, 47), device=device)
    assert_exact(images, crop_of((3.3, 1.7, 12.9, 8.25), flip=True), size=size)


# Each axis its own scale, and both kinds together: enlarged, near 1, shrunk 6 and 20 times
@pytest.mark.parametrize("scale", [(0.3, 0.97), (1.5, 1.0), (6.0, 0.5), (0.4, 20.0)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("taps", ["box", "image"])
def test_every_scale_equals_the_reference(
    noise: Pixels, scale: tuple[float, float], interpolation: Any, taps: Any, device: str
) -> None:
    images = ragged(noise(230, 235), device=device)
    x, y = (5 * side for side in scale)
    assert_exact(
        images, crop_of((7.3, 5.9, 7.3 + x, 5.9 + y), flip=True, taps=taps), size=5, interpolation=interpolation
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_every_path_of_the_kernel_equals_the_reference(
    noise: Pixels, interpolation: Any, kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box for each: as high as its direction wants, and as wide as its taps want, or too narrow for its window."""
    from augment_gpu.kernels import crop as kernel

    reach, size = (1, 4) if interpolation == "bilinear" else (2, 5)
    known = kernel.paths(reach, channels=3)
    image = noise(31, 190)
    boxes = []
    for shrinks, taps in known:
        across = taps / (2 * reach) - 0.1 if taps > 0 else 17.3  # what needs that many taps, or more than are unrolled
        width = size * across if taps >= 0 else 1.0  # one pixel
        boxes.append((1.0, 0.5, 1.0 + width, 0.5 + size * (2.3 if shrinks else 0.7)))
    images, crop = ragged(image, device=kernel_device), crop_of(*boxes, source=np.zeros(len(boxes), dtype=int))
    taken, strip = [], kernel._strip
    if kernel_device == "cpu":  # interpreted, so that it can be seen which path a program takes

        def seen(*arguments: Any) -> None:
            taken.append(tuple(getattr(each, "value", each) for each in arguments[-4:-2]))
            strip(*arguments)

        monkeypatch.setattr(kernel, "_strip", seen)
    assert_exact(images, crop, size=size, interpolation=interpolation)
    assert taken == (list(known) if kernel_device == "cpu" else [])


@pytest.mark.parametrize("seed", range(4))
def test_random_boxes_equal_the_reference(noise: Pixels, seed: int, device: str) -> None:
    """Any part of images of any shape, down to slivers and up to the whole, by every filter and kind of taps."""
    random = np.random.default_rng(seed)
    for _ in range(6):
        channels, size = int(random.choice([1, 3, 4])), int(random.integers(1, 9))
        shapes = random.integers(1, 20, (2, 2))
        images = ragged(*(noise(*shape, channels, seed=i) for i, shape in enumerate(shapes)), device=device)
        sides = np.repeat(shapes[:, ::-1], 2, axis=0)  # two rows of each image: width, height
        corners = np.sort(random.uniform(0, 1, (2, 4, 2)) ** 2, axis=0)
        low, high = (corner * sides for corner in corners.astype(np.float32))
        box = np.concatenate([low, np.minimum(np.maximum(high, low + 1e-3), sides)], axis=1)
        box[0, :2], box[0, 2:] = 0, sides[0]
        crop = crop_of(*box, source=[0, 0, 1, 1], flip=random.random(4) < 0.5, taps=random.choice(["box", "image"]))
        options = {
            "interpolation": random.choice(["bilinear", "bicubic", "nearest"]),
            "antialias": bool(random.random() < 0.7),
            "channels_last": bool(random.random() < 0.5),
        }
        assert_exact(images, crop, size=size, **options)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_shrinking_both_sides_equals_the_reference(noise: Pixels, interpolation: Any, device: str) -> None:
    images = ragged(noise(40, 43), device=device)
    assert_exact(images, crop_of((0.7, 1.9, 42.6, 39.5)), size=9, interpolation=interpolation)


@pytest.mark.parametrize(
    ("interpolation", "scale"),
    [("bilinear", scale) for scale in (0.6, 1.4, 1.9, 2.4, 2.9, 3.4, 3.9)]
    + [("bicubic", scale) for scale in (0.6, 1.2, 1.7)],
)
def test_a_crop_far_from_every_edge_equals_the_reference(
    noise: Pixels, interpolation: Any, scale: float, device: str
) -> None:
    """2 to 8 taps a side, none of which leaves the image."""
    images = ragged(noise(90, 240), device=device)
    side = scale * 9
    boxes = [(x, 9.7, x + side, 9.7 + side) for x in (10.3, 100.1)]  # to the right of one, to the left of the other
    crop = crop_of(*boxes, source=[0, 0], flip=[False, True], taps="image")
    assert_exact(images, crop, size=9, interpolation=interpolation)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("taps", ["box", "image"])
@pytest.mark.parametrize(("side", "size"), [(20, 48), (48, 80), (48, 17)])  # several strips; and a box that shrinks
def test_nothing_outside_is_read(
    noise: Pixels, interpolation: Any, taps: Any, side: int, size: int, device: str
) -> None:
    """An image amid NaN, which even a weight of 0 would let through; with taps in the box, a box amid NaN."""
    image = torch.from_numpy(noise(side, side, 1)[None, :, :, 0] / np.float32(255))
    around = torch.full((1, 1, side + 20, side + 20), math.nan)
    around[:, :, 10:-10, 10:-10] = image
    images = around.to(device)
    images = images if taps == "box" else images[:, :, 10:-10, 10:-10]
    edge = 10 if taps == "box" else 0
    crop = crop_of((edge, edge, edge + side, edge + side), flip=True, taps=taps)
    out = ag.crop_resize_flip(images, crop, size=size, interpolation=interpolation, exact=True)
    alone = crop_of((0, 0, side, side), flip=True, taps=taps)
    wanted = ag.crop_resize_flip_reference(image[None], alone, size=size, interpolation=interpolation)
    torch.testing.assert_close(out.cpu().double(), wanted, rtol=0, atol=EXACT)


@pytest.mark.parametrize("scale", [2.4, 3.4, 6.4])  # 5, 7 and 13 taps in windows of 6, 8 and 16
def test_taps_in_vain_stay_inside(noise: Pixels, scale: float, device: str) -> None:
    """Ten boxes that end 0 to 9 pixels before the image's right edge, beyond which lies NaN; the first strip's width is
    the output's, so that the last column is the one that looks farthest."""
    image = torch.from_numpy(noise(40, 250, 1)[None, :, :, 0] / np.float32(255))
    around = torch.full((1, 1, 40, 260), math.nan)
    around[:, :, :, :250] = image
    images = around.to(device)[:, :, :, :250]
    boxes = [(250 - end - 16 * scale, 10, 250 - end, 26) for end in range(10)]
    crop = crop_of(*boxes, source=[0] * 10, flip=np.arange(10) % 2 == 1, taps="image")
    out = ag.crop_resize_flip(images, crop, size=16, exact=True)
    wanted = ag.crop_resize_flip_reference(image[None], crop, size=16)
    torch.testing.assert_close(out.cpu().double(), wanted, rtol=0, atol=EXACT)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_one_three_and_four_channels_equal_the_reference(
    noise: Pixels, channels: int, interpolation: Any, device: str
) -> None:
    images = ragged(*(noise(*shape, channels, seed=i) for i, shape in enumerate(SHAPES)), device=device)
    out = assert_exact(images, three_rows(), size=9, interpolation=interpolation)
    assert out.shape == (3, channels, 9, 9)


def planes(noise: Pixels, channels: int, dtype: torch.dtype) -> torch.Tensor:
    """(3, C, 20, 24), contiguous: uint8, or float32 in [0, 1]."""
    images = np.stack([noise(20, 24, channels, seed=i) for i in range(3)])
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return images if dtype == torch.uint8 else images / 255


LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda images: images,
    "channels last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "every other row": lambda images: images[:, :, ::2, 2:],
    "reversed batch": lambda images: images.transpose(0, 1).contiguous().transpose(0, 1),
    "transposed": lambda images: images.transpose(2, 3),
    "one image thrice": lambda images: images[1:2].expand(3, -1, -1, -1),
}


def assert_exact_dense(images: torch.Tensor) -> None:
    height, width = images.shape[2:]
    crop = crop_of((0, 0, width, height), (1.5, 2.25, 17.75, 9), source=[2, 0], flip=[False, True])
    assert_exact(images, crop, size=11)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_dense_images_of_any_layout_equal_the_reference(
    noise: Pixels, layout: Any, dtype: torch.dtype, device: str
) -> None:
    assert_exact_dense(layout(planes(noise, 3, dtype).to(device)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 4])
def test_dense_images_of_one_and_four_channels_equal_the_reference(
    noise: Pixels, channels: int, dtype: torch.dtype, device: str
) -> None:
    assert_exact_dense(planes(noise, channels, dtype).to(device))


def test_a_float_overshoot_is_clamped_at_one(noise: Pixels, device: str) -> None:
    crop = crop_of((1.5, 2.25, 17.75, 9))
    out = assert_exact(planes(noise, 3, torch.float32).to(device), crop, size=33, interpolation="bicubic")
    assert (out.min(), out.max()) == (0, 1)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_dense_bytes_of_any_layout_are_torchvisions(
    noise: Pixels, layout: Any, channels: int, interpolation: Any
) -> None:
    """By default, on a CPU; torch's own kernel chooses its way by layout, and wants some to agree with the output's."""
    images = layout(planes(noise, channels, torch.uint8))
    height, width = images.shape[2:]
    crop = crop_of((0, 0, width, height), (1, 2, 17, 9), source=[2, 0], flip=[False, True])
    out = ag.crop_resize_flip(images, crop, size=9, interpolation=interpolation)
    for row, (x0, y0, x1, y1) in enumerate(crop.box.astype(int)):
        image = images[crop.source[row]].contiguous()
        wanted = torchvision_crop(image, (x0, y0, x1, y1), 9, interpolation, bool(crop.flip[row]))
        # in 8 bits both, where the CPU has AVX2; in float torchvision's otherwise, a grey level apart
        assert int(((out[row] * 255).round() - wanted.float()).abs().max()) <= (0 if BYTES_NATIVE else 1)


def test_dense_images_give_what_ragged_ones_give(noise: Pixels, device: str) -> None:
    images = [noise(33, 47, seed=i) for i in range(3)]
    dense = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().to(device)
    crop = crop_of((1.5, 2.25, 17.75, 19), (30, 0, 47, 13), source=[2, 0], flip=[False, True])
    for exact in (True, False):
        first = ag.crop_resize_flip(dense, crop, size=9, exact=exact)
        second = ag.crop_resize_flip(ragged(*images, device=device), crop, size=9, exact=exact)
        # A GPU runs two compilations of the kernel, one for each stride, which may fuse other multiplications.
        torch.testing.assert_close(first, second, rtol=0, atol=EXACT if device == "cuda" else 0.0)


def test_a_batch_may_begin_within_a_larger_buffer(noise: Pixels, device: str) -> None:
    """Two images of three, in a batch that somebody cut out of another one: its offsets start where its pixels do."""
    images = [noise(*shape, seed=i) for i, shape in enumerate([(9, 11), (12, 8), (7, 13)])]
    whole = ragged(*images, device=device)
    part = ag.RaggedBatch(
        whole.pixels[9 * 11 * 3 :], whole.offset[1:] - 9 * 11 * 3, whole.height[1:], whole.width[1:], 3
    )
    crop = crop_of((0, 0, 13, 7), (1, 2, 8, 11), source=[1, 0])
    for exact in (True, False):
        wanted = ag.crop_resize_flip(ragged(*images[1:], device=device), crop, size=9, exact=exact)
        assert torch.equal(ag.crop_resize_flip(part, crop, size=9, exact=exact), wanted)


def hue_like(rows: int | None) -> np.ndarray:
    """(3, 4) or (rows, 3, 4): every output channel of every input channel, each row its own."""
    random = np.random.default_rng(3)
    matrix = random.uniform(-0.5, 1, (rows or 1, 3, 4))
    return matrix if rows else matrix[0]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("exact", [True, False])
def test_colour_matrices_equal_the_reference(
    noise: Pixels, rows: int | None, channels_last: bool, exact: bool, device: str
) -> None:
    images = ragged(*(noise(*shape, seed=i) for i, shape in enumerate(SHAPES)), device=device)
    options: dict[str, Any] = {
        "size": 9,
        "color": hue_like(rows),
        "mean": [0.485, 0.456, 0.406],
        "std": [0.2, 0.25, 0.3],
    }
    slope = 3 / 0.2  # three channels of a weight of at most 1, over the smallest deviation
    if exact:
        assert_exact(images, three_rows(), slope=slope, channels_last=channels_last, **options)
    else:  # 8-bit rounding, on a CPU: a grey level before the colour map
        out = ag.crop_resize_flip(images, three_rows(), channels_last=channels_last, **options)
        wanted = ag.crop_resize_flip_reference(on_cpu(images), three_rows(), **options)
        torch.testing.assert_close(out.cpu().double(), wanted, rtol=0, atol=1.01 / 255 * slope)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("diagonal", [True, False])
def test_per_row_scaling_equals_the_reference(
    noise: Pixels, channels: int, channels_last: bool, diagonal: bool, device: str
) -> None:
    """Brightness of each row, the commonest colour map, has a short cut on the CPU; a mixed one has not."""
    images = ragged(*(noise(*shape, channels, seed=i) for i, shape in enumerate(SHAPES)), device=device)
    random = np.random.default_rng(1)
    color = random.uniform(0.5, 1.5, (3, channels, channels + 1))
    if diagonal:
        color[:, :, :-1] *= np.eye(channels)
    assert_exact(images, three_rows(), slope=1.5 * channels, size=9, color=color, channels_last=channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_every_dtype_and_memory_format_is_rounded_once(
    noise: Pixels, dtype: torch.dtype, channels_last: bool, mixed: bool, device: str
) -> None:
    images = ragged(*(noise(*shape, seed=i) for i, shape in enumerate(SHAPES)), device=device)
    out = assert_exact(
        images,
        three_rows(),
        slope=3 / 0.2,
        size=9,
        dtype=dtype,
        channels_last=channels_last,
        color=hue_like(3) if mixed else None,
        mean=0.4,
        std=0.2,
    )
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("taps", ["box", "image"])
def test_a_box_far_from_the_corner_keeps_its_fraction(noise: Pixels, taps: Any, device: str) -> None:
    """At column 5990 float32 has 1/2048 of a pixel, which is an eighth of a grey level."""
    images = ragged(noise(20, 6000), device=device)
    crop = crop_of((5990.3, 3.1, 5999.7, 19.3), (5949.05, 0, 6000, 20), source=[0, 0], flip=[True, False], taps=taps)
    assert_exact(images, crop, size=17)
    assert_exact(images, crop.take([0]), size=17, interpolation="bicubic")


def test_an_image_beyond_two_gibibytes_is_found(noise: Pixels, device: str) -> None:
    """Its offset does not fit into 32 bits. The pages between the images are never touched."""
    images = [noise(33, 47), noise(40, 29, seed=1)]
    where = [7, 2**31 + 11]
    pixels = torch.from_numpy(np.zeros(where[1] + images[1].size + 16, dtype=np.uint8))  # torch.zeros touches them
    for start, image in zip(where, images, strict=True):
        pixels[start : start + image.size] = torch.from_numpy(image).reshape(-1)
    height, width = (torch.tensor([image.shape[axis] for image in images], dtype=torch.int32) for axis in (0, 1))
    batch = ag.RaggedBatch(pixels[:-16], torch.tensor(where), height, width, 3).to(device)
    crop = crop_of((3, 2, 40, 31), (0, 1, 28, 33))
    out = ag.crop_resize_flip(batch, crop, size=16)
    assert torch.equal(out, ag.crop_resize_flip(ragged(*images, device=device), crop, size=16))


@pytest.mark.cuda
def test_an_output_beyond_two_billion_values_is_written_to_its_end(noise: Pixels) -> None:
    """And holes and partners are found there."""
    rows = 2**31 // (3 * 224 * 224) + 3
    crop = crop_of((3, 2, 40, 31)).take(np.zeros(rows, dtype=int))
    images = ag.crop_resize_flip(ragged(noise(33, 47), device="cuda"), crop, size=224, dtype=torch.float16)
    assert torch.equal(images[-1], images[0])
    boxes = np.zeros((rows, 4), dtype=np.int32)
    boxes[-1] = 5, 6, 50, 70
    ag.cutout(images, ag.CutoutParams(boxes, np.zeros((rows, 2)), 7.0))
    assert (images[-1, :, 6:70, 5:50] == 7).all()
    assert torch.equal(images[-1, :, 70:], images[0, :, 70:])
    mixed = ag.mixup(images, ag.MixupParams(np.array([rows - 1, 0]), np.array([0.0, 1.0])))
    assert torch.equal(mixed[0], images[-1])
    assert torch.equal(mixed[1], images[1])


def test_one_image_may_serve_many_rows(noise: Pixels, device: str) -> None:
    images = [noise(20 + i, 30 - i, seed=i) for i in range(3)]
    source = [2, 0, 2, 2, 1, 0, 2]
    boxes = [(i, i, 10 + i, 8 + i / 2) for i in range(7)]
    batch = ragged(*images, device=device)
    out = assert_exact(batch, crop_of(*boxes, source=source), size=8)
    for row, (box, image) in enumerate(zip(boxes, source, strict=True)):
        alone = ag.crop_resize_flip(ragged(images[image], device=device), crop_of(box), size=8, exact=True)
        assert torch.equal(alone[0], out[row])


def test_a_batch_without_rows_keeps_its_shape(noise: Pixels, device: str) -> None:
    """No row of three images, and no row of none."""
    for images in (
        ragged(noise(3, 4, 4), device=device),
        torch.zeros(2, 4, 5, 5, dtype=torch.uint8, device=device),
        torch.zeros(0, 4, 5, 5, device=device),
    ):
        out = ag.crop_resize_flip(images, crop_of(), size=9, dtype=torch.float16, channels_last=True)
        assert out.shape == (0, 4, 9, 9)
        assert out.dtype == torch.float16
        assert ag.crop_resize_flip_reference(on_cpu(images), crop_of(), size=9).shape == (0, 4, 9, 9)
    empty = ragged(device=device)
    out = torch.empty(0, 3, 9, 9, device=device)
    assert ag.crop_resize_flip(empty, crop_of(), size=9, out=out) is out


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("exact", [True, False])
def test_every_element_of_out_is_written(
    noise: Pixels, channels_last: bool, dtype: torch.dtype, exact: bool, device: str
) -> None:
    images = ragged(noise(33, 47), device=device)
    crop = crop_of((0, 0, 12, 9), (3, 4, 10, 14), (1.5, 2.5, 9, 14), source=[0, 0, 0], flip=[False, True, True])
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.full((3, 3, 9, 9), math.nan, dtype=dtype, device=device).contiguous(memory_format=memory_format)
    result = ag.crop_resize_flip(images, crop, size=9, exact=exact, out=out)
    assert result is out
    options: dict[str, Any] = {"size": 9, "exact": exact, "dtype": dtype, "channels_last": channels_last}
    assert torch.equal(out, ag.crop_resize_flip(images, crop, **options))
    assert not out.isnan().any()


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_around_out_is_touched(
    noise: Pixels, channels_last: bool, mixed: bool, dtype: torch.dtype, device: str
) -> None:
    """`out` as a part of a larger tensor, with rows, channels, lines and columns around it that are not its own."""
    images = ragged(noise(33, 47), device=device)
    crop = crop_of((0, 0, 9, 8), (3, 4, 9, 9), source=[0, 0], flip=[False, True])
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    around = torch.full((4, 5, 13, 16), 77, dtype=dtype, device=device).contiguous(memory_format=memory_format)
    out = around[1:3, 1:4, 2:11, 3:12]
    options: dict[str, Any] = {"size": 9, "exact": True, "color": hue_like(None) if mixed else None}
    ag.crop_resize_flip(images, crop, out=out, **options)
    assert torch.equal(out, ag.crop_resize_flip(images, crop, dtype=dtype, **options))
    out.fill_(77)
    assert (around == 77).all()


def test_the_images_are_unchanged(noise: Pixels, device: str) -> None:
    images = [noise(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    batch = ragged(*images, device=device)
    for exact in (True, False):
        ag.crop_resize_flip(batch, three_rows(), size=9, exact=exact, mean=0.5)
    for image, kept in zip(images, batch, strict=True):
        np.testing.assert_array_equal(image, kept.cpu().numpy())


def test_many_strips_equal_the_reference(noise: Pixels, kernel_device: str) -> None:
    """At the scale of 500 × 375 to 224 × 224: nine strips, the last of each row and column not whole."""
    images = ragged(noise(112, 155), device=kernel_device)
    assert_exact(images, crop_of((9, 13, 105.1, 109.1), flip=True), size=65)


@pytest.mark.parametrize("size", [224, 225])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_full_size_of_the_cpu_path_equals_the_reference(noise: Pixels, interpolation: Any, size: int) -> None:
    images = ragged(noise(375, 500), noise(1300, 1000, seed=1))
    crop = crop_of((20, 31, 351, 362), (0, 0, 1000, 1300), flip=True)
    assert_exact(images, crop, size=size, interpolation=interpolation)


# -------------------------------------------------------------------- the CPU's 8-bit path, torchvision's and Pillow's


@pytest.mark.skipif(not BYTES_NATIVE, reason="torchvision resizes uint8 in float on this CPU")
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_default_on_a_cpu_is_torchvision_bit_for_bit(
    noise: Pixels, mode: Any, channels: int, dense: bool, channels_last: bool
) -> None:
    image = noise(200, 190, channels)
    chw = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    for box, size, flip in (
        ((0, 0, 190, 200), 32, False),
        ((1, 2, 187, 199), 31, True),  # shrunk 6 times
        ((5, 3, 13, 11), 32, True),  # enlarged 4 times
        ((4, 4, 37, 37), 33, True),  # nothing to resize
        ((189, 0, 190, 200), 17, False),  # one column
        ((10, 20, 160, 190), 1, True),
    ):
        images = chw[None] if dense else ragged(image)
        out = ag.crop_resize_flip(
            images, crop_of(box, flip=flip), size=size, interpolation=mode, channels_last=channels_last
        )
        wanted = torchvision_crop(chw, box, size, mode, flip)
        assert torch.equal((out[0] * 255).round().to(torch.uint8), wanted), (box, size)
        torch.testing.assert_close(out[0] * 255, wanted.float(), rtol=0, atol=1e-4)  # float32: whole grey levels


@pytest.mark.parametrize("path", ["default", "exact", "kernel"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("scale", [0.3, 0.8, 1.5, 3.0, 6.0])
def test_photographs_are_within_a_grey_level_of_torchvision_and_pillow(
    photo: Pixels, scale: float, mode: Any, path: str, request: pytest.FixtureRequest
) -> None:
    device = request.getfixturevalue("kernel_device") if path == "kernel" else "cpu"
    image = photo(210, 230)
    size = 7
    side = round(scale * size)
    box = (11, 7, 11 + side, 7 + side)
    options: dict[str, Any] = {"size": size, "interpolation": mode, "exact": path == "exact"}
    out = ag.crop_resize_flip(ragged(image, device=device), crop_of(box), **options)[0].cpu() * 255
    theirs = torchvision_crop(torch.from_numpy(image).permute(2, 0, 1), box, size, mode)
    pillow = np.asarray(Image.fromarray(image).crop(box).resize((size, size), PILLOW[mode]))
    # theirs are rounded to 8 bits after each of two passes; 0.005 for float32
    atol = TWO_ROUNDINGS[mode] + 0.005
    torch.testing.assert_close(out, theirs.float(), rtol=0, atol=atol)
    np.testing.assert_allclose(out.permute(1, 2, 0).numpy(), pillow.astype(np.float32), rtol=0, atol=atol)


@pytest.mark.parametrize("path", ["exact", "kernel"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_center_crop_is_within_a_grey_level_of_torchvisions(
    photo: Pixels, mode: Any, path: str, request: pytest.FixtureRequest
) -> None:
    device = request.getfixturevalue("kernel_device") if path == "kernel" else "cpu"
    image = photo(38, 51)
    crop = ag.center_crop_boxes([38], [51], size=17, resize=20)
    out = ag.crop_resize_flip(ragged(image, device=device), crop, size=17, interpolation=mode)[0].cpu() * 255
    chw = torch.from_numpy(image).permute(2, 0, 1)
    theirs = F.center_crop(F.resize(chw, [20], TORCHVISION[mode], antialias=True), [17, 17])
    torch.testing.assert_close(out, theirs.float(), rtol=0, atol=TWO_ROUNDINGS[mode] + 0.005)  # 0.005 for float32


@pytest.mark.parametrize("scale", [0.3, 0.8, 1.5, 3.0, 6.0])
def test_the_default_on_a_cpu_is_within_a_grey_level_of_the_reference(noise: Pixels, scale: float) -> None:
    """Also where every pixel is noise, for the bilinear filter: two roundings of at most half a level each."""
    images = ragged(noise(210, 230))
    side = round(scale * 33)
    crop = crop_of((11, 7, 11 + side, 7 + side), flip=True)
    out = ag.crop_resize_flip(images, crop, size=33)
    wanted = ag.crop_resize_flip_reference(images, crop, size=33)
    # one level, and 0.05 for weights of 16 bits
    torch.testing.assert_close(out.double() * 255, wanted * 255, rtol=0, atol=1.05)


# -------------------------------------------------------------------------------------------------------- bit identity


PATHS: dict[str, dict[str, Any]] = {
    "8 bits": {},
    "exact": {"exact": True},
    "exact bicubic": {"exact": True, "interpolation": "bicubic"},
    "no antialias": {"antialias": False},
    "half": {"dtype": torch.float16, "mean": 0.5, "std": 0.25},
    "interleaved": {"channels_last": True, "mean": 0.5, "std": 0.25},
    "interleaved half": {"channels_last": True, "dtype": torch.bfloat16, "mean": 0.5, "std": 0.25},
    "mixed colours": {"color": hue_like(None)},
}


@pytest.mark.parametrize("options", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("taps", ["box", "image"])
def test_a_row_is_the_same_alone_in_seven_and_in_thirty_two(noise: Pixels, options: dict[str, Any], taps: Any) -> None:
    images = [noise(20 + i, 70 - i, seed=i) for i in range(32)]
    box = np.array([(i % 5, 0, 20 + i / 2, 20) for i in range(32)], dtype=np.float32)  # every other one is fractional
    crop = ag.CropParams(np.arange(32), box, np.arange(32) % 2 == 0, taps)
    everything = ag.crop_resize_flip(ragged(*images), crop, size=33, **options)
    seven = ag.crop_resize_flip(ragged(*images), crop.take(np.arange(7)), size=33, **options)
    assert torch.equal(seven, everything[:7])
    for i in (0, 1, 5, 31):
        alone = ag.CropParams([0], box[i : i + 1], crop.flip[i : i + 1], taps)
        assert torch.equal(ag.crop_resize_flip(ragged(images[i]), alone, size=33, **options)[0], everything[i])


@pytest.mark.parametrize("options", [{}, {"interpolation": "bicubic", "channels_last": True, "dtype": torch.bfloat16}])
def test_a_row_of_the_kernel_is_the_same_alone_and_in_a_batch(
    noise: Pixels, options: dict[str, Any], kernel_device: str
) -> None:
    images = [noise(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    options = {"size": 9, "color": hue_like(3), **options}
    crop = three_rows()
    together = ag.crop_resize_flip(ragged(*images, device=kernel_device), crop, **options)
    for row, source in enumerate(crop.source):
        alone = ag.CropParams([0], crop.box[row : row + 1], crop.flip[row : row + 1], "box")
        options["color"] = hue_like(3)[row]
        image = ragged(images[source], device=kernel_device)
        assert torch.equal(ag.crop_resize_flip(image, alone, **options)[0], together[row])


@pytest.mark.parametrize("options", PATHS.values(), ids=PATHS)
def test_the_number_of_threads_changes_nothing(noise: Pixels, options: dict[str, Any]) -> None:
    """At full size, where torch would share out the work."""
    images = ragged(noise(375, 500))
    crop = crop_of((3, 4, 470, 360), (3.5, 4.5, 470, 360), source=[0, 0], flip=[True, False])
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 8):
            torch.set_num_threads(count)
            results.append(ag.crop_resize_flip(images, crop, size=224, **options))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_matmul_precision_changes_nothing(noise: Pixels, precision: str, device: str) -> None:
    images = ragged(noise(33, 47), device=device)
    crop = crop_of((3.3, 1.7, 22.9, 21.25), (0, 0, 19, 17), source=[0, 0])
    before = torch.get_float32_matmul_precision()
    plain = ag.crop_resize_flip(images, crop, size=17, color=hue_like(2))
    try:
        torch.set_float32_matmul_precision(precision)
        lowered = ag.crop_resize_flip(images, crop, size=17, color=hue_like(2))
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(plain, lowered)


# -------------------------------------------------------------------------------------------------------------- errors


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": torch.int32}, TypeError, "torch.int32"),
        ({"dtype": torch.uint8}, TypeError, "torch.uint8"),
        ({"dtype": torch.float64}, TypeError, "torch.float64"),
        ({"interpolation": "lanczos"}, ValueError, "lanczos"),
        ({"interpolation": "Bilinear"}, ValueError, "Bilinear"),
        ({"size": 0}, ValueError, "size is 0"),
        ({"size": -1}, ValueError, "size is -1"),
        ({"mean": [0.5, 0.5]}, ValueError, "mean"),
        ({"mean": [[0.5, 0.5, 0.5]]}, ValueError, "mean"),
        ({"std": [1, 1, 1, 1]}, ValueError, "std"),
        ({"std": 0}, ValueError, "std"),
        ({"std": [1, 0, 1]}, ValueError, "std"),
        ({"std": [1, -1, 1]}, ValueError, "std"),
        ({"std": [1, NAN, 1]}, ValueError, "std"),
        ({"std": INF}, ValueError, "std"),
        ({"mean": NAN}, ValueError, "mean"),
        ({"mean": [0, 0, INF]}, ValueError, "mean"),
        ({"color": np.eye(3)}, ValueError, r"color.*\(3, 3\)"),
        ({"color": np.zeros((2, 3, 4))}, ValueError, r"color.*\(2, 3, 4\)"),  # there is one row
        ({"color": np.zeros((1, 4, 5))}, ValueError, r"color.*\(1, 4, 5\)"),
        ({"color": np.full((3, 4), NAN)}, ValueError, "color"),
        ({"color": np.full((1, 3, 4), INF)}, ValueError, "color"),
        ({"out": torch.zeros(1, 3, 8, 9)}, ValueError, r"out.*\(1, 3, 8, 9\)"),
        ({"out": torch.zeros(3, 9, 9)}, ValueError, r"out.*\(3, 9, 9\)"),
        ({"out": torch.zeros(2, 3, 9, 9)}, ValueError, "out"),
        ({"out": torch.zeros(1, 3, 9, 9, dtype=torch.uint8)}, TypeError, "torch.uint8"),
        ({"out": torch.zeros(1, 3, 9, 9, device="meta")}, ValueError, "out.*meta"),
    ],
    ids=str,
)
def test_a_bad_argument_is_named(noise: Pixels, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ag.crop_resize_flip(ragged(noise(5, 7)), crop_of((0, 0, 7, 5)), **({"size": 9} | options))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(3, 5, 7), ValueError, r"\(3, 5, 7\)"),
        (torch.zeros(1, 3, 5, 7, dtype=torch.float64), TypeError, "torch.float64"),
        (torch.zeros(1, 3, 5, 7, dtype=torch.float16), TypeError, "torch.float16"),
        (torch.zeros(1, 3, 5, 7, dtype=torch.int64), TypeError, "torch.int64"),
        (torch.zeros(1, 2, 5, 7), ValueError, "2 channels"),
        (torch.zeros(1, 5, 5, 7), ValueError, "5 channels"),
        (torch.zeros(1, 5, 7, 3), ValueError, "5 channels"),  # channels last in shape, not in memory
        (np.zeros((1, 3, 5, 7), np.float32), TypeError, "ndarray"),
        ([torch.zeros(3, 5, 7)], TypeError, "list"),
        (ag.RaggedBatch.from_images([np.zeros((5, 7, 2), np.uint8)]), ValueError, "2 channels"),
    ],
    ids=lambda value: f"{type(value).__name__}{tuple(getattr(value, 'shape', ()))}",
)
def test_images_of_another_kind_are_refused(images: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ag.crop_resize_flip(images, crop_of((0, 0, 5, 5)), size=9)


def test_an_image_too_large_for_32_bit_positions_is_refused() -> None:
    """2 × 2 pixels whose rows lie 2**31 values apart; the meta device holds none of them."""
    images = torch.empty(1, 1, 2, 2, device="meta").as_strided((1, 1, 2, 2), (0, 0, 2**31, 1))
    with pytest.raises(ValueError, match=r"2\*\*31"):
        ag.crop_resize_flip(images, crop_of((0, 0, 2, 2)), size=2)


@pytest.mark.parametrize(
    "box",
    [
        (NAN, 0, 7, 5),
        (0, 0, NAN, 5),
        (0, 0, INF, 5),
        (-1, 0, 7, 5),
        (0, 0, 7.01, 5),
        (0, 0, 7, 1e9),
        (7, 5, 0, 0),
        (3, 0, 3, 5),
    ],
)
def test_a_bad_box_raises_before_anything_is_written(noise: Pixels, box: Any, device: str) -> None:
    images = ragged(noise(5, 7), noise(50, 70), device=device)
    out = torch.full((2, 3, 9, 9), 7.0, device=device)
    with pytest.raises(ValueError, match="row 1"):
        ag.crop_resize_flip(images, crop_of((0, 0, 7, 5), box, source=[0, 0]), size=9, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("source", [2, -1])
def test_a_bad_source_raises_before_anything_is_written(noise: Pixels, source: int, device: str) -> None:
    out = torch.full((2, 3, 9, 9), 7.0, device=device)
    crop = crop_of((0, 0, 7, 5), (0, 0, 7, 5), source=[0, source])
    with pytest.raises(IndexError, match="row 1"):
        ag.crop_resize_flip(ragged(noise(5, 7), noise(5, 7), device=device), crop, size=9, out=out)
    assert (out == 7).all()


# --------------------------------------------------------------------------------------- found by trying to break it


def test_a_side_that_float32_cannot_count_is_refused() -> None:
    """Positions in the strip beyond such an image's output would pass 2**31, and come back inside it."""
    tall = torch.zeros(100, dtype=torch.uint8).as_strided((1, 1, 2**24, 6), (0, 0, 0, 1))
    with pytest.raises(ValueError, match=r"16777216 pixels; it must stay below 2\*\*24"):
        ag.crop_resize_flip(tall, crop_of((0, 0, 6, 100)), size=1)


def test_sides_whose_product_overflows_are_refused() -> None:
    """7 · 7905747460161236407 is 1 in 64 bits: an image that seems to lie within its one pixel value."""
    sides = torch.tensor([7]), torch.tensor([7905747460161236407])
    batch = ag.RaggedBatch(torch.zeros(1, dtype=torch.uint8), torch.tensor([0]), *sides, 1)
    with pytest.raises(ValueError, match="the longest side is 7905747460161236407"):
        ag.crop_resize_flip(batch, crop_of((0, 0, 4096, 7)), size=4)


@pytest.mark.parametrize(
    "change",
    [
        {"height": torch.tensor([2000], dtype=torch.int32)},
        {"offset": torch.tensor([-1])},
        {"offset": torch.tensor([1])},
        {"height": torch.tensor([0], dtype=torch.int32)},
    ],
    ids=str,
)
def test_a_batch_whose_images_lie_outside_its_pixels_is_refused(noise: Pixels, change: dict[str, Any]) -> None:
    batch = dataclasses.replace(ragged(noise(20, 30)), **change)
    with pytest.raises(ValueError, match="do not lie within its 1800 pixel values"):
        ag.crop_resize_flip(batch, crop_of((0, 0, 10, 10)), size=8)


@pytest.mark.parametrize("size", [np.int16(224), np.int32(17), np.int64(17)])
def test_a_size_may_be_one_of_numpys_integers(noise: Pixels, size: Any) -> None:
    assert ag.crop_resize_flip(ragged(noise(9, 9)), crop_of((0, 0, 9, 9)), size=size).shape == (1, 3, size, size)


def test_autograd_knows_that_out_was_written_to(noise: Pixels, device: str) -> None:
    out = torch.zeros(1, 3, 8, 8, device=device)
    before = out._version
    ag.crop_resize_flip(ragged(noise(9, 9), device=device), crop_of((0, 0, 9, 9)), size=8, out=out)
    assert out._version > before


def test_an_out_whose_rows_overlap_is_refused(noise: Pixels) -> None:
    crop = crop_of((0, 0, 9, 9), (1, 1, 9, 9), source=[0, 0])
    with pytest.raises(ValueError, match="must not overlap"):
        ag.crop_resize_flip(ragged(noise(20, 30)), crop, size=8, out=torch.zeros(1, 3, 8, 8).expand(2, 3, 8, 8))


@pytest.mark.parametrize(("width", "size"), [(176, 600), (384, 600), (768, 896), (2048, 1536)])
def test_nearest_takes_the_pixel_at_an_edge_that_the_reference_takes(noise: Pixels, width: int, size: int) -> None:
    """Sizes at which many centres fall on the very edge of a pixel."""
    images, crop = ragged(noise(1, width, 1)), crop_of((0, 0, width, 1))
    (row,) = rows_of(images, crop, size, "nearest")
    positions = (row["positions"][0] + np.arange(size) * row["positions"][2]) >> 32
    assert positions.tolist() == [(2 * i + 1) * width // (2 * size) for i in range(size)]  # in whole numbers


@pytest.mark.parametrize("scale", [0.3, 0.7, 1.7, 3.0, 6.0])
def test_bicubic_beside_hard_edges_is_torchvisions_float_result(scale: float) -> None:
    """Black and white bars, where the cubic overshoots most: torch's float resize, clamped once."""
    side = round(33 * scale)
    image = (np.indices((side, side)).sum(0) // 5 % 2 * 255).astype(np.uint8)[:, :, None].repeat(3, 2)
    out = ag.crop_resize_flip(ragged(image), crop_of((0, 0, side, side)), size=33, interpolation="bicubic", exact=True)
    chw = torch.from_numpy(image).permute(2, 0, 1).double() / 255
    wanted = torch.nn.functional.interpolate(chw[None], size=(33, 33), mode="bicubic", antialias=True)[0].clamp(0, 1)
    torch.testing.assert_close(out[0].double() * 255, wanted * 255, rtol=0, atol=0.005)


@pytest.mark.skipif(not BYTES_NATIVE, reason="torchvision resizes uint8 in float on this CPU")
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(75, 101), (300, 33), (40, 40)])
@pytest.mark.parametrize("dense", [False, True])
def test_the_evaluation_view_on_a_cpu_is_torchvisions_bit_for_bit(
    noise: Pixels, mode: Any, shape: tuple[int, int], dense: bool
) -> None:
    image = noise(*shape)
    chw = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    theirs = F.center_crop(F.resize(chw, [40], TORCHVISION[mode], antialias=True), [33, 33])
    crop = ag.center_crop_boxes([shape[0]], [shape[1]], size=33, resize=40)
    crop = crop_of(*crop.box, *crop.box, source=[0, 0], flip=[False, True], taps="image")
    for channels_last in (False, True):
        images = chw[None] if dense else ragged(image)
        out = ag.crop_resize_flip(images, crop, size=33, interpolation=mode, channels_last=channels_last)
        assert torch.equal((out * 255).round().byte(), torch.stack([theirs, theirs.flip(-1)]))


def test_a_crop_of_a_giant_enlargement_is_made_without_it(noise: Pixels) -> None:
    """A box of 2 pixels to 32: the whole image so enlarged would have 16,000 pixels a side."""
    images, crop = ragged(noise(1000, 1000)), crop_of((500, 500, 502, 502), taps="image")
    out = ag.crop_resize_flip(images, crop, size=32)
    torch.testing.assert_close(out, ag.crop_resize_flip(images, crop, size=32, exact=True), rtol=0, atol=EXACT)


@pytest.mark.skipif(not BYTES_NATIVE, reason="torchvision resizes uint8 in float on this CPU")
@pytest.mark.parametrize("resize", [40, 100, 250])  # of a short side of 100: shrunk, kept, enlarged
def test_the_cpu_clamps_a_cubic_after_each_axis_as_torchvision(resize: int) -> None:
    """The same bars in the evaluation view, which torch's uint8 kernels cannot make: they cut no fractional box."""
    image = (np.indices((100, 130)).sum(0) // 5 % 2 * 255).astype(np.uint8)[:, :, None].repeat(3, 2)
    crop = ag.center_crop_boxes([100], [130], size=33, resize=resize)
    out = ag.crop_resize_flip(ragged(image), crop, size=33, interpolation="bicubic")[0] * 255
    chw = torch.from_numpy(image).permute(2, 0, 1)
    theirs = F.center_crop(F.resize(chw, [resize], InterpolationMode.BICUBIC, antialias=True), [33, 33])
    # 0.005 for float32, 0.1 for torchvision's weights of 16 bits, which see the whole range of grey here
    torch.testing.assert_close(out, theirs.float(), rtol=0, atol=TWO_ROUNDINGS["bicubic"] + 0.105)
