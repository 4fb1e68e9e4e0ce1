"""rng: Philox against Random123's published vectors, uniform as a pure function, Beta against its distribution."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from augment_gpu import rng
from augment_gpu.rng import Key, beta, dirichlet, philox, random_words, uniform

# Random123, tests/kat_vectors, lines "philox4x32 10": counter, key, result. The last counter and key are digits of pi.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
MANY = 200_000
# The Kolmogorov-Smirnov statistic of n draws exceeds 1.95 / sqrt(n) once in a thousand (Kolmogorov's limit). The seeds
# are fixed, so what passes once passes always.
KOLMOGOROV = 1.95


def hexadecimal(words: str) -> list[int]:
    return [int(word, 16) for word in words.split()]


def kolmogorov(draws: np.ndarray, grid: np.ndarray, cdf: np.ndarray) -> float:
    """The largest distance between the draws' distribution and the CDF given at the grid's points, times sqrt(n)."""
    share = np.searchsorted(np.sort(draws), grid, side="right") / len(draws)
    return float(np.abs(share - cdf).max() * np.sqrt(len(draws)))


def beta_cdf(alpha: float, points: int = 20_001) -> tuple[np.ndarray, np.ndarray]:
    """Grid and CDF of Beta(alpha, alpha), by the midpoint rule. Substituting x = sin²(t) leaves of the density
    (x(1 − x))^(alpha − 1) dx the integrand sin(2t)^(2 alpha − 1) dt, whose pole at 0 (for alpha below 1/2) goes when
    t = s^(1 / power). The half above 1/2 is the mirror image."""
    power = min(2 * alpha, 1.0)
    s = np.linspace(0, (np.pi / 4) ** power, points)
    middle = ((s[1:] + s[:-1]) / 2) ** (1 / power)
    mass = np.concatenate([[0], np.cumsum(np.sin(2 * middle) ** (2 * alpha - 1) * middle ** (1 - power))])
    lower, cdf = np.sin(s ** (1 / power)) ** 2, mass / mass[-1] / 2
    # A small alpha puts much of its mass so close to 1 that float64 rounds it to 1: compared up to 1 − 1e-12 alone.
    upper = lower > 1e-12
    return np.concatenate([lower, 1 - lower[upper][::-1]]), np.concatenate([cdf, 1 - cdf[upper][::-1]])


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, result: str) -> None:
    words = philox(np.array(hexadecimal(counter))[:, None], tuple(hexadecimal(key)))
    assert words[:, 0].tolist() == hexadecimal(result)
    assert words.dtype == np.uint32


def test_philox_of_many_counters_is_philox_of_each() -> None:
    counters = np.array([hexadecimal(counter) for counter, _, _ in KNOWN_ANSWERS]).T
    key = (0xA4093822, 0x299F31D0)
    together = philox(counters, key)
    for i in range(counters.shape[1]):
        np.testing.assert_array_equal(together[:, i], philox(counters[:, i : i + 1], key)[:, 0])


def test_philox_leaves_its_counter_unchanged() -> None:
    counter = np.arange(12, dtype=np.uint64).reshape(4, 3)
    philox(counter, (1, 2))
    np.testing.assert_array_equal(counter, np.arange(12).reshape(4, 3))


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 17])  # a block holds four numbers: under, at and over that
@pytest.mark.parametrize("size", [0, 1, 33])  # no sample, one, many
def test_uniform_has_its_shape_and_range(count: int, size: int) -> None:
    u = uniform(Key(1, 2), np.arange(size), "name", count)
    assert u.shape == (size, count)
    assert u.dtype == np.float64
    assert ((u >= 0) & (u < 1)).all()
    np.testing.assert_array_equal(u * 2**32, np.round(u * 2**32))  # multiples of 2**-32, as documented


@pytest.mark.parametrize("rows", [[3], [6, 5, 4, 3, 2, 1, 0], [2, 5], [1, 1, 1]])  # alone, reversed, subset, repeated
def test_a_row_depends_on_its_own_index_alone(rows: list[int]) -> None:
    index = np.array([5, 0, 2**40, 7, 2**32 - 1, 2**32, 2**63 - 1])
    everything = uniform(Key(7, 1), index, "crop", 9)
    np.testing.assert_array_equal(uniform(Key(7, 1), index[rows], "crop", 9), everything[rows])


def test_a_later_epoch_may_be_asked_first() -> None:
    index = np.arange(5)
    before = uniform(Key(3, 0), index, "crop")
    uniform(Key(3, 1), index, "crop")
    uniform(Key(4, 0), index, "flip")
    np.testing.assert_array_equal(uniform(Key(3, 0), index, "crop"), before)


@pytest.mark.parametrize(
    ("key", "index", "name"),
    [
        (Key(0, 1), 5, "crop"),
        (Key(1, 0), 5, "crop"),
        (Key(2**32, 0), 5, "crop"),  # the seed's upper half counts
        (Key(2**64 - 1, 2**32 - 1), 5, "crop"),
        (Key(0, 0), 6, "crop"),
        (Key(0, 0), 5 + 2**32, "crop"),  # and so does the index's
        (Key(0, 0), 2**63 - 1, "crop"),
        (Key(0, 0), 5, "crops"),
        (Key(0, 0), 5, ""),
        (Key(0, 0), 5, "größe"),  # a name is any text
    ],
)
def test_another_seed_epoch_index_or_name_gives_other_numbers(key: Key, index: int, name: str) -> None:
    plain = uniform(Key(0, 0), np.array([5]), "crop", 8)
    other = uniform(key, np.array([index]), name, 8)
    assert not np.isin(other, plain).any()


def test_no_two_draws_of_a_large_set_collide() -> None:
    """32-bit words repeat by chance, pairs of them practically never: 40 thousand pairs of 64 bits, p = 4e-11."""
    words = np.concatenate(
        [
            random_words(Key(seed, epoch), np.arange(1000), name, 4).astype(np.uint64)
            for seed in (0, 1, 2**32, 2**33 + 1, 2**63)
            for epoch in (0, 1)
            for name in ("crop", "flip")
        ]
    )
    pairs = (words[:, 0::2] << np.uint64(32) | words[:, 1::2]).reshape(-1)
    assert len(np.unique(pairs)) == pairs.size == 40_000


def test_start_goes_on_where_the_first_numbers_ended() -> None:
    index = np.array([0, 1, 2**63 - 1])
    first, second = (uniform(Key(5, 3), index, "crop", 4, start=start) for start in (0, 4))
    np.testing.assert_array_equal(uniform(Key(5, 3), index, "crop", 8), np.concatenate([first, second], axis=1))
    long = uniform(Key(5, 3), index, "crop", 40)
    np.testing.assert_array_equal(uniform(Key(5, 3), index, "crop", 6, start=12), long[:, 12:18])


def test_fewer_numbers_are_the_beginning_of_more() -> None:
    long = uniform(Key(5, 3), np.arange(4), "crop", 17)
    for count in (1, 3, 4, 5, 16):
        np.testing.assert_array_equal(uniform(Key(5, 3), np.arange(4), "crop", count), long[:, :count])


@pytest.mark.parametrize("column", [0, 1, 2, 3, 4])  # each word of a block, and the first of the next
def test_uniform_is_uniform_over_the_samples(column: int) -> None:
    u = uniform(Key(20171208), np.arange(MANY), "crop", 5)[:, column]
    grid = np.linspace(0, 1, 10_001)
    assert kolmogorov(u, grid, grid) < KOLMOGOROV


@pytest.mark.parametrize("vary", ["epoch", "seed", "name"])
def test_uniform_is_uniform_over_epochs_seeds_and_names(vary: str) -> None:
    draws = 4000
    if vary == "epoch":
        u = [uniform(Key(1, i), np.array([7]), "crop")[0, 0] for i in range(draws)]
    elif vary == "seed":
        u = [uniform(Key(i), np.array([7]), "crop")[0, 0] for i in range(draws)]
    else:
        u = [uniform(Key(1), np.array([7]), f"op {i}")[0, 0] for i in range(draws)]
    grid = np.linspace(0, 1, 10_001)
    assert kolmogorov(np.array(u), grid, grid) < KOLMOGOROV


@pytest.mark.parametrize("neighbour", ["index", "epoch", "seed", "name", "column"])
def test_neighbouring_draws_are_independent(neighbour: str) -> None:
    """Chi-square of the pairs on an 8 × 8 board: 63 degrees of freedom, mean 63, and once in a thousand above 103.4."""
    index = np.arange(MANY)
    first = uniform(Key(10, 4), index, "crop", 2)
    second = {
        "index": uniform(Key(10, 4), index + 1, "crop"),
        "epoch": uniform(Key(10, 5), index, "crop"),
        "seed": uniform(Key(11, 4), index, "crop"),
        "name": uniform(Key(10, 4), index, "flip"),
        "column": first[:, 1:],
    }[neighbour][:, 0]
    cell = np.floor(first[:, 0] * 8) * 8 + np.floor(second * 8)
    count = np.bincount(cell.astype(int), minlength=64)
    assert ((count - MANY / 64) ** 2 / (MANY / 64)).sum() < 103.4
    # a correlation has the standard deviation 1 / sqrt(n); four of them
    assert abs(np.corrcoef(first[:, 0], second)[0, 1]) < 4 / np.sqrt(MANY)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.5, 1.0, 4.0])
def test_beta_has_the_distribution_of_beta(alpha: float) -> None:
    draws = beta(Key(3, 1), np.arange(MANY), "mixup", alpha)
    assert draws.shape == (MANY,)
    assert ((draws >= 0) & (draws <= 1)).all()
    assert kolmogorov(draws, *beta_cdf(alpha)) < KOLMOGOROV


@pytest.mark.parametrize("alpha", [0.1, 1.0, 4.0])
def test_the_smallest_shares_of_beta_are_exact(alpha: float) -> None:
    """Far below what float64 leaves beside 1: at x so small the CDF is x^alpha / (alpha · B(alpha, alpha))."""
    draws = beta(Key(1), np.arange(MANY), "mixup", alpha)
    constant = math.gamma(2 * alpha) / (alpha * math.gamma(alpha) ** 2)
    x = (np.geomspace(1e-4, 2e-3, 50) / constant) ** (1 / alpha)
    share = np.searchsorted(np.sort(draws), x, side="right") / MANY
    wanted = constant * x**alpha * (1 - alpha * (alpha - 1) / (alpha + 1) * x)  # and the next term of its series
    assert (np.abs(share - wanted) < 4 * np.sqrt(wanted / MANY) + 2 / MANY).all()  # four standard deviations of a count


@pytest.mark.parametrize("tries", [3, 1])  # 1: a twentieth of the samples must go on, which else are ten in a million
@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_one_of_two_shares_of_dirichlet_has_the_distribution_of_beta(
    alpha: float, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rng, "_log_gamma_variates", partial(rng._log_gamma_variates, tries=tries))
    draws = dirichlet(Key(3, 1), np.arange(MANY), "mixup", alpha, 2)[:, 0]
    assert kolmogorov(draws, *beta_cdf(alpha)) < KOLMOGOROV


def test_the_numerical_cdf_of_beta_equals_the_known_ones() -> None:
    """The yardstick of the test above, measured: three cases whose CDF is known in closed form."""
    grid, cdf = beta_cdf(1.0)
    np.testing.assert_allclose(cdf, grid, atol=1e-7)  # the midpoint rule at 20 thousand points: about (pi / 4 / n)²
    grid, cdf = beta_cdf(0.5)
    np.testing.assert_allclose(cdf, 2 / np.pi * np.arcsin(np.sqrt(grid)), atol=1e-7)
    grid, cdf = beta_cdf(4.0)
    np.testing.assert_allclose(cdf, grid**4 * (35 - 84 * grid + 70 * grid**2 - 20 * grid**3), atol=1e-7)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 4.0])
def test_beta_has_mean_one_half_and_the_variance_of_beta(alpha: float) -> None:
    draws = beta(Key(99), np.arange(MANY), "mixup", alpha)
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(draws.mean() - 0.5) < 4 * np.sqrt(variance / MANY)  # four standard errors
    # (x − 1/2)² lies in [0, 1/4], so its standard deviation is at most 1/8
    assert abs(((draws - 0.5) ** 2).mean() - variance) < 4 * 0.125 / np.sqrt(MANY)


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 50.0, 1e4])  # 1e-3: the gamma variates themselves underflow
@pytest.mark.parametrize("draw", [beta, partial(dirichlet, count=3)], ids=["beta", "dirichlet"])
def test_a_draw_is_a_function_of_its_own_index_alone(draw: Any, alpha: float) -> None:
    index = np.arange(5000)
    together = draw(Key(5, 1), index, "mixup", alpha)
    assert np.isfinite(together).all()
    rows = np.random.default_rng(0).permutation(index)
    np.testing.assert_array_equal(draw(Key(5, 1), rows, "mixup", alpha), together[rows])
    for row in range(0, 5000, 25):  # enough that some of Dirichlet's need more than one try
        np.testing.assert_array_equal(draw(Key(5, 1), index[row : row + 1], "mixup", alpha), together[row : row + 1])
    assert draw(Key(5, 1), index[:0], "mixup", alpha).shape == (0, *together.shape[1:])


@pytest.mark.parametrize(("seed", "epoch"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**32)])
def test_a_key_outside_its_range_is_refused(seed: int, epoch: int) -> None:
    with pytest.raises(ValueError, match="must lie in"):
        Key(seed, epoch)


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
@pytest.mark.parametrize("epoch", [0, 2**32 - 1])
def test_the_ends_of_a_keys_range_draw(seed: int, epoch: int) -> None:
    assert uniform(Key(seed, epoch), np.array([0, 2**63 - 1]), "crop").shape == (2, 1)


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(ValueError, match="-3"):
        uniform(Key(0), np.array([4, -3]), "crop")


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_beta_refuses_an_alpha_that_is_not_positive_and_finite(alpha: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # Refused before the first draw: with alpha = inf no try would ever be accepted, and the search would not end.
    monkeypatch.setattr(rng, "uniform", lambda *_, **__: pytest.fail("it draws"))
    with pytest.raises(ValueError, match="alpha"):
        beta(Key(0), np.array([0]), "mixup", alpha)


def test_a_start_within_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="start is 2"):
        uniform(Key(0), np.arange(3), "a", start=2)
