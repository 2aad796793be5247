"""How a job of the study becomes one of the app's, and an answer a step of the study."""

import logging
import math
import os
import re
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from halving.config.commands import literal, override, read
from halving.errors import StudyError, UserError, did_you_mean, last_line
from halving.executors.base import failure
from halving.sweep.answers import CHILD, VALUE, VARIABLE, Answer, Rung
from halving.sweep.parameters import Parameter
from halving.training.program import grouped
from halving.trial import Epoch, Finished, Job, Outcome, Restarted, Step

log = logging.getLogger(__name__)

_PLACE = re.compile(r"\{(\w+)\}")
_MARK = "_the_directory_of_the_trial_"


@dataclass(frozen=True)
class App:
    """An app's jobs: overrides that all have, and how each is told its trial's values, resource and where it goes on.

    With `inject` the resource stays at `r_max`, and a callback ends the training at the rung.
    """

    directory: Path
    fixed: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    resource: str
    resume: tuple[str, ...]
    metric: str | None
    inject: str | None
    r_max: int

    @property
    def unit(self) -> str:
        """What the resource's key counts: `trainer.max_steps` steps."""
        word = self.resource.rpartition(".")[2].rpartition("_")[2]
        return "epochs" if "epoch" in word else word if word.endswith("s") else "units"

    def place(self, trial: int) -> Path:
        return self.directory / str(trial)

    def rung(self, job: Job) -> Rung:
        return Rung(self.place(job.trial), job.since, job.until)

    def task(self, job: Job) -> list[str]:
        """Return the overrides that are the app's own."""
        values = [self.parameters[name].override(value) for name, value in job.configuration.items()]
        resource = override(self.resource, job.until if self.inject is None else self.r_max)
        places = {"directory": self.place(job.trial), "since": job.since, "until": job.until, "trial": job.trial}
        resumed = [filled(each, places) for each in self.resume] if job.since else []
        return [*self.fixed, *values, resource, *resumed]

    def overrides(self, job: Job) -> list[str]:
        """Return these, and where it writes."""
        return [
            *self.task(job),
            override("hydra.sweep.dir", str(self.directory)),
            override("hydra.sweep.subdir", str(job.trial)),
        ]

    def answer(self, job: Job) -> Answer | None:
        return Answer.at(self.rung(job).answer)

    def steps(self, job: Job, answer: Answer) -> tuple[Step, ...]:
        """Return what an answer tells of a job."""
        if answer.cause:
            return (failure(job, answer.cause, answer.seconds),)
        name = self.metric or VALUE
        told = [*({} for _ in range(job.since, job.until - 1)), answer.metrics]
        if len(answer.epochs) == len(told):
            told = [{**before, **after} for before, after in zip(answer.epochs, told, strict=True)]
        steps = [Epoch(job.trial, job.since + i + 1, metrics) for i, metrics in enumerate(told) if metrics]
        curve = tuple(metrics[name] for metrics in told) if all(name in metrics for metrics in told) else ()
        error = answer.metrics[name]
        if not math.isfinite(error):
            cause = f"diverged: {name} is {error} at {job.until}"
            failed = Outcome(job.trial, job.until, math.nan, failed=True)
            return *steps, Finished(failed, answer.seconds, cause=cause)
        return *steps, Finished(Outcome(job.trial, job.until, error, curve=curve), answer.seconds)


def filled(text: str, places: Mapping[str, object]) -> str:
    """Return an override with what belongs in the place of `{directory}`, `{since}`, `{until}` and `{trial}`.

    Raises UserError for another name.
    """
    for name in _PLACE.findall(text):
        if name not in places:
            raise UserError(f"hydra.sweeper.resume: {text}: there is no {{{name}}}{did_you_mean(name, places)}")
    text = _PLACE.sub(lambda found: found[0] if found[1] == "directory" else str(places[found[1]]), text)
    key, _, value = text.partition("=")
    marked = read(f"x={value.replace('{directory}', _MARK)}")
    if isinstance(marked, str) and _MARK in marked:
        return f"{key}={literal(marked.replace(_MARK, str(places['directory'])))}"
    return text.replace("{directory}", str(places["directory"]))


@dataclass(frozen=True)
class Programs:
    """Runs the app as it was called, for one job at a time, as a program of its own. Picklable."""

    app: App
    words: tuple[str, ...]
    retries: int

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        for job in jobs:
            yield from self._run(job)

    def _run(self, job: Job) -> Generator[Step]:
        attempt, rung = 0, self.app.rung(job)
        while (answer := self.app.answer(job)) is None:
            reason = self._program(job)
            rung.check()
            if not rung.answer.exists():
                if attempt == self.retries:
                    yield failure(job, reason, 0.0)
                    return
                attempt += 1
                yield Restarted(job.trial, job.since, f"{reason}; retry {attempt} of {self.retries}")
        yield from self.app.steps(job, answer)

    def _program(self, job: Job) -> str:
        """Run the program to its end; say how it ended."""
        rung = self.app.rung(job)
        said = rung.answer.with_suffix(".log")
        said.parent.mkdir(parents=True, exist_ok=True)
        words, told = [*self.words, *self.app.overrides(job)], {CHILD: "1", VARIABLE: rung.told()}
        with said.open("w") as errors, grouped(words, {**os.environ, **told}, errors) as (program, lines):
            for line in lines:
                errors.write(line)
            status = program.wait()
        if not rung.lock.exists():
            last = last_line(said.read_text(errors="replace"))
            raise StudyError(f"the app ended with status {status} before its function began: {last}; see {said}")
        end = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return f"the app {end}, without an answer; {said} has what it said"


def main_module() -> str:
    """Return the module as which Python runs this app, nothing where it is a file."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return "" if spec is None else spec.name.removesuffix(".__main__")


def program() -> tuple[str, ...]:
    """Return the words by which Python runs this app again. Raises UserError where nothing tells."""
    if module := main_module():
        return (sys.executable, "-m", module)
    if not Path(sys.argv[0]).is_file():
        raise UserError(f"hydra.sweeper.launch=subprocess: {sys.argv[0]!r} is no program that could be run again")
    return (sys.executable, str(Path(sys.argv[0]).absolute()))
