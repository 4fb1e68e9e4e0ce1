"""color_twist: what is linear in a pixel's colours, as one affine map a sample, which crop_resize_flip applies within
its launch."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.color import jitter_spans
from augment_gpu.ops.rows import Span, check_probability, on_rows, one_by_one, span_of
from augment_gpu.rng import Key, uniform

# NTSC's luma (ITU-R BT.601) and its two colour differences. I and Q are these turned by 33°, so a turn of one plane is
# a turn of the other.
_LUMA = np.array([0.299, 0.587, 0.114])
_YUV = np.stack([_LUMA, 0.492111 * ([0, 0, 1] - _LUMA), 0.877283 * ([1, 0, 0] - _LUMA)])
_COLOR = np.eye(3) - _LUMA  # from a pixel to its difference from its own grey
_QUARTER_TURN = np.linalg.inv(_YUV) @ [[0, 0, 0], [0, 0, -1], [0, 1, 0]] @ _YUV  # of that difference


@dataclass(frozen=True, eq=False)
class ColorTwistParams:
    """matrix: (B, 3, 4) float64, for each sample an affine map of red, green and blue in [0, 1]: `color` of
    crop_resize_flip. diagonal: no channel sees another in any map that these options could give, whatever was drawn."""

    matrix: np.ndarray
    diagonal: bool = False

    def __len__(self) -> int:
        return len(self.matrix)


def sample_color_twist(
    key: Key,
    index: ArrayLike,
    *,
    brightness: Span = 0.0,
    contrast: Span = 0.0,
    saturation: Span = 0.0,
    hue: Span = 0.0,
    channel_mixing: Span = 0.0,
    p: float = 1.0,
) -> ColorTwistParams:
    """Ranges as in torchvision's ColorJitter: a number s is the range [max(0, 1 − s), 1 + s], of hue [−s, s] in turns,
    of channel_mixing [0, s]; a pair is the range itself. With probability 1 − p a sample is left alone.

    brightness multiplies; contrast stretches about 0.5, where ColorJitter takes the picture's own mean; saturation
    stretches about the pixel's luma, as there. hue turns colours about the grey axis in YIQ, which is linear and leaves
    luma as it is: of the direction and, on average, the size of ColorJitter's turn in HSV, but another map. Last,
    channel_mixing replaces a share of each channel by a mixture of all three, whose weights are uniform among those
    that sum to 1; so greys stay. Of the first four the order matters for brightness and contrast alone, and a coin
    decides it.
    """
    check_probability(p)
    spans = jitter_spans(brightness, contrast, saturation, hue)
    least, most = span_of("channel_mixing", channel_mixing, 0, 1)
    spans.append((least if isinstance(channel_mixing, tuple | list) else 0, most))
    low, high = np.array(spans).T
    u = uniform(key, np.asarray(index), "color_twist", 13)
    factor = np.where(u[:, 5:6] < p, low + (high - low) * u[:, :5], [1, 1, 1, 0, 0])
    bright, stretch, color, turns, share = factor.T[:, :, None, None]
    angle = 2 * np.pi * turns
    linear = np.eye(3) + (color * np.cos(angle) - 1) * _COLOR + color * np.sin(angle) * _QUARTER_TURN
    cuts = np.sort(u[:, 7:].reshape(-1, 3, 2), axis=2)  # two cuts divide [0, 1] into three weights
    weights = np.diff(cuts, axis=2, prepend=0, append=1)
    linear = bright * stretch * ((np.eye(3) + share * (weights - np.eye(3))) @ linear)
    shift = (1 - stretch) / 2 * np.where(u[:, 6, None, None] < 0.5, bright, 1)
    matrix = np.concatenate([linear, np.broadcast_to(shift, (len(u), 3, 1))], axis=2)
    return ColorTwistParams(matrix, diagonal=spans[2:] == [(1, 1), (0, 0), (0, 0)])


def color_of(params: ColorTwistParams, channels: int) -> np.ndarray:
    """(B, C, C + 1): `color` of crop_resize_flip for images of C = 3 channels, or of one, which then is what becomes of
    a grey: saturation, hue and channel mixing do nothing. Raises ValueError for another C."""
    if channels == 3:
        return params.matrix
    if channels == 1:
        gain = params.matrix[:, :, :3].sum(axis=2).mean(axis=1)
        return np.stack([gain, params.matrix[:, :, 3].mean(axis=1)], axis=1)[:, None]
    raise ValueError(f"color_twist got {channels} channels; wanted 1 or 3")


def color_twist_reference(images: torch.Tensor, params: ColorTwistParams) -> torch.Tensor:
    """The definition: a product of matrices for each pixel, in float64."""

    def twist(image: torch.Tensor, color: list[list[float]]) -> torch.Tensor:
        matrix = torch.tensor(color, dtype=torch.float64, device=image.device)
        return torch.einsum("dc,chw->dhw", matrix[:, :-1], image.double()) + matrix[:, -1, None, None]

    color = color_of(params, images.shape[1])
    return one_by_one(images, _chosen(color), twist, color)


def color_twist(images: torch.Tensor, params: ColorTwistParams) -> torch.Tensor:
    """images: (B, C, H, W) floating point in [0, 1], C = 1 or 3. Returns a new tensor, or the very tensor it got where
    no sample is twisted. Its values may leave [0, 1]: nothing is clamped, neither here nor where crop_resize_flip does
    the same. Raises ValueError for another C."""
    color = color_of(params, images.shape[1])
    return on_rows("color_twist", images, _chosen(color), _twist, color.astype(np.float32))


def _chosen(color: np.ndarray) -> np.ndarray:
    chosen: np.ndarray = (color != np.eye(*color.shape[1:])).any(axis=(1, 2))
    return chosen


def _twist(images: torch.Tensor, color: torch.Tensor) -> torch.Tensor:
    twisted = torch.empty_like(images).copy_(color[:, :, -1, None, None])
    for channel in range(images.shape[1]):
        twisted.addcmul_(color[:, :, channel, None, None], images[:, channel : channel + 1])
    return twisted
