"""The gallery has every op, at strengths that can be told apart."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from augment_gpu.cli import main
from augment_gpu.gallery import ROWS, STRENGTHS, Row, caption, gallery, pictures
from augment_gpu.recipe import OPS

SIDE = 24
FIELDS = {"crop", "flip", "color_twist", "cutout", "reprob", "mixup", "cutmix"}


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    """Five coloured pictures of different sizes, with an edge, none of them symmetric; one ends at grey level 20."""
    found = []
    for number in range(STRENGTHS):
        y, x = np.mgrid[: 40 + 3 * number, : 50 - number]
        planes = [(60 + 3 * x + 10 * number) % 180, 30 + y, np.where(x > y, 240, 20 + number)]
        found.append(np.stack(planes, axis=2).astype(np.uint8))
    return found


def test_every_op_of_a_recipe_has_a_row() -> None:
    """A new op of recipe.OPS needs one in gallery.ROWS."""
    assert {row.name for row in ROWS} == set(OPS) | FIELDS


@pytest.mark.parametrize("row", ROWS, ids=caption)
def test_the_pictures_of_a_row_differ(row: Row, images: list[np.ndarray]) -> None:
    found = pictures(row, images, side=SIDE)
    assert [(picture.shape, picture.dtype) for picture in found] == [((SIDE, SIDE, 3), np.uint8)] * STRENGTHS
    assert len(row.values) == (STRENGTHS if row.varied == "strength" else 1)
    distinct = len({picture.tobytes() for picture in found})
    assert distinct == STRENGTHS or (row.varied == "epoch" and distinct > 1)  # a policy may draw nothing twice
    untouched = pictures(Row("center", "", (None,) * STRENGTHS, varied=row.varied), images, side=SIDE)
    changed = sum((one != other).any() for one, other in zip(found, untouched, strict=True))
    least = {"sample": STRENGTHS, "strength": STRENGTHS - 1, "epoch": 2}  # the third strength may be none
    assert changed >= least[row.varied]


def test_a_cut_is_as_large_as_its_row_says(images: list[np.ndarray]) -> None:
    cuts = next(row for row in ROWS if row.name == "cutmix")
    found = pictures(cuts, [np.full((30, 30, 3), 200 * (i % 2), np.uint8) for i in range(STRENGTHS)], side=64)
    for picture, lam in zip(found, cuts.values, strict=True):
        # a side is rounded to an even number of pixels: by less than one, of 64, twice
        assert (picture == 0).mean() == pytest.approx(lam, abs=2 / 64)


def test_the_picture_repeats_and_fits_its_rows(images: list[np.ndarray]) -> None:
    class Two:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            return images[index], 0

    picture = np.asarray(gallery(Two(), side=SIDE))
    assert picture.ndim == 3
    assert (picture == np.asarray(gallery(Two(), side=SIDE))).all()
    assert (picture[-3:] == 255).all()
    with pytest.raises(ValueError, match="side is 23; it must be at least 24"):
        gallery(Two(), side=23)
    with pytest.raises(ValueError, match="the data set is empty"):
        gallery([])


def test_grey_images_and_an_odd_side_make_one_too(images: list[np.ndarray]) -> None:
    grey = [(image[:, :, 0], 0) for image in images]
    assert gallery(grey, side=27).width == gallery(side=27).width


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "gallery.png"
    assert main(["preview", "--gallery", "-o", str(output)]) == 0
    with Image.open(output) as picture:
        assert f"wrote {output}, {picture.width} x {picture.height}" in capsys.readouterr().out
    assert main(["preview", "--gallery", "--rows", "2", "-o", str(tmp_path / "other.png")]) == 1
    assert "it takes no --recipe, --rows or --columns" in capsys.readouterr().err
    assert not (tmp_path / "other.png").exists()
