"""Strategies of frozen features: the head that is fitted is the network that is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from augment_gpu.cli import main
from augment_gpu.transfer import setup
from augment_gpu.transfer.checkpoint import load_checkpoint
from augment_gpu.transfer.model import classifier, create_model, set_head
from augment_gpu.transfer.run_folder import load_run
from augment_gpu.transfer.similarity import Similarity
from augment_gpu.transfer.train import train

pytestmark = pytest.mark.usefixtures("threads")
RECIPE = {"flip": 0.0, "scale": [0.7, 1.0]}  # a mirror image of one class is the other
SMALL = {"model": "test_resnet", "size": 32, "batch_size": 8, "recipe": RECIPE}


@pytest.fixture(scope="module")
def weights(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a network that knows the pictures."""
    output = tmp_path_factory.mktemp("pretraining") / "run"
    train(str(folder), output, {**SMALL, "scratch": True, "epochs": 6, "lr": 3e-3})
    return str(output / "best.pt")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("strategy", ["linear", "mlp"])
def test_a_fitted_head_is_a_run_like_others(folder, weights, tmp_path, strategy, capsys) -> None:
    output = tmp_path / "run"
    # On a CPU, since a GPU computes in 16 bits, and by other algorithms for other batches.
    given = {**SMALL, "weights": weights, "strategy": strategy, "plan": {"views": 3}, "device": "cpu"}
    (row,) = train(str(folder), output, given)
    assert row["val_top1"] == 1
    assert row["images"] == 24 * 3
    pretrained = load_checkpoint(Path(weights))["model"]
    for checkpoint in ("best", "last"):
        run = load_run(output, checkpoint)
        name, _ = classifier(create_model("test_resnet", 2, scratch=True))
        head = run.model.get_submodule(name)
        assert isinstance(head, torch.nn.Linear if strategy == "linear" else torch.nn.Sequential)
        for key, value in run.model.state_dict().items():  # all but the head is what it was
            assert key.startswith(f"{name}.") or torch.equal(value, pretrained[key])
    # The command line measures what the run did, and the run is finished: resuming changes nothing.
    command = ["evaluate", str(output), str(folder), "--device", "cpu", "--json", str(tmp_path / "e.json")]
    assert main(command) == 0
    assert json.loads((tmp_path / "e.json").read_text())["nll"] == pytest.approx(row["val_loss"], abs=1e-5)
    before = (output / "last.pt").read_bytes()
    (output / "report.html").unlink()  # as if it had been cut off right before
    assert train(None, output, {}, resume=True) == [row]
    assert (output / "last.pt").read_bytes() == before
    assert (output / "report.html").exists()


def test_the_training_loss_is_that_of_the_head_on_every_view(folder, weights, tmp_path) -> None:
    """By the whole network, on the training images of each epoch."""
    output = tmp_path / "run"
    given = {**SMALL, "weights": weights, "strategy": "linear", "plan": {"views": 2}, "device": "cpu"}
    (row,) = train(str(folder), output, given)
    run = load_run(output)
    config = setup.TrainConfig(**json.loads((output / "config.json").read_text())["config"])
    train_data, _, _ = setup.open_data(str(folder), config.val_fraction, config.seed)
    stage = setup.Stage(run.recipe, config.seed)
    losses = []
    with torch.inference_mode():
        for epoch in range(2):
            images, targets = stage(
                [train_data[i][0] for i in range(24)], train_data.targets, index=range(24), epoch=epoch
            )
            losses.append(torch.nn.functional.cross_entropy(run.model(images), targets).item())
    assert row["train_loss"] == pytest.approx(np.mean(losses), rel=0.02, abs=1e-4)  # features are float16


def test_a_fitted_head_is_where_lp_ft_begins(folder, weights, tmp_path) -> None:
    given = {**SMALL, "weights": weights, "epochs": 1, "warmup_epochs": 0.0}
    plan = {"views": 2, "lr": 1e-9, "backbone_lr": 1e-9, "batch_norm": "eval"}
    (linear,) = train(
        str(folder),
        tmp_path / "linear",
        {**given, "strategy": "linear", "plan": {"views": 2, "augmentation": "medium"}},
    )
    (probed,) = train(str(folder), tmp_path / "lp-ft", {**given, "strategy": "lp-ft", "plan": plan})
    assert probed["val_loss"] == pytest.approx(linear["val_loss"], abs=1e-4)


def test_auto_measures_and_chooses_once(folder, weights, tmp_path, monkeypatch, capsys) -> None:
    output = tmp_path / "run"
    train(str(folder), output, {**SMALL, "weights": weights})
    text = capsys.readouterr().out
    stored = json.loads((output / "config.json").read_text())
    # Twelve images a class that the network knows.
    assert stored["plan"]["strategy"] == "linear"
    assert "similarity 1.00" in text
    assert "few images (12 a class; few are fewer than 25), similar to those of the pretraining" in text
    monkeypatch.setattr("augment_gpu.transfer.similarity.measure_similarity", None)
    train(None, output, {}, resume=True)


def test_auto_takes_other_layers_where_the_network_knows_nothing(folder, weights, tmp_path, monkeypatch) -> None:
    nothing = Similarity(knn=0.5, chance=0.5, log_me=0.0, images=24, classes=2)
    monkeypatch.setattr("augment_gpu.transfer.similarity.measure_similarity", lambda *args, **options: nothing)
    monkeypatch.setattr("augment_gpu.transfer.plan.FEW_PER_CLASS", 5)
    train(str(folder), tmp_path / "run", {**SMALL, "weights": weights, "epochs": 1})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["plan"]["strategy"] == "full"


def test_auto_fine_tunes_where_no_head_can_be_fitted(folder, weights, tmp_path, monkeypatch, capsys) -> None:
    def refused(model: torch.nn.Module) -> None:
        raise ValueError("it has no single linear classifier")

    monkeypatch.setattr(setup, "classifier", refused)
    train(str(folder), tmp_path / "run", {**SMALL, "weights": weights, "epochs": 1})
    assert "; but it has no single linear classifier: the last layers are fine-tuned" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["plan"]["strategy"] == "top"
    with pytest.raises(ValueError, match="no single linear classifier"):
        train(str(folder), tmp_path / "linear", {**SMALL, "weights": weights, "strategy": "linear"})


def test_settings_that_a_head_has_no_use_for_are_named(folder, weights, tmp_path, capsys) -> None:
    given = {**SMALL, "weights": weights, "strategy": "linear", "plan": {"views": 1}, "ema": 0.9, "clip": 1.0}
    train(str(folder), tmp_path / "run", given)
    assert "a head on frozen features makes no use of clip, ema" in capsys.readouterr().out


def test_a_head_of_other_features_is_refused() -> None:
    model = create_model("test_resnet", 2, scratch=True)
    width = classifier(model)[1].in_features
    with pytest.raises(ValueError, match=f"the head takes {width + 1} features; fc of ResNet takes {width}"):
        set_head(model, torch.nn.Linear(width + 1, 2))
    with pytest.raises(ValueError, match=r"has no single linear classifier .* Choose strategy top, full or scratch"):
        classifier(create_model("deit_tiny_distilled_patch16_224", 2, scratch=True))
