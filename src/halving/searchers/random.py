"""Random search (Bergstra and Bengio 2012)."""

from collections.abc import Mapping, Sequence

import numpy as np

from halving.space import Space
from halving.trial import Configuration, Value


class RandomSearcher:
    """Draws every configuration independently from the space's distributions.

    Trial t's draw comes from `default_rng([seed, t])`, so it does not depend on who finished first. `initial` is one
    configuration or several that the first trials get instead.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        initial: Mapping[str, Value] | Sequence[Mapping[str, Value]] | None = None,
    ) -> None:
        self._space = space
        self._seed = seed
        self._initial = [initial] if isinstance(initial, Mapping) else list(initial or ())

    def propose(self, trial: int) -> Configuration | None:
        if trial < len(self._initial):
            return dict(self._initial[trial])
        return self._space.sample(np.random.default_rng([self._seed, trial]))

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Learn nothing."""
