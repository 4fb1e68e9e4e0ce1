"""Heads that are trained on stored features in seconds: logistic regression and a network of one hidden layer.

Both take features that are standardised, each by its mean and standard deviation over all images and views, and give
heads that take them raw: the standardisation is part of the first layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from augment_gpu.rng import Key, uniform

STRENGTHS = tuple(10.0**power for power in range(-6, 3))
_CHUNK = 2**24  # values that are converted at a time: 64 MiB of float32
# When a fit has converged: the largest entry of the gradient, in the coordinates of `_minimised`. Candidates need less.
_ROUGH, _FINE = 1e-3, 1e-5
_MOST = 1000  # steps of a fit

_Rows = tuple[torch.Tensor, torch.Tensor]  # features (R, D) float32, standardised, and labels (R,) int64
_Solution = tuple[torch.Tensor, torch.Tensor]  # weight (classes, D), bias (classes,), of standardised features; float64


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """head: takes raw features (B, D). strength: of the regularisation that was chosen. accuracies, losses: for each
    strength the share of held-out views that were classified right, in [0, 1], and their mean negative log-likelihood;
    empty where there was nothing to hold out."""

    head: nn.Linear
    strength: float
    accuracies: dict[float, float]
    losses: dict[float, float]

    @property
    def accuracy(self) -> float:
        """In cross-validation, at the strength that was chosen; NaN where there was none."""
        return self.accuracies.get(self.strength, float("nan"))


def fit_logistic(
    values: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    seed: int = 0,
    folds: int = 5,
    strengths: Sequence[float] = STRENGTHS,
    device: torch.device | str = "cpu",
) -> LogisticFit:
    """Multinomial logistic regression: the least mean cross-entropy + strength / 2 · the sum of the squared weights.

    values: (N, views, D), every view of which is one row of the problem. labels: (N,) in [0, classes); a class may have
    no image. The strength is the one with the highest accuracy in cross-validation, of several with that the one with
    the least loss. Folds are drawn by `seed` and hold images with all their views; each class is spread over them as
    evenly as its images allow, and an image that is alone in its class is never held out. Where that is so of all, the
    middle one of `strengths` is taken. Memory: about 8 bytes for each of the values, and 12 for each row and class.

    Raises ValueError for arrays that do not fit each other, values that are not finite, or options out of range.
    """
    _check(values, labels, classes)
    if folds < 2:
        raise ValueError(f"folds is {folds}; it must be at least 2")
    if not strengths or not all(0 < strength < float("inf") for strength in strengths):
        raise ValueError(f"strengths is {strengths}; wanted at least one, each above 0")
    candidates = sorted(set(strengths), reverse=True)
    fold = _folds(labels, folds, seed)
    order = np.argsort(fold, kind="stable")
    scaling = _scaling(values)
    x = _standardised(values, order, scaling).to(device)
    y = torch.from_numpy(np.repeat(labels[order], values.shape[1]).astype(np.int64)).to(device)
    ends = np.searchsorted(fold[order], np.arange(folds + 1)) * values.shape[1]
    # What a fold holds out lies together, so that what is left is two slices, and nothing is copied.
    held = [slice(first, last) for first, last in pairwise(ends) if first < last]
    nothing = x.new_zeros(classes, x.shape[1], dtype=torch.float64), x.new_zeros(classes, dtype=torch.float64)
    covariance = _covariance(x)
    solutions = [nothing] * len(held)
    accuracies, losses = {}, {}
    for strength in candidates if held else ():  # from the strongest, each from where the last one ended
        root = _root(covariance, strength)
        right, surprise, rows = 0, 0.0, 0
        for number, out in enumerate(held):
            parts = [(x[: out.start], y[: out.start]), (x[out.stop :], y[out.stop :])]
            solutions[number] = _minimised(parts, strength, root, solutions[number], _ROUGH)
            logits = F.linear(x[out], *(part.float() for part in solutions[number]))
            right += int((logits.argmax(dim=1) == y[out]).sum())
            surprise += F.cross_entropy(logits, y[out], reduction="sum").item()
            rows += len(logits)
        accuracies[strength], losses[strength] = right / rows, surprise / rows
    chosen = candidates[len(candidates) // 2]
    if accuracies:
        chosen = min(accuracies, key=lambda strength: (-accuracies[strength], losses[strength]))
    weight, bias = _minimised([(x, y)], chosen, _root(covariance, chosen), nothing, _FINE)
    return LogisticFit(_unscaled(weight, bias, scaling), chosen, accuracies, losses)


def _folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) the fold of each image; -1 for those that are alone in their class."""
    draw = uniform(Key(seed), np.arange(len(labels)), "folds")[:, 0]
    alone = np.bincount(labels)[labels] == 1
    order = np.lexsort((draw, labels))
    order = order[~alone[order]]
    fold = np.full(len(labels), -1)
    fold[order] = np.arange(len(order)) % folds  # classes lie together, so that each is dealt out in turn
    return fold


def _covariance(x: torch.Tensor) -> torch.Tensor:
    """(D, D) of standardised rows, float64: rounded to float32 it might not be positive."""
    total = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for part in x.split(max(1, _CHUNK // x.shape[1])):
        wide = part.double()
        total.addmm_(wide.T, wide)
    return total / len(x)


def _root(covariance: torch.Tensor, strength: float) -> torch.Tensor:
    """L, lower triangular, where L · L^T is the bound of Böhning (Annals of the Institute of Statistical Mathematics
    44, 1992) on the loss's second derivative by each class's weights: half the covariance, and the strength."""
    bound = covariance / 2
    bound.diagonal().add_(strength)
    return torch.linalg.cholesky(bound)


def _minimised(
    parts: Sequence[_Rows], strength: float, root: torch.Tensor, start: _Solution, tolerance: float
) -> _Solution:
    """L-BFGS on weight · L: in these coordinates the second derivative lies between 0 and 1 whatever the features'
    correlations, where it has a range of many powers of ten in the weights' own. Takes a third of the steps or less."""
    rows = sum(len(y) for _, y in parts)
    inner, bias = (start[0] @ root).requires_grad_(), start[1].clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [inner, bias], max_iter=_MOST, tolerance_grad=tolerance, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        weight = torch.linalg.solve_triangular(root, inner, upper=False, left=False)
        total = strength / 2 * weight.square().sum()
        for x, y in parts:
            total = total + F.cross_entropy(F.linear(x, weight.float(), bias.float()), y, reduction="sum") / rows
        total.backward()
        return total.detach()

    optimizer.step(loss)
    with torch.no_grad():
        return torch.linalg.solve_triangular(root, inner, upper=False, left=False), bias.detach()


def fit_mlp(
    values: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    hidden: int = 512,
    dropout: float = 0.5,
    epochs: int = 100,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    batch_size: int = 64,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> nn.Sequential:
    """Linear, ReLU, dropout, Linear, trained with AdamW under half a cosine; in evaluation mode when it is returned.

    values: (N, views, D); in every epoch each image takes part once, with a view drawn anew, as images do that are
    augmented while a network trains. Only a batch is read from `values` at a time. labels: (N,) in [0, classes). All
    draws follow from `seed`: torch's global generator is neither asked nor moved.

    Raises ValueError for arrays that do not fit each other, values that are not finite, or options out of range.
    """
    _check(values, labels, classes)
    for name, number in (("hidden", hidden), ("epochs", epochs), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in [0, 1)")
    count, views, width = values.shape
    generator = torch.Generator().manual_seed(seed)
    first, last = _layer(width, hidden, generator).to(device), _layer(hidden, classes, generator).to(device)
    scaling = _scaling(values)
    mean, std = (torch.from_numpy(part).float().to(device) for part in scaling)
    optimizer = torch.optim.AdamW([*first.parameters(), *last.parameters()], lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-count // batch_size))
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator).numpy()
        view = torch.randint(views, (count,), generator=generator).numpy()
        for start in range(0, count, batch_size):
            batch = order[start : start + batch_size]
            x = torch.from_numpy(values[batch, view[batch]].astype(np.float32)).to(device)
            # nn.Dropout would draw from the global generator
            kept = torch.rand(len(batch), hidden, generator=generator) >= dropout
            inner = F.relu(first((x - mean) / std)) * (kept / (1 - dropout)).to(device)
            loss = F.cross_entropy(last(inner), torch.from_numpy(labels[batch].astype(np.int64)).to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    first = _unscaled(first.weight.detach().double(), first.bias.detach().double(), scaling)
    return _mlp(first, dropout, last).eval()


def mlp_like(weights: Mapping[str, torch.Tensor], name: str) -> nn.Sequential:
    """A head of the form that fit_mlp gives, to load `weights` into, where it goes by `name`."""
    (hidden, inputs), outputs = weights[f"{name}.0.weight"].shape, len(weights[f"{name}.3.weight"])
    return _mlp(nn.Linear(inputs, hidden), 0.0, nn.Linear(hidden, outputs))


def _mlp(first: nn.Linear, dropout: float, last: nn.Linear) -> nn.Sequential:
    return nn.Sequential(first, nn.ReLU(), nn.Dropout(dropout), last)


def _layer(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """He et al. 2015, for rectified inputs or outputs; bias 0."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)  # else it would draw from the global generator
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def _check(values: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if values.ndim != 3 or 0 in values.shape:
        raise ValueError(f"values has shape {values.shape}; wanted (images, views, features), none of them 0")
    if labels.shape != values.shape[:1]:
        raise ValueError(f"labels has shape {labels.shape} for {len(values)} images; one label an image is wanted")
    if classes < 2:
        raise ValueError(f"classes is {classes}; a classifier has at least two")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels go from {labels.min()} to {labels.max()}; there are {classes} classes")


def _chunks(values: np.ndarray) -> Iterator[slice]:
    """Slices of images that hold about so many values."""
    step = max(1, _CHUNK // (values.shape[1] * values.shape[2]))
    return (slice(start, start + step) for start in range(0, len(values), step))


def _scaling(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (D,) of each feature, float64; the latter 1 where it does not vary."""
    total, squares = np.zeros(values.shape[2]), np.zeros(values.shape[2])
    for chunk in _chunks(values):
        part = values[chunk].astype(np.float64)
        total += part.sum(axis=(0, 1))
        squares += np.square(part).sum(axis=(0, 1))
    rows = values.shape[0] * values.shape[1]
    mean = total / rows
    std = np.sqrt(np.maximum(squares / rows - mean**2, 0))
    if not np.isfinite(std).all():
        raise ValueError(f"values holds what is not finite, in feature {int(np.argmin(np.isfinite(std)))}")
    return mean, np.where(std > 1e-6 * np.abs(mean), std, 1)  # less is rounding, of the sums


def _standardised(values: np.ndarray, order: np.ndarray, scaling: tuple[np.ndarray, np.ndarray]) -> torch.Tensor:
    """(N · views, D) float32: the images in `order`, each with its views."""
    rows = torch.empty(values.shape)
    mean, std = (torch.from_numpy(part).float() for part in scaling)
    for chunk in _chunks(values):
        rows[chunk] = (torch.from_numpy(values[order[chunk]].astype(np.float32)) - mean) / std
    return rows.view(-1, values.shape[2])


def _unscaled(weight: torch.Tensor, bias: torch.Tensor, scaling: tuple[np.ndarray, np.ndarray]) -> nn.Linear:
    """The layer that makes of raw features what `weight` and `bias`, float64, make of standardised ones."""
    mean, std = (torch.from_numpy(part).to(weight.device) for part in scaling)
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight / std)
        layer.bias.copy_(bias - weight @ (mean / std))
    return layer
