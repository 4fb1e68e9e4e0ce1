"""Reads machine code as the compilers' tools print it: NVIDIA's SASS and AMD's assembly. Needs no GPU."""

import re
from dataclasses import dataclass

_MEMORY = (  # space, direction, and the names of the instructions
    ("global", "load", re.compile(r"LDG\b|(global|flat|buffer)_load")),
    ("global", "store", re.compile(r"STG\b|(global|flat|buffer)_store")),
    ("local", "load", re.compile(r"LDL\b|scratch_load")),
    ("local", "store", re.compile(r"STL\b|scratch_store")),
)
_BITS = (  # how a name tells that it moves more or less than 32 bits a thread
    (8, re.compile(r"\.[US]8\b|_[us]?byte")),
    (16, re.compile(r"\.[US]16\b|_[us]?short")),
    (64, re.compile(r"\.64\b|x2\b")),
    (96, re.compile(r"x3\b")),
    (128, re.compile(r"\.128\b|x4\b")),
)
_TO_FLOAT = re.compile(r"I2FP?\b(?!\.RP)|v_cvt_f32_[iu]32")  # I2F.RP begins a division of integers


@dataclass(frozen=True)
class Instruction:
    name: str  # with its modifiers: "LDG.E.U8"
    jumps: int | None = None  # the place in the program of the instruction to which it may jump
    falls: bool = True  # whether the next instruction may follow
    ends: bool = False  # whether the program may end here

    @property
    def memory(self) -> tuple[str, str, int] | None:
        """Where it reaches memory: "global" or "local", "load" or "store", and the bits that a thread moves."""
        for space, direction, pattern in _MEMORY:
            if pattern.match(self.name):
                return space, direction, next((bits for bits, word in _BITS if word.search(self.name)), 32)
        return None

    @property
    def converts(self) -> bool:
        """Whether it makes a float32 of an integer."""
        return bool(_TO_FLOAT.match(self.name))


def read_sass(text: str) -> list[Instruction]:
    """The instructions that `cuobjdump --dump-sass` prints of a cubin with one function, padding (NOP) left out.

    Those whose predicate does not hold are issued as well; so a predicate makes a difference to jumps alone.
    """
    # An instruction's line begins with its address; the line that continues its encoding does not.
    pattern = r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?\w+\s+)?([A-Z0-9][\w.]*)\s*(.*?)\s*;"
    lines, places = [], {}
    for line in re.findall(pattern, text, re.MULTILINE):
        places[int(line[0], 16)] = len(lines)  # a jump to padding goes on to what comes after
        if line[2] != "NOP":
            lines.append(line)
    kinds = [name.split(".")[0] for _, _, name, _ in lines]
    calls = [place for place, kind in enumerate(kinds) if kind == "CALL"]
    addresses = [lines[place][3].rpartition(" ")[2] for place in calls]
    callers: dict[int, list[int]] = {}  # by where a function begins
    for place, address in zip(calls, addresses, strict=True):
        callers.setdefault(places[int(address, 16)], []).append(place)
    code = []
    for place, (kind, (_, predicate, name, operands)) in enumerate(zip(kinds, lines, strict=True)):
        condition, _, address = operands.rpartition(" ")
        jumps = None
        if kind in ("BRA", "CALL"):
            jumps = places[int(address, 16)]
        elif kind == "RET":
            begin = max((begin for begin in callers if begin <= place), default=-1)
            called = _only(callers.get(begin, []))
            jumps = None if called is None else called + 1
        leaves = kind in ("CALL", "RET", "EXIT") or (kind == "BRA" and not condition)
        code.append(Instruction(name, jumps, bool(predicate) or not leaves, kind == "EXIT"))
    return code


def read_amdgcn(text: str) -> list[Instruction]:
    """The instructions of the assembly that Triton keeps of an AMD kernel; waits for a hazard (s_nop) are left out. The
    kernel comes first, then the functions that it calls."""
    functions: dict[str, list[tuple[str, str]]] = {"": []}
    labels: dict[str, tuple[str, int]] = {}
    name = ""
    for line in text.splitlines():
        if label := re.match(r"([\w.$]+):", line):
            if not label[1].startswith("."):
                name = label[1]
                functions[name] = []
            labels[label[1]] = name, len(functions[name])
        elif found := re.match(r"\s+(?!s_nop)((?:[sv]|ds|global|flat|scratch|buffer)_\w+)\s*([^;]*)", line):
            functions[name].append((found[1], found[2].strip()))
    kernel = re.findall(r"^\s+\.amdhsa_kernel (\S+)", text, re.MULTILINE)[0]
    order = [kernel, *(name for name in functions if name != kernel)]
    begins = {name: sum(len(functions[before]) for before in order[:i]) for i, name in enumerate(order)}
    lines = [line for name in order for line in functions[name]]
    callee = _only([begins[name] for name in order[1:] if functions[name]])
    called = _only([place for place, (mnemonic, _) in enumerate(lines) if mnemonic == "s_swappc_b64"])
    code = []
    for mnemonic, operands in lines:
        jumps = None
        if re.match(r"s_c?branch", mnemonic):
            function, place = labels[operands]
            jumps = begins[function] + place
        elif mnemonic == "s_swappc_b64":
            jumps = callee
        elif mnemonic == "s_setpc_b64" and called is not None:
            jumps = called + 1
        falls = mnemonic not in ("s_branch", "s_swappc_b64", "s_setpc_b64", "s_endpgm")
        code.append(Instruction(mnemonic, jumps, falls, mnemonic == "s_endpgm"))
    return code


def _only(places: list[int]) -> int | None:
    """None where there are none or several: a return then leads nowhere that the text could tell."""
    return places[0] if len(places) == 1 else None
