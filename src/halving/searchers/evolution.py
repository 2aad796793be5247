"""Aging evolution, a genetic algorithm (Real et al. 2019)."""

from collections.abc import Iterator

import numpy as np

from halving.errors import UserError, real, whole
from halving.searchers.distinct import Initial, Point
from halving.searchers.learning import LearningSearcher
from halving.space import Space

_STEP = 0.15


class EvolutionSearcher(LearningSearcher):
    """Lets the best of a tournament have a child; the population is the youngest `population` trials, good or bad.

    The first `population` trials are drawn at random. A child gets each dimension from one of two parents with
    probability `crossover` (0 in the paper, which has none), else all from one, and one of its dimensions mutates. A
    tournament is among `tournament`
    of the population, by resource and then by error.

    Raises UserError for a population or a tournament too small, or a crossover outside [0, 1].
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        initial: Initial = None,
        population: int = 16,
        tournament: int = 4,
        crossover: float = 0.5,
    ) -> None:
        population, tournament = whole("searcher.population", population), whole("searcher.tournament", tournament)
        if tournament > population:
            raise UserError(f"searcher.tournament={tournament}: must be at most searcher.population={population}")
        super().__init__(space, seed, initial)
        self._population = population
        self._tournament = tournament
        self._crossover = real("searcher.crossover", crossover, lambda x: 0 <= x <= 1, "a probability, from 0 to 1")

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        if len(self._errors) < self._population:
            return
        alive = list(self._errors)[-self._population :]
        while True:
            child = self._winner(alive, rng).copy()
            if rng.random() < self._crossover:
                child = np.where(rng.random(len(child)) < 0.5, child, self._winner(alive, rng))
            mutated = rng.integers(len(child))
            step = self.perturb(child, _STEP, rng)
            child[mutated] = rng.random() if self._categories[mutated] else step[mutated]
            yield child

    def _winner(self, alive: list[int], rng: np.random.Generator) -> Point:
        entrants = rng.choice(alive, self._tournament, replace=False)
        return self._points[min((int(entrant) for entrant in entrants), key=self.standing)]
