"""Searchers: hand-worked grids, no duplicates, what they learn from, and what they refuse."""

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from halving.curves import Curves
from halving.errors import UserError
from halving.history import Header, History
from halving.report.importance import early_and_late, importances
from halving.schedulers import AsyncHyperband, Hyperband
from halving.searchers import (
    AnnealingSearcher,
    BayesianSearcher,
    BOHBSearcher,
    EvolutionSearcher,
    GridSearcher,
    LocalSearcher,
    OneAtATimeSearcher,
    OptunaSearcher,
    PriorSearcher,
    RandomSearcher,
    Searcher,
    SobolSearcher,
)
from halving.searchers.bayesian import comparable, log_expected_improvement
from halving.searchers.density import Density, category_counts, varied
from halving.searchers.recorded import Recorded
from halving.searchers.surrogate import Forest, GaussianProcess
from halving.searchers.table import NearestRow
from halving.searchers.transfer import transferred
from halving.space import Space
from halving.training.models.cnn import CNN
from halving.trial import Configuration, Finished, Outcome, Resume, Start, Verdict

MIXED = Space.from_config(
    {
        "lr": stats.loguniform(1e-4, 1.0),
        "units": stats.randint(8, 65),
        "depth": [1, 2, 4],
        "activation": ["relu", "tanh", "gelu"],
    }
)
DEFAULT: Configuration = {"lr": 0.1, "units": 32, "depth": 2, "activation": "relu"}
FINITE = Space.from_config({"a": [1, 2, 3], "b": ["x", True, 1], "c": stats.randint(0, 2)})
SEARCHERS: dict[str, tuple[type, dict[str, Any]]] = {
    "random": (RandomSearcher, {}),
    "grid": (GridSearcher, {}),
    "sobol": (SobolSearcher, {}),
    "local": (LocalSearcher, {}),
    "annealing": (AnnealingSearcher, {}),
    "evolution": (EvolutionSearcher, {"population": 5, "tournament": 3}),
    "prior": (PriorSearcher, {}),
    "bohb": (BOHBSearcher, {"fraction": 0.1}),
    "bayesian": (BayesianSearcher, {}),
    "forest": (BayesianSearcher, {"surrogate": "forest"}),
    "tpe": (OptunaSearcher, {"options": {"n_startup_trials": 5}}),
    "cmaes": (OptunaSearcher, {"sampler": "cmaes"}),
}


def build(name: str, space: Space, **extra: Any) -> Any:
    kind, options = SEARCHERS[name]
    if kind is OptunaSearcher:
        pytest.importorskip("optuna")
        pytest.importorskip("cmaes")
    return kind(space, **options, **extra)


def error(configuration: Configuration) -> float:
    """Least at lr = 0.01 with 2 layers of 40 units and tanh."""
    c: Any = configuration
    far = (math.log10(c["lr"]) + 2) ** 2 / 4 + ((c["units"] - 40) / 56) ** 2
    return far + 0.1 * abs(c["depth"] - 2) + 0.3 * (c["activation"] != "tanh")


def study(searcher: Searcher, trials: int, first: int = 0, resource: int = 1) -> list[Configuration]:
    """Run trials one after the other; return their configurations."""
    proposed: list[Configuration] = []
    for trial in range(first, first + trials):
        if (configuration := searcher.propose(trial)) is None:
            break
        proposed.append(configuration)
        searcher.observe(trial, configuration, resource, error(configuration) if "lr" in configuration else 0.5)
    return proposed


def test_grid_by_hand() -> None:
    space = Space.from_config({"lr": stats.loguniform(1e-4, 1.0), "n": stats.randint(1, 3), "kind": ["a", "b"]})
    grid = GridSearcher(space, points=2, initial={"lr": 0.1, "n": 2, "kind": "a"})
    assert len(grid) == 8
    proposed = [grid.propose(trial) for trial in range(8)]
    # The quartiles of the logarithm; the last dimension goes fastest; the first proposal, 0.1, is on the grid.
    expected = [(0.001, 1, "a"), (0.001, 1, "b"), (0.001, 2, "a"), (0.001, 2, "b"), (0.1, 1, "a"), (0.1, 1, "b")]
    assert proposed[0] == {"lr": 0.1, "n": 2, "kind": "a"}
    for got, (lr, n, kind) in zip(proposed[1:7], expected, strict=True):
        assert got == {"lr": pytest.approx(lr), "n": n, "kind": kind}
    assert len({repr(each) for each in proposed if each}) == 8


def test_grid_ends_and_says_so() -> None:
    grid = GridSearcher(Space.from_config({"a": [1, 2], "b": stats.uniform(0, 1)}), points=3)
    assert [grid.propose(trial) is None for trial in range(7)] == [False] * 6 + [True]


def test_sobol_is_more_even_than_chance() -> None:
    space = Space.from_config({"x": stats.uniform(0, 1), "y": stats.uniform(0, 1)})
    searcher = SobolSearcher(space, seed=5)
    points = np.array([space.encode(searcher.propose(trial) or {}) for trial in range(64)])
    cells = Counter((int(x * 8), int(y * 8)) for x, y in points)
    assert len(cells) == 64, "one point in each of 64 squares"
    after = SobolSearcher(space, seed=5, initial={"x": 0.5, "y": 0.5})
    assert (space.encode(after.propose(1) or {}) == points[0]).all(), "what is given takes no point away"


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "grid"])
def test_a_finite_space_is_gone_through_once(name: str) -> None:
    initial = {"a": 9, "b": "elsewhere", "c": 0}
    searcher = build(name, FINITE, seed=2, initial=[initial, initial])
    proposed = study(searcher, 30)
    assert proposed[0] == initial, "the defaults come first, wherever they lie"
    assert len(proposed) == 19 and len({repr(each) for each in proposed}) == 19, "True and 1 are two values"
    assert searcher.propose(19) is None


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "grid"])
def test_what_a_trial_did_not_run_after_all_is_proposed_again(name: str) -> None:
    """A table answers the first six proposals with other values: of a finite space all else is gone through once."""
    searcher, outside = build(name, FINITE, seed=2), {"a": 9, "b": "elsewhere", "c": 0}
    first = [searcher.propose(trial) for trial in range(6)]
    for trial in range(6):
        searcher.recall(trial, outside | {"c": trial})
        searcher.observe(trial, outside | {"c": trial}, 1, 0.1)
    later = [repr(each) for each in study(searcher, 30, first=6)]
    assert len(later) == len(set(later)) == 18 and {repr(each) for each in first} <= set(later)


OUTSIDE: list[Configuration] = [
    *({"lr": value} for value in (None, "high", True, math.nan, 2.0, 1e-5)),
    *({"units": value} for value in (None, 7, 65, 8.5)),
    *({"activation": value} for value in ("relux", None, 1)),
    {"kind": "c"},
    {"kind": "b"},  # without what belongs to it
]


@pytest.mark.parametrize("name", list(SEARCHERS))
@pytest.mark.parametrize("outside", OUTSIDE, ids=str)
def test_a_default_outside_its_space_is_tried_first_and_not_learned_from(name: str, outside: Configuration) -> None:
    """Of another type, out of range, not listed, or incomplete: it is by far the best, and nobody gathers there."""
    space = Space.from_config(
        {
            "lr": stats.loguniform(1e-4, 1.0),
            "units": stats.randint(8, 65),
            "activation": ["relu", "tanh"],
            "kind": {"_choice_": {"a": {}, "b": {"x": [1, 2]}}},
        }
    )
    default: Configuration = {"lr": 0.1, "units": 32, "activation": "relu", "kind": "a"} | outside
    told, untold = (build(name, space, seed=1, initial=default) for _ in range(2))
    assert repr(told.propose(0)) == repr(untold.propose(0)) == repr(default)
    for trial in range(1, 10):
        told.observe(0, default, trial, -100.0 * trial)
        proposed = told.propose(trial)
        assert proposed == untold.propose(trial) and space.holds(proposed)
        for searcher in (told, untold):
            searcher.observe(trial, proposed, 1, float(trial * 7 % 5))


def test_a_prior_lies_around_what_the_space_has_of_the_defaults() -> None:
    space = Space.from_config({"x": stats.uniform(0, 1), "n": stats.randint(0, 10)})
    searcher = PriorSearcher(space, seed=0, initial={"x": 0.1, "n": None}, width=0.05)
    near = [(searcher.propose(trial) or {}) for trial in range(1, 61)]
    assert sum(abs(float(each["x"]) - 0.1) < 0.15 for each in near) >= 24  # type: ignore


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name not in ("random", "grid", "sobol", "prior")])
def test_learners_leave_the_corner_they_begin_in_and_gather_where_errors_are_low(name: str) -> None:
    """The first eight lie where errors are highest: who learns of no others stays at more than twice the limit."""
    searcher, rng = build(name, MIXED, seed=1), np.random.default_rng(0)
    for trial in range(8):
        configuration = MIXED.decode([1 - 0.1 * rng.random(), 0.2 * rng.random(), 0.9, 0.1])
        searcher.recall(trial, configuration)
        searcher.observe(trial, configuration, 1, error(configuration))
    learned = np.median([error(each) for each in study(searcher, 52, first=8)[32:]])
    drawn = np.median([error(each) for each in study(RandomSearcher(MIXED, seed=1), 60)])
    assert learned < 0.7 * drawn


@pytest.mark.parametrize("name", list(SEARCHERS))
def test_rungs_failures_and_pending_trials_together(name: str) -> None:
    """A synchronous rung: all are pending at first, a third fails, the best third goes on to a higher resource."""
    searcher = build(name, MIXED, seed=3)
    for first in (0, 18):
        configurations = {trial: searcher.propose(trial) for trial in range(first, first + 18)}
        assert len({repr(each) for each in configurations.values()}) == 18
        for trial, configuration in configurations.items():
            searcher.observe(trial, configuration, 1, math.inf if trial % 3 == 0 else error(configuration) + 1)
        for trial in sorted(configurations, key=lambda trial: (trial % 3 == 0, error(configurations[trial])))[:6]:
            searcher.observe(trial, configurations[trial], 3, error(configurations[trial]))


def test_bayesian_expects_improvement_at_the_highest_resource() -> None:
    """What is best after 1 unit is worst after 9: three trials at 9 outweigh twelve at 1."""
    space = Space.from_config({"x": stats.uniform(0, 1)})
    searcher = BayesianSearcher(space, seed=0)
    for trial, x in enumerate(np.linspace(0.02, 0.98, 12)):
        searcher.recall(trial, {"x": float(x)})
        searcher.observe(trial, {"x": float(x)}, 1, float(x))
        if trial % 3 == 0:
            searcher.observe(trial, {"x": float(x)}, 9, 1 - float(x))
    assert [(searcher.propose(trial) or {})["x"] > 0.5 for trial in range(12, 15)] == [True] * 3  # type: ignore


def test_bayesian_keeps_away_from_what_runs() -> None:
    """Of five proposals without an outcome between: a trial that runs counts with its mean, so others lie elsewhere."""
    space = Space.from_config({"x": stats.uniform(0, 1), "y": stats.uniform(0, 1)})
    searcher, rng = BayesianSearcher(space, seed=3, startup=6), np.random.default_rng(3)
    for trial in range(6):
        x, y = rng.random(2).tolist()
        searcher.observe(trial, {"x": x, "y": y}, 1, (x - 0.43) ** 2 + (y - 0.3) ** 2)
    points = [space.encode(searcher.propose(trial) or {}) for trial in range(6, 11)]
    assert min(np.abs(first - second).max() for first, second in combinations(points, 2)) > 0.05


def test_a_gaussian_process_has_a_length_for_each_input() -> None:
    """One input of three matters: fifteen points are enough to know it, and with one length for all they are not."""
    rng = np.random.default_rng(0)
    inputs, asked = rng.random((15, 3)), rng.random((200, 3))
    process = GaussianProcess(0)
    process.fit(inputs, np.sin(9 * inputs[:, 0]))
    mean, _ = process.predict(asked)
    assert np.abs(mean - np.sin(9 * asked[:, 0])).mean() < 0.1


def test_bohb_learns_from_the_highest_resource_with_enough_errors() -> None:
    space = Space.from_config({"x": stats.uniform(0, 1)})
    searcher = BOHBSearcher(space, seed=0, fraction=0.0)
    for trial, x in enumerate(np.linspace(0.02, 0.98, 20)):
        searcher.observe(trial, {"x": float(x)}, 1, float(x))
        if trial % 4 == 0:
            searcher.observe(trial, {"x": float(x)}, 9, 1 - float(x))
    xs = [(searcher.propose(trial) or {})["x"] for trial in range(20, 40)]
    assert np.mean(np.array(xs) > 0.5) > 0.8
    few, known = BOHBSearcher(space, seed=0, fraction=0.0, widening=1e-6), np.linspace(0.02, 0.98, 20)
    for trial, x in enumerate(known):
        few.observe(trial, {"x": float(x)}, 1, float(x))
        if trial % 7 == 0:
            few.observe(trial, {"x": float(x)}, 9, 1 - float(x))
    found = np.array([(few.propose(trial) or {})["x"] for trial in range(20, 30)], dtype=float)
    assert np.mean(found) < 0.35, "three at the higher resource are too few, with one dimension"
    assert np.abs(found[:, None] - known).min(axis=1).max() < 1e-5, "as near to the good ones as they are wide"


def test_prior_stays_near_the_defaults_until_something_better_is_known() -> None:
    space = Space.from_config({"x": stats.uniform(0, 1), "kind": ["a", "b", "c"]})
    searcher = PriorSearcher(space, seed=0, initial={"x": 0.1, "kind": "c"}, width=0.05)
    near = [(searcher.propose(trial) or {}) for trial in range(100)]
    # Half is drawn from the space, the other half within three deviations and, half of that, with the category.
    assert 40 <= sum(abs(float(each["x"]) - 0.1) < 0.15 for each in near) <= 80  # type: ignore
    for trial, each in enumerate(near):
        searcher.observe(trial, each, 1, abs(float(each["x"]) - 0.9))  # type: ignore
    late = [(searcher.propose(trial) or {}) for trial in range(100, 200)]
    assert sum(abs(float(each["x"]) - 0.9) < 0.15 for each in late) >= 40  # type: ignore
    assert sum(abs(float(each["x"]) - 0.1) < 0.1 for each in late) <= 20, "no longer, as the best lie elsewhere"  # type: ignore


def test_the_more_levels_lie_below_its_bracket_the_less_a_prior_leaves_to_chance() -> None:
    """With eta = 3 half at first, and a tenth where the newest trial began at the third level."""
    space = Space.from_config({"x": stats.uniform(0, 1)})
    searcher = PriorSearcher(space, seed=0, initial={"x": 0.1}, width=0.02)
    far: list[int] = []
    for first, below in ((1, None), (101, 0), (201, 1), (301, 2)):
        for trial in range(first, first + 100) if below is not None else ():
            searcher.place(trial, below)
        proposed = [searcher.propose(trial) or {} for trial in range(first, first + 100)]
        far.append(sum(float(each["x"]) > 0.2 for each in proposed))  # type: ignore
    assert far == pytest.approx([40, 40, 20, 8], abs=8), "of a hundred each, as 4/5 of the space lie there"


def test_evolution_lets_only_its_youngest_have_children() -> None:
    """Six of an older population are better by far; a child is the best of the younger but for one dimension."""
    space = Space.from_config({f"x{i}": stats.uniform(0, 1) for i in range(5)})
    searcher = EvolutionSearcher(space, seed=0, population=6, tournament=6, crossover=0.0)
    for trial in range(12):
        old = trial < 6
        searcher.observe(
            trial, space.decode([0.1 if old else 0.7 + trial / 100] * 5), 1, trial if old else 100.0 - trial
        )
    for trial in range(12, 20):
        child = space.encode(searcher.propose(trial) or {})
        assert (np.abs(child - 0.81) < 1e-9).sum() == 4, child
    mixing = EvolutionSearcher(space, seed=0, population=2, tournament=1, crossover=1.0)
    for trial, u in enumerate((0.2, 0.8)):
        mixing.observe(trial, space.decode([u] * 5), 1, 0.5)
    children = np.array([space.encode(mixing.propose(trial) or {}) for trial in range(2, 12)])
    of_each = [(np.abs(children - u) < 1e-9).sum(axis=1) >= 2 for u in (0.2, 0.8)]
    assert (of_each[0] & of_each[1]).any(), "of two parents"


def test_annealing_leaves_a_better_point_while_hot_and_never_when_cold() -> None:
    space = Space.from_config({"x": stats.uniform(0, 1)})

    def moved(temperature: float, scale: float = 1.0) -> int:
        moves = 0
        for seed in range(40):
            searcher = AnnealingSearcher(space, seed=seed, temperature=temperature)
            for trial, (x, e) in enumerate([(0.1, 0.0), (0.2, 1.0), (0.9, 1.0)]):
                searcher.observe(trial, {"x": x}, 1, scale * e)
            moves += abs(float((searcher.propose(3) or {})["x"]) - 0.1) > 0.5  # type: ignore
        return moves

    assert moved(1e-6) <= 2 < 5 <= moved(5.0) == moved(5.0, scale=1000.0), "in standard deviations of the errors"


@settings(max_examples=50)
@given(st.integers(1, 30), st.integers(0, 10**6))
def test_densities_sum_to_one(count: int, seed: int) -> None:
    """Over a number and a category, whose cells have the width 1/3, by quadrature."""
    space = Space.from_config({"x": stats.uniform(0, 1), "kind": ["a", "b", "c"]})
    points = np.random.default_rng(seed).random((count, 2))
    points[:, 1] = (np.floor(points[:, 1] * 3) + 0.5) / 3
    density = Density.estimate(points, category_counts(space))
    x = (np.arange(2000) + 0.5) / 2000
    grid = np.array([(a, b) for b in (1 / 6, 1 / 2, 5 / 6) for a in x])
    assert np.exp(density.log(grid)).mean() == pytest.approx(1, abs=2e-3)
    drawn = density.sample(50, np.random.default_rng(seed))
    assert ((drawn >= 0) & (drawn <= 1)).all()


def test_each_dimension_of_a_density_has_its_own_width() -> None:
    """With d = 3 and n = 2 the rule shrinks by 2^(-1/7); a category of three has another value in 2/3 of all cases."""
    space = Space.from_config({"x": stats.uniform(0, 1), "y": stats.uniform(0, 1), "kind": ["a", "b", "c"]})
    points = np.array([[0.1, 0.3, 1 / 6], [0.9, 0.5, 5 / 6]])
    found = Density.estimate(points, category_counts(space))
    assert found.widths / 2 ** (-1 / 7) == pytest.approx([1.06 * 0.4, 1.06 * 0.1, 2 / 3])
    assert Density.estimate(points[:1], category_counts(space)).widths == pytest.approx([0.02, 0.02, 2 / 3])
    drawn = found.sample(4000, np.random.default_rng(0))
    assert np.abs(drawn[:, 0] - 0.5).mean() > 1.8 * np.abs(drawn[:, 1] - 0.4).mean()


def test_errors_compare_between_resources() -> None:
    """Curves fall a thousandfold, and the best half goes on: what differs at the end counts as much as at the start."""
    quality = np.arange(20.0)
    trials, resources = np.r_[0:20, 0:10, 20:22], np.r_[[1] * 20, [9] * 12]
    errors = np.r_[1000 + 10 * quality, 1 + 0.01 * quality[:10], 1.3, math.inf]
    found = comparable(trials, resources, errors)
    low, high = found[:20], found[20:30]
    assert (np.diff(low) > 0).all() and (np.diff(high) > 0).all()
    assert 0.2 < np.ptp(high) / np.ptp(low) < 1, "differences at the end are no noise"
    assert high.mean() < 0 and (high < found[30]).all(), "survivors are good, and better than one that began here"
    assert found[31] == found[:31].max(), "a failure takes the worst"
    assert comparable(trials[:1], resources[:1], errors[:1]).tolist() == [0.0]


def test_errors_of_one_resource_by_hand() -> None:
    """Of [1, 2, 3, 100] the last is drawn in to 2.5 + 5 * (2.5 - 1) = 10; the whole has mean 0 and deviation 1."""
    here, errors = np.ones(4, dtype=int), np.array([1.0, 2.0, 3.0, 100.0])
    drawn_in = np.array([1.0, 2.0, 3.0, 10.0])
    expected = (drawn_in - drawn_in.mean()) / drawn_in.std()
    assert comparable(np.arange(4), here, errors) == pytest.approx(expected)
    assert comparable(np.arange(4), here, errors - 50) == pytest.approx(expected)
    few = comparable(np.r_[0:4, 0:2], np.r_[[1] * 4, 9, 9], np.r_[errors, 0.5, 0.1])
    assert few[4:] == pytest.approx(few[:2]), "fewer than three keep what they had below"
    assert (few.mean(), few.std()) == pytest.approx((0, 1))
    assert comparable(np.arange(3), np.ones(3, dtype=int), np.full(3, 0.5)).tolist() == [0.0] * 3


def test_a_forest_is_never_certain() -> None:
    """Equal errors leave nothing between its trees, and an improvement is measured in deviations."""
    points, forest = np.random.default_rng(0).random((20, 2)), Forest(0)
    forest.grow(points, np.full(20, 0.5))
    forest.fill(points, np.full(20, 0.5))
    mean, deviation = forest.predict(points)
    assert mean == pytest.approx(0.5) and (deviation > 0).all() and (deviation < 1e-3).all()
    forest.extend(points[:1], np.array([9.0]))
    changed, deviation = forest.predict(points[:1])
    assert changed == pytest.approx((20 * 0.5 + 9) / 21) and deviation > 0, "a tree of one leaf is the mean"


@pytest.mark.parametrize("surrogate", ["gp", "forest"])
def test_bayesian_improves_on_the_least_error_that_it_predicts_of_known_trials(
    surrogate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In standard deviations of all errors, of which the mean is 0."""
    asked: list[float] = []

    def improvement(mean: Any, deviation: Any, best: float) -> Any:
        asked.append(best)
        return log_expected_improvement(mean, deviation, best)

    monkeypatch.setattr("halving.searchers.bayesian.log_expected_improvement", improvement)
    searcher = BayesianSearcher(Space.from_config({"x": stats.uniform(0, 1)}), seed=1, surrogate=surrogate)
    proposed = []
    for trial in range(24):
        proposed.append(float((searcher.propose(trial) or {})["x"]))  # pyright: ignore
        searcher.observe(trial, {"x": proposed[-1]}, 1, (proposed[-1] - 0.3) ** 2)
    assert max(asked[-3:]) < -0.3, "below the mean of all"
    assert np.median(np.abs(np.array(proposed[-6:]) - 0.3)) < 0.1


GOLDEN = Path(__file__).parent / "golden" / "searchers.json"
TRACED = {
    "local": lambda space: LocalSearcher(space, seed=3),
    "annealing": lambda space: AnnealingSearcher(space, seed=3, cooling=0.8),
    "evolution": lambda space: EvolutionSearcher(space, seed=3, population=5, tournament=3),
    "prior": lambda space: PriorSearcher(
        space, seed=3, eta=2, initial={"lr": 0.1, "units": 32, "depth": 2, "kind": "b"}
    ),
    "bohb": lambda space: BOHBSearcher(space, seed=3, samples=8),
}


def traced(name: str) -> list[str]:
    """Twenty proposals, of which each third trial goes on and each seventh fails; two are out at a time."""
    space = Space.from_config(
        {
            "lr": stats.loguniform(1e-4, 1.0),
            "units": stats.randint(8, 65),
            "depth": [1, 2, 4],
            "kind": {"_choice_": {"a": {"x": stats.uniform(0, 1)}, "b": {}}},
        }
    )
    searcher = TRACED[name](space)
    proposed: list[Configuration] = []
    for trial in range(20):
        proposed.append(searcher.propose(trial) or {})
        if (told := trial - 1) >= 0:
            found = {"activation": "tanh" if proposed[told]["kind"] == "a" else "relu", **proposed[told]}
            for resource in (1, 3) if told % 3 == 0 else (1,):
                searcher.observe(told, proposed[told], resource, math.inf if told % 7 == 5 else error(found) / resource)
    return [
        ", ".join(f"{key} {value if isinstance(value, str) else f'{value:.6g}'}" for key, value in each.items())
        for each in proposed
    ]


@pytest.mark.parametrize("name", TRACED)
def test_golden_trace_of_proposals(name: str) -> None:
    """A change that is meant to alter proposals writes them anew: `python tests/test_searchers.py`."""
    assert traced(name) == json.loads(GOLDEN.read_text())[name]


def test_a_forest_is_the_same_whenever_it_was_asked() -> None:
    """Grown again by a tenth more errors: a resumed study asks only at the end, and gets the same trees."""
    asked, resumed = (BayesianSearcher(MIXED, seed=7, surrogate="forest") for _ in range(2))
    for trial in range(70):
        configuration = asked.propose(trial) or {}
        resumed.recall(trial, configuration)
        outcomes = [(1, math.inf if trial % 7 == 3 else error(configuration))]
        outcomes += [(3, error(configuration))] if trial % 5 == 0 and outcomes[0][1] < math.inf else []
        outcomes += [(9, error(configuration))] if trial == 62 else []
        for resource, value in outcomes:
            for searcher in (asked, resumed):
                searcher.observe(trial, configuration, resource, value)
    assert asked.propose(70) == resumed.propose(70)


def test_a_promotion_that_fails_takes_no_error_away() -> None:
    """It is reported at the resource where the trial paused; a forest asked before is the one asked only afterwards."""
    asked, resumed = (BayesianSearcher(MIXED, seed=7, surrogate="forest") for _ in range(2))
    for trial in range(24):
        configuration = asked.propose(trial) or {}
        resumed.recall(trial, configuration)
        for searcher in (asked, resumed):
            searcher.observe(trial, configuration, 1, error(configuration))
    resumed.recall(24, asked.propose(24) or {})
    for searcher in (asked, resumed):
        searcher.observe(3, searcher.propose(3) or {}, 1, math.inf)
        assert searcher.standing(3) == (True, -1, error(searcher.propose(3) or {}), 3)
    assert asked.propose(25) == resumed.propose(25)


def test_bohb_has_no_failed_trial_among_the_good_ones() -> None:
    """Ten trials reached the higher level and failed there later: it is none to learn from."""
    space = Space.from_config({"x": stats.uniform(0, 1)})
    searcher = BOHBSearcher(space, seed=0, fraction=0.0)
    for trial, x in enumerate(np.linspace(0.02, 0.98, 20)):
        searcher.observe(trial, {"x": float(x)}, 1, float(x))
        if x > 0.5:
            searcher.observe(trial, {"x": float(x)}, 9, float(x))
            searcher.observe(trial, {"x": float(x)}, 9, math.inf)
    assert searcher.level(1) == 1
    xs = [float((searcher.propose(trial) or {})["x"]) for trial in range(20, 40)]  # type: ignore
    assert np.mean(xs) < 0.35
    few = BOHBSearcher(space, seed=0, fraction=0.0, good=0.9)
    for trial, x in enumerate(np.linspace(0.02, 0.98, 20)):
        few.observe(trial, {"x": float(x)}, 1, math.inf if x > 0.3 else float(x))
    xs = [float((few.propose(trial) or {})["x"]) for trial in range(20, 40)]  # type: ignore
    assert max(xs) < 0.5


OPTIONS = Space.from_config(
    {"kind": {"_choice_": {"a": {f"x{i}": stats.uniform(0, 1) for i in range(6)}, "b": {}}}, "lr": stats.uniform(0, 1)}
)


@pytest.mark.parametrize("name", ["bayesian", "forest", "bohb"])
def test_what_lies_where_nothing_exists_earns_no_score(name: str) -> None:
    """Two options are equally good; that one has no dimensions must not make it the best of all candidates."""
    options = {"fraction": 0.0} if name == "bohb" else {}
    chosen: Counter[Any] = Counter()
    for seed in range(4):
        searcher = SEARCHERS[name][0](OPTIONS, seed=seed, **(SEARCHERS[name][1] | options))
        rng = np.random.default_rng(seed)
        for trial in range(30):
            configuration = OPTIONS.sample(rng)
            searcher.recall(trial, configuration)
            searcher.observe(trial, configuration, 1, (float(configuration["lr"]) - 0.3) ** 2)  # type: ignore
        chosen.update((searcher.propose(trial) or {})["kind"] for trial in range(30, 36))
    assert chosen["b"] <= 12


def test_scores_do_not_depend_on_inactive_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forest is asked of one point, as far as these go; the densities rank as they did when they are others."""
    rng = np.random.default_rng(3)
    points = rng.random((50, len(OPTIONS.dimensions)))
    points[:, 0] = 0.75
    moved = points.copy()
    moved[:, 1:7] = rng.random((50, 6))
    forest = BayesianSearcher(OPTIONS, surrogate="forest")
    bohb = BOHBSearcher(OPTIONS, fraction=0.0)
    for trial in range(30):
        configuration = OPTIONS.sample(rng)
        for searcher in (forest, bohb):
            searcher.observe(trial, configuration, 1, float(rng.random()))
    predict, asked = Forest.predict, list[np.ndarray]()
    monkeypatch.setattr(Forest, "predict", lambda self, inputs: (asked.append(inputs), predict(self, inputs))[1])
    forest.propose(30)
    inputs = np.vstack(asked)  # x0 to x5, lr, whether the kind is a, whether it is b, and the resource
    without = inputs[inputs[:, 8] > 0, :6]
    assert len(without) > 100 and len(np.unique(without, axis=0)) == 1
    ranked: list[np.ndarray] = []
    for drawn in (points, moved):
        monkeypatch.setattr(Density, "sample", lambda *_, drawn=drawn: drawn)
        ranked.append(np.array([point[7] for point in bohb.candidates(30, np.random.default_rng(0))]))
    assert (ranked[0] == ranked[1]).all()


def test_an_option_of_one_configuration_is_one_candidate() -> None:
    """It is the best by far and was tried: the proposals are not left to chance."""
    space = Space.from_config({"kind": {"_choice_": {"a": {"x": stats.uniform(0, 1)}, "b": {}}}})
    searcher = BayesianSearcher(space, seed=0)
    for trial, x in enumerate((None, *np.linspace(0.02, 0.98, 12))):
        configuration: Configuration = {"kind": "b"} if x is None else {"kind": "a", "kind.x": float(x)}
        searcher.observe(trial, configuration, 1, 0.0 if x is None else 5 + float(x))
    candidates = list(searcher.candidates(13, np.random.default_rng(0)))
    assert sum(space.decode(point) == {"kind": "b"} for point in candidates) == 1


def test_what_has_one_value_is_no_dimension_to_learn() -> None:
    """A table's constant columns: two dimensions ask for no more errors than one."""
    wide = Space.from_config({"x": stats.uniform(0, 1), **{f"c{i}": [i] for i in range(8)}})
    searcher = BOHBSearcher(wide, seed=0, fraction=0.0)
    for trial, x in enumerate(np.linspace(0.02, 0.98, 8)):
        searcher.observe(trial, wide.decode([x] * 9), 1, float(x))
    xs = [float((searcher.propose(trial) or {})["x"]) for trial in range(8, 28)]  # type: ignore
    assert np.mean(xs) < 0.35
    assert varied(Space.from_config({"n": stats.randint(3, 4), "m": stats.randint(3, 5), "k": [7]})) == 1


def multiply_adds(model: torch.nn.Module, images: torch.Tensor) -> int:
    """Count those of the convolutions and linear layers for one image."""
    counts: list[int] = []

    def count(layer: Any, _: Any, output: torch.Tensor) -> None:
        counts.append(output[0].numel() * layer.weight[0].numel())

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    model.eval()(images)
    return sum(counts)


def test_the_architectures_build_at_all_corners() -> None:
    """Largest and smallest of everything, on images of 28 x 28; scaled ones cost two to eight times as much.

    Depth is rounded up: 3 becomes 4, but 1 becomes 2.
    """
    file = Path(__file__).parents[1] / "conf" / "space" / "architecture.yaml"
    space = Space.from_config(yaml.safe_load(file.read_text(encoding="utf-8"))["model"])
    images = torch.zeros(2, 1, 28, 28)
    ratios: list[float] = []
    for corner in product((0.0, 1.0), repeat=len(space.dimensions) - 1):
        work: list[int] = []
        for phi in (0.0, 1.0):
            configuration: Any = {name.removeprefix("model."): v for name, v in space.decode((*corner, phi)).items()}
            model = CNN((1, 28, 28), 10, **configuration)
            assert configuration["phi"] == phi and model.eval()(images).shape == (2, 10)
            work.append(multiply_adds(model, images))
        ratios.append(work[1] / work[0])
    assert min(ratios) > 2 and max(ratios) < 8
    assert set(space.names) == {"depth", "width", "kernel", "activation", "pooling", "normalisation", "phi"}


def test_expected_improvement_is_the_integral_and_never_underflows() -> None:
    z = np.array([4.0, 1.0, 0.0, -0.999, -1.001, -3.0, -4.999, -5.001, -20.0, -300.0, -999.0, -1001.0, -1e5])
    # With t = |z| s the tail's integral is the density at z, times that of s exp(-s - s**2 / (2 z**2)), over z**2.
    s = np.linspace(0, 60, 600_001)
    tail = [np.trapezoid(s * np.exp(-s - (s / x) ** 2 / 2), s) / x**2 for x in z[3:]]
    expected = np.log(tail) - z[3:] ** 2 / 2 - math.log(2 * math.pi) / 2
    found = log_expected_improvement(np.zeros(len(z)), np.ones(len(z)), z)  # type: ignore
    assert found[3:] == pytest.approx(expected, rel=1e-8)
    assert np.exp(found[:3]) == pytest.approx([4.0000071, 1.0833155, 0.3989423], rel=1e-6)
    assert log_expected_improvement(np.array([1.0]), np.array([0.5]), 0.5) == pytest.approx(
        log_expected_improvement(np.array([2.0]), np.ones(1), 1.0) + math.log(0.5)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GridSearcher(MIXED, points=0), "searcher.points=0: must be an integer of at least 1 value"),
        (lambda: GridSearcher(MIXED, points=10**30), f"searcher.points={10**30}: must be at most 100000"),
        (lambda: LocalSearcher(MIXED, p=1.5), "searcher.p=1.5: a probability"),
        (lambda: LocalSearcher(MIXED, p=True), "searcher.p=True: a probability"),
        (lambda: AnnealingSearcher(MIXED, temperature="hot"), "searcher.temperature=hot: must be positive"),  # type: ignore
        (lambda: AnnealingSearcher(MIXED, temperature=math.nan), "searcher.temperature=nan: must be positive"),
        (lambda: BOHBSearcher(MIXED, widening=-1.0), "searcher.widening=-1.0: must be more than 0"),
        (lambda: BOHBSearcher(MIXED, fraction=None), "searcher.fraction=None: a share"),  # type: ignore
        (lambda: OptunaSearcher(MIXED, sampler=["tpe"]), "searcher.sampler=.'tpe'.: there is tpe"),  # type: ignore
        (lambda: AnnealingSearcher(MIXED, cooling=1.0), "searcher.cooling=1.0"),
        (lambda: EvolutionSearcher(MIXED, population=3, tournament=4), "searcher.tournament=4"),
        (lambda: BOHBSearcher(MIXED, good=1.0), "searcher.good=1.0: a share"),
        (lambda: PriorSearcher(MIXED, width=0.0), "searcher.width=0.0"),
        (lambda: BayesianSearcher(MIXED, surrogate="tree"), "searcher.surrogate=tree: there is gp, forest"),  # type: ignore
        (lambda: OptunaSearcher(MIXED, sampler="nsga"), "searcher.sampler=nsga: there is tpe, gp, cmaes"),  # type: ignore
    ],
)
def test_refuses_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        make()


def test_without_optuna_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r"searcher=tpe needs .*: pip install 'halving\[optuna\]'"):
        OptunaSearcher(MIXED)


def test_optuna_refuses_an_option_it_does_not_know() -> None:
    pytest.importorskip("optuna")
    with pytest.raises(UserError, match=r"searcher\.options: .*n_startup"):
        OptunaSearcher(MIXED, options={"n_startup": 3})


@pytest.mark.parametrize("name", ["local", "evolution", "bohb", "bayesian", "tpe"])
def test_learns_of_the_configuration_that_was_run(name: str) -> None:
    """A table answers with its nearest row: the searcher learns of the row, not of what it proposed."""
    space = Space.from_config({"x": stats.uniform(0, 1)})
    told, recalled = build(name, space, seed=4), build(name, space, seed=4)
    for trial in range(12):
        row = {"x": round(float((told.propose(trial) or {})["x"]), 1)}
        recalled.recall(trial, row)
        for searcher in (told, recalled):
            searcher.observe(trial, row, 1, abs(row["x"] - 0.3))
    assert told.propose(12) == recalled.propose(12)


def history_of(
    errors: list[float], configurations: list[Configuration], dimensions: tuple[str, ...], failing_at: int = 1
) -> History:
    history = History()
    history.apply(Header("name", "sha", "random", 0, 9, dimensions=dimensions), 0.0)
    for trial, (configuration, value) in enumerate(zip(configurations, errors, strict=True)):
        history.apply(Start(trial, configuration, 1), 0.0)
        failed = math.isinf(value)
        history.apply(Finished(Outcome(trial, failing_at if failed else 1, value, failed=failed)), 1.0)
        history.apply(Verdict(trial, "failed" if failed else "paused"), 1.0)
    return history


def test_importances_name_what_mattered() -> None:
    rng = np.random.default_rng(0)
    drawn: list[Configuration] = [
        {"lr": float(rng.random()), "kind": str(rng.choice(["a", "b"])), "noise": float(rng.random())}
        for _ in range(80)
    ]
    errors = [float(c["lr"]) ** 2 + 0.2 * (c["kind"] == "b") + 0.02 * float(rng.normal()) for c in drawn]  # type: ignore
    errors[3] = math.inf
    drawn[3]["lr"] = 1.0
    found = importances(history_of(errors, drawn, ("noise", "kind", "lr")))
    assert (found.resource, found.trials) == (1, 80) and found.explained > 0.7
    assert [row.dimension for row in found.dimensions] == ["lr", "kind", "noise"]
    lr, kind, noise = found.dimensions
    assert lr.loss - lr.deviation > kind.loss > 3 * kind.deviation / 2 > abs(noise.loss)


def test_importances_count_trials_that_failed_before_they_were_measured() -> None:
    """Above 0.5 all fail, without an epoch, and they are most: what decides that matters, and nothing else."""
    rng = np.random.default_rng(0)
    drawn: list[Configuration] = [{"lr": float(rng.random()), "noise": float(rng.random())} for _ in range(80)]
    errors = [math.inf if float(c["lr"]) > 0.5 else float(rng.random()) for c in drawn]  # type: ignore
    found = importances(history_of(errors, drawn, ("noise", "lr"), failing_at=0))
    assert found.trials == 80 and found.telling
    lr, noise = found.dimensions
    assert lr.dimension == "lr" and lr.loss > 0.5 > 0.2 > noise.loss
    failed, worst = (
        importances(history_of([min(each, most) for each in errors], drawn, ("noise", "lr")), samples=2)
        for most in (math.inf, 1e9)
    )
    assert failed == worst, "a failure is no better and no worse than what is worse than all"


def test_importances_of_chance_say_so() -> None:
    rng = np.random.default_rng(1)
    drawn: list[Configuration] = [{"lr": float(rng.random())} for _ in range(60)]
    found = importances(history_of(list(rng.random(60)), drawn, ("lr",)))
    assert found.explained < 0.1
    with pytest.raises(UserError, match="7 trials at resource 1 are too few"):
        importances(history_of([0.1] * 7, drawn[:7], ("lr",)))
    with pytest.raises(UserError, match="have the same error"):
        importances(history_of([0.1] * 20, drawn[:20], ("lr",)))


def test_conditions_in_a_grid_and_in_a_transfer() -> None:
    options = {"sgd": {"momentum": [0.0, 0.9]}, "adam": {}}
    space = Space.from_config({"optimizer": {"_choice_": options}, "lr": stats.uniform(0, 1)})
    grid = GridSearcher(space, points=2)
    assert len(grid) == 6, "a momentum for sgd only"
    assert [grid.propose(trial) is None for trial in range(7)] == [False] * 6 + [True]
    default = {"optimizer": "adam", "lr": 0.5}
    assert transferred({"optimizer": "sgd", "lr": 2.0}, space, default) == {
        "optimizer": "sgd",
        "optimizer.momentum": 0.9,
        "lr": pytest.approx(1.0),
    }
    assert transferred({"optimizer.momentum": 0.9}, space, default) == default


def test_the_size_of_a_grid_is_what_it_proposes() -> None:
    """Conditions on conditions, and one name in two options; where nothing is conditional it is not gone through."""
    space = Space.from_config(
        {
            "n": [1, 2, 3],
            "width": {"_values_": [8, 16, 32], "_when_": "n > 1"},
            "dropout": {"_values_": [0.0, 0.5], "_when_": "width > 8"},
            "optimizer": {"_choice_": {"sgd": {"m": [0.0, 0.9]}, "adam": {"m": [0.8, 0.9, 0.95]}, "plain": {}}},
        }
    )
    grid = GridSearcher(space)
    assert len(grid) == (1 + 2 * (1 + 2 * 2)) * (2 + 3 + 1)
    assert [grid.propose(trial) is None for trial in range(67)] == [False] * 66 + [True]
    wide = {f"x{i}": stats.uniform(0, 1) for i in range(20)}
    assert len(GridSearcher(Space.from_config({"n": [1, 2], "y": {"_values_": [1, 2], "_when_": "n > 1"}} | wide))) == (
        3 * 3**20
    )


def test_a_grid_branches_only_on_what_exists() -> None:
    """One option has no dimensions, and forty dimensions have more combinations than 64 bits count."""
    many = {f"x{i}": stats.uniform(0, 1) for i in range(40)}
    space = Space.from_config({"kind": {"_choice_": {"plain": {}, "sgd": many, "none": {}}}})
    grid = GridSearcher(space)
    assert grid.size == 3**40 + 2 and len(grid) > 2**62
    proposed = [grid.propose(trial) or {} for trial in range(4)]
    assert [len(each) for each in proposed] == [1, 41, 41, 41]
    assert [name for name in proposed[1] if proposed[1][name] != proposed[2][name]] == ["kind.x39"]
    few = GridSearcher(Space.from_config({"kind": {"_choice_": {"plain": {}, "none": {}, "sgd": {"x": [1, 2]}}}}))
    few.recall(2, {"kind": "sgd", "kind.x": 1})
    assert [few.propose(trial) for trial in (1, 0, 3, 4)] == [
        *({"kind": "plain"}, {"kind": "none"}, {"kind": "sgd", "kind.x": 2}, None)
    ]


def test_transferred_configurations_are_clipped_and_completed() -> None:
    earlier = {"lr": 5.0, "units": 20, "depth": 3, "activation": "tanh", "momentum": 0.9}
    found = transferred(earlier, MIXED, DEFAULT)
    assert found == {"lr": pytest.approx(1.0), "units": 20, "depth": 2, "activation": "tanh"}
    assert transferred({"lr": None, "units": "many"}, MIXED, DEFAULT | {"units": None}) == DEFAULT | {"units": 36}
    assert transferred({"lr": 0.0123}, MIXED, DEFAULT) == DEFAULT | {"lr": 0.0123}, "nothing is rounded"
    assert RandomSearcher(MIXED, initial=[DEFAULT, found]).propose(1) == found


def test_what_counts_as_false_is_a_value_like_any_other() -> None:
    """0, 0.0, False, an empty text and None come from the earlier study; what that lacks, from the defaults."""
    lists = {"off": [True, False], "text": ["a", ""], "none": [1, None], "zero": [0.5, 0.0]}
    space = Space.from_config({**lists, "n": stats.randint(0, 5), "x": stats.uniform(-1, 2), "u": stats.uniform(0, 1)})
    false: Configuration = {"off": False, "text": "", "none": None, "zero": 0.0, "n": 0, "x": 0.0, "u": 0.0}
    true: Configuration = {"off": True, "text": "a", "none": 1, "zero": 0.5, "n": 3, "x": 0.5, "u": 0.5}
    for earlier, defaults, expected in ((false, true, false), (true, false, true), ({}, false, false)):
        found = transferred(earlier, space, defaults)
        assert found == pytest.approx(expected, abs=1e-5) and [*map(type, found.values())] == [
            type(expected[name]) for name in found
        ]
    for searcher in (RandomSearcher(space, initial=[true, false]), OneAtATimeSearcher(space, initial=false, seeds=1)):
        assert false in [searcher.propose(trial) for trial in range(2)]
    row = NearestRow(
        RandomSearcher(space, initial=[false]), Curves(np.zeros((2, 1)), np.array([1]), None, [true, false]), space
    )
    assert row.propose(0) == {"row": 1, **false}


def test_a_trial_that_failed_later_keeps_its_error_below() -> None:
    """Only promoted trials can fail there, which are the best: to rank these last would turn the order round."""
    rng = np.random.default_rng(1)
    drawn: list[Configuration] = [{"lr": float(rng.random()), "noise": float(rng.random())} for _ in range(60)]
    history = history_of([float(str(each["lr"])) for each in drawn], drawn, ("lr", "noise"))
    before = importances(history)
    for trial in sorted(range(60), key=lambda trial: float(str(drawn[trial]["lr"])))[:20]:
        history.apply(Resume(trial, 1, 3), 2.0)
        history.apply(Finished(Outcome(trial, 2, math.inf, failed=True)), 3.0)
        history.apply(Verdict(trial, "failed"), 3.0)
    assert importances(history, 1) == before and before.explained > 0.8
    for trial in range(60, 70):  # of a bracket that begins higher: nobody knows what their errors at 1 were
        history.apply(Start(trial, {"lr": 0.0, "noise": 0.5}, 9), 4.0)
        history.apply(Finished(Outcome(trial, 4, math.inf, failed=True)), 5.0)
    assert importances(history, 1) == before


def test_what_a_choice_decides_is_not_its_childrens_importance() -> None:
    """That a child has no value says which option was chosen: it is the choice that mattered."""
    rng = np.random.default_rng(2)
    drawn = list[Configuration]()
    for _ in range(120):
        option = ("sgd", "adam")[int(rng.integers(2))]
        child = {"optimizer.momentum": float(rng.random())} if option == "sgd" else {"optimizer.decay": rng.random()}
        drawn.append({"optimizer": option, "optimizer.lr": float(rng.random())} | child)
    names = ("optimizer", "optimizer.lr", "optimizer.momentum", "optimizer.decay")
    errors = [float(each["optimizer"] == "sgd") + 0.01 * float(rng.random()) for each in drawn]
    found = {row.dimension: row.loss for row in importances(history_of(errors, drawn, names)).dimensions}
    assert found["optimizer"] > 0.5
    assert all(abs(loss) < 0.05 for name, loss in found.items() if name != "optimizer"), found


@pytest.mark.parametrize("written", ["config", "described"])
def test_what_a_condition_names_is_shuffled_with_what_it_is_for(written: str) -> None:
    """Dropout exists from depth 2 on, and noise where dropout is low: who lacks them is shallow, and that mattered."""
    rng = np.random.default_rng(0)
    drawn = list[Configuration]()
    for _ in range(80):
        drawn.append({"model.depth": int(rng.integers(1, 4))})
        if float(str(drawn[-1]["model.depth"])) > 1:
            drawn[-1]["model.dropout"] = float(rng.random())
            if float(str(drawn[-1]["model.dropout"])) < 0.8:
                drawn[-1]["model.noise"] = float(rng.random())
    below = {"model.dropout": "model.depth > 1", "model.noise": "model.dropout < 0.8"}
    tree = {name.removeprefix("model."): {"_values_": [], "_when_": when} for name, when in below.items()}
    lines = [f"{name}: uniform(0, 1) if {when}" for name, when in below.items()]
    history = history_of([float(each["model.depth"] == 1) for each in drawn], drawn, ("model.depth", *below))
    assert history.header is not None
    told = {"config": {"config": {"space": {"model": tree}}}, "described": {"space": lines}}[written]
    history.header = replace(history.header, settings=told)
    depth, *others = importances(history, samples=4).dimensions
    assert depth.dimension == "model.depth" and depth.loss > 0.8 > 0.05 > max(abs(each.loss) for each in others)


def test_what_mattered_is_said_early_and_late() -> None:
    rng = np.random.default_rng(3)
    drawn: list[Configuration] = [{"early": float(rng.random()), "late": float(rng.random())} for _ in range(90)]
    history = history_of([float(str(each["early"])) for each in drawn], drawn, ("early", "late"))
    for trial in range(40):
        history.apply(Resume(trial, 1, 9), 2.0)
        history.apply(Finished(Outcome(trial, 9, float(str(drawn[trial]["late"])))), 3.0)
        history.apply(Verdict(trial, "completed"), 3.0)
    first, last = early_and_late(history)
    assert (first.resource, first.dimensions[0].dimension) == (1, "early")
    assert (last.resource, last.dimensions[0].dimension) == (9, "late")
    (only,) = early_and_late(history_of([0.1, 0.2] * 10, drawn[:20], ("early", "late")))
    assert only.resource == 1


def test_around_the_incumbent_half_of_the_dimensions_move() -> None:
    """PriorBand, section 5: the others are the incumbent's own, to the last bit; a category that moves is any."""
    space = Space.from_config({f"x{i}": stats.uniform(0, 1) for i in range(8)} | {"kind": list("abcd")})
    searcher = PriorSearcher(space, seed=0, initial={f"x{i}": 0.1 for i in range(8)} | {"kind": "a"}, width=0.25)
    best = {f"x{i}": 0.8 for i in range(8)} | {"kind": "c"}
    for trial in range(9):
        searcher.observe(trial, best if trial == 0 else searcher.propose(trial) or {}, 1, float(trial))
    searcher.place(9, 30)
    shares, kinds = list[float](), Counter[str]()
    for trial in range(9, 260):
        searcher.place(trial, 30)  # so that next to none is drawn from the space
        proposal = searcher.propose(trial) or {}
        kept = [proposal[f"x{i}"] == pytest.approx(0.8, abs=1e-12) for i in range(8)]
        if any(kept):
            shares.append(sum(kept) / 8)
            kinds[str(proposal["kind"])] += 1
    assert len(shares) > 150 and 0.46 < np.mean(shares) < 0.55, "each by itself with probability 1/2"
    assert 0.55 < kinds["c"] / len(shares) < 0.7, "kept with 1/2, and drawn again with 1/4 of the rest"
    assert all(0.08 < kinds[other] / len(shares) < 0.18 for other in "abd")


@pytest.mark.parametrize("scheduler", [Hyperband, AsyncHyperband])
def test_a_searcher_is_told_the_rung_that_it_proposes_for(scheduler: Any) -> None:
    """Of every new trial, also of one that a resumed study recalls: how many levels lie below its first."""
    levels = [1, 3, 9, 27]
    placed: dict[int, int] = {}

    class Placed(RandomSearcher):
        def place(self, trial: int, below: int) -> None:
            placed[trial] = below

    space = Space.from_config({"x": stats.uniform(0, 1)})
    for searcher in (Placed(space), Recorded(Placed(space), {0: {"x": 0.5}, 3: {"x": 0.25}})):
        placed.clear()
        machine = scheduler(searcher, eta=3, r_min=1, r_max=27)
        started: dict[int, int] = {}
        for _ in range(60):
            match machine.suggest():
                case Start(trial, _, until):
                    started[trial] = levels.index(until)
                    assert placed[trial] == started[trial]
                    machine.update(Outcome(trial, until, float(trial)))
                case Resume(trial, _, until):
                    machine.update(Outcome(trial, until, float(trial)))
                case _:
                    break
        assert len(set(started.values())) > 1


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: traced(name) for name in TRACED}, indent=1) + "\n")
