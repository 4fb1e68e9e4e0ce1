"""What views at test time are worth: accuracy and cost of 1, 2, 10 and 50 views of a network trained here.

    python benchmarks/tta_study.py TRAIN.zip TEST.zip [--output FOLDER]

TRAIN, TEST: zip files of pictures, <anything>/<class>/<picture>, such as CIFAR-10 as image files. Takes the first
--train-images and --test-images of each class, trains a small network on them from random weights, evaluates it on the
others, prints a table and writes results/tta-study-<machine>-<date>.json. The defaults take a quarter of an hour on two
cores.
"""

import argparse
import tempfile
from datetime import date
from pathlib import Path
from typing import Any, get_args

from archives import extract
from common import machine, save

from augment_gpu.data import ImageFolder
from augment_gpu.evaluate import evaluate
from augment_gpu.predict import Mode
from augment_gpu.transfer.run_folder import load_run
from augment_gpu.transfer.train import train

KIND = "tta-study"


def study(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Trains and evaluates; all that the table needs, as JSON has it."""
    counts = {
        name: extract(archive, scratch / "data" / name, per_class)
        for name, archive, per_class in (
            ("train", options.train, options.train_images),
            ("val", options.test, options.test_images),
        )
    }
    settings = {
        "model": options.model,
        "scratch": True,
        "epochs": options.epochs,
        "batch_size": 128,
        "size": options.size,
        "recipe": {"scale": [0.25, 1.0]},
    }
    output = options.output or scratch / "run"
    metrics = train(str(scratch / "data"), output, settings)
    run = load_run(output, "last")
    dataset = ImageFolder(scratch / "data" / "val", classes=run.classes)
    rows = [evaluate(run.model, run.recipe, dataset, run.classes, tta=mode) for mode in get_args(Mode)]
    shown = ("tta", "views", "images", "top1", "nll", "calibration_error", "images_per_second", "cost")
    return {
        "settings": settings,
        "images": counts,
        "classes": run.classes,
        "training": metrics,
        "rows": [{name: getattr(row, name) for name in shown} for row in rows],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| views | top-1 | negative log-likelihood | calibration error | cost |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['views']} ({row['tta']}) | {row['top1']:.1%} | {row['nll']:.3f} | {row['calibration_error']:.3f} | "
        f"{row['cost']:.1f} × |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--train-images", type=int, default=1000, help="of each class (1000)")
    parser.add_argument("--test-images", type=int, default=200, help="of each class (200)")
    parser.add_argument("--model", default="resnet10t")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=Path, help="keeps the run in this folder (none: it is forgotten)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = study(options, Path(scratch))
    print(table(result["rows"]))
    data = {"train": options.train.name, "test": options.test.name}
    path = save("tta-study", {"kind": KIND, "date": f"{date.today()}", "machine": machine(), "data": data, **result})
    print("written to", path)


if __name__ == "__main__":
    main()
