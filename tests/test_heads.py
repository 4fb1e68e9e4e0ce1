"""Heads on stored features: against a Newton solver, on data whose answer is known, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from augment_gpu.transfer import heads
from augment_gpu.transfer.heads import STRENGTHS, fit_logistic, fit_mlp

pytestmark = pytest.mark.usefixtures("threads")


def clouds(
    images: int, views: int, width: int, classes: int, *, spread: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clouds around a centre for each class; the views of an image lie near it. Features are on scales from
    1 to 100 and far from 0, as a network's may be."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(images) % classes)
    centres = random.normal(size=(classes, width))
    places = centres[labels] + spread * random.normal(size=(images, width))
    values = places[:, None] + 0.1 * spread * random.normal(size=(images, views, width))
    scale = 10 ** np.linspace(0, 2, width)
    return (values * scale + 3 * scale).astype(np.float16), labels.astype(np.int64)


def rows(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw and standardised features (R, D) float64, and labels (R,)."""
    raw = values.reshape(-1, values.shape[2]).astype(np.float64)
    return raw, (raw - raw.mean(axis=0)) / raw.std(axis=0), np.repeat(labels, values.shape[1])


def newton(x: np.ndarray, y: np.ndarray, classes: int, strength: float) -> np.ndarray:
    """Logits of the regularised multinomial regression, by Newton's method on all weights and biases at once."""
    count, width = x.shape
    with_one = np.hstack([x, np.ones((count, 1))])
    ridge = np.diag(np.tile(np.append(np.full(width, strength), 0.0), classes))
    solution = np.zeros(classes * (width + 1))
    for _ in range(50):
        logits = with_one @ solution.reshape(classes, -1).T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        gradient = ((p - np.eye(classes)[y]).T @ with_one / count).ravel() + ridge @ solution
        second = np.einsum("nk,nkl,nd,ne->kdle", p, np.eye(classes) - p[:, None], with_one, with_one) / count
        second = second.reshape(len(solution), -1) + ridge
        solution -= np.linalg.pinv(second) @ gradient  # the biases' sum is free
    return with_one @ solution.reshape(classes, -1).T


def logits_of(head: nn.Module, raw: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return head(torch.from_numpy(raw).float()).double().numpy()


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> float:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return float(-np.log(p[np.arange(len(y)), y] / p.sum(axis=1)).mean())


def centred(logits: np.ndarray) -> np.ndarray:
    """Without what is the same for all classes, which no probability depends on."""
    return logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize(("images", "width"), [(41, 7), (9, 12)])  # more rows than features, and fewer
def test_the_logistic_head_is_newtons(images: int, width: int, strength: float) -> None:
    values, labels = clouds(images, 2, width, 3, spread=2.0)
    fit = fit_logistic(values, labels, 3, strengths=[strength])
    raw, x, y = rows(values, labels)
    expected = centred(newton(x, y, 3, strength))
    assert (fit.head.in_features, fit.head.out_features, fit.strength) == (width, 3, strength)
    found = centred(logits_of(fit.head, raw))
    # A gradient of 1e-5 leaves a distance where the loss is nearly flat, as it is at the weakest strength.
    assert found == pytest.approx(expected, abs=(2e-3 if strength > 1e-3 else 2e-2) * np.abs(expected).max())
    weight = fit.head.weight.detach().double().numpy() * raw.std(axis=0)
    penalty = strength / 2 * (weight**2).sum()
    least = (
        strength / 2 * (np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), expected, rcond=None)[0][:-1] ** 2).sum()
    )
    assert cross_entropy(found, y) + penalty <= cross_entropy(expected, y) + least + 1e-5


def test_strongly_correlated_features_converge_in_a_hundred_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The condition number is 1e11. On the weights themselves L-BFGS stands at a loss of 0.30 and a gradient of 1.5e-3
    after as many steps."""
    random = np.random.default_rng(1)
    mix = np.linalg.qr(random.normal(size=(40, 40)))[0] * 10 ** np.linspace(0, -4, 40) @ random.normal(size=(40, 40))
    values = (random.normal(size=(300, 1, 40)) @ mix).astype(np.float32)
    labels = (values[:, 0] @ np.linalg.pinv(mix)[:, 35] > 0).astype(np.int64)  # told by what varies least
    monkeypatch.setattr(heads, "_MOST", 100)
    fit = fit_logistic(values, labels, 2, strengths=[1e-6])
    raw, x, y = rows(values, labels)
    raw_weight = fit.head.weight.detach().double()
    weight = (raw_weight * torch.from_numpy(raw.std(axis=0))).requires_grad_()
    bias = fit.head.bias.detach().double() + raw_weight @ torch.from_numpy(raw.mean(axis=0))
    loss = F.cross_entropy(torch.from_numpy(x) @ weight.T + bias, torch.from_numpy(y)) + 5e-7 * weight.square().sum()
    loss.backward()
    assert loss.item() < 0.21
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) < 2e-4


def test_the_views_of_an_image_are_held_out_together() -> None:
    """Of random labels nothing can be learnt, but an image is recognised by another view of it."""
    values, _ = clouds(120, 3, 200, 2)
    labels = np.random.default_rng(5).integers(0, 2, 120)
    fit = fit_logistic(values, labels, 2)
    assert max(fit.accuracies.values()) < 0.68  # four standard deviations of 120 guesses
    raw, _, y = rows(values, labels)
    weakest = fit_logistic(values, labels, 2, strengths=[1e-6])
    assert (logits_of(weakest.head, raw).argmax(axis=1) == y).mean() == 1


def test_each_image_is_held_out_once_and_classes_are_spread() -> None:
    labels = np.array([0] * 7 + [1] * 5 + [2] * 2 + [3])
    folds = heads._folds(labels, 5, seed=3)
    assert folds[14] == -1  # alone in its class
    assert sorted(np.bincount(folds[:14]).tolist()) == [2, 3, 3, 3, 3]
    assert sorted(np.bincount(folds[:7], minlength=5).tolist()) == [1, 1, 1, 2, 2]
    assert sorted(folds[7:12].tolist()) == [0, 1, 2, 3, 4]
    assert folds[12] != folds[13]
    assert heads._folds(labels, 5, seed=3).tolist() == folds.tolist()
    assert heads._folds(labels, 5, seed=4).tolist() != folds.tolist()


def test_cross_validation_scores_what_was_held_out() -> None:
    """The same folds, each fitted by Newton's method."""
    values, labels = clouds(30, 2, 4, 3, spread=1.5, seed=2)
    _, x, y = rows(values, labels)
    fold = np.repeat(heads._folds(labels, 3, seed=7), 2)
    right, surprise = 0, 0.0
    for number in range(3):
        out = fold == number
        inside = newton(x[~out], y[~out], 3, 0.03)
        with_one = np.hstack([x, np.ones((len(x), 1))])
        solution = np.linalg.lstsq(with_one[~out], inside, rcond=None)[0]
        logits = with_one[out] @ solution
        right += (logits.argmax(axis=1) == y[out]).sum()
        surprise += out.sum() * cross_entropy(logits, y[out])
    fit = fit_logistic(values, labels, 3, folds=3, seed=7, strengths=[0.03])
    assert fit.accuracies == {0.03: pytest.approx(right / 60, abs=1 / 60)}  # a tie may fall either way
    assert fit.losses == {0.03: pytest.approx(surprise / 60, rel=0.01)}
    assert fit.accuracy == fit.accuracies[0.03]


def test_the_strength_suits_the_data() -> None:
    """One feature of two hundred tells the classes, of forty images: a weak regularisation fits the noise."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 2
    values = random.normal(size=(40, 1, 200)).astype(np.float32)
    values[:, 0, 17] = 3 * (labels - 0.5) + 0.3 * random.normal(size=40)
    fit = fit_logistic(values, labels, 2)
    assert list(fit.accuracies) == sorted(STRENGTHS, reverse=True)
    assert fit.strength >= 0.01
    assert fit.accuracy == max(fit.accuracies.values())
    # Classes that are far apart are told apart at every strength but the greatest: then the loss decides.
    values, labels = clouds(60, 2, 5, 3, spread=0.05)
    fit = fit_logistic(values, labels, 3)
    tied = [strength for strength, accuracy in fit.accuracies.items() if accuracy == 1]
    assert len(tied) > 3
    assert fit.strength == min(tied, key=lambda strength: fit.losses[strength])


def test_classes_of_one_image_and_of_none() -> None:
    values, labels = clouds(21, 3, 8, 2, spread=0.1)
    labels[0] = 4  # alone; classes 2, 3 and 5 have none
    values[0] += 9 * values.astype(np.float32).std(axis=(0, 1)).astype(np.float16)
    fit = fit_logistic(values, labels, 6)
    raw, _, y = rows(values, labels)
    predicted = logits_of(fit.head, raw).argmax(axis=1)
    assert fit.head.out_features == 6
    assert (predicted == y).all()
    assert fit.accuracy == 1  # of the twenty that were held out
    alone = fit_logistic(values[:6], np.arange(6), 6)
    assert (alone.accuracies, alone.losses, alone.strength) == ({}, {}, 0.01)
    assert math.isnan(alone.accuracy)
    assert (logits_of(alone.head, rows(values[:6], labels[:6])[0]).argmax(axis=1) == np.repeat(np.arange(6), 3)).all()


def test_two_fits_are_one() -> None:
    values, labels = clouds(33, 2, 9, 3)
    first, second = (fit_logistic(values, labels, 3, seed=1) for _ in range(2))
    assert (first.accuracies, first.losses) == (second.accuracies, second.losses)
    assert torch.equal(first.head.weight, second.head.weight)


@pytest.mark.parametrize("fit", [lambda *given: fit_logistic(*given).head, lambda *given: fit_mlp(*given, epochs=5)])
def test_scale_and_place_of_features_change_nothing(fit, monkeypatch) -> None:
    """Nor do the chunks in which values are converted."""
    values, labels = clouds(24, 2, 6, 3)
    expected = logits_of(fit(values, labels, 3), values.reshape(48, 6))
    moved = 8 * values.astype(np.float32) - 1000
    assert logits_of(fit(moved, labels, 3), moved.reshape(48, 6)) == pytest.approx(expected, abs=0.01)
    monkeypatch.setattr(heads, "_CHUNK", 50)
    assert logits_of(fit(values, labels, 3), values.reshape(48, 6)) == pytest.approx(expected, abs=0.01)


def test_a_feature_that_does_not_vary_counts_for_nothing() -> None:
    values, labels = clouds(24, 2, 6, 3)
    more = np.concatenate([values, np.full((24, 2, 1), 0.1, np.float16)], axis=2)
    expected, found = (fit_logistic(given, labels, 3, strengths=[0.01]).head for given in (values, more))
    assert logits_of(found, more.reshape(48, 7)) == pytest.approx(logits_of(expected, values.reshape(48, 6)), abs=0.01)
    assert float(found.weight[:, 6].detach().abs().max()) < 1e-6


def exclusive_or() -> tuple[np.ndarray, np.ndarray]:
    """Two features whose signs agree or not: no line tells which."""
    random = np.random.default_rng(0)
    values = random.uniform(0.3, 1, (200, 2, 2)) * random.choice([-1, 1], (200, 1, 2))
    return (values * 50 + 20).astype(np.float16), (values[:, 0].prod(axis=1) > 0).astype(np.int64)


def test_the_mlp_learns_what_no_linear_head_can() -> None:
    values, labels = exclusive_or()
    raw, _, y = rows(values, labels)
    mlp = fit_mlp(values, labels, 2, hidden=32, epochs=40, lr=1e-2, dropout=0.1)
    assert [type(layer) for layer in mlp] == [nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert not mlp.training
    assert (logits_of(mlp, raw).argmax(axis=1) == y).mean() > 0.98
    assert fit_logistic(values, labels, 2).accuracy < 0.7


def test_the_mlp_follows_from_its_seed_alone() -> None:
    values, labels = clouds(37, 3, 5, 3)  # 37 in batches of 8: a rest of 5
    before = torch.random.get_rng_state()
    first = fit_mlp(values, labels, 3, hidden=16, epochs=3, batch_size=8, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    again = fit_mlp(values, labels, 3, hidden=16, epochs=3, batch_size=8, seed=5)
    other = fit_mlp(values, labels, 3, hidden=16, epochs=3, batch_size=8, seed=6)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])


def test_the_mlp_sees_every_image_once_an_epoch_in_one_of_its_views(tmp_path) -> None:
    """And reads a batch at a time: asked of an array that notes what is taken from it."""
    taken: list[tuple[np.ndarray, np.ndarray]] = []

    class Noting(np.ndarray):
        def __getitem__(self, key):
            if isinstance(key, tuple) and isinstance(key[0], np.ndarray):
                taken.append(key)
            return np.asarray(super().__getitem__(key))

    values, labels = clouds(30, 4, 5, 3)
    np.save(tmp_path / "v.npy", values)
    fit_mlp(np.load(tmp_path / "v.npy", mmap_mode="r").view(Noting), labels, 3, hidden=8, epochs=6, batch_size=7)
    assert [len(images) for images, _ in taken] == [7, 7, 7, 7, 2] * 6
    seen = np.concatenate([images for images, _ in taken]).reshape(6, 30)
    assert (np.sort(seen, axis=1) == np.arange(30)).all()
    assert (seen[0] != seen[1]).any()
    drawn = np.bincount(np.concatenate([views for _, views in taken]), minlength=4)
    assert drawn.min() > 25  # of 180, where 45 are expected


@pytest.mark.parametrize("fit", [fit_logistic, fit_mlp])
@pytest.mark.parametrize(
    ("values", "labels", "classes", "message"),
    [
        (np.zeros((4, 5)), np.zeros(4, int), 2, r"values has shape \(4, 5\)"),
        (np.zeros((0, 1, 5)), np.zeros(0, int), 2, r"values has shape \(0, 1, 5\)"),
        (np.zeros((4, 1, 5)), np.zeros(3, int), 2, r"labels has shape \(3,\) for 4 images"),
        (np.zeros((4, 1, 5)), np.zeros(4, int), 1, "classes is 1"),
        (np.zeros((4, 1, 5)), np.array([0, 1, 2, 0]), 2, "labels go from 0 to 2; there are 2 classes"),
        (np.zeros((4, 1, 5)), np.array([0, 1, -1, 0]), 2, "labels go from -1 to 1"),
        (np.full((4, 1, 5), np.nan), np.array([0, 1, 1, 0]), 2, "not finite, in feature 0"),
    ],
)
def test_arrays_that_make_no_problem_are_refused(fit, values, labels, classes, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit(values, labels, classes)


@pytest.mark.parametrize(
    ("fit", "options", "message"),
    [
        (fit_logistic, {"folds": 1}, "folds is 1"),
        (fit_logistic, {"strengths": []}, "strengths is"),
        (fit_logistic, {"strengths": [0.1, 0.0]}, "strengths is"),
        (fit_mlp, {"hidden": 0}, "hidden is 0"),
        (fit_mlp, {"epochs": 0}, "epochs is 0"),
        (fit_mlp, {"batch_size": 0}, "batch_size is 0"),
        (fit_mlp, {"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_options_out_of_range_are_refused(fit, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        fit(*clouds(6, 1, 3, 2), 2, **options)
