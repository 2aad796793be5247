"""Training examples as the resource."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace

from halving.errors import UserError
from halving.training.fidelities.full_training import train_in_full
from halving.training.memory import Memory
from halving.training.recipe import Recipe
from halving.training.rehearsal import rehearse
from halving.training.restoration import reloaded, restored
from halving.training.trainer import Trainer
from halving.trial import Job, Step


@dataclass(frozen=True)
class Samples:
    """The resource r is a share r / r_max of the training set, on which each rung trains the root's `epochs`.

    Of m examples these are m r // r_max, in the proportions of the classes: the same for every trial, and part of any
    larger subset. A rung begins with new weights, the same as below; with `warm_start` it begins with those that
    the trial paused with, but with a new optimizer and at the start of the learning-rate schedule. Either way it trains
    all its epochs on all its examples and costs r. A warm start makes a winner depend on the rungs that it climbed:
    its command, which trains once on all examples, gives another model.

    `r_min`, `r_max` and `epochs` are the defaults of the root's keys. Raises UserError, when prepared, where r_max is
    more than the training set has examples.
    """

    r_min: int = 1
    r_max: int = 27
    epochs: int = 10
    warm_start: bool = False
    unit: str = "data shares"

    @property
    def resumable(self) -> bool:
        return self.warm_start

    def cost(self, since: int, until: int) -> float:
        return until

    def prepare(self, recipe: Callable[[], Recipe]) -> None:
        whole = recipe()
        rehearse(whole)
        if len(whole.data.train) < whole.r_max:
            raise UserError(
                f"r_max={whole.r_max}: fidelity=samples cuts the training set into r_max shares, but it has only "
                f"{len(whole.data.train)} examples; give a smaller r_max"
            )

    def run(self, recipe: Callable[[], Recipe], job: Job, memory: Memory) -> Generator[Step]:
        whole = recipe()
        part = whole.data.subset(len(whole.data.train) * job.until // whole.r_max)
        trainer = Trainer(replace(whole, data=part))
        if self.warm_start and job.since:
            at, state = yield from restored(whole, replace(job, until=job.since))
            if at:
                trainer.model.load_state_dict(state["model"])
        yield from train_in_full(whole, trainer, job)

    def test(self, recipe: Callable[[], Recipe], trial: int, resource: int) -> dict[str, float]:
        trained = recipe()
        trainer = Trainer(trained)
        state = reloaded(trained, trial, resource, lambda job: self.run(recipe, job, Memory()))
        trainer.model.load_state_dict(state["model"])
        return trainer.test()
