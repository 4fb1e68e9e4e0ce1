"""RandAugment (2 ops, magnitude 9) of 256 pictures of 224 × 224 on one CPU thread: drawing it, and applying it.

    python benchmarks/bench_policies.py [DATA] [--save]

DATA: root/<class>/<image> (default: the built-in sample). All begin with uint8 pictures and end with one float32 batch
in [0, 1]: ours and Kornia's on the batch; torchvision v2's image by image, on tensors and on PIL images, converted
afterwards. The ops alone are measured too: torchvision's from uint8 to uint8, ours from floats to floats. All are
measured in turn. Prints a table; --save also writes results/policies-<machine>-<date>.json.
"""

import argparse
import os
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import torch
from common import machine, paired, save, spread
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import augment_gpu as ag
from augment_gpu import memory
from augment_gpu.data import ImageFolder, sample_dataset

KIND = "policies"
BATCH = 256
SIZE = 224
OURS = "augment_gpu"


def pictures(data: str | None) -> torch.Tensor:
    """(256, 3, 224, 224) uint8: squashed, each of another file while there are so many."""
    folder = ImageFolder(data or sample_dataset())
    chosen = np.linspace(0, len(folder) - 1, min(BATCH, len(folder))).astype(int)
    read = [torch.from_numpy(np.ascontiguousarray(folder[i][0])).permute(2, 0, 1) for i in chosen]
    squashed = torch.stack([F.resize(picture, [SIZE, SIZE], antialias=True) for picture in read])
    return squashed[torch.arange(BATCH) % len(squashed)]


def contenders(pixels: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Each call is another epoch."""
    from kornia.augmentation.auto import RandAugment

    index, epochs = np.arange(BATCH), iter(range(10**9))
    theirs, kornias = v2.RandAugment(num_ops=2, magnitude=9), RandAugment(n=2, m=9)
    pil = [F.to_pil_image(picture) for picture in pixels]
    ready = pixels / 255

    def floats() -> torch.Tensor:
        return memory.empty(pixels.shape, torch.float32).copy_(pixels).div_(255)

    def ours(images: torch.Tensor) -> torch.Tensor:
        return ag.rand_augment(images, ag.sample_rand_augment(ag.Key(0, next(epochs)), index))

    def finished(image: object) -> torch.Tensor:
        tensor: torch.Tensor = F.to_dtype(F.to_image(image), torch.float32, scale=True)
        return tensor

    return {
        OURS: lambda: ours(floats()),
        "torchvision v2, tensors": lambda: torch.stack([finished(theirs(picture)) for picture in pixels]),
        "torchvision v2, PIL": lambda: torch.stack([finished(theirs(picture)) for picture in pil]),
        "Kornia": lambda: kornias(floats()),
        f"{OURS}, the op alone": lambda: ours(ready),
        "torchvision v2, tensors, the op alone": lambda: [theirs(picture) for picture in pixels],
        "torchvision v2, PIL, the op alone": lambda: [theirs(picture) for picture in pil],
    }


def table(found: dict[str, Any]) -> str:
    """Of a result, what each takes, and how many times as long as ours, with quartiles."""
    lines = ["| RandAugment, one thread | ms an image | time ÷ ours |", "|---|---|---|"]
    for name, seconds in found["seconds"].items():
        each, ratio = 1e3 * seconds["median"] / found["batch"], found["ratio"][name]
        lines.append(f"| {name} | {each:.3f} | {ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f}) |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    load, index = os.getloadavg()[0], np.arange(BATCH)
    drawing = spread(paired({"draw": lambda: ag.sample_rand_augment(ag.Key(0), index)}, 100)["draw"])
    seconds = paired(contenders(pictures(options.data)), options.rounds)
    ratios = {
        name: spread([their / our for their, our in zip(values, seconds[OURS], strict=True)])
        for name, values in seconds.items()
    }
    times = {name: spread(values) for name, values in seconds.items()}
    found = {"batch": BATCH, "size": SIZE, "draw_seconds": drawing, "ratio": ratios, "seconds": times}
    print(f"drawing for {BATCH} samples: {1e3 * drawing['median']:.2f} ms\n\n{table(found)}")
    if options.save:
        about = {"kind": KIND, "date": f"{date.today()}", "machine": machine(), "load_average_before": load}
        print("\nwritten to", save(KIND, {**about, **found}))


if __name__ == "__main__":
    main()
