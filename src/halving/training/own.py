"""A training of the user's: a function of one argument that yields, or reports, the metrics of each epoch."""

import hashlib
import inspect
import json
import logging
import pickle
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from types import FrameType
from typing import Any, Never

from halving.checkpoints.files import room
from halving.checkpoints.store import State, Store
from halving.data.keys import trial_seed
from halving.errors import StudyError, UserError, first_line
from halving.training import randomness
from halving.training.base import Exhausted
from halving.training.pausing import Course, retrained, train
from halving.training.rendezvous import Rendezvous
from halving.trial import Configuration, Job, Step

log = logging.getLogger(__name__)


@dataclass(eq=False)
class Running:
    """A trial as its training sees it.

    It has gone `since` epochs and goes on to `until`, which is this rung and not the last: a learning-rate schedule
    spans more. `seed` is the trial's own, from which Python's, NumPy's and torch's global generators have begun.
    `config` is its whole resolved configuration where Hydra composed one.
    """

    number: int
    configuration: Configuration
    seed: int
    until: int = 0
    since: int = 0
    config: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    _work: Callable[..., Path] | None = field(default=None, repr=False)
    _directory: Path | None = field(default=None, repr=False)
    _values: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    _parts: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    _tell: Callable[[Any], None] | None = field(default=None, repr=False)

    @property
    def directory(self) -> Path:
        """A directory for files to go on from: what lies there at the end of an epoch is there when the trial resumes.

        Between two pauses it may be another one, so it is asked for and not remembered.
        """
        if self._directory is None:
            assert self._work is not None
            self._directory = self._work()
        return self._directory

    def keep(self, *nameless: object, **parts: Any) -> int:
        """Keep `parts` from pause to pause and return how many epochs are done: call it when all is built.

        A part has `state_dict` and `load_state_dict`, or is a generator of Python, NumPy or torch. In a trial that goes
        on they get the states that they paused with, and the global generators theirs, as building has drawn from them.

        Raises StudyError for what cannot be kept, or was not kept before.
        """
        if nameless:
            raise StudyError("trial.keep: each part has a name: trial.keep(model=model, optimizer=optimizer)")
        for name, part in parts.items():
            state_of(name, part)
        self._parts |= parts
        if self.since:
            kept = self._values.get("kept", {})
            for name, part in parts.items():
                if name not in kept:
                    raise StudyError(
                        f"trial.keep({name}=...): the checkpoint after {self.since} has no such part, as it was not "
                        "kept when the study began: begin another one"
                    )
                _give_back(part, kept[name])
            randomness.restore(self._values["random"])
        return self.since

    def __getitem__(self, name: str) -> Never:
        """Raises StudyError: the configuration is one of its attributes."""
        raise StudyError(
            f"a function of one argument is a training, and gets the trial: trial.configuration[{name!r}]; one that "
            "returns an error has two, configuration and resource"
        )

    def report(self, metrics: Mapping[str, float]) -> None:
        """Tell the metrics of one more epoch, as a yield does; does not return where the trial pauses.

        Raises UserError in a function that yields.
        """
        if self._tell is None:
            raise UserError("trial.report: this training yields its metrics; do one or the other")
        self._tell(metrics)


class Own:
    """Trains by a user's function, whose random numbers, gradient mode and working directory are its own."""

    def __init__(self, function: Callable[[Running], Any], running: Running, metric: str) -> None:
        self._function = function
        self._running = running
        self._metric = metric
        self._random: Mapping[str, Any] | None = None
        self._modes: Any = None
        self._steps: Any = None

    @property
    def kept(self) -> Mapping[str, Any]:
        """What its function gave to `trial.keep`."""
        return self._running._parts

    @property
    def frames(self) -> Iterator[FrameType]:
        """Where its function waits between two epochs: its frame, and those of the generators that it yields from."""
        steps = self._steps
        yield from getattr(steps, "frames", ())
        while (frame := getattr(steps, "gi_frame", None)) is not None:
            yield frame
            steps = steps.gi_yieldfrom

    def aim(self, until: int) -> None:
        self._running.until = until

    def epoch(self, epoch: int) -> dict[str, float]:
        with self._own_world(), room(lambda: self._running._directory or Path.cwd()):
            if self._steps is None:
                self._steps = self._begun()
            try:
                told = next(self._steps)
            except StopIteration:
                raise Exhausted(
                    f"the training ended after {epoch - 1} of {self._running.until} epochs; it yields or reports each, "
                    "or has a callback that does, and goes on until it is closed: for epoch in itertools.count("
                    "done + 1)"
                ) from None
            except pickle.UnpicklingError as error:
                if "weights_only" not in str(error):
                    raise
                raise StudyError(
                    f"torch refuses a checkpoint that the training loads: {_refused(str(error))}; allow that by "
                    "torch.serialization.add_safe_globals, or trust the file with weights_only=False "
                    "(in Lightning, of trainer.fit)"
                ) from error
        return measured(told, self._metric, epoch)

    def state(self) -> State | None:
        parts = {name: state_of(name, part) for name, part in self._running._parts.items()}
        if self._steps is None:  # restored, and not begun: it is what it was
            parts = self._running._values.get("kept", {})
        directory = self._running._directory
        files = directory if directory is not None and any(directory.iterdir()) else None
        if not parts and files is None:
            return None
        return State({"kept": parts, "random": self._random}, files)

    def restore(self, state: State) -> None:
        running = self._running
        running.since, running._values, self._random = state.resource, state.values, state.values.get("random")
        if state.files is not None:
            assert running._work is not None
            running._directory = running._work(state.files)

    def test(self, state: State, function: Callable[[Running], Mapping[str, float]]) -> dict[str, float]:
        """Return what another function measures of the trained trial, and end it."""
        try:
            self.restore(state)
            with self._own_world():
                return {name: _number(name, value) for name, value in function(self._running).items()}
        finally:
            self.close()

    def close(self) -> None:
        try:
            if self._steps is not None:
                with self._own_world():
                    self._steps.close()
        except Exception:  # what a function does at its end, after its trial's, changes nothing
            log.warning("trial %d: its training raised when it was closed", self._running.number, exc_info=True)
        if self._running._directory is not None:
            rmtree(self._running._directory, ignore_errors=True)
            self._running._directory = None

    def _begun(self) -> Any:
        if inspect.isgeneratorfunction(self._function):
            return self._function(self._running)

        from halving.training import modes

        mine = modes.initial()

        def work(report: Callable[[Any], None]) -> Any:
            mine.switch()  # of this thread
            self._running._tell = report
            return self._function(self._running)

        return Rendezvous(work)

    @contextmanager
    def _own_world(self) -> Iterator[None]:
        """Let the global generators and torch's modes be as this training left them, and then as they were."""
        from halving.training import modes

        with randomness.one_thread():
            outside, left = randomness.captured(), list[Any]()
            try:
                with modes.switched(self._modes or modes.initial()) as left:
                    if self._random is None:
                        randomness.begin(self._running.seed)
                    else:
                        randomness.restore(self._random)
                    yield
            finally:
                self._random, (self._modes,) = randomness.captured(), left
                randomness.restore(outside)


def is_training(function: Callable[..., Any]) -> bool:
    """Whether a function is a training, of one trial, rather than one of a configuration and a resource."""
    try:
        first, *others = inspect.signature(function).parameters.values()
    except ValueError:  # it has none, or does not tell
        return False
    needed = [each for each in others if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    open_ended = any(each.kind is each.VAR_POSITIONAL for each in (first, *others))
    return (
        not needed and not open_ended and (not others or first.name == "trial" or inspect.isgeneratorfunction(function))
    )


def hashed(seed: int, trial: int, configuration: Configuration) -> str:
    """Hash what a trial's checkpoint follows from, where no config says it."""
    parts = [seed, trial, configuration]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Trainings:
    """An objective of a user's training: every job trains its configuration on to `until`, from where it paused.

    `test`, a function of a trial too, measures the winner, as its parts are kept and its files left. Trainings begin
    with as many `threads` as torch has where the objective was made, in other processes too.
    """

    function: Callable[[Running], Any]
    store: Store
    seed: int
    metric: str
    r_max: int
    test_function: Callable[[Running], Mapping[str, float]] | None = None
    threads: int | None = field(default_factory=lambda: _threads(), compare=False)

    @property
    def run_dir(self) -> Path:
        return self.store.run_dir

    def at(self, run_dir: Path) -> "Trainings":
        """Return the same with its checkpoints below another directory."""
        return replace(self, store=Store(run_dir))

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        if self.threads is not None and self.threads != _threads():  # other numbers give other bits
            import torch

            torch.set_num_threads(self.threads)
        for job in jobs:
            yield from self._run(job)

    def test(self, job: Job) -> dict[str, float]:
        """Return what `test_function` measures of a trial that has finished `job`, if there is one."""
        if self.test_function is None:
            return {}
        state = retrained(self.store, job, self._course(job).config, self._run)
        return self._begun(job).test(state, self.test_function)

    def ensemble(self, jobs: Sequence[Job]) -> dict[str, float]:
        """Return nothing: what others' models predict is theirs to say."""
        return {}

    def _run(self, job: Job) -> Generator[Step]:
        yield from train(lambda: self._begun(job), self.store, job, self._course(job))

    def _course(self, job: Job) -> Course:
        seed, trial = self._stream(job)
        return Course(self.metric, self.r_max, hashed(seed, trial, job.configuration))

    def _begun(self, job: Job) -> Own:
        work = partial(self.store.working, job.trial)
        seed, trial = self._stream(job)
        running = Running(trial, dict(job.configuration), trial_seed(seed, trial), job.until, _work=work)
        return Own(self.function, running, self.metric)

    def _stream(self, job: Job) -> tuple[int, int]:
        return job.streams.get("seed", self.seed), job.streams.get("trial", job.trial)


def _threads() -> int | None:
    """Return how many threads torch has here, None where nobody has imported it."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()


def measured(told: Any, metric: str, epoch: int) -> dict[str, float]:
    """Return what was told as names and numbers; a single number is the metric. Raises StudyError for another thing."""
    if not isinstance(told, Mapping):
        told = {metric: told}
    metrics = {str(name): _number(name, value) for name, value in told.items()}
    if (said := metrics.pop("epoch", epoch)) != epoch:
        raise StudyError(
            f"the training says that this is epoch {said:g}, where {epoch} follows: it goes on from trial.since, with "
            "Pausing from ckpt_path (Transformers: resume_from_checkpoint) = pausing.checkpoint"
        )
    if taken := {"trial", "resource"} & metrics.keys():
        raise StudyError(f"the training reports {', '.join(sorted(taken))}, which a curve has of its own: rename it")
    return metrics


def _refused(message: str) -> str:
    found = re.search(r"Unsupported global: GLOBAL (\S+)", message)
    return f"it holds a {found[1]}" if found else first_line(message)


def _number(name: object, value: Any) -> float:
    try:
        number = value.item() if hasattr(value, "item") else value
        if isinstance(number, str | bytes):
            raise TypeError
        return float(number)
    except (TypeError, ValueError, RuntimeError) as error:
        raise StudyError(f"the training reports {name}={value!r}, which is no number") from error


def state_of(name: str, part: Any) -> Any:
    """Return the state of what can be kept, in what a checkpoint may hold."""
    from halving.checkpoints.content import storable

    match part:
        case _ if hasattr(part, "state_dict") and hasattr(part, "load_state_dict"):
            state = part.state_dict()
        case _ if hasattr(part, "bit_generator"):
            state = part.bit_generator.state
        case _ if hasattr(part, "get_state") and hasattr(part, "set_state"):
            state = part.get_state()
        case _ if hasattr(part, "getstate") and hasattr(part, "setstate"):
            state = part.getstate()
        case _:
            raise StudyError(
                f"trial.keep({name}=...): a {type(part).__name__} has no state_dict and load_state_dict; write it to "
                "trial.directory before each yield, and read it there where trial.since is not 0"
            )
    return storable(state, f"trial.keep({name}=...)")


def _give_back(part: Any, state: Any) -> None:
    match part:
        case _ if hasattr(part, "load_state_dict"):
            part.load_state_dict(state)
        case _ if hasattr(part, "bit_generator"):
            part.bit_generator.state = state
        case _ if hasattr(part, "set_state"):
            part.set_state(state)
        case _:
            part.setstate(state)
