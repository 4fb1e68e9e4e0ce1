"""Host arrays to the device in one copy."""

import numpy as np
import torch

_ALIGNMENT = 16


def upload(device: torch.device, *arrays: np.ndarray) -> list[torch.Tensor]:
    """Each array as a tensor on `device`, all of them parts of one buffer that was copied at once.

    On CUDA the buffer is page-locked and the copy does not wait for the device.
    """
    flat = [np.ascontiguousarray(array) for array in arrays]
    starts = np.cumsum([0] + [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in flat])
    host = torch.empty(int(starts[-1]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    memory = host.numpy()
    for start, array in zip(starts, flat, strict=False):
        memory[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    there = host.to(device, non_blocking=True)
    dtypes = [torch.from_numpy(np.empty(0, dtype=array.dtype)).dtype for array in flat]
    return [
        there[start : start + array.nbytes].view(dtype).view(array.shape)
        for start, array, dtype in zip(starts.tolist(), flat, dtypes, strict=False)
    ]
