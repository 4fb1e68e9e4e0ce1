"""Programs short enough to count by hand, in the two languages that the static figures read."""

from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("benchmarks_importable")


def sass(*instructions: str) -> str:
    """As cuobjdump prints it: each address a multiple of 16, the encoding in two lines."""
    lines = ["\tcode for sm_90", "\t\tFunction : kernel", '\t.headerflags\t@"EF_CUDA_SM90"']
    for place, text in enumerate(instructions):
        lines.append(f"        /*{place * 16:04x}*/    {text} ;    /* 0x000000ff00017b82 */")
        lines.append("                              /* 0x000ff00000000800 */")
    return "\n".join(lines)


# A loop over the rows of the output, and in it one over source rows, which runs once at the least.
TWO_LOOPS = sass(
    "LDG.E R1, desc[UR4][R2.64]",  # 0x00: a table
    "I2F.RP R5, R9",  # 0x10
    "ISETP.GT.AND P1, PT, R1, R2, PT",  # 0x20: each output row
    "LDG.E.U8 R3, desc[UR4][R2.64+0x1]",  # 0x30: each source row
    "@!P2 FFMA R3, R3, R3, R3",  # 0x40
    "@P0 BRA 0x30",  # 0x50
    "@P3 STG.E.U16 desc[UR4][R6.64], R3",  # 0x60
    "BRA P1, 0x20",  # 0x70
    "EXIT",  # 0x80
    "BRA 0x90",  # 0x90: behind every kernel
    "NOP",
)

# A function in which a loop over source rows has been unrolled twice, with what is left of an odd number before it.
UNROLLED = """
f:                                      ; @f
.Lfunc_begin0:
	s_waitcnt vmcnt(0)
.LBB0_1:                                ; =>This Loop Header: Depth=1
	s_cbranch_execz .LBB0_3
	global_load_ubyte v1, v[2:3], off
	v_add_f32_e32 v4, v4, v1
.LBB0_3:                                ;   in Loop: Header=BB0_1 Depth=1
	s_cbranch_execz .LBB0_6
.LBB0_4:                                ;   Parent Loop BB0_1 Depth=1
	global_load_ubyte v1, v[2:3], off
	global_load_ubyte v5, v[2:3], off offset:1
	s_nop 0
	s_cbranch_execnz .LBB0_4
.LBB0_6:
	global_store_short v[6:7], v4, off
	s_cbranch_scc1 .LBB0_1
	s_setpc_b64 s[30:31]
.Lfunc_end0:
	.section	.AMDGPU.gpr_maximums,"",@progbits
kernel:                                 ; @kernel
	s_load_dword s0, s[0:1], 0x0
	s_getpc_b64 s[0:1]
	s_swappc_b64 s[30:31], s[0:1]
	s_endpgm
	.amdhsa_kernel kernel
"""

# Weights are summed in a loop that was unrolled twice after a first turn of its own.
WEIGHTS = sass(
    "I2F.U32 R1, R2",  # 0x00: not of a weight: the program cannot skip it
    "@P0 BRA 0x60",  # 0x10
    "I2FP.F32.S32 R1, R2",  # 0x20
    "I2FP.F32.U32 R1, R2",  # 0x30
    "I2FP.F32.U32 R1, R3",  # 0x40
    "@P1 BRA 0x30",  # 0x50
    "LDG.E.U8 R3, [R2.64]",  # 0x60
    "STG.E.U8 [R2.64], R3",  # 0x70
    "@P2 BRA 0x60",  # 0x80
    "EXIT",  # 0x90
)


# A program that may skip a function's loop, and then calls another, whose loop fills memory and loads nothing.
TWO_FUNCTIONS = sass(
    "@P0 BRA 0x20",  # 0x00
    "CALL.REL.NOINC 0x60",  # 0x10
    "@P1 EXIT",  # 0x20
    "CALL.REL.NOINC 0xb0",  # 0x30
    "EXIT",  # 0x40
    "I2F.U32 R1, R2",  # 0x50: of nothing that runs
    "I2F.U32 R1, R2",  # 0x60: not of a weight: whoever stores what he loaded comes by here
    "LDG.E.U8 R3, [R2.64]",  # 0x70
    "STG.E.U8 [R2.64], R3",  # 0x80
    "@P2 BRA 0x70",  # 0x90
    "RET.REL.NODEC R20 0x0",  # 0xa0
    "STG.E.U8 [R2.64], R3",  # 0xb0
    "@P3 BRA 0xb0",  # 0xc0
    "RET.REL.NODEC R20 0x0",  # 0xd0
)


def test_loops_run_as_often_as_there_are_bytes_to_load() -> None:
    from machine_code import read_sass
    from machine_walk import Strip, walk

    # 2 before; two output rows of 1 + 3 for each source row + 2; EXIT. The padding behind it is never reached.
    assert walk(read_sass(TWO_LOOPS), Strip((2, 1), 2)) == (2 + (1 + 2 * 3 + 2) + (1 + 3 + 2) + 1, 3)


def test_an_unrolled_loop_and_its_remainder_share_the_rows() -> None:
    from machine_code import read_amdgcn
    from machine_walk import Strip, walk

    # The kernel's 3, the function's 1; for each output row two guards and 2 at its end, with 2 where a source row is
    # left over and 3 for each pair; the return and s_endpgm. s_nop is no instruction.
    rows = {3: 4 + 2 + 3, 2: 4 + 3, 1: 4 + 2, 0: 4}
    assert walk(read_amdgcn(UNROLLED), Strip((3, 2, 1, 0), 2)) == (4 + sum(rows.values()) + 2, 6)


@pytest.mark.parametrize(
    ("loads", "store"),
    [
        ((2, 0), 2),  # the loop over source rows cannot be skipped
        ((2, 1), 1),  # two bytes are stored at once
    ],
)
def test_a_program_that_cannot_do_its_work_is_refused(loads: tuple[int, ...], store: int) -> None:
    from machine_code import read_sass
    from machine_walk import Strip, walk

    with pytest.raises(ValueError, match="no way through this program"):
        walk(read_sass(TWO_LOOPS), Strip(loads, store))


def test_a_loop_without_loads_runs_for_each_weight() -> None:
    from machine_code import read_sass
    from machine_walk import Strip, walk

    code = read_sass(WEIGHTS)
    assert walk(code, Strip((1, 1), 1, weights=5)) == (2 + 1 + 2 * 3 + 2 * 3 + 1, 2)
    assert walk(code, Strip((1, 1), 1)) == (2 + 2 * 3 + 1, 2)
    with pytest.raises(ValueError, match="no way through this program"):
        walk(code, Strip((1, 1), 1, weights=4))  # after the first turn they come in pairs


def test_a_function_returns_to_where_it_was_called_and_one_that_fills_need_not_be() -> None:
    from machine_code import read_sass
    from machine_walk import Strip, walk

    code = read_sass(TWO_FUNCTIONS)
    assert [one.jumps for one in code if one.name.startswith("RET")] == [2, 4]
    # The jump and the call; the function's conversion, two rows of 3, its return; EXIT.
    assert walk(code, Strip((1, 1), 1)) == (2 + 1 + 2 * 3 + 1 + 1, 2)


def test_a_jump_to_nowhere_is_refused() -> None:
    from machine_code import read_sass

    with pytest.raises(KeyError):
        read_sass(sass("BRA 0x40", "EXIT"))


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("LDG.E.U8.CONSTANT", ("global", "load", 8)),
        ("LDG.E", ("global", "load", 32)),
        ("LDG.E.128", ("global", "load", 128)),
        ("STG.E.U16", ("global", "store", 16)),
        ("LDL.64", ("local", "load", 64)),
        ("STL", ("local", "store", 32)),
        ("LDGSTS.E", None),
        ("LDC.64", None),
        ("global_load_ubyte", ("global", "load", 8)),
        ("buffer_load_dwordx4", ("global", "load", 128)),
        ("global_load_dwordx3", ("global", "load", 96)),
        ("global_store_short", ("global", "store", 16)),
        ("scratch_store_dword", ("local", "store", 32)),
        ("s_load_dwordx2", None),
    ],
)
def test_what_reaches_memory(name: str, memory: tuple[str, str, int] | None) -> None:
    from machine_code import Instruction

    assert Instruction(name).memory == memory


def launch(reach: int, start: float, step: float, high: int) -> Any:
    """start, step: of the positions down the image, in pixels."""
    plan = SimpleNamespace(start=int(start * 2**32), step=int(step * 2**32), low=0, high=high)
    return SimpleNamespace(arguments={"REACH": reach}, crop=lambda: plan)


def test_source_rows_by_hand() -> None:
    pytest.importorskip("triton")
    from static_figures import source_rows

    # Three source rows for each output row, whose centre is the middle one. A strip begins a row early and ends a row
    # late, and takes two steps a turn: 34 for 32 rows. The picture's first row and its last lack one or two.
    third = launch(1, 1, 3, 672)
    assert source_rows(third, range(32), shrinks=True) == [2] + [3] * 33
    assert source_rows(third, range(32, 64), shrinks=True) == [3] * 34
    assert source_rows(third, range(192, 224), shrinks=True) == [3] * 32 + [1, 0]
    # Two output rows for each source row, with centres a quarter of a pixel beside it: the first needs both neighbours.
    double = launch(1, -0.25, 0.5, 112)
    assert source_rows(double, range(8), shrinks=False) == [2, 1, 0, 1, 0, 1, 0, 1]
    assert source_rows(launch(0, 0, 3, 672), range(8), shrinks=False) == [1] * 8
