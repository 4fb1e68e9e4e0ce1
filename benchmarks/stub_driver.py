"""A driver for Triton that compiles for an H100 or H200 and launches nothing, on a machine that need not have a GPU.

What the host does for a launch can then be timed and looked at, on CPU tensors. TRITON_INTERPRET must not be set.
"""

from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from augment_gpu.ops import path


def on_launch(name: str, *values: Any) -> None:
    """Called in a launch's place with the kernel's name, the grid, the stream, handles and arguments; to be replaced by
    who wants to see them."""


class _Launcher:
    def __init__(self, source: Any, metadata: Any) -> None:
        self.name = metadata.name

    def __call__(self, *values: Any) -> None:
        on_launch(self.name, *values)


class _Utils:
    def load_binary(self, *arguments: Any) -> tuple[int, ...]:
        return 1, 1, 32, 0, 1024  # module, function, registers, spills, most threads

    def unload_module(self, module: int) -> None:
        pass

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 2**16}


class _Driver:
    launcher_cls = _Launcher
    utils = _Utils()

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def install() -> None:
    """For the rest of the process: the ops launch the kernels for CPU tensors, by this driver."""
    driver.set_active(_Driver())
    path._interpreted = lambda: True
