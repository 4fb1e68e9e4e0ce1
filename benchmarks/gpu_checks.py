"""The test-suite's CUDA half, as the report runs and records it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_PYTEST = [sys.executable, "-m", "pytest", "-q"]
# Memcheck makes a kernel some ten times slower, so: of each a few small tests, which read and write beside every edge.
MEMCHECKED = {
    "crop": ("every_size_equals", "nothing_around_out", "one_image_may_serve", "taps_in_vain"),
    "crop_holes": ("pictures_of_every_size", "nothing_around_an_out", "noise_is_that"),
    "cutout": ("begin_and_end_anywhere", "nothing_around_a_part", "noise_fills_up_to_four"),
    "mix": ("written_and_none_beyond", "three_by_three_picture_by_hand", "mixed_targets_by_hand", "of_another_layout"),
    "mix_modes": ("a_batch_of_both_kinds",),
}
_PROCESSES = 14  # at most; each takes half a gigabyte of the GPU's memory
_TAIL = 2000


def run_tests(*, quick: bool, seconds: float) -> list[dict[str, Any]]:
    """The outcome of the tests that need a GPU, and of the kernels', which take one where there is one: in several
    processes, since most of their time goes into compiling. quick: one small file instead, which proves that the step
    works."""
    processes = str(min(_PROCESSES, max(1, (os.cpu_count() or 1) - 2)))
    everything = ["tests", "-m", "cuda or kernel", "--numprocesses", processes, "--dist", "worksteal"]
    return [_outcome([*_PYTEST, *(["tests/test_memory.py"] if quick else everything)], seconds)]


def memcheck(*, seconds: float) -> dict[str, Any]:
    """What compute-sanitizer finds in a few tests of every kernel; `absent` where it is not on PATH. Tensors get
    allocations of their own, since torch's pool would hide a step past the end of one."""
    if shutil.which("compute-sanitizer") is None:
        return {"absent": "compute-sanitizer is not on PATH"}
    files = [f"tests/test_{name}.py" for name in MEMCHECKED]
    chosen = " or ".join(name for names in MEMCHECKED.values() for name in names)
    command = ["compute-sanitizer", "--tool", "memcheck", *_PYTEST, *files, "-m", "kernel", "-k", chosen]
    outcome = _outcome(command, seconds, PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    found = re.search(r"ERROR SUMMARY: (\d+) error", outcome["output_tail"])
    return outcome | {"findings": int(found[1]) if found else None}


def _outcome(command: list[str], seconds: float, **environment: str) -> dict[str, Any]:
    """Numbers of passed, failed, skipped … tests by pytest's last line; timed_out, if it did not come to that. Keeps
    the end of the output, which names the failures."""
    shown = " ".join("python" if part == sys.executable else part for part in command)
    everything = {**os.environ, **environment}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=everything, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        late = False
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            late = True
        finally:  # its own processes too, which would disturb what is measured next
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        output = log.read()
    if late:
        return {"command": shown, "timed_out": seconds, "output_tail": output[-_TAIL:]}
    return {
        "command": shown,
        "exit_status": process.returncode,
        "outcome": summary(output),
        "output_tail": output[-_TAIL:],
    }


def summary(output: str) -> dict[str, int]:
    """{"passed": 12, "skipped": 1} from the last line of pytest's output that counts."""
    lines = [line for line in output.splitlines() if re.search(r"\d+ (passed|failed|skipped|error|deselected)", line)]
    counts = re.findall(r"(\d+) (passed|failed|skipped|errors?|xfailed|xpassed|deselected)", lines[-1] if lines else "")
    return {word: int(number) for number, word in counts}
