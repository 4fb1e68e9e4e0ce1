"""Large CPU tensors from memory that was used before; and whether a tensor's places are memory of their own.

Fresh memory costs a page fault every 4 KiB, as much time as it takes to compute what goes there. CUDA tensors have
torch's caching allocator for this, CPU tensors have nothing.
"""

import math
import weakref
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch

_SMALL = 2**20  # below this the C library reuses memory by itself
_free: deque[np.ndarray] = deque(maxlen=2)  # a loop has one batch in hand and makes the next


def empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """torch.empty(shape, dtype=dtype) on the CPU. The memory returns here when the last tensor that shares it is gone,
    views included, so what a caller holds is never written to; the two blocks freed last are kept."""
    size = math.prod(map(int, shape)) * dtype.itemsize  # NumPy's integers overflow
    if size < _SMALL:
        return torch.empty(tuple(shape), dtype=dtype)
    block = _take(size)
    # The tensor's storage holds this array object and nothing else does: its end is the storage's end.
    lease = block[:size]
    weakref.finalize(lease, _free.append, block).atexit = False
    return torch.from_numpy(lease).view(dtype).view(tuple(shape))


def repeats(tensor: torch.Tensor) -> bool:
    """Whether the tensor was expanded, so that what is written to one place of it appears in another."""
    return any(stride == 0 < length - 1 for stride, length in zip(tensor.stride(), tensor.shape, strict=True))


def _take(size: int) -> np.ndarray:
    """A block that holds `size` bytes, and not twice as many."""
    for _ in range(len(_free)):
        try:
            block = _free.popleft()
        except IndexError:  # another thread was faster
            break
        if size <= block.size < 2 * size:
            return block
        _free.append(block)
    return torch.empty(size + size // 8, dtype=torch.uint8).numpy()  # a little more, for batches of ragged images
