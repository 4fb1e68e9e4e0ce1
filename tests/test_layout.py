"""The plan of the house: which room may import which, where Triton lives, and what `import augment_gpu` costs."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "augment_gpu"
# From top to bottom; an import may only point further down, or stay in its room.
ROOMS = (
    "__main__",
    "cli",
    "transfer",
    "results",
    "evaluate",
    "predict",
    "gallery",
    "preview",
    "info",
    "integrations",
    "data",
    "stage",
    "targets",
    "pipeline",
    "self_supervised",
    "recipe",
    "tta",
    "testing",
    "ops",
    "ragged",
    "decode",
    "memory",
    "rng",
    "kernels",
)

KERNELS_KNOW = ("torch", "triton", "augment_gpu.kernels", "functools", "typing")


def module_name(path: Path) -> str:
    """augment_gpu/ops/crop.py is augment_gpu.ops.crop; augment_gpu/data/__init__.py is augment_gpu.data.__init__."""
    return ".".join(path.with_suffix("").parts)


def imports(source: str, module: str) -> Iterator[tuple[str, int]]:
    """Every module that the source of `module` imports, at whatever level of indentation, and in which line. What is
    imported from the bare package counts as its module: `from augment_gpu import rng` as augment_gpu.rng."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            parent = module.split(".")[: -node.level] if node.level else []
            imported = ".".join([*parent, *filter(None, [node.module])])
            names = [f"{PACKAGE}.{alias.name}" for alias in node.names] if imported == PACKAGE else [imported]
            for name in names:
                yield name, node.lineno


def room(module: str) -> str:
    return module.split(".")[1]


def imports_that_point_up(source: str, module: str) -> list[str]:
    """In a module of the package other than its __init__: imports of a higher or unknown room, or of the bare package
    or a public name from there, since those come from the top."""
    if room(module) not in ROOMS:
        return [f"{module} has no place in the order"]
    found = []
    for imported, line in imports(source, module):
        if imported == PACKAGE:
            found.append(f"{module}:{line} imports from the bare {PACKAGE}")
        elif imported.startswith(PACKAGE + ".") and room(imported) not in ROOMS:
            found.append(f"{module}:{line} imports {imported}, which has no place in the order")
        elif imported.startswith(PACKAGE + ".") and ROOMS.index(room(imported)) < ROOMS.index(room(module)):
            found.append(f"{module}:{line} imports {imported}, which lies above it")
    return found


def imports_of(*names: str) -> Callable[[str, str], list[str]]:
    """Imports of one of these top-level modules."""

    def check(source: str, module: str) -> list[str]:
        found = [(imported, line) for imported, line in imports(source, module) if imported.split(".")[0] in names]
        return [f"{module}:{line} imports {imported}" for imported, line in found]

    return check


def imports_beside(*names: str) -> Callable[[str, str], list[str]]:
    """Imports of any other module than these and what lies in them."""

    def known(imported: str) -> bool:
        return any(imported == name or imported.startswith(name + ".") for name in names)

    def check(source: str, module: str) -> list[str]:
        found = [(imported, line) for imported, line in imports(source, module) if not known(imported)]
        return [f"{module}:{line} imports {imported}" for imported, line in found]

    return check


def violations(check: Callable[[str, str], list[str]], paths: list[Path]) -> list[str]:
    assert paths
    return [
        text for path in paths for text in check(path.read_text(encoding="utf-8"), module_name(path.relative_to(ROOT)))
    ]


def sources(*folders: str) -> list[Path]:
    """Python files below these folders of the repository; kernels/ under its own name, not behind the link."""
    linked = ROOT / PACKAGE / "kernels"
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")) if linked not in path.parents]


def test_no_import_points_up() -> None:
    inside = [path for path in sources(PACKAGE) if path != ROOT / PACKAGE / "__init__.py"]
    assert violations(imports_that_point_up, inside) == []


def test_triton_is_imported_in_kernels_alone() -> None:
    assert violations(imports_of("triton"), sources(PACKAGE)) == []


def test_nothing_imports_a_top_level_kernels() -> None:
    """It installs as augment_gpu.kernels; a top-level `kernels` is Hugging Face's package."""
    assert violations(imports_of("kernels"), sources(PACKAGE, "kernels", "tests", "benchmarks")) == []


def test_kernels_know_torch_triton_and_each_other_only() -> None:
    assert violations(imports_beside(*KERNELS_KNOW), sources("kernels")) == []


def test_kernels_is_no_package_of_its_own() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_the_package_reaches_its_kernels_by_a_relative_link() -> None:
    assert os.readlink(ROOT / PACKAGE / "kernels") == os.path.join("..", "kernels")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("augment_gpu.rng", "import augment_gpu.ops.crop"),
        ("augment_gpu.rng", "from augment_gpu.ragged import RaggedBatch"),
        ("augment_gpu.ragged", "from augment_gpu.ops import crop"),
        ("augment_gpu.kernels.crop", "from augment_gpu.rng import Key"),
        ("augment_gpu.ops.crop", "def f():\n    if True:\n        from augment_gpu.stage import Stage"),
        ("augment_gpu.ops.crop", "from ..stage import Stage"),
        ("augment_gpu.ops.__init__", "from ..stage import Stage"),
        ("augment_gpu.stage", "from .cli import main"),
        ("augment_gpu.stage", "from augment_gpu.data.loader import Loader"),
        ("augment_gpu.data.loader", "from augment_gpu.integrations.torchvision import from_torchvision"),
        ("augment_gpu.stage", "import augment_gpu"),
        ("augment_gpu.stage", "import augment_gpu as ag"),
        ("augment_gpu.cli", "from augment_gpu import Stage"),
        ("augment_gpu.ragged", "from augment_gpu import stage"),
        ("augment_gpu.data.loader", "from .. import Key"),
        ("augment_gpu.data.loader", "from .. import rng, cli"),
        ("augment_gpu.stage", "try:\n    import augment_gpu.garage\nexcept ImportError:\n    pass"),
        ("augment_gpu.garage", ""),
    ],
)
def test_an_import_that_points_up_would_be_seen(module: str, source: str) -> None:
    assert len(imports_that_point_up(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "augment_gpu.ops.crop",
            "from augment_gpu.ops.boxes import CropParams\nfrom augment_gpu.ragged import RaggedBatch",
        ),
        ("augment_gpu.ops.path", "def f():\n    from augment_gpu.kernels.probe import launch_probe"),
        ("augment_gpu.info", "from augment_gpu.ops.path import why_not_triton"),
        ("augment_gpu.ops.crop", "from .boxes import CropParams\nfrom ..ragged import RaggedBatch"),
        ("augment_gpu.ops.crop", "def f():\n    from augment_gpu.kernels.crop import launch_crop_resize_flip"),
        ("augment_gpu.transfer.train", "from augment_gpu.evaluate import accuracy\nimport augment_gpu.data.loader"),
        ("augment_gpu.data.__init__", "from augment_gpu.data.loader import Loader\nfrom .sources import ImageFolder"),
        ("augment_gpu.__main__", "from augment_gpu.cli import main"),
        ("augment_gpu.ragged", "from augment_gpu import memory\nfrom . import rng"),
        ("augment_gpu.rng", "import hashlib\nimport numpy as np\nimport augment_gpu_extras"),
        ("augment_gpu.integrations.torchvision", "from torchvision.transforms import v2"),
    ],
)
def test_an_import_that_points_down_is_let_through(module: str, source: str) -> None:
    assert imports_that_point_up(source, module) == []


@pytest.mark.parametrize(
    "source",
    [
        "import triton",
        "import triton.language as tl",
        "from triton.runtime import driver",
        "def f():\n    import torch, triton",
        "if False:\n    from triton import jit",
    ],
)
def test_an_import_of_triton_would_be_seen(source: str) -> None:
    assert len(imports_of("triton")(source, "augment_gpu.stage")) == 1
    assert imports_of("triton")("import tritonclient\nfrom augment_gpu import triton", "augment_gpu.stage") == []


@pytest.mark.parametrize(
    "source", ["import kernels", "import kernels.crop", "from kernels import crop", "from kernels.crop import x"]
)
def test_an_import_of_a_top_level_kernels_would_be_seen(source: str) -> None:
    assert len(imports_of("kernels")(source, "tests.test_crop")) == 1
    assert imports_of("kernels")("from augment_gpu.kernels import crop", "tests.test_crop") == []


@pytest.mark.parametrize(
    "source", ["import numpy", "from augment_gpu.rng import philox", "def f():\n    import os", "from . import crop"]
)
def test_another_import_in_kernels_would_be_seen(source: str) -> None:
    assert len(imports_beside(*KERNELS_KNOW)(source, "kernels.cutout")) == 1
    known = "import torch\nimport triton.language as tl\nfrom augment_gpu.kernels.launch import launch"
    assert imports_beside(*KERNELS_KNOW)(known, "kernels.cutout") == []


def run(program: str, folder: Path) -> None:
    """In a fresh interpreter, elsewhere, with warnings as errors."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(ROOT)
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr


def test_importing_the_package_loads_no_heavy_library(tmp_path: Path) -> None:
    """And the CPU path works where Triton is not installed."""
    program = """
import sys
import augment_gpu as ag
heavy = {"triton", "kornia", "timm", "torchvision", "torchmetrics", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
sys.modules["triton"] = None  # importing it raises ImportError from now on
import numpy as np
batch = ag.RaggedBatch.from_images([np.zeros((5, 7, 3), np.uint8)])
crop = ag.sample_random_resized_crop(ag.Key(0), [0], [5], [7])
for exact in (False, True):
    images = ag.crop_resize_flip(batch, crop, size=8, exact=exact)
ag.cutout(images, ag.sample_cutout(ag.Key(0), [0], size=8, length=4, fill="noise"))
"""
    run(program, tmp_path)


def test_the_torchvision_integration_does_not_shadow_torchvision(tmp_path: Path) -> None:
    program = """
import augment_gpu.integrations.torchvision as ours
import torchvision
from torchvision.transforms import RandomResizedCrop
assert torchvision is not ours
assert RandomResizedCrop.__module__.startswith("torchvision.")
assert "integrations" not in torchvision.__file__
"""
    run(program, tmp_path)
