"""Our rules and those of Optuna, Ray Tune and Syne Tune on the same recorded curves, in one run.

python scripts/bench/peers.py <curves.npz ...> --seeds 200 --trainings 20        (pip install -e '.[peers]')

One worker, eta 3, r_min the first level. For a seed every method gets the same draws in the same order, and all get the
resource of so many full trainings, one table for each number; a trial that has begun finishes. A trial that diverges
pays for the levels before, and for at least one since it was last decided about. All recommend by one rule: the lowest
error at the highest resource that any trial has reached. Regret is the recommended row's error at the end of its curve
minus the table's least.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from halving import UserError
from halving.app.simulation import simulate
from halving.curves import Curves, load, row_of
from halving.environment import expanded
from halving.schedulers import (
    ASHA,
    FIFO,
    PASHA,
    AsyncHyperband,
    ConcordantASHA,
    Hyperband,
    OneEpoch,
    SuccessiveHalving,
)
from halving.schedulers.successive_halving import ladder
from halving.searchers.table import RandomRows
from halving.tuner import Budget

ETA = 3
RANDOM = "random (fifo)"


class Rule(Protocol):
    """Decides about a running trial at a level: whether it goes on."""

    def __call__(self, trial: int, level: int, error: float) -> bool: ...


def optuna_rule(pruner: str, curves: Curves, seed: int) -> Rule:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    last = int(curves.resource[-1])
    options: dict[str, Any] = {"min_resource": int(curves.resource[0]), "reduction_factor": ETA}
    if pruner == "HyperbandPruner":
        options["max_resource"] = last
    study = optuna.create_study(study_name=str(seed), pruner=getattr(optuna.pruners, pruner)(**options))
    trials: dict[int, Any] = {}

    def goes_on(trial: int, level: int, error: float) -> bool:
        if trial not in trials:
            trials[trial] = study.ask()
        if np.isnan(error):
            study.tell(trials[trial], state=optuna.trial.TrialState.FAIL)
            return False
        trials[trial].report(error, level)
        if level == last:
            study.tell(trials[trial], error)
        elif trials[trial].should_prune():
            study.tell(trials[trial], state=optuna.trial.TrialState.PRUNED)
            return False
        return True

    return goes_on


def ray_rule(curves: Curves, seed: int) -> Rule:
    from ray.tune.schedulers.async_hyperband import _Bracket  # pyright: ignore

    bracket = _Bracket(int(curves.resource[0]), int(curves.resource[-1]), ETA, 0)

    def goes_on(trial: int, level: int, error: float) -> bool:
        identity: Any = SimpleNamespace(trial_id=str(trial))  # all that the rule reads of a trial
        return not np.isnan(error) and bracket.on_result(identity, level, -error) == "CONTINUE"

    return goes_on


def syne_tune_rule(curves: Curves, seed: int) -> Rule:
    from syne_tune.optimizer.scheduler import SchedulerDecision  # pyright: ignore
    from syne_tune.optimizer.schedulers.asha import Bracket  # pyright: ignore

    bracket = Bracket(int(curves.resource[0]), int(curves.resource[-1]), ETA, 0)

    def goes_on(trial: int, level: int, error: float) -> bool:
        return not np.isnan(error) and bracket.on_result(trial, level, {"error": error}) != SchedulerDecision.STOP

    return goes_on


def stopping(make: Callable[[Curves, int], Rule], curves: Curves, seed: int, trainings: int) -> float:
    """Run trials one after another, each until the rule stops it; return the regret."""
    rule, rows = make(curves, seed), RandomRows(curves, seed, reuse=True)
    last = int(curves.resource[-1])
    levels = ladder(ETA, int(curves.resource[0]), last)
    spent, trial, best = 0.0, 0, (0.0, np.inf, -1)
    while spent < trainings * last:
        row, since = row_of(rows.propose(trial) or {}), 0
        for until in levels:
            error = float(curves.error[row, curves.level(until)])
            if np.isnan(error):
                survived = int(np.isfinite(curves.error[row]).sum())
                spent += max(1, int(curves.resource[survived - 1]) - since if survived else 0)
                rule(trial, until, error)
                break
            spent, since = spent + until - since, until
            best = min(best, (-float(until), error, row))
            if not rule(trial, until, error):
                break
        trial += 1
    return regret(curves, int(best[2]) if np.isfinite(best[1]) else None)


def ours(scheduler: Callable[..., Any], curves: Curves, seed: int, trainings: int) -> float:
    """Run one of our schedulers until the resource is spent; return the regret."""
    budget = Budget(resource=trainings * float(curves.resource[-1]))
    history = simulate(curves, scheduler, seed=seed, reuse=True, budget=budget)
    return regret(curves, row_of(history.incumbent[0].configuration) if history.incumbent else None)


def regret(curves: Curves, row: int | None) -> float:
    return float(curves.final[row] if row is not None else curves.final.max()) - curves.optimum


def one_epoch(searcher: Any, r_min: int, r_max: int, trainings: int, half: bool) -> OneEpoch:
    """Everything for r_min, then the best in full: with half of the resource each, or the best one only."""
    resource = trainings * r_max
    k = max(1, resource // 2 // (r_max - r_min)) if half else 1
    return OneEpoch(searcher, r_min, r_max, k=k, n=max(k, (resource - k * (r_max - r_min)) // r_min))


def methods(curves: Curves, seed: int, trainings: int) -> Iterator[tuple[str, Callable[[], float]]]:
    first, last = int(curves.resource[0]), int(curves.resource[-1])
    ladders = {"eta": ETA, "r_min": first, "r_max": last}
    own: dict[str, Callable[..., Any]] = {
        RANDOM: partial(FIFO, r_max=last),
        "sha": partial(SuccessiveHalving, **ladders, rounds=100),
        "asha": partial(ASHA, **ladders),
        "asha, stopping": partial(ASHA, **ladders, variant="stopping"),
        "asha, failed not counted": partial(ASHA, **ladders, count_failed=False),
        "concordant_asha": partial(ConcordantASHA, **ladders),
        "hyperband": partial(Hyperband, **ladders, rounds=50),
        "async_hyperband": partial(AsyncHyperband, **ladders, seed=seed),
        "pasha": partial(PASHA, **ladders),
        "one_epoch, k=1": partial(one_epoch, r_min=first, r_max=last, trainings=trainings, half=False),
        "one_epoch, half for each": partial(one_epoch, r_min=first, r_max=last, trainings=trainings, half=True),
    }
    peers: dict[str, Callable[[Curves, int], Rule]] = {
        "Optuna SuccessiveHalvingPruner": partial(optuna_rule, "SuccessiveHalvingPruner"),
        "Optuna HyperbandPruner": partial(optuna_rule, "HyperbandPruner"),
        "Ray Tune ASHA": ray_rule,
        "Syne Tune ASHA": syne_tune_rule,
    }
    yield from ((name, partial(ours, scheduler, curves, seed, trainings)) for name, scheduler in own.items())
    yield from ((name, partial(stopping, make, curves, seed, trainings)) for name, make in peers.items())


def compare(file: Path, trainings: int, seed: int) -> dict[str, float]:
    """Return every method's regret with one seed; NaN where its library is not installed."""
    curves, found = load(file), dict[str, float]()
    for name, run in methods(curves, seed, trainings):
        try:
            found[name] = run()
        except ImportError:
            found[name] = float("nan")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=expanded, nargs="+")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--trainings", type=int, nargs="+", default=[20], help="full trainings that may be spent")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if min(arguments.trainings) < 1:
        parser.error("--trainings: at least 1")
    try:
        tables = {file.stem: load(file) for file in arguments.curves}
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"Mean regret and standard error over {arguments.seeds} seeds; bold: within two standard errors of the best,")
    print(
        "of the paired difference. Of random: the mean over tables of the regret over that of random search. Optima: "
        + ", ".join(f"{n} {c.optimum:.4g}" for n, c in tables.items())
    )
    with ProcessPoolExecutor(arguments.processes) as pool:
        for trainings in arguments.trainings:
            print(f"\nThe resource of {trainings} full trainings:\n")
            regrets: dict[str, dict[str, np.ndarray]] = {}
            for file in arguments.curves:
                done = list(pool.map(partial(compare, file, trainings), range(arguments.seeds), chunksize=5))
                regrets[file.stem] = {name: np.array([each[name] for each in done]) for name in done[0]}
            show(regrets)


def show(regrets: dict[str, dict[str, np.ndarray]]) -> None:
    """Print the regrets, by table and method, as a table."""
    print(f"| method | {' | '.join(regrets)} | within | of random |")
    print(f"| --- |{' ---: |' * (len(regrets) + 2)}")
    for name in next(iter(regrets.values())):
        cells, within, of_random = list[str](), 0, list[float]()
        for of_method in regrets.values():
            values = of_method[name]
            best = min(of_method.values(), key=lambda each: np.inf if np.isnan(each).any() else each.mean())
            more = values - best
            error = more.std(ddof=1) / len(more) ** 0.5
            text = f"{values.mean():.4g} ± {values.std(ddof=1) / len(values) ** 0.5:.2g}"
            near = bool(more.mean() <= 2 * error)
            within += near
            of_random.append(float(values.mean() / of_method[RANDOM].mean()))
            cells.append("not installed" if np.isnan(values).any() else f"**{text}**" if near else text)
        ratios = f"{np.mean(of_random):.2f}, at most {max(of_random):.2f}"
        print(f"| {name} | {' | '.join(cells)} | {within} of {len(regrets)} | {ratios} |")


if __name__ == "__main__":
    main()
