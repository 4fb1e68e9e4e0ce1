"""Host arrays to the device in one copy."""

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


def upload(device: torch.device, *arrays: np.ndarray) -> list[torch.Tensor]:
    """Each array as a tensor on `device`, all of them parts of one buffer that was copied at once.

    On CUDA the buffer is page-locked and the copy does not wait for the device.
    """
    starts, end = [], 0
    for array in arrays:
        starts.append(end)
        end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    host = torch.empty(end, dtype=torch.uint8, pin_memory=device.type == "cuda")
    memory = host.numpy()
    for start, array in zip(starts, arrays, strict=True):
        np.ndarray(array.shape, array.dtype, memory, start)[...] = array
    there = host.to(device, non_blocking=True)
    typed = {dtype: there.view(_DTYPES[dtype]) for dtype in {array.dtype for array in arrays}}
    return [
        typed[array.dtype].as_strided(array.shape, _contiguous(array.shape), start // array.itemsize)
        for start, array in zip(starts, arrays, strict=True)
    ]


def _contiguous(shape: tuple[int, ...]) -> list[int]:
    """The strides of a contiguous tensor."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return strides[::-1]
