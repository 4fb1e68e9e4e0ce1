"""Other libraries at the training crop: from uint8 pixels on the device, crop, resize to a square, flip, normalise.

Each function gives the calls that bench_rivals.py times, one a set of buffers; its docstring says how its work differs
from augment_gpu's, and becomes part of the report. What can be made ready beforehand is. A library that is missing
raises ImportError here.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from gpu_ops import MEAN, STD
from gpu_timing import Calls
from torchvision.transforms import v2

import augment_gpu as ag

MEAN_255, STD_255 = [255 * m for m in MEAN], [255 * s for s in STD]


@dataclass(frozen=True)
class Scene:
    """What everybody works on, as sets of buffers taken in turn. photos: ragged batches, with their boxes. dense:
    (B, 3, H, W) uint8, contiguous, of the same number of images."""

    photos: list[ag.RaggedBatch]
    boxes: list[ag.CropParams]
    dense: list[torch.Tensor]
    size: int
    device: torch.device


def torchvision_loop(scene: Scene) -> Calls:
    """torchvision v2, image by image: resized_crop with antialias and flip; stacked, then scaled and normalised as one
    batch, which is kinder than doing that too image by image. uint8 between the steps."""

    def run(images: list[torch.Tensor], boxes: list[list[int]], flips: list[bool]) -> torch.Tensor:
        out = []
        for image, (x0, y0, x1, y1), flip in zip(images, boxes, flips, strict=True):
            cut = v2.functional.resized_crop(image, y0, x0, y1 - y0, x1 - x0, [scene.size] * 2, antialias=True)
            out.append(v2.functional.horizontal_flip(cut) if flip else cut)
        batch = v2.functional.to_dtype(torch.stack(out), torch.float32, scale=True)
        return v2.functional.normalize(batch, list(MEAN), list(STD))

    return [
        partial(run, [image.permute(2, 0, 1) for image in batch], _whole(crop), crop.flip.tolist())
        for batch, crop in zip(scene.photos, scene.boxes, strict=True)
    ]


def torchvision_batch(scene: Scene) -> Calls:
    """torchvision v2's Compose on a dense batch: one box and one flip for all images."""
    compose = v2.Compose(_torchvision_transforms(scene.size))
    return [partial(compose, images) for images in scene.dense]


def kornia(scene: Scene) -> Calls:
    """Kornia's RandomResizedCrop, RandomHorizontalFlip and Normalize on a dense float batch in [0, 1], which was made
    beforehand. Its resize does not antialias."""
    import kornia.augmentation as K

    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    pipeline = torch.nn.Sequential(
        K.RandomResizedCrop((scene.size, scene.size), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.Normalize(mean, std),
    ).to(scene.device)
    return [partial(pipeline, images.float() / 255) for images in scene.dense]


def cvcuda_hq_resize(scene: Scene) -> Calls:
    """CV-CUDA's hq_resize with antialias and a region for each image, then crop_flip_normalize_reformat. uint8 between
    the two. Images, flips and constants are wrapped beforehand; the regions go up with each call."""
    import cvcuda

    stream = cvcuda.as_stream(torch.cuda.current_stream(scene.device))
    finish = _cvcuda_normalize(scene, stream)

    def run(images: Any, regions: list[tuple[int, ...]], flips: Any) -> Any:
        resized = cvcuda.hq_resize(
            images,
            [(scene.size, scene.size)] * len(regions),
            antialias=True,
            roi=regions,
            interpolation=cvcuda.Interp.LINEAR,
            stream=stream,
        )
        return finish(resized, flips)

    return [
        partial(
            run,
            _cvcuda_images(batch),
            [(y0, x0, y1, x1) for x0, y0, x1, y1 in _whole(crop)],
            _cvcuda_flips(crop.flip, scene.device),
        )
        for batch, crop in zip(scene.photos, scene.boxes, strict=True)
    ]


def cvcuda_random_resized_crop(scene: Scene) -> Calls:
    """CV-CUDA's random_resized_crop, then crop_flip_normalize_reformat. It draws its own boxes, one an image, and does
    not antialias. The flips were drawn beforehand."""
    import cvcuda

    stream = cvcuda.as_stream(torch.cuda.current_stream(scene.device))
    finish = _cvcuda_normalize(scene, stream)
    seeds = itertools.count()

    def run(images: Any, flips: Any) -> Any:
        sizes = [(scene.size, scene.size)] * len(images)
        seed = next(seeds)
        cut = cvcuda.random_resized_crop(images, sizes, interp=cvcuda.Interp.LINEAR, seed=seed, stream=stream)
        return finish(cut, flips)

    return [
        partial(run, _cvcuda_images(batch), _cvcuda_flips(crop.flip, scene.device))
        for batch, crop in zip(scene.photos, scene.boxes, strict=True)
    ]


def cvcuda_tv(scene: Scene) -> Calls:
    """CV-CUDA's torchvision front, cvcuda.tv.Compose, on a dense batch: antialiased; one box and one flip for all."""
    from cvcuda.tv import Compose

    compose = Compose(_torchvision_transforms(scene.size))
    return [partial(compose, images) for images in scene.dense]


def dali(scene: Scene) -> Calls:
    """A DALI pipeline fed from device memory without a copy: resize with antialias and a region for each image, then
    crop_mirror_normalize to float16, since it gives no bfloat16. uint8 between the two; at a box's edge its filter
    reads past the box. It prepares one batch ahead."""
    from nvidia.dali import fn, pipeline_def, types

    gpu = scene.device.type == "cuda"
    kind = "gpu" if gpu else "cpu"
    images = [[image if gpu else image.numpy() for image in batch] for batch in scene.photos]
    corners = [crop.box[:, [1, 0, 3, 2]].astype(np.float32) for crop in scene.boxes]

    def fed(values: list[Any], device: str = "cpu", **options: Any) -> Any:
        turns = itertools.cycle(values)
        return fn.external_source(source=lambda: next(turns), device=device, **options)

    @pipeline_def(
        batch_size=len(scene.photos[0]),
        num_threads=4,
        device_id=torch.cuda.current_device() if gpu else None,
        exec_dynamic=True,
        prefetch_queue_depth=2,
    )
    def pipeline() -> Any:
        resized = fn.resize(
            fed(images, kind, layout="HWC", no_copy=gpu),
            size=(scene.size, scene.size),
            roi_start=fed([np.ascontiguousarray(corner[:, :2]) for corner in corners]),
            roi_end=fed([np.ascontiguousarray(corner[:, 2:]) for corner in corners]),
            interp_type=types.INTERP_LINEAR,
            antialias=True,
        )
        return fn.crop_mirror_normalize(
            resized,
            mirror=fed([crop.flip.astype(np.int32) for crop in scene.boxes]),
            mean=MEAN_255,
            std=STD_255,
            dtype=types.FLOAT16,
            output_layout="HWC",
        )

    built = pipeline()
    built.build()
    return [lambda: built.run(torch.cuda.current_stream()) if gpu else built.run()] * len(images)


def dali_torchvision(scene: Scene) -> Calls:
    """DALI's torchvision front, nvidia.dali.experimental.torchvision, on a dense batch: a box and a flip for each
    image, antialiased. Its Normalize takes the pixels as they are, so mean and std are given in 0 to 255."""
    import nvidia.dali.experimental.torchvision as dtv

    device: Any = "gpu" if scene.device.type == "cuda" else "cpu"
    compose = dtv.Compose(
        [
            dtv.RandomResizedCrop(scene.size, device=device),
            dtv.RandomHorizontalFlip(device=device),
            dtv.ToPureTensor(),
            dtv.Normalize(MEAN_255, STD_255, device=device),
        ],
        batch_size=len(scene.dense[0]),
        num_threads=4,
    )
    return [partial(compose, images) for images in scene.dense]


def _torchvision_transforms(size: int) -> list[Any]:
    return [
        v2.RandomResizedCrop(size, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]


def _whole(crop: ag.CropParams) -> list[list[int]]:
    """Boxes x0 y0 x1 y1 as integers, which RandomResizedCrop's are."""
    return crop.box.astype(int).tolist()


def _cvcuda_images(batch: ag.RaggedBatch) -> Any:
    import cvcuda

    return cvcuda.as_images(list(batch), cvcuda.Format.RGB8)


def _cvcuda_flips(flip: np.ndarray, device: torch.device) -> Any:
    """(B, 1) int32: 1 mirrors left to right, 2 is none of CV-CUDA's codes and mirrors nothing."""
    import cvcuda

    return cvcuda.as_tensor(torch.from_numpy(np.where(flip, 1, 2).astype(np.int32)[:, None]).to(device), "NC")


def _cvcuda_normalize(scene: Scene, stream: Any) -> Callable[[Any, Any], Any]:
    """crop_flip_normalize_reformat of the whole picture, to (B, 3, S, S) float32."""
    import cvcuda

    rows, size = len(scene.photos[0]), scene.size
    whole = torch.tensor([0, 0, size, size], dtype=torch.int32, device=scene.device).expand(rows, 1, 1, 4)
    rect = cvcuda.as_tensor(whole.contiguous(), "NHWC")
    base, scale = (
        cvcuda.as_tensor(torch.tensor(value, device=scene.device).view(1, 1, 1, 3), "NHWC") for value in (MEAN, STD)
    )
    flags = cvcuda.NormalizeFlags.SCALE_IS_STDDEV

    def run(images: Any, flips: Any) -> Any:
        return cvcuda.crop_flip_normalize_reformat(
            images,
            (rows, 3, size, size),
            np.float32,
            "NCHW",
            rect,
            flips,
            base,
            scale,
            globalscale=1 / 255,
            flags=flags,
            stream=stream,
        )

    return run
