"""A table of recorded learning curves, in place of training."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from halving.curves.table import Curves, load, row_of
from halving.errors import UserError
from halving.trial import Epoch, Finished, Job, Outcome, Step


@dataclass(frozen=True)
class Table:
    """The resource is the table's own; a job looks up the row that its configuration names.

    Between two levels the last measurement counts. Where the table has no seconds, a unit of resource takes one. NaN is
    a trial that diverged: it fails there, with the resource and the seconds of what came before. With `resumable=False`
    every rung trains anew. With `epochs_too` a job also tells of each level that it passes.
    """

    curves: Curves
    resumable: bool = True
    epochs_too: bool = False

    measures = "error"
    trains = False
    loads = False

    @property
    def unit(self) -> str:
        return self.curves.unit

    def cost(self, since: int, until: int) -> float:
        return until - since if self.resumable else until

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        for job in jobs:
            finished = self.look_up(job)
            if self.epochs_too:
                row = row_of(job.configuration)
                for level in range(self.curves.level(job.since) + 1, self.curves.level(finished.outcome.resource) + 1):
                    metrics = {"val_error": self._errors[row][level], "seconds": self._lap(row, level)}
                    yield Epoch(job.trial, int(self.curves.resource[level]), metrics)
            yield finished

    def look_up(self, job: Job) -> Finished:
        """Return what the job comes to."""
        row = row_of(job.configuration)
        survives = self._survives[row]
        self.check(job.until)
        since = job.since if self.resumable else 0
        level = job.until - 1 if self.curves.dense else self.curves.level(job.until)
        if survives >= self._resource[level]:
            outcome = Outcome(
                job.trial, job.until, self._errors[row][level], curve=self._curve(row, job.since, job.until)
            )
            return Finished(outcome, self._time(row, job.until) - self._time(row, since))
        reached = max(survives, job.since)
        outcome = Outcome(job.trial, reached, math.nan, failed=True, curve=self._curve(row, job.since, reached))
        cause = f"diverged between {reached} and {job.until}"
        return Finished(outcome, max(0.0, self._time(row, reached) - self._time(row, since)), cause=cause)

    def check(self, *resources: int) -> None:
        """Raise UserError for a resource that lies outside the table's levels."""
        for resource in resources:
            if not self._resource[0] <= resource <= self._resource[-1]:
                raise UserError(
                    f"resource {resource}: the table has levels from {self._resource[0]} to {self._resource[-1]}; "
                    "r_min and r_max must lie within them"
                )

    def _curve(self, row: int, since: int, until: int) -> tuple[float, ...]:
        return tuple(self._errors[row][since:until]) if self.curves.dense else ()

    def _time(self, row: int, resource: int) -> float:
        """The seconds from the start of a row to a resource, in proportion between two levels."""
        if self._seconds is None or resource == 0:
            return float(resource)
        if self.curves.dense:
            return self._seconds[row][resource - 1]
        level = self.curves.level(resource)
        done, spent = self._resource[level], self._seconds[row][level]
        if resource == done:
            return spent
        ahead, then = self._resource[level + 1], self._seconds[row][level + 1]
        if not math.isfinite(then):  # it diverges there, and goes on at its pace until then
            return spent * resource / done
        return spent + (then - spent) * (resource - done) / (ahead - done)

    def _lap(self, row: int, level: int) -> float:
        before = self._time(row, self._resource[level - 1]) if level else 0.0
        return self._time(row, self._resource[level]) - before

    # Lists: of single numbers, they give one several times as fast as an array.
    @cached_property
    def _errors(self) -> list[list[float]]:
        return self.curves.error.tolist()

    @cached_property
    def _seconds(self) -> list[list[float]] | None:
        return None if self.curves.seconds is None else self.curves.seconds.tolist()

    @cached_property
    def _resource(self) -> list[int]:
        return self.curves.resource.tolist()

    @cached_property
    def _survives(self) -> list[int]:
        """The last resource at which each row has an error, 0 where it has none."""
        counts = np.isfinite(self.curves.error).sum(axis=1)
        return np.concatenate(([0], self.curves.resource))[counts].tolist()


def from_file(curves: str, resumable: bool = True, **defaults: Any) -> Table:
    """Return the fidelity for the table in a file; `defaults` are those of the root's r_min, r_max and epochs."""
    return Table(load(curves), resumable, epochs_too=True)
