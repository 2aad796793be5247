"""From a budget of seconds to r_min and a number of trials: what `plan=auto` chooses."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from halving.errors import UserError
from halving.history import Ladder, planned_cost
from halving.schedulers import PASHA, Scheduler
from halving.schedulers.base import is_endless
from halving.schedulers.successive_halving import ladder, sizes
from halving.tracking import wording
from halving.trial import Configuration, Done, Outcome, Resume, Start, Wait
from halving.tuner import Budget

# What a scheduler calls the number of its trials, or of its rounds.
COUNTS = ("n", "max_trials", "rounds")
# Of the seconds, the part that a plan may fill: the rest is for validation of the last trials, files and bad luck.
FILL = 0.9
# Where a simulation ends: a learning-curve model takes milliseconds for each decision, an asynchronous rung none.
_SIMULATED_TRIALS, _SIMULATION_SECONDS = 2_000, 1.0


@dataclass(frozen=True)
class Fit:
    """What was chosen, and why in words. `count` names the scheduler's own setting for the number of trials."""

    r_min: int
    count: str
    value: int
    cost: float
    reason: str

    @property
    def settings(self) -> dict[str, int]:
        """The config's keys that it sets."""
        return {"r_min": self.r_min, f"scheduler.{self.count}": self.value}


def fit(
    settings: Mapping[str, object],
    cost: Callable[[int, int], float],
    *,
    eta: int,
    r_max: int,
    seconds: float,
    unit_seconds: float,
    unit: str,
    cohorts: bool = True,
) -> Fit:
    """Choose the lowest r_min, then the most trials, with which a study fits into `seconds`.

    `settings` are the scheduler's own, of which one counts its trials or rounds. `cost(r_min, value)` estimates what
    the study spends with that r_min and that count. The lowest rung is r_max / eta ** K for the largest K with which
    at least one bracket fits: the deeper the ladder, the more configurations are seen. Without `cohorts`, where a
    scheduler keeps no one in eta of a rung, a single trial may be enough.

    Raises UserError if the scheduler has nothing to choose, or if not even the smallest study fits.
    """
    count = next((name for name in COUNTS if name in settings), None)
    if count is None or settings.get("max_trials") == 1:
        raise UserError("plan=auto: this scheduler has no number of trials to choose; take scheduler=sha")
    affordable = FILL * seconds / unit_seconds
    depth = 0
    while r_max // eta ** (depth + 1) >= 1:
        depth += 1
    for k in range(depth, -1, -1):
        r_min = r_max // eta**k
        least = eta**k if cohorts and count != "rounds" else 1
        if cost(r_min, least) <= affordable:
            value = _most(lambda n, r_min=r_min: cost(r_min, n) <= affordable, least)
            chosen = f"r_min={r_min} and {count}={value} spend" if "r_min" in settings else f"{count}={value} spends"
            reason = (
                f"one of the {unit} takes {unit_seconds:.3g} s, so {seconds:g} s pay for {affordable:.0f} of them "
                f"({FILL:.0%} filled); {chosen} about {cost(r_min, value):.0f}"
            )
            full = value * cost(r_max, 1)
            if "r_min" in settings and depth and (r_min == r_max or (count != "rounds" and cost(r_min, value) >= full)):
                reason += (
                    f". That stops nobody early: for that, {_remedy(cost, count, r_max, eta, unit_seconds, cohorts)}"
                )
            return Fit(r_min, count, value, cost(r_min, value), reason)
    raise UserError(
        f"plan=auto: the smallest study spends {wording.count(cost(r_max, 1), unit)} of {unit_seconds:.3g} s each, "
        f"which is more than budget.seconds={seconds:g} pays for; give more seconds, or a lower r_max"
    )


def _remedy(
    cost: Callable[[int, int], float], count: str, r_max: int, eta: int, unit_seconds: float, cohorts: bool
) -> str:
    """Say what would let a plan stop somebody: the seconds of the smallest study that does, and what is cheaper."""
    r_min = r_max // eta
    enough = eta if cohorts and count != "rounds" else 1
    while count != "rounds" and enough < 1000 and cost(r_min, enough) >= enough * cost(r_max, 1):
        enough += 1
    seconds = math.ceil(cost(r_min, enough) * unit_seconds / FILL)
    cheaper = "" if count == "n" else ", scheduler=sha (its smallest study is cheaper)"
    return f"give budget.seconds={seconds}{cheaper} or a lower r_max"


def fair(
    budget: Budget,
    scheduler: Scheduler,
    cost: Callable[[int, int], float],
    *,
    eta: int,
    r_min: int,
    r_max: int,
    workers: int,
) -> Budget:
    """Return a budget that ends a study, where nothing does yet: at what one bracket of successive halving spends.

    That brings one trial to the end, or of PASHA to the second level, which is all that it needs; but later where
    workers are many or trials fail. Twice what all workers would spend meanwhile is the most.
    """
    if not is_endless(scheduler) or (budget.evaluations, budget.resource, budget.seconds) != (None, None, None):
        return budget
    levels = ladder(eta, r_min, r_max)
    reach = levels[:2][-1] if isinstance(scheduler, PASHA) else r_max
    resource = planned_cost((Ladder(levels, sizes(levels, eta)),), cost) or 0.0
    return replace(budget, resource=resource, most=2 * (resource + workers * cost(0, r_max)), reach=reach)


class Unsearched:
    """Proposes the configuration as it stands, without end: a searcher for schedulers that are only simulated."""

    def propose(self, trial: int) -> Configuration:
        return {}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Learn nothing."""


class Simulation:
    """What a scheduler spends that decides on the way how far trials go, by `simulated_costs`.

    It is run as far as it is asked for, but for 2,000 trials or a second at most; beyond, costs grow in proportion.
    """

    def __init__(self, costs: Iterator[float]) -> None:
        self._costs = costs
        self._known: list[float] = []
        self._seconds = 0.0

    def cost(self, trials: int) -> float:
        """Return what a study of so many trials spends."""
        began = time.perf_counter()
        while len(self._known) < min(trials, _SIMULATED_TRIALS):
            if self._seconds + time.perf_counter() - began > _SIMULATION_SECONDS and self._known:
                break
            if (spent := next(self._costs, None)) is None:
                break
            self._known.append(spent)
        self._seconds += time.perf_counter() - began
        known = len(self._known)
        return self._known[trials - 1] if trials <= known else self._known[-1] * trials / known


def simulated_costs(
    scheduler: Scheduler, cost: Callable[[int, int], float], *, curves: bool = True, seed: int = 0
) -> Iterator[float]:
    """Yield what the first 1, 2, 3, ... trials spend in all.

    One worker trains them on synthetic errors, a + (1 - a) r ** -c with noise, and `cost(since, until)` is what a step
    spends. Without `curves`, errors are known at the rungs only. With one worker, who goes on goes before a new trial,
    so that what n trials spend is what had been spent when the next one began.
    """
    errors: dict[int, tuple[np.random.Generator, float, float]] = {}
    spent = 0.0
    while not isinstance(assignment := scheduler.suggest(), Done | Wait):
        match assignment:
            case Start(trial):
                if trial:
                    yield spent
                since, rng = 0, np.random.default_rng([seed, trial])
                errors[trial] = rng, rng.uniform(0.1, 0.6), rng.uniform(0.3, 1.5)
            case Resume(trial, since):
                pass
        rng, asymptote, exponent = errors[trial]
        resource = np.arange(since + 1, assignment.until + 1, dtype=np.float64)
        curve = asymptote + (1 - asymptote) * resource**-exponent + rng.normal(0, 0.01, len(resource))
        outcome = Outcome(trial, assignment.until, float(curve[-1]), curve=tuple(curve.tolist()) if curves else ())
        scheduler.update(outcome)
        spent += cost(since, assignment.until)
    yield spent


def _most(fits: Callable[[int], bool], least: int) -> int:
    """Return the largest n from `least` on that fits, by doubling and bisection; never more than a million."""
    low, high = least, 2 * least
    while fits(high) and high < 1_000_000:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
