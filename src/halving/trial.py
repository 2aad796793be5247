"""The words that scheduler, tuner and executor exchange: frozen values and nothing else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from halving.fields import Checkpoint, Count, Words

Value = bool | int | float | str | None
Configuration = dict[str, Value]

AVERAGED = "averaged_"  # begins the names of what is measured with averaged weights


def plain(value: Any) -> Any:
    """Return the Python value that a scalar of NumPy or a tensor of no dimension holds; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


@dataclass(frozen=True, slots=True)
class Start:
    """Train a new trial from nothing until `until` units of resource are spent."""

    trial: Count
    configuration: Configuration
    until: Count
    bracket: Count = 0
    rung: Count = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resume:
    """Train a paused trial, which has spent `since`, on to `until`: a promotion."""

    trial: Count
    since: Count
    until: Count
    rung: Count = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Wait:
    """There is nothing to run until an outcome arrives."""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more will ever be suggested."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an assignment came to: the error (minimised) after `resource` units.

    `curve` holds the errors at since + 1 .. resource where the objective measures them. A failed assignment may have
    spent less than it was asked to.
    """

    trial: Count
    resource: Count
    error: float
    failed: bool = False
    curve: tuple[float, ...] = ()

    @property
    def rank_error(self) -> float:
        """The error by which trials are ranked: failures and non-finite errors come last, as +inf."""
        return math.inf if self.failed or not math.isfinite(self.error) else self.error


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state that an outcome gives a trial: "paused", "stopped", "completed" or "failed"."""

    trial: Count
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """An assignment as an executor gets it: train `configuration` from `since` on to `until`.

    `streams` are a confirmation's fresh random streams, by the root keys that draw them; its `trial` is below 0, and no
    trial's.
    """

    trial: int
    configuration: Configuration
    since: int
    until: int
    streams: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def label(self) -> str:
        """What people call it: "trial 3", or "confirmation 3"."""
        return f"trial {self.trial}" if self.trial >= 0 else f"confirmation {-self.trial}"


@dataclass(frozen=True, slots=True)
class Epoch:
    """Metrics of a running trial after epoch `epoch` (from 1) of its training."""

    trial: Count
    epoch: Count
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Restarted:
    """A running assignment had to begin again, from `since`: its worker died, or its checkpoint was damaged."""

    trial: Count
    since: Count
    reason: Words


@dataclass(frozen=True, slots=True)
class Finished:
    """An assignment ended: its outcome, the seconds it took, its checkpoint, and the cause if it failed.

    `cost` is the resource that was spent on it (`until - since` where training resumes, `until` where it restarts).
    """

    outcome: Outcome
    seconds: float = 0.0
    checkpoint: Checkpoint | None = None
    cause: Words = ""
    cost: float = 0.0


Assignment = Start | Resume
Step = Epoch | Restarted | Finished
