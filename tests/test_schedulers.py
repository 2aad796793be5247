"""What schedulers decide: hand-worked ladders and brackets, a golden trace, and properties under any arrival order."""

import json
import math
import pickle
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halving.errors import UserError
from halving.history import planned_cost
from halving.schedulers import FIFO, Hyperband, Scheduler, SuccessiveHalving
from halving.searchers import RandomSearcher
from halving.space import Space
from halving.trial import Assignment, Configuration, Done, Outcome, Resume, Start, Verdict, Wait

GOLDEN = Path(__file__).parent / "golden" / "sha_1_27_3.json"


class Numbers:
    """Proposes {"x": t} for trial t, `count` times, and remembers what it observed."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count
        self.observed: list[tuple[int, int, float]] = []

    def propose(self, trial: int) -> Configuration | None:
        return None if self.count is not None and trial >= self.count else {"x": trial}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        assert configuration == {"x": trial}
        self.observed.append((trial, resource, error))


Decision = Assignment | tuple[Verdict, ...]


@dataclass
class Trace:
    """What a driven scheduler said, and the states of its trials."""

    calls: list[Assignment | Outcome] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    assignments: list[Assignment] = field(default_factory=list)
    states: dict[int, str] = field(default_factory=dict)
    entered: Counter[tuple[int, int]] = field(default_factory=Counter)
    survived: Counter[tuple[int, int]] = field(default_factory=Counter)


def drive(
    scheduler: Scheduler,
    error: Callable[[int, int], float],
    workers: int = 1,
    pick: Callable[[int], int] = lambda _: 0,
    fails: Callable[[int, int], bool] = lambda *_: False,
) -> Trace:
    """Run a scheduler to its end; `pick(k)` says which of the k running assignments finishes next."""
    trace = Trace()
    running: list[Assignment] = []
    bracket_of: dict[int, int] = {}
    reached: dict[int, int] = {}
    for _ in range(100_000):
        while len(running) < workers:
            before = pickle.dumps(scheduler)
            suggestion = scheduler.suggest()
            if isinstance(suggestion, Wait | Done):
                assert pickle.dumps(scheduler) == before, f"{suggestion} changed the scheduler"
                break
            if isinstance(suggestion, Start):
                assert suggestion.trial == len(bracket_of), "trials are numbered in order"
                bracket_of[suggestion.trial] = suggestion.bracket
            else:
                assert trace.states[suggestion.trial] == "paused", "only a paused trial goes on"
                assert suggestion.since == reached[suggestion.trial] < suggestion.until
            trace.states[suggestion.trial] = "running"
            trace.entered[bracket_of[suggestion.trial], suggestion.rung] += 1
            trace.calls.append(suggestion)
            trace.assignments.append(suggestion)
            trace.decisions.append(suggestion)
            running.append(suggestion)
        else:
            suggestion = Wait()
        if not running:
            assert isinstance(suggestion, Done), "it waits although nothing runs"
            return trace
        assignment = running.pop(pick(len(running)))
        failed = fails(assignment.trial, assignment.until)
        value = math.nan if failed else error(assignment.trial, assignment.until)
        outcome = Outcome(assignment.trial, assignment.until, value, failed)
        reached[assignment.trial] = assignment.until
        trace.survived[bracket_of[assignment.trial], assignment.rung] += outcome.rank_error < math.inf
        verdicts = scheduler.update(outcome)
        assert assignment.trial in {verdict.trial for verdict in verdicts}, "an outcome gets its verdict"
        trace.calls.append(outcome)
        trace.decisions.append(verdicts)
        for verdict in verdicts:
            trace.states[verdict.trial] = verdict.state
    raise AssertionError("the scheduler does not come to an end")


def resuming(since: int, until: int) -> float:
    return until - since


def by_id(trial: int, _: int) -> float:
    """The lower id is better, at every resource."""
    return float(trial)


def promoted(trace: Trace, rung: int, bracket: int = 0) -> list[int]:
    """The trials that went on to a rung of a bracket, in order."""
    home = {a.trial: a.bracket for a in trace.assignments if isinstance(a, Start)}
    return [a.trial for a in trace.assignments if a.rung == rung and home[a.trial] == bracket]


# The table of DESIGN, section 4, and what its ladders cost when trials resume.
LADDERS = [
    ({"r_min": 1, "r_max": 27, "eta": 3}, (1, 3, 9, 27), (27, 9, 3, 1), 81),
    ({"r_min": 2, "r_max": 10, "eta": 2}, (2, 4, 8, 10), (8, 4, 2, 1), 34),
    ({"r_min": 1, "r_max": 243, "eta": 3}, (1, 3, 9, 27, 81, 243), (243, 81, 27, 9, 3, 1), 1053),
    ({"r_min": 1, "r_max": 100, "eta": 3}, (1, 3, 9, 27, 81, 100), (243, 81, 27, 9, 3, 1), 910),
    ({"r_min": 1, "r_max": 27, "eta": 3, "n": 30}, (1, 3, 9, 27), (30, 10, 3, 1), 86),
    ({"r_min": 1, "r_max": 1, "eta": 3}, (1,), (1,), 1),
]


@pytest.mark.parametrize(("options", "levels", "sizes", "cost"), LADDERS)
def test_ladder_of_successive_halving_is_planned_and_climbed(
    options: dict[str, int], levels: tuple[int, ...], sizes: tuple[int, ...], cost: int
) -> None:
    scheduler = SuccessiveHalving(Numbers(), **options)
    (plan,) = scheduler.plan
    assert (plan.levels, plan.sizes) == (levels, sizes)
    assert planned_cost(scheduler.plan, resuming) == cost

    trace = drive(scheduler, by_id)
    spent = sum(a.until - (a.since if isinstance(a, Resume) else 0) for a in trace.assignments)
    assert spent == cost
    assert [trace.entered[0, rung] for rung in range(len(levels))] == list(sizes)
    assert {a.rung: a.until for a in trace.assignments} == dict(enumerate(levels))


def test_two_rounds_of_the_books_ladder_cost_68_epochs_in_30_evaluations() -> None:
    scheduler = SuccessiveHalving(Numbers(), eta=2, r_min=2, r_max=10, rounds=2)
    assert planned_cost(scheduler.plan, resuming) == 68
    assert planned_cost(scheduler.plan, lambda _, until: until) == 116  # the book retrains
    assert len(drive(scheduler, by_id).assignments) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 1}, "eta=1: must be an integer of at least 2"),
        ({"eta": 2.5}, "eta=2.5: must be an integer"),
        ({"r_min": 0}, "r_min=0: must be an integer of at least 1"),
        ({"r_min": 28}, "r_min=28 is more than r_max=27"),
        ({"n": 0}, "n=0"),
        ({"rounds": 0}, "rounds=0"),
        ({"rounds": 10**30}, f"rounds={10**30}: must be at most 100000"),
    ],
)
def test_ladder_that_cannot_be_climbed_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SuccessiveHalving(Numbers(), **options)


def test_bracket_worked_by_hand_after_jamieson_and_talwalkar_2016() -> None:
    """Algorithm 1 with n = 4, eta = 2, budgets 1, 2, 4: every decision, from a fixed table of errors."""
    errors = {(0, 1): 0.9, (1, 1): 0.3, (2, 1): 0.5, (3, 1): 0.4, (1, 2): 0.25, (3, 2): 0.2, (3, 4): 0.1}
    trace = drive(SuccessiveHalving(Numbers(), eta=2, r_min=1, r_max=4), lambda *key: errors[key])
    new = "a new configuration"
    assert trace.decisions == [
        Start(0, {"x": 0}, 1, reason=new),
        (Verdict(0, "paused", "1 of 4 have finished rung 0"),),
        Start(1, {"x": 1}, 1, reason=new),
        (Verdict(1, "paused", "2 of 4 have finished rung 0"),),
        Start(2, {"x": 2}, 1, reason=new),
        (Verdict(2, "paused", "3 of 4 have finished rung 0"),),
        Start(3, {"x": 3}, 1, reason=new),
        (
            Verdict(3, "paused", "4 of 4 have finished rung 0"),
            Verdict(2, "stopped", "rank 3 of 4 at rung 0 (error 0.5); the best 2 go on, the cut-off is 0.4"),
            Verdict(0, "stopped", "rank 4 of 4 at rung 0 (error 0.9); the best 2 go on, the cut-off is 0.4"),
        ),
        Resume(1, 1, 2, 1, "rank 1 of 4 at rung 0 (error 0.3); the best 2 go on"),
        (Verdict(1, "paused", "1 of 2 have finished rung 1"),),
        Resume(3, 1, 2, 1, "rank 2 of 4 at rung 0 (error 0.4); the best 2 go on"),
        (
            Verdict(3, "paused", "2 of 2 have finished rung 1"),
            Verdict(1, "stopped", "rank 2 of 2 at rung 1 (error 0.25); the best 1 go on, the cut-off is 0.2"),
        ),
        Resume(3, 2, 4, 2, "rank 1 of 2 at rung 1 (error 0.2); the best 1 go on"),
        (Verdict(3, "completed", "reached the last rung, 4"),),
    ]


def test_searcher_observes_every_outcome_and_failures_as_infinite() -> None:
    searcher = Numbers()
    drive(SuccessiveHalving(searcher, eta=2, r_min=1, r_max=2), by_id, fails=lambda trial, _: trial == 0)
    assert searcher.observed == [(0, 1, math.inf), (1, 1, 1.0), (1, 2, 1.0)]


def test_tie_goes_to_the_lower_id_and_the_loser_is_told() -> None:
    trace = drive(SuccessiveHalving(Numbers(), eta=3, r_min=1, r_max=3), lambda *_: 0.5, 3, pick=lambda k: k - 1)
    assert promoted(trace, 1) == [0]
    reasons = {v.trial: v.reason for step in trace.decisions if isinstance(step, tuple) for v in step}
    assert "a tie goes to the lower trial id" in reasons[1] and "a tie goes to the lower trial id" in reasons[2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_errors_rank_last_and_are_never_promoted(value: float) -> None:
    trace = drive(SuccessiveHalving(Numbers(), eta=3, r_min=1, r_max=9), lambda t, _: value if t < 7 else float(t))
    assert promoted(trace, 1) == [7, 8], "three could go on, two survive"
    assert promoted(trace, 2) == [7]
    assert [trace.states[t] for t in range(9)] == ["failed"] * 7 + ["completed", "stopped"]


def test_rung_without_survivor_ends_its_bracket_and_the_next_round_goes_on() -> None:
    scheduler = SuccessiveHalving(Numbers(), eta=2, r_min=1, r_max=4, rounds=3)
    trace = drive(scheduler, by_id, fails=lambda trial, until: trial < 4 or (trial < 8 and until == 2))
    assert [trace.entered[0, rung] for rung in range(3)] == [4, 0, 0]
    assert [trace.entered[1, rung] for rung in range(3)] == [4, 2, 0]
    assert [trace.entered[2, rung] for rung in range(3)] == [4, 2, 1]
    assert set(trace.states.values()) == {"failed", "stopped", "completed"}


@pytest.mark.parametrize("scheduler", [SuccessiveHalving, Hyperband])
def test_rounds_without_end_decide_as_many_do(scheduler: Callable[..., Scheduler]) -> None:
    def begun(rounds: int | None) -> list[Any]:
        study = scheduler(Numbers(), eta=2, r_min=1, r_max=4, rounds=rounds)
        taken: list[Any] = []
        while len(taken) < 60:
            taken.append(assignment := study.suggest())
            assert isinstance(assignment, Start | Resume)
            taken += study.update(
                Outcome(assignment.trial, assignment.until, by_id(assignment.trial, assignment.until))
            )
        return taken

    assert begun(None) == begun(9)
    assert scheduler(Numbers(), rounds=None).plan == ()  # type: ignore[attr-defined]


def test_overlapping_rounds_keep_their_rungs_apart_and_the_older_goes_first() -> None:
    """Trial 1 straggles: round 1 begins meanwhile, and round 0's promotion goes before round 1's next trial."""
    scheduler = SuccessiveHalving(Numbers(), eta=2, r_min=1, r_max=4, rounds=2)
    first = [scheduler.suggest() for _ in range(5)]
    assert [(s.trial, s.bracket) for s in first if isinstance(s, Start)] == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1)]
    for trial in (0, 2, 3):
        assert [v.state for v in scheduler.update(Outcome(trial, 1, 0.5 + trial))] == ["paused"]
    assert scheduler.suggest() == Start(5, {"x": 5}, 1, 1, 0, "a new configuration")
    # Both errors of round 1 are below round 0's: ranked together they would take its places.
    scheduler.update(Outcome(4, 1, 0.01))
    verdicts = scheduler.update(Outcome(1, 1, 0.1))
    assert {v.trial: v.state for v in verdicts} == {1: "paused", 2: "stopped", 3: "stopped"}
    suggestions = [scheduler.suggest() for _ in range(4)]
    assert [(type(s), s.trial) for s in suggestions if isinstance(s, Start | Resume)] == [
        (Resume, 1),
        (Resume, 0),
        (Start, 6),
        (Start, 7),
    ]
    assert scheduler.suggest() == Wait()


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("count", "entered"),
    [(0, [0, 0, 0]), (1, [1, 1, 1]), (5, [5, 1, 1]), (9, [9, 3, 1]), (13, [9, 3, 1, 4, 1, 1])],
)
def test_exhausted_space_leaves_smaller_brackets_and_nobody_paused(
    count: int, entered: list[int], workers: int
) -> None:
    scheduler = SuccessiveHalving(Numbers(count), eta=3, r_min=1, r_max=9, rounds=4)
    trace = drive(scheduler, by_id, workers)
    expected = {divmod(i, 3): number for i, number in enumerate(entered) if number}
    assert dict(trace.entered) == expected
    assert len(trace.states) == count
    assert set(trace.states.values()) <= {"stopped", "completed"}
    assert scheduler.suggest() == Done(), "once done, always done"


def test_exhausted_space_with_one_rung_or_without_survivor_ends() -> None:
    assert drive(SuccessiveHalving(Numbers(2), eta=3, r_min=1, r_max=1, n=5), by_id).states == {
        0: "completed",
        1: "completed",
    }
    failing = drive(SuccessiveHalving(Numbers(2), eta=3, r_min=1, r_max=9), by_id, fails=lambda *_: True)
    assert failing.states == {0: "failed", 1: "failed"}


@pytest.mark.parametrize(("max_trials", "count"), [(4, None), (None, 4), (9, 4)])
def test_fifo_trains_each_trial_to_r_max_in_order(max_trials: int | None, count: int | None) -> None:
    trace = drive(FIFO(Numbers(count), 9, max_trials), by_id, workers=3, fails=lambda trial, _: trial == 2)
    assert [(a.trial, a.until, a.rung) for a in trace.assignments] == [(t, 9, 0) for t in range(4)]
    assert trace.states == {0: "completed", 1: "completed", 2: "failed", 3: "completed"}


def test_fifo_plans_what_it_knows_and_refuses_nonsense() -> None:
    assert planned_cost(FIFO(Numbers(), 9, 4).plan, resuming) == 36
    assert planned_cost(FIFO(Numbers(), 9).plan, resuming) is None
    for r_max, max_trials in ((0, 1), (9, 0)):
        with pytest.raises(UserError):
            FIFO(Numbers(), r_max, max_trials)


def golden_trace() -> list[dict[str, Any]]:
    """Every decision of sha 1..27, eta 3 with random search on a smooth error whose ranking changes between rungs."""
    space = Space.from_config(
        {
            "optimizer": {"lr": {"_target_": "scipy.stats.loguniform", "a": 0.001, "b": 1.0}},
            "data": {"batch_size": {"_target_": "scipy.stats.randint", "low": 32, "high": 256}},
            "model": {"activation": ["relu", "tanh", "sigmoid"]},
        }
    )
    searcher = RandomSearcher(space, seed=0)

    def error(trial: int, resource: int) -> float:
        lr, batch_size, activation = space.encode(searcher.propose(trial) or {})
        floor = abs(lr - 0.6) + 0.2 * activation
        return round(float(floor + (1 - floor) / resource ** (0.3 + batch_size)), 9)

    trace = drive(SuccessiveHalving(searcher, eta=3, r_min=1, r_max=27), error)
    decisions: list[dict[str, Any]] = []
    for step in trace.decisions:
        for decision in step if isinstance(step, tuple) else (step,):
            values = asdict(decision)
            if isinstance(decision, Start):
                # Versions of scipy may differ in a quantile's last bits.
                values["configuration"]["optimizer.lr"] = float(f"{values['configuration']['optimizer.lr']:.9g}")
            decisions.append({"decision": type(decision).__name__, **values})
    return decisions


def test_golden_trace_of_decisions() -> None:
    """Decisions and their reasons stay what they were when the trace was written.

    A change that is meant to alter them writes it anew: `python tests/test_schedulers.py`, and the diff is reviewed.
    """
    assert golden_trace() == json.loads(GOLDEN.read_text())


def test_same_seed_in_another_process_takes_the_same_decisions() -> None:
    code = "import json, test_schedulers; print(json.dumps(test_schedulers.golden_trace()))"
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(output) == golden_trace()


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    eta = draw(st.integers(2, 4))
    r_min = draw(st.integers(1, 4))
    options = {
        "eta": eta,
        "r_min": r_min,
        "r_max": draw(st.integers(r_min, r_min * eta**2 + 2)),
        "n": draw(st.none() | st.integers(1, 20)),
        "rounds": draw(st.integers(1, 3)),
    }
    return {
        "options": options,
        "count": draw(st.none() | st.integers(0, 40)),
        "workers": draw(st.integers(1, 8)),
        "picks": draw(st.randoms(use_true_random=False)),
        "failing": (draw(st.integers(0, 2**16)), draw(st.sampled_from([0.0, 0.1, 0.3, 1.0]))),
    }


def table(seed: int) -> Callable[[int, int], float]:
    """Errors on a coarse grid, so that ties are common, the same for the same (trial, resource)."""
    return lambda trial, resource: (hash((seed, trial, resource)) % 1000 // 50) / 20


def failures(seed: int, share: float) -> Callable[[int, int], bool]:
    return lambda trial, resource: hash((seed, resource, trial)) % 997 < share * 997


def run(study: dict[str, Any], seed: int, scheduler: Scheduler | None = None) -> Trace:
    allocator = scheduler or SuccessiveHalving(Numbers(study["count"]), **study["options"])
    return drive(allocator, table(seed), study["workers"], study["picks"].randrange, failures(*study["failing"]))


@settings(max_examples=120, deadline=None)
@given(studies(), st.integers(0, 2**16))
def test_any_study_ends_with_rungs_of_the_rules_sizes(study: dict[str, Any], seed: int) -> None:
    """With any workers, arrivals, failures and size of space: what successive halving promises."""
    trace = run(study, seed)
    eta, r_max = study["options"]["eta"], study["options"]["r_max"]
    assert not set(trace.states.values()) & {"running", "paused"}
    assert max(Counter((a.trial, a.rung) for a in trace.assignments).values(), default=0) <= 1
    resources: dict[int, list[int]] = defaultdict(list)
    for assignment in trace.assignments:
        resources[assignment.trial].append(assignment.until)
    for levels in resources.values():
        assert levels == sorted(set(levels)) and levels[-1] <= r_max

    ladder = SuccessiveHalving(Numbers(), **study["options"]).plan[0].levels
    for (bracket, rung), size in trace.entered.items():
        if rung + 1 < len(ladder):
            expected = min(trace.survived[bracket, rung], max(1, size // eta))
            assert trace.entered[bracket, rung + 1] == expected


@settings(max_examples=60, deadline=None)
@given(studies(), st.integers(0, 2**16))
def test_arrival_order_within_rungs_does_not_change_promotions(study: dict[str, Any], seed: int) -> None:
    """Any number of workers and any order of arrival promotes, bracket by bracket, whom one worker promotes."""
    alone, many = run(study | {"workers": 1}, seed), run(study, seed)

    def rungs(trace: Trace) -> dict[tuple[int, int], set[int]]:
        home = {a.trial: a.bracket for a in trace.assignments if isinstance(a, Start)}
        members: dict[tuple[int, int], set[int]] = defaultdict(set)
        for assignment in trace.assignments:
            members[home[assignment.trial], assignment.rung].add(assignment.trial)
        return members

    assert rungs(many) == rungs(alone)
    assert many.states == alone.states


@settings(max_examples=60, deadline=None)
@given(studies(), st.integers(0, 2**16))
def test_replaying_the_same_calls_gives_the_same_state(study: dict[str, Any], seed: int) -> None:
    """Replay makes no call that answered Wait: it need not know how often the live study asked."""
    live = SuccessiveHalving(Numbers(study["count"]), **study["options"])
    trace = run(study, seed, live)
    again = SuccessiveHalving(Numbers(study["count"]), **study["options"])
    said: list[Decision] = []
    for call in trace.calls:
        match call:
            case Outcome():
                said.append(again.update(call))
            case _:
                suggestion = again.suggest()
                assert isinstance(suggestion, Start | Resume)
                said.append(suggestion)
    assert said == trace.decisions
    assert pickle.dumps(pickle.loads(pickle.dumps(again))) == pickle.dumps(pickle.loads(pickle.dumps(live)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 20), st.randoms(use_true_random=False), st.integers(0, 99))
def test_fifo_ends_whatever_the_order(workers: int, trials: int, random: Any, seed: int) -> None:
    trace = drive(FIFO(Numbers(), 3, trials), table(seed), workers, random.randrange, failures(seed, 0.3))
    assert sorted(trace.states) == list(range(trials))
    fails = failures(seed, 0.3)
    assert trace.states == {trial: "failed" if fails(trial, 3) else "completed" for trial in range(trials)}


def _write(decisions: Sequence[dict[str, Any]]) -> None:
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("[\n" + ",\n".join(json.dumps(decision) for decision in decisions) + "\n]\n")


if __name__ == "__main__":
    _write(golden_trace())
