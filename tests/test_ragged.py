"""RaggedBatch: what goes in comes out, and lies where a kernel will look for it."""

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import augment_gpu as ag
from augment_gpu.decode import DecodeError

SIZES = [(33, 47), (1, 1), (1, 17), (17, 1), (4, 6)]  # odd sides, one pixel, one row, one column, and an even one
Noise = Callable[..., np.ndarray]


@pytest.fixture
def images(noise: Noise) -> list[np.ndarray]:
    return [noise(*size, seed=i) for i, size in enumerate(SIZES)]


def as_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def assert_holds(batch: ag.RaggedBatch, images: list[np.ndarray]) -> None:
    assert len(batch) == len(images)
    for i, image in enumerate(images):
        assert batch[i].shape == image.shape
        np.testing.assert_array_equal(batch[i].cpu().numpy(), image)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_come_back(noise: Noise, channels: int) -> None:
    images = [noise(*size, channels) for size in SIZES]
    batch = ag.RaggedBatch.from_images(images)
    assert_holds(batch, images)
    assert batch.channels == channels
    assert batch[0].dtype == torch.uint8


def test_tensors_are_channels_first(images: list[np.ndarray]) -> None:
    tensors = [torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images]
    assert_holds(ag.RaggedBatch.from_images(tensors), images)


def test_arrays_and_tensors_may_be_mixed(images: list[np.ndarray]) -> None:
    mixed = [torch.from_numpy(image).permute(2, 0, 1) if i % 2 else image for i, image in enumerate(images)]
    assert_holds(ag.RaggedBatch.from_images(mixed), images)


def test_grey_images_of_two_dimensions_get_one_channel(noise: Noise) -> None:
    images = [noise(5, 7, 1)[..., 0], torch.from_numpy(noise(3, 2, 1, seed=1)[..., 0]), noise(4, 4, 1)]
    batch = ag.RaggedBatch.from_images(images)
    assert batch.channels == 1
    assert_holds(batch, [np.asarray(image).reshape(*image.shape[:2], 1) for image in images])


VIEWS: dict[str, Callable[[np.ndarray], Any]] = {
    "every other row": lambda image: image[::2],
    "every third column": lambda image: image[:, ::3],
    "transposed": lambda image: image.transpose(1, 0, 2),
    "Fortran order": np.asfortranarray,
    "upside down": lambda image: image[::-1],
    "mirrored": lambda image: image[:, ::-1],
    "BGR to RGB": lambda image: image[..., ::-1],
    "all reversed": lambda image: image[::-1, ::-1, ::-1],
    "broadcast": lambda image: np.broadcast_to(image[:1, :1], (5, 7, 3)),
    "from bytes": lambda image: np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(image.shape),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_any_view_of_memory_may_be_an_image(noise: Noise, view: Callable[[np.ndarray], Any]) -> None:
    """Also such as torch.from_numpy refuses (negative strides) or warns of (memory that may not be written)."""
    seen = view(noise(9, 12))
    assert_holds(ag.RaggedBatch.from_images([seen, noise(2, 2)]), [np.array(seen), noise(2, 2)])


def test_a_strided_tensor_may_be_an_image(noise: Noise) -> None:
    tensor = torch.from_numpy(noise(20, 30)).permute(2, 0, 1)[:, 3::2, 5:-1]
    assert not tensor.is_contiguous()
    assert_holds(ag.RaggedBatch.from_images([tensor]), [tensor.permute(1, 2, 0).numpy()])


def test_the_images_are_copied(images: list[np.ndarray]) -> None:
    before = [image.copy() for image in images]
    batch = ag.RaggedBatch.from_images(images)
    batch.pixels.zero_()
    for image, old in zip(images, before, strict=True):
        np.testing.assert_array_equal(image, old)


def test_images_lie_back_to_back(images: list[np.ndarray]) -> None:
    batch = ag.RaggedBatch.from_images(images)
    np.testing.assert_array_equal(batch.pixels.numpy(), np.concatenate([image.reshape(-1) for image in images]))
    assert batch.offset.tolist() == [0, 4653, 4656, 4707, 4758]  # sums of 33·47·3, 3, 17·3, 17·3
    assert batch.height.tolist() == [33, 1, 1, 17, 4]
    assert batch.width.tolist() == [47, 1, 17, 1, 6]
    assert (batch.pixels.dtype, batch.offset.dtype) == (torch.uint8, torch.int64)
    assert (batch.height.dtype, batch.width.dtype) == (torch.int32, torch.int32)
    assert batch.pixels.is_contiguous()
    assert batch.pixels.data_ptr() % 4 == 0  # for loads of whole words


def test_an_image_is_a_view_of_the_batch(images: list[np.ndarray]) -> None:
    batch = ag.RaggedBatch.from_images(images)
    batch[2][0, 16, 2] = 7
    batch.pixels[4653] = 9
    assert batch.pixels[4706] == 7
    assert batch[1][0, 0, 0] == 9


def test_a_negative_number_counts_from_the_end(images: list[np.ndarray]) -> None:
    batch = ag.RaggedBatch.from_images(images)
    for i in range(1, len(images) + 1):
        np.testing.assert_array_equal(batch[-i].numpy(), images[-i])


@pytest.mark.parametrize("i", [5, -6, 2**40])
def test_a_number_beyond_the_batch_is_an_index_error(images: list[np.ndarray], i: int) -> None:
    with pytest.raises(IndexError, match=f"{i}.* 5"):
        ag.RaggedBatch.from_images(images)[i]


def test_iteration_gives_each_image_once(images: list[np.ndarray]) -> None:
    seen = list(ag.RaggedBatch.from_images(images))
    assert len(seen) == len(images)
    for image, wanted in zip(seen, images, strict=True):
        np.testing.assert_array_equal(image.numpy(), wanted)


def test_an_empty_list_gives_an_empty_batch() -> None:
    for batch in (ag.RaggedBatch.from_images([]), ag.RaggedBatch.from_bytes([])):
        assert len(batch) == 0
        assert list(batch) == []
        assert batch.channels == 3
        assert batch.pixels.shape == batch.offset.shape == batch.height.shape == batch.width.shape == (0,)
        with pytest.raises(IndexError):
            batch[0]


@pytest.mark.parametrize("large", [(700, 800), (1200, 901)])  # 1.7 and 3.2 MB: above what is allocated anew each time
def test_a_large_batch_is_not_written_to_by_the_next(noise: Noise, large: tuple[int, int]) -> None:
    image = noise(*large)
    batch = ag.RaggedBatch.from_images([image])
    kept, pickled = batch[0], pickle.dumps(batch)
    assert spare_bytes(batch) >= 16
    del batch
    for seed in (1, 2, 3):
        assert_holds(ag.RaggedBatch.from_images([noise(*large, seed=seed)]), [noise(*large, seed=seed)])
    np.testing.assert_array_equal(kept.numpy(), image)
    assert_holds(pickle.loads(pickled), [image])


def spare_bytes(batch: ag.RaggedBatch) -> int:
    used = batch.pixels.storage_offset() + batch.pixels.numel()
    return batch.pixels.untyped_storage().nbytes() - used


def without_spare_bytes(batch: ag.RaggedBatch) -> ag.RaggedBatch:
    return ag.RaggedBatch(batch.pixels.clone(), batch.offset, batch.height, batch.width, batch.channels)


def test_spare_bytes_lie_behind_the_last_pixel(images: list[np.ndarray]) -> None:
    encoded = [as_png(image) for image in images]
    for batch in (
        ag.RaggedBatch.from_images(images),
        ag.RaggedBatch.from_images(images[1:2]),  # 3 bytes in all
        ag.RaggedBatch.from_images([]),
        ag.RaggedBatch.from_bytes(encoded),
        ag.collate([(image, 0) for image in images])[0],
        pickle.loads(pickle.dumps(ag.RaggedBatch.from_images(images))),
    ):
        assert spare_bytes(batch) >= 16


@pytest.mark.parametrize("place", ["cpu", torch.device("cpu")])
def test_moving_to_where_it_lies_changes_nothing(images: list[np.ndarray], place: Any) -> None:
    batch = ag.RaggedBatch.from_images(images)
    moved = batch.to(place, non_blocking=True)
    assert moved.device == torch.device("cpu")
    assert moved.pixels.data_ptr() == batch.pixels.data_ptr()
    assert_holds(moved, images)
    assert_holds(ag.RaggedBatch.from_images(images, device=place), images)


@pytest.mark.parametrize("spare", [True, False])
def test_a_move_takes_the_spare_bytes_along(images: list[np.ndarray], spare: bool) -> None:
    """The meta device stands for a GPU: it has no bytes, but shapes, and a storage."""
    batch = ag.RaggedBatch.from_images(images)
    moved = (batch if spare else without_spare_bytes(batch)).to("meta")
    assert moved.device.type == "meta"
    assert moved.pixels.shape == batch.pixels.shape
    assert spare_bytes(moved) >= 16
    assert moved.offset.device.type == moved.height.device.type == moved.width.device.type == "cpu"


@pytest.mark.cuda
@pytest.mark.parametrize("spare", [True, False])
def test_a_gpu_holds_the_same_images(images: list[np.ndarray], spare: bool) -> None:
    batch = ag.RaggedBatch.from_images(images)
    moved = (batch if spare else without_spare_bytes(batch)).to("cuda", non_blocking=True)
    assert moved.device.type == "cuda"
    assert spare_bytes(moved) >= 16
    assert_holds(moved, images)
    assert_holds(moved.to("cpu"), images)
    assert moved.to("cuda") is moved


@pytest.mark.cuda
def test_pinned_memory_holds_the_same_images(images: list[np.ndarray]) -> None:
    plain = ag.RaggedBatch.from_images(images)
    packed = ag.RaggedBatch.from_images(images, pin=True)
    for batch in (packed, plain.pin_memory(), without_spare_bytes(plain).pin_memory()):
        assert batch.pixels.is_pinned()
        assert spare_bytes(batch) >= 16
        assert_holds(batch, images)


def test_a_pickled_batch_comes_back(images: list[np.ndarray]) -> None:
    batch = pickle.loads(pickle.dumps(ag.RaggedBatch.from_images(images)))
    assert_holds(batch, images)
    assert batch.offset.tolist() == [0, 4653, 4656, 4707, 4758]


class Pictures(Dataset[Any]):
    """What a user's dataset may give: arrays, tensors and PIL images, with labels of several types."""

    def __len__(self) -> int:
        return 7

    def image(self, i: int) -> np.ndarray:
        return np.random.default_rng(i).integers(0, 256, (3 + i, 10 - i, 3), dtype=np.uint8)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        image = self.image(i)
        kind = (image, torch.from_numpy(image).permute(2, 0, 1), Image.fromarray(image))[i % 3]
        return kind, (i, np.int64(i), torch.tensor(i))[i % 3]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # fork, Python 3.12 on
@pytest.mark.parametrize("workers", [0, 2])
def test_a_torch_dataloader_collates_with_ag_collate(workers: int) -> None:
    dataset = Pictures()
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, collate_fn=ag.collate)
    sizes = []
    for batch, labels in loader:
        assert labels.dtype == torch.int64
        assert_holds(batch, [dataset.image(int(i)) for i in labels])
        sizes.append(len(batch))
    assert sizes == [3, 3, 1]


def test_collate_makes_pil_images_rgb() -> None:
    grey, alpha = Image.new("L", (4, 3), 77), Image.new("RGBA", (2, 5), (1, 2, 3, 4))
    batch, labels = ag.collate([(grey, 1), (alpha, 0)])
    assert_holds(batch, [np.full((3, 4, 3), 77, np.uint8), np.full((5, 2, 3), (1, 2, 3), np.uint8)])
    assert labels.tolist() == [1, 0]


def test_encoded_images_come_back(images: list[np.ndarray]) -> None:
    assert_holds(ag.RaggedBatch.from_bytes([as_png(image) for image in images], device="cpu"), images)


def test_a_bad_file_is_named_by_its_position(images: list[np.ndarray]) -> None:
    encoded = [as_png(image) for image in images]
    encoded[3] = encoded[3][:40]
    with pytest.raises(DecodeError, match="image 3"):
        ag.RaggedBatch.from_bytes(encoded)


GOOD = np.zeros((2, 3, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (GOOD.astype(np.float32), TypeError, "float32"),
        (GOOD.astype(np.int64), TypeError, "int64"),
        (GOOD.astype(bool), TypeError, "bool"),
        (torch.zeros(3, 2, 3), TypeError, "torch.float32"),
        (torch.zeros(3, 2, 3, dtype=torch.int8), TypeError, "torch.int8"),
        (GOOD.tolist(), TypeError, "list"),
        (None, TypeError, "NoneType"),
        (b"bytes", TypeError, "bytes"),
        (Image.new("RGB", (2, 2)), TypeError, "Image"),  # from_images takes arrays and tensors; collate takes these
        (GOOD[:0], ValueError, r"\(0, 3, 3\)"),
        (GOOD[:, :0], ValueError, r"\(2, 0, 3\)"),
        (GOOD[..., :0], ValueError, r"\(2, 3, 0\)"),
        (GOOD[None], ValueError, r"\(1, 2, 3, 3\)"),
        (GOOD[0, 0], ValueError, r"\(3,\)"),
        (np.array(3, dtype=np.uint8), ValueError, r"\(\)"),
        (torch.zeros(3, 0, 3, dtype=torch.uint8), ValueError, r"\(3, 0, 3\)"),
        (torch.zeros(1, 3, 2, 3, dtype=torch.uint8), ValueError, r"\(1, 3, 2, 3\)"),
        (GOOD[..., :1], ValueError, "1 channels.*3"),
        (GOOD[..., 0], ValueError, "1 channels.*3"),
        (torch.zeros(4, 2, 3, dtype=torch.uint8), ValueError, "4 channels.*3"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Image.Image) else str(value),
)
def test_what_a_batch_cannot_hold_is_refused_by_name(bad: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s)image 2.*{message}"):
        ag.RaggedBatch.from_images([GOOD, GOOD, bad, GOOD])


def test_batches_may_be_compared_and_put_into_a_set(images: list[np.ndarray]) -> None:
    """As the parameter classes: by identity, not by tensors, whose comparison has no single answer."""
    one, other = ag.RaggedBatch.from_images(images), ag.RaggedBatch.from_images(images)
    assert one == one
    assert one != other
    assert len({one, other}) == 2
