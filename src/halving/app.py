"""The composition root: from a Hydra config to objects, a study and its report."""

import hashlib
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from halving.config import checks, trials, winner
from halving.environment import cores, environment
from halving.errors import UserError
from halving.executors import Executor
from halving.history import Ended, Header, History, Ladder
from halving.journal import FILE, Journal
from halving.planning import Plan, fit
from halving.report.conclusion import conclusion
from halving.report.tables import write_all
from halving.schedulers import Scheduler
from halving.schedulers.successive_halving import ladder, sizes
from halving.searchers import Searcher
from halving.space import Space
from halving.study import first_failure, planned_cost
from halving.targets import instantiate
from halving.tracking.base import Tracker, Trackers
from halving.tracking.progress import Progress
from halving.tracking.wandb import Wandb
from halving.training.fidelities.base import Fidelity
from halving.training.fidelities.function import Function
from halving.training.recipe import Recipe
from halving.trial import Configuration, Epoch, Finished, Job
from halving.tuner import Budget, Tuner

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Run the study that a config describes, and leave the files of its run directory.

    Raises UserError for a mistake in the config or data, and if no trial survived.
    """
    hydra = winner.hydra_config()
    run_dir = Path(hydra.runtime.output_dir)
    console = Console(quiet=hydra.mode == RunMode.MULTIRUN)
    checks.check(cfg)
    _refuse_used(run_dir, cfg)
    for warning in checks.warnings(cfg, list(hydra.overrides.task)):
        log.warning(warning)
        console.print(f"[yellow]note:[/] {warning}", soft_wrap=True)

    parts = _parts(cfg, run_dir)
    if parts.note:
        console.print(parts.note, soft_wrap=True, highlight=False, markup=False)
    header = _header(cfg, hydra, parts, run_dir)
    mirrors = _mirrors(cfg)
    trackers = Trackers([Progress(console, quiet=console.quiet), *mirrors])
    journal = Journal(run_dir)
    tuner = Tuner(
        parts.scheduler,
        parts.executor,
        history=History(),
        cost=parts.fidelity.cost,
        journal=journal,
        trackers=trackers,
        budget=parts.budget,
        maximize=header.maximize,
        root=run_dir,
    )
    try:
        with _stopping(tuner) as signals:
            tuner.record(header)
            tuner.run()
            if not signals:
                tuner.record(_ended(cfg, hydra, tuner.history, parts.objective, run_dir))
    except KeyboardInterrupt:
        journal.abandon()
        raise
    finally:
        parts.executor.shutdown()
        try:
            journal.close()
        finally:
            try:
                write_all(tuner.history, run_dir)
            finally:
                trackers.close(tuner.history)
    if signals:
        console.print(f"\ninterrupted; the journal is whole: {run_dir / FILE}", soft_wrap=True, highlight=False)
        sys.exit(128 + signals[0])
    if tuner.history.incumbent is None:
        raise UserError(f"no trial survived; {first_failure(tuner.history)}; see {run_dir / 'train.log'}")
    console.print()
    console.print(conclusion(tuner.history, run_dir), soft_wrap=True, highlight=False, markup=False)
    for mirror in mirrors:
        if isinstance(mirror, Wandb) and (line := mirror.sync_command(tuner.history)):
            console.print(f"upload: {line}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _stopping(tuner: Tuner) -> Iterator[list[int]]:
    """Let the first SIGINT or SIGTERM end the study after the running epoch, and a second one at once."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        tuner.stop = "interrupted"

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Objective:
    """Trains one job of a study from its unresolved config: what executors get, and may send to other processes."""

    cfg: DictConfig
    run_dir: Path
    threads: int

    def __call__(self, job: Job) -> Iterator[Epoch | Finished]:
        fidelity, recipe = self._prepared(job.configuration, job.trial)
        yield from fidelity.run(recipe, job)

    def prepare(self, configuration: Configuration) -> Fidelity:
        """Return the fidelity, after building everything once. Raises UserError for what could not run."""
        fidelity, recipe = self._prepared(configuration, 0)
        fidelity.prepare(recipe)
        return fidelity

    def test(self, trial: int, configuration: Configuration, resource: int) -> dict[str, float]:
        """Return the test metrics of a finished trial."""
        fidelity, recipe = self._prepared(configuration, trial)
        return fidelity.test(recipe, trial, resource)

    def config(self, configuration: Configuration, trial: int) -> dict[str, Any]:
        """Return a trial's plain resolved config."""
        return trials.plain(trials.overlay(self.cfg, configuration, self.cfg.trial + trial))

    def _prepared(self, configuration: Configuration, trial: int) -> tuple[Fidelity, partial[Recipe]]:
        import torch

        torch.set_num_threads(self.threads)
        config = self.config(configuration, trial)
        fidelity: Fidelity = instantiate(config["fidelity"], "fidelity")
        return fidelity, partial(Recipe.from_config, config, self.run_dir)


@dataclass(frozen=True)
class _Parts:
    space: Space
    scheduler: Scheduler
    executor: Executor
    fidelity: Fidelity
    objective: Objective
    budget: Budget
    threads: int
    note: str


def _parts(cfg: DictConfig, run_dir: Path) -> _Parts:
    config = trials.plain(cfg)
    space = Space.from_config(config["space"])
    defaults = trials.defaults(cfg, space)
    executor = dict(config["executor"])
    threads = executor.pop("threads", None) or cores()
    placed = cfg.copy()
    placed.device = _device(cfg.device)
    objective = Objective(placed, run_dir, threads)
    fidelity = objective.prepare(defaults)
    searcher = instantiate(config["searcher"], "searcher", space=space, initial=defaults)
    build = partial(_scheduler, cfg, searcher)
    plan = _fitted(cfg, build, objective, fidelity, defaults) if cfg.plan == "auto" else None
    if plan is not None:
        for each in (cfg, placed):
            OmegaConf.update(each, "r_min", plan.r_min)
            OmegaConf.update(each, f"scheduler.{plan.count}", plan.value)
    scheduler = build()
    return _Parts(
        space=space,
        scheduler=scheduler,
        note=f"plan: {plan.reason}" if plan is not None else "",
        executor=instantiate(executor, "executor", objective=objective),
        fidelity=fidelity,
        objective=objective,
        budget=_budget(cfg, scheduler, fidelity),
        threads=threads,
    )


def _scheduler(
    cfg: DictConfig, searcher: Searcher, r_min: int | None = None, own: Mapping[str, int] | None = None
) -> Scheduler:
    """Build the scheduler, with another r_min and other settings of its own than the config's."""
    copy = cfg.copy()
    copy.r_min = cfg.r_min if r_min is None else r_min
    return instantiate(trials.plain(copy)["scheduler"] | dict(own or {}), "scheduler", searcher=searcher)


def _fitted(
    cfg: DictConfig,
    build: Callable[..., Scheduler],
    objective: Objective,
    fidelity: Fidelity,
    configuration: Configuration,
) -> Plan:
    """Choose r_min and the number of trials that fit into budget.seconds, after timing the first rung twice."""
    seconds = 0.0
    with TemporaryDirectory() as directory:
        for _ in range(2):  # the first time pays for what is loaded and warmed up once
            *_, finished = replace(objective, run_dir=Path(directory))(Job(0, configuration, 0, cfg.r_min))
            assert isinstance(finished, Finished)
            if finished.outcome.failed:
                raise UserError(f"plan=auto: the configuration as it stands fails: {finished.cause}")
            seconds = finished.seconds

    def cost(r_min: int, value: int) -> float:
        levels = ladder(cfg.eta, r_min, cfg.r_max)
        if "rounds" in cfg.scheduler and "n" not in cfg.scheduler:
            return value * (planned_cost(_plan(build(r_min)), fidelity.cost) or 0.0)
        own = "n" if "n" in cfg.scheduler else "max_trials"
        exact = planned_cost(_plan(build(r_min, {own: value})), fidelity.cost)
        halved = planned_cost((Ladder(levels, sizes(levels, cfg.eta, value)),), fidelity.cost)
        return halved or 0.0 if exact is None else exact

    return fit(
        trials.plain(cfg)["scheduler"],
        cost,
        eta=cfg.eta,
        r_max=cfg.r_max,
        seconds=cfg.budget.seconds,
        unit_seconds=seconds / fidelity.cost(0, cfg.r_min),
        unit=fidelity.unit,
    )


def _budget(cfg: DictConfig, scheduler: Scheduler, fidelity: Fidelity) -> Budget:
    """Return the budget as configured; a scheduler without an end gets what one bracket of halving would spend."""
    budget = Budget(**trials.plain(cfg.budget))
    endless = hasattr(scheduler, "plan") and not _plan(scheduler)
    if not endless or (budget.evaluations, budget.resource, budget.seconds) != (None, None, None):
        return budget
    levels = ladder(cfg.eta, cfg.r_min, cfg.r_max)
    return replace(budget, resource=planned_cost((Ladder(levels, sizes(levels, cfg.eta)),), fidelity.cost))


def _header(cfg: DictConfig, hydra: DictConfig, parts: _Parts, run_dir: Path) -> Header:
    plan = _plan(parts.scheduler)
    unresolved = OmegaConf.to_container(cfg, resolve=False)
    metric = cfg.metric.removeprefix("max:")
    planned = planned_cost(plan, parts.fidelity.cost)
    return Header(
        name=cfg.name,
        scheduler=_choice(hydra, "scheduler"),
        searcher=_choice(hydra, "searcher"),
        seed=cfg.seed,
        r_max=cfg.r_max,
        unit=parts.fidelity.unit,
        metric="error" if metric == "val_error" and isinstance(parts.fidelity, Function) else metric,
        maximize=cfg.metric.startswith("max:"),
        full_cost=parts.fidelity.cost(0, cfg.r_max),
        planned_cost=parts.budget.resource if planned is None else planned,
        dimensions=parts.space.names,
        plan=plan,
        settings={
            "config": parts.objective.config({}, 0),
            "unresolved": unresolved,
            "config_hash": hashlib.sha256(json.dumps(unresolved, sort_keys=True).encode()).hexdigest(),
            "overrides": list(hydra.overrides.task),
            "run_dir": str(run_dir),
            "tags": [Path(hydra.sweep.dir).name] if hydra.mode == RunMode.MULTIRUN else [],
            "notes": cfg.notes,
            "environment": environment(parts.objective.cfg.device, parts.threads),
        },
    )


def _ended(cfg: DictConfig, hydra: DictConfig, history: History, objective: Objective, run_dir: Path) -> Ended:
    """Test the winner, write best.yaml, and say how to train it again."""
    if history.incumbent is None:
        return Ended(None)
    trial, evaluation = history.incumbent
    stream = cfg.trial + trial.trial
    best = trials.overlay(cfg, trial.configuration, stream)
    best.executor.threads = objective.threads
    (run_dir / "best.yaml").write_text(
        f"# python train.py -cp {run_dir.absolute()} -cn best\n{winner.best_yaml(best)}", encoding="utf-8"
    )
    return Ended(
        trial.trial,
        objective.test(trial.trial, trial.configuration, evaluation.resource),
        winner.command(hydra, stream, trial.configuration),
        objective.config(trial.configuration, trial.trial),
    )


def _plan(scheduler: Scheduler) -> tuple[Ladder, ...]:
    return getattr(scheduler, "plan", ())


def _mirrors(cfg: DictConfig) -> list[Tracker]:
    config = trials.plain(cfg)["tracker"]
    options = {name: option for name, option in config.items() if isinstance(option, dict) and "_target_" in option}
    return [instantiate(option, f"tracker.{name}") for name, option in options.items()]


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name}: no such device; give auto, cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: there is no CUDA device here; device=auto takes what there is")
    return "cuda:0" if name == "cuda" else name


def _refuse_used(run_dir: Path, cfg: DictConfig) -> None:
    if cfg.resume is not None:
        raise UserError("resume: resuming a study is not built yet; start it anew")
    if (run_dir / FILE).exists():
        raise UserError(f"{run_dir} already holds a study; give another hydra.run.dir")


def _choice(hydra: DictConfig, group: str) -> str:
    return str(hydra.runtime.choices.get(group, group))
