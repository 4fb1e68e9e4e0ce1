"""Ops that are not this package's: a module of kornia.augmentation, or any function of a batch of images."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from augment_gpu.rng import Key, random_words

Foreign = Callable[[torch.Tensor], torch.Tensor]


def name_of(op: Any) -> str:
    """A function's own name, or else that of its class."""
    return str(getattr(op, "__name__", type(op).__name__))


def sample_foreign(key: Key, index: np.ndarray, place: int) -> int:
    """A seed for torch's generators, in [0, 2**64): a function of the key, of the batch's first sample's index, and of
    the op's place in the recipe."""
    words = random_words(key, index[:1], f"foreign.{place}", 2)
    return int.from_bytes(words.tobytes(), "little")


def run_foreign(op: Foreign, images: torch.Tensor, seed: int) -> torch.Tensor:
    """op(images) as new float32 memory. Whatever it draws from torch's generators, on the host and on the images'
    device, follows from the seed; afterwards they stand where they stood. Raises TypeError unless it returns as many
    images of the same shape."""
    on_cuda = images.device.type == "cuda"
    with torch.random.fork_rng(devices=[images.device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(images.device):
                torch.cuda.manual_seed(seed)
        result: Any = op(images)
    if not isinstance(result, torch.Tensor) or result.shape != images.shape:
        kind = tuple(result.shape) if isinstance(result, torch.Tensor) else type(result).__name__
        raise TypeError(f"{name_of(op)} made {kind} of images {tuple(images.shape)}; wanted the same shape")
    return result.to(torch.float32, copy=True)
