"""Many processes as one run: who this process is among them, and what they tell each other on the host."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

# What the first rank does alone, such as fitting a head to the features of all images, the others wait for.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Ranks:
    """rank: of this process, in [0, world_size). What ranks exchange here goes over the host, without waiting for a
    GPU; each call is one of all ranks."""

    rank: int = 0
    world_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """The sum of each value over the ranks, in double precision."""
        if self.world_size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(numbers)
        return numbers.tolist()

    def any(self, flag: bool) -> bool:
        """Whether it is set on one of the ranks."""
        return self.total(flag)[0] > 0

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, which is anything that can be pickled."""
        values = [value]
        if self.world_size > 1:
            distributed.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Each rank's value, in the order of the ranks."""
        values: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            distributed.all_gather_object(values, value)
        return values


@contextmanager
def joined_ranks(device: str | None) -> Iterator[tuple[Ranks, str | None]]:
    """Joins the processes that torchrun started, and leaves them at the end; without torchrun this is the only one.
    Gives the ranks, and the device of this one: where a GPU was asked for, or none and there are some, the one of its
    number on this machine."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1 or distributed.is_initialized():
        yield (Ranks() if world_size == 1 else Ranks(distributed.get_rank(), world_size)), device
        return
    on_gpu = torch.cuda.is_available() and (device or "cuda") == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    # gloo beside NCCL: what the host has to know, such as that a stop was asked for, must not wait for the GPU.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), world_size), device
    finally:
        distributed.destroy_process_group()
