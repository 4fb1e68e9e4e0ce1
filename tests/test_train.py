"""The training loop on a handful of small pictures: what it writes, that it resumes exactly, how it refuses."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from augment_gpu.cli import main
from augment_gpu.data import sources
from augment_gpu.transfer import train as training
from augment_gpu.transfer.checkpoint import load_checkpoint, save_checkpoint
from augment_gpu.transfer.config import autocasts, forked_generators
from augment_gpu.transfer.model import create_model
from augment_gpu.transfer.run import InterruptedRunError, Run
from augment_gpu.transfer.train import train
from augment_gpu.transfer.updates import DivergedError, Updates, cosine_with_warmup

# 24 training images in batches of 5: 4 steps an epoch and a rest, so that no boundary falls together with another
SMALL = {"model": "test_resnet", "scratch": True, "size": 32, "batch_size": 5, "epochs": 2, "warmup_epochs": 0.5}
SAME = ("epoch", "lr", "train_loss", "val_loss", "val_top1")  # all but the times


pytestmark = pytest.mark.usefixtures("threads")


def rows(metrics: list[dict]) -> list[tuple]:
    return [tuple(row[name] for name in SAME) for row in metrics]


def test_a_run_folder_holds_what_was_promised(folder: Path, tmp_path: Path):
    metrics = train(str(folder), tmp_path / "run", SMALL)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best.pt", "config.json", "last.pt", "metrics.jsonl", "report.html",
    ]  # fmt: skip
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["classes"] == ["green_right", "red_right"]
    assert config["config"]["batch_size"] == 5
    best = load_checkpoint(tmp_path / "run" / "best.pt")
    assert best["metrics"]["val_top1"] == max(row["val_top1"] for row in metrics)


def test_it_learns_what_a_glance_tells(folder: Path, tmp_path: Path):
    recipe = {"flip": 0.0, "scale": [0.7, 1.0]}  # a mirror image of one class is the other
    metrics = train(str(folder), tmp_path / "run", {**SMALL, "epochs": 8, "lr": 3e-3, "recipe": recipe})
    assert metrics[-1]["train_loss"] < 0.5 * metrics[0]["train_loss"]
    assert metrics[-1]["val_top1"] == 1


@pytest.mark.parametrize("step", [1, 4, 6])  # the first step, the last of an epoch, the middle of one
def test_an_interrupted_run_ends_as_one_that_was_not(folder, tmp_path, monkeypatch, step):
    whole = train(str(folder), tmp_path / "whole", SMALL)
    interrupt_at(monkeypatch, Updates, "step", step)
    with pytest.raises(InterruptedRunError, match="--resume"):
        train(str(folder), tmp_path / "parts", SMALL)
    resumed = train(None, tmp_path / "parts", {}, resume=True)
    assert rows(resumed) == rows(whole)
    ends = [load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("whole", "parts")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_run_interrupted_while_it_validates_goes_on_there(folder, tmp_path, monkeypatch):
    whole = train(str(folder), tmp_path / "whole", SMALL)
    interrupt_at(monkeypatch, Run, "_train_metrics", 1)  # the last thing before validation
    with pytest.raises(InterruptedRunError):
        train(str(folder), tmp_path / "parts", SMALL)
    assert rows(train(None, tmp_path / "parts", {}, resume=True)) == rows(whole)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    """Sends this process a SIGINT, as Ctrl-C does, during the n-th call of a method."""
    original = getattr(owner, name)
    calls = iter(range(1, 10**6))

    def method(self, *arguments):
        if next(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(owner, name, method)


def test_signals_mean_after_the_run_what_they_meant_before(folder, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    train(str(folder), tmp_path / "run", {**SMALL, "epochs": 1})
    assert signal.getsignal(signal.SIGINT) is before


def test_the_callers_random_numbers_are_left_alone(folder, tmp_path):
    before = torch.random.get_rng_state()
    train(str(folder), tmp_path / "run", {**SMALL, "epochs": 1})
    assert torch.equal(torch.random.get_rng_state(), before)


def test_mixing_and_smoothing_train_on_soft_targets(folder, tmp_path):
    recipe = {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "label_smoothing": 0.1, "cutout": 8}
    metrics = train(str(folder), tmp_path / "run", {**SMALL, "epochs": 1, "recipe": recipe})
    assert np.isfinite(metrics[0]["train_loss"])


def test_an_existing_output_is_not_touched(folder, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("precious")
    assert main(["train", str(folder), "--scratch", "--output", str(tmp_path / "run")]) == 1
    assert "exists" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_a_run_that_fails_before_it_saved_leaves_nothing(folder, tmp_path, capsys):
    root = copied(folder, tmp_path)
    bad = root / "red_right" / "3.png"
    bad.write_bytes(bad.read_bytes()[:500])
    options = [
        "--scratch",
        "--model",
        "test_resnet",
        "--size",
        "32",
        "--epochs",
        "1",
        "--output",
        str(tmp_path / "run"),
    ]
    assert main(["train", str(root), *options]) == 1
    assert str(bad) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["train", str(root), *options, "--on-error", "skip"]) == 0
    assert f"skipped {bad}" in capsys.readouterr().out


def copied(folder: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_one_class_is_refused_by_name(folder, tmp_path, capsys):
    root = copied(folder, tmp_path)
    for path in (root / "red_right").iterdir():
        path.unlink()
    (root / "red_right").rmdir()
    assert main(["train", str(root), "--scratch", "--output", str(tmp_path / "run")]) == 1
    assert "one class only, 'green_right'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"optimizer": "lion"}, "optimizer is 'lion'"),
        ({"model": "resnet18x"}, "near are .*resnet18"),
        ({"weights": "w.pt"}, "choose one"),
        ({"val_fraction": 1.5}, "val_fraction is 1.5"),
        ({"recipe": {"colour": 1}}, "no 'colour'"),
        ({"workers": 0}, "workers is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"device": "foo"}, "device is 'foo'"),
        ({"recipe": {"num_classes": 7}}, "num_classes 7, and the run 2"),
        ({"recipe": {"size": 64}}, "size 64, and the run 32"),
        ({"recipe": {"size": "big"}}, "size is 'big'"),
        ({"lr": "find", "fsdp": True}, "lr is find and fsdp is set"),
        ({"model": "test_resnet.r161_in1k"}, "test_resnet has no weights 'r161_in1k'; known are r160_in1k"),
        ({"model": "test_vit3"}, "test_vit3 cannot take images of size 32: .*; its own size is 160"),
    ],
)
def test_bad_settings_are_refused_by_name_and_leave_nothing(folder, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        train(str(folder), tmp_path / "run", {**SMALL, **given})
    assert not (tmp_path / "run").exists()


def test_resuming_keeps_the_settings_of_the_run(folder, tmp_path):
    train(str(folder), tmp_path / "run", {**SMALL, "epochs": 1})
    with pytest.raises(ValueError, match=r"batch_size is 7, and the run in .* has 5"):
        train(None, tmp_path / "run", {"batch_size": 7}, resume=True)
    train(str(folder), tmp_path / "run", {"batch_size": 5, "workers": 1}, resume=True)


def test_resuming_nothing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        train(None, tmp_path / "run", {}, resume=True)


@pytest.mark.parametrize("damage", ["cut", "garbage", "other"])
def test_a_damaged_or_foreign_checkpoint_is_refused_and_kept(folder, tmp_path, damage):
    train(str(folder), tmp_path / "run", {**SMALL, "epochs": 1})
    last = tmp_path / "run" / "last.pt"
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:-1000])
    elif damage == "garbage":
        last.write_bytes(b"not a checkpoint")
    else:
        save_checkpoint(last, {**load_checkpoint(last), "model_name": "vgg16"})
    kept = last.read_bytes()
    with pytest.raises(ValueError, match=r"last\.pt"):
        train(None, tmp_path / "run", {}, resume=True)
    assert last.read_bytes() == kept


def test_a_checkpoint_never_runs_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil\.pt"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_is_whole_or_not_there(tmp_path):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"value": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"value": lambda: None})
    assert load_checkpoint(path) == {"value": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_local_weights_are_loaded_but_for_a_head_of_another_size(tmp_path, suffix):
    from safetensors.torch import save_file

    donor = create_model("test_resnet", 7, scratch=True)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(donor.state_dict(), path)
    same, other = create_model("test_resnet", 7, weights=str(path)), create_model("test_resnet", 3, weights=str(path))
    for name, value in donor.state_dict().items():
        assert torch.equal(same.state_dict()[name], value)
        assert name.startswith("fc.") or torch.equal(other.state_dict()[name], value)


def test_a_head_for_other_classes_is_left_out_even_of_the_same_size(folder, tmp_path):
    train(str(folder), tmp_path / "run", {**SMALL, "epochs": 1})
    best = tmp_path / "run" / "best.pt"
    head = load_checkpoint(best)["model"]["fc.weight"]
    for classes, kept in ((["green_right", "red_right"], True), (["cat", "dog"], False), (None, True)):
        model = create_model("test_resnet", 2, weights=str(best), classes=classes)
        assert torch.equal(model.fc.weight, head) == kept


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    path = tmp_path / "other.pt"
    torch.save(create_model("resnet18", 3, scratch=True).state_dict(), path)
    with pytest.raises(ValueError, match=r"other\.pt holds weights of another model"):
        create_model("test_resnet", 3, weights=str(path))


def test_pretrained_weights_that_cannot_be_had_say_what_else_to_do(monkeypatch):
    import timm

    real = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no route to host")
        return real(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(OSError, match=r"no route to host; give a local file \(--weights FILE\) or .* \(--scratch\)"):
        create_model("test_resnet", 3)


def test_the_schedule_rises_linearly_and_falls_as_a_cosine():
    factor = cosine_with_warmup(4, 12)
    assert [factor(step) for step in range(4)] == [0.2, 0.4, 0.6, 0.8]
    assert factor(4) == 1
    assert factor(8) == pytest.approx(0.5)
    assert factor(12) == pytest.approx(0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_recipe_of_sixteen_bits_trains_where_weights_are_float32(folder: Path, tmp_path: Path, dtype: str):
    metrics = train(str(folder), tmp_path / "run", {**SMALL, "epochs": 1, "recipe": {"dtype": dtype}})
    assert np.isfinite([metrics[0]["train_loss"], metrics[0]["val_loss"]]).all()


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(
    folder: Path, tmp_path: Path, run_program: Callable[..., tuple[list[int], str]]
):
    """By SIGKILL, which nothing can prepare for, after a random number of steps; saved now after every step, now after
    epochs alone."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ["--model", "test_resnet", "--scratch", "--size", "32", "--batch-size", "5", "--epochs", "4"]

    def killed_after(steps: int, *arguments: str) -> int:
        return run_program(KILLED_AFTER, str(steps), "train", *arguments)[0][0]

    assert killed_after(0, str(folder), "--output", str(whole), *options) == 0
    steps = np.random.Generator(np.random.Philox(7)).integers(1, 4, 5).tolist()
    arguments = [str(folder), *options]
    for number, count in enumerate(steps):
        minutes = "0" if number % 2 == 0 else "10"
        status = killed_after(count, "--output", str(parts), "--save-minutes", minutes, *arguments)
        assert status == -signal.SIGKILL
        arguments = ["--resume"]
    assert killed_after(0, "--output", str(parts), "--resume") == 0
    ends = [load_checkpoint(output / "last.pt") for output in (whole, parts)]
    assert all(torch.equal(value, ends[1]["model"][name]) for name, value in ends[0]["model"].items())
    assert rows(ends[0]["metrics"]) == rows(ends[1]["metrics"])
    assert [path.name for path in parts.iterdir() if path.name.startswith(".")] in ([], [".last.pt-"])


# SIGKILL ends it after so many steps; 0: never.
KILLED_AFTER = """
import os, signal, sys
import torch
from augment_gpu.cli import main
from augment_gpu.transfer.run import Run

torch.set_num_threads(1)
look_up, left = Run._look_up, int(sys.argv[1])

def counted(run, stopped):
    global left
    look_up(run, stopped)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

Run._look_up = counted
sys.exit(main(sys.argv[2:]))
"""


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path):
    """A file-size limit refuses what a full disk would."""
    program = """
import resource, signal, sys
from pathlib import Path
import torch
from augment_gpu.transfer.checkpoint import load_checkpoint, save_checkpoint

path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save_checkpoint(path, {"value": torch.zeros(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(path, {"value": torch.ones(1_000_000)})
except OSError as error:
    print(error)
assert load_checkpoint(path)["value"].sum() == 0
"""
    path = tmp_path / "last.pt"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large; the earlier one is kept" in done.stdout
    assert str(path) in done.stdout
    assert list(tmp_path.iterdir()) == [path]


def test_a_diverging_run_stops_and_keeps_its_last_good_state(folder, tmp_path, monkeypatch):
    poison_at(monkeypatch, 7)
    with pytest.raises(DivergedError, match=r"since step 7; .*last\.pt is from before that, and is kept"):
        train(str(folder), tmp_path / "run", SMALL)
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert state["steps"] == 4
    assert all(torch.isfinite(value).all() for value in state["model"].values())
    poison_at(monkeypatch, 1)
    with pytest.raises(DivergedError, match=r"since step 1; try a lower --lr, or --clip 1$"):
        train(str(folder), tmp_path / "other", SMALL)
    assert not (tmp_path / "other").exists()  # there was nothing to keep


def poison_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = Updates._loss_sum

    def loss(updates, images, targets):
        return original(updates, images * np.nan if updates.steps == step - 1 else images, targets)

    monkeypatch.setattr(Updates, "_loss_sum", loss)


def test_no_better_accuracy_ends_a_run_early(folder, tmp_path, monkeypatch, capsys):
    values = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    monkeypatch.setattr(Run, "_validate", lambda self, progress, stopped: {"val_loss": 1.0, "val_top1": next(values)})
    metrics = train(str(folder), tmp_path / "run", {**SMALL, "epochs": 5, "patience": 2})
    assert [row["val_top1"] for row in metrics] == [0.5, 0.7, 0.6, 0.7]
    assert "has not risen for 2 epochs" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run" / "best.pt")["metrics"]["epoch"] == 1


def test_a_step_in_parts_sees_the_images_of_a_whole_one(folder, tmp_path):
    """A transformer, since batch normalisation would tell the parts apart; a step of 6 images in 3 parts."""
    settings = {**SMALL, "model": "test_convnext", "batch_size": 6}
    whole = train(str(folder), tmp_path / "whole", settings)
    parts = train(str(folder), tmp_path / "parts", {**settings, "accumulate": 3})
    for one, other in zip(whole, parts, strict=True):
        assert other["steps"] == one["steps"]
        assert other["train_loss"] == pytest.approx(one["train_loss"], abs=1e-5)
        assert other["val_loss"] == pytest.approx(one["val_loss"], abs=1e-4)


def test_what_is_validated_and_kept_is_the_average(folder, tmp_path):
    from augment_gpu.transfer.run_folder import load_run

    train(str(folder), tmp_path / "run", {**SMALL, "ema": 0.9})
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    last = load_run(tmp_path / "run", "last").model.state_dict()
    assert not torch.equal(state["model"]["fc.weight"], state["average"]["fc.weight"])
    assert torch.equal(last["fc.weight"], state["average"]["fc.weight"])


def test_a_learning_rate_is_found_and_kept(folder, tmp_path, capsys):
    train(str(folder), tmp_path / "run", {**SMALL, "epochs": 1, "lr": "find"})
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert 1e-7 < stored["plan"]["lr"] < 0.1
    assert f"learning rate {stored['plan']['lr']:.2e}" in capsys.readouterr().out
    assert stored["plan"]["lr"] == stored["plan"]["backbone_lr"]  # random weights: all layers are new


def test_a_rate_that_was_given_stays_beside_the_one_that_is_found(folder, tmp_path):
    given = {**SMALL, "epochs": 1, "lr": "find", "plan": {"backbone_lr": 3e-4}}
    train(str(folder), tmp_path / "run", given)
    plan = json.loads((tmp_path / "run" / "config.json").read_text())["plan"]
    assert plan["backbone_lr"] == 3e-4
    assert plan["lr"] != pytest.approx(1e-3, rel=1e-3)


def test_a_row_of_metrics_has_the_learning_rate_of_its_last_step(folder, tmp_path):
    metrics = train(str(folder), tmp_path / "run", {**SMALL, "warmup_epochs": 0, "lr": 2e-3})
    total = metrics[-1]["steps"]
    expected = [2e-3 * 0.5 * (1 + math.cos(math.pi * (row["steps"] - 1) / total)) for row in metrics]
    assert [row["lr"] for row in metrics] == pytest.approx(expected)


def test_of_two_runs_with_one_output_the_second_is_refused(folder, tmp_path, monkeypatch):
    """However early the first one is."""
    output = tmp_path / "run"

    def begun(*arguments, **options):
        monkeypatch.undo()
        with pytest.raises(FileExistsError, match="exists; give another"):
            train(str(folder), output, SMALL)
        raise ValueError("the first one fails")

    monkeypatch.setattr("augment_gpu.transfer.train.set_up", begun)
    with pytest.raises(ValueError, match="the first one fails"):
        train(str(folder), output, SMALL)
    assert not output.exists()


@pytest.mark.parametrize("part", ["config", "plan"])
def test_a_description_with_unknown_fields_is_refused_by_name(folder, tmp_path, part):
    train(str(folder), tmp_path / "run", {**SMALL, "epochs": 1})
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    stored[part]["colour"] = 1
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"config\.json is not the description of a run: .*colour"):
        train(None, tmp_path / "run", {}, resume=True)


def test_classes_without_images_do_not_count_in_the_balanced_accuracy(tmp_path):
    """By hand: of class 0 two of three are right, of class 1 one of one; class 2 has none, and was answered once."""
    from contextlib import nullcontext

    from augment_gpu.predict import progress_bar
    from augment_gpu.transfer.distributed import Ranks
    from augment_gpu.transfer.validate import validate

    answers, targets = torch.tensor([0, 0, 2, 1]), torch.tensor([0, 0, 0, 1])
    logits = torch.nn.functional.one_hot(answers, 3).float()
    batches = type("Batches", (list,), {"device": torch.device("cpu")})([(logits, targets)])
    with progress_bar() as progress:
        found = validate(
            torch.nn.Identity(), batches, 3, autocast=lambda dtype: nullcontext(), ranks=Ranks(), progress=progress
        )
    assert found["val_top1"] == pytest.approx(3 / 4)
    assert found["val_balanced"] == pytest.approx((2 / 3 + 1) / 2)


def test_classes_are_weighed_by_their_rarity(folder, tmp_path, monkeypatch):
    root = copied(folder, tmp_path)
    for number in range(10):
        (root / "red_right" / f"{number}.png").unlink()
    seen = []
    original = Updates.__init__

    def spied(self, *arguments, class_weights=None, **options):
        seen.append(class_weights)
        original(self, *arguments, class_weights=class_weights, **options)

    monkeypatch.setattr(Updates, "__init__", spied)
    train(str(root), tmp_path / "run", {**SMALL, "epochs": 1, "class_weights": "balanced"})
    assert torch.allclose(seen[0], torch.tensor([16 / (2 * 12), 16 / (2 * 4)]))  # 12 and 4 images to train on


def test_a_class_of_one_image_is_trained_on_and_named(folder, tmp_path, capsys):
    root = copied(folder, tmp_path)
    (root / "rare").mkdir()
    (root / "red_right" / "0.png").rename(root / "rare" / "0.png")
    train(str(root), tmp_path / "run", {**SMALL, "epochs": 1})
    assert "class 'rare' has one image: it is trained on, and not validated" in capsys.readouterr().out


def test_weights_of_another_model_name_the_layers_that_do_and_do_not_fit(tmp_path):
    path = tmp_path / "other.pt"
    state = create_model("test_resnet", 3, scratch=True).state_dict()
    state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:1]
    state["extra.weight"] = torch.zeros(1)
    del state["layer4.0.bn1.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"in both: conv1\.0") as caught:
        create_model("test_resnet", 3, weights=str(path))
    assert "of another shape in the file: layer1.0.conv1 (1)" in str(caught.value)
    assert "in the file alone: extra (1)" in str(caught.value)
    assert "in the model alone: layer4.0.bn1 (1)" in str(caught.value)


def test_metrics_go_to_tensorboard_too(folder, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    metrics = train(str(folder), tmp_path / "run", {**SMALL, "tensorboard": True})
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("val_loss")
    assert [event.step for event in scalars] == [0, 1]
    assert [event.value for event in scalars] == pytest.approx([row["val_loss"] for row in metrics], rel=1e-6)


def test_compiled_it_trains_the_same(folder, tmp_path, monkeypatch):
    """Without inductor, whose compiler would take minutes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    settings = {**SMALL, "epochs": 1, "batch_size": 8}
    eager = train(str(folder), tmp_path / "eager", settings)
    compiled = train(str(folder), tmp_path / "compiled", {**settings, "compile": True})
    assert compiled[0]["train_loss"] == pytest.approx(eager[0]["train_loss"], rel=1e-3)


def test_a_step_that_ruins_the_weights_after_a_finite_loss_is_not_saved(folder, tmp_path):
    """One step an epoch, whose loss is still that of the weights before it."""
    given = {**SMALL, "batch_size": 24, "epochs": 5, "warmup_epochs": 0.0, "optimizer": "sgd", "lr": 1e30}
    with pytest.raises(DivergedError, match="the validation loss is nan after step 1; try a lower --lr"):
        train(str(folder), tmp_path / "run", given)
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_other_classes(folder, tmp_path, monkeypatch):
    """Of which there are as many, so that the images would be learned under each other's names."""
    root = copied(folder, tmp_path)
    interrupt_at(monkeypatch, Updates, "step", 3)
    with pytest.raises(InterruptedRunError):
        train(str(root), tmp_path / "run", SMALL)
    before = (tmp_path / "run" / "config.json").read_bytes()
    (root / "green_right").rename(root / "z")
    with pytest.raises(ValueError, match=r"has classes \['red_right', 'z'\]; when the run began they were"):
        train(None, tmp_path / "run", {}, resume=True)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_run_leaves_the_callers_random_numbers_as_they_were(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(str(folder), tmp_path / "run", {**SMALL, "epochs": 1})
    assert torch.equal(torch.rand(3), expected)


def test_generators_of_several_gpus_are_kept_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch warns, and the tests fail at warnings, where it is to find several GPUs itself."""
    states = {0: 10, 1: 11}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[int(torch.device(device).index or 0)])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.__setitem__(torch.device(device).index or 0, state)
    )
    with forked_generators():
        states.update({0: -1, 1: -1})
    assert states == {0: 10, 1: 11}


@pytest.mark.parametrize(
    ("device", "dtype", "precision", "expected"),
    [
        ("cpu", torch.float32, "auto", False),
        ("cuda", torch.float32, "auto", True),
        ("cuda", torch.float32, "float32", False),
        ("cpu", torch.float32, "bfloat16", True),
        ("cpu", torch.bfloat16, "auto", True),  # as the images, so the weights
    ],
)
def test_a_gpu_computes_in_16_bits_and_so_does_whoever_is_given_them(device, dtype, precision, expected) -> None:
    assert autocasts(torch.device(device), dtype, precision) is expected


def test_images_that_are_kept_are_read_once_and_change_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    decode = sources.decode

    def counted(data: bytes, *, name: str, **options: Any) -> np.ndarray:
        read.append(name)
        return decode(data, name=name, **options)

    monkeypatch.setattr(sources, "decode", counted)
    monkeypatch.setattr(training, "write_report", lambda *arguments, **options: None)  # which reads some pictures anew
    times = {}
    for cache in (1.0, 0.0):
        read.clear()
        train(str(folder), tmp_path / f"{cache}", {**SMALL, "epochs": 3, "cache": cache, "device": "cpu"})
        times[cache] = len(read), len(set(read))
    assert times == {1.0: (30, 30), 0.0: (3 * (20 + 6), 30)}  # four of 24 are left out of each epoch's batches of five
    kept, anew = (load_checkpoint(tmp_path / f"{cache}" / "last.pt")["model"] for cache in (1.0, 0.0))
    assert all(torch.equal(kept[name], anew[name]) for name in anew)
