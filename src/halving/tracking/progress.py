"""What a study looks like while it runs: the plan, then a live table, or plain lines without a terminal."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from halving.history import Evaluation, Event, Halted, Header, History, Trial
from halving.tracking.plan import plan, table
from halving.tracking.wording import cause, count, duration, losses, shown, values
from halving.trial import Epoch, Finished, Restarted

FRAME = 0.25  # least seconds between two drawings
LINES = 10.0  # seconds without a line after which a long study says where it is
BRIEF = 100  # evaluations, or epochs of a single trial, that get a line each
ROWS = 8  # most rungs or brackets in the live table


class Progress:
    """Shows a study on the console: first the plan, then what runs, how far it is and what is best.

    On a terminal this is a table that is drawn anew at most four times a second, and less often where drawing takes
    more than a twentieth of the time. Elsewhere it is one line per evaluation; a study of more than 100 gets one
    when the incumbent improves, a trial fails, or ten seconds have passed. A single trial gets a bar over its epochs.
    A maximised metric is shown as the user knows it. `quiet` shows nothing at all.

    `console` is where it is shown, standard output by default; whoever logs during the study should write there.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console if console is not None else Console()
        self._quiet = quiet
        self._live: Live | None = None
        self._begun: _Mark | None = None
        self._next = 0.0

    def resume(self, history: History) -> None:
        """Wait for the first event, since it may bring another plan."""

    def record(self, event: Event, history: History) -> None:
        header = history.header
        if self._quiet or header is None:
            return
        if self._begun is None:
            self._begun = _Mark(history.seconds, _spent(header, history))
            self.console.print(plan(header))
            if history.finished:
                self._say(f"going on after {count(len(history.finished), 'evaluations')}")
        if self.console.is_interactive:
            self._draw(header, history)
        else:
            self._tell(event, header, history)

    def close(self, history: History) -> None:
        live, self._live = self._live, None
        if live is None:
            return
        try:
            if history.header is not None and self._begun is not None:
                live.update(status(history.header, history, self._begun, final=True))
        finally:
            live.stop()

    def _draw(self, header: Header, history: History) -> None:
        now = time.monotonic()
        if now < self._next or self._begun is None or not history.trials:
            return
        frame = status(header, history, self._begun)
        if self._live is None:
            # Its own slow refreshes keep the clock going while a long epoch brings no event.
            self._live = Live(frame, console=self.console, refresh_per_second=1)
            self._live.start(refresh=True)
        else:
            self._live.update(frame, refresh=True)
        done = time.monotonic()
        self._next = done + max(FRAME, 20 * (done - now))

    def _tell(self, event: Event, header: Header, history: History) -> None:
        now = time.monotonic()
        match event:
            case Finished():
                trial, evaluation = history.finished[-1]
                new = bool(history.incumbents) and history.incumbents[-1][1] is evaluation
                brief = _planned_evaluations(header) <= BRIEF
                if header.scheduler == "single" and not event.outcome.failed:
                    return
                if new or brief or event.outcome.failed or now >= self._next:
                    self._say(_evaluation_line(header, history, trial, evaluation, new, self._begun))
                    self._next = now + LINES
            case Epoch(trial, epoch, metrics) if header.scheduler == "single":
                total = _last_epoch(header, history.trials[trial].last)
                if total is None or total <= BRIEF or epoch == total or now >= self._next:
                    of = f"/{total}" if total else ""
                    self._say(f"epoch {epoch}{of}: {losses(metrics)} ({duration(history.seconds)})")
                    self._next = now + LINES
            case Restarted(trial, since, reason):
                self._say(f"trial {trial} begins again from {count(since, header.unit)}: {reason}")
            case Halted(reason):
                self._say(f"no new assignments: {reason}")
            case _:
                pass

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where this process took over: what a resumed study did before says nothing of today's speed."""

    seconds: float
    spent: float


def status(header: Header, history: History, begun: _Mark, final: bool = False) -> RenderableType:
    """Return the live display: the rungs (or, of a single trial, its bar), the incumbent and the time."""
    if header.scheduler == "single":
        return _single(header, history, begun, final)
    rungs = _rungs(header, history)
    several = len({bracket for bracket, _ in rungs}) > 1
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", min_width=7)
    lines.add_column()
    if history.incumbent is not None:
        trial, evaluation = history.incumbent
        where = f"  trial {trial.trial} at {count(evaluation.resource, header.unit)}"
        error = f"{header.metric} {shown(header, evaluation.error)}"
        lines.add_row("best", Text.assemble((error, "bold green"), where))
        lines.add_row("", Text(values(trial.configuration), style="dim"))
    running = [trial for trial in history.trials.values() if trial.last.finished is None]
    if running and not final:
        lines.add_row("running", Text(_running(header, running)))
    retries = [(it.trial, why) for it in history.trials.values() for each in it.evaluations for why in each.restarts]
    failures = [(it.trial, cause(each)) for it, each in history.finished if _failed(each)]
    for word, events in (("retried", retries), ("failed", failures)):
        if events:
            lines.add_row(word, Text(f"{len(events)}, trial {events[-1][0]}: {events[-1][1]}", style="yellow"))
    if history.halted:
        lines.add_row("halted", Text(history.halted, style="yellow"))
    lines.add_row("spent", _Clock(header, history, begun, final))
    return Group("", _many_brackets(header, rungs) if several else _one_bracket(header, rungs), "", lines)


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


def _rungs(header: Header, history: History) -> dict[tuple[int, int], _Rung]:
    rungs = {
        (bracket, rung): _Rung(level, ladder.sizes[rung] if rung < len(ladder.sizes) else None)
        for bracket, ladder in enumerate(header.plan)
        for rung, level in enumerate(ladder.levels)
    }
    for trial in history.trials.values():
        for evaluation in trial.evaluations:
            rung = rungs.setdefault((trial.bracket, evaluation.rung), _Rung(evaluation.until))
            rung.running += evaluation.finished is None
            rung.finished += evaluation.finished is not None
            rung.promoted += evaluation.verdict == "promoted"
            rung.best = min(rung.best, evaluation.error)
    return dict(sorted(rungs.items()))


def _one_bracket(header: Header, rungs: Mapping[tuple[int, int], _Rung]) -> Table:
    rows = table("rung", header.unit, "trials", "", "running", "promoted", f"best {header.metric}")
    numbered = [(number, rung) for (_, number), rung in rungs.items()]
    reached = max((i for i, (_, rung) in enumerate(numbered) if rung.finished or rung.running), default=0)
    for i, rung in _window(numbered, reached - ROWS + 2):
        bar = ProgressBar(total=max(1, rung.planned), completed=rung.finished, width=18) if rung.planned else ""
        last = (str(rung.running or ""), str(rung.promoted or ""), shown(header, rung.best))
        rows.add_row(str(i), str(rung.level), rung.trials, bar, *last, style=rung.style)
    return rows


def _many_brackets(header: Header, rungs: Mapping[tuple[int, int], _Rung]) -> Table:
    levels = sorted({rung.level for rung in rungs.values()})
    rows = table("bracket", *map(str, levels), header.unit, f"best {header.metric}")
    of: dict[int, list[_Rung]] = {}
    for (bracket, _), rung in rungs.items():
        of.setdefault(bracket, []).append(rung)
    active = next((i for i, ladder in enumerate(of.values()) if any(rung.running for rung in ladder)), 0)
    for bracket, ladder in _window(list(of.items()), active - 1):
        at = {rung.level: rung for rung in ladder}
        cells = [Text(at[level].trials, at[level].style) if level in at else "" for level in levels]
        rows.add_row(str(bracket), *cells, "", shown(header, min(rung.best for rung in ladder)))
    return rows


def _window(rows: Sequence[_Row], first: int) -> Sequence[_Row]:
    """Return as many rows as are shown, from `first` on where there are so many."""
    first = max(0, min(first, len(rows) - ROWS))
    return rows[first : first + ROWS]


def _single(header: Header, history: History, begun: _Mark, final: bool) -> RenderableType:
    trial = next(iter(history.trials.values()))
    last = trial.last
    epoch = last.epochs[-1] if last.epochs else None
    total = _last_epoch(header, last)
    done = epoch.epoch if epoch else 0
    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=total, completed=done, width=28) if total else ""
    head.add_row(f"epoch {done}/{total}" if total else f"epoch {done}", bar, _Clock(header, history, begun, final))
    parts: list[RenderableType] = [head]
    if epoch:
        parts.append(Text(losses(epoch.metrics)))
    if _failed(last):
        parts.append(Text(f"failed: {cause(last)}", style="yellow"))
    return Group(*parts)


class _Clock:
    """The time spent and left, as of the moment it is drawn."""

    def __init__(self, header: Header, history: History, begun: _Mark, final: bool) -> None:
        spent = _spent(header, history)
        planned = header.planned_cost
        of = f" of {planned:g}" if planned is not None else ""
        self._spent = "" if header.scheduler == "single" else f"{spent:g}{of} {header.unit}, "
        self._seconds = history.seconds
        self._left = None if final or history.halted else _left(history, planned, spent, begun)
        self._drawn = time.monotonic()
        self._final = final

    def __rich__(self) -> Text:
        since = 0.0 if self._final else time.monotonic() - self._drawn
        left = f", about {duration(max(0.0, self._left - since))} left" if self._left is not None else ""
        return Text(f"{self._spent}{duration(self._seconds + since)}{left}")


def _left(history: History, planned: float | None, spent: float, begun: _Mark) -> float | None:
    if planned is None or spent <= begun.spent:
        return None
    return max(0.0, planned - spent) * (history.seconds - begun.seconds) / (spent - begun.spent)


def _spent(header: Header, history: History) -> float:
    """Resource spent, with that of running assignments where epochs are its unit."""
    if header.unit != "epochs":
        return history.spent
    running = (trial.last for trial in history.trials.values() if trial.last.finished is None)
    return history.spent + sum(max(0, last.epochs[-1].epoch - last.since) for last in running if last.epochs)


def _last_epoch(header: Header, evaluation: Evaluation) -> int | None:
    if header.unit == "epochs":
        return evaluation.until
    epochs = header.settings.get("config", {}).get("epochs")
    # Epochs of folds go on counting from fold to fold.
    return epochs if isinstance(epochs, int) and header.unit != "folds" else None


def _running(header: Header, running: list[Trial]) -> str:
    said: list[str] = []
    for trial in running[:3]:
        total = _last_epoch(header, trial.last)
        epoch = trial.last.epochs[-1].epoch if trial.last.epochs else trial.last.since
        said.append(f"trial {trial.trial} epoch {epoch}/{total}" if total else f"trial {trial.trial}")
    more = [f"{len(running) - 3} more"] if len(running) > 3 else []
    return ", ".join([*said, *more])


def _evaluation_line(
    header: Header, history: History, trial: Trial, evaluation: Evaluation, new: bool, begun: _Mark | None
) -> str:
    bracket = f"bracket {trial.bracket}, " if len(header.plan) > 1 else ""
    where = f"trial {trial.trial} ({bracket}rung {evaluation.rung}, {count(evaluation.resource, header.unit)})"
    if _failed(evaluation):
        result = f"failed: {cause(evaluation)}"
    else:
        result = f"{header.metric} {shown(header, evaluation.error)}{', the best so far' if new else ''}"
    spent = _spent(header, history)
    of = f" of {header.planned_cost:g}" if header.planned_cost is not None else ""
    left = _left(history, header.planned_cost, spent, begun) if begun is not None else None
    time_left = f", about {duration(left)} left" if left else ""
    return f"{where}: {result} [{spent:g}{of} {header.unit}{time_left}]"


def _failed(evaluation: Evaluation) -> bool:
    return evaluation.finished is not None and math.isinf(evaluation.error)


def _planned_evaluations(header: Header) -> float:
    return sum(sum(ladder.sizes) for ladder in header.plan) if header.plan else math.inf
