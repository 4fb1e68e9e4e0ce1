"""The GPU report: a dry run of it all on the CPU, and by hand what it computes from what it measured."""

import json
import os
import re
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import augment_gpu as ag

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("benchmarks_importable")


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON file of one dry run; table and picture lie beside it."""
    folder = tmp_path_factory.mktemp("report")
    command = [sys.executable, "benchmarks/gpu_report.py", "--device", "cpu", "--quick", "--no-tests"]
    done = subprocess.run([*command, "--output", folder], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.json")
    assert str(path) in done.stdout
    return path


@pytest.fixture
def found(dry_run: Path) -> dict[str, Any]:
    return json.loads(dry_run.read_text())


def test_a_dry_run_cannot_be_taken_for_a_result(dry_run: Path, found: dict[str, Any]) -> None:
    from readme_table import newest_result

    assert re.fullmatch(rf"dry-run-[a-z0-9-]+-{found['date']}\.json", dry_run.name)
    assert found["dry_run"]
    assert "dry run" in dry_run.with_suffix(".md").read_text().splitlines()[0]
    assert newest_result(dry_run.parent) is None


def test_a_run_that_is_stopped_leaves_what_it_had_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_report
    from readme_table import newest_result

    def stops(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_report, "measured_rivals", stops)
    command = ["gpu_report.py", "--device", "cpu", "--quick", "--no-tests", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(KeyboardInterrupt):
        gpu_report.main()
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    assert path.name.startswith("dry-run-unfinished-")
    assert len(kept["crops"]) == 36
    assert "rivals" not in kept
    path.write_text(json.dumps(kept | {"dry_run": False}))
    assert newest_result(tmp_path) is None


def test_a_dry_run_measures_every_case(found: dict[str, Any]) -> None:
    cases = {(row["source"], row["asked_batch"], row["dtype"], row["layout"]) for row in found["crops"]}
    assert len(cases) == len(found["crops"]) == 3 * 2 * 3 * 2
    assert [row["scale"] for row in found["fixed_scales"]] == [0.5, 1, 1.5, 3, 6]
    assert [row["op"] for row in found["other_ops"]] == [
        "cutout",
        "mixup",
        "cutmix",
        "crop",
        "crop with cutout",
        "train stage",
    ]
    assert [row["work"] for row in found["host_work"]] == [
        "stage, host part",
        "stage, device part",
        "crop",
        "crop with cutout, mixup",
        "draws alone",
    ]
    assert [row["model"] for row in found["training"]] == ["resnet10t"]
    assert found["errors"] == []
    assert found["left_out"] == ["tests: --no-tests was given"]
    for part in ("crops", "fixed_scales", "other_ops"):
        for row in found[part]:
            for clock in ("device_seconds", "end_to_end_seconds"):
                assert 0 < row[clock]["low"] <= row[clock]["median"] <= row[clock]["high"]


def test_every_rival_is_named_with_figures_or_a_reason(dry_run: Path, found: dict[str, Any]) -> None:
    from bench_rivals import RIVALS

    table = dry_run.with_suffix(".md").read_text()
    assert [row["rival"] for row in found["rivals"]] == list(RIVALS)
    for row in found["rivals"]:
        (outcome,) = row.keys() & {"seconds", "absent", "error"}
        line = next(line for line in table.splitlines() if line.startswith(f"| {row['rival']} |"))
        assert outcome == "seconds" or {"absent": "absent: ", "error": "failed: "}[outcome] in line
    measured = {row["rival"] for row in found["rivals"] if "seconds" in row}
    assert measured >= {"torchvision v2, image by image", "torchvision v2, one box for all", "Kornia"}


def test_there_is_a_picture(dry_run: Path) -> None:
    assert dry_run.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_without_a_gpu_the_report_says_how_to_try_it() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, "benchmarks/gpu_report.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--device cpu --quick" in done.stderr


def test_the_floor_is_the_boxes_bytes_and_the_outputs() -> None:
    from gpu_ops import floor_bytes

    # Whole pixels around the boxes: columns 1 to 4, rows 2 to 4: 4 × 3; and columns 0 to 9, rows 0 to 0: 10 × 1
    crop = ag.CropParams(np.zeros(2), np.array([[1.5, 2, 4.2, 5], [0, 0, 10, 1]]), np.zeros(2, dtype=bool))
    read = (4 * 3 + 10 * 1) * 3
    written = 2 * 3 * 2 * 2 * 2  # rows, channels, 2 × 2 pixels, bytes of a bfloat16
    assert floor_bytes(crop, size=2, itemsize=2) == read + written == 114


def test_buffers_pass_the_cache_four_times_and_leave_half_the_memory() -> None:
    from gpu_timing import sets_of_buffers

    assert sets_of_buffers(100, cache=50, free=10**6) == 3  # 300 > 4 × 50
    assert sets_of_buffers(300, cache=50, free=10**6) == 2  # never one alone, where two fit
    assert sets_of_buffers(10, cache=50, free=100) == 5  # 21 would be wanted
    assert sets_of_buffers(90, cache=50, free=100) == 1


def test_kernels_are_told_from_copies() -> None:
    from gpu_timing import tally
    from torch.autograd import DeviceType

    def event(name: str, microseconds: float, device: DeviceType = DeviceType.CUDA) -> SimpleNamespace:
        return SimpleNamespace(
            name=name, device_type=device, time_range=SimpleNamespace(elapsed_us=lambda: microseconds)
        )

    events = [
        event("_crop_resize_flip", 20.0),
        event("Memcpy HtoD (Pinned -> Device)", 5.0),
        event("Memset (Device)", 1.0),
        event("_cutout", 3.0),
        event("cudaLaunchKernel", 7.0, DeviceType.CPU),
    ]
    assert tally(events) == (2, 2, 23.0)


@pytest.mark.parametrize(
    ("gpu", "processor", "expected"),
    [
        ("NVIDIA H200", "AMD EPYC", "nvidia-h200"),
        ("Tesla V100-SXM2-16GB", "AMD EPYC", "tesla-v100-sxm2-16gb"),
        (None, "AMD EPYC 9654 96-Core Processor", "amd-epyc-9654-96-core"),
        (None, "Intel(R) Xeon(R) Processor", "intel-xeon"),
        (None, "Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", "intel-core-i7-8650u"),
    ],
)
def test_a_machines_name_becomes_part_of_a_file_name(gpu: str | None, processor: str, expected: str) -> None:
    from common import slug

    assert slug({"gpu": gpu, "processor": processor}) == expected


def test_machines_do_not_overwrite_each_others_results(tmp_path: Path) -> None:
    from common import save

    today = f"{date.today()}"
    for processor in ("AMD EPYC", "Intel(R) Xeon(R) Processor"):
        save("cpu", {"machine": {"gpu": None, "processor": processor}}, tmp_path)
    save("", {"machine": {"gpu": "NVIDIA H200", "processor": "AMD EPYC"}}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"cpu-amd-epyc-{today}.json",
        f"cpu-intel-xeon-{today}.json",
        f"nvidia-h200-{today}.json",
    ]


def test_outcomes_are_read_from_pytests_last_line() -> None:
    from gpu_checks import summary

    output = "..F\nFAILED tests/test_a.py - 3 passed\n1 failed, 20 passed, 3 skipped, 7 deselected in 4.20s\n"
    assert summary(output) == {"failed": 1, "passed": 20, "skipped": 3, "deselected": 7}
    assert summary("INTERNALERROR") == {}


def test_memcheck_names_tests_that_exist() -> None:
    from gpu_checks import MEMCHECKED

    for name, tests in MEMCHECKED.items():
        text = (ROOT / "tests" / f"test_{name}.py").read_text()
        for test in tests:
            assert re.search(rf"^def test_\w*{test}", text, re.MULTILINE), test


def test_an_old_gpus_bfloat16_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_ops import output_dtypes

    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert output_dtypes(device) == ([torch.float16, torch.float32], ["bfloat16"])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert output_dtypes(device) == ([torch.bfloat16, torch.float16, torch.float32], [])


def test_a_rival_that_ends_the_process_is_recorded_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_rivals

    names = list(bench_rivals.RIVALS)

    def child(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Finishes its first rival and dies in the second."""
        waiting = command[command.index("--only") + 1 :]
        Path(command[2]).write_text(json.dumps({"rival": waiting[0], "seconds": {}}) + "\n")
        return subprocess.CompletedProcess(command, -11, "", "Segmentation fault")

    monkeypatch.setattr(subprocess, "run", child)
    rows = bench_rivals.measured_rivals(torch.device("cpu"), quick=True, seconds=60)
    assert [row["rival"] for row in rows] == names
    assert all("seconds" in row for row in rows[::2])
    assert all(row["error"] == "its process ended with -11: Segmentation fault" for row in rows[1::2])


def test_a_failed_test_a_finding_and_an_error_fail_the_run() -> None:
    from gpu_report import failures

    passed = {"command": "pytest a", "exit_status": 0, "outcome": {"passed": 3}}
    assert list(failures({"errors": [], "tests": [passed], "memcheck": {"absent": "…"}})) == []
    failed = passed | {"exit_status": 1, "outcome": {"failed": 1}}
    late = {"command": "pytest b", "timed_out": 9.0}  # in the report, but no failure
    found_two = passed | {"command": "memcheck", "findings": 2}
    broken = {"errors": ["crops: …"], "tests": [passed, failed, late], "memcheck": found_two}
    assert len(list(failures(broken))) == 3
    assert list(failures({"errors": [], "memcheck": late})) == []
    for outcome in ({"exit_status": 5, "outcome": {"deselected": 9}}, {"exit_status": 0, "outcome": {"skipped": 9}}):
        nothing_ran = {"command": "memcheck", "findings": 0} | outcome
        assert len(list(failures({"errors": [], "memcheck": nothing_ran}))) == 1


def test_readme_says_what_the_newest_result_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import readme_table

    monkeypatch.setattr(sys, "argv", ["readme_table.py", "--check"])
    assert readme_table.main() == 0, capsys.readouterr().err


def test_readme_takes_the_newest_result_and_marks_a_faster_rival(
    tmp_path: Path, dry_run: Path, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import readme_table

    def result(name: str, date: str, **changes: Any) -> None:
        text = json.dumps(found | {"dry_run": False, "clock": "CUDA events", "date": date} | changes)
        (tmp_path / f"{name}-{date}.json").write_text(text)

    readme = tmp_path / "README.md"
    nothing = {
        "gpu-report": readme_table.NO_RESULT,
        "cpu-bench": readme_table.NO_CPU_RESULT,
        "tta-study": readme_table.NO_TTA_RESULT,
        "tta-cost": readme_table.NO_TTA_COST,
        "transfer-study": readme_table.NO_TRANSFER_RESULT,
        "features-bench": readme_table.NO_FEATURES_RESULT,
        "policies-bench": readme_table.NO_POLICIES_RESULT,
        "sampling": readme_table.NO_SAMPLING_RESULT,
    }
    filled = "\n".join(f"<!-- {name}:begin -->\n{text}\n<!-- {name}:end -->" for name, text in nothing.items())
    readme.write_text(f"before\n{filled}\nafter\n".replace(readme_table.NO_RESULT, "old"))
    run = ["readme_table.py", "--readme", str(readme), "--results", str(tmp_path)]

    def main(*more: str) -> int:
        monkeypatch.setattr(sys, "argv", [*run, *more])
        return readme_table.main()

    assert main("--check") == 1
    assert main() == main("--check") == 0
    assert readme.read_text() == f"before\n{filled}\nafter\n"

    rivals = [row | {"times_ours": {"median": 0.5, "low": 0.4, "high": 0.6}} for row in found["rivals"]]
    (tmp_path / "cpu-2026-01-03.json").write_text("{}")  # another benchmark's
    result("a-gpu", "2026-01-02", rivals=rivals)
    result("b-gpu", "2026-01-01")
    result("c-gpu-dry-run", "2026-01-04", dry_run=True)
    assert main("--check") == 1
    assert main() == main("--check") == 0
    text = readme.read_text()
    assert "a-gpu-2026-01-02.json" in text
    assert "**0.50 (0.40–0.60) ×: the rival is faster**" in text
    assert "absent: " in text or all("seconds" in row for row in found["rivals"])
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")


def test_the_cpu_table_is_of_the_machine_with_most_rivals_and_names_the_newest_of_the_others(tmp_path: Path) -> None:
    from readme_table import cpu_section, newest_results

    ratio = {"median": 2.5, "low": 2.4, "high": 2.6}
    times = {name: {"median": 0.5} for name in ("augment_gpu channels_last", "augment_gpu contiguous")}
    packages = dict.fromkeys(("torch", "torchvision", "kornia", "albumentations"), "1.0")
    packages |= {"nvidia-dali-cuda120": None, "nvidia-dali-cuda130": None}

    def result(processor: str, day: str, faster: float, *rivals: str) -> None:
        names = "torchvision v2", "torchvision v2, our output channels_last"
        ratios = dict.fromkeys(names, ratio | {"median": faster}) | dict.fromkeys(rivals, ratio)
        column = {"images": 8, "mean_pixels": 2e5, "absent": {}, "ratio": ratios, "ms_per_image": times}
        found = {
            "kind": "cpu",
            "date": day,
            "machine": {"gpu": None, "processor": processor, "packages": packages},
            "rival_packages": {},
            "load_average_before": 0.1,
            "rounds": 3,
            "rivals": list(ratios),
            "conditions": dict.fromkeys(("one thread", "one thread, memory kept"), column),
        }
        (tmp_path / f"cpu-{processor.lower()}-{day}.json").write_text(json.dumps(found))

    result("Many", "2026-01-01", 3.1, "Kornia")
    result("Few", "2026-01-02", 4.1)
    result("Few", "2026-01-03", 5.1)
    result("Old", "2025-12-31", 6.1)
    paths = newest_results(tmp_path, "cpu")
    assert [path.stem for path in paths] == ["cpu-few-2026-01-03", "cpu-many-2026-01-01", "cpu-old-2025-12-31"]
    text = cpu_section(paths)
    assert text.startswith("On Many, 2026-01-01: 8 images")
    assert "| torchvision v2 | 3.10" in text
    *_, few, old = text.split("\n\n")
    assert few.startswith(
        "On Few, 2026-01-03, one thread, torchvision v2 took 5.10 times as long as augment_gpu, and 5.10"
    )
    assert "`benchmarks/results/cpu-few-2026-01-03.json`" in few
    assert old.startswith("On Old")
    assert "4.10" not in text


@pytest.mark.parametrize("text", ["", "{end}{begin}", "{begin}{begin}{end}"])
def test_readme_without_its_markers_is_refused(text: str) -> None:
    from readme_table import inserted

    with pytest.raises(ValueError, match="README must hold <!-- x:begin --> and then <!-- x:end -->, each once"):
        inserted(text.format(begin="<!-- x:begin -->", end="<!-- x:end -->"), "x", "figures")


def test_a_command_that_outlasts_its_time_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_checks import _outcome

    pid = tmp_path / "pid"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    program = (
        "import subprocess, sys, time; print('begun', flush=True); "
        f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    begin = time.monotonic()
    outcome = _outcome([sys.executable, "-c", program], 3)
    assert time.monotonic() - begin < 30
    assert outcome["timed_out"] == 3
    assert outcome["output_tail"] == "begun\n"
    for _ in range(100):
        try:
            os.kill(int(pid.read_text()), 0)
        except ProcessLookupError:
            break
        if "State:\tZ" in Path(f"/proc/{pid.read_text()}/status").read_text():
            break  # dead, and nobody has asked yet
        time.sleep(0.1)
    else:
        pytest.fail("the child lives on")
