"""report.html: one file that shows a study, with no remote parts."""

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from halving.errors import UserError, noted
from halving.history import Evaluation, Header, History, Trial
from halving.report.conclusion import confirmed, doubts, in_full
from halving.report.confirmation import Row, confirmed_winner, cost, mean_text, reviewed
from halving.report.drawing import drawing
from halving.report.explanation import flipped
from halving.report.importance import Importances, early_and_late
from halving.report.next_steps import next_steps, resuming
from halving.report.selection import selected
from halving.report.sensitivity import headline, sensitivity, told
from halving.report.story import story
from halving.report.summary import summary
from halving.report.surroundings import Fact, surroundings
from halving.report.tables import (
    AXES,
    header_of,
    is_rate,
    json_value,
    shown_error,
    standard_error,
    status,
    tested,
    uncertainty,
    winner,
)
from halving.tracking.terminal import printable
from halving.tracking.wording import (
    amount,
    cause,
    count,
    digits,
    duration,
    measure,
    metric_label,
    number,
    value_text,
)

_FIGURES = (
    *("sensitivity", "confirmations", "rung_scatter", "learning_curves", "incumbent", "over_time", "timeline"),
    *("parallel", "hyperparameters"),
)
_ENOUGH = 20  # trials that importance takes


def report_html(history: History, problems: list[str] | None = None, run_dir: Path | None = None) -> str:
    """Return the page of a study: its result, commands to go on with, figures, plan, trials, failures, environment.

    Commands name `run_dir`, or the directory that the study began in. A figure that cannot be drawn gives way to a
    line that says why, and adds it to `problems`. Equal histories give equal pages but for what differs on the machine.
    """
    problems = [] if problems is None else problems
    header, best, few = header_of(history), winner(history), selected(history)
    sensitive = headline(history)
    mattered = () if sensitive else importance(history, problems)
    facts, unknown = environment_of(header)
    known_to, real = uncertainty(history), confirmed_winner(history)
    place = str(run_dir.resolve()) if run_dir is not None else header.provenance.run_dir
    return (
        templates()
        .get_template("report.html")
        .render(
            summary=summary(history),
            story=story(history, mattered),
            notes=[(printable(text), when) for text, when in history.notes.items()],
            doubts=[
                line.partition("; confirm it: ") for line in doubts(history, resuming(history, place)) if not sensitive
            ],
            sensitivity=told(history),
            sensitive=sensitive,
            confirmed=[
                line.strip() for line in confirmed(history) if not line.startswith("  trial") or "worse" in line
            ],
            confirmations=confirmation_rows(history),
            steps=list(next_steps(history, place)),
            facts=facts,
            unknown=unknown,
            diff=diff_of(header),
            axes=AXES,
            script=Markup(files("halving.report").joinpath("report.js").read_text("utf-8")),
            label=metric_label(header),
            flipped=flipped(header),
            tested=tested_text(history),
            confirming=cost(history),
            real=(len(real.errors), mean_text(header, real)) if real is not None else None,
            best_error=error_text(header, best[1], known_to) if best else "",
            figures={name: drawn(name, few, problems) for name in shown_figures(history)} if best else {},
            importance=mattered,
            r_max=header.r_max,
            test_failure=history.ended.failure if history.ended else "",
            dimensions=header.dimensions,
            brackets=len({trial.bracket for trial in history.trials.values()}) > 1,
            plan=list(plan_rows(history)),
            left_out=len(history.trials) - len(few.trials),
            trials=[trial_row(history, trial, known_to) for trial in few.trials.values()],
            failures=[failure_row(trial, last) for trial, last in few.finished if status(last) == "failed"],
            settings={
                name: setting_text(value)
                for name, value in header.settings.items()
                if value and name not in ("environment", "notes", "noted", "domains")
            },
            in_full=in_full(history),
            config=setting_text(history.ended.config) if history.ended and history.ended.config else "",
        )
    )


@cache
def templates() -> Environment:
    """Return what makes pages of this folder's files."""
    environment = Environment(
        loader=PackageLoader("halving", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": number,
        "amount": amount,
        "seconds": duration,
        "value": value_text,
        "of": count,
        "sentence": sentence,
    }
    return environment


def shown_figures(history: History) -> tuple[str, ...]:
    """Return the names of the figures that a study has something to show in."""
    few = {
        "sensitivity": sensitivity(history) is None,
        "confirmations": not history.confirmations,
        "timeline": history.seconds <= 0 or selected(history) is not history,  # whose workers would seem idle
    }
    few["over_time"] = history.seconds <= 0 or not any(e.heard for t in history.trials.values() for e in t.evaluations)
    if len(history.trials) < 2:
        few |= dict.fromkeys(("incumbent", "over_time", "parallel", "hyperparameters"), True)
    if not header_of(history).dimensions or not few["sensitivity"]:  # which shows the same in a better order
        few |= dict.fromkeys(("parallel", "hyperparameters"), True)
    return tuple(name for name in _FIGURES if not few.get(name))


def drawn(figure: str, history: History, problems: list[str]) -> Markup:
    """Return a figure as SVG; where it cannot be drawn, why."""
    with noted(f"the figure {figure} could not be drawn", problems):
        return Markup(getattr(drawing("figures"), figure)(history))
    return Markup('<p class="muted">{}</p>').format(problems[-1])


def importance(history: History, problems: list[str]) -> tuple[Importances, ...] | str:
    """Return how much each dimension mattered, early and late, or why that cannot be told; nothing of a small study."""
    if len(history.trials) < _ENOUGH or len(header_of(history).dimensions) < 2:
        return ()
    with noted("importance could not be estimated", problems):
        with suppress(UserError):
            return early_and_late(history)
        return ()
    return problems[-1]


def plan_rows(history: History) -> Iterator[dict[str, Any]]:
    """Yield each rung of each bracket, ascending: how many trials were planned to reach it and how many did."""
    header, known_to = header_of(history), uncertainty(history)
    reached: dict[tuple[int, int], list[Evaluation]] = {}
    for trial, evaluation in history.finished:
        reached.setdefault((trial.bracket, evaluation.until), []).append(evaluation)
    planned = {
        (bracket, level): ladder.sizes[rung] if rung < len(ladder.sizes) else None
        for bracket, ladder in enumerate(header.plan)
        for rung, level in enumerate(ladder.levels)
    }
    for bracket, level in sorted(planned.keys() | reached.keys()):
        here = reached.get((bracket, level), [])
        best = min(here, key=lambda evaluation: evaluation.error, default=None)
        yield {
            "bracket": bracket,
            "level": level,
            "planned": planned.get((bracket, level)),
            "trials": len(here),
            "promoted": sum(evaluation.verdict == "promoted" for evaluation in here),
            "failed": sum(status(evaluation) == "failed" for evaluation in here),
            "best": error_text(header, best, known_to) if best else "",
        }


def trial_row(history: History, trial: Trial, known_to: float | None = None) -> dict[str, Any]:
    """Return what the table shows of a trial: the most resource at which it survived, and what became of it."""
    header = header_of(history)
    finished = [evaluation for evaluation in trial.evaluations if evaluation.finished is not None]
    survived = [evaluation for evaluation in finished if status(evaluation) == "ok"]
    last = (survived or finished or trial.evaluations)[-1]
    return {
        "trial": trial.trial,
        "bracket": trial.bracket,
        "configuration": trial.configuration,
        "resource": last.resource if finished else None,
        "error": error_text(header, last, known_to),
        "exact": shown_error(header, last),
        "state": history.state(trial),
        "reason": trial.last.verdict_reason or trial.last.reason,
    }


def confirmation_rows(history: History) -> list[dict[str, Any]]:
    """Return what the table shows of each confirmed trial, the metric as people know it."""
    review, sign = reviewed(history), header_of(history).sign
    if review is None:
        return []

    def row(each: Row) -> dict[str, Any]:
        whole = bool(each.errors) and not each.failed

        def told(value: float | None) -> str:
            return "" if value is None or not math.isfinite(value) else digits(value, each.standard_error)

        ends = sorted((sign * each.low, sign * each.high))
        return {
            "trial": each.trial,
            "study": told(sign * each.study_error),
            "resource": each.resource,
            "seeds": len(each.errors),
            "failed": each.failed,
            "mean": told(sign * each.mean) if whole else "",
            "error": told(each.standard_error) if whole else "",
            "interval": " to ".join(map(told, ends)) if whole and math.isfinite(each.standard_error) else "",
            "spread": told(each.spread),
            "curse": "" if each.curse is None else f"{'+' if sign * each.curse > 0 else ''}{told(sign * each.curse)}",
            "chosen": each.trial == review.chosen,
        }

    return [row(each) for each in review.rows]


def failure_row(trial: Trial, evaluation: Evaluation) -> dict[str, Any]:
    """Return where a trial failed and why: the last line of its cause, and all of it where there are more."""
    said = evaluation.finished.cause.strip() if evaluation.finished else ""
    return {
        "trial": trial.trial,
        "resource": evaluation.resource,
        "until": evaluation.until,
        "cause": cause(evaluation),
        "all": said if "\n" in said else "",
    }


def error_text(header: Header, evaluation: Evaluation, known_to: float | None) -> str:
    """Return the metric as people know it, with the digits that its standard error allows; empty for a failure."""
    error = shown_error(header, evaluation)
    return "" if error is None else digits(error, known_to)


def tested_text(history: History) -> tuple[str, str] | None:
    """Return in words what was tested, and the result."""
    found = tested(history)
    if found is None or history.ended is None:
        return None
    samples = history.ended.test.get("test_samples") if is_rate(found[0]) else None
    return measure(found[0]), digits(found[1], standard_error(found[1], samples))


def environment_of(header: Header) -> tuple[list[Fact], str]:
    """Return the environment as it was recorded beside what it is now, and why that cannot be told."""
    recorded, unknown = header.provenance.environment, list[str]()
    facts = surroundings(recorded, unknown) if recorded else []
    return facts, " ".join(unknown)


def diff_of(header: Header) -> str:
    """Return what a study's code had beyond its commit."""
    return str(header.provenance.environment.get("diff") or "")


def sentence(text: str) -> str:
    """Return a line of the terminal, where it has the winner before it, as a sentence."""
    first, _, rest = text.rstrip(":").partition(" ")
    named = {"it": "The winner", "its": "The winner's"}.get(first) or first[:1].upper() + first[1:]
    return f"{named} {rest}."


def setting_text(value: Any) -> str:
    match value:
        case str():
            return value
        case list() | tuple() if all(isinstance(item, str) for item in value):
            return "\n".join(value)
        case _:
            return json.dumps(json_value(value), indent=2, ensure_ascii=False, default=str)
