"""Studies as a comparison sees them: incumbents over resource and time, by task, method and seed."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from halving.curves.table import Curves, load, row_of
from halving.errors import UserError
from halving.history import Header, History

Axis = Literal["resource", "seconds"]
Array = NDArray[np.float64]

# Of the overrides that differ between studies, these change what is optimised, the first of them so much that errors do
# not compare; of the others, these change nothing.
_APART = ("data", "fidelity", "metric", "experiment", "name", "executor.curves")
_TASK = (*_APART, "model", "optimizer", "lr_schedule", "averaging", "space", "epochs")
_NOTHING = ("seed", "tracker", "notes", "resume", "device", "data_dir", "hydra", "trusted_packages")


@dataclass(frozen=True)
class Run:
    """One study as a comparison sees it.

    From `resource[i]` units spent and `seconds[i]` on, `error[i]` is the error of the incumbent: of the trial that is
    best at the highest resource that any has reached, which is `level[i]`. `spent` and `elapsed` are what the whole
    study took. `regret` is what the winner's error at the end of a full training exceeds the least possible one by,
    where that is known: infinite if no trial survived. `confirmed` is the winner's mean error over fresh seeds, all
    trained to `until`.
    """

    task: str
    method: str
    seed: int
    resource: Array
    seconds: Array
    error: Array
    spent: float
    elapsed: float
    unit: str = "units"
    metric: str = "error"
    maximize: bool = False
    regret: float = math.nan
    level: NDArray[np.int64] | None = None
    confirmed: float = math.nan
    until: int = 0

    def at(self, x: Array | float, axis: Axis = "resource") -> Array:
        """Return the incumbent's error when `x` had been spent, NaN before there was one."""
        steps = self.resource if axis == "resource" else self.seconds
        found = np.searchsorted(steps, x, side="right")
        return np.concatenate(([math.nan], self.error))[found]

    def level_at(self, x: float, axis: Axis = "resource") -> int | None:
        """Return to which resource the incumbent had been trained when `x` had been spent, where that is known."""
        steps = self.resource if axis == "resource" else self.seconds
        found = int(np.searchsorted(steps, x, side="right"))
        return int(self.level[found - 1]) if self.level is not None and found else None

    def end(self, axis: Axis) -> float:
        """Return what the study took."""
        return self.spent if axis == "resource" else self.elapsed


def run_of(history: History, task: str, method: str, curves: Curves | None = None) -> Run:
    """Return a finished study's incumbents; with the table that it was simulated on, also its regret."""
    header = _header(history)
    found = history.incumbents
    regret = math.nan
    if curves is not None:
        regret = float(curves.final[row_of(found[-1][0].configuration)]) - curves.optimum if found else math.inf
    confirmed, until = _confirmed(history)
    return Run(
        task,
        method,
        header.seed,
        np.array([evaluation.spent for _, evaluation in found]),
        np.array([evaluation.ended for _, evaluation in found]),
        np.array([evaluation.error for _, evaluation in found]),
        history.spent,
        history.seconds,
        header.unit,
        header.metric,
        header.maximize,
        regret,
        np.array([evaluation.resource for _, evaluation in found], dtype=np.int64),
        confirmed,
        until,
    )


def labelled(histories: Mapping[Path, History], curves: Mapping[str, Curves] | None = None) -> list[Run]:
    """Return runs whose task and method are named after what differs between the studies.

    A method is its scheduler, its searcher where that differs, and the overrides that differ; data, model, space and
    recorded curves make tasks. Of single trainings, and of one method tried on several models or spaces, these compete:
    they are the methods, as far as errors compare. `curves` maps the paths of tables to them, for the regret. Raises
    UserError where two studies are the same task, method and seed.
    """
    typed = {path: _typed(_header(history)) for path, history in histories.items()}
    names = {name for settings in typed.values() for name in settings if not _within(name, _NOTHING)}
    varied = sorted(n for n in names if len({settings.get(n) for settings in typed.values()}) > 1)
    searchers = {_header(history).searcher for history in histories.values()}
    kinds = {
        (
            _header(history).scheduler,
            _header(history).searcher,
            *(typed[path].get(n) for n in varied if not _within(n, _TASK)),
        )
        for path, history in histories.items()
    }
    compete = len(kinds) == 1 or all(len(history.trials) == 1 for history in histories.values())
    makes_tasks = _APART if compete else _TASK
    runs: list[Run] = []
    seen: dict[tuple[str, str, int], Path] = {}
    for path, history in histories.items():
        header, own = _header(history), [(name, typed[path][name]) for name in varied if name in typed[path]]
        tasks = [Path(value).stem for name, value in own if _within(name, makes_tasks)]
        options = [f"{n}={v}" for n, v in own if not _within(n, makes_tasks) and n not in ("scheduler", "searcher")]
        said = [header.scheduler, *([header.searcher] if len(searchers) > 1 else [])]
        method = options if compete and options else [*said, *options]
        table = (curves or {}).get(curves_of(history))
        run = run_of(history, " ".join(tasks) or header.name, " ".join(method), table)
        key = (run.task, run.method, run.seed)
        if key in seen:
            raise UserError(f"{seen[key]} and {path}: both are {run.method} on {run.task} with seed {run.seed}")
        seen[key] = path
        runs.append(run)
    return runs


def curves_of(history: History) -> str:
    """Return the path of the table that a study was simulated on, or nothing."""
    return str(_header(history).provenance.config.get("executor", {}).get("curves", ""))


def tables(histories: Iterable[History]) -> dict[str, Curves]:
    """Return the tables that studies were simulated on, by their paths, as far as they are still there."""
    paths = {curves_of(history) for history in histories}
    return {path: load(path) for path in sorted(paths) if path and Path(path).is_file()}


def by_task(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each task, the tasks in order of appearance."""
    tasks: dict[str, list[Run]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    return tasks


def by_method(runs: Iterable[Run]) -> dict[str, dict[int, Run]]:
    """Return one task's runs of each method by seed, the methods in order of appearance."""
    methods: dict[str, dict[int, Run]] = {}
    for run in runs:
        methods.setdefault(run.method, {})[run.seed] = run
    return methods


def by_regret(runs: Iterable[Run]) -> bool:
    """Whether what all winners come to at the end of a full training is known."""
    return not any(math.isnan(run.regret) for run in runs)


def common_end(runs: Iterable[Run], axis: Axis = "resource") -> float:
    """Return the most that every run has spent: up to there a comparison is fair."""
    return min(run.end(axis) for run in runs)


def worst_if_none(errors: Array) -> Array:
    """Return errors in which no incumbent (NaN) is worse than any."""
    return np.where(np.isnan(errors), np.inf, errors)


def _confirmed(history: History) -> tuple[float, int]:
    """Return the mean error of the chosen trial's confirmations and what they were trained to, NaN without any."""
    if (chosen := history.chosen) is None or chosen.trial is None:
        return math.nan, 0
    errors = [
        each.confirmed.error
        for each in history.confirmations.values()
        if each.confirmed is not None
        and (each.asked.trial, each.asked.vary, each.asked.until) == (chosen.trial, chosen.vary, chosen.until)
    ]
    return (float(np.mean(errors)), chosen.until) if errors else (math.nan, 0)


def _header(history: History) -> Header:
    if history.header is None:
        raise UserError("a study has no header: its journal is empty, there is nothing to compare")
    return history.header


def _typed(header: Header) -> dict[str, str]:
    """The overrides that a study was started with; without a command line, its name stands for its task."""
    split = [item.lstrip("+~").partition("=") for item in header.provenance.overrides]
    return {name: value for name, _, value in split} or {"name": header.name}


def _within(name: str, keys: Iterable[str]) -> bool:
    return any(name == key or name.startswith((f"{key}.", f"{key}@")) for key in keys)
