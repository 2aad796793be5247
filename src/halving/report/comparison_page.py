"""comparison.html: one file that shows the studies of a multirun side by side, with no remote parts."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from halving.comparison import Pair, Run, across, by_method, by_regret, by_task, common_end, labelled, pairs, ranks
from halving.curves.table import Curves
from halving.errors import UserError, first_line, noted
from halving.history import Header, History
from halving.report.confirmation import mean_text, reviewed
from halving.report.drawing import drawing
from halving.report.html import templates
from halving.report.jobs import Job
from halving.report.methods import (
    across_table,
    across_words,
    methods_table,
    notes,
    pairs_table,
    ranks_table,
    too_few,
)
from halving.report.summary import summary
from halving.report.tables import own_error, uncertainty
from halving.tracking.terminal import printable
from halving.tracking.wording import count, cut, digits, duration, metric_label, number

STATES = ("finished", "running", "interrupted", "failed", "not started")
MOST = 12  # methods of which every two are tested
MOST_CURVES = 24  # single trainings that colours and dashes tell apart


def comparison_html(
    directory: Path, jobs: Sequence[Job], curves: Mapping[str, Curves], problems: list[str] | None = None
) -> str:
    """Return the page: methods at any time, paired differences, ranks, and what became of each job.

    Links to reports are as seen from the `directory` where the page lies. `curves` maps the paths of tables to
    them, for the regret. What cannot be compared or drawn gives way to a line that says why, the latter in `problems`.
    """
    problems = [] if problems is None else problems
    of_all = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set[str]()
    trainings = _trainings(jobs, of_all)
    compared = {job.directory: job.history for job in jobs if job.compared and job.history is not None}
    runs, why = _runs(compared, curves)
    tasks, draw = by_task(runs), _Drawing("comparison", (run.method for run in runs), problems)
    tested = pairs(runs) if len(draw.styles) <= MOST else []
    over_tasks = across(tested)
    label = _of_all(jobs, metric_label, "metric")
    found = Counter(job.state.partition(":")[0] for job in jobs)
    rows = [_job_row(job, of_all, directory) for job in jobs]
    overlay = _Drawing("overlay", trainings, problems)
    return (
        templates()
        .get_template("comparison.html")
        .render(
            name=_of_all(jobs, lambda header: header.name, directory.name),
            place=directory.name,
            why=why,
            lead=_lead(runs, over_tasks if len(tasks) > 1 else tested, label) if runs else None,
            left_out=_left_out(jobs),
            most=MOST,
            states=[(state, found[state]) for state in STATES if found[state]],
            common=[item for item in jobs[0].overrides if item in of_all and not _is_note(item)] if of_all else [],
            notes=_notes(jobs),
            told="overrides" if any(job.overrides for job in jobs) else "method",
            jobs=rows,
            confirmed=any(row["confirmed"] for row in rows),
            metric=label,
            unit=_of_all(jobs, lambda header: header.unit, "resource"),
            trainings=overlay.legend(),
            curves=overlay("overlay_figures", trainings) if trainings else [],
            methods=draw.legend(),
            tasks=[
                {
                    "name": task if len(tasks) > 1 else "",
                    "end": count(common_end(of_task), of_task[0].unit),
                    "panels": draw("task_figures", f"task{i}", of_task, draw.styles),
                    "methods": methods_table(of_task),
                    "seeds": len({run.seed for run in of_task}),
                    "notes": notes(of_task),
                    **_paired(f"pairs{i}", of_task, [pair for pair in tested if pair.task == task], draw),
                }
                for i, (task, of_task) in enumerate(tasks.items())
            ],
            ranks=ranks_table(runs) if len(draw.styles) > 1 else None,
            across=across_table(over_tasks) if over_tasks else None,
            across_words=across_words(over_tasks),
            ranks_figures=draw("ranks_figure", runs, draw.styles) if len(draw.styles) > 1 else [],
        )
    )


class _Drawing:
    """Figures of a module of the report on a page, in the page's colours, one for each of `names`."""

    def __init__(self, module: str, names: Iterable[str], problems: list[str]) -> None:
        self._module, self._problems, self._colours = drawing(module), problems, drawing("comparison").COLOURS
        self.styles: dict[str, Any] = drawing("comparison").styled(names)

    def __call__(self, figure: str, *what: Any) -> list[tuple[Markup, str]]:
        """Return the SVG of each, and what it shows; where they cannot be drawn, one line that says why."""
        with noted(f"{figure.replace('_', ' ')} could not be drawn", self._problems):
            return [(Markup(self._recoloured(text)), said) for text, said in getattr(self._module, figure)(*what)]
        return [(Markup('<p class="muted">{}</p>').format(self._problems[-1]), "")]

    def legend(self) -> list[tuple[str, str, str]]:
        """Return each method with its colour and its dashes."""
        return [
            (method, self._variable(colour), " ".join(str(2 * each) for each in dash[1]) if dash != "-" else "none")
            for method, (colour, dash) in self.styles.items()
        ]

    def _variable(self, colour: str) -> str:
        place = self._colours.index(colour)
        return f"var(--method-{place}, {colour})" if place else f"var(--accent, {colour})"

    def _recoloured(self, text: str) -> str:
        for colour in self._colours[1:]:
            text = re.sub(rf"(fill|stroke): {colour}", rf"\1: {self._variable(colour)}", text)
        return text


def _trainings(jobs: Sequence[Job], of_all: Collection[str]) -> dict[str, list[History]]:
    """Return the trainings whose curves are laid over each other, by what differs but for seeds: if all are single."""
    found: dict[str, list[History]] = {}
    for job in jobs:
        own = [item for item in job.overrides if item not in of_all and not item.startswith("seed=")]
        if job.history is not None:
            found.setdefault(" ".join(own) or job.name, []).append(job.history)
    single = [len(h.trials) == 1 and any(next(iter(h.trials.values())).epochs) for own in found.values() for h in own]
    return found if len(single) > 1 and all(single) and len(found) <= MOST_CURVES else {}


def _runs(histories: Mapping[Path, History], curves: Mapping[str, Curves]) -> tuple[list[Run], str]:
    """Return what can be compared, or why nothing can."""
    if not any(history.incumbents for history in histories.values()):
        return [], "No study has ended with a winner yet: there is nothing to compare."
    try:
        return labelled(histories, curves), ""
    except UserError as error:
        return [], f"They cannot be compared. {error}."


def _paired(name: str, runs: Sequence[Run], tested: Sequence[Pair], draw: _Drawing) -> dict[str, Any]:
    if not tested:
        return {"pairs": None, "differences": [], "too_few": ""}
    sign = -1 if runs[0].maximize else 1
    measure = "regret" if all(pair.basis.startswith("regret") for pair in tested) else runs[0].metric
    return {
        "pairs": pairs_table(tested, sign),
        "differences": draw("differences_figure", name, tested, sign, measure),
        "too_few": too_few(tested),
    }


def _left_out(jobs: Sequence[Job]) -> list[tuple[str, str]]:
    """Return the names of the jobs that are not compared, by what became of them."""
    names: dict[str, list[str]] = {}
    for job in jobs:
        if not job.compared:
            names.setdefault(cut(first_line(job.state), 200), []).append(job.name or " ".join(job.overrides))
    return [(state, ", ".join(own)) for state, own in names.items()]


def _lead(runs: Sequence[Run], tested: Sequence[Pair], label: str) -> dict[str, Any]:
    """Return which method is ahead, by what, and which others it beats by more than chance, where that was tested."""
    tasks, end = by_task(runs), common_end(runs)
    methods = by_method(runs)
    if len(tasks) > 1:
        table = ranks_table(runs)
        best, value = table.rows[0] if table.rows else ("", "")
        own = {method: float(mean[0]) for method, (mean, _) in ranks(runs).items()}
        equal = [method for method, rank in own.items() if math.isclose(rank, own[best], abs_tol=1e-9)]
        what, where = f"mean rank over {count(len(tasks), 'tasks')}", ""
    else:
        known = by_regret(runs)
        errors = {
            method: float(np.mean([run.regret if known else float(run.at(end)) for run in own.values()]))
            for method, own in methods.items()
        }
        best = min(errors, key=lambda method: (math.isnan(errors[method]), errors[method]))
        near = 1e-9 * max((abs(error) for error in errors.values() if math.isfinite(error)), default=0.0)
        equal = [method for method, error in errors.items() if math.isclose(error, errors[best], abs_tol=near)]
        value = next(row[-1 if known else 2] for row in methods_table(runs).rows if row[0] == best)
        what = "mean regret" if known else f"mean {label}"
        where = " at the end" if known else f" after {count(end, runs[0].unit)}"
        where += f", over {count(len(methods[best]), 'seeds')}"
    ahead = {pair.second: pair for pair in tested if pair.first == best and pair.effect > 0}
    ahead |= {pair.first: pair for pair in tested if pair.second == best and pair.effect < 0}
    beaten = [method for method, pair in ahead.items() if pair.p_holm < 0.05] if tested else None
    return {"best": best, "value": value, "what": what, "where": where, "beaten": beaten, "equal": equal}


def _notes(jobs: Sequence[Job]) -> list[tuple[str, str]]:
    """Return what was noted of the jobs, each text once, with the names of those that have it unless all do."""
    known = [job for job in jobs if job.history is not None and job.history.header is not None]
    names: dict[str, list[str]] = {}
    for job in known:
        for text in job.history.notes if job.history is not None else ():
            names.setdefault(printable(text), []).append(job.name)
    return [(text, "" if len(own) == len(known) else ", ".join(own)) for text, own in names.items()]


def _is_note(override: str) -> bool:
    return override.startswith("notes=")


def _job_row(job: Job, of_all: Collection[str], beside: Path) -> dict[str, Any]:
    page = job.directory / "report.html"
    row = {
        "name": job.name,
        "link": quote(os.path.relpath(page, beside)) if page.is_file() else "",
        "overrides": " ".join(item for item in job.overrides if item not in of_all and not _is_note(item)),
        "state": job.state,
        "error": "",
        "spent": "",
        "time": "",
        "winner": "",
        "confirmed": "",
    }
    if job.history is None or job.history.header is None:
        return row
    found, header = summary(job.history), job.history.header
    row["overrides"] = row["overrides"] or f"{header.scheduler}, seed {header.seed}" * (not job.overrides)
    if (own := job.history.incumbent) is not None and (error := own_error(job.history)) is not None:
        row["error"] = digits(error, uncertainty(job.history))
        row["winner"] = f"trial {own[0].trial} at {own[1].resource}"
    if (review := reviewed(job.history)) is not None and review.finished and review.chosen is not None:
        row["confirmed"] = f"trial {review.rows[0].trial}: {mean_text(header, review.rows[0])}"
    return row | {"spent": number(found["resource_spent"]), "time": duration(found["wall_seconds"])}


def _of_all(jobs: Sequence[Job], of: Callable[[Header], str], default: str) -> str:
    """Return what all studies have in common, else a default."""
    found = {of(job.history.header) for job in jobs if job.history is not None and job.history.header is not None}
    return found.pop() if len(found) == 1 else default
