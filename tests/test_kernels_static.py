"""The kernels compiled for GPUs that need not be there: no variant may spill registers into memory, nor take more
instructions than the table in benchmarks/ says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parent.parent
COMMAND = "python benchmarks/static_figures.py"
pytestmark = pytest.mark.usefixtures("benchmarks_importable")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process in which the kernels are compiled and not interpreted, and nothing compiled before is found."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    return kept | {"PYTHONPATH": paths, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}


@pytest.fixture(scope="module")
def found(environment: dict[str, str]) -> dict[str, Any]:
    """What is compiled from other inputs than the table's rows is compiled, the rest taken from there: all of it is two
    minutes' work of two cores, for `make figures`. The table that it leaves in build/ is there to be read when a test
    fails."""
    path = ROOT / "build" / "static_figures.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "benchmarks/static_figures.py", "--changed"]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert path.exists(), process.stderr
    print(process.stdout)
    return json.loads(path.read_text())


@pytest.fixture
def kept() -> dict[str, Any]:
    return json.loads((ROOT / "benchmarks" / "static_figures.json").read_text())


def run(environment: dict[str, str], program: str) -> Any:
    process = subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_no_kernel_spills_nor_grew(found: dict[str, Any], kept: dict[str, Any]) -> None:
    from static_table import compare

    failures, gains = compare(found, kept)
    print("\n".join(gains))
    assert not failures, "\n".join([*failures, f"{COMMAND} --write accepts this; build/static_figures.md has it all"])


def test_every_target_channel_count_filter_and_scale_is_compiled(found: dict[str, Any]) -> None:
    assert {row["target"] for row in found["programs"]} == {"sm_80", "sm_90", "sm_100", "gfx942"}
    names = {row["kernel"] for row in found["programs"]}
    for interpolation in ("nearest", "bilinear", "bicubic"):
        for channels in (1, 3, 4):
            assert f"crop, {interpolation}, {channels} channels" in names
    for target in ("sm_80", "sm_90", "sm_100", "gfx942"):
        rows = [row for row in found["pixels"] if (row["filter"], row["target"]) == ("bilinear", target)]
        assert [row["scale"] for row in rows] == [0.5, 1, 1.5, 3, 6]


def test_the_figures_are_of_real_programs(found: dict[str, Any]) -> None:
    """No figure was missed when the compilers' texts were read: every program loads (AMD's may do that with scalar
    loads alone, which are not listed), and fits into a thread's registers."""
    for row in found["programs"]:
        assert sum(row["loads"].values()) < row["instructions"], row
        assert sum(row["loads"].values()) > 0 or row["target"] == "gfx942", row
        assert 8 <= row["registers"] <= (512 if row["target"] == "gfx942" else 255), row
        assert 0 <= row["shared"] <= 48 * 1024, row


def test_a_typical_crop_takes_far_fewer_instructions_than_the_first_version(found: dict[str, Any]) -> None:
    """330 an output pixel at scale 1.5, counted by hand in commit 6f6e037; at least 30 % fewer are wanted."""
    (row,) = (r for r in found["pixels"] if (r["filter"], r["target"], r["scale"]) == ("bilinear", "sm_90", 1.5))
    assert row["instructions"] <= 0.7 * 330


@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 0.06), ("bicubic", 0.03)])
def test_a_map_that_mixes_colours_costs_little_more_than_normalisation(
    found: dict[str, Any], interpolation: str, most: float
) -> None:
    """Six multiply-adds an output pixel, by hand, of over 120 instructions: under 3 % they cannot be in bilinear."""
    at = {row["filter"]: row for row in found["pixels"] if (row["target"], row["scale"]) == ("sm_90", 1.5)}
    plain, mixed = at[interpolation], at[f"{interpolation}, colours mixed"]
    assert mixed["instructions"] <= plain["instructions"] * (1 + most)
    assert mixed["loads"] == plain["loads"]


def test_holes_in_the_launch_of_the_crop_take_no_registers_and_few_instructions(found: dict[str, Any]) -> None:
    """What filling them needs is loaded after the strip is computed. A strip that no hole meets issues a few
    instructions more to see that, once for its 32 output rows."""
    programs = {(row["kernel"], row["target"]): row for row in found["programs"]}
    for target in ("sm_80", "sm_90", "sm_100", "gfx942"):
        for name, plain in (
            ("crop, bilinear, holes", "crop, bilinear, 3 channels"),
            ("crop, bicubic, holes", "crop, bicubic, 3 channels"),
            ("crop, bilinear, colours mixed, holes", "crop, bilinear, colours mixed"),
            ("crop, bilinear, holes of noise", "crop, bilinear, 3 channels"),
            ("crop, bicubic, 4 channels, float32, holes of noise", "crop, bicubic, 4 channels, float32"),
        ):
            assert programs[name, target]["registers"] <= programs[plain, target]["registers"]
    pixels = {(row["filter"], row["scale"]): row for row in found["pixels"] if row["target"] == "sm_90"}
    for scale in (0.5, 1, 1.5, 3, 6):
        plain, holes = pixels["bilinear", scale], pixels["bilinear, holes", scale]
        assert holes["instructions"] - plain["instructions"] < 3
        assert holes["loads"] == plain["loads"]


def test_pixels_are_loaded_as_often_as_the_filter_asks(found: dict[str, Any]) -> None:
    """By hand: an NVIDIA GPU loads byte by byte, so for an RGB pixel three times taps, times the rows of 34 steps from
    output row to output row, of which 32 are stored; less what lies above the picture's top and below its bottom."""
    loads = {row["scale"]: row for row in found["pixels"] if (row["filter"], row["target"]) == ("bilinear", "sm_90")}
    assert [loads[scale]["path"] for scale in (1, 1.5, 3, 6)] == [[False, 2], [True, 3], [True, 6], [True, 12]]
    for scale, taps in ((1.5, 3), (3, 6), (6, 12)):
        most = 3 * taps * scale * 34 / 32
        assert 0.98 * most < loads[scale]["loads"] < most
    # At scale 1 each of 32 steps brings one row, and the first step of a strip one more: 7 × 33 rows for 224.
    assert loads[1]["loads"] == round(3 * 2 * 7 * 33 / 224, 2)


@pytest.mark.parametrize(
    ("target", "option", "registers"),
    [
        ("sm_90", {"maxnreg": 40}, 40),
        ("gfx942", {"waves_per_eu": 8}, 64),  # 512 registers for eight warps
    ],
)
def test_a_spill_would_be_seen(
    environment: dict[str, str], kept: dict[str, Any], target: str, option: dict[str, int], registers: int
) -> None:
    """The same kernel held to fewer registers a thread than its sums take."""
    from static_table import compare

    program = f"""
import dataclasses, json
from kernel_cases import TARGETS, crop, record
from static_figures import figures
target = TARGETS["{target}"]
launch = record(crop(4, interpolation="bicubic"), target).changed(PATHS=((True, 8),))
launch = dataclasses.replace(launch, options=launch.options | {option})
print(json.dumps({{"kernel": "crop, held", "target": "{target}", **figures(launch, target), "inputs": ""}}))
"""
    row = run(environment, program)
    assert row["registers"] <= registers
    assert row["stack"] > 0
    assert row["spills"] > 0
    failures, _ = compare(kept | {"programs": [*kept["programs"], row]}, kept)
    assert [failure.split(";")[0] for failure in failures] == [
        f"crop, held, {target}: {name} is {row[name]}" for name in ("spills", "stack")
    ]


def test_the_launch_that_ships_is_what_is_compiled(environment: dict[str, str]) -> None:
    """Strips and warps are the kernel module's; a stride of 1 is a constant, as Triton makes it one."""
    program = """
import json
from augment_gpu.kernels import crop as kernel
from kernel_cases import TARGETS, crop, record, source
launch = record(crop(3, channels_last=True), TARGETS["sm_90"])
compiled = source(launch, TARGETS["sm_90"])
names = launch.kernel.arg_names
constants = {names[i]: value for (i,), value in compiled.constants.items()}
wanted = {
    "COLUMNS": kernel.COLUMNS,
    "ROWS": kernel.ROWS,
    "PATHS": kernel.paths(1, 3),
    "CHANNELS": 3,
    "channel_stride": 1,
    "out_c_stride": 1,
}
same = {name: constants[name] == value for name, value in wanted.items()}
print(json.dumps(same | {"num_warps": launch.options == {"num_warps": kernel.NUM_WARPS}}))
"""
    same = run(environment, program)
    assert all(same.values()), same


def test_on_amd_few_taps_of_four_channels_are_unrolled(environment: dict[str, str]) -> None:
    """Twelve taps, the cubic's at scale 3, are read in groups there, by a path of that target's own list."""
    program = """
import json
from kernel_cases import TARGETS, crop, record
found = {}
for target in ("gfx942", "sm_90", "gfx942"):
    for channels in (3, 4):
        launch = record(crop(channels, interpolation="bicubic", scale=3), TARGETS[target])
        most = max(taps for _, taps in launch.arguments["PATHS"])
        found[f"{target}, {channels}"] = [*launch.crop().path, launch.crop().window, most]
print(json.dumps(found))
"""
    assert run(environment, program) == {
        "gfx942, 3": [True, 12, 12, 16],
        "gfx942, 4": [True, 0, 12, 8],
        "sm_90, 3": [True, 12, 12, 16],
        "sm_90, 4": [True, 12, 12, 16],
    }


def test_growth_fails_and_a_gain_is_told(kept: dict[str, Any]) -> None:
    from static_table import compare

    def scaled(factor: float) -> dict[str, Any]:
        rows = [row | {"instructions": row["instructions"] * factor, "inputs": ""} for row in kept["pixels"]]
        return kept | {"pixels": rows, "triton": "9.9"}

    assert compare(kept, kept) == ([], [])
    assert compare(scaled(1.04), kept) == ([], [])
    failures, gains = compare(scaled(1.06), kept)
    assert len(failures) == len(kept["pixels"])
    assert "+6.0%" in failures[0]
    assert f"Triton 9.9, against Triton {kept['triton']}" in failures[0]
    assert not gains
    failures, gains = compare(scaled(0.94), kept)
    assert not failures
    assert len(gains) == len(kept["pixels"])


def test_other_figures_from_the_same_inputs_fail(kept: dict[str, Any]) -> None:
    from static_table import compare

    row = kept["pixels"][0]
    other = kept | {"pixels": [row | {"loads": row["loads"] + 0.01}, *kept["pixels"][1:]]}
    assert "from the same inputs" in compare(other, kept)[0][0]
    renewed = kept | {"pixels": [row | {"loads": row["loads"] + 0.01, "inputs": "0"}, *kept["pixels"][1:]]}
    assert compare(renewed, kept) == ([], [])


def test_what_changes_a_program_changes_its_fingerprint(environment: dict[str, str], kept: dict[str, Any]) -> None:
    """A constant, an option, the target, a line of what the kernel calls, the strips that are walked; nothing else."""
    program = """
import dataclasses, json
from collections import Counter
from augment_gpu.kernels import crop as kernel
from kernel_cases import TARGETS, crop, record
from machine_walk import Strip
from static_figures import fingerprint
target = TARGETS["sm_90"]
call = crop(3, interpolation="nearest", channels_last=True)
launch = record(call, target)
found = [
    fingerprint(launch, target),
    fingerprint(launch, TARGETS["sm_80"]),
    fingerprint(launch.changed(ROWS=16), target),
    fingerprint(dataclasses.replace(launch, options={"num_warps": 8}), target),
    fingerprint(launch, target, Counter({Strip((8,), 4, 0): 1})),
    fingerprint(launch, target, Counter({Strip((8,), 4, 0): 2})),
]
called = kernel._nearest_strip
lines = called.src
for text in (lines + "    # a line more\\n", lines):
    called._unsafe_update_src(text)
    launch.kernel.hash = None
    found.append(fingerprint(launch, target))
again = found.pop()
print(json.dumps([found, again]))
"""
    found, again = run(environment, program)
    assert len(set(found)) == len(found)
    assert again == found[0]


def test_a_missing_row_fails(kept: dict[str, Any]) -> None:
    from static_table import compare

    fewer = kept | {"pixels": kept["pixels"][1:]}
    assert "not in the table" in compare(kept, fewer)[0][0]
    assert "no longer compiled" in compare(fewer, kept)[0][0]


def test_the_table_to_read_is_that_of_the_figures(kept: dict[str, Any]) -> None:
    from static_table import markdown

    assert (ROOT / "benchmarks" / "static_figures.md").read_text() == markdown(kept), f"{COMMAND} --write renews it"


def test_what_is_written_about_the_figures_is_what_they_say(kept: dict[str, Any]) -> None:
    rows = [row for row in kept["pixels"] if (row["filter"], row["target"]) == ("bilinear", "sm_90")]
    at = {row["scale"]: f"{row['instructions']:.0f}" for row in rows}
    readme = (ROOT / "README.md").read_text()
    assert f"issues {at[1.5]} a thread" in readme
    all_at = {r["filter"]: r["instructions"] for r in kept["pixels"] if (r["target"], r["scale"]) == ("sm_90", 1.5)}
    for name in ("bilinear", "bicubic"):
        assert f"{all_at[f'{name}, colours mixed'] / all_at[name] - 1:.1%} in {name}".replace("%", " %") in readme
    record = (ROOT / "benchmarks" / "README.md").read_text()
    assert f"its place | {at[1.5]} | ships |" in record
    assert f"takes {at[0.5]} instructions at scale 0.5, {at[1]} at 1 and {at[3]} at 3" in record


@pytest.mark.parametrize(
    ("kernel", "target", "registers", "expected"),
    [
        ("mixup", "sm_90", 16, 64),
        ("crop", "sm_90", 16, 32),  # programs of one warp, of which there are no more at a time
        ("crop", "sm_90", 64, 32),
        ("crop", "sm_90", 65, 28),
        ("crop", "sm_90", 72, 28),
        ("crop", "sm_90", 80, 24),
        ("crop", "gfx942", 128, 4),
    ],
)
def test_registers_decide_how_many_warps_run(kernel: str, target: str, registers: int, expected: int) -> None:
    from static_table import warps

    assert warps({"kernel": kernel, "target": target, "registers": registers}) == expected


def test_registers_that_leave_room_for_fewer_warps_are_no_small_matter(kept: Any) -> None:
    from static_table import compare, key_of

    row = next(row for row in kept["programs"] if key_of(row)[:2] == ("crop, bilinear, 3 channels", "sm_90"))
    others = [other for other in kept["programs"] if other is not row]

    def changed(registers: int) -> Any:
        return kept | {"programs": [*others, row | {"registers": registers, "inputs": "other"}]}

    rounded = -(-row["registers"] // 8) * 8
    assert compare(changed(rounded), kept) == ([], [])
    (failure,) = compare(changed(rounded + 8), kept)[0]
    assert f"{rounded + 8} registers leave room for" in failure
