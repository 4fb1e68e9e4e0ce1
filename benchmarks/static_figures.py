"""What the compilers make of the kernels, on any machine: registers, spills, loads, instructions. Needs no GPU.

python benchmarks/static_figures.py           # compares with static_figures.json, and writes what it found to build/
python benchmarks/static_figures.py --write   # makes what it found the figures to compare with, and the table to read

Exits with 1 where a kernel spills registers, or takes over 5 % more instructions than static_figures.json says.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import triton
from kernel_cases import BRAIN, SIZE, TARGETS, Call, Launch, crop, record, source, variants
from machine_code import Instruction, read_amdgcn, read_sass
from machine_walk import Strip, walk
from static_table import FIGURES, Figures, Row, compare, load, markdown, save
from triton import knobs
from triton.backends.compiler import GPUTarget

BUILD = Path(__file__).parents[1] / "build"
SCALES = (0.5, 1, 1.5, 3, 6)  # source pixels per output pixel
_MIXED = ", colours mixed"
_FILTERS = {
    "nearest": ("sm_90",),
    "bilinear": tuple(TARGETS),
    "bilinear" + _MIXED: ("sm_90",),
    "bicubic": ("sm_90",),
    "bicubic" + _MIXED: ("sm_90",),
}


def compiled(launch: Launch, target: GPUTarget) -> tuple[Row, list[Instruction]]:
    """The program's resources: registers of a thread; bytes of stack, local and shared memory; spills: instructions
    that reach local memory, and the registers that AMD's compiler says it spilled. And its instructions."""
    binary = triton.compile(source(launch, target), target=target, options=launch.options)
    if target.backend == "hip":
        text = binary.asm["amdgcn"]
        code = read_amdgcn(text)
        counts = {name: int(count) for name, count in re.findall(r"^\s+\.(\w+):\s+(\d+)$", text, re.MULTILINE)}
        resources = {
            "registers": counts["vgpr_count"],
            "stack": counts["private_segment_fixed_size"],
            "local": 0,
            "shared": counts["group_segment_fixed_size"],
            "spills": counts["vgpr_spill_count"] + counts["sgpr_spill_count"],
        }
    else:
        usage, text = _cuobjdump(binary.asm["cubin"])
        code = read_sass(text)
        counts = {name: int(count) for name, count in re.findall(r"\b([A-Z]+):(\d+)", usage)}
        resources = {
            "registers": counts["REG"],
            "stack": counts["STACK"],
            "local": counts["LOCAL"],
            "shared": counts["SHARED"],
            "spills": 0,
        }
    resources["spills"] += sum(one.memory is not None and one.memory[0] == "local" for one in code)
    return resources, code


def _cuobjdump(cubin: bytes) -> tuple[str, str]:
    """A cubin's resource usage and its SASS."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        usage, sass = (
            subprocess.run([knobs.nvidia.cuobjdump.path, option, path], capture_output=True, text=True, check=True)
            for option in ("--dump-resource-usage", "--dump-sass")
        )
    return usage.stdout, sass.stdout


def figures(launch: Launch, target: GPUTarget) -> Row:
    """Resources; instructions, and loads from global memory by the bits that a thread loads at once: in the program's
    text, so that a loop's body counts once."""
    resources, code = compiled(launch, target)
    memory = [one.memory for one in code if one.memory]
    loads = Counter(bits for space, direction, bits in memory if (space, direction) == ("global", "load"))
    widths = {str(bits): loads[bits] for bits in sorted(loads)}
    return resources | {"instructions": len(code), "loads": widths}


def pixel_figures(launch: Launch, target: GPUTarget) -> Row:
    """Instructions, and those of them that load pixels, which the crop kernel issues for each output pixel: its warps'
    instructions × the lanes of a warp / pixels. So lanes to the right of the picture, which idle, count."""
    arguments = launch.arguments
    path = int(arguments["range_ptr"][0, 6])
    taken = arguments["PATHS"][path] if arguments["REACH"] else None
    _, code = compiled(launch.changed(PATHS=(taken,)), target)
    work = Counter(strips(launch, target))
    columns = -(-SIZE // arguments["COLUMNS"])
    lanes = target.warp_size * launch.options["num_warps"]
    total = sum(np.array(walk(code, strip)) * count for strip, count in work.items())
    instructions, loads = (round(float(each) * columns * lanes / SIZE**2, 2) for each in total)
    return {"path": taken, "instructions": instructions, "loads": loads}


def strips(launch: Launch, target: GPUTarget) -> Iterator[Strip]:
    """What a thread must do in each of the strips, from the top of the picture to its bottom."""
    arguments = launch.arguments
    window, path = (int(value) for value in arguments["range_ptr"][0, 5:7])
    shrinks, taps = arguments["PATHS"][path] if arguments["REACH"] else (False, 1)
    pixels, rows = arguments["CHANNELS"], arguments["ROWS"]
    pixels *= arguments["COLUMNS"] // (target.warp_size * launch.options["num_warps"])
    load = (window if arguments["REACH"] else 1) * pixels * arguments["pixels_ptr"].element_size()
    store = pixels * arguments["out_ptr"].element_size()
    for top in range(0, SIZE, rows):
        read = source_rows(launch, range(top, min(top + rows, SIZE)), shrinks=shrinks)
        yield Strip(tuple(count * load for count in read), store, window if taps == 0 else 0)


def source_rows(launch: Launch, rows: range, *, shrinks: bool) -> list[int]:
    """How many source rows the kernel filters before it writes each output row, those that it does not store among
    them. The positions are the launch's, the loops the kernel's."""
    reach = launch.arguments["REACH"]
    start, step = (int(value) for value in launch.arguments["axis_ptr"][0, 2:])
    low, high = (int(value) for value in launch.arguments["range_ptr"][0, 2:4])
    if reach == 0:
        return [1] * len(rows)
    if not shrinks:
        begins = [((start + row * step) >> 32) - reach + 1 for row in rows]
        ends = [begins[0], *(begin + 2 * reach for begin in begins)]
        return [max(end - max(before, begin), 0) for before, begin, end in zip(ends, begins, ends[1:], strict=False)]
    first, count = rows[0] - reach, len(rows) + 2 * reach - 1
    stops = [((start + (first + i) * step) >> 32) + 1 for i in range(count + count % 2 + 1)]
    stops = [stops[0], *(min(stop, high) for stop in stops[1:])]
    row, read = max(stops[0], low), []
    for stop in stops[1:]:
        read.append(max(stop - row, 0))
        row = max(row, stop)
    return read


@cache
def cases() -> dict[str, Callable[[], Row]]:
    """What gives each row of the table, by a name that a process can be told."""
    jobs: dict[str, Callable[[], Row]] = {}
    for name, call in variants().items():
        for target in TARGETS:
            jobs[f"{name} / {target}"] = partial(_program, name, call, target)
    for name, targets in _FILTERS.items():
        for target in targets:
            for scale in SCALES:
                jobs[f"{name} / {target} / {scale}"] = partial(_pixel, name, target, scale)
    return jobs


def _program(name: str, call: Call, target: str) -> Row:
    return {"kernel": name, "target": target} | figures(record(call, TARGETS[target]), TARGETS[target])


def _pixel(name: str, target: str, scale: float) -> Row:
    color = np.full((3, 4), 0.25) if name.endswith(_MIXED) else None
    options = {"interpolation": name.removesuffix(_MIXED), "color": color, "dtype": BRAIN, "channels_last": True}
    launch = record(crop(scale=scale, **options), TARGETS[target])
    return {"filter": name, "target": target, "scale": scale} | pixel_figures(launch, TARGETS[target])


def measure() -> Figures:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(_run, cases()))
    return {
        "triton": triton.__version__,
        "programs": [row for row in rows if "kernel" in row],
        "pixels": [row for row in rows if "filter" in row],
    }


def _run(name: str) -> Row:
    return cases()[name]()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found = measure()
    path = FIGURES if options.write else BUILD / FIGURES.name
    path.parent.mkdir(exist_ok=True)
    failures, gains = ([], []) if options.write else compare(found, load(FIGURES))
    save(found, path)
    path.with_suffix(".md").write_text(markdown(found))
    print("\n".join([*failures, *gains, f"{path.with_suffix('.md')}: the figures of this run"]))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
