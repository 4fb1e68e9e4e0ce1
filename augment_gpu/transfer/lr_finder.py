"""A learning rate from the data: raised step by step until the loss breaks out.

Smith 2017, "Cyclical learning rates for training neural networks".
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

from augment_gpu.data.loader import Loader
from augment_gpu.transfer.distributed import Ranks
from augment_gpu.transfer.setup import Setup
from augment_gpu.transfer.updates import Batch, DivergedError, Updates

_LOWEST, _HIGHEST, _STEPS = 1e-6, 1.0, 100
_SMOOTHING = 0.9  # of the loss, as a moving average
_BREAKS_OUT = 4.0  # times the lowest loss


def find_lr(setup: Setup) -> float:
    """The head's learning rate for this run: a tenth of the one at which the loss, smoothed, is lowest, while the rate
    rises from 1e-6 to 1 in a hundred steps on a copy of the network. The other layers' rise in proportion.

    Raises ValueError where the loss never falls.
    """
    config = replace(setup.config, compile=False, fsdp=False, ema=0.0)
    alone = replace(setup, config=config, ranks=Ranks())
    growth = math.log(_HIGHEST / _LOWEST)
    updates = Updates(
        copy.deepcopy(setup.model),
        setup.plan,
        config,
        lambda step: _LOWEST / setup.plan.lr * math.exp(growth * step / (_STEPS - 1)),
        device=setup.device,
        ranks=Ranks(),
    )
    smoothed = 0.0
    losses: list[float] = []
    rates: list[float] = []
    for _, batch in zip(range(_STEPS), _endless(alone.train_loader()), strict=False):
        try:
            loss = updates.step([batch]).item() / max(len(batch[0]), 1)
        except DivergedError:
            break
        rate = updates.learning_rate
        smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * loss
        losses.append(smoothed / (1 - _SMOOTHING ** (len(losses) + 1)))
        rates.append(rate)
        if not losses[-1] <= _BREAKS_OUT * min(losses):
            break
    if len(losses) < 2 or min(losses) == losses[0]:
        raise ValueError(
            f"no learning rate was found: the loss rises from the first step on, at {_LOWEST:.0e}; give --lr"
        )
    return rates[losses.index(min(losses))] / 10


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader
