"""How similar a data set is to what a network was pretrained on, told by what its features are worth there."""

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from augment_gpu.data.sources import Dataset, subset
from augment_gpu.predict import BATCH_SIZE
from augment_gpu.recipe import Recipe
from augment_gpu.rng import Key, uniform
from augment_gpu.transfer.features import extract_features
from augment_gpu.transfer.neighbours import K, knn_accuracy, log_me


@dataclass(frozen=True)
class Similarity:
    """knn: the mean over classes of the share of images that their nearest neighbours, by the frozen features, classify
    right (Renggli et al., CVPR 2022, take a nearest-neighbour classifier for a measure of how well a network
    transfers). chance: what guessing gives, 1 / classes, however unequal the classes are. log_me: see
    neighbours.log_me. images, classes: what was measured; a class of which one image was left is left out."""

    knn: float
    chance: float
    log_me: float
    images: int
    classes: int

    @property
    def score(self) -> float:
        """In [0, 1]: 0 is no better than guessing, 1 every image right."""
        return min(max((self.knn - self.chance) / (1 - self.chance), 0.0), 1.0)


def measure_similarity(
    backbone: nn.Module,
    dataset: Dataset,
    *,
    recipe: Recipe,
    model_name: str,
    limit: int = 2000,
    k: int = K,
    seed: int = 0,
    cache: str | os.PathLike[str] | None = None,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str | None = None,
    workers: int | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Similarity:
    """Measures on the evaluation views of at most `limit` images (or two of each class, where that is more), drawn by
    `seed` from each class in proportion.

    dataset: with targets, as ImageFolder and its subsets have them. See knn_accuracy for k, extract_features for the
    others. Raises ValueError where there are not two classes of two images, and what extract_features raises.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1")
    source: Any = dataset
    if not hasattr(source, "targets"):
        raise ValueError(f"the dataset is a {type(dataset).__name__} without targets, the label of each sample")
    chosen = _chosen(np.asarray(source.targets, dtype=np.int64), limit, seed)
    features = extract_features(
        backbone,
        subset(dataset, chosen),
        recipe,
        model_name=model_name,
        cache=cache,
        batch_size=batch_size,
        device=device,
        workers=workers,
        on_error=on_error,
    )
    several = (np.bincount(features.labels) > 1)[features.labels]
    values, labels = features.values[several, 0], features.labels[several]
    classes = len(np.unique(labels))
    if classes < 2:
        raise ValueError(f"two classes of at least two images that can be read are wanted; there are {classes}")
    return Similarity(
        knn=knn_accuracy(values, labels, k=k, balanced=True),
        chance=1 / classes,
        log_me=log_me(values, labels),
        images=len(labels),
        classes=classes,
    )


def _chosen(targets: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Sorted positions: two of each class, and further ones up to the limit so that classes keep their proportions."""
    draw = uniform(Key(seed), np.arange(len(targets)), "similarity")[:, 0]
    order = np.lexsort((draw, targets))
    _, first, count = np.unique(targets[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, count)  # of each image within its class
    share = (rank + 0.5) / np.repeat(count, count)
    needed = int(np.minimum(count, 2).sum())
    kept = np.lexsort((share, rank > 1))[: max(limit, needed)]
    return np.sort(order[kept])
