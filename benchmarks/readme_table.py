"""Writes README's figures from the newest results of the benchmarks and studies.

python benchmarks/readme_table.py            # rewrites the parts of README.md between the pairs of markers
python benchmarks/readme_table.py --check    # changes nothing; exits with 1 where such a part is out of date
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_features import KIND as FEATURES_KIND
from bench_policies import KIND as POLICIES_KIND
from bench_policies import table as policies_table
from bench_sampling import KIND as SAMPLING_KIND
from bench_tta import KIND as COST_KIND
from common import RESULTS, slug
from cpu_table import KIND as CPU_KIND
from cpu_table import measured, ratio_table, sentence
from gpu_table import Report, crop_table, device_name, host_table, op_table, rival_table, training_table
from transfer_study import KIND as TRANSFER_KIND
from transfer_study import tables as transfer_tables
from tta_study import KIND as TTA_KIND
from tta_study import table as study_table

README = Path(__file__).parents[1] / "README.md"
NO_RESULT = (
    "No GPU result has been recorded yet: the kernels' speed on a GPU is unmeasured. `make gpu-report` measures it, on "
    "a\nmachine with an NVIDIA GPU, in at most eight minutes and without the network."
)
NO_CPU_RESULT = "No CPU result has been recorded yet; `make bench` measures it."
NO_TTA_COST = "No result has been recorded yet; `benchmarks/bench_tta.py` measures it."
NO_TTA_RESULT = "No result has been recorded yet; `benchmarks/tta_study.py` measures it."
NO_TRANSFER_RESULT = "No result has been recorded yet; `benchmarks/transfer_study.py` measures it."
NO_POLICIES_RESULT = "No result has been recorded yet; `benchmarks/bench_policies.py` measures it."
NO_SAMPLING_RESULT = "No result has been recorded yet; `benchmarks/bench_sampling.py` measures it."
NO_FEATURES_RESULT = "No result has been recorded yet; `benchmarks/bench_features.py` measures it."


def newest_result(folder: Path, kind: str = "gpu-report") -> Path | None:
    """The file of this kind with the latest date; of several with that date, the last by name. Dry runs and other
    benchmarks' files do not count."""
    return next(iter(newest_results(folder, kind)), None)


def newest_results(folder: Path, kind: str) -> list[Path]:
    """Of each machine the newest file of this kind; the newest of them first."""
    results = []
    for path in folder.glob("*.json"):
        found = json.loads(path.read_text())
        if isinstance(found, dict) and found.get("kind") == kind and not found.get("dry_run"):
            results.append((found["date"], path.name, path, slug(found["machine"])))
    newest = {machine: path for *_, path, machine in sorted(results)}
    return [path for *_, path, machine in sorted(results, reverse=True) if newest[machine] == path]


def section(path: Path | None) -> str:
    """What stands between the markers, for this result file."""
    if path is None:
        return NO_RESULT
    found: Report = json.loads(path.read_text())
    batch, packages = found["plan"]["batch"], found["machine"]["packages"]
    shown = [row for row in found["crops"] if row["asked_batch"] == batch]
    return "\n\n".join(
        [
            textwrap.fill(
                f"On {device_name(found)}, {found['date']}, torch {packages['torch']}, Triton {packages['triton']}, "
                f"commit {found['commit']} (`make gpu-report`{'' if 'tests' in found else ' without its tests'}; "
                f"everything is in `benchmarks/results/{path.stem}.md`, the raw figures in `{path.name}`). Medians, "
                "with quartiles in brackets; the floor is the time that the bytes which must move take at the speed of "
                "a large copy.",
                120,
                break_on_hyphens=False,
            ),
            f"The fused crop, to {found['plan']['size']} × {found['plan']['size']}:",
            crop_table(shown),
            "Other libraries at the same crop, also where they are faster:",
            rival_table(found["rivals"]),
            "The other ops, and the train stage as a whole:",
            op_table(found["other_ops"]),
            "In front of a training step; and on the host:",
            training_table(found["training"]),
            host_table(found["host_work"]),
        ]
    )


def cpu_section(paths: list[Path]) -> str:
    """What stands between the markers of bench_cpu.py's figures: the table of that machine where most was measured, a
    sentence on each of the others."""
    if not paths:
        return NO_CPU_RESULT
    results: dict[Path, dict[str, Any]] = {path: json.loads(path.read_text()) for path in paths}
    path = max(results, key=lambda path: measured(results[path]))  # of equals the newest, which comes first
    found = results.pop(path)
    others = [
        textwrap.fill(f"{sentence(other)} (`benchmarks/results/{name.name}`).", 120, break_on_hyphens=False)
        for name, other in results.items()
    ]
    column = next(iter(found["conditions"].values()))
    packages = {**found["machine"]["packages"], **found["rival_packages"]}
    shown = ("torch", "torchvision", "kornia", "albumentations", "nvidia-dali-cuda120", "nvidia-dali-cuda130")
    versions = ", ".join(f"{name} {packages[name]}" for name in shown if packages[name])
    absent = sorted({name for condition in found["conditions"].values() for name in condition["absent"]})
    load = found["load_average_before"]
    notes = [
        "Medians of {rounds} paired rounds, with quartiles in brackets; above 1 augment_gpu is faster.".format(**found),
        f"The load average was {load:.1f} before the run"
        + (
            ": beside other busy processes torch's threads wait for each other,\nand the column of two threads says "
            "little."
            if load > 1
            else "."
        ),
        f"Not installed there: {'; '.join(absent)}." if absent else "",
    ]
    heading = (
        f"On {found['machine']['processor']}, {found['date']}: {column['images']} images of "
        f"{column['mean_pixels'] / 1e6:.2f} megapixels on average,\n{versions}\n"
        f"(`make bench DATA=photos`; raw figures in `benchmarks/results/{path.name}`).\n"
    )
    return "\n\n".join([heading + "\n".join(filter(None, notes)), ratio_table(found), *others])


def tta_section(path: Path | None) -> str:
    """What stands between the markers of tta_study.py's figures."""
    if path is None:
        return NO_TTA_RESULT
    found: dict[str, Any] = json.loads(path.read_text())
    settings, data = found["settings"], found["data"]
    return (
        f"{settings['model']} at {settings['size']} × {settings['size']}, trained from random weights for "
        f"{settings['epochs']} epochs on {found['images']['train']} pictures of\n{data['train']}, evaluated on "
        f"{found['images']['val']} of {data['test']}; the cost is in forward passes of one view, views\nincluded "
        f"(`python benchmarks/tta_study.py {data['train']} {data['test']}`, {found['date']}; raw\nfigures in "
        f"`benchmarks/results/{path.name}`).\n\n" + study_table(found["rows"])
    )


def tta_cost_section(path: Path | None) -> str:
    """What stands between the markers of bench_tta.py's figures."""
    if path is None:
        return NO_TTA_COST
    found: dict[str, Any] = json.loads(path.read_text())
    peaks = [f"| {row['max_views']} | {row['views']} | {row['bytes'] / 2**20:.0f} |" for row in found["memory"]]
    share, where = found["cost"]["ratio"]["median"], found["machine"]["processor"]
    return (
        f"On {where}, {found['date']}, making a test-time view takes {share:.1%} of {found['model']}'s forward pass\n"
        f"over it, on a {found['device']}, of photographs of 0.2 megapixels (`python benchmarks/bench_tta.py photos`;\n"
        f"`benchmarks/results/{path.name}`). "
        "The memory follows `max_views`, not the number of views:\n\n"
        "| max_views | views in all | peak memory, MiB |\n|---|---|---|\n" + "\n".join(peaks)
    )


def transfer_section(path: Path | None) -> str:
    """What stands between the markers of transfer_study.py's figures."""
    if path is None:
        return NO_TRANSFER_RESULT
    found: dict[str, Any] = json.loads(path.read_text())
    first, data = found["pretraining"], found["data"]
    photographs = [row for row in found["rows"] if row["data"] == "photographs"]
    command = f"python benchmarks/transfer_study.py {data['train']} {data['test']}"
    text = (
        f"Measured on {found['machine']['processor']}, {found['date']}: {first['model']} at {first['size']} × "
        f"{first['size']}, pretrained on {first['images']} pictures of each of CIFAR-10's classes. Similar are other "
        "pictures of five of these; very different is another question of such pictures, which of four ways is up. "
    )
    for row in photographs:
        text += (
            f"The photographs have a network that ImageNet taught, {row['model']} at {row['size']} × {row['size']}. "
        )
        command += " --photos photos --photo-weights weights.safetensors"
    text += (
        f"Means and standard deviations of {found['seeds']} seeds, each with training pictures of its own, on pictures "
        f"that took no part, {found['test']} a class of CIFAR-10's; of a training run its best epoch counts. Images "
        f"seen are views times epochs (`{command}`; raw figures in `benchmarks/results/{path.name}`)."
    )
    picture = "![Accuracy of each strategy in the four cases; auto's choice in blue](docs/transfer.png)"
    return "\n\n".join([textwrap.fill(text, 120, break_on_hyphens=False), picture, transfer_tables(found["rows"])])


def sampling_section(path: Path | None) -> str:
    """What stands between the markers of bench_sampling.py's figures."""
    if path is None:
        return NO_SAMPLING_RESULT
    found: dict[str, Any] = json.loads(path.read_text())
    milliseconds = found["microseconds"]["all of these"]["median"] / 1e3
    text = (
        f"Drawing crop, flip, hole and mixing for {found['batch']} images takes {milliseconds:.2f} ms of one core of "
        f"{found['machine']['processor']}, {found['date']} (`python benchmarks/bench_sampling.py`; "
        f"`benchmarks/results/{path.name}`)."
    )
    return textwrap.fill(text, 120, break_on_hyphens=False)


def features_section(path: Path | None) -> str:
    """What stands between the markers of bench_features.py's figures."""
    if path is None:
        return NO_FEATURES_RESULT
    found: dict[str, Any] = json.loads(path.read_text())
    seconds = {name: value["median"] for name, value in found["epoch_seconds"].items()}
    network = f"{found['model']} at {found['size']} × {found['size']}"
    text = (
        f"On {found['machine']['processor']}, {found['date']}, an epoch of a linear probe over {found['images']} "
        f"images takes {seconds['through the network']:.1f} s through {network}, and {seconds['on features']:.3f} s on "
        f"its stored features, {found['ratio']['median']:.0f} times less; to compute them, {found['views']} views of "
        f"each image, took {found['extraction_seconds']:.0f} s, once (`python benchmarks/bench_features.py`; "
        f"`benchmarks/results/{path.name}`)."
    )
    return textwrap.fill(text, 120, break_on_hyphens=False)


def policies_section(path: Path | None) -> str:
    """What stands between the markers of bench_policies.py's figures."""
    if path is None:
        return NO_POLICIES_RESULT
    found: dict[str, Any] = json.loads(path.read_text())
    text = (
        f"On {found['machine']['processor']}, {found['date']}, with two ops at magnitude 9 on {found['batch']} "
        f"pictures of {found['size']} × {found['size']}, drawing all of them takes "
        f"{1e3 * found['draw_seconds']['median']:.2f} ms; from uint8 pictures to a float32 batch, and by the op alone, "
        "torchvision's from uint8 to uint8 and ours from floats to floats (`python benchmarks/bench_policies.py`; "
        f"`benchmarks/results/{path.name}`):"
    )
    return "\n\n".join([textwrap.fill(text, 120, break_on_hyphens=False), policies_table(found)])


# What README has between <!-- name:begin --> and <!-- name:end -->, of the results in a folder.
PARTS: dict[str, Callable[[Path], str]] = {
    "gpu-report": lambda folder: section(newest_result(folder)),
    "cpu-bench": lambda folder: cpu_section(newest_results(folder, CPU_KIND)),
    "tta-study": lambda folder: tta_section(newest_result(folder, TTA_KIND)),
    "tta-cost": lambda folder: tta_cost_section(newest_result(folder, COST_KIND)),
    "transfer-study": lambda folder: transfer_section(newest_result(folder, TRANSFER_KIND)),
    "policies-bench": lambda folder: policies_section(newest_result(folder, POLICIES_KIND)),
    "sampling": lambda folder: sampling_section(newest_result(folder, SAMPLING_KIND)),
    "features-bench": lambda folder: features_section(newest_result(folder, FEATURES_KIND)),
}


def inserted(readme: str, name: str, text: str) -> str:
    """README with `text` between the markers of that part. Raises ValueError unless each is there once, in their
    order."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise ValueError(f"README must hold {begin} and then {end}, each once")
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = after = options.readme.read_text()
    for name, part in PARTS.items():
        after = inserted(after, name, part(options.results))
    if options.check:
        if after != before:
            print("README is out of date; python benchmarks/readme_table.py brings it up to date", file=sys.stderr)
        return int(after != before)
    options.readme.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
