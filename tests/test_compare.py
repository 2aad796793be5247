"""Comparing methods: statistics by hand, the scripts on real studies, settings replayed, curves recorded."""

import csv
import math
import re
import subprocess
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import Forks, colours
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import uniform, wilcoxon

import halving
from halving.app.simulation import simulate
from halving.comparison import (
    Run,
    across,
    band,
    by_method,
    common_end,
    grid,
    holm,
    labelled,
    paired,
    pairs,
    ranks,
    run_of,
    untested,
)
from halving.curves import Curves, load, save
from halving.curves.recording import record
from halving.errors import UserError
from halving.executors import Serial
from halving.history import Ended, Header, History, Trial
from halving.journal import Journal
from halving.report import jobs
from halving.report.comparison import COLOURS, styles_of, task_figures
from halving.report.comparison_page import comparison_html
from halving.report.methods import across_table, across_words, mean_and_error, methods_table, notes, ranks_table
from halving.report.wandb_report import Text, of_studies
from halving.review.what_if import Agreement, Setting, agreements, deadline, judged, regrets, samples, settings
from halving.schedulers import FIFO, SuccessiveHalving
from halving.searchers import RandomSearcher
from halving.searchers.table import RandomRows
from halving.space import Space
from halving.trial import Configuration, Epoch, Finished, Job, Outcome, Step
from halving.tuner import Tuner

nan = math.nan


def run(task: str, method: str, seed: int, *steps: tuple[float, float], spent: float = 10.0) -> Run:
    """A study whose incumbent has an error from some resource on; a unit takes 2 s."""
    resource, error = (np.array([step[i] for step in steps]) for i in (0, 1))
    return Run(task, method, seed, resource, 2 * resource, error, spent, 2 * spent)


def test_an_incumbent_holds_from_where_it_was_paid_for() -> None:
    one = run("t", "m", 0, (2, 0.5), (6, 0.3), spent=9)
    np.testing.assert_array_equal(one.at(np.array([0, 1.9, 2, 5.9, 6, 100])), [nan, nan, 0.5, 0.5, 0.3, 0.3])
    np.testing.assert_array_equal(one.at(np.array([3.9, 4, 12]), "seconds"), [nan, 0.5, 0.3])
    assert common_end([one, run("t", "m", 1, (1, 0.1))]) == 9


def test_a_band_is_mean_standard_error_and_quartiles_once_all_seeds_have_an_incumbent() -> None:
    runs = [run("t", "m", seed, (start, error)) for seed, (start, error) in enumerate([(1, 0.1), (1, 0.2), (3, 0.6)])]
    b = band("m", runs, np.array([2.0, 4.0]), "resource")
    assert math.isnan(b.mean[0]) and math.isnan(b.median[0])
    assert (b.n, b.mean[1], b.median[1]) == (3, pytest.approx(0.3), pytest.approx(0.2))
    assert b.standard_error[1] == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2 / 3))
    assert (b.lower[1], b.upper[1]) == (pytest.approx(0.15), pytest.approx(0.4))


def test_over_seconds_whoever_is_quick_wins_though_it_spends_more() -> None:
    """A unit takes half a second or four: after 10 units, or 10 s, slow is better, after the 5 s that all took fast."""
    runs = [
        Run("t", method, seed, resource, pace * resource, error + seed / 100, 10.0, 10.0 * pace)
        for seed in range(6)
        for method, pace, resource, error in (
            ("fast", 0.5, np.array([2.0, 8.0]), np.array([0.5, 0.3])),
            ("slow", 4.0, np.array([1.0, 2.0]), np.array([0.4, 0.2])),
        )
    ]
    assert [(common_end(runs, axis), *grid(runs, axis, 2)) for axis in ("resource", "seconds")] == [
        (10.0, 5.0, 10.0), (5.0, 5.0, 20.0, 40.0),
    ]  # fmt: skip
    for axis, wins, difference in (("resource", 0, 0.1), ("seconds", 6, -0.1)):
        (pair,) = pairs(runs, axis)
        assert (pair.wins, pair.losses) == (wins, 6 - wins) and pair.difference == pytest.approx(difference)
    x = np.array([3.9, 4.0, 7.9, 8.0])
    np.testing.assert_allclose(band("slow", runs[1::2], x, "seconds").mean, [nan, 0.425, 0.425, 0.225])
    drawn = [figure for figure, _ in task_figures("t", runs, styles_of(runs))]
    words = [[*filter(None, map(str.strip, ElementTree.fromstring(figure).itertext()))] for figure in drawn]
    units = ["0", "5", "10", "units spent by all trials"]
    assert [each[1 : each.index("0.2")] for each in words] == [units, ["0", "10", "20", "30", "40", "seconds"], units]
    begun = [re.search(rf'd="M ([\d.]+) [^>]*stroke: [^;]*{COLOURS[0]}', figure) for figure in drawn]
    # The axes are 304 wide from 44 on, and end a hundredth beyond the last study: fast has an incumbent after 2 or 1.
    assert [float(each[1]) for each in begun if each] == pytest.approx(
        [44 + 304 * x / 1.01 for x in (2 / 10, 1 / 40, 2 / 10)], abs=304 / 400
    )


def test_ranks_are_averaged_over_seeds_and_then_over_tasks() -> None:
    """On task t, a wins both seeds; on u, with one seed, b wins; c ties with a there.

    Only u has a method d, which has no incumbent half-way and is last.
    """
    errors = {
        ("t", 0): {"a": 0.1, "b": 0.2, "c": 0.3},
        ("t", 1): {"a": 0.1, "b": 0.2, "c": 0.3},
        ("u", 0): {"a": 0.4, "b": 0.1, "c": 0.4},
    }
    runs = [run(t, m, seed, (1, e)) for (t, seed), own in errors.items() for m, e in own.items()]
    found = {method: (mean[0], error[0]) for method, (mean, error) in ranks(runs, np.array([1.0])).items()}
    assert found["a"] == (1.75, pytest.approx(0.75))
    assert (found["b"][0], found["c"][0]) == (1.5, 2.75)
    early = ranks([*runs, run("u", "d", 0, (9, 0.0))], np.array([0.5]))
    assert {method: mean.tolist() for method, (mean, _) in early.items()} == {
        "a": [2.5],
        "b": [1],
        "c": [2.5],
        "d": [4],
    }


def test_the_paired_test_by_hand() -> None:
    """Differences -1, -2, -3 and +4: rank sums 6 and 4 of 10, exact p = 14 / 16."""
    pair = paired(np.array([0.0, 0, 0, 4]), np.array([1.0, 2, 3, 0]))
    assert (pair.n, pair.wins, pair.losses, pair.difference) == (4, 3, 1, -1.5)
    assert pair.effect == pytest.approx(0.2) and pair.p == pytest.approx(14 / 16)
    always = paired(np.zeros(6), np.arange(1.0, 7))
    assert (always.effect, always.p) == (1.0, pytest.approx(2 / 2**6))


@pytest.mark.parametrize("n", [7, 30, 60])
def test_p_is_that_of_the_reference_and_exact_where_ranks_are_tied(n: int) -> None:
    difference = np.random.default_rng(n).normal(0.3, 1, n)
    assert paired(difference, np.zeros(n)).p == pytest.approx(float(wilcoxon(difference).pvalue), rel=1e-9)
    assert paired(np.zeros(min(n, 50)), np.ones(min(n, 50))).p == 2.0 ** (1 - min(n, 50))


def test_no_incumbent_is_worse_than_any_and_equal_pairs_tell_nothing() -> None:
    pair = paired(np.array([nan, nan, 0.5, 0.1]), np.array([0.9, nan, 0.5, 0.2]))
    assert (pair.wins, pair.losses) == (1, 1) and pair.effect < 0
    assert paired(np.full(3, 0.5), np.full(3, 0.5)).p == 1.0


numbers = st.lists(st.tuples(*[st.integers(-50, 50)] * 2), min_size=1, max_size=9)


@given(numbers)
@hypothesis_settings(max_examples=25, deadline=None)
def test_swapping_the_methods_flips_the_effect_and_keeps_p(errors: list[tuple[int, int]]) -> None:
    first, second = np.array(errors, dtype=float).T
    there, back = paired(first, second), paired(second, first)
    assert (there.effect, there.difference) == (pytest.approx(-back.effect), pytest.approx(-back.difference))
    assert there.p == pytest.approx(back.p) and (there.wins, there.losses) == (back.losses, back.wins)


@given(numbers)
@hypothesis_settings(max_examples=50, deadline=None)
def test_equal_differences_of_rates_are_ties(errors: list[tuple[int, int]]) -> None:
    first, second = np.array(errors, dtype=float).T
    exact, rates = paired(first, second), paired(first / 360, second / 360)
    assert (rates.p, rates.effect) == (exact.p, exact.effect)
    assert (rates.wins, rates.losses) == (exact.wins, exact.losses)


def test_one_error_that_is_huge_leaves_the_other_pairs_as_they_are() -> None:
    first, second = np.arange(10.0) + 100, np.arange(10.0) + 120
    second[9] = 1e13
    pair = paired(first, second)
    assert (pair.wins, pair.losses, pair.effect) == (10, 0, 1.0) and pair.p == pytest.approx(2 / 2**10)


def test_holm_by_hand_and_only_within_a_task() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    runs = [run(t, m, s, (1, s + i)) for t in "tu" for i, m in enumerate("abc") for s in range(6)]
    assert [pair.p_holm for pair in pairs(runs)] == [pytest.approx(3 * 2 / 2**6)] * 6


def climbed(method: str, seed: int, error: float, level: int, spent: float = 10.0, **more: Any) -> Run:
    """A study whose incumbent was trained to a level."""
    return replace(run("t", method, seed, (1, error), spent=spent), level=np.array([level]), **more)


def test_winners_trained_to_different_resources_are_not_tested_but_by_what_they_come_to() -> None:
    """Those that stop early have the worse errors at their end, and the better regrets."""
    short = [climbed("short", seed, 0.5 + seed / 100, 3) for seed in range(8)]
    long = [climbed("long", seed, 0.2 + seed / 100, 27) for seed in range(8)]
    assert pairs([*short, *long]) == [] and untested([*short, *long]) == [("short", "long")]
    (note,) = (text for text in notes([*short, *long]) if text.startswith("Not tested"))
    assert "short and long" in note and "confirm.top=1" in note
    same = [replace(each, level=np.array([27])) for each in short]
    (pair,) = pairs([*same, *long])
    assert (pair.wins, pair.losses, pair.basis) == (0, 8, "error at 27 units after 10 units")
    known = [replace(each, regret=0.1) for each in short] + [replace(each, regret=0.2) for each in long]
    (pair,) = pairs(known)
    assert (pair.wins, pair.losses, pair.basis) == (8, 0, "regret at the end")
    again = [replace(each, confirmed=0.3, until=27) for each in short]
    again += [replace(each, confirmed=0.4, until=27) for each in long]
    (pair,) = pairs(again)
    assert (pair.wins, pair.losses, pair.basis) == (8, 0, "error of fresh seeds at 27 units")
    assert pairs([*again[:8], *(replace(each, until=9) for each in again[8:])]) == []


def test_a_pair_is_compared_at_the_end_of_its_own_two() -> None:
    """A third method's short study changes nothing: at 9 units b is better, at 2 it was not."""
    a = [run("t", "a", seed, (1, 0.5)) for seed in range(6)]
    b = [run("t", "b", seed, (1, 0.6), (5, 0.4 - seed / 100), spent=9.0) for seed in range(6)]
    c = [run("t", "c", seed, (1, 0.7), spent=2.0) for seed in range(6)]
    alone = pairs([*a, *b])[0]
    among = next(pair for pair in pairs([*a, *b, *c]) if (pair.first, pair.second) == ("a", "b"))
    assert (alone.wins, alone.losses) == (among.wins, among.losses) == (0, 6)
    assert alone.basis == among.basis == "error after 9 units" and alone.p == among.p


def test_a_method_that_loses_whole_seeds_is_worst_with_these() -> None:
    """It is not averaged over its good ones: neither in the table, nor in tests, ranks and figures."""
    good = [run("t", "steady", seed, (1, 0.3 + seed / 100)) for seed in range(6)]
    lost = [run("t", "reckless", seed, *([(1, 0.1)] if seed < 3 else [])) for seed in range(6)]
    with np.errstate(over="raise"):
        (pair,) = pairs([*good, *lost])
        assert pairs([*good, *(run("t", "none", seed) for seed in range(6))])[0].difference == -math.inf
    assert (pair.n, pair.wins, pair.losses) == (6, 3, 3)
    table = methods_table([*good, *lost])
    cells = dict(zip(table.heads, table.rows[1], strict=True))
    assert cells["seeds"] == "6" and cells["mean error"] == "-" and cells["mean rank"] == "1.50"
    assert "reckless: no trial survived with 3 of 6 seeds, which count as worst." in notes([*good, *lost])
    assert run_of(history("sha", 0), "t", "m", ordered(False)).regret == math.inf


def seeds_won(task: str, *won: bool, first: str = "a", second: str = "b") -> list[Run]:
    """One seed for each: whether the first method wins it, by a margin of its own scale."""
    return [
        run(task, method, seed, (1, 100.0 ** len(task) * (0.1 if (method == first) == win else 0.2)))
        for seed, win in enumerate(won)
        for method in (first, second)
    ]


def test_over_tasks_each_counts_once_by_the_seeds_won_and_lost() -> None:
    """Shares lost minus won: -1 three times, -1/2 twice and +1/2; of 64 signs 8 are as uneven, so that p = 1/8."""
    runs = [*seeds_won("t", *[True] * 4), *seeds_won("tt", *[True] * 40), *seeds_won("u", *[True] * 4)]
    runs += [*seeds_won("v", *[True] * 3, False), *seeds_won("w", True, False, True, True)]
    runs += seeds_won("x", *[True] * 3, False, first="b", second="a")  # there b comes first, and wins
    tested = pairs(runs)
    (pair,) = across(tested)
    assert (pair.task, pair.first, pair.second, pair.n, pair.wins, pair.losses) == ("", "a", "b", 6, 5, 1)
    assert pair.p == pair.p_holm == pytest.approx(8 / 64) and pair.effect == pytest.approx((19 - 2) / 21)
    assert across_table([pair]).rows == (("a", "b", "6", "5", "1", "+0.58 ± 0.61", "0.12", "0.12"),)
    assert "too few" not in across_words([pair])


def test_many_seeds_on_few_tasks_tell_nothing_of_others() -> None:
    tested = pairs([each for task in "tuv" for each in seeds_won(task, *[True] * 12)])
    assert all(pair.p_holm < 0.001 for pair in tested) and across(tested[:1]) == []
    (pair,) = across(tested)
    assert (pair.n, pair.wins, pair.p) == (3, 3, 0.25)
    assert "With 3 tasks p is never below 0.25: that it is better on others cannot be told" in across_words([pair])


def history(scheduler: str, seed: int, *overrides: str, name: str = "s", searcher: str = "random") -> History:
    header = Header(name, scheduler, searcher, seed, 9, settings={"overrides": list(overrides)})
    done = History()
    done.apply(header, 0.0)
    return done


def test_methods_and_tasks_are_named_after_what_differs() -> None:
    studies = [
        history("sha", 0, "scheduler=sha", "eta=2", "data=digits", "tracker=csv", "seed=0"),
        history("sha", 0, "scheduler=sha", "eta=3", "data=digits", "seed=0"),
        history("asha", 1, "scheduler=asha", "eta=3", "data=mnist", "seed=1"),
    ]
    runs = labelled({Path(str(i)): study for i, study in enumerate(studies)})
    assert [(r.task, r.method) for r in runs] == [
        ("digits", "sha eta=2"),
        ("digits", "sha eta=3"),
        ("mnist", "asha eta=3"),
    ]
    with pytest.raises(UserError, match=r"0 and 1: both are sha on s with seed 0"):
        labelled({Path("0"): history("sha", 0, "seed=0"), Path("1"): history("sha", 0, "seed=0")})


def test_single_trainings_and_one_method_on_several_models_compete() -> None:
    """On each data set: errors of different data do not compare."""

    def names(*studies: History) -> list[tuple[str, str]]:
        return [(r.task, r.method) for r in labelled({Path(str(i)): study for i, study in enumerate(studies)})]

    models = [history("sha", 0, f"model={model}", "seed=0") for model in ("mlp", "lenet")]
    assert names(*models) == [("s", "model=mlp"), ("s", "model=lenet")]
    assert names(*models, history("asha", 0, "model=mlp", "scheduler=asha")) == [
        ("mlp", "sha"), ("lenet", "sha"), ("mlp", "asha"),
    ]  # fmt: skip
    single = [
        history("single", 0, f"data={data}", f"lr_schedule={kind}", f"optimizer.lr={lr}")
        for data, kind, lr in (("digits", "cosine", 0.1), ("digits", "constant", 0.1), ("mnist", "cosine", 0.2))
    ]
    for study in single:
        study.trials[0] = Trial(0, {}, 0)
    assert names(*single) == [
        ("digits", "lr_schedule=cosine optimizer.lr=0.1"),
        ("digits", "lr_schedule=constant optimizer.lr=0.1"),
        ("mnist", "lr_schedule=cosine optimizer.lr=0.2"),
    ]


def ordered(misleading: bool, n: int = 60, levels: int = 9, seed: int = 1) -> Curves:
    """Curves that never cross, or of which the best starts as the worst."""
    end = np.random.default_rng(seed).permutation(n) / n
    start = 1 - end if misleading else end
    weight = np.linspace(0, 1, levels)
    return Curves(1 + start[:, None] * (1 - weight) + end[:, None] * weight, np.arange(1, levels + 1))


def test_the_regret_is_the_winners_at_the_end_of_a_full_training() -> None:
    curves = ordered(misleading=False)
    study = simulate(curves, FIFO, r_max=9, max_trials=5, seed=3)
    rows = [int(str(trial.configuration["row"])) for trial in study.trials.values()]
    assert run_of(study, "t", "m", curves).regret == pytest.approx(min(curves.final[rows]) - 1.0)
    assert curves.optimum == 1.0
    found = run_of(study, "t", "m", curves)
    assert (found.resource[0], found.seconds[0], found.spent, found.elapsed) == (9, 9, 45, 45), "a second a unit"


def test_studies_on_a_table_are_reported_by_regret_and_as_draws_of_its_rows(tmp_path: Path) -> None:
    """Also to W&B, where all winners had been trained to 9, and so would be tested by their errors."""
    curves, place, studies = ordered(misleading=False), tmp_path / "t.npz", dict[Path, History]()
    save(curves, place)
    for seed in range(6):
        for name, scheduler, options in (("fifo", FIFO, {"max_trials": 3}), ("sha", SuccessiveHalving, {"n": 27})):
            study = simulate(curves, scheduler, r_max=9, seed=seed, **options)
            assert study.header is not None
            settings = {"config": {"executor": {"curves": str(place)}}, "overrides": [f"scheduler={name}"]}
            study.header = replace(study.header, settings=settings)
            study.apply(Ended(study.incumbents[-1][0].trial), study.seconds)
            studies[tmp_path / f"{name}{seed}"] = study
    words = of_studies(studies, {path: path.name for path in studies}, "p").blocks[1]
    assert (
        isinstance(words, Text)
        and "FIFO against SuccessiveHalving, regret at the end: better with 0 of 6" in words.text
    )
    assert "Seeds draw from the same recorded rows" in words.text and "Wilcoxon's test over tasks" not in words.text
    compared = [jobs.Job(path.name, path, (), "finished", study) for path, study in studies.items()]
    text = comparison_html(tmp_path, compared, {str(place): curves})
    assert re.search(r"<b>SuccessiveHalving</b> has the best mean regret: <b>[\d.]+ ± [\d.]+</b> at the end", text)


def test_ranks_at_the_end_go_by_regret_as_the_tests_do() -> None:
    """Pasha's winners were trained for less, and so have the greater error; in full they are better."""
    runs = [
        replace(run("t", method, seed, (1, error)), regret=regret, level=np.array([level]))
        for seed in range(6)
        for method, error, regret, level in (("pasha", 0.3, 0.1, 3), ("fifo", 0.2, 0.2, 27))
    ]
    assert [(pair.wins, pair.losses) for pair in pairs(runs)] == [(6, 0)]
    assert ranks_table(runs).rows == (("pasha", "1.00 ± 0.00"), ("fifo", "2.00 ± 0.00"))
    table = methods_table(runs)
    cells = dict(zip(table.heads, table.rows[0], strict=True))
    assert (cells["mean rank by regret"], cells["regret at its end"], cells["mean error"]) == (
        "1.00", "0.1 ± 0", "0.3 ± 0",
    )  # fmt: skip
    assert ranks(runs, np.ones(1))["fifo"][0].tolist() == [1.0], "on the way it is not known"


def test_rungs_that_order_trials_are_trusted_and_misleading_ones_are_not() -> None:
    good = agreements(ordered(misleading=False), eta=3, draws=40)
    assert [(pair.low, pair.high) for pair in good] == [(1, 3), (1, 9), (3, 9)]
    assert all(pair.trusted and pair.tau == 1.0 and pair.recall == 1.0 for pair in good)
    bad = {(pair.low, pair.high): pair for pair in agreements(ordered(misleading=True), eta=3, draws=40)}
    sure = Agreement(1, 3, 0.5, (0.1, 0.9), 0.7, (0.5, 0.9), kept=True)
    assert [sure.trusted, replace(sure, recall_interval=(0.4, 0.9)).trusted, replace(sure, kept=False).trusted] == [
        True, False, False,
    ]  # fmt: skip
    assert bad[1, 9].tau == -1.0 and bad[1, 9].recall == 0.0 and not bad[1, 9].kept and not bad[1, 9].trusted


def test_a_trial_that_diverged_is_the_worst_of_its_rung_and_no_best_row() -> None:
    """Of nine rows in order the first, the best at 1, diverges: of 36 pairs with it 8 turn over, of its third one."""
    error = np.arange(9.0)[:, None] + [3.0, 2.0, 1.0]
    error[0, 1:] = nan
    curves = Curves(error, np.array([1, 3, 9]), np.where(np.isnan(error), nan, [2.0, 6.0, 18.0]))
    assert deadline(curves, 9, 1) == 18.0, "what it took until it diverged is no full training"
    assert curves.final.tolist() == [9, 2, 3, 4, 5, 6, 7, 8, 9] and curves.optimum == 2.0
    found = [(pair.low, pair.high, pair.tau, pair.recall, pair.kept) for pair in agreements(curves, eta=3, draws=20)]
    assert found == [
        (1, 3, pytest.approx(20 / 36), pytest.approx(2 / 3), True),
        (1, 9, pytest.approx(20 / 36), pytest.approx(2 / 3), True),
        (3, 9, pytest.approx(1.0), 1.0, True),
    ]


def test_equal_errors_at_a_rung_are_kept_by_lot_and_tell_nothing() -> None:
    """All begin equal, in the order in which they end: of the best three one in three is kept, and no row for sure."""
    error = np.column_stack([np.ones(9), np.arange(9.0), np.arange(9.0)])
    first, _, last = agreements(Curves(error, np.array([1, 3, 9])), eta=3, draws=20)
    assert (first.tau, first.tau_interval, first.recall, first.kept) == (0, (0, 0), pytest.approx(1 / 3), False)
    assert not first.trusted and (last.tau, last.recall, last.kept) == (1, 1, True)
    twins = agreements(Curves(error[[0, 0, 1, 1, 8, 8]], np.array([1, 3, 9])), eta=3, draws=20)[-1]
    assert (twins.recall, twins.kept, np.isfinite(twins.tau_interval).all()) == (1, True, True)
    with pytest.raises(UserError, match="two rows that do not diverge"):
        agreements(Curves(error[:1], np.array([1, 3, 9])))


def test_what_if_counts_no_trial_that_ends_after_the_deadline() -> None:
    """A training takes 9 s: in 13.5 s one ends, in 4.5 s none does, and the regret is the most that there is."""
    curves, seeds = ordered(misleading=False), range(12)
    drawn = [[RandomRows(curves, seed, reuse=True).propose(trial) or {} for trial in (0, 1)] for seed in seeds]
    first, second = (curves.final[[int(str(rows[i]["row"])) for rows in drawn]] for i in (0, 1))
    assert (second < first).any()
    for resource, expected in (
        (13.5, first),
        (4.5, np.full(12, curves.final.max())),
        (18.0, np.minimum(first, second)),
    ):
        (result,) = regrets([curves], [Setting("fifo")], seeds, resource, processes=1)
        np.testing.assert_allclose(result.regret, [expected - curves.optimum])


def test_errors_of_means_are_those_of_samples() -> None:
    assert mean_and_error([0.1, 0.2, 0.6]) == "0.30 ± 0.15" and mean_and_error([0.3]) == "0.3"


def test_rows_that_chose_a_setting_do_not_judge_it() -> None:
    """Of five rows, one of which diverges, the worst begins as the best.

    In the time of five trainings fifo sees all rows of a table, so that its regret is 0; halving lets the row that
    begins best win, whose regret is all that there is between the rows of the table.
    """
    error = np.array([[0.9, 0.9, 0.1], [0.8, 0.8, 0.2], [0.6, 0.6, 0.4], [0.2, 0.2, 0.8], [0.95, nan, nan]])
    curves = Curves(error, np.array([1, 2, 3]), None, [{"x": i} for i in range(5)])
    pairs_of_tables = samples(curves, 8)
    for tables in pairs_of_tables:
        inside, outside = ({row["x"] for row in table.configurations} for table in tables)
        assert not inside & outside and inside - {4} and outside - {4} and [*map(len, tables)] == [5, 5]
    fifo, sha = Setting("fifo"), Setting("sha_repeated", (("eta", 3), ("r_min", 1), ("n", 5)))
    found = judged(curves, [fifo, sha], 2, 15.0, processes=1, draws=8)
    assert [result.setting for result in found.best] == [fifo, sha]
    spread = [np.ptp(outside.final) for _, outside in pairs_of_tables]
    np.testing.assert_allclose([result.by_table for result in found.best], [np.zeros(8), spread])
    np.testing.assert_array_equal([found.chosen, found.apparent], np.zeros((2, 8)))
    assert max(spread) > 0
    misled = judged(curves, [sha], 2, 15.0, processes=1, draws=8)
    np.testing.assert_allclose(misled.chosen, spread)
    np.testing.assert_allclose(misled.apparent, [np.ptp(inside.final) for inside, _ in pairs_of_tables])
    with pytest.raises(UserError, match="two rows that do not diverge"):
        samples(curves.of_rows(np.array([3, 4])), 1)


def test_what_if_prefers_halving_where_early_errors_tell_and_full_training_where_they_mislead() -> None:
    tried = [
        Setting("fifo"),
        Setting("sha_repeated", (("eta", 3), ("r_min", 1), ("n", 9))),
        Setting("hyperband_repeated", (("eta", 3),)),
    ]
    for misleading in (False, True):
        curves = ordered(misleading)
        fifo, sha, _ = regrets([curves], tried, range(12), 60.0, processes=1)
        assert (fifo.mean < sha.mean) == misleading
        assert sha.regret.shape == (1, 12) and np.ptp(sha.regret) > 0


def test_settings_stay_within_the_table_and_processes_change_nothing() -> None:
    curves = ordered(misleading=False)
    tried = settings(curves, etas=(3,), workers=4)
    assert {dict(s.options).get("r_min") for s in tried} == {None, 1, 3}
    assert tried[1].overrides == "scheduler=sha_repeated eta=3 r_min=3 scheduler.n=3"
    tables = [curves, ordered(misleading=True)]
    one, two = (regrets(tables, tried, range(3), 40.0, processes=p) for p in (1, 2))
    np.testing.assert_array_equal([result.regret for result in one], [result.regret for result in two])
    timed = Curves(curves.error, curves.resource, np.cumsum(np.full(curves.error.shape, 5.0), axis=1))
    assert (deadline(curves, 40, 4), deadline(timed, 40, 4)) == (10.0, 50.0)


class InOrder:
    def propose(self, trial: int) -> Configuration | None:
        return {"x": trial}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None: ...


ERRORS = np.array([[0.9, 0.5, 0.4], [0.8, nan, nan], [0.7, 0.6, 0.5], [nan, nan, nan]])


def trains(jobs: Sequence[Job]) -> Generator[Step]:
    """Trial t has the errors of row t, a second an epoch; NaN ends it, as in training. Trial 4 crashes."""
    (job,) = jobs
    if job.trial == 4:
        raise OSError("no such file")
    curve: list[float] = []
    for epoch in range(job.since + 1, job.until + 1):
        curve.append(float(ERRORS[job.trial, epoch - 1]))
        yield Epoch(job.trial, epoch, {"val_error": curve[-1], "seconds": 1.0 + job.trial})
        if math.isnan(curve[-1]):
            outcome = Outcome(job.trial, epoch, nan, failed=True, curve=tuple(curve))
            yield Finished(outcome, 99.0, cause=f"diverged: val_error is nan after epoch {epoch}")
            return
    yield Finished(Outcome(job.trial, job.until, curve[-1], curve=tuple(curve)), 99.0)


def trained(scheduler: FIFO | SuccessiveHalving) -> History:
    tuner = Tuner(scheduler, Serial(trains), cost=lambda since, until: until - since)
    tuner.record(Header("s", "x", "numbers", 0, 3, unit="epochs", metric="val_error", dimensions=("x",)))
    tuner.run()
    return tuner.history


def test_studies_in_full_are_recorded_as_they_were() -> None:
    curves, left_out = record([trained(FIFO(InOrder(), 3, 5))])
    np.testing.assert_array_equal(curves.error, ERRORS)
    assert curves.seconds is not None and curves.seconds[2].tolist() == [3.0, 6.0, 9.0]
    assert curves.resource.tolist() == [1, 2, 3] and list(curves.configurations) == [{"x": t} for t in range(4)]
    assert left_out == {"crashed before 3": 1}
    assert curves.meta["resource"] == "epochs"


def test_a_trial_that_was_stopped_is_no_diverged_one() -> None:
    """Of a rung of three, trial 2 goes on; trial 0 was stopped after 1, trial 1 as well."""
    study = trained(SuccessiveHalving(InOrder(), 3, 1, 3, n=3))
    curves, left_out = record([study])
    assert curves.error.tolist() == [[0.7, 0.6, 0.5]] and left_out == {"stopped before 3": 2}
    assert curves.seconds is not None and curves.seconds.tolist() == [[3.0, 6.0, 9.0]]
    assert len(record([study], until=1)[0]) == 3
    with pytest.raises(UserError, match="no trial reached 7"):
        record([study], until=7)


def test_a_simulated_study_is_not_recorded() -> None:
    with pytest.raises(UserError, match="trained nothing"):
        record([simulate(ordered(misleading=False), FIFO, r_max=9, max_trials=2)])


def script(fork: Forks, name: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return fork(*map(str, arguments), program=f"scripts/{name}", cwd=cwd)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journals of six seeds of two methods, whose winner at 9 is known: x near 0."""
    directory, space = tmp_path_factory.mktemp("studies"), Space.from_config({"x": uniform(0, 1)})

    def squares(jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        yield Finished(Outcome(job.trial, job.until, float(job.configuration["x"] or 0) ** 2 + 1 / job.until), 0.1)

    for seed in range(6):
        searcher = RandomSearcher(space, seed)
        for name, scheduler in (("fifo", FIFO(searcher, 9, 3)), ("sha", SuccessiveHalving(searcher, 3, 1, 9, n=9))):
            (directory / f"{name}{seed}").mkdir()
            method = type(scheduler).__name__
            with closing(Journal(directory / f"{name}{seed}")) as journal:
                tuner = Tuner(scheduler, Serial(squares), cost=lambda since, until: until, journal=journal)
                tuner.record(Header("squares", method, "RandomSearcher", seed, 9, unit="units", dimensions=("x",)))
                tuner.run()
    return directory


def test_compare_prints_the_tests_and_writes_figures_and_tables(fork: Forks, studies: Path) -> None:
    result = script(fork, "compare.py", studies)
    assert result.returncode == 0, result.stderr
    assert "| FIFO | SuccessiveHalving | error at 9 units after 27 units | 6 |" in result.stdout
    drawn, svg = colours(studies / "comparison.png"), (studies / "comparison.svg").read_text()
    for method, colour in (("FIFO", COLOURS[0]), ("SuccessiveHalving", COLOURS[1])):
        assert drawn[colour] > 500 and f">{method}</text>" in svg
        assert len(re.findall(f"<path [^>]*fill: none; stroke: [^;]*{colour}", svg)) == 4, (
            "a line a panel, and one named"
        )
    rows = list(csv.DictReader((studies / "comparison.csv").open()))
    last = {row["method"]: row for row in rows if row["axis"] == "resource"}
    timed = [row for row in rows if row["axis"] == "seconds"]
    late = {row["method"]: row for row in timed if row["mean"]}  # the quicker one's line has ended before
    histories = {p: halving.load(p).history for p in studies.iterdir() if p.is_dir()}
    ends = {row["spent"] for row in (timed[-1], timed[len(timed) // 2 - 1])}
    assert ends == {f"{max(each.seconds for each in histories.values()):.6g}"}
    assert [late[name]["mean"] for name in late] == [last[name]["mean"] for name in late]
    best = [min(t.last.error for t in halving.load(studies / f"fifo{seed}").trials) for seed in range(6)]
    assert float(last["FIFO"]["mean"]) == pytest.approx(np.mean(best), rel=1e-5)
    (test,) = csv.DictReader((studies / "tests.csv").open())
    of = by_method(labelled(histories))
    errors = [[float(own[seed].at(27.0)) for seed in range(6)] for own in (of["FIFO"], of["SuccessiveHalving"])]
    won, lost = (sum(a < b for a, b in zip(*pair, strict=True)) for pair in (errors, errors[::-1]))
    assert (test["pairs"], test["wins"], test["losses"]) == ("6", str(won), str(lost)) and won + lost > 0


def test_record_writes_a_table_that_what_if_replays(fork: Forks, studies: Path, tmp_path: Path) -> None:
    result = script(fork, "record_curves.py", studies, "--out", tmp_path / "mine.npz")
    assert result.returncode == 0, result.stderr
    assert "left out" in result.stdout and "stopped before 9" in result.stdout
    curves = load(tmp_path / "mine.npz")
    assert curves.resource.tolist() == [9] and len(curves) == 6 * 3 + 6 and set(curves.columns) == {"x"}
    what = script(fork, "compare.py", "--what-if", tmp_path / "mine.npz", "--seeds", 1, "--processes", 1)
    assert what.returncode == 0, what.stderr
    (recommended,) = re.findall(r"^Recommended: (scheduler=.*? budget.resource=180)\b", what.stdout, re.M)
    table, out = f"executor.curves={tmp_path / 'mine.npz'}", f"hydra.run.dir={tmp_path / 'as_typed'}"
    typed = fork("experiment=simulated", table, out, *recommended.split())
    assert typed.returncode == 0, typed.stderr


def test_the_setting_that_is_recommended_goes_on_to_its_resource_as_it_was_judged(fork: Forks, tmp_path: Path) -> None:
    curves = ordered(misleading=False)
    save(curves, tmp_path / "table.npz")
    resource = 20 * int(curves.resource[-1])
    for i, setting in enumerate(settings(curves, etas=(3,), depth=1)):
        words = [f"executor.curves={tmp_path / 'table.npz'}", *setting.overrides.split()]
        words += [f"r_max={curves.resource[-1]}", f"budget.resource={resource}", "seed=0"]
        assert fork("experiment=simulated", *words, f"hydra.run.dir={tmp_path / str(i)}").returncode == 0
        history = halving.load(tmp_path / str(i)).history
        assert history.spent == pytest.approx(resource, rel=0.1), setting


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: nowhere: no journal.jsonl there or below"),
        ([], "give either run directories"),
        (["--what-if", "nowhere.npz"], "error: nowhere.npz: no such file"),
        (["--what-if", "nowhere.npz", "--out", "there"], "--what-if only prints"),
    ],
)
def test_mistakes_are_one_message(fork: Forks, tmp_path: Path, arguments: list[str], message: str) -> None:
    result = script(fork, "compare.py", *arguments, cwd=tmp_path)
    assert result.returncode != 0 and message in result.stderr and "Traceback" not in result.stderr


def test_figures_that_cannot_be_written_are_one_message(fork: Forks, studies: Path) -> None:
    result = script(fork, "compare.py", studies, "--out", "/dev/null/figures")
    assert result.returncode == 1 and result.stderr.startswith("error: cannot write into /dev/null/figures (")
    assert "--out" in result.stderr and "Traceback" not in result.stderr
