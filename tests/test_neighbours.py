"""Nearest neighbours by hand and by brute force; LogME against the evidence written down directly."""

import numpy as np
import pytest

from augment_gpu.transfer import neighbours
from augment_gpu.transfer.neighbours import knn_accuracy, knn_predict, log_me

pytestmark = pytest.mark.usefixtures("threads")


def on_circle(*degrees: float) -> np.ndarray:
    """Directions, of lengths that differ: cosine similarity must not see them."""
    angle = np.radians(degrees)
    length = np.arange(1, len(degrees) + 1)[:, None]
    return (length * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float16)


def test_neighbours_by_hand() -> None:
    values, labels = on_circle(0, 10, 25, 90, 100, 18), np.array([0, 0, 0, 1, 1, 1])
    # k is 2 at most: three images a class, less the one itself. Of 0: 10, 18, of classes 0 and 1, and 10 is nearer.
    # Of 10: 18, 0 (1, 0), and 18 is nearer: wrong. Of 25: 18, 10 (1, 0): wrong. Of 90: 100, 25 (1, 0): right. Of 100:
    # 90, 25: right. Of 18: 25, 10 (0, 0): wrong.
    assert knn_accuracy(values, labels, k=50) == knn_accuracy(values, labels, k=2) == 3 / 6
    # With one neighbour each: 10 0, 18 1, 18 1, 100 1, 90 1, 25 0
    assert knn_accuracy(values, labels, k=1) == 3 / 6
    queries = on_circle(95, 5, 200, 17)
    # Three each decide by majority: (90, 100, 25), (0, 10, 18), (100, 90, 25), (18, 10, 25)
    assert knn_predict(values, labels, queries, k=3).tolist() == [1, 0, 1, 0]
    assert knn_predict(values, labels, queries, k=1).tolist() == [1, 0, 1, 1]
    assert knn_predict(values, labels, queries[:0]).tolist() == []


def test_equal_votes_go_to_the_more_similar_neighbours() -> None:
    values, labels = on_circle(0, 30, 17, -17), np.array([3, 3, 1, 1])
    # Of 14: 17 and 0 of classes 1 and 3, one vote each: 3 degrees against 14
    assert knn_predict(values, labels, on_circle(14), k=2).tolist() == [1]
    # Of 2: 0 and 17: 2 degrees against 15
    assert knn_predict(values, labels, on_circle(2), k=2).tolist() == [3]


def test_a_large_class_counts_no_more_when_balanced() -> None:
    """Ten images of class 0 are right, both of class 1 nearest to those, and one is alone in its class."""
    values, labels = on_circle(*range(10), 30, -25, 180), np.array([0] * 10 + [1, 1, 6])  # 2 to 5 have no image
    assert knn_accuracy(values, labels) == pytest.approx(10 / 13)
    assert knn_accuracy(values, labels, balanced=True) == pytest.approx(1 / 3)


@pytest.mark.parametrize("k", [1, 3, 6])
def test_chunks_equal_brute_force(monkeypatch: pytest.MonkeyPatch, k: int) -> None:
    monkeypatch.setattr(neighbours, "_QUERIES", 7)  # 50 images: a last chunk of one
    random = np.random.default_rng(0)
    labels = np.arange(50) % 4
    values = random.normal(size=(4, 9))[labels] + random.normal(size=(50, 9))
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    right = 0
    for image in range(50):
        similarity = unit @ unit[image]
        similarity[image] = -2
        nearest = np.argsort(-similarity)[:k]
        score = [(int((labels[nearest] == c).sum()), similarity[nearest][labels[nearest] == c].sum()) for c in range(4)]
        right += max(range(4), key=lambda c: score[c]) == labels[image]
    assert knn_accuracy(values, labels, k=k) == pytest.approx(right / 50)
    assert 0.3 < right / 50 < 1


def test_a_vector_of_zeros_has_no_neighbour() -> None:
    assert knn_accuracy(np.array([[1, 0], [1, 0.1], [0, 0]], np.float16), np.array([0, 0, 1]), k=1) == pytest.approx(
        2 / 3
    )


def direct_log_me(values: np.ndarray, labels: np.ndarray) -> float:
    """Each target as one draw of a normal distribution with covariance 1 / β + x · x^T / α, whose likelihood a grid
    that closes in maximises over both precisions."""
    x = values.astype(np.float64)
    count = len(x)
    best = []
    for label in np.unique(labels):
        y = (labels == label).astype(np.float64)
        centre, reach, top = np.zeros(2), 12.0, -np.inf
        for _ in range(40):
            grid = [centre + reach * np.array(step) / 4 for step in np.ndindex(9, 9)]
            for point in (place - reach for place in grid):
                alpha, beta = np.exp(point)
                covariance = np.eye(count) / beta + x @ x.T / alpha
                sign, determinant = np.linalg.slogdet(covariance)
                value = -0.5 * (count * np.log(2 * np.pi) + determinant + y @ np.linalg.solve(covariance, y))
                if sign > 0 and value > top:
                    top, centre = value, point
            reach *= 0.7
        best.append(top / count)
    return float(np.mean(best))


@pytest.mark.parametrize(("images", "width"), [(17, 4), (11, 25)])  # either product of the features is the smaller
def test_log_me_is_the_maximum_of_the_evidence(images: int, width: int) -> None:
    random = np.random.default_rng(images)
    labels = np.arange(images) % 3 + 2  # 0 and 1 have no image
    values = (random.normal(size=(3, width))[labels - 2] + random.normal(size=(images, width))).astype(np.float16)
    assert log_me(values, labels) == pytest.approx(direct_log_me(values, labels), abs=1e-4)


def test_log_me_ranks_features_by_what_they_say() -> None:
    random = np.random.default_rng(3)
    labels = np.arange(60) % 3
    noise = random.normal(size=(60, 20))
    centres = random.normal(size=(3, 20))
    scores = [log_me(noise + strength * centres[labels], labels) for strength in (0, 0.5, 1, 3)]
    assert scores == sorted(scores)
    turned = np.linalg.qr(random.normal(size=(20, 20)))[0]
    values = noise + centres[labels]
    assert log_me(values @ turned, labels) == pytest.approx(log_me(values, labels), rel=1e-6)
    assert log_me(8 * values, labels) == pytest.approx(log_me(values, labels), rel=1e-6)  # α follows the scale


def test_features_without_information_have_a_finite_log_me() -> None:
    labels = np.arange(12) % 2
    # Every target is noise of variance 1/2 around 0: the logarithm of a normal density at its own mean square
    nothing = -0.5 * (np.log(2 * np.pi * 0.5) + 1)
    assert log_me(np.zeros((12, 5), np.float16), labels) == pytest.approx(nothing, abs=1e-6)
    assert np.isfinite(log_me(np.eye(12), labels))  # told apart by as many features as there are images
    assert np.isfinite(log_me(np.repeat(np.eye(6), 2, axis=0), labels // 2 % 2))


@pytest.mark.parametrize("score", [knn_accuracy, log_me])
@pytest.mark.parametrize(
    ("values", "labels", "message"),
    [
        (np.zeros((4, 1, 5)), np.zeros(4, int), r"values has shape \(4, 1, 5\)"),
        (np.zeros((0, 5)), np.zeros(0, int), r"values has shape \(0, 5\)"),
        (np.zeros((4, 5)), np.zeros(5, int), r"labels has shape \(5,\) for 4 images"),
        (np.zeros((4, 5)), np.array([0, 1, -1, 0]), "at least 0"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(score, values, labels, message) -> None:
    with pytest.raises(ValueError, match=message):
        score(values, labels)


def test_neighbours_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        knn_accuracy(np.ones((3, 2)), np.zeros(3, int), k=0)
    with pytest.raises(ValueError, match="holds 1 image"):
        knn_accuracy(np.ones((1, 2)), np.zeros(1, int))
    with pytest.raises(ValueError, match=r"queries have shape \(2, 3\); wanted \(Q, 2\)"):
        knn_predict(np.ones((3, 2)), np.zeros(3, int), np.ones((2, 3)))
