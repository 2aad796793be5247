"""The width of the model as the resource."""

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial

from halving.errors import UserError
from halving.training.fidelities.base import Axis, Setting
from halving.training.fidelities.full_training import train_in_full
from halving.training.pausing import retrained
from halving.training.recipe import Recipe
from halving.training.rehearsal import rehearse
from halving.training.trainer import Trainer
from halving.trial import Job, Step


@dataclass(frozen=True)
class Width(Axis):
    """The resource r multiplies the configured width of the model by r / r_max, rounded up; each rung starts anew.

    `model.width` = 6 and r_max = 9 give the widths 1, 2 and 6 at r = 1, 3 and 9. What a width is, the model says. Each
    rung trains the root's `epochs` and counts as r, although most layers' work grows with its square. The checkpoint
    names its width in "arguments".

    Raises UserError, when prepared, for a model without a `width` that is a whole number.
    """

    unit: str = "width shares"
    loads = True
    resumable: bool = False

    def prepare(self, setting: Setting) -> None:
        whole = setting.recipe()
        rehearse(whole)
        if not isinstance(whole.width, int):
            raise UserError(
                f"model.width={whole.width}: fidelity=width needs a model whose width is a whole number; "
                f"model=cnn and model=lenet_modern and model=mlp have one"
            )

    def run(self, setting: Setting, job: Job) -> Generator[Step]:
        whole = setting.recipe()
        width = width_at(whole, job.until)
        trainer = _trainer(whole, width)
        yield from train_in_full(whole, trainer, setting.store, job, arguments={"width": width})

    def trained(self, setting: Setting, job: Job) -> tuple[Trainer]:
        whole = setting.recipe()
        trainer = _trainer(whole, width_at(whole, job.until))
        state = retrained(setting.store, job, whole.config, lambda job: self.run(setting, job))
        trainer.load(state.values)
        return (trainer,)


def width_at(recipe: Recipe, resource: int) -> int:
    """Return the width at a resource: at least 1, and the configured one at r_max."""
    return -(-recipe.width * resource // recipe.r_max)


def _trainer(whole: Recipe, width: int) -> Trainer:
    return Trainer(replace(whole, model=partial(whole.model, width=width)))
