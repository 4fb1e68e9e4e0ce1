"""three_augment: the augmentation of DeiT III (Touvron et al., ECCV 2022): grey, solarized or blurred, each with the
same probability; and color_jitter."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.blur import GaussianBlurParams, check_kernel_size, gaussian_blur, gaussian_blur_reference
from augment_gpu.ops.color import (
    NEUTRAL,
    ColorJitterParams,
    color_jitter,
    color_jitter_reference,
    draw_color_jitter,
    jitter_spans,
)
from augment_gpu.ops.rows import Span, check_images, check_probability
from augment_gpu.ops.tone import (
    GrayscaleParams,
    SolarizeParams,
    grayscale,
    grayscale_reference,
    solarize,
    solarize_reference,
)
from augment_gpu.rng import Key, uniform


@dataclass(frozen=True, eq=False)
class ThreeAugmentParams:
    """At most one of the first three does something to a sample."""

    grayscale: GrayscaleParams
    solarize: SolarizeParams
    blur: GaussianBlurParams
    jitter: ColorJitterParams

    def __len__(self) -> int:
        return len(self.jitter)


def sample_three_augment(
    key: Key, index: ArrayLike, *, color_jitter: Span = 0.3, kernel_size: int = 23, p: float = 1.0
) -> ThreeAugmentParams:
    """color_jitter: the strength of brightness, contrast and saturation; 0 for none. kernel_size: of the blur, whose σ
    is uniform in [0.1, 2]. p: the probability that anything is done."""
    check_probability(p)
    check_kernel_size(kernel_size)
    index = np.asarray(index)
    try:
        spans = jitter_spans(color_jitter, color_jitter, color_jitter, 0)
    except ValueError:
        raise ValueError(f"color_jitter is {color_jitter}; wanted a number or (low, high) at least 0") from None
    u = uniform(key, index, "three_augment", 3)
    chosen = u[:, 2] < p
    kind = np.where(chosen, (3 * u[:, 0]).astype(np.int64), 3)
    jitter = draw_color_jitter(key, index, "three_augment.jitter", 1.0, spans)
    factor = np.where(chosen[:, None], jitter.factor, NEUTRAL)
    return ThreeAugmentParams(
        GrayscaleParams(kind == 0),
        SolarizeParams(np.where(kind == 1, 0.5, np.inf).astype(np.float32)),
        GaussianBlurParams(np.where(kind == 2, 0.1 + 1.9 * u[:, 1], 0).astype(np.float32), kernel_size),
        ColorJitterParams(factor, jitter.order),
    )


def three_augment_reference(images: torch.Tensor, params: ThreeAugmentParams) -> torch.Tensor:
    """The definition: one op's after the other."""
    images = solarize_reference(grayscale_reference(images, params.grayscale), params.solarize)
    return color_jitter_reference(gaussian_blur_reference(images, params.blur), params.jitter)


def three_augment(images: torch.Tensor, params: ThreeAugmentParams) -> torch.Tensor:
    """Raises ValueError for images of other than three channels, and where the blur's kernel reaches past the image's
    far side."""
    check_images("three_augment", images, len(params))
    if images.shape[1] != 3:
        raise ValueError(f"three_augment got {images.shape[1]} channels; it needs 3: red, green and blue")
    images = solarize(grayscale(images, params.grayscale), params.solarize)
    return color_jitter(gaussian_blur(images, params.blur), params.jitter)
