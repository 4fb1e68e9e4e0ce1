"""The training crop on a CPU: RandomResizedCrop, flip, normalise, to float32 224, images already decoded.

    python benchmarks/bench_cpu.py [DATA]

DATA: root/<class>/<image> (default: the built-in sample). Beside torchvision v2, Kornia, albumentations and DALI (see
cpu_rivals.py); what is not installed is named as absent. Everything is measured with one thread; with one thread and
glibc told to keep freed memory, since much of what a reused buffer wins is page faults that others pay; and with two
threads. Prints a table of ratios and writes results/cpu-<machine>-<date>.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from typing import Any

import cpu_rivals
import numpy as np
import torch
from common import machine, package_version, paired, save, spread
from cpu_table import KIND, ratio_table
from torchvision.transforms import v2

import augment_gpu as ag

IMAGES = 128
ROUNDS = 15
# More than the 77 MB of a batch's output. mallopt(3) says that 32 MiB is the most, yet glibc 2.36 honours this: it
# takes 77 MiB from its heap, and with 64 MiB here it maps them anew.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
CONDITIONS: dict[str, tuple[int, dict[str, str]]] = {  # threads, environment
    "one thread": (1, {}),
    "one thread, memory kept": (1, KEEP_MEMORY),
    "two threads": (2, {}),
}
# A ratio's name: whose time, by which of ours it is divided.
RATIOS = {
    "torchvision v2": ("torchvision v2", "augment_gpu contiguous"),
    "torchvision v2, our output channels_last": ("torchvision v2", "augment_gpu channels_last"),
    "torchvision v2, its images shared out to the threads": ("torchvision v2 shared", "augment_gpu contiguous"),
    "albumentations (no antialias)": ("albumentations", "augment_gpu channels_last"),
    "albumentations, its images shared out": ("albumentations shared", "augment_gpu channels_last"),
    "DALI's CPU pipeline": ("DALI", "augment_gpu channels_last"),
    "Kornia (no antialias), 256 × 256 beforehand": ("Kornia 256x256", "augment_gpu 256x256"),
}
PACKAGES = ("albumentations", "opencv-python-headless", "nvidia-dali-cuda120", "nvidia-dali-cuda130")


def ours(images: list[np.ndarray], *, channels_last: bool) -> Callable[[], object]:
    """The train stage, each call with an epoch's draws of its own."""
    index, epochs = np.arange(len(images)), iter(range(10**9))
    batch, stage = ag.RaggedBatch.from_images(images), ag.Stage(ag.Recipe(channels_last=channels_last))
    return lambda: stage(batch, index=index, epoch=next(epochs))


def contenders(images: list[np.ndarray], threads: int) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """What is timed, by name, and why others are absent. images: (H, W, 3) uint8."""
    resize = partial(v2.functional.resize, size=[256, 256], antialias=True)
    square = [resize(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy() for image in images]
    ready = {
        "augment_gpu channels_last": ours(images, channels_last=True),
        "augment_gpu contiguous": ours(images, channels_last=False),
        "augment_gpu 256x256": ours(square, channels_last=True),
    }
    rivals = {
        "torchvision v2": partial(cpu_rivals.torchvision, images),
        "albumentations": partial(cpu_rivals.albumentations, images),
        "DALI": partial(cpu_rivals.dali, images),
        "Kornia 256x256": partial(cpu_rivals.kornia, square),
    }
    if threads > 1:  # as a DataLoader's workers share images out, but without the copies between processes
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        rivals["torchvision v2 shared"] = partial(cpu_rivals.torchvision, images, pool=pool)
        rivals["albumentations shared"] = partial(cpu_rivals.albumentations, images, pool=pool)
    absent = {}
    for name, rival in rivals.items():
        try:
            ready[name] = rival(threads=threads)
        except ImportError as error:
            absent[name] = str(error)
    return ready, absent


def measure(data: str | None, threads: int) -> dict[str, Any]:
    """Milliseconds an image and the ratios, each with its spread over the rounds."""
    torch.set_num_threads(threads)
    folder = ag.data.ImageFolder(data or ag.data.sample_dataset())
    chosen = np.linspace(0, len(folder) - 1, min(IMAGES, len(folder))).astype(int)
    images = [folder[int(i)][0] for i in chosen]
    ready, absent = contenders(images, threads)
    seconds = paired(ready, ROUNDS)
    return {
        "threads": threads,
        "images": len(images),
        "mean_pixels": float(np.mean([image.shape[0] * image.shape[1] for image in images])),
        "absent": {name: absent[theirs] for name, (theirs, _) in RATIOS.items() if theirs in absent},
        "ms_per_image": {name: spread([1e3 * s / len(images) for s in values]) for name, values in seconds.items()},
        "ratio": {
            name: spread([slow / fast for slow, fast in zip(seconds[theirs], seconds[own], strict=True)])
            for name, (theirs, own) in RATIOS.items()
            if theirs in seconds
        },
    }


def _in_process(data: str | None, threads: int, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(threads), *([data] if data else [])]
    done = subprocess.run(command, env={**os.environ, **environment}, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)  # with so many threads
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.data, options.child)))
        return
    load = os.getloadavg()[0]
    if load > 1:  # one busy neighbour makes torch's two threads wait for each other at every operation
        print(f"the load average is {load:.1f}: what two threads do will be worth little", file=sys.stderr)
    result = {
        "kind": KIND,
        "date": date.today().isoformat(),
        "machine": machine(),
        "load_average_before": load,
        "rival_packages": {package: package_version(package) for package in PACKAGES},
        "rounds": ROUNDS,
        "rivals": list(RATIOS),
        "conditions": {name: _in_process(options.data, *condition) for name, condition in CONDITIONS.items()},
    }
    print(ratio_table(result))
    for name, reason in result["conditions"]["two threads"]["absent"].items():
        print(f"absent: {name}: {reason}")
    print("written to", save("cpu", result))


if __name__ == "__main__":
    main()
