"""check_augmentation: an op that keeps every promise passes, and each broken promise is found and named."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

import augment_gpu as ag
from augment_gpu.testing import check_augmentation

Op = Callable[[torch.Tensor, "DimParams"], torch.Tensor]


pytestmark = pytest.mark.usefixtures("threads")


@dataclass(frozen=True)
class DimParams:
    factor: np.ndarray  # (B,) in [0, 1)


def sample_dim(key: ag.Key, index: np.ndarray) -> DimParams:
    return DimParams(ag.uniform(key, index, "dim")[:, 0].astype(np.float32))


def dim(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    """The op that all the broken ones below are derived from: each image darker by its own factor."""
    return (images.float() * torch.from_numpy(params.factor).view(-1, 1, 1, 1)).to(images.dtype)


def dim_in_place(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    return images.copy_(dim(images, params))


def check(op: Op = dim, sample: Callable[..., Any] = sample_dim, reference: Op = dim, **options: Any) -> None:
    check_augmentation(op, sample, reference, **options)


def broken(images: torch.Tensor, params: DimParams, rows: Any = slice(None), by: float = 0.01) -> torch.Tensor:
    """dim with an error of `by` in some rows."""
    result = dim(images, params)
    result[rows] += by
    return result


# ---- what must be accepted


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_op_that_keeps_its_promises_passes(
    dtype: torch.dtype, memory_format: torch.memory_format, channels: int
) -> None:
    check(dtype=dtype, memory_format=memory_format, channels=channels)


def test_an_op_in_place_passes_where_it_is_said_to_be_one() -> None:
    check(dim_in_place, in_place=True)


def test_an_op_that_mixes_the_batch_passes_where_it_is_said_to_do_so() -> None:
    def blend(images: torch.Tensor, params: DimParams) -> torch.Tensor:
        return dim(images, params).lerp(images.flip(0), 0.5)

    check(blend, reference=blend, alone=False)


def test_size_channels_dtype_and_memory_format_reach_the_op() -> None:
    seen: list[torch.Tensor] = []

    def spy(images: torch.Tensor, params: DimParams) -> torch.Tensor:
        seen.append(images)
        return dim(images, params)

    check(spy, size=(1, 17), channels=4, dtype=torch.float16, memory_format=torch.channels_last)
    assert all(images.shape[1:] == (4, 1, 17) and images.dtype == torch.float16 for images in seen)
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in seen if len(images))
    assert {len(images) for images in seen} >= {0, 1}
    whole = seen[0].float()
    assert whole.min() >= 0
    assert whole.max() <= 1
    assert len(whole) > 1
    assert not torch.equal(whole[0], whole[1])


def test_the_tolerance_is_that_of_the_dtype_unless_one_is_given() -> None:
    def nearly(images: torch.Tensor, params: DimParams) -> torch.Tensor:
        return broken(images, params, by=1e-3)

    check(nearly, atol=2e-3)
    # In [0.5, 1) a bfloat16 has steps of 2**-8 = 0.0039, so 0.001 is below what it can tell.
    check(nearly, reference=dim, dtype=torch.bfloat16)
    with pytest.raises(AssertionError, match="the op differs from its reference"):
        check(nearly)


# ---- what must be refused


def changes_its_input(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    result = dim(images, params)
    images[-1, -1, -1, -1] = 0.5
    return result


def returns_another_dtype(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    return dim(images, params).double()


def returns_another_shape(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    return dim(images, params)[:, :1]


def returns_another_device(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    return dim(images, params).to("meta")


def differs_in_one_row(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    return broken(images, params, rows=slice(3, 4))


def uses_a_global_generator(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    return dim(images, params) + torch.rand(()) * 1e-5


def depends_on_its_neighbours(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    return dim(images, params) + images.mean() * 1e-5


def depends_on_its_place(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    return dim(images, params) + torch.arange(len(images)).view(-1, 1, 1, 1) * 1e-6


def forgets_the_shape_when_empty(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    return dim(images, params) if len(images) else torch.empty(0, dtype=images.dtype)


def forgets_the_dtype_when_empty(images: torch.Tensor, params: DimParams) -> torch.Tensor:
    return dim(images, params) if len(images) else images.double()


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (changes_its_input, "the input was changed"),
        (returns_another_dtype, "the dtype was torch.float32 and became torch.float64"),
        (returns_another_shape, r"the shape was \(6, 3, 33, 47\) and became \(6, 1, 33, 47\)"),
        (returns_another_device, "the device was cpu and became meta"),
        (differs_in_one_row, "the op differs from its reference"),
        (uses_a_global_generator, "the same draws gave another picture"),
        (depends_on_its_neighbours, "row 0 alone differs from row 0 of the batch"),
        (depends_on_its_place, "row 1 alone differs from row 1 of the batch"),
        (forgets_the_shape_when_empty, r"an empty batch came back as \(0,\)"),
        (forgets_the_dtype_when_empty, "an empty batch came back as torch.float64"),
    ],
)
def test_a_broken_promise_is_named(op: Op, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(op)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_an_error_beyond_two_roundings_of_a_narrow_dtype_is_found(dtype: torch.dtype) -> None:
    with pytest.raises(AssertionError, match="the op differs from its reference"):
        check(lambda images, params: broken(images, params, by=0.02), dtype=dtype)


def test_an_op_that_fails_on_an_empty_batch_is_found() -> None:
    def fails(images: torch.Tensor, params: DimParams) -> torch.Tensor:
        if not len(images):
            raise IndexError("the largest of nothing")
        return dim(images, params)

    with pytest.raises(IndexError, match="the largest of nothing"):
        check(fails)


def test_an_in_place_op_that_returns_a_new_tensor_is_found() -> None:
    with pytest.raises(AssertionError, match="an op in place returns the tensor that it was given"):
        check(dim, in_place=True)


def test_an_in_place_op_that_was_not_said_to_be_one_is_found() -> None:
    with pytest.raises(AssertionError, match="the input was changed"):
        check(dim_in_place)


def test_draws_that_ignore_the_epoch_are_found() -> None:
    with pytest.raises(AssertionError, match="another epoch gave the same pictures"):
        check(sample=lambda key, index: sample_dim(replace(key, epoch=0), index))


def test_draws_from_a_global_generator_are_found() -> None:
    def sample(key: ag.Key, index: np.ndarray) -> DimParams:
        return DimParams(torch.rand(len(index)).numpy())

    # The reference gets draws of its own, and differs first.
    with pytest.raises(AssertionError, match=r"differs from its reference|the same draws gave another picture"):
        check(sample=sample)


def test_draws_that_depend_on_the_batch_around_a_sample_are_found() -> None:
    def sample(key: ag.Key, index: np.ndarray) -> DimParams:
        params = sample_dim(key, index)
        return DimParams(params.factor / max(float(params.factor.max(initial=0)), 1e-3))

    with pytest.raises(AssertionError, match=r"row \d alone differs from row \d of the batch"):
        check(sample=sample)


def test_draws_that_depend_on_the_place_in_the_batch_are_found() -> None:
    with pytest.raises(AssertionError, match=r"row 0 alone differs from row 0 of the batch"):
        check(sample=lambda key, index: sample_dim(key, np.arange(len(index)) + len(index)))


def test_a_large_index_that_wraps_at_32_bits_is_found() -> None:
    def sample(key: ag.Key, index: np.ndarray) -> DimParams:
        if (index > 2**31 - 1).any():
            raise OverflowError("an index was too large")
        return sample_dim(key, index)

    with pytest.raises(OverflowError, match="an index was too large"):
        check(sample=sample)
