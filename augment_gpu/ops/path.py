"""Which path serves a device: the Triton kernels or plain torch, and if not the kernels, why not.

The answer is found at a device's first batch, by one launch of a trivial kernel, and kept for the process.
"""

import os
import warnings
from importlib.util import find_spec

import torch

_CAPABILITY = (8, 0)  # the oldest that the kernels are compiled and checked for, and the first with bfloat16


class DeviceError(RuntimeError):
    """A device cannot do what was asked of it, and no other path serves in its place."""


def runs_triton(device: torch.device) -> bool:
    """Whether the Triton kernels serve this device: a GPU where they can, anything under Triton's interpreter.

    A GPU that they cannot serve is reported by one RuntimeWarning; plain torch serves it, slower.
    """
    return _interpreted() or (device.type == "cuda" and _serves(_index(device)))


def table_device(device: torch.device) -> torch.device:
    """Where an op's tables belong: beside the images for the kernels, on the host for plain torch, which reads them."""
    return device if runs_triton(device) else torch.device("cpu")


def why_not_triton(device: torch.device) -> str | None:
    """None where the Triton kernels can serve this device, else one sentence that says what is missing.

    The first call for a GPU compiles and launches a trivial kernel and waits for its result."""
    if _interpreted():
        return None
    return _missing(_index(device)) if device.type == "cuda" else f"the Triton kernels need a GPU, not {device}"


def require_triton(device: torch.device) -> None:
    """Raises DeviceError, saying what is missing, where `device` is a GPU that the Triton kernels cannot serve."""
    reason = why_not_triton(device) if device.type == "cuda" else None
    if reason is not None:
        raise DeviceError(reason)


def require_bfloat16(device: torch.device) -> None:
    """Raises DeviceError where `device` is a GPU without bfloat16. torch emulates it there, which is slow where it was
    chosen for its speed; float16 is native."""
    if device.type != "cuda" or torch.version.hip is not None:
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        raise DeviceError(
            f"{_name(device)} has no bfloat16 (compute capability {_dotted(capability)}, and it takes "
            f'{_dotted(_CAPABILITY)}); use dtype="float16"'
        )


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


# The answers, by the GPU's number. One that may change, for lack of memory, is not kept.
_answers: dict[int, str | None] = {}
_warned: set[int] = set()


def _serves(index: int) -> bool:
    """Whether the kernels serve the GPU. Where not, warns: once a GPU."""
    reason = _missing(index)
    if reason is not None and index not in _warned:
        _warned.add(index)
        warnings.warn(f"{reason}. Plain torch serves in place of the Triton kernels, slower", RuntimeWarning, 4)
    return reason is None


def _missing(index: int) -> str | None:
    if index in _answers:
        return _answers[index]
    device = torch.device("cuda", index)
    if torch.cuda.is_current_stream_capturing():
        raise DeviceError(f"{device} was not used yet; run one batch before a CUDA graph is captured")
    reason, lasting = _tried(device)
    if lasting:
        _answers[index] = reason
    return reason


def _tried(device: torch.device) -> tuple[str | None, bool]:
    """What is missing, and whether it will be missing for good."""
    if find_spec("triton") is None:
        return "Triton is not installed", True
    try:
        capability = torch.cuda.get_device_capability(device)
        if capability < _CAPABILITY:
            return (
                f"{_name(device)} is too old: its compute capability is {_dotted(capability)}, and the Triton kernels "
                f"need {_dotted(_CAPABILITY)}"
            ), True
        from augment_gpu.kernels.probe import launch_probe

        # A host sync, once a device: an error of the launch may only show here.
        written = launch_probe(device).tolist()
    # A driver, a compiler, a cache folder: whatever fails here would fail the kernels too. The caller tells the user.
    except Exception as error:
        return _explain(error, device), not _is_memory(error)
    if written != list(range(len(written))):
        return f"a trial kernel gave a wrong result on {_name(device)}", True
    return None, True


def _is_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def _explain(error: Exception, device: torch.device) -> str:
    """What a failed trial means, as one sentence."""
    said = str(error).strip().split("\n")[0].rstrip(".")
    if _is_memory(error):
        return f"{_name(device)} has no free memory for a trial kernel ({said})"
    if "C compiler" in said:
        return f"there is no C compiler, with which Triton builds its launcher: install gcc or set CC ({said})"
    return f"a trial kernel failed on {_name(device)} ({type(error).__name__}: {said})"


def _name(device: torch.device) -> str:
    return f"{torch.cuda.get_device_name(device)} ({device})"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
