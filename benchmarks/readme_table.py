"""Writes README's GPU figures from the newest result of gpu_report.py, so that no number is typed.

python benchmarks/readme_table.py            # rewrites the part of README.md between the two markers
python benchmarks/readme_table.py --check    # changes nothing; exits with 1 where that part is out of date
"""

import argparse
import json
import sys
from pathlib import Path

from common import RESULTS
from gpu_table import Report, crop_table, device_name, host_table, op_table, rival_table, training_table

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- gpu-report:begin -->", "<!-- gpu-report:end -->"
NO_RESULT = (
    "No GPU result has been recorded yet: the kernels' speed on a GPU is unmeasured. `make gpu-report` measures it, on "
    "a\nmachine with an NVIDIA GPU, in at most eight minutes and without the network."
)


def newest_result(folder: Path) -> Path | None:
    """The gpu_report file with the latest date; of several with that date, the last by name. Dry runs and other
    benchmarks' files do not count."""
    results = []
    for path in folder.glob("*.json"):
        found = json.loads(path.read_text())
        if isinstance(found, dict) and found.get("kind") == "gpu-report" and not found["dry_run"]:
            results.append((found["date"], path.name, path))
    return max(results)[2] if results else None


def section(path: Path | None) -> str:
    """What stands between the markers, for this result file."""
    if path is None:
        return NO_RESULT
    found: Report = json.loads(path.read_text())
    batch, packages = found["plan"]["batch"], found["machine"]["packages"]
    shown = [row for row in found["crops"] if row["asked_batch"] == batch]
    return "\n\n".join(
        [
            f"On {device_name(found)}, {found['date']}, torch {packages['torch']}, Triton {packages['triton']} (`make "
            f"gpu-report`; everything is in `benchmarks/results/{path.stem}.md`, the raw figures in "
            f"`{path.name}`).\nMedians, with quartiles in brackets; the floor is the time that the bytes which must "
            "move take at the\nspeed of a large copy.",
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


def inserted(readme: str, text: str) -> str:
    """README with `text` between its markers. Raises ValueError unless each marker is there once, in their order."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"README must hold {BEGIN} and then {END}, each once")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = options.readme.read_text()
    after = inserted(before, section(newest_result(options.results)))
    if options.check:
        if after != before:
            print("README is out of date; python benchmarks/readme_table.py brings it up to date", file=sys.stderr)
        return int(after != before)
    options.readme.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
