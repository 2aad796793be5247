"""Workers that do not see the run directory: their checkpoints are carried, and all is as if they did."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halving.checkpoints.carried import Parcel, unpack
from halving.checkpoints.content import read
from halving.checkpoints.store import Store
from halving.errors import UserError
from halving.executors import Executor, Objective, Serial
from halving.executors.carried import Carrier, Carrying
from halving.executors.pool import Pool, Slot
from halving.executors.work import Lost, Ready, Stopped
from halving.history import History
from halving.journal import Journal
from halving.schedulers import SuccessiveHalving
from halving.searchers import RandomSearcher
from halving.space import Space
from halving.training.own import Running, Trainings
from halving.trial import Epoch, Job, Step
from halving.tuner import Tuner


def drawing(trial: Running) -> Iterator[float]:
    """Train by drawing from a generator that is kept."""
    generator = np.random.default_rng(trial.seed)
    trial.keep(generator=generator)
    while True:
        yield float(generator.random())


def leaving(trial: Running) -> Iterator[float]:
    """The same, with files that it goes on from."""
    file = trial.directory / "sub" / "drawn"
    (trial.directory / "empty").mkdir(exist_ok=True)
    generator = np.random.default_rng(trial.seed)
    trial.keep()
    drawn = [float(line) for line in file.read_text().split()] if trial.since else []
    generator.random(len(drawn))
    while True:
        drawn.append(float(generator.random()))
        (trial.directory / "sub").mkdir(exist_ok=True)
        (trial.directory / "sub" / "drawn").write_text("\n".join(map(repr, drawn)))
        yield drawn[-1]


class Away:
    """Workers in this process, one after the other: each dies when it has said as many words as the next of `lives`."""

    def __init__(self, objective: Objective, lives: Sequence[int] = ()) -> None:
        self._objective, self._lives = objective, list(lives)
        self.slot, self.worker = -1, Carrier(objective)
        self.carried: list[Parcel] = []
        self._new = True
        self._said: Generator[Any] | None = None
        self._left: float = float("inf")
        self.asked = False

    def listen(self, timeout: float | None) -> Iterator[tuple[Slot, Any]]:
        if self._new:
            self._new, self.slot, self.worker = False, self.slot + 1, Carrier(self._objective)
            self._left = self._lives.pop(0) if self._lives else float("inf")
            yield self.slot, Ready()
        said = self._said
        for message in said or ():
            self._left -= 1
            if self._left < 0 or isinstance(message, Stopped):
                assert said is not None
                said.close()
                self.worker.close()
                self._new, self._said = True, None
                yield self.slot, Lost("killed", blame=False) if self._left < 0 else message
                return
            if isinstance(message, Parcel):
                self.carried.append(message)
            yield self.slot, message

    def send(self, slot: Slot, jobs: Sequence[Job]) -> None:
        assert slot == self.slot
        self._said = self.worker.work(jobs, lambda: self.asked)

    def ask_to_stop(self, slot: Slot) -> None:
        self.asked = True

    def kill(self, slot: Slot) -> None: ...

    def close(self) -> None:
        self.worker.close()


class Tried(Pool):
    """An executor whose worker sees, in the place of the run directory, `there`."""

    workers = 1

    def __init__(self, objective: Any, there: Path, lives: Sequence[int] = ()) -> None:
        self.away = Away(objective.at(there), lives)
        super().__init__(Carrying(self.away, objective.run_dir, always=False))


def tuned(training: Any, run_dir: Path, build: Callable[[Trainings], Executor]) -> History:
    run_dir.mkdir(exist_ok=True)
    objective = Trainings(training, Store(run_dir), 0, "error", 9)
    executor, journal = build(objective), Journal(run_dir)
    searcher = RandomSearcher(Space.from_config({"x": [float(x) for x in range(1, 10)]}))
    cost: Callable[[int, int], float] = lambda since, until: until - since  # noqa: E731
    tuner = Tuner(SuccessiveHalving(searcher, r_max=9), executor, cost=cost, journal=journal, root=run_dir)
    try:
        tuner.run()
    finally:
        executor.shutdown(graceful=False)
        journal.close()
    return tuner.history


def came_to(history: History) -> list[Any]:
    return [
        (trial.trial, e.error, e.verdict, e.finished and e.finished.checkpoint, [epoch.metrics for epoch in e.epochs])
        for trial, e in history.finished
    ]


def left(run_dir: Path) -> dict[str, str]:
    """Return what lies below a run directory's checkpoints; of a checkpoint itself what it holds."""
    return {
        path.relative_to(run_dir).as_posix(): repr(read(path)) if path.suffix == ".pt" else path.read_text()
        for path in (run_dir / "checkpoints").rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("training", [drawing, leaving])
@pytest.mark.parametrize("lives", [(), (3, 5, 4, 20, 1)])
def test_a_study_is_the_same_whether_checkpoints_are_shared_or_carried(
    training: Any, lives: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scratch := tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    executors: list[Tried] = []

    def tried(objective: Trainings) -> Executor:
        executors.append(Tried(objective, tmp_path / "nowhere", lives))
        return executors[-1]

    alone = tuned(training, tmp_path / "alone", Serial)
    assert came_to(tuned(training, tmp_path / "carried", tried)) == came_to(alone)
    assert left(tmp_path / "carried") == left(tmp_path / "alone") and len(left(tmp_path / "alone")) == 1 + (
        training is leaving
    )
    assert executors[0].away.carried and executors[0].away.slot == len(lives)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "carried", "scratch"]
    assert not list(scratch.iterdir()) and not (tmp_path / "carried" / ".probe.tmp").exists()


def test_nothing_is_carried_where_the_run_directory_is_seen(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run", target_is_directory=True)
    executors: list[Tried] = []

    def tried(objective: Trainings) -> Executor:
        executors.append(Tried(objective, tmp_path / "link"))
        return executors[-1]

    assert tuned(drawing, tmp_path / "run", tried).incumbent and left(tmp_path / "run")
    assert not executors[0].away.carried


def test_what_is_stopped_is_carried_and_goes_on_here(tmp_path: Path) -> None:
    trained: list[int] = []

    def counting(trial: Running) -> Iterator[float]:
        for error in drawing(trial):
            trained.append(trial.number)
            yield error

    objective, job = Trainings(counting, Store(tmp_path / "run"), 0, "error", 9), Job(0, {"x": 1.0}, 0, 9)
    away = Tried(objective, tmp_path / "nowhere")
    away.submit(job)
    for step in away.wait():
        if isinstance(step, Epoch) and step.epoch == 4:
            break
    assert list(away.stop()) == [] and len(trained) == 4
    away.shutdown()

    def told(objective: Trainings) -> list[Step]:
        executor = Serial(objective)
        executor.submit(job)
        return [step for step in executor.wait() if isinstance(step, Epoch)]

    assert told(objective) == told(replace(objective, store=Store(tmp_path / "alone"))) and len(trained) == 9 + 9


def test_no_parcel_is_put_elsewhere(tmp_path: Path) -> None:
    for name in ("../../../../outside", "/tmp/outside", "a/../../../outside"):
        with pytest.raises(UserError, match="lies outside"):
            unpack(Parcel(0, 9, {name: b"x"}), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
