"""What `make gpu-report` measures of augment_gpu itself: each function yields one row of the report a case."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import spread
from gpu_timing import Calls, fitting_batch, host_time, measure, on_device, rotation

import augment_gpu as ag
from augment_gpu.pipeline import Draws, augment, prepare

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLASSES = 1000
_LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


@dataclass(frozen=True)
class Plan:
    """Sizes and how long to measure. sources: (width, height), the training photographs first. scale_source: the side
    of the square images that boxes of `scales` × `size` are cut from. copy_bytes: of the copy that finds the ceiling.
    budget: seconds of timing a case; rounds: into how many it is divided. model: timm's name."""

    size: int = 224
    batches: tuple[int, ...] = (256, 64, 1024)
    batch: int = 256
    sources: tuple[tuple[int, int], ...] = ((500, 375), (256, 256), (1200, 900))
    scales: tuple[float, ...] = (0.5, 1, 1.5, 3, 6)
    scale_source: int = 1400
    copy_bytes: int = 2**31
    budget: float = 0.3
    rounds: int = 15
    model: str = "resnet50"
    model_size: int = 224
    model_batch: int = 256


QUICK = Plan(
    size=32,
    batches=(4, 2),
    batch=4,
    sources=((60, 45), (32, 32), (90, 70)),
    scale_source=200,
    copy_bytes=2**20,
    budget=0.005,
    rounds=3,
    model="resnet10t",
    model_size=32,
    model_batch=2,
)


def output_dtypes(device: torch.device) -> tuple[list[torch.dtype], list[str]]:
    """The dtypes to measure, and the names of those that this device is too old for. Emulated bfloat16 does not count:
    it is slower than float32."""
    every = [torch.bfloat16, torch.float16, torch.float32]
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return every[1:], ["bfloat16"]
    return every, []


def ceiling(plan: Plan, device: torch.device) -> dict[str, Any]:
    """Bytes a second, read plus written, of a copy much larger than the L2 cache: what this card's memory can do."""
    count = fitting_batch(plan.copy_bytes, 2, device)
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = measure({"copy": [lambda: target.copy_(source)]}, device, budget=plan.budget, rounds=plan.rounds)["copy"]
    return {"copied_bytes": count, "bytes_per_second": spread([2 * count / s for s in seconds])}


def random_batch(count: int, width: int, height: int, device: torch.device, *, channels: int = 3) -> ag.RaggedBatch:
    """Noise made on the device, with the 16 spare bytes that every ragged batch has. No kernel's time depends on the
    values."""
    each = width * height * channels
    buffer = torch.randint(0, 256, (count * each + 16,), dtype=torch.uint8, device=device)
    sides = (torch.full((count,), side, dtype=torch.int32) for side in (height, width))
    return ag.RaggedBatch(buffer[: count * each], torch.arange(count) * each, *sides, channels)


def random_boxes(batch: ag.RaggedBatch, epoch: int) -> ag.CropParams:
    """A RandomResizedCrop box and a flip for each image."""
    key, index = ag.Key(0, epoch), np.arange(len(batch))
    return ag.sample_random_resized_crop(key, index, batch.height.numpy(), batch.width.numpy())


def square_boxes(batch: ag.RaggedBatch, side: int, seed: int) -> ag.CropParams:
    """A box of this side anywhere in each image, all of which are squares of one size; half of them mirrored, at
    random."""
    room = int(batch.width[0]) - side
    corner = np.random.default_rng(seed).integers(0, room + 1, (len(batch), 2))
    box = np.concatenate([corner, corner + side], axis=1)
    return ag.CropParams(np.arange(len(batch)), box, corner[:, 0] % 2 == 1)


def floor_bytes(crop: ag.CropParams, size: int, itemsize: int, channels: int = 3) -> int:
    """Bytes that must move for these rows: each box's uint8 pixels read once, rounded outward to whole pixels, and
    each output value of `itemsize` bytes written once."""
    low, high = np.floor(crop.box[:, :2]).astype(np.int64), np.ceil(crop.box[:, 2:]).astype(np.int64)
    read = int(np.prod(high - low, axis=1).sum()) * channels
    return read + len(crop) * channels * size**2 * itemsize


def crop_calls(
    batches: list[ag.RaggedBatch],
    crops: list[ag.CropParams],
    size: int,
    dtype: torch.dtype,
    layout: str,
    **options: Any,
) -> Calls:
    """crop_resize_flip, by default of RGB with normalisation, into an output of its own for each batch."""
    options = {"size": size, "mean": MEAN, "std": STD, **options}
    return [
        lambda batch=batch, crop=crop, out=out: ag.crop_resize_flip(batch, crop, out=out, **options)
        for batch, crop in zip(batches, crops, strict=True)
        for out in [empty(len(crop), size, dtype, layout, batch.device, channels=batch.channels)]
    ]


def empty(
    rows: int, size: int, dtype: torch.dtype, layout: str, device: torch.device, *, channels: int = 3
) -> torch.Tensor:
    return torch.empty(rows, channels, size, size, dtype=dtype, device=device, memory_format=_LAYOUTS[layout])


def crops(plan: Plan, device: torch.device, bytes_per_second: float) -> Generator[dict[str, Any], None, None]:
    """crop_resize_flip over batches, sources, dtypes and layouts, with RandomResizedCrop boxes."""
    dtypes, _ = output_dtypes(device)
    for count in plan.batches:
        for width, height in plan.sources:
            smallest, largest = (3 * (width * height + itemsize * plan.size**2) for itemsize in (2, 4))
            fitted = fitting_batch(count, largest, device)
            batches = [random_batch(fitted, width, height, device) for _ in range(rotation(fitted * smallest, device))]
            boxes = [random_boxes(batch, epoch) for epoch, batch in enumerate(batches)]
            for dtype in dtypes:
                for layout in _LAYOUTS:
                    case = {"source": f"{width}x{height}", "asked_batch": count}
                    yield case | _crop_row(plan, batches, boxes, dtype, layout, bytes_per_second)
            del batches


def fixed_scales(plan: Plan, device: torch.device, bytes_per_second: float) -> Generator[dict[str, Any], None, None]:
    """crop_resize_flip at one scale for all rows: square boxes of scale × size, anywhere in large square images."""
    dtypes, _ = output_dtypes(device)
    side = plan.scale_source
    largest = 3 * (side**2 + 2 * plan.size**2)
    count = fitting_batch(plan.batch, largest, device)
    batches = [random_batch(count, side, side, device) for _ in range(rotation(count * largest, device))]
    for scale in plan.scales:
        boxes = [square_boxes(batch, round(scale * plan.size), seed) for seed, batch in enumerate(batches)]
        yield {"scale": scale} | _crop_row(plan, batches, boxes, dtypes[0], "channels_last", bytes_per_second)


def _crop_row(
    plan: Plan,
    batches: list[ag.RaggedBatch],
    boxes: list[ag.CropParams],
    dtype: torch.dtype,
    layout: str,
    bytes_per_second: float,
) -> dict[str, Any]:
    calls = crop_calls(batches, boxes, plan.size, dtype, layout)
    device, count = batches[0].device, len(batches[0])
    moved = float(np.mean([floor_bytes(crop, plan.size, dtype.itemsize) for crop in boxes]))
    whole = measure({"call": calls}, device, budget=plan.budget, rounds=plan.rounds)["call"]
    launch = on_device(calls, device, budget=plan.budget, rounds=5)
    return {
        "batch": count,
        "dtype": str(dtype).removeprefix("torch."),
        "layout": layout,
        "sets_of_buffers": len(calls),
        "floor_bytes": moved,
        "end_to_end_seconds": spread(whole),
        "device_seconds": launch["seconds"],
        "images_per_second": {
            "end_to_end": count / spread(whole)["median"],
            "device": count / launch["seconds"]["median"],
        },
        "of_floor": moved / bytes_per_second / launch["seconds"]["median"],
    }


def other_ops(plan: Plan, device: torch.device, bytes_per_second: float) -> Generator[dict[str, Any], None, None]:
    """cutout, mixup and cutmix on finished images; the crop without and with cutout; and the whole train stage from
    ragged bytes, draws included.

    moved_bytes: mixup reads each row and its partner and writes one; cutmix reads and writes each pixel once; cutout
    writes its holes. of_ceiling: those over the kernels' time, as a share of what a copy reaches.
    """
    dtypes, _ = output_dtypes(device)
    dtype = dtypes[0]
    row_bytes = 3 * plan.size**2 * dtype.itemsize
    count = fitting_batch(plan.batch, 2 * row_bytes, device)
    index = np.arange(count)
    # cutout touches its holes alone, so of it more sets are needed until they pass the cache.
    sets = range(rotation(count * 3 * dtype.itemsize * (plan.size // 2) ** 2 // 2, device))
    images = [empty(count, plan.size, dtype, "channels_last", device).normal_() for _ in sets]
    kept: list[Any] = [None] * len(images)  # results live until their turn comes again, so that they rotate too

    def run(i: int, op: Any, params: Any) -> None:
        kept[i] = op(images[i], params)

    holes = [ag.sample_cutout(ag.Key(0, i), index, size=plan.size, length=plan.size // 2) for i in sets]
    mixes = [ag.sample_mixup(ag.Key(0, i), index) for i in sets]
    cuts = [ag.sample_cutmix(ag.Key(0, i), index, size=plan.size) for i in sets]
    sides = np.concatenate([hole.box[:, 2:] - hole.box[:, :2] for hole in holes]).astype(np.int64)
    hole_bytes = int(sides.prod(axis=1).sum()) * 3 * dtype.itemsize / len(holes)
    cases = {
        "cutout": (ag.cutout, holes, hole_bytes),
        "mixup": (ag.mixup, mixes, 3.0 * count * row_bytes),
        "cutmix": (ag.cutmix, cuts, 2.0 * count * row_bytes),
    }
    for name, (op, params, moved) in cases.items():
        calls = [lambda i=i, op=op, params=params: run(i, op, params[i]) for i in sets]
        row = {"op": name} | _op_row(plan, calls, device, count, dtype)
        reached = moved / row["device_seconds"]["median"]
        yield row | {"moved_bytes": moved, "of_ceiling": reached / bytes_per_second}
    images.clear()
    kept.clear()
    yield from _crops_and_holes(plan, device, count, dtype)
    yield {"op": "train stage"} | _op_row(plan, stage_calls(plan, device, count, dtype), device, count, dtype)


def _crops_and_holes(
    plan: Plan, device: torch.device, count: int, dtype: torch.dtype
) -> Generator[dict[str, Any], None, None]:
    """The train crop, and the same with cutout in its launch."""
    batches = _train_batches(plan, device, count, dtype)
    boxes = [random_boxes(batch, epoch) for epoch, batch in enumerate(batches)]
    holes = ag.sample_cutout(ag.Key(0), np.arange(count), size=plan.size, length=plan.size // 2)
    for name, cut in (("crop", None), ("crop with cutout", holes)):
        calls = crop_calls(batches, boxes, plan.size, dtype, "channels_last", holes=cut)
        yield {"op": name} | _op_row(plan, calls, device, count, dtype)


def _train_batches(plan: Plan, device: torch.device, count: int, dtype: torch.dtype) -> list[ag.RaggedBatch]:
    """Training photographs, as many batches as pass the cache with what is written of them."""
    width, height = plan.sources[0]
    sets = range(rotation(3 * count * (width * height + plan.size**2 * dtype.itemsize), device))
    return [random_batch(count, width, height, device) for _ in sets]


def train_recipe(size: int, dtype: torch.dtype) -> ag.Recipe:
    """Crop, flip, normalise, cutout, mixup: the stage that the report measures."""
    name: Any = str(dtype).removeprefix("torch.")
    return ag.Recipe(size=size, cutout=size // 2, mixup_alpha=0.2, num_classes=CLASSES, dtype=name)


def stage_calls(plan: Plan, device: torch.device, count: int, dtype: torch.dtype) -> Calls:
    """The train stage on ragged bytes that lie on the device, with labels."""
    stage = ag.Stage(train_recipe(plan.size, dtype)).to(device)
    labels = torch.randint(0, CLASSES, (count,)).to(device)
    batches = _train_batches(plan, device, count, dtype)
    index = np.arange(count)
    return [lambda batch=batch, i=i: stage(batch, labels, index=index, epoch=i) for i, batch in enumerate(batches)]


def _op_row(plan: Plan, calls: Calls, device: torch.device, count: int, dtype: torch.dtype) -> dict[str, Any]:
    whole = spread(measure({"call": calls}, device, budget=plan.budget, rounds=plan.rounds)["call"])
    launch = on_device(calls, device, budget=plan.budget, rounds=5)
    return {
        "batch": count,
        "dtype": str(dtype).removeprefix("torch."),
        "end_to_end_seconds": whole,
        "device_seconds": launch["seconds"],
        "images_per_second": {
            "end_to_end": count / whole["median"],
            "device": count / launch["seconds"]["median"],
        },
    }


def host_work(plan: Plan, device: torch.device) -> Generator[dict[str, Any], None, None]:
    """Host time of a batch and what it launches: crop alone, crop with cutout and then mixup, the two halves of a stage
    that does all three and mixes targets, with its draws made beforehand, and the draws themselves, which launch
    nothing."""
    dtype = output_dtypes(device)[0][0]
    width, height = plan.sources[0]
    count = fitting_batch(plan.batch, 3 * (width * height + 8 * plan.size**2), device)
    batch = random_batch(count, width, height, device)
    index, key = np.arange(len(batch)), ag.Key(0, 0)
    crop = random_boxes(batch, 0)
    holes = ag.sample_cutout(key, index, size=plan.size, length=plan.size // 2)
    mix = ag.sample_mixup(key, index)

    def cropped(holes: ag.CutoutParams | None = None) -> torch.Tensor:
        options = {"size": plan.size, "mean": MEAN, "std": STD, "dtype": dtype, "channels_last": True}
        return ag.crop_resize_flip(batch, crop, holes=holes, **options)

    def draws() -> None:
        random_boxes(batch, 0)
        ag.sample_cutout(key, index, size=plan.size, length=plan.size // 2)
        ag.sample_mixup(key, index)

    recipe = train_recipe(plan.size, dtype)
    targets = torch.zeros(len(batch), dtype=torch.int64, device=device)
    ready = prepare(batch, Draws(crop, holes=(holes,)), recipe, targets=targets, soft=True, mix=mix)
    work = {
        "stage, host part": lambda: prepare(
            batch, Draws(crop, holes=(holes,)), recipe, targets=targets, soft=True, mix=mix
        ),
        "stage, device part": lambda: augment(ready, recipe),
        "crop": cropped,
        "crop with cutout, mixup": lambda: ag.mixup(cropped(holes), mix),
        "draws alone": draws,
    }
    for name, call in work.items():
        seconds = host_time(call, device, rounds=plan.rounds * 4)
        device_work = on_device([call], device, budget=plan.budget, rounds=5)
        launches = {kind: device_work[kind] for kind in ("kernels", "copies")}
        yield {"work": name, "batch": count, "host_seconds": seconds} | launches
