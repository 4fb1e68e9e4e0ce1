"""Who is mixed with whom, how, and by how much: what mixup and cutmix take, and how it is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from augment_gpu.ops.rows import is_number
from augment_gpu.rng import Key, beta, uniform

Mode = Literal["sample", "batch"]
MixMode = Literal["sample", "elem", "pair", "batch"]
Partners = Literal["circle", "mirror"]


@dataclass(frozen=True, eq=False)
class MixupParams:
    """Row i becomes lam[i] · row i + (1 − lam[i]) · row partner[i].

    partner: (B,) int64, rows of the batch. lam: (B,) float32 in [0, 1]. A batch may have more rows than B: the rest are
    partners only, and are dropped from the result.
    """

    partner: np.ndarray
    lam: np.ndarray

    def __post_init__(self) -> None:
        _coerce(self, partner=np.int64, lam=np.float32)

    def __len__(self) -> int:
        return len(self.partner)


@dataclass(frozen=True, eq=False)
class CutmixParams:
    """Row i receives box[i] from row partner[i]; lam[i] is the weight of its own target: the share of row i that stays.

    box: (B, 4) int32, x0 y0 x1 y1 in pixels, clipped to the image; lam is computed from it after clipping (but with
    sample_mix's correct_lam=False).
    """

    partner: np.ndarray
    lam: np.ndarray
    box: np.ndarray

    def __post_init__(self) -> None:
        _coerce(self, partner=np.int64, lam=np.float32, box=np.int32)

    def __len__(self) -> int:
        return len(self.partner)


@dataclass(frozen=True, eq=False)
class MixedParams:
    """A batch of which some rows are cut and the others blended: row i receives box[i] from row partner[i], and is
    stay[i] · row i + (1 − stay[i]) · row partner[i] outside it; lam[i] is the weight of its own target.

    stay: (B,) float32 in [0, 1], 1 in rows that are cut; the box of one that is blended is empty.
    """

    partner: np.ndarray
    lam: np.ndarray
    box: np.ndarray
    stay: np.ndarray

    def __post_init__(self) -> None:
        _coerce(self, partner=np.int64, lam=np.float32, box=np.int32, stay=np.float32)

    def __len__(self) -> int:
        return len(self.partner)


MixParams = MixupParams | CutmixParams | MixedParams


def _coerce(params: MixParams, **dtypes: type) -> None:
    """Arrays of these dtypes, from whatever was given. Raises ValueError for a share outside [0, 1]."""
    for name, dtype in dtypes.items():
        object.__setattr__(params, name, np.asarray(getattr(params, name), dtype=dtype))
    for name in {"lam", "stay"} & set(dtypes):
        share = getattr(params, name)
        if not ((share >= 0) & (share <= 1)).all():
            raise ValueError(f"{name} is {share}; each must lie in [0, 1]")


def sample_mixup(key: Key, index: ArrayLike, *, alpha: float = 0.2, mode: Mode = "sample") -> MixupParams:
    """λ ~ Beta(alpha, alpha), one a sample, or one for the batch.

    index: (B,) positions in the data set of the whole batch, over all ranks. Partners and λ depend on which samples
    those are, not on their order or their distribution over ranks.
    """
    index = np.asarray(index, dtype=np.int64).reshape(-1)
    lam = beta(key, _lam_index(index, mode), "mix.lam", alpha)
    return MixupParams(sample_partners(key, index), lam.astype(np.float32))


def sample_cutmix(
    key: Key, index: ArrayLike, *, alpha: float = 1.0, size: int = 224, mode: Mode = "sample"
) -> CutmixParams:
    """λ ~ Beta(alpha, alpha); a box of sides √(1 − λ) · size about a centre uniform over the pixels, clipped to the
    image; λ is then corrected to the share that the clipped box leaves. Each sample has a box of its own, or all have
    one (mode="batch")."""
    index = np.asarray(index, dtype=np.int64).reshape(-1)
    leader = _lam_index(index, mode)
    box = _boxes(key, leader, beta(key, leader, "mix.lam", alpha), (size, size))
    return CutmixParams(sample_partners(key, index), _share_left(box, (size, size)), box)


def sample_mix(
    key: Key,
    index: ArrayLike,
    *,
    mixup_alpha: float = 1.0,
    cutmix_alpha: float = 0.0,
    cutmix_minmax: Sequence[float] | None = None,
    prob: float = 1.0,
    switch_prob: float = 0.5,
    mode: MixMode = "batch",
    correct_lam: bool = True,
    size: int | tuple[int, int] = 224,
    partners: Partners = "circle",
) -> MixParams:
    """mixup, CutMix, or both, with the names and the distributions of timm.data.Mixup.

    An alpha of 0 turns its kind off; where both are on, a cut is made with probability switch_prob. cutmix_minmax:
    (low, high), the range of a box's sides as shares of the image's, in place of cutmix_alpha. prob: of being mixed
    at all. mode: what shares these coins, λ and the box: "batch" all rows, "pair" a row and its partner, "elem"
    nothing; "sample" is "elem" with one kind for the batch. correct_lam: a target's weight is the share of pixels that
    the clipped box leaves; else λ as it was drawn. size: the images' side, or their height and width.

    partners: "circle", see sample_partners, of which pairs are neighbours; or as in timm "mirror", the row as far from
    the batch's end as this one from its beginning, which depends on the order of the rows. Of an odd batch one row may
    be its own partner, and stays as it is. Needs no even batches.

    Returns MixupParams or CutmixParams where by these options a batch is of one kind, else MixedParams. index: (B,)
    positions in the data set of the whole batch, over all ranks. Raises ValueError, naming the argument.
    """
    check_mix(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, cutmix_minmax=cutmix_minmax, prob=prob,
              switch_prob=switch_prob, mode=mode)  # fmt: skip
    if cutmix_minmax is not None:
        cutmix_alpha = 1.0  # the boxes ignore λ
    if not mixup_alpha > 0 and not cutmix_alpha > 0:
        raise ValueError("mixup_alpha and cutmix_alpha are 0 and cutmix_minmax is None; one of them must be on")
    index = np.asarray(index, dtype=np.int64).reshape(-1)
    shape = (size, size) if isinstance(size, int) else size
    partner = _partners(key, index, partners, pairs=mode == "pair")
    whole = np.full_like(index, min(index, default=0))
    # Whose draws a row takes; the lowest index among those that share them, so that the order does not count.
    leader = {"sample": index, "elem": index, "pair": np.minimum(index, index[partner]), "batch": whole}[mode]
    mixes = uniform(key, leader, "mix.prob")[:, 0] < prob if prob < 1 else np.ones(len(index), dtype=bool)
    cuts = np.full(len(index), cutmix_alpha > 0)
    both = mixup_alpha > 0 and cutmix_alpha > 0
    if both:
        cuts = uniform(key, whole if mode == "sample" else leader, "mix.switch")[:, 0] < switch_prob
    lam = np.ones(len(index))
    for rows, alpha in ((mixes & cuts, cutmix_alpha), (mixes & ~cuts, mixup_alpha)):
        if rows.any():
            lam[rows] = beta(key, leader[rows], "mix.lam", alpha)
    one_kind = not both or mode in ("sample", "batch")
    if one_kind and not cuts.any():
        return MixupParams(partner, lam)
    box = _boxes(key, leader, lam, shape, cutmix_minmax) * (mixes & cuts)[:, None]
    corrected = correct_lam or cutmix_minmax is not None
    weight = np.where(cuts, _share_left(box, shape), lam) if corrected else lam
    return CutmixParams(partner, weight, box) if one_kind else MixedParams(partner, weight, box, np.where(cuts, 1, lam))


def check_mix(
    *,
    mixup_alpha: float,
    cutmix_alpha: float,
    cutmix_minmax: Sequence[float] | None,
    prob: float,
    switch_prob: float,
    mode: str,
    prefix: str = "",
) -> None:
    """Raises ValueError for what sample_mix cannot draw. prefix: what the names of `prob` and `mode` begin with
    where they are given."""
    for option, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        if not is_number(alpha) or not 0 <= alpha < np.inf:
            raise ValueError(f"{option} is {alpha!r}; it must be at least 0")
    for option, share in ((f"{prefix}prob", prob), ("switch_prob", switch_prob)):
        if not is_number(share) or not 0 <= share <= 1:
            raise ValueError(f"{option} is {share!r}; it must lie in [0, 1]")
    if mode not in ("sample", "elem", "pair", "batch"):
        raise ValueError(f"{prefix}mode is {mode!r}; it must be one of sample, elem, pair, batch")
    if cutmix_minmax is None:
        return
    pair = isinstance(cutmix_minmax, Sequence) and len(cutmix_minmax) == 2
    if not pair or not 0 <= cutmix_minmax[0] < cutmix_minmax[1] <= 1:
        raise ValueError(f"cutmix_minmax is {cutmix_minmax!r}; wanted 0 <= low < high <= 1, or None")


def sample_partners(key: Key, index: np.ndarray) -> np.ndarray:
    """(B,) int64: for each row the row that follows it in a random circle through the whole batch, so that nobody is
    its own partner unless it is alone, and everybody is somebody's.

    The circle is the order of the samples' keyed numbers named "order", the very numbers by which the loader shuffles:
    partners then lie side by side in a shuffled batch, and a rank misses at most the one beyond its end.
    """
    circle = _circle(key, index)
    partner = np.empty(len(index), dtype=np.int64)
    partner[circle] = np.roll(circle, -1)
    return partner


def _circle(key: Key, index: np.ndarray) -> np.ndarray:
    return np.argsort(uniform(key, index, "order")[:, 0], kind="stable")


def _partners(key: Key, index: np.ndarray, partners: Partners, *, pairs: bool) -> np.ndarray:
    """(B,) int64. pairs: whether a row must be its partner's partner."""
    if partners not in ("circle", "mirror"):
        raise ValueError(f'partners is {partners!r}; it must be "circle" or "mirror"')
    if partners == "mirror":
        return np.arange(len(index))[::-1]
    if not pairs:
        return sample_partners(key, index)
    circle = _circle(key, index)
    place = np.arange(len(index))
    partner = np.empty_like(circle)
    partner[circle] = circle[np.minimum(place ^ 1, len(index) - 1)]
    return partner


def _lam_index(index: np.ndarray, mode: Mode) -> np.ndarray:
    """Whose draw each row takes: its own, or the batch's, which is that of its lowest index."""
    if mode not in ("sample", "batch"):
        raise ValueError(f'mode is {mode!r}; it must be "sample" or "batch"')
    return index if mode == "sample" or not len(index) else np.full_like(index, index.min())


def _boxes(
    key: Key, index: np.ndarray, lam: np.ndarray, shape: tuple[int, int], minmax: Sequence[float] | None = None
) -> np.ndarray:
    """(B, 4) int32, x0 y0 x1 y1: sides √(1 − λ) of the image's about a centre uniform over its pixels, clipped to the
    image; or with minmax sides uniform in that range, anywhere inside the image, λ or not."""
    sides = np.array(shape[::-1])
    u = uniform(key, index, "mix.box", 2 if minmax is None else 4)
    if minmax is None:
        side = np.trunc(sides * np.sqrt(1 - lam)[:, None]).astype(np.int64)
        corner = np.floor(u * sides).astype(np.int64) - side // 2
    else:
        low, high = (np.trunc(sides * share).astype(np.int64) for share in minmax)
        side = low + np.floor(u[:, 2:] * np.maximum(high - low, 1)).astype(np.int64)
        corner = np.floor(u[:, :2] * (sides - side + 1)).astype(np.int64)
    ends = np.stack([corner, corner + side], axis=1)
    return np.clip(ends, 0, sides).reshape(-1, 4).astype(np.int32)


def _share_left(box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(B,) float32: the share of an image of this height and width that lies outside the box."""
    area = (box[:, 2] - box[:, 0]).astype(np.int64) * (box[:, 3] - box[:, 1])
    return (1 - area / (shape[0] * shape[1])).astype(np.float32)


def shard(params: MixParams, rows: np.ndarray, local: np.ndarray) -> MixParams:
    """The part of a batch's parameters that one rank needs.

    rows: (b,) the rows of the whole batch that the rank produces. local: (n,) the rows that it holds, n >= b: `rows`
    first, then partners from elsewhere. A row whose partner is not held stays unmixed.
    """
    place = np.full(len(params) + 1, -1)
    place[local] = np.arange(len(local))
    partner = place[params.partner[rows]]
    missing = partner < 0
    partner[missing] = np.flatnonzero(missing)
    part = {"partner": partner, "lam": np.where(missing, 1, params.lam[rows])}
    if isinstance(params, MixupParams):
        return MixupParams(**part)
    part["box"] = params.box[rows] * ~missing[:, None]
    if isinstance(params, CutmixParams):
        return CutmixParams(**part)
    return MixedParams(**part, stay=np.where(missing, 1, params.stay[rows]))
