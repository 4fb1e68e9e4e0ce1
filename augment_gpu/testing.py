"""The promises that every op keeps, as one function: public, as torch.testing is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from augment_gpu.rng import Key

# Half a unit in the last place of a value near 1, twice: once for the op's result and once for the reference's.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def check_augmentation(
    op: Callable[[torch.Tensor, Any], torch.Tensor],
    sample: Callable[[Key, np.ndarray], Any],
    reference: Callable[[torch.Tensor, Any], torch.Tensor],
    *,
    size: tuple[int, int] = (33, 47),
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    memory_format: torch.memory_format = torch.contiguous_format,
    in_place: bool = False,
    alone: bool = True,
    atol: float | None = None,
) -> None:
    """Raises AssertionError, saying which promise is broken, unless

    - op(images, params) equals reference(images, params) to `atol` (default: two roundings of the dtype);
    - the same key and index give the same picture again, and another epoch another one;
    - the images are unchanged, or for an op that works in place, are what is returned;
    - dtype, device and shape are kept;
    - row i computed alone equals row i of the batch, bit for bit (alone=False: not for ops that mix a batch);
    - an empty batch comes back empty, with its shape.

    op, reference: (B, C, H, W) images in [0, 1] and parameters to images. sample: (key, index) to parameters.
    """
    key, index = Key(20171208, 3), np.array([5, 0, 2**40, 7, 11, 12])
    generator = torch.Generator().manual_seed(0)
    original = torch.rand(len(index), channels, *size, generator=generator).to(device, dtype)
    original = original.contiguous(memory_format=memory_format)

    def run(rows: np.ndarray, key: Key = key) -> torch.Tensor:
        return op(original[rows].clone(memory_format=torch.preserve_format), sample(key, index[rows]))

    everything = np.arange(len(index))
    images = original.clone(memory_format=torch.preserve_format)
    result = op(images, sample(key, index))
    if in_place:
        assert result is images, "an op in place returns the tensor that it was given"
    else:
        assert torch.equal(images, original), "the input was changed"
    assert result.dtype == dtype, f"the dtype was {dtype} and became {result.dtype}"
    assert result.device == original.device, f"the device was {original.device} and became {result.device}"
    assert result.shape == original.shape, f"the shape was {tuple(original.shape)} and became {tuple(result.shape)}"
    torch.testing.assert_close(
        result,
        reference(original, sample(key, index)),
        rtol=0,
        atol=_TOLERANCE[dtype] if atol is None else atol,
        msg=lambda text: f"the op differs from its reference: {text}",
    )
    assert torch.equal(run(everything), result), "the same draws gave another picture"
    assert not torch.equal(run(everything, Key(key.seed, key.epoch + 1)), result), (
        "another epoch gave the same pictures"
    )
    for row in range(len(index)) if alone else ():
        assert torch.equal(run(np.array([row]))[0], result[row]), f"row {row} alone differs from row {row} of the batch"
    empty = op(original[:0].clone(), sample(key, index[:0]))
    assert empty.shape == original[:0].shape, f"an empty batch came back as {tuple(empty.shape)}"
    assert empty.dtype == dtype, f"an empty batch came back as {empty.dtype}"
