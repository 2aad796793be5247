"""What trials start: it heeds signals as usual, ends with its trial, and keeps no lock; and Ctrl-C in a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from faults.objectives import ENDS, Brood, Parent, Quits
from test_process import alive

import halving
from halving.errors import UserError
from halving.executors import Process, Serial
from halving.journal import Journal, read
from halving.review.verification import refuse_running
from halving.searchers import GridSearcher
from halving.trial import Epoch, Finished, Job, Start, Step

EXECUTORS = {"serial": Serial, "process": partial(Process, workers=1)}


def ended(pids: list[int], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_a_trial_starts_heeds_signals_as_usual(executor: str) -> None:
    study = halving.tune(Parent(), {"x": [1]}, halving.FIFO, r_max=1, max_trials=1, executor=EXECUTORS[executor])
    assert study.best.trial == 0


@pytest.mark.parametrize("executor", EXECUTORS)
def test_whatever_an_objective_raises_fails_its_trial_only(executor: str, tmp_path: Path) -> None:
    space = {"x": list(range(len(ENDS) + 1))}
    study = halving.tune(
        Quits(),
        space,
        halving.FIFO,
        searcher=GridSearcher,
        r_max=1,
        max_trials=len(ENDS) + 1,
        executor=EXECUTORS[executor],
        run_dir=tmp_path,
    )
    causes = {t.configuration["x"]: e.finished.cause.partition(":")[0] for t, e in study.history.finished if e.finished}
    assert causes == {i: type(error).__name__ for i, error in enumerate(ENDS)} | {len(ENDS): ""}
    assert study.best.configuration["x"] == len(ENDS)
    assert (tmp_path / "results.csv").is_file() and not study.history.trials[0].last.restarts


class Struck:
    """The ways in which a worker ends, each given an executor whose trial 1 hangs with its brood."""

    @staticmethod
    def by_the_end_of_its_time(executor: Process) -> None:
        while not executor.idle():
            list(executor.wait())

    @staticmethod
    def by_a_kill(executor: Process) -> None:
        os.kill(active_children()[0].pid or 0, signal.SIGKILL)
        began = time.monotonic()
        while not executor.idle():
            list(executor.wait())
        assert time.monotonic() - began < 20

    @staticmethod
    def by_the_end_of_the_study(executor: Process) -> None:
        executor.shutdown(graceful=False)


@pytest.mark.parametrize("strike", [Struck.by_the_end_of_its_time, Struck.by_a_kill, Struck.by_the_end_of_the_study])
def test_all_that_a_trial_started_ends_with_its_worker(strike: Callable[[Process], None], tmp_path: Path) -> None:
    brood = Brood(tmp_path / "pids")
    executor = Process(brood, 1, retries=0, trial_timeout=8.0 if strike is Struck.by_the_end_of_its_time else None)
    steps: list[Step] = []
    executor.submit(Job(1, {}, 0, 1))
    while not any(isinstance(step, Epoch | Finished) for step in steps):
        steps += executor.wait()
    pids = [int(line) for line in brood.path.read_text().split()]
    assert len(pids) == brood.n and all(map(alive, pids))
    strike(executor)
    assert ended(pids)
    executor.shutdown()


def test_all_that_trials_started_ends_with_a_killed_study(repo: Path, tmp_path: Path) -> None:
    brood = Brood(tmp_path / "pids")
    command = [sys.executable, str(repo / "tests/faults/parent.py"), "brood", str(brood.path)]
    env = os.environ | {"PYTHONPATH": f"{repo / 'src'}{os.pathsep}{repo / 'tests'}"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as study:
        assert study.stdout is not None
        workers = [int(word) for word in study.stdout.readline().split()]
        while not brood.path.exists() or len(brood.path.read_text().split()) < 2 * brood.n:
            time.sleep(0.05)
        study.kill()
    pids = [int(line) for line in brood.path.read_text().split()]
    assert ended([*workers, *pids])


STUDY = """
import multiprocessing, os, subprocess, sys, time
from functools import partial
import halving
from halving.executors import Serial

def live():
    print(os.getpid(), flush=True)
    time.sleep(600)

def function(configuration, resource):
    match sys.argv[1]:
        case "fork":
            multiprocessing.get_context("fork").Process(target=live).start()
            time.sleep(600)
        case "sleep":
            child = subprocess.Popen(["sleep", "4"])
            print("begun", flush=True)
            assert child.wait() == 0
    return 1.0

if __name__ == "__main__":
    executor = {"serial": Serial, "process": partial(halving.Process, workers=1)}[sys.argv[2]]
    halving.tune(function, {"x": [1, 2]}, halving.FIFO, r_max=1, max_trials=2, executor=executor, progress=True,
                 run_dir=sys.argv[3], resume=True)
"""


def test_a_child_that_outlives_a_killed_study_does_not_hold_its_lock(tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(STUDY)
    run_dir = tmp_path / "run"
    command = [sys.executable, str(script), "fork", "serial", str(run_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"TERM": "dumb"}) as study:
        assert study.stdout is not None
        child = next(int(line) for line in study.stdout if line.strip().isdigit())
        try:
            with pytest.raises(UserError, match=f"is being written by host .*, pid {study.pid}"):
                refuse_running(run_dir)
            study.kill()
            study.wait()
            assert alive(child)
            refuse_running(run_dir)
            Journal(run_dir).close()
        finally:
            os.kill(child, signal.SIGKILL)


def in_a_terminal(command: list[str]) -> tuple[int, int]:
    """Start a command in a terminal of its own; return its process id and the terminal's other end."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execve(command[0], command, os.environ | {"TERM": "xterm"})
    return pid, terminal


def until(terminal: int, text: str, seconds: float = 60.0) -> str:
    """Read from a terminal until a text comes, or, without one, until its end."""
    read, deadline = "", time.monotonic() + seconds
    while (not text or text not in read) and select.select([terminal], [], [], deadline - time.monotonic())[0]:
        try:
            read += os.read(terminal, 1000).decode(errors="replace")
        except OSError:  # its end
            break
    assert text in read, read
    return read


@pytest.mark.parametrize("executor", EXECUTORS)
def test_ctrl_c_in_a_terminal_is_answered_at_once_and_fails_no_trial(executor: str, tmp_path: Path) -> None:
    script = tmp_path / "study.py"
    script.write_text(STUDY)
    run_dir = tmp_path / "run"
    pid, terminal = in_a_terminal([sys.executable, str(script), "sleep", executor, str(run_dir)])
    try:
        until(terminal, "begun")
        began = time.monotonic()
        os.write(terminal, b"\x03")
        until(terminal, "stopping after the running epochs; a second Ctrl-C ends it at once")
        assert time.monotonic() - began < 2
        until(terminal, "")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    events = [event for event, _ in read(run_dir)]
    # In a worker the trial goes on to its end; here its child was struck as well, and it is run again.
    assert [event.outcome.failed for event in events if isinstance(event, Finished)] == [False] * (
        executor == "process"
    )

    def function(configuration: dict[str, Any], resource: int) -> float:
        return 1.0

    study = halving.tune(function, {"x": [1, 2]}, halving.FIFO, r_max=1, max_trials=2, run_dir=run_dir, resume=True)
    assert sum(isinstance(event, Start) for event, _ in read(run_dir)) == 2
    assert [trial.state for trial in study.trials] == ["completed"] * 2


def test_a_terminal_shows_at_once_that_something_is_coming(repo: Path, tmp_path: Path) -> None:
    small = ["model=softmax", "data.train_samples=100", "tracker=none", "r_max=1", f"hydra.run.dir={tmp_path / 'run'}"]
    pid, terminal = in_a_terminal([sys.executable, str(repo / "train.py"), *small])
    try:
        assert until(terminal, "loading torch and the data ...\r") == "loading torch and the data ...\r"
        assert not (tmp_path / "run" / "journal.jsonl").exists()
        shown = until(terminal, "")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    assert shown.startswith("\x1b[K") and "loading" not in shown and "files: " in shown


def test_a_signal_is_answered_without_a_display(capsys: pytest.CaptureFixture[str]) -> None:
    def function(configuration: dict[str, Any], resource: int) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        print("and on it goes", file=sys.stderr)
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        halving.tune(function, {"x": [1]}, halving.FIFO, r_max=1, max_trials=1)
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == [
        "SIGTERM: stopping after the running epochs; a second Ctrl-C ends it at once",
        "and on it goes",
    ]
