"""augment_gpu beside other libraries, in the same rounds; gpu_report.py runs this as part of its report.

    python benchmarks/bench_rivals.py LINES [--device cuda] [--quick] [--only NAME ...]

Appends one line of JSON a rival to the file LINES. Where a rival takes boxes, both sides get the same boxes, drawn
beforehand; where it draws for itself, augment_gpu draws within the clock as well. Each is compared with augment_gpu in
the dtype and memory format that the rival gives. All of it can run in a process of its own (`measured_rivals`), since a
foreign library may take the interpreter down with it.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rivals
import torch
from common import spread
from gpu_ops import QUICK, Plan, crop_calls, random_batch, random_boxes
from gpu_timing import Calls, fitting_batch, measure, rotation
from rivals import Scene

import augment_gpu as ag


@dataclass(frozen=True)
class Rival:
    """calls: of a scene. draws: whether it draws for itself. dense: whether it wants images of one size. dtype and
    layout: of what it gives."""

    calls: Callable[[Scene], Calls]
    draws: bool
    dense: bool
    dtype: torch.dtype = torch.float32
    layout: str = "contiguous"


RIVALS = {
    "torchvision v2, image by image": Rival(rivals.torchvision_loop, draws=False, dense=False),
    "torchvision v2, one box for all": Rival(rivals.torchvision_batch, draws=True, dense=True),
    "Kornia": Rival(rivals.kornia, draws=True, dense=True),
    "CV-CUDA hq_resize": Rival(rivals.cvcuda_hq_resize, draws=False, dense=False),
    "CV-CUDA random_resized_crop": Rival(rivals.cvcuda_random_resized_crop, draws=True, dense=False),
    "cvcuda.tv, one box for all": Rival(rivals.cvcuda_tv, draws=True, dense=True),
    "DALI pipeline": Rival(rivals.dali, draws=False, dense=False, dtype=torch.float16, layout="channels_last"),
    "DALI torchvision": Rival(rivals.dali_torchvision, draws=True, dense=True),
}


def make_scene(plan: Plan, device: torch.device) -> Scene:
    """As many images as fit: the training photographs, and dense images of the second source's size."""
    (width, height), (dense_width, dense_height) = plan.sources[:2]
    largest = 3 * (width * height + 16 * plan.size**2)
    count = fitting_batch(plan.batch, largest, device)
    sets = range(rotation(count * 3 * (dense_width * dense_height + 2 * plan.size**2), device))
    photos = [random_batch(count, width, height, device) for _ in sets]
    shape = (count, 3, dense_height, dense_width)
    dense = [torch.randint(0, 256, shape, dtype=torch.uint8, device=device) for _ in sets]
    boxes = [random_boxes(batch, epoch) for epoch, batch in enumerate(photos)]
    return Scene(photos, boxes, dense, plan.size, device)


def compare(name: str, scene: Scene, plan: Plan) -> dict[str, Any]:
    """One row: seconds a batch of both, and how many times augment_gpu's the rival's are, by round. Where the rival
    cannot be imported the row says `absent`, where it fails it says `error`, and why."""
    rival = RIVALS[name]
    ours = _ours(rival, scene)
    count = len(scene.photos[0])
    row: dict[str, Any] = {"rival": name, "batch": count, "draws_for_itself": rival.draws, "dense": rival.dense}
    row |= {"dtype": str(rival.dtype).removeprefix("torch."), "layout": rival.layout}
    row["what"] = " ".join((rival.calls.__doc__ or "").split())
    try:
        contenders = {"ours": ours, "rival": rival.calls(scene)}
        seconds = measure(contenders, scene.device, budget=4 * plan.budget, rounds=plan.rounds)
    except ImportError as error:
        return row | {"absent": f"{type(error).__name__}: {error}"}
    except Exception as error:  # whatever a foreign library raises is its result
        return row | {"error": f"{type(error).__name__}: {error}"}
    pairs = zip(seconds["rival"], seconds["ours"], strict=True)
    return row | {
        "seconds": {side: spread(values) for side, values in seconds.items()},
        "images_per_second": {side: count / spread(values)["median"] for side, values in seconds.items()},
        "times_ours": spread([theirs / ours for theirs, ours in pairs]),
    }


def _ours(rival: Rival, scene: Scene) -> Calls:
    batches: list[Any] = scene.dense if rival.dense else scene.photos
    if not rival.draws:
        return crop_calls(batches, scene.boxes, scene.size, rival.dtype, rival.layout)
    name: Any = str(rival.dtype).removeprefix("torch.")
    stage = ag.Stage(ag.Recipe(size=scene.size, dtype=name, channels_last=rival.layout == "channels_last"))
    index, epochs = np.arange(len(batches[0])), itertools.count()
    return [lambda batch=batch: stage(batch, index=index, epoch=next(epochs)) for batch in batches]


def measured_rivals(device: torch.device, *, quick: bool, seconds: float) -> list[dict[str, Any]]:
    """A row for each of RIVALS. They run in a child process; one that takes it down is recorded with how it ended, and
    a new process goes on with the next."""
    end = time.monotonic() + seconds
    rows: list[dict[str, Any]] = []
    while waiting := [name for name in RIVALS if name not in {row["rival"] for row in rows}]:
        left = end - time.monotonic()
        if left <= 0:
            rows += [{"rival": name, "left_out": f"the {seconds} s for rivals were used up"} for name in waiting]
            break
        with tempfile.TemporaryDirectory() as folder:
            lines = Path(folder, "lines")
            lines.touch()
            command = [sys.executable, __file__, str(lines), "--device", str(device)]
            command += ["--quick"] * quick + ["--only", *waiting]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=left)
                ended = f"its process ended with {done.returncode}: {done.stderr[-500:]}"
            except subprocess.TimeoutExpired:
                ended = f"no result after {left:.0f} s"
            new = [json.loads(line) for line in lines.read_text().splitlines()]
        rows += new
        if len(new) < len(waiting):
            rows.append({"rival": waiting[len(new)], "error": ended})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=RIVALS, default=list(RIVALS), metavar="NAME")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    scene = make_scene(plan, torch.device(options.device))
    for name in options.only:
        begin = time.perf_counter()
        row = compare(name, scene, plan)
        with options.lines.open("a") as lines:
            lines.write(json.dumps(row | {"took_seconds": time.perf_counter() - begin}) + "\n")


if __name__ == "__main__":
    main()
