"""ConcordantASHA, worked by hand: eta 2, the levels 1, 2 and 4."""

import math

import pytest

from halving.schedulers import ConcordantASHA
from halving.schedulers.concordant_asha import concordance
from halving.trial import Configuration, Done, Outcome, Resume, Start


class Numbers:
    """Proposes {"x": t} for trial t."""

    def propose(self, trial: int) -> Configuration | None:
        return {"x": trial}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        """Learn nothing."""


def run(scheduler: ConcordantASHA, errors: dict[tuple[int, int], float]) -> list[Start | Resume]:
    """Run one assignment after another until `errors`, by (trial, resource), does not know one; return all."""
    done: list[Start | Resume] = []
    while True:
        assignment = scheduler.suggest()
        assert isinstance(assignment, Start | Resume)
        done.append(assignment)
        key = (assignment.trial, assignment.until)
        if key not in errors:
            return done
        scheduler.update(Outcome(*key, errors[key], failed=math.isnan(errors[key])))


def test_concordance_counts_pairs_and_halves_ties() -> None:
    assert concordance([1, 4], [2, 3, 5]) == pytest.approx(4 / 6)  # 1 leads thrice, 4 once
    assert concordance([2], [2, 3]) == pytest.approx(3 / 4)
    assert concordance([9], [1, 2]) == 0
    assert concordance([1], [1]) == 0.5


FIRST = {(trial, 1): float(trial) for trial in range(8)}


def test_a_rung_that_agrees_keeps_the_best_one_in_eta() -> None:
    done = run(ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4), FIRST | {(t, 2): float(t) for t in range(4)})
    # 0 leads from 2 trials on, 1 from 4 on, 2 from 6 on, 3 from 8 on; at rung 1, 0 goes on once 2 are there.
    went_on = [(a.trial, a.until) for a in done if isinstance(a, Resume)]
    assert went_on == [(0, 2), (1, 2), (0, 4)]


def test_a_rung_that_misleads_lets_everybody_go_on() -> None:
    errors = FIRST | {(t, 2): 10.0 - t for t in range(8)} | {(t, 4): 10.0 - t for t in range(8)}
    done = run(ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4), errors)
    # Trials 0 to 3 are at rung 1 after the eighth start; its leaders 3 and 2 were behind 0 and 1 at rung 0.
    released = [a for a in done if isinstance(a, Resume) and "misleads" in a.reason]
    assert [a.trial for a in released][:2] == [4, 5]
    assert released[0].reason == "rung 0 misleads: the leaders of rung 1 were ahead here in only 0% of pairs"


def test_failed_trials_do_not_count_at_a_rung() -> None:
    errors = {(0, 1): 5.0, (1, 1): math.nan, (2, 1): math.nan, (3, 1): 4.0}
    done = run(ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4), errors)
    assert [a.trial for a in done] == [0, 1, 2, 3, 3]


def test_everybody_has_a_last_verdict() -> None:
    scheduler = ConcordantASHA(Numbers(), eta=2, r_min=1, r_max=4, max_trials=9)
    states: dict[int, str] = {}
    while not isinstance(assignment := scheduler.suggest(), Done):
        assert isinstance(assignment, Start | Resume)
        error = -float(assignment.trial) if assignment.until > 1 else float(assignment.trial)
        outcome = Outcome(assignment.trial, assignment.until, error, failed=assignment.trial == 2)
        states |= {verdict.trial: verdict.state for verdict in scheduler.update(outcome)}
    assert set(states) == set(range(9))
    assert states[2] == "failed"
    assert set(states.values()) == {"failed", "stopped", "completed"}
