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


def _cell(column: dict[str, Any], name: str) -> str:
    if name in column["absent"]:
        return "absent"
    if name not in column["ratio"]:
        return "–"  # has no meaning under this condition
    ratio = column["ratio"][name]
    text = f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return text if ratio["median"] >= 1 else f"**{text}: the rival is faster**"
