"""The parts of a page that needs nothing but itself: escaped text, tables, charts, pictures.

Whatever is given as text may hold any character; what is given as HTML was made by one of these functions.
"""

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

from augment_gpu.results import printable

_WIDTH, _HEIGHT = 350, 220  # of a chart, in units of which its text is 12 high
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 342, 10, 178  # where its lines are drawn
_MOST_DOTS = 40  # points of a line that are marked; more would hide it

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1c2024; --soft: #60676f; --edge: #d5d9de; --panel: #f5f6f8;
  --line1: #1f6fb4; --line2: #c4501b; --line3: #2c8a4b; --line4: #8250a8; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181b; --ink: #e4e7ea; --soft: #a0a8b0; --edge: #3a4046;
  --panel: #1e2226; --line1: #6cb2f0; --line2: #f0955f; --line3: #6fcc8d; --line4: #c39ae6; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 68rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--edge); }
p { max-width: 46rem; margin: .4rem 0; }
.soft, figcaption, footer { color: var(--soft); }
dl.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .7rem;
  margin: 1.2rem 0 0; }
dl.figures div { padding: .5rem .8rem; border: 1px solid var(--edge); border-radius: .4rem; background: var(--panel); }
dl.figures dt { font-size: .85rem; color: var(--soft); }
dl.figures dd { margin: 0; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
dl.figures div:first-child dd { font-weight: 600; }
.charts, .pictures { display: grid; gap: 1rem; }
.charts { grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); }
.pictures { grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
figure { margin: 0; break-inside: avoid; font-size: .875rem; }
.charts figure { max-width: 32rem; }
figure > svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--ink); }
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; } svg .soft { fill: var(--soft); }
svg .edge { stroke: var(--edge); stroke-width: 1; } svg .best { stroke: var(--soft); stroke-dasharray: 2 3; }
.key { white-space: nowrap; margin-right: 1rem; } .key svg { width: 1.75rem; height: .625rem; }
.line1 { stroke: var(--line1); } .line2 { stroke: var(--line2); } path.line2 { stroke-dasharray: 7 3; }
.line3 { stroke: var(--line3); } path.line3 { stroke-dasharray: 2 2; }
.line4 { stroke: var(--line4); } path.line4 { stroke-dasharray: 9 3 2 3; } circle { fill: var(--ground); }
.large { display: block; overflow: auto; } .large input { position: absolute; opacity: 0; }
.large :focus-visible + img { outline: auto; }
.large img { max-width: 100%; height: auto; border-radius: .4rem; cursor: zoom-in; }
.large :checked + img { max-width: none; cursor: zoom-out; }
.pictures img, .pictures .missing { display: block; width: 100%; height: 9.5rem; object-fit: contain;
  margin-bottom: .3rem; background: var(--panel); border-radius: .3rem; }
.pictures .missing { box-sizing: border-box; padding: .5rem; overflow: hidden; color: var(--soft); }
.scroll { overflow: auto; max-height: 36rem; } .sides .scroll { max-height: none; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--edge); }
thead th { position: sticky; top: 0; background: var(--ground); color: var(--soft); font-weight: 500; }
tbody th { font-weight: 500; } td.number, th.number { text-align: right; white-space: nowrap; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem; align-items: start; }
pre { overflow: auto; white-space: pre-wrap; padding: .8rem; background: var(--panel); border-radius: .4rem;
  font-size: .85rem; }
@media print { :root { color-scheme: light; --ground: #fff; --ink: #000; --soft: #555; --edge: #ccc; --panel: #fff;
  --line1: #1f6fb4; --line2: #c4501b; --line3: #2c8a4b; --line4: #8250a8; }
  body { max-width: none; padding: 0; font-size: 11pt; } h2 { break-after: avoid; } tr { break-inside: avoid; }
  .scroll { max-height: none; overflow: visible; } thead th { position: static; } }
"""


def page(title: str, body: str) -> bytes:
    """A whole document in UTF-8. It may load nothing, whatever it holds; data in it is shown as pictures alone."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{body}
</body>
</html>
""".encode()


def text(value: str) -> str:
    return escape(printable(value))


def words(value: Any) -> str:
    """A value of a JSON file as a reader has it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {words(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(words(item) for item in value) or "none"
    return str(value)


def finite(value: Any) -> float | None:
    """A number of a JSON file; None for anything else, and for what is not finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def section(title: str, *parts: str) -> str:
    return "\n".join((f"<section>\n<h2>{text(title)}</h2>", *parts, "</section>"))


def paragraph(content: str) -> str:
    return f"<p>{text(content)}</p>"


def preformatted(content: str) -> str:
    return f"<pre>{chr(10).join(map(text, content.splitlines()))}</pre>"


def figures(values: Iterable[tuple[str, str]]) -> str:
    """Names and short values, side by side."""
    boxes = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>\n" for name, value in values)
    return f'<dl class="figures">\n{boxes}</dl>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, words_from: int = 0) -> str:
    """A row's first cell names it. The others are numbers, but for those from the column `words_from` on, if it is
    given."""

    def kind(column: int) -> str:
        return "" if column == 0 or 0 < words_from <= column else ' class="number"'

    head = "".join(f'<th scope="col"{kind(place)}>{text(name)}</th>' for place, name in enumerate(columns))
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td{kind(place)}>{text(cell)}</td>" for place, cell in enumerate(row[1:], start=1))
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'


def fields(title: str, values: Mapping[str, Any]) -> str:
    """A table of names and values of any kind, as JSON writes them."""
    rows = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items()]
    return f"<div>{table((title, 'value'), rows, words_from=1)}</div>"


def picture(data: bytes, kind: str, *, alt: str) -> str:
    """kind: "png", "jpeg"."""
    return f'<img alt="{text(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def large_picture(data: bytes, kind: str, *, alt: str) -> str:
    """As wide as the page, or as it is itself, which a click or the space bar changes."""
    return f'<label class="large"><input type="checkbox">{picture(data, kind, alt=alt)}</label>'


def chart(
    title: str, series: Mapping[str, Sequence[float | None]], *, best: int | None = None, percent: bool = False
) -> str:
    """Lines over the epochs, which are shown from 1 on. None leaves a gap. best: the position of the epoch that is
    marked. percent: the axis speaks of shares, in [0, 1], as percentages. Empty where there is nothing to draw."""
    known = [value for values in series.values() for value in values if value is not None]
    if not known:
        return ""
    scale, unit = (100, "%") if percent else (1, "")
    epochs = max(len(values) for values in series.values())
    marks, names = _ticks(scale * min(known), scale * max(known), most=100 if percent and max(known) <= 1 else math.inf)
    low, high = marks[0], marks[-1]

    def across(epoch: int) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (epoch / (epochs - 1) if epochs > 1 else 0.5)

    def up(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (value - low) / (high - low)

    parts = []
    for mark, name in zip(marks, names, strict=True):
        parts.append(f'<path class="edge" d="M{_LEFT} {up(mark):.1f}H{_RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{up(mark) + 4:.1f}" text-anchor="end">{name}{unit}</text>')
    for epoch in _epoch_marks(epochs):
        parts.append(f'<text x="{across(epoch):.1f}" y="{_BOTTOM + 17}" text-anchor="middle">{epoch + 1}</text>')
    parts.append(f'<text class="soft" x="{(_LEFT + _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">epoch</text>')
    parts.append(
        f'<text class="soft" transform="translate(13 {(_TOP + _BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{text(title)}</text>"
    )
    if best is not None:
        parts.append(f'<path class="best" d="M{across(best):.1f} {_TOP}V{_BOTTOM}"/>')
    for style, values in zip(_styles(), series.values(), strict=False):
        points = [
            (across(epoch), up(scale * value)) if value is not None else None for epoch, value in enumerate(values)
        ]
        parts += _line(style, points)
    keys = [_key(style, name) for style, name in zip(_styles(), series, strict=False)]
    if best is not None:
        keys.append(_key("best", "best epoch"))
    inside = "\n".join(parts)
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(title)} by epoch">\n'
        f"{inside}\n</svg>\n<figcaption>{' '.join(keys)}</figcaption></figure>"
    )


def _styles() -> Iterator[str]:
    return cycle(("line1", "line2", "line3", "line4"))


def _key(style: str, name: str) -> str:
    sample = f'<svg viewBox="0 0 28 10" aria-hidden="true"><path class="{style}" d="M1 5H27"/></svg>'
    return f'<span class="key">{sample} {text(name)}</span>'


def _line(style: str, points: Sequence[tuple[float, float] | None]) -> list[str]:
    """Lines between the gaps, and dots where there are few points, or one alone between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    parts = []
    for run in runs:
        if len(run) > 1:
            parts.append(f'<path class="{style}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in run)}"/>')
        if len(run) == 1 or len(points) <= _MOST_DOTS:
            parts += [f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in run]
    return parts


def _ticks(low: float, high: float, *, most: float) -> tuple[list[float], list[str]]:
    """Some three to eight round numbers, from at most `low` to at least `high`, none above `most`; and what they are
    called."""
    if high - low <= 1e-9 * abs(high):  # one value: some room around it
        low, high = low - (abs(low) or 1) / 4, high + (abs(high) or 1) / 4
    power = math.floor(math.log10((high - low) / 6))
    step = next(factor * 10.0**power for factor in (1, 2, 5, 10) if (high - low) / (factor * 10.0**power) <= 6)
    first, last = math.floor(low / step + 1e-6), math.ceil(min(high, most) / step - 1e-6)
    marks = [position * step for position in range(first, last + 1)]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    plain = decimals <= 4 and max(abs(low), abs(high)) < 1e5
    return marks, [f"{mark:.{decimals}f}" if plain else f"{mark:.3g}" for mark in marks]


def _epoch_marks(epochs: int) -> range:
    """Positions of at most eight epochs whose numbers, from 1 on, are round."""
    power = max(0, math.floor(math.log10(epochs / 8)))
    step = next(factor * 10**power for factor in (1, 2, 5, 10) if epochs / (factor * 10**power) <= 8)
    return range(step - 1, epochs, step)
