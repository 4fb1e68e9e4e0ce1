"""gaussian_blur: each sample its own σ, through Kornia's filter."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.upload import upload
from augment_gpu.rng import Key, uniform


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
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}; it must be odd and at least 1")
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}; a probability lies in [0, 1]")
    u = uniform(key, np.asarray(index), "gaussian_blur", 2)
    drawn = np.where(u[:, 0] < p, low + (high - low) * u[:, 1], 0)
    return GaussianBlurParams(drawn.astype(np.float32), kernel_size)


def gaussian_blur_reference(images: torch.Tensor, params: GaussianBlurParams) -> torch.Tensor:
    """The definition: torchvision's gaussian_blur, one image after the other; borders are reflected."""
    from torchvision.transforms.v2.functional import gaussian_blur as blur

    size = [params.kernel_size, params.kernel_size]
    pairs = zip(images, params.sigma.tolist(), strict=True)
    rows = [blur(image.float(), size, [sigma, sigma]).to(images.dtype) if sigma else image for image, sigma in pairs]
    return torch.stack(rows) if rows else images.clone()


def gaussian_blur(images: torch.Tensor, params: GaussianBlurParams) -> torch.Tensor:
    """images: (B, C, H, W) floating point. Returns a new tensor; only the samples that drew a blur are computed on.
    Raises ValueError where the kernel reaches past the image's far side, which a reflected border cannot serve."""
    from kornia.filters import gaussian_blur2d

    if len(params) != len(images):
        raise ValueError(f"gaussian_blur got {len(params)} parameters for {len(images)} images")
    if params.kernel_size // 2 >= min(images.shape[2:]):
        raise ValueError(
            f"kernel_size is {params.kernel_size}; images of {tuple(images.shape[2:])} are too small for it"
        )
    blurred = images.clone()
    chosen = np.flatnonzero(params.sigma)
    if len(chosen):
        # Never a single row: one channel alone would go to another of torch's kernels, whose last bits differ.
        pair = chosen if len(chosen) > 1 else np.repeat(chosen, 2)
        rows, sigma = upload(images.device, pair, np.repeat(params.sigma[pair, None], 2, axis=1))
        size = (params.kernel_size, params.kernel_size)
        blurred[rows] = gaussian_blur2d(images[rows], size, sigma).to(images.dtype)
    return blurred
