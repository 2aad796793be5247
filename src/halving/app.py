"""The composition root: from a Hydra config to objects, a study and its report."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from halving.config import checks, trials, winner
from halving.environment import cores, environment
from halving.errors import UserError
from halving.executors import Executor
from halving.history import Ended, Halted, Header, History, Ladder
from halving.journal import FILE, Journal
from halving.report.conclusion import conclusion
from halving.report.tables import write_all
from halving.schedulers import Scheduler
from halving.schedulers.successive_halving import ladder, sizes
from halving.space import Space
from halving.study import first_failure, planned_cost
from halving.targets import instantiate
from halving.tracking.base import Tracker, Trackers
from halving.tracking.progress import Progress
from halving.tracking.wandb import Wandb
from halving.training.fidelities.base import Fidelity
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
    header = _header(cfg, hydra, parts, run_dir)
    journal = Journal(run_dir)
    mirrors = _mirrors(cfg)
    trackers = Trackers([Progress(console, quiet=console.quiet), *mirrors])
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
        tuner.record(header)
        tuner.run()
        tuner.record(_ended(cfg, hydra, tuner.history, parts.objective, run_dir))
    except KeyboardInterrupt:
        tuner.record(Halted("interrupted"))
        console.print(f"\ninterrupted; the journal is whole: {run_dir / FILE}", soft_wrap=True, highlight=False)
        raise
    finally:
        parts.executor.shutdown()
        trackers.close(tuner.history)
        journal.close()
        write_all(tuner.history, run_dir)
    if tuner.history.incumbent is None:
        raise UserError(f"no trial survived; {first_failure(tuner.history)}; see {run_dir / 'train.log'}")
    console.print()
    console.print(conclusion(tuner.history, run_dir), soft_wrap=True, highlight=False, markup=False)
    for mirror in mirrors:
        if isinstance(mirror, Wandb) and (line := mirror.sync_command(tuner.history)):
            console.print(f"upload: {line}", soft_wrap=True, highlight=False, markup=False)


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
    scheduler: Scheduler = instantiate(config["scheduler"], "scheduler", searcher=searcher)
    return _Parts(
        space=space,
        scheduler=scheduler,
        executor=instantiate(executor, "executor", objective=objective),
        fidelity=fidelity,
        objective=objective,
        budget=_budget(cfg, scheduler, fidelity),
        threads=threads,
    )


def _budget(cfg: DictConfig, scheduler: Scheduler, fidelity: Fidelity) -> Budget:
    """Return the budget as configured; a scheduler without an end gets what one bracket of halving would spend."""
    budget = Budget(**trials.plain(cfg.budget))
    endless = getattr(scheduler, "plan", None) == ()
    if not endless or budget != Budget():
        return budget
    levels = ladder(cfg.eta, cfg.r_min, cfg.r_max)
    return Budget(resource=planned_cost((Ladder(levels, sizes(levels, cfg.eta)),), fidelity.cost))


def _header(cfg: DictConfig, hydra: DictConfig, parts: _Parts, run_dir: Path) -> Header:
    plan: tuple[Ladder, ...] = getattr(parts.scheduler, "plan", ())
    planned = planned_cost(plan, parts.fidelity.cost)
    return Header(
        name=cfg.name,
        scheduler=_choice(hydra, "scheduler"),
        searcher=_choice(hydra, "searcher"),
        seed=cfg.seed,
        r_max=cfg.r_max,
        unit=parts.fidelity.unit,
        metric=cfg.metric.removeprefix("max:"),
        maximize=cfg.metric.startswith("max:"),
        full_cost=parts.fidelity.cost(0, cfg.r_max),
        planned_cost=parts.budget.resource if planned is None else planned,
        dimensions=parts.space.names,
        plan=plan,
        settings={
            "config": parts.objective.config({}, 0),
            "unresolved": OmegaConf.to_container(cfg, resolve=False),
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
    return str(HydraConfig.get().runtime.choices.get(group, group))
