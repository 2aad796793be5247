"""A W&B report as a plain specification: words, run sets and panels, built from studies without asking W&B."""

import hashlib
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from halving.comparison import Run, across, by_method, by_task, common_end, labelled, pairs, tables
from halving.confirming import ranked
from halving.history import Header, History, Trial
from halving.report.conclusion import conclusion, confirmed, doubts, in_full
from halving.report.confirmation import half_width
from halving.report.html import plan_rows
from halving.report.methods import across_table, across_words, notes
from halving.report.tables import header_of, real, winner
from halving.tracking.runs import FIGURE, fitted, metric_name, notes_text, run_id
from halving.tracking.wording import count, digits, metric_label, number, short
from halving.trial import Value

WINNER, FEW, MANY = "#d9480f", (180, 201, 224), (8, 48, 107)  # colours: the winner's, of the first rung, of the last
METHODS = ("#0a66c2", "#d9480f", "#2b8a3e", "#862e9c", "#b08900", "#0b7285", "#c2255c", "#495057")
FINALISTS = 5
TITLE = 128  # characters that W&B takes

Where = Literal["config", "summary", "history", "run"]
Kind = Literal["lines", "scatter", "parallel", "importance", "comparer", "table", "media"]


@dataclass(frozen=True)
class Key:
    """What of a run is meant: a value of its config or summary, a metric of its history, or an attribute such as ID."""

    where: Where
    name: str


@dataclass(frozen=True)
class Condition:
    """A run set holds the runs in which `key` is one of `values`."""

    key: Key
    values: tuple[str, ...]


@dataclass(frozen=True)
class RunSet:
    """Some runs: all conditions hold. `colours` are by run id.

    With `group_by`, a key of the config, all are one line, whose colour is under "" and whose value `group_value`.
    """

    name: str
    conditions: tuple[Condition, ...]
    order: Key | None = None
    ascending: bool = True
    group_by: str = ""
    group_value: str = ""
    colours: Mapping[str, str] = field(default_factory=dict[str, str])
    columns: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One panel: `keys` are its ordinates, columns, pictures or tables. `bold` names a run; `place` is x, y, w, h."""

    kind: Kind
    title: str
    keys: tuple[Key, ...] = ()
    x: Key | None = None
    log_x: bool = False
    log_y: bool = False
    log_keys: tuple[str, ...] = ()
    bold: str = ""
    grouped: bool = False
    place: tuple[int, int, int, int] = (0, 0, 24, 10)


@dataclass(frozen=True)
class Heading:
    text: str
    block: str = "heading"


@dataclass(frozen=True)
class Text:
    """Markdown."""

    text: str
    block: str = "text"


@dataclass(frozen=True)
class Code:
    """A command; W&B has no name for the language of shells."""

    text: str
    block: str = "code"


@dataclass(frozen=True)
class Grid:
    """Panels and the run sets that they draw; `name` is what they are about."""

    name: str
    run_sets: tuple[RunSet, ...]
    panels: tuple[Panel, ...]
    block: str = "grid"


Block = Heading | Text | Code | Grid


@dataclass(frozen=True)
class Report:
    """All of a report. With `figure`, a file, a run of the id `figure_run` is to hold it under FIGURE."""

    title: str
    description: str
    project: str
    entity: str
    studies: tuple[str, ...]
    blocks: tuple[Block, ...]
    figure: str = ""
    figure_run: str = ""

    @property
    def grids(self) -> list[Grid]:
        return [block for block in self.blocks if isinstance(block, Grid)]

    @property
    def plain(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


def of_study(history: History, run_dir: Path, study: str, project: str, entity: str = "") -> Report:
    """Build the report of one study, whose runs in W&B have `study` in their config."""
    header, best = header_of(history), winner(history)
    title = f"{header.name}: {header.scheduler}, {header.searcher}, seed {header.seed}"
    description = f"{count(len(history.trials), 'trials')}, {count(history.spent, header.unit)}"
    blocks: list[Block] = [Heading("What happened"), Text(_told(history, run_dir))]
    blocks += [Heading("Notes"), Text(notes_text(history.notes))] if history.notes else []
    if fresh := confirmed(history):
        blocks += [Heading("Is the winner real?"), Text(_listed(fresh))]
    blocks += [Heading("The plan, and what became of it"), Text(_plan(history))]
    if history.ended is not None and history.ended.command:
        blocks += [Heading("Train the winner again"), Code(history.ended.command)]
        blocks += [Text(text)] if (text := in_full(history)) else []
    if header.single:
        return _report(title, description, project, entity, (study,), [*blocks, *_single(history, study)])
    blocks += _curves(history, study, None if best is None else best[0])
    blocks += _incumbent(header, study)
    if best is not None and header.dimensions:
        blocks += _hyperparameters(history, study)
    if best is not None:
        blocks += _finalists(history, study)
    blocks += _table(header, study)
    return _report(title, description, project, entity, (study,), blocks)


def of_studies(
    histories: Mapping[Path, History], studies: Mapping[Path, str], project: str, entity: str = "", figure: str = ""
) -> Report:
    """Build the report of several: methods over seeds. `studies` are their names in W&B, `figure` is a file of ours.

    Raises UserError where two studies are the same task, method and seed.
    """
    runs = labelled(histories, tables(histories.values()))
    names = {(run.task, run.method, run.seed): studies[path] for run, path in zip(runs, histories, strict=True)}
    schedulers = {run.method: header_of(each).scheduler for run, each in zip(runs, histories.values(), strict=True)}
    every = tuple(dict.fromkeys(studies[path] for path in histories))
    digest = hashlib.sha256(" ".join(every).encode()).hexdigest()[:12]
    figure_run = f"comparison-{digest}" if figure else ""
    methods = list(dict.fromkeys(run.method for run in runs))
    blocks: list[Block] = [Heading("What was compared"), Text(_compared(runs))]
    if figure:
        words = (
            "Drawn from the studies' journals: each line is exact at every point, with the standard error around it."
        )
        held = RunSet("our figure", (_is("run", "ID", figure_run),))
        blocks += [
            Heading("Incumbents at any time"),
            Text(words),
            Grid("our figure", (held,), (Panel("media", "Incumbents at any time", (Key("summary", FIGURE),)),)),
        ]
    for task, of_task in by_task(runs).items():
        blocks += _methods(task, of_task, names, methods, schedulers)
    return _report(
        f"{' against '.join(methods)}", f"{len(runs)} studies", project, entity, every, blocks, figure, figure_run
    )


def _report(
    title: str,
    description: str,
    project: str,
    entity: str,
    studies: tuple[str, ...],
    blocks: Sequence[Block],
    figure: str = "",
    figure_run: str = "",
) -> Report:
    return Report(fitted(title, TITLE), description, project, entity, studies, tuple(blocks), figure, figure_run)


def _told(history: History, run_dir: Path) -> str:
    """Say what happened, the first line in bold; what has a block of its own is left out."""
    said = set(confirmed(history))
    lines = [line for line in conclusion(history).splitlines() if line not in said and "train it again:" not in line]
    in_words = in_full(history)
    lines = [line for line in lines if line != in_words]
    again = shlex.join(["python", "-m", "halving", f"resume={run_dir}"])
    if not said:
        lines += [line for line in doubts(history, again) if line not in lines]
    failed = Counter(trial.state for trial in history.trials.values())["failed"]
    first, *rest = lines
    rest += [f"{count(failed, 'trials')} failed; why is in their summaries"] if failed else []
    return "\n\n".join((f"**{first}**", *rest))


def _listed(lines: Iterable[str]) -> str:
    first, *rest = lines
    return "\n".join((first, "", *(f"- {line.strip()}" for line in rest)))


def _plan(history: History) -> str:
    header = header_of(history)
    names = ("bracket", header.unit, "planned trials", "trials", "promoted", "failed", f"best {metric_label(header)}")
    shown = ("bracket", "level", "planned", "trials", "promoted", "failed", "best")
    rows = [["" if row[name] is None else row[name] for name in shown] for row in plan_rows(history)]
    if len({row[0] for row in rows}) < 2:
        names, rows = names[1:], [row[1:] for row in rows]
    return markdown(names, rows)


def markdown(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown, numbers to the right."""
    lines = [names, ["---:" for _ in names], *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _is(where: Where, name: str, *values: str) -> Condition:
    return Condition(Key(where, name), values)


def _trials(study: str) -> tuple[Condition, ...]:
    return _is("config", "study", study), _is("run", "JobType", "trial")


def _study(study: str) -> RunSet:
    return RunSet("the study", (_is("config", "study", study), _is("run", "JobType", "study")))


def _single(history: History, study: str) -> list[Block]:
    seen = _measured(history)
    curve = Panel("lines", "Learning curve", tuple(Key("history", name) for name in seen[:4]), Key("history", "epoch"))
    return [Heading("Learning curve"), Grid("learning curve", (RunSet("the trial", _trials(study)),), (curve,))]


def _measured(history: History) -> list[str]:
    """Return the metrics of the epochs, the study's own first."""
    header = header_of(history)
    seen = {name for trial in history.trials.values() for _, epoch in trial.epochs for name in epoch.metrics}
    first = [name for name in (header.metric, f"val_{header.metric}", "val_error") if name in seen]
    return list(dict.fromkeys((*first, *sorted(seen - {"seconds", "lr"}))))


def _curves(history: History, study: str, best: Trial | None) -> list[Block]:
    """Curves in the colour of the highest rung reached, the winner's bold in a colour of its own."""
    header = header_of(history)
    reached = {trial.trial: trial.last.resource for trial in history.trials.values() if trial.last.finished}
    levels = sorted(set(reached.values()))
    by_level = dict(zip(levels, _shades(len(levels)), strict=True))
    ids = {trial: run_id(study, f"t{trial}") for trial in reached}
    colours = {ids[trial]: by_level[level] for trial, level in reached.items()}
    bold = ""
    if best is not None and best.trial in ids:
        bold = ids[best.trial]
        colours[bold] = WINNER
    words = f"The darker a curve, the more {header.unit} its trial was given"
    words += f", from {levels[0]} to {levels[-1]}" if len(levels) > 1 else ""
    words += f"; bold and orange: the winner, trial {best.trial}." if best is not None else "."
    every = RunSet(
        "all trials, by rung", _trials(study), Key("summary", "resource"), False, colours=colours,
        columns=(Key("summary", "state"), Key("summary", "rung"), Key("summary", metric_name(header))),
    )  # fmt: skip
    metric = next(iter(_measured(history)), "")
    if not metric:
        return []
    errors = [evaluation.error for _, evaluation in history.finished]
    panel = Panel(
        "lines", f"{metric} by epoch", (Key("history", metric),), Key("history", "epoch"),
        log_y=_wide(errors) and not header.maximize, bold=bold,
    )  # fmt: skip
    return [Heading("Every trial's learning curve"), Text(words), Grid("learning curves", (every,), (panel,))]


def _incumbent(header: Header, study: str) -> list[Block]:
    best = Key("history", f"best_{metric_name(header)}")
    spent = Panel(
        "lines",
        f"Incumbent against {header.unit} spent",
        (best,),
        Key("history", "resource_spent"),
        place=(0, 0, 12, 9),
    )
    timed = Panel("lines", "Incumbent against seconds", (best,), Key("history", "seconds"), place=(12, 0, 12, 9))
    pictures = tuple(Key("summary", f"figures/{name}") for name in ("trials", "incumbent", "hyperparameters"))
    drawn = Panel("media", "Figures of the study", pictures, place=(0, 9, 24, 12))
    return [Heading("The incumbent"), Grid("the incumbent", (_study(study),), (spent, timed, drawn))]


def _hyperparameters(history: History, study: str) -> list[Block]:
    header = header_of(history)
    counts = Counter(e.resource for _, e in history.finished if math.isfinite(e.error))
    resource = max(counts, key=lambda level: (counts[level], level))
    target = Key("summary", f"{metric_name(header)}_at/{resource}")
    names = short(header.dimensions)
    keys = {name: Key("config", _config_key(header, name)) for name in header.dimensions}
    logs = tuple(keys[name].name for name in header.dimensions if _log(history, name))
    label = f"{metric_label(header)} after {count(resource, header.unit)}"
    panels = [
        Panel("parallel", f"All of it at once: {label}", (*keys.values(), target), log_keys=logs),
        Panel("importance", f"What mattered for the {label}", (target,), place=(0, 10, 24, 8)),
    ]
    for i, (name, key) in enumerate(keys.items()):
        place = (i % 3 * 8, 18 + i // 3 * 8, 8, 8)
        panels.append(
            Panel("scatter", f"{names[name]}", (target,), key, _log(history, name), place=place),
        )
    words = (
        f"Trials are compared at {count(resource, header.unit)}, which {counts[resource]} of them reached: "
        "at different resources they could not be."
    )
    here = RunSet("trials", _trials(study), target, not header.maximize)
    return [Heading("Hyperparameters"), Text(words), Grid("hyperparameters", (here,), tuple(panels))]


def _finalists(history: History, study: str) -> list[Block]:
    header = header_of(history)
    best, own = winner(history), [trial.trial for trial, _ in ranked(history)][:FINALISTS]
    first = list(dict.fromkeys([*own, best[0].trial] if best is not None else own))
    metric = Key("summary", metric_name(header))
    columns = (metric, Key("summary", "resource"), *(Key("config", _config_key(header, d)) for d in header.dimensions))
    chosen = RunSet(
        "finalists",
        (*_trials(study), _is("run", "ID", *(run_id(study, f"t{trial}") for trial in first))),
        metric,
        not header.maximize,
        columns=columns,
    )
    named = ", ".join(map(str, first))
    words = f"The best {count(len(own), 'trials')} at the highest resource, in the study's order: {named}"
    words += ", the last chosen by its fresh seeds." if len(first) > len(own) else "."
    panel = Panel("comparer", "What the finalists differ in", place=(0, 0, 24, 14))
    return [Heading("The finalists"), Text(words), Grid("finalists", (chosen,), (panel,))]


def _table(header: Header, study: str) -> list[Block]:
    panel = Panel("table", "Every trial", (Key("summary", "trials"),), place=(0, 0, 24, 14))
    return [Heading("Every trial"), Grid("every trial", (_study(study),), (panel,))]


def _compared(runs: Sequence[Run]) -> str:
    lines = [f"{count(len(by_method(runs)), 'methods')} on {count(len(by_task(runs)), 'tasks')}."]
    for task, of_task in by_task(runs).items():
        end, sign = common_end(of_task), -1 if of_task[0].maximize else 1
        rows: list[list[str]] = []
        for method, own in by_method(of_task).items():
            errors = [sign * float(run.at(end)) for run in own.values()]
            known = errors if all(map(math.isfinite, errors)) else []  # the others alone would flatter the method
            half = half_width(known)
            error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
            mean = digits(fmean(known), error) if known else "-"
            interval = f"± {digits(half, error)}" if math.isfinite(half) else ""
            spent = number(fmean(run.spent for run in own.values()))
            rows.append([method, str(len(own)), mean, interval, spent])
        names = ("method", "seeds", f"mean {of_task[0].metric}", "95 % t interval", f"mean {of_task[0].unit}")
        lines += [f"{task}: after {count(end, of_task[0].unit)}, which every study has spent", markdown(names, rows)]
        tested = [
            f"- {pair.first} against {pair.second}, {pair.basis}: better with {pair.wins} of "
            f"{count(pair.n, 'shared seeds')}, worse with {pair.losses} "
            f"(p {pair.p_holm:.2g}, Wilcoxon, corrected by Holm)"
            for pair in pairs(of_task)
        ]
        lines += ["\n".join(tested)] if tested else []
        lines += notes(of_task)
    if overall := across(pairs(runs)):
        table = across_table(overall)
        lines += [across_words(overall), markdown(table.heads, table.rows)]
    return "\n\n".join(lines)


def _methods(
    task: str, runs: Sequence[Run], names: Mapping[Any, str], methods: Sequence[str], schedulers: Mapping[str, str]
) -> list[Block]:
    """One run set for each method, grouped into one line, since W&B groups by one key and a method may be several."""
    metric = runs[0].metric if runs[0].maximize else "error"
    sets = tuple(
        RunSet(
            method,
            (
                _is("config", "study", *(names[run.task, run.method, run.seed] for run in own.values())),
                _is("run", "JobType", "study"),
            ),
            group_by="method",
            group_value=schedulers[method],
            colours={"": METHODS[methods.index(method) % len(METHODS)]},
            columns=(Key("config", "seed"), Key("summary", f"best_{metric}"), Key("summary", "resource_spent")),
        )
        for method, own in by_method(runs).items()
    )
    best, spent = Key("history", f"best_{metric}"), Key("history", "resource_spent")
    title = f"Incumbent against {runs[0].unit} spent, mean and standard error"
    mean = Panel("lines", title, (best,), spent, grouped=True)
    words = (
        "W&B averages what each run logged near a value of x, and studies improve at different ones: for exact "
        "numbers see the table and our figure."
    )
    return [Heading(f"Methods over seeds: {task}"), Text(words), Grid(f"methods, {task}", sets, (mean,))]


def _config_key(header: Header, dimension: str) -> str:
    """Return the key of a dimension in a run's config: where it chooses among options, that of the option's name."""
    node: Any = header.provenance.config
    for part in dimension.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return f"{dimension}._choice_" if isinstance(node, Mapping) else dimension


def _log(history: History, dimension: str) -> bool:
    values: list[Value] = [trial.configuration.get(dimension) for trial in history.trials.values()]
    known = [real(value) for value in values if value is not None]
    return bool(known) and all(value is not None for value in known) and _wide([v or 0.0 for v in known], 20)


def _wide(values: Iterable[float], ratio: float = 4) -> bool:
    """Whether positive values extend over so much that a logarithmic axis shows them better."""
    known = [value for value in values if math.isfinite(value)]
    return bool(known) and min(known) > 0 and max(known) > ratio * min(known)


def _shades(n: int) -> list[str]:
    """Return colours from the first rung's to the last one's."""
    parts = [i / max(n - 1, 1) for i in range(n)]
    return ["#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(FEW, MANY, strict=True)) for part in parts]
