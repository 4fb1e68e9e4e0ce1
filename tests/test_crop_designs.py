"""The benchmark of the crop kernel's designs: each is launched as it says, and gives the shipped one's picture."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import augment_gpu as ag

pytestmark = pytest.mark.usefixtures("benchmarks_importable")


def test_a_design_is_launched_as_it_says(kernel_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench_crop_designs import DESIGNS, Design, launched_as

    from augment_gpu.kernels import crop as kernel

    launched: list[Design] = []

    def launch(kernel: Any, programs: int, tensors: Any, *others: Any, num_warps: int, maxnreg: Any = None) -> None:
        columns, rows = others[-2:]
        assert programs == -(-70 // columns) * -(-70 // rows)
        launched.append(Design(columns, rows, num_warps, maxnreg))

    monkeypatch.setattr(kernel, "launch", launch)
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8, device=kernel_device)
    crop = ag.CropParams(np.zeros(1), np.array([[0, 0, 8, 8]]), np.zeros(1))
    for design in DESIGNS:
        with launched_as(design):
            ag.crop_resize_flip(images, crop, size=70)
    ag.crop_resize_flip(images, crop, size=70)
    assert launched == [*DESIGNS, DESIGNS[0]], "the first is the one that ships"


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, a kernel would be timed for minutes."""
    import bench_crop_designs

    monkeypatch.setattr(bench_crop_designs, "on_device", lambda *_, **__: {"seconds": {"median": 1e-6}})


@pytest.mark.usefixtures("untimed")
def test_every_design_gives_the_same_picture_and_a_row(kernel_device: str) -> None:
    from bench_crop_designs import DESIGNS, markdown, measured, scenes
    from gpu_ops import QUICK

    plan = replace(QUICK, batch=2, scales=(1.5,))
    found = scenes(plan)
    assert len({scene.name for scene in found}) == len(found)
    rows = [row for scene in (found[3], found[-1]) for row in measured(scene, plan, torch.device(kernel_device))]
    table = markdown(rows, "heading").splitlines()
    assert table[2] == "| design | four channels | scale 1.5 |"
    assert table[4:] == [f"| {design} | 1 | 1 |" for design in DESIGNS]


@pytest.mark.usefixtures("untimed")
def test_a_design_with_another_picture_is_refused(kernel_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_crop_designs
    from gpu_ops import QUICK

    from augment_gpu.kernels import crop as kernel

    @contextmanager
    def launched_as(design: Any) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(kernel, "launch", lambda *arguments, **options: None)
            yield

    monkeypatch.setattr(bench_crop_designs, "launched_as", launched_as)
    plan = replace(QUICK, batch=2)
    with pytest.raises(AssertionError, match="nan"):
        bench_crop_designs.measured(bench_crop_designs.scenes(plan)[0], plan, torch.device(kernel_device))
