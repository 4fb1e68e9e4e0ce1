"""gaussian_noise: each sample its own strength, and noise that is a function of the sample alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.cutout import CutoutParams, cutout, cutout_reference
from augment_gpu.ops.rows import Span, draw_span, on_rows, span_of
from augment_gpu.rng import Key, random_words


@dataclass(frozen=True, eq=False)
class GaussianNoiseParams:
    """sigma: (B,) float32, the standard deviation in the units of the images; 0 leaves a sample alone. seed: (B, 2)
    uint32, of which a sample's noise is a function. mean: is added too. clip: whether the sum is cut off to [0, 1]."""

    sigma: np.ndarray
    seed: np.ndarray
    mean: float = 0.0
    clip: bool = True

    def __len__(self) -> int:
        return len(self.sigma)


def sample_gaussian_noise(
    key: Key, index: ArrayLike, *, mean: float = 0.0, sigma: Span = 0.1, clip: bool = True, p: float = 1.0
) -> GaussianNoiseParams:
    """torchvision's GaussianNoise, with probability p. sigma: at least 0, or the range that it is uniform over."""
    if not np.isfinite(mean):
        raise ValueError(f"mean is {mean}; wanted a finite number")
    drawn = draw_span(key, index, "gaussian_noise", p, span_of("sigma", sigma, 0, np.inf), 0)
    seed = random_words(key, np.asarray(index), "gaussian_noise.seed", 2)
    return GaussianNoiseParams(drawn.astype(np.float32), seed, mean, clip)


def noise_holes(shape: Sequence[int], seed: np.ndarray) -> CutoutParams:
    """Of cutout: holes as large as images of this shape, full of standard normal numbers. A row's are a function of its
    seed, (B, 2) uint32, and of the position, the same on every device but for rounding. Four channels at most."""
    rows, _, height, width = shape
    return CutoutParams(np.tile([0, 0, width, height], (rows, 1)), seed, "noise")


def gaussian_noise_reference(images: torch.Tensor, params: GaussianNoiseParams) -> torch.Tensor:
    """The definition: the noise that cutout fills a hole with, times sigma."""
    noise = cutout_reference(torch.zeros_like(images, dtype=torch.float32), noise_holes(images.shape, params.seed))
    low, high = (0, 1) if params.clip else (-np.inf, np.inf)
    sigma = torch.as_tensor(params.sigma, device=images.device).view(-1, 1, 1, 1)
    noisy = (images.float() + params.mean + sigma * noise).clamp(low, high).to(images.dtype)
    return torch.where(sigma > 0, noisy, images)


def gaussian_noise(images: torch.Tensor, params: GaussianNoiseParams) -> torch.Tensor:
    """images: (B, C, H, W) floating point in [0, 1], C at most 4. Returns a new tensor, in which the samples alone that
    drew noise are computed on, in float32; the very tensor it got where none did. Raises ValueError for more
    channels."""
    chosen = params.sigma > 0
    seed = params.seed[chosen]

    def add(rows: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        noise = cutout(torch.empty_like(rows, requires_grad=False), noise_holes(rows.shape, seed))
        noisy = noise.mul_(sigma.view(-1, 1, 1, 1)).add_(params.mean) + rows
        return noisy.clamp_(0, 1) if params.clip else noisy

    return on_rows("gaussian_noise", images, chosen, add, params.sigma)
