"""Checks and measures augment_gpu on an NVIDIA GPU, in at most eight minutes, without the network.

    python benchmarks/gpu_report.py                           # what `make gpu-report` runs
    python benchmarks/gpu_report.py --device cpu --quick      # proves in a minute, on any machine, that this works

Runs the kernels' tests, then measures (see gpu_ops.py, gpu_training.py, bench_rivals.py), and writes <gpu>-<date>.json,
.md and .png into benchmarks/results. What a CPU or --quick gives is called dry-run in its name, and is no result; the
parts that a run had finished when it was stopped stay in unfinished-<gpu>-<date>.json, which is none either.
Exits with 1 where a test failed or a measurement of augment_gpu itself raised.
"""

import argparse
import math
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_rivals import measured_rivals
from common import RESULTS, commit, machine, package_version, result_path, save
from gpu_checks import memcheck, run_tests
from gpu_ops import QUICK, Plan, ceiling, crops, fixed_scales, host_work, other_ops, output_dtypes
from gpu_table import markdown, plot
from gpu_training import training

# The most that a part may take, in seconds; together less than eight minutes. A part that is slower is cut short, and
# the report says so; but for a quick one, which is little as it is.
LIMITS = {
    "tests": 210,
    "memcheck": 60,
    "crops": 60,
    "fixed_scales": 20,
    "other_ops": 20,
    "host_work": 10,
    "training": 35,
    "rivals": 60,
}
KIND, UNFINISHED = "gpu-report", "gpu-report, unfinished"
_RIVAL_PACKAGES = ("cvcuda-cu12", "cvcuda-cu13", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "timm")


Found = dict[str, Any]


def report(device: torch.device, *, quick: bool, tests: bool, keep: Callable[[Found], None]) -> Found:
    """Everything that was found, as it goes into the JSON file. keep: is given what is there after each part."""
    plan = QUICK if quick else Plan()
    dry_run = quick or device.type != "cuda"
    found: Found = {
        "kind": UNFINISHED,
        "dry_run": dry_run,
        "date": date.today().isoformat(),
        "machine": {**machine(), "device": describe(device), "rivals": _installed()},
        "commit": commit(),
        "clock": "CUDA events" if device.type == "cuda" else "wall",
        "plan": asdict(plan),
        "left_out": [f"{name}: this GPU has none" for name in output_dtypes(device)[1]],
        "errors": [],
        "took_seconds": {},
    }
    took = partial(_took, found, keep)
    if tests:
        took("tests", lambda: run_tests(quick=quick, seconds=LIMITS["tests"]))
        took("memcheck", lambda: memcheck(seconds=LIMITS["memcheck"]))
    else:
        found["left_out"].append("tests: --no-tests was given")
    took("ceiling", lambda: ceiling(plan, device))
    speed = found["ceiling"]["bytes_per_second"]["median"]
    parts = {
        "crops": crops(plan, device, speed),
        "fixed_scales": fixed_scales(plan, device, speed),
        "other_ops": other_ops(plan, device, speed),
        "host_work": host_work(plan, device),
        "training": training(plan, device),
    }
    for name, rows in parts.items():
        seconds = math.inf if quick else LIMITS[name]
        took(name, partial(_collect, found, name, rows, seconds))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    took("rivals", lambda: measured_rivals(device, quick=quick, seconds=LIMITS["rivals"]))
    return found | {"kind": KIND}


def _took(found: Found, keep: Callable[[Found], None], name: str, part: Callable[[], Any]) -> None:
    print(f"{name} …", file=sys.stderr, flush=True)
    begin = time.monotonic()
    found[name] = part()
    found["took_seconds"][name] = round(time.monotonic() - begin, 1)
    keep(found)


def _collect(
    found: Found, name: str, rows: Generator[dict[str, Any], None, None], seconds: float
) -> list[dict[str, Any]]:
    """The rows that came within so many seconds. What stopped them early is noted, and the report goes on."""
    begin, collected = time.monotonic(), []
    try:
        for row in rows:
            collected.append(row)
            if time.monotonic() - begin > seconds:
                found["left_out"].append(f"{name}: cut short after {len(collected)} rows and {seconds} s")
                break
    except Exception as error:
        traceback.print_exc()
        found["errors"].append(f"{name}: after {len(collected)} rows: {type(error).__name__}: {error}")
    rows.close()  # lets go of the buffers of a part that was cut short
    return collected


def describe(device: torch.device) -> dict[str, Any]:
    """The card, and what nvidia-smi says of driver, clocks and power."""
    if device.type != "cuda":
        return {"name": "cpu"}
    properties = torch.cuda.get_device_properties(device)
    card = {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
    }
    if shutil.which("nvidia-smi"):
        fields = "driver_version,clocks.max.sm,clocks.max.memory,power.limit"
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        card["nvidia_smi"] = {"asked": fields, "answer": answer}
    return card


def _installed() -> dict[str, str | None]:
    return {package: package_version(package) for package in _RIVAL_PACKAGES}


def failures(found: Found) -> Iterable[str]:
    """Why the run counts as failed. What only lasted too long is no failure, and stands in the report as such: most of
    the tests' time goes into compiling some fifty variants of the kernels, which the next run finds in Triton's
    cache."""
    yield from found["errors"]
    checks = [*found.get("tests", []), *([found["memcheck"]] if "command" in found.get("memcheck", {}) else [])]
    for outcome in checks:
        if "timed_out" not in outcome and (outcome["exit_status"] != 0 or not outcome["outcome"].get("passed")):
            yield f"{outcome['command']}: {outcome['outcome']}, exit status {outcome['exit_status']}"
    if found.get("memcheck", {}).get("findings"):
        yield f"memcheck: {found['memcheck']['findings']} findings"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a dry run, no result")
    parser.add_argument("--no-tests", action="store_true", help="measure only")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the files")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no NVIDIA GPU is visible here; --device cpu --quick makes a dry run")
    options.output.mkdir(parents=True, exist_ok=True)
    dry = "dry-run" if options.quick or options.device != "cuda" else ""
    unfinished = "-".join(filter(None, [dry, "unfinished"]))
    keep = partial(save, unfinished, folder=options.output)
    found = report(torch.device(options.device), quick=options.quick, tests=not options.no_tests, keep=keep)
    path = save(dry, found, options.output)
    table = markdown(found)
    path.with_suffix(".md").write_text(table)
    plot(found, path.with_suffix(".png"))
    print(table)
    result_path(unfinished, found, options.output).unlink()
    print("written to", path)
    reasons = list(failures(found))
    print("".join(f"FAILED {reason}\n" for reason in reasons), file=sys.stderr, end="")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
