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


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, str, str]:
    """Of the section on adding an op: its file as a module, its test, and the line for the recipe."""
    section = README.read_text(encoding="utf-8").split("## Add an augmentation")[1].split("\n## ")[0]
    file, test, line = (part.split("```")[0] for part in section.split("```python")[1:])
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
