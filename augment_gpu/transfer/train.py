"""The training loop: a timm model, fine-tuned on a folder of images, every step of it resumable."""

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn
from torch.nn import functional as F

from augment_gpu.data.loader import Loader
from augment_gpu.data.sample import sample_dataset
from augment_gpu.data.sources import Dataset, ImageFolder, stratified_split, subset
from augment_gpu.predict import progress_bar
from augment_gpu.recipe import Recipe
from augment_gpu.stage import Stage
from augment_gpu.transfer.checkpoint import load_checkpoint, load_json, save_checkpoint, save_json, write_atomically
from augment_gpu.transfer.config import TrainConfig, usable_device
from augment_gpu.transfer.interrupt import stop_requests
from augment_gpu.transfer.model import create_model, normalization

# Where a run is computed and how it meets bad files may change when it goes on.
_FREE = ("device", "workers", "on_error")


class InterruptedRunError(Exception):
    """The run was asked to stop; its state is in the run folder."""


def train(data: str | None, output: Path, given: Mapping[str, Any], *, resume: bool = False) -> list[dict[str, Any]]:
    """Trains and writes config.json, metrics.jsonl, last.pt and best.pt into `output`; returns the metrics by epoch.

    data: root/<class>/<image>, or root/train and root/val of that layout; None for the built-in sample. given: fields
    of TrainConfig that differ from the defaults; with `resume` from those of the run that `output` holds, which they
    may not contradict. On SIGINT or SIGTERM the step under way is finished, the state saved, and InterruptedRunError
    raised.

    Raises FileExistsError where `output` exists and resume is not set, ValueError for settings or data that cannot be
    trained on. A run that fails before it saved anything leaves no folder behind.
    """
    config_path = output / "config.json"
    if resume:
        if not config_path.exists():
            raise FileNotFoundError(f"{config_path} does not exist; there is no run to resume in {output}")
        stored = load_json(config_path)
        if not isinstance(stored, dict) or not {"config", "data"} <= set(stored):
            raise ValueError(f"{config_path} is not the description of a run")
        config = TrainConfig(**{**stored["config"], **{name: given[name] for name in _FREE if name in given}})
        _check_same(output, stored, data, given)
        data = stored["data"]
    else:
        if output.exists():
            raise FileExistsError(f"{output} exists; give another --output, or --resume to go on with the run in it")
        config = TrainConfig(**given)
        data = None if data is None else str(Path(data).resolve())
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        last = output / "last.pt"
        goes_on = resume and last.exists()
        # A run that goes on takes its weights from last.pt: nothing is fetched for it again.
        run = _Run(data, config, output, initial=not goes_on)
        if goes_on:
            run.restore()
        output.mkdir(parents=True, exist_ok=True)
        try:
            save_json(config_path, run.description())
            return run.go()
        except BaseException:
            if not resume and not run.last.exists():
                shutil.rmtree(output)
            raise


def _check_same(output: Path, stored: dict[str, Any], data: str | None, given: Mapping[str, Any]) -> None:
    known = dict(stored["config"])
    if data is not None:
        given = {**given, "data": str(Path(data).resolve())}
        known["data"] = stored["data"]
    for name, value in given.items():
        if name not in _FREE and known[name] != value:
            raise ValueError(
                f"{name} is {value!r}, and the run in {output} has {known[name]!r}; a run keeps its settings"
            )


def is_split(root: Path) -> bool:
    """Whether a data folder brings its own train and val folders."""
    return (root / "train").is_dir() and (root / "val").is_dir()


def open_data(data: str | None, val_fraction: float, seed: int) -> tuple[Dataset, Dataset, list[str]]:
    """(train, val, classes) of a folder, which brings its own val folder or is split by class."""
    root = Path(sample_dataset() if data is None else data)
    if is_split(root):
        folder = ImageFolder(root / "train")
        train_data: Dataset = folder
        val_data: Dataset = ImageFolder(root / "val", classes=folder.classes)
    else:
        folder = ImageFolder(root)
        chosen, kept = stratified_split(folder.targets, val_fraction, seed=seed)
        train_data, val_data = subset(folder, chosen), subset(folder, kept)
    if len(folder.classes) < 2:
        raise ValueError(f"{folder.root} has one class only, {folder.classes[0]!r}; a classifier needs at least two")
    if len(val_data) == 0:
        raise ValueError(f"{root} has one image a class; none is left to validate on")
    return train_data, val_data, folder.classes


class _Run:
    """Everything that a run remembers from step to step."""

    def __init__(self, data: str | None, config: TrainConfig, output: Path, *, initial: bool) -> None:
        self.data, self.config, self.output = data, config, output
        self.last, self.best = output / "last.pt", output / "best.pt"
        self.device = usable_device(config.device)
        train_data, val_data, self.classes = open_data(data, config.val_fraction, config.seed)
        weights, scratch = (config.weights, config.scratch) if initial else (None, True)
        model = create_model(config.model, len(self.classes), weights=weights, scratch=scratch)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        fields = {"size": config.size, "num_classes": len(self.classes), **normalization(model)}
        self.recipe = Recipe.from_dict({**fields, **(config.recipe or {})})
        for name in ("size", "num_classes"):
            if getattr(self.recipe, name) != fields[name]:
                raise ValueError(f"the recipe has {name} {getattr(self.recipe, name)}, and the run {fields[name]}")
        load = partial(
            Loader,
            batch_size=config.batch_size,
            device=self.device,
            seed=config.seed,
            on_error=config.on_error,
            workers=config.workers,
        )
        whole_batches = len(train_data) >= config.batch_size
        self.train_loader = load(train_data, stage=Stage(self.recipe, config.seed), drop_last=whole_batches)
        self.val_loader = load(val_data, stage=Stage(self.recipe, config.seed).eval(), shuffle=False)
        self.optimizer = _optimizer(self.model, config)
        steps = len(self.train_loader)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, cosine_with_warmup(round(config.warmup_epochs * steps), config.epochs * steps)
        )
        self.metrics: list[dict[str, Any]] = []
        # Of the epoch under way. The loss is summed on the device, so that a step need not wait for it.
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.images, self.seconds = 0, 0.0

    def description(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "config": asdict(self.config),
            "recipe": self.recipe.to_dict(),
            "classes": self.classes,
            "torch": torch.__version__,
        }

    def state(self) -> dict[str, Any]:
        return {
            "model_name": self.config.model,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "loader": self.train_loader.state_dict(),
            "metrics": self.metrics,
            "epoch_sums": (self.loss_sum.item(), self.images, self.seconds),
            "random": torch.random.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def restore(self) -> None:
        state = load_checkpoint(self.last)
        if state.get("model_name") != self.config.model:
            raise ValueError(f"{self.last} is of model {state.get('model_name')}; the run is of {self.config.model}")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.train_loader.load_state_dict(state["loader"])
            self.metrics = state["metrics"]
            loss_sum, self.images, self.seconds = state["epoch_sums"]
            self.loss_sum.fill_(loss_sum)
            torch.random.set_rng_state(state["random"])
            if state["random_cuda"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(state["random_cuda"], self.device)
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.last} does not fit this run: {error}") from error

    def go(self) -> list[dict[str, Any]]:
        self._write_metrics()
        with stop_requests() as stopped, progress_bar() as progress:
            for epoch in range(len(self.metrics), self.config.epochs):
                if self.train_loader.epoch == epoch:  # else it was trained, and stopped while it was validated
                    self._train_epoch(epoch, progress, stopped)
                row = {"epoch": epoch, "lr": self.schedule.get_last_lr()[0], **self._train_metrics(epoch)}
                row |= self._validate(progress, stopped)
                self.metrics.append(row)
                self.loss_sum.zero_()
                self.images, self.seconds = 0, 0.0
                if all(row["val_top1"] > earlier["val_top1"] for earlier in self.metrics[:-1]):
                    save_checkpoint(self.best, self._result(row))
                save_checkpoint(self.last, self.state())
                self._write_metrics()
                print(
                    f"epoch {epoch + 1}/{self.config.epochs}  train loss {row['train_loss']:.4f}  "
                    f"val loss {row['val_loss']:.4f}  val top-1 {row['val_top1']:.1%}  "
                    f"{row['images_per_second']:.0f} images/s",
                    flush=True,
                )
        for path, reason in self.train_loader.skipped + self.val_loader.skipped:
            print(f"skipped {path}: {reason}")
        return self.metrics

    def _train_epoch(self, epoch: int, progress: Progress, stopped: Callable[[], bool]) -> None:
        steps = len(self.train_loader)
        done = self.train_loader.state_dict()["used"] // self.config.batch_size
        task = progress.add_task(f"epoch {epoch + 1}", total=steps, completed=done, note="")
        self.model.train()
        batches = iter(self.train_loader)
        clock = time.perf_counter()
        for images, targets in batches:
            if len(images):
                self._step(images, targets)
            now = time.perf_counter()
            self.seconds += now - clock
            progress.update(task, advance=1, note=f"{len(images) / (now - clock):.0f} images/s")
            clock = now
            if stopped():
                self._save_and_stop()
        progress.remove_task(task)

    def _step(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        with self._autocast():
            loss = F.cross_entropy(self.model(images).float(), targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.loss_sum += loss.detach() * len(images)
        self.images += len(images)

    def _train_metrics(self, epoch: int) -> dict[str, float]:
        if self.images == 0:
            raise ValueError("no training image could be read")
        loss = self.loss_sum.item() / self.images  # waits for the device, once an epoch
        if not math.isfinite(loss):
            raise ValueError(f"the training loss became {loss} in epoch {epoch + 1}; try a lower --lr")
        return {"train_loss": loss, "images_per_second": self.images / self.seconds, "seconds": self.seconds}

    @torch.inference_mode()
    def _validate(self, progress: Progress, stopped: Callable[[], bool]) -> dict[str, float]:
        """Loss and accuracy over the validation images, in [0, 1]."""
        self.model.eval()
        task = progress.add_task("validate", total=len(self.val_loader), note="")
        loss, correct, count = 0.0, 0, 0
        for images, targets in self.val_loader:
            if stopped():  # the epoch is trained, and will be validated when the run goes on
                self._save_and_stop()
            if len(images):
                with self._autocast():
                    logits = self.model(images).float()
                loss += F.cross_entropy(logits, targets, reduction="sum").item()
                correct += int((logits.argmax(1) == targets).sum())
                count += len(images)
            progress.advance(task)
        progress.remove_task(task)
        if count == 0:
            raise ValueError("no validation image could be read")
        return {"val_loss": loss / count, "val_top1": correct / count}

    def _autocast(self) -> torch.autocast:
        """bfloat16 on CUDA, and elsewhere for a recipe of 16-bit images, which float32 weights would not take."""
        enabled = self.device.type == "cuda" or self.recipe.torch_dtype != torch.float32
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _result(self, row: dict[str, Any]) -> dict[str, Any]:
        """What evaluation needs, and nothing of the optimizer."""
        return {
            "model_name": self.config.model,
            "model": self.model.state_dict(),
            "classes": self.classes,
            "recipe": self.recipe.to_dict(),
            "metrics": row,
        }

    def _save_and_stop(self) -> None:
        save_checkpoint(self.last, self.state())
        raise InterruptedRunError(f"stopped; --output {self.output} --resume goes on from here")

    def _write_metrics(self) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in self.metrics)
        write_atomically(self.output / "metrics.jsonl", lambda file: file.write(lines.encode()))


def _optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """timm's parameter groups: no decay on biases and normalisation."""
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(model, config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay)


def cosine_with_warmup(warmup: int, total: int) -> Callable[[int], float]:
    """The factor of the learning rate at each step: linear up over `warmup` steps, half a cosine down to 0 at `total`
    (Loshchilov & Hutter 2017)."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))

    return factor
