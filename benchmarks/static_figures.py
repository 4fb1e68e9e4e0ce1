"""What the compilers make of the kernels, on any machine: registers, spills, loads, instructions. Needs no GPU.

python benchmarks/static_figures.py             # compares with static_figures.json, and writes what it found to build/
python benchmarks/static_figures.py --changed   # so, but compiles only what does not come from the same inputs as there
python benchmarks/static_figures.py --write     # makes what it found the figures to compare with, and the table to read

Exits with 1 where a kernel spills registers, takes over 5 % more instructions than static_figures.json says, or so many
registers that fewer warps run at a time, or gives other figures though nothing that they are made from has changed.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import triton
from kernel_cases import BRAIN, SIZE, TARGETS, Call, Launch, crop, record, source, variants
from machine_code import Instruction, read_amdgcn, read_sass
from machine_walk import Strip, walk
from static_table import FIGURES, Figures, Key, Row, compare, key_of, load, markdown, save
from triton import knobs
from triton.backends.compiler import GPUTarget

BUILD = Path(__file__).parents[1] / "build"
SCALES = (0.5, 1, 1.5, 3, 6)  # source pixels per output pixel
_MIXED, _HOLES = ", colours mixed", ", holes"
_FILTERS = {
    "nearest": ("sm_90",),
    "bilinear": tuple(TARGETS),
    "bilinear" + _MIXED: ("sm_90",),
    "bilinear" + _HOLES: ("sm_90",),
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


def pixel_figures(launch: Launch, target: GPUTarget, work: Counter[Strip]) -> Row:
    """Instructions, and those of them that load pixels, which the crop kernel issues for each output pixel: its warps'
    instructions × the lanes of a warp / pixels. So lanes to the right of the picture, which idle, count. launch: with
    the one path that is taken; work: how many strips of each kind a column has."""
    _, code = compiled(launch, target)
    columns = -(-SIZE // launch.arguments["COLUMNS"])
    lanes = target.warp_size * launch.options["num_warps"]
    total = sum(np.array(walk(code, strip)) * count for strip, count in work.items())
    instructions, loads = (round(float(each) * columns * lanes / SIZE**2, 2) for each in total)
    taken = launch.crop().path
    return {"path": taken and list(taken), "instructions": instructions, "loads": loads}


def fingerprint(launch: Launch, target: GPUTarget, work: Counter[Strip] | None = None) -> str:
    """Of all that figures are made from: the kernel's source and what it calls, its constants, the compilers, which
    come with Triton, and the files that count. The same fingerprint, the same figures."""
    code = source(launch, target).hash()
    strips = sorted((repr(strip), count) for strip, count in (work or {}).items())
    inputs = repr((code, target, launch.options, strips, triton.__version__, _counting_code()))
    return hashlib.sha256(inputs.encode()).hexdigest()[:16]


@cache
def _counting_code() -> str:
    names = ("static_figures.py", "machine_code.py", "machine_walk.py")
    return hashlib.sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in names)).hexdigest()


def strips(launch: Launch, target: GPUTarget) -> Iterator[Strip]:
    """What a thread must do in each of the strips, from the top of the picture to its bottom."""
    arguments = launch.arguments
    plan = launch.crop()
    shrinks, taps = plan.path or (False, 1)
    pixels, rows = arguments["CHANNELS"], arguments["ROWS"]
    pixels *= arguments["COLUMNS"] // (target.warp_size * launch.options["num_warps"])
    load = plan.window * pixels * arguments["pixels_ptr"].element_size()
    store = pixels * arguments["out_ptr"].element_size()
    for top in range(0, SIZE, rows):
        read = source_rows(launch, range(top, min(top + rows, SIZE)), shrinks=shrinks)
        yield Strip(tuple(count * load for count in read), store, plan.window if taps == 0 else 0)


def source_rows(launch: Launch, rows: range, *, shrinks: bool) -> list[int]:
    """How many source rows the kernel filters before it writes each output row, those that it does not store among
    them. The positions are the launch's, the loops the kernel's."""
    reach = launch.arguments["REACH"]
    if reach == 0:
        return [1] * len(rows)
    plan = launch.crop()
    start, step = plan.start, plan.step
    if not shrinks:
        begins = [((start + row * step) >> 32) - reach + 1 for row in rows]
        ends = [begins[0], *(begin + 2 * reach for begin in begins)]
        return [max(end - max(before, begin), 0) for before, begin, end in zip(ends, begins, ends[1:], strict=False)]
    first, count = rows[0] - reach, len(rows) + 2 * reach - 1
    stops = [((start + (first + i) * step) >> 32) + 1 for i in range(count + count % 2 + 1)]
    stops = [stops[0], *(min(stop, plan.high) for stop in stops[1:])]
    row, read = max(stops[0], plan.low), []
    for stop in stops[1:]:
        read.append(max(stop - row, 0))
        row = max(row, stop)
    return read


@cache
def programs() -> dict[str, Call]:
    """variants(), made once in a process."""
    return variants()


def keys() -> list[Key]:
    """Of the rows of the table, in which a program has no scale."""
    pixels = [(name, target, scale) for name, targets in _FILTERS.items() for target in targets for scale in SCALES]
    return [*((name, target, 0) for name in programs() for target in TARGETS), *pixels]


def _row(key: Key, kept: Row | None) -> Row:
    """The kept row, where its inputs are the same; else what a compiler says."""
    name, target, scale = key
    gpu = TARGETS[target]
    launch, work = _one_path(name, gpu, scale) if scale else (record(programs()[name], gpu), None)
    inputs = fingerprint(launch, gpu, work)
    if kept is not None and kept["inputs"] == inputs:
        return kept
    if work is None:
        return {"kernel": name, "target": target, **figures(launch, gpu), "inputs": inputs}
    return {"filter": name, "target": target, "scale": scale, **pixel_figures(launch, gpu, work), "inputs": inputs}


def _one_path(name: str, target: GPUTarget, scale: float) -> tuple[Launch, Counter[Strip]]:
    """A crop's launch with the one path that it takes at this scale, and the strips that this path does."""
    color = np.full((3, 4), 0.25) if name.endswith(_MIXED) else None
    options = {"interpolation": name.split(",")[0], "color": color, "dtype": BRAIN, "channels_last": True}
    launch = record(crop(scale=scale, holes=0.0 if name.endswith(_HOLES) else None, **options), target)
    return launch.changed(PATHS=(launch.crop().path,)), Counter(strips(launch, target))


def measure(kept: Figures | None) -> Figures:
    """kept: the figures whose rows need no compiler where they come from the same inputs; None: all are compiled."""
    rows_kept = {} if kept is None else {key_of(row): row for row in kept["programs"] + kept["pixels"]}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(_row, keys(), map(rows_kept.get, keys())))
    return {
        "triton": triton.__version__,
        "programs": [row for row in rows if "kernel" in row],
        "pixels": [row for row in rows if "filter" in row],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--write", action="store_true")
    group.add_argument("--changed", action="store_true")
    options = parser.parse_args()
    found = measure(load(FIGURES) if options.changed else None)
    path = FIGURES if options.write else BUILD / FIGURES.name
    path.parent.mkdir(exist_ok=True)
    failures, gains = ([], []) if options.write else compare(found, load(FIGURES))
    save(found, path)
    path.with_suffix(".md").write_text(markdown(found))
    print("\n".join([*failures, *gains, f"{path.with_suffix('.md')}: the figures of this run"]))
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
