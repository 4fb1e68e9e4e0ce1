"""A picture of every op at five strengths. What is shown of each is one line of ROWS."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from augment_gpu.data.sample import draw_sample
from augment_gpu.data.sources import Dataset
from augment_gpu.ops.mix_draws import CutmixParams, MixParams, MixupParams
from augment_gpu.ragged import RaggedBatch, as_array, as_hwc
from augment_gpu.recipe import Recipe
from augment_gpu.rng import Key, uniform
from augment_gpu.stage import Stage

STRENGTHS = 5
_BLOCKS = 3  # of rows, side by side
_GAP = 4  # white pixels between pictures
_TEXT = 15  # height of a line of text, in pixels

# Class and number of the built-in sample's pictures.
_SAMPLES = ((2, 11), (5, 3), (0, 4), (7, 8), (1, 5))


@dataclass(frozen=True)
class Row:
    """One row of the gallery.

    name: the op, or a recipe's field. option: what is varied, over `values`; a value and the pictures' side give the
    recipe's fields, or for what mixes the parameters by which the first of two is mixed. varied: "strength"
    shows one picture at five values; "sample" five pictures, and "epoch" one in five epochs, at the one value.
    """

    name: str
    option: str
    values: tuple[Any, ...]
    fields: Callable[[Any, int], Mapping[str, Any]] = lambda value, side: {}
    mix: Callable[[float, int], MixParams] | None = None
    varied: str = "strength"


def _op(name: str, option: str, *values: Any, exactly: bool = True, **others: Any) -> Row:
    """An op of recipe.OPS. exactly: whether the option takes a range, of which both ends are the value."""

    def fields(value: Any, side: int) -> Mapping[str, Any]:
        return {"ops": ((name, {option: (value, value) if exactly else value, **others}),)}

    return Row(name, option, values, fields)


def _every(name: str, varied: str = "sample") -> Row:
    """An op of recipe.OPS that has no strength."""
    return Row(name, "p", (1.0,), lambda p, side: {"ops": ((name, {"p": p}),)}, varied=varied)


def _twist(option: str, *values: float) -> Row:
    return Row("color_twist", option, values, lambda value, side: {"color_twist": {option: (value, value)}})


def _square(share: float, side: int) -> CutmixParams:
    """The partner's middle over the picture, of which `share` stays."""
    edge = int(side * (1 - np.sqrt(1 - share)) / 2)
    box = np.array([[edge, edge, side - edge, side - edge]])
    return CutmixParams(np.array([1]), np.array([share]), box)


# Every op of recipe.OPS has a row here, as a test demands; and so has what else a recipe can do to a picture.
ROWS: tuple[Row, ...] = (
    Row("crop", "scale", (1.0, 0.6, 0.35, 0.15, 0.08),
        lambda share, side: {"crop": "random_resized", "scale": (share, share)}),
    Row("flip", "flip", ("alternate",), lambda flip, side: {"flip": flip}, varied="epoch"),
    _twist("hue", -0.4, -0.2, 0.0, 0.2, 0.4),
    _twist("channel_mixing", 0.0, 0.15, 0.3, 0.45, 0.6),
    _op("color_jitter", "brightness", 0.4, 0.7, 1.0, 1.3, 1.6),
    _op("color_jitter", "contrast", 0.2, 0.6, 1.0, 1.5, 2.0),
    _op("color_jitter", "saturation", 0.0, 0.5, 1.0, 1.6, 2.5),
    _op("color_jitter", "hue", -0.4, -0.2, 0.0, 0.2, 0.4),
    _every("grayscale"),
    _every("invert"),
    _op("solarize", "threshold", 1.0, 0.8, 0.6, 0.4, 0.2, p=1.0),
    _op("posterize", "bits", 8, 4, 3, 2, 1, p=1.0),
    _every("autocontrast"),
    _every("equalize"),
    _op("sharpness", "sharpness_factor", 0.0, 0.5, 1.0, 3.0, 8.0, p=1.0),
    _op("gaussian_blur", "sigma", 0.1, 0.7, 1.4, 2.5, 4.0, p=1.0),
    _op("gaussian_noise", "sigma", 0.0, 0.04, 0.08, 0.16, 0.32),
    _op("jpeg", "quality", 90, 40, 20, 10, 4),
    _op("affine", "scale", 0.5, 0.75, 1.0, 1.4, 2.0),
    _op("rotate", "degrees", -60, -30, 0, 30, 60),
    _op("shear", "shear", -30, -15, 0, 15, 30),
    Row("translate", "translate", (0.0, 0.15, 0.3, 0.45, 0.6),
        lambda share, side: {"ops": (("translate", {"translate": (share, share)}),)}),
    _op("perspective", "distortion_scale", 0.0, 0.25, 0.5, 0.75, 1.0, exactly=False, p=1.0),
    _every("vertical_flip"),
    _op("elastic", "alpha", 0.0, 25.0, 50.0, 100.0, 200.0),
    _every("auto_augment", varied="epoch"),
    _op("rand_augment", "magnitude", 2, 9, 16, 23, 30, exactly=False),
    _every("trivial_augment_wide", varied="epoch"),
    _op("aug_mix", "severity", 1, 3, 5, 7, 10, exactly=False),
    replace(_op("timm_augment", "auto_augment", "rand-m9-mstd0.5-inc1", exactly=False), varied="epoch"),
    _every("three_augment", varied="epoch"),
    Row("cutout", "side", (0.0, 0.2, 0.4, 0.6, 0.8), lambda share, side: {"cutout": round(share * side)}),
    Row("reprob", "reprob", (1.0,), lambda p, side: {"reprob": p, "fill": 0.5}, varied="epoch"),
    Row("mixup", "lam", (1.0, 0.8, 0.6, 0.4, 0.2), mix=lambda lam, side: MixupParams(np.array([1]), np.array([lam]))),
    Row("cutmix", "lam", (1.0, 0.9, 0.75, 0.5, 0.2), mix=lambda lam, side: _square(lam, side)),
)  # fmt: skip


def gallery(dataset: Dataset | None = None, *, side: int = 84, seed: int = 0) -> Image.Image:
    """Every row of ROWS, in pictures of side × side, of five samples drawn at random; None: of the built-in ones."""
    if side < 24:  # elastic's kernel is 41 pixels wide
        raise ValueError(f"side is {side}; it must be at least 24")
    if dataset is not None and not len(dataset):
        raise ValueError("the data set is empty; the gallery shows pictures of it")
    images = _builtin() if dataset is None else _drawn(dataset, seed)
    rows_high = -(-len(ROWS) // _BLOCKS)
    step, across = side + _TEXT + _GAP, STRENGTHS * (side + _GAP) + 3 * _GAP
    canvas = Image.new("RGB", (_BLOCKS * across, rows_high * step), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=11)
    for place, row in enumerate(ROWS):
        left, top = place // rows_high * across + 2 * _GAP, place % rows_high * step
        pen.text((left, top), caption(row), fill="black", font=font)
        for column, picture in enumerate(pictures(row, images, side=side, seed=seed)):
            canvas.paste(Image.fromarray(picture), (left + column * (side + _GAP), top + _TEXT))
    return canvas


def caption(row: Row) -> str:
    """The op's name, and what differs from one picture to the next."""
    if row.varied != "strength":
        return (
            f"{row.name}: " + (f"{row.values[0]}, " if isinstance(row.values[0], str) else "") + f"five {row.varied}s"
        )
    values = ", ".join(f"{value:g}" if isinstance(value, float | int) else str(value) for value in row.values)
    return f"{row.name}: {row.option} {values}"


def pictures(row: Row, images: Sequence[np.ndarray], *, side: int, seed: int = 0) -> list[np.ndarray]:
    """The five (side, side, 3) uint8 pictures of a row, out of five images."""
    found = []
    for column in range(STRENGTHS):
        value = row.values[column if row.varied == "strength" else 0]
        number = column if row.varied == "sample" else 0
        epoch = column if row.varied == "epoch" else 0
        mixes: Any = {} if row.mix is None else {"mixup_alpha": 1.0, "num_classes": 2}
        fields: Any = {"crop": "center", "flip": 0.0, "mean": None, "std": None, **mixes, **row.fields(value, side)}
        stage = Stage(Recipe(size=side, resize=side, **fields), seed)
        batch = RaggedBatch.from_images([images[number], images[(number + 1) % STRENGTHS]])
        mix = None if row.mix is None else row.mix(value, side)
        result, _ = stage(batch, index=[0, 1], epoch=epoch, mix=mix)
        found.append((result[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    return found


def _builtin() -> list[np.ndarray]:
    return [draw_sample(label, number) for label, number in _SAMPLES]


def _drawn(dataset: Dataset, seed: int) -> list[np.ndarray]:
    numbers = np.argsort(uniform(Key(seed), np.arange(len(dataset)), "preview")[:, 0])
    drawn = [as_hwc(as_array(dataset[int(numbers[i % len(numbers)])][0]), "image").numpy() for i in range(STRENGTHS)]
    # Three channels, which some ops need, of grey ones; without the alpha of others.
    return [np.broadcast_to(image[:, :, :3], (*image.shape[:2], 3)) for image in drawn]
