"""What test-time augmentation costs beside the model: making the views, and the memory that they take.

    python benchmarks/bench_tta.py [DATA] [--model resnet18] [--device cpu]

DATA: root/<class>/<image> (default: the built-in sample). Fifty views an image (ten crops at five scales), 224 × 224.
Prints two tables and writes results/tta-<machine>-<date>.json: the time of the views as a share of the model's forward
pass over them, paired; and the peak memory of a prediction for several `max_views` and several numbers of views, each
in a process of its own. On a CPU that is the growth of the resident set over that of a prediction of one view, on a GPU
what torch allocated beside the model.
"""

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from common import machine, paired, save, spread

import augment_gpu as ag

KIND = "tta-cost"
ROUNDS = 7
IMAGES = 4
CURVE = ((16, 400), (32, 400), (64, 400), (128, 400), (256, 400), (32, 50), (32, 800))  # (max_views, views in all)


def load(data: str | None, count: int, device: str) -> ag.RaggedBatch:
    """`count` images, evenly from the whole data set, over and over if it has fewer."""
    folder = ag.data.ImageFolder(data or ag.data.sample_dataset())
    chosen = np.linspace(0, len(folder) - 1, count).astype(int)
    return ag.RaggedBatch.from_images([folder[int(i)][0] for i in chosen], device=device)


def network(model: str, device: str) -> torch.nn.Module:
    return timm.create_model(model).eval().to(device, memory_format=torch.channels_last)


def share(data: str | None, model: str, device: str) -> dict[str, Any]:
    """Milliseconds a view for the views and for the model, and their ratio round by round."""
    batch, net = load(data, IMAGES, device), network(model, device)
    rows = ag.ten_crop_boxes(batch.height.numpy(), batch.width.numpy())
    views = torch.empty(len(rows), 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)

    def finish(done: Any) -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    with torch.inference_mode():
        seconds = paired(
            {
                "views": lambda: finish(ag.crop_resize_flip(batch, rows, mean=(0.5,) * 3, std=(0.2,) * 3, out=views)),
                "model": lambda: finish(net(views)),
            },
            ROUNDS,
        )
    return {
        "images": IMAGES,
        "views": len(rows),
        "ms_per_view": {name: spread([1e3 * s / len(rows) for s in values]) for name, values in seconds.items()},
        "ratio": spread([made / used for made, used in zip(seconds["views"], seconds["model"], strict=True)]),
    }


def peak(data: str | None, model: str, device: str, max_views: int, views: int) -> int:
    """Bytes at the peak of one prediction. views: a multiple of 50."""
    batch, net = load(data, views // 50, device), network(model, device)
    tta = ag.TTA(net, max_views=max_views)
    ag.TTA(net, scales=(224,), crops=1)(load(data, 1, device))  # what the first call takes for good
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        tta(batch)
        return torch.cuda.max_memory_allocated() - before
    before, stop, highest = _resident(), threading.Event(), [0]

    def watch() -> None:
        while not stop.is_set():
            highest[0] = max(highest[0], _resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    tta(batch)
    stop.set()
    watcher.join()
    return max(highest[0], _resident()) - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(json.dumps(peak(options.data, options.model, options.device, *options.peak)))
        return
    cost = share(options.data, options.model, options.device)
    print(f"| {options.model}, {cost['views']} views, {options.device} | ms a view |\n|---|---|")
    for name, figure in cost["ms_per_view"].items():
        print(f"| {name} | {figure['median']:.2f} ({figure['low']:.2f}–{figure['high']:.2f}) |")
    print(f"\nthe views take {cost['ratio']['median']:.1%} of the model's time\n")
    print("| max_views | views in all | peak memory, MiB |\n|---|---|---|")
    curve = []
    for max_views, views in CURVE:
        command = [sys.executable, __file__, *([options.data] if options.data else []), "--model", options.model]
        command += ["--device", options.device, "--peak", str(max_views), str(views)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        curve.append({"max_views": max_views, "views": views, "bytes": json.loads(done.stdout)})
        print(f"| {max_views} | {views} | {curve[-1]['bytes'] / 2**20:.0f} |", flush=True)
    result = {"kind": KIND, "date": f"{date.today()}", "machine": machine(), "model": options.model}
    print("\nwritten to", save("tta", {**result, "device": options.device, "cost": cost, "memory": curve}))


if __name__ == "__main__":
    main()
