"""What a training run is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run is; with the data it determines the result. The home of the defaults.

    weights: a local file; scratch: random weights; with neither, timm's pretrained ones. lr None: 1e-3 (adamw) or
    0.1 · batch_size / 256 (sgd), a fifth of it where training starts from weights. Epochs count from 0 in files.
    val_fraction: the share of each class kept for validation, where the data has no val folder. recipe: fields of
    Recipe that differ from what the run would choose. device None: a GPU where there is one.
    """

    model: str = "resnet18"
    weights: str | None = None
    scratch: bool = False
    epochs: int = 10
    batch_size: int = 64
    size: int = 224
    optimizer: str = "adamw"
    lr: float | None = None
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    val_fraction: float = 0.2
    seed: int = 0
    device: str | None = None
    workers: int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    recipe: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; it must lie in [0, 2**63)")
        if not 0 < self.val_fraction < 1:
            raise ValueError(f"val_fraction is {self.val_fraction}; it must lie between 0 and 1")
        if self.device is not None:
            usable_device(self.device)
        if self.optimizer not in ("adamw", "sgd"):
            raise ValueError(f"optimizer is {self.optimizer!r}; it must be adamw or sgd")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        for name in ("weight_decay", "warmup_epochs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")

    @property
    def learning_rate(self) -> float:
        if self.lr is not None:
            return self.lr
        base = 1e-3 if self.optimizer == "adamw" else 0.1 * self.batch_size / 256
        return base if self.scratch else base / 5


def usable_device(name: str | None) -> torch.device:
    """None: a GPU where there is one. Raises ValueError for a device that torch does not know or that is not here."""
    try:
        return torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"device is {name!r}, which cannot be used here: {reason}") from error
