"""mixup and cutmix: against their references, the Beta distribution, and counted pixels."""

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import augment_gpu as ag
from augment_gpu import apply_mix
from augment_gpu.ops import mix
from augment_gpu.ops.mix_draws import MixParams, sample_partners, shard
from augment_gpu.testing import check_augmentation

# Half a unit in the last place of a number in [0.5, 1): the result is rounded once. float32 computes λ·a + (1 − λ)·b
# with three roundings of its own; they are in the others' tolerances too.
FLOAT32 = 3 * 2.0**-25
TOLERANCE = {torch.float32: FLOAT32, torch.float16: 2.0**-12 + FLOAT32, torch.bfloat16: 2.0**-9 + FLOAT32}
# Triton's interpreter cuts a bfloat16 off, which errs by up to a whole unit; a GPU and torch round it.
INTERPRETED = TOLERANCE | {torch.bfloat16: 2.0**-8 + FLOAT32}
# 2 is the smallest batch with a partner; odd and even; 17 is no multiple of a vector's width.
BATCHES = (2, 3, 7, 17)
MANY = 20_000  # samples of a distribution

SAMPLERS: dict[str, Callable[..., Any]] = {
    "mixup": lambda key, index, **options: ag.sample_mixup(key, index, **options),
    # The size at which the pictures below are cut.
    "cutmix": lambda key, index, **options: ag.sample_cutmix(key, index, **{"size": 17, **options}),
}
REFERENCES: dict[str, Callable[..., torch.Tensor]] = {"mixup": ag.mixup_reference, "cutmix": ag.cutmix_reference}
kinds = pytest.mark.parametrize("kind", ["mixup", "cutmix"])


def pictures(batch: int, dtype: torch.dtype = torch.float32, channels_last: bool = False) -> torch.Tensor:
    """(batch, 3, 17, 17) in [0, 1)."""
    values = torch.rand(batch, 3, 17, 17, generator=torch.Generator().manual_seed(1)).to(dtype)
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


def tolerance(dtype: torch.dtype, device: str) -> float:
    interpreted = device == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    return (INTERPRETED if interpreted else TOLERANCE)[dtype]


def row_pictures(batch: int) -> torch.Tensor:
    """(batch, 1, 17, 17): every pixel of row i is i, so a mean tells what came from where."""
    return torch.arange(batch, dtype=torch.float32)[:, None, None, None].repeat(1, 1, 17, 17)


# ---- against the references


@kinds
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_equal_the_reference(
    kind: str, batch: int, dtype: torch.dtype, channels_last: bool, device: str
) -> None:
    images = pictures(batch, dtype, channels_last).to(device)
    before = images.clone()
    params = SAMPLERS[kind](ag.Key(3), np.arange(batch) + 40, alpha=1.0)
    mixed = apply_mix(images, params)
    assert mixed.dtype == dtype
    assert mixed.device == images.device
    assert torch.equal(images, before), "mixing changed its input"
    exact = REFERENCES[kind](images.double(), params)
    torch.testing.assert_close(mixed.double(), exact, rtol=0, atol=tolerance(dtype, device))


# One pixel; a line that a wide load overruns; lines and rows that no vector's width divides; rows that every one does,
# of more elements than one program takes; as many channels as ever; one channel, which is both memory formats.
SHAPES = [(3, 1, 1), (1, 1, 17), (3, 33, 47), (3, 32, 64), (4, 5, 1), (1, 33, 47)]
# Boxes whose edges lie on a wide load's edge and beside it, a single pixel, a line, a column, everything and nothing.
SHARES = [
    (0, 0, 1, 1),
    (0.25, 0.5, 0.5, 1),
    (0.26, 0.1, 0.9, 0.6),
    (0, 0, 1, 0.1),
    (0.5, 0, 0.55, 1),
    (0.5, 0.5, 0.5, 1),
]


def boxes_of(height: int, width: int) -> np.ndarray:
    return np.array(
        [
            [round(x0 * width), round(y0 * height), math.ceil(x1 * width), round(y1 * height)]
            for x0, y0, x1, y1 in SHARES
        ]
    )


@kinds
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_of_any_shape_equal_the_reference(
    kind: str, shape: Any, dtype: torch.dtype, channels_last: bool, device: str
) -> None:
    """With rows beyond the parameters, and a row that stays as it is."""
    images = torch.rand(8, *shape, generator=torch.Generator().manual_seed(4)).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    partner, lam = [7, 0, 1, 6, 2, 3], [0.0, 0.25, 0.5, 0.75, 0.3, 1.0]
    params: MixParams = ag.MixupParams(partner, lam)
    if kind == "cutmix":
        params = ag.CutmixParams(partner, lam, boxes_of(*shape[1:]))
    mixed = apply_mix(images.to(device), params)
    assert mixed.stride() == images.stride()
    exact = REFERENCES[kind](images.double(), params)
    torch.testing.assert_close(mixed.cpu().double(), exact, rtol=0, atol=tolerance(dtype, device))


@kinds
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")  # the interpreter's NumPy
def test_a_row_that_stays_keeps_every_bit(
    kind: str, dtype: torch.dtype, channels_last: bool, kernel_device: str
) -> None:
    """In the kernel: random bit patterns, NaNs, infinities and the zeros' signs among them, beside such a partner."""
    bits = {4: torch.int32, 2: torch.int16}[dtype.itemsize]
    images = torch.randint(-(2**31), 2**31, (3, 3, 17, 32), generator=torch.Generator().manual_seed(5)).to(bits)
    images[:, :, :2] = torch.zeros(1).neg().to(dtype).view(bits)
    images = images.view(dtype)
    assert images.isnan().any()
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    params: MixParams = ag.MixupParams([1, 2, 0], np.ones(3))
    if kind == "cutmix":
        params = ag.CutmixParams([1, 2, 0], np.ones(3), np.zeros((3, 4)))
    mixed = apply_mix(images.to(kernel_device), params)
    assert torch.equal(mixed.cpu().view(bits), images.view(bits))


@kinds
def test_every_element_is_written_and_none_beyond(
    kind: str, kernel_device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output is a part of a larger tensor, all of it 77 before."""
    around = torch.full((5, 3, 17, 17), 77.0, device=kernel_device)
    monkeypatch.setattr(mix, "_like_rows", lambda values, partner: around[1 : 1 + len(partner)])
    images = pictures(4).to(kernel_device)
    params = shard(SAMPLERS[kind](ag.Key(1), np.arange(4), alpha=1.0), np.arange(3), np.arange(4))
    mixed = apply_mix(images, params)
    assert mixed.data_ptr() == around[1].data_ptr()
    exact = REFERENCES[kind](images.double(), params)
    torch.testing.assert_close(mixed.double(), exact, rtol=0, atol=FLOAT32)
    assert (around[0] == 77).all()
    assert (around[4:] == 77).all()


@kinds
def test_rows_of_another_layout_are_mixed_as_they_are_seen(kind: str, device: str) -> None:
    """Every other row; a part of each line; height and width exchanged; one picture seen many times."""
    images = torch.rand(10, 3, 17, 34, generator=torch.Generator().manual_seed(6)).to(device)
    params = SAMPLERS[kind](ag.Key(1), np.arange(5), alpha=1.0)
    for view in (images[::2, :, :, :17], images[::2], images[:5].mT, images[:1].expand(5, -1, -1, -1)):
        exact = REFERENCES[kind](view.double(), params)
        torch.testing.assert_close(apply_mix(view, params).double(), exact, rtol=0, atol=FLOAT32)


@kinds
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_targets_equal_the_reference(kind: str, batch: int, dtype: torch.dtype, device: str) -> None:
    targets = torch.rand(batch, 5, generator=torch.Generator().manual_seed(2)).to(device, dtype)
    params = SAMPLERS[kind](ag.Key(3), np.arange(batch), alpha=1.0)
    mixed = apply_mix(targets, params)
    assert mixed.dtype == dtype
    exact = REFERENCES[kind](targets.double(), params)
    torch.testing.assert_close(mixed.double(), exact, rtol=0, atol=tolerance(dtype, device))


@kinds
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_memory_format_is_kept(kind: str, channels_last: bool, device: str) -> None:
    params = SAMPLERS[kind](ag.Key(0), np.arange(7), alpha=1.0)
    mixed = apply_mix(pictures(7, torch.bfloat16, channels_last).to(device), params)
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert mixed.is_contiguous(memory_format=wanted)


@kinds
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_promises_of_an_op_hold(
    kind: str, dtype: torch.dtype, memory_format: torch.memory_format, device: str
) -> None:
    check_augmentation(
        apply_mix,
        lambda key, index: SAMPLERS[kind](key, index, alpha=1.0),
        REFERENCES[kind],
        size=(17, 17),
        dtype=dtype,
        device=device,
        memory_format=memory_format,
        alone=False,  # a row alone is its own partner
    )


def test_mixup_of_four_numbers_by_hand(device: str) -> None:
    params = ag.MixupParams(np.array([1, 0]), np.array([0.25, 0.5], dtype=np.float32))
    mixed = ag.mixup(torch.tensor([[0.0, 8.0], [4.0, 0.0]], device=device), params)
    # 0.25·0 + 0.75·4 and 0.25·8 + 0.75·0; then halves of the two rows
    assert mixed.tolist() == [[3.0, 2.0], [2.0, 4.0]]


def test_cutmix_of_a_three_by_three_picture_by_hand(device: str) -> None:
    box = np.array([[1, 0, 3, 2], [0, 0, 0, 0]], dtype=np.int32)
    params = ag.CutmixParams(np.array([1, 0]), np.array([5 / 9, 1], dtype=np.float32), box)
    images = torch.stack([torch.zeros(1, 3, 3), torch.ones(1, 3, 3)]).to(device)
    mixed = ag.cutmix(images, params)
    assert mixed[0, 0].tolist() == [[0, 1, 1], [0, 1, 1], [0, 0, 0]]
    assert torch.equal(mixed[1], images[1])


def test_cutmix_on_a_picture_that_is_not_square_cuts_columns_by_x_and_rows_by_y(device: str) -> None:
    # 2 × 5: x and y cannot be confused
    params = ag.CutmixParams(np.array([1, 1]), np.ones(2, dtype=np.float32), np.array([[3, 0, 5, 1], [0, 0, 0, 0]]))
    mixed = ag.cutmix(torch.stack([torch.zeros(1, 2, 5), torch.ones(1, 2, 5)]).to(device), params)
    assert mixed[0, 0].tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]


@kinds
def test_rows_beyond_the_parameters_are_partners_only(kind: str, device: str) -> None:
    images = pictures(5).to(device)
    whole = SAMPLERS[kind](ag.Key(1), np.arange(5), alpha=1.0)
    part = shard(whole, np.arange(2), np.arange(5))
    assert apply_mix(images, part).shape[0] == 2
    assert torch.equal(apply_mix(images, part), apply_mix(images, whole)[:2])


@kinds
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_batch_of_one_is_its_own_partner_and_stays_as_it_is(kind: str, dtype: torch.dtype, device: str) -> None:
    images = pictures(1, dtype).to(device)
    params = SAMPLERS[kind](ag.Key(0), [17], alpha=1.0)
    assert params.partner.tolist() == [0]
    assert torch.equal(apply_mix(images, params), images)
    ones = torch.ones(1, 4, dtype=dtype, device=device)
    assert torch.equal(apply_mix(ones, params), ones)


@kinds
@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_an_empty_batch_comes_back_empty(kind: str, mode: str, device: str) -> None:
    params = SAMPLERS[kind](ag.Key(0), [], alpha=1.0, mode=mode)
    assert len(params) == 0
    assert apply_mix(pictures(0, torch.float16).to(device), params).shape == (0, 3, 17, 17)
    assert apply_mix(pictures(2).to(device), params).shape == (0, 3, 17, 17)
    assert apply_mix(torch.empty(0, 9, device=device), params).shape == (0, 9)
    assert ag.mix_targets(torch.empty(0, dtype=torch.int64, device=device), params, 9).shape == (0, 9)


@kinds
def test_pictures_without_pixels_come_back(kind: str, device: str) -> None:
    params = SAMPLERS[kind](ag.Key(0), [0, 1], alpha=1.0)
    if kind == "cutmix":
        params = ag.CutmixParams(params.partner, params.lam, np.zeros((2, 4)))
    assert apply_mix(torch.empty(2, 3, 5, 0, device=device), params).shape == (2, 3, 5, 0)


# ---- partners


@pytest.mark.parametrize("batch", [2, 3, 17, 256])
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_partners_form_a_single_circle_through_the_batch(batch: int, seed: int) -> None:
    partner = sample_partners(ag.Key(seed, 5), np.arange(batch) * 7)
    row, visited = 0, []
    for _ in range(batch):
        visited.append(row)
        row = int(partner[row])
    assert row == 0
    assert sorted(visited) == list(range(batch))


def test_samples_that_occur_twice_still_form_a_circle() -> None:
    partner = sample_partners(ag.Key(0), np.array([4, 4, 4, 9, 9]))
    assert sorted(partner.tolist()) == [0, 1, 2, 3, 4]
    assert (partner != np.arange(5)).all()


@kinds
def test_partners_and_strengths_do_not_depend_on_the_order_of_the_samples(kind: str) -> None:
    index = np.array([100, 3, 2**40, 17, 8, 0, 51])
    shuffled = np.random.default_rng(0).permutation(7)
    one, other = (SAMPLERS[kind](ag.Key(7, 1), i, alpha=0.4) for i in (index, index[shuffled]))
    assert (index[shuffled][other.partner] == index[one.partner][shuffled]).all()
    assert (other.lam == one.lam[shuffled]).all()
    if kind == "cutmix":
        assert (other.box == one.box[shuffled]).all()


@pytest.mark.parametrize("key", [ag.Key(7, 2), ag.Key(8, 1)], ids=["epoch", "seed"])
def test_partners_change_with(key: ag.Key) -> None:
    index = np.arange(64)
    # Two random circles agree at a row with probability 1/63: about one row of 64.
    agree = sample_partners(ag.Key(7, 1), index) == sample_partners(key, index)
    assert agree.sum() < 8


def test_a_partner_is_uniform_over_the_others() -> None:
    index = np.array([5, 11, 12, 900, 2**33])
    partners = np.array([sample_partners(ag.Key(1, epoch), index) for epoch in range(2000)])
    for row in range(5):
        counts = np.bincount(partners[:, row], minlength=5)
        assert counts[row] == 0
        others = np.delete(counts, row)
        # χ² of 3 degrees of freedom exceeds 24 with probability 2.5e-5
        assert ((others - 500) ** 2 / 500).sum() < 24


# ---- λ


def beta_cdf(x: np.ndarray, alpha: float) -> np.ndarray:
    """P(λ <= x) for λ ~ Beta(alpha, alpha): the midpoint rule on ∫ t^(alpha − 1) (1 − t)^(alpha − 1) dt with
    u = t^alpha, which has no pole on [0, 1/2]; the other half by symmetry."""
    edges = np.linspace(0, 0.5**alpha, 20_001)
    middle = (edges[1:] + edges[:-1]) / 2
    slices = (1 - middle ** (1 / alpha)) ** (alpha - 1) * np.diff(edges) / alpha
    area = np.concatenate([[0], np.cumsum(slices)]) * math.gamma(2 * alpha) / math.gamma(alpha) ** 2
    assert area[-1] == pytest.approx(0.5, abs=1e-6)
    low = np.interp(np.minimum(x, 1 - x) ** alpha, edges, area)
    return np.where(x <= 0.5, low, 1 - low)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_lam_follows_the_beta_distribution(alpha: float) -> None:
    count = 200_000  # enough to tell a shape parameter that is off by a tenth
    lam = ag.sample_mixup(ag.Key(2), np.arange(count), alpha=alpha).lam
    assert lam.dtype == np.float32
    assert lam.min() >= 0
    assert lam.max() <= 1
    variance = 1 / (4 * (2 * alpha + 1))
    # 5 standard errors of the mean; of the variance, whose own spread is at most that of a value in [0, 1/4]
    assert lam.mean() == pytest.approx(0.5, abs=5 * math.sqrt(variance / count))
    assert lam.var() == pytest.approx(variance, abs=5 * 0.125 / math.sqrt(count))
    # Kolmogorov and Smirnov: √n · D exceeds 2.3 with probability 5e-5. Not beyond 0.999: 1.6 % of Beta(0.2, 0.2) lies
    # so close to 1 that float32 has no other number there, while it has plenty near 0.
    points = np.concatenate([np.geomspace(1e-12, 0.5, 500), np.linspace(0.5, 0.999, 500)])
    share = np.searchsorted(np.sort(lam.astype(np.float64)), points, side="right") / count
    assert np.abs(share - beta_cdf(points, alpha)).max() * math.sqrt(count) < 2.3


@kinds
def test_each_sample_has_a_lam_of_its_own_that_its_neighbours_do_not_change(kind: str) -> None:
    whole = SAMPLERS[kind](ag.Key(2, 9), np.arange(64), alpha=1.0)
    assert len(np.unique(whole.lam)) > 32
    alone = SAMPLERS[kind](ag.Key(2, 9), [11], alpha=1.0)
    assert alone.lam[0] == whole.lam[11]


@kinds
def test_in_batch_mode_there_is_one_lam_for_all_and_it_changes_with_the_epoch(kind: str) -> None:
    lams = [SAMPLERS[kind](ag.Key(2, epoch), np.arange(17), alpha=1.0, mode="batch").lam for epoch in range(50)]
    assert all((lam == lam[0]).all() for lam in lams)
    assert len({float(lam[0]) for lam in lams}) > 25


@kinds
def test_the_lam_of_a_batch_does_not_depend_on_the_order_of_its_samples(kind: str) -> None:
    index = np.array([44, 7, 12])
    forth, back = (SAMPLERS[kind](ag.Key(0), i, alpha=1.0, mode="batch") for i in (index, index[::-1]))
    assert (forth.lam == back.lam).all()


# ---- cutmix


@pytest.mark.parametrize("size", [1, 2, 17, 224])  # one pixel; the smallest with a border; odd; the usual
def test_lam_is_the_share_that_the_clipped_box_leaves_counted_in_pixels(size: int) -> None:
    rows = 200
    params = ag.sample_cutmix(ag.Key(4), np.arange(rows), alpha=1.0, size=size)
    replaced = np.zeros(rows, dtype=int)
    for row, (x0, y0, x1, y1) in enumerate(params.box.tolist()):
        image = np.zeros((size, size), dtype=bool)
        image[y0:y1, x0:x1] = True
        assert image.sum() == max(x1 - x0, 0) * max(y1 - y0, 0), "the box reaches past the image"
        replaced[row] = image.sum()
    assert (params.lam == (1 - replaced / size**2).astype(np.float32)).all()


def test_the_side_of_an_unclipped_box_is_the_root_of_one_minus_lam() -> None:
    """λ before the correction is mixup's, of the same stream; its 1 − λ has Beta(1, 1)'s mean of 1/2."""
    before = ag.sample_mixup(ag.Key(4), np.arange(MANY), alpha=1.0).lam.astype(np.float64)
    assert (1 - before).mean() == pytest.approx(0.5, abs=5 / math.sqrt(12 * MANY))
    box = ag.sample_cutmix(ag.Key(4), np.arange(MANY), alpha=1.0, size=224).box
    inside = (box[:, :2] > 0).all(axis=1) & (box[:, 2:] < 224).all(axis=1)
    width, height = (box[inside, 2:] - box[inside, :2]).T
    assert inside.sum() > 1000
    assert (width == height).all()
    # float32 rounds λ, which moves the root across an integer now and then
    exact = 224 * np.sqrt(1 - before[inside])
    assert (np.abs(width - np.floor(exact)) <= (np.abs(exact - np.rint(exact)) < 1e-3)).all()


def test_the_mean_share_of_a_box_is_that_of_squares_clipped_at_a_uniform_centre() -> None:
    """By hand: for Beta(1, 1) a side s has probability ((s + 1)² − s²)/S²; a centre c covers S ∩ [c − s//2, …) each
    way."""
    size = 17
    sides, centers = np.arange(size), np.arange(size)
    start = centers - sides[:, None] // 2
    covered = (np.minimum(start + sides[:, None], size) - np.maximum(start, 0)).mean(axis=1)
    expected = ((2 * sides + 1) / size**2 * covered**2).sum() / size**2
    share = 1 - ag.sample_cutmix(ag.Key(6), np.arange(MANY), alpha=1.0, size=size).lam
    assert share.mean() == pytest.approx(expected, abs=5 * float(share.std()) / math.sqrt(MANY))


def test_the_centre_of_the_box_is_uniform_over_the_pixels_up_to_the_border() -> None:
    size = 16
    index = np.arange(MANY)
    side = np.floor(size * np.sqrt(1 - ag.sample_mixup(ag.Key(5), index, alpha=1.0).lam.astype(np.float64)))
    box = ag.sample_cutmix(ag.Key(5), index, alpha=1.0, size=size).box
    small = (side >= 2) & (side <= size // 2)  # such a box is clipped on one side at most, so its centre can be told
    for low, high in ((box[small, 0], box[small, 2]), (box[small, 1], box[small, 3])):
        s = side[small].astype(int)
        center = np.where(low > 0, low + s // 2, high - s + s // 2)
        counts = np.bincount(center, minlength=size)
        assert len(counts) == size
        # χ² of 15 degrees of freedom exceeds 50 with probability 1e-5; a float32 λ may move a side, hence a few more
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 55


def test_in_sample_mode_the_boxes_differ_and_in_batch_mode_they_are_one() -> None:
    index = np.arange(32)
    assert len(np.unique(ag.sample_cutmix(ag.Key(0), index, mode="sample").box, axis=0)) > 24
    assert len(np.unique(ag.sample_cutmix(ag.Key(0), index, mode="batch").box, axis=0)) == 1


# ---- images and targets together


@kinds
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_targets_say_which_share_of_the_pixels_is_whose(kind: str, batch: int, mode: str) -> None:
    params = SAMPLERS[kind](ag.Key(9), np.arange(batch), alpha=1.0, mode=mode)
    targets = apply_mix(torch.eye(batch), params)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(batch), rtol=0, atol=1e-6)
    means = apply_mix(row_pictures(batch), params).double().mean(dim=(1, 2, 3))
    # means of 289 float32 values up to 16, mixed with λ rounded to float32
    torch.testing.assert_close(targets.double() @ torch.arange(batch).double(), means, rtol=0, atol=2e-5)


def test_over_many_batches_as_many_pixels_are_replaced_as_label_is_given_away() -> None:
    replaced, given = 0.0, 0.0
    for epoch in range(100):
        params = ag.sample_cutmix(ag.Key(1, epoch), np.arange(8), alpha=1.0, size=17)
        mixed, rows = ag.cutmix(row_pictures(8), params), row_pictures(8)
        replaced += float((mixed != rows).double().mean())
        given += float(1 - ag.cutmix(torch.eye(8), params).diagonal().double().mean())
    # Eight float32 targets a batch, each rounded once
    assert replaced == pytest.approx(given, abs=100 * 2.0**-24)


# ---- shard


def split(batch: int, world_size: int) -> list[np.ndarray]:
    return np.array_split(np.arange(batch), world_size)


@kinds
@pytest.mark.parametrize("mode", ["sample", "batch"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [1, 2, 3, 7, 17])  # fewer samples than ranks, uneven rests
def test_the_shards_of_all_ranks_give_the_whole_batch(kind: str, mode: str, world_size: int, batch: int) -> None:
    images, targets = pictures(batch), torch.eye(batch)
    whole = SAMPLERS[kind](ag.Key(3), np.arange(batch), alpha=1.0, mode=mode)
    mixed: list[torch.Tensor] = []
    soft: list[torch.Tensor] = []
    for rows in split(batch, world_size):
        local = np.concatenate([rows, np.setdiff1d(whole.partner[rows], rows)])
        part = shard(whole, rows, local)
        mixed.append(apply_mix(images[local], part))
        soft.append(apply_mix(targets[local], part))
    assert torch.equal(torch.cat(mixed), apply_mix(images, whole))
    assert torch.equal(torch.cat(soft), apply_mix(targets, whole))


def without_partner(kind: str) -> tuple[MixParams, MixParams, int]:
    """Parameters of 5 rows, those of the first 3 of them without their partners elsewhere, and which row lacks one."""
    for seed in range(100):
        whole = SAMPLERS[kind](ag.Key(seed), np.arange(5), alpha=1.0)
        missing = np.flatnonzero(whole.partner[:3] >= 3)
        if len(missing) == 1 and (whole.lam < 0.99).all():
            return whole, shard(whole, np.arange(3), np.arange(3)), int(missing[0])
    raise AssertionError("no seed gives the case")


@kinds
def test_a_row_whose_partner_is_missing_stays_unmixed_and_the_others_are_mixed_as_before(kind: str) -> None:
    whole, part, row = without_partner(kind)
    images = pictures(5)
    mixed, wanted = apply_mix(images[:3], part), apply_mix(images, whole)[:3]
    wanted[row] = images[row]
    assert torch.equal(mixed, wanted)
    targets = apply_mix(torch.eye(5)[:3], part)
    assert targets[row].tolist() == torch.eye(5)[row].tolist()
    assert part.lam[row] == 1  # for whoever weighs a loss by it


# ---- errors


@kinds
def test_integer_targets_are_refused(kind: str) -> None:
    params = SAMPLERS[kind](ag.Key(0), [0, 1], alpha=1.0)
    with pytest.raises(TypeError, match=rf"{kind} got torch.int64"):
        apply_mix(torch.zeros(2, 3, dtype=torch.int64), params)


@kinds
@pytest.mark.parametrize("shape", [(2,), (2, 3, 17), (2, 3, 1, 17, 17)])
def test_values_of_another_rank_are_refused(kind: str, shape: tuple[int, ...]) -> None:
    params = SAMPLERS[kind](ag.Key(0), [0, 1], alpha=1.0)
    with pytest.raises(ValueError, match="wanted images"):
        apply_mix(torch.zeros(shape), params)


@kinds
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_parameters_that_name_rows_beyond_the_batch_are_refused(kind: str, rows: int) -> None:
    params = SAMPLERS[kind](ag.Key(0), np.arange(5), alpha=1.0)
    with pytest.raises(ValueError, match=rf"there are {rows} rows to mix; the 5 parameters name rows beyond them"):
        apply_mix(pictures(rows), params)


@pytest.mark.parametrize("partner", [[0, 2], [-1, 0]])
def test_a_partner_outside_the_batch_is_refused(partner: list[int]) -> None:
    params = ag.MixupParams(np.array(partner), np.ones(2, dtype=np.float32))
    with pytest.raises(ValueError, match="name rows beyond them"):
        ag.mixup(pictures(2), params)


@kinds
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_an_alpha_that_is_not_positive_is_refused(kind: str, alpha: float, mode: str) -> None:
    with pytest.raises(ValueError, match="alpha is"):
        SAMPLERS[kind](ag.Key(0), [0, 1], alpha=alpha, mode=mode)


@kinds
def test_an_unknown_mode_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match='mode is \'elem\'; it must be "sample" or "batch"'):
        SAMPLERS[kind](ag.Key(0), [0, 1], alpha=1.0, mode="elem")


# ---- targets out of class numbers


@kinds
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [1, 7, 1000, 1025])  # one alone; odd; ImageNet's; more than one program takes
def test_mixed_targets_are_the_mix_of_one_hot_rows(
    kind: str, classes: int, smoothing: float, dtype: torch.dtype, device: str
) -> None:
    """With labels beyond the parameters, every other number of a longer tensor."""
    labels = torch.randint(min(classes, 256), (18,), generator=torch.Generator().manual_seed(7)).to(device, dtype)[::2]
    params = shard(SAMPLERS[kind](ag.Key(3), np.arange(9), alpha=1.0), np.arange(7), np.arange(9))
    mixed = ag.mix_targets(labels, params, classes, smoothing=smoothing)
    assert mixed.shape == (7, classes)
    assert mixed.dtype == torch.float32
    exact = ag.mix_targets_reference(labels, params, classes, smoothing=smoothing)
    torch.testing.assert_close(mixed, exact, rtol=0, atol=2 * FLOAT32)  # the reference is rounded to float32, too
    slow = apply_mix(ag.one_hot(labels, classes, smoothing=smoothing), params)
    torch.testing.assert_close(mixed, slow, rtol=0, atol=2 * FLOAT32)


def test_mixed_targets_by_hand(device: str) -> None:
    params = ag.MixupParams([1, 0], [0.75, 1.0])
    mixed = ag.mix_targets(torch.tensor([2, 0], device=device), params, 4)
    assert mixed.tolist() == [[0.25, 0, 0.75, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("labels", [torch.zeros(2), torch.zeros(2, 3, dtype=torch.int64)])
def test_labels_that_are_no_class_numbers_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="wanted class numbers"):
        ag.mix_targets(labels, ag.MixupParams([1, 0], [0.5, 0.5]), 4)


def test_labels_that_are_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 1 rows to mix; the 2 parameters name rows beyond them"):
        ag.mix_targets(torch.zeros(1, dtype=torch.int64), ag.MixupParams([1, 0], [0.5, 0.5]), 4)


# ---- one_hot


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_smoothed_targets_give_the_loss_of_torch_with_label_smoothing(smoothing: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(17, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(7, (17,), generator=generator)
    targets = ag.one_hot(labels.to(dtype), 7, smoothing=smoothing)
    assert targets.dtype == torch.float32
    wanted = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    # the targets are float32
    torch.testing.assert_close(F.cross_entropy(logits, targets.double()), wanted, rtol=0, atol=1e-6)


def test_one_hot_of_three_labels_by_hand() -> None:
    assert ag.one_hot(torch.tensor([2, 0]), 4).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    smooth = ag.one_hot(torch.tensor([1]), 4, smoothing=0.2)
    torch.testing.assert_close(smooth, torch.tensor([[0.05, 0.85, 0.05, 0.05]]), rtol=0, atol=1e-7)
    assert ag.one_hot(torch.empty(0, dtype=torch.int64), 4).shape == (0, 4)


def test_boxes_drawn_for_another_size_are_refused() -> None:
    params = ag.CutmixParams([1, 0], [0.5, 0.5], [(0, 0, 224, 112), (0, 0, 5, 5)])
    with pytest.raises(ValueError, match="drawn for another size"):
        ag.cutmix(torch.rand(2, 3, 32, 32), params)


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_a_share_outside_its_range_is_refused(lam: float) -> None:
    with pytest.raises(ValueError, match="each must lie in"):
        ag.MixupParams([1, 0], [0.5, lam])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_rows_without_gaps_are_mixed_where_they_lie(memory_format: torch.memory_format) -> None:
    """Gaps between the rows do not count, gaps within them do."""
    images = torch.rand(4, 3, 5, 6).contiguous(memory_format=memory_format)
    for rows in (images, images[1:3], images[::2]):
        assert mix._gapless(rows) is rows
    copied = mix._gapless(images[:, :, :, 1:])
    assert copied.is_contiguous()
    assert torch.equal(copied, images[:, :, :, 1:])
