"""Launches of kernels that were compiled before, with a driver that launches nothing."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from augment_gpu.kernels import launch as module
from augment_gpu.kernels.launch import launch

ROOT = Path(__file__).parent.parent


class Kernel:
    """Stands for a Triton function: counts how often Triton was asked for the compiled one, and keeps the launches."""

    def __init__(self, *, compiles: bool = True) -> None:
        self.fn = object()
        self.compiles = compiles
        self.compiled = 0
        self.launches: list[Any] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def run(*arguments: Any, num_warps: int, **options: Any) -> Any:
            self.compiled += 1
            self.launches.append((grid, arguments))
            return Compiled(self) if self.compiles else None

        return run


class Compiled:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        return lambda *arguments: self.kernel.launches.append((grid[:1], arguments))


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_compiled", {})


def buffer(dtype: torch.dtype = torch.float32, *, shift: int = 0) -> torch.Tensor:
    """Whose address is a multiple of 16 and `shift` elements."""
    memory = torch.zeros(64, dtype=dtype)
    start = -memory.data_ptr() % 16 // dtype.itemsize
    return memory[start + shift :]


def test_what_was_compiled_is_launched_with_the_same_arguments() -> None:
    kernel, tensors = Kernel(), (buffer(), buffer(torch.int64), None)
    for _ in range(3):
        launch(kernel, 7, tensors, 3, 0.5, True, num_warps=4)
    assert kernel.compiled == 1
    assert kernel.launches == 3 * [((7,), (*tensors, 3, 0.5, True))]


def test_other_addresses_are_another_launch_of_the_same_code() -> None:
    kernel, tensors = Kernel(), [buffer(), buffer()]
    for tensor in tensors:
        launch(kernel, 1, (tensor,), num_warps=1)
    assert kernel.compiled == 1
    assert [given is tensor for (_, (given,)), tensor in zip(kernel.launches, tensors, strict=True)] == [True, True]


def test_another_grid_is_launched_as_it_is() -> None:
    kernel = Kernel()
    for programs in (1, 2, 1, 2):
        launch(kernel, programs, (buffer(),), num_warps=1)
    assert [grid for grid, _ in kernel.launches] == [(1,), (2,), (1,), (2,)]


@pytest.mark.parametrize(
    ("tensors", "others", "num_warps"),
    [
        ((buffer(torch.float16), buffer()), (3,), 4),
        ((buffer(), buffer(shift=1)), (3,), 4),  # of which wide loads would be misaligned
        ((buffer(), None), (3,), 4),
        ((buffer(), buffer()), (4,), 4),
        ((buffer(), buffer()), (3,), 8),
        ((buffer(), buffer()), (3,), None),
    ],
    ids=["dtype", "alignment", "no tensor", "number", "warps", "another option"],
)
def test_what_changes_the_code_is_compiled_again(tensors: Any, others: Any, num_warps: int | None) -> None:
    kernel = Kernel()
    launch(kernel, 1, (buffer(), buffer()), 3, num_warps=4)
    options = {"num_warps": num_warps} if num_warps else {"num_warps": 4, "maxnreg": 64}
    launch(kernel, 1, tensors, *others, **options)
    assert kernel.compiled == 2


def test_two_kernels_are_told_apart() -> None:
    kernels = Kernel(), Kernel()
    for kernel in kernels:
        launch(kernel, 1, (buffer(),), num_warps=1)
    assert [kernel.compiled for kernel in kernels] == [1, 1]


class OnGPU:
    """Stands for a tensor on the GPU of this number."""

    dtype = torch.float32

    def __init__(self, number: int) -> None:
        self.number = number

    def get_device(self) -> int:
        return self.number

    def data_ptr(self) -> int:
        return 0


def test_a_kernel_is_compiled_and_launched_on_the_gpu_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    @contextlib.contextmanager
    def device(number: int) -> Iterator[None]:
        before, current[0] = current[0], number
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device", device)
    launched_on = []

    class Launches(list[Any]):
        def append(self, given: Any) -> None:
            launched_on.append(current[0])
            super().append(given)

    kernel = Kernel()
    kernel.launches = Launches()
    for number in (0, 1, 0, 1):
        launch(kernel, 1, (OnGPU(number),), num_warps=1)
    assert launched_on == [0, 1, 0, 1]
    assert kernel.compiled == 2, "each GPU has a compiled kernel of its own"
    assert current == [0]


def test_on_amd_a_tensor_of_two_gibibytes_is_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HIP", True)
    kernel = Kernel()
    for numel in (2**31 - 1, 2**31, 2**31 + 16):
        launch(kernel, 1, (torch.empty(numel, dtype=torch.uint8),), num_warps=1)  # never touched, so never there
    assert kernel.compiled == 2


def test_an_interpreter_compiles_nothing_to_keep() -> None:
    kernel = Kernel(compiles=False)
    for _ in range(2):
        launch(kernel, 1, (buffer(),), num_warps=1)
    assert kernel.compiled == 2
    assert not module._compiled


def test_arguments_that_never_come_again_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 10)
    kernel = Kernel()
    for number in range(25):
        launch(kernel, 1, (buffer(),), number, num_warps=1)
    assert len(module._compiled) <= 10


def test_tritons_own_compiled_kernels_take_the_arguments_of_a_launch() -> None:
    """The whole stage twice, with Triton as it is and a driver that keeps what it is given in place of launching it:
    of a kernel found here it is the same as of one that Triton found."""
    pytest.importorskip("triton")
    program = """
import json
import stub_driver, torch
import augment_gpu as ag
from augment_gpu.kernels import launch

launched = []

def described(value):
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return str(value) if isinstance(value, int | float | tuple | None) else type(value).__name__

stub_driver.on_launch = lambda name, *values: launched.append([name, *map(described, values)])
stub_driver.install()
stage = ag.Stage(ag.Recipe(size=16, cutout=4, reprob=1.0, mixup_alpha=0.2, num_classes=5))
images = torch.zeros(2, 3, 20, 30, dtype=torch.uint8)
for _ in range(2):
    stage(images, [0, 4], index=[0, 1])
print(json.dumps([launched, len(launch._compiled)]))
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    launched, known = json.loads(process.stdout)
    names = ["_crop_resize_flip", "_fill_holes", "_mixup", "_mix_targets"]
    assert [name for name, *_ in launched] == 2 * names
    assert launched[:4] == launched[4:]
    assert known == 4
