"""From a folder of images to a run folder with a trained model in it."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from augment_gpu.transfer.checkpoint import load_checkpoint, load_json, save_json
from augment_gpu.transfer.config import FREE, TrainConfig, forked_generators
from augment_gpu.transfer.distributed import Ranks, joined_ranks
from augment_gpu.transfer.lr_finder import find_lr
from augment_gpu.transfer.plan import TransferPlan
from augment_gpu.transfer.probe import fit_head, probe_first
from augment_gpu.transfer.report import write_report
from augment_gpu.transfer.run import Run, write_metrics
from augment_gpu.transfer.setup import Setup, given_lr, set_up
from augment_gpu.transfer.tensorboard import require_tensorboard
from augment_gpu.transfer.updates import DivergedError


def train(data: str | None, output: Path, given: Mapping[str, Any], *, resume: bool = False) -> list[dict[str, Any]]:
    """Trains and writes config.json, metrics.jsonl, last.pt, best.pt and report.html into `output`; returns the metrics
    by epoch.

    data: root/<class>/<image>, or root/train and root/val of that layout; None for the built-in sample. given: fields
    of TrainConfig that differ from the defaults; with `resume` from those of the run that `output` holds, which they
    may not contradict. On SIGINT or SIGTERM the step under way is finished, the state saved, and InterruptedRunError
    raised. Where torchrun started many processes they are one run; each calls this, and returns the same.

    Raises FileExistsError where `output` exists and resume is not set, ValueError for settings or data that cannot be
    trained on, and DivergedError, which is one, where the loss becomes NaN; last.pt is then of a step before it. A run
    that fails before it saved anything leaves no folder behind.
    """
    with joined_ranks(given.get("device")) as (ranks, device):
        config, data, plan, classes = _configured(data, output, given, ranks, resume=resume)
        last = output / "last.pt"
        goes_on = ranks.from_first(resume and last.exists())
        with forked_generators():
            torch.manual_seed(config.seed)
            # A run that goes on takes its weights from last.pt: nothing is fetched for it again.
            if ranks.leads and not resume:
                _make_folder(output)
            try:
                setup = set_up(data, config, output, ranks, device=device, stored=plan, initial=not goes_on)
                if classes is not None and classes != setup.classes:
                    began = f"when the run began they were {classes}"
                    raise ValueError(f"{setup.data} has classes {setup.classes}; {began}")
                if ranks.rank:  # else dropout would be the same on all ranks
                    torch.manual_seed(config.seed + ranks.rank)
                return _run(setup, goes_on=goes_on)
            except BaseException as error:
                kept = last.exists()
                if ranks.leads and not resume and not kept and not (output / "best.pt").exists():
                    shutil.rmtree(output)
                if isinstance(error, DivergedError) and kept:
                    raise DivergedError(f"{error}; {last} is from before that, and is kept") from error
                raise


def _run(setup: Setup, *, goes_on: bool) -> list[dict[str, Any]]:
    last = setup.output / "last.pt"
    if goes_on and setup.plan.frozen_features:  # it was saved when it was finished
        metrics: list[dict[str, Any]] = load_checkpoint(last)["metrics"]
        if setup.ranks.leads:  # these two may have been cut off
            write_metrics(setup, metrics)
            write_report(setup.output, setup.val_data, device=setup.device, workers=setup.config.workers)
        return metrics
    if not goes_on:
        if setup.plan.probe:
            probe_first(setup)
        if setup.config.lr == "find" and not setup.plan.frozen_features:
            lr = setup.ranks.from_first(find_lr(setup) if setup.ranks.leads else None)
            setup = replace(setup, plan=setup.plan.with_lr(lr).changed(given_lr(setup.config)))
            setup.say(f"learning rate {setup.plan.lr:.2e}")
    if setup.plan.frozen_features:
        _describe(setup)
        metrics, skipped = fit_head(setup)
    else:
        run = Run(setup)
        if goes_on:
            run.restore()
        _describe(setup)
        metrics, skipped = run.go(), run.skipped
    if setup.ranks.leads:
        write_report(setup.output, setup.val_data, skipped=skipped, device=setup.device, workers=setup.config.workers)
    return metrics


def _make_folder(output: Path) -> None:
    """At the very start, so that of two runs with the same output the second one is refused."""
    try:
        output.mkdir(parents=True)
    except FileExistsError:
        raise FileExistsError(
            f"{output} exists; give another --output, or --resume to go on with the run in it"
        ) from None


def _describe(setup: Setup) -> None:
    """Writes config.json."""
    if setup.ranks.leads:
        save_json(setup.output / "config.json", setup.description())


def _configured(
    data: str | None, output: Path, given: Mapping[str, Any], ranks: Ranks, *, resume: bool
) -> tuple[TrainConfig, str | None, TransferPlan | None, list[str] | None]:
    """The configuration and the data folder; and of a run that goes on its plan and its classes."""
    if given.get("weights") is not None:
        given = {**given, "weights": str(Path(given["weights"]).resolve())}
    stored: dict[str, Any] = {}
    plan = None
    if resume:
        path = output / "config.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; there is no run to resume in {output}")
        stored = load_json(path)
        if not isinstance(stored, dict) or not {"config", "data", "plan"} <= set(stored):
            raise ValueError(f"{path} is not the description of a run")
        try:
            config = TrainConfig(**{**stored["config"], **{name: given[name] for name in FREE if name in given}})
            plan = TransferPlan(**stored["plan"])
        except TypeError as error:
            raise ValueError(f"{path} is not the description of a run: {error}") from error
        _check_same(output, stored, data, given)
        data = stored["data"]
    else:
        config = TrainConfig(**given)
        data = None if data is None else str(Path(data).resolve())
    if config.tensorboard:
        require_tensorboard()
    if config.fsdp and ranks.world_size == 1:
        raise ValueError("fsdp is set, and this is one process; start it through torchrun")
    return config, data, plan, stored.get("classes")


def _check_same(output: Path, stored: dict[str, Any], data: str | None, given: Mapping[str, Any]) -> None:
    known = dict(stored["config"])
    if data is not None:
        given = {**given, "data": str(Path(data).resolve())}
        known["data"] = stored["data"]
    for name, value in given.items():
        if name not in FREE and known[name] != value:
            raise ValueError(
                f"{name} is {value!r}, and the run in {output} has {known[name]!r}; a run keeps its settings"
            )
