"""color_jitter: brightness, contrast, saturation and hue with torchvision's meanings, each sample its own factors and
its own order of the four, through Kornia's functions."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.upload import upload
from augment_gpu.rng import Key, uniform


@dataclass(frozen=True, eq=False)
class ColorJitterParams:
    """factor: (B, 4) float32 for brightness, contrast, saturation (1 is neutral) and hue (in turns, 0 is neutral).
    order: (B, 4) int64, each row a permutation of the four columns of `factor`, first to last."""

    factor: np.ndarray
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.factor)


def sample_color_jitter(
    key: Key,
    index: ArrayLike,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
    p: float = 1.0,
) -> ColorJitterParams:
    """Factors uniform in [max(0, 1 − strength), 1 + strength], hue uniform in [−hue, hue] with hue <= 0.5; with
    probability 1 − p a sample is left alone. Ranges and random order as in torchvision's ColorJitter."""
    for name, strength in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        if not 0 <= strength < float("inf"):
            raise ValueError(f"{name} is {strength}; it must be at least 0")
    if not 0 <= hue <= 0.5:
        raise ValueError(f"hue is {hue}; it must lie in [0, 0.5] turns")
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}; a probability lies in [0, 1]")
    u = uniform(key, np.asarray(index), "color_jitter", 9)
    spread = np.array([brightness, contrast, saturation, hue])
    low = np.maximum(np.array([1, 1, 1, 0]) - spread, [0, 0, 0, -0.5])
    high = np.array([1, 1, 1, 0]) + spread
    chosen = u[:, 8:] < p
    factor = np.where(chosen, low + (high - low) * u[:, :4], [1, 1, 1, 0])
    return ColorJitterParams(factor.astype(np.float32), u[:, 4:8].argsort(axis=1))


def color_jitter_reference(images: torch.Tensor, params: ColorJitterParams) -> torch.Tensor:
    """The definition: torchvision's functions, one image after the other."""
    from torchvision.transforms.v2 import functional as F

    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    jittered = []
    for image, factor, order in zip(images, params.factor.tolist(), params.order.tolist(), strict=True):
        value = image.float()
        for step in order:
            value = adjust[step](value, factor[step])
        jittered.append(value)
    return torch.stack(jittered).to(images.dtype) if jittered else images.clone()


def color_jitter(images: torch.Tensor, params: ColorJitterParams) -> torch.Tensor:
    """images: (B, C, H, W) in [0, 1], C = 1 or 3; on one channel saturation and hue do nothing, as in torchvision.
    Returns a new tensor. Raises ValueError for another C."""
    from kornia.enhance import adjust_brightness_accumulative, adjust_hue, adjust_saturation_with_gray_subtraction

    channels = images.shape[1]
    if channels not in (1, 3):
        raise ValueError(f"color_jitter got {channels} channels; wanted 1 or 3")
    if len(params) != len(images):
        raise ValueError(f"color_jitter got {len(params)} parameters for {len(images)} images")
    adjust = (
        adjust_brightness_accumulative,
        _adjust_contrast,
        adjust_saturation_with_gray_subtraction,
        lambda image, turns: adjust_hue(image, turns * (2 * np.pi)),
    )
    # The orders differ, so in each of the four places the rows are grouped by the step that stands there.
    neutral = params.factor == np.array([1, 1, 1, 0], dtype=np.float32)
    work = []
    for place in range(4):
        for step in range(4 if channels == 3 else 2):
            rows = np.flatnonzero((params.order[:, place] == step) & ~neutral[:, step])
            if len(rows):
                work.append((adjust[step], rows, params.factor[rows, step]))
    jittered = images.float() if images.dtype != torch.float32 else images.clone()
    tables = upload(images.device, *(array for _, rows, factor in work for array in (rows, factor)))
    for (function, _, _), where, factor in zip(work, tables[0::2], tables[1::2], strict=True):
        jittered[where] = function(jittered[where], factor)
    return jittered.to(images.dtype)


def _adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Kornia's adjust_contrast_with_mean_subtraction, but for the order of the sum. Kornia's mean over a whole picture
    is split among torch's threads where the picture is alone and large, which changes its last bits; a mean of lines
    and then of columns is not."""
    from kornia.color import rgb_to_grayscale

    gray = rgb_to_grayscale(images) if images.shape[1] == 3 else images
    mean = gray.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    return torch.lerp(mean, images, factor.view(-1, 1, 1, 1)).clamp(0, 1)
