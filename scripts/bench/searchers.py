"""How well each searcher does against random search, and how long a proposal takes.

python scripts/bench/searchers.py --seeds 30 --processes 2
python scripts/bench/searchers.py --speed

Each searcher gets 60 evaluations of Branin, of Hartmann-6, and of a noisy sphere of five numbers and a category. What
counts is the regret, without noise, of the configuration with the lowest error observed. The table shows its median
over seeds 0, 1, ..., the share of them on which it beats random search, and the p-value of the two-sided paired
Wilcoxon test; bold where it is better with p < 0.01. `--speed` times a proposal after 1,000 observations of the sphere
and exits with 1 where it takes more than 10 ms, or more than 300 ms with a model of scikit-learn or Optuna's GP.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import numpy as np
from scipy import stats

from halving.searchers import (
    AnnealingSearcher,
    BayesianSearcher,
    BOHBSearcher,
    EvolutionSearcher,
    GridSearcher,
    LocalSearcher,
    OptunaSearcher,
    PriorSearcher,
    RandomSearcher,
    Searcher,
    SobolSearcher,
)
from halving.space import Space
from halving.trial import Configuration

MOST_MS, MOST_MODEL_MS = 10.0, 300.0
MODELS = ("bayesian", "forest", "gp")

SEARCHERS: dict[str, Callable[..., Searcher]] = {
    "random": RandomSearcher,
    "sobol": SobolSearcher,
    "grid": GridSearcher,
    "local": LocalSearcher,
    "annealing": AnnealingSearcher,
    "evolution": EvolutionSearcher,
    "prior": PriorSearcher,
    "bohb": BOHBSearcher,
    "bayesian": BayesianSearcher,
    "forest": partial(BayesianSearcher, surrogate="forest"),
    "tpe": partial(OptunaSearcher, sampler="tpe"),
    "cmaes": partial(OptunaSearcher, sampler="cmaes"),
    "gp": partial(OptunaSearcher, sampler="gp"),
}


@dataclass(frozen=True)
class Problem:
    """A function to minimise: its least value, and the deviation of the noise on what is observed."""

    name: str
    space: Space
    value: Callable[[Configuration], float]
    least: float
    noise: float = 0.0


def branin(c: Configuration) -> float:
    x, y = float(c["x"]), float(c["y"])  # pyright: ignore[reportArgumentType]
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


HEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
SCALES = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
CENTRES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(c: Configuration) -> float:
    x = np.array([c[f"x{i}"] for i in range(6)])
    return -float(HEIGHTS @ np.exp(-(SCALES * (x - CENTRES) ** 2).sum(axis=1)))


def sphere(c: Configuration) -> float:
    x = np.array([c[f"x{i}"] for i in range(5)])
    return float(((x - 0.3) ** 2).sum()) + {"a": 0.3, "b": 0.0, "c": 0.6, "d": 0.3}[str(c["kind"])]


UNIT = stats.uniform(0, 1)
PROBLEMS = (
    Problem(
        "Branin", Space.from_config({"x": stats.uniform(-5, 15), "y": stats.uniform(0, 15)}), branin, 10 / (8 * math.pi)
    ),
    Problem("Hartmann-6", Space.from_config({f"x{i}": UNIT for i in range(6)}), hartmann, -3.32237),
    Problem(
        "noisy sphere",
        Space.from_config({f"x{i}": UNIT for i in range(5)} | {"kind": ["a", "b", "c", "d"]}),
        sphere,
        0.0,
        noise=0.05,
    ),
)


def regret(name: str, problem: int, seed: int, evaluations: int) -> float:
    """Return the regret of the configuration that looks best after so many evaluations."""
    function = PROBLEMS[problem]
    searcher = SEARCHERS[name](function.space, seed=seed)
    best, lowest = math.inf, math.inf
    for trial in range(evaluations):
        if (configuration := searcher.propose(trial)) is None:
            break
        value = function.value(configuration)
        error = value + function.noise * np.random.default_rng([seed, trial, 1]).standard_normal()
        searcher.observe(trial, configuration, 1, error)
        if error < lowest:
            best, lowest = value - function.least, error
    return best


def compare(names: list[str], seeds: int, evaluations: int, processes: int) -> None:
    """Print the table, a row as soon as it is known."""
    print(f"| searcher | {' | '.join(problem.name for problem in PROBLEMS)} |")
    print(f"|---|{'---|' * len(PROBLEMS)}")
    random: list[list[float]] = []
    with ProcessPoolExecutor(processes) as pool:
        for name in ("random", *(name for name in names if name != "random")):
            rows = [
                list(pool.map(regret, repeat(name), repeat(i), range(seeds), repeat(evaluations)))
                for i in range(len(PROBLEMS))
            ]
            random = random or rows
            print(f"| {name} | {' | '.join(map(cell, rows, random))} |", flush=True)


def cell(regrets: list[float], random: list[float]) -> str:
    median = f"{statistics.median(regrets):.3g}"
    if regrets == random:
        return median
    wins = statistics.mean(a < b for a, b in zip(regrets, random, strict=True))
    p = float(stats.wilcoxon(regrets, random).pvalue)  # pyright: ignore
    better = p < 0.01 and float(np.median(np.subtract(regrets, random))) < 0
    return f"{f'**{median}**' if better else median} ({wins:.0%}, p = {p:.1g})"


def speed(names: list[str], observations: int = 1000, proposals: int = 10) -> bool:
    """Print the milliseconds that a proposal and its observation take; return whether all are fast enough."""
    problem, fast = PROBLEMS[2], True
    drawn = RandomSearcher(problem.space)
    print(f"| searcher | ms per proposal after {observations:,} observations |\n|---|---|")
    for name in names:
        searcher = SEARCHERS[name](problem.space)
        for trial in range(observations):
            configuration = drawn.propose(trial) or {}
            if (recall := getattr(searcher, "recall", None)) is not None:
                recall(trial, configuration)
            searcher.observe(trial, configuration, 1, problem.value(configuration))
        searcher.propose(observations)  # imports are no part of a proposal
        times: list[float] = []
        for trial in range(observations + 1, observations + 1 + proposals):
            began = time.perf_counter()
            if (configuration := searcher.propose(trial)) is None:
                break
            searcher.observe(trial, configuration, 1, problem.value(configuration))
            times.append(1e3 * (time.perf_counter() - began))
        ms = statistics.median(times) if times else math.nan
        fast = fast and not ms > (MOST_MODEL_MS if name in MODELS else MOST_MS)
        print(f"| {name} | {ms:.2f} |", flush=True)
    return fast


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--searchers", nargs="+", choices=SEARCHERS, default=list(SEARCHERS))
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--speed", action="store_true", help="time proposals instead; exits with 1 where one is slow")
    arguments = parser.parse_args()
    if arguments.speed:
        return 0 if speed(arguments.searchers) else 1
    compare(arguments.searchers, arguments.seeds, arguments.evaluations, arguments.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
