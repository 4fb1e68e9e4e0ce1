"""Host arrays to the device in one copy."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

_ALIGNMENT = 16
_DTYPES = {
    np.dtype(numpy): torch_dtype
    for numpy, torch_dtype in (
        (np.bool_, torch.bool),
        (np.int32, torch.int32),
        (np.int64, torch.int64),
        (np.float32, torch.float32),
        (np.float64, torch.float64),
    )
}


class _Part(NamedTuple):
    """One array's place in the buffer. start: in bytes; first: in elements. strides: of a contiguous tensor."""

    start: int
    first: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Layout(NamedTuple):
    """size: of the buffer, in bytes. dtypes: of the parts, each once."""

    parts: list[_Part]
    dtypes: list[torch.dtype]
    size: int


def upload(device: torch.device, *arrays: np.ndarray) -> list[torch.Tensor]:
    """Each array as a tensor on `device`, all of them parts of one buffer that was copied at once.

    On CUDA the buffer is page-locked and the copy does not wait for the device.
    """
    layout = _layout(*[(array.dtype, array.shape) for array in arrays])
    host = torch.empty(layout.size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    memory = host.numpy()
    for part, array in zip(layout.parts, arrays, strict=True):
        np.ndarray(array.shape, array.dtype, memory, part.start)[...] = array
    there = host.to(device, non_blocking=True)
    typed = {dtype: there.view(dtype) for dtype in layout.dtypes}
    return [typed[part.dtype].as_strided(part.shape, part.strides, part.first) for part in layout.parts]


@lru_cache(maxsize=256)
def _layout(*forms: tuple[np.dtype, tuple[int, ...]]) -> _Layout:
    """Where arrays of these dtypes and shapes lie in their buffer. Batches are of one form."""
    parts, end = [], 0
    for dtype, shape in forms:
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        parts.append(_Part(end, end // dtype.itemsize, _DTYPES[dtype], shape, strides))
        end += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
    return _Layout(parts, list({part.dtype for part in parts}), end)
