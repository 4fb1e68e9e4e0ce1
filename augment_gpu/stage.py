"""The straight line: uint8 images of any size in, network input and targets out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from augment_gpu.ops.boxes import (
    CropParams,
    center_crop_boxes,
    sample_flip,
    sample_random_resized_crop,
    sample_scale_jitter_crop,
)
from augment_gpu.ops.crop import crop_resize_flip
from augment_gpu.ops.cutout import CutoutParams, cutout, sample_cutout, sample_random_erasing
from augment_gpu.ops.mix import MixParams, apply_mix, mix_targets, one_hot, sample_cutmix, sample_mixup
from augment_gpu.ops.path import require_bfloat16, require_triton
from augment_gpu.ragged import RaggedBatch, as_array
from augment_gpu.recipe import OPS, Recipe
from augment_gpu.rng import Key, uniform

Images = RaggedBatch | torch.Tensor | Sequence[torch.Tensor | np.ndarray]


@dataclass(frozen=True, eq=False)
class Draws:
    """Every random choice for B samples, before mixing. ops: the parameters of each of the recipe's ops, in order."""

    crop: CropParams
    ops: tuple[Any, ...] = ()
    holes: tuple[CutoutParams, ...] = ()


def draw(recipe: Recipe, key: Key, index: ArrayLike, heights: ArrayLike, widths: ArrayLike) -> Draws:
    """What the recipe does to each sample in training. index: (B,) positions in the data set; sizes in pixels."""
    index = np.asarray(index, dtype=np.int64)
    holes = []
    if recipe.cutout:
        holes.append(sample_cutout(key, index, size=recipe.size, length=recipe.cutout, fill=recipe.fill))
    if recipe.reprob:
        holes.append(sample_random_erasing(key, index, size=recipe.size, p=recipe.reprob, fill=recipe.fill))
    ops = tuple(OPS[name][0](key, index, **options) for name, options in recipe.ops)
    return Draws(_draw_crop(recipe, key, index, heights, widths), ops, tuple(holes))


def _draw_crop(recipe: Recipe, key: Key, index: np.ndarray, heights: ArrayLike, widths: ArrayLike) -> CropParams:
    if recipe.crop == "random_resized":
        return sample_random_resized_crop(key, index, heights, widths, recipe.scale, recipe.ratio, recipe.flip)
    if recipe.crop == "scale_jitter":
        return sample_scale_jitter_crop(key, index, heights, widths, recipe.size, recipe.short_side, recipe.flip)
    central = evaluation_draws(recipe, heights, widths).crop
    return replace(central, flip=sample_flip(key, index, recipe.flip))


def evaluation_draws(recipe: Recipe, heights: ArrayLike, widths: ArrayLike) -> Draws:
    """The evaluation view: short side to `evaluation_resize`, central crop, nothing random."""
    return Draws(center_crop_boxes(heights, widths, recipe.size, recipe.evaluation_resize))


def draw_mix(recipe: Recipe, key: Key, index: ArrayLike) -> MixParams | None:
    """How the samples of one whole batch, over all ranks, are mixed; None where the recipe does not mix."""
    index = np.asarray(index, dtype=np.int64)
    if not recipe.mixes or not len(index):
        return None
    cuts = recipe.cutmix_alpha > 0
    if cuts and recipe.mixup_alpha > 0:
        cuts = bool(uniform(key, index.min(keepdims=True), "mix.switch")[0, 0] < recipe.switch_prob)
    if cuts:
        return sample_cutmix(key, index, alpha=recipe.cutmix_alpha, size=recipe.size)
    return sample_mixup(key, index, alpha=recipe.mixup_alpha)


def augment(images: RaggedBatch | torch.Tensor, draws: Draws, recipe: Recipe) -> torch.Tensor:
    """Applies the draws: (V, C, S, S), normalised, in the recipe's dtype and memory format, on the images' device.

    Without ops in between, normalisation and cast are part of the one launch that crops; with them the crop is written
    as float32 in [0, 1], and normalised after the last op.
    """
    fused = not draws.ops
    augmented = crop_resize_flip(
        images,
        draws.crop,
        size=recipe.size,
        interpolation=recipe.interpolation,
        antialias=recipe.antialias,
        mean=recipe.mean if fused else None,
        std=recipe.std if fused else None,
        dtype=recipe.torch_dtype if fused else torch.float32,
        channels_last=recipe.channels_last,
        exact=recipe.exact,
    )
    if not fused:
        for (name, _), params in zip(recipe.ops, draws.ops, strict=True):
            augmented = OPS[name][1](augmented, params)
        augmented = _normalize(augmented, recipe)
    for holes in draws.holes:
        cutout(augmented, holes)
    return augmented


def _normalize(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """(images − mean) / std, in place, cast to the recipe's dtype and memory format."""
    if recipe.mean is not None:
        images.sub_(torch.tensor(recipe.mean).view(-1, 1, 1).to(images.device, non_blocking=True))
    if recipe.std is not None:
        images.div_(torch.tensor(recipe.std).view(-1, 1, 1).to(images.device, non_blocking=True))
    memory_format = torch.channels_last if recipe.channels_last else torch.contiguous_format
    return images.to(recipe.torch_dtype, memory_format=memory_format)


class Stage(nn.Module):
    """The data stage: `images, targets = stage(images, labels)`.

    In training mode it augments by the recipe; in evaluation mode it resizes, crops the centre and normalises. It takes
    a RaggedBatch, a list of uint8 images, or a dense (B, C, H, W) tensor, uint8 or floating point in [0, 1]. It works
    where it was moved to (`stage.to("cuda")`), or else where the images lie. Returns images (B, C, S, S) and targets on
    that device: (B,) int64, or in training, where the recipe mixes or smooths labels, (B, num_classes) float32.

    index: (B,) positions of the samples in the data set, which with the seed and the epoch determine every draw.
    Without it the stage numbers the samples that it has seen in training mode (over all ranks where torch.distributed
    runs, taking the ranks' batches to be of one size), and never draws the same twice; that count is part of its
    state_dict; `replay` knows a sample by its index alone. Mixing pairs the samples of this call, unless `mix` says
    otherwise, as Loader has it for a batch over all ranks. mix: the mixing parameters of this batch, where whoever
    calls knows the batch on all ranks; the images may then hold further rows, partners only, that are not returned.

    On a GPU the Triton kernels serve. Where they cannot (the GPU older than compute capability 8.0, no Triton, no C
    compiler, no free memory) one RuntimeWarning says what is missing and plain torch serves, slower; with strict=True
    the first batch raises RuntimeError instead. On a CPU, where no kernels are expected, strict changes nothing. A
    recipe of dtype="bfloat16" raises RuntimeError on a GPU that lacks it, strict or not: torch would emulate it,
    slowly, and float16 is native there.
    """

    _place: torch.Tensor

    def __init__(self, recipe: Recipe, seed: int = 0, *, strict: bool = False) -> None:
        super().__init__()
        self.recipe = recipe
        self.seed = Key(seed).seed
        self.strict = strict
        self.seen = 0
        self.register_buffer("_place", torch.empty(0), persistent=False)  # .to(device) moves it, so it knows where

    def forward(
        self,
        images: Images,
        labels: ArrayLike | torch.Tensor | None = None,
        *,
        index: ArrayLike | None = None,
        epoch: int = 0,
        mix: MixParams | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch = self._batch(images)
        if self.strict:
            require_triton(batch.device)
        if self.recipe.torch_dtype == torch.bfloat16:
            require_bfloat16(batch.device)
        targets = None if labels is None else _targets(labels, len(batch), self.recipe)
        if targets is not None:
            targets = targets.to(batch.device, non_blocking=True)
        _check_channels(batch, self.recipe)
        heights, widths = image_sizes(batch)
        if not self.training:
            return augment(batch, evaluation_draws(self.recipe, heights, widths), self.recipe), targets
        index = self._number(len(batch)) if index is None else np.asarray(index, dtype=np.int64)
        if index.shape != (len(batch),):
            raise ValueError(f"index has shape {index.shape} for {len(batch)} images; wanted one position a sample")
        key = Key(self.seed, epoch)
        augmented = augment(batch, draw(self.recipe, key, index, heights, widths), self.recipe)
        mix = draw_mix(self.recipe, key, index) if mix is None else mix
        if mix is not None:
            augmented = apply_mix(augmented, mix)
        return augmented, None if targets is None else _soften(targets, mix, self.recipe)

    def wrap(self, loader: Iterable[Any]) -> "WrappedLoader":
        """A user's own loader of (images, labels) or (images, labels, index) batches, seen through this stage."""
        return WrappedLoader(loader, self)

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": self.seen}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]

    def extra_repr(self) -> str:
        return f"{self.recipe}, seed={self.seed}, strict={self.strict}"

    def _number(self, count: int) -> np.ndarray:
        rank, world_size = 0, 1
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        index = self.seen + rank * count + np.arange(count)
        self.seen += world_size * count
        return index

    def _batch(self, images: Images) -> RaggedBatch | torch.Tensor:
        batch: RaggedBatch | torch.Tensor
        if isinstance(images, RaggedBatch):
            batch = images
        elif isinstance(images, torch.Tensor):
            batch = images.float() if images.is_floating_point() else images
        else:
            batch = RaggedBatch.from_images(images)
        return batch if self._place.device.type == "cpu" else batch.to(self._place.device, non_blocking=True)


class WrappedLoader:
    """Yields stage(images, labels) for each batch of a loader, each pass being one more epoch."""

    def __init__(self, loader: Iterable[Any], stage: Stage) -> None:
        self.loader = loader
        self.stage = stage
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        for images, labels, *index in self.loader:
            yield self.stage(images, labels, index=index[0] if index else None, epoch=epoch)


def replay(recipe: Recipe, dataset: Any, index: int, epoch: int, seed: int) -> torch.Tensor:
    """(C, S, S): the very picture of one sample that a run with this seed saw in this epoch, before mixing; computed on
    the CPU, so a GPU's within the rounding that crop_resize_flip states.

    dataset: anything whose dataset[index] is (uint8 image, label).
    """
    batch = RaggedBatch.from_images([as_array(dataset[index][0])])
    draws = draw(recipe, Key(seed, epoch), [index], *image_sizes(batch))
    return augment(batch, draws, recipe)[0]


def _targets(labels: ArrayLike | torch.Tensor, count: int, recipe: Recipe) -> torch.Tensor:
    """Class numbers as (B,) int64; rows that are targets already, (B, num_classes) floating point, as they are. Labels
    that lie on a GPU are not looked at: that would wait for it."""
    targets = torch.as_tensor(labels)
    if len(targets) != count:
        raise ValueError(f"there are {len(targets)} labels for {count} images")
    if targets.ndim != 1:
        return targets
    if count and targets.is_floating_point():
        raise TypeError(f"labels are {targets.dtype}; wanted class numbers, or (B, num_classes) rows")
    if count and recipe.num_classes is not None and targets.device.type == "cpu":
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= recipe.num_classes:
            raise ValueError(f"labels go from {low} to {high}; the recipe has num_classes {recipe.num_classes}")
    return targets.long()


def _soften(targets: torch.Tensor, mix: MixParams | None, recipe: Recipe) -> torch.Tensor:
    """Targets as the recipe wants them: class numbers smoothed, mixed as the images are, or left alone."""
    if targets.ndim == 1 and recipe.soft_targets:
        classes, smoothing = recipe.num_classes or 0, recipe.label_smoothing
        if mix is None:
            return one_hot(targets, classes, smoothing=smoothing)
        return mix_targets(targets, mix, classes, smoothing=smoothing)
    return targets if mix is None else apply_mix(targets, mix)


def _check_channels(batch: RaggedBatch | torch.Tensor, recipe: Recipe) -> None:
    channels = batch.channels if isinstance(batch, RaggedBatch) else batch.shape[1] if batch.ndim == 4 else None
    for name, value in (("mean", recipe.mean), ("std", recipe.std)):
        if channels is not None and value is not None and len(value) not in (1, channels):
            raise ValueError(f"{name} has {len(value)} numbers, and the images have {channels} channels")


def image_sizes(batch: RaggedBatch | torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Heights and widths, (B,) each, on the host."""
    if isinstance(batch, RaggedBatch):
        return batch.height.numpy(), batch.width.numpy()
    if batch.ndim != 4:
        raise ValueError(
            f"images have shape {tuple(batch.shape)}; wanted (B, C, H, W), a RaggedBatch or a list of images"
        )
    count, _, height, width = batch.shape
    return np.full(count, height), np.full(count, width)
