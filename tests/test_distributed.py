"""Many processes as one run, with gloo on a CPU: the same weights, each sample once, resumed on another number."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from augment_gpu.transfer.checkpoint import load_checkpoint

Start = Callable[..., int]

# 24 training images. A model without batch normalisation: on CPUs each process has statistics of its own images.
# Sums in another order differ in the last bits of float32, which AdamW, dividing by their root, enlarges.
SETTINGS = ["--model", "test_convnext", "--scratch", "--size", "32", "--batch-size", "8", "--epochs", "2"]
TOLERANCE = 2e-4

# Writes which samples this rank was given in each epoch beside the run folder, and stops where it is told to.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
import torch
from augment_gpu.cli import main
from augment_gpu.stage import Stage
from augment_gpu.transfer.updates import Updates

torch.set_num_threads(1)
log, stop_at, *arguments = sys.argv[1:]
rank = os.environ.get("RANK", "0")
call, step = Stage.__call__, Updates.step
seen, steps = [], 0

def recorded(stage, images, labels=None, *, index, epoch, mix=None):
    if stage.training and labels is not None:
        seen.append([epoch, len(seen), index.tolist()])
    return call(stage, images, labels, index=index, epoch=epoch, mix=mix)

def counted(updates, parts):
    global steps
    steps += 1
    if steps == int(stop_at) and int(rank) == int(os.environ.get("WORLD_SIZE", 1)) - 1:
        signal.raise_signal(signal.SIGTERM)
    return step(updates, parts)

Stage.__call__, Updates.step = recorded, counted
status = main(["train", *arguments])
Path(f"{log}-{rank}.json").write_text(json.dumps(seen))
sys.exit(status)
"""


@pytest.fixture(scope="module")
def start(run_program: Callable[..., Any]) -> Start:
    """The exit status of a run on so many processes; torchrun: by torch's launcher, which takes its time."""

    def run(processes: int, folder: Path, output: Path, *options: str, stop_at: int = 0, torchrun: bool = False) -> int:
        arguments = [str(output), str(stop_at), str(folder), "--output", str(output), *options]
        if torchrun:
            return by_torchrun(processes, output, arguments)
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        world = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
        statuses, written = run_program(PROGRAM, *arguments, environments=ranks if processes > 1 else [{}])
        assert "Traceback" not in written
        return max(statuses, key=abs)

    return run


def by_torchrun(processes: int, output: Path, arguments: list[str]) -> int:
    script = output.parent / "program.py"
    script.write_text(PROGRAM)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), str(script)]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run([sys.executable, *command, *arguments], env=environment, capture_output=True, text=True)
    print(process.stdout, process.stderr)  # for the one who reads of a failure
    assert "Traceback (most recent call last):\n  File" not in process.stdout, process.stderr
    return process.returncode


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(output / "last.pt")["model"]


def distance(one: Path, other: Path) -> float:
    a, b = weights(one), weights(other)
    return max((a[name] - b[name]).abs().max().item() for name in a)


def samples(output: Path, processes: int) -> list[list[list[int]]]:
    """For each epoch the samples that the ranks were given, in the order of the batches and of the ranks."""
    found = []
    for rank in range(processes):
        for epoch, number, index in json.loads(Path(f"{output}-{rank}.json").read_text()):
            found.append((epoch, number, rank, index))
    epochs: list[list[list[int]]] = [[], []]
    for epoch, _, _, index in sorted(found):
        epochs[epoch].append(index)
    return epochs


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory, start: Start) -> Path:
    """The run of one process."""
    output = tmp_path_factory.mktemp("alone") / "run"
    assert start(1, folder, output, *SETTINGS) == 0
    return output


@pytest.mark.parametrize("processes", [2, 4])
def test_many_processes_train_as_one(folder: Path, tmp_path: Path, alone: Path, start: Start, processes: int) -> None:
    output = tmp_path / "run"
    assert start(processes, folder, output, *SETTINGS, torchrun=processes == 2) == 0
    assert distance(alone, output) < TOLERANCE
    rows = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (alone, output)
    ]
    for one, many in zip(*rows, strict=True):
        assert many["train_loss"] == pytest.approx(one["train_loss"], abs=1e-4)
        assert many["val_loss"] == pytest.approx(one["val_loss"], abs=1e-4)
        assert (many["val_top1"], many["images"], many["steps"]) == (one["val_top1"], one["images"], one["steps"])
    # The batches of all ranks, one after the other, are those of one process; and each sample is in an epoch once.
    for one, many in zip(samples(alone, 1), samples(output, processes), strict=True):
        flat = [index for part in many for index in part]
        assert flat == [index for batch in one for index in batch]
        assert sorted(flat) == list(range(24))


def test_a_run_goes_on_on_another_number_of_processes(folder: Path, tmp_path: Path, alone: Path, start: Start) -> None:
    """Stopped by a signal to its last rank alone, in the middle of an epoch."""
    output = tmp_path / "run"
    assert start(2, folder, output, *SETTINGS, stop_at=2) != 0
    before = samples(output, 2)
    assert load_checkpoint(output / "last.pt")["steps"] == 2
    assert start(1, folder, output, "--resume") == 0
    after = samples(output, 1)
    assert distance(alone, output) < TOLERANCE
    # What was read ahead of the stop was never trained on: of two steps, 16 samples were.
    first = [index for part in before[0] for index in part][:16] + [index for part in after[0] for index in part]
    assert first == [index for part in samples(alone, 1)[0] for index in part]


def test_shared_out_weights_train_as_whole_ones_and_resume(
    folder: Path, tmp_path: Path, alone: Path, start: Start
) -> None:
    output = tmp_path / "run"
    assert start(2, folder, output, *SETTINGS, "--fsdp", stop_at=4) != 0
    assert load_checkpoint(output / "last.pt")["steps"] == 4
    assert start(2, folder, output, "--resume") == 0
    assert weights(output).keys() == weights(alone).keys()
    assert distance(alone, output) < TOLERANCE


def test_a_head_is_fitted_by_the_first_process_and_validated_by_all(
    folder: Path, tmp_path: Path, alone: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ["--model", "test_convnext", "--weights", str(alone / "best.pt"), "--size", "32", "--batch-size", "8"]
    rows = []
    for processes in (1, 2):
        output = tmp_path / f"run{processes}"
        assert start(processes, folder, output, *options, "--strategy", "linear", "--views", "2") == 0
        rows.append(json.loads((output / "metrics.jsonl").read_text()))
        assert (output / "report.html").exists()
    assert rows[0]["val_loss"] == pytest.approx(rows[1]["val_loss"], abs=1e-5)
    assert rows[0]["images"] == rows[1]["images"] == 24 * 2
