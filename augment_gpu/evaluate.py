"""How good a model is on labelled images, and what test-time augmentation costs for it."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from augment_gpu.data.sources import Dataset, sample_name
from augment_gpu.ops.mix_draws import MixParams
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

# The cost is timed on so many batches, in at least and at most so many pairs, until one crop has taken so many seconds.
_TIMED = 3
_FEWEST, _MOST = 3, 7
_ENOUGH = 0.5
_BINS = 15  # of the calibration error, as Guo et al. 2017 took them


@dataclass(frozen=True)
class Evaluation:
    """top1, topk: the share of images, in [0, 1], whose class is the most probable, or among the k most probable; k is
    5, or the number of classes where there are fewer. nll: the mean of -log(probability of the true class).
    calibration_error: the mean distance of confidence and accuracy over 15 bins of confidence, weighted by their images
    (expected calibration error, in [0, 1]).

    views: of an image. images_per_second: from file to probabilities, reading included, measuring the cost left out.
    cost: how many times the seconds of one crop, reading left out. confusion: (classes, classes) counts, a row for each
    true class, a column for each predicted one. skipped: (path, reason) of each image that could not be read; none of
    the other numbers knows of it.
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
    seen: Callable[[np.ndarray, torch.Tensor, torch.Tensor], object] | None = None,
) -> Evaluation:
    """Evaluates the mean probabilities over the views that `tta` names, on every image that can be read.

    model: gives (V, len(classes)) logits. recipe: says how an image is seen; with tta="none" as Stage sees it in
    evaluation mode. dataset: its labels are positions in `classes`, some of which may have no image. See
    tta_for for tta, TTA for max_views, open_loader for device. seen: called for each batch with what the figures are
    made of: (B,) positions in the dataset, (B, classes) probabilities, (B,) labels, the latter two on the CPU.

    The cost is measured when all images have been read and evaluated, on the first three batches, or as many as there
    are, which are kept on the device until then. All views of them have been through the model; one crop of each goes
    through it untimed as well, to pay for buffers and compiled kernels. Then pairs of the two are timed, batch after
    batch and in alternating order: three pairs, and up to seven while one crop has not taken half a second. The cost is
    the median of the pairs' ratios; with tta="none" it is 1 by definition.

    Raises ValueError where no image can be read, for labels that are not among the classes, and for a model that gives
    another number of classes or values that are not finite, naming the samples.
    """
    from torchmetrics import MetricCollection
    from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassConfusionMatrix

    if len(classes) < 2:
        raise ValueError(f"classes is {list(classes)}; a classifier has at least two")
    count, k = len(classes), min(5, len(classes))
    views = tta_for(model, recipe, tta, num_classes=count, max_views=max_views)
    predictor = Predictor(views, recipe, dataset) if tta == "none" else _KeepingPredictor(views, recipe, dataset)
    loader = open_loader(predictor, batch_size=batch_size, device=device, workers=workers)
    alone = {"sync_on_compute": False}  # where several processes train, one of them evaluates
    metrics = MetricCollection(
        {
            "top1": MulticlassAccuracy(count, average="micro", **alone),
            "topk": MulticlassAccuracy(count, top_k=k, average="micro", **alone),
            "calibration_error": MulticlassCalibrationError(count, n_bins=_BINS, **alone),
            "confusion": MulticlassConfusionMatrix(count, **alone),
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
        if seen is not None:
            seen(predictor.index, probabilities, labels)
    seconds = time.perf_counter() - clock
    if images == 0:
        raise ValueError(f"none of {len(dataset)} images could be read; the first: {': '.join(loader.skipped[0])}")
    values = metrics.compute()
    cost = 1.0
    if isinstance(predictor, _KeepingPredictor):
        one_crop = tta_for(model, recipe, "none", num_classes=count, max_views=max_views)
        cost = _cost(views, one_crop, predictor.kept)
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
        cost=cost,
        confusion=values["confusion"].tolist(),
        skipped=loader.skipped,
    )


class _KeepingPredictor(Predictor):
    """A Predictor that keeps its first batches, to go through other views again."""

    def __init__(self, tta: TTA, recipe: Recipe, dataset: Dataset) -> None:
        super().__init__(tta, recipe, dataset)
        self.kept: list[tuple[RaggedBatch, list[str]]] = []  # images, on the device, and their names

    def __call__(
        self, images: RaggedBatch, labels: torch.Tensor, *, index: np.ndarray, epoch: int, mix: MixParams | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if len(images) and len(self.kept) < _TIMED:
            self.kept.append((images, [sample_name(self.dataset, int(i)) for i in index]))
        return super().__call__(images, labels, index=index, epoch=epoch, mix=mix)


def _cost(views: TTA, one_crop: TTA, batches: Sequence[tuple[RaggedBatch, list[str]]]) -> float:
    """The median ratio of the seconds that the two take for the same batch; see evaluate."""

    def seconds(tta: TTA, number: int) -> float:
        images, names = batches[number % len(batches)]
        start = time.perf_counter()
        tta(images, names=names)  # ends by waiting for the device
        return time.perf_counter() - start

    for number in range(len(batches)):
        seconds(one_crop, number)
    ones: list[float] = []
    ratios: list[float] = []
    # The shortest, so that a pause of the machine does not count as work that was timed.
    while len(ones) < _FEWEST or (len(ones) < _MOST and len(ones) * min(ones) < _ENOUGH):
        number = len(ones)
        # Whichever goes second finds the images in the cache: each does so every other time.
        if number % 2 == 0:
            one = seconds(one_crop, number)
            all_views = seconds(views, number)
        else:
            all_views = seconds(views, number)
            one = seconds(one_crop, number)
        ones.append(one)
        ratios.append(all_views / one)
    return statistics.median(ratios)
