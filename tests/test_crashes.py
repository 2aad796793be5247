"""A study killed, or refused by the disk, at every single write, and then resumed."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.unsynced import Disk

from halving.checkpoints.store import Store
from halving.errors import UserError
from halving.executors import Serial
from halving.history import Header, History, Resumed
from halving.journal import FILE, Journal, read, replay
from halving.schedulers import SuccessiveHalving
from halving.searchers import RandomSearcher
from halving.space import Space
from halving.training.own import Running, Trainings
from halving.trial import Epoch, Finished, Job, Restarted, Resume, Start, Verdict
from halving.tuner import Tuner

Play = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def play(repo: Path) -> Iterator[Play]:
    """`play(run_dir, at=None, when="before", own=False, confirm=False)` runs the study there, or resumes it."""
    server = subprocess.Popen(
        [sys.executable, str(repo / "tests/faults/crashing_study.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    requests, replies = server.stdin, server.stdout

    def play(
        run_dir: Path, at: int | None = None, when: str = "before", own: bool = False, confirm: bool = False
    ) -> dict[str, Any]:
        call = {"run_dir": str(run_dir), "at": at, "when": when, "own": own, "confirm": confirm}
        requests.write(json.dumps(call) + "\n")
        requests.flush()
        return json.loads(replies.readline())

    yield play
    requests.close()
    server.wait(timeout=60)


def _undisturbed(play: Play, run_dir: Path) -> tuple[Path, list[str]]:
    reply = play(run_dir)
    assert reply["status"] == 0
    return run_dir, reply["points"]


@pytest.fixture(scope="module")
def undisturbed(play: Play, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run directory that nothing happened to, and the points that its study passed."""
    return _undisturbed(play, tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture(scope="module")
def own(play: Play) -> Play:
    """The same of a training of a user's, which leaves two files."""
    return partial(play, own=True)


@pytest.fixture(scope="module")
def undisturbed_own(own: Play, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    return _undisturbed(own, tmp_path_factory.mktemp("own") / "run")


def decisions(run_dir: Path) -> list[Any]:
    """What was decided and what came of it, with everything that a clock touches left out."""
    return [
        event.outcome if isinstance(event, Finished) else event
        for event, _ in read(run_dir)
        if isinstance(event, Start | Resume | Finished | Verdict)
    ]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def assert_equal(run_dir: Path, undisturbed: Path) -> None:
    assert decisions(run_dir) == decisions(undisturbed)
    assert rows(run_dir / "results.csv") == rows(undisturbed / "results.csv")
    assert rows(run_dir / "curves.csv") == rows(undisturbed / "curves.csv")
    epochs = [(row["trial"], row["resource"], row["epoch"]) for row in rows(run_dir / "curves.csv")]
    assert len(epochs) == len(set(epochs))
    history: History = replay(read(run_dir))
    recorded = [(trial, e.until, epoch.epoch) for trial, t in history.trials.items() for e, epoch in t.epochs]
    assert len(recorded) == len(set(recorded))
    (left,) = run_dir.glob("checkpoints/*/*")
    assert str(left.relative_to(run_dir)) == history.incumbents[-1][0].checkpoint
    assert content(left) == content(undisturbed / left.relative_to(run_dir))


def content(checkpoint: Path) -> dict[str, bytes]:
    """Return what a training left in files."""
    files = checkpoint / "files"
    return {str(file.relative_to(files)): file.read_bytes() for file in files.rglob("*") if file.is_file()}


def trained(run_dir: Path) -> int:
    """Return how many epochs were trained to their end."""
    return run_dir.with_suffix(".trained").stat().st_size


def test_points_lie_around_every_write(undisturbed: tuple[Path, list[str]]) -> None:
    # 4 evaluations, one of which passes an epoch between two rungs: 5 checkpoints; then two tables.
    points = undisturbed[1]
    assert points.count("fsync .tmp") == 5
    assert points.count("rename .tmp") == 5 + 2
    assert points.count("fsync journal.jsonl") == 1 + 4 + 1 + 1  # opened, before each assignment, at the end, closed
    # For the journal's name, each checkpoint's, and those of the directories of two trials and of the one they are in.
    assert points.count("fsync directory") == 1 + 5 + 2 + 1
    assert {"write journal.jsonl", "write .tmp", "delete .pt", "delete directory"} <= set(points)


@pytest.mark.slow
def test_killed_at_any_write_a_study_resumes_to_the_same_end(
    play: Play, undisturbed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    expected, points = undisturbed
    for at, name in enumerate(points):
        for when in ("before", "torn") if name.startswith("write") else ("before",):
            run_dir = tmp_path / f"{at}-{when}"
            assert play(run_dir, at, when)["status"] == 137, (at, name, when)
            assert play(run_dir)["status"] == 0, (at, name, when)
            assert_equal(run_dir, expected)
            assert trained(run_dir) - trained(expected) in (0, 1), "none but the one that had no checkpoint yet"


@pytest.mark.slow
def test_killed_again_and_again(play: Play, undisturbed: tuple[Path, list[str]], tmp_path: Path) -> None:
    expected, points = undisturbed
    for seed in range(10):
        rng = np.random.default_rng(seed)
        run_dir = tmp_path / str(seed)
        for _ in range(30):
            reply = play(run_dir, int(rng.integers(2, len(points) // 2)), str(rng.choice(["before", "torn", "after"])))
            if reply["status"] == 0:
                break
            assert reply["status"] == 137
        else:
            assert play(run_dir)["status"] == 0
        assert_equal(run_dir, expected)


@pytest.mark.slow
def test_a_full_disk_ends_a_study_that_goes_on_once_there_is_room(
    play: Play, undisturbed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    expected, points = undisturbed
    for at, name in enumerate(points):
        if not name.startswith(("write", "fsync", "rename")) or name.endswith(".lock"):
            continue
        run_dir = tmp_path / str(at)
        reply = play(run_dir, at, "full")
        assert reply["status"] == 1, (at, name)
        if (run_dir / "journal.jsonl").exists():
            read(run_dir)  # a prefix, not damage
        assert play(run_dir)["status"] == 0, (at, name)
        assert_equal(run_dir, expected)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["interrupt", "terminate twice"])
def test_a_signal_during_any_write_ends_a_study_that_goes_on_later(
    when: str, play: Play, undisturbed: tuple[Path, list[str]], tmp_path: Path
) -> None:
    expected, points = undisturbed
    begun = points.index("write journal.jsonl")
    last = len(points) - points[::-1].index("fsync journal.jsonl")
    for at in range(begun + (when == "interrupt"), last, 2):  # the two take turns
        run_dir = tmp_path / str(at)
        reply = play(run_dir, at, when)
        # Once all is decided, a first signal has nothing left to end.
        assert reply["status"] in ((130,) if at < points.index("fsync journal.jsonl", begun) else (130, 0)), (at, reply)
        assert play(run_dir)["status"] == 0, (at, points[at])
        assert_equal(run_dir, expected)


def test_points_lie_around_every_copy(undisturbed_own: tuple[Path, list[str]]) -> None:
    # 3 evaluations, one of which passes an epoch between two rungs: 4 checkpoints, and one is taken up again from the
    # disk; of two files each, and of each one more call finds the end.
    expected, points = undisturbed_own
    assert points.count("copy file") == (4 + 1) * 2 * 2
    assert points.count("rename .tmp") == 4 * 2 + 2
    assert sorted(content(next(expected.glob("checkpoints/*/3")))) == ["one", "sub/other"]


def around_the_last_checkpoints(points: list[str]) -> Iterator[tuple[int, str]]:
    """Give the points from the third checkpoint on, as the first are no others, nor is the journal, tried above."""
    begun = [at for at, name in enumerate(points) if name == "rename .tmp"][2 * 2 - 1]
    return ((at, name) for at, name in enumerate(points) if at > begun and "journal" not in name)


@pytest.mark.slow
def test_killed_at_any_write_a_study_of_directories_resumes_to_the_same_end(
    own: Play, undisturbed_own: tuple[Path, list[str]], tmp_path: Path
) -> None:
    expected, points = undisturbed_own
    for at, name in around_the_last_checkpoints(points):
        for when in ("before", "torn") if name.startswith(("write", "copy")) else ("before",):
            run_dir = tmp_path / f"{at}-{when}"
            assert own(run_dir, at, when)["status"] == 137, (at, name, when)
            assert own(run_dir)["status"] == 0, (at, name, when)
            assert_equal(run_dir, expected)
            assert trained(run_dir) - trained(expected) in (0, 1), (at, name, when)


@pytest.mark.slow
def test_a_disk_that_fills_in_the_middle_of_a_copy_ends_a_study_that_goes_on_later(
    own: Play, undisturbed_own: tuple[Path, list[str]], tmp_path: Path
) -> None:
    expected, points = undisturbed_own
    for at, name in around_the_last_checkpoints(points):
        if name.startswith("delete"):
            continue
        run_dir = tmp_path / str(at)
        assert own(run_dir, at, "full")["status"] == 1, (at, name)
        assert own(run_dir)["status"] == 0, (at, name)
        assert_equal(run_dir, expected)


def flip(file: Path) -> None:
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a flipped byte in one file of many": ("files/sub/other", lambda left: flip(left / "files/sub/other")),
    "a flipped byte in the state": ("state.pt", lambda left: flip(left / "state.pt")),
    "half a file": ("files/one", lambda left: (left / "files/one").write_text("0.")),
    "a file added": ("files/sub/more", lambda left: (left / "files/sub/more").touch()),
    "a directory added": ("files/more", lambda left: (left / "files/more").mkdir()),
    "a file removed": ("files/sub/other", lambda left: (left / "files/sub/other").unlink()),
    "a directory removed": ("files/sub", lambda left: shutil.rmtree(left / "files/sub")),
    "all files removed": ("files/one", lambda left: shutil.rmtree(left / "files")),
    "no state": ("state.pt", lambda left: (left / "state.pt").unlink()),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_directory_is_noticed_and_an_older_one_serves(
    damage: str, own: Play, undisturbed_own: tuple[Path, list[str]], tmp_path: Path
) -> None:
    named, make = DAMAGES[damage]
    expected, points = undisturbed_own
    renames = [at for at, name in enumerate(points) if name == "rename .tmp"]
    for depth in (1, 2):  # the third checkpoint is one between two rungs: the one that it follows from is there, too
        run_dir = tmp_path / f"{depth}" / "run"
        run_dir.parent.mkdir()
        assert own(run_dir, renames[2 * 3 - 1], "after")["status"] == 137
        (newest,) = run_dir.glob("checkpoints/*/2")
        for left in (newest, newest.with_name("1"))[:depth]:
            make(left)
        assert own(run_dir)["status"] == 0
        (restarted,) = [event for event, _ in read(run_dir) if isinstance(event, Restarted)]
        assert restarted.since == 2 - depth
        assert str(newest / named) in restarted.reason, restarted.reason
        assert_equal(run_dir, expected)


def test_a_link_in_a_checkpoint_is_refused_and_nothing_has_happened(
    own: Play, undisturbed_own: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """In the place of a file, of a directory, of all files, and of the checkpoint itself."""
    renames = [at for at, name in enumerate(undisturbed_own[1]) if name == "rename .tmp"]
    run_dir = tmp_path / "run"
    assert own(run_dir, renames[2 * 3 - 1], "after")["status"] == 137
    (newest,) = run_dir.glob("checkpoints/*/2")
    journal = (run_dir / FILE).read_bytes()
    for name in ("files/one", "files/sub", "files", ""):
        place = newest / name
        moved = place.rename(tmp_path / "elsewhere")
        place.symlink_to(moved)
        with pytest.raises(UserError, match=rf"{re.escape(str(place))} is a symbolic link"):
            Journal(run_dir)
        assert own(run_dir)["status"] == 2
        assert (run_dir / FILE).read_bytes() == journal
        place.unlink()
        moved.rename(place)
    assert own(run_dir)["status"] == 0


def drawing(trial: Running) -> Iterator[float]:
    """Train by drawing from a generator that is kept."""
    generator = np.random.default_rng(trial.seed)
    trial.keep(generator=generator)
    while True:
        yield float(generator.random())


def drawing_and_leaving(trial: Running) -> Iterator[float]:
    """The same, with a file in a directory besides."""
    for error in drawing(trial):
        (trial.directory / "sub").mkdir(exist_ok=True)
        (trial.directory / "sub" / "file").write_text(f"{error}")
        yield error


class Handing(Serial):
    """Counts the jobs that it was given, and notes the moment."""

    given = 0

    def submit(self, job: Job) -> None:
        self.given += 1
        self.note()
        super().submit(job)

    def note(self) -> None: ...


def prepared(run_dir: Path, executor: Serial, r_max: int) -> tuple[Tuner, Callable[[], None]]:
    """Return what goes on with the study in a run directory, or begins one, and a call that does."""
    journal = Journal(run_dir)
    searcher = RandomSearcher(Space.from_config({"x": [1, 2, 3, 4]}))
    scheduler, events = SuccessiveHalving(searcher, eta=2, r_max=r_max), tuple(journal.events)
    cost: Callable[[int, int], float] = lambda since, until: until - since  # noqa: E731
    tuner = Tuner(scheduler, executor, cost=cost, journal=journal, root=run_dir)
    tuner.rederive(events)

    def go_on() -> None:
        tuner.record(Header("s", "sha", "random", 0, r_max) if not events else Resumed())
        tuner.run()
        journal.close()

    return tuner, go_on


@pytest.mark.parametrize("training", [drawing, drawing_and_leaving])
def test_a_study_goes_on_from_what_a_failing_power_leaves(
    training: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was not made durable by then is lost: no decision that was acted on, and no checkpoint, may be."""

    def handing(run_dir: Path) -> Handing:
        return Handing(Trainings(training, Store(run_dir), 0, "error", 2))

    (undisturbed := tmp_path / "undisturbed").mkdir()
    executor = handing(undisturbed)
    disk = Disk(undisturbed, lambda: executor.given)
    executor.note = disk.note
    with monkeypatch.context() as patch:
        disk.install(patch)
        prepared(undisturbed, executor, 2)[1]()
    expected = decisions(undisturbed)
    assert executor.given == 3 and len(disk.left) > 3 * 4
    monkeypatch.setattr("os.fsync", lambda fd: None)  # the power does not fail twice
    for state, (_, _, given) in enumerate(disk.left):
        disk.restore(state, run_dir := tmp_path / str(state))
        found = decisions(run_dir) if (run_dir / FILE).exists() else []
        assert sum(isinstance(event, Start | Resume) for event in found) >= given, "it is known what was begun"
        prepared(run_dir, handing(run_dir), 2)[1]()
        assert not [event for event, _ in read(run_dir) if isinstance(event, Restarted)], "each checkpoint is there"
        assert decisions(run_dir) == expected
    disk.close()


def test_no_epoch_is_trained_twice_where_a_study_stops_after_each(tmp_path: Path) -> None:
    epochs: list[tuple[int, int]] = []
    stopped = True

    def counting(trial: Running) -> Iterator[float]:
        nonlocal stopped
        for epoch, error in enumerate(drawing(trial), trial.since + 1):
            epochs.append((trial.number, epoch))
            tuner.stop, stopped = "interrupted", True
            yield error

    while stopped and len(epochs) < 9:
        stopped = False
        tuner, go_on = prepared(tmp_path, Serial(Trainings(counting, Store(tmp_path), 0, "error", 4)), 4)
        go_on()
    assert not stopped and len(epochs) == len({*epochs}) == 4 * 1 + 2 * 1 + 1 * 2
    assert len([event for event, _ in read(tmp_path) if isinstance(event, Epoch)]) == len(epochs)


def confirmed(run_dir: Path) -> Any:
    """What confirmations came to, and what is left of them on the disk."""
    history = replay(read(run_dir))
    errors = {
        each.asked: None if each.confirmed is None else each.confirmed.error for each in history.confirmations.values()
    }
    return errors, history.chosen, sorted(path.relative_to(run_dir) for path in run_dir.glob("checkpoints/*/*"))


@pytest.mark.slow
def test_confirmations_ended_at_any_write_go_on_to_the_same_choice(play: Play, tmp_path: Path) -> None:
    expected = tmp_path / "undisturbed"
    points = play(expected, confirm=True)["points"]
    errors, chosen, left = confirmed(expected)
    assert len(set(errors.values())) == 4 and chosen is not None and len(chosen.tests) == 2 and chosen.ensemble
    assert len(left) == 3, "the incumbent's and both of the chosen trial's"
    begun = [at for at, name in enumerate(points) if name == "rename .tmp"][3 + 3 * 2]  # three of four confirmations
    for at, name in list(enumerate(points))[begun + 1 :]:
        deleting = name.startswith("delete")  # which no full disk refuses
        kinds = ("before", "interrupt" if deleting else ("torn", "full", "interrupt")[at // 2 % 3])
        for when in kinds[: 1 + at % 2]:
            run_dir = tmp_path / f"{at}-{when}"
            status = play(run_dir, at, when, confirm=True)["status"]
            allowed = {"full": (1,), "interrupt": (130, 0)}.get(when, (137,))
            assert status in allowed, (at, name, when, status)
            assert play(run_dir, confirm=True)["status"] == 0, (at, name, when)
            assert confirmed(run_dir) == (errors, chosen, left), (at, name, when)
