"""The training crop on one CPU thread: RandomResizedCrop, flip, normalise, to float32 224, images already decoded.

    python benchmarks/bench_cpu.py [DATA]

DATA: root/<class>/<image> (default: the built-in sample). Beside torchvision v2's Compose, image by image with
stacking, and Kornia's batch pipeline, both with their own draws from the same distribution. Everything is measured
twice: as glibc is, and with glibc told to keep freed memory, since half of what a reused buffer wins is page faults
that others pay. Prints a table of ratios and writes results/cpu-<date>.json.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import kornia.augmentation as K
import numpy as np
import torch
from common import machine, paired, save, spread
from torchvision.transforms import v2

import augment_gpu as ag

IMAGES = 128
ROUNDS = 15
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}


def contenders(images: list[np.ndarray]) -> dict[str, Callable[[], object]]:
    """What is timed, by name. images: (H, W, 3) uint8."""
    index = np.arange(len(images))
    batch = ag.RaggedBatch.from_images(images)
    last, first = ag.Stage(ag.Recipe()), ag.Stage(ag.Recipe(channels_last=False))
    # As torchvision's own pil_to_tensor gives them: (3, H, W) views of (H, W, 3) memory
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    compose = v2.Compose(
        [
            v2.RandomResizedCrop(224, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    square = torch.stack([v2.functional.resize(tensor, [256, 256], antialias=True) for tensor in tensors])
    square_batch = ag.RaggedBatch.from_images(list(square))
    square_float = square.float() / 255
    kornia = torch.nn.Sequential(
        K.RandomResizedCrop((224, 224), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    epoch = iter(range(10**9))
    return {
        "augment_gpu channels_last": lambda: last(batch, index=index, epoch=next(epoch)),
        "augment_gpu contiguous": lambda: first(batch, index=index, epoch=next(epoch)),
        "torchvision v2": lambda: torch.stack([compose(tensor) for tensor in tensors]),
        "augment_gpu 256x256": lambda: last(square_batch, index=index, epoch=next(epoch)),
        "kornia 256x256": lambda: kornia(square_float),
    }


RATIOS = {
    "torchvision v2 ÷ ours, channels_last": ("torchvision v2", "augment_gpu channels_last"),
    "torchvision v2 ÷ ours, contiguous": ("torchvision v2", "augment_gpu contiguous"),
    "Kornia ÷ ours, 256×256, channels_last": ("kornia 256x256", "augment_gpu 256x256"),
}


def measure(data: str | None) -> dict[str, Any]:
    """Milliseconds an image and the ratios, each with its spread over the rounds."""
    torch.set_num_threads(1)
    folder = ag.data.ImageFolder(data or ag.data.sample_dataset())
    chosen = np.linspace(0, len(folder) - 1, min(IMAGES, len(folder))).astype(int)
    images = [folder[int(i)][0] for i in chosen]
    seconds = paired(contenders(images), ROUNDS)
    pixels = [image.shape[0] * image.shape[1] for image in images]
    return {
        "images": len(images),
        "mean_pixels": float(np.mean(pixels)),
        "ms_per_image": {name: spread([1e3 * s / len(images) for s in values]) for name, values in seconds.items()},
        "ratio": {
            name: spread([slow / fast for slow, fast in zip(seconds[theirs], seconds[ours], strict=True)])
            for name, (theirs, ours) in RATIOS.items()
        },
    }


def _in_process(data: str | None, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", *([data] if data else [])]
    done = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.data)))
        return
    columns = {"glibc as it is": _in_process(options.data, {}), "memory kept": _in_process(options.data, KEEP_MEMORY)}
    print("| one thread, float32 224 | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name in columns["glibc as it is"]["ms_per_image"]:
        cells = (f"{column['ms_per_image'][name]['median']:.2f} ms" for column in columns.values())
        print(f"| {name} | " + " | ".join(cells) + " |")
    for name in RATIOS:
        cells = (
            f"{c['ratio'][name]['median']:.1f} ({c['ratio'][name]['low']:.1f}–{c['ratio'][name]['high']:.1f})"
            for c in columns.values()
        )
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("written to", save("cpu", {"machine": machine(), "rounds": ROUNDS, **columns}))


if __name__ == "__main__":
    main()
