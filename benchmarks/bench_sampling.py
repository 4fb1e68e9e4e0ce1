"""Host time to draw everything for one batch: crop with its ten tries, flip, hole, mixing.

    python benchmarks/bench_sampling.py

One core. Prints a table, and writes results/sampling-<machine>-<date>.json.
"""

import argparse
from collections.abc import Callable
from datetime import date

import numpy as np
from common import machine, paired, save, spread

import augment_gpu as ag

KIND = "sampling"
BATCH = 256
ROUNDS = 300


def contenders() -> dict[str, Callable[[], object]]:
    index = np.arange(BATCH)
    heights, widths = np.full(BATCH, 375), np.full(BATCH, 500)
    key = ag.Key(0, 0)
    parts: dict[str, Callable[[], object]] = {
        "crop and flip": lambda: ag.sample_random_resized_crop(key, index, heights, widths),
        "hole": lambda: ag.sample_cutout(key, index),
        "mixup": lambda: ag.sample_mixup(key, index),
    }
    return {
        **parts,
        "all of these": lambda: [draw() for draw in parts.values()],
        "scale jitter and flip": lambda: ag.sample_scale_jitter_crop(key, index, heights, widths),
        "random erasing": lambda: ag.sample_random_erasing(key, index),
        "cutmix": lambda: ag.sample_cutmix(key, index),
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    figures = {name: spread([1e6 * s for s in seconds]) for name, seconds in paired(contenders(), ROUNDS).items()}
    print(f"| draws for {BATCH} images of 500×375 | µs, median | quartiles |\n|---|---|---|")
    for name, figure in figures.items():
        print(f"| {name} | {figure['median']:.0f} | {figure['low']:.0f}–{figure['high']:.0f} |")
    found = {"kind": KIND, "date": date.today().isoformat(), "machine": machine(), "batch": BATCH}
    print("written to", save("sampling", found | {"microseconds": figures}))


if __name__ == "__main__":
    main()
