"""The rules of the scheduler family, worked by hand from their papers; golden traces; long runs by the rule."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halving.errors import UserError
from halving.schedulers import (
    ASHA,
    FIFO,
    PASHA,
    AsyncHyperband,
    ConcordantASHA,
    Curve,
    Hyperband,
    Median,
    OneEpoch,
    Scheduler,
    SuccessiveHalving,
)
from halving.schedulers.curve import probability_below
from halving.schedulers.hyperband import allocation
from halving.schedulers.pasha import crossing, noise
from halving.schedulers.rung import OpenRung
from halving.trial import Assignment, Configuration, Done, Outcome, Resume, Start, Wait

GOLDEN = Path(__file__).parent / "golden" / "family.json"

Errors = Callable[[int, int], float]


class Numbers:
    """Proposes {"x": t} for trial t."""

    def propose(self, trial: int) -> Configuration | None:
        return {"x": trial}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Learn nothing."""


def told(assignment: Assignment, error: Errors, curves: bool = False) -> Outcome:
    since = assignment.since if isinstance(assignment, Resume) else 0
    curve = tuple(error(assignment.trial, r) for r in range(since + 1, assignment.until + 1)) if curves else ()
    return Outcome(assignment.trial, assignment.until, error(assignment.trial, assignment.until), curve=curve)


def drive(
    scheduler: Scheduler, error: Errors, evaluations: int, workers: int = 1, curves: bool = False
) -> list[tuple[str, int, str, str]]:
    """Run some evaluations, the oldest finishing first; return (trial, what happened, why) for every decision."""
    decisions: list[tuple[str, int, str, str]] = []
    running: list[Assignment] = []
    started = 0
    while True:
        while len(running) < workers and started < evaluations:
            match scheduler.suggest():
                case Wait() | Done():
                    break
                case Start(trial, _, until, bracket, rung, reason) as start:
                    decisions.append(("start", trial, f"bracket {bracket} rung {rung} to {until}", reason))
                    running.append(start)
                case Resume(trial, since, until, rung, reason) as resume:
                    decisions.append(("resume", trial, f"rung {rung} from {since} to {until}", reason))
                    running.append(resume)
            started += 1
        if not running:
            return decisions
        for verdict in scheduler.update(told(running.pop(0), error, curves)):
            decisions.append((verdict.state, verdict.trial, "", verdict.reason))


def by_table(table: dict[int, float]) -> Errors:
    """The same error at every resource."""
    return lambda trial, _: table[trial]


def short(decisions: Sequence[tuple[str, int, str, str]]) -> list[tuple[str, int]]:
    return [(what, trial) for what, trial, _, _ in decisions]


def rung_counts(decisions: Sequence[tuple[str, int, str, str]]) -> Counter[int]:
    return Counter(
        0 if what == "start" else int(where.split()[1])
        for what, _, where, _ in decisions
        if what in ("start", "resume")
    )


HYPERBAND = [
    (3, 81, [(81, 1), (34, 3), (15, 9), (8, 27), (5, 81)]),
    (3, 243, [(243, 1), (98, 3), (41, 9), (18, 27), (9, 81), (6, 243)]),
    (3, 729, [(729, 1), (284, 3), (114, 9), (48, 27), (21, 81), (11, 243), (7, 729)]),
    (2, 40, [(32, 1), (20, 2), (12, 5), (8, 10), (6, 20), (6, 40)]),
    (3, 40, [(27, 1), (12, 4), (6, 13), (4, 40)]),
    (4, 40, [(16, 2), (6, 10), (3, 40)]),
    (5, 40, [(25, 1), (8, 8), (3, 40)]),
    (2, 100, [(64, 1), (38, 3), (23, 6), (14, 12), (10, 25), (7, 50), (7, 100)]),
    (3, 100, [(81, 1), (34, 3), (15, 11), (8, 33), (5, 100)]),
    (4, 100, [(64, 1), (22, 6), (8, 25), (4, 100)]),
    (5, 100, [(25, 4), (8, 20), (3, 100)]),
]


@pytest.mark.parametrize(("eta", "r_max", "brackets"), HYPERBAND)
def test_hyperband_brackets_after_li_2018_algorithm_1(eta: int, r_max: int, brackets: list[tuple[int, int]]) -> None:
    assert [(n, levels[0]) for n, levels in allocation(eta, 1, r_max)] == brackets
    assert all(levels[-1] == r_max for _, levels in allocation(eta, 1, r_max))


def test_hyperband_rungs_after_li_2018_table_1_are_climbed() -> None:
    """Table 1 has n_i for r_max = 81, eta = 3; only its n differ where algorithm 1 rounds up."""
    scheduler = Hyperband(Numbers(), eta=3, r_max=81)
    assert [(ladder.levels, ladder.sizes) for ladder in scheduler.plan] == [
        ((1, 3, 9, 27, 81), (81, 27, 9, 3, 1)),
        ((3, 9, 27, 81), (34, 11, 3, 1)),
        ((9, 27, 81), (15, 5, 1)),
        ((27, 81), (8, 2)),
        ((81,), (5,)),
    ]
    decisions = drive(scheduler, lambda trial, _: float(trial), 1000)
    assert rung_counts(decisions) == {0: 143, 1: 45, 2: 13, 3: 4, 4: 1}
    assert Counter(where for what, _, where, _ in decisions if what == "start") == {
        "bracket 0 rung 0 to 1": 81,
        "bracket 1 rung 0 to 3": 34,
        "bracket 2 rung 0 to 9": 15,
        "bracket 3 rung 0 to 27": 8,
        "bracket 4 rung 0 to 81": 5,
    }


def test_hyperband_with_r_min_above_1_drops_the_brackets_below_it() -> None:
    assert [(n, levels) for n, levels in allocation(3, 4, 81)] == [(9, (9, 27, 81)), (5, (27, 81)), (3, (81,))]


def test_asha_promotion_after_li_2020_algorithm_2() -> None:
    """eta = 2, rungs 1, 2, 4, one worker: top finished // 2 of all finished, never twice."""
    scheduler = ASHA(Numbers(), eta=2, r_max=4, max_trials=5)
    errors = by_table({0: 0.5, 1: 0.3, 2: 0.4, 3: 0.2, 4: 0.6})
    assert short(drive(scheduler, errors, 100)) == [
        *[("start", 0), ("paused", 0)],
        *[("start", 1), ("paused", 1)],  # 2 // 2 = 1: trial 1
        *[("resume", 1), ("paused", 1)],
        *[("start", 2), ("paused", 2)],  # 3 // 2 = 1: trial 1, which went on already
        *[("start", 3), ("paused", 3)],  # 4 // 2 = 2: trials 3 and 1
        *[("resume", 3), ("paused", 3)],  # 2 // 2 = 1 of rung 1: trial 3 again, before a new trial
        *[("resume", 3), ("completed", 3)],
        # 5 // 2 = 2: nobody new, and as no trial is left, the end
        *[("start", 4), ("stopped", 0), ("stopped", 1), ("stopped", 2), ("stopped", 4)],
    ]


def test_asha_promotes_from_the_top_rung_first_after_li_2020() -> None:
    scheduler = ASHA(Numbers(), eta=2, r_max=4)

    def suggest(count: int) -> list[tuple[int, int]]:
        suggestions = [scheduler.suggest() for _ in range(count)]
        return [(s.trial, s.until) for s in suggestions if isinstance(s, Start | Resume)]

    assert suggest(4) == [(0, 1), (1, 1), (2, 1), (3, 1)]
    for trial, error in enumerate((0.5, 0.3, 0.4, 0.2)):
        scheduler.update(Outcome(trial, 1, error))
    assert suggest(4) == [(3, 2), (1, 2), (4, 1), (5, 1)]
    for outcome in (Outcome(4, 1, 0.1), Outcome(5, 1, 0.15), Outcome(1, 2, 0.3), Outcome(3, 2, 0.2)):
        scheduler.update(outcome)
    # Rung 1 has 2 // 2 = 1 to promote, trial 3; rung 0 has 6 // 2 = 3: trials 4, 5 and 3.
    assert suggest(4) == [(3, 4), (4, 2), (5, 2), (6, 1)]


def test_asha_counts_failed_and_promoted_trials_as_finished_after_li_2020() -> None:
    errors = by_table({0: math.nan, 1: 0.3, 2: 0.1, 3: 0.2})
    assert short(drive(ASHA(Numbers(), eta=2, r_max=2), errors, 7)) == [
        *[("start", 0), ("failed", 0)],
        *[("start", 1), ("paused", 1)],  # 2 // 2 = 1, with the failed one
        *[("resume", 1), ("completed", 1)],
        *[("start", 2), ("paused", 2)],  # 3 // 2 = 1: trial 2 is better than trial 1
        *[("resume", 2), ("completed", 2)],
        *[("start", 3), ("paused", 3)],  # 4 // 2 = 2: trials 2 and 3
        *[("resume", 3), ("completed", 3)],
    ]


def test_asha_without_failed_trials_promotes_of_those_that_survive() -> None:
    errors = by_table({0: math.nan, 1: 0.3, 2: 0.1, 3: 0.2, 4: 0.4})
    assert short(drive(ASHA(Numbers(), eta=2, r_max=2, count_failed=False), errors, 6)) == [
        *[("start", 0), ("failed", 0)],
        *[("start", 1), ("paused", 1)],  # 1 // 2 = 0
        *[("start", 2), ("paused", 2)],  # 2 // 2 = 1
        *[("resume", 2), ("completed", 2)],
        *[("start", 3), ("paused", 3)],  # 3 // 2 = 1, trial 2
        *[("start", 4), ("paused", 4)],  # 4 // 2 = 2: trials 2 and 3
    ]
    errors = by_table({0: 0.5, 1: math.nan, 2: math.nan, 3: 0.6})
    states = {
        count: short(drive(ASHA(Numbers(), eta=2, r_max=2, variant="stopping", count_failed=count), errors, 5))[-1]
        for count in (True, False)
    }
    assert states == {True: ("paused", 3), False: ("stopped", 3)}  # rank 2; 4 // 2 = 2, 2 // 2 = 1
    with pytest.raises(UserError, match=r"scheduler.count_failed=maybe: must be true or false"):
        ASHA(Numbers(), count_failed="maybe")  # pyright: ignore


def test_asha_stopping_by_max_of_1_and_finished_over_eta() -> None:
    """eta = 2, rungs 1, 2, 4: a trial goes on iff its rank on arrival is within max(1, finished // 2)."""
    table = {(0, 1): 0.5, (0, 2): 0.5, (0, 4): 0.5, (1, 1): 0.6, (2, 1): 0.4, (2, 2): 0.55, (3, 1): math.nan}
    table |= {(4, 1): 0.45, (4, 2): 0.3, (4, 4): 0.3}
    scheduler = ASHA(Numbers(), eta=2, r_max=4, variant="stopping", max_trials=5)
    assert short(drive(scheduler, lambda trial, r: table[trial, r], 100)) == [
        *[("start", 0), ("paused", 0), ("resume", 0), ("paused", 0), ("resume", 0), ("completed", 0)],
        *[("start", 1), ("stopped", 1)],  # rank 2, one may go on
        *[("start", 2), ("paused", 2), ("resume", 2), ("stopped", 2)],  # at rung 1 trial 0 is better
        *[("start", 3), ("failed", 3)],
        # 5 // 2 = 2 with the failed one: trials 2 and 4; at rung 1 it is the best
        *[("start", 4), ("paused", 4), ("resume", 4), ("paused", 4), ("resume", 4), ("completed", 4)],
    ]


@pytest.mark.parametrize("seed", [0, 1])
def test_asha_by_the_papers_rule_has_shrinking_rungs(seed: int) -> None:
    """2,000 evaluations of independent errors, eta = 3, one worker, five rungs.

    Were a rung's quota exact, sizes would be 1339, 446, 149, 50, 17. As a newcomer may outrank trials that went on,
    slightly more are promoted, and the higher the rung the more: near-equal sizes would be another rule.
    """
    table = np.random.default_rng(seed).random((2000, 82))
    counts = rung_counts(drive(ASHA(Numbers(), r_max=81), lambda trial, r: float(table[trial, r]), 2000))
    for rung, (expected, tolerance) in enumerate([(1300, 0.03), (455, 0.05), (160, 0.1), (62, 0.15), (23, 0.35)]):
        assert counts[rung] == pytest.approx(expected, rel=tolerance), f"rung {rung} of {dict(counts)}"


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, math.inf]), st.booleans()), max_size=60),
    st.integers(2, 5),
    st.integers(0, 1),
    st.randoms(use_true_random=False),
)
def test_open_rung_is_a_sorted_list(
    arrivals: list[tuple[float, bool]], eta: int, at_least: int, random: "np.random.Generator"
) -> None:
    """Whatever arrives, in any order of ids, and whoever is promoted in between."""
    rung = OpenRung(eta, at_least)
    ids = list(range(len(arrivals)))
    random.shuffle(ids)  # pyright: ignore
    known: list[tuple[float, int]] = []
    promoted: set[int] = set()
    for trial, (error, promote) in zip(ids, arrivals, strict=True):
        rung.add(trial, error)
        known.append((error, trial))
        known.sort()
        top = known[: max(at_least, len(known) // eta)]
        candidates = [key for key in top if key[1] not in promoted and key[0] < math.inf]
        assert rung.size == len(top)
        assert not top or rung.cut_off == top[-1]
        assert [rung.holds(i) for i in ids] == [i in {key[1] for key in top} for i in ids]
        assert rung.candidate() == (candidates[0] if candidates else None)
        if promote and candidates:
            rung.promote(candidates[0][1])
            promoted.add(candidates[0][1])
            assert rung.candidate() == (candidates[1] if len(candidates) > 1 else None)


def test_async_hyperband_draws_brackets_in_proportion_to_n_after_li_2020_section_3_3() -> None:
    scheduler = AsyncHyperband(Numbers(), r_max=81, seed=5)
    starts = [scheduler.suggest() for _ in range(4000)]
    drawn = Counter(start.bracket for start in starts if isinstance(start, Start))
    levels = {start.bracket: start.until for start in starts if isinstance(start, Start)}
    assert levels == {0: 1, 1: 3, 2: 9, 3: 27, 4: 81}
    for bracket, n in enumerate((81, 34, 15, 8, 5)):
        share = n / 143
        assert abs(drawn[bracket] - 4000 * share) < 4 * math.sqrt(4000 * share * (1 - share))


def test_async_hyperband_keeps_the_rungs_of_brackets_apart() -> None:
    """A trial is promoted only for its rank within its own bracket, by its own levels."""
    scheduler = AsyncHyperband(Numbers(), eta=3, r_max=9, seed=1, max_trials=60)
    decisions = drive(scheduler, lambda trial, _: float(trial % 7), 1000, workers=4)
    bracket = {trial: int(where.split()[1]) for what, trial, where, _ in decisions if what == "start"}
    for index, levels in enumerate([(1, 3, 9), (3, 9), (9,)]):
        mine = [(where, trial) for what, trial, where, _ in decisions if what == "resume" and bracket[trial] == index]
        assert {where for where, _ in mine} == {
            f"rung {i + 1} from {a} to {b}" for i, (a, b) in enumerate(pairwise(levels))
        }
    assert set(bracket.values()) == {0, 1, 2}


def test_pasha_with_a_stable_ranking_never_grows_beyond_rung_1_after_bohdal_2023() -> None:
    decisions = drive(PASHA(Numbers(), r_max=243), lambda trial, r: (trial * 7 % 31) + 1 / r, 200, workers=4)
    assert set(rung_counts(decisions)) == {0, 1}


def test_pasha_grows_until_the_top_two_rungs_agree_after_bohdal_2023() -> None:
    """The ranking turns over between 1 and 3, and stays from 3 on: rung 2 is added, and no other."""
    decisions = drive(PASHA(Numbers(), r_max=243), lambda trial, r: trial if r == 1 else -trial, 200)
    assert set(rung_counts(decisions)) == {0, 1, 2}


def test_pasha_grows_to_the_last_rung_while_each_new_rung_disagrees() -> None:
    """Twenty groups turn over, each inside, between 1 and 3, and among each other between 3 and 9.

    No pair crosses twice, hence epsilon is 0 and rung 3 is added.
    """

    def error(trial: int, resource: int) -> float:
        group, place = trial % 20, trial / 1000
        return {1: group + place, 3: group - place}.get(resource, -group - place)

    assert set(rung_counts(drive(PASHA(Numbers(), r_max=27), error, 400))) == {0, 1, 2, 3}


def test_pasha_takes_errors_that_cross_again_and_again_for_noise_after_bohdal_2023() -> None:
    """All errors are drawn anew in each rung: from three points on pairs cross twice, and it stops growing early."""
    table = np.random.default_rng(0).random((400, 244))
    decisions = drive(PASHA(Numbers(), r_max=243), lambda trial, r: float(table[trial, r]), 400)
    assert max(rung_counts(decisions)) < 5


def test_pasha_noise_by_hand_after_bohdal_2023_section_4_2() -> None:
    assert crossing([1, 2], [2, 1]) is None, "crossing once is a change of ranking, not noise"
    assert crossing([1, 2, 1, 2], [2, 1, 2, 1]) == 1.0
    assert crossing([1, 2, 1, 2], [9, 9, 9, 9]) is None
    assert crossing([1, 2, 2, 1, 5], [2, 2, 1, 2]) == 1.0, "compared as far as both reach; ties cross not"
    assert crossing([1, 2, 1, 3], [2, 1, 2, 3]) == 0.0, "they end equal"
    assert noise([]) == 0.0
    assert noise([1.0]) == 1.0
    # The 90th percentile of 1 and 3 lies at 1 + 0.9 * (3 - 1).
    assert noise([1.0, 3.0]) == pytest.approx(2.8)


def test_median_rule_by_hand_after_golovin_2017_section_3_2_2() -> None:
    """Best error so far against the median of the ended trials' averages; nobody before two have ended."""
    curves = {0: (0.5, 0.4, 0.3), 1: (0.6, 0.6, 0.6), 2: (0.7,), 3: (0.54, 0.56), 4: (0.55, 0.56, 0.5)}
    scheduler = Median(Numbers(), r_max=3, min_trials=2, max_trials=5)
    decisions = drive(scheduler, lambda trial, r: curves[trial][r - 1], 100)
    ends = {trial: (what, why) for what, trial, _, why in decisions if what not in ("start", "resume", "paused")}
    assert ends[0][0] == ends[1][0] == ends[4][0] == "completed"
    # At 1: averages 0.5, 0.6.  At 2: 0.45, 0.6; trial 2 ended before. Trial 4 equals the median of 2, 0.55: not worse.
    assert ends[2] == ("stopped", "best error 0.7 by 1, the median of averages is 0.55")
    assert ends[3] == ("stopped", "best error 0.54 by 2, the median of averages is 0.525")


def test_median_rule_looks_every_step_from_r_min_and_at_r_max() -> None:
    decisions = drive(Median(Numbers(), r_min=2, r_max=9, step=3, max_trials=1), lambda *_: 0.5, 100)
    assert [where for what, _, where, _ in decisions if what in ("start", "resume")] == [
        "bracket 0 rung 0 to 2",
        "rung 1 from 2 to 5",
        "rung 2 from 5 to 8",
        "rung 3 from 8 to 9",
    ]


T = np.arange(1.0, 28.0)
CURVES = {
    "power law": 0.1 + 0.8 * T**-0.7,
    "exponential": 0.1 + 0.8 * np.exp(-0.2 * T),
    "logarithmic power": 0.1 + 0.8 / (1 + (T / np.e) ** 1.2),
    "flat": np.full(27, 0.5),
}


def until(curve: Sequence[float], last: int) -> list[tuple[int, float]]:
    return list(enumerate((float(error) for error in curve[:last]), start=1))


@pytest.mark.parametrize("shift", [0.0, -1.0], ids=["error", "accuracy, flipped"])
@pytest.mark.parametrize("family", CURVES)
def test_extrapolation_of_a_noiseless_curve_brackets_the_truth_after_domhan_2015(family: str, shift: float) -> None:
    curve = CURVES[family] + shift
    for known, margin in ((9, 0.3 if family == "flat" else 0.12), (18, 0.1 if family == "flat" else 0.05)):
        assert probability_below(curve[-1] - margin, until(curve, known), 27) < 0.05
        assert probability_below(curve[-1] + margin, until(curve, known), 27) > 0.95


def test_extrapolation_is_less_sure_from_fewer_points() -> None:
    curve = CURVES["power law"]
    spreads = [
        probability_below(curve[-1] + 0.05, until(curve, n), 27)
        - probability_below(curve[-1] - 0.05, until(curve, n), 27)
        for n in (4, 9, 18)
    ]
    assert spreads == sorted(spreads)


def test_extrapolation_places_points_where_they_were_measured() -> None:
    """Errors known at the rungs 1, 3, 9, 27, 81 only: taken for evenly spaced, they would end far too low."""
    curve = {r: 0.1 + 0.8 * r**-0.5 for r in (1, 3, 9, 27, 81, 243)}
    points = list(curve.items())[:-1]
    assert probability_below(curve[243] - 0.08, points, 243) < 0.05
    assert probability_below(curve[243] + 0.08, points, 243) > 0.95


def test_extrapolation_doubts_a_curve_that_has_hardly_moved() -> None:
    """Real curves start late and drop with the learning rate: level until a third of the way says little."""
    level, fallen = np.full(9, 0.9), 0.9 * T[:9] ** -0.7
    assert probability_below(0.7, until(level, 9), 27) > 0.05
    assert probability_below(fallen[-1] - 0.15, until(fallen, 9), 27) < 0.05


@pytest.mark.parametrize(
    ("points", "r_max", "probabilities"),
    [
        ([(1, 0.9), (2, 0.7), (3, 0.6), (4, 0.55)], 27, [0.0846, 0.1601, 0.2821, 0.4509, 0.6516]),
        ([(1, 0.9), (2, 0.7), (3, 0.6), (4, 0.55)], 81, [0.1845, 0.2682, 0.3747, 0.5019, 0.6389]),
        (
            [(r, 0.3 + 0.6 * r**-0.7 + (0.02 if r % 2 else -0.02)) for r in range(1, 10)],
            27,
            [0.0006, 0.0067, 0.0941, 0.5742, 0.9441],
        ),
        ([(r, 0.5) for r in (1, 3, 9, 10)], 27, [0.0084, 0.0206, 0.0595, 0.1893, 0.5]),
        ([(r, 0.1 + 0.8 * math.exp(-0.3 * r)) for r in range(1, 5)], 27, [0.4981, 0.7256, 0.8701, 0.9399, 0.9708]),
    ],
)
def test_probabilities_stay_as_the_constants_were_chosen(
    points: list[tuple[int, float]], r_max: int, probabilities: list[float]
) -> None:
    """The doubt, the noise and the priors were chosen on real curves; the unit of the error makes no difference."""
    targets = (0.1, 0.2, 0.3, 0.4, 0.5)
    assert [probability_below(t, points, r_max) for t in targets] == pytest.approx(probabilities, abs=2e-3)
    scaled = [(r, 7 * error) for r, error in points]
    assert [probability_below(7 * t, scaled, r_max) for t in targets] == pytest.approx(probabilities, abs=2e-3)
    flipped = [(r, error - 1) for r, error in points]  # an accuracy, which no error is below -1
    assert [probability_below(t - 1, flipped, r_max) for t in targets] == pytest.approx(probabilities, abs=2e-3)


def test_curve_stops_the_hopeless_and_lets_the_crossing_go_on_after_domhan_2015() -> None:
    """Trial 0 ends at 0.2. Trial 1 is flat; trial 2 is worse than trial 0 up to 15, and ends at 0.08."""
    curves: dict[int, Callable[[int], float]] = {
        0: lambda r: 0.2 + 0.3 * r**-2.0,
        1: lambda r: 0.5 + 0.01 * (-1) ** r,
        2: lambda r: 0.02 + 0.9 * math.exp(-0.1 * r),
    }
    scheduler = Curve(Numbers(), max_trials=3)
    decisions = drive(scheduler, lambda trial, r: curves[trial](r), 100, curves=True)
    assert curves[2](9) > curves[0](9)
    assert short(decisions) == [
        *[("start", 0), *[("paused", 0), ("resume", 0)] * 3, ("completed", 0)],
        *[("start", 1), *[("paused", 1), ("resume", 1)] * 2, ("stopped", 1)],
        *[("start", 2), *[("paused", 2), ("resume", 2)] * 3, ("completed", 2)],
    ]


def test_curve_survives_a_nan_inside_a_curve() -> None:
    """An objective may miss one epoch's error; 9 points of which 6 are missing are too few to judge."""

    def error(trial: int, resource: int) -> float:
        return math.nan if trial > 0 and resource in (2, 4, 5, 6, 7, 8) else 0.5 + trial

    decisions = drive(Curve(Numbers(), max_trials=2), error, 100, curves=True)
    assert ("completed", 1) in short(decisions)
    assert "3 points of a curve are too few to extrapolate" in [why for _, trial, _, why in decisions if trial == 1]


def test_curve_judges_by_errors_at_the_rungs_and_says_where_these_are_never_enough() -> None:
    def error(trial: int, resource: int) -> float:
        return 0.1 + 0.8 * resource**-0.9 if trial == 0 else 0.9 + 0.05 * resource**-0.5

    ended = {trial: what for what, trial, *_ in drive(Curve(Numbers(), r_max=243, max_trials=2), error, 100)}
    assert ended == {0: "completed", 1: "stopped"}
    reasons = [why for what, _, _, why in drive(Curve(Numbers(), max_trials=2), error, 100) if what == "paused"]
    assert "3 points of a curve are too few to extrapolate; errors at the rungs alone never make 4 below 27" in reasons
    enough = [
        why for what, _, _, why in drive(Curve(Numbers(), r_max=81, max_trials=2), error, 100) if what == "paused"
    ]
    assert "3 points of a curve are too few to extrapolate" in enough


@pytest.mark.parametrize(("n", "k"), [(9, 3), (10, 3), (5, 5), (7, 1)])
def test_one_epoch_finishes_the_best_k_of_n_after_egele_2023(n: int, k: int) -> None:
    decisions = drive(OneEpoch(Numbers(), n=n, k=k), lambda trial, _: float(-trial), 100, workers=3)
    assert Counter(what for what, *_ in decisions)["start"] == n
    assert [trial for what, trial, _, _ in decisions if what == "resume"] == list(range(n - 1, n - 1 - k, -1))


def test_one_epoch_spends_by_default_what_successive_halving_spends() -> None:
    """1, 3, 9, 27 with 27, 9, 3, 1 trials is 27 + 18 + 18 + 18 = 81 = 55 * 1 + 1 * 26."""
    (plan,) = OneEpoch(Numbers(), r_min=1, r_max=27, eta=3).plan
    assert (plan.levels, plan.sizes) == ((1, 27), (55, 1))
    (plan,) = OneEpoch(Numbers(), r_min=1, r_max=27, eta=3, k=2).plan
    assert plan.sizes == (29, 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ASHA(Numbers(), variant="paused"), "variant=paused: unknown"),  # pyright: ignore
        (lambda: ASHA(Numbers(), max_trials=0), "max_trials=0"),
        (lambda: Hyperband(Numbers(), eta=1), "eta=1: must be an integer of at least 2"),
        (lambda: Hyperband(Numbers(), rounds=0), "rounds=0"),
        (lambda: AsyncHyperband(Numbers(), r_min=100), "r_min=100 is more than r_max=81"),
        (lambda: PASHA(Numbers(), eta=0), "eta=0"),
        (lambda: Median(Numbers(), min_trials=0), "min_trials=0"),
        (lambda: Median(Numbers(), step=0), "step=0"),
        (lambda: Curve(Numbers(), threshold=1.0), "threshold=1.0"),
        (lambda: Curve(Numbers(), min_points=3), "min_points=3: must be an integer of at least 4"),
        (lambda: OneEpoch(Numbers(), n=3, k=4), "k=4"),
    ],
)
def test_options_out_of_range_are_refused(build: Callable[[], Scheduler], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


FAMILY: dict[str, Callable[[], Scheduler]] = {
    "fifo": lambda: FIFO(Numbers(), 9, 6),
    "sha": lambda: SuccessiveHalving(Numbers(), r_max=9, n=10, rounds=2),
    "asha": lambda: ASHA(Numbers(), r_max=9, max_trials=20),
    "asha_stopping": lambda: ASHA(Numbers(), r_max=9, variant="stopping", max_trials=20),
    "hyperband": lambda: Hyperband(Numbers(), r_max=9),
    "async_hyperband": lambda: AsyncHyperband(Numbers(), r_max=9, max_trials=20),
    "concordant_asha": lambda: ConcordantASHA(Numbers(), eta=2, r_max=8, max_trials=40, evidence=None),
    "concordant_asha_ranks": lambda: ConcordantASHA(Numbers(), eta=2, r_max=8, max_trials=40),
    "pasha": lambda: PASHA(Numbers(), r_max=27, max_trials=20),
    "median": lambda: Median(Numbers(), r_max=4, max_trials=10),
    "curve": lambda: Curve(Numbers(), r_max=27, threshold=0.3, max_trials=8),
    "one_epoch": lambda: OneEpoch(Numbers(), r_max=9),
}


def test_what_may_grow_when_a_study_goes_on() -> None:
    """None of those whose trials are given up at max_trials: what they decided would not come out again."""
    grows = {
        "sha": "rounds",
        "hyperband": "rounds",
        "fifo": "max_trials",
        "median": "max_trials",
        "curve": "max_trials",
    }
    assert {name: getattr(build(), "extended_by", "") for name, build in FAMILY.items()} == {
        name: grows.get(name, "") for name in FAMILY
    }


def table(trial: int, resource: int) -> float:
    """Errors that decay, of which one in eleven fails, and whose ranking changes between rungs."""
    if trial % 11 == 5:
        return math.nan
    return round(trial * 37 % 50 / 50 + (trial * trial * 13 + resource * 7) % 17 / (20 * resource), 6)


def golden(name: str) -> list[str]:
    """Every decision; without reasons for curve, whose probabilities depend on the version of scipy."""
    decisions = drive(FAMILY[name](), table, 60, workers=3, curves=True)
    return [
        f"{what} {trial} {where}: {'' if name == 'curve' else why}".strip() for what, trial, where, why in decisions
    ]


@pytest.mark.parametrize("name", FAMILY)
def test_golden_trace_of_decisions(name: str) -> None:
    """A change that is meant to alter decisions writes them anew: `python tests/test_scheduler_family.py`."""
    assert golden(name) == json.loads(GOLDEN.read_text())[name]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: golden(name) for name in FAMILY}, indent=1) + "\n")
