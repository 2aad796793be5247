"""The pool's policy, on a backend that says what no real one can be made to say."""

import random
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from halving.errors import StorageError, UserError
from halving.executors import Batched, Serial
from halving.executors import pool as pools
from halving.executors.pool import Batching, Pool, Slot
from halving.executors.work import Began, Lost, Message, Raised, Ready, Stopped, Unstarted
from halving.trial import Epoch, Finished, Job, Outcome, Restarted, Step


class Scripted:
    """Says what it was told to say, and notes what it was asked for."""

    def __init__(self, *said: tuple[Slot, Message]) -> None:
        self.said = deque(said)
        self.sent: list[tuple[Slot, Job]] = []
        self.groups: list[tuple[Slot, list[int]]] = []
        self.asked: list[Slot] = []
        self.killed: list[Slot] = []
        self.timeouts: list[float | None] = []

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Message]]:
        self.timeouts.append(timeout)
        while self.said:
            yield self.said.popleft()

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        self.sent.extend((slot, job) for job in jobs)
        self.groups.append((slot, [job.trial for job in jobs]))

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


def batched(backend: Scripted, batch: int = 8, patience: float = 0.0, **policy: Any) -> Pool:
    """A pool whose trials from 100 on are alike to nobody; the others are alike that go equally far."""
    alike = Batching(batch, patience, lambda job: None if job.trial >= 100 else 0)
    return Pool(backend, batching=alike, **policy)


def given(pool: Pool, jobs: Iterable[Job]) -> list[int]:
    """Submit jobs as long as there is room, as a study does; return those that were not taken."""
    waiting = deque(jobs)
    while waiting and pool.has_room():
        pool.submit(waiting.popleft())
    return [job.trial for job in waiting]


def at_work(slot: Slot, *trials: int, until: int = 3) -> list[tuple[Slot, Message]]:
    return [(slot, Began(trials[0], until)), *((slot, end(trial, until)) for trial in trials)]


def test_a_rung_is_divided_evenly_among_the_slots_that_are_free() -> None:
    backend = Scripted((0, Ready()), (1, Ready()), (2, Ready()))
    pool = batched(backend)
    assert given(pool, map(job, range(9))) == [] and not backend.groups
    assert heard(pool, backend) == []
    assert [len(trials) for _, trials in backend.groups] == [3, 3, 3]
    for slot, trials in tuple(backend.groups):
        assert len(heard(pool, backend, *at_work(slot, *trials))) == 3
    assert pool.idle()
    given(pool, [job(0, 9, 3), job(3, 9, 3), job(4, 9, 3), job(6, 9, 3), *map(job, range(10, 12))])
    heard(pool, backend)
    assert sorted(backend.groups[3:]) == [(0, [0, 6]), (1, [3, 4]), (2, [10, 11])], "slot 1 has 3 and 4 in memory"


def test_a_slot_gets_at_most_a_batch_of_what_is_alike_the_oldest_first() -> None:
    backend = Scripted((0, Ready()))
    pool = batched(backend, 4)
    left = given(pool, [job(0), job(1, 9), job(2), job(3, 9), job(4), job(5), job(6)])
    assert left == [4, 5, 6] and backend.groups == [(0, [0, 2])], "there is no room: nobody can join them any more"
    told = heard(pool, backend, *at_work(0, 0, 2))
    assert [step.outcome.trial for step in told if isinstance(step, Finished)] == [0, 2]
    assert given(pool, [job(4, 9), job(5, 9), job(6, 9)]) == [6] and backend.groups[-1] == (0, [1, 3, 4, 5])


class Alike:
    def __call__(self, jobs: Sequence[Job]) -> Iterator[Step]:
        return (end(job.trial) for job in jobs)

    def alike(self, job: Job) -> int:
        return 0


def test_what_knows_nothing_of_being_alike_runs_one_by_one_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    executor = Batched(lambda jobs: (end(job.trial) for job in jobs), batch=4)
    assert given(executor, map(job, range(3))) == [1, 2] and executor.batch == 1
    assert list(executor.wait()) == [end(0)] and caplog.text.count("executor.batch=4 has no effect") == 1
    assert given(Batched(Alike(), batch=4), map(job, range(5))) == [4]


def test_what_is_alike_to_nobody_has_all_of_a_slot_at_once() -> None:
    backend = Scripted((0, Ready()), (1, Ready()))
    pool = batched(backend)
    assert given(pool, [job(100), job(0), job(1)]) == [] and backend.groups == [(0, [100])] and pool.has_room()
    pool.submit(job(101))
    assert backend.groups == [(0, [100]), (1, [0, 1])] and not pool.has_room()
    heard(pool, backend, *at_work(1, 0, 1))
    assert backend.groups[2:] == [(1, [101])]


def test_a_small_group_waits_for_company_only_so_long_and_only_while_others_run(clock: Clock) -> None:
    backend = Scripted((0, Ready()), (1, Ready()))
    pool = batched(backend, 4, patience=10)
    given(pool, [job(0), job(1), job(2), job(3, 9)])
    heard(pool, backend)
    assert backend.groups == [(0, [0, 1, 2]), (1, [3])], "nothing runs that could bring company"
    clock.now += 2
    heard(pool, backend, *at_work(1, 3, until=9))
    given(pool, [job(4, 9)])
    heard(pool, backend)
    assert len(backend.groups) == 2 and backend.timeouts[-1] == 10 and not pool.idle()
    clock.now += 9
    given(pool, map(job, (5, 6)))
    heard(pool, backend)
    assert len(backend.groups) == 2 and backend.timeouts[-1] == 1
    clock.now += 1
    heard(pool, backend)
    assert backend.groups[2:] == [(1, [4])]
    heard(pool, backend, *at_work(0, 0, 1, 2))
    given(pool, map(job, (7, 8)))
    assert backend.groups[3:] == [(0, [5, 6, 7, 8])], "a whole group has nobody to wait for"


def test_of_one_slot_the_largest_group_goes_first_until_another_has_waited_too_long(clock: Clock) -> None:
    backend = Scripted((0, Ready()))
    pool = batched(backend, 3, patience=10)
    given(pool, [job(0, 9), job(1), job(2)])
    assert backend.groups == [(0, [1, 2])]
    clock.now += 10
    heard(pool, backend, *at_work(0, 1, 2))
    given(pool, [job(3), job(4)])
    assert backend.groups[1:] == [(0, [0])]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Lost("killed"), "killed; 3 trials were trained together, and go on one by one"),
        (Raised(0, 3, "ValueError: no", "traceback"), "ValueError: no; 3 trials were trained together"),
        (None, "timeout: it took longer than executor.trial_timeout=10 s; 3 trials were trained together"),
    ],
)
def test_nobody_pays_for_what_becomes_of_a_group(
    said: Message | None, reason: str, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Scripted((0, Ready()))
    pool = batched(backend, retries=1, trial_timeout=10)
    given(pool, map(job, range(3)))
    heard(pool, backend, (0, Began(0, 3)), (1, Ready()))
    clock.now += 29  # each may take as long as it might alone
    assert heard(pool, backend, (0, end(1))) == [end(1)]
    clock.now += 1 if said is None else 0
    told = heard(pool, backend, *([(0, said)] if said is not None else []))
    assert [type(step) for step in told] == [Restarted, Restarted] and reason in str(told[0])
    assert ("failed together between 0 and 3: traceback" in caplog.text) == isinstance(said, Raised)
    heard(pool, backend)
    alone = backend.groups[1:]
    assert [trials for _, trials in alone] == [[0], [2]][: 2 if isinstance(said, Raised) else 1]
    slot = alone[0][0]
    (again,) = heard(pool, backend, (slot, Began(0, 3)), (slot, Lost("killed")), (2, Ready()))
    assert isinstance(again, Restarted) and again.reason == "killed; retry 1 of 1"


def test_a_machine_that_dies_under_a_group_leaves_it_whole() -> None:
    backend = Scripted((0, Ready()))
    pool = batched(backend)
    given(pool, map(job, range(3)))
    told = heard(pool, backend, (0, Began(0, 3)), (0, end(2)), (0, Lost("its node died", blame=False)), (1, Ready()))
    assert len(told) == 3 and not heard(pool, backend) and backend.groups[1:] == [(1, [0, 1])]


def test_a_study_that_is_stopped_asks_each_slot_once_and_leaves_every_trial_of_a_group_for_later() -> None:
    backend = Scripted((0, Ready()))
    pool = batched(backend)
    given(pool, map(job, range(3)))
    heard(pool, backend, (0, Began(0, 3)))
    backend.said.extend([(0, Epoch(0, 1, {})), (0, Epoch(1, 1, {})), (0, end(2)), (0, Stopped())])
    assert list(pool.stop()) == [Epoch(0, 1, {}), Epoch(1, 1, {}), end(2)] and backend.asked == [0] and pool.idle()


def test_a_group_that_takes_too_much_memory_goes_on_in_halves_from_then_on() -> None:
    backend = Scripted((0, Ready()))
    pool = batched(backend, 8)
    given(pool, map(job, range(8)))
    told = heard(pool, backend, (0, Began(0, 3)), (0, end(3)), (0, Raised(0, 3, "out of memory", "", memory=True)))
    assert [type(step) for step in told] == [Finished, *[Restarted] * 7]
    assert "go on at most 4 together" in str(told[1]) and heard(pool, backend) == []
    assert backend.groups[1:] == [(0, [0, 1, 2, 4])]
    heard(pool, backend, *at_work(0, 0, 1, 2, 4))
    given(pool, map(job, range(10, 20)))
    assert backend.groups[2:] == [(0, [5, 6, 7, 10])]
    for _ in range(2):
        heard(pool, backend, (0, Began(5, 3)), (0, Raised(5, 3, "out of memory", "", memory=True)))
        heard(pool, backend)
    assert backend.groups[3:] == [(0, [5, 6]), (0, [5])]
    (failed,) = heard(pool, backend, (0, Began(5, 3)), (0, Raised(5, 3, "out of memory", "", memory=True)))
    assert isinstance(failed, Finished) and failed.outcome.failed and not heard(pool, backend)
    assert backend.groups[5:] == [(0, [6])]


def test_what_was_too_many_for_the_memory_is_so_at_the_next_rung() -> None:
    backend = Scripted((0, Ready()))
    pool = batched(backend, 8)
    given(pool, map(job, range(8)))
    heard(pool, backend, (0, Began(0, 3)), (0, Raised(0, 3, "out of memory", "", memory=True)))
    heard(pool, backend)
    heard(pool, backend, *at_work(0, 0, 1, 2, 3))
    heard(pool, backend, *at_work(0, 4, 5, 6, 7))
    given(pool, (job(trial, 9, 3) for trial in range(8)))
    heard(pool, backend)
    assert [len(trials) for _, trials in backend.groups] == [8, 4, 4, 4]


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

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        if slot in self.at:  # else it is dead, which was not heard yet
            first = jobs[0]
            told: list[Message] = [Epoch(job.trial, epoch, {}) for epoch in range(1, 4) for job in jobs]
            if any(job.trial % 5 == 4 for job in jobs):
                told.append(Raised(first.trial, first.until, "raised", "", memory=self.chance.random() < 0.3))
            else:
                told += [end(job.trial, job.until) for job in jobs]
            self.at[slot] = [Began(first.trial, first.until), *told]

    def kill(self, slot: Slot) -> None:
        self.at.pop(slot, None)


def test_whatever_comes_every_job_ends_once() -> None:
    for seed in range(100):
        batching = Batching(*((1, 0.0), (4, 0.0), (3, 0.001))[seed % 3], alike=lambda job: job.trial % 2 or None)
        pool = Pool(Unruly(seed), retries=3, batching=batching)
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
