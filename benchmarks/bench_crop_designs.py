"""The crop kernel as it ships beside other strips, warps and limits of registers, on an NVIDIA GPU.

    python benchmarks/bench_crop_designs.py

Times the launch alone, by the driver's own clock, over buffers that pass the cache. Every design must give the shipped
one's picture. Prints a table, and writes results/crop-options-<machine>-<date>.json and .md. What was tried beyond
options of the launch, and lost, is told in README.md.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import commit, machine, save
from gpu_ops import Plan, crop_calls, fitting_batch, output_dtypes, random_batch, random_boxes, square_boxes
from gpu_timing import on_device, rotation

from augment_gpu.ops.path import require_triton

KIND = "crop-options"
ROUNDS = 7


@dataclass(frozen=True)
class Design:
    """Pixels of a strip, the warps that compute it, and the most registers that a thread of it may take."""

    columns: int = 32
    rows: int = 32
    warps: int = 1
    registers: int | None = None

    def __str__(self) -> str:
        held = "" if self.registers is None else f", held to {self.registers} registers"
        return f"strips of {self.columns} × {self.rows} by {self.warps} warp{'s' * (self.warps > 1)}{held}"


DESIGNS = (  # the first ships
    Design(),
    Design(registers=64),
    Design(registers=56),
    Design(rows=16),
    Design(rows=56),
    Design(columns=64),
    Design(columns=64, warps=2),
)


@dataclass(frozen=True)
class Scene:
    """What is cropped: boxes of RandomResizedCrop, or with a scale squares of scale × size. options: of the crop."""

    name: str
    width: int
    height: int
    scale: float | None = None
    channels: int = 3
    options: dict[str, Any] = field(default_factory=dict)


def scenes(plan: Plan) -> list[Scene]:
    (width, height), small = plan.sources[:2]
    mixed = np.full((3, 4), 0.25)
    return [
        Scene(f"RandomResizedCrop of {width}×{height}", width, height),
        Scene(f"RandomResizedCrop of {small[0]}×{small[1]}", *small),
        Scene("its colours mixed", width, height, options={"color": mixed}),
        Scene("four channels", width, height, channels=4, options={"mean": None, "std": None}),
        Scene("bicubic", width, height, options={"interpolation": "bicubic"}),
        *(Scene(f"scale {scale:g}", plan.scale_source, plan.scale_source, scale) for scale in plan.scales),
    ]


@contextmanager
def launched_as(design: Design) -> Iterator[None]:
    """The crop kernel in this design."""
    from augment_gpu.kernels import crop

    options = {} if design.registers is None else {"maxnreg": design.registers}
    sized = partial(crop.launch_crop_resize_flip, columns=design.columns, rows=design.rows)
    with ExitStack() as stack:
        stack.enter_context(patch.object(crop, "launch_crop_resize_flip", sized))
        stack.enter_context(patch.object(crop, "NUM_WARPS", design.warps))
        stack.enter_context(patch.object(crop, "launch", partial(crop.launch, **options)))
        yield


def measured(scene: Scene, plan: Plan, device: torch.device) -> list[dict[str, Any]]:
    """A row for each design. Raises AssertionError where one gives another picture than the first."""
    dtype = output_dtypes(device)[0][0]
    each = scene.channels * (scene.width * scene.height + plan.size**2 * dtype.itemsize)
    count = fitting_batch(plan.batch, each, device)
    sets = range(rotation(count * each, device))
    batches = [random_batch(count, scene.width, scene.height, device, channels=scene.channels) for _ in sets]
    if scene.scale is None:
        boxes = [random_boxes(batch, epoch) for epoch, batch in enumerate(batches)]
    else:
        boxes = [square_boxes(batch, round(scene.scale * plan.size), seed) for seed, batch in enumerate(batches)]
    calls = crop_calls(batches, boxes, plan.size, dtype, "channels_last", exact=True, **scene.options)
    out, rows = calls[0](), []
    wanted = out.clone()
    for design in DESIGNS:
        out.fill_(torch.nan)
        with launched_as(design):
            # Compiled otherwise, a multiplication and an addition may round once or twice: a last digit may differ.
            torch.testing.assert_close(calls[0](), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
            seconds = on_device(calls, device, budget=plan.budget, rounds=ROUNDS)["seconds"]
        rows.append(
            {
                "scene": scene.name,
                "batch": count,
                "dtype": str(dtype),
                "design": str(design),
                **asdict(design),
                "seconds": seconds,
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]], heading: str) -> str:
    names = list(dict.fromkeys(row["scene"] for row in rows))
    lines = [["design", *names], ["---"] * (1 + len(names))]
    for design in dict.fromkeys(row["design"] for row in rows):
        seconds = {row["scene"]: row["seconds"]["median"] for row in rows if row["design"] == design}
        lines.append([design, *(f"{1e6 * seconds[name]:.0f}" for name in names)])
    return "\n".join([heading, "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if not torch.cuda.is_available() or torch.version.hip is not None:
        print("bench_crop_designs.py needs an NVIDIA GPU; there is none", file=sys.stderr)
        return 1
    plan, device = Plan(), torch.device("cuda")
    require_triton(device)
    rows: list[dict[str, Any]] = []
    found = {"kind": KIND, "date": date.today().isoformat(), "machine": machine(), "commit": commit()}
    found |= {"size": plan.size, "rows": rows}
    for scene in scenes(plan):  # saved after each: what was measured outlives a run that is stopped
        rows += measured(scene, plan, device)
        path = save(KIND, found)
        batches, dtypes = ({str(row[name]).removeprefix("torch.") for row in rows} for name in ("batch", "dtype"))
        heading = (
            f"Microseconds of the crop's launch on {found['machine']['gpu']}, {found['date']}, commit "
            f"{found['commit']}: {' or '.join(sorted(batches))} images to {plan.size} × {plan.size}, bilinear RGB "
            f"where nothing else is said, {' or '.join(dtypes)}, channels_last; medians."
        )
        path.with_suffix(".md").write_text(markdown(rows, heading))
    print(path.with_suffix(".md").read_text())
    print("written to", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
