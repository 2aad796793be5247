"""Epochs as the resource."""

from collections.abc import Generator
from dataclasses import dataclass

from halving.training.fidelities.base import Axis, Setting
from halving.training.pausing import Course, retrained, train
from halving.training.rehearsal import rehearse
from halving.training.trainer import Trainer
from halving.trial import Job, Step


@dataclass(frozen=True)
class Epochs(Axis):
    """The resource is the number of epochs; a paused trial resumes exactly where it was."""

    r_min: int = 1
    r_max: int = 27
    epochs: int = 27
    unit: str = "epochs"
    loads = True

    def prepare(self, setting: Setting) -> None:
        rehearse(setting.recipe())

    def run(self, setting: Setting, job: Job) -> Generator[Step]:
        recipe = setting.recipe()
        course = Course(recipe.metric, recipe.r_max, recipe.config, recipe.checkpoint_every, watched=("train_loss",))
        yield from train(lambda: Trainer(recipe), setting.store, job, course)

    def trained(self, setting: Setting, job: Job) -> tuple[Trainer]:
        recipe = setting.recipe()
        trainer = Trainer(recipe)
        trainer.restore(retrained(setting.store, job, recipe.config, lambda job: self.run(setting, job)))
        return (trainer,)

    def test(self, setting: Setting, job: Job) -> dict[str, float]:
        return self.trained(setting, job)[0].test()
