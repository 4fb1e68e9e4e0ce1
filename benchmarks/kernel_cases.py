"""The kernels' launches, recorded instead of run, and prepared for a compiler. Needs no GPU.

Each case is a call of the public op, so that blocks, warps and constants are those that ship. TRITON_INTERPRET must not
be set.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import augment_gpu as ag
from augment_gpu.kernels import crop as crop_kernel
from augment_gpu.kernels import cutout as cutout_kernel
from augment_gpu.kernels import mix as mix_kernel

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),  # A100
    "sm_90": GPUTarget("cuda", 90, 32),  # H100, H200
    "sm_100": GPUTarget("cuda", 100, 32),  # B200
    "gfx942": GPUTarget("hip", "gfx942", 64),  # MI300X
}
SIZE = 224  # of the output pictures
HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32
_POINTERS = {
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
}
Call = Callable[[], Any]


@dataclass(frozen=True)
class Launch:
    """A kernel and what it was launched with: arguments by name, and options such as num_warps."""

    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, Any]

    def changed(self, **arguments: Any) -> "Launch":
        return replace(self, arguments=self.arguments | arguments)

    def crop(self) -> "Crop":
        """What the crop kernel makes of its first row."""
        row = np.asarray(self.arguments["table_ptr"]).view(list(crop_kernel.ROW))[0, 0]
        reach, one, antialiased = self.arguments["REACH"], 2**32, crop_kernel.ANTIALIASED.value
        _, start, across, down = row["positions"].tolist()
        x_stretch, y_stretch = (max(step, one) if row["flags"] & antialiased else one for step in (across, down))
        left, top, right, bottom = row["limits"].tolist()
        taps = -(-2 * reach * x_stretch // one)
        for path in self.arguments["PATHS"] if reach else ():
            shrinks, unrolled = path
            window = taps if unrolled < 0 else unrolled or -(-taps // 4) * 4
            if shrinks == (y_stretch > one) and (unrolled < 0 or taps <= window <= right - left):
                return Crop(path, window, start, down, top, bottom)
        return Crop(None, 1, start, down, top, bottom)


@dataclass(frozen=True)
class Crop:
    """How the crop kernel computes an output row, in whole numbers as it does. path: of `paths`; None where there are
    none, to the nearest pixel. window: pixels read across. start, step: of the positions down, in 2**-32 pixels. low,
    high: the first line of the image that may be read, and the one after the last."""

    path: tuple[bool, int] | None
    window: int
    start: int
    step: int
    low: int
    high: int


def record(call: Call, target: GPUTarget) -> Launch:
    """The one Triton launch that `call` makes with CPU tensors, as it would be on this GPU; nothing is computed."""
    launches: list[Launch] = []

    def keep(kernel: Any, programs: int, tensors: Any, *others: Any, **options: Any) -> None:
        if not isinstance(kernel, JITFunction):
            raise RuntimeError(f"the kernels are {type(kernel).__name__}; unset TRITON_INTERPRET")
        launches.append(Launch(kernel, dict(zip(kernel.arg_names, (*tensors, *others), strict=True)), options))

    with ExitStack() as stack:
        for module in (crop_kernel, cutout_kernel, mix_kernel):
            stack.enter_context(patch.object(module, "launch", keep))
        for op in ("crop", "cutout", "mix"):
            stack.enter_context(patch(f"augment_gpu.ops.{op}.runs_triton", return_value=True))
        stack.enter_context(patch.object(crop_kernel, "HIP", target.backend == "hip"))
        # Not what is remembered from an earlier call, maybe for another target.
        stack.enter_context(patch.object(crop_kernel, "paths", crop_kernel.paths.__wrapped__))
        call()
    (launch,) = launches
    # The crop kernel has a column of a strip for each lane, which the launcher's default says of this machine's GPU.
    return launch.changed(COLUMNS=target.warp_size) if "COLUMNS" in launch.arguments else launch


def source(launch: Launch, target: GPUTarget) -> ASTSource:
    """Specialised as Triton's launch does it: an integer of 1 is a constant, what 16 divides is known to be so where
    the kernel does not refuse, and so it is to AMD's compiler that a tensor spans less than 2 GiB."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, launch.arguments[parameter.name]
        tensor = isinstance(value, torch.Tensor)
        address = value.data_ptr() if tensor else value
        one = type(value) is int and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[name] = "constexpr"
            constants[i,] = value
            continue
        if tensor:
            signature[name] = _POINTERS[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32" if abs(value) < 2**31 else "i64"
        aligns = not (parameter.do_not_specialize or parameter.do_not_specialize_on_alignment)
        if type(address) is int and address % 16 == 0 and aligns:
            attributes[i,] = [["tt.divisibility", 16]]
        if tensor and target.backend == "hip":
            attributes[i,] = [*attributes.get((i,), []), ["tt.pointer_range", 32]]
    return ASTSource(launch.kernel, signature, constants, attributes)


def crop(
    channels: int = 3,
    *,
    scale: float = 1.5,
    pixels: torch.dtype = torch.uint8,
    dense: bool = False,
    taps: str = "box",
    holes: Any = None,
    **options: Any,
) -> Call:
    """A call of crop_resize_flip whose box is square, and `scale` times as long as the output; holes: what fills
    the holes that cutout makes in the same launch, or None; options: of that function."""
    side = round(scale * SIZE)
    images: Any = torch.zeros(2, channels, side, side, dtype=pixels)
    if not dense:
        images = ag.RaggedBatch.from_images([image.to(torch.uint8) for image in images])
    box = np.tile([0, 0, side, side], (2, 1))
    params = ag.CropParams(np.arange(2), box, np.zeros(2, dtype=bool), taps)  # type: ignore[arg-type]
    cut = None if holes is None else ag.sample_cutout(ag.Key(0), np.arange(2), fill=holes)
    return lambda: ag.crop_resize_flip(images, params, size=SIZE, holes=cut, **options)


def cutout(channels: int = 3, *, fill: Any = 0.0, dtype: torch.dtype, channels_last: bool = True) -> Call:
    images = _pictures(channels, dtype, channels_last)
    params = ag.sample_cutout(ag.Key(0), np.arange(2), fill=fill)
    return lambda: ag.cutout(images, params)


def mix(kind: str, *, dtype: torch.dtype, channels_last: bool = True) -> Call:
    """A call of "mixup", "cutmix", or of "both", each row one of them."""
    images = _pictures(3, dtype, channels_last)
    alphas = {"mixup_alpha": float(kind != "cutmix"), "cutmix_alpha": float(kind != "mixup")}
    params = ag.sample_mix(ag.Key(0), np.arange(2), **alphas, mode="elem", size=SIZE)
    return lambda: ag.apply_mix(images, params)


def mix_targets(classes: int = 1000) -> Call:
    params = ag.sample_mixup(ag.Key(0), np.arange(2))
    return lambda: ag.mix_targets(torch.zeros(2, dtype=torch.int64), params, classes, smoothing=0.1)


def _pictures(channels: int, dtype: torch.dtype, channels_last: bool) -> torch.Tensor:
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.zeros(2, channels, SIZE, SIZE, dtype=dtype).contiguous(memory_format=memory_format)


def variants() -> dict[str, Call]:
    """What the recipes use, and of every other option one case, by name; among them those that take most registers."""
    cases = {
        f"crop, {interpolation}, {channels} channels": crop(
            channels, interpolation=interpolation, dtype=BRAIN, channels_last=True
        )
        for interpolation in ("nearest", "bilinear", "bicubic")
        for channels in (1, 3, 4)
    }
    cases |= {
        f"crop, {interpolation}, holes": crop(interpolation=interpolation, dtype=BRAIN, channels_last=True, holes=0.0)
        for interpolation in ("nearest", "bilinear", "bicubic")
    }
    mixed, mixed_rgba = np.full((3, 4), 0.25), np.full((4, 5), 0.25)
    floats = {"interpolation": "bicubic", "dense": True, "pixels": SINGLE, "dtype": SINGLE}
    return cases | {
        "crop, bilinear, image taps, no antialias, float16": crop(taps="image", antialias=False, dtype=HALF),
        "crop, bilinear, colours mixed": crop(color=mixed, dtype=BRAIN, channels_last=True),
        "crop, bilinear, colours mixed, holes": crop(color=mixed, dtype=BRAIN, channels_last=True, holes=0.0),
        "crop, bilinear, holes of noise": crop(dtype=BRAIN, channels_last=True, holes="noise"),
        "crop, bicubic, 4 channels, float32, holes of noise": crop(
            4, interpolation="bicubic", dtype=SINGLE, holes="noise"
        ),
        "crop, bilinear, 4 channels, colours mixed, float32": crop(4, color=mixed_rgba, dtype=SINGLE),
        "crop, bilinear, dense bytes": crop(dense=True, dtype=BRAIN, channels_last=True),
        "crop, bicubic, 4 channels, float32": crop(4, interpolation="bicubic", dtype=SINGLE),
        "crop, bicubic, 4 channels, dense floats": crop(4, **floats),
        "crop, bicubic, 4 channels, dense floats, colours mixed": crop(4, color=mixed_rgba, **floats),
        "cutout, float16": cutout(dtype=HALF),
        "cutout, float32, contiguous": cutout(dtype=SINGLE, channels_last=False),
        "cutout, noise, bfloat16": cutout(fill="noise", dtype=BRAIN),
        "cutout, noise, 4 channels, float32": cutout(4, fill="noise", dtype=SINGLE, channels_last=False),
        "mixup, bfloat16": mix("mixup", dtype=BRAIN),
        "mixup, float32": mix("mixup", dtype=SINGLE),
        "cutmix, bfloat16": mix("cutmix", dtype=BRAIN),
        "cutmix, float32, contiguous": mix("cutmix", dtype=SINGLE, channels_last=False),
        "cutmix or mixup, bfloat16": mix("both", dtype=BRAIN),
        "cutmix or mixup, float32, contiguous": mix("both", dtype=SINGLE, channels_last=False),
        "mix_targets": mix_targets(),
    }
