"""Counter-based random numbers: every draw is a pure function of (seed, epoch, index, name).

The generator is Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), vectorised in
NumPy. Nothing is remembered between calls, so a sample draws the same numbers at any batch size, order, worker count
and world size, and after a resume.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_ROUNDS = 10
_MULTIPLIER = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint64)
_LOW = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Key:
    """Names a stream of draws.

    seed: [0, 2**64). epoch: [0, 2**32). view: which of several pictures that are made of one sample, from 0 on; each
    has draws of its own. Raises ValueError outside these ranges.
    """

    seed: int
    epoch: int = 0
    view: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed}; it must lie in [0, 2**64)")
        if not 0 <= self.epoch < 2**32:
            raise ValueError(f"epoch is {self.epoch}; it must lie in [0, 2**32)")
        if self.view < 0:
            raise ValueError(f"view is {self.view}; it must be at least 0")


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10.

    counter: (4, n) integers in [0, 2**32). key: two integers in [0, 2**32). Returns (4, n) uint32, words in the order
    of Random123's known-answer vectors.
    """
    words = np.empty((*np.shape(counter)[1:], 4), dtype="<u4")
    _encipher(np.ascontiguousarray(counter[0::2], dtype="<u8"), counter[1::2].astype("<u4"), key, words)
    return np.ascontiguousarray(words.T)


def _encipher(even: np.ndarray, odd: np.ndarray, key: tuple[int, int], words: np.ndarray) -> None:
    """philox of counters whose words 0 and 2 are `even`, (2, n) uint64, and 1 and 3 `odd`, (2, n) uint32; to `words`,
    (n, 4) uint32. All of them contiguous."""
    # The 64-bit products seen as (low, high) halves: a view costs nothing where shift and mask cost two passes. Words 0
    # and 2 cross over, so the rows are reversed. Two sets, since a round reads the low halves of the one before it.
    products = np.empty((2, *even.shape), dtype="<u8")
    halves = products.view("<u4").reshape(*products.shape, 2)[:, ::-1]
    turns = [(products[i], halves[i, ..., 0], halves[i, ..., 1]) for i in (0, 1)]
    crossed = np.empty(even.shape, dtype="<u4")
    for number, round_key in enumerate(_round_keys(*key)):
        product, low, high = turns[number % 2]
        np.multiply(even, _MULTIPLIER, out=product)
        np.bitwise_xor(high, odd, out=crossed)
        crossed ^= round_key
        even, odd = crossed, low
    words[:, 0::2], words[:, 1::2] = even.T, odd.T


@lru_cache(maxsize=1024)
def _round_keys(word_0: int, word_1: int) -> list[np.ndarray]:
    """What each round adds: (2, 1) uint32."""
    steps = _WEYL * np.arange(_ROUNDS, dtype=np.uint64)[:, None]
    return list((np.array([word_0, word_1], dtype=np.uint64) + steps & _LOW).astype("<u4")[:, :, None])


@lru_cache(maxsize=1024)
def _stream(seed: int, name: str) -> tuple[int, int]:
    """The 64-bit key of one named choice: the name is hashed into a counter block and enciphered under the seed."""
    digest = np.frombuffer(hashlib.blake2b(name.encode(), digest_size=16).digest(), dtype="<u4")
    words = philox(digest[:, None], (seed & 0xFFFFFFFF, seed >> 32))
    return int(words[0, 0]), int(words[1, 0])


def random_words(key: Key, index: np.ndarray, name: str, count: int, *, start: int = 0) -> np.ndarray:
    """(B, count) uint32: words start … start + count of the stream of each sample. start: a multiple of 4.

    index: (B,) integers in [0, 2**63). Raises ValueError when one is negative.
    """
    index = np.asarray(index, dtype=np.int64).reshape(-1)
    if start % 4:
        raise ValueError(f"start is {start}; it must be a multiple of 4")
    if index.size and int(index.min()) < 0:
        raise ValueError(f"index holds {int(index.min())}; positions in the data set start at 0")
    blocks = -(-count // 4)
    even = np.empty((2, index.size, blocks), dtype="<u8")
    even[0], even[1] = (index & 0xFFFFFFFF)[:, None], np.arange(start // 4, start // 4 + blocks)
    odd = np.empty((2, index.size, blocks), dtype="<u4")
    odd[0], odd[1] = (index >> 32)[:, None], key.epoch
    words = np.empty((index.size * blocks, 4), dtype="<u4")
    stream = _stream(key.seed, f"{name}@{key.view}" if key.view else name)
    _encipher(even.reshape(2, -1), odd.reshape(2, -1), stream, words)
    return words.reshape(index.size, 4 * blocks)[:, :count]


def uniform(key: Key, index: np.ndarray, name: str, count: int = 1, *, start: int = 0) -> np.ndarray:
    """(B, count) float64 in [0, 1), multiples of 2**-32; row i depends on (key, index[i], name) alone.

    index: (B,) positions in the data set. start: skip this many numbers of the stream (a multiple of 4), for
    algorithms that reject and go on.
    """
    return random_words(key, index, name, count, start=start) * 2.0**-32


def beta(key: Key, index: np.ndarray, name: str, alpha: float) -> np.ndarray:
    """(B,) float64 in [0, 1] from Beta(alpha, alpha), alpha > 0.

    Of two numbers a sample, none of them rejected: (1 + T / sqrt(ν + T²)) / 2 for Student's T of ν = 2 · alpha degrees
    of freedom, which is drawn by polar coordinates (Devroye, "Random variate generation in one line of code", WSC 1996;
    Bailey, "Polar generation of random variates with the t-distribution", Mathematics of Computation 62, 1994).
    """
    _check_alpha("Beta", alpha)
    u = uniform(key, index, name, 2)
    cosine = np.cos(2 * np.pi * u[:, 1])
    with np.errstate(over="ignore"):  # as a small alpha's does: what is infinite gives a share of 0
        t_squared = np.expm1(-np.log1p(-u[:, 0]) / alpha) * cosine**2  # over ν
    rest = 1 / (1 + t_squared)
    smaller = rest / (2 + 2 * np.sqrt(1 - rest))  # (1 − sqrt(1 − rest)) / 2, but exact for a small rest
    return np.where(cosine < 0, smaller, 1 - smaller)


def dirichlet(key: Key, index: np.ndarray, name: str, alpha: float, count: int) -> np.ndarray:
    """(B, count) float64 in [0, 1] that add up to 1, from the symmetric Dirichlet distribution, alpha > 0.

    Shares of gamma variates, each by Marsaglia and Tsang (ACM TOMS 26:3, 2000), whose first accepted try of the
    sample's own stream counts. Logarithms throughout, since for small alpha the variates underflow.
    """
    _check_alpha("Dirichlet", alpha)
    index = np.asarray(index, dtype=np.int64).reshape(-1)
    log_gamma = _log_gamma_variates(key, index, name, alpha, count)
    weight = np.exp(log_gamma - log_gamma.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def _check_alpha(distribution: str, alpha: float) -> None:
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha is {alpha}; a {distribution} distribution needs a finite alpha > 0")


def _log_gamma_variates(key: Key, index: np.ndarray, name: str, alpha: float, count: int, tries: int = 3) -> np.ndarray:
    """(B, count) logarithms of Gamma(alpha, 1) variates. The numbers of `tries` are drawn at once; rows that hold one
    which all of them rejected go on with new ones."""
    result = np.empty((index.size, count))
    pending = np.arange(index.size)
    start = 0
    while pending.size:
        # 1 - u lies in (0, 1], whose logarithm is finite
        u = 1 - uniform(key, index[pending], name, 4 * count * tries, start=start).reshape(-1, tries, count, 4)
        found, accepted = _log_gamma_try(u[:, 0], alpha)
        for once_more in range(1, tries):  # one variate in twenty, or less: most tries are never computed
            rejected = np.nonzero(~accepted)
            if not rejected[0].size:
                break
            found[rejected], accepted[rejected] = _log_gamma_try(u[:, once_more][rejected], alpha)
        result[pending] = found
        pending = pending[~accepted.all(axis=1)]
        start += 4 * count * tries
    return result


def _log_gamma_try(u: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """One try of Marsaglia and Tsang: logarithms of variates, and whether they are accepted. u: (…, 4) in (0, 1]."""
    d = alpha + 1 - 1 / 3  # shape alpha + 1 is drawn, and brought down to alpha by a power of a uniform
    log_u = np.log(u)
    normal = np.sqrt(-2 * log_u[..., 0]) * np.cos(2 * np.pi * u[..., 1])
    v = np.maximum(1 + normal / np.sqrt(9 * d), 1e-100) ** 3
    log_v = np.log(v)
    accepted = log_u[..., 2] < 0.5 * normal**2 + d - d * v + d * log_v
    return np.log(d) + log_v + log_u[..., 3] / alpha, accepted
