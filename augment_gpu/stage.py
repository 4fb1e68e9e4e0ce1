"""The straight line: uint8 images of any size in, network input and targets out."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from augment_gpu.ops.crop_plan import image_sizes
from augment_gpu.ops.foreign import name_of
from augment_gpu.ops.mix_draws import MixParams
from augment_gpu.ops.path import require_bfloat16, require_triton
from augment_gpu.pipeline import Draws, Prepared, augment, draw, draw_mix, evaluation_draws, prepare
from augment_gpu.ragged import RaggedBatch, as_array
from augment_gpu.recipe import Recipe
from augment_gpu.rng import Key

Images = RaggedBatch | torch.Tensor | Sequence[torch.Tensor | np.ndarray]


class Stage(nn.Module):
    """The data stage: `images, targets = stage(images, labels)`.

    In training mode it augments by the recipe; in evaluation mode it resizes, crops the centre and normalises. It takes
    a RaggedBatch, a list of uint8 images, or a dense (B, C, H, W) tensor, uint8 or floating point in [0, 1]. It works
    where it was moved to (`stage.to("cuda")`), or else where the images lie. Returns images (B, C, S, S) and targets on
    that device: (B,) int64, or in training, where the recipe mixes or smooths labels, (B, num_classes) float32.

    index: (B,) positions of the samples in the data set, which with the seed and the epoch determine every draw.
    Without it the stage numbers the samples that it has seen in training mode (over all ranks where torch.distributed
    runs, taking the ranks' batches to be of one size), and never draws the same twice; that count is part of its
    state_dict; `replay` knows a sample by its index alone, and so does flip="alternate", which raises ValueError
    without. Mixing pairs the samples of this call, unless `mix` says otherwise, as Loader has it for a batch over all
    ranks. mix: the mixing parameters of this batch, where whoever calls knows the batch on all ranks; the images may
    then hold further rows, partners only, that are not returned. draws: of `draw`, in place of what would be drawn
    here, so that boxes, keypoints and masks move with the pixels; index and epoch then serve mixing alone.

    A call is `augment(prepare(…))`: a host half, and a device half that torch.compile and CUDA graphs take whole.

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
        draws: Draws | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.augment(self.prepare(images, labels, index=index, epoch=epoch, mix=mix, draws=draws))

    def draw(self, images: Images, *, index: ArrayLike | None = None, epoch: int = 0) -> Draws:
        """What `stage(images, draws=…)` does to these images, before mixing, which boxes, keypoints and masks follow
        (see move_boxes): in evaluation mode its view. Nothing is computed on a device. Without index the samples are
        numbered here, as by a call."""
        batch = _packed(images)
        return self._draw(batch, self._positions(index, len(batch)), epoch)

    def prepare(
        self,
        images: Images,
        labels: ArrayLike | torch.Tensor | None = None,
        *,
        index: ArrayLike | None = None,
        epoch: int = 0,
        mix: MixParams | None = None,
        draws: Draws | None = None,
    ) -> Prepared:
        """The host part of the stage: draws, checks them, and brings batch and tables to the device."""
        batch = self._batch(images)
        if self.strict:
            require_triton(batch.device)
        if self.recipe.torch_dtype == torch.bfloat16:
            require_bfloat16(batch.device)
        targets = None if labels is None else _targets(labels, len(batch), self.recipe)
        if targets is not None:
            targets = targets.to(batch.device, non_blocking=True)
        if draws is None:
            index = self._positions(index, len(batch))
            draws = self._draw(batch, index, epoch)
        elif len(draws.crop) != len(batch):
            raise ValueError(f"draws are of {len(draws.crop)} samples, for {len(batch)} images")
        if not self.training:
            return prepare(batch, draws, self.recipe, targets=targets)
        if self.recipe.mixes and mix is None:
            if index is None:
                raise ValueError("the recipe mixes, which draws do not say; beside them it needs index, or mix")
            mix = draw_mix(self.recipe, Key(self.seed, epoch), index)
        return prepare(batch, draws, self.recipe, targets=targets, soft=self.recipe.soft_targets, mix=mix)

    def augment(self, batch: Prepared) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The device part of the stage: images and targets of a prepared batch. See augment_gpu.pipeline.augment."""
        return augment(batch, self.recipe)

    def wrap(self, loader: Iterable[Any]) -> "WrappedLoader":
        """A user's own loader of (images, labels) or (images, labels, index) batches, seen through this stage."""
        return WrappedLoader(loader, self)

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": self.seen}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]

    def extra_repr(self) -> str:
        return f"{self.recipe}, seed={self.seed}, strict={self.strict}"

    def _draw(self, batch: RaggedBatch | torch.Tensor, index: ArrayLike | None, epoch: int) -> Draws:
        if index is None:
            return evaluation_draws(self.recipe, *image_sizes(batch))
        return draw(self.recipe, Key(self.seed, epoch), index, *image_sizes(batch))

    def _positions(self, index: ArrayLike | None, count: int) -> np.ndarray | None:
        """(count,) int64: the samples' positions, as given, or the next ones; None in evaluation, where nothing is
        drawn."""
        if not self.training:
            return None
        if count and index is None and self.recipe.flip == "alternate":
            raise ValueError('flip is "alternate", every other epoch of a sample: it needs index, and epoch')
        index = self._number(count) if index is None else np.asarray(index, dtype=np.int64)
        if index.shape != (count,):
            raise ValueError(f"index has shape {index.shape} for {count} images; wanted one position a sample")
        return index

    def _number(self, count: int) -> np.ndarray:
        index, self.seen = next_positions(self.seen, count)
        return index

    def _batch(self, images: Images) -> RaggedBatch | torch.Tensor:
        batch = _packed(images)
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

    dataset: anything whose dataset[index] is (uint8 image, label). Raises ValueError for a recipe with a callable among
    its ops, since what that did went by the batch.
    """
    if recipe.foreign_ops:
        name = name_of(recipe.foreign_ops[0])
        raise ValueError(f"ops holds {name}, a callable, which saw whole batches; no sample is replayed alone")
    batch = RaggedBatch.from_images([as_array(dataset[index][0])])
    draws = draw(recipe, Key(seed, epoch), [index], *image_sizes(batch))
    return augment(prepare(batch, draws, recipe), recipe)[0][0]


def next_positions(seen: int, count: int) -> tuple[np.ndarray, int]:
    """(count,) int64: the numbers of the next samples, after so many on all ranks of which each now has `count`; and
    how many were seen then."""
    rank, world_size = 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return seen + rank * count + np.arange(count), seen + world_size * count


def _packed(images: Images) -> RaggedBatch | torch.Tensor:
    if isinstance(images, RaggedBatch):
        return images
    if isinstance(images, torch.Tensor):
        return images.float() if images.is_floating_point() else images
    return RaggedBatch.from_images(images)


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
