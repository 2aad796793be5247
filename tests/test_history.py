"""What a study is after its events: a hand-worked study, step by step."""

import math
from dataclasses import replace

import pytest

from halving.history import (
    Chosen,
    Confirm,
    Confirmed,
    Ended,
    Event,
    Halted,
    Header,
    History,
    Ladder,
    Resumed,
    count,
    order,
)
from halving.trial import Epoch, Finished, Outcome, Restarted, Resume, Start, Verdict

HEADER = Header("s", "sha", "random", 0, 3, settings={"notes": "first", "noted": "Monday", "kept": 1})


def finished(trial: int, resource: int, error: float, checkpoint: str | None = None, cost: float = 1.0) -> Finished:
    return Finished(Outcome(trial, resource, error, math.isnan(error)), 10.0, checkpoint, cost=cost)


def after(*events: Event, every: float = 1.0) -> History:
    history = History()
    for number, event in enumerate(events):
        history.apply(event, every * number)
    return history


def best(history: History) -> tuple[int, int] | None:
    return None if history.incumbent is None else (history.incumbent[0].trial, history.incumbent[1].resource)


def test_a_study_step_by_step() -> None:
    """Each event with what it changes: running, spent, evaluations, incumbent, and where it last changed."""
    history = History()
    steps: list[tuple[Event, int, float, int, tuple[int, int] | None, int]] = [
        (HEADER, 0, 0.0, 0, None, 0),
        (Start(0, {"x": 1}, 1), 1, 0.0, 0, None, 0),
        (Start(1, {"x": 2}, 1, bracket=2), 2, 0.0, 0, None, 0),
        (Epoch(0, 1, {"val_error": 0.5}), 2, 0.0, 0, None, 0),
        (finished(0, 1, math.nan, cost=0.5), 1, 0.5, 1, None, 0),
        (Verdict(0, "failed", "nan"), 1, 0.5, 1, None, 0),
        (Restarted(1, 0, "died"), 1, 0.5, 1, None, 0),
        (finished(1, 1, 0.5, "one"), 0, 1.5, 2, (1, 1), 2),
        (Verdict(1, "paused", "waits"), 0, 1.5, 2, (1, 1), 2),
        (Start(2, {"x": 3}, 1), 1, 1.5, 2, (1, 1), 2),
        (finished(2, 1, 0.5, "two"), 0, 2.5, 3, (1, 1), 2),  # the lower id wins a tie
        (Start(3, {"x": 4}, 1), 1, 2.5, 3, (1, 1), 2),
        (finished(3, 1, 0.4), 0, 3.5, 4, (3, 1), 4),
        (Resume(1, 1, 3, 1, "best"), 1, 3.5, 4, (3, 1), 4),
        (finished(1, 3, 0.9, cost=2.0), 0, 5.5, 5, (1, 3), 5),  # the highest resource goes before the least error
        (Resume(2, 1, 3, 1, "next"), 1, 5.5, 5, (1, 3), 5),
        (finished(2, 3, math.inf), 0, 6.5, 6, (1, 3), 5),
    ]
    for at, (event, *expected) in enumerate(steps):
        history.apply(event, float(at))
        told = [history.running, history.spent, len(history.finished), best(history), history.improved_at]
        assert told == expected, event
    assert history.seconds == 16.0 and history.train_seconds == 60.0
    assert [trial.trial for trial, _ in history.incumbents] == [1, 3, 1]
    failed, won, lost, waits = history.trials.values()
    assert (won.bracket, won.configuration, won.checkpoint, won.sign) == (2, {"x": 2}, "one", 1)
    assert [(each.rung, each.since, each.until) for each in won.evaluations] == [(0, 0, 1), (1, 1, 3)]
    assert [(each.started, each.ended) for each in won.evaluations] == [(2.0, 7.0), (13.0, 14.0)]
    assert [(each.verdict, each.verdict_reason) for each in won.evaluations] == [("promoted", "best"), ("", "")]
    assert (won.evaluations[0].restarts, won.evaluations[0].restarted) == (["died"], [6.0])
    assert [(each.since, epoch.epoch) for each, epoch in failed.epochs] == [(0, 1)]
    assert failed.last.heard == [3.0] and failed.last.error == math.inf
    assert (failed.state, failed.last.verdict, failed.last.verdict_reason) == ("failed", "failed", "nan")
    assert failed.checkpoint is None and lost.checkpoint == "two" and waits.checkpoint is None


def test_what_a_trial_is_doing_follows_from_all_that_is_known() -> None:
    history = after(HEADER, Start(0, {}, 1), Start(1, {}, 1), finished(0, 1, 0.5), Start(2, {}, 3))
    running = history.trials[1]
    assert [history.state(trial) for trial in history.trials.values()] == ["paused", "running", "running"]
    assert (running.last.resource, running.last.error) == (1, math.inf)
    assert history.state(running) == "running" and history.closed().state(running) == "interrupted"
    for end, state in (
        (Halted("a budget"), "running"),
        (Halted("interrupted"), "interrupted"),
        (Ended(0), "interrupted"),
    ):
        over = replace(history)
        over.apply(end, 9.0)
        assert over.state(running) == state
        over.apply(Resumed((Ladder((1, 3), (3, 1)),), 5.0, {"kept": 2}), 10.0)
        assert (over.halted, over.ended, over.state(running)) == ("", None, "running")
        assert over.header == replace(
            HEADER, plan=(Ladder((1, 3), (3, 1)),), planned_cost=5.0, settings={**HEADER.settings, "kept": 2}
        )
    history.apply(Verdict(0, "stopped"), 11.0)
    assert history.state(history.trials[0]) == "stopped"
    history.apply(Ended(0), 12.0)
    assert history.closed() is history


def test_confirmations_take_their_own_seconds_and_end_what_was_chosen() -> None:
    done = (HEADER, Start(0, {}, 1), finished(0, 1, 0.5), Ended(0))
    asked = (Confirm(1, 0, 1, 1, "init"), Confirmed(1, 0.4, 3.0, 1.0, "c"), Chosen(0, vary="init", until=1))
    history = after(*done, *asked, every=2.0)
    assert (history.confirming, history.seconds, history.spent) == (6.0, 12.0, 1.0)
    confirmation = history.confirmations[1]
    assert (confirmation.asked, confirmation.confirmed) == asked[:2]
    assert (confirmation.started, confirmation.ended) == (8.0, 10.0)
    assert history.chosen == asked[2] and history.ended == Ended(0)
    assert history.beyond(after(*done)) and not history.beyond(history)
    assert history.beyond(after(*done[:2], *asked)) and not after(*done).beyond(after(*done))
    history.apply(Confirm(2, 0, 2, 1, "init"), 14.0)
    assert history.chosen is None
    history.apply(asked[2], 15.0)
    history.apply(Start(1, {}, 1), 15.0)
    assert history.chosen is None and history.ended is None


def test_time_never_goes_back_and_notes_keep_their_first_moment() -> None:
    history = after(HEADER, Halted("late"), every=5.0)
    history.apply(Resumed(settings={"notes": "second", "noted": "Tuesday"}), 3.0)
    history.apply(Resumed(settings={"notes": "first", "noted": "Wednesday"}), 4.0)
    history.apply(Resumed(), 4.0)
    assert history.seconds == 5.0
    assert history.notes == {"first": "Monday", "second": "Tuesday"}


def test_a_maximised_metric_is_shown_as_it_was_measured() -> None:
    maximised = after(replace(HEADER, maximize=True), Start(0, {}, 1), finished(0, 1, -0.75))
    assert maximised.trials[0].sign == -1
    assert "error 0.75" in repr(maximised) and "0.75 at 1" in repr(maximised.trials[0])
    assert "error 0.5 after 1 epoch" in repr(after(HEADER, Start(0, {}, 1), finished(0, 1, 0.5)))


@pytest.mark.parametrize(("n", "said"), [(0, "0 epochs"), (1, "1 epoch"), (1.0, "1 epoch"), (2, "2 epochs")])
def test_one_is_singular(n: float, said: str) -> None:
    assert count(n, "epochs") == said
    assert count(1.5, "epochs") == "1.5 epochs"


def test_evaluations_rank_by_resource_then_error_then_id() -> None:
    history = after(
        HEADER, *(Start(trial, {}, 1) for trial in range(3)), *(finished(trial, 1, 0.5) for trial in (2, 0, 1))
    )
    assert [trial.trial for trial, _ in sorted(history.finished, key=lambda each: order(*each))] == [0, 1, 2]
    assert [trial.trial for trial, _ in history.incumbents] == [2, 0]
