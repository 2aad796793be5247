"""A study killed, or refused by the disk, at every single write, and then resumed."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halving.history import History
from halving.journal import read, replay
from halving.trial import Finished, Resume, Start, Verdict

Play = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def play(repo: Path) -> Iterator[Play]:
    """`play(run_dir, at=None, when="before")` runs the study there, or resumes it."""
    server = subprocess.Popen(
        [sys.executable, str(repo / "tests/faults/crashing_study.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    requests, replies = server.stdin, server.stdout

    def play(run_dir: Path, at: int | None = None, when: str = "before") -> dict[str, Any]:
        requests.write(json.dumps({"run_dir": str(run_dir), "at": at, "when": when}) + "\n")
        requests.flush()
        return json.loads(replies.readline())

    yield play
    requests.close()
    server.wait(timeout=60)


@pytest.fixture(scope="module")
def undisturbed(play: Play, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run directory that nothing happened to, and the points that its study passed."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    reply = play(run_dir)
    assert reply["status"] == 0
    return run_dir, reply["points"]


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
    left = [str(file.relative_to(run_dir)) for file in run_dir.rglob("checkpoints/**/*") if file.is_file()]
    assert left == [history.incumbents[-1][0].checkpoint]


def test_points_lie_around_every_write(undisturbed: tuple[Path, list[str]]) -> None:
    # 7 evaluations, one of which passes an epoch between two rungs: 8 checkpoints; then two tables.
    points = undisturbed[1]
    assert points.count("fsync .tmp") == 8
    assert points.count("rename .tmp") == 8 + 2
    assert points.count("fsync journal.jsonl") == 1 + 7 + 1 + 1  # opened, before each assignment, at the end, closed
    assert {"write journal.jsonl", "write .tmp", "fsync directory", "delete .pt", "delete directory"} <= set(points)


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
    for at in range(begun, last):
        run_dir = tmp_path / str(at)
        reply = play(run_dir, at, when)
        # Once all is decided, a first signal has nothing left to end.
        assert reply["status"] in ((130,) if at < points.index("fsync journal.jsonl", begun) else (130, 0)), (at, reply)
        assert play(run_dir)["status"] == 0, (at, points[at])
        assert_equal(run_dir, expected)
