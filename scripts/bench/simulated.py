"""Time simulated studies: many small ones on all cores, and one with very many workers.

python scripts/bench/simulated.py
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from halving.app.simulation import idle_seconds, simulate
from halving.curves import Curves
from halving.schedulers import ASHA, Hyperband, SuccessiveHalving
from halving.tuner import Budget

MOST_SECONDS_MANY, MOST_SECONDS_LARGE = 120.0, 60.0


def table(n: int = 300, levels: int = 27) -> Curves:
    """Noisy power laws of a few configurations, each with a speed of its own."""
    rng = np.random.default_rng(0)
    limit, scale, rate = rng.random((3, n, 1))
    steps = np.arange(1, levels + 1)
    error = limit + scale * steps ** -(0.2 + rate) + 0.02 * rng.standard_normal((n, levels))
    return Curves(error, steps, np.cumsum(rng.lognormal(0.0, 0.5, (n, 1)) * np.ones(levels), axis=1))


def studies(seeds: Sequence[int]) -> int:
    """Run one study of 100 trials per seed, of each scheduler in turn; return how many trials there were."""
    curves, trials = table(), 0
    for seed in seeds:
        match seed % 3:
            case 0:
                history = simulate(curves, SuccessiveHalving, seed=seed, n=100)
            case 1:
                history = simulate(curves, ASHA, seed=seed, max_trials=100, workers=4)
            case _:
                history = simulate(curves, Hyperband, seed=seed, r_max=27, rounds=2)
        trials += len(history.trials)
    return trials


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=100_000, help="of the one large study")
    parser.add_argument("--workers", type=int, default=500, help="of the one large study")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()

    if arguments.studies < 1:
        parser.error("--studies: at least 1")
    parts = [range(i, arguments.studies, 100) for i in range(100)]
    began = time.perf_counter()
    with ProcessPoolExecutor(arguments.processes) as pool:
        trials = sum(pool.map(studies, parts))
    many = time.perf_counter() - began
    mean = trials / arguments.studies
    print(f"{arguments.studies:,} studies of {mean:.0f} trials on {arguments.processes} processes: {many:.1f} s")

    began = time.perf_counter()
    options = {"workers": arguments.workers, "reuse": True}
    history = simulate(table(), ASHA, budget=Budget(evaluations=arguments.trials * 3 // 2), **options)
    large = time.perf_counter() - began
    print(f"one study of {len(history.trials):,} trials, {len(history.finished):,} evaluations: {large:.1f} s")
    halved = simulate(table(), SuccessiveHalving, n=10 * arguments.workers, **options)
    for name, study in (("ASHA", history), ("successive halving", halved)):
        total = arguments.workers * max(evaluation.started for _, evaluation in study.finished)
        idle = max(0.0, idle_seconds(study, arguments.workers)) / total
        print(f"{name}: {idle:.1%} of the workers' time is idle before the last job is handed out")
    return 1 if many > MOST_SECONDS_MANY or large > MOST_SECONDS_LARGE else 0


if __name__ == "__main__":
    sys.exit(main())
