"""The library's front door: tune a function, load a study."""

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halving.checkpoints import inside
from halving.conduct import Conduct
from halving.data.keys import key
from halving.errors import UserError
from halving.executors import Executor, Objective, Serial
from halving.history import Ended, Header, History, Ladder, Resumed, Trial
from halving.journal import Journal, read, replay
from halving.report.tables import summary
from halving.schedulers import Scheduler, SuccessiveHalving
from halving.searchers import RandomSearcher, Searcher
from halving.space import Space
from halving.targets import check_trusted, instantiate, trusted_in_environment
from halving.tracking.base import Trackers
from halving.tracking.progress import Progress
from halving.training.fidelities.function import call
from halving.trial import Configuration, Job, Step
from halving.tuner import Budget, Tuner

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Study:
    """A study as its journal tells it."""

    history: History
    run_dir: Path | None = None

    @property
    def trials(self) -> list[Trial]:
        """Every trial with its configuration, state and evaluations, by id."""
        return [self.history.trials[trial] for trial in sorted(self.history.trials)]

    @property
    def best(self) -> Trial:
        """The incumbent: the best at the highest resource that any trial reached. Raises UserError if none survived."""
        if self.history.incumbent is None:
            raise UserError("no trial of this study survived, so it has no best one")
        return self.history.incumbent[0]

    @property
    def curves(self) -> dict[int, list[dict[str, float]]]:
        """Every trial's learning curve: for each epoch its metrics, with `resource` and `epoch`."""
        return {
            trial.trial: [
                {"resource": evaluation.until, "epoch": epoch.epoch, **epoch.metrics}
                for evaluation, epoch in trial.epochs
            ]
            for trial in self.trials
        }

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return summary(self.history)

    def best_model(self, trusted: Iterable[str] = ()) -> "nn.Module":
        """Return the winner's model with its trained weights, on the CPU and ready to evaluate.

        A journal says what is built: of packages beyond our own, only `trusted` ones, and those that the environment
        variable HALVING_TRUSTED_PACKAGES names, are imported for that.

        Raises UserError if the study trained no model, has not ended, or the checkpoint is missing or damaged, and
        for a model from a package that is not trusted.
        """
        from halving.training.checkpoint import load as load_checkpoint
        from halving.training.recipe import config_hash

        ended = self.history.ended
        best = self.best
        if self.run_dir is None or ended is None or "model" not in ended.config or best.checkpoint is None:
            raise UserError("this study has no best model: it trained none, or has not ended")
        check_trusted(ended.config["model"], (*trusted, *trusted_in_environment()), "model")
        path = inside(self.run_dir, best.checkpoint)
        resource = int(path.stem)
        checkpoint = load_checkpoint(path, best.trial, resource, config_hash(ended.config))
        model: nn.Module = instantiate(ended.config["model"], "model", **checkpoint.state.get("arguments", {}))
        model.load_state_dict(checkpoint.state["model"])
        return model.eval()


def load(run_dir: str | Path) -> Study:
    """Read a study, finished or still running. Raises UserError if there is none or its journal is damaged."""
    directory = Path(run_dir)
    return Study(replay(read(directory)), directory)


def tune(
    function: Callable[[Configuration, int], float],
    space: Space | Mapping[str, Any],
    scheduler: Callable[..., Scheduler] | Scheduler = SuccessiveHalving,
    *,
    searcher: Callable[..., Searcher] = RandomSearcher,
    seed: int = 0,
    initial: Configuration | None = None,
    budget: Budget | None = None,
    maximize: bool = False,
    executor: Callable[[Objective], Executor] = Serial,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    **options: Any,
) -> Study:
    """Minimise `function(configuration, resource) -> error` over a space.

    `scheduler` is a class such as `SuccessiveHalving`, called with the searcher and `options` (eta, r_min, r_max,
    ...), or a ready scheduler, which has a searcher of its own. The function starts anew at every rung; if it raises
    or returns NaN, that trial fails and the study goes on. What it draws from the global generators of Python, NumPy
    and torch follows from `seed`, trial and resource; afterwards they are as they were. With `run_dir` the study is
    written there, for `load` and for the report; with `resume`, one that is there already goes on.
    `executor=partial(Process, workers=4)` evaluates four at a time; the function must then be importable, and the
    script guarded by `if __name__ == "__main__"`.

    Raises UserError for a space or options that cannot be, a used `run_dir`, a study there that decides otherwise, or
    if no trial survived; KeyboardInterrupt after a signal, once the journal is whole.
    """
    cube = space if isinstance(space, Space) else Space.from_config(space)
    proposer = searcher(cube, seed=seed, initial=initial)
    if options and not callable(scheduler):
        raise UserError(f"tune: {', '.join(options)} belong to a scheduler class, but a ready scheduler was given")
    allocator = scheduler(proposer, **options) if callable(scheduler) else scheduler
    plan: tuple[Ladder, ...] = getattr(allocator, "plan", ())
    if hasattr(allocator, "plan") and not plan and budget is None:
        raise UserError(f"tune: {type(allocator).__name__} has no end of its own; give max_trials=... or a Budget")
    r_max = max((level for ladder in plan for level in ladder.levels), default=_r_max(scheduler, options))
    header = Header(
        name=getattr(function, "__name__", type(function).__name__),
        scheduler=type(allocator).__name__,
        searcher=type(proposer).__name__,
        seed=seed,
        r_max=r_max,
        unit="units",
        maximize=maximize,
        full_cost=r_max,
        planned_cost=planned_cost(plan, _restarting),
        dimensions=cube.names,
        plan=plan,
    )
    directory = Path(run_dir) if run_dir is not None else None
    workers = executor(_Calls(function, seed))
    try:
        journal = _journal(directory, resume) if directory is not None else None
    except BaseException:
        workers.shutdown(graceful=False)
        raise
    events = tuple(journal.events) if journal is not None else ()
    trackers = Trackers([Progress()] if progress else [], events)
    tuner = Tuner(
        allocator, workers, cost=_restarting, journal=journal, trackers=trackers, budget=budget, maximize=maximize
    )
    with Conduct(tuner, workers, journal, trackers, directory) as conduct:
        tuner.replay(events)
        first = Resumed(plan, header.planned_cost) if events else header
        conduct.run(first, lambda: _ended(tuner.history))
    if conduct.signals:
        raise KeyboardInterrupt
    if tuner.history.incumbent is None:
        raise UserError(f"no trial survived; {first_failure(tuner.history)}")
    return Study(tuner.history, directory)


def _r_max(scheduler: Callable[..., Scheduler] | Scheduler, options: Mapping[str, Any]) -> int:
    """Return the most resource of a trial where no plan tells it: as given, or the scheduler class's default."""
    if "r_max" in options or not callable(scheduler):
        return options.get("r_max", 1)
    parameter = inspect.signature(scheduler).parameters.get("r_max")
    return parameter.default if parameter is not None and isinstance(parameter.default, int) else 1


def _ended(history: History) -> Ended:
    best = history.incumbent
    return Ended(best[0].trial if best else None)


def planned_cost(plan: tuple[Ladder, ...], cost: Callable[[int, int], float]) -> float | None:
    """Return what climbing all of a plan's ladders spends, or None where it is not known beforehand."""
    if not plan or any(len(ladder.sizes) < len(ladder.levels) for ladder in plan):
        return None
    steps = (
        size * cost(since, until)
        for ladder in plan
        for since, until, size in zip((0, *ladder.levels), ladder.levels, ladder.sizes, strict=False)
    )
    return sum(steps)


def first_failure(history: History) -> str:
    """Say how many trials failed, and the first one's cause."""
    causes = [e.finished.cause for _, e in history.finished if e.finished is not None and e.finished.outcome.failed]
    return f"{len(causes)} failed, the first with: {causes[0] or 'no cause given'}" if causes else "none was evaluated"


@dataclass(frozen=True)
class _Calls:
    function: Callable[[Configuration, int], float]
    seed: int

    def __call__(self, job: Job) -> Generator[Step]:
        yield call(self.function, dict(job.configuration), job, key(self.seed, job.trial, job.until))


def _restarting(since: int, until: int) -> float:
    return until


def _journal(directory: Path, resume: bool) -> Journal:
    directory.mkdir(parents=True, exist_ok=True)
    journal = Journal(directory)
    if journal.events and not resume:
        journal.close()
        raise UserError(f"{directory} already holds a study; give resume=True, another run_dir, or load this one")
    return journal
