"""What concordant_asha owes to evidence, and what to letting through: its evidence replaced, on recorded curves.

python scripts/bench/ablation.py <curves.npz ...> --eta 3 --trainings 5 10 20 40 --seeds 100

Each cell is the regret as a share of random search's, the mean over the tables and the worst of them. One worker,
r_min the first level; the rule and the draws are those of peers.py. `ranks` is the rule, `leaders` that of earlier
studies (evidence=None); the next ones let through at the looks of `leaders`, at any with probability 1/2, always, or
with min(1, (9 / finished)²) more; `never` is asha without failed trials.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from peers import regret

from halving import UserError
from halving.curves import Curves, load, row_of
from halving.environment import expanded
from halving.schedulers import ASHA, FIFO, ConcordantASHA, Hyperband, Scheduler
from halving.schedulers.asynchronous import AsynchronousBrackets
from halving.schedulers.concordant_asha import Doubting
from halving.schedulers.leaders import leaders_doubt, leading
from halving.schedulers.successive_halving import ladder
from halving.searchers.table import RandomRows
from halving.trial import Outcome, Resume, Start

RANDOM = "random"
table = cache(load)


def chance(errors: Sequence[float], rng: np.random.Generator, eta: int, rule: str) -> float:
    """Return what a look says in place of evidence: at most 1/2 lets through."""
    match rule:
        case "coin":
            return float(rng.integers(2))
        case "always":
            return 0.0
        case _:
            return 0.0 if rng.random() < (9 / len(errors)) ** 2 else leading(errors, eta)


def by_chance(
    searcher: Any, eta: int, r_min: int, r_max: int, rule: str, first: int, seed: int
) -> AsynchronousBrackets:
    levels = ladder(eta, r_min, r_max)
    agree = partial(chance, rng=np.random.default_rng(seed), eta=eta, rule=rule)
    return AsynchronousBrackets(searcher, [Doubting(levels, eta, [first] * len(levels), agree, leaders_doubt)], None)


def methods(curves: Curves, eta: int, seed: int) -> Iterator[tuple[str, Callable[..., Any]]]:
    ladders = {"eta": eta, "r_min": int(curves.resource[0]), "r_max": int(curves.resource[-1])}
    yield RANDOM, partial(FIFO, r_max=ladders["r_max"])
    yield "ranks", partial(ConcordantASHA, **ladders)
    yield "leaders", partial(ConcordantASHA, **ladders, evidence=None)
    yield "coin", partial(by_chance, **ladders, rule="coin", first=eta**2, seed=seed)
    yield "always", partial(by_chance, **ladders, rule="always", first=eta**2, seed=seed)
    yield "leaders or chance, from 6", partial(by_chance, **ladders, rule="chance", first=6, seed=seed)
    yield "never", partial(ASHA, **ladders, count_failed=False)
    yield "asha", partial(ASHA, **ladders)
    yield "hyperband", partial(Hyperband, **ladders, rounds=200)


def regrets(file: Path, eta: int, trainings: Sequence[int], seed: int) -> dict[str, list[float]]:
    """Return each method's regret with one seed once it has spent so many full trainings, which ascend."""
    curves = table(file)
    found = dict[str, list[float]]()
    for name, build in methods(curves, eta, seed):
        scheduler = build(RandomRows(curves, seed, reuse=True))
        ends = [each * int(curves.resource[-1]) for each in trainings]
        found[name] = [regret(curves, row) for row in winners(curves, scheduler, ends)]
    return found


def winners(curves: Curves, scheduler: Scheduler, ends: Sequence[int]) -> Iterator[int | None]:
    """Run one worker, as `simulate` would; yield the winning row when as much as each of `ends` is spent."""
    errors = curves.error.tolist()
    survives = np.concatenate(([0], curves.resource))[np.isfinite(curves.error).sum(axis=1)].tolist()
    rows, spent, best, winner, passed = dict[int, int](), 0, (0, np.inf, 0), None, 0
    while passed < len(ends):
        assignment = scheduler.suggest()
        assert isinstance(assignment, Start | Resume)
        if isinstance(assignment, Start):
            rows[assignment.trial] = row_of(assignment.configuration)
        since = 0 if isinstance(assignment, Start) else assignment.since
        trial, until, row = assignment.trial, assignment.until, rows[assignment.trial]
        if survives[row] >= until:
            error = errors[row][curves.level(until)]
            spent += until - since
            if (key := (-until, error, trial)) < best:
                best, winner = key, row
            scheduler.update(Outcome(trial, until, error))
        else:
            spent += max(survives[row], since + 1) - since
            scheduler.update(Outcome(trial, max(survives[row], since), np.nan, failed=True))
        while passed < len(ends) and spent >= ends[passed]:
            yield winner
            passed += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=expanded, nargs="+")
    parser.add_argument("--eta", type=int, default=3)
    parser.add_argument("--trainings", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    trainings = sorted(arguments.trainings)
    if trainings[0] < 1:
        parser.error("--trainings: at least 1")
    if arguments.seeds < 1:
        parser.error("--seeds: at least 1")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    shares: dict[str, list[np.ndarray]] = {}
    try:
        with ProcessPoolExecutor(arguments.processes) as pool:
            for file in arguments.curves:
                table(file)
                done = list(pool.map(partial(regrets, file, arguments.eta, trainings), seeds, chunksize=5))
                means = {name: np.mean([each[name] for each in done], axis=0) for name in done[0]}
                for name, mean in means.items():
                    shares.setdefault(name, []).append(mean / means[RANDOM])
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"| eta {arguments.eta} | {' | '.join(f'{each} trainings' for each in trainings)} |")
    print(f"| --- |{' ---: |' * len(trainings)}")
    for name, tables in shares.items():
        cells = (f"{np.mean(each):.2f} / {np.max(each):.2f}" for each in np.transpose(tables))
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
