"""The command line as a stranger meets it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from augment_gpu.cli import main


@pytest.fixture
def folder(tmp_path):
    for name, value in (("dark", 40), ("light", 200)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (60, 45), (value, value, 30 * number)).save(tmp_path / "data" / name / f"{number}.png")
    return tmp_path / "data"


def test_preview_writes_the_originals_and_what_becomes_of_them(folder, tmp_path, capsys):
    output = tmp_path / "preview.png"
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"size": 32, "ops": [["gaussian_blur", {"kernel_size": 5}]], "cutout": 16}))
    assert (
        main(["preview", str(folder), "-o", str(output), "--rows", "2", "--columns", "3", "--recipe", str(recipe)]) == 0
    )
    picture = np.asarray(Image.open(output))
    assert picture.shape == (2 * 38 + 6, 4 * 38 + 6, 3)  # 32 and a gap of 6, and one gap more
    assert "wrote" in capsys.readouterr().out
    column = picture[6:38, 6:38].reshape(-1, 3)
    assert (column == column[0]).all()  # a plain picture stays plain in its evaluation view
    assert tuple(column[0][:2]) in {(40, 40), (200, 200)}


def test_preview_does_not_overwrite(folder, tmp_path, capsys):
    output = tmp_path / "preview.png"
    output.write_text("mine")
    assert main(["preview", str(folder), "-o", str(output)]) == 1
    assert "exists" in capsys.readouterr().err
    assert output.read_text() == "mine"


def test_info_names_versions_devices_and_paths(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("augment_gpu", "torch", "cpu:", "crop_resize_flip", "Kornia"):
        assert word in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "an object with fields of Recipe"),
        ('{"siz": 3}', "no 'siz'"),
        ('{"size": 0}', "size is 0"),
    ],
)
def test_a_bad_recipe_file_is_named(folder, tmp_path, capsys, content, message):
    (tmp_path / "r.json").write_text(content)
    assert main(["preview", str(folder), "-o", str(tmp_path / "p.png"), "--recipe", str(tmp_path / "r.json")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize("data", ["missing", "empty", "flat"])
def test_a_bad_data_folder_is_named(tmp_path, capsys, data):
    (tmp_path / "empty").mkdir()
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "a.png")
    assert main(["train", str(tmp_path / data), "--scratch", "--output", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path / data) in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_python_m_and_an_unknown_command_exit_as_they_should():
    done = subprocess.run([sys.executable, "-m", "augment_gpu", "fly"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice: 'fly'" in done.stderr
