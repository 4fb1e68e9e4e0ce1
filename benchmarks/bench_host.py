"""Host time of a batch on the way to a GPU, on a machine that need not have one.

    python benchmarks/bench_host.py

What `make gpu-report` calls host time, with Triton as it is and a driver that launches nothing. So it lacks what a GPU
adds: page-locked memory for the tables, their copy, and the launches themselves. One core. Prints a table, and writes
results/host-<machine>-<date>.json.
"""

import argparse
from dataclasses import replace
from datetime import date

import stub_driver
import torch
from common import machine, save
from gpu_ops import Plan, host_work

KIND = "host"
BATCHES = (64, 256)
# Pictures so small that the memory for them costs nothing: a GPU's is kept, and no page of it faults.
PLAN = Plan(size=8, budget=0.05, rounds=100)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    stub_driver.install()
    rows = [row for batch in BATCHES for row in host_work(replace(PLAN, batch=batch), torch.device("cpu"))]
    print("| work | batch | host, µs | quartiles |\n|---|---|---|---|")
    for row in rows:
        low, middle, high = (f"{1e6 * row['host_seconds'][name]:.0f}" for name in ("low", "median", "high"))
        print(f"| {row['work']} | {row['batch']} | {middle} | {low}–{high} |")
    found = {"kind": KIND, "date": date.today().isoformat(), "machine": machine()}
    kept = [{name: row[name] for name in ("work", "batch", "host_seconds")} for row in rows]
    print("written to", save("host", found | {"rows": kept}))


if __name__ == "__main__":
    main()
