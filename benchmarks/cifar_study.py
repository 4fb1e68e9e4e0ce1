"""Cutout and mixup on CIFAR-10: test errors of DeVries & Taylor's ResNet-18, plain, with cutout, and with mixup.

    python benchmarks/cifar_study.py TRAIN.zip TEST.zip [--epochs 200] [--seeds 3] [--at-once 1] [--output FOLDER]

TRAIN, TEST: CIFAR-10 as image files, <anything>/<class>/<picture>. All runs have DeVries & Taylor's settings (SGD with
Nesterov momentum, batch 128, weight decay 5e-4, pictures padded by four pixels, cropped and mirrored) but for the
schedule, half a cosine, and their number of epochs. The papers' test errors after 200 epochs: 4.72 % plain and 3.99 %
with cutout of 16 × 16 (DeVries & Taylor 2017); 5.6 % plain and 4.2 % with mixup at α = 1 (Zhang et al. 2018, whose
PreAct ResNet-18 and settings are others).

--at-once: so many runs share the GPU. Prints a table and writes results/cifar-study-<machine>-<date>.json, with the
images a second of the training and of the data stage alone. What was finished when it was stopped is kept in --output.
"""

import argparse
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import timm
import torch
from archives import extract
from common import RESULTS, machine, save
from PIL import Image, ImageOps
from timm.models import register_model
from torch import nn

from augment_gpu import Recipe, Stage
from augment_gpu.data import ImageFolder, InMemory, Loader
from augment_gpu.transfer.checkpoint import load_json
from augment_gpu.transfer.config import usable_device
from augment_gpu.transfer.train import train

KIND = "cifar-study"
ARMS: dict[str, dict[str, Any]] = {"plain": {}, "cutout 16": {"cutout": 16}, "mixup 1.0": {"mixup_alpha": 1.0}}
PAPERS = {"plain": "4.72, 5.6", "cutout 16": "3.99", "mixup 1.0": "4.2"}
SIZE, PADDING, BATCH = 32, 4, 128
# Of the padded pictures a random part at their own scale; to evaluate, the test pictures as they are.
CROP = {"crop": "scale_jitter", "short_side": [SIZE + 2 * PADDING] * 2, "resize": SIZE}
# What a run would choose by itself for so many images, unless told otherwise.
NOTHING_ELSE = {"mixup_alpha": 0.0, "label_smoothing": 0.0}
COLORS = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}
_ALL = 10**9


@register_model
def cifar_resnet18(pretrained: bool = False, **options: Any) -> nn.Module:
    """ResNet-18 for small pictures: its first convolution is 3 × 3 and takes every pixel, and no pooling follows it."""
    model = timm.create_model("resnet18", **options)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def make_data(options: argparse.Namespace, folder: Path) -> None:
    """folder/train, padded with black, and folder/val; as PPM files, which take no time to read."""
    for name, archive, count, padding in (
        ("train", options.train, options.train_images, PADDING),
        ("val", options.test, options.test_images, 0),
    ):
        extract(archive, folder / name, count or _ALL)
        for path in sorted((folder / name).glob("*/*")):
            with Image.open(path) as picture:
                padded = ImageOps.expand(picture.convert("RGB"), padding)
            path.unlink()
            padded.save(path.with_suffix(".ppm"))


def settings_of(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": cifar_resnet18.__name__,
        "scratch": True,
        "size": SIZE,
        "epochs": options.epochs,
        "batch_size": BATCH,
        "optimizer": "sgd",
        "lr": 0.1,
        "weight_decay": 5e-4,
        "warmup_epochs": min(1.0, options.epochs / 10),
        "seed": seed,
        "device": options.device,
        "recipe": recipe_of(arm),
    }


def recipe_of(arm: str) -> dict[str, Any]:
    return {**CROP, **COLORS, **NOTHING_ELSE, **ARMS[arm]}


def run_folder(arm: str, seed: int, options: argparse.Namespace) -> Path:
    return options.output / f"{arm.replace(' ', '-')}-{seed}"


def run_one(arm: str, seed: int, data: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The metrics of each epoch; of a run that had begun, it goes on."""
    output = run_folder(arm, seed, options)
    begun = (output / "config.json").exists()
    if not begun:  # it was stopped before there was anything to go on from
        shutil.rmtree(output, ignore_errors=True)
    return train(str(data), output, settings_of(arm, seed, options), resume=begun)


def stage_alone(data: Path, arm: str, options: argparse.Namespace) -> float:
    """Images a second of the loader and its stage, with no training behind them, in the second epoch: the first one
    decodes the images, which then stay in memory, as they do in training."""
    recipe = Recipe(size=SIZE, num_classes=10, **recipe_of(arm))
    device = usable_device(options.device)
    loader = Loader(InMemory(ImageFolder(data / "train"), 2**30), BATCH, Stage(recipe), device=device)
    for _ in range(2):
        begin, images = time.perf_counter(), 0
        for pictures, _ in loader:
            images += len(pictures)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - begin
    return images / seconds


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| | test error, % | runs | epochs | the papers, 200 epochs | training, images/s | data alone, images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        errors = [100 * error for error in row["errors"]]
        spread = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
        lines.append(
            f"| {row['arm']} | {statistics.mean(errors):.2f}{spread} | {len(errors)} | {row['epochs']} | "
            f"{PAPERS[row['arm']]} | {row['training_images_per_second']:.0f} | {row['stage_images_per_second']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=1, help="runs at a time (1)")
    parser.add_argument("--train-images", type=int, help="of each class (all)")
    parser.add_argument("--test-images", type=int, help="of each class (all)")
    parser.add_argument("--device", help="(a GPU where there is one)")
    parser.add_argument("--output", type=Path, default=Path("cifar-study"), help="(cifar-study)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON file")
    options = parser.parse_args()
    data = options.output / f"data-{options.train_images or 'all'}-{options.test_images or 'all'}"
    if not data.exists():
        shutil.rmtree(options.output / "making", ignore_errors=True)
        make_data(options, options.output / "making")
        (options.output / "making").rename(data)
    stage = {arm: stage_alone(data, arm, options) for arm in ARMS}
    runs = [(arm, seed) for seed in range(options.seeds) for arm in ARMS]
    with ProcessPoolExecutor(options.at_once, mp_context=get_context("spawn")) as pool:
        started = {(arm, seed): pool.submit(run_one, arm, seed, data, options) for arm, seed in runs}
        metrics = {run: future.result() for run, future in started.items()}
    rows = []
    for arm in ARMS:
        found = [metrics[arm, seed] for seed in range(options.seeds)]
        rates = [row["images_per_second"] for epochs in found for row in epochs]
        rows.append(
            {
                "arm": arm,
                "recipe": load_json(run_folder(arm, 0, options) / "config.json")["recipe"],
                "epochs": options.epochs,
                "errors": [1 - epochs[-1]["val_top1"] for epochs in found],  # of the last epoch, as the papers have it
                "training_images_per_second": statistics.median(rates),
                "stage_images_per_second": stage[arm],
                "metrics": found,
            }
        )
    print(table(rows))
    shown = {name: getattr(options, name) for name in ("epochs", "seeds", "at_once", "train_images", "test_images")}
    found = {"kind": KIND, "date": date.today().isoformat(), "machine": machine(), **shown, "rows": rows}
    print("written to", save(KIND, found, options.results))


if __name__ == "__main__":
    main()
