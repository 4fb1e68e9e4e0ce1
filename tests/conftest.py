"""Shared images, and the device on which the Triton kernels run: a GPU where there is one, else Triton's
interpreter."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

GPU = torch.cuda.is_available()

# triton.jit looks at this variable when it decorates, so the kernels are imported while it is set. Afterwards it goes,
# so that CPU tensors take the CPU path, as they do for a user; the fixture `kernel_device` sets it for one test.
os.environ.pop("TRITON_INTERPRET", None)
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"
try:
    import augment_gpu.kernels.crop
    import augment_gpu.kernels.cutout
    import augment_gpu.kernels.mix
    import augment_gpu.kernels.probe  # noqa: F401
except ImportError as error:
    NO_TRITON = str(error)
else:
    NO_TRITON = ""
finally:
    os.environ.pop("TRITON_INTERPRET", None)


def pytest_configure() -> None:
    """Workers of pytest-xdist share the cores: threads of which there are more than cores wait for each other."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


# They begin, so that none of these files is what one process is left with when the others have finished.
LONGEST = (
    "test_crop",
    "test_distributed",
    "test_train",
    "test_cutout",
    "test_gpu_report",
    "test_kernels_static",
    "test_crop_designs",
)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if "kernel_device" in getattr(item, "fixturenames", ()) or any(
            isinstance(value, str) and value == "kernel" for value in parameters
        ):
            item.add_marker("kernel")
        if item.get_closest_marker("cuda") and not GPU:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
        if not GPU and {"device", "kernel_device", "request"} & set(getattr(item, "fixturenames", ())):
            # Of output rows that the kernel passes on its way and does not write the interpreter divides by 0.
            item.add_marker(pytest.mark.filterwarnings("ignore:divide by zero encountered in divide:RuntimeWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore:invalid value encountered in multiply:RuntimeWarning"))


@pytest.fixture
def kernel_device(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device whose tensors the Triton kernels serve: "cuda", or "cpu" under Triton's interpreter."""
    if NO_TRITON:
        pytest.skip(f"Triton is not installed: {NO_TRITON}")
    if GPU:
        return "cuda"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return "cpu"


@pytest.fixture(params=["torch", "kernel"])
def device(request: pytest.FixtureRequest) -> str:
    """Runs a test twice: on the CPU's plain torch path, and through the Triton kernel."""
    return "cpu" if request.param == "torch" else request.getfixturevalue("kernel_device")


@pytest.fixture(scope="module")
def benchmarks_importable() -> Iterator[None]:
    """The benchmarks are scripts: they find each other because Python puts a script's folder first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        yield


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone afterwards. One to begin with: on small pictures more only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 15 pictures: red to the left of green, and green to the left of red."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.Generator(np.random.Philox(0))
    for label, name in enumerate(("green_right", "red_right")):
        (root / name).mkdir()
        for number in range(15):
            picture = generator.integers(0, 80, (40, 50, 3), dtype=np.uint8)
            picture[:, :25, label] += 150
            picture[:, 25:, 1 - label] += 150
            Image.fromarray(picture).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def run_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., tuple[list[int], str]]]:
    """The exit statuses of a program, in a process for each of the environments, and what they wrote."""
    fixed = {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(Path(__file__).with_name("warm.py"))]
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with subprocess.Popen(command, env={**os.environ, **fixed}, stdin=PIPE, stdout=PIPE, text=True) as warm:
        assert warm.stdin is not None
        assert warm.stdout is not None

        def run(program: str, *arguments: str, environments: Sequence[dict[str, str]] = ({},)) -> tuple[list[int], str]:
            log.write_text("")
            ranks = [{**os.environ, **fixed, **environment} for environment in environments]
            job = {"program": program, "arguments": arguments, "environments": ranks, "folder": os.getcwd()}
            job["log"] = str(log)
            print(json.dumps(job), file=warm.stdin, flush=True)
            statuses = json.loads(warm.stdout.readline())
            print(log.read_text())  # for the one who reads of a failure
            return statuses, log.read_text()

        yield run
        warm.stdin.close()


@pytest.fixture(scope="session")
def refuses_option() -> Callable[[str, str, Any], None]:
    return _refuses_option


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    return _noise


@pytest.fixture(scope="session")
def untrained_run() -> Callable[..., Path]:
    return _untrained_run


@pytest.fixture(scope="session")
def photo() -> Callable[..., np.ndarray]:
    return _photo


def _refuses_option(name: str, option: str, value: Any) -> None:
    """An op's sampler names the option that is out of range, and so does a recipe, with the op."""
    from augment_gpu import Key, Recipe
    from augment_gpu.recipe import OPS

    with pytest.raises(ValueError, match=f"^{option} is"):
        OPS[name][0](Key(0), [0], **{option: value})
    with pytest.raises(ValueError, match=f"^{name}: {option} is"):
        Recipe(ops=((name, {option: value}),))


def _noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(H, W, C) uint8, each value independent of its neighbours: the worst case for a resampling filter."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def _photo(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """(H, W, C) uint8: gradients, soft texture and an object with an edge, none of it at the ends of the range."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = []
    for _ in range(channels):
        a, b, phase = random.uniform(-60, 60, 3)
        texture = random.normal(0, 60, (height + 8, width + 8))
        for axis in (0, 1):  # four box filters: nearly a Gaussian
            for _ in range(4):
                texture = (texture + np.roll(texture, 1, axis) + np.roll(texture, -1, axis)) / 3
        disc = 1 / (1 + np.exp((np.hypot(x - 0.4, y - 0.35) - 0.2) * 60))
        planes.append(128 + a * x + b * y + 20 * np.sin(9 * x + phase) + texture[4:-4, 4:-4] + 40 * disc)
    return np.clip(np.stack(planes, axis=2), 20, 235).round().astype(np.uint8)


def _untrained_run(
    folder: Path,
    classes: Sequence[str],
    *,
    model: str = "test_resnet",
    rows: Sequence[dict[str, Any]] = (),
    **recipe: Any,
) -> Path:
    """A run's folder as training writes it, but for the weights, which are random. rows: of metrics.jsonl, of which the
    last is the best."""
    from augment_gpu.recipe import Recipe
    from augment_gpu.transfer.checkpoint import save_checkpoint, save_json
    from augment_gpu.transfer.model import create_model

    folder.mkdir()
    rows = rows or [{"epoch": 0, "lr": 0.1, "train_loss": 2.0, "val_loss": 1.5, "val_top1": 0.25}]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = create_model(model, len(classes), scratch=True).state_dict()
    fields = Recipe(**{"size": 32, "num_classes": len(classes), **recipe}).to_dict()
    described = {"classes": list(classes), "recipe": fields}
    config = {"model": model, "scratch": True, "seed": 0, "val_fraction": 0.2}
    save_json(folder / "config.json", {"data": "/data/photos", "config": config, **described, "torch": "2"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_checkpoint(folder / "best.pt", {"model_name": model, "model": state, **described, "metrics": rows[-1]})
    save_checkpoint(folder / "last.pt", {"model_name": model, "model": state, "metrics": list(rows)})
    return folder


@pytest.fixture(scope="session")
def assert_strengths() -> Callable[..., None]:
    return _assert_strengths


def _assert_strengths(values: np.ndarray, low: float, high: float) -> None:
    """Of half the samples they are uniform in [low, high]; of the others, which drew nothing, 0."""
    drawn = values[values > 0]
    assert len(drawn) == pytest.approx(len(values) / 2, abs=5 * math.sqrt(len(values) / 4))
    counts = np.histogram(drawn, 20, (low, high))[0]
    assert counts.sum() == len(drawn)
    # χ² of 19 degrees of freedom exceeds 60 with probability 4e-6
    assert ((counts - len(drawn) / 20) ** 2 / (len(drawn) / 20)).sum() < 60
