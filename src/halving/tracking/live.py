"""The live table of a study: its rungs or brackets, the incumbent and the time; of a single trial, its bar."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from halving.history import INTERRUPTED, Header, History, Trial
from halving.tracking.outline import Fitting, table
from halving.tracking.pace import Pace, last_epoch, spent_of_planned
from halving.tracking.wording import cause, come_and_go, count, duration, losses, shown, values
from halving.trial import Resume, Verdict

# Most rungs or brackets in the table, and whether values may take several lines: what a terminal has the height for.
SIZES = ((8, True), (8, False), (6, False), (4, False), (2, False))

Decision = Verdict | Resume


def status(
    header: Header, history: History, pace: Pace, decision: Decision | None = None, final: bool = False
) -> RenderableType:
    """Return the live display: the rungs (or, of a single trial, its bar), the incumbent, the workers and the time."""
    if header.single:
        return _single(header, history, pace, final)
    rungs = _rungs(header, history, final)
    rows = _many_brackets if len({bracket for bracket, _ in rungs}) > 1 else _one_bracket
    said = tuple(_said(header, history, pace, decision, final))
    return _Fitting(
        [Group("", rows(header, history, rungs, most), "", _lines(said, wrapped)) for most, wrapped in SIZES]
    )


@dataclass(frozen=True)
class _Fitting:
    """The first of several renderables that is less high than the terminal, or else the last."""

    frames: Sequence[RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        drawn = (console.render_lines(each, options, pad=False) for each in self.frames)
        yield next(
            (each for each, lines in zip(self.frames, drawn, strict=True) if len(lines) < options.max_height),
            self.frames[-1],
        )


def _lines(said: Iterable[tuple[str, RenderableType]], wrapped: bool) -> Table:
    """Return what is said as lines of a word and a text; values and reasons take several lines if `wrapped`."""
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", min_width=7)
    lines.add_column()
    for word, text in said:
        if isinstance(text, Text):
            text = text.copy()
            text.no_wrap, text.overflow = not (wrapped and word in ("", "decided")), "ellipsis"
        lines.add_row(word, text)
    return lines


def _said(
    header: Header, history: History, pace: Pace, decision: Decision | None, final: bool
) -> Iterator[tuple[str, RenderableType]]:
    if history.incumbent is not None:
        trial, evaluation = history.incumbent
        where = f"  trial {trial.trial} at {count(evaluation.resource, header.unit)}"
        error = f"{header.metric} {shown(history, evaluation.error)}"
        yield "best", Text.assemble((error, "bold green"), where)
        yield "", Text(values(trial.configuration), style="dim")
    if decision is not None:
        yield "decided", Text(_decided(header, decision))
    running = list(history.at_work.values())
    if running:
        yield "cut off" if final else "running", Text(_running(header, running))
    retries = [(it.trial, why) for it in history.trials.values() for each in it.evaluations for why in each.restarts]
    failures = [(it.trial, cause(each)) for it, each in history.finished if math.isinf(each.error)]
    for word, events in (("retried", retries), ("failed", failures)):
        if events:
            yield word, Text(f"{len(events)}, trial {events[-1][0]}: {events[-1][1]}", style="yellow")
    if history.halted:
        yield "halted", Text(history.halted, style="yellow")
    again = [each.asked for each in history.confirmations.values() if each.confirmed is None]
    if history.confirmations:
        ended = f"{len(history.confirmations) - len(again)} ended"
        yield "confirm", Text(", ".join([ended, *(f"trial {each.trial} seed {each.repeat}" for each in again)]))
    workers, batch = header.provenance.workers, header.provenance.batch
    speed = "" if history.confirmations else pace.speed(header, history)  # they are no part of what is spent
    if isinstance(workers, int) and batch > 1 and not final:
        room = f"{count(len(running) + len(again), 'trials')} of up to {workers * batch} at a time"
        yield "workers", Text(f"{workers} with {room}{speed and f'; {speed}'}")
    elif isinstance(workers, int) and workers > 1 and not final:
        busy = len(running) + len(again)
        idle = "" if come_and_go(header) else f", {max(0, workers - busy)} idle"
        yield "workers", Text(f"{min(busy, workers)} busy{idle}{speed and f'; {speed}'}")
    elif speed:
        yield "pace", Text(speed)
    yield "spent", _Clock(header, history, pace, final)


def _decided(header: Header, decision: Decision) -> str:
    match decision:
        case Resume():
            what = f"promoted to {decision.until}"
        case Verdict():
            what = decision.state
    negated = " (errors x -1)" if header.maximize and decision.reason else ""  # as schedulers minimise
    return f"trial {decision.trial} {what}{negated}{decision.reason and f': {decision.reason}'}"


_Row = TypeVar("_Row")


@dataclass
class _Rung:
    level: int
    planned: int | None = None
    finished: int = 0
    running: int = 0
    promoted: int = 0
    best: float = math.inf

    @property
    def trials(self) -> str:
        return f"{self.finished}/{self.planned}" if self.planned is not None else str(self.finished)

    @property
    def style(self) -> str:
        return "bold" if self.running else "" if self.finished else "dim"


def _rungs(header: Header, history: History, final: bool) -> dict[tuple[int, int], _Rung]:
    rungs = {
        (bracket, rung): _Rung(level, ladder.sizes[rung] if rung < len(ladder.sizes) else None)
        for bracket, ladder in enumerate(header.plan)
        for rung, level in enumerate(ladder.levels)
    }
    for trial in history.trials.values():
        for evaluation in trial.evaluations:
            rung = rungs.setdefault((trial.bracket, evaluation.rung), _Rung(evaluation.until))
            rung.running += evaluation.finished is None and not final
            rung.finished += evaluation.finished is not None
            rung.promoted += evaluation.verdict == "promoted"
            rung.best = min(rung.best, evaluation.error)
    return dict(sorted(rungs.items()))


def _one_bracket(header: Header, history: History, rungs: Mapping[tuple[int, int], _Rung], most: int) -> Fitting:
    names = ("rung", header.unit, "trials", "", "running", "promoted", f"best {header.metric}")
    numbered = [(number, rung) for (_, number), rung in rungs.items()]
    reached = max((i for i, (_, rung) in enumerate(numbered) if rung.finished or rung.running), default=0)
    # What a narrow terminal has no room for: the bar, then all but the counts and the best.
    tables = [(kept, table(*(names[i] for i in kept))) for kept in (range(7), (0, 1, 2, 4, 5, 6), (1, 2, 6))]
    tables[-1][1].columns[-1].header = "best"
    for i, rung in _window(numbered, reached - most + 2, most):
        bar = ProgressBar(total=max(1, rung.planned), completed=rung.finished, width=18) if rung.planned else ""
        last = (str(rung.running or ""), str(rung.promoted or ""), shown(history, rung.best))
        cells = (str(i), str(rung.level), rung.trials, bar, *last)
        for kept, rows in tables:
            rows.add_row(*(cells[k] for k in kept), style=rung.style)
    return Fitting([rows for _, rows in tables])


def _many_brackets(header: Header, history: History, rungs: Mapping[tuple[int, int], _Rung], most: int) -> Fitting:
    levels = sorted({rung.level for rung in rungs.values()})
    rows = table("bracket", *map(str, levels), header.unit, f"best {header.metric}")
    narrow = table("bracket", f"at {header.unit}", "trials", "best")
    of: dict[int, list[_Rung]] = {}
    for (bracket, _), rung in rungs.items():
        of.setdefault(bracket, []).append(rung)
    active = next((i for i, ladder in enumerate(of.values()) if any(rung.running for rung in ladder)), 0)
    for bracket, ladder in _window(list(of.items()), active - 1, most):
        at = {rung.level: rung for rung in ladder}
        cells = [Text(at[level].trials, at[level].style) if level in at else "" for level in levels]
        best = shown(history, min(rung.best for rung in ladder))
        rows.add_row(str(bracket), *cells, "", best)
        now = next((rung for rung in reversed(ladder) if rung.running or rung.finished), ladder[0])
        narrow.add_row(str(bracket), str(now.level), now.trials, best, style=now.style)
    return Fitting((rows, narrow))


def _window(rows: Sequence[_Row], first: int, most: int) -> Sequence[_Row]:
    """Return as many rows as are shown, from `first` on where there are so many."""
    first = max(0, min(first, len(rows) - most))
    return rows[first : first + most]


def _single(header: Header, history: History, pace: Pace, final: bool) -> RenderableType:
    trial = next(iter(history.trials.values()))
    last = trial.last
    epoch = last.epochs[-1] if last.epochs else None
    total = last_epoch(header, last)
    done = epoch.epoch if epoch else 0
    said, clock = f"epoch {done}/{total}" if total else f"epoch {done}", _Clock(header, history, pace, final)
    heads = [Table.grid(padding=(0, 2)) for _ in range(2)]
    heads[0].add_row(said, ProgressBar(total=total, completed=done, width=28) if total else "", clock)
    heads[1].add_row(said, clock)
    parts: list[RenderableType] = [Fitting(heads)]
    if epoch:
        parts.append(Text(losses(epoch.metrics)))
    if last.finished is not None and math.isinf(last.error):
        parts.append(Text(f"failed: {cause(last)}", style="yellow"))
    return Group(*parts)


class _Clock:
    """The time spent and left, as of the moment it is drawn; a study's own end stands, whatever is written after it."""

    def __init__(self, header: Header, history: History, pace: Pace, final: bool) -> None:
        final = final or history.ended is not None or history.halted == INTERRUPTED
        self._spent = "" if header.single else f"{spent_of_planned(header, history)}, "
        self._seconds = history.seconds
        self._left = None if final or history.halted else pace.left(header, history)
        self._speed = f", {speed}" if header.single and (speed := pace.speed(header, history)) else ""
        self._drawn = time.monotonic()
        self._final = final

    def __rich__(self) -> Text:
        since = 0.0 if self._final else time.monotonic() - self._drawn
        left = f", ~{duration(round(max(0.0, self._left - since)))} left" if self._left is not None else ""
        text = f"{self._spent}{duration(round(self._seconds + since))}{left}{self._speed}"
        return Text(text, no_wrap=True, overflow="ellipsis")


def _running(header: Header, running: list[Trial]) -> str:
    said: list[str] = []
    for trial in running[:3]:
        total = last_epoch(header, trial.last)
        epoch = trial.last.epochs[-1].epoch if trial.last.epochs else trial.last.since
        said.append(f"trial {trial.trial} epoch {epoch}/{total}" if total else f"trial {trial.trial}")
    more = [f"{len(running) - 3} more"] if len(running) > 3 else []
    return ", ".join([*said, *more])
