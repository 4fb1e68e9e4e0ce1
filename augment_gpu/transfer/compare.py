"""Strategies beside each other on the same data: accuracy with its spread, time, and what random weights cost."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from augment_gpu.transfer.checkpoint import save_json, write_atomically
from augment_gpu.transfer.config import TrainConfig
from augment_gpu.transfer.plan import STRATEGIES
from augment_gpu.transfer.train import train

_FINE_TUNED = ("top", "full", "lp-ft")


@dataclass(frozen=True)
class Outcome:
    """One run. top1: the best of its epochs, on the validation images. seconds: of training. images: that went through
    the network to train it, views counted. steps: at which it reached top1; 0 where a head was fitted. curve: (steps,
    images, top-1) after each epoch, counted from the run's start."""

    strategy: str
    seed: int
    top1: float
    seconds: float
    images: int
    steps: int
    curve: list[tuple[int, int, float]]


def compare(
    data: str | None,
    output: Path,
    given: Mapping[str, Any],
    *,
    strategies: Sequence[str] = STRATEGIES,
    seeds: int = 3,
    scratch_epochs: int | None = None,
) -> list[Outcome]:
    """Trains each strategy with each of so many seeds, in folders <strategy>-<seed> of `output`, and writes
    compare.json, compare.md and compare.png there.

    data, given: see augment_gpu.transfer.train.train; an `epochs` in `given` is everybody's but scratch's, which has
    scratch_epochs, or three times as many. Seeds count up from given's. A comparison that was stopped goes on where it
    was when it is called again; the runs that are there keep their settings.

    Raises ValueError for a strategy that there is not, or for settings that would choose it.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; it must be at least 1")
    if scratch_epochs is not None and scratch_epochs < 1:
        raise ValueError(f"scratch_epochs is {scratch_epochs}; it must be at least 1")
    if len(set(strategies)) < len(strategies):
        raise ValueError(f"strategies names one twice: {', '.join(strategies)}")
    for strategy in strategies:
        if strategy not in STRATEGIES:
            raise ValueError(f"strategies names {strategy!r}; known are {', '.join(STRATEGIES)}")
    for name in ("scratch", "strategy"):
        if given.get(name):
            raise ValueError(f"{name} is {given[name]!r}; a comparison runs every strategy in turn")
    first = given.get("seed", TrainConfig.seed)
    outcomes = []
    for seed in range(first, first + seeds):
        for strategy in strategies:
            folder = output / f"{strategy}-{seed}"
            print(f"{strategy}, seed {seed}: {folder}", flush=True)
            settings = {**given, "strategy": strategy, "seed": seed}
            if strategy == "scratch":
                settings.pop("weights", None)
                if scratch_epochs is not None or "epochs" in given:
                    settings["epochs"] = scratch_epochs or 3 * given["epochs"]
            metrics = train(data, folder, settings, resume=(folder / "config.json").exists())
            outcomes.append(_outcome(strategy, seed, metrics))
    save_json(output / "compare.json", [asdict(outcome) for outcome in outcomes])
    text = comparison_table(outcomes) + "\n\n" + "\n".join(scratch_sentences(outcomes))
    write_atomically(output / "compare.md", lambda file: file.write(f"{text.strip()}\n".encode()))
    write_atomically(output / "compare.png", lambda file: save_comparison(outcomes, file))
    return outcomes


def _outcome(strategy: str, seed: int, metrics: Sequence[Mapping[str, Any]]) -> Outcome:
    images, curve = 0, []
    for row in metrics:
        images += row["images"]
        curve.append((row["steps"], images, row["val_top1"]))
    top1 = max(point[2] for point in curve)
    steps = next(point[0] for point in curve if point[2] == top1)
    return Outcome(strategy, seed, top1, sum(row["seconds"] for row in metrics), images, steps, curve)


def scratch_ratio(fine_tuned: Outcome, scratch: Outcome) -> tuple[float, bool]:
    """How many times the steps that `fine_tuned` took to its best accuracy `scratch` takes to the same one, and whether
    it gets there; else the ratio is of all its steps, which were not enough."""
    reached = [steps for steps, _, top1 in scratch.curve if top1 >= fine_tuned.top1]
    return (reached[0] if reached else scratch.curve[-1][0]) / fine_tuned.steps, bool(reached)


def comparison_table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: a row for each strategy, with mean and standard deviation over the seeds."""
    lines = ["| strategy | top-1 | seconds | images seen |", "|---|---|---|---|"]
    for strategy, runs in by_strategy(outcomes).items():
        values = [run.top1 for run in runs]
        spread = f" ± {statistics.stdev(values):.1%}" if len(values) > 1 else ""
        seconds = statistics.median(run.seconds for run in runs)
        images = statistics.median(run.images for run in runs)
        lines.append(f"| {strategy} | {statistics.mean(values):.1%}{spread} | {seconds:.0f} | {images:.0f} |")
    return "\n".join(lines)


def scratch_sentences(outcomes: Sequence[Outcome]) -> list[str]:
    """What random weights cost, against each way of fine-tuning; none where one of the two was not run."""
    found = by_strategy(outcomes)
    sentences = []
    for strategy in _FINE_TUNED:
        pairs = list(zip(found.get(strategy, []), found.get("scratch", []), strict=False))
        if not pairs:
            continue
        ratios = [scratch_ratio(*pair) for pair in pairs]
        middle = statistics.median(ratio for ratio, _ in ratios)
        missed = sum(not reached for _, reached in ratios)
        sentence = f"From random weights the accuracy of {strategy} takes {middle:.1f} times its steps"
        if missed:
            sentence += f", or more: {missed} of {len(ratios)} runs did not reach it"
        sentences.append(f"{sentence}.")
    return sentences


def by_strategy(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """In the order of the seeds."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.strategy, []).append(outcome)
    return {strategy: sorted(runs, key=lambda run: run.seed) for strategy, runs in found.items()}


def save_comparison(outcomes: Sequence[Outcome], file: BinaryIO) -> None:
    """A PNG: each strategy's accuracy, a point a seed; and accuracy against the images that the network saw."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    found = by_strategy(outcomes)
    for number, (strategy, runs) in enumerate(found.items()):
        values = [100 * run.top1 for run in runs]
        colour = f"C{number}"
        left.bar(number, statistics.mean(values), color=colour, alpha=0.35)
        left.scatter([number] * len(values), values, color=colour, zorder=3)
        left.annotate(f"{statistics.mean(values):.1f}", (number, 1), ha="center")
        for run in runs:
            seen, top1 = [point[1] for point in run.curve], [100 * point[2] for point in run.curve]
            label = strategy if run is runs[0] else None
            right.plot(seen, top1, "o" if len(seen) == 1 else "-", color=colour, alpha=0.8, label=label)
    left.set_xticks(range(len(found)), list(found))
    left.set_ylabel("best top-1 on the validation images, %")
    right.set_xlabel("images that went through the network in training")
    right.set_ylabel("top-1, %")
    right.set_xscale("log")
    right.grid(color="0.9")
    right.legend()
    figure.savefig(file, format="png", dpi=120)
