"""Launches of compiled kernels without Triton's own search for them, which takes longer than the launch itself.

Triton looks at every argument of every launch for what changes the code. Here the arguments themselves are the key:
more than decides, so that nothing is found wrongly as long as an argument is always of one type, since 2 == 2.0; and of
a training run's batches always the same. Knobs that change the code, such as debug, are read when arguments are new.
"""

from typing import Any

import torch

HIP = torch.version.hip is not None
_MOST = 1024  # keys; who passes them all has arguments that never come again

_compiled: dict[tuple[Any, ...], Any] = {}


def launch(kernel: Any, programs: int, tensors: tuple[Any, ...], *others: Any, **options: Any) -> None:
    """kernel[programs,](*tensors, *others, **options), on the device of the first tensor. A tensor other than the first
    may be None. options: Triton's, such as num_warps."""
    index = tensors[0].get_device()  # −1 of a CPU tensor, as Triton's interpreter takes them
    if index >= 0 and index != torch.cuda.current_device():
        with torch.cuda.device(index):
            launch(kernel, programs, tensors, *others, **options)
        return
    key = (kernel.fn, index, programs, others, *options.items(), *map(_form, tensors))
    compiled = _compiled.get(key)
    if compiled is not None:
        compiled(*tensors, *others)
        return
    compiled = kernel[programs,](*tensors, *others, **options)
    if compiled is not None:  # as it is in Triton's interpreter
        if len(_compiled) >= _MOST:
            _compiled.clear()
        _compiled[key] = compiled[programs, 1, 1]


def _form(tensor: torch.Tensor | None) -> tuple[Any, ...] | None:
    """What of a tensor changes the code: its dtype, whether its address is a multiple of 16, and to AMD's compiler
    whether it spans less than 2 GiB."""
    if tensor is None:
        return None
    return tensor.dtype, tensor.data_ptr() % 16 == 0, HIP and tensor.untyped_storage().nbytes() < 2**31
