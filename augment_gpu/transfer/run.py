"""The training loop: epochs of steps, validation after each, every step of it resumable."""

import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from rich.progress import Progress

from augment_gpu.predict import progress_bar
from augment_gpu.transfer.checkpoint import load_checkpoint, save_checkpoint, write_atomically
from augment_gpu.transfer.interrupt import stop_requests
from augment_gpu.transfer.setup import Setup
from augment_gpu.transfer.tensorboard import metrics_writer
from augment_gpu.transfer.updates import LOWER, Batch, DivergedError, Updates, balanced_weights, cosine_with_warmup
from augment_gpu.transfer.validate import validate


class InterruptedRunError(Exception):
    """The run was asked to stop; its state is in the run folder."""


class Run:
    """Everything that a run remembers from step to step. All ranks are one run, whose files the first one writes."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.config, self.ranks = setup, setup.config, setup.ranks
        self.last, self.best = setup.output / "last.pt", setup.output / "best.pt"
        self.train_loader, self.val_loader = setup.train_loader(), setup.val_loader()
        self.steps = -(-len(self.train_loader) // self.config.accumulate)  # of an epoch
        weights = None
        if self.config.class_weights is not None:
            weights = balanced_weights(setup.train_targets, len(setup.classes)).to(setup.device)
        total = setup.plan.epochs * self.steps
        # Of a short run a warm-up of whole epochs would leave nothing.
        schedule = cosine_with_warmup(min(round(self.config.warmup_epochs * self.steps), total // 5), total)
        self.updates = Updates(
            setup.model,
            setup.plan,
            self.config,
            schedule,
            device=setup.device,
            ranks=self.ranks,
            class_weights=weights,
        )
        self.metrics: list[dict[str, Any]] = []
        # Of the epoch under way. The loss is summed on the device, so that a step need not wait for it.
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=setup.device)
        self.images, self.seconds = 0, 0.0
        self.skipped: list[tuple[str, str]] = []  # when the run has ended, of training images
        self.saved_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Of the whole run, on the first rank; all ranks take part."""
        cuda = torch.cuda.get_rng_state(self.setup.device) if self.setup.device.type == "cuda" else None
        loss_sum, images = self.ranks.total(self.loss_sum.item(), self.images)
        return {
            "model_name": self.config.model,
            "head": self.setup.plan.head,
            "classes": self.setup.classes,
            **self.updates.state_dict(),
            "loader": self.train_loader.state_dict(),
            "metrics": self.metrics,
            "epoch_sums": (loss_sum, int(images), self.seconds),
            "random": self.ranks.gather((torch.random.get_rng_state(), cuda)),
        }

    def restore(self) -> None:
        """Takes up the state in last.pt. Raises ValueError where it is of another run."""
        state = load_checkpoint(self.last)
        if state.get("model_name") != self.config.model:
            raise ValueError(f"{self.last} is of model {state.get('model_name')}; the run is of {self.config.model}")
        try:
            self.updates.load_state_dict(state)
            self.train_loader.load_state_dict(state["loader"])
            self.metrics = state["metrics"]
            loss_sum, images, self.seconds = state["epoch_sums"]
            if self.ranks.leads:  # the sums are those of all ranks
                self.loss_sum.fill_(loss_sum)
                self.images = images
            self._set_random_state(state["random"])
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.last} does not fit this run: {error}") from error

    def _set_random_state(self, states: list[tuple[torch.Tensor, torch.Tensor | None]]) -> None:
        """Of dropout and the like. On another number of ranks there is none to go on with, and each rank takes a new
        one."""
        if len(states) != self.ranks.world_size:
            torch.manual_seed(self.config.seed + (self.updates.steps << 16) + self.ranks.rank)
            return
        cpu, cuda = states[self.ranks.rank]
        torch.random.set_rng_state(cpu)
        if cuda is not None and self.setup.device.type == "cuda":
            torch.cuda.set_rng_state(cuda, self.setup.device)

    def go(self) -> list[dict[str, Any]]:
        epochs = self.setup.plan.epochs
        self._write_metrics()
        writer = metrics_writer(self.setup.output, len(self.metrics), on=self.config.tensorboard and self.ranks.leads)
        with stop_requests() as stopped, progress_bar() as progress, writer as write:
            progress.disable = progress.disable or not self.ranks.leads
            for epoch in range(len(self.metrics), epochs):
                if self._no_better():
                    self.setup.say(f"val top-1 has not risen for {self.config.patience} epochs; the run ends here")
                    break
                if self.train_loader.epoch == epoch:  # else it was trained, and stopped while it was validated
                    self._train_epoch(epoch, progress, stopped)
                row = {"epoch": epoch, **self._train_metrics(), **self._validate(progress, stopped)}
                if not math.isfinite(row["val_loss"]):  # the last step may have ruined the weights after its loss
                    raise DivergedError(f"the validation loss is {row['val_loss']} after step {row['steps']}; {LOWER}")
                self.metrics.append(row)
                write(row)
                self.loss_sum.zero_()
                self.images, self.seconds = 0, 0.0
                if all(row["val_top1"] > earlier["val_top1"] for earlier in self.metrics[:-1]):
                    self._save_best(row)
                self._save()
                self._write_metrics()
                self.setup.say(
                    f"epoch {epoch + 1}/{epochs}  train loss {row['train_loss']:.4f}  "
                    f"val loss {row['val_loss']:.4f}  val top-1 {row['val_top1']:.1%}  "
                    f"{row['images_per_second']:.0f} images/s"
                )
        self.skipped = list(dict(chain.from_iterable(self.ranks.gather(self.train_loader.skipped))).items())
        for path, reason in self.skipped + self.val_loader.skipped:
            self.setup.say(f"skipped {path}: {reason}")
        return self.metrics

    def _no_better(self) -> bool:
        """Whether the best of the last `patience` epochs is none that is better than those before."""
        values = [row["val_top1"] for row in self.metrics]
        patience = self.config.patience
        return 0 < patience < len(values) and max(values[-patience:]) <= max(values[:-patience])

    def _train_epoch(self, epoch: int, progress: Progress, stopped: Callable[[], bool]) -> None:
        used = self.train_loader.state_dict()["used"]
        task = progress.add_task(
            f"epoch {epoch + 1}", total=self.steps, completed=used // self.config.batch_size, note=""
        )
        clock = time.perf_counter()
        for parts in self._parts():
            self.loss_sum += self.updates.step(parts)
            images = sum(len(pictures) for pictures, _ in parts)
            self.images += images
            now = time.perf_counter()
            self.seconds += now - clock
            progress.update(task, advance=1, note=f"{self.ranks.world_size * images / (now - clock):.0f} images/s")
            clock = now
            self._look_up(stopped)
        progress.remove_task(task)

    def _parts(self) -> Iterator[list[Batch]]:
        """The parts of each step. A state that is saved between two steps knows of none that is begun."""
        parts: list[Batch] = []
        for batch in self.train_loader:
            parts.append(batch)
            if len(parts) == self.config.accumulate:
                yield parts
                parts = []
        if parts:
            yield parts

    def _look_up(self, stopped: Callable[[], bool]) -> None:
        """Between two steps: whether a rank was asked to stop, or the first finds it time to save."""
        due = self.ranks.leads and time.monotonic() - self.saved_at >= 60 * self.config.save_minutes
        stop, save = self.ranks.total(stopped(), due)
        if stop:
            self._save_and_stop()
        if save:
            self._save()

    def _train_metrics(self) -> dict[str, float]:
        loss_sum, images = self.ranks.total(self.loss_sum.item(), self.images)  # waits for the device, once an epoch
        if images == 0:
            raise ValueError("no training image could be read")
        self.updates.check()
        return {
            "lr": self.updates.learning_rate,
            "train_loss": loss_sum / images,
            "images": int(images),
            "steps": self.updates.steps,
            "images_per_second": images / self.seconds,
            "seconds": self.seconds,
        }

    def _validate(self, progress: Progress, stopped: Callable[[], bool]) -> dict[str, float]:
        def pause() -> None:
            if self.ranks.any(stopped()):  # the epoch is trained, and will be validated when the run goes on
                self._save_and_stop()

        return validate(
            self.updates.evaluated(),
            self.val_loader,
            len(self.setup.classes),
            autocast=self.updates.autocast,
            ranks=self.ranks,
            progress=progress,
            together=self.config.fsdp,
            pause=pause,
        )

    def _save_best(self, row: dict[str, Any]) -> None:
        state = self.updates.state_dict()
        if self.ranks.leads:
            weights = state["model"] if state["average"] is None else state["average"]
            save_checkpoint(self.best, self.setup.result(weights, row))

    def _save(self) -> None:
        self.updates.check(weights=True)
        state = self.state()
        if self.ranks.leads:
            save_checkpoint(self.last, state)
        self.saved_at = time.monotonic()

    def _save_and_stop(self) -> None:
        self._save()
        raise InterruptedRunError(f"stopped; --output {self.setup.output} --resume goes on from here")

    def _write_metrics(self) -> None:
        if self.ranks.leads:
            write_metrics(self.setup, self.metrics)


def write_metrics(setup: Setup, metrics: list[dict[str, Any]]) -> None:
    """metrics.jsonl: a line for each epoch."""
    lines = "".join(json.dumps(row) + "\n" for row in metrics)
    write_atomically(setup.output / "metrics.jsonl", lambda file: file.write(lines.encode()))
