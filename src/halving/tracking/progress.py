"""What a study looks like while it runs: the plan, then a live table, or plain lines without a terminal."""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from halving.history import Evaluation, Event, Halted, Header, History, Ladder, Trial
from halving.trial import Configuration, Epoch, Finished

FRAME = 0.25  # least seconds between two drawings
LINES = 10.0  # seconds without a line after which a long study says where it is
BRIEF = 100  # evaluations, or epochs of a single trial, that get a line each
ROWS = 8  # most rungs or brackets in the live table
RUNGS = 12  # most rungs that are worth a plan


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

    def record(self, event: Event, history: History) -> None:
        header = history.header
        if self._quiet or header is None:
            return
        if self._begun is None:
            self._begun = _Mark(history.seconds, _spent(header, history))
            self.console.print(plan(header))
            if history.finished:
                self._say(f"going on after {_count(len(history.finished), 'evaluations')}")
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
                    self._say(f"epoch {epoch}{of}: {_metrics(metrics)} ({duration(history.seconds)})")
                    self._next = now + LINES
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


def plan(header: Header) -> RenderableType:
    """Return what the study is going to do: how many trials reach which resource, and at what cost."""
    searched = f", {header.searcher} over {', '.join(_short(header.dimensions).values())}" if header.dimensions else ""
    parts: list[RenderableType] = [Text(f"{header.name}: {header.scheduler}{searched}, seed {header.seed}")]
    ladders = header.plan
    if 1 < max((len(ladder.levels) for ladder in ladders), default=0) <= RUNGS:
        parts.append(_plan_of_one(header) if len(ladders) == 1 else _plan_of_many(header))
    trials = sum(ladder.sizes[0] for ladder in ladders if ladder.sizes)
    if header.planned_cost is not None:
        full = header.full_cost * trials
        total = f"{_count(trials, 'trials')}, {_count(header.planned_cost, header.unit)}"
        parts.append(Text(f"{total} instead of {full:g}" if full > header.planned_cost else total))
    return Group(*parts)


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
        where = f"  trial {trial.trial} at {_count(evaluation.resource, header.unit)}"
        error = f"{header.metric} {_error(header, evaluation.error)}"
        lines.add_row("best", Text.assemble((error, "bold green"), where))
        lines.add_row("", Text(_configuration(trial.configuration), style="dim"))
    running = [trial for trial in history.trials.values() if trial.last.finished is None]
    if running and not final:
        lines.add_row("running", Text(_running(header, running)))
    failures = [(trial, evaluation) for trial, evaluation in history.finished if _failed(evaluation)]
    if failures:
        lines.add_row("failed", Text(f"{len(failures)}, last {_failure(*failures[-1])}", style="yellow"))
    if history.halted:
        lines.add_row("halted", Text(history.halted, style="yellow"))
    lines.add_row("spent", _Clock(header, history, begun, final))
    return Group("", _many_brackets(header, rungs) if several else _one_bracket(header, rungs), "", lines)


def duration(seconds: float) -> str:
    """Say seconds in words: `45 s`, `1 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def number(value: float) -> str:
    """Say a metric: three decimals, or three digits where it is too small or too large for that."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.3g}"


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
    table = _table("rung", header.unit, "trials", "", "running", "promoted", f"best {header.metric}")
    shown = [(number, rung) for (_, number), rung in rungs.items()]
    if len(shown) > ROWS:
        reached = max((i for i, (_, rung) in enumerate(shown) if rung.finished or rung.running), default=0)
        first = min(max(0, reached - ROWS + 2), len(shown) - ROWS)
        shown = shown[first : first + ROWS]
    for i, rung in shown:
        bar = ProgressBar(total=max(1, rung.planned), completed=rung.finished, width=18) if rung.planned else ""
        row = (rung.running or "", rung.promoted or "", _error(header, rung.best))
        table.add_row(str(i), str(rung.level), rung.trials, bar, *map(str, row), style=rung.style)
    return table


def _many_brackets(header: Header, rungs: Mapping[tuple[int, int], _Rung]) -> Table:
    levels = sorted({rung.level for rung in rungs.values()})
    table = _table("bracket", *map(str, levels), header.unit, f"best {header.metric}")
    brackets = sorted({bracket for bracket, _ in rungs})
    of = {bracket: [rung for (b, _), rung in rungs.items() if b == bracket] for bracket in brackets}
    if len(brackets) > ROWS:
        active = next((i for i, b in enumerate(brackets) if any(rung.running for rung in of[b])), 0)
        first = min(max(0, active - 1), len(brackets) - ROWS)
        brackets = brackets[first : first + ROWS]
    for bracket in brackets:
        at = {rung.level: rung for rung in of[bracket]}
        cells = [Text(at[level].trials, at[level].style) if level in at else "" for level in levels]
        table.add_row(str(bracket), *cells, "", _error(header, min(rung.best for rung in of[bracket])))
    return table


def _plan_of_one(header: Header) -> Table:
    ladder = header.plan[0]
    costs = _costs(header)
    table = _table("rung", header.unit, "trials", *([f"cost in {header.unit}"] if costs else []))
    for i, level in enumerate(ladder.levels):
        size = str(ladder.sizes[i]) if i < len(ladder.sizes) else ""
        table.add_row(str(i), str(level), size, *([f"{costs[0][i]:g}"] if costs else []))
    return table


def _plan_of_many(header: Header) -> Table:
    levels = sorted({level for ladder in header.plan for level in ladder.levels})
    costs = _costs(header)
    table = _table("bracket", *map(str, levels), header.unit, *(["cost"] if costs else []))
    alike: dict[Ladder, list[int]] = {}
    for bracket, ladder in enumerate(header.plan):
        alike.setdefault(ladder, []).append(bracket)
    for ladder, brackets in alike.items():
        size = dict(zip(ladder.levels, ladder.sizes, strict=False))
        cost = [f"{sum(sum(costs[bracket]) for bracket in brackets):g}"] if costs else []
        table.add_row(_numbers(brackets), *(str(size.get(level, "")) for level in levels), "", *cost)
    return table


def _numbers(brackets: list[int]) -> str:
    first, last = brackets[0], brackets[-1]
    if first < last and last - first + 1 == len(brackets):
        return f"{first}-{last}"
    return ", ".join(map(str, brackets))


def _costs(header: Header) -> list[list[float]] | None:
    """What each rung costs, if training goes on from the rung below or else from nothing: whichever is the plan's."""
    scale = header.full_cost / header.r_max
    ways = (
        [
            [
                scale * size * (level - (ladder.levels[i - 1] if i and resumes else 0))
                for i, (level, size) in enumerate(zip(ladder.levels, ladder.sizes, strict=False))
            ]
            for ladder in header.plan
        ]
        for resumes in (True, False)
    )
    planned = header.planned_cost
    if planned is None or any(len(ladder.sizes) < len(ladder.levels) for ladder in header.plan):
        return None
    return next((way for way in ways if math.isclose(sum(map(sum, way)), planned)), None)


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
        parts.append(Text(_metrics(epoch.metrics)))
    if _failed(last):
        parts.append(Text(f"failed: {_failure(trial, last)}", style="yellow"))
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
    where = f"trial {trial.trial} ({bracket}rung {evaluation.rung}, {_count(evaluation.resource, header.unit)})"
    if _failed(evaluation):
        result = f"failed: {_cause(evaluation)}"
    else:
        result = f"{header.metric} {_error(header, evaluation.error)}{', the best so far' if new else ''}"
    spent = _spent(header, history)
    of = f" of {header.planned_cost:g}" if header.planned_cost is not None else ""
    left = _left(history, header.planned_cost, spent, begun) if begun is not None else None
    time_left = f", about {duration(left)} left" if left else ""
    return f"{where}: {result} [{spent:g}{of} {header.unit}{time_left}]"


def _configuration(configuration: Configuration) -> str:
    names = _short(configuration)
    return " ".join(f"{names[key]}={_value(value)}" for key, value in configuration.items())


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _short(keys: Iterable[str]) -> dict[str, str]:
    """Give each dotted key its last part, or all of it where two end alike."""
    last = [(key, key.rpartition(".")[2]) for key in keys]
    ends = [end for _, end in last]
    return {key: end if ends.count(end) == 1 else key for key, end in last}


def _metrics(metrics: Mapping[str, float]) -> str:
    """Say losses and errors of training and validation, or what else the first four metrics are."""
    groups = {
        part: [
            f"{name.removeprefix(f'{part}_')} {number(value)}"
            for name, value in metrics.items()
            if name.startswith(f"{part}_")
        ]
        for part in ("train", "val")
    }
    if any(groups.values()):
        return ", ".join(f"{part} {' '.join(said)}" for part, said in groups.items() if said)
    return ", ".join(f"{name} {number(value)}" for name, value in list(metrics.items())[:4])


def _failed(evaluation: Evaluation) -> bool:
    return evaluation.finished is not None and math.isinf(evaluation.error)


def _failure(trial: Trial, evaluation: Evaluation) -> str:
    return f"trial {trial.trial}: {_cause(evaluation)}"


def _cause(evaluation: Evaluation) -> str:
    cause = evaluation.finished.cause if evaluation.finished is not None else ""
    return cause.strip().splitlines()[-1] if cause.strip() else "its error is not a finite number"


def _error(header: Header, error: float) -> str:
    return "" if math.isinf(error) else number(-error if header.maximize else error)


def _planned_evaluations(header: Header) -> float:
    return sum(sum(ladder.sizes) for ladder in header.plan) if header.plan else math.inf


def _count(n: float, nouns: str) -> str:
    return f"{n:g} {nouns.removesuffix('s') if n == 1 else nouns}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
