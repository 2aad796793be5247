"""A sweep as a study: from `hydra.sweeper` and what was typed to what halving runs."""

import copy
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from halving.app.planned import cost_of
from halving.app.planning import fair
from halving.app.tune import Composed, warn
from halving.config.commands import key_of, override
from halving.config.suggestions import nearest
from halving.config.yaml_files import redact_files
from halving.errors import UserError, did_you_mean, first_line, whole
from halving.executors import Executor, Process
from halving.history import Ended, History
from halving.journal import FILE
from halving.redaction import Secrets
from halving.report.conclusion import conclusion
from halving.report.tables import first_failure
from halving.space import Space
from halving.space.dimension import Choice, Dimension
from halving.sweep import options
from halving.sweep.answers import DIRECTORY, PROBLEM, VALUE, VARIABLE, Answering
from halving.sweep.jobs import App, Programs, main_module, program
from halving.sweep.launched import Launched
from halving.sweep.obsolete import Obsolete
from halving.sweep.parameters import Parameter, flat, name_of, typed
from halving.targets import check_trusted, trusted_in_environment
from halving.tracking.tensorboard import TensorBoard
from halving.tracking.terminal import one_line
from halving.tracking.wandb import Wandb
from halving.trial import Configuration, Job, Value
from halving.tuner import Budget, Tuner
from hydra_plugins.hydra_halving_sweeper.settings import BUDGET, Settings

_DIRECTIONS, _LAUNCHES, _INJECTED = ("minimize", "maximize"), ("launcher", "subprocess"), ("lightning",)
# What of a command line is not the winner's: how it was swept.
_OF_THE_SWEEP = ("hydra.sweep.", "hydra.sweeper", "hydra/sweeper", "hydra.launcher", "hydra/launcher", "hydra.mode")
_MULTIRUN = ("-m", "--multirun")
_LISTED = 32  # values of a list that are tried before the first job
_UNKNOWN = re.compile(r"Could not override '([^']*)'")


@one_line()
def sweep(
    settings: Settings,
    context: HydraContext,
    function: Callable[[Any], Any],
    config: DictConfig,
    arguments: list[str],
) -> float | None:
    """Run the study that `hydra.sweeper` describes, or go on with it; return the best value.

    A user's mistake ends the process in one line and with status 1.
    """
    _check_settings(settings)
    directory = _directory(settings, config)
    app, space, initial = _app(settings, directory, context.config_loader, config, arguments)
    secrets = Secrets.of(OmegaConf.to_container(config), arguments)
    composed = _composed(settings, app, space, initial, str(config.hydra.job.name), secrets)
    tuners = list[Tuner]()

    def interrupted() -> bool:
        return any(tuner.stop for tuner in tuners)

    root = _root(settings, app.r_max, composed.header.name)
    mirrors = options.trackers(settings.tracker, root, settings.tracker_options)
    answering = Answering(function, settings.metric, settings.inject, tuple(settings.delete))
    executor = _executor(settings, app, context, answering, config, composed, arguments)
    progress = None if settings.launch == "subprocess" else False
    trackers = [Obsolete(directory, tuple(settings.delete)), *mirrors]
    runner = composed.opened(executor, True, trackers, progress, None, secrets.redact_event)
    history = runner.tuner.history
    tuners.append(runner.tuner)

    def go_on() -> None:
        resumed = override("hydra.sweeper.resume_from", str(directory))
        print(f"\ninterrupted; go on with: {shlex.join([*_called(), '-m', *_kept(arguments), *arguments, resumed])}")

    with _told(go_on), runner:
        (directory / PROBLEM).unlink(missing_ok=True)
        if runner.before.header is None:  # what lies here is another study's
            for stale in directory.glob(f"*/{DIRECTORY}"):
                shutil.rmtree(stale)
        OmegaConf.save(config, directory / "multirun.yaml")
        redact_files(secrets, directory / "multirun.yaml")
        if isinstance(executor, Launched):
            executor.begin(len(history.finished), interrupted)
        runner.run(lambda: _ended(app, arguments, history))
    if runner.signals:
        go_on()
        runner.requeue()
        sys.exit(128 + runner.signals[0])
    warn(runner)
    if (best := history.incumbent) is None:
        raise UserError(f"no trial survived; {first_failure(history)}; see {directory}")
    print(f"\n{conclusion(history, directory)}")
    for mirror in mirrors:
        if isinstance(mirror, Wandb) and (line := mirror.sync_command(history)):
            print(f"upload: {line}")
        if isinstance(mirror, TensorBoard) and (line := mirror.command(history)):
            print(f"curves: {line}")
    return composed.header.sign * best[1].error


@contextmanager
def _told(go_on: Callable[[], None]) -> Generator[None]:
    """Say how to go on also where Ctrl-C ends it at once, or reaches it by way of a launcher's workers."""
    try:
        yield
    except KeyboardInterrupt:
        go_on()
        raise


def _check_settings(settings: Settings) -> None:
    for name, value, known in (
        ("direction", settings.direction, _DIRECTIONS),
        ("launch", settings.launch, _LAUNCHES),
        ("inject", settings.inject or "lightning", _INJECTED),
        *(("budget", name, BUDGET) for name in settings.budget),
    ):
        if value not in known:
            raise UserError(f"hydra.sweeper.{name}={value}: unknown{did_you_mean(value, known)}")
    if settings.resource is None:
        raise UserError(
            "hydra.sweeper.resource: name the app's key that takes the resource, such as trainer.max_epochs"
        )
    if settings.inject and settings.resume:
        raise UserError("hydra.sweeper.resume: leave it out beside inject, with which trials go on by themselves")
    for pattern in map(Path, settings.delete):
        if pattern.is_absolute() or not pattern.parts or ".." in pattern.parts:
            raise UserError(
                f"hydra.sweeper.delete={pattern}: give a pattern below a trial's directory: checkpoints/*.pt"
            )
    whole("hydra.sweeper.retries", settings.retries, 0)
    if settings.workers is not None:
        whole("hydra.sweeper.workers", settings.workers)


def _directory(settings: Settings, config: DictConfig) -> Path:
    """Return where the study lies, and let Hydra know it. Raises UserError where there is none to go on with."""
    directory = Path(settings.resume_from or str(config.hydra.sweep.dir)).expanduser().absolute()
    if settings.resume_from and not (directory / FILE).is_file():
        raise UserError(
            f"hydra.sweeper.resume_from={settings.resume_from}: no {FILE} there to go on with; "
            f"to begin there, give {override('hydra.sweep.dir', settings.resume_from)} instead"
        )
    OmegaConf.update(config, "hydra.sweep.dir", str(directory))
    return directory


def _app(
    settings: Settings, directory: Path, loader: ConfigLoader, config: DictConfig, arguments: list[str]
) -> tuple[App, Space, Configuration | None]:
    """Return how the app is told of its jobs, what is searched, and the configuration as it stands, if it is in there.

    Raises UserError for what the app's config does not take.
    """
    words = typed([*flat(settings.params), *arguments], loader)
    cfg = _composed_config(loader, config, words.fixed)
    resource = cast(str, settings.resource)
    if not resource.startswith("+") and not _has(cfg, resource):
        raise UserError(f"hydra.sweeper.resource={resource}: the app's config has no such key{_near(resource, cfg)}")
    leaves = {**settings.space, **words.leaves}
    check_trusted(leaves, trusted_in_environment(), "hydra.sweeper.space")
    known = dict(_scalars(cfg))
    space = Space.from_config(leaves, known)
    if not space.dimensions:
        raise UserError("nothing is searched: give hydra.sweeper.params, or type model.lr='interval(0.001,0.1)'")
    groups = {each.name for each in space.dimensions if isinstance(each, Choice) and each.options}
    own = {name: Parameter(name.replace(".", "/") if name in groups else name) for name in space.names}
    for text in words.fixed:
        if (name := name_of(key_of(text))) in own:
            raise UserError(f"{text}: hydra.sweeper.space searches {name}; leave one of them out")
    for text, where in ((resource.lstrip("+"), "resource"), *((key_of(each), "resume") for each in settings.resume)):
        if name_of(text) in own:
            raise UserError(f"hydra.sweeper.{where}: {name_of(text)} is set for each job; it cannot be searched, too")
    r_max = settings.r_max if settings.r_max is not None else OmegaConf.select(cfg, resource)
    if r_max is None:
        raise UserError(f"hydra.sweeper.r_max: say how far a trial goes at most, as {resource} has no value")
    app = App(
        directory,
        words.fixed,
        {**own, **words.parameters},
        resource,
        tuple(settings.resume),
        settings.metric,
        settings.inject,
        whole("hydra.sweeper.r_max" if settings.r_max is not None else resource, r_max),
    )
    _check(app, space, cfg, loader, config)
    chosen = {name_of(str(group)): str(option) for group, option in cfg.hydra.runtime.choices.items()}
    known |= {name: chosen[name] for name in groups & chosen.keys()}
    initial = {each.name: known[each.name] for each in space.existing(known) if each.name in known}
    return app, space, initial if space.holds(initial) else None


def _check(app: App, space: Space, cfg: DictConfig, loader: ConfigLoader, config: DictConfig) -> None:
    """Compose jobs that go on with every option of every choice, and every value of lists that are not long.

    Raises UserError where that cannot be.
    """
    seen, tried = set[tuple[str, str]](), list[Dimension]()
    for chosen in space.combinations():
        if seen and seen.issuperset(chosen.items()):
            continue
        seen.update(chosen.items())
        possible = space.possible(chosen)
        fresh = [each for each in possible if each.name not in chosen and each not in tried]
        listed = [each for each in fresh if isinstance(each, Choice)]
        tried += listed
        for i in range(min(max((len(each.values) for each in listed), default=1), _LISTED)):
            values: Configuration = {each.name: _ith(each, i) for each in possible}
            job = Job(0, {**values, **chosen}, 0, app.r_max)
            try:
                _composed_config(loader, config, app.task(replace(job, since=1)), cfg, "hydra.sweeper.resume")
            except UserError:
                _composed_config(loader, config, app.task(job), cfg)  # it may not be the resume's fault
                raise


def _ith(dimension: Dimension, i: int) -> Value:
    """Return a value of a list, each of which comes in its turn, or one of a distribution."""
    return dimension.values[i % len(dimension.values)] if isinstance(dimension, Choice) else dimension.decode(0.5)


def _composed_config(
    loader: ConfigLoader,
    config: DictConfig,
    overrides: Sequence[str],
    known: DictConfig | None = None,
    where: str = "the app's config",
) -> DictConfig:
    """Return a job's config. Raises UserError in Hydra's words, and with what is nearest in one that is `known`."""
    try:
        return loader.load_sweep_config(config, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        told = str(error).partition("Config search path:")[0].splitlines()
        said = " ".join(line.strip() for line in told if line.strip())
        key = _UNKNOWN.search(said)
        near = _near(key[1], known) if key is not None and known is not None else ""
        why = "" if error.__cause__ is None else f" ({first_line(error.__cause__)})"
        raise UserError(f"{where}: {said}{why}{near}") from error


def _near(key: str, cfg: DictConfig) -> str:
    return nearest(key, OmegaConf.masked_copy(cfg, [str(each) for each in cfg if each != "hydra"]), "")


def _has(cfg: DictConfig, key: str) -> bool:
    above, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, above, throw_on_missing=False) if above else cfg
    return OmegaConf.is_dict(parent) and name in cast(DictConfig, parent)


def _scalars(cfg: DictConfig, path: str = "") -> Iterator[tuple[str, Value]]:
    """Yield an app's own values by their dotted keys; those that are missing, or cannot be resolved here, are none."""
    for key in cfg:
        name = f"{path}{key}"
        if name == "hydra" or OmegaConf.is_missing(cfg, key):
            continue
        try:
            value = cfg[key]
        except OmegaConfBaseException:
            continue
        if isinstance(value, DictConfig):
            yield from _scalars(value, f"{name}.")
        elif isinstance(value, Value):
            yield name, value
        elif isinstance(value, Enum | Path):  # as they are typed
            yield name, value.name if isinstance(value, Enum) else str(value)


def _root(settings: Settings, r_max: int, name: str) -> dict[str, Any]:
    """Return what our own options refer to."""
    ladder = {"eta": settings.eta, "r_min": settings.r_min, "r_max": r_max, "until": r_max}
    return {**ladder, "seed": settings.seed, "name": name}


def _composed(
    settings: Settings, app: App, space: Space, initial: Configuration | None, name: str, secrets: Secrets
) -> Composed:
    root = _root(settings, app.r_max, name)
    scheduler, own = options.scheduler(settings.scheduler, root, settings.scheduler_options)
    resumes, budget = bool(settings.resume or settings.inject), Budget(**settings.budget)
    composed = Composed.of(
        space,
        scheduler,
        options.searcher(settings.searcher, root, settings.searcher_options),
        name,
        settings.seed,
        initial,
        budget,
        settings.metric or VALUE,
        settings.direction == "maximize",
        app.directory,
        own,
        unit=app.unit,
        resumes=resumes,
        door="hydra.sweeper",
    )
    told = {"resource": app.resource, "resume": shlex.join(app.resume), "inject": app.inject}
    recorded = {**composed.header.provenance.options, **told, "overrides": secrets.redact(shlex.join(app.fixed))}
    header = replace(
        composed.header,
        scheduler=settings.scheduler,
        searcher=settings.searcher,
        settings={**composed.header.settings, "options": recorded},
    )
    steps = {"eta": settings.eta, "r_min": settings.r_min, "r_max": app.r_max}
    budget = fair(budget, composed.scheduler, cost_of(resumes), **steps, workers=settings.workers or 1)
    return replace(composed, header=header, budget=budget)


def _executor(
    settings: Settings,
    app: App,
    context: HydraContext,
    function: Callable[[Any], Any],
    config: DictConfig,
    composed: Composed,
    arguments: list[str],
) -> Executor:
    if settings.launch == "subprocess":
        words = [*program(), "-m", *_kept(arguments)]
        return Process(Programs(app, tuple(words), settings.retries), settings.workers or 1, settings.retries)
    from hydra.core.plugins import Plugins

    config = copy.deepcopy(config)  # what was typed is kept as it was
    with read_write(config.hydra):
        config.hydra.overrides.hydra.append(f"++hydra.job.env_set.{VARIABLE}=''")  # there each job sets it quietly
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=function, config=config)
    return Launched(app, launcher.launch, composed.header.plan, settings.workers, settings.retries)


def _ended(app: App, arguments: list[str], history: History) -> Ended:
    """Name the winner, and the command that trains it alone."""
    if history.incumbent is None:
        return Ended(None)
    trial, evaluation = history.incumbent
    typed_so = [word for word in _kept(arguments) if not word.lstrip("+~").startswith(_OF_THE_SWEEP)]
    task = app.task(Job(trial.trial, trial.configuration, 0, evaluation.resource))
    one = [] if set(_MULTIRUN) & set(sys.argv) else ["hydra.mode=RUN"]
    return Ended(trial.trial, command=shlex.join([*_called(), *typed_so, *task, *one]))


def _kept(arguments: Sequence[str]) -> list[str]:
    """Return what was typed beside the app's own overrides, and beside that it is a multirun of this sweep."""
    ours = ("hydra.sweep.dir=", "hydra.sweeper.resume_from=")
    return [
        word
        for word in sys.argv[1:]
        if word not in arguments and word not in _MULTIRUN and not word.lstrip("+").startswith(ours)
    ]


def _called() -> list[str]:
    """Return the words by which this app was called."""
    module = main_module()
    return ["python", "-m", module] if module else ["python", sys.argv[0]]
