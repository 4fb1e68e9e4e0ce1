"""Strategies beside each other: what is counted, and that a comparison goes on where it was stopped."""

import json

import pytest
from PIL import Image

from augment_gpu.cli import main
from augment_gpu.transfer.compare import Outcome, compare, comparison_table, scratch_ratio, scratch_sentences
from augment_gpu.transfer.train import train

pytestmark = pytest.mark.usefixtures("threads")


def outcome(strategy: str, values: list[float], seed: int = 0) -> Outcome:
    """Of epochs of 10 steps and 100 images."""
    curve = [(10 * epoch, 100 * epoch, top1) for epoch, top1 in enumerate(values, start=1)]
    steps = 10 * (values.index(max(values)) + 1)
    return Outcome(strategy, seed, max(values), 2.0 * len(values), 100 * len(values), steps, curve)


@pytest.mark.parametrize(
    ("scratch", "ratio", "reached"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.85, 0.9], 2.5, True),  # 50 steps to 0.8 or more, where fine-tuning took 20
        ([0.1, 0.8], 1.0, True),
        ([0.1, 0.2, 0.3], 1.5, False),  # all its 30 steps did not suffice
    ],
)
def test_steps_from_random_weights_are_counted_to_the_same_accuracy(scratch, ratio, reached) -> None:
    fine_tuned = outcome("full", [0.6, 0.8, 0.7])
    assert scratch_ratio(fine_tuned, outcome("scratch", scratch)) == (ratio, reached)


def test_the_table_has_means_and_spread_and_the_sentence_says_what_was_not_reached() -> None:
    runs = [outcome("full", [0.6, 0.8], seed=0), outcome("full", [0.6, 0.7], seed=1)]
    runs += [outcome("scratch", [0.1, 0.2, 0.3, 0.8], seed=0), outcome("scratch", [0.1, 0.2, 0.3, 0.4], seed=1)]
    # 0.75 and 0.6; the deviation of two values d apart is d / √2; medians of 4 and 8 seconds, 200 and 400 images
    assert comparison_table(runs).splitlines()[2:] == [
        "| full | 75.0% ± 7.1% | 4 | 200 |",
        "| scratch | 60.0% ± 28.3% | 8 | 400 |",
    ]
    assert scratch_sentences(runs) == [
        "From random weights the accuracy of full takes 2.0 times its steps, or more: 1 of 2 runs did not reach it."
    ]
    assert scratch_sentences(runs[:2]) == []


@pytest.fixture(scope="module")
def weights(folder, tmp_path_factory) -> str:
    """Of a network that was trained on the pictures that it is then compared on."""
    output = tmp_path_factory.mktemp("pretraining") / "run"
    train(str(folder), output, {**SMALL, "scratch": True, "epochs": 4, "lr": 3e-3})
    return str(output / "best.pt")


SMALL = {"model": "test_resnet", "size": 32, "batch_size": 8, "recipe": {"flip": 0.0, "scale": [0.7, 1.0]}}


def test_every_strategy_is_run_and_shown(folder, weights, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = tmp_path / "comparison"
    options = ["--model", "test_resnet", "--weights", weights, "--size", "32", "--batch-size", "8", "--epochs", "2"]
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(SMALL["recipe"]))
    arguments = ["compare", str(folder), "--seeds", "1", "--output", str(output), "--recipe", str(recipe), *options]
    assert main([*arguments, "--views", "2"]) == 0
    text = capsys.readouterr().out
    stored = {row["strategy"]: row for row in json.loads((output / "compare.json").read_text())}
    assert list(stored) == ["linear", "mlp", "top", "full", "lp-ft", "scratch"]
    assert stored["linear"]["images"] == 24 * 2  # two views of each image
    assert stored["full"]["images"] == 24 * 2  # two epochs
    assert stored["scratch"]["images"] == 24 * 6
    for strategy, row in stored.items():
        assert f"| {strategy} | {row['top1']:.1%}" in text
        assert f"| {strategy} | {row['top1']:.1%}" in (output / "compare.md").read_text()
        assert (output / f"{strategy}-0" / "best.pt").exists()
    with Image.open(output / "compare.png") as picture:
        assert picture.width > picture.height > 300
    config = json.loads((output / "scratch-0" / "config.json").read_text())["config"]
    assert (config["weights"], config["epochs"]) == (None, 6)


def test_a_comparison_goes_on_where_it_was_stopped(folder, tmp_path) -> None:
    strategies = ["scratch"]
    given = {**SMALL, "epochs": 1}
    first = compare(str(folder), tmp_path / "c", given, strategies=strategies, seeds=1, scratch_epochs=1)
    before = (tmp_path / "c" / "scratch-0" / "last.pt").stat().st_mtime_ns
    both = compare(str(folder), tmp_path / "c", given, strategies=strategies, seeds=2, scratch_epochs=1)
    assert both[0] == first[0]
    assert (tmp_path / "c" / "scratch-0" / "last.pt").stat().st_mtime_ns == before
    assert [run.seed for run in both] == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategies": ["best"]}, "strategies names 'best'; known are linear"),
        ({"seeds": 0}, "seeds is 0"),
    ],
)
def test_what_cannot_be_compared_is_named(tmp_path, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        compare(None, tmp_path / "c", {}, **options)
    with pytest.raises(ValueError, match="strategy is 'full'; a comparison runs every strategy"):
        compare(None, tmp_path / "c", {"strategy": "full"})
    assert not (tmp_path / "c").exists()
