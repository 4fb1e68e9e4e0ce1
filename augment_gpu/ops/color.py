"""color_jitter: brightness, contrast, saturation and hue with torchvision's meanings, each sample its own factors and
its own order of the four, through Kornia's functions."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.rows import Span, check_images, check_probability, on_rows, one_by_one, span_of
from augment_gpu.ops.upload import upload
from augment_gpu.rng import Key, uniform

_NEUTRAL = np.array([1, 1, 1, 0], dtype=np.float32)


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
    brightness: Span = 0.0,
    contrast: Span = 0.0,
    saturation: Span = 0.0,
    hue: Span = 0.0,
    p: float = 1.0,
) -> ColorJitterParams:
    """Factors uniform in [max(0, 1 − strength), 1 + strength], hue uniform in [−hue, hue] with hue <= 0.5, or each in
    the range that is given; with probability 1 − p a sample is left alone. Ranges and random order as in torchvision's
    ColorJitter."""
    check_probability(p)
    u = uniform(key, np.asarray(index), "color_jitter", 9)
    low, high = np.array(jitter_spans(brightness, contrast, saturation, hue)).T
    chosen = u[:, 8:] < p
    factor = np.where(chosen, low + (high - low) * u[:, :4], _NEUTRAL)
    return ColorJitterParams(factor.astype(np.float32), u[:, 4:8].argsort(axis=1))


def jitter_spans(brightness: Span, contrast: Span, saturation: Span, hue: Span) -> list[tuple[float, float]]:
    """The ranges of the four factors. Raises ValueError, naming the option that is out of bounds."""
    spans = []
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        low, high = span_of(name, value, 0, np.inf)
        spans.append((low, high) if isinstance(value, tuple | list) else (max(0, 1 - low), 1 + high))
    if isinstance(hue, tuple | list):
        spans.append(span_of("hue", hue, -0.5, 0.5))
    else:
        spans.append((-span_of("hue", hue, 0, 0.5)[0], hue))
    return spans


def color_jitter_reference(images: torch.Tensor, params: ColorJitterParams) -> torch.Tensor:
    """The definition: torchvision's functions, one image after the other."""
    from torchvision.transforms.v2 import functional as F

    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)

    def jitter(image: torch.Tensor, factor: list[float], order: list[int]) -> torch.Tensor:
        for step in order:
            image = adjust[step](image, factor[step])
        return image

    return one_by_one(images, _chosen(params), jitter, params.factor, params.order)


def color_jitter(images: torch.Tensor, params: ColorJitterParams) -> torch.Tensor:
    """images: (B, C, H, W) floating point in [0, 1], C = 1 or 3; on one channel saturation and hue do nothing, as in
    torchvision. Returns a new tensor, or the very tensor it got where no sample is jittered. Raises ValueError for
    another C."""
    check_images("color_jitter", images, len(params))
    if images.shape[1] not in (1, 3):
        raise ValueError(f"color_jitter got {images.shape[1]} channels; wanted 1 or 3")
    chosen = _chosen(params)
    factor, order = params.factor[chosen], params.order[chosen]
    return on_rows("color_jitter", images, chosen, lambda rows: _jitter(rows, factor, order))


def _chosen(params: ColorJitterParams) -> np.ndarray:
    chosen: np.ndarray = (params.factor != _NEUTRAL).any(axis=1)
    return chosen


def _jitter(images: torch.Tensor, factor: np.ndarray, order: np.ndarray) -> torch.Tensor:
    from kornia.enhance import adjust_brightness_accumulative, adjust_hue, adjust_saturation_with_gray_subtraction

    adjust = (
        adjust_brightness_accumulative,
        _adjust_contrast,
        adjust_saturation_with_gray_subtraction,
        lambda image, turns: adjust_hue(image, turns * (2 * np.pi)),
    )
    # The orders differ, so in each of the four places the rows are grouped by the step that stands there.
    work = []
    for place in range(4):
        for step in range(4 if images.shape[1] == 3 else 2):
            rows = np.flatnonzero((order[:, place] == step) & (factor[:, step] != _NEUTRAL[step]))
            if len(rows):
                work.append((adjust[step], rows, factor[rows, step]))
    jittered = images.clone()
    tables = upload(images.device, *(array for _, rows, values in work for array in (rows, values)))
    for (function, _, _), where, values in zip(work, tables[0::2], tables[1::2], strict=True):
        jittered[where] = function(jittered[where], values)
    return jittered


def _adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Kornia's adjust_contrast_with_mean_subtraction, but for the order of the sum. Kornia's mean over a whole picture
    is split among torch's threads where the picture is alone and large, which changes its last bits; a mean of lines
    and then of columns is not."""
    from kornia.color import rgb_to_grayscale

    gray = rgb_to_grayscale(images) if images.shape[1] == 3 else images
    mean = gray.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    return torch.lerp(mean, images, factor.view(-1, 1, 1, 1)).clamp(0, 1)
