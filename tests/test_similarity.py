"""How similar a data set is to what a network knows: on features that tell classes apart, and on ones that do not."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from augment_gpu.recipe import Recipe
from augment_gpu.transfer import similarity
from augment_gpu.transfer.features import extract_features
from augment_gpu.transfer.neighbours import knn_accuracy, log_me
from augment_gpu.transfer.similarity import Similarity, measure_similarity

pytestmark = pytest.mark.usefixtures("threads")


class Pictures:
    """A dataset of plain colours with some noise; the label is the colour's place in the list."""

    def __init__(self, targets: list[int], *, colours: list[tuple[int, int, int]], bad: tuple[int, ...] = ()) -> None:
        self.targets, self.colours, self.bad = targets, colours, bad
        self.classes = [f"class {number}" for number in range(max(targets) + 1)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        if index in self.bad:
            raise OSError("no such picture")
        noise = np.random.default_rng(index).integers(0, 40, (20, 24, 3), dtype=np.uint8)
        colour = self.colours[self.targets[index] % len(self.colours)]
        return noise + np.array(colour, dtype=np.uint8), self.targets[index]


COLOURS = [(200, 20, 20), (20, 200, 20), (20, 20, 200)]


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("test_resnet", num_classes=3)


def measured(backbone: nn.Module, dataset: Pictures, cache: Path, **options) -> Similarity:
    return measure_similarity(
        backbone, dataset, recipe=Recipe(size=24), model_name="test_resnet", cache=cache, workers=1, **options
    )


def test_colours_are_known_and_random_labels_are_not(backbone: nn.Module, tmp_path: Path) -> None:
    known = measured(backbone, Pictures([0, 1, 2] * 10, colours=COLOURS), tmp_path)
    assert (known.knn, known.chance, known.images, known.classes) == (1.0, 1 / 3, 30, 3)
    assert known.score == 1.0
    labels = np.random.default_rng(0).integers(0, 2, 80).tolist()
    unknown = measured(backbone, Pictures(labels, colours=COLOURS[:1]), tmp_path)
    assert unknown.chance == 0.5
    assert unknown.score < 0.25
    assert unknown.log_me < known.log_me


def test_it_is_of_the_evaluation_views(backbone: nn.Module, tmp_path: Path) -> None:
    dataset = Pictures([0, 1, 2, 0, 1, 1, 2] * 3, colours=COLOURS[:2])
    found = measured(backbone, dataset, tmp_path, k=3)
    features = extract_features(backbone, dataset, Recipe(size=24), model_name="test_resnet", cache=tmp_path)
    values = features.values[:, 0]
    assert found.knn == knn_accuracy(values, features.labels, k=3, balanced=True)
    assert found.log_me == pytest.approx(log_me(values, features.labels))


def test_score_is_what_goes_beyond_chance() -> None:
    made = [Similarity(knn=knn, chance=0.25, log_me=0.0, images=8, classes=4).score for knn in (0.1, 0.25, 0.7, 1.0)]
    assert made == pytest.approx([0.0, 0.0, 0.6, 1.0])


def test_images_are_chosen_by_class_and_seed() -> None:
    targets = np.array([0] * 60 + [1] * 30 + [2] * 10 + [3] * 2 + [4])
    chosen = similarity._chosen(targets, 51, seed=1)
    assert len(set(chosen.tolist())) == 51
    assert (np.diff(chosen) > 0).all()
    # 51 of 103; the two that are sure to a class weigh on small ones alone
    assert np.bincount(targets[chosen]).tolist() == pytest.approx([29, 14, 5, 2, 1], abs=1)
    assert similarity._chosen(targets, 51, seed=1).tolist() == chosen.tolist()
    assert similarity._chosen(targets, 51, seed=2).tolist() != chosen.tolist()
    assert similarity._chosen(targets, 500, seed=1).tolist() == list(range(103))
    fewest = similarity._chosen(targets, 3, seed=1)  # two of each class all the same
    assert np.bincount(targets[fewest]).tolist() == [2, 2, 2, 2, 1]


def test_a_limit_reads_no_more_images(backbone: nn.Module, tmp_path: Path) -> None:
    found = measured(backbone, Pictures([0, 1, 2] * 30, colours=COLOURS), tmp_path, limit=12)
    assert (found.images, found.classes, found.score) == (12, 3, 1.0)


def test_classes_without_two_images_are_left_out(backbone: nn.Module, tmp_path: Path) -> None:
    dataset = Pictures([0, 0, 1, 1, 2, 0, 1, 3, 3], colours=COLOURS, bad=(7,))
    found = measured(backbone, dataset, tmp_path, on_error="skip")
    assert (found.images, found.classes, found.chance) == (6, 2, 0.5)
    with pytest.raises(OSError, match="no such picture"):
        measured(backbone, dataset, tmp_path)
    with pytest.raises(ValueError, match="are wanted; there are 1"):
        measured(backbone, Pictures([0, 0, 0, 1], colours=COLOURS), tmp_path)


def test_bad_arguments_are_named(backbone: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limit is 0"):
        measured(backbone, Pictures([0, 1], colours=COLOURS), tmp_path, limit=0)
    dataset = Pictures([0, 1], colours=COLOURS)
    del dataset.targets
    with pytest.raises(ValueError, match="a Pictures without targets"):
        measured(backbone, dataset, tmp_path)
