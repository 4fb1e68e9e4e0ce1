"""Exported models, used as somebody would who has the file, its description, and not this package."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from augment_gpu.cli import main
from augment_gpu.predict import predict
from augment_gpu.recipe import Recipe
from augment_gpu.transfer import export
from augment_gpu.transfer.checkpoint import load_checkpoint, save_checkpoint
from augment_gpu.transfer.export import export_model, preprocessing
from augment_gpu.transfer.model import create_model, load_weights, read_weights, set_head
from augment_gpu.transfer.run_folder import load_run

CLASSES = ["cat", 'a "dog"\n', "\udcff猫"]
FILES = ["model.onnx", "model.pt2", "model.safetensors"]

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(scope="module")
def folder(untrained_run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose model tells pictures apart, as one with random weights hardly does."""
    folder = untrained_run(tmp_path_factory.mktemp("runs") / "run", CLASSES, resize=45, std=(0.25, 0.2, 0.3))
    for name in ("best.pt", "last.pt"):
        state = load_checkpoint(folder / name)
        state["model"]["fc.weight"] *= 40 if name == "best.pt" else 20
        save_checkpoint(folder / name, state)
    return folder


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run's model in each format."""
    output = tmp_path_factory.mktemp("exported")
    for name in FILES:
        assert export_model(folder, output / name) == [output / name, output / f"{name}.json"]
    assert sorted(path.name for path in output.iterdir()) == sorted([*FILES, *(f"{name}.json" for name in FILES)])
    return output


@pytest.fixture(scope="module")
def pictures(photo: Callable[..., np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Wide, tall, smaller than a crop, and one that EXIF turns by a quarter."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, shape in enumerate([(60, 91), (113, 47), (21, 30), (50, 70)]):
        image = Image.fromarray(photo(*shape, seed=number))
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        paths.append(folder / f"{number}.png")
        image.save(paths[-1], exif=exif)
    return paths


def described(exported: Path, name: str) -> dict[str, Any]:
    return json.loads((exported / f"{name}.json").read_text())


def prepared(path: Path, steps: list[dict[str, Any]], *, with_torchvision: bool) -> torch.Tensor:
    """(1, 3, S, S): an image file as the description has it, by Pillow and NumPy, or resized by torchvision."""
    _, resize, crop, scale, normalize, _ = steps
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    short = resize["short_side"]
    if with_torchvision:
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as F

        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        mode = InterpolationMode(resize["interpolation"])
        array = F.resize(pixels, [short], mode, antialias=resize["antialias"]).permute(1, 2, 0).numpy()
    else:
        sides = [int(short * side / min(image.size)) for side in image.size]
        array = np.array(image.resize(sides, Image.Resampling[resize["interpolation"].upper()]))
    top, left = (round((array.shape[axis] - crop[side]) / 2) for axis, side in enumerate(("height", "width")))
    array = array[top : top + crop["height"], left : left + crop["width"]] / scale["divide_by"]
    array = (array - normalize["mean"]) / normalize["std"]
    return torch.from_numpy(array.transpose(2, 0, 1).astype(np.float32))[None]


def probabilities(exported: Path, name: str, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """By the very line that the description gives."""
    import onnxruntime
    import timm

    monkeypatch.chdir(exported)
    *before, last = described(exported, name)["use"].split("; ")
    names = {"onnxruntime": onnxruntime, "timm": timm, "torch": torch}
    names["images"] = images.numpy() if name.endswith("onnx") else images
    with torch.inference_mode():
        exec("\n".join(before), names)
        logits = eval(last, names)
    logits = np.asarray(logits[0] if isinstance(logits, list) else logits, np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def by_the_package(folder: Path, pictures: list[Path], checkpoint: Any = "best") -> np.ndarray:
    run = load_run(folder, checkpoint)
    predictions, _ = predict(run.model, run.recipe, run.classes, [str(path) for path in pictures], top=3)
    return np.array([[dict(prediction.top)[name] for name in run.classes] for prediction in predictions])


# torchvision's uint8 pixels are the package's own; Pillow's differ by up to a grey level, and so do its predictions.
@pytest.mark.parametrize(("with_torchvision", "tolerance"), [(True, 1e-5), (False, 0.01)])
@pytest.mark.parametrize("name", FILES)
def test_file_and_description_give_the_packages_prediction(
    folder: Path, exported: Path, pictures: list[Path], monkeypatch, name: str, with_torchvision: bool, tolerance: float
) -> None:
    description = described(exported, name)
    steps = description["preprocessing"]
    images = torch.cat([prepared(path, steps, with_torchvision=with_torchvision) for path in pictures])
    assert list(images.shape[1:]) == description["input"]["shape"][1:]
    low, high = description["input"]["value_range"]
    assert low <= images.min()
    assert images.max() <= high
    known = by_the_package(folder, pictures)
    seen = probabilities(exported, name, images, monkeypatch)
    np.testing.assert_allclose(seen, known, rtol=0, atol=tolerance)
    # Neither the pictures nor their colours are all one to this model.
    assert np.ptp(known, axis=0).max() > 10 * tolerance
    assert np.abs(probabilities(exported, name, images.flip(1), monkeypatch) - known).max() > 10 * tolerance


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("batch", [1, 5])
def test_a_batch_may_have_any_length(folder: Path, exported: Path, monkeypatch, name: str, batch: int) -> None:
    images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        known = load_run(folder).model(images).softmax(dim=1).numpy()
    np.testing.assert_allclose(probabilities(exported, name, images, monkeypatch), known, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_the_description_says_what_the_file_is(folder: Path, exported: Path, name: str) -> None:
    description = described(exported, name)
    assert (description["model"], description["format"]) == ("test_resnet", name.split(".")[1])
    assert description["classes"] == CLASSES
    assert description["input"]["shape"] == ["batch", 3, 32, 32]
    assert description["output"]["shape"] == ["batch", 3]
    assert description["source"] == {"run": str(folder), "checkpoint": "best", "epoch": 0}
    assert description["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert description["trial"]["largest_difference"] <= 1e-4


@pytest.mark.parametrize(
    ("fields", "resize", "crop", "mean"),
    [
        ({"size": 224}, (256, "bilinear", True), 224, [0.485, 0.456, 0.406]),
        ({"size": 32, "mean": None, "std": None, "interpolation": "bicubic"}, (37, "bicubic", True), 32, [0.0] * 3),
        ({"size": 33, "mean": [0.5], "std": [0.25], "resize": 40, "antialias": False}, (40, "bilinear", False), 33,
         [0.5] * 3),
    ],
)  # fmt: skip
def test_the_steps_are_the_recipes_evaluation_view(fields, resize, crop, mean) -> None:
    steps = {step.pop("step"): step for step in preprocessing(Recipe.from_dict(fields))}
    assert list(steps) == ["decode", "resize", "center_crop", "scale", "normalize", "layout"]
    assert (steps["resize"]["short_side"], steps["resize"]["interpolation"], steps["resize"]["antialias"]) == resize
    assert (steps["center_crop"]["height"], steps["center_crop"]["width"]) == (crop, crop)
    assert steps["normalize"]["mean"] == mean
    assert steps["normalize"]["std"] == (fields.get("std", [0.229, 0.224, 0.225]) or [1.0]) * (
        3 if mean[0] in (0, 0.5) else 1
    )


def test_safetensors_are_weights_for_training_and_say_of_what(folder: Path, exported: Path) -> None:
    from safetensors import safe_open

    path = exported / "model.safetensors"
    state = load_checkpoint(folder / "best.pt")["model"]
    stored, classes = read_weights(str(path))
    assert classes == CLASSES
    assert set(stored) == set(state)
    assert all(torch.equal(stored[key], state[key]) for key in state)
    model = create_model("test_resnet", 3, weights=str(path))
    assert torch.equal(model.state_dict()["fc.weight"], state["fc.weight"])
    other = create_model("test_resnet", 7, weights=str(path))  # with a new head
    assert torch.equal(other.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    load_weights(other := create_model("test_resnet", 3, scratch=True), str(path), ["other", "than", "these"])
    assert not torch.equal(other.state_dict()["fc.weight"], state["fc.weight"])
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["model_name"] == "test_resnet"
    assert json.loads(metadata["classes"]) == CLASSES


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"classes": "cat, dog"}, {"classes": "[1, 2]"}])
def test_safetensors_of_others_name_no_classes(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(2)}, tmp_path / "a.safetensors", metadata)
    assert read_weights(str(tmp_path / "a.safetensors"))[1] is None


def test_the_command_exports_the_checkpoint_that_it_is_told(
    folder: Path, pictures: list[Path], tmp_path: Path, monkeypatch, capsys
) -> None:
    output = tmp_path / "a.safetensors"
    assert main(["export", str(folder), "-o", str(output), "--checkpoint", "last"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"wrote {output}", f"wrote {output}.json"]
    assert described(tmp_path, output.name)["source"]["checkpoint"] == "last"
    steps = described(tmp_path, output.name)["preprocessing"]
    images = torch.cat([prepared(path, steps, with_torchvision=True) for path in pictures])
    seen = probabilities(tmp_path, output.name, images, monkeypatch)
    np.testing.assert_allclose(seen, by_the_package(folder, pictures, "last"), rtol=0, atol=1e-5)
    assert np.abs(seen - by_the_package(folder, pictures)).max() > 0.01


@pytest.mark.parametrize("ending", ["pt2", "safetensors"])
def test_an_mlp_is_exported_with_its_layers(untrained_run, tmp_path: Path, monkeypatch, ending: str) -> None:
    folder = untrained_run(tmp_path / "run", CLASSES)
    state = load_checkpoint(folder / "best.pt")
    features = state["model"]["fc.weight"].shape[1]
    model = create_model("test_resnet", 3, scratch=True)
    head = [torch.nn.Linear(features, 7), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(7, 3)]
    set_head(model, torch.nn.Sequential(*head))
    save_checkpoint(folder / "best.pt", {**state, "head": "mlp", "model": model.state_dict()})
    export_model(folder, tmp_path / f"a.{ending}")
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        known = model.eval()(images).softmax(dim=1).numpy()
    seen = probabilities(tmp_path, f"a.{ending}", images, monkeypatch)
    np.testing.assert_allclose(seen, known, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["a.pt2", "a.pt2.json"])
def test_a_file_that_is_there_stays_as_it_is(folder: Path, tmp_path: Path, capsys, name: str) -> None:
    (tmp_path / name).write_text("mine")
    assert main(["export", str(folder), "-o", str(tmp_path / "a.pt2")]) == 1
    assert f"{tmp_path / name} exists; give another name" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_file_that_came_while_it_was_exported_stays_as_it_is(folder: Path, tmp_path: Path, monkeypatch) -> None:
    def slow(*arguments: Any) -> tuple[bytes, dict[str, Any]]:
        (tmp_path / "a.pt2").write_text("mine")
        return b"", {}

    monkeypatch.setattr(export, "_pt2", slow)
    with pytest.raises(FileExistsError, match=r"a\.pt2 exists"):
        export_model(folder, tmp_path / "a.pt2")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.pt", {}, r"a\.pt ends in \.pt; \.onnx, \.pt2, \.safetensors are known"),
        ("a", {}, "a ends in nothing"),
        ("a.onnx", {"format": "tflite"}, "format is 'tflite'; it must be one of onnx, pt2, safetensors"),
        ("nowhere/a.onnx", {}, "nowhere is not a folder"),
    ],
)
def test_bad_arguments_are_named(
    folder: Path, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export_model(folder, tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_format_overrides_the_ending(folder: Path, tmp_path: Path) -> None:
    export_model(folder, tmp_path / "weights.bin", format="safetensors")
    assert described(tmp_path, "weights.bin")["format"] == "safetensors"


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_package_that_is_missing_is_named(folder: Path, tmp_path: Path, monkeypatch, capsys, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", str(folder), "-o", str(tmp_path / "a.onnx")]) == 1
    assert f"ONNX needs {package}; pip install 'augment_gpu[export]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_onnxruntime_a_file_is_checked_for_its_form(
    folder: Path, exported: Path, tmp_path: Path, monkeypatch
) -> None:
    import onnx

    program = SimpleNamespace(model_proto=onnx.load(exported / "model.onnx"))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: program)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    export_model(folder, tmp_path / "a.onnx")
    trial = described(tmp_path, "a.onnx")["trial"]
    assert list(trial) == ["by"]
    assert trial["by"].startswith("onnx.checker ")
    program.model_proto.graph.node[0].op_type = "Nonesuch"
    with pytest.raises(ValueError, match=r"test_resnet cannot be written as ONNX: .*Nonesuch"):
        export_model(folder, tmp_path / "b.onnx")
    assert not (tmp_path / "b.onnx").exists()


def test_a_model_that_does_not_survive_leaves_nothing(untrained_run, tmp_path: Path, monkeypatch) -> None:
    """The file is of other weights than the model, or the model gives nothing to compare."""
    folder = untrained_run(tmp_path / "run", CLASSES)
    (tmp_path / "output").mkdir()
    real = torch.export.export

    def other(model: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        program = real(model, *arguments, **options)
        program.state_dict["fc.bias"] = torch.nn.Parameter(model.fc.bias + 0.01)
        return program

    with monkeypatch.context() as patch:
        patch.setattr(torch.export, "export", other)
        with pytest.raises(ValueError, match=r"test_resnet does not survive its export: .* its logits differ by"):
            export_model(folder, tmp_path / "output" / "a.pt2")
    state = load_checkpoint(folder / "best.pt")
    state["model"]["fc.bias"].fill_(float("nan"))
    save_checkpoint(folder / "best.pt", state)
    with pytest.raises(ValueError, match="differ by nan"):
        export_model(folder, tmp_path / "output" / "a.pt2")
    assert list((tmp_path / "output").iterdir()) == []


def test_a_disk_that_is_full_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch) -> None:
    real, calls = export.write_atomically, []

    def full(path: Path, write: Any) -> None:
        calls.append(path.name)
        if path.name == "a.safetensors":
            raise OSError(28, "No space left on device")
        real(path, write)

    monkeypatch.setattr(export, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        export_model(folder, tmp_path / "a.safetensors")
    assert calls == ["a.safetensors.json", "a.safetensors"]
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_a_format_does_not_take_is_named(folder: Path, tmp_path: Path, monkeypatch) -> None:
    class Deciding(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.sum() > 0 else -images

    run = load_run(folder)
    monkeypatch.setattr(export, "load_run", lambda *_: type(run)(Deciding(), run.classes, run.recipe))
    for ending, word in (("pt2", "pt2"), ("onnx", "ONNX")):
        with pytest.raises(ValueError, match=f"test_resnet cannot be written as {word}: ") as caught:
            export_model(folder, tmp_path / f"a.{ending}")
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_no_epoch_yet_has_none(untrained_run, tmp_path: Path) -> None:
    """last.pt of a run that was stopped in its first epoch."""
    folder = untrained_run(tmp_path / "run", CLASSES)
    save_checkpoint(folder / "last.pt", {**load_checkpoint(folder / "last.pt"), "metrics": []})
    export_model(folder, tmp_path / "a.safetensors", checkpoint="last")
    assert described(tmp_path, "a.safetensors")["source"]["epoch"] is None
