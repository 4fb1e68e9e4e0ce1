"""sample_dataset: the same bytes each time, never half of it, and classes that can be told apart."""

import functools
import math
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import augment_gpu.data.sample as sample
from augment_gpu.data.sample import CLASSES, SIDES, draw_sample, sample_dataset
from augment_gpu.data.sources import ImageFolder


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def central(image: np.ndarray, size: int = 64) -> np.ndarray:
    """The central square at (size, size, 3), float: what evaluation shows a model."""
    height, width, _ = image.shape
    half = min(height, width) / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box), dtype=float)


def test_layout_and_determinism(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # drawn beside its place: a rename works within one file system, and /tmp is often another
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    first = sample_dataset(tmp_path / "new" / "one", per_class=2)
    assert first == tmp_path / "new" / "one"
    data = ImageFolder(first)
    assert data.classes == sorted(CLASSES) == list(CLASSES)
    assert len(CLASSES) == 8
    assert data.targets == [label for label in range(8) for _ in range(2)]
    files = contents(first)
    assert contents(sample_dataset(tmp_path / "two", per_class=2)) == files
    more = contents(sample_dataset(tmp_path / "more", per_class=3))
    assert files.items() - more.items() == {("about.json", files["about.json"])}  # a larger set begins with the same
    other = contents(sample_dataset(tmp_path / "other", per_class=2, seed=1))
    assert other.keys() == files.keys()
    assert not other.items() & files.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["more", "new", "other", "two"]  # nothing is left over


def test_pictures_vary_within_their_limits() -> None:
    shapes = [draw_sample(number % 8, number).shape[:2] for number in range(120)]
    sides: np.ndarray = np.array(shapes)
    assert sides.min() >= SIDES[0]
    assert sides.max() <= SIDES[1]
    assert (sides.max(axis=1) / sides.min(axis=1)).max() < 2.02  # at most 2, before rounding to whole pixels
    assert len(set(shapes)) > 110
    assert len({draw_sample(label, 0).shape for label in range(8)}) > 5  # the classes' images are not draws in common
    assert (sides[:, 0] > 1.3 * sides[:, 1]).any()
    assert (sides[:, 1] > 1.3 * sides[:, 0]).any()


def test_shapes_have_the_area_of_their_name() -> None:
    """The shoelace formula on corners on the unit circle; a star's inner corners lie at 0.4 to 0.5."""
    tenth = 10 * math.sin(math.pi / 5) / 2  # a star is ten triangles, with sides 1 and the inner radius
    limits = {
        "circle": (0.99 * math.pi, math.pi),
        "square": (2, 2),
        "triangle": (3 * math.sqrt(3) / 4, 3 * math.sqrt(3) / 4),
        "star": (0.4 * tenth, 0.5 * tenth),
    }
    assert set(limits) == set(sample.SHAPES)
    for shape, (low, high) in limits.items():
        for seed in range(5):
            x, y = sample._outline(shape, np.random.default_rng(seed)).T
            area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
            assert low - 1e-9 <= area <= high + 1e-9, shape


def test_textures_can_be_told_apart_at_64_pixels() -> None:
    """Stripes have one direction and dots none: the coherence of the structure tensor, 1 against 0, must show it."""
    coherence: dict[str, list[float]] = {texture: [] for texture in sample.TEXTURES}
    for label, name in enumerate(CLASSES):
        for number in range(8):
            y, x = np.gradient(central(draw_sample(label, number)), axis=(0, 1))
            xx, yy, xy = (x * x).sum(), (y * y).sum(), (x * y).sum()
            coherence[name.split("_")[0]].append(math.hypot(xx - yy, 2 * xy) / (xx + yy))
    striped, dotted = np.array(coherence["striped"]), np.array(coherence["dotted"])
    assert (striped[:, None] > dotted).mean() > 0.97  # of all pairs; 0.5 would be chance
    assert np.median(striped) > 0.4
    assert np.median(dotted) < 0.1


def test_the_shape_lies_in_the_central_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise and background, all that is drawn must survive the central crop."""
    drawn: list[np.ndarray] = []
    coverage = sample._coverage

    def spy(height: int, width: int, polygons: list[np.ndarray]) -> np.ndarray:
        drawn.append(coverage(height, width, polygons))
        return drawn[-1]

    monkeypatch.setattr(sample, "_coverage", spy)
    for number in range(40):
        drawn.clear()
        draw_sample(number % 8, number)
        inside = drawn[0][:, :, 0]  # the shape is drawn first, then its texture
        height, width = inside.shape
        ys, xs = np.nonzero(inside)
        half = min(height, width) / 2 + 1  # a pixel of smooth edge
        assert abs(ys + 0.5 - height / 2).max() <= half
        assert abs(xs + 0.5 - width / 2).max() <= half
        assert 0.05 < inside.mean() * height * width / min(height, width) ** 2 < 0.62  # of the square; pi * 0.44**2


def test_default_place_is_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = sample_dataset(per_class=1, seed=5)
    assert root.parent == tmp_path / "cache" / "augment_gpu"
    assert root.name == "sample-v1-1-5"
    monkeypatch.setattr(sample, "draw_sample", lambda *args, **options: pytest.fail("drawn a second time"))
    assert sample_dataset(per_class=1, seed=5) == root
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root.rename(tmp_path / "moved")
    (tmp_path / "home" / ".cache" / "augment_gpu").mkdir(parents=True)
    (tmp_path / "moved").rename(tmp_path / "home" / ".cache" / "augment_gpu" / "sample-v1-1-5")
    assert sample_dataset(per_class=1, seed=5) == tmp_path / "home" / ".cache" / "augment_gpu" / "sample-v1-1-5"


def test_an_interrupted_call_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = sample.draw_sample

    def interrupted(label: int, number: int, *, seed: int) -> np.ndarray:
        if label == 3:
            raise KeyboardInterrupt
        return draw(label, number, seed=seed)

    monkeypatch.setattr(sample, "draw_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample_dataset(tmp_path / "set", per_class=1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    sample_dataset(tmp_path / "empty", per_class=1)  # an empty folder is as good as none
    monkeypatch.setattr(sample, "draw_sample", lambda *args, **options: pytest.fail("drew before it looked"))
    for name in ("mine", "file"):
        with pytest.raises(FileExistsError, match=f"{name} exists and is not the sample set"):
            sample_dataset(tmp_path / name, per_class=1)
    with pytest.raises(FileExistsError, match="empty exists and is not the sample set"):
        sample_dataset(tmp_path / "empty", per_class=1, seed=1)  # a set, but not the one that was asked for
    assert contents(tmp_path / "mine") == {"thesis.txt": b"years of work"}
    with pytest.raises(ValueError, match="per_class is 0"):
        sample_dataset(tmp_path / "none", per_class=0)


def test_the_slower_of_two_takes_the_others_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process finishes while we draw our last picture."""
    draw = sample.draw_sample

    def overtaken(label: int, number: int, *, seed: int) -> np.ndarray:
        if label == 7:
            monkeypatch.setattr(sample, "draw_sample", draw)
            sample_dataset(tmp_path / "set", per_class=1)
        return draw(label, number, seed=seed)

    monkeypatch.setattr(sample, "draw_sample", overtaken)
    assert sample_dataset(tmp_path / "set", per_class=1) == tmp_path / "set"
    assert len(ImageFolder(tmp_path / "set")) == 8
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_two_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        results = pool.map(functools.partial(sample_dataset, per_class=20), [tmp_path / "set"] * 2)
    assert results == [tmp_path / "set"] * 2
    assert len(ImageFolder(tmp_path / "set")) == 160
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
