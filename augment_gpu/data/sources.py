"""What a dataset is, and the one that reads a folder of pictures."""

import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

import numpy as np

from augment_gpu.decode import MAX_PIXELS, decode

if TYPE_CHECKING:
    import torch

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2")
_LAYOUT = "root/<class>/<image> is wanted, one folder for each class"


class Dataset(Protocol):
    """Anything with a length whose item ``i`` is ``(image, label)``; torchvision's datasets without a ToTensor fit.

    The image is a uint8 array (H, W, C) or a uint8 tensor (C, H, W), of any size; the label is an int. An index outside
    ``[0, len)`` raises IndexError. A dataset may also have ``path(i)``, the file that a message about sample i names.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> "tuple[np.ndarray | torch.Tensor, int]": ...


class ImageFolder:
    """Pictures under ``root/<class>/``, at any depth, labelled by the class folder; torchvision's ImageFolder in uint8.

    Files are chosen by EXTENSIONS, in any case; names that begin with a dot are passed over, links are followed. The
    order is that of the sorted names, so it is the same on every file system. An item is ``(image, label)``: the file
    is read and decoded now, to (H, W, 3) uint8, and raises OSError or augment_gpu.decode.DecodeError, which name it.

    `classes` fixes the labels, for a validation folder that lacks some of the training folder's classes.
    `max_pixels`: larger pictures raise DecodeError.

    Raises FileNotFoundError where root, class folders or their pictures are missing, NotADirectoryError where root is a
    file, ValueError for class folders that are not in `classes`.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, classes: Sequence[str] | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.root = os.fspath(root)
        self.max_pixels = max_pixels
        found = _class_folders(self.root)
        self.classes: list[str] = found if classes is None else list(classes)
        self.class_to_idx: dict[str, int] = {name: label for label, name in enumerate(self.classes)}
        if len(self.class_to_idx) < len(self.classes):
            raise ValueError(f"classes={self.classes} names a class twice")
        if unknown := [name for name in found if name not in self.class_to_idx]:
            raise ValueError(f"{self.root} has folders {unknown}; classes={self.classes} does not name them")
        files = {name: sorted(image_files(os.path.join(self.root, name)), key=os.path.split) for name in found}
        if empty := [name for name in found if not files[name]]:
            raise FileNotFoundError(f"{self.root}: no image in class folders {empty}; wanted: {' '.join(EXTENSIONS)}")
        self.samples: list[tuple[str, int]] = [
            (path, label) for name, label in self.class_to_idx.items() for path in files.get(name, ())
        ]
        self.targets: list[int] = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path, label = self.samples[_checked(index, len(self))]
        with open(path, "rb") as file:
            data = file.read()
        return decode(data, name=path, max_pixels=self.max_pixels), label

    def path(self, index: int) -> str:
        """The file of sample `index`."""
        return self.samples[_checked(index, len(self))][0]


class Subset:
    """Some samples of a dataset, under new numbers; made by `subset`. Has targets and classes where the dataset has."""

    def __init__(self, dataset: Dataset, indices: Sequence[int] | np.ndarray) -> None:
        self.dataset = dataset
        self.indices = [_checked(index, len(dataset)) for index in indices]
        if hasattr(dataset, "classes"):
            self.classes: list[str] = dataset.classes
        if hasattr(dataset, "targets"):
            self.targets: list[int] = [int(dataset.targets[index]) for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> "tuple[np.ndarray | torch.Tensor, int]":
        return self.dataset[self.indices[_checked(index, len(self))]]

    def path(self, index: int) -> str:
        """The file of sample `index`; where the dataset has no files, "sample n" with the dataset's own number n."""
        return sample_name(self.dataset, self.indices[_checked(index, len(self))])


def subset(dataset: Dataset, indices: Sequence[int] | np.ndarray) -> Subset:
    """The samples `indices` of `dataset`, in that order; an index outside ``[0, len(dataset))`` raises IndexError."""
    return Subset(dataset, indices)


def sample_name(dataset: Dataset, index: int) -> str:
    """What a message calls sample `index`: its path where the dataset knows paths, else "sample 17"."""
    path = getattr(dataset, "path", None)
    return path(index) if callable(path) else f"sample {index}"


def stratified_split(
    targets: Sequence[int] | np.ndarray, fraction: float, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split sample numbers into (train, val), both sorted int64; `fraction`, in ``(0, 1)``, of each class is in val.

    A class of two or more samples has at least one on each side; a single sample stays in train. The split depends on
    the arguments alone.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; it must lie between 0 and 1, both excluded")
    labels = np.asarray(targets)
    if labels.ndim != 1:
        raise ValueError(f"targets has shape {labels.shape}; one label a sample is wanted")
    # Raw Philox words, and not Generator.permutation: NumPy promises the former's bits for good, so a run that is
    # resumed under another NumPy does not train on what was its validation set.
    philox = np.random.Philox(key=seed)
    in_val = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = int(len(members) * fraction + 0.5)
        count = min(max(count, 1), len(members) - 1)
        in_val[members[np.argsort(philox.random_raw(len(members)))[:count]]] = True
    return np.flatnonzero(~in_val).astype(np.int64), np.flatnonzero(in_val).astype(np.int64)


def _checked(index: int, length: int) -> int:
    index = operator.index(index)
    if not 0 <= index < length:
        raise IndexError(f"index is {index}; the dataset has {length} samples, 0 to {length - 1}")
    return index


def _class_folders(root: str) -> list[str]:
    """Sorted names of root's folders; raises where there is none, saying what was found instead."""
    if not os.path.exists(root):
        raise FileNotFoundError(f"{root} does not exist; {_LAYOUT}")
    if not os.path.isdir(root):
        raise NotADirectoryError(f"{root} is a file; {_LAYOUT}")
    with os.scandir(root) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    folders = sorted(entry.name for entry in visible if entry.is_dir())
    if not folders:
        images = sum(entry.name.lower().endswith(EXTENSIONS) for entry in visible)
        found = f"{images} images directly in it, and no class folders" if images else "no class folders"
        raise FileNotFoundError(f"{root} has {found}; {_LAYOUT}")
    return folders


def image_files(folder: str) -> Iterator[str]:
    """Paths of the images under `folder`, in the file system's order."""
    for where, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        here = Path(where).resolve()
        # A link to a folder that holds it would otherwise be walked again and again.
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not here.is_relative_to(Path(where, name).resolve())
        ]
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield os.path.join(where, name)


def _raise(error: OSError) -> NoReturn:
    """For os.walk, which leaves out folders that it may not read unless told otherwise."""
    raise error
