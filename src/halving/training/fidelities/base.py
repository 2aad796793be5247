"""What a fidelity is: the axis along which a trial spends its resource."""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from halving.checkpoints.store import Store
from halving.trial import Job, Step

if TYPE_CHECKING:
    from halving.data.base import Data
    from halving.training.recipe import Recipe
    from halving.training.trainer import Trainer


@dataclass(frozen=True)
class Setting:
    """What a trial is trained from: its plain resolved config, the study's store, and the threads that a job has."""

    config: Mapping[str, Any]
    store: Store
    threads: int = 1

    def recipe(self, data: "Data | None" = None) -> "Recipe":
        """Return what our own loop trains from; an objective of another kind never loads data, or torch."""
        from halving.training.recipe import Recipe

        return Recipe.from_config(self.config, data)


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What the keys of the same names at the config's root refer to, and nobody else reads."""

    r_min: InitVar[int | None] = None
    r_max: InitVar[int | None] = None
    epochs: InitVar[int | None] = None


class Axis(Defaults):
    """What fidelities have in common that train: a trial goes on from where it paused, unless they say otherwise."""

    resumable: bool = True
    measures = ""
    trains = True
    loads = False

    def cost(self, since: int, until: int) -> float:
        return until - since if self.resumable else until

    def trained(self, setting: Setting, job: Job) -> "Iterable[Trainer]":
        return ()

    def test(self, setting: Setting, job: Job) -> dict[str, float]:
        """Return what the one model of a trial measures; nothing where it has none."""
        return next((trainer.test() for trainer in self.trained(setting, job)), {})


class Fidelity(Protocol):
    """Maps a resource to training.

    `unit` names one unit; `resumable` says whether training goes on from where it paused or starts anew. `measures`
    names what is optimised unless the root's `metric` does, and is empty where that always does. `trains` is false of
    what only looks things up, so that there is no winner to train again; `loads` is true of what trains on the group
    `data`.
    """

    @property
    def unit(self) -> str: ...

    @property
    def resumable(self) -> bool: ...

    @property
    def measures(self) -> str: ...

    @property
    def trains(self) -> bool: ...

    @property
    def loads(self) -> bool: ...

    def cost(self, since: int, until: int) -> float:
        """Return what going from `since` to `until` spends, in units."""
        ...

    def prepare(self, setting: Setting) -> None:
        """Raise UserError for what could not run, before anything does."""
        ...

    def run(self, setting: Setting, job: Job) -> Generator[Step]:
        """Work on a job: yield its epochs and, last, one Finished.

        Closed before its end, it leaves a checkpoint where training is resumable.
        """
        ...

    def trained(self, setting: Setting, job: Job) -> "Iterable[Trainer]":
        """Return the models of a trial that has finished `job`; nothing where they are not of our own loop."""
        ...

    def test(self, setting: Setting, job: Job) -> dict[str, float]:
        """Return the test metrics of a trial that has finished `job`; nothing where there is no test set."""
        ...
