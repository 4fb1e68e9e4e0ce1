"""From draws to a batch: the host part, which decides and checks, and the device part, which computes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.boxes import (
    CropParams,
    center_crop_boxes,
    sample_flip,
    sample_random_resized_crop,
    sample_scale_jitter_crop,
)
from augment_gpu.ops.crop import empty_images, run_crop
from augment_gpu.ops.crop_plan import check_crop, color_matrix, plan_crop
from augment_gpu.ops.cutout import (
    CutoutParams,
    overwrite,
    plan_cutout,
    sample_cutout,
    sample_random_erasing,
)
from augment_gpu.ops.foreign import run_foreign, sample_foreign
from augment_gpu.ops.mix import blended, one_hot, plan_mix, run_mix, run_mix_targets
from augment_gpu.ops.mix_draws import MixParams, sample_mix
from augment_gpu.ops.path import runs_triton
from augment_gpu.ops.twist import ColorTwistParams, color_of, sample_color_twist
from augment_gpu.ops.upload import upload
from augment_gpu.ragged import RaggedBatch
from augment_gpu.recipe import OPS, Recipe
from augment_gpu.rng import Key


@dataclass(frozen=True, eq=False)
class Draws:
    """Every random choice for B samples, before mixing. ops: the parameters of each of the recipe's ops, in order; of a
    callable its seed. size, names: of the recipe and of its ops; None of draws that were made by hand. training:
    whether mixing follows, if the recipe mixes."""

    crop: CropParams
    twist: ColorTwistParams | None = None
    ops: tuple[Any, ...] = ()
    holes: tuple[CutoutParams, ...] = ()
    size: int | None = None
    names: tuple[str, ...] | None = None
    training: bool = True

    def check_recipe(self, recipe: Recipe) -> None:
        """Raises ValueError for a recipe of another size or other ops than these draws are of."""
        if self.size not in (None, recipe.size):
            raise ValueError(f"draws are of a recipe of size {self.size}; the recipe has size {recipe.size}")
        if self.training and self.names not in (None, recipe.op_names):
            raise ValueError(f"draws are of the ops {self.names}; the recipe has {recipe.op_names}")
        if self.ops and len(self.ops) != len(recipe.ops):
            raise ValueError(f"draws are of {len(self.ops)} ops; the recipe has {len(recipe.ops)}")


def draw(recipe: Recipe, key: Key, index: ArrayLike, heights: ArrayLike, widths: ArrayLike) -> Draws:
    """What the recipe does to each sample in training. index: (B,) positions in the data set; sizes in pixels."""
    key, index = replace(key, view=recipe.view), np.asarray(index, dtype=np.int64)
    holes = []
    if recipe.cutout:
        holes.append(sample_cutout(key, index, size=recipe.size, length=recipe.cutout, fill=recipe.fill))
    if recipe.reprob:
        holes.append(sample_random_erasing(key, index, size=recipe.size, p=recipe.reprob, fill=recipe.fill))
    twist = sample_color_twist(key, index, **recipe.color_twist) if recipe.color_twist else None
    ops = tuple(
        sample_foreign(key, index, place) if callable(op) else OPS[op[0]][0](key, index, **op[1])
        for place, op in enumerate(recipe.ops)
    )
    crop = _draw_crop(recipe, key, index, heights, widths)
    return Draws(crop, twist, ops, tuple(holes), recipe.size, recipe.op_names)


def _draw_crop(recipe: Recipe, key: Key, index: np.ndarray, heights: ArrayLike, widths: ArrayLike) -> CropParams:
    if recipe.crop == "random_resized":
        return sample_random_resized_crop(key, index, heights, widths, recipe.scale, recipe.ratio, recipe.flip)
    if recipe.crop == "scale_jitter":
        return sample_scale_jitter_crop(key, index, heights, widths, recipe.size, recipe.short_side, recipe.flip)
    central = evaluation_draws(recipe, heights, widths).crop
    return replace(central, flip=sample_flip(key, index, recipe.flip))


def evaluation_draws(recipe: Recipe, heights: ArrayLike, widths: ArrayLike) -> Draws:
    """The evaluation view: short side to `evaluation_resize`, central crop, nothing random."""
    crop = center_crop_boxes(heights, widths, recipe.size, recipe.evaluation_resize)
    return Draws(crop, size=recipe.size, training=False)


def draw_mix(recipe: Recipe, key: Key, index: ArrayLike) -> MixParams | None:
    """How the samples of one whole batch, over all ranks, are mixed; None where the recipe does not mix."""
    key, index = replace(key, view=recipe.view), np.asarray(index, dtype=np.int64)
    if not recipe.mixes or not len(index):
        return None
    return sample_mix(
        key,
        index,
        mixup_alpha=recipe.mixup_alpha,
        cutmix_alpha=recipe.cutmix_alpha,
        cutmix_minmax=recipe.cutmix_minmax,
        prob=recipe.mixup_prob,
        switch_prob=recipe.switch_prob,
        mode=recipe.mixup_mode,
        size=recipe.size,
    )


class Prepared(NamedTuple):
    """A batch on the device with everything that was decided about it: what the device part of a stage takes.

    images: (N,) uint8, the pixels of a ragged batch, or dense (B, C, H, W). targets: as the caller gave them, on the
    device. soft: whether they become (B, num_classes). channels: C. diagonal: whether no channel sees another in the
    crop's colours, which the recipe says and not what was drawn. crop, holes, mix: the tables of crop_resize_flip, with
    the first holes where no op comes between; of each further cutout; and of mixup, cutmix (three tables) or both
    (four), or none. ops: the parameters of each of the recipe's ops. Tables have the same shapes for every batch of one
    size, whatever was drawn; but that a recipe with both mixup and CutMix, of which a batch is one, sends two tables or
    three.
    """

    images: torch.Tensor
    targets: torch.Tensor | None
    soft: bool
    channels: int
    diagonal: bool
    crop: list[torch.Tensor]
    holes: list[list[torch.Tensor]]
    mix: list[torch.Tensor]
    ops: tuple[Any, ...]

    def copy_(self, other: "Prepared") -> None:
        """Overwrites this batch, in place, with one of as many samples: so that a CUDA graph, captured on this one, is
        replayed with other images and draws. The other's ragged pixels may be fewer, but not more; dense images must be
        of the same shape and strides. A recipe with both mixup and CutMix, of which a batch is one, needs a batch, and
        a graph, for each.

        Raises ValueError for a batch that the same graph cannot serve.
        """
        if self.images.ndim == 1 and len(other.images) > len(self.images):
            raise ValueError(f"the batch has {len(other.images)} values; there is room for {len(self.images)}")
        mine, theirs = self._tensors(), other._tensors()
        if self.ops or other.ops:
            raise ValueError("the batches have ops, which look at their draws on the host")
        if self._form() != other._form():
            raise ValueError(f"the batches differ in form: this is {self._form()}, the other {other._form()}")
        images = self.images[: len(other.images)] if self.images.ndim == 1 else self.images
        for target, source in zip((images, *mine), (other.images, *theirs), strict=True):
            target.copy_(source, non_blocking=True)

    def _tensors(self) -> list[torch.Tensor]:
        """All but the images."""
        targets = [] if self.targets is None else [self.targets]
        return [*targets, *self.crop, *chain.from_iterable(self.holes), *self.mix]

    def _form(self) -> dict[str, Any]:
        """What must agree for one batch to stand in the other's place."""
        dense = (*self.images.shape, self.images.stride()) if self.images.ndim == 4 else None
        return {
            "images": (self.images.dtype, self.channels, dense),
            "diagonal": self.diagonal,
            "soft": (self.targets is not None, self.soft),
            "holes": len(self.holes),
            "tables": [(tuple(table.shape), table.dtype) for table in self._tensors()],
        }


def prepare(
    images: RaggedBatch | torch.Tensor,
    draws: Draws,
    recipe: Recipe,
    *,
    targets: torch.Tensor | None = None,
    soft: bool = False,
    mix: MixParams | None = None,
) -> Prepared:
    """The host part: draws checked and turned into tables, all of them sent to the images' device in one copy."""
    draws.check_recipe(recipe)
    size = recipe.size
    places = check_crop(images, draws.crop, size, recipe.interpolation)
    channels = images.channels if isinstance(images, RaggedBatch) else images.shape[1]
    color = None if draws.twist is None else color_of(draws.twist, channels)
    matrix = color_matrix(images, len(draws.crop), color, recipe.mean, recipe.std)
    if draws.ops:  # normalisation comes after them, and not with the crop
        matrix = color_matrix(images, len(draws.crop), color, None, None)
    diagonal = draws.twist is None or draws.twist.diagonal or channels == 1
    # Without rows nothing is launched, and no device asked whether it could.
    triton = len(draws.crop) > 0 and runs_triton(images.device)
    where = images.device if triton else torch.device("cpu")
    shape = (len(draws.crop), channels, size, size)
    filling = [plan_cutout(shape, holes) for holes in draws.holes]
    # The crop's own launch fills the first holes, where no op comes between.
    fused = filling.pop(0) if filling and not draws.ops else ()
    how = size, recipe.interpolation, recipe.antialias
    groups = [plan_crop(places, draws.crop, matrix, *how, filling=fused, triton=triton), *filling]
    groups += [] if mix is None else [plan_mix(mix, len(draws.crop), shape[2:])]
    sent = iter(upload(where, *chain.from_iterable(groups)))
    crop, *others = [list(islice(sent, len(group))) for group in groups]
    pixels = images.pixels if isinstance(images, RaggedBatch) else images
    holes, mixing = others[: len(filling)], [] if mix is None else others[-1]
    return Prepared(pixels, targets, soft, channels, diagonal, crop, holes, mixing, draws.ops)


def augment(batch: Prepared, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The device part: images (V, C, S, S), normalised, in the recipe's dtype and memory format, and targets.

    It never waits for the device, but for holes in images that want a gradient, which plain torch fills. Without ops it
    is one launch for the crop with its holes, and one each for further holes, the mixed images and the mixed targets;
    torch.compile takes it whole (fullgraph=True), and a CUDA graph can capture it, at the second batch or later: at a
    device's first one kernels are compiled, and the device is tried. With ops the crop is written as float32 in [0, 1],
    to which twisted colours are clamped, and normalised after the last one; ops look at their draws on the host.
    """
    fused = not batch.ops
    shape = (batch.crop[0].shape[0], batch.channels, recipe.size, recipe.size)
    dtype = recipe.torch_dtype if fused else torch.float32
    images = empty_images(shape, dtype, recipe.channels_last, batch.images.device)
    run_crop(batch.images, batch.crop, images, recipe.interpolation, recipe.antialias, recipe.exact, batch.diagonal)
    if not fused:
        if recipe.color_twist:
            images.clamp_(0, 1)
        for op, params in zip(recipe.ops, batch.ops, strict=True):
            images = run_foreign(op, images, params) if callable(op) else OPS[op[0]][1](images, params)
        images = _normalize(images, recipe)
    for holes in batch.holes:
        overwrite(images, holes)
    if batch.mix:
        images = run_mix(images, batch.mix)
    return images, None if batch.targets is None else _soften(batch.targets, batch.soft, batch.mix, recipe)


def _soften(targets: torch.Tensor, soft: bool, mix: Sequence[torch.Tensor], recipe: Recipe) -> torch.Tensor:
    """Class numbers as rows of targets where these are wanted soft; mixed, where the images are."""
    if targets.ndim == 1 and soft:
        classes, smoothing = recipe.num_classes or 0, recipe.label_smoothing
        if mix:
            return run_mix_targets(targets, *mix[:2], classes, smoothing)
        return one_hot(targets, classes, smoothing=smoothing)
    return blended(targets, *mix[:2]) if mix else targets


def _normalize(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """(images − mean) / std, in place, cast to the recipe's dtype and memory format."""
    if recipe.mean is not None:
        images.sub_(torch.tensor(recipe.mean).view(-1, 1, 1).to(images.device, non_blocking=True))
    if recipe.std is not None:
        images.div_(torch.tensor(recipe.std).view(-1, 1, 1).to(images.device, non_blocking=True))
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return images.to(recipe.torch_dtype, memory_format=memory_format)
