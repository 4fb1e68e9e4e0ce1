"""gaussian_blur: each sample its own σ, through Kornia's filter."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.rows import check_images, draw_span, on_rows, one_by_one
from augment_gpu.rng import Key


@dataclass(frozen=True, eq=False)
class GaussianBlurParams:
    """sigma: (B,) float32 in pixels; 0 leaves a sample alone. kernel_size: odd, in pixels, for all."""

    sigma: np.ndarray
    kernel_size: int

    def __len__(self) -> int:
        return len(self.sigma)


def sample_gaussian_blur(
    key: Key, index: ArrayLike, *, kernel_size: int = 23, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5
) -> GaussianBlurParams:
    """σ uniform in `sigma` with probability p: SimCLR's blur (Chen et al. 2020), whose kernel is a tenth of the
    side."""
    low, high = sigma
    if not 0 < low <= high < float("inf"):
        raise ValueError(f"sigma is {sigma}; wanted 0 < low <= high")
    check_kernel_size(kernel_size)
    drawn = draw_span(key, index, "gaussian_blur", p, sigma, 0)
    return GaussianBlurParams(drawn.astype(np.float32), kernel_size)


def check_kernel_size(kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}; it must be odd and at least 1")


def gaussian_blur_reference(images: torch.Tensor, params: GaussianBlurParams) -> torch.Tensor:
    """The definition: torchvision's gaussian_blur, one image after the other; borders are reflected."""
    from torchvision.transforms.v2.functional import gaussian_blur as blur

    size = [params.kernel_size, params.kernel_size]
    return one_by_one(images, params.sigma > 0, lambda image, sigma: blur(image, size, [sigma, sigma]), params.sigma)


def gaussian_blur(images: torch.Tensor, params: GaussianBlurParams) -> torch.Tensor:
    """images: (B, C, H, W) floating point. Returns a new tensor, or the very tensor it got where no sample drew a blur;
    only those that did are computed on. Raises ValueError where the kernel reaches past the image's far side, which a
    reflected border cannot serve."""
    check_images("gaussian_blur", images, len(params))
    check_kernel(params.kernel_size, images)
    return on_rows("gaussian_blur", images, params.sigma > 0, partial(blur_rows, size=params.kernel_size), params.sigma)


def kernel_fits(size: int, sides: Sequence[int]) -> bool:
    """Whether a kernel so many pixels wide stays within the image's reflected border, which ends at its far side."""
    return size // 2 < min(sides)


def check_kernel(size: int, images: torch.Tensor) -> None:
    if not kernel_fits(size, images.shape[2:]):
        raise ValueError(f"kernel_size is {size}; images of {tuple(images.shape[2:])} are too small for it")


def blur_rows(images: torch.Tensor, sigma: torch.Tensor, *, size: int) -> torch.Tensor:
    """Never a single row: one channel alone would go to another of torch's kernels, whose last bits differ."""
    from kornia.filters import filter2d_separable, gaussian_blur2d, get_gaussian_kernel1d

    count = max(len(images), 2)
    pair, sigma = images.expand(count, -1, -1, -1), sigma.view(-1, 1).expand(count, 1)
    if images.device.type == "cpu":
        return gaussian_blur2d(pair, (size, size), sigma.expand(count, 2))[: len(images)]
    # That looks at sigma, and would wait for the device.
    kernel = get_gaussian_kernel1d(size, sigma)
    return filter2d_separable(pair, kernel, kernel)[: len(images)]
