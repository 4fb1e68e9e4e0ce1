"""The kernels compiled for GPUs that need not be there: no variant may spill registers into memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process in which the kernels are compiled and not interpreted, and nothing compiled before is found."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return kept | {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}


def run(environment: dict[str, str], *arguments: str) -> Any:
    process = subprocess.run([sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def rows(environment: dict[str, str]) -> list[dict[str, Any]]:
    return run(environment, "benchmarks/static_figures.py")


def spilling(rows: list[dict[str, Any]], beginning: str) -> list[dict[str, Any]]:
    seen = [row for row in rows if row["kernel"].startswith(beginning)]
    assert seen
    return [row for row in seen if row["stack"] or row["local"] or row["spills"]]


@pytest.mark.parametrize(
    "kernel",
    [
        "crop, nearest",
        "crop, bilinear",
        "crop, bicubic",
        "cutout, float16",
        "cutout, noise",
        "mixup",
        "cutmix",
        "mix_targets",
    ],
)
def test_no_kernel_touches_local_memory(rows: list[dict[str, Any]], kernel: str) -> None:
    assert spilling(rows, kernel) == []


def test_every_target_channel_count_and_filter_is_compiled(rows: list[dict[str, Any]]) -> None:
    assert {row["target"] for row in rows} == {80, 90, 100}
    names = {row["kernel"] for row in rows}
    for interpolation in ("nearest", "bilinear", "bicubic"):
        for channels in (1, 3, 4):
            assert f"crop, {interpolation}, {channels} channels" in names


def test_the_figures_are_of_real_programs(rows: list[dict[str, Any]]) -> None:
    """No figure was missed when cuobjdump's text was read: every program loads, and fits into a thread's registers."""
    for row in rows:
        assert 0 < row["loads"] < row["instructions"], row
        assert 16 <= row["registers"] <= 255, row
        assert 0 <= row["shared"] <= 48 * 1024, row


def test_a_spill_would_be_seen(environment: dict[str, str]) -> None:
    """The same kernel held to 40 registers a thread, fewer than its sums take."""
    program = """
import dataclasses, json
from benchmarks.static_figures import TARGETS, crop, figures, record
launch = record(crop(4, interpolation="bicubic"))
launch = dataclasses.replace(launch, options=launch.options | {"maxnreg": 40})
print(json.dumps([{"kernel": "held", **figures(launch, TARGETS[90])}]))
"""
    (row,) = spilling(run(environment, "-c", program), "held")
    assert row["registers"] <= 40
    assert row["stack"] > 0
    assert row["spills"] > 0


def test_the_launch_that_ships_is_what_is_compiled(environment: dict[str, str]) -> None:
    """Blocks and warps are the kernel module's; a stride of 1 is a constant, as Triton makes it one."""
    program = """
import json
from augment_gpu.kernels import crop as kernel
from benchmarks.static_figures import crop, record, source
launch = record(crop(3, channels_last=True))
compiled = source(launch)
names = launch.kernel.arg_names
constants = {names[i]: value for (i,), value in compiled.constants.items()}
wanted = {"BLOCK_Y": kernel.BLOCK_Y, "BLOCK_X": kernel.BLOCK_X, "CHANNELS": 3, "channel_stride": 1, "out_c_stride": 1}
same = {name: constants[name] == value for name, value in wanted.items()}
print(json.dumps(same | {"num_warps": launch.options == {"num_warps": kernel.NUM_WARPS}}))
"""
    same = run(environment, "-c", program)
    assert all(same.values()), same
