"""The library's front door: tune a function."""

import inspect
import logging
import shlex
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from halving.app.planned import Planned, check_end, cost_of, planned
from halving.app.runner import Runner
from halving.checkpoints.store import Store
from halving.confirming import Confirming
from halving.data.keys import key
from halving.environment import dated, expanded
from halving.errors import UserError, did_you_mean, noted, whole
from halving.executors import Executor, Objective, Serial
from halving.history import Ended, Event, Header, History
from halving.journal import FILE, Journal, replay
from halving.redaction import Secrets
from halving.report.confirmation import mean_test
from halving.report.derived import not_written
from halving.report.next_steps import nothing_left
from halving.report.tables import first_failure
from halving.schedulers import Scheduler, SuccessiveHalving
from halving.schedulers.base import plan_of
from halving.searchers import RandomSearcher, Searcher
from halving.space import Space
from halving.study import Study
from halving.targets import check_call, function_name
from halving.tracking.base import Tracker
from halving.tracking.csv import Csv
from halving.tracking.progress import Progress
from halving.tracking.tensorboard import TensorBoard
from halving.tracking.terminal import Terminal
from halving.tracking.wandb import Wandb
from halving.training.fidelities.function import call
from halving.training.own import Running, Trainings, is_training
from halving.trial import Configuration, Job, Step, Value, plain
from halving.tuner import Budget

log = logging.getLogger(__name__)

_PREFIXES = ("max", "min", "maximize", "minimize", "maximise", "minimise")


def tune(
    function: Callable[[Configuration, int], float] | Callable[[Running], Any],
    space: Space | Mapping[str, Any],
    scheduler: Callable[..., Scheduler] | Scheduler = SuccessiveHalving,
    *,
    searcher: Callable[..., Searcher] = RandomSearcher,
    seed: int = 0,
    initial: Configuration | None = None,
    budget: Budget | None = None,
    metric: str = "error",
    maximize: bool = False,
    notes: str = "",
    test: Callable[[Running], Mapping[str, float]] | None = None,
    confirm: Confirming | None = None,
    executor: Callable[[Objective], Executor] = Serial,
    trackers: Sequence[Tracker] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
    **options: Any,
) -> Study:
    """Minimise over a space what a training, or a plain function, measures.

    A training is a function of one trial (`halving.training.own.Running`) that yields, or reports, its metrics after
    each epoch; `metric` names the one that counts, `max:accuracy` or `maximize` a greatest one. It pauses and resumes
    with what it gives to `trial.keep` or leaves in `trial.directory`. `test`, a function of a trial as well, measures
    the winner. A plain function is one of `(configuration, resource) -> error`, and starts anew at every rung.
    `confirm` trains the best again from nothing, with fresh seeds, and the best mean wins.

    `scheduler` is a class such as `SuccessiveHalving`, called with the searcher and `options` (eta, r_min, r_max,
    ...), or a ready scheduler, which has a searcher of its own. If the function raises or comes to NaN, that trial
    fails and the study goes on. What it draws from the global generators of Python, NumPy and torch follows from
    `seed` and trial (and, of a plain function, the resource); afterwards they are as they were. With `run_dir` the
    study is written there, for `load` and for the report; with `resume`, one that is there already goes on.
    `executor=partial(Process, workers=4)` evaluates four at a time; the function must then be importable, and the
    script guarded by `if __name__ == "__main__"`. `trackers` mirror the study; `progress` shows it, by default in a
    terminal or notebook. `notes` are kept in the journal and shown by report and trackers; others that come with
    `resume` are added to them.

    Raises UserError for a space or options that cannot be, a used `run_dir`, a study there that is another one, a
    training that keeps nothing or lacks the metric, or if no trial survived; KeyboardInterrupt after a signal, once the
    journal is whole. A table or report that cannot be written at the end is named in the log, and the study returned.
    """
    if not isinstance(confirm, Confirming | None):
        raise UserError(f"confirm={confirm!r}: give halving.Confirming(top=3), or None")
    _refuse(function, executor, trackers, test)
    training = is_training(function)
    name = getattr(function, "__name__", type(function).__name__)
    composed = Composed.of(
        *(space, scheduler, searcher, name, seed, initial, budget, metric, maximize, run_dir, options),
        unit="epochs" if training else "units",
        resumes=training,
        notes=notes,
    )
    with ExitStack() as opened:
        objective: Trainings | None = None
        if training:
            root = composed.directory or Path(opened.enter_context(TemporaryDirectory(prefix="halving-")))
            own = cast(Callable[[Running], Any], function)
            header = composed.header
            store = Store(root)
            opened.callback(store.close)
            objective = Trainings(own, store, header.seed, header.metric, header.r_max, test)
        calls = _Calls(cast(Callable[[Configuration, int], float], function), composed.header.seed)
        workers = executor(objective or calls)
        runner = composed.opened(
            workers, resume, trackers, progress, objective.store.run_dir if objective is not None else None
        )
        tuner, before = runner.tuner, runner.before
        with runner:
            runner.run(
                lambda: ended(tuner.history, objective),
                partial(runner.confirm, confirm, composed.header.seed, composed.header.r_max, objective or calls)
                if confirm is not None
                else None,
            )
    if runner.signals:
        runner.requeue()
        raise KeyboardInterrupt("the same call with resume=True goes on" if composed.directory else "without a run_dir")
    warn(runner)
    idle = not tuner.history.beyond(before) and not tuner.history.halted
    if before.ended is not None and idle and budget is not None:
        log.warning(nothing_left(tuner.history, composed.scheduler, composed.options))
    if tuner.history.incumbent is None:
        again = f"; nothing was left to do: {_anew(composed.directory)}" if idle and composed.directory else ""
        raise UserError(f"no trial survived; {first_failure(tuner.history)}{again}")
    return Study(tuner.history, composed.directory)


@dataclass(frozen=True)
class Composed:
    """A study of this process, but for what runs its jobs."""

    scheduler: Scheduler
    header: Header
    budget: Budget | None
    directory: Path | None
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        space: Space | Mapping[str, Any],
        scheduler: Callable[..., Scheduler] | Scheduler,
        searcher: Callable[..., Searcher],
        name: str,
        seed: int,
        initial: Configuration | None,
        budget: Budget | None,
        metric: str,
        maximize: bool,
        run_dir: str | Path | None,
        options: Mapping[str, Any],
        unit: str = "epochs",
        resumes: bool = True,
        door: str = "tune",
        notes: str = "",
    ) -> "Composed":
        """Build it from the arguments of `tune`, or of another `door`.

        Raises UserError for a space or options that cannot be.
        """
        seed, maximize = whole(f"{door}: seed", seed, 0), plain(maximize)
        if not isinstance(cast(object, notes), str):
            raise UserError(f"{door}: notes={notes!r}: must be a text")
        if not isinstance(maximize, bool):
            raise UserError(f"{door}: maximize={maximize!r}: must be True or False")
        if not isinstance(cast(object, space), Space | Mapping):
            raise UserError(f"{door}: space={space!r}: give a mapping of names to lists of values and distributions")
        for part, given in (("scheduler", scheduler), ("searcher", searcher)):
            if isinstance(cast(object, given), str):
                raise UserError(f"{door}: {part}={given!r}: give a class of halving.{part}s, not its name")
        if not isinstance(cast(object, metric), str) or not metric.removeprefix("max:").strip():
            raise UserError(f"{door}: metric={metric!r}: give its name, as 'error', or 'max:accuracy' to maximise it")
        prefix, colon, _ = metric.removeprefix("max:").partition(":")
        if metric != metric.strip() or (colon and prefix.strip().lower() in _PREFIXES):
            raise UserError(f"{door}: metric={metric!r}: give its name alone, or 'max:' and its name to maximise it")
        if run_dir is not None and (not isinstance(cast(object, run_dir), str | PathLike) or not str(run_dir)):
            raise UserError(f"{door}: run_dir={run_dir!r}: give a path")
        cube = space if isinstance(space, Space) else Space.from_config(space)
        if initial is not None:
            initial = _initial(initial, cube, door)
        given = {"seed": seed, "initial": initial}
        proposer = searcher(cube, **given)
        options = {name: plain(value) for name, value in options.items()}
        if callable(scheduler):
            check_call(scheduler, [proposer], options, False, door)
        elif options:
            raise UserError(
                f"{door}: {', '.join(options)} belong to a scheduler class, but a ready scheduler was given"
            )
        allocator = scheduler(proposer, **options) if callable(scheduler) else scheduler
        check_end(allocator, budget, door)
        directory = expanded(run_dir).absolute() if run_dir is not None else None
        levels = (level for ladder in plan_of(allocator) for level in ladder.levels)
        header = Header(
            name=name,
            scheduler=type(allocator).__name__,
            searcher=type(proposer).__name__,
            seed=seed,
            r_max=int(max(levels, default=_r_max(scheduler, options))),
            unit=unit,
            metric=metric.removeprefix("max:"),
            maximize=maximize or metric.startswith("max:"),
            dimensions=cube.names,
            settings={
                "options": {
                    **_told(scheduler, proposer, options),
                    **_told(searcher, cube, given, "searcher.", tuple(given)),
                },
                "space": cube.described,
                "domains": cube.domains,
                "initial": initial,
                **dated(notes),
                **({"run_dir": str(directory)} if directory is not None else {}),
            },
        )
        return cls(allocator, planned(header, allocator, cost_of(resumes)), budget, directory, options)

    def opened(
        self,
        workers: Executor,
        resume: bool,
        trackers: Sequence[Tracker],
        progress: bool | None,
        root: Path | None,
        clean: Callable[[Event], Event] | None = None,
    ) -> Runner:
        """Return what runs the study; with checkpoints, they lie below `root`.

        `clean` takes secrets out of events: by default those that the study's settings and the environment hold.

        Raises UserError for a used run directory, a study there that is another one, and trackers that need one.
        """
        clean = clean or Secrets.of(self.header.settings).redact_event
        try:
            for tracker in trackers:
                if self.directory is None and isinstance(tracker, Csv | TensorBoard | Wandb):
                    raise UserError(
                        f"trackers: {type(tracker).__name__} writes into the run directory; give run_dir=..."
                    )
            directory = self.directory
            journal = _journal(directory, resume, self.header, self.scheduler, clean) if directory is not None else None
        except BaseException:
            workers.shutdown(graceful=False)
            raise
        if progress is None:
            console = Terminal()
            progress = console.is_interactive or console.is_jupyter
        display = Progress() if progress else None
        cost = cost_of(bool(self.header.resumes))
        study = Planned(self.header, self.scheduler, workers, cost, self.budget, root, clean)
        return Runner(study, journal, trackers, run_dir=directory, say=_teller(display), display=display)


def _teller(display: Progress | None) -> Callable[[str], None]:
    """Return what says a line beside what is shown; without, there is the log."""
    if display is None:
        return lambda line: None
    return lambda line: display.console.print(f"note: {line}", soft_wrap=True, highlight=False, style="yellow")


def warn(runner: Runner) -> None:
    """Name in the log what could not be done at a study's end."""
    if runner.problems and runner.run_dir is not None:
        log.warning(not_written([], runner.run_dir))
    last = runner.tuner.history.ended
    if last is not None and last.failure:
        log.warning(last.failure)


def _r_max(scheduler: Callable[..., Scheduler] | Scheduler, options: Mapping[str, Any]) -> int:
    """Return the most resource of a trial where no plan tells it: as given, or the scheduler class's default."""
    if "r_max" in options or not callable(scheduler):
        return options.get("r_max", 1)
    parameter = inspect.signature(scheduler).parameters.get("r_max")
    return parameter.default if parameter is not None and isinstance(parameter.default, int) else 1


def ended(history: History, objective: Trainings | None = None) -> Ended:
    """Name the winner, and test it where that is asked for; what fails of that is said in the end."""
    if history.incumbent is None:
        return Ended(None)
    if (confirmed := history.chosen) is not None and confirmed.trial is not None:
        return Ended(confirmed.trial, mean_test(confirmed), failure=confirmed.failure)
    trial, evaluation = history.incumbent
    problems: list[str] = []
    measured: dict[str, float] = {}
    if objective is not None:
        with noted("the winner's test failed", problems):
            measured = objective.test(Job(trial.trial, trial.configuration, 0, evaluation.resource))
    return Ended(trial.trial, measured, failure="; ".join(problems))


def _initial(initial: Configuration, space: Space, door: str) -> Configuration:
    """Return the first configuration as plain values. Raises UserError where its names are not the space's."""
    if not isinstance(cast(object, initial), Mapping):
        raise UserError(f"{door}: initial={initial!r}: give a mapping of the space's names to values")
    for name in initial:
        if name not in space.names:
            raise UserError(f"{door}: initial: the space has no {name}{did_you_mean(str(name), space.names)}")
    values = {name: plain(value) for name, value in initial.items()}
    if lacking := [each.name for each in space.existing(values) if each.name not in values]:
        raise UserError(f"{door}: initial: it says nothing of {', '.join(lacking)}")
    return values


def _refuse(function: object, executor: object, trackers: object, test: object) -> None:
    """Raise UserError for parts that are none."""
    if not callable(function):
        raise UserError(f"tune: {function!r} is no function: give one of a trial, or of a configuration and a resource")
    if isinstance(executor, str) or not callable(executor):
        raise UserError(f"tune: executor={executor!r}: give halving.Process, as partial(Process, workers=4), or such")
    if isinstance(executor, type):
        check_call(executor, [None], {}, False, "tune: executor, such as partial(Process, workers=4)")
    if isinstance(trackers, str) or not isinstance(trackers, Sequence):
        raise UserError(f"tune: trackers={trackers!r}: give a list of trackers, as [halving.tracking.csv.Csv()]")
    if wrong := [
        each for each in cast(Sequence[object], trackers) if isinstance(each, type) or not hasattr(each, "record")
    ]:
        raise UserError(f"tune: trackers: {wrong[0]!r} is none; give objects, as halving.tracking.csv.Csv()")
    if test is not None and not callable(test):
        raise UserError(f"tune: test={test!r}: give a function of a trial")


@dataclass(frozen=True)
class _Calls:
    function: Callable[[Configuration, int], float]
    seed: int

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        for job in jobs:
            seed, trial = job.streams.get("seed", self.seed), job.streams.get("trial", job.trial)
            yield call(self.function, dict(job.configuration), job, key(seed, trial, job.until))

    def test(self, job: Job) -> dict[str, float]:
        return {}

    def ensemble(self, jobs: Sequence[Job]) -> dict[str, float]:
        return {}


def _journal(
    directory: Path, resume: bool, header: Header, scheduler: Scheduler, clean: Callable[[Event], Event]
) -> Journal:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        journal = Journal(directory)
    except OSError as error:
        raise UserError(f"run_dir={directory}: a study cannot be written there: {error}") from error
    recorded = replay(journal.events).header
    problem, grows = "", getattr(scheduler, "extended_by", "")
    if recorded is not None and not resume:
        problem = f"{directory} already holds a study; give resume=True, another run_dir, or load this one"
    elif recorded is not None and recorded.provenance.by_command:
        problem = f"{directory} holds a study of the command line; go on with it by: "
        problem += shlex.join(["python", "-m", "halving", f"resume={directory}"])
    elif recorded is not None and (
        differences := _differences(cast(Header, clean(recorded)), cast(Header, clean(header)), scheduler)
    ):
        problem = (
            "resume: this would be another study, and the journal does not follow from its configuration:\n  "
            + "\n  ".join(f"{name}: {old} in the study, {new} now" for name, (old, new) in differences.items())
            + f"\nonly the budget and the executor may change{f', and {grows} may grow' if grows else ''}"
        )
    if problem and replay(journal.events).incumbent is None:
        problem += f"; no trial has come to anything there: {_anew(directory)}"
    if problem:
        journal.close()
        raise UserError(problem)
    return journal


def _anew(directory: Path) -> str:
    return f"begin anew with another run_dir, or without {directory / FILE}"


def _differences(recorded: Header, now: Header, scheduler: Scheduler) -> dict[str, tuple[Any, Any]]:
    """Return what makes a study another one than the recorded, by name: what is recorded, and what is now."""
    old, new = (
        {
            name: getattr(header, name)
            for name in ("name", "scheduler", "searcher", "seed", "r_max", "unit", "metric", "maximize")
        }
        | {"space": ", ".join(told.space or ()), "initial": told.initial}
        | dict(told.options)
        for header, told in ((recorded, recorded.provenance), (now, now.provenance))
    )
    if recorded.provenance.space is None:  # by a version that did not record these
        old, new = ({name: told[name] for name in ("seed", "maximize", "searcher")} for told in (old, new))
    grows = getattr(scheduler, "extended_by", "")
    if isinstance(old.get(grows), int) and (new.get(grows) is None or new[grows] > old[grows]):
        old[grows] = new.get(grows)
    return {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}


def _told(
    build: object, first: object, options: Mapping[str, Any], prefix: str = "", but: Sequence[str] = ()
) -> dict[str, Value]:
    """Return the options of a class, defaults among them, as the journal keeps them; none of what is ready."""
    if not callable(build):
        return {}
    try:
        bound = inspect.signature(build).bind(first, **options)
        bound.apply_defaults()
        options = dict(list(bound.arguments.items())[1:])
    except ValueError:  # it tells no signature
        pass
    return {f"{prefix}{name}": _word(value) for name, value in options.items() if name not in but}


def _word(value: Any) -> Value:
    """Return an option as text that is the same in every process, if it is no plain value."""
    return value if isinstance(value, Value) else function_name(value) if callable(value) else type(value).__name__
