"""The study of strategies: whose pictures are whose, and what its tables say. (The study itself takes an hour.)"""

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("benchmarks_importable")
PER_CLASS = 24


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Of ten classes; each picture's left half is brighter than its right, and its number is in its pixels."""
    import transfer_study

    path = tmp_path / "pictures.zip"
    with zipfile.ZipFile(path, "w") as files:
        others = ("airplane", "automobile", "bird", "cat", "deer")
        for label, name in enumerate((*others, *transfer_study.SIMILAR)):
            for number in range(PER_CLASS):
                picture = np.full((8, 8, 3), (20 * label, 10 * number, 0), dtype=np.uint8)
                picture[:, :4, 2] = 255
                data = io.BytesIO()
                Image.fromarray(picture).save(data, "png")
                files.writestr(f"some/{name}/{number:03d}.png", data.getvalue())
        files.writestr("some/readme.txt", "no picture of a class")
    return path


def pictures(folder: Path) -> dict[str, list[np.ndarray]]:
    return {
        label.name: [np.asarray(Image.open(path)) for path in sorted(label.iterdir())]
        for label in sorted(folder.iterdir())
    }


def test_pictures_are_taken_in_their_order_and_of_these_classes_alone(archive: Path, tmp_path: Path) -> None:
    from archives import extract

    assert extract(archive, tmp_path / "a", 2, first=3, classes=("dog", "cat")) == 4
    found = pictures(tmp_path / "a")
    assert list(found) == ["cat", "dog"]
    assert [picture[0, 0, 1] // 10 for picture in found["dog"]] == [3, 4]
    assert extract(archive, tmp_path / "b", 999) == 10 * PER_CLASS  # and not the text


def test_seeds_share_no_picture_and_a_picture_is_turned_one_way_only(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do they have one that the network was pretrained on."""
    import transfer_study

    monkeypatch.setattr(transfer_study, "TEST", 5)
    options = argparse.Namespace(train=archive, test=archive, pretraining_images=3)
    for kind, count in (("similar", 10), ("different", 10)):
        seen: list[tuple[int, ...]] = []
        for seed in range(2):
            transfer_study.make_data(options, kind, count, seed, tmp_path / f"{kind}-{seed}")
            found = pictures(tmp_path / f"{kind}-{seed}" / "train")
            assert [len(members) for members in found.values()] == [count] * len(found)
            seen += [tuple(picture[0, 0, :2].tolist()) for members in found.values() for picture in members]
        assert len(set(seen)) == len(seen)
        assert min(number for _, number in seen) == 10 * options.pretraining_images
    turned = pictures(tmp_path / "different-0" / "train")
    assert list(turned) == sorted(transfer_study.WAYS)
    # By a quarter turn to the left the bright left half comes to lie below.
    bright = {way: [members[0][edge][..., 2].min() for edge in (np.s_[:, 0], np.s_[-1], np.s_[:, -1], np.s_[0])]
              for way, members in turned.items()}  # fmt: skip
    for number, way in enumerate(transfer_study.WAYS):
        assert [edge == 255 for edge in bright[way]] == [number == side for side in range(4)]


def test_the_table_names_what_was_chosen_and_found(tmp_path: Path) -> None:
    import transfer_study

    runs = [
        {"strategy": strategy, "seed": 0, "top1": top1, "seconds": 2.0, "images": 40, "steps": steps,
         "curve": [[steps, 40, top1]]}
        for strategy, top1, steps in (("linear", 0.5, 0), ("full", 0.75, 10), ("scratch", 0.75, 30))
    ]  # fmt: skip
    row = {"data": "similar", "images": "few", "per_class": 20, "similarity": {"score": 0.625}, "chosen": "linear",
           "outcomes": runs}  # fmt: skip
    text = transfer_study.tables([row])
    assert "**few, similar**: 20 images a class, similarity 0.62; auto chooses linear" in text
    assert "| linear | 50.0% | 2 | 40 |" in text
    assert "From random weights the accuracy of full takes 3.0 times its steps." in text
    transfer_study.draw([row], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 500
