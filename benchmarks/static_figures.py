"""What the compiler makes of the kernels, on any machine: registers, spills, instructions, loads. Needs no GPU.

Each variant is a call of the public op whose launch is recorded instead of run, and then compiled for a GPU as
Triton's own launch would have compiled it. So blocks, warps and constants are those that ship. Run as a script it
prints one JSON list; TRITON_INTERPRET must not be set.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from triton import JITFunction, compile, knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import augment_gpu as ag
from augment_gpu.kernels import crop as crop_kernel
from augment_gpu.kernels import cutout as cutout_kernel
from augment_gpu.kernels import mix as mix_kernel

TARGETS = {cc: GPUTarget("cuda", cc, 32) for cc in (80, 90, 100)}  # A100, H100 and H200, B200
KERNELS = {
    crop_kernel: ("_crop_resize_flip",),
    cutout_kernel: ("_fill_holes", "_noise_holes"),
    mix_kernel: ("_mixup", "_cutmix", "_mix_targets"),
}
POINTERS = {
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
}


@dataclass(frozen=True)
class Launch:
    """A kernel and what it was launched with: arguments by name, and options such as num_warps."""

    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, Any]


def record(call: Callable[[], Any]) -> Launch:
    """The one Triton launch that `call` makes with CPU tensors; nothing is computed."""
    launches: list[Launch] = []

    def recorder(kernel: Any) -> Any:
        if not isinstance(kernel, JITFunction):
            raise RuntimeError(f"the kernels are {type(kernel).__name__}; unset TRITON_INTERPRET")

        def launch(*values: Any, **named: Any) -> None:
            arguments = dict(zip(kernel.arg_names, values, strict=False))
            arguments |= {name: named.pop(name) for name in kernel.arg_names if name in named}
            launches.append(Launch(kernel, arguments, named))

        return type("Recorder", (), {"__getitem__": lambda self, grid: launch})()

    with ExitStack() as stack:
        for module, names in KERNELS.items():
            for name in names:
                stack.enter_context(patch.object(module, name, recorder(getattr(module, name))))
        for op in ("crop", "cutout", "mix"):
            stack.enter_context(patch(f"augment_gpu.ops.{op}.runs_triton", return_value=True))
        call()
    (launch,) = launches
    return launch


def source(launch: Launch) -> ASTSource:
    """Specialised as Triton's launch does it: an integer of 1 is a constant, and what 16 divides is known to be so."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, launch.arguments[parameter.name]
        address = value.data_ptr() if isinstance(value, torch.Tensor) else value
        if parameter.is_constexpr or (type(value) is int and value == 1 and not parameter.do_not_specialize):
            signature[name] = "constexpr"
            constants[i,] = value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32" if abs(value) < 2**31 else "i64"
        if type(address) is int and address % 16 == 0 and not parameter.do_not_specialize:
            attributes[i,] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


def figures(launch: Launch, target: GPUTarget) -> dict[str, int]:
    """registers: per thread. stack, local, shared: bytes. instructions, loads (from global memory) and spills (to and
    from local memory): in the program's text, so that a loop's body counts once."""
    binary = compile(source(launch), target=target, options=launch.options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(binary.asm["cubin"])
        usage, text = (
            subprocess.run(
                [knobs.nvidia.cuobjdump.path, option, cubin], capture_output=True, text=True, check=True
            ).stdout
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    resources = {name: int(number) for name, number in re.findall(r"\b([A-Z]+):(\d+)", usage)}
    # An instruction's line begins with its address; the line that continues its encoding does not.
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z0-9]+)", text, re.MULTILINE)
    return {
        "registers": resources["REG"],
        "stack": resources["STACK"],
        "local": resources["LOCAL"],
        "shared": resources["SHARED"],
        "instructions": len(instructions),
        "loads": instructions.count("LDG"),
        "spills": instructions.count("LDL") + instructions.count("STL"),
    }


def crop(
    channels: int = 3, *, pixels: torch.dtype = torch.uint8, dense: bool = False, taps: str = "box", **options: Any
) -> Callable[[], Any]:
    """A call of crop_resize_flip at 224, of 500 × 375 images; options: of that function."""
    images: Any = torch.zeros(2, channels, 375, 500, dtype=pixels)
    if not dense:
        images = ag.RaggedBatch.from_images([image.to(torch.uint8) for image in images])
    box = np.tile([20, 30, 420, 330], (2, 1))
    params = ag.CropParams(np.arange(2), box, np.zeros(2, dtype=bool), taps)  # type: ignore[arg-type]
    return lambda: ag.crop_resize_flip(images, params, size=224, **options)


def cutout(channels: int = 3, *, fill: Any = 0.0, dtype: torch.dtype, channels_last: bool = True) -> Callable[[], Any]:
    """A call of cutout on 224 × 224 images."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.zeros(2, channels, 224, 224, dtype=dtype).contiguous(memory_format=memory_format)
    params = ag.sample_cutout(ag.Key(0), np.arange(2), fill=fill)
    return lambda: ag.cutout(images, params)


def mix(kind: str, *, dtype: torch.dtype, channels_last: bool = True) -> Callable[[], Any]:
    """A call of "mixup" or "cutmix" on 224 × 224 images of three channels."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.zeros(2, 3, 224, 224, dtype=dtype).contiguous(memory_format=memory_format)
    if kind == "mixup":
        mixup = ag.sample_mixup(ag.Key(0), np.arange(2))
        return lambda: ag.mixup(images, mixup)
    cutmix = ag.sample_cutmix(ag.Key(0), np.arange(2))
    return lambda: ag.cutmix(images, cutmix)


def mix_targets(classes: int = 1000) -> Callable[[], Any]:
    params = ag.sample_mixup(ag.Key(0), np.arange(2))
    return lambda: ag.mix_targets(torch.zeros(2, dtype=torch.int64), params, classes, smoothing=0.1)


def variants() -> dict[str, tuple[Callable[[], Any], tuple[int, ...]]]:
    """What the recipes use, and of every other option one case: each a call, and the targets to compile it for. Not
    every case for each, since a compilation takes half a second."""
    half, brain, single = torch.float16, torch.bfloat16, torch.float32
    everywhere, hopper = tuple(TARGETS), (90,)
    cases = {
        f"crop, {interpolation}, {channels} channels": (
            crop(channels, interpolation=interpolation, dtype=half, channels_last=True),
            everywhere if channels == 3 and interpolation == "bilinear" else hopper,
        )
        for interpolation in ("nearest", "bilinear", "bicubic")
        for channels in (1, 3, 4)
    }
    floats = crop(4, interpolation="bicubic", dense=True, pixels=single, dtype=single)
    return cases | {
        "crop, bilinear, image taps, no antialias": (crop(taps="image", antialias=False, dtype=brain), hopper),
        "crop, bicubic, 4 channels, float32": (crop(4, interpolation="bicubic", dtype=single), everywhere),
        "crop, bilinear, dense bytes": (crop(dense=True, dtype=half, channels_last=True), (80, 90)),
        "crop, bicubic, 4 channels, dense floats": (floats, hopper),
        "cutout, float16": (cutout(dtype=half), everywhere),
        "cutout, float32, contiguous": (cutout(dtype=single, channels_last=False), hopper),
        "cutout, noise, bfloat16": (cutout(fill="noise", dtype=brain), everywhere),
        "cutout, noise, 4 channels, float32": (cutout(4, fill="noise", dtype=single, channels_last=False), hopper),
        "mixup, bfloat16": (mix("mixup", dtype=brain), everywhere),
        "mixup, float32": (mix("mixup", dtype=single), hopper),
        "cutmix, bfloat16": (mix("cutmix", dtype=brain), everywhere),
        "cutmix, float32, contiguous": (mix("cutmix", dtype=single, channels_last=False), hopper),
        "mix_targets": (mix_targets(), everywhere),
    }


def main() -> None:
    jobs = [(name, record(call), cc) for name, (call, targets) in variants().items() for cc in targets]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # ptxas runs beside us
        results = pool.map(lambda job: figures(job[1], TARGETS[job[2]]), jobs)
        rows = [{"kernel": name, "target": cc, **row} for (name, _, cc), row in zip(jobs, results, strict=True)]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
