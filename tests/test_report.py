"""The report of a run: that it stands alone, what it shows, and of whatever names and numbers."""

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from augment_gpu.stage import Stage
from augment_gpu.transfer import page, report
from augment_gpu.transfer.checkpoint import load_checkpoint, load_json, save_checkpoint, save_json
from augment_gpu.transfer.plan import TransferPlan
from augment_gpu.transfer.report import write_report
from augment_gpu.transfer.run_folder import load_run

pytestmark = pytest.mark.usefixtures("threads")

VOID = {"meta", "img", "br", "input"}
ROWS = [
    {"epoch": 0, "lr": 0.1, "train_loss": 2.0, "val_loss": 1.5, "val_top1": 0.25, "val_f1": None},
    {"epoch": 1, "lr": 0.05, "train_loss": float("nan"), "val_loss": 1.25, "val_top1": 0.5, "val_f1": 0.375},
]


class Page(HTMLParser):
    """The pieces of its text, its tags with their attributes, and a check that each is closed in turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and data.strip():
            self.text.append(data.strip())

    def after(self, name: str) -> str:
        """The piece of text that follows the first that is `name`."""
        return self.text[self.text.index(name) + 1]

    def mistakes(self) -> list[tuple[str, str, str]]:
        """(file, true class, predicted class) of each picture; the classes with their probabilities."""
        places = [place for place, piece in enumerate(self.text) if piece.startswith("predicted: ")]
        return [tuple(self.text[place - 2 : place + 1]) for place in places]

    def pictures(self, kind: str) -> list[Image.Image]:
        found = []
        for tag, attributes in self.tags:
            if tag == "img" and (attributes["src"] or "").startswith(f"data:image/{kind};base64,"):
                found.append(Image.open(io.BytesIO(base64.b64decode(attributes["src"].split(",")[1]))))
        return found


class Pictures:
    """Images in memory with paths; reading one that is an error raises it."""

    def __init__(self, images: Sequence[Any], labels: Sequence[int], paths: Sequence[str]) -> None:
        self.images, self.labels, self.paths = list(images), list(labels), list(paths)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if isinstance(self.images[index], Exception):
            raise self.images[index]
        return self.images[index], self.labels[index]

    def path(self, index: int) -> str:
        return self.paths[index]


def some_pictures(noise: Callable[..., np.ndarray], classes: int, count: int) -> Pictures:
    """Of several sizes, with labels in turn."""
    images = [noise(33 + 3 * number, 80 - number, seed=number) for number in range(count)]
    paths = [f"/data/photos/val/{number}.png" for number in range(count)]
    return Pictures(images, [number % classes for number in range(count)], paths)


def predicted(folder: Path, images: Sequence[np.ndarray]) -> np.ndarray:
    """(B, classes) probabilities of best.pt, by Stage and the bare model."""
    run = load_run(folder)
    with torch.inference_mode():
        return run.model(Stage(run.recipe).eval()(list(images))[0]).softmax(dim=1).numpy()


def test_a_report_stands_alone(untrained_run, noise, tmp_path: Path) -> None:
    folder = untrained_run(tmp_path / "run", ["cat", "dog", "owl"], rows=ROWS)
    path = write_report(folder, some_pictures(noise, 3, 7), batch_size=4, device="cpu")
    assert path == folder / "report.html"
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "best.pt", "config.json", "last.pt", "metrics.jsonl", "report.html",
    ]  # fmt: skip
    shown = Page(path)
    assert not {"script", "link", "iframe", "a", "object"} & {tag for tag, _ in shown.tags}
    for _, attributes in shown.tags:
        assert "href" not in attributes
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
    assert "url(" not in path.read_text()
    assert path.stat().st_size < 3e6
    policy = [attributes["content"] for tag, attributes in shown.tags if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_its_figures_are_those_of_the_best_epoch(untrained_run, noise, tmp_path: Path) -> None:
    folder = untrained_run(tmp_path / "run", ["cat", "dog", "owl"], rows=ROWS)
    shown = Page(write_report(folder, some_pictures(noise, 3, 7), device="cpu"))
    assert shown.text[:2] == ["test_resnet on photos"] * 2  # the title, and the heading
    figures = {"top-1": "50.0%", "best epoch": "2 of 2", "classes": "3", "validation images": "7", "val f1": "37.5%"}
    figures |= {"validation loss": "1.25", "learning rate": "0.05", "training loss": "nan"}
    for name, value in figures.items():
        assert shown.after(name) == value
    assert shown.after("crop") == "random_resized"  # of the recipe
    assert shown.after("val_fraction") == "0.2"  # of the configuration
    assert any("plain torch" in piece for piece in shown.text)  # of the environment
    # Epoch 1 has neither of the two that are missing or no number in the table of all epochs.
    head = shown.text.index("All epochs in figures") + 1
    assert shown.text[head : head + 6] == [
        "epoch",
        "learning rate",
        "training loss",
        "validation loss",
        "top-1",
        "val f1",
    ]
    assert shown.text[head + 6 : head + 18] == ["1", "0.1", "2", "1.5", "25.0%", "none", "2", "0.05", "nan", "1.25",
                                                "50.0%", "37.5%"]  # fmt: skip


def test_mistakes_are_those_of_which_the_model_is_surest(untrained_run, noise, tmp_path: Path) -> None:
    folder = untrained_run(tmp_path / "run", ["cat", "dog", "owl"])
    data = some_pictures(noise, 3, 40)
    known = predicted(folder, data.images)
    choice, confidence = known.argmax(axis=1), known.max(axis=1)
    wrong = [place for place in np.argsort(-confidence, kind="stable") if choice[place] != data.labels[place]]
    assert len(wrong) > 24
    shown = Page(write_report(folder, data, batch_size=7, device="cpu"))
    assert any(f"another class: {len(wrong)}. Here are the 24" in piece for piece in shown.text)
    names = ["cat", "dog", "owl"]
    assert shown.mistakes() == [
        (
            f"{place}.png",
            f"true: {names[data.labels[place]]} ({known[place, data.labels[place]]:.1%})",
            f"predicted: {names[choice[place]]} ({confidence[place]:.1%})",
        )
        for place in wrong[:24]
    ]
    pictures = shown.pictures("jpeg")
    assert len(pictures) == 24
    for place, picture in zip(wrong, pictures, strict=False):
        assert picture.size == data.images[place].shape[1::-1]  # smaller than a thumbnail, so as large as it is
        difference = np.asarray(picture.convert("L"), float) - np.asarray(
            Image.fromarray(data.images[place]).convert("L")
        )
        assert np.abs(difference).mean() < 12  # of noise, whose levels differ by 85 on average, in JPEG


@pytest.mark.parametrize("shape", [(900, 300, 3), (1, 2000, 3), (300, 400, 1), (40, 50, 4)])
def test_a_thumbnail_is_the_whole_image_made_small(photo, shape: tuple[int, int, int]) -> None:
    image = photo(*shape)
    data = Pictures([image], [0], ["a.png"])
    tag = report._picture(data, 0, "cat", "dog")
    (source,) = re.findall('src="data:image/jpeg;base64,([^"]+)"', tag)
    picture = Image.open(io.BytesIO(base64.b64decode(source)))
    scale = min(1, 224 / max(shape[:2]))
    assert picture.size == (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
    assert abs(np.asarray(picture).mean() - image[:, :, :3].mean()) < 5


def test_names_may_hold_anything(untrained_run, noise, tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "a \"b\" & 'c'\nd", "\udcff\udcfe", "猫"]
    folder = untrained_run(tmp_path / "run", names)
    config = load_json(folder / "config.json")
    save_json(folder / "config.json", {**config, "data": "/data/<b>\n\udcff"})
    data = some_pictures(noise, 4, 9)
    data.paths = [f"/data/<i>\n\"'&\udcff{number}.png" for number in range(9)]
    data.images[3] = OSError(f"{data.paths[3]}: gone")
    shown = Page(write_report(folder, data, device="cpu"))
    assert not {"script", "b", "i"} & {tag for tag, _ in shown.tags}
    assert shown.text[0] == r"test_resnet on <b>\n\udcff"
    for name in ("<script>alert(1)</script>", "a \"b\" & 'c'\\nd", r"\udcff\udcfe", "猫"):
        assert name in shown.text
    assert all(file.startswith(r"""<i>\n"'&\udcff""") for file, _, _ in shown.mistakes())
    assert r"""/data/<i>\n"'&\udcff3.png""" in shown.text
    assert shown.after(r"""/data/<i>\n"'&\udcff3.png""") == "gone"


@pytest.mark.parametrize("classes", [2, 41, 300])  # with counts; without; with some of the names alone
def test_any_number_of_classes(untrained_run, noise, tmp_path: Path, classes: int) -> None:
    folder = untrained_run(tmp_path / "run", [f"class {number}" for number in range(classes)])
    path = write_report(folder, some_pictures(noise, classes, 5), device="cpu")
    shown = Page(path)
    assert path.stat().st_size < 3e6
    (matrix,) = shown.pictures("png")
    matrix.load()
    assert shown.after("classes") == str(classes)
    head = shown.text.index("most often taken for")
    assert [piece for piece in shown.text[head:] if re.fullmatch(r"class \d+", piece)].count("class 1") == 1


def test_a_run_without_mistakes(untrained_run, noise, tmp_path: Path) -> None:
    folder = untrained_run(tmp_path / "run", ["cat", "dog", "owl"])
    data = some_pictures(noise, 3, 6)
    data.labels = [int(label) for label in predicted(folder, data.images).argmax(axis=1)]
    shown = Page(write_report(folder, data, device="cpu"))
    assert shown.after("Mistakes") == "None: every validation image was recognised."
    assert shown.pictures("jpeg") == []
    assert "Skipped images" not in shown.text


def test_images_that_cannot_be_read_are_listed(untrained_run, noise, tmp_path: Path) -> None:
    folder = untrained_run(tmp_path / "run", ["cat", "dog", "owl"])
    data = some_pictures(noise, 3, 9)
    data.images[4] = ValueError("/data/photos/val/4.png: damaged PNG")
    shown = Page(write_report(folder, data, skipped=[("/data/a.jpg", "/data/a.jpg: truncated JPEG")], device="cpu"))
    assert shown.after("validation images") == "8"
    assert shown.after("/data/a.jpg") == "truncated JPEG"
    assert shown.after("/data/photos/val/4.png") == "damaged PNG"


def test_a_picture_that_went_away_leaves_its_place(untrained_run, noise, tmp_path: Path) -> None:
    """Each image can be read once, for the evaluation."""

    class Once(Pictures):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            item = super().__getitem__(index)
            self.images[index] = OSError(f"{self.paths[index]}: no longer there")
            return item

    folder = untrained_run(tmp_path / "run", ["cat", "dog", "owl"])
    data = some_pictures(noise, 3, 9)
    shown = Page(write_report(folder, Once(data.images, data.labels, data.paths), device="cpu"))
    assert shown.mistakes()
    assert shown.pictures("jpeg") == []
    assert sum("no longer there" in piece for piece in shown.text) == len(shown.mistakes())


def test_the_plan_is_told_in_words(untrained_run, noise, tmp_path: Path) -> None:
    folder = untrained_run(tmp_path / "run", ["cat", "dog", "owl"])
    plan = asdict(TransferPlan(strategy="full", lr=0.003, reason="Many images & all layers."))
    save_json(folder / "config.json", {**load_json(folder / "config.json"), "plan": plan})
    shown = Page(write_report(folder, some_pictures(noise, 3, 5), device="cpu"))
    assert shown.after("Plan") == "Many images & all layers."
    words = {"strategy": "full", "layers that train below the head": "all", "learning rate of the head": "0.003"}
    for name, value in {**words, "head fitted to frozen features first": "no"}.items():
        assert shown.after(name) == value


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no folder", r"config\.json"),
        ("config", r"config\.json is not the description of a run"),
        ("data", r"config\.json is not the description of a run"),
        ("metrics", r"metrics\.jsonl is damaged"),
        ("no metrics", r"metrics\.jsonl is not of a finished run"),
        ("best", r"best\.pt has metrics \{'epoch': 7\}; those of one of 1 epochs are wanted"),
        ("no best", r"best\.pt does not exist"),
        ("classes", "labels go from 0 to 2; there are 2 classes"),
    ],
)
def test_a_folder_that_holds_no_run_is_named(untrained_run, noise, tmp_path: Path, damage: str, message: str) -> None:
    folder = tmp_path / "run"
    if damage != "no folder":
        untrained_run(folder, ["cat", "dog"] if damage == "classes" else ["cat", "dog", "owl"])
        (folder / "report.html").write_text("an older one")
    if damage == "config":
        save_json(folder / "config.json", {"config": {"model": "a"}})
    elif damage == "data":
        save_json(folder / "config.json", {**load_json(folder / "config.json"), "data": 3})
    elif damage == "metrics":
        (folder / "metrics.jsonl").write_text("{")
    elif damage == "no metrics":
        (folder / "metrics.jsonl").write_text("")
    elif damage == "best":
        save_checkpoint(folder / "best.pt", {**load_checkpoint(folder / "best.pt"), "metrics": {"epoch": 7}})
    elif damage == "no best":
        (folder / "best.pt").unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        write_report(folder, some_pictures(noise, 3, 5), device="cpu")
    if damage != "no folder":
        assert (folder / "report.html").read_text() == "an older one"
        assert not [entry for entry in folder.iterdir() if entry.name.startswith(".")]


def paths(drawn: str) -> list[list[tuple[float, float]]]:
    """The points of each line of data."""
    return [
        [tuple(map(float, point.split())) for point in data.split("L")]
        for data in re.findall(r'class="line\d" d="M([^"H]+)"', drawn)
    ]


def labels(drawn: str) -> list[str]:
    return re.findall(r'text-anchor="(?:end|middle)">([^<]+)<', drawn)


def test_a_chart_puts_values_where_they_belong() -> None:
    """Two epochs from 0 to 1: from the lower left of the axes to the upper right; 0.5 lies half-way."""
    drawn = page.chart("loss", {"a": [0, 1], "b": [0.5, 0.5]}, best=1)
    rising, level = paths(drawn)
    (left, bottom), (right, top) = rising
    assert left < right
    assert top < bottom
    assert level == [(left, (top + bottom) / 2), (right, (top + bottom) / 2)]
    assert labels(drawn) == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0", "1", "2", "epoch", "loss"]
    assert f'class="best" d="M{right} ' in drawn


def test_a_chart_of_shares_ends_at_a_hundred_percent() -> None:
    assert labels(page.chart("a", {"a": [0.72, 0.99]}, percent=True))[:7] == [
        "70%", "75%", "80%", "85%", "90%", "95%", "100%",
    ]  # fmt: skip
    assert labels(page.chart("a", {"a": [1.0]}, percent=True))[-4:] == ["100%", "1", "epoch", "a"]


def test_a_chart_leaves_gaps_and_shows_what_stands_alone() -> None:
    drawn = page.chart("a", {"a": [1, 2, None, 3, None, 2, 1]})
    assert [len(points) for points in paths(drawn)] == [2, 2]
    assert drawn.count("<circle") == 5
    assert page.chart("a", {"a": [None, None], "b": []}) == ""
    many = page.chart("a", {"a": [*range(100), None, 7]})
    assert many.count("<circle") == 1


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([3.0], ["2.0", "2.5", "3.0", "3.5", "4.0"]),
        ([0.0], ["-0.3", "-0.2", "-0.1", "0.0", "0.1", "0.2", "0.3"]),
        ([1e-5, 3e-5], ["1e-05", "1.5e-05", "2e-05", "2.5e-05", "3e-05"]),
        ([1e6, 2e7], ["0", "5e+06", "1e+07", "1.5e+07", "2e+07"]),
    ],
)
def test_an_axis_has_round_numbers(values: list[float], names: list[str]) -> None:
    drawn = labels(page.chart("a", {"a": values}))
    assert drawn[: len(names)] == names


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [(1, [1]), (8, range(1, 9)), (9, [2, 4, 6, 8]), (90, range(20, 81, 20)), (300, range(50, 301, 50))],
)
def test_epochs_are_numbered_from_one_and_sparsely(epochs: int, shown: Sequence[int]) -> None:
    drawn = labels(page.chart("a", {"a": list(range(epochs))}))
    assert drawn[drawn.index("epoch") - len(shown) : drawn.index("epoch")] == [str(epoch) for epoch in shown]


def test_values_of_a_file_in_words() -> None:
    value = json.loads('{"a": null, "b": [true, 0.123456], "c": {}, "d": "x", "e": [], "f": 12}')
    assert page.words(value) == "a: none, b: yes, 0.1235, c: none, d: x, e: none, f: 12"
    assert [page.finite(value) for value in (1, 0.5, True, "1", None, float("inf"))] == [1, 0.5, None, None, None, None]
