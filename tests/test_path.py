"""Which path serves a device: every reason why the Triton kernels cannot, told once, and what strict makes of it."""

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import augment_gpu as ag
from augment_gpu.ops import crop, path
from augment_gpu.ops.path import require_bfloat16, require_triton, runs_triton, why_not_triton

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


def forget() -> None:
    path._answers.clear()
    path._warned.clear()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[torch.device]]]:
    """A machine whose GPUs there need not be: gpu(capability, error) says what they are and how a trial ends. Returns
    the devices that were tried."""
    forget()
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    def pretend(
        capability: tuple[int, int] = (9, 0), error: Exception | None = None, result: Any = range(32)
    ) -> list[torch.device]:
        tried: list[torch.device] = []

        def launch_probe(device: torch.device) -> torch.Tensor:
            tried.append(device)
            if error is not None:
                raise error
            return torch.tensor(result)

        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Card")
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(path, "find_spec", lambda name: object())
        monkeypatch.setitem(sys.modules, "augment_gpu.kernels.probe", SimpleNamespace(launch_probe=launch_probe))
        return tried

    yield pretend
    forget()


NO_COMPILER = RuntimeError("Failed to find C compiler. Please specify via CC environment variable.\nmore")
REASONS: dict[str, tuple[dict[str, Any], str]] = {
    "old": (
        {"capability": (7, 5)},
        "Card (cuda:0) is too old: its compute capability is 7.5, and the Triton kernels need",
    ),
    "no compiler": (
        {"error": NO_COMPILER},
        "there is no C compiler, with which Triton builds its launcher: install gcc",
    ),
    "out of memory": ({"error": torch.OutOfMemoryError("CUDA out of memory.")}, "Card (cuda:0) has no free memory"),
    "no room for the code": ({"error": RuntimeError("Triton Error [CUDA]: out of memory")}, "has no free memory"),
    "no driver": (
        {"error": AssertionError("libcuda.so cannot be found!\nlines")},
        "(AssertionError: libcuda.so cannot be",
    ),
    "nothing written": ({"result": [0] * 32}, "a trial kernel gave a wrong result on Card (cuda:0)"),
}
reasons = pytest.mark.parametrize(("machine", "sentence"), REASONS.values(), ids=REASONS.keys())


@reasons
def test_the_reason_is_one_sentence(machine: dict[str, Any], sentence: str, gpu: Any) -> None:
    gpu(**machine)
    reason = why_not_triton(GPU)
    assert reason is not None
    assert sentence in reason
    assert "\n" not in reason


def test_without_triton_it_says_so(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = gpu()
    monkeypatch.setattr(path, "find_spec", lambda name: None)
    assert why_not_triton(GPU) == "Triton is not installed"
    assert tried == []


def test_a_broken_triton_is_a_reason(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu()
    monkeypatch.setitem(sys.modules, "augment_gpu.kernels.probe", None)  # importing it raises ImportError
    reason = why_not_triton(GPU)
    assert reason is not None
    assert "ModuleNotFoundError" in reason


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 1)])
def test_a_gpu_that_works_is_tried_once_and_serves_without_a_word(capability: tuple[int, int], gpu: Any) -> None:
    tried = gpu(capability)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(runs_triton(device) for device in (GPU, GPU, torch.device("cuda")))
    assert why_not_triton(GPU) is None
    require_triton(GPU)
    assert tried == [GPU]


@reasons
def test_a_gpu_that_does_not_is_reported_once_and_tried_once(machine: dict[str, Any], sentence: str, gpu: Any) -> None:
    tried = gpu(**machine)
    with pytest.warns(RuntimeWarning, match=re.escape(sentence)) as told:
        assert [runs_triton(GPU) for _ in range(3)] == [False] * 3
    assert len(told) == 1
    assert "Plain torch serves in place of the Triton kernels, slower" in str(told[0].message)
    assert len(tried) <= (3 if "memory" in sentence else 1)  # memory may be freed


def test_a_gpu_that_had_no_memory_serves_when_it_has(gpu: Any) -> None:
    gpu(error=torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.warns(RuntimeWarning, match="no free memory"):
        assert not runs_triton(GPU)
    gpu()
    assert runs_triton(GPU)


def test_a_first_use_within_a_graph_capture_is_refused(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = gpu()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="run one batch before a CUDA graph is captured"):
        runs_triton(GPU)
    assert tried == []


def test_each_gpu_is_tried_and_reported_by_itself(gpu: Any) -> None:
    tried = gpu(error=NO_COMPILER)
    other = torch.device("cuda", 1)
    with pytest.warns(RuntimeWarning) as told:
        assert [runs_triton(device) for device in (GPU, other, GPU, other)] == [False] * 4
    assert len(told) == 2
    assert tried == [GPU, other]


def test_on_a_cpu_plain_torch_serves_and_nobody_is_told(gpu: Any) -> None:
    tried = gpu(error=NO_COMPILER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not runs_triton(CPU)
    assert "need a GPU, not cpu" in str(why_not_triton(CPU))
    require_triton(CPU)
    require_bfloat16(CPU)
    assert tried == []


def test_the_interpreter_serves_every_device(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(error=NO_COMPILER)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for device in (CPU, GPU):
        assert runs_triton(device)
        assert why_not_triton(device) is None


def test_the_trial_kernel_writes_what_is_asked_of_it(kernel_device: str) -> None:
    from augment_gpu.kernels.probe import launch_probe

    assert launch_probe(torch.device(kernel_device)).tolist() == list(range(32))


# ---- the stage


def on_gpu(stage: ag.Stage, monkeypatch: pytest.MonkeyPatch) -> ag.Stage:
    """The stage, taking every batch to lie on a GPU."""
    monkeypatch.setattr(stage, "_batch", lambda images: SimpleNamespace(device=GPU))
    return stage


def pictures() -> list[np.ndarray]:
    return [np.full((9, 11, 3), 50 * i, dtype=np.uint8) for i in range(2)]


@reasons
@pytest.mark.parametrize("training", [True, False])
def test_a_strict_stage_raises_what_is_missing_at_its_first_batch(
    training: bool, machine: dict[str, Any], sentence: str, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu(**machine)
    stage = on_gpu(ag.Stage(ag.Recipe(size=8), strict=True), monkeypatch).train(training)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=re.escape(sentence)):
            stage(pictures())


def test_strict_changes_nothing_on_a_cpu(gpu: Any) -> None:
    gpu(error=NO_COMPILER)
    recipe = ag.Recipe(size=8, dtype="bfloat16")
    strict, lax = (ag.Stage(recipe, seed=1, strict=value)(pictures())[0] for value in (True, False))
    assert torch.equal(strict, lax)


@pytest.mark.parametrize("strict", [False, True])
def test_bfloat16_is_refused_where_the_gpu_lacks_it(strict: bool, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu((7, 5))
    stage = on_gpu(ag.Stage(ag.Recipe(size=8, dtype="bfloat16"), strict=strict), monkeypatch)
    with pytest.raises(RuntimeError, match="is too old" if strict else r"Card \(cuda:0\) has no bfloat16.*float16"):
        stage(pictures())


def test_bfloat16_is_let_through_where_the_gpu_has_it(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu((8, 0))
    require_bfloat16(GPU)
    gpu((7, 5))
    monkeypatch.setattr(torch.version, "hip", "6.4")  # AMD numbers its GPUs differently, and all have bfloat16
    require_bfloat16(GPU)


@pytest.mark.cuda
def test_plain_torch_serves_on_a_gpu_whose_trial_failed(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = ag.Recipe(size=8, cutout=4, mixup_alpha=1.0, num_classes=5)
    wanted = ag.Stage(recipe, seed=1).to("cuda")(pictures(), [0, 4], index=[0, 1])
    forget()
    broken = SimpleNamespace(launch_probe=lambda device: torch.zeros(32, device=device))
    monkeypatch.setitem(sys.modules, "augment_gpu.kernels.probe", broken)
    with pytest.warns(RuntimeWarning, match="wrong result"):
        given = ag.Stage(recipe, seed=1).to("cuda")(pictures(), [0, 4], index=[0, 1])
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


# ---- the output's memory


@pytest.mark.parametrize("channels_last", [False, True])
def test_without_memory_for_the_output_it_says_how_much_was_wanted(
    channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "empty", full)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    # 2 · 3 · 8 · 8 numbers of 2 bytes
    with pytest.raises(torch.OutOfMemoryError, match=r"takes 768 bytes; 1000 of 2000 are free on cuda:0") as raised:
        crop.empty_images((2, 3, 8, 8), torch.float16, channels_last, GPU)
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)


# ---- launches


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # lanes past the picture, interpreted
def test_a_batch_that_is_cropped_cut_out_and_mixed_takes_three_launches(
    kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crop with its holes, images and targets; and what they give is what plain torch gives."""
    from augment_gpu.kernels import crop, cutout, mix
    from augment_gpu.kernels.launch import launch

    launched: list[str] = []

    def counted(kernel: Any, *arguments: Any, **options: Any) -> None:
        launched.append(kernel.fn.__name__)
        launch(kernel, *arguments, **options)

    for module in (crop, cutout, mix):
        monkeypatch.setattr(module, "launch", counted)
    both = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0, "mixup_mode": "elem"}
    mixing = {"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0, "fill": "noise"}, both
    for mixed, options in zip(("_mixup", "_cutmix", "_cutmix"), mixing, strict=True):
        recipe = ag.Recipe(size=8, cutout=4, num_classes=5, label_smoothing=0.1, exact=True, **options)
        given = ag.Stage(recipe, seed=1).to(kernel_device)(pictures(), [0, 4], index=[0, 1])
        assert launched == ["_crop_resize_flip", mixed, "_mix_targets"]
        launched.clear()
        with monkeypatch.context() as plain:
            plain.delenv("TRITON_INTERPRET", raising=False)
            wanted = ag.Stage(recipe, seed=1)(pictures(), [0, 4], index=[0, 1])
        for one, other in zip(given, wanted, strict=True):
            # the noise's logarithm in float32 (see test_cutout), and a resized picture's rounding, over a deviation
            torch.testing.assert_close(one.cpu(), other, rtol=0, atol=1e-3)
