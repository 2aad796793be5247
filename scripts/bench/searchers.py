"""How well each searcher does against random search, and how long a proposal takes.

python scripts/bench/searchers.py --seeds 30 --processes 2
python scripts/bench/searchers.py --curves <curves.npz ...> --seeds 30 --searchers bohb bayesian
python scripts/bench/searchers.py --speed

Each searcher gets 60 evaluations of Branin, of Hartmann-6, and of a noisy sphere of five numbers and a category. What
counts is the regret, without noise, of the configuration with the lowest error observed. The table shows its median
over the seeds, the share of them on which it beats random search, and the p-value of the two-sided paired Wilcoxon
test, corrected by Holm for all tests of the table; bold where it is better with p < 0.01.

With `--curves` it is Hyperband on tables of recorded curves: eta 3, from the first level to the last, one round after
another until the resource of `--trainings` full trainings is spent. A proposal gets its nearest row, random search
draws rows. Regret is the incumbent's error at the end of its curve minus the table's least; the table shows its mean.
Its tests are over draws of the same rows; of several tables a second one shows the share of random search's regret, by
the mean over tables with the 95 % t interval over them.

`--speed` times proposals after 1,000 observations of the sphere, by the mean of 100 (10 of a Gaussian process), and
exits with 1 where one takes more than 10 ms, or more than 300 ms with a Gaussian process.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice, repeat
from pathlib import Path

import numpy as np
from scipy import stats

from halving import UserError
from halving.app.simulation import simulate
from halving.comparison import Pair, holm, paired
from halving.curves import Curves, load, row_of
from halving.report.confirmation import half_width
from halving.schedulers import Hyperband
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
from halving.tuner import Budget

MOST_MS, MOST_GP_MS = 10.0, 300.0
GPS = ("bayesian", "gp")
ETA = 3

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


def regret(name: str, seed: int, problem: int, evaluations: int) -> float:
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


def regret_on_curves(name: str, seed: int, path: str, trainings: int) -> float:
    """Return the regret of the incumbent once Hyperband has spent so many full trainings on a table."""
    curves = read(path)
    first, last = int(curves.resource[0]), int(curves.resource[-1])
    scheduler = partial(Hyperband, eta=ETA, r_min=first, r_max=last, rounds=10 * trainings)
    budget = Budget(resource=trainings * float(last))
    incumbent = simulate(curves, scheduler, searcher=SEARCHERS[name], seed=seed, reuse=True, budget=budget).incumbent
    final = curves.final[row_of(incumbent[0].configuration)] if incumbent else curves.final.max()
    return float(final) - curves.optimum


@lru_cache
def read(path: str) -> Curves:
    return load(path)


def compare(
    names: list[str],
    columns: dict[str, Callable[[str, int], float]],
    seeds: range,
    processes: int,
    centre: Callable[[list[float]], float],
) -> dict[str, list[float]]:
    """Print the table of what each column's function makes of a searcher and a seed; return how much of random's."""
    others = [name for name in names if name != "random"]
    with ProcessPoolExecutor(processes) as pool:
        random, *rows = (
            [list(pool.map(function, repeat(name), seeds)) for function in columns.values()]
            for name in ("random", *others)
        )
    tests = [[paired(np.array(own), np.array(drawn)) for own, drawn in zip(row, random, strict=True)] for row in rows]
    corrected = iter(holm([test.p for row in tests for test in row]))
    print(f"| searcher | {' | '.join(columns)} |")
    print(f"|---|{'---|' * len(columns)}")
    print(f"| random | {' | '.join(f'{centre(regrets):.3g}' for regrets in random)} |")
    for name, row, tested in zip(others, rows, tests, strict=True):
        cells = map(cell, map(centre, row), tested, islice(corrected, len(row)))
        print(f"| {name} | {' | '.join(cells)} |")
    drawn = list(map(centre, random))
    return {
        name: [centre(own) / (of_random or math.nan) for own, of_random in zip(row, drawn, strict=True)]
        for name, row in zip(others, rows, strict=True)
    }


def cell(regret: float, tested: Pair, p: float) -> str:
    shown = f"**{regret:.3g}**" if p < 0.01 and tested.effect > 0 else f"{regret:.3g}"
    return f"{shown} ({tested.wins / tested.n:.0%}, p = {p:.1g})"


def speed(names: list[str], observations: int = 1000) -> bool:
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
        first = observations + 1
        for trial in range(first, first + (10 if name in GPS else 100)):
            began = time.perf_counter()
            if (configuration := searcher.propose(trial)) is None:
                break
            searcher.observe(trial, configuration, 1, problem.value(configuration))
            times.append(1e3 * (time.perf_counter() - began))
        ms = statistics.mean(times) if times else math.nan
        fast = fast and not ms > (MOST_GP_MS if name in GPS else MOST_MS)
        print(f"| {name} | {ms:.2f} |", flush=True)
    return fast


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--searchers", nargs="+", choices=SEARCHERS, default=list(SEARCHERS))
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--curves", nargs="+", metavar="NPZ", help="Hyperband on these tables instead of functions")
    parser.add_argument("--trainings", type=int, default=20, help="full trainings whose resource is spent on a table")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--speed", action="store_true", help="time proposals instead; exits with 1 where one is slow")
    arguments = parser.parse_args()
    if arguments.speed:
        return 0 if speed(arguments.searchers) else 1
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    columns: dict[str, Callable[[str, int], float]]
    if arguments.curves:
        columns = {
            Path(path).stem: partial(regret_on_curves, path=path, trainings=arguments.trainings)
            for path in arguments.curves
        }
    else:
        columns = {
            problem.name: partial(regret, problem=i, evaluations=arguments.evaluations)
            for i, problem in enumerate(PROBLEMS)
        }
    centre = statistics.mean if arguments.curves else statistics.median
    shares = compare(arguments.searchers, columns, seeds, arguments.processes, centre)
    if arguments.curves and len(columns) > 1:
        print("\n| searcher | of random search's regret, 95 % over tables |\n|---|---|")
        for name, share in shares.items():
            print(f"| {name} | {statistics.mean(share):.2f} ± {half_width(share):.2f} |")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
