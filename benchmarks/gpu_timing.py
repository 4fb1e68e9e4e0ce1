"""Timing on a CUDA device, and by the wall clock on a CPU, where a dry run only proves that the code works.

A contender is a list of calls that are equal but for their buffers; they are run in turn, so that what one call reads
is no longer in the L2 cache when its turn comes again. `rotation` says how many it takes.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from common import spread
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

Calls = Sequence[Callable[[], object]]


def measure(
    contenders: Mapping[str, Calls], device: torch.device, *, budget: float, rounds: int
) -> dict[str, list[float]]:
    """Seconds a call of each contender in each round, host work included: what a loop over batches would see.

    One round runs every contender for about its share of `budget` seconds, after a warm-up in which each call ran
    twice. On CUDA the clock is a pair of events around back-to-back calls; the second is recorded after a wait for the
    whole device, since some libraries work on streams of their own. That wait is the only one in a round.
    """
    turns = {name: itertools.cycle(calls) for name, calls in contenders.items()}
    share = budget / rounds / len(contenders)
    repeats = {}
    for name, calls in contenders.items():
        _timed(turns[name], len(calls), device)
        repeats[name] = max(1, round(share / _timed(turns[name], len(calls), device)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            seconds[name].append(_timed(turns[name], repeats[name], device))
    return seconds


def _timed(turns: Iterator[Callable[[], object]], repeats: int, device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(repeats):
            next(turns)()
        return (time.perf_counter() - begin) / repeats
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    for _ in range(repeats):
        next(turns)()
    torch.cuda.synchronize(device)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def on_device(calls: Calls, device: torch.device, *, budget: float, rounds: int) -> dict[str, Any]:
    """What a call does on the device, without the host's share: kernels and copies (numbers a call; a memset counts as
    a copy), and the spread of the seconds that its kernels took together, copies apart.

    Each round is one session of torch.profiler, which takes the times from the driver. A CPU launches nothing: there
    the kernels are 0 and the seconds are the whole call's, by the wall clock.
    """
    if device.type != "cuda":
        seconds = measure({"call": calls}, device, budget=budget, rounds=rounds)["call"]
        return {"kernels": 0, "copies": 0, "seconds": spread(seconds)}
    for call in calls:
        call()
    seconds, kernels, copies = [], 0, 0
    for _ in range(rounds):
        torch.cuda.synchronize(device)
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            for call in calls:
                call()
            torch.cuda.synchronize(device)
        launched, moved, microseconds = tally(profiler.events())
        kernels += launched
        copies += moved
        seconds.append(microseconds / 1e6 / len(calls))
    total = rounds * len(calls)
    return {"kernels": kernels / total, "copies": copies / total, "seconds": spread(seconds)}


def tally(events: Iterable[Any]) -> tuple[int, int, float]:
    """Kernels, copies with memsets, and the kernels' microseconds, of a profiler's events."""
    there = [event for event in events if event.device_type == DeviceType.CUDA]
    kernels = [event for event in there if not event.name.startswith(("Memcpy", "Memset"))]
    return len(kernels), len(there) - len(kernels), sum(event.time_range.elapsed_us() for event in kernels)


def host_time(call: Callable[[], object], device: torch.device, *, rounds: int) -> dict[str, float]:
    """Spread of the seconds until `call` returns, the device being idle before it, so that no launch waits for a place
    in the queue. On a CPU that is the whole of the work."""
    seconds = []
    for _ in range(rounds + 3):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return spread(seconds[3:])


def rotation(bytes_each: int, device: torch.device) -> int:
    """How many sets of buffers of `bytes_each` bytes are taken in turn: together more than four times the L2 cache, and
    no more than half of the free memory."""
    if device.type != "cuda":
        return 2
    cache, free = torch.cuda.get_device_properties(device).L2_cache_size, torch.cuda.mem_get_info(device)[0]
    return sets_of_buffers(bytes_each, cache, free)


def sets_of_buffers(bytes_each: int, cache: int, free: int) -> int:
    """`rotation` for a cache and a free memory of so many bytes."""
    return max(1, min(max(2, 4 * cache // bytes_each + 1), free // 2 // bytes_each))


def fitting_batch(batch: int, bytes_per_image: int, device: torch.device) -> int:
    """The batch, halved until one set of its buffers takes at most a quarter of the free memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0]
        while batch > 1 and batch * bytes_per_image > free // 4:
            batch //= 2
    return batch
