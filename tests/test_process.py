"""Workers in processes of their own: what they decide, and what becomes of a study when they die."""

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Forks
from faults.objectives import Chaotic, FullDisk, Hanging, Hungry, Killed, Patient, Plain, Unlucky
from hydra import compose, initialize_config_dir

import halving
from halving.app.objective import ConfiguredObjective
from halving.config.polite import register
from halving.config.request import Request
from halving.errors import StorageError, UserError
from halving.executors import Executor, Process, Serial
from halving.history import History
from halving.journal import Journal, read
from halving.schedulers import ASHA, FIFO, Hyperband, Scheduler, SuccessiveHalving
from halving.training.trainer import Trainer
from halving.trial import Configuration, Epoch, Finished, Job, Restarted, Resume, Start, Step
from halving.tuner import Tuner


class Numbers:
    """A searcher whose configuration is the trial's number."""

    def propose(self, trial: int) -> Configuration:
        return {"x": trial}

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        pass


def tune(executor: Executor, scheduler: Scheduler, run_dir: Path | None = None) -> History:
    journal = Journal(run_dir) if run_dir is not None else None
    tuner = Tuner(scheduler, executor, cost=lambda since, until: until - since, journal=journal)
    try:
        tuner.run()
    finally:
        executor.shutdown(graceful=False)
        if journal is not None:
            journal.close()
    return tuner.history


def collect(executor: Executor, jobs: list[Job]) -> list[Step]:
    """Everything that an executor says until the jobs are done."""
    steps: list[Step] = []
    try:
        while jobs or not executor.idle():
            while jobs and executor.has_room():
                executor.submit(jobs.pop(0))
            steps += executor.wait()
    finally:
        executor.shutdown(graceful=False)
    return steps


def finished(steps: list[Step]) -> dict[int, Finished]:
    return {step.outcome.trial: step for step in steps if isinstance(step, Finished)}


def jobs(n: int, until: int = 4) -> list[Job]:
    return [Job(trial, {}, 0, until) for trial in range(n)]


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("scheduler", [SuccessiveHalving, Hyperband])
def test_synchronous_methods_decide_the_same_with_any_number_of_workers(scheduler: Callable[..., Scheduler]) -> None:
    def decisions(executor: Executor) -> set[Any]:
        history = tune(executor, scheduler(Numbers(), eta=3, r_min=1, r_max=9))
        return {(t.trial, e.rung, e.error, e.verdict, e.verdict_reason) for t, e in history.finished}

    alone = decisions(Serial(Plain()))
    final = {row[:4] for row in alone}
    for workers in (2, 5):
        assert {row[:4] for row in decisions(Process(Plain(), workers))} == final


def test_a_trial_goes_back_to_the_worker_that_has_it_in_memory() -> None:
    executor = Process(Plain(), 3)
    places: dict[int, list[str | None]] = {0: [], 1: [], 2: []}
    try:
        for since, order in ((0, (0, 1, 2)), (2, (1, 2, 0)), (4, (2, 0, 1))):
            for trial in order:
                executor.submit(Job(trial, {}, since, since + 2))
            while not executor.idle():
                for step in executor.wait():
                    if isinstance(step, Finished):
                        places[step.outcome.trial].append(step.checkpoint)
    finally:
        executor.shutdown()
    assert [len(set(place)) for place in places.values()] == [1, 1, 1]
    assert len({place[0] for place in places.values()}) == 3


def test_a_killed_worker_costs_only_what_its_trial_had_not_kept(tmp_path: Path) -> None:
    steps = collect(Process(Killed(tmp_path, 2), 2), jobs(4))
    assert [step.trial for step in steps if isinstance(step, Restarted)] == [1, 1]
    reasons = [step.reason for step in steps if isinstance(step, Restarted)]
    assert "SIGKILL" in reasons[0] and "retry 1 of 2" in reasons[0] and "retry 2 of 2" in reasons[1]
    assert all(not step.outcome.failed for step in finished(steps).values())
    epochs = Counter((step.trial, step.epoch) for step in steps if isinstance(step, Epoch))
    assert epochs[1, 1] == 1 and epochs[1, 2] == 3 and epochs[1, 3] == 1
    assert all(epochs[trial, epoch] == 1 for trial in (0, 2, 3) for epoch in (1, 2, 3, 4))


def test_a_worker_that_always_dies_fails_its_trial_and_no_other(tmp_path: Path) -> None:
    found = finished(collect(Process(Killed(tmp_path, 99), 2, retries=1), jobs(4)))
    assert [trial for trial in sorted(found) if found[trial].outcome.failed] == [1]
    assert "SIGKILL" in found[1].cause and "executor.retries=1" in found[1].cause


def test_a_worker_out_of_memory_is_retried_and_then_fails() -> None:
    steps = collect(Process(Hungry(), 2, retries=1), jobs(4))
    assert ["out of memory" in step.reason for step in steps if isinstance(step, Restarted)] == [True]
    found = finished(steps)
    assert [trial for trial in sorted(found) if found[trial].outcome.failed] == [1]
    assert "out of memory" in found[1].cause


def test_every_trial_has_all_retries_and_every_slot_a_gpu_of_its_own(tmp_path: Path) -> None:
    found = finished(collect(Process(Unlucky(tmp_path), 2, retries=1, devices=["3", "7"]), jobs(3)))
    assert not any(step.outcome.failed for step in found.values()), found
    assert {step.checkpoint for step in found.values()} == {"3", "7"}


def test_a_hanging_trial_is_killed_and_its_place_is_free() -> None:
    """Even the first trial of a worker, whose start takes longer than a trial may and is not counted."""
    began = time.monotonic()
    order = [Job(trial, {}, 0, 4) for trial in (1, 0)]
    found = finished(collect(Process(Hanging(starting=1.3), 1, trial_timeout=1.0), order))
    assert time.monotonic() - began < 20
    assert [trial for trial in sorted(found) if found[trial].outcome.failed] == [1]
    assert found[1].cause.startswith("timeout: ") and "executor.trial_timeout=1 s" in found[1].cause


def test_a_hanging_trial_does_not_outlast_its_time_when_the_study_is_stopped() -> None:
    executor = Process(Hanging(), 1, trial_timeout=1.0)
    executor.submit(Job(0, {}, 0, 1))
    while not executor.idle():
        list(executor.wait())
    executor.submit(Job(1, {}, 0, 1))
    began = time.monotonic()
    executor.shutdown()
    assert time.monotonic() - began < 5


def test_a_worker_that_cannot_start_ends_the_study(repo: Path) -> None:
    script = (
        "from functools import partial; import halving\n"
        "def f(configuration, resource): return 1.0\n"
        "halving.tune(f, {'x': [1, 2, 3]}, r_max=3, executor=partial(halving.Process, workers=2))\n"
    )
    result = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "a worker could not start" in result.stderr and "__main__" in result.stderr


def test_what_cannot_be_sent_to_a_worker_is_refused_in_a_line() -> None:
    def trial(trial: Any) -> None: ...

    for function in (trial, lambda configuration, resource: 1.0):
        with pytest.raises(UserError, match=r"cannot be sent to another process .*the top level of a module"):
            halving.tune(function, {"x": [1, 2, 3]}, r_max=3, executor=partial(Process, workers=1))


def test_a_script_that_starts_workers_unguarded_is_told_so_in_a_line(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import halving, functools\n"
        "def f(configuration, resource): return 1.0\n"
        "halving.tune(f, {'x': [1, 2, 3]}, r_max=3, executor=functools.partial(halving.Process, workers=1))\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and result.stderr.count("Traceback") == 1  # the call's own
    assert 'workers: guard it by if __name__ == "__main__":' in result.stderr.splitlines()[0]


@pytest.mark.parametrize("executor", [Serial, partial(Process, workers=1)])
def test_what_fails_at_one_place_shows_its_traceback_once(executor: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(halving.UserError, match="no trial survived"):
        halving.tune(_raises, {"x": [1, 2, 3]}, r_max=3, executor=executor)
    assert caplog.text.count("Traceback") == 1 and caplog.text.count("in _raises") == 1
    assert caplog.text.count("where one failed before: ValueError: of ") == 2
    assert caplog.text.count(" failed between 0 and ") == 3


@pytest.mark.parametrize("executor", [Serial, partial(Process, workers=1)])
def test_a_users_mistake_in_a_trial_is_logged_in_words(executor: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(halving.UserError, match="no trial survived; 3 failed, the first with: the training ended"):
        halving.tune(_ends, {"x": [1, 2, 3]}, r_max=3, executor=executor)
    assert caplog.text.count("the training ended after 0 of 1 epochs") == 3 and "Traceback" not in caplog.text


def _ends(trial: Any) -> None: ...


def _raises(configuration: dict[str, Any], resource: int) -> float:
    raise ValueError(f"of {configuration['x']}")


def test_memory_of_the_device_is_not_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(trainer: Trainer, epoch: int) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nsecond line")

    register(Path(__file__).resolve().parents[1] / "conf")
    with initialize_config_dir(str(Path(__file__).resolve().parents[1] / "conf"), version_base="1.3"):
        cfg = compose("config", ["model=softmax", "data.train_samples=60", "device=cpu"])
    monkeypatch.setattr(Trainer, "epoch", full)
    (finished,) = collect(Serial(ConfiguredObjective(Request(cfg), tmp_path, 1)), jobs(1))
    assert isinstance(finished, Finished) and finished.outcome.failed
    assert finished.cause.startswith("out of memory on cpu: a smaller data.batch_size")
    assert "Tried to allocate 2.00 GiB" in finished.cause and "second line" not in finished.cause


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has 80 GiB. Process 7 has"),
            "80 GiB)",
        ),
        (torch.AcceleratorError("CUDA error: out of memory\nSearch for"), "CUDA error: out of memory)"),
    ],
)
def test_a_device_without_room_for_the_data_is_told_in_a_line(
    error: Exception, said: str, fork: Forks, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        f"import torch\n\ndef full(**settings):\n    raise torch.{type(error).__name__}({str(error)!r})\n"
    )
    words = ["trusted_packages=[mine]", "data._target_=mine.full", "tracker=none"]
    for more in ([], ["scheduler=sha"], ["scheduler=sha", "executor=process", "executor.workers=2"]):
        result = fork(*words, *more, cwd=tmp_path, PYTHONPATH=str(tmp_path))
        assert result.returncode == 1 and result.stderr.startswith("error: out of memory on cpu: ")
        assert result.stderr.endswith(f"{said}\n") and result.stderr.count("\n") == 1


def test_a_full_disk_under_a_worker_ends_the_study() -> None:
    with pytest.raises(StorageError, match="make room"):
        collect(Process(FullDisk(), 2), jobs(2))


@pytest.mark.parametrize("kind", ["busy", "hanging"])
def test_workers_follow_a_killed_parent(kind: str, repo: Path) -> None:
    command = [sys.executable, str(repo / "tests/faults/parent.py"), kind]
    env = os.environ | {"PYTHONPATH": f"{repo / 'src'}{os.pathsep}{repo / 'tests'}"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert parent.stdout.readline() == "running\n"
        time.sleep(0.5)
        assert all(alive(pid) for pid in pids) and len(pids) == 2
        parent.kill()
        deadline = time.monotonic() + 5
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in pids)


def test_a_graceful_end_lets_what_runs_leave_a_checkpoint(tmp_path: Path) -> None:
    executor = Process(Patient(tmp_path), 2)
    for job in jobs(2, 10_000):
        executor.submit(job)
    seen: list[Step] = []
    while len({step.trial for step in seen if isinstance(step, Epoch)}) < 2:
        seen += executor.wait()
    pids = [child.pid or 0 for child in active_children()]
    executor.shutdown()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
    assert len(pids) == 2 and not any(alive(pid) for pid in pids)


def test_workers_heed_no_signals_of_their_own(tmp_path: Path) -> None:
    executor = Process(Plain(0.05), 1)
    executor.submit(Job(0, {}, 0, 10))
    steps = list(executor.wait())
    while not steps:
        steps += executor.wait()
    (worker,) = active_children()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid or 0, number)
    steps += collect(executor, [])
    assert [step.epoch for step in steps if isinstance(step, Epoch)] == list(range(1, 11))
    assert not any(isinstance(step, Restarted) for step in steps)


def chaos(seed: int, executor: Executor, scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    history = tune(executor, scheduler)
    assert history.trials, seed
    for trial in history.trials.values():
        failed = [e for e in trial.evaluations if math.isinf(e.error)]
        assert trial.state in ("completed", "stopped", "failed"), (seed, trial)
        assert (trial.state == "failed") == (trial.evaluations[-1] in failed) and len(failed) <= 1, (seed, trial)
    assert len(history.finished) == sum(len(trial.evaluations) for trial in history.trials.values())


def family(seed: int) -> Scheduler:
    match seed % 3:
        case 0:
            return SuccessiveHalving(Numbers(), eta=2 + seed % 2, r_max=9, rounds=1 + seed % 2)
        case 1:
            return ASHA(Numbers(), r_max=9, variant=("promotion", "stopping")[seed % 2], max_trials=12)
        case _:
            return Hyperband(Numbers(), eta=3, r_max=9)


def test_half_of_all_trials_failing_never_stops_a_study(caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(170):
        chaos(seed, Serial(Chaotic(seed)), family(seed), caplog)


@pytest.mark.slow
def test_nor_does_it_with_processes(caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(170, 182):
        chaos(seed, Process(Chaotic(seed), 2), family(seed), caplog)


@pytest.mark.parametrize(
    ("option", "value"),
    [("workers", 0), ("workers", 10**6), ("retries", -1), ("trial_timeout", 0.0), ("trial_timeout", "1")],
)
def test_impossible_settings_are_refused(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"executor.{option}={value}"):
        Process(Plain(), **{"workers": 1, option: value})  # type: ignore[arg-type]


def test_decisions_replay_with_workers(tmp_path: Path) -> None:
    tune(Process(Chaotic(3), 3), ASHA(Numbers(), r_max=9, max_trials=20), tmp_path)
    events = read(tmp_path)
    tuner = Tuner(ASHA(Numbers(), r_max=9, max_trials=20), Serial(Plain()), cost=lambda since, until: until - since)
    tuner.rederive(events)
    assigned = [event for event, _ in events if isinstance(event, Start | Resume)]
    assert len(assigned) == len(tuner.history.finished)
    with pytest.raises(UserError, match="does not follow from its configuration"):
        Tuner(FIFO(Numbers(), 9, 5), Serial(Plain()), cost=lambda since, until: until - since).rederive(events)
