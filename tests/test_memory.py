import gc

import pytest
import torch

from augment_gpu import memory

BIG = 2**20  # bytes: the size from which memory is kept


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    gc.collect()
    memory._free.clear()


def test_memory_returns_when_the_tensor_is_gone():
    address = memory.empty((BIG,), torch.uint8).data_ptr()
    gc.collect()
    assert memory.empty((BIG // 4,), torch.float32).data_ptr() == address


def test_memory_stays_with_any_view_that_lives():
    first = memory.empty((BIG,), torch.uint8)
    view = first.fill_(7)[-16:].view(4, 4).t()
    address = first.data_ptr()
    del first
    gc.collect()
    others = [memory.empty((BIG,), torch.uint8).fill_(9) for _ in range(4)]
    assert address not in [other.data_ptr() for other in others]
    assert (view == 7).all()


def test_a_block_serves_what_is_smaller_but_not_what_is_half_its_size():
    address = memory.empty((4 * BIG,), torch.uint8).data_ptr()
    assert memory.empty((BIG,), torch.uint8).data_ptr() != address
    assert memory.empty((4 * BIG - 100,), torch.uint8).data_ptr() == address


def test_shape_and_dtype_are_those_asked_for():
    for shape in ((0, 3, 5), (1,), (3, BIG)):  # nothing, little, much
        for dtype in (torch.uint8, torch.bfloat16, torch.float32):
            tensor = memory.empty(shape, dtype)
            assert tensor.shape == shape
            assert tensor.dtype == dtype
            assert tensor.is_contiguous()
