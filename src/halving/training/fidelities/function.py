"""Any function of a configuration and a resource, in place of training."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from halving.data.keys import key
from halving.errors import StudyError
from halving.targets import locate
from halving.training.fidelities.base import Axis, Setting
from halving.training.randomness import seeded
from halving.trial import Finished, Job, Outcome, Step, Value


@dataclass(frozen=True)
class Function(Axis):
    """The resource means what `function(configuration, resource) -> error` takes it to mean; each rung starts anew.

    What it draws from global generators follows from (seed, trial, resource); without a `seed` these are left alone.
    """

    function: str
    configuration: Mapping[str, Value] = field(default_factory=dict[str, Value])
    unit: str = "units"
    resumable: bool = False
    seed: int | None = None
    trial: int = 0
    measures = "error"

    def prepare(self, setting: Setting) -> None:
        locate(self.function, "fidelity.function")

    def run(self, setting: Setting, job: Job) -> Generator[Step]:
        seed = None if self.seed is None else key(self.seed, self.trial, job.until)
        yield call(locate(self.function, "fidelity.function"), dict(self.configuration), job, seed)


def call(
    function: Callable[[dict[str, Value], int], float],
    configuration: dict[str, Value],
    job: Job,
    seed: int | None = None,
) -> Finished:
    """Evaluate a plain function for a job, with the global generators beginning at `seed`."""
    began = time.perf_counter()
    with nullcontext() if seed is None else seeded(seed):
        error: Any = function(configuration, job.until)
    if isinstance(error, Iterator):
        raise StudyError(
            "the function yields, and a training takes one argument, the trial; functools.wraps keeps a decorated one's"
        )
    error = float(error.item() if hasattr(error, "item") else error)  # of an array, its one element
    return Finished(Outcome(job.trial, job.until, error), time.perf_counter() - began)
