"""cutout: rectangles of an image overwritten, in place.

Two samplers: the square of DeVries & Taylor ("Improved Regularization of Convolutional Neural Networks with Cutout",
2017), and the rectangle of Random Erasing (Zhong et al., AAAI 2020) as timm's `reprob` draws it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu import memory
from augment_gpu.ops.boxes import within
from augment_gpu.ops.operator import device_op, wants_gradient, writes_in_place, written
from augment_gpu.ops.path import runs_triton, table_device
from augment_gpu.ops.upload import upload
from augment_gpu.rng import Key, philox, random_words, uniform

Fill = float | Sequence[float] | Literal["noise"]

_SEED_WORDS = 2  # Philox's key


@dataclass(frozen=True, eq=False)
class CutoutParams:
    """One hole a row. box: (B, 4) int32, x0 y0 x1 y1 in pixels of the image, clipped to it; x0 == x1 is no hole.

    fill: one value, a value per channel, or "noise": standard normal numbers, each pixel and channel its own, a
    function of seed (B, 2) uint32 and the position. Values are in the units of the images, so 0 is ImageNet's mean
    after normalisation.
    """

    box: np.ndarray
    seed: np.ndarray
    fill: Fill = 0.0

    def __post_init__(self) -> None:
        for name, dtype in (("box", np.int32), ("seed", np.uint32)):
            object.__setattr__(self, name, np.asarray(getattr(self, name)).astype(dtype, copy=False))
        if isinstance(self.fill, np.ndarray):
            object.__setattr__(self, "fill", self.fill.tolist())

    def __len__(self) -> int:
        return len(self.box)

    def take(self, rows: ArrayLike) -> Self:
        rows = np.asarray(rows, dtype=np.int64)
        return replace(self, box=self.box[rows], seed=self.seed[rows])


def sample_cutout(
    key: Key, index: ArrayLike, *, size: int = 224, length: int = 112, p: float = 1.0, fill: Fill = 0.0
) -> CutoutParams:
    """A square of side `length` whose centre is uniform over the pixels of a `size` × `size` image, clipped at the
    border: as published, so that part of the square, at times most of it, may lie outside."""
    if length < 1:
        raise ValueError(f"length is {length}; a hole is at least 1 pixel wide")
    _check_size(size)
    index = np.asarray(index, dtype=np.int64).reshape(-1)
    u = uniform(key, index, "cutout", 3)
    corner = np.floor(u[:, :2] * size).astype(np.int64) - length // 2
    box = np.clip(np.concatenate([corner, corner + length], axis=1), 0, size)
    return _params(key, index, box, u[:, 2], p, fill)


def sample_random_erasing(
    key: Key,
    index: ArrayLike,
    *,
    size: int = 224,
    p: float = 0.25,
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    fill: Fill = 0.0,
) -> CutoutParams:
    """A rectangle whose share of the area is uniform in `scale` and whose aspect ratio is log-uniform in `ratio`,
    wholly inside a `size` × `size` image; ten tries, then none. timm's defaults, `p` being its `reprob`."""
    for name, (low, high) in (("scale", scale), ("ratio", ratio)):
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"{name} is {(low, high)}; wanted 0 < low <= high")
    _check_size(size)
    index = np.asarray(index, dtype=np.int64).reshape(-1)
    chosen = uniform(key, index, "cutout")[:, 0]
    # The tries of those rows alone that will have a hole
    rows = np.flatnonzero(chosen < p)
    u = uniform(key, index[rows], "random_erasing", 40).reshape(-1, 10, 4)
    area = size * size * (scale[0] + (scale[1] - scale[0]) * u[..., 0])
    aspect = np.exp(np.log(ratio[0]) + (np.log(ratio[1]) - np.log(ratio[0])) * u[..., 1])
    height, width = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (height < size) & (width < size)
    top, left = np.floor(u[..., 2] * (size - height + 1)), np.floor(u[..., 3] * (size - width + 1))
    tries = np.stack([left, top, left + width, top + height], axis=2) * fits[..., None]
    box = np.zeros((len(index), 4))
    box[rows] = tries[np.arange(len(rows)), fits.argmax(axis=1)]
    return _params(key, index, box, chosen, p, fill)


def _check_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size is {size}; an image is at least 1 pixel wide")


def _params(key: Key, index: np.ndarray, box: np.ndarray, chosen: np.ndarray, p: float, fill: Fill) -> CutoutParams:
    if not 0 <= p <= 1:
        raise ValueError(f"p is {p}; a probability lies in [0, 1]")
    seed = np.zeros((len(index), _SEED_WORDS), dtype=np.uint32)
    if fill == "noise":
        seed = random_words(key, index, "cutout.noise", _SEED_WORDS)
    return CutoutParams((box * (chosen < p)[:, None]).astype(np.int32), seed, fill)


def cutout_reference(images: torch.Tensor, params: CutoutParams) -> torch.Tensor:
    """The definition of cutout: a new tensor, images unchanged."""
    images = images.clone()
    _fill_each(images, params.box.tolist(), params.seed.tolist(), params.fill)
    return images


def _fill_each(images: torch.Tensor, boxes: list[list[int]], seeds: list[list[int]], fill: Fill) -> None:
    for row, ((x0, y0, x1, y1), seed) in enumerate(zip(boxes, seeds, strict=True)):
        if x0 < x1 and y0 < y1:
            images[row, :, y0:y1, x0:x1] = _filling(images[row], [x0, y0, x1, y1], seed, fill)


def _filling(image: torch.Tensor, box: list[int], seed: list[int], fill: Fill) -> torch.Tensor:
    """What goes into one hole: broadcastable to (C, y1 − y0, x1 − x0)."""
    if fill != "noise":
        return torch.as_tensor(fill, dtype=torch.float32).reshape(-1, 1, 1).to(image)
    channels, _, width = image.shape
    x0, y0, x1, y1 = box
    position = (np.arange(y0, y1)[:, None] * width + np.arange(x0, x1)).reshape(-1)
    counter = np.zeros((4, position.size), dtype=np.uint64)
    counter[0] = position
    words = philox(counter, (seed[0], seed[1])).astype(np.float64)
    # Box and Muller: four words a pixel give four independent normal numbers, one per channel. (0, 1] for the
    # logarithm.
    radius, angle = np.sqrt(-2 * np.log((words[0::2] + 1) * 2.0**-32)), 2 * np.pi * words[1::2] * 2.0**-32
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:channels]
    return torch.from_numpy(normal.reshape(channels, y1 - y0, x1 - x0)).to(image)


def cutout(images: torch.Tensor, params: CutoutParams) -> torch.Tensor:
    """Overwrites the holes of `images`, in place, and returns it; no other byte is touched.

    images: (B, C, H, W) floating point, C at most 4. Raises ValueError for holes outside the images.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images are {images.dtype} {tuple(images.shape)}; wanted floating point (B, C, H, W)")
    if memory.repeats(images):
        raise ValueError(
            f"images have strides {images.stride()}; rows that share memory cannot have holes of their own"
        )
    arrays = plan_cutout(images.shape, params)
    if len(images) == 0:
        return images
    if wants_gradient(images):  # the host has what fills them: nothing need be sent
        _fill_each(images, params.box.tolist(), params.seed.tolist(), params.fill)
        return images
    run_cutout(images, upload(table_device(images.device), *arrays))
    written(images)
    return images


def plan_cutout(shape: Sequence[int], params: CutoutParams) -> list[np.ndarray]:
    """The host part, for images of this shape, checked: box (B, 4) int32; and fill (C,) float32, or for noise seed
    (B, 2) int32."""
    _check(shape, params)
    if params.fill != "noise":
        fill = np.empty(shape[1], dtype=np.float32)
        fill[:] = params.fill
        return [params.box, fill]
    # Philox's words as int32: torch's uint32 is a storage type, and the kernel reads the bits as unsigned
    return [params.box, params.seed.view(np.int32)]


def overwrite(images: torch.Tensor, tables: Sequence[torch.Tensor]) -> None:
    """run_cutout, or plain torch for images that want a gradient, which an operator does not pass on."""
    if wants_gradient(images):
        fill_holes(images, *tables)
    else:
        run_cutout(images, tables)


@device_op("cutout(Tensor(a!) images, Tensor[] tables) -> ()", writes_in_place)
def run_cutout(images: torch.Tensor, tables: Sequence[torch.Tensor]) -> None:
    """The device part. tables: of plan_cutout, whose dtypes say what fills the holes."""
    if images.shape[0] == 0:
        return
    box, filling = tables
    if not runs_triton(images.device):
        fill_holes(images, box, filling)
        return
    from augment_gpu.kernels.cutout import launch_fill, launch_noise

    if filling.dtype == torch.int32:
        launch_noise(images, box, filling)
    else:
        launch_fill(images, box, filling)


def fill_holes(images: torch.Tensor, box: torch.Tensor, filling: torch.Tensor) -> None:
    """As the kernels, in plain torch, which looks at the tables."""
    noise, boxes = filling.dtype == torch.int32, box.tolist()
    seeds = filling.cpu().numpy().view(np.uint32).tolist() if noise else [[]] * len(boxes)
    _fill_each(images, boxes, seeds, "noise" if noise else filling.tolist())


def _check(shape: Sequence[int], params: CutoutParams) -> None:
    batch, channels, height, width = shape
    if params.box.shape != (batch, 4) or params.seed.shape != (batch, _SEED_WORDS):
        raise ValueError(f"there are {len(params.box)} holes for {batch} images; wanted one a row")
    good = within(params.box, [[width], [height]], empty=True)
    if not good.all():
        row = int(good.all(0).argmin())
        raise ValueError(f"hole {params.box[row].tolist()} of row {row} lies outside the {width} × {height} image")
    if params.fill == "noise":
        if channels > 4:
            raise ValueError(f"the images have {channels} channels; noise fills at most 4")
    elif not isinstance(params.fill, float) and (
        isinstance(params.fill, str) or np.shape(params.fill) not in ((), (1,), (channels,))
    ):
        raise ValueError(f'fill is {params.fill!r}; wanted a number, {channels} numbers (one per channel) or "noise"')
