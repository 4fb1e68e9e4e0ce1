"""cutout: holes where the papers put them, filled as the reference fills them, and no byte outside them touched."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import augment_gpu as ag
from augment_gpu.testing import check_augmentation

KEY = ag.Key(20171208, 2)
MANY = 200_000
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# The kernel takes the logarithm of (word + 1) / 2**32 in float32, which near 1 is off by up to 2**-25: a radius near 0
# is the square root of twice the distance to 1, and so off by up to sqrt(2 * 2**-25) = 2.4e-4. Twice that.
NOISE = 5e-4
# A rounding of the value: the interpreter cuts a bfloat16 off, a GPU rounds it.
NOISE_ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def holes(*boxes: Any, fill: Any = 0.0, seed: Any = None) -> ag.CutoutParams:
    box = np.array(boxes, dtype=np.int32).reshape(-1, 4)
    if seed is None:
        seed = np.random.default_rng(0).integers(0, 2**32, (len(box), 2), dtype=np.uint32)
    return ag.CutoutParams(box, seed, fill)


# For images of 17 × 47: a common one, one pixel in each of two corners, the whole, none, one that reaches the edge, one
# line, one column.
BOXES = [
    (5, 3, 17, 14),
    (0, 0, 1, 1),
    (46, 16, 47, 17),
    (0, 0, 47, 17),
    (9, 9, 9, 9),
    (10, 8, 43, 17),
    (0, 16, 47, 17),
    (20, 0, 21, 17),
]
FILLS = [-1.75, (0.5, -2.0, 7.25), "noise"]  # what every dtype can hold


def images_of(
    dtype: torch.dtype, memory_format: torch.memory_format, device: str, shape: Any = (8, 3, 17, 47)
) -> torch.Tensor:
    """Random bit patterns, every NaN among them: whoever writes back what he has read may change one."""
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(2**31), 2**31, shape, generator=generator)
    images = bits.to(BITS[dtype]).view(dtype)
    assert images.isnan().any()
    return images.to(device).contiguous(memory_format=memory_format)


def inside(params: ag.CutoutParams, shape: Any) -> torch.Tensor:
    """(B, 1, H, W) bool, by comparing coordinates."""
    _, _, height, width = shape
    y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
    masks = [(x >= x0) & (x < x1) & (y >= y0) & (y < y1) for x0, y0, x1, y1 in params.box.tolist()]
    return torch.stack(masks)[:, None]


def assert_as_reference(images: torch.Tensor, params: ag.CutoutParams) -> None:
    """cutout in place against the reference: close inside the holes, the same bits outside."""
    dtype, before = images.dtype, images.cpu().clone()
    wanted = ag.cutout_reference(before, params)
    assert torch.equal(before.view(BITS[dtype]), images.cpu().view(BITS[dtype])), "the reference changed its input"
    assert ag.cutout(images, params) is images
    result, hole = images.cpu(), inside(params, images.shape).expand(images.shape)
    assert torch.equal(result[~hole].view(BITS[dtype]), before[~hole].view(BITS[dtype])), "a byte outside was changed"
    if params.fill == "noise":
        error = (result - wanted).abs()[hole].double() - NOISE_ROUNDING[dtype] * wanted[hole].abs().double()
        assert error.max() <= NOISE
    else:
        assert torch.equal(result[hole], wanted[hole])


@pytest.mark.parametrize("fill", FILLS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_hole_equals_the_reference(
    fill: Any, dtype: torch.dtype, memory_format: torch.memory_format, device: str
) -> None:
    images = images_of(dtype, memory_format, device)
    assert_as_reference(images, holes(*BOXES, fill=fill))
    assert images.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_noise_fills_up_to_four_channels(channels: int, device: str) -> None:
    shape = (2, channels, 17, 19)
    images = images_of(torch.float32, torch.contiguous_format, device, shape)
    assert_as_reference(images, holes((3, 2, 19, 17), (0, 0, 1, 17), fill="noise"))


@pytest.mark.parametrize("fill", [0.5, "noise"])
@pytest.mark.parametrize("width", [1, 63, 64, 65, 200])  # within, at and over the edges of tiles of 64 columns
def test_holes_of_any_width_equal_the_reference(width: int, fill: Any, device: str) -> None:
    images = images_of(torch.float32, torch.contiguous_format, device, (2, 3, 9, 203))
    assert_as_reference(images, holes((2, 0, 2 + width, 9), (201, 4, 202, 5), fill=fill))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_holes_that_begin_and_end_anywhere_in_a_wide_store_equal_the_reference(
    dtype: torch.dtype, memory_format: torch.memory_format, device: str
) -> None:
    """A wide store takes 4 or 8 elements; lines of 48 pixels begin where one does, in either layout."""
    ends = (0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 48)
    boxes = [(x0, 0, x1, 2) for x0 in ends for x1 in ends if x0 < x1]
    images = images_of(dtype, memory_format, device, (len(boxes), 3, 3, 48))
    assert_as_reference(images, holes(*boxes, fill=(0.5, -2.0, 7.25)))


@pytest.mark.parametrize("fill", [0.5, "noise"])
@pytest.mark.parametrize(("height", "width"), [(300, 5), (5, 700)])
def test_holes_larger_than_all_programs_take_at_once_equal_the_reference(
    height: int, width: int, fill: Any, device: str
) -> None:
    images = images_of(torch.float16, torch.contiguous_format, device, (1, 3, height, width))
    assert_as_reference(images, holes((1, 1, width, height), fill=fill))


@pytest.mark.parametrize("fill", [0.5, "noise"])
def test_the_launch_depends_on_the_shape_alone(fill: Any, kernel_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a captured graph can be replayed with other holes: the grid and all that is no table stays as it was."""
    from augment_gpu.kernels import cutout as kernel

    launches: list[Any] = []

    def launch(kernel: Any, programs: int, tensors: Any, *others: Any, num_warps: int) -> None:
        launches.append((kernel.fn.__name__, programs, others, num_warps))

    monkeypatch.setattr(kernel, "launch", launch)
    images = torch.zeros(2, 3, 33, 47, device=kernel_device)
    for boxes in ([(0, 0, 47, 33), (1, 2, 3, 4)], [(5, 5, 5, 5), (9, 9, 9, 9)]):
        ag.cutout(images, holes(*boxes, fill=fill))
    assert len(launches) == 2
    assert launches[0] == launches[1]
    ag.cutout(images[:0], holes(fill=fill))
    assert len(launches) == 2, "an empty batch launches nothing"


def test_a_hole_is_where_its_box_says(device: str) -> None:
    """Small enough to check by eye: columns 1 and 2 of rows 0 and 1, and one pixel of the other image."""
    images = torch.ones(2, 1, 3, 4, device=device)
    ag.cutout(images, holes((1, 0, 3, 2), (3, 2, 4, 3)))
    first = [[1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    second = [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert images[:, 0].tolist() == [first, second]


@pytest.mark.parametrize("fill", [[1.0, 2.0, 3.0], (1.0, 2.0, 3.0)])
def test_each_channel_may_have_its_own_fill(fill: Any, device: str) -> None:
    images = torch.zeros(1, 3, 2, 2, device=device)
    ag.cutout(images, holes((0, 0, 2, 1), fill=fill))
    assert images[0, :, 0].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert not images[0, :, 1].any()


@pytest.mark.parametrize("fill", [0.5, "noise"])
def test_nothing_around_a_part_of_a_tensor_is_touched(fill: Any, device: str) -> None:
    """Images that are a part of a larger tensor, with rows, channels, lines and columns that are not theirs."""
    around = torch.full((4, 5, 12, 15), 77.0, device=device)
    images = around[1:3, 1:4, 2:10, 3:12]
    ag.cutout(images, holes((0, 0, 9, 8), (4, 3, 9, 8), fill=fill))
    assert not (images[0] == 77).any()
    images.fill_(77)
    assert (around == 77).all()


@pytest.mark.parametrize("fill", [0.5, "noise"])
@pytest.mark.parametrize("shape", [(0, 3, 33, 47), (2, 3, 33, 47)])
def test_without_holes_nothing_happens(shape: Any, fill: Any, device: str) -> None:
    """An empty batch, and one all of whose holes are empty, at several places."""
    images = torch.ones(shape, device=device)
    params = holes(*[(47, 33, 47, 33), (3, 3, 9, 3)][: shape[0]], fill=fill)
    assert ag.cutout(images, params) is images
    assert images.shape == shape
    assert (images == 1).all()
    assert ag.cutout_reference(images.cpu(), params).shape == shape


@pytest.mark.parametrize("fill", [0.5, "noise"])
@pytest.mark.parametrize(
    ("dtype", "memory_format"), [(torch.float32, torch.contiguous_format), (torch.float16, torch.channels_last)]
)
@pytest.mark.parametrize("sampler", ["cutout", "random_erasing"])
def test_cutout_keeps_every_ops_promises(
    sampler: str, dtype: torch.dtype, memory_format: torch.memory_format, fill: Any, device: str
) -> None:
    def sample(key: ag.Key, index: np.ndarray) -> ag.CutoutParams:
        if sampler == "cutout":
            return ag.sample_cutout(key, index, size=11, length=6, fill=fill)
        return ag.sample_random_erasing(key, index, size=11, p=1.0, fill=fill)

    atol = NOISE + 4 * NOISE_ROUNDING[dtype] if fill == "noise" else 0.0  # normal numbers up to 4
    check_augmentation(
        ag.cutout,
        sample,
        ag.cutout_reference,
        size=(11, 11),
        dtype=dtype,
        device=device,
        memory_format=memory_format,
        in_place=True,
        atol=atol,
    )


def test_a_fill_may_be_an_array(device: str) -> None:
    images = torch.zeros(1, 3, 9, 9, device=device)
    ag.cutout(images, holes((1, 2, 5, 7), fill=np.array([1.0, 2.0, 3.0])))
    assert images[0, :, 2, 1].tolist() == [1, 2, 3]


def test_integers_of_any_kind_may_be_boxes_and_seeds(device: str) -> None:
    """NumPy's plain integers are int64; the kernel must not read them as something else."""
    images = torch.zeros(2, 3, 9, 9, device=device)
    plain = ag.CutoutParams(np.array([(1, 2, 5, 7), (0, 0, 9, 9)]), np.array([(1, 2), (2**32 - 1, 3)]), "noise")
    wanted = ag.cutout_reference(images.cpu(), holes(*plain.box, seed=plain.seed.astype(np.uint32), fill="noise"))
    torch.testing.assert_close(ag.cutout(images, plain).cpu(), wanted, rtol=0, atol=NOISE)


# --------------------------------------------------------------------------------------------------------------- noise


def noise_of(seed: Any, height: int = 500, width: int = 500, channels: int = 4) -> torch.Tensor:
    images = torch.zeros(1, channels, height, width, dtype=torch.float64)
    return ag.cutout_reference(images, holes((0, 0, width, height), seed=np.array([seed], np.uint32), fill="noise"))[0]


def test_noise_is_standard_normal() -> None:
    """Mean 0, variance 1, skewness 0, kurtosis 3, each within four standard errors; and the whole distribution."""
    noise = noise_of((123, 456)).reshape(4, -1)
    n = noise.shape[1]
    for channel in noise:
        assert abs(float(channel.mean())) < 4 / math.sqrt(n)
        assert abs(float((channel**2).mean()) - 1) < 4 * math.sqrt(2 / n)  # the variance of x² is 2, of x³ 15, of x⁴ 96
        assert abs(float((channel**3).mean())) < 4 * math.sqrt(15 / n)
        assert abs(float((channel**4).mean()) - 3) < 4 * math.sqrt(96 / n)
        grid = torch.linspace(-5, 5, 2001, dtype=torch.float64)
        share = torch.searchsorted(channel.sort().values, grid, right=True) / n
        cdf = 0.5 * (1 + torch.erf(grid / math.sqrt(2)))
        assert float((share - cdf).abs().max()) * math.sqrt(n) < 1.95  # exceeded once in a thousand


def test_noise_is_independent_between_channels_neighbours_and_seeds() -> None:
    """Correlations of the values, and of their squares (channels share a radius), within four standard errors."""
    noise = noise_of((123, 456))
    pairs = [(noise[a], noise[b]) for a in range(4) for b in range(a)]
    pairs += [(noise[:, 1:], noise[:, :-1]), (noise[:, :, 1:], noise[:, :, :-1])]
    pairs += [(noise, noise_of((124, 456))), (noise, noise_of((123, 457))), (noise, noise_of((456, 123)))]
    for first, second in pairs:
        for a, b in ((first, second), (first**2, second**2)):
            correlation = np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]
            assert abs(correlation) < 4 / math.sqrt(a.numel())


def test_noise_depends_on_seed_and_position_alone(device: str) -> None:
    """A hole within a larger hole of the same seed, in another row of another batch, shows the same noise."""
    seed = np.array([(7, 8), (5, 6), (7, 8)], dtype=np.uint32)
    images = ag.cutout(
        torch.zeros(3, 3, 20, 30, device=device),
        holes((0, 0, 30, 20), (0, 0, 30, 20), (11, 7, 23, 15), seed=seed, fill="noise"),
    )
    assert torch.equal(images[2, :, 7:15, 11:23], images[0, :, 7:15, 11:23])
    assert not torch.equal(images[1], images[0])


def test_noise_is_drawn_by_key_and_index_alone() -> None:
    index = np.array([5, 0, 2**40, 7])
    for sample in (ag.sample_cutout, ag.sample_random_erasing):
        seed = sample(KEY, index, p=1.0, fill="noise").seed
        assert seed.shape == (4, 2)
        assert len(np.unique(seed)) == seed.size
        np.testing.assert_array_equal(sample(KEY, index[::-1], p=1.0, fill="noise").seed, seed[::-1])
        np.testing.assert_array_equal(sample(KEY, index[2:3], p=1.0, fill="noise").seed[0], seed[2])
        for other in (ag.Key(KEY.seed, KEY.epoch + 1), ag.Key(KEY.seed + 1, KEY.epoch)):
            assert not (sample(other, index, p=1.0, fill="noise").seed == seed).any()


# ------------------------------------------------------------------------------------------------------------ samplers


def covered(size: int, length: int) -> float:
    """The mean number of columns that a hole of `length` covers, its centre c uniform over the `size` columns: the hole
    is [c - length // 2, c - length // 2 + length), of which only what lies in the image counts."""
    starts = [c - length // 2 for c in range(size)]
    return sum(min(start + length, size) - max(start, 0) for start in starts) / size


@pytest.mark.parametrize(("size", "length"), [(224, 112), (32, 16), (33, 17), (33, 16), (32, 1), (8, 11)])
def test_the_mean_area_of_cutout_is_that_of_clipped_squares(size: int, length: int) -> None:
    box = ag.sample_cutout(KEY, np.arange(MANY), size=size, length=length).box.astype(np.int64)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    # columns and rows are independent, so the mean area is the product; four standard errors
    assert abs(area.mean() - covered(size, length) ** 2) <= 4 * area.std() / math.sqrt(MANY)
    if length == 16:  # by hand: 8 of 32 (33) centres lose 8, 7 … 1 columns on the left, 7 lose 1 … 7 on the right
        assert covered(size, length) == 16 - (36 + 28) / size
    assert box[:, 0].min() == 0
    assert box[:, 2].max() == size


def test_the_centre_of_cutout_is_uniform_over_all_pixels() -> None:
    """A hole of one pixel is its centre: chi-square of 49 places, mean 48, above 84.0 once in a thousand."""
    box = ag.sample_cutout(KEY, np.arange(MANY), size=7, length=1).box
    np.testing.assert_array_equal(box[:, 2:] - box[:, :2], 1)
    count = np.bincount(box[:, 1] * 7 + box[:, 0], minlength=49)
    assert count.size == 49
    assert ((count - MANY / 49) ** 2 / (MANY / 49)).sum() < 84.0


@pytest.mark.parametrize(("size", "length"), [(1, 1), (1, 5), (5, 10), (5, 99)])
def test_a_length_of_twice_the_size_covers_everything(size: int, length: int) -> None:
    box = ag.sample_cutout(KEY, np.arange(100), size=size, length=length).box
    np.testing.assert_array_equal(box, np.tile([0, 0, size, size], (100, 1)))


@pytest.mark.parametrize("sample", [ag.sample_cutout, ag.sample_random_erasing])
@pytest.mark.parametrize("p", [0.0, 0.25, 0.6, 1.0])
def test_the_share_of_holes_is_the_probability(sample: Any, p: float) -> None:
    box = sample(KEY, np.arange(MANY), p=p).box
    hole = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    # four standard errors of a share, none at 0 and 1 (ten tries fail with a chance of 1e-8)
    assert abs(hole.mean() - p) <= 4 * math.sqrt(p * (1 - p) / MANY)
    np.testing.assert_array_equal(box[~hole], 0)


@pytest.mark.parametrize("sample", [ag.sample_cutout, ag.sample_random_erasing])
def test_whether_there_is_a_hole_does_not_depend_on_where(sample: Any) -> None:
    """The holes at p = 0.3 are some of the holes at p = 1, with the same boxes, and no selection by place or size."""
    everything, some = (sample(KEY, np.arange(20_000), p=p).box for p in (1.0, 0.3))
    hole = some[:, 2] > 0
    np.testing.assert_array_equal(some[hole], everything[hole])
    for values in everything.T.astype(float):
        chosen, others = values[hole], values[~hole]
        error = math.sqrt(chosen.var() / len(chosen) + others.var() / len(others))
        assert abs(chosen.mean() - others.mean()) < 4 * error
    area = (everything[:, 2] - everything[:, 0]) * (everything[:, 3] - everything[:, 1])
    assert abs(np.corrcoef(area, hole)[0, 1]) < 4 / math.sqrt(len(area))


@pytest.mark.parametrize("sample", [ag.sample_cutout, ag.sample_random_erasing])
def test_a_row_alone_equals_its_row_in_the_batch(sample: Any) -> None:
    index = np.array([5, 0, 2**40, 7, 2**63 - 1, 12])
    for epoch in range(20):
        together = sample(ag.Key(1, epoch), index, p=0.5).box
        np.testing.assert_array_equal(sample(ag.Key(1, epoch), index[::-1], p=0.5).box, together[::-1])
        for i in range(len(index)):
            np.testing.assert_array_equal(sample(ag.Key(1, epoch), index[i : i + 1], p=0.5).box[0], together[i])


@pytest.mark.parametrize("sample", [ag.sample_cutout, ag.sample_random_erasing])
@pytest.mark.parametrize("fill", [0.0, "noise"])
def test_samplers_give_the_documented_types(sample: Any, fill: Any) -> None:
    for index in ([], [3], [3, 4]):
        params = sample(KEY, index, p=0.5, fill=fill)
        assert params.box.shape == (len(index), 4)
        assert params.seed.shape == (len(index), 2)
        assert (params.box.dtype, params.seed.dtype) == (np.int32, np.uint32)
        assert len(params) == len(index)
        assert params.fill == fill


def timm_boxes(count: int, size: int, **options: Any) -> np.ndarray:
    """(count, 4) x0 y0 x1 y1, as timm's RandomErasing draws them: read from what it erases."""
    import random

    from timm.data.random_erasing import RandomErasing

    erase = RandomErasing(probability=1.0, device="cpu", **options)
    boxes = []
    state = random.getstate()
    try:
        random.seed(0)
        for _ in range(count):
            hole = erase(torch.ones(1, size, size))[0] == 0
            rows, columns = hole.any(1).nonzero()[:, 0], hole.any(0).nonzero()[:, 0]
            empty = len(rows) == 0
            boxes.append([0] * 4 if empty else [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1])
    finally:
        random.setstate(state)
    return np.array(boxes)


def features(box: np.ndarray) -> dict[str, np.ndarray]:
    x0, y0, x1, y1 = box[box[:, 2] > box[:, 0]].T.astype(np.float64)
    width, height = x1 - x0, y1 - y0
    aspect = np.log(height / width)
    return {"area": width * height, "aspect": aspect, "width": width, "height": height, "left": x0, "top": y0}


@pytest.mark.parametrize(
    ("size", "theirs", "ours"),
    [
        (64, {}, {}),
        (33, {"min_area": 0.2, "max_area": 0.9}, {"scale": (0.2, 0.9)}),  # many of ten tries fail
        (48, {"min_area": 0.1, "min_aspect": 0.5, "max_aspect": 3.0}, {"scale": (0.1, 1 / 3), "ratio": (0.5, 3.0)}),
    ],
)
def test_random_erasing_is_distributed_as_timms(size: int, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    count = 4000
    box = ag.sample_random_erasing(KEY, np.arange(MANY), size=size, p=1.0, **ours).box
    timm = timm_boxes(count, size, **theirs)
    share, timm_share = (box[:, 2] > 0).mean(), (timm[:, 2] > 0).mean()
    assert abs(share - timm_share) <= 4 * math.sqrt(share * (1 - share) / count) + 1 / count
    first, second = features(box), features(timm)
    for name, values in first.items():
        error = math.sqrt(second[name].var() * (1 / len(second[name]) + 1 / len(values)))
        assert abs(values.mean() - second[name].mean()) <= 4 * error, name
        grid = np.unique(second[name])
        shares = [np.searchsorted(np.sort(draws), grid, side="right") / len(draws) for draws in (values, second[name])]
        # Kolmogorov and Smirnov's limit, exceeded once in a thousand
        assert np.abs(shares[0] - shares[1]).max() * math.sqrt(count * MANY / (count + MANY)) < 1.95, name


@pytest.mark.parametrize("size", [1, 2, 17, 224])  # 1: a hole must be smaller than the image, so there is none
def test_random_erasing_stays_inside(size: int) -> None:
    x0, y0, x1, y1 = ag.sample_random_erasing(KEY, np.arange(20_000), size=size, p=1.0, scale=(0.02, 1.0)).box.T
    assert (x0 >= 0).all()
    assert (y0 >= 0).all()
    assert (x1 <= size).all()
    assert (y1 <= size).all()
    assert (x0 <= x1).all()
    assert (y0 <= y1).all()


def test_random_erasing_reaches_every_place() -> None:
    """A square of 3 in 5 × 5 pixels: 9 places, chi-square with mean 8, above 26.1 once in a thousand."""
    area = 9 / 25
    box = ag.sample_random_erasing(KEY, np.arange(MANY), size=5, p=1.0, scale=(area, area), ratio=(1, 1)).box
    np.testing.assert_array_equal(box[:, 2:] - box[:, :2], 3)
    count = np.bincount(box[:, 1] * 3 + box[:, 0], minlength=9)
    assert count.size == 9
    assert ((count - MANY / 9) ** 2 / (MANY / 9)).sum() < 26.1


def test_take_gives_the_named_rows_in_order() -> None:
    params = holes(*BOXES, fill="noise").take([2, 0, 2])
    np.testing.assert_array_equal(params.box, [BOXES[2], BOXES[0], BOXES[2]])
    np.testing.assert_array_equal(params.seed[0], params.seed[2])
    assert params.fill == "noise"
    assert len(params.take([])) == 0


# -------------------------------------------------------------------------------------------------------------- errors


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("sample", "options", "named"),
    [
        (ag.sample_cutout, {"length": 0}, "length is 0"),
        (ag.sample_cutout, {"length": -3}, "length is -3"),
        (ag.sample_cutout, {"size": 0}, "size is 0"),
        (ag.sample_cutout, {"size": -2}, "size is -2"),
        (ag.sample_cutout, {"p": 1.5}, "p is 1.5"),
        (ag.sample_cutout, {"p": -0.5}, "p is -0.5"),
        (ag.sample_cutout, {"p": NAN}, "p is nan"),
        (ag.sample_random_erasing, {"p": 1.5}, "p is 1.5"),
        (ag.sample_random_erasing, {"p": -0.5}, "p is -0.5"),
        (ag.sample_random_erasing, {"p": NAN}, "p is nan"),
        (ag.sample_random_erasing, {"size": 0}, "size is 0"),
        (ag.sample_random_erasing, {"scale": (0.0, 0.5)}, "scale"),
        (ag.sample_random_erasing, {"scale": (0.5, 0.2)}, "scale"),
        (ag.sample_random_erasing, {"scale": (0.5, NAN)}, "scale"),
        (ag.sample_random_erasing, {"scale": (0.5, INF)}, "scale"),
        (ag.sample_random_erasing, {"ratio": (-1, 1)}, "ratio"),
        (ag.sample_random_erasing, {"ratio": (3.0, 0.3)}, "ratio"),
        (ag.sample_random_erasing, {"ratio": (0.3, INF)}, "ratio"),
    ],
)
def test_a_bad_argument_of_a_sampler_is_named(sample: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        sample(KEY, np.arange(20), **options)


@pytest.mark.parametrize(
    "box", [(-1, 0, 3, 3), (0, -1, 3, 3), (0, 0, 48, 3), (0, 0, 3, 34), (5, 0, 3, 3), (0, 5, 3, 3), (40, 30, 50, 40)]
)
def test_a_hole_outside_is_refused_by_row_before_anything_is_written(box: Any, device: str) -> None:
    images = torch.ones(2, 3, 33, 47, device=device)
    with pytest.raises(ValueError, match="row 1"):
        ag.cutout(images, holes((0, 0, 3, 3), box))
    assert (images == 1).all()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.ones(1, 3, 9, 9, dtype=torch.uint8), {}, "torch.uint8"),
        (torch.ones(1, 3, 9, 9, dtype=torch.int64), {}, "torch.int64"),
        (torch.ones(3, 9, 9), {}, r"\(3, 9, 9\)"),
        (torch.ones(2, 3, 9, 9), {}, "1 holes for 2 images"),
        (torch.ones(0, 3, 9, 9), {}, "1 holes for 0 images"),
        (torch.ones(1, 3, 9, 9), {"seed": np.zeros((2, 2), np.uint32)}, "one a row"),
        (torch.ones(1, 3, 9, 9), {"seed": np.zeros((1, 4), np.uint32)}, "one a row"),
        (torch.ones(1, 5, 9, 9), {"fill": "noise"}, "5 channels"),
        (torch.ones(1, 3, 9, 9), {"fill": "Noise"}, "Noise"),
        (torch.ones(1, 3, 9, 9), {"fill": (1.0, 2.0)}, "fill"),
        (torch.ones(1, 3, 9, 9), {"fill": [[1.0, 2.0, 3.0]]}, "fill"),
        (torch.ones(1, 1, 9, 9), {"fill": (1.0, 2.0, 3.0)}, "fill"),
    ],
    ids=str,
)
def test_what_cutout_cannot_do_is_refused(images: torch.Tensor, options: dict[str, Any], message: str) -> None:
    before = images.clone()
    with pytest.raises(ValueError, match=message):
        ag.cutout(images, holes((0, 0, 3, 3), **options))
    assert torch.equal(images, before)
