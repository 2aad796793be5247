"""What a study optimises: training one trial, as executors run it here or in other processes."""

import logging
import os
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from halving.checkpoints.store import Store
from halving.config.request import Request
from halving.errors import DeviceFull, UserError, first_line
from halving.space import Space
from halving.targets import check_trusted, instantiate
from halving.training import ensemble
from halving.training.batched.joining import Unlike
from halving.training.fidelities.base import Fidelity, Setting
from halving.training.fidelities.epochs import Epochs
from halving.training.trainer import Trainer
from halving.trial import Configuration, Job, Step

log = logging.getLogger(__name__)

_NONE: Mapping[str, int] = MappingProxyType({})
# What no job builds; the study's parent has checked it, and to import it here would cost a worker a second.
_OF_THE_PARENT = ("space", "searcher", "scheduler", "executor", "tracker")
_KNOWN = 256  # configs of trials


@dataclass(frozen=True)
class ConfiguredObjective:
    """Trains the jobs of what is requested, with `threads` each."""

    request: Request
    run_dir: Path
    threads: int
    store: Store = field(init=False, compare=False)
    _known: dict[str, dict[str, Any]] = field(default_factory=dict[str, Any], init=False, compare=False, repr=False)
    _said: set[str] = field(default_factory=set[str], init=False, compare=False, repr=False)  # of what is not together

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", Store(self.run_dir))

    def at(self, run_dir: Path) -> "ConfiguredObjective":
        """Return the same with its checkpoints below another directory."""
        return replace(self, run_dir=run_dir)

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        """Run jobs, neighbours that are alike as one program.

        Raises MemoryError where the machine's memory is full, UserError where the device's is.
        """
        if len(jobs) == 1:
            yield from self._run(jobs)
            return
        for (likeness, *_), group in groupby(jobs, lambda job: (self.alike(job), job.since, job.until)):
            for together in (tuple(group),) if likeness is not None else ((job,) for job in group):
                yield from self._run(together)

    def alike(self, job: Job) -> Hashable | None:
        """Return what is equal for jobs which can be one program between the same rungs, None for one that cannot be.

        The log says once why. What is wrong with a configuration, the job itself is to say.
        """
        try:
            fidelity, setting = self._prepared(job)
            if not isinstance(fidelity, Epochs):
                raise Unlike(f"fidelity={type(fidelity).__name__.lower()}")
            if setting.config["executor"].get("program") == "single":
                return None
            return fidelity.alike(setting)
        except Unlike as reason:
            if str(reason) not in self._said:
                self._said.add(str(reason))
                log.warning("%s trains one trial at a time, not many as one program", reason)
        except (Exception, SystemExit):  # a model may raise anything
            pass
        return None

    def _run(self, jobs: Sequence[Job]) -> Generator[Step]:
        fidelities, settings = zip(*map(self._prepared, jobs), strict=True)
        with self._memory():
            if len(jobs) == 1:
                yield from fidelities[0].run(settings[0], jobs[0])
            else:
                yield from fidelities[0].run_together(settings, jobs)

    @contextmanager
    def _memory(self) -> Generator[None]:
        """Raise DeviceFull where the device's memory is full, MemoryError where the machine's is."""
        try:
            yield
        except RuntimeError as error:  # OutOfMemoryError is one, and AcceleratorError, where not even CUDA has room
            if isinstance(error, torch.OutOfMemoryError) or "CUDA error: out of memory" in str(error):
                said = ". ".join(first_line(error).split(". ")[:3])  # and not of each process what it has
                raise DeviceFull(
                    f"out of memory on {self.request['device']}: a smaller data.batch_size, model or executor.batch "
                    f"needs less, and a lower executor.trials_per_gpu leaves more ({said})"
                ) from error
            if "can't allocate memory" in str(error):
                raise MemoryError(first_line(error)) from error
            raise

    def prepare(self, configuration: Configuration) -> Fidelity:
        """Return the fidelity, after building everything once. Raises UserError for what could not run."""
        fidelity, setting = self._prepared(Job(0, dict(configuration), 0, 0))
        with self._memory():
            fidelity.prepare(setting)
        return fidelity

    def prepare_options(self, space: Space) -> None:
        """Build every option of the space's choices once. Raises UserError for what could not run."""
        built: set[tuple[str, str]] = set()
        for chosen in space.combinations():
            if not built.issuperset(chosen.items()):
                self.prepare(dict(chosen))
                built.update(chosen.items())

    def data(self) -> str | None:
        """Return the digest of what is trained on, None where a training brings data of its own."""
        fidelity, setting = self._prepared(Job(0, {}, 0, 0))
        with self._memory():
            return setting.recipe().data.digest() if fidelity.loads else None

    def test(self, job: Job) -> dict[str, float]:
        """Return the test metrics of a trial that has finished `job`."""
        fidelity, setting = self._prepared(job)
        with self._memory():
            return fidelity.test(setting, job)

    def ensemble(self, jobs: Sequence[Job]) -> dict[str, float]:
        """Return the test metrics of the mean prediction of what finished jobs trained, if that is our own loop."""
        with self._memory():
            return ensemble.test(chain.from_iterable(self._trained(job) for job in jobs))

    def _trained(self, job: Job) -> Iterable[Trainer]:
        fidelity, setting = self._prepared(job)
        return fidelity.trained(setting, job)

    def config(self, configuration: Configuration, trial: int, streams: Mapping[str, int] = _NONE) -> dict[str, Any]:
        """Return a trial's plain resolved config, with a confirmation's own `streams`.

        To resolve it takes as long as a small trial's epoch, and it is asked for several times: the last are known.
        """
        asked = repr((trial, configuration, streams))
        if asked not in self._known:
            if len(self._known) == _KNOWN:
                del self._known[next(iter(self._known))]
            self._known[asked] = self.request.config(configuration, trial, streams)
        return deepcopy(self._known[asked])

    def _prepared(self, job: Job) -> tuple[Fidelity, Setting]:
        config = self.config(job.configuration, job.trial, job.streams)
        check_trusted({root: config[root] for root in config if root not in _OF_THE_PARENT}, self.request.trusted)
        torch.set_num_threads(self.threads)  # after what is the user's was imported, as that may set it
        fidelity: Fidelity = instantiate(config["fidelity"], "fidelity")
        return fidelity, Setting(config, self.store, self.threads)


@dataclass(frozen=True)
class Elsewhere:
    """An objective on other machines, which have a device of their own, and perhaps their own place for the data.

    `device` is as configured. Where `moves`, what HALVING_DATA says there counts; else the data lie where they do here.
    """

    objective: ConfiguredObjective
    device: str
    moves: bool

    @property
    def run_dir(self) -> Path:
        return self.objective.run_dir

    def at(self, run_dir: Path) -> "Elsewhere":
        return replace(self, objective=self.objective.at(run_dir))

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        yield from self._here(jobs)

    def alike(self, job: Job) -> Hashable | None:
        return self.objective.alike(job)

    @cached_property
    def _here(self) -> ConfiguredObjective:
        there = Path(os.environ.get("HALVING_DATA", ""))
        moved = {"data_dir": str(there)} if self.moves and there.is_absolute() else {}
        return replace(self.objective, request=self.objective.request.but(device=found(self.device), **moved))


def found(device: str) -> str:
    """Return the device that a name stands for on this machine. Raises UserError where there is no such one."""
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device={device}: no such device; give auto, cpu, cuda or cuda:1") from error
    if kind.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device}: there is no CUDA device here; device=auto takes what there is")
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device}: there are only cuda:0 to cuda:{torch.cuda.device_count() - 1} here")
    try:
        if kind.type != "cuda":  # which would take its memory for this process too
            torch.zeros(1, device=kind).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # torch has a way of its own for each
        raise UserError(f"device={device}: cannot be used here; device=auto takes what there is") from error
    return "cuda:0" if device == "cuda" else device
