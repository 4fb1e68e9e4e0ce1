"""A network in training: from the loss of a batch to the next weights, and everything that is remembered for it."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from augment_gpu.transfer.config import TrainConfig, autocast
from augment_gpu.transfer.distributed import Ranks
from augment_gpu.transfer.freeze import freeze, parameter_groups, train_mode
from augment_gpu.transfer.plan import TransferPlan

Batch = tuple[torch.Tensor, torch.Tensor]  # images and targets
# On a GPU the loss is looked at once in so many steps, since looking means waiting.
_CHECKED_EVERY = 50
LOWER = "try a lower --lr, or --clip 1"


class DivergedError(ValueError):
    """The loss became NaN or infinite."""


class Updates:
    """The model, its optimizer, schedule and moving average; `step` takes them one step further.

    model: on `device`, unless it is yet to be shared out to several. schedule: the factor of each learning rate at each
    step. class_weights: (classes,) of the loss, or None. The rest is as `config` and `plan` say. On several ranks
    gradients are averaged over all images of the step, however they are shared out.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: TransferPlan,
        config: TrainConfig,
        schedule: Callable[[int], float],
        *,
        device: torch.device,
        ranks: Ranks,
        class_weights: torch.Tensor | None = None,
    ) -> None:
        self.plan, self.config, self.ranks = plan, config, ranks
        self.device = device
        self.class_weights = class_weights
        freeze(model, plan.layers)
        self.model = model
        if config.fsdp:
            from augment_gpu.transfer.sharding import shard

            shard(model, device)
        self.optimizer = make_optimizer(model, plan, config)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule)
        self.average = _moving_average(model, config.ema) if config.ema else None
        self.forward = self._forward()
        self.steps = 0
        self._diverged_at = torch.full((), -1, device=self.device)  # the step; found on the device, without a wait

    def step(self, parts: Sequence[Batch]) -> torch.Tensor:
        """One step on this rank's images, which come in the parts that `accumulate` asks for; some ranks may have none.
        Returns the sum of the losses of this rank's images, on the device."""
        images = self.ranks.total(sum(len(images) for images, _ in parts))[0]
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        if images == 0:
            return loss_sum
        train_mode(self.model, self.plan.batch_norm)
        for number, (pictures, targets) in enumerate(parts):
            last = number == len(parts) - 1
            with self._without_exchange(not last):
                loss = self._loss_sum(pictures, targets)
                # The exchange averages over the ranks; the mean is to be one over all images.
                (loss * (self.ranks.world_size / images)).backward()
            loss_sum += loss.detach()
        self.optimizer_step()
        # The first step whose loss is no number stays on the device: the host would have to wait for each.
        good = torch.isfinite(loss_sum) | (self._diverged_at >= 0)
        self._diverged_at = torch.where(good, self._diverged_at, self.steps)
        if self.device.type == "cpu" or self.steps % _CHECKED_EVERY == 0:
            self.check()
        return loss_sum

    def optimizer_step(self) -> None:
        if self.config.clip:
            nn.utils.clip_grad_norm_(self._trained(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.steps += 1
        if self.average is not None:
            self.average.update(self.model, self.steps)

    def check(self, *, weights: bool = False) -> None:
        """Raises DivergedError where a step since the last check had a loss that is NaN or infinite, or where a weight
        is so now: the last step may have ruined them after its loss. Waits for the device."""
        step = int(self._diverged_at)
        if step >= 0:
            raise DivergedError(f"the training loss is no number any more since step {step}; {LOWER}")
        if weights and not all(bool(torch.isfinite(parameter).all()) for parameter in self._trained()):
            raise DivergedError(f"the weights are no numbers any more after step {self.steps}; {LOWER}")

    def autocast(self, dtype: torch.dtype) -> torch.autocast:
        return autocast(self.device, dtype, self.config.precision)

    @property
    def learning_rate(self) -> float:
        """Of the head, at the latest step; before the first, at that one."""
        latest = max(self.steps - 1, 0)
        return float(self.schedule.base_lrs[0] * self.schedule.lr_lambdas[0](latest))

    def evaluated(self) -> nn.Module:
        """The network to validate and to keep: the moving average, where there is one."""
        return self.model if self.average is None else self.average.module

    def state_dict(self) -> dict[str, Any]:
        """Of every rank; complete on the first."""
        if self.config.fsdp:
            from augment_gpu.transfer.sharding import gathered_state

            model, optimizer = gathered_state(self.model, self.optimizer)
        else:
            model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        average = None if self.average is None else self.average.module.state_dict()
        return {
            "model": model,
            "optimizer": optimizer,
            "schedule": self.schedule.state_dict(),
            "average": average,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.config.fsdp:
            from augment_gpu.transfer.sharding import load_gathered_state

            load_gathered_state(self.model, self.optimizer, state["model"], state["optimizer"])
        else:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.steps = state["steps"]

    def _loss_sum(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count = len(images)
        if count == 0:  # the other ranks wait for this one's gradient; two rows, since batch normalisation needs them
            size = images.shape[1:]
            images = torch.zeros((2, *size), dtype=images.dtype, device=self.device)
            targets = torch.zeros((2, *targets.shape[1:]), dtype=targets.dtype, device=self.device)
        with self.autocast(images.dtype):
            logits = self.forward(images)
        losses = F.cross_entropy(logits.float(), targets, weight=self.class_weights, reduction="none")
        return losses.sum() if count else losses.sum() * 0

    def _forward(self) -> Callable[[torch.Tensor], torch.Tensor]:
        from timm.layers import convert_sync_batchnorm

        forward: Callable[[torch.Tensor], torch.Tensor] = self.model
        if self.ranks.world_size > 1 and not self.config.fsdp:
            model = self.model
            if self.device.type == "cuda":  # on a CPU torch cannot: there each rank has its own statistics
                model = convert_sync_batchnorm(model)
            devices = [self.device] if self.device.type == "cuda" else None
            forward = nn.parallel.DistributedDataParallel(model, device_ids=devices)
        return torch.compile(forward) if self.config.compile else forward

    @contextmanager
    def _without_exchange(self, without: bool) -> Iterator[None]:
        """Gradients of a step's first parts stay on their rank."""
        exchanging = getattr(self.forward, "_orig_mod", self.forward)
        with exchanging.no_sync() if without and hasattr(exchanging, "no_sync") else nullcontext():
            yield

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def make_optimizer(model: nn.Module, plan: TransferPlan, config: TrainConfig) -> torch.optim.Optimizer:
    from timm.optim import create_optimizer_v2

    groups = parameter_groups(model, plan, config.weight_decay)
    # A decay of 0, since timm would otherwise regroup what is grouped.
    return create_optimizer_v2(groups, config.optimizer, lr=plan.lr, weight_decay=0.0)


def _moving_average(model: nn.Module, decay: float) -> Any:
    """Of the weights; it follows closely while the run is young."""
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay, use_warmup=True)


def cosine_with_warmup(warmup: int, total: int) -> Callable[[int], float]:
    """The factor of the learning rate at each step: linear up over `warmup` steps, half a cosine down to 0 at `total`
    (Loshchilov & Hutter 2017)."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))

    return factor


def balanced_weights(targets: Sequence[int], classes: int) -> torch.Tensor:
    """(classes,) images / (classes · images of the class), whose mean over the images is 1; 1 for a class of none."""
    counts = torch.bincount(torch.as_tensor(targets), minlength=classes)
    return torch.where(counts > 0, len(targets) / (classes * counts.clamp_min(1)), 1.0)
