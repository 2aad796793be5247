"""The plan of a study as it is shown before the first trial: how many trials reach which resource, at what cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from halving.history import Header, Ladder
from halving.tracking.wording import amount, count, short

RUNGS = 12  # most rungs that are worth a plan


def outline(header: Header) -> RenderableType:
    """Return what the study is going to do: how many trials reach which resource, and at what cost."""
    searches = header.dimensions and not header.single
    searched = f", {header.searcher} over {', '.join(short(header.dimensions).values())}" if searches else ""
    parts: list[RenderableType] = [Text(f"{header.name}: {header.scheduler}{searched}, seed {header.seed}")]
    ladders = header.plan
    if 1 < max((len(ladder.levels) for ladder in ladders), default=0) <= RUNGS:
        parts.append(_of_one(header) if len(ladders) == 1 else _of_many(header))
    trials = sum(ladder.sizes[0] for ladder in ladders if ladder.sizes)
    if header.planned_cost is not None and not trials:
        parts.append(Text(f"{count(header.planned_cost, header.unit)} for as many trials as fit"))
    elif header.planned_cost is not None:
        full = header.full_cost * trials
        total = f"{count(trials, 'trials')}, {count(header.planned_cost, header.unit)}"
        parts.append(Text(f"{total} instead of {amount(full)}" if full > header.planned_cost else total))
    match header.provenance.config:
        case {"confirm": {"top": int(top), "seeds": int(seeds)}} if top:
            best = f"the best {top} again, each" if top > 1 else "the best again"
            cost = count(top * seeds * header.full_cost, header.unit)
            parts.append(Text(f"then {best} with {seeds} fresh seeds: {cost} at most"))
        case _:
            pass
    return Group(*parts)


def table(*names: str) -> Table:
    """Return an empty table of right-aligned columns."""
    empty = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        empty.add_column(Text(name), justify="right", no_wrap=True)
    return empty


@dataclass(frozen=True)
class Fitting:
    """The first of several tables that is no wider than the terminal, or else the last."""

    tables: Sequence[Table]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.update(width=1000)
        fit = (each for each in self.tables if console.measure(each, options=wide).maximum <= options.max_width)
        yield next(fit, self.tables[-1])


def _of_one(header: Header) -> Table:
    ladder, costs = header.plan[0], _costs(header)
    rungs = table("rung", header.unit, "trials", *([f"cost in {header.unit}"] if costs else []))
    for i, level in enumerate(ladder.levels):
        size = str(ladder.sizes[i]) if i < len(ladder.sizes) else ""
        rungs.add_row(str(i), str(level), size, *([f"{costs[0][i]:g}"] if costs else []))
    return rungs


def _of_many(header: Header) -> Fitting:
    levels = sorted({level for ladder in header.plan for level in ladder.levels})
    costs = _costs(header)
    ladders = table("bracket", *map(str, levels), header.unit, *(["cost"] if costs else []))
    narrow = table("bracket", header.unit, "trials", *(["cost"] if costs else []))
    alike: dict[Ladder, list[int]] = {}
    for bracket, ladder in enumerate(header.plan):
        alike.setdefault(ladder, []).append(bracket)
    for ladder, brackets in alike.items():
        size = dict(zip(ladder.levels, ladder.sizes, strict=False))
        cost = [f"{sum(sum(costs[bracket]) for bracket in brackets):g}"] if costs else []
        ladders.add_row(_numbers(brackets), *(str(size.get(level, "")) for level in levels), "", *cost)
        span = "-".join(map(str, dict.fromkeys((min(ladder.levels), max(ladder.levels)))))
        narrow.add_row(_numbers(brackets), span, str(next(iter(ladder.sizes), "")), *cost)
    return Fitting((ladders, narrow))


def _numbers(brackets: list[int]) -> str:
    first, last = brackets[0], brackets[-1]
    if first < last and last - first + 1 == len(brackets):
        return f"{first}-{last}"
    return ", ".join(map(str, brackets))


def _costs(header: Header) -> list[list[float]] | None:
    """What each rung costs, where the header says whether it adds to the rung below or begins anew."""
    if (
        header.planned_cost is None
        or header.resumes is None
        or any(len(ladder.sizes) < len(ladder.levels) for ladder in header.plan)
    ):
        return None
    scale = header.full_cost / header.r_max
    return [
        [
            scale * n * (r - since if header.resumes else r)
            for n, r, since in zip(ladder.sizes, ladder.levels, (0, *ladder.levels), strict=False)
        ]
        for ladder in header.plan
    ]
