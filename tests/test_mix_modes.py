"""sample_mix, and timm.data.Mixup with keyed draws: against timm's own, and counted pixels."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import augment_gpu as ag
from augment_gpu.integrations.timm import Mixup
from augment_gpu.ops.mix_draws import MixParams, shard

MANY = 20_000  # rows of a distribution
DRAWN = 5_000  # of a batch's one number
MODES = ("elem", "pair", "batch")
BOTH = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}
modes = pytest.mark.parametrize("mode", MODES)
# 1: nobody to mix with; odd, and so refused by timm; even
BATCHES = (1, 7, 16)


def row_pictures(batch: int, height: int = 12, width: int = 20) -> torch.Tensor:
    """(batch, 1, height, width): every pixel of row i is i."""
    return torch.arange(batch, dtype=torch.float32)[:, None, None, None].repeat(1, 1, height, width)


def own_share(pictures: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
    """(B,) float64: which share of each row is its own, where a row of the mirrored batch is its partner."""
    own, other = pictures.double(), pictures.double().flip(0)
    share = (mixed.double() - other).mean(dim=(1, 2, 3)) / (own - other).mean(dim=(1, 2, 3))
    return torch.where((own == other).all(dim=3).all(dim=2)[:, 0], 1.0, share)


# ---- what a mode shares


@modes
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("options", [BOTH, {**BOTH, "cutmix_minmax": (0.2, 0.8)}, {**BOTH, "prob": 0.5}])
def test_a_targets_weight_is_the_share_of_pixels_that_stayed(mode: Any, batch: int, options: Any) -> None:
    mixup_fn = Mixup(**options, mode=mode, label_smoothing=0, num_classes=batch)
    for _ in range(5):
        images = row_pictures(batch)
        mixed, targets = mixup_fn(images, torch.arange(batch))
        assert torch.equal(images, row_pictures(batch))
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(batch), rtol=0, atol=1e-6)
        # float32 pixels of up to 16, over a difference of at least 1
        share = own_share(images, mixed)
        middle = torch.arange(batch) == torch.arange(batch).flip(0)
        torch.testing.assert_close(targets.diagonal().double()[~middle], share[~middle], rtol=0, atol=2e-5)
        assert torch.equal(mixed[middle], images[middle])
        assert torch.equal(targets[middle], torch.eye(batch)[middle])


def test_in_elem_mode_a_batch_has_both_kinds_and_every_row_its_own_numbers() -> None:
    params = ag.sample_mix(ag.Key(0), np.arange(64), **BOTH, mode="elem")
    assert isinstance(params, ag.MixedParams)
    cut = params.stay == 1
    assert 16 < cut.sum() < 48
    assert len(np.unique(params.lam)) > 56
    assert (params.box[~cut] == 0).all()


@pytest.mark.parametrize("partners", ["circle", "mirror"])
@pytest.mark.parametrize("batch", [1, 2, 7, 16])
def test_in_pair_mode_a_row_and_its_partner_share_everything(partners: Any, batch: int) -> None:
    params = ag.sample_mix(ag.Key(0), np.arange(batch) * 3 + 5, **BOTH, mode="pair", partners=partners)
    assert isinstance(params, ag.MixedParams)
    partner = params.partner
    assert (partner[partner] == np.arange(batch)).all()
    assert (partner == np.arange(batch)).sum() == batch % 2
    for shared in (params.lam, params.box, params.stay):
        assert (shared[partner] == shared).all()
    assert len(np.unique(params.lam)) > batch // 4


def test_pairs_of_a_circle_do_not_depend_on_the_order_of_the_rows() -> None:
    index, order = np.array([30, 4, 7, 19, 2]), np.array([3, 0, 4, 1, 2])
    one, other = (ag.sample_mix(ag.Key(1), i, **BOTH, mode="pair") for i in (index, index[order]))
    assert (index[order][other.partner] == index[one.partner][order]).all()
    assert (other.lam == one.lam[order]).all()


@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_a_batch_of_one_kind_says_so(mode: Any) -> None:
    kinds = {type(ag.sample_mix(ag.Key(0, epoch), np.arange(5), **BOTH, mode=mode)) for epoch in range(20)}
    assert kinds == {ag.MixupParams, ag.CutmixParams}


def test_in_batch_mode_all_rows_have_one_lam_and_one_box() -> None:
    for epoch in range(20):
        params = ag.sample_mix(ag.Key(0, epoch), np.arange(9), **BOTH, mode="batch", prob=0.5)
        assert (params.lam == params.lam[0]).all()
        assert not isinstance(params, ag.CutmixParams) or (params.box == params.box[0]).all()


def test_sample_mode_draws_what_sample_mixup_and_sample_cutmix_draw() -> None:
    index = np.arange(17)
    mixup = ag.sample_mix(ag.Key(3), index, mixup_alpha=0.2, mode="sample")
    assert (mixup.lam == ag.sample_mixup(ag.Key(3), index, alpha=0.2).lam).all()
    cutmix = ag.sample_mix(ag.Key(3), index, mixup_alpha=0, cutmix_alpha=0.7, mode="sample", size=33)
    wanted = ag.sample_cutmix(ag.Key(3), index, alpha=0.7, size=33)
    assert isinstance(cutmix, ag.CutmixParams)
    for name in ("partner", "lam", "box"):
        assert (getattr(cutmix, name) == getattr(wanted, name)).all()


# ---- distributions: timm's own Mixup, whose draws come from NumPy's global generator


def timm_draws(mode: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """λ before the correction of boxes, and which rows are cut, of MANY rows or pairs, or of so many batches."""
    from timm.data import Mixup as Theirs

    fn = Theirs(**options, mode=mode)
    if mode == "batch":
        lam, cut = zip(*(fn._params_per_batch() for _ in range(DRAWN)), strict=True)
        return np.array(lam), np.array(cut)
    lam, cut = fn._params_per_elem(MANY)
    return lam, cut & (lam < 1)


def our_draws(mode: Any, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The same, where the boxes' λ stays uncorrected."""
    rows = 2 * MANY if mode == "pair" else MANY
    if mode == "batch":
        drawn = [ag.sample_mix(ag.Key(1, i), [0], **options, mode=mode, correct_lam=False) for i in range(DRAWN)]
        lam, cut = np.array([[each.lam[0], isinstance(each, ag.CutmixParams)] for each in drawn]).T
        return lam, (cut == 1) & (lam < 1)
    params = ag.sample_mix(
        ag.Key(1), np.arange(rows), **options, mode=mode, correct_lam=False, partners="mirror", size=10**6
    )
    assert isinstance(params, ag.MixedParams)
    cut = (params.stay == 1) & (params.lam < 1)
    return params.lam[:MANY], cut[:MANY]


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """√(n / 2) · D of Kolmogorov and Smirnov for two samples of n: above 2.3 with probability 5e-5."""
    points = np.sort(np.concatenate([one, other]))
    shares = [np.searchsorted(np.sort(values), points, side="right") / len(values) for values in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max()) * math.sqrt(len(one) / 2)


@modes
@pytest.mark.parametrize("prob", [1.0, 0.3])
def test_lam_and_kind_are_drawn_as_timm_draws_them(mode: str, prob: float) -> None:
    options = {**BOTH, "prob": prob, "switch_prob": 0.25}
    state = np.random.get_state()
    np.random.seed(0)
    try:
        theirs, their_cuts = timm_draws(mode, **options)
    finally:
        np.random.set_state(state)
    ours, our_cuts = our_draws(mode, **options)
    assert distance(ours, theirs) < 2.3
    for kind in (True, False):  # λ of either kind has its own distribution
        mixed = [values[(cuts == kind) & (values < 1)] for values, cuts in ((ours, our_cuts), (theirs, their_cuts))]
        count = min(len(values) for values in mixed)
        assert count > 100
        assert distance(mixed[0][:count], mixed[1][:count]) < 2.3
    # five standard deviations of a share; λ of Beta(0.4, 0.4) is within float32's reach of 1 in a few rows of 1000
    spread = 5 * 0.5 / math.sqrt(len(ours))
    assert (ours < 1).mean() == pytest.approx(prob, abs=spread + 0.005)
    assert our_cuts.mean() == pytest.approx(0.25 * prob, abs=spread)


@pytest.mark.parametrize("minmax", [None, (0.2, 0.7)])
def test_boxes_are_timms(minmax: tuple[float, float] | None) -> None:
    """Their area, and their edges, on a picture that is not square."""
    from timm.data.mixup import cutmix_bbox_and_lam

    shape, state = (3, 40, 66), np.random.get_state()
    np.random.seed(1)
    try:
        drawn = [cutmix_bbox_and_lam(shape, lam, minmax) for lam in np.random.beta(1, 1, MANY)]
    finally:
        np.random.set_state(state)
    theirs = np.array([[left, top, right, bottom] for (top, bottom, left, right), _ in drawn])
    options = {"mixup_alpha": 0, "cutmix_alpha": 1.0, "cutmix_minmax": minmax, "mode": "elem", "size": shape[1:]}
    ours = ag.sample_mix(ag.Key(2), np.arange(MANY), **options)
    assert isinstance(ours, ag.CutmixParams)
    assert distance(ours.lam.astype(np.float64), np.array([lam for _, lam in drawn])) < 2.3
    for edge in range(4):
        assert distance(ours.box[:, edge], theirs[:, edge]) < 2.3
    width, height = (ours.box[:, 2:] - ours.box[:, :2]).T
    if minmax is not None:  # as randint has it, the end excluded
        assert (width.min(), width.max(), height.min(), height.max()) == (13, 45, 8, 27)


# ---- the host framework's names


def multi_label_or_skip() -> None:
    """The arguments are those of the timm that CI tests; older ones, which pyproject.toml admits, have one less."""
    import inspect

    from timm.data.mixup import mixup_target

    if "multi_label" not in inspect.signature(mixup_target).parameters:
        pytest.skip("this timm does not know multi_label")


@modes
@pytest.mark.parametrize("multi_label", [False, True])
def test_targets_are_timms_for_the_same_lam(mode: Any, multi_label: bool) -> None:
    from timm.data.mixup import mixup_target

    multi_label_or_skip()
    batch, classes = 8, 5
    labels = torch.arange(batch) % classes
    if multi_label:
        labels = torch.rand(batch, classes, generator=torch.Generator().manual_seed(0))
    options = {"mode": mode, "label_smoothing": 0.1, "num_classes": classes, "multi_label": multi_label}
    _, targets = Mixup(**BOTH, **options, seed=3)(row_pictures(batch), labels)
    params = ag.sample_mix(ag.Key(3), np.arange(batch), **BOTH, mode=mode, size=(12, 20), partners="mirror")
    wanted = mixup_target(labels, classes, torch.from_numpy(params.lam)[:, None], 0.1, multi_label)
    torch.testing.assert_close(targets, wanted, rtol=0, atol=1e-6)


def test_the_arguments_are_timms_in_their_order() -> None:
    import inspect

    from timm.data import Mixup as Theirs

    multi_label_or_skip()
    theirs, ours = (inspect.signature(kind).parameters for kind in (Theirs, Mixup))
    assert list(ours) == [*theirs, "seed"]
    assert all(ours[name].default == parameter.default for name, parameter in theirs.items())
    assert set(vars(Theirs())) <= set(vars(Mixup()))


def test_draws_repeat_and_come_from_no_global_generator() -> None:
    def call(fn: Mixup) -> torch.Tensor:
        return fn(row_pictures(6), torch.arange(6))[0]

    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    one, other = Mixup(seed=4), Mixup(seed=4)
    first, second = call(one), call(one)
    assert torch.equal(call(other), first)
    assert not torch.equal(first, second)
    assert not torch.equal(call(Mixup(seed=5)), first)
    one.set_epoch(1)
    assert not torch.equal(call(one), first)
    one.set_epoch(0)
    assert torch.equal(call(one), first)
    assert (np.random.get_state()[1] == before[0]).all()  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_mixing_that_is_switched_off_leaves_images_and_smooths_labels() -> None:
    mixup_fn = Mixup(**BOTH, mode="elem", num_classes=4, label_smoothing=0.2)
    mixup_fn.mixup_enabled = False
    images, targets = mixup_fn(row_pictures(4), torch.arange(4))
    assert torch.equal(images, row_pictures(4))
    torch.testing.assert_close(targets, ag.one_hot(torch.arange(4), 4, smoothing=0.2), rtol=0, atol=1e-7)


# ---- pixels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # lanes past the picture, interpreted
def test_a_batch_of_both_kinds_equals_the_reference(dtype: torch.dtype, channels_last: bool, device: str) -> None:
    """With a row beyond the parameters, an untouched row, one cut whole, and one blended with a row that is cut."""
    images = torch.rand(6, 3, 13, 37, generator=torch.Generator().manual_seed(4)).to(dtype)
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    box = [(3, 2, 20, 9), (0, 0, 0, 0), (0, 0, 37, 13), (0, 0, 0, 0), (36, 0, 37, 13)]
    params = ag.MixedParams([1, 0, 5, 2, 3], [0.9, 0.3, 0, 1, 0.9], box, [1, 0.3, 1, 1, 1])
    mixed = ag.apply_mix(images.to(device), params)
    assert mixed.stride() == images.stride()
    exact = ag.cutmix_reference(images.double(), params)
    # one rounding of the dtype (the interpreter cuts bfloat16 off), and those of float32 before it
    atol = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8 + 2.0**-23}[dtype]
    torch.testing.assert_close(mixed.cpu().double(), exact, rtol=0, atol=atol)
    targets = ag.apply_mix(torch.eye(6, device=device), params)
    torch.testing.assert_close(targets.diagonal().cpu(), torch.tensor(params.lam), rtol=0, atol=1e-7)


def test_gradients_pass_through_a_batch_of_both_kinds() -> None:
    images = torch.rand(4, 1, 5, 5, requires_grad=True)
    params = ag.sample_mix(ag.Key(0), np.arange(4), **BOTH, mode="elem", size=5)
    ag.apply_mix(images, params).sum().backward()
    assert images.grad is not None
    assert float(images.grad.sum()) == pytest.approx(100, abs=1e-4)


@pytest.mark.parametrize("mode", [*MODES, "sample"])
def test_the_shards_of_two_ranks_give_the_whole_batch(mode: Any) -> None:
    images = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    whole: MixParams = ag.sample_mix(ag.Key(0), np.arange(7), **BOTH, mode=mode, size=8)
    parts = []
    for rows in (np.arange(3), np.arange(3, 7)):
        local = np.concatenate([rows, np.setdiff1d(whole.partner[rows], rows)])
        parts.append(ag.apply_mix(images[local], shard(whole, rows, local)))
        alone = shard(whole, rows, rows)
        strangers = ~np.isin(whole.partner[rows], rows)
        assert torch.equal(ag.apply_mix(images[rows], alone)[strangers], images[rows][strangers])
        assert (alone.lam[strangers] == 1).all()
    assert torch.equal(torch.cat(parts), ag.apply_mix(images, whole))


@pytest.mark.parametrize("mode", [*MODES, "sample"])
def test_a_recipe_mixes_in_each_mode(mode: Any) -> None:
    recipe = ag.Recipe(size=16, crop="center", flip=0, resize=16, mean=None, std=None, num_classes=6, **BOTH,
                       mixup_mode=mode, mixup_prob=0.7)  # fmt: skip
    pixels = (40 * torch.arange(6, dtype=torch.uint8))[:, None, None, None].repeat(1, 3, 16, 16)
    for epoch in range(4):
        images, targets = ag.Stage(recipe)(pixels, torch.arange(6), index=np.arange(6), epoch=epoch)
        assert targets is not None
        means = images.mean(dim=(1, 2, 3)) * 255 / 40
        torch.testing.assert_close(targets @ torch.arange(6.0), means, rtol=0, atol=1e-4)


def test_the_tables_of_elem_mode_have_the_same_shapes_for_every_batch() -> None:
    stage = ag.Stage(ag.Recipe(size=8, num_classes=3, **BOTH, mixup_mode="elem"))
    pixels = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    batches = [stage.prepare(pixels, [0, 1, 2], index=[0, 1, 2], epoch=epoch) for epoch in range(5)]
    assert all(len(batch.mix) == 4 for batch in batches)
    batches[0].copy_(batches[1])
    for one, other in zip(stage.augment(batches[0]), stage.augment(batches[1]), strict=True):
        assert one is not None
        assert torch.equal(one, other)


# ---- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixup_alpha": -1}, "mixup_alpha is -1; it must be at least 0"),
        ({"mixup_alpha": 0}, "one of them must be on"),
        ({"cutmix_minmax": (0.5, 0.5)}, "cutmix_minmax is"),
        ({"cutmix_minmax": (0.2, 1.5)}, "cutmix_minmax is"),
        ({"prob": 1.5}, "prob is 1.5; it must lie in"),
        ({"switch_prob": math.nan}, "switch_prob is nan"),
        ({"mixup_alpha": "a"}, "mixup_alpha is 'a'; it must be at least 0"),
        ({"prob": None}, "prob is None; it must lie in"),
        ({"mode": "half"}, "mode is 'half'; it must be one of sample, elem, pair, batch"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixup(**options)
    with pytest.raises(ValueError, match=message):
        ag.sample_mix(ag.Key(0), [0, 1], **options)


def test_bad_fields_of_a_recipe_are_named() -> None:
    with pytest.raises(ValueError, match="mixup_prob is 2"):
        ag.Recipe(mixup_prob=2)
    with pytest.raises(ValueError, match="mixup_mode is 'both'"):
        ag.Recipe(mixup_mode="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cutmix_minmax is 3"):
        ag.Recipe(cutmix_minmax=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes"):
        ag.Recipe(cutmix_minmax=(0.2, 0.8))


def test_labels_of_one_column_are_class_numbers() -> None:
    images, labels = row_pictures(6), torch.arange(6) % 4
    for one, other in zip(
        Mixup(num_classes=4)(images, labels), Mixup(num_classes=4)(images, labels[:, None]), strict=True
    ):
        assert torch.equal(one, other)


def test_bad_targets_are_named() -> None:
    with pytest.raises(ValueError, match=r"x has shape \(3, 8, 8\); wanted \(B, C, H, W\)"):
        Mixup()(torch.rand(3, 8, 8), torch.arange(3))
    with pytest.raises(ValueError, match=r"num_classes is 5.0; wanted a whole number"):
        Mixup(num_classes=5.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="there are 3 targets for 2 images"):
        Mixup()(row_pictures(2), torch.arange(3))
    with pytest.raises(ValueError, match=r"wanted \(2, 4\)"):
        Mixup(multi_label=True, num_classes=4)(row_pictures(2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="label_smoothing is 2"):
        Mixup(label_smoothing=2)
    with pytest.raises(ValueError, match='partners is \'next\'; it must be "circle" or "mirror"'):
        ag.sample_mix(ag.Key(0), [0, 1], partners="next")  # type: ignore[arg-type]
