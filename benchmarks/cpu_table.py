"""bench_cpu.py's results as Markdown."""

from typing import Any

KIND = "cpu"  # a result file's "kind"


def ratio_table(found: dict[str, Any]) -> str:
    """Markdown: how many times as long each rival takes as augment_gpu, by condition; bold where it takes less."""
    conditions = found["conditions"]
    lines = [
        "| time of a rival ÷ time of augment_gpu | " + " | ".join(conditions) + " |",
        "|---|" + "---|" * len(conditions),
    ]
    for name in found["rivals"]:
        lines.append(f"| {name} | " + " | ".join(_cell(column, name) for column in conditions.values()) + " |")
    lines.append(
        "| augment_gpu itself, channels_last, ms an image | "
        + " | ".join(f"{c['ms_per_image']['augment_gpu channels_last']['median']:.3f}" for c in conditions.values())
        + " |"
    )
    return "\n".join(lines)


def measured(found: dict[str, Any]) -> int:
    """How many ratios there are, of all conditions."""
    return sum(len(column["ratio"]) for column in found["conditions"].values())


def sentence(found: dict[str, Any]) -> str:
    """What another machine than the table's found of torchvision."""
    names = "torchvision v2", "torchvision v2, our output channels_last"
    one, kept = (found["conditions"][name]["ratio"] for name in ("one thread", "one thread, memory kept"))
    times = [f"{column[name]['median']:.2f}" for column in (one, kept) for name in names]
    return (
        f"On {found['machine']['processor']}, {found['date']}, one thread, {names[0]} took {times[0]} times as long as "
        f"augment_gpu, and {times[1]} times as long with our output channels_last; with memory kept {times[2]} and "
        f"{times[3]} times"
    )


def _cell(column: dict[str, Any], name: str) -> str:
    if name in column["absent"]:
        return "absent"
    if name not in column["ratio"]:
        return "–"  # has no meaning under this condition
    ratio = column["ratio"][name]
    text = f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return text if ratio["median"] >= 1 else f"**{text}: the rival is faster**"
