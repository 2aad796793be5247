"""Trials in training together, each of which pauses, resumes and ends as if it were alone."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from halving.checkpoints.store import State, Store
from halving.training.batched.allocation import keep_memory
from halving.training.batched.choice import choice, steady
from halving.training.batched.program import Program
from halving.training.loop import enough_examples
from halving.training.pausing import Course, opened
from halving.training.recipe import Recipe
from halving.training.trainer import Trainer
from halving.trial import Job, Step


def train(
    recipes: Sequence[Recipe], store: Store, jobs: Sequence[Job], course: Course, forced: bool
) -> Generator[Step]:
    """Train jobs that are alike: yield the epochs of all and, of each, one Finished.

    They are one program where a probe finds that right and, unless `forced`, faster. Closed before its end, or where
    one of them raises, it leaves checkpoints of all.
    """
    store.close()
    group = Group(forced)
    course = replace(course, together=len(jobs))
    left: list[Generator[Step | None]] = [
        _steps(partial(group.join, recipe), store, job, replace(course, config=recipe.config))
        for recipe, job in zip(recipes, jobs, strict=True)
    ]
    behind: Iterator[Generator[Step | None]] = iter(())
    try:
        while left:
            behind = iter(tuple(left))
            for steps in behind:
                try:
                    step = next(steps)
                except StopIteration:
                    left.remove(steps)
                else:
                    if step is not None:
                        yield step
    except GeneratorExit:
        for steps in behind:  # whose next epoch was trained with that of the others
            next(steps, None)
        raise
    finally:
        for steps in left:
            steps.close()
        group.close()


def _steps(begin: Any, store: Store, job: Job, course: Course) -> Generator[Step | None]:
    steps = yield from opened(begin, store, job, course)
    yield None  # until the others are there, too
    yield from steps


class Group:
    """Trials of which those that are equally far train an epoch when the first of them asks for it."""

    def __init__(self, forced: bool) -> None:
        self.broken = False
        self._forced, self._apart = forced, False
        self._members: list[Member] = []
        self._program: tuple[list[Member], Program | None] = ([], None)

    def join(self, recipe: Recipe) -> "Member":
        """Begin a trial."""
        self._members.append(member := Member(Trainer(recipe), self))
        return member

    def leave(self, member: "Member") -> None:
        """Let a trial train with the others no more."""
        if member in self._members:
            self._members.remove(member)
        if member in self._program[0]:
            self._program = ([], None)

    def close(self) -> None:
        """Let go of all trials, and with them of the device's memory, some of which may never have begun."""
        self._members.clear()
        self._program = ([], None)

    def train(self, member: "Member", epoch: int) -> None:
        """Train `epoch` of a member, and of all others for which it is the next."""
        peers = [each for each in self._members if each is member or (each.next == epoch and each.goes_on)]
        with enough_examples(member.trainer.data):
            if len(peers) > 1 and (program := self._of(peers)) is not None:
                self.broken = True  # while weights are those of no whole epoch
                trained = program.epoch(epoch)
                self.broken = False
            else:
                peers, trained = [member], [member.trainer.epoch(epoch)]
        for each, metrics in zip(peers, trained, strict=True):
            each.take(epoch, metrics)

    def _of(self, peers: "list[Member]") -> Program | None:
        if self._program[0] != peers and not self._apart:
            trainers = [each.trainer for each in peers]
            self._program = ([], None)  # whose memory the next one may need
            how = choice([trainer.model for trainer in trainers], trainers[0].data, self._forced)
            if how is not None and not all(map(steady, trainers)):
                how = None
            self._apart = how is None
            if how is not None and trainers[0].data.mean.device.type == "cpu":
                keep_memory()
            self._program = peers, None if how is None else Program(trainers, **how)
        return self._program[1]


class Member:
    """A trial in training with others."""

    def __init__(self, trainer: Trainer, group: Group) -> None:
        self.trainer = trainer
        self.next = 1
        self.goes_on = True
        self._group = group
        self._ahead: dict[str, float] | None = None

    def aim(self, until: int) -> None:
        """Train the same, whatever the rung."""

    def epoch(self, epoch: int) -> dict[str, float]:
        if self._ahead is None:
            self._group.train(self, epoch)
        assert self._ahead is not None
        metrics, self._ahead = self._ahead, None
        return metrics

    def take(self, epoch: int, metrics: dict[str, float]) -> None:
        """Take note of the metrics of an epoch until it is asked for."""
        self._ahead, self.next = metrics, epoch + 1
        self.goes_on = not self.trainer.divergence(epoch, metrics)

    def state(self) -> State | None:
        """Return all that the next epoch depends on; None where the group is further than its steps were told."""
        if self._ahead is not None or self._group.broken:
            return None
        return State(_own(self.trainer.state().values))

    def restore(self, state: State) -> None:
        self.trainer.restore(state)
        self.next = state.resource + 1

    def close(self) -> None:
        self._group.leave(self)


def _own(value: Any) -> Any:
    """Return nested values with copies of their tensors, which else would be saved with those of all trials."""
    match value:
        case torch.Tensor():
            return value.clone()
        case dict():
            return {name: _own(each) for name, each in value.items()}
        case list() | tuple():
            return type(value)(_own(each) for each in value)
        case _:
            return value
