"""From a config to the objects that a study consists of."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from halving.app.objective import ConfiguredObjective, Elsewhere, found
from halving.app.planning import Fit, Simulation, Unsearched, fair, fit, simulated_costs
from halving.config import arguments
from halving.config.choices import Choices
from halving.config.request import Request
from halving.curves.table import ROW
from halving.environment import cores, default_threads
from halving.errors import UserError, real, whole
from halving.executors import Executor
from halving.history import History, planned_cost
from halving.provenance import Provenance
from halving.schedulers import Scheduler
from halving.schedulers.base import plan_of
from halving.schedulers.early_stopping import EarlyStopping
from halving.schedulers.fifo import FIFO
from halving.searchers import GridSearcher, OneAtATimeSearcher, Searcher
from halving.searchers.recorded import Recorded
from halving.searchers.table import on_table, space_of
from halving.searchers.transfer import transferred
from halving.space import Space
from halving.study import load
from halving.targets import instantiate, locate
from halving.tracking.wording import count
from halving.training.fidelities.base import Fidelity
from halving.training.fidelities.table import Table
from halving.trial import AVERAGED, Configuration, Finished, Job
from halving.tuner import Budget

_THREADS = 1024  # with many more than there are cores, OpenMP crashes


@dataclass(frozen=True)
class Parts:
    """A study's objects, and what to say of them before it begins; `initial` is what its searcher proposes first.

    `domains` are the values of its dimensions.
    """

    dimensions: tuple[str, ...]
    domains: dict[str, Any]
    initial: list[Configuration]
    searcher: Recorded
    scheduler: Scheduler
    executor: Executor
    fidelity: Fidelity | Table
    objective: ConfiguredObjective
    budget: Budget
    threads: int
    notes: list[str]
    fitted: Fit | None = None


def compose(request: Request, run_dir: Path, before: History, chosen: Callable[[Space], Choices]) -> Parts:
    """Build what a study consists of; `before` is what an earlier process has done of it.

    `chosen` gives what the config becomes with other options of the space's groups, unless `before` tells.
    """
    config = deepcopy(request.values)
    fidelity: Fidelity | Table = instantiate(config["fidelity"], "fidelity")
    if fidelity.trains is ("curves" in config["executor"]) or (config["plan"] is not None and not fidelity.trains):
        raise UserError("executor=simulated needs fidelity=table and no plan; experiment=simulated sets both")
    if not fidelity.trains:
        return _simulated(request, config, cast(Table, fidelity), run_dir, before)
    space = request.space
    recorded = before.header.provenance if before.header is not None else Provenance()
    request = replace(request, choices=Choices(**recorded.choices) if recorded.choices else chosen(space))
    defaults = request.defaults(space)
    elsewhere = getattr(locate(config["executor"]["_target_"], "executor"), "elsewhere", False)
    asked, moves = config["device"], request.follows("data_dir")
    device = found("auto" if elsewhere else asked)
    placed = request.but(device=device, data_dir=str(arguments.placed(config["data_dir"])))
    if not elsewhere:
        found(config["data"].get("device") or asked)
    settings, threads = _executor(config["executor"], asked, device, recorded.environment.get("threads"))
    objective = ConfiguredObjective(placed, run_dir, threads)
    initial = _initial(config["searcher"].pop("initial", None) or (), space, defaults, recorded)
    searcher = instantiate(config["searcher"], "searcher", space=space, initial=initial)
    proposals = Recorded(searcher, _configurations(before))
    fitted = None
    if config["plan"] == "auto" and before.header is None:
        fitted = _fitted(objective, objective.prepare(defaults), defaults)
        objective = replace(objective, request=placed.but(**fitted.settings))
    work = Elsewhere(objective, asked, moves) if elsewhere else objective
    executor: Executor = instantiate(settings, "executor", objective=work)
    batch = getattr(executor, "batch", 1)
    workers = getattr(executor, "workers", 1) * batch
    try:  # worker processes begin with their imports meanwhile
        fidelity = objective.prepare(defaults)
        objective.prepare_options(space)
        scheduler = _scheduler(objective.request, proposals, _whole_list(config["scheduler"], searcher))
        budget = _budget(objective.request, scheduler, fidelity, workers)
        return Parts(
            dimensions=space.names,
            domains=space.domains,
            initial=initial,
            searcher=proposals,
            scheduler=scheduler,
            notes=[
                *(f"note: {text}" for text in objective.request.choices.notes),
                *_unaveraged(config, space, fidelity),
                *_apart(space, batch),
                *([f"plan: {fitted.reason}"] if fitted is not None else []),
                *_outrun(budget, scheduler, fidelity, workers, "workers" if batch == 1 else "trials at a time"),
                *([f"grid: {count(len(searcher), 'configurations')}"] if isinstance(searcher, GridSearcher) else []),
            ],
            executor=executor,
            fidelity=fidelity,
            objective=objective,
            budget=budget,
            threads=threads,
            fitted=fitted,
        )
    except BaseException:
        executor.shutdown(graceful=False)
        raise


def _initial(run_dirs: Any, space: Space, defaults: Configuration, recorded: Provenance) -> list[Configuration]:
    """Return what is proposed first: the config as it stands, then what earlier studies found.

    A study that goes on has these in its header: the others may be gone by now.
    """
    if recorded.initial is not None:
        return list(cast(Sequence[Configuration], recorded.initial))
    if not isinstance(run_dirs, list | tuple) or not all(isinstance(each, str) for each in run_dirs):
        raise UserError(f"searcher.initial={run_dirs}: give a list of run directories, such as searcher.initial=[here]")
    earlier = [load(run_dir).best.configuration for run_dir in run_dirs]
    return [defaults, *(transferred(configuration, space, defaults) for configuration in earlier)]


def _simulated(request: Request, config: dict[str, Any], fidelity: Table, run_dir: Path, before: History) -> Parts:
    """Build a study on recorded curves: its jobs look rows up, and nothing is trained."""
    fidelity.check(config["r_min"], config["r_max"])
    space = space_of(fidelity.curves, config["space"])
    own = ("curves", "reuse", "threads", "batch")
    settings = {key: value for key, value in config["executor"].items() if key not in own}
    batch = whole("executor.batch", config["executor"].get("batch", 1))
    if config["searcher"].pop("initial", None):
        raise UserError("searcher.initial: a simulated study draws from its table only")
    if top := config["confirm"]["top"]:
        raise UserError(f"confirm.top={top}: recorded curves have no fresh seeds to confirm them by")
    searcher = instantiate(config["searcher"], "searcher", space=space, initial=None)
    seed = config["searcher"].get("seed", config["seed"])
    rows = on_table(searcher, fidelity.curves, space, seed, config["executor"]["reuse"])
    proposals = Recorded(rows, _configurations(before))
    scheduler = _scheduler(request, proposals)
    executor = instantiate(settings, "executor", objective=fidelity)
    budget = _budget(request, scheduler, fidelity, settings["workers"])
    return Parts(
        dimensions=(ROW, *space.names),
        domains={ROW: {"low": 0, "high": len(fidelity.curves) - 1}, **space.domains},
        initial=[],
        searcher=proposals,
        scheduler=scheduler,
        notes=[
            *_outrun(budget, scheduler, fidelity, settings["workers"]),
            *([f"note: executor.batch={batch} has no effect: what is looked up is not trained"] if batch > 1 else []),
        ],
        executor=executor,
        fidelity=fidelity,
        objective=ConfiguredObjective(request, run_dir, 1),
        budget=budget,
        threads=1,
    )


def _configurations(history: History) -> dict[int, Configuration]:
    return {trial.trial: trial.configuration for trial in history.trials.values()}


def _executor(config: Mapping[str, Any], asked: str, device: str, earlier: int | None) -> tuple[dict[str, Any], int]:
    """Return the executor's settings with what is left to the machine filled in, and how many threads a job has.

    `asked` is the device as configured, `device` what it came to. `earlier` is how many threads the study had in
    another process: other numbers give other bits.
    """
    settings = dict(config)
    for name in ("workers", "threads", "trials_per_gpu", "checkpoint_every", "batch"):
        if settings.get(name) is not None:
            whole(f"executor.{name}", settings[name])
    settings.pop("checkpoint_every", None)
    if (program := settings.pop("program", None)) not in (None, "batched", "single"):
        raise UserError(f"executor.program={program}: give batched or single, or null to find out what is faster")
    threads = settings.pop("threads", None)
    if "trials_per_gpu" in settings:
        each = settings.pop("trials_per_gpu")
        settings["devices"] = _gpus() if device.startswith("cuda") and asked in ("auto", "cuda") else []
        on_gpus = each * (len(settings["devices"]) or device.startswith("cuda"))
        if settings["workers"] is None:
            settings["workers"] = on_gpus or cores()
    if threads is not None and threads > _THREADS:
        raise UserError(f"executor.threads={threads}: a job has at most {_THREADS}")
    if "num_cpus" in settings:  # of each, wherever it is
        among = real(
            "executor.num_cpus", settings["num_cpus"], lambda x: 0 <= x < math.inf, "must be a number of at least 0"
        )
        return settings, threads or earlier or default_threads(1, among)
    return settings, threads or earlier or default_threads(settings.get("workers") or 1)


def _gpus() -> list[str]:
    """Return the GPUs that workers may be given in turn, as CUDA names them."""
    import torch

    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
    return seen.split(",")


def _scheduler(request: Request, searcher: Searcher, own: Mapping[str, int | None] | None = None) -> Scheduler:
    """Build the scheduler, with other settings of its own than the config's."""
    return instantiate({**request["scheduler"], **(own or {})}, "scheduler", searcher=searcher)


def _whole_list(config: Mapping[str, Any], searcher: Searcher) -> dict[str, int] | None:
    """Return what lets a scheduler without an end go through all of a list that makes sense as a whole only."""
    given = config.get("max_trials", 0) is not None
    return None if given or not isinstance(searcher, OneAtATimeSearcher) else {"max_trials": len(searcher)}


def _fitted(objective: ConfiguredObjective, fidelity: Fidelity, configuration: Configuration) -> Fit:
    """Choose r_min and the number of trials that fit into budget.seconds, after timing the first rung twice."""
    request = objective.request
    own = next((name for name in ("n", "max_trials") if name in request["scheduler"]), "rounds")

    @cache
    def laid(r_min: int) -> Request:
        return request.but(r_min=r_min)

    def build(r_min: int, value: int | None) -> Scheduler:
        once = {"rounds": 1} if request["scheduler"].get("rounds", 1) is None else {}
        return _scheduler(laid(r_min), Unsearched(), {**once, own: value})

    seconds, curves = 0.0, False
    for _ in range(2):  # the first time pays for what is loaded and warmed up once
        with TemporaryDirectory() as directory:  # a new one: in the first's it would go on from the checkpoint
            elsewhere = replace(objective, run_dir=Path(directory))
            *_, finished = elsewhere((Job(0, configuration, 0, request["r_min"]),))
        assert isinstance(finished, Finished)
        if finished.outcome.failed:
            raise UserError(f"plan=auto: the configuration as it stands fails: {finished.cause}")
        seconds, curves = finished.seconds, bool(finished.outcome.curve)

    @cache
    def simulation(r_min: int) -> Simulation:
        return Simulation(simulated_costs(build(r_min, None), fidelity.cost, curves=curves))

    def cost(r_min: int, value: int) -> float:
        if own == "rounds":
            return value * (planned_cost(plan_of(build(r_min, 1)), fidelity.cost) or 0.0)
        exact = planned_cost(plan_of(build(r_min, value)), fidelity.cost)
        return simulation(r_min).cost(value) if exact is None else exact

    return fit(
        request["scheduler"],
        cost,
        eta=request["eta"],
        r_max=request["r_max"],
        seconds=request["budget"]["seconds"],
        unit_seconds=seconds / fidelity.cost(0, request["r_min"]),
        unit=fidelity.unit,
        cohorts=not isinstance(_scheduler(request, Unsearched()), EarlyStopping | FIFO),
    )


def _budget(request: Request, scheduler: Scheduler, fidelity: Fidelity | Table, workers: int) -> Budget:
    """Return the budget as configured; a scheduler without an end gets what one bracket of halving would spend."""
    steps = {name: request[name] for name in ("eta", "r_min", "r_max")}
    return fair(Budget(**request["budget"]), scheduler, fidelity.cost, **steps, workers=workers)


def _outrun(
    budget: Budget, scheduler: Scheduler, fidelity: Fidelity | Table, workers: int, called: str = "workers"
) -> list[str]:
    """Say where workers may spend the default budget before it could have an answer."""
    if budget.reach is None or budget.resource is None or isinstance(scheduler, FIFO):
        return []
    if workers * fidelity.cost(0, budget.reach) <= budget.resource:
        return []
    return [
        f"note: {workers} {called} may spend the default budget of {budget.resource:g} {fidelity.unit} before a trial "
        f"gets to {budget.reach}; the study goes on until one does. budget.resource=... sets another end"
    ]


def _apart(space: Space, batch: int) -> list[str]:
    """Say where so many batch sizes are searched that few trials are alike."""
    sizes = space.domains.get("data.batch_size", [])
    if batch == 1 or (isinstance(sizes, list) and len(sizes) <= batch):
        return []
    return [
        f"note: executor.batch={batch} trains trials of the same data.batch_size together, and most will have one of "
        "their own; give it a short list, as space=batched does"
    ]


def _unaveraged(config: Mapping[str, Any], space: Space, fidelity: Fidelity | Table) -> list[str]:
    """Say where averaged weights are asked for and there are none."""
    averages = bool(config["averaging"]) or "averaging" in space.names
    if averages and not fidelity.loads:
        return [
            "note: averaging has no effect: it is for what trains the groups model and data, as this fidelity does not"
        ]
    if fidelity.loads and not averages and (metric := config["metric"]).removeprefix("max:").startswith(AVERAGED):
        plain = metric.replace(AVERAGED, "")
        return [f"note: metric={metric} is {plain} itself without averaging=ema or averaging=swa"]
    return []
