"""The library's front door: tune a function, load a study."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halving.errors import UserError
from halving.executors import Serial
from halving.history import Ended, Header, History, Ladder, Trial
from halving.journal import Journal, read, replay
from halving.report.tables import summary, write_all
from halving.schedulers import Scheduler, SuccessiveHalving
from halving.searchers import RandomSearcher, Searcher
from halving.space import Space
from halving.targets import instantiate
from halving.tracking.base import Trackers
from halving.tracking.progress import Progress
from halving.training.fidelities.function import call
from halving.trial import Configuration, Epoch, Finished, Job
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

    def best_model(self) -> "nn.Module":
        """Return the winner's model with its trained weights, on the CPU and ready to evaluate.

        Raises UserError if the study trained no model, has not ended, or the checkpoint is missing or damaged.
        """
        from halving.training.checkpoint import load as load_checkpoint
        from halving.training.recipe import config_hash

        ended = self.history.ended
        best = self.best
        if self.run_dir is None or ended is None or "model" not in ended.config or best.checkpoint is None:
            raise UserError("this study has no best model: it trained none, or has not ended")
        path = self.run_dir / str(best.checkpoint)
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
    run_dir: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Study:
    """Minimise `function(configuration, resource) -> error` over a space.

    `scheduler` is a class such as `SuccessiveHalving`, called with the searcher and `options` (eta, r_min, r_max,
    ...), or a ready scheduler, which has a searcher of its own. The function starts anew at every rung; if it raises
    or returns NaN, that trial fails and the study goes on. With `run_dir` the study is written there, for `load` and
    for the report.

    Raises UserError for a space or options that cannot be, a used `run_dir`, or if no trial survived.
    """
    cube = space if isinstance(space, Space) else Space.from_config(space)
    proposer = searcher(cube, seed=seed, initial=initial)
    if options and not callable(scheduler):
        raise UserError(f"tune: {', '.join(options)} belong to a scheduler class, but a ready scheduler was given")
    allocator = scheduler(proposer, **options) if callable(scheduler) else scheduler
    plan: tuple[Ladder, ...] = getattr(allocator, "plan", ())
    if hasattr(allocator, "plan") and not plan and budget is None:
        raise UserError(f"tune: {type(allocator).__name__} has no end of its own; give max_trials=... or a Budget")
    r_max = max((level for ladder in plan for level in ladder.levels), default=options.get("r_max", 1))
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
    journal = _new_journal(directory) if directory is not None else None
    trackers = Trackers([Progress()] if progress else [])
    executor = Serial(_Calls(function))
    tuner = Tuner(
        allocator,
        executor,
        history=History(),
        cost=_restarting,
        journal=journal,
        trackers=trackers,
        budget=budget,
        maximize=maximize,
    )
    try:
        tuner.record(header)
        tuner.run()
        best = tuner.history.incumbent
        tuner.record(Ended(best[0].trial if best else None))
    finally:
        try:
            if journal is not None and directory is not None:
                journal.close()
                write_all(tuner.history, directory)
        finally:
            trackers.close(tuner.history)
    if tuner.history.incumbent is None:
        raise UserError(f"no trial survived; {first_failure(tuner.history)}")
    return Study(tuner.history, directory)


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

    def __call__(self, job: Job) -> Iterator[Epoch | Finished]:
        yield call(self.function, dict(job.configuration), job)


def _restarting(since: int, until: int) -> float:
    return until


def _new_journal(directory: Path) -> Journal:
    directory.mkdir(parents=True, exist_ok=True)
    journal = Journal(directory)
    if journal.events:
        journal.close()
        raise UserError(f"{directory} already holds a study; give another run_dir, or load this one")
    return journal
