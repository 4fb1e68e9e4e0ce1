"""Evaluation and prediction with models whose probabilities are known by hand."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import augment_gpu.evaluate
from augment_gpu.data.files import find_images
from augment_gpu.data.sources import ImageFolder
from augment_gpu.evaluate import Evaluation, evaluate
from augment_gpu.predict import MODES, predict, tta_for
from augment_gpu.ragged import RaggedBatch
from augment_gpu.recipe import Recipe
from augment_gpu.results import predictions_csv, save_confusion
from augment_gpu.stage import Stage

# No normalisation, so that the model sees the picture's own colour, whichever part of it is cut out.
PLAIN = Recipe(size=8, mean=None, std=None)
CLASSES = ["red", "green", "blue"]
# (class folder, colour): three of red of which the last looks green, two of green, none of blue. The wrong prediction
# and a right one are of one confidence (0.79), so that they share a bin of the calibration error.
PICTURES = [
    ("green", (10, 200, 40)),
    ("green", (70, 145, 50)),
    ("red", (255, 0, 0)),
    ("red", (180, 90, 60)),
    ("red", (80, 163, 30)),
]


def by_colour(images: torch.Tensor) -> torch.Tensor:
    """Logits: five times the mean of each channel, which lies in [0, 1]."""
    return 5 * images.mean(dim=(2, 3))


def known_probabilities(colours: Sequence[tuple[int, ...]]) -> np.ndarray:
    powers = np.exp(5 * np.array(colours) / 255)
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (name, colour) in enumerate(PICTURES):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        # Of several sizes, one of them smaller than a crop
        Image.new("RGB", (20 + 9 * number, 33 - 7 * number), colour).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


def evaluated(folder: Path, model: Any = by_colour, **options: Any) -> Evaluation:
    return evaluate(model, PLAIN, ImageFolder(folder, classes=CLASSES), CLASSES, **{"batch_size": 2, **options})


@pytest.mark.parametrize(("tta", "views"), [("none", 1), ("flip", 2), ("ten-crop", 10), ("multi-scale", 50)])
def test_figures_equal_hand_calculation(folder: Path, tta: Any, views: int) -> None:
    result = evaluated(folder, tta=tta)
    probabilities = known_probabilities([colour for _, colour in PICTURES])
    truth = np.array([CLASSES.index(name) for name, _ in PICTURES])
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    calibration = 0.0
    for number in range(15):
        inside = np.floor(confidence * 15) == number
        if inside.any():
            calibration += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert (result.tta, result.views, result.images) == (tta, views, 5)
    assert result.top1 == pytest.approx(4 / 5)
    assert (result.k, result.topk) == (3, 1.0)
    assert result.nll == pytest.approx(-np.log(probabilities[range(5), truth]).mean(), abs=1e-5)
    assert result.calibration_error == pytest.approx(calibration, abs=1e-5)
    assert result.confusion == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]  # rows are true, columns predicted
    assert result.per_class() == [
        {"class": "red", "images": 3, "correct": 2, "accuracy": 2 / 3},
        {"class": "green", "images": 2, "correct": 2, "accuracy": 1.0},
        {"class": "blue", "images": 0, "correct": 0, "accuracy": None},
    ]
    assert result.skipped == []


def test_top5_of_more_than_five_classes() -> None:
    """Logits 6, 5, 4, 3, 2, 1 for every image: the labels 0 to 4 are among the five most probable, 5 is not."""

    def falling(images: torch.Tensor) -> torch.Tensor:
        return torch.arange(6, 0, -1).float().expand(len(images), 6)

    dataset = [(np.zeros((8, 8, 3), np.uint8), label) for label in (0, 4, 4, 5)]
    result = evaluate(falling, PLAIN, dataset, list("abcdef"))
    assert (result.top1, result.k, result.topk) == (0.25, 5, 0.75)
    powers = np.exp(np.arange(6, 0, -1.0))
    assert result.nll == pytest.approx(-np.log(powers / powers.sum())[[0, 4, 4, 5]].mean())


def test_figures_do_not_depend_on_batches(folder: Path) -> None:
    one, many = (evaluated(folder, tta="ten-crop", batch_size=size, max_views=7) for size in (1, 100))
    for name in ("top1", "topk", "confusion"):
        assert getattr(one, name) == getattr(many, name)
    for name in ("nll", "calibration_error"):
        assert getattr(one, name) == pytest.approx(getattr(many, name), abs=1e-6)


@pytest.mark.parametrize(
    "fields", [{}, {"interpolation": "bicubic", "resize": 40}, {"antialias": False, "exact": True}]
)
def test_none_is_the_stages_evaluation_view(photo: Callable[..., np.ndarray], fields: dict[str, Any]) -> None:
    recipe = Recipe(size=32, **fields)
    batch = RaggedBatch.from_images([photo(70, 50), photo(41, 90, seed=1)])
    images, _ = Stage(recipe).eval()(batch)
    # Of every pixel, so that no difference is averaged away
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    with torch.inference_mode():
        expected = model(images).softmax(dim=1)
    torch.testing.assert_close(tta_for(model, recipe, "none", num_classes=4)(batch), expected, rtol=0, atol=1e-6)


def test_scales_keep_their_proportion_to_the_size() -> None:
    def scales(size: int, tta: Any) -> list[int]:
        return list(tta_for(by_colour, Recipe(size=size), tta, num_classes=3).scales)

    assert scales(224, "multi-scale") == [224, 256, 384, 480, 640]
    assert scales(64, "multi-scale") == [64, 73, 110, 137, 183]
    assert [scales(224, tta) for tta in MODES[:3]] == [[256]] * 3


@pytest.mark.parametrize(("tta", "cost"), [("none", 1), ("flip", 2), ("ten-crop", 10), ("multi-scale", 50)])
def test_cost_and_speed_of_a_model_that_takes_a_second_a_view(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tta: Any, cost: float
) -> None:
    now = 0.0

    def slow(images: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += len(images)
        return by_colour(images)

    monkeypatch.setattr(augment_gpu.evaluate, "time", SimpleNamespace(perf_counter=lambda: now))
    result = evaluated(folder, slow, tta=tta)
    assert result.cost == pytest.approx(cost)
    assert result.images_per_second == pytest.approx(1 / cost)  # without the views that only the cost needed


@pytest.mark.parametrize("batch_size", [2, 100])  # three batches; one, smaller than it might be
def test_the_cost_knows_nothing_of_warming_up_nor_of_who_goes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """A clock that the model moves: 5 s for views in a number that is new to it, as of a kernel to be compiled, then 1
    ms a view, and every sixth call another second, as of a machine that others use."""
    now, seen, calls = 0.0, set(), 0

    def warming(images: torch.Tensor) -> torch.Tensor:
        nonlocal now, calls
        calls += 1
        now += len(images) / 1000 + (0 if len(images) in seen else 5) + (calls % 6 == 0)
        seen.add(len(images))
        return by_colour(images)

    monkeypatch.setattr(augment_gpu.evaluate, "time", SimpleNamespace(perf_counter=lambda: now))
    assert evaluated(folder, warming, tta="flip", batch_size=batch_size).cost == pytest.approx(2)


def test_the_cost_is_timed_when_reading_is_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that still read would share the cores with what is timed; and what it takes is not in images/s."""
    events, now = [], 0.0

    class Watched(ImageFolder):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            events.append("read")
            return super().__getitem__(index)

    def counted(images: torch.Tensor) -> torch.Tensor:
        nonlocal now
        now += 0.001 * len(images)
        events.append(f"{len(images)} views")
        return by_colour(images)

    monkeypatch.setattr(augment_gpu.evaluate, "time", SimpleNamespace(perf_counter=lambda: now))
    result = evaluate(counted, PLAIN, Watched(folder, classes=CLASSES), CLASSES, tta="flip", batch_size=1)
    last = len(events) - events[::-1].index("read")
    assert "1 views" not in events[:last]
    assert events[:last].count("read") == 5
    assert result.images_per_second == pytest.approx(500)
    # One crop of three batches untimed, then seven pairs, whose order alternates
    pairs = ["1 views", "2 views", "2 views", "1 views"] * 4
    assert [event for event in events if event != "read"][5:] == ["1 views"] * 3 + pairs[:14]


def test_an_unreadable_image_is_reported_and_the_others_count(folder: Path) -> None:
    whole = evaluated(folder)
    bad = folder / "red" / "a.png"  # the first of its class
    bad.write_bytes((folder / "red" / "2.png").read_bytes()[:60])
    result = evaluated(folder)
    assert [path for path, _ in result.skipped] == [str(bad)]
    assert "PNG" in result.skipped[0][1]
    assert (result.images, result.confusion, result.nll) == (5, whole.confusion, pytest.approx(whole.nll))


def test_each_prediction_can_be_seen_with_its_place(folder: Path) -> None:
    (folder / "red" / "a.png").write_bytes(b"no picture")  # the last of red
    places, probabilities, labels = [], [], []

    def seen(*batch: Any) -> None:
        for kept, part in zip((places, probabilities, labels), batch, strict=True):
            kept.extend(part.tolist())

    evaluated(folder, tta="flip", seen=seen)
    assert places == [0, 1, 2, 4, 5]
    assert labels == [0, 0, 0, 1, 1]
    known = known_probabilities([colour for _, colour in PICTURES])[[2, 3, 4, 0, 1]]
    np.testing.assert_allclose(probabilities, known, atol=1e-5)


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none of 1 images could be read; the first: .*a\.png"):
        evaluated(tmp_path)


def nan_for_red(images: torch.Tensor) -> torch.Tensor:
    logits = by_colour(images)
    return torch.where(logits[:, :1] > 4.9, math.nan, logits)


@pytest.mark.parametrize("tta", ["none", "ten-crop"])
def test_a_prediction_that_is_nan_names_the_file(folder: Path, tta: Any) -> None:
    path = str(folder / "red" / "2.png")
    with pytest.raises(ValueError, match="not finite for") as caught:
        evaluated(folder, nan_for_red, tta=tta)
    assert str(caught.value).endswith(f"for {path}")
    with pytest.raises(ValueError, match=r"not finite for .*2\.png"):
        predict(nan_for_red, PLAIN, CLASSES, [path], tta=tta)


def test_certain_and_wrong_has_a_finite_likelihood(folder: Path) -> None:
    """exp(-5000) is 0, of which -log would be infinite."""
    result = evaluated(folder, lambda images: torch.tensor([-5e3, -5e3, 5e3]).expand(len(images), 3))
    assert result.nll == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))
    assert (result.top1, result.calibration_error) == (0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tta": "fifty"}, "tta is 'fifty'; it must be one of none, flip"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_views": 0}, "max_views is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"model": lambda images: images.mean(dim=(2, 3))[:, :2]}, r"the model gave \(2, 2\); \(2, 3\) is wanted"),
    ],
)
def test_bad_arguments_are_named(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluated(folder, **options)


def test_labels_and_classes_must_agree() -> None:
    dataset = [(np.zeros((8, 8, 3), np.uint8), 3)]
    with pytest.raises(ValueError, match="labels go from 3 to 3; there are 3 classes"):
        evaluate(by_colour, PLAIN, dataset, CLASSES)
    with pytest.raises(ValueError, match=r"classes is \['red'\]"):
        evaluate(by_colour, PLAIN, dataset, ["red"])


def test_as_json_it_is_complete_and_finite(folder: Path) -> None:
    stored = json.loads(json.dumps(evaluated(folder, tta="flip").to_dict(), allow_nan=False))
    assert set(stored) == {
        "tta", "views", "images", "top1", "top3", "nll", "calibration_error", "images_per_second", "cost", "classes",
        "per_class", "confusion", "skipped",
    }  # fmt: skip


@pytest.mark.parametrize("classes", [2, 50, 120])  # with counts; with colours alone; with some of the names alone
def test_the_picture_of_any_number_of_classes_is_a_png(tmp_path: Path, classes: int) -> None:
    names = [f"$a^ class [red] {number}" for number in range(classes)]  # nothing in it is markup
    confusion = np.diag(np.arange(classes)).tolist()
    result = Evaluation("flip", 2, 1, names, 1.0, 2, 1.0, 0.0, 0.0, 1.0, 2.0, confusion, [])
    with open(tmp_path / "a.png", "wb") as file:
        save_confusion(result, file)
    picture = Image.open(tmp_path / "a.png")
    assert picture.format == "PNG"
    assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_predictions_are_those_of_the_colours_and_in_order(folder: Path) -> None:
    paths = [str(folder / name / f"{number}.png") for number, (name, _) in reversed(list(enumerate(PICTURES)))]
    predictions, unreadable = predict(
        by_colour, PLAIN, CLASSES, [*paths, "missing.png"], top=2, tta="flip", batch_size=2
    )
    assert [prediction.path for prediction in predictions] == paths
    for prediction, known in zip(predictions, known_probabilities([c for _, c in reversed(PICTURES)]), strict=True):
        best = np.argsort(-known)[:2]
        assert [name for name, _ in prediction.top] == [CLASSES[label] for label in best]
        assert [value for _, value in prediction.top] == pytest.approx(known[best], abs=1e-5)
    assert [path for path, _ in unreadable] == ["missing.png"]
    lines = predictions_csv(predictions[:1]).decode().splitlines()
    assert lines[0] == "path,rank,class,probability"
    assert [line.rsplit(",", 1)[0] for line in lines[1:]] == [f"{paths[0]},1,green", f"{paths[0]},2,red"]
    assert float(lines[1].rsplit(",", 1)[1]) == pytest.approx(predictions[0].top[0][1], abs=1e-6)


def test_no_more_classes_than_there_are(folder: Path) -> None:
    path = str(folder / "red" / "2.png")
    assert len(predict(by_colour, PLAIN, CLASSES, [path], top=99)[0][0].top) == 3
    with pytest.raises(ValueError, match="top is 0"):
        predict(by_colour, PLAIN, CLASSES, [path], top=0)
    with pytest.raises(ValueError, match="the dataset is empty"):
        predict(by_colour, PLAIN, CLASSES, [])


def test_images_are_found_in_folders_and_by_patterns_and_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "red" / "deep").mkdir()
    Image.new("RGB", (9, 9)).save(folder / "red" / "deep" / "b[1].PNG")
    (folder / "red" / "notes.txt").write_text("none")
    red = ["data/red/2.png", "data/red/3.png", "data/red/4.png"]
    green = ["data/green/0.png", "data/green/1.png"]
    deep = "data/red/deep/b[1].PNG"
    assert find_images(["data/red"]) == [*red, deep]
    assert find_images(["data/red/*"]) == [*red, deep]  # notes.txt is none, deep/ is searched
    assert find_images(["data/**/[0-3].png"]) == [*green, *red[:2]]
    assert find_images([deep]) == [deep]  # a file of that very name, no pattern
    assert find_images([red[1], "data", f"./{red[1]}", str(tmp_path / red[0])]) == [
        red[1],
        *green,
        red[0],
        red[2],
        deep,
    ]
    assert find_images(["data/red/notes.txt", "missing.png"]) == ["data/red/notes.txt", "missing.png"]
    (folder / "loop").symlink_to(folder, target_is_directory=True)  # ** follows it until the system refuses
    (folder / "green" / "2.png").symlink_to(folder / "red" / "2.png")
    assert find_images(["data/**/[2-4].png"]) == ["data/green/2.png", *red[1:]]
    assert find_images(["data/**"]) == [*green, "data/green/2.png", *red[1:], deep]
    assert find_images([red[0], "data/loop/green/*"]) == [red[0], *(f"data/loop/{name[5:]}" for name in green)]
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "data/*.jpg", "data/red/*.txt"):
        with pytest.raises(FileNotFoundError) as caught:
            find_images([red[0], nothing])
        assert str(caught.value).startswith(f"{nothing}: no image found")
