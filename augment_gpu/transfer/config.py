"""What a training run is."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from augment_gpu.transfer.plan import STRATEGIES

# Where a run is computed, how it meets bad files and how often it is saved may change when it goes on.
FREE = ("device", "workers", "cache", "on_error", "save_minutes", "tensorboard")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run is; with the data it determines the result. The home of the defaults.

    weights: a local file; scratch: random weights, which strategy "scratch" says too; with neither, timm's pretrained
    ones. strategy: "auto" measures the data and chooses, or one of augment_gpu.transfer.plan.STRATEGIES. plan: fields
    of TransferPlan that differ from what the strategy gives. epochs, lr: the plan's, where they are given; lr "find"
    measures it (augment_gpu.transfer.lr_finder).

    batch_size: images of one step, over all processes and all parts of a step. accumulate: in so many parts, one after
    the other, a step is computed. clip: the largest norm of a step's gradient, 0 for any. ema: decay of a moving
    average of the weights, which is then what is validated and kept as the best; 0 for none. class_weights: "balanced"
    weighs each class's loss by images / (classes · its images). patience: epochs without a better val_top1 after which
    the run ends early; 0 for never. precision: "bfloat16" computes under autocast; "auto" does so on a GPU. compile:
    through torch.compile. fsdp: weights and optimizer shared out to the processes, for models that fit on none.

    val_fraction: the share of each class kept for validation, where the data has no val folder. recipe: fields of
    Recipe that differ from what the run would choose. device None: a GPU where there is one. cache: how many GiB of
    decoded images each process keeps while a network trains, so that later epochs need not read them again. Epochs
    count from 0 in files. save_minutes: how often last.pt is written within an epoch. tensorboard: writes the metrics
    for it, too.
    """

    model: str = "resnet18"
    weights: str | None = None
    scratch: bool = False
    strategy: str = "auto"
    plan: Mapping[str, Any] | None = None
    epochs: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    size: int = 224
    optimizer: str = "adamw"
    lr: float | Literal["find"] | None = None
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    clip: float = 0.0
    ema: float = 0.0
    class_weights: Literal["balanced"] | None = None
    patience: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    fsdp: bool = False
    val_fraction: float = 0.2
    seed: int = 0
    device: str | None = None
    workers: int | None = None
    cache: float = 1.0
    on_error: Literal["raise", "skip"] = "raise"
    save_minutes: float = 10.0
    tensorboard: bool = False
    recipe: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("accumulate", 1), ("size", 1), ("epochs", 1), ("patience", 0)):
            value = getattr(self, name)
            if not (name == "epochs" and value is None) and value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size is {self.batch_size}, which accumulate, {self.accumulate}, does not divide")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must lie in [0, 2**63)")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; it must lie between 0 and 1")
        if self.device is not None:
            usable_device(self.device)
        for name, allowed in (
            ("strategy", ("auto", *STRATEGIES)),
            ("optimizer", ("adamw", "sgd")),
            ("class_weights", (None, "balanced")),
            ("precision", ("auto", "float32", "bfloat16")),
        ):
            if getattr(self, name) not in allowed:
                known = ", ".join(str(choice) for choice in allowed if choice is not None)
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {known}")
        if self.lr not in (None, "find") and not (isinstance(self.lr, int | float) and 0 < self.lr < math.inf):
            raise ValueError(f"lr is {self.lr}; it must be above 0, or find")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must lie in [0, 1)")
        for name in ("weight_decay", "warmup_epochs", "clip", "cache", "save_minutes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.random_weights and (self.weights is not None or self.strategy not in ("auto", "scratch")):
            other = f"weights is {self.weights}" if self.weights is not None else f"strategy is {self.strategy}"
            raise ValueError(f"{other} and scratch is set; choose one")
        if self.ema and self.fsdp:
            raise ValueError(f"ema is {self.ema} and fsdp is set; a moving average of shared-out weights is not kept")
        if self.lr == "find" and self.fsdp:
            raise ValueError("lr is find and fsdp is set; a learning rate is sought on one whole copy of the network")

    @property
    def random_weights(self) -> bool:
        return self.scratch or self.strategy == "scratch"


def autocast(
    device: torch.device, dtype: torch.dtype, precision: Literal["auto", "float32", "bfloat16"] = "auto"
) -> torch.autocast:
    """For images of this dtype on this device."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocasts(device, dtype, precision))


def autocasts(
    device: torch.device, dtype: torch.dtype, precision: Literal["auto", "float32", "bfloat16"] = "auto"
) -> bool:
    """Whether a network computes in bfloat16. Images of 16 bits would not go into float32 weights."""
    return {"auto": device.type == "cuda", "float32": False, "bfloat16": True}[precision] or dtype != torch.float32


def forked_generators() -> AbstractContextManager[None]:
    """torch's generators, which torch.manual_seed reseeds, of the CPU and of every GPU: afterwards they are what they
    were. All GPUs are named, since torch warns where there are several and it is to find them itself."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def usable_device(name: str | None) -> torch.device:
    """None: a GPU where there is one. Raises ValueError for a device that torch does not know or that is not here."""
    try:
        return torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"device is {name!r}, which cannot be used here: {reason}") from error
