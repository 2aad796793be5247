"""The pool's policy, on a backend that says what no real one can be made to say."""

import random
from collections import Counter, deque
from collections.abc import Iterator

import pytest

from halving.errors import StorageError, UserError
from halving.executors import Serial
from halving.executors import pool as pools
from halving.executors.pool import Pool, Slot
from halving.executors.work import Began, Lost, Message, Raised, Ready, Stopped, Unstarted
from halving.trial import Epoch, Finished, Job, Outcome, Restarted, Step


class Scripted:
    """Says what it was told to say, and notes what it was asked for."""

    def __init__(self, *said: tuple[Slot, Message]) -> None:
        self.said = deque(said)
        self.sent: list[tuple[Slot, Job]] = []
        self.asked: list[Slot] = []
        self.killed: list[Slot] = []
        self.timeouts: list[float | None] = []

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Message]]:
        self.timeouts.append(timeout)
        while self.said:
            yield self.said.popleft()

    def send(self, slot: Slot, job: Job) -> None:
        self.sent.append((slot, job))

    def ask_to_stop(self, slot: Slot) -> None:
        self.asked.append(slot)

    def kill(self, slot: Slot) -> None:
        self.killed.append(slot)

    def close(self) -> None: ...


class Clock:
    """The time as a test has it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(pools.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def job(trial: int, until: int = 3, since: int = 0) -> Job:
    return Job(trial, {}, since, until)


def end(trial: int, until: int = 3) -> Finished:
    return Finished(Outcome(trial, until, 0.5))


def heard(pool: Pool, backend: Scripted, *said: tuple[Slot, Message]) -> list[Step]:
    backend.said.extend(said)
    return list(pool.wait())


def test_what_comes_late_or_twice_is_told_once() -> None:
    backend = Scripted((0, Ready()), (0, Ready()), (1, Ready()))
    pool = Pool(backend, retries=1)
    pool.submit(job(0))
    pool.submit(job(1))
    assert backend.sent == [(0, job(0)), (1, job(1))] and not pool.has_room()
    assert (
        heard(pool, backend, (0, Epoch(0, 1, {})), (0, Raised(0, 3, "late", "")), (0, end(9))) == []
    )  # before its Began
    told = heard(pool, backend, (0, Began(0, 3)), (0, Began(0, 3)), (0, Epoch(0, 1, {})), (0, end(0)), (0, end(0)))
    assert told == [Epoch(0, 1, {}), end(0)]
    pool.submit(job(0, 9, 3))
    late: list[tuple[Slot, Message]] = [(0, end(0)), (0, Began(0, 3)), (0, Raised(0, 3, "late", ""))]
    assert heard(pool, backend, *late) == [] and not pool.has_room()
    assert heard(pool, backend, (0, Began(0, 9)), (0, end(0, 9)), (0, Raised(0, 3, "late", ""))) == [end(0, 9)]
    told = heard(pool, backend, (1, Began(1, 3)), (1, Lost("its node died")), (1, Lost("its node died")), (1, end(1)))
    assert [type(step) for step in told] == [Restarted] and backend.sent[-1] == (0, job(1))
    assert heard(pool, backend, (1, Ready()), (1, Began(1, 3)), (1, end(1))) == [] and not pool.has_room()
    assert heard(pool, backend, (0, Began(1, 3)), (0, end(1))) == [end(1)] and pool.idle()


def test_slots_come_and_go_and_time_without_any_is_not_the_studys(clock: Clock) -> None:
    backend = Scripted()
    pool = Pool(backend)
    assert pool.has_room() and pool.idle()
    clock.now += 50  # in a queue
    pool.submit(job(0))
    assert not pool.has_room() and not pool.idle() and pool.now() == 0 and not backend.sent
    heard(pool, backend, (7, Ready()), (8, Ready()))
    assert backend.sent == [(7, job(0))] and pool.has_room()
    clock.now += 3
    assert pool.now() == 3
    told = heard(pool, backend, (7, Began(0, 3)), (7, Lost("its node died", blame=False)))
    assert told == [Restarted(0, 0, "its node died")] and backend.sent[-1] == (8, job(0))
    assert heard(pool, backend, (8, Began(0, 3)), (8, Stopped())) == [Restarted(0, 0, "its worker had to stop")]
    clock.now += 1000
    assert pool.now() == 3 and not pool.idle() and not pool.has_room()
    heard(pool, backend, (9, Ready()))
    clock.now += 1
    assert pool.now() == 4 and backend.sent[-1] == (9, job(0))
    assert heard(pool, backend, (9, Began(0, 3)), (9, end(0))) == [end(0)]
    heard(pool, backend, (9, Lost("its time is over", blame=False)))
    assert pool.idle() and pool.has_room(), "a study that has ended does not wait for a slot to say so"


def test_only_what_may_be_its_fault_costs_a_trial_a_retry() -> None:
    backend = Scripted(*((slot, Ready()) for slot in range(9)))
    pool = Pool(backend, retries=1)
    pool.submit(job(0))
    told: list[Step] = []
    for blame in (False, True, False, False, True):
        (slot, _) = backend.sent[-1]
        told += heard(pool, backend, (slot, Began(0, 3)), (slot, Lost("gone", blame)))
    assert [step.reason for step in told if isinstance(step, Restarted)] == [
        "gone",
        "gone; retry 1 of 1",
        *["gone"] * 2,
    ]
    assert isinstance(told[-1], Finished) and told[-1].cause == "gone, also after executor.retries=1"
    assert len({slot for slot, _ in backend.sent}) == 5 and pool.idle()


def test_a_trial_that_goes_on_gets_its_own_slot_and_a_retried_one_no_others_memory() -> None:
    backend = Scripted((0, Ready()), (1, Ready()))
    pool = Pool(backend, retries=1)
    for trial, slot in ((0, 0), (1, 1)):
        pool.submit(job(trial))
        heard(pool, backend, (slot, Began(trial, 3)), (slot, end(trial)))
    pool.submit(job(1, 9, 3))
    assert backend.sent[-1] == (1, job(1, 9, 3))
    heard(pool, backend, (1, Began(1, 9)), (2, Ready()), (1, Lost("killed")))
    assert backend.sent[-1] == (2, job(1, 9, 3)), "slot 0 has trial 0 in memory"


def test_a_jobs_time_counts_from_when_it_begins(clock: Clock) -> None:
    backend = Scripted((0, Ready()), (1, Ready()))
    pool = Pool(backend, retries=2, trial_timeout=10, start=60)
    pool.submit(job(0))
    pool.submit(job(1))
    clock.now += 40
    assert heard(pool, backend, (0, Began(0, 3))) == []
    clock.now += 9
    assert heard(pool, backend) == [] and backend.timeouts[-1] == pytest.approx(1)
    clock.now += 1
    (late,) = heard(pool, backend)
    assert isinstance(late, Finished) and late.outcome.failed and late.seconds == 10
    assert late.cause == "timeout: it took longer than executor.trial_timeout=10 s"
    clock.now += 20
    (never,) = heard(pool, backend, (0, end(0)))
    assert isinstance(never, Finished) and never.outcome.trial == 1 and backend.killed == [0, 1]
    assert pool.idle()


def test_a_worker_that_cannot_start_costs_a_slot_and_the_last_one_the_study(caplog: pytest.LogCaptureFixture) -> None:
    backend = Scripted((0, Ready()), (1, Ready()))
    pool = Pool(backend)
    pool.submit(job(0))
    assert heard(pool, backend, (0, Unstarted("no such module"))) == []
    assert backend.sent[-1] == (1, job(0)) and "no such module" in caplog.text
    with pytest.raises(UserError, match="no such module"):
        heard(pool, backend, (1, Unstarted("no such module")))


def test_what_was_not_taken_of_a_wait_is_told_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    backend = Scripted((0, Ready()), (1, Ready()))
    pool = Pool(backend)
    pool.submit(job(0))
    pool.submit(job(1))
    backend.said.extend([(0, Began(0, 3)), (0, Epoch(0, 1, {})), (1, Began(1, 3)), (1, Lost("killed")), (0, end(0))])
    for step in pool.wait():
        assert step == Epoch(0, 1, {})
        break
    lost, ended = pool.wait()
    assert isinstance(lost, Finished) and lost.outcome.failed and ended == end(0) and pool.idle()


def test_stopping_tells_what_came_to_an_end_and_leaves_the_rest_for_later() -> None:
    backend = Scripted(*((slot, Ready()) for slot in range(4)))
    pool = Pool(backend, retries=2)
    for trial in range(4):
        pool.submit(job(trial))
    heard(pool, backend, *((slot, Began(slot, 3)) for slot in range(4)))
    assert heard(pool, backend, (3, Lost("killed"))) == [
        Restarted(3, 0, "killed; retry 1 of 2")
    ]  # and waits for a slot
    backend.said.extend([(0, Epoch(0, 1, {})), (0, Stopped()), (1, end(1)), (2, Raised(2, 3, "of the signal", ""))])
    assert list(pool.stop()) == [Epoch(0, 1, {}), end(1)]
    assert backend.asked == [0, 1, 2] and pool.idle() and len(backend.sent) == 4


def test_no_trials_fault_is_raised_and_the_slot_is_free() -> None:
    backend = Scripted((0, Ready()))
    pool = Pool(backend)
    pool.submit(job(0))
    with pytest.raises(StorageError):
        heard(pool, backend, (0, Began(0, 3)), (0, StorageError("make room")))
    assert pool.idle() and pool.has_room()


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ([], "ValueError: the objective was given trial 7, and tells no end of it"),
        ([Epoch(7, 1, {})], "ValueError: the objective was given trial 7, and tells no end of it"),
        ([Epoch(7, 1, {}), end(3)], "ValueError: the objective was given trial 7, and tells of trial 3"),
    ],
)
def test_an_objective_that_tells_of_another_trial_or_of_no_end_is_not_waited_for(said: list[Step], cause: str) -> None:
    executor = Serial(lambda jobs: (step for step in said))
    executor.submit(job(7))
    *_, last = executor.wait()
    assert isinstance(last, Finished) and last.outcome.failed and last.cause == cause and executor.idle()


class Unruly(Scripted):
    """Slots that come, die, stop, hang and repeat themselves as chance has it; what each works on is at some epoch."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.chance = random.Random(seed)
        self.at: dict[Slot, list[Message]] = {}
        self.old: list[tuple[Slot, Message]] = []
        self.count = 0

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Message]]:
        chance = self.chance
        if len(self.at) < 4 and chance.random() < 0.5:
            self.at[self.count] = []
            self.said.append((self.count, Ready()))
            self.count += 1
        for slot, left in list(self.at.items()):
            if self.old and chance.random() < 0.3:
                self.said.append(chance.choice(self.old))
            if chance.random() < 0.1:
                del self.at[slot]
                self.said.append((slot, chance.choice([Lost("killed"), Lost("died", False), Stopped()])))
            elif left:
                self.said.append((slot, left.pop(0)))
        self.old += [each for each in self.said if not isinstance(each[1], Lost | Stopped) or each[0] not in self.at]
        return super().listen(timeout)

    def send(self, slot: Slot, job: Job) -> None:
        if slot in self.at:  # else it is dead, which was not heard yet
            epochs = [Epoch(job.trial, epoch, {}) for epoch in range(job.since + 1, job.until + 1)]
            last = Raised(job.trial, job.until, "raised", "") if job.trial % 5 == 4 else end(job.trial, job.until)
            self.at[slot] = [Began(job.trial, job.until), *epochs, last]

    def kill(self, slot: Slot) -> None:
        self.at.pop(slot, None)


def test_whatever_comes_every_job_ends_once() -> None:
    for seed in range(100):
        pool = Pool(Unruly(seed), retries=3)
        waiting, out, ends = (
            deque(range(24)),
            set[int](),
            Counter[int](),
        )
        for _ in range(5000):
            while waiting and pool.has_room():
                out.add(waiting[0])
                pool.submit(job(waiting.popleft()))
            for step in pool.wait():
                trial = step.outcome.trial if isinstance(step, Finished) else step.trial
                assert trial in out, (seed, step)
                if isinstance(step, Finished):
                    out.remove(trial)
                    ends[trial] += 1
            if not waiting and not out:
                break
        assert ends == dict.fromkeys(range(24), 1) and pool.idle(), seed
