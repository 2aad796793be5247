"""Epochs as the resource."""

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass

from halving.training.batched import group
from halving.training.batched.joining import likeness
from halving.training.fidelities.base import Axis, Setting
from halving.training.pausing import Course, retrained, train
from halving.training.recipe import Recipe
from halving.training.rehearsal import rehearse
from halving.training.trainer import Trainer
from halving.trial import Job, Step


@dataclass(frozen=True)
class Epochs(Axis):
    """The resource is the number of epochs; a paused trial resumes exactly where it was."""

    unit: str = "epochs"
    loads = True

    def prepare(self, setting: Setting) -> None:
        rehearse(setting.recipe())

    def run(self, setting: Setting, job: Job) -> Generator[Step]:
        recipe = setting.recipe()
        yield from train(lambda: Trainer(recipe), setting.store, job, _course(recipe))

    def alike(self, setting: Setting) -> Hashable:
        """Return a key that is equal for trials which one program can train. Raises Unlike where there is none."""
        return likeness(setting.config)

    def run_together(self, settings: Sequence[Setting], jobs: Sequence[Job]) -> Generator[Step]:
        """Work on jobs that are alike, as `run` does on one."""
        first = settings[0].recipe()
        recipes = [first, *(setting.recipe(first.data) for setting in settings[1:])]
        forced = settings[0].config["executor"].get("program") == "batched"
        yield from group.train(recipes, settings[0].store, jobs, _course(first), forced)

    def trained(self, setting: Setting, job: Job) -> tuple[Trainer]:
        recipe = setting.recipe()
        trainer = Trainer(recipe)
        trainer.restore(retrained(setting.store, job, recipe.config, lambda job: self.run(setting, job)))
        return (trainer,)


def _course(recipe: Recipe) -> Course:
    return Course(recipe.metric, recipe.r_max, recipe.config, recipe.checkpoint_every, watched=("train_loss",))
