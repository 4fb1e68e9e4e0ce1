"""The metrics of a network on the validation images."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from rich.progress import Progress
from torch import nn
from torch.nn import functional as F

from augment_gpu.data.loader import Loader
from augment_gpu.transfer.distributed import Ranks

_TOP = 5


@torch.no_grad()
def validate(
    model: nn.Module,
    loader: Loader,
    classes: int,
    *,
    autocast: Callable[[torch.dtype], torch.autocast],
    ranks: Ranks,
    progress: Progress,
    together: bool = False,
    pause: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """val_loss, and of accuracies in [0, 1] val_top1, val_top5 where there are more than five classes, and
    val_balanced, the mean over the classes; over all ranks' images. together: every rank takes part in every batch,
    even with no images, as a model that is shared out needs it. pause: called before each batch, on every rank.

    Raises ValueError where no image could be read.
    """
    from torchmetrics import Metric, MetricCollection
    from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

    accuracies: dict[str, Metric] = {"val_top1": MulticlassAccuracy(classes, average="micro")}
    if classes > _TOP:
        accuracies[f"val_top{_TOP}"] = MulticlassAccuracy(classes, top_k=_TOP, average="micro")
    accuracies["confusion"] = MulticlassConfusionMatrix(classes)
    device = loader.device
    metrics: Any = MetricCollection(accuracies, compute_groups=False).to(device)
    model.eval()
    task, count = progress.add_task("validate", total=len(loader), note=""), 0
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for images, targets in loader:
        pause()
        if len(images) or together:
            with autocast(images.dtype):
                logits = model(images).float()
            metrics.update(logits, targets)
            loss += F.cross_entropy(logits, targets, reduction="sum")
            count += len(images)
        progress.advance(task)
    progress.remove_task(task)
    loss_sum, images_seen = ranks.total(loss.item(), count)
    if images_seen == 0:
        raise ValueError("no validation image could be read")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The ``compute`` method", UserWarning)  # a rank may have had no image
        values = metrics.compute()
    confusion = values.pop("confusion").double()
    there = confusion.sum(1)  # a class that has no image has no accuracy either
    values["val_balanced"] = (confusion.diagonal() / there)[there > 0].mean()
    return {"val_loss": loss_sum / images_seen} | {name: value.item() for name, value in values.items()}
