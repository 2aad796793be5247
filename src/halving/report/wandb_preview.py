"""A W&B report as it would be published, to be read here: what each panel draws, and which of them would be empty."""

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from halving.report.tables import real
from halving.report.wandb_report import Condition, Grid, Key, Panel, Report, RunSet
from halving.tracking.runs import FIGURE, Mirrored
from halving.tracking.wording import count, number, value_text

WIDTH, HEIGHT, EDGE = 480, 200, 8  # of a sketch


def with_figure(report: Report, runs: Sequence[Mirrored]) -> list[Mirrored]:
    """Return the runs, and the one that publishing adds to hold our figure."""
    held = {"ID": report.figure_run, "JobType": "comparison"}
    added = [Mirrored(held, {}, {FIGURE: {}}, [])] if report.figure else []
    return [*runs, *added]


def empty(report: Report, runs: Sequence[Mirrored]) -> list[str]:
    """Return a line on each run set that holds no run, and each panel for which no run has what it draws."""
    lines: list[str] = []
    for grid in report.grids:
        for each in grid.run_sets:
            if not _held(each, runs):
                wanted = " and ".join(_condition(one) for one in each.conditions)
                lines.append(f"{grid.name} would show nothing: run set {each.name!r} holds no run with {wanted}")
        here = [run for each in grid.run_sets for run in _held(each, runs)]
        for panel in grid.panels if here else ():
            wanted = [*panel.keys, *([panel.x] if panel.x else [])]
            missing = [key for key in wanted if all(_value(run, key) is None for run in here)]
            if missing:
                names = ", ".join(f"{key.where} {key.name}" for key in missing)
                lines.append(f"{grid.name}, {panel.title!r} would show nothing: no run has {names}")
    return lines


def preview(report: Report, runs: Sequence[Mirrored], problems: Iterable[str]) -> str:
    """Return the page: all blocks in order, with a sketch of what each panel would draw."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    blocks = [_grid(block, report, runs) if isinstance(block, Grid) else vars(block) for block in report.blocks]
    return environment.from_string(_PAGE).render(report=report, blocks=blocks, problems=list(problems), runs=len(runs))


def _grid(grid: Grid, report: Report, runs: Sequence[Mirrored]) -> dict[str, Any]:
    sets = [
        {
            "name": each.name,
            "runs": count(len(_held(each, runs)), "runs"),
            "where": " and ".join(_condition(one) for one in each.conditions),
            "order": "" if each.order is None else f"{each.order.name}, {'least' if each.ascending else 'most'} first",
            "grouped": each.group_by,
        }
        for each in grid.run_sets
    ]
    panels = [_panel(panel, grid, report, runs) for panel in grid.panels]
    return {"block": "grid", "sets": sets, "panels": panels}


def _panel(panel: Panel, grid: Grid, report: Report, runs: Sequence[Mirrored]) -> dict[str, Any]:
    here = [(each, run) for each in grid.run_sets for run in _held(each, runs)]
    words = {
        "lines": f"lines of {_names(panel.keys)} over {panel.x.name if panel.x else 'the step'}",
        "scatter": f"points: {_names(panel.keys)} over {panel.x.name if panel.x else ''}",
        "parallel": f"parallel coordinates: {_names(panel.keys)}",
        "importance": f"importance of every config key for {_names(panel.keys)}",
        "comparer": "run comparer, what differs only",
        "table": f"the table {_names(panel.keys)}",
        "media": f"pictures: {_names(panel.keys)}",
    }[panel.kind]
    x, y, width, height = panel.place
    drawn: dict[str, Any] = {"lines": [], "dots": [], "rows": [], "pictures": []}
    match panel.kind:
        case "lines" | "scatter" if panel.x is not None:
            drawn |= _sketch(panel, here)
        case "parallel":
            *keys, target = panel.keys
            drawn["rows"] = [[key.name for key in (target, *keys)]]
            drawn["rows"] += [[_said(run, key) for key in (target, *keys)] for _, run in here]
        case "comparer":
            columns = grid.run_sets[0].columns
            drawn["rows"] = [["run", *(key.name for key in columns)]]
            drawn["rows"] += [[run.attributes["Name"], *(_said(run, key) for key in columns)] for _, run in here]
        case "media":
            files = [_file(run, key) for key in panel.keys for _, run in here]
            files += [Path(report.figure)] if report.figure and panel.keys[0].name == FIGURE else []
            drawn["pictures"] = [_embedded(file) for file in files if file is not None]
        case "table":
            files = [_file(run, key) for key in panel.keys for _, run in here]
            tables = [json.loads(file.read_text("utf-8")) for file in files if file is not None]
            cells = [line for table in tables for line in (table["columns"], *table["data"])]
            drawn["rows"] = [["" if cell is None else value_text(cell) for cell in line] for line in cells]
        case _:
            pass
    scale = " (logarithmic)" if panel.log_x or panel.log_y or panel.log_keys else ""
    place = f"{x // 2 + 1} / span {width // 2}"
    return {"title": panel.title, "words": words + scale, "place": place, "row": f"{y + 1} / span {height}", **drawn}


def _sketch(panel: Panel, here: Sequence[tuple[RunSet, Mirrored]]) -> dict[str, Any]:
    """Return lines or points of a panel, as SVG coordinates with their colours."""
    assert panel.x is not None
    found: list[tuple[str, bool, list[tuple[float, float]]]] = []
    for each, run in here:
        identity = run.attributes.get("ID", "")
        colour = each.colours.get(identity) or each.colours.get("") or "#0a66c2"
        rows: Sequence[Any] = run.history if panel.kind == "lines" else [None]
        for key in panel.keys:
            pairs = [(_number(run, panel.x, row), _number(run, key, row)) for row in rows]
            points = [(x, y) for x, y in pairs if x is not None and y is not None]
            if points:
                found.append((colour, identity == panel.bold, points))
    every = [point for *_, points in found for point in points]
    if not every:
        return {}
    low, high = (tuple(f(point[i] for point in every) for i in (0, 1)) for f in (min, max))

    def placed(point: tuple[float, float]) -> tuple[float, float]:
        parts = [(value - a) / (b - a) if b > a else 0.5 for value, a, b in zip(point, low, high, strict=True)]
        return round(EDGE + parts[0] * (WIDTH - 2 * EDGE), 1), round(HEIGHT - EDGE - parts[1] * (HEIGHT - 2 * EDGE), 1)

    lines: list[dict[str, Any]] = []
    dots: list[dict[str, Any]] = []
    for colour, bold, points in sorted(found, key=lambda each: each[1]):
        style = {"colour": colour, "width": 3 if bold else 1.2}
        if len(points) > 1:
            lines.append({"points": " ".join(f"{x},{y}" for x, y in map(placed, points)), **style})
        else:
            x, y = placed(points[0])
            dots.append({"x": x, "y": y, **style})
    return {"lines": lines, "dots": dots, "ends": [number(value) for value in (low[0], high[0], low[1], high[1])]}


def _held(each: RunSet, runs: Sequence[Mirrored]) -> list[Mirrored]:
    held = [run for run in runs if all(_value(run, one.key) in one.values for one in each.conditions)]
    if (order := each.order) is None:
        return held

    def place(run: Mirrored) -> tuple[bool, float]:
        value = _number(run, order)
        return value is None, (value or 0.0) * (1 if each.ascending else -1)

    return sorted(held, key=place)


def _value(run: Mirrored, key: Key, row: Any = None) -> Any:
    """Return what a run has under a key, in one row of its history or in any; None where it has nothing."""
    match key.where:
        case "run":
            return run.attributes.get(key.name)
        case "summary":
            return run.summary.get(key.name)
        case "history":
            rows = run.history if row is None else [row]
            return next((each[key.name] for each in rows if each.get(key.name) is not None), None)
        case "config":
            node: Any = run.config
            for part in key.name.split("."):
                node = node.get(part) if isinstance(node, dict) else None
            return node


def _number(run: Mirrored, key: Key, row: Any = None) -> float | None:
    value = _value(run, key, row)
    return real(value) if isinstance(value, bool | int | float) else None


def _said(run: Mirrored, key: Key) -> str:
    value = _value(run, key)
    return "" if value is None else value_text(value)


def _file(run: Mirrored, key: Key) -> Path | None:
    """Return the file of a picture or table that a run has under a key."""
    name = run.summary.get(f"{key.name}.path")
    if run.files is None or not isinstance(name, str):
        return None
    file = run.files / name  # a stranger's run may name any file of this machine
    return file if file.is_file() and file.resolve().is_relative_to(run.files.resolve()) else None


def _embedded(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def _names(keys: Iterable[Key]) -> str:
    return ", ".join(key.name for key in keys)


def _condition(one: Condition) -> str:
    first, *rest = one.values
    return f"{one.key.name} = {first}{f' or one of {len(rest)} more' if rest else ''}"


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ report.title }}</title>
<style>
:root {
  color-scheme: light dark;
  --ink: #1f2429; --muted: #626b74; --hair: #dfe3e7; --paper: #fff; --card: #f7f8f9; --warn: #8a4b00
}
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e9ec; --muted: #9aa4ae; --hair: #343b43; --paper: #15191d; --card: #1c2126; --warn: #f0b35c
} }
body { margin: 0 auto; max-width: 1080px; padding: 24px 20px 60px; background: var(--paper); color: var(--ink) }
body { font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 26px; margin: 0 }
h2 { font-size: 18px; margin: 36px 0 8px }
.muted, figcaption, small { color: var(--muted) }
.warn { color: var(--warn); border-left: 3px solid; padding-left: 12px }
pre, figure { background: var(--card); border: 1px solid var(--hair); border-radius: 8px; padding: 10px 14px }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
.wide { overflow: auto; max-height: 360px }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { padding: 3px 14px 3px 0; text-align: right; border-bottom: 1px solid var(--hair); white-space: nowrap }
th { color: var(--muted); font-weight: 500 }
.panels { display: grid; grid-template-columns: repeat(12, 1fr); gap: 12px; margin-top: 10px }
figure { margin: 0; min-width: 0 }
figure b { display: block }
svg { display: block; box-sizing: border-box; width: 100%; max-width: 640px; height: auto; margin-top: 8px }
svg { border: solid var(--hair); border-width: 0 0 1px 1px }
figure img { max-width: 100%; background: #fff }
@media (max-width: 700px) { .panels figure { grid-column: 1 / -1 !important } }
ul { padding-left: 20px }
</style>
</head>
<body>
<p class="muted">A preview of the W&amp;B report for project {{ report.project }}: nothing is published.
W&amp;B draws the panels itself; the sketches show what it will find in {{ runs }} runs.</p>
<h1>{{ report.title }}</h1>
<p class="muted">{{ report.description }}</p>
{% if problems %}
<div class="warn"><b>To be mended first:</b>
<ul>{% for line in problems %}<li>{{ line }}</li>{% endfor %}</ul></div>
{% endif %}
{% for block in blocks %}
{% if block.block == "heading" %}
<h2>{{ block.text }}</h2>
{% elif block.block == "code" %}
<pre>{{ block.text }}</pre>
{% elif block.block == "text" %}
{% for part in block.text.split("\n\n") %}
{% if part.startswith("| ") %}
<div class="wide"><table>
{% for line in part.split("\n") if not line.startswith("| ---") %}
{% set cell = "th" if loop.first else "td" %}
<tr>{% for text in line[2:-2].split(" | ") %}<{{ cell }}>{{ text }}</{{ cell }}>{% endfor %}</tr>
{% endfor %}
</table></div>
{% elif part.startswith("- ") %}
<ul>{% for line in part.split("\n") %}<li>{{ line[2:] }}</li>{% endfor %}</ul>
{% elif part.startswith("**") %}
<p><b>{{ part.strip("*") }}</b></p>
{% else %}
<p>{{ part }}</p>
{% endif %}
{% endfor %}
{% else %}
{% for each in block.sets %}
<small>run set <b>{{ each.name }}</b>: {{ each.runs }}, {{ each.where }}
{%- if each.order %}, by {{ each.order }}{% endif %}
{%- if each.grouped %}, grouped by {{ each.grouped }}{% endif %}</small><br>
{% endfor %}
<div class="panels">
{% for panel in block.panels %}
<figure style="grid-column: {{ panel.place }}">
<b>{{ panel.title }}</b><figcaption>{{ panel.words }}</figcaption>
{% if panel.lines or panel.dots %}
<svg viewBox="0 0 480 200" role="img" aria-label="{{ panel.title }}">
{% for line in panel.lines %}
<polyline points="{{ line.points }}" fill="none" stroke="{{ line.colour }}" stroke-width="{{ line.width }}"/>
{% endfor %}
{% for line in panel.dots %}
<circle cx="{{ line.x }}" cy="{{ line.y }}" r="{{ line.width + 2 }}" fill="{{ line.colour }}" fill-opacity=".7"/>
{% endfor %}
</svg>
<small>x {{ panel.ends[0] }} to {{ panel.ends[1] }}, y {{ panel.ends[2] }} to {{ panel.ends[3] }}</small>
{% endif %}
{% for picture in panel.pictures %}
<img src="{{ picture }}" alt="{{ panel.title }}">
{% endfor %}
{% if panel.rows %}
<div class="wide"><table>
{% for row in panel.rows %}
{% set cell = "th" if loop.first else "td" %}
<tr>{% for text in row %}<{{ cell }}>{{ text }}</{{ cell }}>{% endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}
</figure>
{% endfor %}
</div>
{% endif %}
{% endfor %}
</body>
</html>
"""
