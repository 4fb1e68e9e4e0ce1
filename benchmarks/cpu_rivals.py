"""Other libraries at the training crop on a CPU: from decoded uint8 images to one float32 batch, normalised.

Each function gives the call that bench_cpu.py times; its docstring says how its work differs from augment_gpu's. All
draw their own boxes and flips, with RandomResizedCrop's default distribution. A library that is missing raises
ImportError here.
"""

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 224

Images = list[np.ndarray]  # (H, W, 3) uint8
Call = Callable[[], Any]


def torchvision(images: Images, threads: int, pool: Executor | None = None) -> Call:
    """torchvision v2's Compose, image by image, then a stack: (B, 3, S, S). pool: its threads share the images out."""
    # As torchvision's own pil_to_tensor gives them: (3, H, W) views of (H, W, 3) memory
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    compose = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    each = pool.map if pool else map
    return lambda: torch.stack(list(each(compose, tensors)))


def kornia(images: Images, threads: int) -> Call:
    """Kornia's batch pipeline on a dense float batch in [0, 1], which was made beforehand. Its resize does not
    antialias."""
    import kornia.augmentation as K

    pipeline = torch.nn.Sequential(
        K.RandomResizedCrop((SIZE, SIZE), scale=(0.08, 1.0)),
        K.RandomHorizontalFlip(),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    )
    dense = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().float() / 255
    return lambda: pipeline(dense)


def albumentations(images: Images, threads: int, pool: Executor | None = None) -> Call:
    """albumentations' Compose, image by image, then a stack: (B, S, S, 3). Its default resize does not antialias.
    pool: its threads share the images out, and OpenCV works on one thread in each."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network for a newer version
    import albumentations as A
    import cv2

    compose = A.Compose([A.RandomResizedCrop(size=(SIZE, SIZE)), A.HorizontalFlip(p=0.5), A.Normalize(MEAN, STD)])
    each = pool.map if pool else map

    def run() -> np.ndarray:
        cv2.setNumThreads(1 if pool else threads)
        return np.stack(list(each(lambda image: compose(image=image)["image"], images)))

    return run


def dali(images: Images, threads: int) -> Call:
    """A DALI CPU pipeline: random_resized_crop, which antialiases, then crop_mirror_normalize, to (B, S, S, 3). It
    prepares no batch ahead: that would be work outside of what is timed."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(
        batch_size=len(images),
        num_threads=threads,
        device_id=None,
        prefetch_queue_depth=1,
        exec_async=False,
        exec_pipelined=False,
    )
    def pipeline() -> Any:
        fed = fn.external_source(source=itertools.repeat(images), layout="HWC", device="cpu")
        return fn.crop_mirror_normalize(
            fn.random_resized_crop(fed, size=(SIZE, SIZE)),
            mirror=fn.random.coin_flip(),
            mean=[255 * m for m in MEAN],
            std=[255 * s for s in STD],
            dtype=types.FLOAT,
            output_layout="HWC",
        )

    built = pipeline()
    built.build()
    return built.run
