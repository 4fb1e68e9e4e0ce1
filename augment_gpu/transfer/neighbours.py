"""How well features tell classes apart before anything is trained on them: nearest neighbours, and LogME."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

K = 5
_QUERIES = 1024  # compared at a time with all others
_STEPS = 300  # of the fixed-point iteration at most


def knn_accuracy(values: np.ndarray, labels: np.ndarray, *, k: int = K, balanced: bool = False) -> float:
    """The share of images that their k nearest others classify right, by cosine similarity, in [0, 1].

    values: (N, D). labels: (N,), at least 0. k: at most one less than the images of the smallest class of several, so
    that each of these could win. An image that is alone in its class is never right. balanced: the mean over the
    classes' shares, so that a large class counts as much as a small one. Votes are tied: see knn_predict. Raises
    ValueError for arrays that do not fit each other or of fewer than two images.
    """
    _check(values, labels, k)
    if len(values) < 2:
        raise ValueError(f"values holds {len(values)} image; its neighbours are wanted too")
    counts = np.bincount(labels)
    k = min(k, max(int(counts[counts > 1].min(initial=len(values))) - 1, 1))
    unit = _unit(values)
    predicted = np.concatenate(list(_predicted(unit, labels, unit, k, own=True)))
    right = np.bincount(labels, weights=predicted == labels)
    return float((right[counts > 0] / counts[counts > 0]).mean() if balanced else right.sum() / len(labels))


def knn_predict(
    train_values: np.ndarray, train_labels: np.ndarray, query_values: np.ndarray, *, k: int = K
) -> np.ndarray:
    """(Q,) the class of each of (Q, D) queries that most of its k nearest among (N, D) images have, by cosine
    similarity; of several with most the one whose neighbours are the more similar in sum.

    k: at most the images of the smallest class. Raises ValueError for arrays that do not fit each other.
    """
    _check(train_values, train_labels, k)
    if query_values.ndim != 2 or query_values.shape[1] != train_values.shape[1]:
        raise ValueError(f"the queries have shape {query_values.shape}; wanted (Q, {train_values.shape[1]})")
    counts = np.bincount(train_labels)
    k = min(k, int(counts[counts > 0].min()))
    found = list(_predicted(_unit(train_values), train_labels, _unit(query_values), k, own=False))
    return np.concatenate([np.empty(0, dtype=np.int64), *found])


def _predicted(
    train: torch.Tensor, labels: np.ndarray, queries: torch.Tensor, k: int, *, own: bool
) -> Iterator[np.ndarray]:
    """Classes, so many queries at a time. own: query i is image i of `train`, and no neighbour of its own."""
    classes, label = int(labels.max()) + 1, torch.from_numpy(labels.astype(np.int64))
    for start in range(0, len(queries), _QUERIES):
        similarity = queries[start : start + _QUERIES] @ train.T
        if own:
            similarity[torch.arange(len(similarity)), torch.arange(start, start + len(similarity))] = -torch.inf
        nearest = similarity.topk(k, dim=1)
        # A vote is 1; the similarities, scaled to less than 1 in sum, tell apart what is equal in votes.
        votes = 1 + (1 + nearest.values.clamp(-1, 1)) / (2 * k + 1)
        score = torch.zeros(len(similarity), classes).scatter_add_(1, label[nearest.indices], votes)
        yield score.argmax(dim=1).numpy()


def _unit(values: np.ndarray) -> torch.Tensor:
    return F.normalize(torch.from_numpy(values.astype(np.float32)), dim=1)


def _check(values: np.ndarray, labels: np.ndarray, k: int = 1) -> None:
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"values has shape {values.shape}; wanted (images, features), neither of them 0")
    if labels.shape != values.shape[:1] or labels.min() < 0:
        raise ValueError(f"labels has shape {labels.shape} for {len(values)} images; wanted one each, at least 0")
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")


def log_me(values: np.ndarray, labels: np.ndarray) -> float:
    """The logarithm of maximum evidence (You et al., ICML 2021) per image, the mean over the classes that there are.

    values: (N, D). labels: (N,). For each class the target is 1 for its images and 0 for the others, modelled as linear
    in the features with Gaussian weights of precision α and Gaussian noise of precision β; the evidence, which is the
    targets' likelihood with the weights integrated out, is maximised over both. Higher is better; it has no zero point
    or unit, so it compares networks on the same images. Raises ValueError for arrays that do not fit each other.
    """
    _check(values, labels)
    x = values.astype(np.float64)
    y = (labels[:, None] == np.unique(labels)).astype(np.float64)
    # In the singular vectors of x the problem falls apart: s are its squared singular values, and `along` the squared
    # components of each class's target along the left vectors, of which the smaller product tells both.
    if x.shape[1] <= x.shape[0]:
        s, vectors = np.linalg.eigh(x.T @ x)
    else:
        s, vectors = np.linalg.eigh(x @ x.T)
    sound = s > max(x.shape) * np.finfo(np.float64).eps * max(s[-1], np.finfo(np.float64).tiny)
    s, vectors = s[sound, None], vectors[:, sound]
    along = np.square(vectors.T @ (x.T @ y)) / s if x.shape[1] <= x.shape[0] else np.square(vectors.T @ y)
    count, squares = len(x), np.square(y).sum(axis=0)
    rest = np.maximum(squares - along.sum(axis=0), 1e-12 * squares)  # of the targets, beyond what features can say
    # α / β is iterated; given it, the best β is known. No bound of it is reached where the features say anything.
    ratio = np.ones(y.shape[1])
    low, high = (1e-12 * s.max(initial=1.0), 1e12 * s.max(initial=1.0))
    for _ in range(_STEPS):
        known = (s / (ratio + s)).sum(axis=0)  # effective number of weights that the data determines
        weights = np.maximum((s * along / (ratio + s) ** 2).sum(axis=0), np.finfo(np.float64).tiny)
        error = (along * (ratio / (ratio + s)) ** 2).sum(axis=0) + rest
        before, ratio = ratio, np.clip(known * error / ((count - known) * weights), low, high)
        if np.allclose(ratio, before, rtol=1e-6, atol=0):
            break
    explained = (along * ratio / (ratio + s)).sum(axis=0) + rest
    beta = count / explained
    evidence = count * (np.log(beta / (2 * np.pi)) - 1) + len(s) * np.log(ratio) - np.log(ratio + s).sum(axis=0)
    return float((evidence / (2 * count)).mean())
