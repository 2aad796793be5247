"""What a study looks like while it runs: the plan, then a live table, or plain lines without a terminal."""

import math
import time

from rich.console import Console
from rich.live import Live

from halving.history import Confirmed, Evaluation, Event, Halted, Header, History, Trial
from halving.tracking.live import Decision, status
from halving.tracking.outline import outline
from halving.tracking.pace import Pace, last_epoch, spent_of_planned
from halving.tracking.terminal import Terminal
from halving.tracking.wording import cause, count, duration, losses, shown
from halving.trial import Epoch, Finished, Restarted

FRAME = 0.25  # least seconds between two drawings
LINES = 10.0  # seconds without a line after which a long study says where it is
BRIEF = 100  # evaluations, or epochs of a single trial, that get a line each


class Progress:
    """Shows a study on the console: first the plan, then what runs, how far it is and what is best.

    On a terminal this is a table that is drawn anew at most four times a second, and less often where drawing takes
    more than a twentieth of the time. Elsewhere it is one line per evaluation; a study of more than 100 gets one
    when the incumbent improves, a trial fails, or ten seconds have passed. A single trial gets a bar over its epochs.
    A maximised metric is shown as the user knows it. `quiet` shows nothing at all.

    `console` is where it is shown, standard output by default; whoever logs during the study should write there.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console if console is not None else Terminal()
        self._quiet = quiet
        self._live: Live | None = None
        self._pace: Pace | None = None
        self._decision: Decision | None = None
        self._next = 0.0
        self._behind = False

    def resume(self, history: History) -> None:
        """Wait for the first event, since it may bring another plan."""

    def record(self, event: Event, history: History) -> None:
        header = history.header
        if self._quiet or header is None:
            return
        if self._pace is None:
            self._pace = Pace.since(header, history)
            self.console.print(outline(header))
            if history.finished:
                self._say(f"going on after {count(len(history.finished), 'evaluations')}")
        if isinstance(event, Decision):
            self._decision = event
        if self.console.is_interactive:
            self._draw(header, history, self._pace)
        else:
            self._tell(event, header, history, self._pace)

    def rest(self, history: History) -> None:
        """Draw what came too fast to be drawn."""
        if self._behind and history.header is not None and self._pace is not None:
            self._draw(history.header, history, self._pace)

    def close(self, history: History) -> None:
        live, self._live = self._live, None
        if live is None:
            return
        try:
            if history.header is not None and self._pace is not None:
                live.update(status(history.header, history, self._pace, self._decision, final=True))
        finally:
            live.stop()

    def _draw(self, header: Header, history: History, pace: Pace) -> None:
        now = time.monotonic()
        self._behind = (now < self._next and history.ended is None) or not history.trials
        if self._behind:
            return
        frame = status(header, history, pace, self._decision)
        if self._live is None:
            # Its own slow refreshes keep the clock going while a long epoch brings no event.
            self._live = Live(frame, console=self.console, refresh_per_second=1)
            self._live.start(refresh=True)
        else:
            self._live.update(frame, refresh=True)
        done = time.monotonic()
        self._next = done + max(FRAME, 20 * (done - now))

    def _tell(self, event: Event, header: Header, history: History, pace: Pace) -> None:
        now = time.monotonic()
        match event:
            case Finished():
                trial, evaluation = history.finished[-1]
                new = bool(history.incumbents) and history.incumbents[-1][1] is evaluation
                brief = _planned_evaluations(header) <= BRIEF
                if header.single and not event.outcome.failed:
                    return
                if new or brief or event.outcome.failed or now >= self._next:
                    self._say(_evaluation_line(header, history, trial, evaluation, new, pace))
                    self._next = now + LINES
            case Epoch(trial, epoch, metrics) if header.single:
                total = last_epoch(header, history.trials[trial].last)
                if total is None or total <= BRIEF or epoch == total or now >= self._next:
                    of = f"/{total}" if total else ""
                    self._say(f"epoch {epoch}{of}: {losses(metrics)} ({duration(history.seconds)})")
                    self._next = now + LINES
            case Restarted(trial, since, reason):
                self._say(f"trial {trial} begins again from {count(since, header.unit)}: {reason}")
            case Confirmed(number, error):
                asked = history.confirmations[number].asked
                came = f"{header.metric} {shown(history, error)}" if math.isfinite(error) else f"failed: {event.cause}"
                seeds = header.provenance.config.get("confirm", {}).get("seeds", 0)
                of = f" of {seeds}" if seeds >= asked.repeat else ""
                self._say(f"trial {asked.trial} again, fresh seed {asked.repeat}{of}: {came}")
            case Halted(reason):
                self._say(f"no new assignments: {reason}")
            case _:
                pass

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _evaluation_line(
    header: Header, history: History, trial: Trial, evaluation: Evaluation, new: bool, pace: Pace
) -> str:
    bracket = f"bracket {trial.bracket}, " if len(header.plan) > 1 else ""
    where = f"trial {trial.trial} ({bracket}rung {evaluation.rung}, {count(evaluation.resource, header.unit)})"
    if math.isinf(evaluation.error):
        result = f"failed: {cause(evaluation)}"
    else:
        result = f"{header.metric} {shown(history, evaluation.error)}{', the best so far' if new else ''}"
    left = pace.left(header, history)
    time_left = f", about {duration(round(left))} left" if left else ""
    return f"{where}: {result} [{spent_of_planned(header, history)}{time_left}]"


def _planned_evaluations(header: Header) -> float:
    return sum(sum(ladder.sizes) for ladder in header.plan) if header.plan else math.inf
