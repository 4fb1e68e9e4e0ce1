"""color_jitter: brightness, contrast, saturation and hue with torchvision's meanings, each sample its own factors and
its own order of the four."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.rows import Group, Span, check_images, check_probability, in_turn, on_rows, one_by_one, span_of
from augment_gpu.rng import Key, uniform

NEUTRAL = np.array([1, 1, 1, 0], dtype=np.float32)


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
    return draw_color_jitter(key, index, "color_jitter", p, jitter_spans(brightness, contrast, saturation, hue))


def draw_color_jitter(
    key: Key, index: ArrayLike, name: str, p: float, spans: list[tuple[float, float]]
) -> ColorJitterParams:
    """sample_color_jitter, by the stream of this name."""
    check_probability(p)
    u = uniform(key, np.asarray(index), name, 9)
    low, high = np.array(spans).T
    chosen = u[:, 8:] < p
    factor = np.where(chosen, low + (high - low) * u[:, :4], NEUTRAL)
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
    chosen: np.ndarray = (params.factor != NEUTRAL).any(axis=1)
    return chosen


def _jitter(images: torch.Tensor, factor: np.ndarray, order: np.ndarray) -> torch.Tensor:
    adjust = (adjust_brightness, adjust_contrast, adjust_saturation, _adjust_hue)
    # The orders differ, so in each of the four places the rows are grouped by the step that stands there.
    work = []
    for place in range(4):
        for step in range(4 if images.shape[1] == 3 else 2):
            rows = np.flatnonzero((order[:, place] == step) & (factor[:, step] != NEUTRAL[step]))
            work.append(Group(adjust[step], rows, factor[rows, step]))
    jittered = images.clone()
    in_turn(jittered, work)
    return jittered


# ---- the steps: on (n, C, H, W) float32, which they overwrite, and (n,) factors. Kornia's take longer, but for hue.


def adjust_brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return images.mul_(factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """About the mean luma. A mean over a whole picture is split among torch's threads where the picture is alone and
    large, which changes its last bits; a mean of lines and then of columns is not."""
    gray = _luma(images) if images.shape[1] == 3 else images
    return _away_from(gray.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True), images, factor)


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _away_from(_luma(images), images, factor)


def _adjust_hue(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    from kornia.enhance import adjust_hue

    return adjust_hue(images, turns * (2 * np.pi))


def _away_from(neutral: torch.Tensor, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return images.sub_(neutral).mul_(factor.view(-1, 1, 1, 1)).add_(neutral).clamp_(0, 1)


def _luma(images: torch.Tensor) -> torch.Tensor:
    """(n, 1, H, W), with torchvision's weights."""
    red, green, blue = images.split(1, dim=1)
    return (red * 0.2989).add_(green * 0.587).add_(blue * 0.114)
