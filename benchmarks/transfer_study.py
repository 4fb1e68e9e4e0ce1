"""Which part of a pretrained network to train: few and many images, similar to the pretraining and very different.

    python benchmarks/transfer_study.py TRAIN.zip TEST.zip DIFFERENT.zip [--output FOLDER]

TRAIN, TEST: CIFAR-10 as image files, <anything>/<class>/<picture>. DIFFERENT: other pictures of that layout, such as
MNIST's digits. A small network is pretrained on five of CIFAR-10's classes; the other five are the similar data, the
digits the different. Of each, few (20 a class) and many (400 a class) are learned by every strategy, three times from
other pictures and other random numbers; accuracies are on 200 pictures a class that none of them saw. Prints a table
for each of the four, writes results/transfer-study-<machine>-<date>.json and docs/transfer.png. What was finished when
it was stopped is kept in --output.
"""

import argparse
import statistics
import zipfile
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

from common import machine, save

from augment_gpu.data import ImageFolder
from augment_gpu.recipe import Recipe
from augment_gpu.transfer.compare import Outcome, by_strategy, compare, comparison_table, scratch_sentences
from augment_gpu.transfer.model import create_model, normalization
from augment_gpu.transfer.plan import TransferPlan, recommend
from augment_gpu.transfer.similarity import Similarity, measure_similarity
from augment_gpu.transfer.train import train

KIND = "transfer-study"
PICTURE = Path(__file__).parents[1] / "docs" / "transfer.png"
PRETRAINED_ON = ("airplane", "automobile", "bird", "cat", "deer")
SIMILAR = ("dog", "frog", "horse", "ship", "truck")
FEW, MANY, TEST = 20, 400, 200  # pictures of each class
EPOCHS = {"few": 30, "many": 10}
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


def extract(archive: Path, folder: Path, classes: Collection[str], first: int, count: int) -> None:
    """Writes pictures first … first + count − 1 of each class, in the order of their names, to folder/<class>/."""
    met: Counter[str] = Counter()
    with zipfile.ZipFile(archive) as files:
        for name in sorted(files.namelist()):
            *_, label, picture = ("", *name.split("/"))
            if not picture or (classes and label not in classes):
                continue
            met[label] += 1
            if first < met[label] <= first + count:
                target = folder / label / picture
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(files.read(name))


def pretrain(options: argparse.Namespace) -> Path:
    """The weights of a network that knows five classes."""
    data, run = options.output / "pretraining-data", options.output / "pretraining"
    if not data.exists():
        extract(options.train, data / "train", PRETRAINED_ON, 0, options.pretraining_images)
        extract(options.test, data / "val", PRETRAINED_ON, 0, TEST)
    train(str(data), run, PRETRAINING, resume=(run / "config.json").exists())
    return run / "best.pt"


def choose(options: argparse.Namespace, weights: Path, data: Path) -> tuple[Similarity, TransferPlan]:
    """What `--strategy auto` measures and chooses for this folder."""
    dataset = ImageFolder(data / "train")
    model = create_model(PRETRAINING["model"], len(dataset.classes), weights=str(weights))
    recipe = Recipe(size=PRETRAINING["size"], **normalization(model))
    measured = measure_similarity(model, dataset, recipe=recipe, model_name=PRETRAINING["model"])
    return measured, recommend(len(dataset), len(dataset.classes), measured.score)


def quadrant(options: argparse.Namespace, weights: Path, kind: str, amount: str) -> dict[str, Any]:
    """One of the four: similarity, the strategy that follows from it, and the outcome of all of them."""
    archives = (options.train, options.test) if kind == "similar" else (options.different, options.different)
    classes = SIMILAR if kind == "similar" else ()
    count = FEW if amount == "few" else MANY
    # The different pictures are one archive: what is tested lies behind all that is trained on.
    held = 0 if kind == "similar" else SEEDS * MANY
    outcomes: list[Outcome] = []
    for seed in range(SEEDS):
        folder = options.output / f"{kind}-{amount}-{seed}"
        if not (folder / "data").exists():
            extract(archives[0], folder / "making" / "train", classes, seed * count, count)
            extract(archives[1], folder / "making" / "val", classes, held, TEST)
            (folder / "making").rename(folder / "data")
        settings = {
            "model": PRETRAINING["model"],
            "weights": str(weights),
            "size": PRETRAINING["size"],
            "batch_size": 32 if amount == "few" else 64,
            "epochs": EPOCHS[amount],
            "seed": seed,
        }
        outcomes += compare(str(folder / "data"), folder, settings, strategies=STRATEGIES, seeds=1)
    measured, plan = choose(options, weights, options.output / f"{kind}-{amount}-0" / "data")
    return {
        "data": kind,
        "images": amount,
        "per_class": count,
        "similarity": asdict(measured) | {"score": measured.score},
        "chosen": plan.strategy,
        "reason": plan.reason,
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
    parser.add_argument("different", type=Path)
    parser.add_argument("--pretraining-images", type=int, default=4000, help="of each class (4000)")
    parser.add_argument("--output", type=Path, default=Path("transfer-study"), help="(transfer-study)")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    weights = pretrain(options)
    rows = [quadrant(options, weights, kind, amount) for kind in ("similar", "different") for amount in EPOCHS]
    print(tables(rows))
    result = {
        "kind": KIND,
        "date": date.today().isoformat(),
        "machine": machine(),
        "data": {name: getattr(options, name).name for name in ("train", "test", "different")},
        "pretraining": {**PRETRAINING, "images": options.pretraining_images, "classes": list(PRETRAINED_ON)},
        "epochs": EPOCHS,
        "seeds": SEEDS,
        "test": TEST,
        "rows": rows,
    }
    draw(rows, PICTURE)
    print("written to", save("transfer-study", result), "and", PICTURE)


if __name__ == "__main__":
    main()
