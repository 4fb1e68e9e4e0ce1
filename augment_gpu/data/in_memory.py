"""Samples that are read once, and then stay in memory."""

import operator
import threading
from typing import Any

import numpy as np
import torch

from augment_gpu.data.sources import Dataset, sample_name
from augment_gpu.ragged import as_array


class InMemory:
    """A dataset whose samples stay in memory, decoded, once they were read, until they take `max_bytes`; the rest are
    read anew each time. For data that many epochs see: to decode a photograph takes longer than to augment it.

    It may be read from many threads. The images are shared, and not to be written to. Raises ValueError for max_bytes
    below 0.
    """

    def __init__(self, dataset: Dataset, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}; it must be at least 0")
        self.dataset = dataset
        self.max_bytes = max_bytes
        self.bytes = 0  # of the images that are kept
        self._kept: dict[int, tuple[Any, int]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        index = operator.index(index)
        if (kept := self._kept.get(index)) is not None:
            return kept
        image, label = self.dataset[index]
        sample = _alone(as_array(image)), label
        size = getattr(sample[0], "nbytes", self.max_bytes + 1)  # what has none is no image, as its reader will say
        with self._lock:
            if index not in self._kept and self.bytes + size <= self.max_bytes:
                self._kept[index] = sample
                self.bytes += size
        return sample

    def path(self, index: int) -> str:
        """What a message calls sample `index`."""
        return sample_name(self.dataset, index)


def _alone(image: Any) -> Any:
    """A copy of what is part of something larger, which would stay in memory with it, or be overwritten."""
    if isinstance(image, np.ndarray):
        return image if image.base is None else image.copy()
    if isinstance(image, torch.Tensor) and image.untyped_storage().nbytes() > image.nbytes:
        return image.clone()
    return image
