"""Pictures out of zip files of the layout <anything>/<class>/<picture>, such as CIFAR-10 as image files."""

import zipfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from augment_gpu.data.sources import EXTENSIONS


def extract(archive: Path, folder: Path, count: int, *, first: int = 0, classes: Collection[str] = ()) -> int:
    """Writes `count` pictures of each class, from the one at `first` on in the order of their names, to
    folder/<class>/; returns how many there were. classes: those alone, or all where there are none."""
    met: Counter[str] = Counter()
    written = 0
    with zipfile.ZipFile(archive) as files:
        for name in sorted(files.namelist()):
            *_, label, picture = ("", *name.split("/"))
            if not picture.lower().endswith(EXTENSIONS) or (classes and label not in classes):
                continue
            met[label] += 1
            if first < met[label] <= first + count:
                target = folder / label / picture
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(files.read(name))
                written += 1
    return written
