"""The loop: budgets, the order of writing and acting, checkpoints, failures."""

import math
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import uniform

from halving.checkpoints import discard
from halving.errors import UserError
from halving.executors import Serial
from halving.history import Event, Header, History
from halving.journal import Journal, read, replay
from halving.schedulers import ASHA, FIFO, Scheduler, SuccessiveHalving
from halving.searchers import RandomSearcher
from halving.space import Space
from halving.trial import Configuration, Done, Epoch, Finished, Job, Outcome, Resume, Start, Step, Verdict, Wait
from halving.tuner import Budget, Tuner

Error = Callable[[int, int], float]


class Numbers:
    def propose(self, trial: int) -> Configuration | None:
        return {"x": trial}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None: ...


class Virtual:
    """`workers` jobs at a time, each a minute of virtual time a unit of resource.

    `pick` says which of so many ends next: by default the oldest.
    """

    def __init__(
        self,
        error: Error,
        workers: int = 1,
        checkpoints: Path | None = None,
        pick: Callable[[int], int] = lambda running: 0,
    ) -> None:
        self.error = error
        self.workers = workers
        self.checkpoints = checkpoints
        self.pick = pick
        self.clock = 0.0
        self.running: list[Job] = []
        self.submitted: list[Job] = []

    def submit(self, job: Job) -> None:
        assert self.has_room()
        self.running.append(job)
        self.submitted.append(job)

    def wait(self) -> Iterator[Epoch | Finished]:
        job = self.running.pop(self.pick(len(self.running)))
        self.clock += 60.0 * (job.until - job.since)
        error = self.error(job.trial, job.until)
        yield Epoch(job.trial, job.until, {"val_error": error})
        checkpoint = None
        if self.checkpoints is not None and math.isfinite(error):
            checkpoint = f"checkpoints/{job.trial}/{job.until}.pt"
            (self.checkpoints / checkpoint).parent.mkdir(parents=True, exist_ok=True)
            (self.checkpoints / checkpoint).touch()
        yield Finished(Outcome(job.trial, job.until, error, math.isnan(error), (error,)), 60.0, checkpoint)

    def has_room(self) -> bool:
        return len(self.running) < self.workers

    def idle(self) -> bool:
        return not self.running

    def now(self) -> float:
        return self.clock

    def shutdown(self, graceful: bool = True) -> None: ...


def resuming(since: int, until: int) -> float:
    return until - since


def tuned(
    scheduler: Scheduler,
    executor: Virtual | Serial,
    budget: Budget | None = None,
    maximize: bool = False,
    run_dir: Path | None = None,
) -> History:
    journal = Journal(run_dir) if run_dir else None
    tuner = Tuner(
        scheduler,
        executor,
        cost=resuming,
        journal=journal,
        budget=budget,
        maximize=maximize,
        root=run_dir,
    )
    tuner.record(Header("s", "x", "numbers", 0, 9, maximize=maximize))
    tuner.run()
    if journal is not None:
        journal.close()
    return tuner.history


def falling(trial: int, resource: int) -> float:
    return 1 / (1 + trial)


class Told(ASHA):
    """Notes in which order it hears of outcomes."""

    def __init__(self) -> None:
        super().__init__(Numbers(), eta=2, r_max=8, max_trials=20)
        self.told: list[tuple[int, int]] = []

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        self.told.append((outcome.trial, outcome.resource))
        return super().update(outcome)


def test_replay_takes_the_decisions_that_the_order_of_arrival_led_to(tmp_path: Path) -> None:
    """Of four jobs the oldest, the newest or any ends first, which ASHA answers otherwise, live as in a replay."""
    picks: dict[str, Callable[[int], int]] = {
        "oldest": lambda running: 0, "newest": lambda running: running - 1, "any": random.Random(0).randrange,
    }  # fmt: skip
    decided: list[list[tuple[int, int]]] = []
    for name, pick in picks.items():
        live, again = Told(), Told()
        (tmp_path / name).mkdir()
        history = tuned(live, Virtual(falling, 4, pick=pick), run_dir=tmp_path / name)
        events = read(tmp_path / name)
        tuner = Tuner(again, Virtual(falling), cost=resuming)
        tuner.rederive(events)
        assert again.told == live.told and repr(tuner.history) == repr(history)
        assert [(trial.trial, each.resource) for trial, each in replay(events).finished] == live.told
        decided.append([(event.trial, event.until) for event, _ in events if isinstance(event, Start | Resume)])
    assert not any(first == second for first, second in combinations(decided, 2))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("budget", "evaluations", "reason"),
    [
        (Budget(evaluations=7), 7, "budget.evaluations=7 reached"),
        (Budget(evaluations=1), 1, "budget.evaluations=1 reached"),
        (Budget(resource=20.0), 7, "budget.resource=20 reached"),
        (Budget(resource=21.0), 7, "budget.resource=21 reached"),
        (Budget(resource=22.0), 8, "budget.resource=22 reached"),
        (Budget(evaluations=9, resource=3.0), 1, "budget.resource=3 reached"),
    ],
)
def test_counts_are_kept_exactly_whoever_still_runs(
    budget: Budget, evaluations: int, reason: str, workers: int
) -> None:
    """What runs counts as begun: three units a trial, so that 20 and 21 units hold seven trials."""
    history = tuned(FIFO(Numbers(), 3), Virtual(falling, workers), budget)
    assert len(history.finished) == evaluations and history.running == 0
    assert history.spent == 3 * evaluations
    assert history.halted == reason


@pytest.mark.parametrize(("workers", "evaluations"), [(1, 4), (3, 6)])
def test_seconds_stop_new_assignments_and_running_ones_finish(workers: int, evaluations: int) -> None:
    """A trial takes 60 s and the budget is 200 s; with three workers, those begun before it end after it."""
    history = tuned(FIFO(Numbers(), 1), Virtual(falling, workers), Budget(seconds=200.0))
    assert len(history.finished) == evaluations and history.running == 0
    assert history.halted == "budget.seconds=200 reached"
    assert history.seconds == 60 * evaluations


@pytest.mark.parametrize(("workers", "evaluations"), [(1, 4), (3, 6)])
def test_target_stops_at_an_error_as_good(workers: int, evaluations: int) -> None:
    history = tuned(FIFO(Numbers(), 1), Virtual(falling, workers), Budget(target=0.25))
    assert len(history.finished) == evaluations
    assert history.halted == "budget.target=0.25 reached"


def test_patience_counts_evaluations_since_the_incumbent_changed() -> None:
    errors = [0.9, 0.5, 0.6, math.nan, 0.4, 0.4, 0.7, 0.5, 0.1]
    history = tuned(FIFO(Numbers(), 1), Virtual(lambda trial, _: errors[trial]), Budget(patience=3))
    assert len(history.finished) == 8 and history.incumbent is not None
    assert history.incumbent[0].trial == 4, "an equal error is no better one"
    assert history.halted.startswith("budget.patience=3 reached")


def test_a_default_end_waits_for_a_trial_on_its_way_to_r_max() -> None:
    """Of one resource: explicit, it ends nine trials at the first rung; as the default, it waits for a promotion."""

    def ended(budget: Budget, error: Error = falling, scheduler: Scheduler | None = None) -> History:
        return tuned(scheduler or ASHA(Numbers(), 3, 1, 9), Virtual(error, 9), budget)

    history = ended(Budget(resource=9.0))
    assert history.spent == 9 and history.halted == "budget.resource=9 reached"
    history = ended(Budget(resource=9.0, reach=9, most=100.0))
    assert history.incumbent is not None and history.incumbent[1].resource == 9
    assert 9 < history.spent < 100 and history.halted == "the default budget.resource=9 reached"
    assert sum(e.until == 9 for _, e in history.finished) == 1, "who is on the way is enough"
    history = ended(Budget(resource=9.0, reach=9, most=100.0), scheduler=FIFO(Numbers(), 9))
    assert len(history.finished) == 1


def test_a_default_end_comes_where_nobody_can_reach_r_max() -> None:
    def ended(error: Error, workers: int = 1) -> History:
        return tuned(ASHA(Numbers(), 3, 1, 9), Virtual(error, workers), Budget(resource=9.0, reach=9, most=40.0))

    def never_whole(trial: int, resource: int) -> float:
        return math.nan if resource == 9 else 1 / (1 + trial)

    assert 40 <= ended(never_whole, 3).spent < 60
    history = ended(never_whole)
    assert 40 <= history.spent < 50
    assert history.halted == "the default budget.resource=40 reached, and no trial has reached 9"
    assert ended(lambda trial, resource: math.nan).spent <= 10, "failures alone get no more than the default"


def test_a_study_that_reaches_its_end_was_not_halted() -> None:
    history = tuned(SuccessiveHalving(Numbers(), 3, 1, 9), Virtual(falling), Budget(evaluations=14, seconds=1e6))
    assert len(history.finished) == 13 and history.spent == 21 and history.halted == ""


@pytest.mark.parametrize("limit", ["evaluations", "resource", "seconds", "patience"])
def test_a_budget_of_nothing_is_refused(limit: str) -> None:
    for nothing in (0, -1, True, "3", math.inf):
        with pytest.raises(UserError, match=f"budget.{limit}={nothing}: must be"):
            Budget(**{limit: nothing})
    with pytest.raises(UserError, match=r"budget\.target=low: is no number"):
        Budget(target="low")  # type: ignore


def test_maximize_flips_once_and_the_best_is_the_greatest(tmp_path: Path) -> None:
    accuracy: Error = lambda trial, resource: (trial + resource) / 100  # noqa: E731
    history = tuned(SuccessiveHalving(Numbers(), 3, 1, 9), Virtual(accuracy), maximize=True, run_dir=tmp_path)
    assert history.incumbent is not None
    best, evaluation = history.incumbent
    assert (best.trial, evaluation.error) == (8, -0.17)
    assert evaluation.finished is not None and evaluation.finished.outcome.curve == (-0.17,)
    assert evaluation.epochs[-1].metrics == {"val_error": 0.17}, "what was measured stays as measured"
    assert repr(replay(read(tmp_path))) == repr(history), "and replay does not flip it again"


def test_target_of_a_maximised_metric_is_a_value_to_exceed() -> None:
    accuracy: Error = lambda trial, _: trial / 10  # noqa: E731
    history = tuned(FIFO(Numbers(), 1), Virtual(accuracy), Budget(target=0.5), maximize=True)
    assert len(history.finished) == 6 and history.halted == "budget.target=0.5 reached"


class Spy(Virtual):
    """Reads the journal from the disk whenever it is handed a job."""

    def __init__(self, run_dir: Path, synced: list[int]) -> None:
        super().__init__(falling, workers=3)
        self.run_dir = run_dir
        self.synced = synced

    def submit(self, job: Job) -> None:
        history = replay(read(self.run_dir))
        trial = history.trials[job.trial]
        assert (trial.state, trial.last.since, trial.last.until) == ("running", job.since, job.until)
        assert self.synced[-1] == (self.run_dir / "journal.jsonl").stat().st_size, "written, but not durable"
        super().submit(job)


def test_an_assignment_is_durable_before_it_is_acted_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = Journal.sync

    def sync(journal: Journal) -> None:
        real(journal)
        synced.append(journal.path.stat().st_size)

    monkeypatch.setattr(Journal, "sync", sync)
    executor = Spy(tmp_path, synced)
    tuned(SuccessiveHalving(Numbers(), 3, 1, 9), executor, run_dir=tmp_path)
    assert len(executor.submitted) == 13


def test_checkpoints_go_once_the_journal_is_durable_and_the_incumbents_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every deletion the journal on disk already says why; in the end only the winner's is left."""
    deleted: list[Path] = []

    def spy(run_dir: Path, trial: int, but: Iterable[int] = ()) -> None:
        before = set(run_dir.rglob("*.pt"))
        discard(run_dir, trial, but)
        for path in before - set(run_dir.rglob("*.pt")):
            history = replay(read(run_dir))
            owner = history.trials[int(path.parent.name)]
            named = str(path.relative_to(run_dir))
            assert owner.state not in ("running", "paused") or owner.checkpoint != named
            assert history.incumbent is not None and history.incumbent[0].checkpoint != named
            deleted.append(path)

    monkeypatch.setattr("halving.tuner.discard", spy)
    errors: Error = lambda trial, until: math.nan if (trial, until) == (8, 3) else falling(trial, until)  # noqa: E731
    history = tuned(SuccessiveHalving(Numbers(), 3, 1, 9), Virtual(errors, 2, checkpoints=tmp_path), run_dir=tmp_path)
    assert history.incumbent is not None and history.incumbent[0].trial == 7
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.pt")] == ["checkpoints/7/9.pt"]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["7"], "no empty directories stay"
    assert len(deleted) == 11


def test_an_incumbent_that_ended_loses_its_checkpoint_when_a_better_one_comes(tmp_path: Path) -> None:
    errors = [0.5, 0.6, 0.3, 0.4]
    tuned(FIFO(Numbers(), 1, 4), Virtual(lambda t, _: errors[t], checkpoints=tmp_path), run_dir=tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.pt")] == ["checkpoints/2/1.pt"]


def test_an_incumbent_that_fails_when_it_goes_on_keeps_the_checkpoint_that_made_it_so(tmp_path: Path) -> None:
    errors: Error = lambda trial, until: math.nan if until > 1 else falling(trial, until)  # noqa: E731
    history = tuned(SuccessiveHalving(Numbers(), 3, 1, 3), Virtual(errors, checkpoints=tmp_path), run_dir=tmp_path)
    assert history.incumbent is not None
    assert (history.incumbent[0].trial, history.incumbent[1].resource) == (2, 1)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.pt")] == ["checkpoints/2/1.pt"]


class Stuck:
    def suggest(self) -> Start | Wait | Done:
        return Wait()

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        return ()


def test_a_scheduler_that_waits_for_nothing_is_a_bug_of_ours() -> None:
    with pytest.raises(RuntimeError, match="waits"):
        tuned(Stuck(), Virtual(falling))


def test_an_exception_in_the_objective_fails_that_trial_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    def objective(jobs: Sequence[Job]) -> Iterator[Epoch | Finished]:
        (job,) = jobs
        yield Epoch(job.trial, 1, {"val_error": 0.5})
        if job.trial == 1:
            raise ArithmeticError("no convergence")
        yield Finished(Outcome(job.trial, job.until, float(job.trial)))

    history = tuned(FIFO(Numbers(), 3, 3), Serial(objective))
    assert [history.trials[t].state for t in range(3)] == ["completed", "failed", "completed"]
    finished = history.trials[1].last.finished
    assert finished is not None and finished.cause == "ArithmeticError: no convergence"
    assert finished.outcome.failed and math.isinf(history.trials[1].last.error)
    assert "trial 1 failed" in caplog.text


def test_a_broken_tracker_does_not_stop_the_study(caplog: pytest.LogCaptureFixture) -> None:
    from halving.tracking.base import Trackers

    class Broken:
        def resume(self, history: History) -> None: ...

        def record(self, event: Event, history: History) -> None:
            raise OSError("no network")

        def close(self, history: History) -> None: ...

    trackers = Trackers([Broken()])
    tuner = Tuner(FIFO(Numbers(), 1, 5), Virtual(falling), cost=resuming, trackers=trackers)
    tuner.run()
    trackers.close()
    assert len(tuner.history.finished) == 5
    assert caplog.text.count("Broken failed") == 1


def test_a_study_in_which_everything_fails_at_once_still_reaches_its_budget() -> None:
    def raises(jobs: Sequence[Job]) -> Iterator[Epoch | Finished]:
        raise OSError("no")
        yield

    scheduler = FIFO(RandomSearcher(Space.from_config({"x": uniform(0, 1)}), 0), 9)
    tuner = Tuner(scheduler, Serial(raises), cost=lambda a, b: b - a, budget=Budget(resource=5))
    tuner.run()
    assert (len(tuner.history.finished), tuner.history.spent) == (5, 5)


def test_a_wall_clock_that_jumps_changes_no_duration_and_no_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr(time, "time", lambda: float(next(jumps)))
    monkeypatch.setattr(time, "time_ns", lambda: next(jumps) * 10**9)

    def slow(jobs: Sequence[Job]) -> Generator[Step]:
        (job,) = jobs
        time.sleep(0.02)
        yield Finished(Outcome(job.trial, job.until, 0.5), seconds=0.02)

    journal = Journal(tmp_path)
    budget = Budget(seconds=0.2)
    tuner = Tuner(FIFO(Numbers(), 1), Serial(slow), cost=lambda a, b: b - a, journal=journal, budget=budget)
    tuner.run()
    journal.close()
    assert 1 <= len(tuner.history.finished) <= 10
    times = [at for _, at in read(tmp_path)]
    assert times == sorted(times) and times[0] >= 0 and 0.2 <= times[-1] < 2
    assert tuner.history.halted == "budget.seconds=0.2 reached"


class Killed(Virtual):
    """Dies with the jobs that run when it waits for the n-th time; its clock has gone on before the study began."""

    def __init__(self, waits: int, workers: int) -> None:
        super().__init__(falling, workers)
        self.waits, self.clock = waits, 1000.0

    def wait(self) -> Iterator[Epoch | Finished]:
        if not self.waits:
            raise ConnectionResetError
        self.waits -= 1
        return super().wait()


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("budget", [Budget(evaluations=8), Budget(resource=14.0), Budget(seconds=540.0)])
def test_killed_at_any_time_a_study_spends_what_its_budget_says(budget: Budget, workers: int, tmp_path: Path) -> None:
    """What ran then counts, and the time before."""

    def study(run_dir: Path, waits: int = -1) -> History:
        journal = Journal(run_dir)
        events = tuple(journal.events)
        executor, scheduler = Killed(waits, workers), SuccessiveHalving(Numbers(), 3, 1, 9, rounds=3)
        tuner = Tuner(scheduler, executor, cost=resuming, journal=journal, budget=budget)
        tuner.rederive(events)
        if not events:
            tuner.record(Header("s", "x", "numbers", 0, 9))
        with suppress(ConnectionResetError):
            tuner.run()
        journal.close()
        return tuner.history

    def came_to(history: History) -> Any:
        ended = [(trial.trial, evaluation.until, evaluation.ended) for trial, evaluation in history.finished]
        return ended, history.spent, history.halted, history.seconds

    (tmp_path / "undisturbed").mkdir()
    expected = study(tmp_path / "undisturbed")
    assert expected.halted and expected.finished
    for waits in range(len(expected.finished)):
        run_dir = tmp_path / str(waits)
        run_dir.mkdir()
        study(run_dir, waits)
        assert came_to(study(run_dir)) == came_to(expected), waits


@pytest.mark.parametrize(
    ("build", "budget", "maximize"),
    [
        (lambda: SuccessiveHalving(Numbers(), 3, 1, 9), None, False),
        (lambda: SuccessiveHalving(Numbers(), 2, 1, 4, rounds=2), Budget(evaluations=11), True),
        (lambda: ASHA(Numbers(), 2, 1, 8, max_trials=12), Budget(resource=30.0), False),
        (lambda: ASHA(Numbers(), 2, 1, 8), Budget(resource=12.0, reach=8, most=40.0), False),
        (lambda: ASHA(Numbers(), 3, 1, 9, "stopping", 10), Budget(seconds=900.0), True),
        (lambda: FIFO(Numbers(), 2), Budget(patience=4), False),
        (lambda: FIFO(Numbers(), 2), Budget(target=0.3), False),
    ],
)
def test_a_study_cut_off_anywhere_goes_on_as_if_nothing_had_been(
    build: Callable[[], Scheduler], budget: Budget | None, maximize: bool, tmp_path: Path
) -> None:
    """After any record: the same decisions at the same times, each job that had not ended once more, none that had."""

    def decided(history: History) -> list[object]:
        ran = ((trial.trial, each.rung, each.finished, each.verdict, each.epochs) for trial, each in history.finished)
        return [*ran, history.spent, history.halted, history.improved_at, history.train_seconds]

    def error(trial: int, resource: int) -> float:
        return math.inf if trial % 5 == 3 else ((trial * 7 + resource) % 11 + 1) / 10

    whole = Virtual(error)
    history = tuned(build(), whole, budget, maximize, tmp_path)
    assert history.finished and history.ended is None
    told = read(tmp_path)
    for cut in range(1, len(told) + 1):
        rest = Virtual(error)
        tuner = Tuner(build(), rest, cost=resuming, budget=budget, maximize=maximize)
        tuner.rederive(told[:cut])
        tuner.run()
        if not isinstance(told[cut - 1][0], Epoch):
            assert tuner.history == history, f"after {told[cut - 1]}"
        elif budget is not None and budget.seconds is not None:
            continue  # what the job had taken until then is lost
        assert decided(tuner.history) == decided(history), f"after {told[cut - 1]}"
        assert whole.submitted[len(whole.submitted) - len(rest.submitted) :] == rest.submitted
        ended = sum(isinstance(event, Finished) for event, _ in told[:cut])
        assert len(rest.submitted) == len(whole.submitted) - ended
