"""timm_augment: what timm's strings for `auto_augment` stand for, with timm's ops, levels and distributions; of its
policies each sample draws its own.

    rand-m9-n2-p0.5-mstd0.5-mmax10-inc1   RandAugment; its sections in any order, all of them optional; also -tweights,
                                          -t3a and -t3aw, other sets of ops
    augmix-m3-w3-d2-a1-mstd0.5            AugMix
    original, originalr, v0, v0r, 3a      AutoAugment's policies, and DeiT III's three ops; also with -mstd0.5
"""

import re
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import ArrayLike

from augment_gpu.ops.policies import columns, draw_mixture
from augment_gpu.ops.policy import (
    NUMBER,
    AugMixParams,
    Interpolation,
    PolicyParams,
    aug_mix,
    aug_mix_reference,
    policy,
    policy_reference,
)
from augment_gpu.ops.timm_levels import DENOMINATOR, LEVELS, SETS, TABLES, WEIGHTED
from augment_gpu.ops.warp import Fill
from augment_gpu.rng import Key, uniform

# ---- strings

_RAND = {"m": 10.0, "n": 2.0, "p": 0.5, "mstd": 0.0, "mmax": 10.0, "inc": 0.0}
_AUGMIX = {"m": 3.0, "w": 3.0, "d": -1.0, "a": 1.0, "b": 0.0, "mstd": np.inf}
_SECTIONS = {"rand": _RAND, "augmix": _AUGMIX, **{name: {"mstd": 0.0} for name in TABLES}}
TIMM_STRINGS = tuple(_SECTIONS)  # how they begin
_FRACTIONS = ("p", "a", "mstd")  # the others are whole numbers


@lru_cache
def _read(text: str) -> tuple[str, dict[str, float], str]:
    """The first word, its numbers, and of "rand" the set of ops. Raises ValueError for what is not understood; timm
    passes over some of that."""
    head, *sections = text.split("-") if isinstance(text, str) else ("",)
    if head not in _SECTIONS:
        raise ValueError(
            f"auto_augment is {text!r}; known are {', '.join(TIMM_STRINGS)}, each with "
            "sections such as rand-m9-mstd0.5-inc1"
        )
    numbers, ops = dict(_SECTIONS[head]), ""
    for section in sections:
        name, value = re.fullmatch(r"([a-z]*)(.*)", section, re.DOTALL).groups()  # type: ignore[union-attr]
        if head == "rand" and section[:1] == "t" and section[1:] in ("3a", *WEIGHTED):
            ops = section[1:]
        elif name in numbers and re.fullmatch(r"\d+(\.\d+)?" if name in _FRACTIONS else r"\d+", value):
            numbers[name] = float(value)
        else:
            known = [*numbers, *([f"t{name}" for name in ("3a", *WEIGHTED)] if head == "rand" else [])]
            raise ValueError(
                f"auto_augment is {text!r}, of which {section!r} is not known; {head} has {', '.join(known)}"
            )
    if numbers.get("b"):
        raise ValueError(f"auto_augment is {text!r}; AugMix's blended mode, b1, has no counterpart")
    if not 0 <= numbers.get("p", 0) <= 1:
        raise ValueError(f"auto_augment is {text!r}; p lies in [0, 1]")
    if head == "rand" and numbers["mstd"] > 100:
        numbers["mstd"] = np.inf  # uniform from 0 to m
    if ops in WEIGHTED and numbers["n"] > len(WEIGHTED[ops]):
        raise ValueError(f"auto_augment is {text!r}; {ops} has {len(WEIGHTED[ops])} ops, and none is drawn twice")
    return head, numbers, ops or ("increasing" if numbers.get("inc") else "plain")


# ---- timm_augment


def sample_timm_augment(
    key: Key,
    index: ArrayLike,
    *,
    auto_augment: str = "rand-m9-mstd0.5-inc1",
    interpolation: Interpolation = "bilinear",
    fill: Fill = 128 / 255,
) -> PolicyParams | AugMixParams:
    """auto_augment: timm's string; see the module's head. interpolation: "bilinear" or "nearest"; timm's is bilinear or
    bicubic, by a coin. fill: timm's create_transform fills with the mean of the normalisation."""
    head, numbers, ops = _read(auto_augment)
    index = np.asarray(index)
    name = f"timm_augment.{head}"
    if head == "augmix":
        return _draw_augmix(key, index, name, numbers, interpolation, fill)
    if head == "rand":
        count = int(numbers["n"])
        names = tuple(WEIGHTED.get(ops, {})) or SETS[ops]
        which = _choose(
            key, index, name, count, np.array(list(WEIGHTED[ops].values())) if ops in WEIGHTED else len(names)
        )
        chance, level = np.array(numbers["p"]), np.array(numbers["m"])
    else:
        table = TABLES[head]
        names = tuple(dict.fromkeys(entry[0] for policy in table for entry in policy))
        places, chances, levels = columns(table, names)
        row = (uniform(key, index, name)[:, 0] * len(table)).astype(np.int64)
        which, chance, level = places[row], chances[row], levels[row]
    does = uniform(key, index, f"{name}.p", which.shape[1]) < chance
    drawn = _strengths(key, index, name, names, which, level, numbers, does)
    return PolicyParams(*drawn, interpolation, fill)


def _choose(key: Key, index: np.ndarray, name: str, count: int, among: np.ndarray | int) -> np.ndarray:
    """(B, count) places: among so many, or by weight and none twice, the first to arrive of as many races."""
    if isinstance(among, int):
        return (uniform(key, index, name, count) * among).astype(np.int64)
    arrival = -np.log(1 - uniform(key, index, name, len(among))) / among
    return arrival.argsort(axis=1)[:, :count]


def _strengths(
    key: Key,
    index: np.ndarray,
    name: str,
    names: tuple[str, ...],
    which: np.ndarray,
    level: np.ndarray,
    numbers: dict[str, float],
    does: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(B, n) op and magnitude. which: (B, n) places among the names. level: of each, before its noise."""
    count = which.shape[1]
    u = uniform(key, index, f"{name}.level", 4 * count).reshape(len(index), 4, count)
    if np.isinf(numbers["mstd"]):
        noisy = level * u[:, 0]
    else:  # a normal number, by Box and Muller
        noisy = level + numbers["mstd"] * np.sqrt(-2 * np.log(1 - u[:, 0])) * np.cos(2 * np.pi * u[:, 1])
    level = np.broadcast_to(np.clip(noisy, 0, numbers.get("mmax", DENOMINATOR) or DENOMINATOR), which.shape)
    sign = np.where(u[:, 2] < 0.5, -1.0, 1.0)
    op, magnitude = np.full(which.shape, NUMBER["identity"]), np.zeros(which.shape)
    for place, level_name in enumerate(names):
        here = does & (which == place)
        op_name, magnitude_of = LEVELS[level_name]
        op[here] = NUMBER[op_name]
        magnitude[here] = magnitude_of(level[here], sign[here], u[:, 3][here])
    return op, magnitude


def _draw_augmix(
    key: Key, index: np.ndarray, name: str, numbers: dict[str, float], interpolation: Interpolation, fill: Fill
) -> AugMixParams:
    width, depth = int(numbers["w"]), int(numbers["d"])
    weight, does = draw_mixture(key, index, name, width, depth, numbers["a"], 1.0)
    names, chains = SETS["augmix"], []
    for chain, done in enumerate(does):
        which = _choose(key, index, f"{name}.{chain}", done.shape[1], len(names))
        level = np.array(numbers["m"])
        op, magnitude = _strengths(key, index, f"{name}.{chain}", names, which, level, numbers, done)
        # create_transform has AugMix translate by at most 0.3 of a side, where RandAugment's 0.45 are the levels'.
        shifts = np.isin(op, [NUMBER["translate_x_rel"], NUMBER["translate_y_rel"]])
        chains.append(PolicyParams(op, magnitude * np.where(shifts, 0.3 / 0.45, 1), interpolation, fill))
    return AugMixParams(weight, tuple(chains))


def timm_augment(images: torch.Tensor, params: PolicyParams | AugMixParams) -> torch.Tensor:
    """images: (B, C, H, W) floating point in [0, 1], C = 1 or 3; see augment_gpu.ops.policy."""
    if isinstance(params, AugMixParams):
        return aug_mix(images, params)
    return policy(images, params, "timm_augment")


def timm_augment_reference(images: torch.Tensor, params: PolicyParams | AugMixParams) -> torch.Tensor:
    """The definition: that of a policy, or of a mixture of them."""
    return aug_mix_reference(images, params) if isinstance(params, AugMixParams) else policy_reference(images, params)
