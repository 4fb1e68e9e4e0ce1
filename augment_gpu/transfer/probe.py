"""The head alone, fitted to features that the frozen network computed once."""

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from augment_gpu.predict import progress_bar
from augment_gpu.transfer.checkpoint import save_checkpoint
from augment_gpu.transfer.config import autocast
from augment_gpu.transfer.features import Features, extract_features
from augment_gpu.transfer.heads import fit_logistic, fit_mlp
from augment_gpu.transfer.model import set_head
from augment_gpu.transfer.run import write_metrics
from augment_gpu.transfer.setup import Setup
from augment_gpu.transfer.validate import validate

_CHUNK = 65536  # rows of features that are turned into float32 at a time


def fit_head(setup: Setup) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Fits the plan's head, validates the whole network, and writes the run folder's files; returns the one row of
    metrics, and (path, reason) of each training image that could not be read. Of several ranks the first fits, and the
    others wait."""
    clock = time.perf_counter()
    found = None
    if setup.ranks.leads:
        features, fitted = _fitted(setup)
        found = fitted, _loss(fitted, features), *features.values.shape[:2], features.skipped
    head, train_loss, images, views, skipped = setup.ranks.from_first(found)
    set_head(setup.model, head)
    seconds = time.perf_counter() - clock
    with progress_bar() as progress:
        measured = validate(
            setup.model,
            setup.val_loader(),
            len(setup.classes),
            autocast=partial(autocast, setup.device),
            ranks=setup.ranks,
            progress=progress,
        )
    row = {
        "epoch": 0,
        "lr": setup.plan.lr,
        "train_loss": train_loss,
        "images": images * views,
        "steps": 0,
        "images_per_second": images * views / seconds,
        "seconds": seconds,
        **measured,
    }
    if setup.ranks.leads:
        result = setup.result(setup.model.state_dict(), row)
        save_checkpoint(setup.output / "best.pt", result)
        save_checkpoint(setup.output / "last.pt", {**result, "metrics": [row]})
        write_metrics(setup, [row])
    setup.say(
        f"{setup.plan.head} head on {views} views of {images} images  train loss {train_loss:.4f}  "
        f"val loss {row['val_loss']:.4f}  val top-1 {row['val_top1']:.1%}  {seconds:.1f} s"
    )
    for path, reason in skipped:
        setup.say(f"skipped {path}: {reason}")
    return [row], skipped


def probe_first(setup: Setup) -> None:
    """Gives the network a linear head that was fitted to its features, before all of it trains."""
    state = None
    if setup.ranks.leads:
        _, head = _fitted(setup)
        state = head.state_dict()
    state = setup.ranks.from_first(state)
    head = nn.Linear(state["weight"].shape[1], state["weight"].shape[0])
    head.load_state_dict(state)
    set_head(setup.model, head)


def _fitted(setup: Setup) -> tuple[Features, nn.Module]:
    config, plan, classes = setup.config, setup.plan, len(setup.classes)
    features = extract_features(
        setup.model,
        setup.train_data,
        setup.recipe,
        model_name=config.model,
        views=plan.views,
        seed=config.seed,
        batch_size=config.batch_size,
        device=setup.device,
        workers=config.workers,
        on_error=config.on_error,
    )
    if plan.head == "mlp":
        mlp = fit_mlp(
            features.values, features.labels, classes, epochs=plan.epochs, lr=plan.lr, weight_decay=config.weight_decay,
            seed=config.seed,
        )  # fmt: skip
        return features, mlp
    fit = fit_logistic(features.values, features.labels, classes, seed=config.seed)
    setup.say(f"logistic regression: {fit.accuracy:.1%} in cross-validation, at strength {fit.strength:.3g}")
    return features, fit.head


@torch.no_grad()
def _loss(head: nn.Module, features: Features) -> float:
    """The mean cross-entropy over all views."""
    values = features.values.reshape(-1, features.values.shape[2])
    labels = torch.from_numpy(features.labels).repeat_interleave(features.values.shape[1])
    total = 0.0
    for start in range(0, len(values), _CHUNK):
        logits = head(torch.from_numpy(values[start : start + _CHUNK].astype(np.float32)))
        total += F.cross_entropy(logits, labels[start : start + _CHUNK], reduction="sum").item()
    return total / len(values)
