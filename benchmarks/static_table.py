"""The files of static figures: JSON to compare with, a Markdown table to read, and what a comparison says."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_name("static_figures.json")
TOLERANCE = 0.05  # by which instructions may grow
Row = dict[str, Any]
Key = tuple[str, str, float]  # of a row: kernel or filter, target, scale
Figures = dict[str, Any]  # "triton": its version; "programs": rows; "pixels": rows
_TEXT = """# Static figures of the kernels

Written by `python benchmarks/static_figures.py --write`, with Triton {}; no GPU took part.

## Instructions per output pixel

Of the crop kernel, 3 channels, bfloat16, channels_last, at 224 × 224: the instructions that a thread issues for each
output pixel, and in brackets those of them that load source pixels, by scale (source pixels per output pixel along
each axis). Lanes that idle to the right of the picture count: on gfx942, whose warps have 64 lanes, an eighth of all.
Colours mixed: as by a colour twist, every channel sees all three; else each is normalised by itself. Holes: with cutout
in the same launch, of a strip that no hole meets.

{}

## Programs

Registers of a thread; stack and shared memory in bytes; instructions, and vector loads from global memory by the bits
that a thread loads at once, as the program's text has them: a loop's body counts once. The crop kernel holds several
ways to compute a strip, of which one is taken.

{}
"""


def load(path: Path) -> Figures:
    return json.loads(path.read_text())


def save(figures: Figures, path: Path) -> None:
    """One row a line, sorted, so that a change is seen in a diff."""
    parts = [f' "triton": {json.dumps(figures["triton"])}']
    for part in ("programs", "pixels"):
        rows = sorted(figures[part], key=key_of)
        parts.append(f' "{part}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def compare(found: Figures, kept: Figures) -> tuple[list[str], list[str]]:
    """What is wrong with the figures that were found, and what is better by so much that the kept ones should be
    renewed."""
    failures, gains = [], []
    for row in found["programs"]:
        for name in ("spills", "stack", "local"):
            if row[name]:
                failures.append(f"{_name(row)}: {name} is {row[name]}; it must be 0")
    known = {key_of(row): row for row in kept["programs"] + kept["pixels"]}
    for row in found["programs"] + found["pixels"]:
        earlier = known.get(key_of(row), {})
        if earlier.get("inputs") == row["inputs"] and earlier != row:
            failures.append(f"{_name(row)}: other figures than the table's, from the same inputs: {row}, {earlier}")
    for row in found["programs"]:
        earlier = known.get(key_of(row), row)
        now, then = warps(row), warps(earlier)
        if now < then:
            failures.append(
                f"{_name(row)}: {row['registers']} registers leave room for {now} warps at a time, where the table's "
                f"{earlier['registers']} leave room for {then}; they are what hides the wait for memory"
            )
    rows, before = ({key_of(row): row for row in _compared(figures)} for figures in (found, kept))
    versions = f"Triton {found['triton']}, against Triton {kept['triton']}"
    for key in sorted(rows.keys() | before.keys()):
        if key not in before:
            failures.append(
                f"{_name(rows[key])}: not in the table; python benchmarks/static_figures.py --write adds it"
            )
        elif key not in rows:
            failures.append(f"{_name(before[key])}: in the table, but no longer compiled")
        else:
            now, then = rows[key]["instructions"], before[key]["instructions"]
            text = f"{_name(rows[key])}: {now} instructions, {now / then - 1:+.1%} to the table's {then} ({versions})"
            if now > then * (1 + TOLERANCE):
                failures.append(text)
            elif now < then * (1 - TOLERANCE):
                gains.append(text)
    return failures, gains


def warps(row: Row) -> int:
    """How many warps of a program an NVIDIA multiprocessor, or a SIMD of AMD's, has registers for: they are given out
    eight a thread, and on NVIDIA to four warps together. On an H200 80 registers in place of 64 made the crop up to a
    quarter slower (see README.md). NVIDIA's run 32 programs at a time, of which the crop's have one warp."""
    registers = -(-max(row["registers"], 1) // 8) * 8
    if row["target"].startswith("gfx"):
        return min(8, 512 // registers)
    return min(32 if row["kernel"].startswith("crop") else 64, 65536 // (32 * registers) // 4 * 4)


def _compared(figures: Figures) -> list[Row]:
    """Instructions per output pixel where these are known, the program's text for the kernels that copy and fill."""
    return figures["pixels"] + [row for row in figures["programs"] if not row["kernel"].startswith("crop")]


def key_of(row: Row) -> Key:
    return row.get("kernel", row.get("filter", "")), row["target"], row.get("scale", 0)


def _name(row: Row) -> str:
    kernel, target, scale = key_of(row)
    return f"{kernel}, {target}" + (f", scale {scale:g}" if scale else "")


def markdown(figures: Figures) -> str:
    scales = sorted({row["scale"] for row in figures["pixels"]})
    cells: dict[tuple[str, str], dict[float, str]] = {}
    for row in sorted(figures["pixels"], key=key_of):
        line = cells.setdefault((row["filter"], row["target"]), {})
        line[row["scale"]] = f"{row['instructions']:.0f} ({row['loads']:.1f})"
    pixels = [[*names, *(line[scale] for scale in scales)] for names, line in cells.items()]
    programs = [
        [
            *(row[name] for name in ("kernel", "target", "registers", "spills", "stack", "shared", "instructions")),
            ", ".join(f"{count} × {bits}" for bits, count in row["loads"].items()),
        ]
        for row in sorted(figures["programs"], key=key_of)
    ]
    crops = ["filter", "target", *(f"scale {scale:g}" for scale in scales)]
    heads = ["kernel", "target", "registers", "spills", "stack", "shared", "instructions", "loads × bits"]
    tables = "\n".join(_table(crops, pixels)), "\n".join(_table(heads, programs))
    return _TEXT.format(figures["triton"], *tables)


def _table(head: list[str], rows: Iterable[list[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]
