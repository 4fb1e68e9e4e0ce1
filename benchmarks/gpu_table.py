"""A report of gpu_report.py as Markdown and as a picture. Nothing is measured or typed here."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Report = dict[str, Any]
Row = dict[str, Any]


def markdown(found: Report) -> str:
    """The whole report."""
    parts = [f"# augment_gpu on {device_name(found)}, {found['date']}", heading(found), checks(found)]
    parts += [
        "## crop_resize_flip: crop, antialiased resize, flip, normalise",
        crop_table(found["crops"]),
        "## The same at one scale for all rows (square boxes of scale × size)",
        scale_table(found["fixed_scales"]),
        "## Other ops, and the train stage (crop, flip, normalise, cutout, mixup; draws included)",
        op_table(found["other_ops"]),
        "## Host time and launches a batch",
        host_table(found["host_work"]),
        "## Training step",
        training_table(found["training"]),
        "## Other libraries at the same crop",
        rival_table(found["rivals"]),
        "\n".join(f"- {row['rival']}: {row['what']}" for row in found["rivals"] if "what" in row),
    ]
    missed = [f"- left out: {text}" for text in found["left_out"]] + [f"- error: {text}" for text in found["errors"]]
    if missed:
        parts += ["## What is missing", "\n".join(missed)]
    return "\n\n".join(part for part in parts if part) + "\n"


def device_name(found: Report) -> str:
    return "a CPU (dry run)" if found["clock"] == "wall" else found["machine"]["device"]["name"]


def heading(found: Report) -> str:
    """Machine and versions; above them, for a dry run, that nothing here is a result."""
    versions = {**found["machine"]["packages"], **found["machine"]["rivals"]}
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    speed = found["ceiling"]["bytes_per_second"]
    lines = [
        f"Device: {found['machine']['device']['name']}; host: {found['machine']['processor']}; commit "
        f"{found['commit']}.",
        f"Versions: {shown}.",
        f"Ceiling, a large copy: {_spread(speed, 1e-9, 0)} GB/s read + written. Clock: {found['clock']}. Medians, with "
        "quartiles in brackets.",
    ]
    if found["dry_run"]:
        lines.insert(
            0, "**A dry run with tiny sizes: it proves that the report works, and its figures mean nothing.**\n"
        )
    return "\n".join(lines)


def checks(found: Report) -> str:
    lines = []
    for outcome in found.get("tests", []):
        counts = ", ".join(f"{number} {word}" for word, number in outcome.get("outcome", {}).items())
        lines.append(f"- `{outcome['command']}`: {counts or _not_done(outcome)}")
    check = found.get("memcheck")
    if check:
        result = f"absent ({check['absent']})" if "absent" in check else _memcheck(check)
        lines.append(f"- compute-sanitizer memcheck: {result}")
    return "\n".join(["## Tests", "", *lines]) if lines else ""


def _memcheck(check: Row) -> str:
    if check["findings"] is None:
        return _not_done(check)
    counts = ", ".join(f"{number} {word}" for word, number in check["outcome"].items())
    return f"{check['findings']} findings ({counts}), `{check['command']}`"


def _not_done(outcome: Row) -> str:
    return f"timed out after {outcome['timed_out']:.0f} s" if "timed_out" in outcome else "no result"


def crop_table(rows: list[Row]) -> str:
    return _table(
        ["source", "batch", "output", "launch alone, images/s", "with host work, images/s", "of the floor"],
        [
            [
                row["source"],
                _batch(row),
                f"{row['dtype']} {row['layout']}",
                _rate(row["batch"], row["device_seconds"]),
                _rate(row["batch"], row["end_to_end_seconds"]),
                f"{100 * row['of_floor']:.1f} %",
            ]
            for row in rows
        ],
    )


def scale_table(rows: list[Row]) -> str:
    return _table(
        ["scale", "batch", "output", "launch alone, images/s", "of the floor"],
        [
            [
                f"{row['scale']:g}",
                str(row["batch"]),
                f"{row['dtype']} {row['layout']}",
                _rate(row["batch"], row["device_seconds"]),
                f"{100 * row['of_floor']:.1f} %",
            ]
            for row in rows
        ],
    )


def op_table(rows: list[Row]) -> str:
    return _table(
        ["op", "batch", "output", "kernels alone, µs", "with host work, µs", "of the ceiling"],
        [
            [
                row["op"],
                str(row["batch"]),
                row["dtype"],
                _spread(row["device_seconds"], 1e6, 1),
                _spread(row["end_to_end_seconds"], 1e6, 1),
                f"{100 * row['of_ceiling']:.0f} %" if "of_ceiling" in row else "",
            ]
            for row in rows
        ],
    )


def host_table(rows: list[Row]) -> str:
    return _table(
        ["work", "batch", "host, µs", "kernels", "copies"],
        [
            [
                row["work"],
                str(row["batch"]),
                _spread(row["host_seconds"], 1e6, 0),
                f"{row['kernels']:g}",
                f"{row['copies']:g}",
            ]
            for row in rows
        ],
    )


def training_table(rows: list[Row]) -> str:
    cells = []
    for row in rows:
        if "left_out" in row:
            cells.append([row["model"], "", "", "", row["left_out"], ""])
            continue
        peaks = [f"{peak / 2**30:.2f}" if peak else "not counted" for peak in row["peak_bytes"].values()]
        steps = [_spread(row["step_seconds"][name], 1e3, 2) for name in ("alone", "with stage")]
        slowdown = _spread(row["slowdown_percent"], 1, 2)
        cells.append([row["model"], str(row["batch"]), *steps, f"{slowdown} %", " / ".join(peaks)])
    return _table(
        ["model", "batch", "step alone, ms", "with the stage, ms", "slowdown", "peak GiB, alone / with"], cells
    )


def rival_table(rows: list[Row]) -> str:
    """Who was faster is marked, whoever it was."""
    cells = []
    for row in rows:
        if "seconds" not in row:
            reason = next(f"{word}: {row[key]}" for key, word in _MISSING.items() if key in row)
            cells.append([row["rival"], "", "", "", " ".join(reason.split())[:160]])
            continue
        ours, theirs = (_rate(row["batch"], row["seconds"][side]) for side in ("ours", "rival"))
        times = _spread(row["times_ours"], 1, 2)
        verdict = f"{times} ×" if row["times_ours"]["median"] >= 1 else f"**{times} ×: the rival is faster**"
        cells.append([row["rival"], f"{row['dtype']} {row['layout']}", theirs, ours, verdict])
    return _table(["library", "output", "its images/s", "augment_gpu, images/s", "augment_gpu ÷ library"], cells)


_MISSING = {"absent": "absent", "error": "failed", "left_out": "left out"}


def plot(found: Report, path: Path) -> None:
    """Three panels: images/s of the training crop by source and dtype, images/s by scale beside the floor, and how
    many times faster than each other library."""
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    crops, scales, rivals = figure.subplots(1, 3)
    _plot_crops(crops, found)
    rows = found["fixed_scales"]
    speed = found["ceiling"]["bytes_per_second"]["median"]
    places = [row["scale"] for row in rows]
    scales.plot(places, [row["images_per_second"]["device"] for row in rows], "o-", label="crop_resize_flip")
    scales.plot(places, [row["batch"] * speed / row["floor_bytes"] for row in rows], "--", label="floor of bytes")
    scales.set(xscale="log", yscale="log", xlabel="source pixels per output pixel, each axis", ylabel="images/s")
    scales.set_xticks(places, [f"{place:g}" for place in places], minor=False)
    scales.minorticks_off()
    scales.set_title("one scale for all rows")
    scales.legend()
    run = [row for row in found["rivals"] if "seconds" in row]
    bars = rivals.barh([row["rival"] for row in run], [row["times_ours"]["median"] for row in run])
    rivals.bar_label(bars, [f"{row['times_ours']['median']:.2g} ×" for row in run], padding=2)
    rivals.axvline(1, color="black", linewidth=0.8)
    rivals.set(xscale="log", xlabel="augment_gpu's images/s ÷ the library's")
    rivals.minorticks_off()
    rivals.margins(x=0.25)
    rivals.invert_yaxis()
    rivals.set_title("other libraries")
    dry = "DRY RUN, no result: " if found["dry_run"] else ""
    figure.suptitle(f"{dry}augment_gpu on {device_name(found)}, {found['date']}")
    figure.savefig(path, dpi=110)


def _plot_crops(axes: Any, found: Report) -> None:
    """Bars by source, at the batch that the plan names; the solid part is with host work, the pale one the launch."""
    rows = [r for r in found["crops"] if r["asked_batch"] == found["plan"]["batch"] and r["layout"] == "channels_last"]
    names = [f"{row['source']}\n{row['dtype']}" for row in rows]
    for kind, alpha, label in (("device", 0.4, "launch alone"), ("end_to_end", 1.0, "with host work")):
        rates = [row["images_per_second"][kind] for row in rows]
        axes.bar(names, rates, color="tab:blue", alpha=alpha, label=label, width=0.8 if kind == "device" else 0.5)
    axes.tick_params(axis="x", labelrotation=90, labelsize=7)
    axes.set(ylabel="images/s")
    axes.set_title(f"training crop, batch {found['plan']['batch']}, channels_last")
    axes.margins(y=0.3)
    axes.legend(loc="upper right")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def _batch(row: Row) -> str:
    asked, fitted = row["asked_batch"], row["batch"]
    return str(fitted) if asked == fitted else f"{fitted} ({asked} did not fit)"


def _rate(count: int, seconds: dict[str, float]) -> str:
    """Images a second, from seconds a batch; the quartiles change places."""
    rates = {"median": count / seconds["median"], "low": count / seconds["high"], "high": count / seconds["low"]}
    return _spread(rates, 1, 0)


def _spread(figure: dict[str, float], factor: float, digits: int) -> str:
    middle, low, high = (f"{figure[name] * factor:,.{digits}f}" for name in ("median", "low", "high"))
    return f"{middle} ({low}–{high})"
