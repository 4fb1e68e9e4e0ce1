"""The smallest kernel there is: whether a device, its driver and the compilers behind Triton work together."""

import torch
import triton
import triton.language as tl


@triton.jit
def _probe(
    out_ptr,  # (32,) int32
):
    i = tl.arange(0, 32)
    tl.store(out_ptr + i, i)


def launch_probe(device: torch.device) -> torch.Tensor:
    """(32,) int32 on `device`: 0 to 31, if the kernel ran. Raises whatever Triton or the driver raises."""
    out = torch.zeros(32, dtype=torch.int32, device=device)
    with torch.cuda.device_of(out):
        _probe[(1,)](out, num_warps=1)
    return out
