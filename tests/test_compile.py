"""The device part of a stage under torch.compile and in a CUDA graph, and the operators that it is made of."""

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import augment_gpu as ag
from augment_gpu.ops.crop import run_crop
from augment_gpu.ops.cutout import run_cutout
from augment_gpu.ops.mix import run_cutmix, run_mix_targets, run_mixed, run_mixup
from augment_gpu.pipeline import Prepared

PLAIN: dict[str, Any] = {"size": 32}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "cutout, mixup": {"cutout": 12, "mixup_alpha": 0.2, "num_classes": 5, "label_smoothing": 0.1},
    "cutout, then erasing": {"cutout": 12, "reprob": 1.0},
    "erasing by noise, cutmix": {"reprob": 1.0, "fill": "noise", "cutmix_alpha": 1.0, "num_classes": 5},
    "mixup and cutmix": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0, "mixup_mode": "elem", "num_classes": 5},
    "smoothing, contiguous": {"label_smoothing": 0.1, "num_classes": 5, "channels_last": False},
    "twist": {"color_twist": {"saturation": 0.4, "hue": 0.1, "p": 0.5}, "flip": "alternate"},
    "bicubic": {"crop": "scale_jitter", "short_side": (32, 48), "interpolation": "bicubic", "dtype": "bfloat16"},
}
LABELS, INDEX = [0, 3, 4], [5, 6, 9]


def stage_of(name: str) -> ag.Stage:
    return ag.Stage(ag.Recipe(**{**PLAIN, **RECIPES[name]}))


def batch(seed: int, *, device: str = "cpu") -> ag.RaggedBatch:
    """Three images whose sizes differ with the seed."""
    random = np.random.default_rng(seed)
    sizes = random.integers(20, 90, (3, 2))
    return ag.RaggedBatch.from_images([random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]).to(
        device
    )


@pytest.fixture
def compiled() -> Iterator[Callable[..., Callable[[Prepared], Any]]]:
    """torch.compile(fullgraph=True), and nothing left of it afterwards."""
    with warnings.catch_warnings():  # torch's own, about itself
        warnings.simplefilter("ignore")
        yield lambda stage, **options: torch.compile(stage.augment, fullgraph=True, **options)
        torch.compiler.reset()


def graphs() -> int:
    """How many graphs torch.compile has made so far: each recompilation is one more."""
    return sys.modules["torch._dynamo"].utils.counters["stats"]["unique_graphs"]


def assert_same(made: tuple[torch.Tensor, Any], wanted: tuple[torch.Tensor, Any]) -> None:
    for one, other in zip(made, wanted, strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()
        assert one.dtype == other.dtype


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RECIPES)
def test_the_compiled_device_part_gives_the_same_bits(name: str, training: bool, compiled: Any) -> None:
    stage = stage_of(name).train(training)
    augment = compiled(stage, backend="aot_eager")
    for seed in range(3):
        prepared = stage.prepare(batch(seed), LABELS, index=INDEX, epoch=seed)
        assert_same(augment(prepared), stage.augment(prepared))


def test_the_default_compiler_takes_it_too(compiled: Any) -> None:
    stage = stage_of("cutout, mixup")
    prepared = stage.prepare(batch(0), LABELS)
    assert_same(compiled(stage)(prepared), stage.augment(prepared))


@pytest.mark.parametrize("name", ["cutout, mixup", "twist"])
def test_a_hundred_batches_compile_once(name: str, compiled: Any) -> None:
    """Boxes, image sizes and so the number of pixels change from batch to batch."""
    stage = stage_of(name)
    augment = compiled(stage, backend="aot_eager", dynamic=True)
    before = graphs()
    sizes = set()
    for seed in range(100):
        prepared = stage.prepare(batch(seed), LABELS, index=INDEX, epoch=seed)
        sizes.add(len(prepared.images))
        augment(prepared)
        assert graphs() == before + 1
    assert len(sizes) > 90


def test_without_dynamic_shapes_the_second_size_compiles_once_more_and_no_other(compiled: Any) -> None:
    stage = stage_of("cutout, mixup")
    augment = compiled(stage, backend="aot_eager")
    before = graphs()
    for seed in range(100):
        augment(stage.prepare(batch(seed), LABELS, index=INDEX, epoch=seed))
    assert graphs() == before + 2


def test_dense_batches_of_changing_sizes_compile_once(compiled: Any) -> None:
    stage = stage_of("plain")
    augment = compiled(stage, backend="aot_eager", dynamic=True)
    before = graphs()
    for height, width in ((40, 50), (64, 33), (41, 90)):
        prepared = stage.prepare(torch.randint(0, 256, (3, 3, height, width), dtype=torch.uint8), LABELS)
        assert_same(augment(prepared), stage.augment(prepared))
    assert graphs() == before + 1


@pytest.mark.parametrize("name", RECIPES)
def test_operators_keep_what_they_declare(name: str) -> None:
    """torch's own check: schema, aliases, and fake results like the real ones."""
    stage = stage_of(name)
    prepared = stage.prepare(batch(1), LABELS, index=INDEX)
    tests = ("test_schema", "test_faketensor")
    recipe = stage.recipe
    images = torch.zeros(3, 3, 32, 32, dtype=recipe.torch_dtype)
    crop = (prepared.images, prepared.crop, images, recipe.interpolation, True, False, prepared.diagonal)
    torch.library.opcheck(run_crop, crop, test_utils=tests)
    for holes in prepared.holes:
        torch.library.opcheck(run_cutout, (images, holes), test_utils=tests)
    if prepared.mix:
        partner, lam, *box = prepared.mix
        torch.library.opcheck(run_mixup, (images, partner, lam), test_utils=tests)
        torch.library.opcheck(run_mix_targets, (prepared.targets, partner, lam, 5, 0.1), test_utils=tests)
        if len(box) == 1:
            torch.library.opcheck(run_cutmix, (images, partner, *box), test_utils=tests)
        if len(box) == 2:
            torch.library.opcheck(run_mixed, (images, partner, *box), test_utils=tests)


# ------------------------------------------------------------------------------------- one batch overwritten by another


@pytest.mark.parametrize("name", RECIPES)
def test_a_prepared_batch_takes_the_place_of_another(name: str) -> None:
    stage = stage_of(name)
    pictures = [batch(0), batch(1)]
    first, second = sorted(
        (stage.prepare(images, LABELS, index=INDEX, epoch=epoch) for epoch, images in enumerate(pictures)),
        key=lambda prepared: -len(prepared.images),
    )
    wanted = stage.augment(second)
    addresses = [tensor.data_ptr() for tensor in (first.images, *first.crop, *first.mix)]
    first.copy_(second)
    assert addresses == [tensor.data_ptr() for tensor in (first.images, *first.crop, *first.mix)]
    assert_same(stage.augment(first), wanted)


def test_a_larger_batch_is_refused() -> None:
    stage = stage_of("plain")
    small, large = sorted(
        (stage.prepare(batch(seed), LABELS, index=INDEX) for seed in (0, 1)), key=lambda p: len(p.images)
    )
    with pytest.raises(ValueError, match=rf"{len(large.images)} values; there is room for {len(small.images)}"):
        small.copy_(large)


def test_a_batch_of_another_kind_is_refused() -> None:
    plain, mixed = (stage_of(name).prepare(batch(0), LABELS) for name in ("plain", "cutout, mixup"))
    with pytest.raises(ValueError, match="the batches differ"):
        plain.copy_(mixed)
    blurred = ag.Stage(ag.Recipe(size=32, ops=(("gaussian_blur", {"kernel_size": 3}),))).prepare(batch(0), LABELS)
    with pytest.raises(ValueError, match="the batches have ops"):
        blurred.copy_(blurred)
    cut, mixed = (
        ag.Stage(ag.Recipe(size=32, num_classes=5, mixup_alpha=0.2, cutmix_alpha=1.0, switch_prob=cuts))
        for cuts in (1.0, 0.0)
    )
    with pytest.raises(ValueError, match="the batches differ"):
        cut.prepare(batch(0), LABELS).copy_(mixed.prepare(batch(0), LABELS))


@pytest.mark.parametrize(
    "other",
    [
        torch.zeros(3, 3, 41, 40, dtype=torch.uint8),  # another shape
        torch.zeros(3, 3, 80, 80, dtype=torch.uint8)[:, :, :40, :40],  # the same shape in other strides
        torch.zeros(3, 3, 40, 40, dtype=torch.uint8).contiguous(memory_format=torch.channels_last),
        torch.zeros(3, 3, 40, 40),  # another dtype
        torch.zeros(3, 1, 40, 40, dtype=torch.uint8),
    ],
)
def test_dense_images_of_another_form_are_refused(other: torch.Tensor) -> None:
    stage = ag.Stage(ag.Recipe(size=32, mean=(0.5,), std=(0.5,)))
    prepared = stage.prepare(torch.zeros(3, 3, 40, 40, dtype=torch.uint8), LABELS)
    with pytest.raises(ValueError, match="the batches differ in form"):
        prepared.copy_(stage.prepare(other, LABELS))


def test_colours_that_are_mixed_do_not_replace_ones_that_are_not() -> None:
    """Of one image, so that the tables have the same shapes."""
    stage = ag.Stage(ag.Recipe(size=32, color_twist={"hue": 0.1}))
    image = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    training, evaluating = stage.prepare(image, [0]), stage.eval().prepare(image, [0])
    with pytest.raises(ValueError, match=r"the batches differ in form.*diagonal"):
        training.copy_(evaluating)


def test_a_batch_to_evaluate_does_not_replace_one_to_train_on() -> None:
    stage = stage_of("smoothing, contiguous")
    training, evaluating = stage.prepare(batch(0), LABELS), stage.eval().prepare(batch(0), LABELS)
    with pytest.raises(ValueError, match="the batches differ in form"):
        training.copy_(evaluating)


# -------------------------------------------------------------------------------------------------------------- on CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("name", RECIPES)
def test_a_captured_graph_is_replayed_with_other_images_and_draws(name: str) -> None:
    stage = stage_of(name).to("cuda")
    pictures = sorted((batch(seed) for seed in range(4)), key=lambda images: -len(images.pixels))
    prepared = [stage.prepare(images, LABELS, index=INDEX, epoch=epoch) for epoch, images in enumerate(pictures)]
    wanted = [stage.augment(one) for one in prepared]
    static = stage.prepare(pictures[0], LABELS, index=INDEX)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        stage.augment(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = stage.augment(static)
    for one, other in zip(prepared, wanted, strict=True):
        static.copy_(one)
        graph.replay()
        assert_same(made, other)


@pytest.mark.cuda
@pytest.mark.parametrize("name", RECIPES)
def test_the_compiled_device_part_gives_the_same_bits_on_a_gpu(name: str, compiled: Any) -> None:
    stage = stage_of(name).to("cuda")
    augment = compiled(stage)
    for seed in range(3):
        prepared = stage.prepare(batch(seed), LABELS, index=INDEX, epoch=seed)
        assert_same(augment(prepared), stage.augment(prepared))


@pytest.mark.cuda
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("name", RECIPES)
def test_neither_part_waits_for_the_device(name: str) -> None:
    """After the first batch, which compiles and tries the device. The images lie in page-locked memory."""
    stage = stage_of(name).to("cuda")
    labels = torch.tensor(LABELS).cuda()
    pinned = [batch(seed).pin_memory() for seed in range(2)]
    stage(pinned[0], labels, index=INDEX)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        stage(pinned[1], labels, index=INDEX, epoch=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_crop_with_cutout_and_mixing_are_three_launches() -> None:
    stage = stage_of("cutout, mixup").to("cuda")
    prepared = stage.prepare(batch(0), LABELS)
    stage.augment(prepared)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        stage.augment(prepared)
        torch.cuda.synchronize()
    kernels = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(kernels) == 3, kernels
