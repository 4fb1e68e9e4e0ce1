"""Stored features: what they are of, that they are computed once, and that nothing wrong is ever read back."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import augment_gpu.data.sources
from augment_gpu.cli import main
from augment_gpu.data.sources import ImageFolder, subset
from augment_gpu.recipe import Recipe
from augment_gpu.stage import Stage, replay
from augment_gpu.transfer import features as module
from augment_gpu.transfer.features import Features, export_features, extract_features
from augment_gpu.transfer.fingerprint import backbone_fingerprint, data_fingerprint

pytestmark = pytest.mark.usefixtures("threads")

RECIPE = Recipe(size=32)


@pytest.fixture
def folder(tmp_path: Path, photo: Callable[..., np.ndarray]) -> Path:
    """Seven pictures of two classes, of sizes of their own, one smaller than the network's input."""
    for number in range(7):
        path = tmp_path / "data" / ("even", "odd")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(21 + 17 * number, 90 - 9 * number, seed=number)).save(path)
    return tmp_path / "data"


def network(seed: int = 0, **options: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model("test_resnet", **{"num_classes": 3, **options}).eval()


def extracted(model: nn.Module, dataset: Any, cache: Path, recipe: Recipe = RECIPE, **options: Any) -> Features:
    return extract_features(
        model, dataset, recipe, cache=cache, **{"model_name": "test_resnet", "batch_size": 3, **options}
    )


def backbone(model: Any, images: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model.forward_head(model.forward_features(images), pre_logits=True).numpy()


def never(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("computed again")


# float16 keeps 11 bits, and another batch size another order of sums
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_one_view_is_the_evaluation_view(folder: Path, tmp_path: Path, name: str) -> None:
    dataset, model, recipe = ImageFolder(folder), timm.create_model(name), Recipe(size=160)
    found = extracted(model, dataset, tmp_path / "cache", recipe, model_name=name)
    images, _ = Stage(recipe).eval()([dataset[index][0] for index in range(7)])
    expected = backbone(model.eval(), images)
    assert found.values.shape == (7, 1, expected.shape[1])
    assert found.values.dtype == np.float16
    np.testing.assert_allclose(found.values[:, 0], expected, **CLOSE)
    assert found.labels.tolist() == dataset.targets
    assert found.labels.dtype == np.int64
    assert found.names == [dataset.path(index) for index in range(7)]
    assert found.skipped == []


def test_copy_v_is_what_epoch_v_of_training_sees(folder: Path, tmp_path: Path) -> None:
    fields = {"size": 32, "cutout": 9, "reprob": 0.5, "ops": [("gaussian_blur", {"kernel_size": 3})]}
    mixing = Recipe(**fields, mixup_alpha=0.5, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=2)
    dataset, model = ImageFolder(folder), network()
    found = extracted(model, dataset, tmp_path, mixing, views=3, seed=11)
    assert found.values.shape[:2] == (7, 3)
    for index, view in [(0, 0), (0, 2), (3, 1), (6, 2)]:
        picture = replay(Recipe(**fields), dataset, index, view, 11)
        np.testing.assert_allclose(found.values[index, view], backbone(model, picture[None])[0], **CLOSE)
    other = extracted(model, dataset, tmp_path, mixing, views=3, seed=12)
    assert not np.allclose(other.values, found.values)


def test_each_image_is_decoded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    original = augment_gpu.data.sources.decode

    def noting(data: bytes, **options: Any) -> np.ndarray:
        decoded.append(options["name"])
        return original(data, **options)

    monkeypatch.setattr(augment_gpu.data.sources, "decode", noting)
    dataset = ImageFolder(folder)
    extracted(network(), dataset, tmp_path, views=4)
    assert sorted(decoded) == sorted(dataset.path(index) for index in range(7))


def test_a_second_call_reads_what_the_first_one_wrote(folder: Path, tmp_path: Path, monkeypatch) -> None:
    dataset, model = ImageFolder(folder), network()
    first = extracted(model, dataset, tmp_path / "cache", views=2)
    (made,) = (tmp_path / "cache").iterdir()
    assert sorted(path.name for path in made.iterdir()) == ["features.json", "features.npy", "labels.npy"]
    assert json.loads((made / "features.json").read_text())["key"] == made.name
    monkeypatch.setattr(model, "forward_features", never)
    second = extracted(model, dataset, tmp_path / "cache", views=2, batch_size=7, workers=1)
    assert isinstance(second.values, np.memmap)
    assert not second.values.flags.writeable
    assert np.array_equal(second.values, first.values)
    assert (second.labels.tolist(), second.names) == (first.labels.tolist(), first.names)


def test_the_default_cache_is_the_users(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    extract_features(network(), ImageFolder(folder), RECIPE, model_name="test_resnet")
    (made,) = (tmp_path / "xdg" / "augment_gpu" / "features").iterdir()
    assert (made / "features.npy").is_file()


def test_the_classifier_and_the_folders_place_change_nothing(folder: Path, tmp_path: Path, monkeypatch) -> None:
    extracted(network(), ImageFolder(folder), tmp_path / "cache")
    monkeypatch.setattr(module, "_extract", never)
    model = network(num_classes=5)
    model.load_state_dict({k: v for k, v in network().state_dict().items() if not k.startswith("fc.")}, strict=False)
    extracted(model, ImageFolder(folder), tmp_path / "cache")
    model.reset_classifier(0)
    model.train().to(memory_format=torch.channels_last)
    moved = folder.rename(tmp_path / "moved")
    found = extracted(model, ImageFolder(moved), tmp_path / "cache", seed=5)  # nothing is drawn for one plain view
    assert found.names[0] == str(moved / "even" / "0.png")
    assert model.training


def test_what_decides_the_features_makes_others(folder: Path, tmp_path: Path) -> None:
    """Each makes one more entry, and none of them reads another's."""
    cache, dataset = tmp_path / "cache", ImageFolder(folder)
    weights = network()
    with torch.no_grad():
        next(weights.parameters()).view(-1)[5] += 1e-3
    statistics = network()
    statistics.bn1.running_mean[0] += 1e-3
    given: list[tuple[nn.Module, dict[str, Any]]] = [
        (network(), {}),
        (network(seed=1), {}),
        (weights, {}),
        (statistics, {}),
        (network(global_pool="max"), {}),
        (network(), {"model_name": "another"}),
        (network(), {"recipe": Recipe(size=33)}),
        (network(), {"recipe": Recipe(size=32, resize=40)}),
        (network(), {"views": 1}),
        (network(), {"views": 2}),
        (network(), {"views": 2, "seed": 1}),
    ]
    for number, (model, options) in enumerate(given, start=1):
        extracted(model, dataset, cache, **options)
        assert len(list(cache.iterdir())) == number, options
    extracted(network(), subset(dataset, [1, 0, 2, 3, 4, 5, 6]), cache)
    assert len(list(cache.iterdir())) == len(given) + 1
    os.utime(folder / "odd" / "3.png", ns=(0, 0))  # as another program's rewriting does
    extracted(network(), dataset, cache)
    assert len(list(cache.iterdir())) == len(given) + 2
    extracted(network(), ImageFolder(folder, classes=["odd", "even"]), cache)  # other labels
    assert len(list(cache.iterdir())) == len(given) + 3


@pytest.mark.parametrize(
    "name", ["resnet10t", "mobilenetv3_small_050", "deit_tiny_distilled_patch16_224", "convnext_atto", "levit_128s"]
)
def test_backbones_are_known_whatever_their_classifier(name: str) -> None:
    """Also where there are two, or hidden layers before the last one."""
    with torch.device("meta"):
        one, other = timm.create_model(name, num_classes=4), timm.create_model(name, num_classes=6)
    for model in (one, other):
        model.to_empty(device="cpu")
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.detach().fill_(1)
    assert backbone_fingerprint(one) == backbone_fingerprint(other)
    next(one.parameters()).detach().view(-1)[0] = 3
    assert backbone_fingerprint(one) != backbone_fingerprint(other)


def spoil(path: Path, where: int) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 16
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "value": lambda made: spoil(made / "features.npy", -1),
    "header": lambda made: spoil(made / "features.npy", 20),
    "cut": lambda made: os.truncate(made / "features.npy", 300),
    "gone": lambda made: (made / "features.npy").unlink(),
    "label": lambda made: spoil(made / "labels.npy", -8),
    "json": lambda made: os.truncate(made / "features.json", 50),
    "list": lambda made: (made / "features.json").write_text("[]"),
    "empty": lambda made: [path.unlink() for path in made.iterdir()],
    "skipped": lambda made: (made / "features.json").write_text(
        (made / "features.json").read_text().replace('"skipped": []', '"skipped": [[0, "no"]]')
    ),
    "of others": lambda made: (made / "features.json").write_text(
        (made / "features.json").read_text().replace('"views": 0', '"views": 1')
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_features_are_made_again(folder: Path, tmp_path: Path, damage: str) -> None:
    dataset, model = ImageFolder(folder), network()
    first = extracted(model, dataset, tmp_path / "cache")
    expected = np.array(first.values)
    (made,) = (tmp_path / "cache").iterdir()
    whole = {path.name: path.read_bytes() for path in made.iterdir()}
    DAMAGES[damage](made)
    found = extracted(model, dataset, tmp_path / "cache")
    assert np.array_equal(found.values, expected)
    assert (found.labels.tolist(), found.skipped) == (dataset.targets, [])
    assert list((tmp_path / "cache").iterdir()) == [made]
    assert {path.name: path.read_bytes() for path in made.iterdir()} == whole


def test_what_is_not_of_features_is_left_alone(folder: Path, tmp_path: Path) -> None:
    dataset, model = ImageFolder(folder), network()
    extracted(model, dataset, tmp_path / "cache")
    (made,) = (tmp_path / "cache").iterdir()
    (made / "features.npy").unlink()
    (made / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds thesis\.txt"):
        extracted(model, dataset, tmp_path / "cache")
    assert (made / "thesis.txt").read_text() == "mine"
    shutil.rmtree(made)
    made.write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        extracted(model, dataset, tmp_path / "cache")
    assert made.read_text() == "mine"


def test_of_two_processes_one_wins(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, model = ImageFolder(folder), network()
    original = module._extract

    def slower(*arguments: Any) -> None:
        original(*arguments)
        monkeypatch.setattr(module, "_extract", original)
        extracted(model, dataset, tmp_path)  # the other one, meanwhile

    monkeypatch.setattr(module, "_extract", slower)
    assert len(extracted(model, dataset, tmp_path).values) == 7
    assert len(list(tmp_path.glob("*/features.npy"))) == 1
    assert not list(tmp_path.glob(".features-*"))


class Stopping(nn.Module):
    """A network that does something at its second batch."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self.network, self.act, self.calls = network(), act, 0

    def get_classifier(self) -> nn.Module:
        return self.network.get_classifier()

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 2:
            self.act()
        return self.network.forward_features(images)

    def forward_head(self, features: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return self.network.forward_head(features, pre_logits=pre_logits)


def full() -> None:
    raise OSError("the disk is full")


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGTERM), KeyboardInterrupt),
        (lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt),
        (full, OSError),
    ],
)
def test_an_interrupted_run_leaves_nothing(folder: Path, tmp_path: Path, act: Any, error: type[BaseException]) -> None:
    with pytest.raises(error):
        extracted(Stopping(act), ImageFolder(folder), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_full_disk_is_an_error_and_not_the_end(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Writing to a mapped file without room would end the process by SIGBUS."""

    def no_room(descriptor: int, start: int, length: int) -> None:
        assert length > 7 * 64
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(OSError, match=r"No space left on device: .*features\.npy"):
        extracted(network(), ImageFolder(folder), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_unreadable_images_are_skipped_or_raised(folder: Path, tmp_path: Path, monkeypatch) -> None:
    bad = [folder / "even" / "4.png", folder / "odd" / "5.png"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:100])
    dataset, model = ImageFolder(folder), network()
    found = extracted(model, dataset, tmp_path, on_error="skip", views=2)
    assert [path for path, _ in found.skipped] == [str(path) for path in bad]
    assert all(reason for _, reason in found.skipped)
    kept = [index for index in range(7) if dataset.path(index) not in map(str, bad)]
    assert found.names == [dataset.path(index) for index in kept]
    assert found.labels.tolist() == [dataset.targets[index] for index in kept]
    assert found.values.shape[:2] == (5, 2)
    alone = extracted(model, subset(dataset, [kept[-1]]), tmp_path / "alone")
    assert np.isfinite(found.values).all()
    assert alone.values.shape[0] == 1
    with pytest.raises(ValueError, match=str(bad[0])):
        extracted(model, dataset, tmp_path, views=2)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_extract", never)
        again = extracted(model, dataset, tmp_path, on_error="skip", views=2)
    assert (again.names, again.skipped) == (found.names, found.skipped)
    assert np.array_equal(again.values, found.values)


def test_all_images_unreadable_is_an_error(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none of 7 images could be read; the first: .*0\.png"):
        extracted(network(), ImageFolder(folder), tmp_path / "cache", on_error="skip")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(("factor", "shown"), [(1e7, r"reach [\d.e+]+"), (float("nan"), "reach nan")])
def test_what_float16_cannot_hold_is_refused(folder: Path, tmp_path: Path, factor: float, shown: str) -> None:
    """The error names the picture: here the last one of the first batch."""
    model = network()
    original = model.forward_head

    def scaled(features: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        result = original(features, pre_logits=pre_logits)
        result[-1] *= factor  # of each batch
        return result

    model.forward_head = scaled
    dataset = ImageFolder(folder)
    with pytest.raises(ValueError, match=f"{dataset.path(2)}: .*{shown}; float16 holds at most 65504"):
        extracted(model, dataset, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


class InMemory:
    """Arrays, and no files; path() names them all the same."""

    def __init__(self, images: list[np.ndarray], labels: list[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self.images[index], self.labels[index]

    def path(self, index: int) -> str:
        return f"archive.zip/{index}"


def test_datasets_without_files_are_known_by_their_pixels(tmp_path: Path, noise, monkeypatch) -> None:
    images = [noise(40, 30 + number, seed=number) for number in range(4)]
    model = network()
    first = extracted(model, InMemory(images, [0, 1, 1, 0]), tmp_path)
    assert first.names == [f"archive.zip/{index}" for index in range(4)]
    changed = [*images[:3], images[3].copy()]
    with monkeypatch.context() as patched:
        patched.setattr(module, "_extract", never)
        extracted(model, InMemory(changed, [0, 1, 1, 0]), tmp_path)
    changed[3][5, 5, 1] ^= 128
    assert not np.array_equal(extracted(model, InMemory(changed, [0, 1, 1, 0]), tmp_path).values, first.values)
    assert extracted(model, InMemory(images, [0, 1, 1, 1]), tmp_path).labels.tolist() == [0, 1, 1, 1]


def test_a_dataset_that_shows_parts_of_files_is_known_by_its_pixels(folder: Path) -> None:
    """Of one class and the same files, two datasets may cut out other parts."""

    class Corner(ImageFolder):
        side = 8

        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            image, label = super().__getitem__(index)
            return image[: self.side, : self.side], label

    one, other = Corner(folder), Corner(folder)
    other.side = 9
    assert data_fingerprint(one) == data_fingerprint(Corner(folder))
    assert data_fingerprint(one) != data_fingerprint(other)
    assert data_fingerprint(subset(one, [0, 1])) != data_fingerprint(subset(other, [0, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": -1}, "views is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"on_error": "warn"}, "on_error is 'warn'"),
    ],
)
def test_bad_options_are_named(folder: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extracted(network(), ImageFolder(folder), tmp_path / "cache", **options)
    assert not (tmp_path / "cache").exists()


def test_models_that_make_no_features_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the model is a Flatten; one of timm's"):
        extracted(nn.Flatten(), ImageFolder(folder), tmp_path)
    with pytest.raises(ValueError, match=r"features of shape \(3, \d+, \d+, \d+\) of 3 images; \(images, D\)"):
        extracted(network(global_pool="", num_classes=0), ImageFolder(folder), tmp_path)
    with pytest.raises(ValueError, match="the dataset is empty"):
        extracted(network(), subset(ImageFolder(folder), []), tmp_path)


def test_16_bit_pictures_go_through_a_network_of_32(folder: Path, tmp_path: Path) -> None:
    exact = extracted(network(), ImageFolder(folder), tmp_path)
    rounded = extracted(network(), ImageFolder(folder), tmp_path, Recipe(size=32, dtype="bfloat16"))
    scale = float(np.abs(exact.values).max())
    np.testing.assert_allclose(rounded.values, exact.values, atol=0.03 * scale)  # bfloat16 keeps 8 bits


def command(data: Path, output: Path, *options: object) -> int:
    fixed = ["--model", "test_resnet", "--scratch", "--size", "32", "--device", "cpu", "--output", str(output)]
    return main(["features", str(data), *fixed, *map(str, options)])


def test_the_command_writes_features_for_elsewhere(folder: Path, tmp_path: Path, capsys) -> None:
    root = tmp_path / "split"
    (root / "val").mkdir(parents=True)
    folder.rename(root / "train")
    recipe = tmp_path / "r.json"
    recipe.write_text(json.dumps({"scale": [0.5, 1], "mixup_alpha": 0.2}))
    assert command(root, tmp_path / "a", "--views", 2, "--seed", 4, "--recipe", recipe, "--batch-size", 2) == 0
    assert f"wrote {tmp_path / 'a'}: 7 images, 2 views of each" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["features.csv", "features.json", "features.npy"]
    values = np.load(tmp_path / "a" / "features.npy")
    assert (values.dtype, values.shape[:2]) == (np.float16, (7, 2))
    dataset = ImageFolder(root / "train")
    with open(tmp_path / "a" / "features.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"row": str(row), "path": path, "label": str(label), "class": ("even", "odd")[label]}
            for row, (path, label) in enumerate(dataset.samples)
        ]
    about = json.loads((tmp_path / "a" / "features.json").read_text())
    assert (about["model"], about["views"], about["seed"], about["classes"]) == ("test_resnet", 2, 4, ["even", "odd"])
    assert about["shape"] == list(values.shape)
    assert (about["recipe"]["scale"], about["recipe"]["size"], about["skipped"]) == ([0.5, 1], 32, [])
    # The weights follow from the seed; so does what is made of the pictures.
    assert command(root / "train", tmp_path / "b", "--views", 2, "--seed", 4, "--recipe", recipe) == 0
    np.testing.assert_allclose(np.load(tmp_path / "b" / "features.npy"), values, **CLOSE)
    assert command(root, tmp_path / "a") == 1
    assert "exists; give another name" in capsys.readouterr().err


def test_the_command_leaves_nothing_where_it_fails(folder: Path, tmp_path: Path, capsys) -> None:
    bad = folder / "odd" / "3.png"
    bad.write_bytes(b"no picture")
    before = sorted(path.name for path in tmp_path.iterdir())
    recipe = folder / "r.json"
    recipe.write_text('{"size": 48}')
    for options, message in [
        ((), str(bad)),
        (("--model", "test_resnot"), "near are"),
        (("--recipe", recipe), "the recipe has size 48, and --size is 32"),
        (("--views", -2), "views is -2"),
        (("--device", "abacus"), "device is 'abacus'"),
    ]:
        assert command(folder, tmp_path / "out", *options) == 1
        assert message in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert command(folder, tmp_path / "nowhere" / "out") == 1
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert command(folder, tmp_path / "out", "--on-error", "skip") == 0
    assert f"skipped {bad}: " in capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "features.json").read_text())
    assert [entry["path"] for entry in stored["skipped"]] == [str(bad)]
    assert np.load(tmp_path / "out" / "features.npy").shape[0] == 6


def test_export_keeps_names_that_are_no_text(folder: Path, tmp_path: Path) -> None:
    odd = os.fsencode(folder / "odd") + b"/\xff.png"
    os.rename(folder / "odd" / "1.png", odd)
    dataset = ImageFolder(folder)
    export_features(tmp_path / "out", network(), dataset, RECIPE, dataset.classes, model_name="test_resnet")
    assert odd in (tmp_path / "out" / "features.csv").read_bytes()
    with pytest.raises(FileExistsError, match="out exists"):
        export_features(tmp_path / "out", network(), dataset, RECIPE, dataset.classes, model_name="test_resnet")
