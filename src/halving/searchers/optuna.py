"""Optuna's samplers as searchers (Akiba et al. 2019)."""

import importlib
import math
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from halving.errors import UserError
from halving.searchers.density import category_counts
from halving.searchers.distinct import Initial, Point
from halving.searchers.learning import LearningSearcher
from halving.space import Space
from halving.trial import Configuration

_SAMPLERS = {"tpe": "TPESampler", "gp": "GPSampler", "cmaes": "CmaEsSampler"}
# Proposals would grow with the trials that a sampler is shown: the best and the newest, this many in all.
_MOST = {"tpe": 300, "gp": 150, "cmaes": 300}


class OptunaSearcher(LearningSearcher):
    """Asks one of Optuna's samplers, over the unit cube with categories as such: "tpe", "gp" or "cmaes".

    It is told of every trial: pending ones as running; complete ones with their error at the highest resource that
    d + 1 trials have reached; those that have not reached it as pruned, with their errors as intermediate values; and
    failed ones as worse than all. Of many trials it is shown the best and the newest. Each proposal is drawn by a new
    sampler, seeded by seed and trial, so that a resumed study goes on as if it had never paused. `options` go to the
    sampler.

    Raises UserError without Optuna, for another sampler, and for options that it refuses.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        initial: Initial = None,
        sampler: Literal["tpe", "gp", "cmaes"] = "tpe",
        options: dict[str, Any] | None = None,
    ) -> None:
        if sampler not in list(_SAMPLERS):
            raise UserError(f"searcher.sampler={sampler}: there is {', '.join(_SAMPLERS)}")
        super().__init__(space, seed, initial)
        self._optuna = _optuna(sampler)
        self._sampler = sampler
        self._options = options or {}
        self._counts = category_counts(space)
        distributions = self._optuna.distributions
        self._distributions = {
            str(i): distributions.CategoricalDistribution(range(int(count)))
            if count
            else distributions.FloatDistribution(0.0, 1.0)
            for i, count in enumerate(self._counts)
        }
        self._study = self._optuna.create_study(sampler=self._seeded(0))
        self._numbers: dict[int, int] = {}

    def candidates(self, trial: int, rng: np.random.Generator) -> Iterator[Point]:
        params = self._sample(trial)
        yield np.array(
            [
                (params[name] + 0.5) / count if count else params[name]
                for name, count in zip(self._distributions, self._counts, strict=True)
            ]
        )

    def recall(self, trial: int, configuration: Configuration) -> None:
        super().recall(trial, configuration)
        if trial not in self._points:
            return
        if trial not in self._numbers and self._sampler == "cmaes" and trial >= len(self._initial):
            self._sample(trial)  # CMA-ES keeps its state in what it was asked
        frozen = self._frozen(trial)
        frozen.distributions = self._distributions
        frozen.params = {
            name: min(int(x * count), int(count) - 1) if count else float(x)
            for name, x, count in zip(self._distributions, self._points[trial], self._counts, strict=True)
        }

    def _sample(self, trial: int) -> dict[str, Any]:
        """Tell Optuna all that is known, and draw the trial's parameters."""
        frozen, sampler, trials = self._frozen(trial), self._seeded(trial), self._study.get_trials(deepcopy=False)
        level = self.level(len(self._counts) + 1) or self.level(1)
        most = _MOST[self._sampler] // 2
        shown = {*sorted(self._errors, key=self.standing)[:most], *list(self._errors)[-most:]}
        for each in self._errors:
            self._tell(trials[self._numbers[each]], each, level, each in shown)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            params = sampler.sample_relative(self._study, frozen, self._distributions)
            for name, distribution in self._distributions.items():
                if name not in params:
                    params[name] = sampler.sample_independent(self._study, frozen, name, distribution)
        return params

    def _tell(self, frozen: Any, trial: int, level: int | None, shown: bool) -> None:
        """Give Optuna's trial the state and value that its errors stand for, seen from `level`."""
        states = self._optuna.trial.TrialState
        errors = self._errors[trial]
        reached = [resource for resource in errors if level is not None and resource >= level]
        frozen.intermediate_values = dict(errors)
        frozen.value = math.inf if self.failed(trial) else errors[min(reached) if reached else max(errors)]
        complete = bool(reached) or self.failed(trial)
        frozen.state = (states.COMPLETE if complete else states.PRUNED) if shown else states.FAIL

    def _frozen(self, trial: int) -> Any:
        """Return Optuna's own trial, which may be changed; a new one is running."""
        if trial not in self._numbers:
            self._numbers[trial] = self._study.ask().number
        return self._study.get_trials(deepcopy=False)[self._numbers[trial]]

    def _seeded(self, trial: int) -> Any:
        seed = int(np.random.default_rng([self._seed, trial]).integers(2**31))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return getattr(self._optuna.samplers, _SAMPLERS[self._sampler])(seed=seed, **self._options)
            except TypeError as error:
                raise UserError(f"searcher.options: {error}") from error


def _optuna(sampler: str) -> Any:
    try:
        for name in {"tpe": (), "gp": ("torch",), "cmaes": ("cmaes",)}[sampler]:
            importlib.import_module(name)
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise UserError(f"searcher={sampler} needs Optuna ({error}): pip install 'halving[optuna]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
