"""A batch of images of different sizes, lying one after another in one buffer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch

from augment_gpu import memory
from augment_gpu.decode import decode

# A kernel that reads whole 32-bit words may read past the last pixel, so every buffer ends in this many spare bytes.
_PADDING = 16
_SMALL = 2**16  # bytes of an image


@dataclass(frozen=True, eq=False)
class RaggedBatch:
    """B uint8 images, each (H, W, C) and contiguous, back to back.

    pixels: (N,) uint8, on any device. offset: (B,) int64, where each image starts in `pixels`. height, width: (B,)
    int32. channels: C, one number for the batch. offset, height and width stay on the host whatever the device of the
    pixels: draws are made and checked there. Build one with `from_images` or `from_bytes`, which also leave 16 spare
    bytes behind the last pixel, as word-wide loads need.
    """

    pixels: torch.Tensor
    offset: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor
    channels: int

    @classmethod
    def from_images(
        cls, images: Sequence[np.ndarray | torch.Tensor], *, device: torch.device | str | None = None, pin: bool = False
    ) -> Self:
        """Packs uint8 images: (H, W, C) or (H, W) NumPy arrays, (C, H, W) or (H, W) tensors, mixed at will.

        pin: pack into page-locked memory, from which a GPU copies without waiting. An empty list gives an empty batch
        of 3 channels. Raises TypeError for another dtype, ValueError for an image without pixels or images whose
        numbers of channels differ.
        """
        names = [f"image {i}" for i in range(len(images))]
        batch = cls.pack([as_hwc(image, name) for image, name in zip(images, names, strict=True)], names, pin=pin)
        return batch if device is None else batch.to(device)

    @classmethod
    def pack(
        cls,
        views: Sequence[torch.Tensor],
        names: Sequence[str],
        *,
        channels: int = 3,
        pin: bool = False,
        each: Callable[..., Iterable[Any]] = map,
    ) -> Self:
        """from_images for (H, W, C) uint8 tensors that `as_hwc` gave. names: of the images, for messages. channels: of
        a batch of none. each: what maps the copying over parts of the batch, such as a thread pool's map."""
        channels = views[0].shape[2] if views else channels
        for view, name in zip(views, names, strict=True):
            if view.shape[2] != channels:
                raise ValueError(
                    f"{name} has {view.shape[2]} channels and {names[0]} has {channels}; a batch has one C"
                )
        offset = np.cumsum([0] + [view.numel() for view in views], dtype=np.int64)
        total = int(offset[-1])
        shape, dtype = (total + _PADDING,), torch.uint8
        buffer = torch.empty(shape, dtype=dtype, pin_memory=True) if pin else memory.empty(shape, dtype)
        buffer[total:] = 0

        space, starts, compiling = buffer.numpy(), offset.tolist(), torch.compiler.is_compiling()

        def place(images: range) -> None:
            for i in images:
                start, stop, view = starts[i], starts[i + 1], views[i]
                # Of a small image torch's copy takes several times as long, most of it to begin.
                if stop - start < _SMALL and view.is_contiguous() and view.device.type == "cpu" and not compiling:
                    space[start:stop] = view.numpy(force=True).reshape(-1)
                else:
                    buffer[start:stop].view(view.shape).copy_(view)

        # Parts of a megabyte or so: many small images are one, and a large one ends its part.
        firsts = np.flatnonzero(np.diff(offset[:-1] >> 20, prepend=-1)).tolist()
        for _ in each(place, map(range, firsts, [*firsts[1:], len(views)])):
            pass
        height, width = (torch.tensor([view.shape[d] for view in views], dtype=torch.int32) for d in (0, 1))
        return cls(buffer[:total], torch.from_numpy(offset[:-1].copy()), height, width, channels)

    @classmethod
    def from_bytes(cls, encoded: Sequence[bytes], *, device: torch.device | str | None = None) -> Self:
        """Decodes JPEG, PNG, WebP … files into RGB, upright. Raises DecodeError naming the position of a bad one."""
        return cls.from_images([decode(data, name=f"image {i}") for i, data in enumerate(encoded)], device=device)

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, i: int) -> torch.Tensor:
        """(H, W, C) uint8: a view of image i, on the device of the batch."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"image {i} of a batch of {len(self)}")
        start, height, width = int(self.offset[i]), int(self.height[i]), int(self.width[i])
        size = height * width * self.channels
        return self.pixels[start : start + size].view(height, width, self.channels)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[i] for i in range(len(self)))

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The batch with its pixels on `device`; itself, where they lie there already."""
        device = torch.device(device)
        if device.type == self.device.type and device.index in (None, self.device.index):
            return self
        return self._with_buffer(self._buffer().to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The batch with its pixels in page-locked memory. A torch DataLoader with pin_memory=True calls this."""
        return self._with_buffer(self._buffer().pin_memory())

    def _buffer(self) -> torch.Tensor:
        """The pixels with the spare bytes behind them; a copy, where somebody built the batch without those."""
        total = self.pixels.numel() + _PADDING
        storage = self.pixels.untyped_storage()
        if self.pixels.storage_offset() + total <= storage.nbytes():
            return self.pixels.as_strided((total,), (1,))
        return torch.nn.functional.pad(self.pixels, (0, _PADDING))

    def _with_buffer(self, buffer: torch.Tensor) -> Self:
        return replace(self, pixels=buffer[: self.pixels.numel()])


def collate(samples: Sequence[tuple[Any, Any]]) -> tuple[RaggedBatch, torch.Tensor]:
    """collate_fn for a torch DataLoader whose dataset gives (image, label) with images of any size.

    image: uint8, (H, W, C) array or (C, H, W) tensor, or a PIL image, which becomes RGB. Returns the packed images and
    the labels, (B,) int64.
    """
    return RaggedBatch.from_images([as_array(image) for image, _ in samples]), torch.tensor(
        [int(label) for _, label in samples], dtype=torch.int64
    )


def as_array(image: Any) -> Any:
    """A PIL image as an (H, W, 3) RGB array; anything else as it is."""
    return np.array(image.convert("RGB")) if hasattr(image, "convert") else image


def as_hwc(image: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    """A uint8 image, (H, W, C) or (H, W) array or (C, H, W) or (H, W) tensor, seen as an (H, W, C) tensor.

    Raises TypeError or ValueError, naming `name`, for what a ragged batch cannot hold.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8:
            raise TypeError(f"{name} is {image.dtype}; a ragged batch holds uint8")
        # A copy only where torch cannot view the array: negative strides, or memory that may not be written
        view = torch.from_numpy(image if image.flags.writeable and min(image.strides, default=0) >= 0 else image.copy())
    elif isinstance(image, torch.Tensor):
        if image.dtype != torch.uint8:
            raise TypeError(f"{name} is {image.dtype}; a ragged batch holds torch.uint8")
        view = image.permute(1, 2, 0) if image.ndim == 3 else image
    else:
        raise TypeError(f"{name} is a {type(image).__name__}; wanted a uint8 (H, W, C) array or (C, H, W) tensor")
    if view.ndim == 2:
        view = view[:, :, None]
    if view.ndim != 3 or view.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(image.shape)}; wanted (H, W, C) or (C, H, W), none of them 0")
    return view
