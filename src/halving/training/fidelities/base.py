"""What a fidelity is: the axis along which a trial spends its resource."""

from collections.abc import Callable, Generator
from typing import Protocol

from halving.training.memory import Memory
from halving.training.recipe import Recipe
from halving.trial import Job, Step


class Fidelity(Protocol):
    """Maps a resource to training.

    `unit` names one unit; `resumable` says whether training goes on from where it paused or starts anew. The recipe
    comes as a factory: an objective of another kind never loads data.
    """

    @property
    def unit(self) -> str: ...

    @property
    def resumable(self) -> bool: ...

    def cost(self, since: int, until: int) -> float:
        """Return what going from `since` to `until` spends, in units."""
        ...

    def prepare(self, recipe: Callable[[], Recipe]) -> None:
        """Raise UserError for what could not run, before anything does."""
        ...

    def run(self, recipe: Callable[[], Recipe], job: Job, memory: Memory) -> Generator[Step]:
        """Work on a job: yield its epochs and, last, one Finished. `memory` is what this process has of the last job.

        Closed before its end, it leaves a checkpoint where training is resumable.
        """
        ...

    def test(self, recipe: Callable[[], Recipe], trial: int, resource: int) -> dict[str, float]:
        """Return the test metrics of a trial that has finished `resource`; nothing where there is no test set."""
        ...
