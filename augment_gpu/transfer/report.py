"""What a finished run came to, as one page: figures, curves, confusions, the worst mistakes as pictures, settings."""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from augment_gpu.data.sources import Dataset, sample_name
from augment_gpu.evaluate import Evaluation, evaluate
from augment_gpu.info import info
from augment_gpu.predict import BATCH_SIZE
from augment_gpu.ragged import as_array, as_hwc
from augment_gpu.results import save_confusion
from augment_gpu.transfer import page
from augment_gpu.transfer.checkpoint import load_checkpoint, load_json, write_atomically
from augment_gpu.transfer.run_folder import load_run

_MOST_MISTAKES = 24
_MOST_SKIPPED = 500
_THUMBNAIL = 224  # pixels of the longer side
# Of the names in metrics.jsonl: the first to be shown, words that begin those of shares, and what others are called.
_FIRST = "val_top1"
_SHARES = ("top", "balanced", "acc", "precision", "recall", "f1")
_NAMES = {
    "val_top1": "top-1",
    "val_top5": "top-5",
    "val_balanced": "mean accuracy of the classes",
    "val_loss": "validation loss",
    "train_loss": "training loss",
    "lr": "learning rate",
    "images": "images an epoch",
    "steps": "steps so far",
    "images_per_second": "images/s",
    "seconds": "seconds an epoch",
}
# Of the names in a TransferPlan: what they are called.
_PARTS = {
    "layers": "layers that train below the head",
    "probe": "head fitted to frozen features first",
    "lr": "learning rate of the head",
    "backbone_lr": "learning rate of the layers below",
    "layer_decay": "its factor from each layer to the next below",
    "batch_norm": "batch normalisation",
}


@dataclass(frozen=True)
class _Mistake:
    """index: in the dataset. confidence, of_truth: the probabilities, in [0, 1], of the two classes."""

    index: int
    label: int
    predicted: int
    confidence: float
    of_truth: float


def write_report(
    folder: Path,
    val_data: Dataset,
    *,
    skipped: Sequence[tuple[str, str]] = (),
    device: torch.device | str | None = None,
    workers: int | None = None,
    batch_size: int = BATCH_SIZE,
) -> Path:
    """Writes report.html into the folder of a run and returns its path: one file that needs nothing else.

    The weights of best.pt are evaluated once more, on val_data, for what metrics.jsonl does not hold: the confusions
    and the mistakes of which the model was surest. skipped: (path, reason) of training images that could not be read;
    those of val_data are found here. See augment_gpu.predict.open_loader for device. Raises FileNotFoundError or
    ValueError, naming the file, for a folder that holds no finished run, and what `evaluate` raises.
    """
    description, rows, best = _described(folder)
    run = load_run(folder)
    mistakes: list[_Mistake] = []

    def note(index: np.ndarray, probabilities: torch.Tensor, labels: torch.Tensor) -> None:
        confidence, predicted = probabilities.max(dim=1)
        of_truth = probabilities.gather(1, labels[:, None])[:, 0]
        for row in (predicted != labels).nonzero().flatten().tolist():
            mistakes.append(
                _Mistake(
                    int(index[row]), int(labels[row]), int(predicted[row]), float(confidence[row]), float(of_truth[row])
                )
            )

    evaluation = evaluate(
        run.model, run.recipe, val_data, run.classes, batch_size=batch_size, device=device, workers=workers, seen=note
    )
    worst = sorted(mistakes, key=lambda mistake: (-mistake.confidence, mistake.index))[:_MOST_MISTAKES]
    model, data = description["config"]["model"], description.get("data")
    sections = (
        _headline(model, data, evaluation, rows, best),
        _plan(description.get("plan")),
        _curves(rows, best),
        _confusion(evaluation),
        _by_class(evaluation),
        _mistakes(worst, len(mistakes), val_data, run.classes),
        _settings(description),
        _skipped([*skipped, *evaluation.skipped]),
        page.section("Environment", page.preformatted(info())),
    )
    document = page.page(f"{model} on {_data_name(data)}", "\n".join(filter(None, sections)))
    output = folder / "report.html"
    write_atomically(output, lambda file: file.write(document))
    return output


def _described(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """What config.json says, the rows of metrics.jsonl, and the one of them that best.pt is of."""
    path = folder / "config.json"
    description = load_json(path)
    if not isinstance(description, dict) or not all(
        isinstance(description.get(name), dict) for name in ("config", "recipe")
    ):
        raise ValueError(f"{path} is not the description of a run; config and recipe are wanted")
    if not isinstance(description["config"].get("model"), str) or not isinstance(description.get("data"), str | None):
        raise ValueError(f"{path} is not the description of a run; the name of a model and the path of data are wanted")
    path = folder / "metrics.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is not of a finished run; an object for each epoch is wanted")
    path = folder / "best.pt"
    best = load_checkpoint(path).get("metrics")
    if not isinstance(best, dict) or not isinstance(best.get("epoch"), int) or not 0 <= best["epoch"] < len(rows):
        raise ValueError(f"{path} has metrics {best!r}; those of one of {len(rows)} epochs are wanted")
    return description, rows, best


def _headline(
    model: str, data: str | None, evaluation: Evaluation, rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any]
) -> str:
    results = sorted((name for name in best if name != "epoch"), key=lambda name: (name != _FIRST, name[:4] != "val_"))
    figures = [(_name(name), _value(name, best[name])) for name in results]
    figures[1:1] = [
        ("best epoch", f"{best['epoch'] + 1} of {len(rows)}"),
        ("classes", f"{len(evaluation.classes)}"),
        ("validation images", f"{evaluation.images}"),
    ]
    return "\n".join(
        (
            f"<header>\n<h1>{page.text(model)} on {page.text(_data_name(data))}</h1>",
            page.paragraph(f"The figures of the best epoch. Written on {datetime.now():%Y-%m-%d at %H:%M}."),
            page.figures(figures),
            "</header>",
        )
    )


def _plan(plan: Any) -> str:
    """A TransferPlan's reason, then its other fields."""
    if not isinstance(plan, dict):
        return ""
    choices = {name: page.words(value) for name, value in plan.items() if name != "reason"}
    if plan.get("layers", 0) is None:
        choices["layers"] = "all"
    named = [(_PARTS.get(name, _name(name)), choice) for name, choice in choices.items()]
    reason = page.paragraph(plan["reason"]) if isinstance(plan.get("reason"), str) else ""
    return page.section("Plan", reason, page.table(("part", "choice"), named, words_from=1))


def _curves(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row if name != "epoch"))
    mark = best["epoch"] if len(rows) > 1 else None

    def chart(title: str, chosen: Callable[[str], bool], percent: bool = False) -> str:
        series = {_name(name): [page.finite(row.get(name)) for row in rows] for name in names if chosen(name)}
        return page.chart(title, series, best=mark, percent=percent)

    return page.section(
        "Curves",
        '<div class="charts">',
        chart("loss", lambda name: "loss" in name),
        chart("share of images", _is_share, percent=True),
        chart("learning rate", lambda name: name.split("_")[0] == "lr"),
        "</div>",
        "<details><summary>All epochs in figures</summary>",
        page.table(
            ("epoch", *map(_name, names)),
            [(f"{number}", *(_value(name, row.get(name)) for name in names)) for number, row in enumerate(rows, 1)],
        ),
        "</details>",
    )


def _confusion(evaluation: Evaluation) -> str:
    file = io.BytesIO()
    save_confusion(evaluation, file)
    among_several = f", top-{evaluation.k} {evaluation.topk:.1%}" if evaluation.k < len(evaluation.classes) else ""
    return page.section(
        "Confusion",
        page.paragraph(
            f"The weights of the best epoch, evaluated once more: top-1 {evaluation.top1:.1%}{among_several}, "
            f"negative log-likelihood {evaluation.nll:.4f}, "
            f"expected calibration error {evaluation.calibration_error:.4f}."
        ),
        page.large_picture(file.getvalue(), "png", alt="confusion matrix, a row for each true class"),
    )


def _by_class(evaluation: Evaluation) -> str:
    rows = []
    for label, row in enumerate(evaluation.per_class()):
        others = [0 if other == label else count for other, count in enumerate(evaluation.confusion[label])]
        most = max(others)
        rows.append((row, f"{evaluation.classes[others.index(most)]} ({most})" if most else ""))
    rows.sort(key=lambda entry: 2 if entry[0]["accuracy"] is None else entry[0]["accuracy"])
    return page.section(
        "Classes, the worst first",
        page.table(
            ("class", "images", "correct", "accuracy", "most often taken for"),
            [
                (
                    row["class"],
                    f"{row['images']}",
                    f"{row['correct']}",
                    "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}",
                    taken_for,
                )
                for row, taken_for in rows
            ],
            words_from=4,
        ),
    )


def _mistakes(worst: Sequence[_Mistake], total: int, data: Dataset, classes: Sequence[str]) -> str:
    if not worst:
        return page.section("Mistakes", page.paragraph("None: every validation image was recognised."))
    few = f"the {len(worst)} of which the model was surest" if total > len(worst) else "all of them, the surest first"
    shown = []
    for mistake in worst:
        path = sample_name(data, mistake.index)
        truth, taken_for = classes[mistake.label], classes[mistake.predicted]
        shown.append(
            f"<figure>{_picture(data, mistake.index, truth, taken_for)}\n"
            f'<figcaption><span title="{page.text(path)}">{page.text(os.path.basename(path))}</span><br>\n'
            f"true: {page.text(truth)} ({mistake.of_truth:.1%})<br>\n"
            f"predicted: {page.text(taken_for)} ({mistake.confidence:.1%})</figcaption></figure>"
        )
    return page.section(
        "Mistakes",
        page.paragraph(f"Validation images taken for another class: {total}. Here are {few}."),
        '<div class="pictures">',
        *shown,
        "</div>",
    )


def _picture(data: Dataset, index: int, truth: str, taken_for: str) -> str:
    """The whole image, small; or why it cannot be read any more."""
    try:
        pixels = as_hwc(as_array(data[index][0]), sample_name(data, index)).numpy()
    except (OSError, ValueError) as error:
        return f'<div class="missing">{page.text(str(error))}</div>'
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] < 3 else np.ascontiguousarray(pixels[:, :, :3]))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return page.picture(file.getvalue(), "jpeg", alt=f"{truth}, taken for {taken_for}")


def _skipped(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return ""
    reasons = [(path, reason.removeprefix(f"{path}: ")) for path, reason in skipped[:_MOST_SKIPPED]]
    first = f"; the first {_MOST_SKIPPED} of them" if len(skipped) > _MOST_SKIPPED else ""
    return page.section(
        "Skipped images",
        page.paragraph(f"Could not be read: {len(skipped)}{first}."),
        page.table(("file", "reason"), reasons, words_from=1),
    )


def _settings(description: Mapping[str, Any]) -> str:
    config = {"data": description.get("data"), **description["config"]}
    return page.section(
        "Settings",
        '<div class="sides">',
        page.fields("recipe", description["recipe"]),
        page.fields("configuration", config),
        "</div>",
    )


def _data_name(data: str | None) -> str:
    return "the built-in sample" if data is None else os.path.basename(data) or data


def _is_share(name: str) -> bool:
    return any(part.startswith(_SHARES) for part in name.split("_"))


def _name(name: str) -> str:
    return _NAMES.get(name, name.replace("_", " "))


def _value(name: str, value: Any) -> str:
    return f"{value:.1%}" if _is_share(name) and page.finite(value) is not None else page.words(value)
