"""Pictures that a command line names: files, folders, patterns."""

import glob
import os
from collections.abc import Sequence

import numpy as np

from augment_gpu.data.sources import EXTENSIONS, image_files
from augment_gpu.decode import decode


def find_images(names: Sequence[str]) -> list[str]:
    """The images that `names` name, in the order of the names; those of a folder or pattern are sorted. A file that is
    found under several paths, such as through a link, is given once, under the first.

    A folder stands for the images in it at any depth, a pattern (``*``, ``?``, ``[…]``, ``**`` at any depth) for the
    images that it matches and those of the folders that it matches; EXTENSIONS says what an image is. Any other name is
    taken for a file, whatever its ending and whether or not it exists: who reads it will tell.

    Raises FileNotFoundError for a folder or pattern without images.
    """
    found: dict[str, str] = {}
    for name in names:
        if os.path.isdir(name):
            paths = _in_folder(name)
        elif not os.path.exists(name) and glob.has_magic(name):
            paths = [
                path
                for match in _matches(name)
                for path in (_in_folder(match) if os.path.isdir(match) else _if_image(match))
            ]
        else:
            paths = [name]
        if not paths:
            raise FileNotFoundError(f"{name}: no image found; wanted: {' '.join(EXTENSIONS)}")
        for path in paths:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def _matches(pattern: str) -> list[str]:
    """Sorted. ``**`` walks a link to a folder that holds it forty times: of the paths to one place the shortest."""
    shortest: dict[str, str] = {}
    for path in sorted(glob.glob(pattern, recursive=True), key=lambda path: (path.count(os.sep), path)):
        shortest.setdefault(os.path.realpath(path), path)
    return sorted(shortest.values())


def _in_folder(folder: str) -> list[str]:
    return sorted(image_files(folder), key=os.path.split)


def _if_image(path: str) -> list[str]:
    return [path] if path.lower().endswith(EXTENSIONS) else []


class ImageFiles:
    """A dataset of image files; an item is ``(image, position)``, the image (H, W, 3) uint8.

    The label is the position, so that what is made of an image can be told apart from the others' when some could not
    be read. Reading raises OSError or augment_gpu.decode.DecodeError, which name the file.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path = self.paths[index]
        with open(path, "rb") as file:
            data = file.read()
        return decode(data, name=path), index

    def path(self, index: int) -> str:
        """The file of sample `index`."""
        return self.paths[index]
