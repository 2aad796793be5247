"""Training examples as the resource."""

from collections.abc import Generator
from dataclasses import dataclass, replace

from halving.errors import UserError
from halving.training.fidelities.base import Axis, Setting
from halving.training.fidelities.full_training import train_in_full
from halving.training.pausing import retrained
from halving.training.rehearsal import rehearse
from halving.training.trainer import Trainer
from halving.trial import Job, Step


@dataclass(frozen=True)
class Samples(Axis):
    """The resource r is a share r / r_max of the training set, on which each rung trains the root's `epochs`.

    Of m examples these are m r // r_max, in the proportions of the classes: the same for every trial, and part of any
    larger subset. A rung begins with new weights, the same as below; with `warm_start` it begins with those that
    the trial paused with, but with a new optimizer and at the start of the learning-rate schedule. Either way it trains
    all its epochs on all its examples and costs r. A warm start makes a winner depend on the rungs that it climbed:
    its command, which trains once on all examples, gives another model.

    Raises UserError, when prepared, where r_max is more than the training set has examples.
    """

    warm_start: bool = False
    unit: str = "data shares"
    loads = True

    @property
    def resumable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.warm_start

    def cost(self, since: int, until: int) -> float:
        return until

    def prepare(self, setting: Setting) -> None:
        whole = setting.recipe()
        rehearse(whole)
        if len(whole.data.train) < whole.r_max:
            raise UserError(
                f"r_max={whole.r_max}: fidelity=samples cuts the training set into r_max shares, but it has only "
                f"{len(whole.data.train)} examples; give a smaller r_max"
            )

    def run(self, setting: Setting, job: Job) -> Generator[Step]:
        whole = setting.recipe()
        part = whole.data.subset(len(whole.data.train) * job.until // whole.r_max)
        trainer = Trainer(replace(whole, data=part))
        if self.warm_start and job.since:
            state = yield from setting.store.newest(replace(job, until=job.since), whole.config)
            if state.resource:
                trainer.model.load_state_dict(state.values["model"])
        yield from train_in_full(whole, trainer, setting.store, job)

    def trained(self, setting: Setting, job: Job) -> tuple[Trainer]:
        recipe = setting.recipe()
        trainer = Trainer(recipe)
        state = retrained(setting.store, job, recipe.config, lambda job: self.run(setting, job))
        trainer.load(state.values)
        return (trainer,)
