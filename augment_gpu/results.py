"""Evaluations and predictions as a reader sees them: tables, CSV, and a picture of the confusion matrix."""

import csv
import io
import re
import warnings
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from augment_gpu.evaluate import Evaluation
from augment_gpu.predict import Prediction

# Of more classes the counts would not be legible, their cells keep the colour alone; nor would all the names.
_MOST_WITH_COUNTS = 40
_MOST_NAMES = 100


def print_evaluation(evaluation: Evaluation) -> None:
    """Two tables on stdout: the figures, then each class."""
    figures = _table("", "")
    for name, value in (
        ("top-1", f"{evaluation.top1:.2%}"),
        (f"top-{evaluation.k}", f"{evaluation.topk:.2%}"),
        ("negative log-likelihood", f"{evaluation.nll:.4f}"),
        ("expected calibration error", f"{evaluation.calibration_error:.4f}"),
        ("images", f"{evaluation.images}"),
        ("images/s", f"{evaluation.images_per_second:.1f}"),
        ("views an image", f"{evaluation.views}"),
        ("cost, in crops", f"{evaluation.cost:.2f}"),
    ):
        figures.add_row(name, value)
    figures.show_header = False
    by_class = _table("class", "images", "correct", "accuracy")
    for row in evaluation.per_class():
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.1%}"
        by_class.add_row(_text(row["class"]), str(row["images"]), str(row["correct"]), accuracy)
    _print(figures, by_class)


def print_predictions(predictions: Sequence[Prediction]) -> None:
    """One row an image on stdout, the path and then classes with their probabilities: a table where that is a terminal,
    else columns between tabs. Nothing where there are none."""
    if not predictions:
        return
    if not Console().is_terminal:
        for prediction in predictions:
            fields = [field for name, value in prediction.top for field in (name, f"{value:.4f}")]
            print(*(printable(field) for field in (prediction.path, *fields)), sep="\t")
        return
    table = _table("image", *(f"{rank}" for rank in range(1, len(predictions[0].top) + 1)))
    for prediction in predictions:
        table.add_row(_text(prediction.path), *(_text(f"{name} {value:.1%}") for name, value in prediction.top))
    _print(table)


def predictions_csv(predictions: Sequence[Prediction]) -> bytes:
    """Columns path, rank (from 1), class, probability; in UTF-8, but for the bytes of paths that are none."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "rank", "class", "probability"])
    for prediction in predictions:
        for rank, (name, value) in enumerate(prediction.top, start=1):
            writer.writerow([prediction.path, rank, name, f"{value:.7g}"])
    return text.getvalue().encode(errors="surrogateescape")


def save_confusion(evaluation: Evaluation, file: BinaryIO) -> None:
    """A PNG of the confusion matrix: in each cell the count, its colour the share of the true class's images."""
    from matplotlib.figure import Figure

    counts = np.array(evaluation.confusion)
    classes = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with_counts = classes <= _MOST_WITH_COUNTS
    cell = 0.5 if with_counts else 20 / classes  # inches
    ticks = range(0, classes, -(-classes // _MOST_NAMES))
    names = [_shortened(printable(evaluation.classes[tick])) for tick in ticks]
    label = 10 if with_counts else 8  # points
    figure = Figure(figsize=(cell * classes + 3.5, cell * classes + 2.5), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(ticks, names, rotation=90 if classes > 5 else 30, fontsize=label, parse_math=False)
    axes.set_yticks(ticks, names, fontsize=label, parse_math=False)
    if classes <= 5:
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(
        f"top-1 {evaluation.top1:.1%} of {evaluation.images} images\n"
        f"{evaluation.views} {'view' if evaluation.views == 1 else 'views'} an image"
    )
    if with_counts:
        axes.set_xticks(np.arange(1, classes) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, classes) - 0.5, minor=True)
        axes.tick_params(which="minor", length=0)
        axes.grid(which="minor", color="0.85", linewidth=0.8)
        for row, column in np.ndindex(counts.shape):
            shade = "white" if share[row, column] > 0.6 else "black" if counts[row, column] else "0.6"
            digits = len(str(counts[row, column]))
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", color=shade,
                fontsize=10 if digits < 5 else 45 / digits,
            )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("share of the true class")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a character that matplotlib's font lacks becomes a box
        figure.savefig(file, format="png", dpi=120)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _print(*tables: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)  # a file has no edge at which to fold a line
    with console.capture() as captured:  # rich itself would end the program at a closed pipe
        for table in tables:
            console.print(table)
    print(captured.get(), end="")


def _text(value: str) -> Text:
    """As it is: in a plain string rich would read square brackets as markup."""
    return Text(printable(value))


def printable(text: str) -> str:
    """Escaped where it holds what a path may: bytes that are no UTF-8, which print would refuse, line breaks and tabs,
    which would end a row or a column, and control characters, which a terminal would obey."""
    decoded = text.encode(errors="backslashreplace").decode()
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: found[0].encode("unicode_escape").decode(), decoded)


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
