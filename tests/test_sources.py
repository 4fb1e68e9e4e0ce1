"""ImageFolder, subset, stratified_split: against torchvision's ImageFolder and counts worked out by hand."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from augment_gpu.data.in_memory import InMemory
from augment_gpu.data.sources import EXTENSIONS, Dataset, ImageFolder, sample_name, stratified_split, subset
from augment_gpu.decode import DecodeError


def write(path: Path, colour: tuple[int, int, int] = (1, 2, 3), size: tuple[int, int] = (3, 2)) -> Path:
    """A picture of one colour; `size` is (width, height), as in Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Written in an order that is not the sorted one, with nested folders and files to be passed over."""
    for name in ("dog/z.png", "dog/b/1.png", "cat/10.png", "cat/9.png", "dog/a/2.PNG", "dog/a.png", "ant/小さい.png"):
        write(tmp_path / "data" / name)
    (tmp_path / "data" / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "data" / "readme.txt").write_text("no class")
    return tmp_path / "data"


class Bare:
    """A dataset with nothing but a length and items."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, int]:
        return np.full((1, 1, 3), index, dtype=np.uint8), index % 2


def test_same_samples_as_torchvision(root: Path) -> None:
    ours, theirs = ImageFolder(root), torchvision.datasets.ImageFolder(str(root))
    assert ours.samples == theirs.samples
    assert ours.targets == theirs.targets == [0, 1, 1, 2, 2, 2, 2]
    assert ours.classes == theirs.classes == ["ant", "cat", "dog"]
    assert ours.class_to_idx == theirs.class_to_idx
    assert ours.root == str(root)
    relative = [os.path.relpath(path, root) for path, _ in ours.samples]
    wanted = ["ant/小さい.png", "cat/10.png", "cat/9.png", "dog/a.png", "dog/z.png", "dog/a/2.PNG", "dog/b/1.png"]
    assert relative == wanted


def test_order_does_not_come_from_the_file_system(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ImageFolder(root).samples
    walk = os.walk

    def reversed_walk(*args: Any, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
        for where, folders, files in list(walk(*args, **options))[::-1]:
            yield where, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", reversed_walk)
    assert ImageFolder(root).samples == wanted


def test_items_are_read_and_decoded(tmp_path: Path) -> None:
    write(tmp_path / "a" / "ça va.png", (10, 20, 30), (5, 4))
    data = ImageFolder(tmp_path)
    image, label = data[0]
    np.testing.assert_array_equal(image, np.full((4, 5, 3), (10, 20, 30), dtype=np.uint8))
    assert (label, type(label), len(data)) == (0, int, 1)
    assert data.path(0) == sample_name(data, 0) == str(tmp_path / "a" / "ça va.png")
    assert data[np.int64(0)][1] == 0  # type: ignore[index]  # a sampler's index


@pytest.mark.parametrize("index", [-1, 7, 10**9])
def test_index_errors_name_the_length(root: Path, index: int) -> None:
    data = ImageFolder(root)
    for call in (data.__getitem__, data.path, subset(data, range(7)).__getitem__):
        with pytest.raises(IndexError, match=f"index is {index}; the dataset has 7 samples"):
            call(index)
    assert len(list(data)) == 7  # type: ignore[call-overload]  # iteration ends by IndexError


def test_files_are_taken_by_extension(tmp_path: Path) -> None:
    for extension in EXTENSIONS:
        write(tmp_path / "c" / f"low{extension}")
        write(tmp_path / "c" / f"up{extension}").rename(tmp_path / "c" / f"up{extension.upper()}")
    for name in ("c/.hidden.png", "c/.folder/x.png", ".git/x.png"):
        write(tmp_path / name)
    data = ImageFolder(tmp_path)
    assert data.classes == ["c"]
    assert len(data) == 2 * len(EXTENSIONS) == 24
    assert {image.shape for image, _ in (data[i] for i in range(len(data)))} == {(2, 3, 3)}


def test_links_are_followed_and_loops_are_left(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "deep" / "x.png")
    (tmp_path / "root" / "own").mkdir(parents=True)
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "root" / "own" / "file.png").symlink_to(tmp_path / "elsewhere" / "deep" / "x.png")
    (tmp_path / "root" / "own" / "folder").symlink_to(tmp_path / "elsewhere" / "deep", target_is_directory=True)
    (tmp_path / "root" / "own" / "loop").symlink_to(tmp_path / "root" / "own", target_is_directory=True)
    data = ImageFolder(tmp_path / "root")
    names = [os.path.relpath(path, data.root) for path, _ in data.samples]
    assert names == ["linked/deep/x.png", "own/file.png", "own/folder/x.png"]
    assert data[2][0].shape == (2, 3, 3)


def test_unreadable_folders_are_not_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("dog/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="dog/b"):
        ImageFolder(root)


def test_layout_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; root/<class>/<image> is wanted"):
        ImageFolder(tmp_path / "nowhere")
    file = write(tmp_path / "file.png")
    with pytest.raises(NotADirectoryError, match=r"file\.png is a file; root/<class>"):
        ImageFolder(file)
    with pytest.raises(FileNotFoundError, match=r"has 1 images directly in it, and no class folders; root/<class>"):
        ImageFolder(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none has no class folders; root/<class>"):
        ImageFolder(tmp_path / "none")
    write(tmp_path / "some" / "full" / "x.png")
    for name in ("void", "bare"):
        (tmp_path / "some" / name).mkdir()
    with pytest.raises(FileNotFoundError, match=r"some: no image in class folders \['bare', 'void'\]; wanted: \.jpg"):
        ImageFolder(tmp_path / "some")


def test_classes_of_another_folder(root: Path) -> None:
    data = ImageFolder(root, classes=["zebra", "dog", "cat", "ant"])  # zebra has no folder here
    assert data.classes == ["zebra", "dog", "cat", "ant"]
    assert data.targets == [1, 1, 1, 1, 2, 2, 3]
    with pytest.raises(ValueError, match=r"has folders \['ant', 'dog'\]; classes=\['cat'\] does not name them"):
        ImageFolder(root, classes=["cat"])
    with pytest.raises(ValueError, match="names a class twice"):
        ImageFolder(root, classes=["ant", "cat", "dog", "cat"])


def test_bad_files_name_themselves(root: Path) -> None:
    data = ImageFolder(root, max_pixels=5)  # the pictures have six
    with pytest.raises(DecodeError, match=r"cat/10\.png: PNG of 3 x 2 pixels; at most max_pixels=5"):
        data[1]
    (root / "cat" / "10.png").write_bytes(b"")
    with pytest.raises(DecodeError, match=r"cat/10\.png: no data"):
        ImageFolder(root)[1]
    (root / "cat" / "10.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"cat/10\.png"):
        data[1]


def test_subset(root: Path) -> None:
    data = ImageFolder(root)
    part = subset(data, np.array([6, 0, 2]))
    assert len(part) == 3
    assert part.targets == [2, 0, 1]
    assert part.classes == data.classes
    assert part.path(1) == data.path(0)
    assert [part[i][1] for i in range(3)] == part.targets
    nested = subset(part, [2])
    assert nested.path(0) == data.path(2)
    assert len(subset(data, [])) == 0
    for bad in (-1, 7):
        with pytest.raises(IndexError, match=f"index is {bad}; the dataset has 7 samples"):
            subset(data, [0, bad])


def test_datasets_without_paths_or_targets() -> None:
    bare: Dataset = Bare()
    part = subset(bare, [3, 1])
    assert sample_name(bare, 2) == "sample 2"
    assert sample_name(part, 0) == "sample 3"  # the number in the whole dataset, which can be looked up
    assert part[0][1] == 1
    assert not hasattr(part, "targets")
    assert not hasattr(part, "classes")


def test_stratified_split_counts() -> None:
    sizes = {0: 10, 1: 1, 2: 2, 3: 3, 5: 100, 6: 8}  # no class 4: labels may have gaps; 0.2 of 8 is rounded to 2
    targets = np.random.default_rng(0).permutation([label for label, size in sizes.items() for _ in range(size)])
    train, val = stratified_split(targets, 0.2, seed=7)
    assert train.dtype == val.dtype == np.int64
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(124))
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()
    in_val = {label: int((targets[val] == label).sum()) for label in sizes}
    assert in_val == {0: 2, 1: 0, 2: 1, 3: 1, 5: 20, 6: 2}
    _, most = stratified_split(targets, 0.99, seed=7)
    assert {label: int((targets[most] == label).sum()) for label in sizes} == {0: 9, 1: 0, 2: 1, 3: 2, 5: 99, 6: 7}


def test_stratified_split_depends_on_its_seed_alone() -> None:
    targets = [0, 1] * 50
    first = stratified_split(targets, 0.3, seed=1)
    np.random.seed(0)
    again = stratified_split(np.array(targets), 0.3, seed=1)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[1], stratified_split(targets, 0.3, seed=2)[1])
    # chosen evenly: over many seeds each of 100 samples is in val about 0.3 of the time (sd 0.032 for 200 draws)
    share = np.zeros(100)
    for seed in range(200):
        share[stratified_split(targets, 0.3, seed=seed)[1]] += 1 / 200
    assert abs(share - 0.3).max() < 0.13  # four standard deviations


def test_stratified_split_refusals() -> None:
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"fraction is {fraction}"):
            stratified_split([0, 1], fraction, seed=0)
    with pytest.raises(ValueError, match=r"targets has shape \(2, 1\)"):
        stratified_split(np.zeros((2, 1)), 0.5, seed=0)
    assert [len(part) for part in stratified_split([], 0.5, seed=0)] == [0, 0]


# ---- samples that stay in memory


class Counted:
    """Pictures of 100 bytes; `read` counts how often each was asked for."""

    def __init__(self, length: int) -> None:
        self.read = [0] * length

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, index: int, /) -> tuple[np.ndarray, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"index is {index}")
        self.read[index] += 1
        if index == 3:
            raise OSError("the disk is gone")
        return np.full((10, 10), index, dtype=np.uint8), 2 * index


def test_samples_are_read_once_as_far_as_they_fit() -> None:
    counted = Counted(8)
    dataset = InMemory(counted, 250)
    assert len(dataset) == 8
    for _ in range(3):
        for index in (5, 1, 7):
            image, label = dataset[index]
            assert (image == index).all()
            assert label == 2 * index
    assert dataset.bytes == 200
    assert [counted.read[index] for index in (5, 1, 7)] == [1, 1, 3]


def test_nothing_is_kept_of_what_cannot_be_read() -> None:
    counted = Counted(8)
    dataset = InMemory(counted, 10_000)
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            dataset[3]
        with pytest.raises(IndexError, match="index is 8"):
            dataset[8]
    assert counted.read[3] == 2
    assert dataset.bytes == 0
    assert dataset.path(3) == "sample 3"
    with pytest.raises(ValueError, match="max_bytes is -1; it must be at least 0"):
        InMemory(counted, -1)


def test_many_threads_may_read_them() -> None:
    dataset = InMemory(Counted(3), 200)
    with ThreadPoolExecutor(8) as pool:
        samples = list(pool.map(lambda number: dataset[number % 3], range(600)))
    assert all((image == number % 3).all() and label == number % 3 * 2 for number, (image, label) in enumerate(samples))
    assert dataset.bytes == 200


def test_a_part_of_something_larger_is_kept_without_the_rest() -> None:
    large = np.zeros((1000, 1000), dtype=np.uint8)
    tensors = torch.zeros(3, 1000, 1000, dtype=torch.uint8)
    whole = np.ones((4, 4), dtype=np.uint8)
    dataset = InMemory([(large[:5, :5], 0), (tensors[:, :5, :5], 1), (whole, 2)], 10_000)
    images = [dataset[index][0] for index in range(3)]
    large[:] = 7  # a buffer that is used again
    assert images[0].max() == 0
    assert images[0].base is None
    assert images[1].untyped_storage().nbytes() == 75
    assert images[2] is whole
    assert dataset.bytes == 25 + 75 + 16
