"""From a dataset to batches on the device, finished by a stage."""

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from augment_gpu.data.sources import Dataset, sample_name
from augment_gpu.ops.mix_draws import MixParams, shard
from augment_gpu.pipeline import draw_mix
from augment_gpu.ragged import RaggedBatch, as_array, as_hwc
from augment_gpu.recipe import Recipe
from augment_gpu.rng import Key, uniform


class StageLike(Protocol):
    """What a Loader needs of its stage, an augment_gpu.Stage or another; it yields what a call returns."""

    recipe: Recipe
    seed: int
    training: bool  # whether the recipe's mixing is to be drawn

    def __call__(
        self, images: RaggedBatch, labels: torch.Tensor, *, index: np.ndarray, epoch: int, mix: MixParams | None
    ) -> tuple[torch.Tensor, torch.Tensor]: ...


@dataclass(frozen=True, eq=False)
class _Plan:
    """One rank's part of one batch. index: (n,) samples to read, the `own` ones that it yields first, then partners for
    mixing that belong to other ranks. mix: the mixing parameters of the whole batch, whose rows are `rows`."""

    index: np.ndarray
    own: int
    rows: np.ndarray
    mix: MixParams | None
    end: int  # samples of the epoch that are used up, over all ranks, when this batch is


@dataclass(frozen=True, eq=False)
class _Packed:
    """A batch on the device. kept: (m,) which of a plan's samples could be read; the others are in `errors`."""

    images: RaggedBatch
    labels: torch.Tensor
    kept: np.ndarray
    errors: list[tuple[str, str]]
    ready: torch.cuda.Event | None


class Loader:
    """Yields (images, targets) batches of a dataset, on `device`, as the stage makes them. One pass is one epoch.

    dataset: see augment_gpu.data.Dataset; it is read by `workers` threads, `prefetch` batches ahead. batch_size:
    samples a batch and rank. shuffle: a new order every epoch. The order is a function of (seed, epoch) alone, and each
    sample's draws of (stage.seed, epoch, its position in the dataset): neither depends on batch size, threads or ranks.
    Rank r of `world_size` yields the r-th part of each batch of world_size · batch_size samples; every rank yields
    equally many batches, whose last may be smaller, or empty on some ranks (drop_last leaves it out). A mixing stage
    may need a partner that another rank yields; it is then read here too.

    on_error: "raise", or "skip": samples whose reading raises OSError or ValueError (DecodeError is one) are left out
    of their batch and listed in `skipped` as (path, reason).

    A pass that was broken off counts as done: the next one is the next epoch. state_dict holds the epoch and the
    samples used up in it by the batches yielded so far; after load_state_dict the next pass goes on there, also with
    another batch_size or world_size. Raises ValueError for an empty dataset.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        stage: StageLike,
        *,
        device: torch.device | str | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        workers: int | None = None,
        prefetch: int = 2,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError("the dataset is empty")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; it must lie in [0, world_size), and world_size is {world_size}")
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error is {on_error!r}; it must be "raise" or "skip"')
        if prefetch < 1:
            raise ValueError(f"prefetch is {prefetch}; it must be at least 1")
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; it must be at least 1")
        self.dataset = dataset
        self.batch_size = batch_size
        self.stage = stage
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.shuffle = shuffle
        self.seed = Key(seed).seed
        self.rank = rank
        self.world_size = world_size
        self.drop_last = drop_last
        self.on_error = on_error
        self.workers = workers or min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)
        self.prefetch = prefetch
        self.epoch = 0
        self._used = 0
        self._under_way = False
        self._skipped: dict[str, str] = {}
        self._channels = len(stage.recipe.mean or (0, 0, 0))  # of a batch of none, until there was one

    def __len__(self) -> int:
        """Batches an epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size * self.world_size)
        return whole + (rest > 0 and not self.drop_last)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(path, reason) of each sample that could not be read so far, once."""
        return list(self._skipped.items())

    def state_dict(self) -> dict[str, int]:
        return {**self._identity(), "epoch": self.epoch, "used": self._used}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises ValueError for the state of a loader with another seed, stage seed or number of samples."""
        known = {*self._identity(), "epoch", "used"}
        if set(state) != known:
            raise ValueError(f"a loader's state has {sorted(known)}; this one has {sorted(state)}")
        for name, mine in self._identity().items():
            if state[name] != mine:
                raise ValueError(f"the state is of a loader with {name} {state[name]}; this one has {name} {mine}")
        self.epoch, self._used, self._under_way = state["epoch"], state["used"], False

    def _identity(self) -> dict[str, int]:
        """What two loaders must share to yield the same samples."""
        return {"seed": self.seed, "stage_seed": self.stage.seed, "samples": len(self.dataset)}

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if self._under_way:
            self.epoch, self._used = self.epoch + 1, 0
        self._under_way = True
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="augment_gpu-read")
        packer = ThreadPoolExecutor(1, thread_name_prefix="augment_gpu-pack")
        # Packing gets threads of its own: in the readers' queue it would stand behind the reads of later batches.
        copiers = ThreadPoolExecutor(self.workers, thread_name_prefix="augment_gpu-copy")
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        stopped = threading.Event()
        pending: deque[tuple[_Plan, Future[_Packed]]] = deque()
        try:
            for plan in self._plans():
                # Several samples a task: to hand one over takes as long as to decode a small picture.
                count = max(1, len(plan.index) // (2 * self.workers))
                parts = [plan.index[i : i + count].tolist() for i in range(0, len(plan.index), count)]
                reads = [pool.submit(self._read, part, stopped) for part in parts]
                pending.append((plan, packer.submit(self._pack, plan.index, reads, copiers, stream)))
                if len(pending) > self.prefetch:
                    yield self._finish(*pending.popleft())
            while pending:
                yield self._finish(*pending.popleft())
        finally:
            stopped.set()
            for executor in (pool, packer, copiers):
                executor.shutdown(cancel_futures=True)
        self.epoch, self._used, self._under_way = self.epoch + 1, 0, False

    def order(self, epoch: int) -> np.ndarray:
        """(len(dataset),) positions in the dataset, in the order in which this epoch visits them."""
        index = np.arange(len(self.dataset))
        if not self.shuffle:
            return index
        return np.argsort(uniform(Key(self.seed, epoch), index, "order")[:, 0], kind="stable")

    def _plans(self) -> Iterator[_Plan]:
        order = self.order(self.epoch)
        step = self.batch_size * self.world_size
        last = len(order) - len(order) % step if self.drop_last else len(order)
        for start in range(self._used, last, step):
            batch = order[start : start + step]
            rows = np.arange(len(batch) * self.rank // self.world_size, len(batch) * (self.rank + 1) // self.world_size)
            own = len(rows)
            mix = None
            if self.stage.training:
                mix = draw_mix(self.stage.recipe, Key(self.stage.seed, self.epoch), batch)
                if mix is not None:
                    rows = np.concatenate([rows, np.setdiff1d(mix.partner[rows], rows)])
            yield _Plan(batch[rows], own, rows, mix, start + len(batch))

    def _read(self, index: list[int], stopped: threading.Event) -> list[tuple[torch.Tensor, int] | tuple[str, str]]:
        """(image, label) of each, or (path, reason) where it cannot be read and on_error is "skip"; fewer where the
        pass was broken off, and nobody looks at them."""
        return [self._read_one(i) for i in index if not stopped.is_set()]

    def _read_one(self, index: int) -> tuple[torch.Tensor, int] | tuple[str, str]:
        name = sample_name(self.dataset, index)
        try:
            image, label = self.dataset[index]
            return as_hwc(as_array(image), name), int(label)
        except (OSError, ValueError) as error:
            if self.on_error == "raise":
                raise
            return name, str(error)

    def _pack(
        self, index: np.ndarray, reads: list[Future[Any]], copiers: ThreadPoolExecutor, stream: torch.cuda.Stream | None
    ) -> _Packed:
        results = [result for read in reads for result in read.result()]
        kept = np.array([i for i, (first, _) in enumerate(results) if isinstance(first, torch.Tensor)], dtype=np.int64)
        errors = [(first, reason) for first, reason in results if not isinstance(first, torch.Tensor)]
        views, names = [results[i][0] for i in kept], [sample_name(self.dataset, int(index[i])) for i in kept]
        images = RaggedBatch.pack(views, names, channels=self._channels, pin=stream is not None, each=copiers.map)
        self._channels = images.channels
        labels = torch.tensor([results[i][1] for i in kept], dtype=torch.int64, pin_memory=stream is not None)
        if stream is None:
            return _Packed(images, labels, kept, errors, None)
        with torch.cuda.stream(stream):
            images = images.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record(stream)
        return _Packed(images, labels, kept, errors, ready)

    def _finish(self, plan: _Plan, future: Future[_Packed]) -> tuple[torch.Tensor, torch.Tensor]:
        packed = future.result()
        self._skipped.update(packed.errors)
        if packed.ready is not None:
            # The copy ran on a stream of its own: this one waits for it, and its memory is not to be reused before.
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(packed.ready)
            packed.images.pixels.record_stream(stream)
            packed.labels.record_stream(stream)
        mix = None
        if plan.mix is not None:
            own = plan.rows[packed.kept[packed.kept < plan.own]]
            mix = shard(plan.mix, own, plan.rows[packed.kept])
        images, targets = self.stage(
            packed.images, packed.labels, index=plan.index[packed.kept], epoch=self.epoch, mix=mix
        )
        self._used = plan.end
        return images, targets
