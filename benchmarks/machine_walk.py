"""How many instructions a program issues, from its text and from what it must do in memory. Needs no GPU.

What a loop's body costs is in the text; how often it runs is not, and compilers unroll loops, split off remainders and
skip what is empty. But a strip of an image loads so many bytes for each output row, then stores so many. So the count
is that of the shortest walk through the program's branches which loads and stores just that, in that order: loops of
any shape come out right, and a program that cannot load and store just that is an error, and never a wrong figure.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from machine_code import Instruction


@dataclass(frozen=True)
class Strip:
    """What one thread of a program must do. loads: bytes of pixels for each output row, in turn. store: bytes that it
    then writes, the same for each row. weights: how many filter taps a loop that touches no memory sums the weights of;
    it converts an integer to float for each."""

    loads: tuple[int, ...]
    store: int
    weights: int = 0


@dataclass(frozen=True)
class _Block:
    """Instructions that are always issued one after another; events: what of it the walk looks at, in order."""

    instructions: int
    loads: int  # of pixels
    events: tuple[tuple[str, int], ...]
    following: tuple[int, ...]
    ends: bool


def walk(code: list[Instruction], strip: Strip) -> tuple[int, int]:
    """Instructions that the program issues, and those of them that load pixels. A row that a mask keeps from being
    stored counts as one that is. Raises ValueError where no walk does what the strip needs."""
    blocks = _blocks(code)
    start = (0, 0, 0, 0, 0)  # block; output rows finished; bytes loaded and stored for this one; conversions
    queue = [(0, 0, start)]
    seen = set()
    while queue:
        instructions, loads, state = heapq.heappop(queue)
        if state in seen:
            continue
        seen.add(state)
        block = blocks[state[0]]
        after = _advance(block, strip, state[1:])
        if after is None:
            continue
        instructions, loads = instructions + block.instructions, loads + block.loads
        if block.ends and after == (len(strip.loads), 0, 0, strip.weights):
            return instructions, loads
        for place in block.following:
            heapq.heappush(queue, (instructions, loads, (place, *after)))
    raise ValueError(f"no way through this program loads {strip.loads} bytes and stores {strip.store} after each")


def _advance(block: _Block, strip: Strip, state: tuple[int, ...]) -> tuple[int, ...] | None:
    """The state after a block; None where it does what the strip does not need."""
    rows, loaded, stored, converted = state
    for kind, amount in block.events:
        if kind == "convert":
            converted += 1
        elif rows == len(strip.loads):
            return None
        elif kind == "load":
            loaded += amount
        elif loaded < strip.loads[rows]:
            return None
        else:
            stored += amount
            if stored == strip.store:
                rows, loaded, stored = rows + 1, 0, 0
        if converted > strip.weights or stored > strip.store or loaded > [*strip.loads, 0][rows]:
            return None
    return rows, loaded, stored, converted


def _blocks(code: list[Instruction]) -> list[_Block]:
    leaders = {0} | {one.jumps for one in code if one.jumps is not None}
    leaders |= {i + 1 for i, one in enumerate(code) if one.jumps is not None or not one.falls or one.ends}
    starts = sorted(place for place in leaders if place < len(code))
    number = {place: i for i, place in enumerate(starts)}
    spans = [code[start:stop] for start, stop in zip(starts, [*starts[1:], len(code)], strict=True)]
    following = []
    for i, span in enumerate(spans):
        last = span[-1]
        following.append([number[last.jumps]] if last.jumps is not None else [])
        if last.falls and i + 1 < len(spans):
            following[-1].append(i + 1)
    reached = [_reached(following, i) for i in range(len(spans))]
    loops = [[place for place in reached[i] if i in reached[place]] for i in range(len(spans))]
    does = [{one.memory[1] for one in span if one.memory} for span in spans]
    # Not those of a hole, which is filled by a loop that loads nothing.
    stores = {i for i in range(len(spans)) if "store" in does[i] and any("load" in does[place] for place in loops[i])}
    blocks = []
    for i, (span, loop) in enumerate(zip(spans, loops, strict=True)):
        if loop:
            optional = not any(one.memory for place in loop for one in spans[place])
        else:
            optional = i > 0 and not stores.isdisjoint(_reached(following, 0, without=i))
        events = tuple(_events(span, loop=bool(loop), optional=optional))
        loads = sum(kind == "load" for kind, _ in events)
        blocks.append(_Block(len(span), loads, events, tuple(following[i]), span[-1].ends))
    return blocks


def _reached(following: list[list[int]], start: int, without: int = -1) -> set[int]:
    """The blocks that can come after block `start`, on ways around block `without`."""
    reached: set[int] = set()
    waiting = [start]
    while waiting:
        new = set(following[waiting.pop()]) - reached - {without}
        reached |= new
        waiting += new
    return reached


def _events(span: list[Instruction], *, loop: bool, optional: bool) -> Iterator[tuple[str, int]]:
    """loop: whether the instructions lie in a loop; what is loaded elsewhere is tables. optional: whether they lie in a
    loop that touches no memory, or in what a compiler split off from it: code that can be skipped."""
    for one in span:
        space, direction, bits = one.memory or ("", "", 0)
        if space == "global" and (loop or direction == "store"):
            yield direction, bits // 8
        elif one.converts and optional:
            yield "convert", 0
