"""The command line as a stranger meets it."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from augment_gpu.cli import main
from augment_gpu.ops.path import DeviceError
from augment_gpu.transfer.checkpoint import load_checkpoint, save_checkpoint


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


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """train/ and val/ of a dark and a light class; grey noise, so that no two pictures are alike."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for name, value in (("dark", 40), ("light", 180)):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                picture = random.integers(0, 70, (40, 50, 3), dtype=np.uint8) + np.uint8(value)
                Image.fromarray(picture).save(root / part / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    options = ["--model", "test_resnet", "--size", "32", "--batch-size", "8", "--epochs", "2", "--device", "cpu"]
    assert main(["train", str(photos), "--scratch", "--output", str(folder), *options]) == 0
    return folder


def evaluate(run, data, *options):
    return main(["evaluate", str(run), str(data), "--device", "cpu", *map(str, options)])


def test_evaluation_agrees_with_the_runs_own_validation(run, photos, tmp_path, capsys):
    """Of the same pictures in the same view, by other code."""
    for checkpoint in ("best", "last"):
        path = tmp_path / f"{checkpoint}.json"
        assert evaluate(run, photos, "--checkpoint", checkpoint, "--json", str(path), "--batch-size", "3") == 0
        stored = json.loads(path.read_text())
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        row = rows[-1] if checkpoint == "last" else max(rows, key=lambda row: row["val_top1"])
        assert stored["top1"] == row["val_top1"]
        assert stored["nll"] == pytest.approx(row["val_loss"], abs=1e-5)
        assert stored["data"] == str(photos / "val")
        assert (stored["images"], stored["top2"], stored["cost"]) == (8, 1.0, 1.0)
    text = capsys.readouterr().out
    for word in (
        "top-1",
        "top-2",
        "negative log-likelihood",
        "calibration error",
        "images/s",
        "views",
        "cost",
        "light",
    ):
        assert word in text


def test_evaluate_writes_what_it_is_asked_for_and_nothing_else(run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    assert evaluate(run, photos / "val") == 0
    assert list(tmp_path.iterdir()) == []
    assert evaluate(run, photos / "train", "--tta", "ten-crop", "--picture", "a.png", "--json", "a.json") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.png"]
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before
    with Image.open("a.png") as picture:
        assert picture.format == "PNG"
    stored = json.loads((tmp_path / "a.json").read_text())
    assert (stored["views"], stored["images"], stored["tta"]) == (10, 16, "ten-crop")
    assert stored["cost"] > 0
    for option in ("--picture", "--json"):
        name = "a.png" if option == "--picture" else "a.json"
        content = (tmp_path / name).read_bytes()
        assert evaluate(run, photos, option, name) == 1
        assert f"{name} exists" in capsys.readouterr().err
        assert (tmp_path / name).read_bytes() == content


def test_evaluate_reports_an_unreadable_image_last(run, photos, tmp_path, capsys):
    root = Path(shutil.copytree(photos / "val", tmp_path / "copy"))
    bad = root / "light" / "2.png"
    bad.write_bytes(bad.read_bytes()[:300])
    assert evaluate(run, root, "--json", str(tmp_path / "a.json")) == 1
    printed = capsys.readouterr()
    assert "top-1" in printed.out
    bad_line, verdict = printed.err.splitlines()
    assert bad_line.startswith(f"{bad}: ")
    assert bad_line.count(str(bad)) == 1
    assert verdict == "augment-gpu: error: 1 of 8 images could not be read"
    stored = json.loads((tmp_path / "a.json").read_text())
    assert stored["images"] == 7
    assert stored["skipped"][0]["path"] == str(bad)


def test_evaluate_takes_some_of_the_classes_and_no_others(run, photos, tmp_path, capsys):
    shutil.copytree(photos / "val" / "dark", tmp_path / "data" / "dark")
    assert evaluate(run, tmp_path / "data", "--json", str(tmp_path / "a.json")) == 0
    assert json.loads((tmp_path / "a.json").read_text())["per_class"][1]["accuracy"] is None
    shutil.copytree(photos / "val" / "dark", tmp_path / "data" / "grey")
    assert evaluate(run, tmp_path / "data") == 1
    assert "has folders ['grey']" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no folder", "does not exist; the folder of a run is wanted"),
        ("a file", "is a file; the folder of a run is wanted"),
        ("empty", "best.pt does not exist"),
        ("cut", "best.pt is damaged"),
        ("last as best", "best.pt is not of a run; classes and recipe are wanted"),
        ("no model", "best.pt is not the checkpoint of a run"),
        ("one class", "best.pt has classes ['dark']"),
        ("recipe", "best.pt: size is 0"),
        ("recipe of lists", "best.pt: "),
        ("size of text", "best.pt: size is 'a'"),
        ("mean of text", "best.pt: "),
        ("mean of four", "best.pt has mean [0.5, 0.5, 0.5, 0.5]; one number or 3 are wanted"),
        ("class twice", "best.pt has classes ['dark', 'dark'], which name one twice"),
        ("unknown model", "best.pt: timm has no model 'resnet_none'"),
        ("weights of text", "best.pt does not fit a test_resnet of 2 classes"),
        ("weights by number", "best.pt does not fit a test_resnet of 2 classes"),
        ("more classes", "best.pt does not fit a test_resnet of 3 classes"),
    ],
)
def test_a_run_that_cannot_be_read_is_named(run, photos, tmp_path, capsys, damage, message):
    folder = tmp_path / "run"
    best = folder / "best.pt"
    if damage == "a file":
        folder.write_text("")
    elif damage == "empty":
        folder.mkdir()
    elif damage != "no folder":
        shutil.copytree(run, folder)
        if damage == "cut":
            best.write_bytes(best.read_bytes()[:-500])
        elif damage == "last as best":
            shutil.copy(folder / "last.pt", best)
        else:
            state = load_checkpoint(best)
            changes = {
                "no model": {"model": None},
                "one class": {"classes": ["dark"]},
                "recipe": {"recipe": {"size": 0}},
                "recipe of lists": {"recipe": {"ops": [[["blur"], {}]]}},
                "size of text": {"recipe": {"size": "a"}},
                "mean of text": {"recipe": {"mean": ["a", "b", "c"]}},
                "mean of four": {"recipe": {"mean": [0.5] * 4}},
                "class twice": {"classes": ["dark", "dark"]},
                "unknown model": {"model_name": "resnet_none"},
                "weights of text": {"model": dict.fromkeys(state["model"], "a")},
                "weights by number": {"model": {1: 2}},
                "more classes": {"classes": ["a", "b", "c"]},
            }
            save_checkpoint(best, {**state, **changes[damage]})
    assert evaluate(folder, photos) == 1
    error = capsys.readouterr().err
    assert message in error
    assert str(folder) in error
    assert len(error.splitlines()) == 1


@pytest.mark.filterwarnings("ignore")  # what torch says of bytes that it can make something of
def test_a_checkpoint_with_any_byte_flipped_is_read_or_named(tmp_path):
    """Bytes of the pickle, which is a program: one byte makes it pop from an empty list, call a string, and so on."""
    state = {"model_name": "a", "model": {"weight": torch.zeros(2)}, "classes": ["a", "b"], "metrics": {"n": 1}}
    path = tmp_path / "a.pt"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    whole, random, messages = path.read_bytes(), np.random.default_rng(0), []
    for place in random.integers(0, len(whole), 400):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << random.integers(8)
        path.write_bytes(flipped)
        try:
            load_checkpoint(path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "foo"], "device is 'foo'"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--max-views", "0"], "max_views is 0"),
        (["--workers", "0"], "workers is 0"),
        (["--picture", "a.txt"], "must end in .png"),
        (["--json", "nowhere/a.json"], "nowhere is not a folder"),
        (["--json", "a.png", "--picture", "./a.png"], "--json and --picture are both a.png"),
        (["--json", f"{'n' * 250}"], f"{'n' * 250} cannot be written: File name too long"),
    ],
)
def test_bad_options_of_evaluate_are_named(run, photos, tmp_path, monkeypatch, capsys, options, message):
    def never(*arguments, **options):
        raise AssertionError("images were evaluated before the options were checked")

    monkeypatch.chdir(tmp_path)
    if {"--json", "--picture"} & set(options):
        monkeypatch.setattr("augment_gpu.evaluate.evaluate", never)
    assert evaluate(run, photos, *options) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def predict(run, *options):
    return main(["predict", str(run), *map(str, options), "--device", "cpu"])


def test_predict_prints_a_line_for_each_image(run, photos, tmp_path, capsys):
    dark = photos / "val" / "dark"
    files = [tmp_path / "a.csv", tmp_path / "a.json"]
    options = ["--tta", "flip", "--csv", files[0], "--json", files[1]]
    assert predict(run, dark, f"{dark}/[12].png", dark / "0.png", photos / "val" / "light" / "3.png", *options) == 0
    paths = [*(str(dark / f"{number}.png") for number in range(4)), str(photos / "val" / "light" / "3.png")]
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == paths
    stored = json.loads(files[1].read_text())
    with open(files[0], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [path for path in paths for _ in range(2)]
    for number, (line, entry) in enumerate(zip(lines, stored, strict=True)):
        assert line[1::2] == [choice["class"] for choice in entry["top"]]
        assert set(line[1::2]) == {"dark", "light"}
        assert sum(choice["probability"] for choice in entry["top"]) == pytest.approx(1)
        for rank, choice in enumerate(entry["top"], start=1):
            row = rows[2 * number + rank - 1]
            assert (row["rank"], row["class"]) == (str(rank), choice["class"])
            assert float(row["probability"]) == pytest.approx(choice["probability"], rel=1e-6)
            assert float(line[2 * rank]) == pytest.approx(choice["probability"], abs=1e-4)
    assert predict(run, dark, "--csv", files[0]) == 1
    assert "a.csv exists" in capsys.readouterr().err


def test_predict_keeps_what_it_could_read(run, photos, tmp_path, capsys):
    bad, good = tmp_path / "bad.jpg", photos / "val" / "light" / "0.png"
    bad.write_bytes(b"\xff\xd8\xff")
    assert predict(run, bad, good, tmp_path / "missing.jpg", "--top", 1, "--csv", tmp_path / "a.csv") == 1
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{good}\t")
    assert len(printed.out.split("\t")) == 3
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 2
    first, second, verdict = printed.err.splitlines()
    assert first.startswith(f"{bad}: ")
    assert second.startswith(f"{tmp_path / 'missing.jpg'}: ")
    assert "No such file" in second
    assert verdict == "augment-gpu: error: 2 of 3 images could not be read"


def test_predict_without_images_says_so(run, tmp_path, capsys):
    for nothing in (tmp_path, f"{tmp_path}/*.png"):
        assert predict(run, nothing) == 1
        assert f"{nothing}: no image found" in capsys.readouterr().err
    assert predict(run, tmp_path / "none.png", "--json", tmp_path / "a.json") == 1
    assert "1 of 1 images could not be read" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()


def test_an_interrupted_evaluation_exits_with_130(run, photos, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("augment_gpu.evaluate.evaluate", interrupted)
    assert evaluate(run, photos) == 130
    assert "interrupted" in capsys.readouterr().err


def test_predict_refuses_one_file_for_two_outputs(run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert predict(run, photos, "--csv", "same", "--json", tmp_path / "same") == 1
    assert "--csv and --json are both" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_folder_that_a_run_was_trained_on_is_not_evaluated_whole(photos, tmp_path, capsys):
    """Of 8 images a class the run keeps 2; its own metrics say what they give."""
    data, folder = Path(shutil.copytree(photos / "train", tmp_path / "data")), tmp_path / "run"
    options = ["--size", "32", "--batch-size", "4", "--epochs", "1", "--val-fraction", "0.25", "--seed", "3"]
    options += ["--model", "test_resnet", "--scratch", "--device", "cpu"]
    assert main(["train", str(data), "--output", str(folder), *options]) == 0
    row = json.loads((folder / "metrics.jsonl").read_text())
    (tmp_path / "link").symlink_to(data, target_is_directory=True)
    capsys.readouterr()
    for number, name in enumerate((data, tmp_path / "link")):
        path = tmp_path / f"{number}.json"
        assert evaluate(folder, name, "--json", path) == 0
        assert f"trained on {name}; these are the 4 images that it kept back" in capsys.readouterr().out
        stored = json.loads(path.read_text())
        assert (stored["images"], stored["split"], stored["top1"]) == (4, "validation", row["val_top1"])
        assert stored["nll"] == pytest.approx(row["val_loss"], abs=1e-5)
    other = shutil.copytree(data, tmp_path / "other")
    assert evaluate(folder, other, "--json", tmp_path / "other.json") == 0
    assert "kept back" not in capsys.readouterr().out
    stored = json.loads((tmp_path / "other.json").read_text())
    assert (stored["images"], stored["split"]) == (16, "all")
    shutil.rmtree(data / "light")
    shutil.copytree(data / "dark", data / "extra")
    assert evaluate(folder, data) == 1
    assert f"{data} has classes ['dark', 'extra']" in capsys.readouterr().err
    (folder / "config.json").write_text(json.dumps({"data": str(data), "config": {"val_fraction": "a", "seed": 0}}))
    assert evaluate(folder, data) == 1
    assert f"{folder / 'config.json'} is not the description of a run" in capsys.readouterr().err


def test_one_output_that_fails_takes_nothing_with_it(run, photos, tmp_path, monkeypatch, capsys):
    def broken(evaluation, file):
        raise RuntimeError("no font")

    monkeypatch.setattr("augment_gpu.results.save_confusion", broken)
    root = Path(shutil.copytree(photos / "val", tmp_path / "copy"))
    (root / "light" / "2.png").write_bytes(b"no picture")
    picture, figures = tmp_path / "a.png", tmp_path / "a.json"
    assert evaluate(run, root, "--picture", picture, "--json", figures) == 1
    printed = capsys.readouterr()
    assert "top-1" in printed.out
    assert json.loads(figures.read_text())["images"] == 7
    unwritten, unread, verdict = printed.err.splitlines()
    assert unwritten == f"{picture}: cannot be written: no font"
    assert unread.startswith(str(root / "light" / "2.png"))
    assert verdict == "augment-gpu: error: 1 of 2 files could not be written; 1 of 8 images could not be read"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "copy"]


def test_the_files_are_written_before_anything_is_printed(run, photos, tmp_path, monkeypatch, capsys):
    def broken(*arguments):
        raise OSError("the terminal is gone")

    monkeypatch.setattr("augment_gpu.results.print_predictions", broken)
    monkeypatch.setattr("augment_gpu.results.print_evaluation", broken)
    paths = [tmp_path / name for name in ("a.csv", "a.json", "b.json", "b.png")]
    assert predict(run, photos / "val", tmp_path / "none.png", "--csv", paths[0], "--json", paths[1]) == 1
    assert f"{tmp_path / 'none.png'}: " in capsys.readouterr().err
    assert evaluate(run, photos, "--json", paths[2], "--picture", paths[3]) == 1
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_pipe_that_nobody_reads_ends_it_quietly(run, photos, tmp_path, run_program, command):
    program = """
import os, runpy
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
runpy.run_module("augment_gpu", run_name="__main__")
"""
    arguments = [command, run, photos / "val", "--device", "cpu", "--json", tmp_path / "a.json"]
    assert run_program(program, *map(str, arguments)) == ([141], "")
    assert json.loads((tmp_path / "a.json").read_text())


def test_a_character_that_the_output_cannot_show_is_escaped(run, photos, tmp_path, run_program):
    program = """
import runpy, sys
sys.stdout.reconfigure(encoding="ascii")
runpy.run_module("augment_gpu", run_name="__main__")
"""
    picture = shutil.copy(photos / "val" / "light" / "0.png", tmp_path / "é.png")
    arguments = ["predict", run, picture, "--device", "cpu", "--csv", tmp_path / "a.csv"]
    statuses, written = run_program(program, *map(str, arguments))
    assert statuses == [0]
    assert r"\xe9.png" in written
    assert "é.png" in (tmp_path / "a.csv").read_text(encoding="utf-8")


def test_control_characters_in_names_are_escaped(run, photos, tmp_path, capsys):
    """A line break would make two lines of one; an escape sequence could recolour or clear the terminal."""
    bad, good = tmp_path / "a\n\r\x1b[31m.png", tmp_path / "b\x1b[2J\r.png"
    bad.write_bytes(b"no picture")
    shutil.copy(photos / "val" / "light" / "0.png", good)
    assert predict(run, bad, good) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0].startswith(rf"{tmp_path}/a\n\r\x1b[31m.png: ")
    assert len(printed.err.splitlines()) == 2
    assert printed.out.startswith(rf"{tmp_path}/b\x1b[2J\r.png" + "\t")
    assert not {"\r", "\x1b"} & set(printed.out + printed.err)
    assert predict(run, tmp_path / "\x1b", "--device", "foo\x1b") == 1
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "OutOfMemoryError: CUDA out of"),
        (torch.AcceleratorError("CUDA error: launch failure\nFor debugging"), "AcceleratorError: CUDA error: launch"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED\nmore"), "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "RuntimeError: cuDNN error: CUDNN_STATUS_INTERNAL"),
        (DeviceError("Card (cuda:0) has no bfloat16"), "DeviceError: Card (cuda:0) has no bfloat16"),
        (MemoryError(), "MemoryError: no more is known"),
    ],
)
def test_an_error_of_the_device_is_one_line(run, photos, monkeypatch, capsys, error, line):
    def failing(*arguments, **options):
        raise error

    monkeypatch.setattr("augment_gpu.evaluate.evaluate", failing)
    assert evaluate(run, photos) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.startswith(f"augment-gpu: error: {line}")


def test_memory_that_the_host_lacks_is_one_line(run, photos, monkeypatch, capsys):
    """torch has no type of its own for this error."""
    monkeypatch.setattr("augment_gpu.evaluate.evaluate", lambda *_, **options: torch.empty(10**15, dtype=torch.uint8))
    assert evaluate(run, photos) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert re.match(r"augment-gpu: error: RuntimeError: .*you tried to allocate 1000000000000000 bytes", printed)


def test_a_mistake_of_the_package_keeps_its_traceback(run, photos, monkeypatch):
    monkeypatch.setattr("augment_gpu.evaluate.evaluate", lambda *_, **options: torch.zeros(3) @ torch.zeros(4))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        evaluate(run, photos)
