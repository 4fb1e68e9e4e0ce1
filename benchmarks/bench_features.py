"""What it saves to compute features once: the same linear head, trained through the frozen network or on its features.

    python benchmarks/bench_features.py [DATA] [--model resnet18] [--size 128] [--views 10] [--device cpu]

DATA: root/<class>/<image> (default: the built-in sample). The weights are random: they decide no time. An epoch is one
augmented view of each of --images images, in batches of 64, with a step of SGD on the head after each. Through the
network it reads, decodes and augments them and computes their features, in no gradient; on features it takes those of
one view from the file. Both kinds of epoch are timed in turn. Prints the ratio, what it took to compute the features of
all views, and the seconds of the two heads that are fitted to them; writes results/features-<date>.json.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import timm
import torch
from common import machine, paired, save, spread
from torch import nn
from torch.nn import functional as F

import augment_gpu as ag
from augment_gpu.data import ImageFolder, sample_dataset, subset
from augment_gpu.transfer.features import Features, extract_features
from augment_gpu.transfer.heads import fit_logistic, fit_mlp

KIND = "features"
BATCH = 64
ROUNDS = 3


def probe(width: int, classes: int, device: str) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A step of SGD on a new linear head."""
    head = nn.Linear(width, classes).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9)

    def step(features: torch.Tensor, labels: torch.Tensor) -> None:
        loss = F.cross_entropy(head(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def epochs(
    model: Any, loader: ag.Loader, features: Features, classes: int, device: str
) -> dict[str, Callable[[], object]]:
    """One epoch of each kind; each call is the next one."""
    images, views, width = features.values.shape
    random = np.random.default_rng(0)
    through, stored = probe(width, classes, device), probe(width, classes, device)

    def network() -> None:
        for pictures, labels in loader:
            with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=device != "cpu"):
                seen = model.forward_head(model.forward_features(pictures), pre_logits=True)
            through(seen.float(), labels)
        finish()

    def file() -> None:
        order, view = random.permutation(images), random.integers(views)
        for start in range(0, images, BATCH):
            rows = order[start : start + BATCH]
            seen = torch.from_numpy(features.values[rows, view].astype(np.float32))
            stored(seen.to(device), torch.from_numpy(features.labels[rows]).to(device))
        finish()

    def finish() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    return {"through the network": network, "on features": file}


def measure(options: argparse.Namespace, cache: str) -> dict[str, Any]:
    folder = ImageFolder(options.data or sample_dataset())
    chosen = np.linspace(0, len(folder) - 1, min(options.images, len(folder))).astype(int)
    dataset, classes = subset(folder, chosen), len(folder.classes)
    recipe = ag.Recipe(size=options.size)
    torch.manual_seed(0)
    model = timm.create_model(options.model, num_classes=classes).eval().to(options.device)
    start = time.perf_counter()
    features = extract_features(model, dataset, recipe, model_name=options.model, views=options.views, cache=cache)
    extraction = time.perf_counter() - start
    loader = ag.Loader(dataset, BATCH, ag.Stage(recipe), device=options.device)
    seconds = paired(epochs(model, loader, features, classes, options.device), ROUNDS)
    ratios = [whole / part for whole, part in zip(*seconds.values(), strict=True)]
    fits = {}
    for name, fit in (("logistic regression", fit_logistic), ("mlp", fit_mlp)):
        start = time.perf_counter()
        fit(features.values, features.labels, classes)
        fits[name] = time.perf_counter() - start
    return {
        "images": len(dataset),
        "views": options.views,
        "width": features.values.shape[2],
        "classes": classes,
        "epoch_seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": spread(ratios),
        "extraction_seconds": extraction,
        "fit_seconds": fits,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--views", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as cache:
        found = measure(options, cache)
    print(f"| an epoch of {found['images']} images, {options.model}, {options.device} | seconds |\n|---|---|")
    for name, figure in found["epoch_seconds"].items():
        print(f"| {name} | {figure['median']:.4f} ({figure['low']:.4f}–{figure['high']:.4f}) |")
    print(f"\n{found['ratio']['median']:.0f} times as fast ({found['ratio']['low']:.0f}–{found['ratio']['high']:.0f})")
    print(f"features of {found['views']} views: {found['extraction_seconds']:.1f} s, once")
    for name, fit in found["fit_seconds"].items():
        print(f"{name} on all of them: {fit:.1f} s")
    about = {"kind": KIND, "date": f"{date.today()}", "machine": machine(), "load_average_before": load}
    about |= {"model": options.model, "size": options.size, "device": options.device}
    print("written to", save("features", {**about, **found}))


if __name__ == "__main__":
    main()
