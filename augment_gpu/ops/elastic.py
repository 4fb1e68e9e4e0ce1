"""elastic: pixels pushed about by a smooth random field, each sample its own (Simard et al., ICDAR 2003)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.blur import GaussianBlurParams, gaussian_blur, gaussian_blur_reference, kernel_fits
from augment_gpu.ops.cutout import cutout, cutout_reference
from augment_gpu.ops.noise import noise_holes
from augment_gpu.ops.rows import Span, check_images, draw_span, one_by_one, span_of
from augment_gpu.ops.warp import Fill, checked_fill, fill_of_reference, warp
from augment_gpu.rng import Key, random_words


@dataclass(frozen=True, eq=False)
class ElasticParams:
    """alpha: (B,) float32, the strength; 0 leaves a sample alone. seed: (B, 2) uint32, of which a sample's field is a
    function. sigma: of the field's smoothing, in pixels, for all. fill: see geometry."""

    alpha: np.ndarray
    seed: np.ndarray
    sigma: float = 5.0
    fill: Fill = 0.0

    def __len__(self) -> int:
        return len(self.alpha)

    @property
    def kernel_size(self) -> int:
        """torchvision's: 8 sigma, made odd."""
        return int(8 * self.sigma + 1) // 2 * 2 + 1


def sample_elastic(
    key: Key, index: ArrayLike, *, alpha: Span = 50.0, sigma: float = 5.0, fill: Fill = 0.0, p: float = 1.0
) -> ElasticParams:
    """torchvision's ElasticTransform, with probability p. alpha: at least 0, or the range that it is uniform over: a
    pixel is pushed by alpha / 2 times a smoothed uniform number of [-1, 1], with the defaults by 0.8 pixels, root mean
    square, along either axis."""
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma is {sigma}; it must be above 0")
    drawn = draw_span(key, index, "elastic", p, span_of("alpha", alpha, 0, np.inf), 0)
    seed = random_words(key, np.asarray(index), "elastic.seed", 2)
    return ElasticParams(drawn.astype(np.float32), seed, sigma, checked_fill(fill))


def _smoothing(rows: int, params: ElasticParams) -> GaussianBlurParams:
    return GaussianBlurParams(np.full(rows, params.sigma, dtype=np.float32), params.kernel_size)


def elastic_reference(images: torch.Tensor, params: ElasticParams) -> torch.Tensor:
    """The definition: torchvision's elastic, bilinear, of what differs from the filling. The field is smoothed from
    normal numbers of the variance that torchvision's uniform numbers have."""
    from torchvision.transforms.v2.functional import elastic as pushed

    rows, _, height, width = images.shape
    field = torch.zeros(rows, 2, height, width, device=images.device)
    field = cutout_reference(field, noise_holes(field.shape, params.seed)) / 3**0.5
    field = gaussian_blur_reference(field, _smoothing(rows, params)).permute(0, 2, 3, 1)
    fill = fill_of_reference(images, params.fill)
    sides = torch.tensor([width, height], device=images.device)

    def each(image: torch.Tensor, alpha: float, row: int) -> torch.Tensor:
        return pushed(image - fill, field[row, None] * alpha / sides) + fill

    return one_by_one(images, params.alpha > 0, each, params.alpha, np.arange(rows))


def elastic(images: torch.Tensor, params: ElasticParams) -> torch.Tensor:
    """images: (B, C, H, W) floating point. Returns a new tensor, in which the samples alone that drew the op are
    computed on, in float32; the very tensor it got where none did. Raises ValueError where the smoothing reaches past
    the image's far side."""
    check_images("elastic", images, len(params))
    height, width = images.shape[2:]
    _check_size(params, (height, width))
    chosen = params.alpha > 0

    def grid(alpha: torch.Tensor) -> torch.Tensor:
        field = _field(params, params.seed[chosen], alpha, (height, width))
        x = torch.arange(width, device=alpha.device) + (0.5 - width / 2)
        y = torch.arange(height, device=alpha.device)[:, None] + (0.5 - height / 2)
        return torch.stack([(field[:, 0] + 2 * x).div_(width), (field[:, 1] + 2 * y).div_(height)], dim=3)

    return warp("elastic", images, chosen, params.fill, grid, params.alpha)


def elastic_field(params: ElasticParams, size: tuple[int, int]) -> np.ndarray:
    """(n, H, W, 2) float32, of the n samples with alpha > 0 alone, on images of size (H, W): how far to the right of
    each pixel of the result, and below it, it comes from, in pixels. Computed on the CPU."""
    _check_size(params, size)
    chosen = params.alpha > 0
    field = _field(params, params.seed[chosen], torch.from_numpy(params.alpha[chosen]), size)
    return field.div_(2).permute(0, 2, 3, 1).contiguous().numpy()


def _check_size(params: ElasticParams, size: tuple[int, int]) -> None:
    if not kernel_fits(params.kernel_size, size):
        raise ValueError(
            f"sigma is {params.sigma}, whose kernel is {params.kernel_size} pixels wide; "
            f"images of {tuple(size)} are too small for it"
        )


def _field(params: ElasticParams, seed: np.ndarray, alpha: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(n, 2, H, W): twice the distances, along x and y, on the device of alpha, (n,)."""
    field = torch.empty(len(seed), 2, *size, device=alpha.device)
    field = cutout(field, noise_holes(field.shape, seed))
    return gaussian_blur(field, _smoothing(len(seed), params)).mul_(alpha.view(-1, 1, 1, 1)).div_(3**0.5)
