"""README's walkthrough: what it tells the reader to write is run as it stands."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import augment_gpu as ag
from augment_gpu.recipe import OPS
from augment_gpu.testing import check_augmentation

README = Path(__file__).parents[1] / "README.md"
# Its sections with Python to run, and how many blocks each has. test_targets.py runs the one on boxes, the tests below
# run the others.
SECTIONS = {"In your own loop": 5, "Boxes, masks and keypoints": 1, "Add an augmentation": 3}


def python_of(section: str) -> list[str]:
    """The blocks of Python below a heading."""
    text = README.read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    return [part.split("```")[0] for part in text.split("```python")[1:]]


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, str, str]:
    """Of the section on adding an op: its file as a module, its test, and the line for the recipe."""
    file, test, line = python_of("Add an augmentation")
    module = ModuleType("augment_gpu.ops.gamma")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look for it there
    exec(file, module.__dict__)
    return module, test, line


def test_the_walkthroughs_test_passes(blocks: tuple[ModuleType, str, str]) -> None:
    names: dict = {}
    exec(blocks[1], names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


def test_the_walkthroughs_test_can_fail(blocks: tuple[ModuleType, str, str]) -> None:
    module = blocks[0]
    module.gamma = lambda images, params: images ** float(params.exponent[:1].mean())  # one draw for all
    names: dict = {}
    exec(blocks[1], names)
    with pytest.raises(AssertionError, match="differs from its reference"):
        names["test_gamma_keeps_every_ops_promises"]()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_op_keeps_its_promises_in_sixteen_bits(
    blocks: tuple[ModuleType, str, str], dtype: torch.dtype, channels: int
) -> None:
    module = blocks[0]
    check_augmentation(module.gamma, module.sample_gamma, module.gamma_reference, dtype=dtype, channels=channels)


def test_the_line_makes_it_an_op_for_recipes(
    blocks: tuple[ModuleType, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, line = blocks
    monkeypatch.setitem(OPS, "gamma", None)  # taken back afterwards
    exec(line, {"OPS": OPS, **vars(module)})
    with pytest.raises(ValueError, match=r"gamma: most is 0\.5"):
        ag.Recipe(ops=[("gamma", {"most": 0.5})])
    picture = np.full((9, 9, 3), 128, dtype=np.uint8)
    options = {"size": 8, "flip": 0.0, "mean": None, "std": None, "dtype": "float32"}
    stage = ag.Stage(ag.Recipe(ops=[("gamma", {"most": 1.5})], **options), seed=3)
    images, _ = stage([picture], index=[7])
    exponent = module.sample_gamma(ag.Key(3), np.array([7]), most=1.5).exponent[0]
    torch.testing.assert_close(images, torch.full((1, 3, 8, 8), (128 / 255) ** float(exponent)), rtol=0, atol=1e-5)


def test_no_block_of_python_is_left_out() -> None:
    assert {section: len(python_of(section)) for section in SECTIONS} == SECTIONS
    assert README.read_text(encoding="utf-8").count("```python") == sum(SECTIONS.values())


def test_the_loop_and_what_follows_it_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would type them, beside a folder of 30 photos."""
    (tmp_path / "photos").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names: dict = {}
    loop, recipe, policies, mixing, parts = python_of("In your own loop")
    assert "num_workers=4" in loop  # processes that a small machine warns of
    exec(loop.replace("num_workers=4", "num_workers=0"), names)
    assert names["images"].shape == (30, 3, 224, 224)
    assert sorted(names["targets"].tolist()) == [0] * 15 + [1] * 15
    before = names["images"]
    for block in (recipe, policies, mixing):
        exec(block, names)
    assert (names["images"] != before).any(dim=(1, 2, 3)).sum() > 20
    assert names["targets"].shape == (30, 1000)
    exec(parts, names)
    assert names["images"].shape == (3, 3, 224, 224)
    assert names["picture"].shape == (3, 224, 224)
