"""How good a model is on labelled images, and what test-time augmentation costs for it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from augment_gpu.data.sources import Dataset, sample_name
from augment_gpu.ops.mix import MixParams
from augment_gpu.predict import (
    BATCH_SIZE,
    MAX_VIEWS,
    Mode,
    Model,
    Predictor,
    open_loader,
    tta_for,
    with_progress,
)
from augment_gpu.ragged import RaggedBatch
from augment_gpu.recipe import Recipe
from augment_gpu.tta import TTA

# Batches on which one crop is timed beside all views, and bins of the calibration error (Guo et al. 2017 took 15).
_TIMED = 5
_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """top1, topk: the share of images, in [0, 1], whose class is the most probable, or among the k most probable; k is
    5, or the number of classes where there are fewer. nll: the mean of -log(probability of the true class).
    calibration_error: the mean distance of confidence and accuracy over 15 bins of confidence, weighted by their images
    (expected calibration error, in [0, 1]).

    views: of an image. images_per_second: from file to probabilities, reading included. cost: how many times the
    seconds an image of one crop, reading left out. confusion: (classes, classes) counts, a row for each true class, a
    column for each predicted one. skipped: (path, reason) of each image that could not be read; none of the other
    numbers knows of it.
    """

    tta: Mode
    views: int
    images: int
    classes: list[str]
    top1: float
    k: int
    topk: float
    nll: float
    calibration_error: float
    images_per_second: float
    cost: float
    confusion: list[list[int]]
    skipped: list[tuple[str, str]]

    def per_class(self) -> list[dict[str, Any]]:
        """For each class its name, images, how many of them were predicted correctly, and the accuracy: their ratio, or
        None where there are no images."""
        rows = []
        for label, (name, counts) in enumerate(zip(self.classes, self.confusion, strict=True)):
            images, correct = sum(counts), counts[label]
            rows.append(
                {"class": name, "images": images, "correct": correct, "accuracy": correct / images if images else None}
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them, all finite. topk goes by its name: "top5", or "top3" of three classes."""
        return {
            "tta": self.tta,
            "views": self.views,
            "images": self.images,
            "top1": self.top1,
            f"top{self.k}": self.topk,
            "nll": self.nll,
            "calibration_error": self.calibration_error,
            "images_per_second": self.images_per_second,
            "cost": self.cost,
            "classes": self.classes,
            "per_class": self.per_class(),
            "confusion": self.confusion,
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
        }


def evaluate(
    model: Model,
    recipe: Recipe,
    dataset: Dataset,
    classes: Sequence[str],
    *,
    tta: Mode = "none",
    batch_size: int = BATCH_SIZE,
    max_views: int = MAX_VIEWS,
    device: torch.device | str | None = None,
    workers: int | None = None,
) -> Evaluation:
    """Evaluates the mean probabilities over the views that `tta` names, on every image that can be read.

    model: gives (V, len(classes)) logits. recipe: says how an image is seen; with tta="none" as Stage sees it in
    evaluation mode. dataset: its labels are positions in `classes`, some of which may have no image. See
    tta_for for tta, TTA for max_views, open_loader for device.

    The cost is measured on the first five batches, or as many as there are: each goes through the model as one crop
    and with all views, in turn, and the seconds of the two are summed and divided. The first batch's are left out where
    there are more, since it also pays for buffers and compiled kernels. With tta="none" the cost is 1 by definition.

    Raises ValueError where no image can be read, for labels that are not among the classes, and for a model that gives
    another number of classes or values that are not finite, naming the samples.
    """
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

    if len(classes) < 2:
        raise ValueError(f"classes is {list(classes)}; a classifier has at least two")
    count, k = len(classes), min(5, len(classes))
    views = tta_for(model, recipe, tta, num_classes=count, max_views=max_views)
    one_crop = tta_for(model, recipe, "none", num_classes=count, max_views=max_views)
    predictor = _TimedPredictor(views, recipe, dataset, None if tta == "none" else one_crop)
    loader = open_loader(predictor, batch_size=batch_size, device=device, workers=workers)
    metrics = MetricCollection(
        {
            "top1": MulticlassAccuracy(count, average="micro"),
            "topk": MulticlassAccuracy(count, top_k=k, average="micro"),
            "calibration_error": MulticlassCalibrationError(count, n_bins=_BINS),
            "confusion": MulticlassConfusionMatrix(count),
        },
        compute_groups=False,
    )
    images, surprise = 0, 0.0
    clock = time.perf_counter()
    for probabilities, labels in with_progress(loader, "evaluate"):
        if not len(labels):
            continue
        probabilities, labels = probabilities.cpu(), labels.cpu()  # waits for the device, once a batch
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= count:
            raise ValueError(f"labels go from {low} to {high}; there are {count} classes")
        # Above 1 by a rounding, torchmetrics would take them for logits.
        metrics.update(probabilities.clamp(0, 1), labels)
        of_truth = probabilities.gather(1, labels[:, None]).double()
        # A probability may have underflowed to 0, whose logarithm no mean survives.
        surprise -= of_truth.clamp_min(torch.finfo(torch.float32).tiny).log().sum().item()
        images += len(labels)
    seconds = time.perf_counter() - clock - predictor.one_crop_seconds
    if images == 0:
        raise ValueError(f"none of {len(dataset)} images could be read; the first: {': '.join(loader.skipped[0])}")
    values = metrics.compute()
    return Evaluation(
        tta=tta,
        views=views.views,
        images=images,
        classes=list(classes),
        top1=values["top1"].item(),
        k=k,
        topk=values["topk"].item(),
        nll=surprise / images,
        calibration_error=values["calibration_error"].item(),
        images_per_second=images / seconds,
        cost=predictor.cost(),
        confusion=values["confusion"].tolist(),
        skipped=loader.skipped,
    )


class _TimedPredictor(Predictor):
    """A Predictor that times one crop beside all views on its first batches; one_crop None: they are the same."""

    def __init__(self, tta: TTA, recipe: Recipe, dataset: Dataset, one_crop: TTA | None) -> None:
        super().__init__(tta, recipe, dataset)
        self.one_crop = one_crop
        self.one_crop_seconds = 0.0
        self.pairs: list[tuple[float, float]] = []  # seconds of (all views, one crop), batch by batch

    def __call__(
        self, images: RaggedBatch, labels: torch.Tensor, *, index: np.ndarray, epoch: int, mix: MixParams | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        names = [sample_name(self.dataset, int(i)) for i in index]
        one_crop = self.one_crop if len(self.pairs) < _TIMED and len(images) else None
        start = time.perf_counter()
        if one_crop is not None:
            one_crop(images, names=names)
        middle = time.perf_counter()
        probabilities = self.tta(images, names=names)  # each TTA ends by waiting for the device
        if one_crop is not None:
            self.pairs.append((time.perf_counter() - middle, middle - start))
            self.one_crop_seconds += middle - start
        return probabilities, labels

    def cost(self) -> float:
        if self.one_crop is None:
            return 1.0
        all_views, one = np.sum(self.pairs[1:] or self.pairs, axis=0)
        return float(all_views / one)
