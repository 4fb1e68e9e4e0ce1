"""What the benchmarks share: paired timing, the machine's description, and where results go."""

import json
import platform
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("augment_gpu", "torch", "torchvision", "triton", "kornia", "numpy", "pillow")


def paired(contenders: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each contender in each of `repeats` rounds; all run once a round, after one round that does not count.

    On a noisy machine a slow minute then hits all of them, and ratios within a round stay meaningful.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(repeats + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "low": low, "high": high}


def machine() -> dict[str, Any]:
    """What a reader needs to know of where a figure comes from."""
    return {
        "processor": _processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "packages": {package: package_version(package) for package in _PACKAGES},
    }


def commit() -> str | None:
    """Of the source, with "+" behind it where files differ from it; None outside a checkout."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(RESULTS), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None


def result_path(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """results/<name>-<machine>-<date>.json; without the name where it is empty. result["machine"]: from machine(); its
    "date", where it has one, is the file's."""
    words = [name, slug(result["machine"]), result.get("date", date.today().isoformat())]
    return folder / f"{'-'.join(filter(None, words))}.json"


def save(name: str, result: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Writes the result to its path, whole or not at all."""
    path = result_path(name, result, folder)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)
    return path


def slug(found: Mapping[str, Any]) -> str:
    """A machine's GPU, or else its processor, as part of a file's name: "NVIDIA H200" becomes nvidia-h200, and
    "Intel(R) Xeon(R) Processor @ 2.60GHz" intel-xeon."""
    name = re.sub(r"\((r|tm)\)|\b(cpu|processor)\b|@.*", " ", (found["gpu"] or found["processor"]).lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:  # not Linux
        return platform.processor()
    return platform.machine()


def package_version(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
