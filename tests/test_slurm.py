"""Workers in jobs of a real Slurm of three nodes on loopback; skipped, with the reason, where there is none."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import anywhere, slurm
from faults.objectives import Patient, Placed, Plain
from test_conformance import complaints
from test_pilots import SMALL, nobody_left, rows

from halving.config import trust
from halving.conformance import conform
from halving.errors import UserError
from halving.executors.slurm import Slurm
from halving.journal import read, replay
from halving.trial import Epoch, Job, Restarted, Step

Daemons = dict[str, subprocess.Popen[bytes]]

needs_slurm = pytest.mark.skipif(
    bool(slurm.absent), reason=f"no Slurm can be run here ({slurm.absent}): install slurm-wlm and munge"
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    there = tmp_path_factory.mktemp("slurm")
    with slurm.cluster(there, 3) as daemons, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(there / "slurm.conf"))
        yield daemons


def told(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def jobs() -> list[str]:
    return told("squeue", "--noheader", "--array", "--me", "--format=%j").split()


@needs_slurm
@pytest.mark.parametrize(("mode", "workers"), [("pilots", 2), ("jobs", 3)])
def test_slurm_conforms(
    cluster: Daemons, mode: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not complaints(conform("halving.executors.slurm:Slurm", {"workers": workers, "mode": mode}))
    slurm.wait_for(lambda: not jobs())
    assert not [*tmp_path.iterdir()]


def state(job: str) -> str:
    return told("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()


def restart(cluster: Daemons) -> None:
    """End Slurm's controller, and begin it with the state that it left.

    Killed, it may forget the end of jobs that ended just then, and drain their nodes when it hears of them again.
    """
    cluster["slurmctld"].terminate()
    cluster["slurmctld"].wait()
    cluster["slurmctld"] = slurm.daemon("slurmctld", "-D", "-f", os.environ["SLURM_CONF"])
    slurm.wait_for(lambda: not subprocess.run(["scontrol", "ping"], capture_output=True, check=False).returncode)


class Playing:
    """What an executor says as it goes on."""

    def __init__(self, executor: Slurm) -> None:
        self.executor, self.steps = executor, list[Step]()

    def until(self, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 180
        while not happened():
            assert time.monotonic() < deadline, self.steps
            self.steps.extend(self.executor.wait())

    def epochs(self, trial: int) -> list[int]:
        return [step.epoch for step in self.steps if isinstance(step, Epoch) and step.trial == trial]

    def pid(self, trial: int) -> int:
        return next(int(e.metrics["pid"]) for e in self.steps if isinstance(e, Epoch) and e.trial == trial)

    def restarts(self) -> list[Restarted]:
        return [step for step in self.steps if isinstance(step, Restarted)]


@needs_slurm
@pytest.mark.parametrize("mode", ["pilots", "jobs"])
def test_a_job_that_is_preempted_or_late_leaves_a_checkpoint_and_another_takes_its_place(
    cluster: Daemons, tmp_path: Path, mode: str
) -> None:
    playing = Playing(executor := Slurm(Patient(tmp_path), 2, retries=0, mode=mode))

    def replaced(count: int) -> None:
        """Wait until so many trials had to go on elsewhere, and do."""
        before = len(playing.restarts())
        playing.until(lambda: len(playing.restarts()) == before + count)
        trials = [step.trial for step in playing.restarts()[before:]]
        told = {trial: len(playing.epochs(trial)) for trial in trials}
        kept = {trial: int((tmp_path / str(trial)).read_text()) for trial in trials}
        assert kept == {trial: playing.epochs(trial)[-1] for trial in trials}, "no epoch was lost"
        playing.until(lambda: all(len(playing.epochs(trial)) > told[trial] for trial in trials))

    try:
        for trial in (0, 1):
            executor.submit(Job(trial, {}, 0, 1000))
            playing.until(lambda: bool(playing.epochs(trial)))  # noqa: B023
            playing.until(lambda: trial == 1 or executor.has_room())  # noqa: B023
        if mode == "pilots":
            first, _ = told("squeue", "--noheader", "--me", "--array", "--states=RUNNING", "--format=%i").split()
            told("scontrol", "update", f"JobId={first}", "EndTime=now+1")  # its limit; it is asked at most 30 s later
            replaced(1)
        told("sbatch", "--partition=high", "--nodes=3", "--output=/dev/null", "--wrap=sleep 1")
        replaced(2)
        assert {step.reason for step in playing.restarts()} == {"its worker had to stop"}
    finally:
        executor.shutdown(graceful=False)
    slurm.wait_for(lambda: not jobs())


@needs_slurm
def test_the_death_of_a_node_is_no_trials_fault(cluster: Daemons) -> None:
    playing = Playing(executor := Slurm(Placed(0.05), 2, retries=0))
    died = ""
    try:
        playing.until(executor.has_room)
        executor.submit(Job(0, {}, 0, 60))
        playing.until(lambda: bool(playing.epochs(0)) and executor.has_room())
        environment = Path(f"/proc/{playing.pid(0)}/environ").read_bytes()
        assert b"HALVING_PILOT" not in environment
        died = environment.partition(b"SLURMD_NODENAME=")[2].partition(b"\0")[0].decode()
        node = f"SLURMD_NODENAME={died}\0".encode()
        cluster[died].kill()
        cluster[died].wait()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if node in (process / "environ").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                continue
        executor.submit(Job(1, {}, 0, 60))
        playing.until(executor.idle)
    finally:
        executor.shutdown(graceful=False)
        cluster[died] = slurm.daemon("slurmd", "-D", "-N", died, "-f", os.environ["SLURM_CONF"])
    (restart,) = playing.restarts()
    assert "ended or is out of reach" in restart.reason
    assert playing.epochs(0)[-60:] == playing.epochs(1)[-60:] == list(range(1, 61))


@needs_slurm
def test_a_killed_study_goes_on_as_a_job_itself_when_slurm_was_restarted_and_decides_as_alone(
    cluster: Daemons, fork: Any, repo: Path, tmp_path: Path
) -> None:
    there, alone = tmp_path / "slurm", tmp_path / "alone"
    study = fork.begin(*SMALL, "executor=slurm", "executor.workers=4", "r_max=9", f"hydra.run.dir={there}")
    slurm.wait_for(
        lambda: (journal := there / "journal.jsonl").exists() and journal.read_text().count('"finished"') > 2, 180
    )
    assert len(jobs()) == 4, "one of them waits, as there are three nodes"
    study.send_signal(signal.SIGKILL)
    assert nobody_left(Path(os.environ["SLURM_CONF"]))
    restart(cluster)
    command = shlex.join([sys.executable, str(repo / "train.py"), f"resume={there}", "executor.workers=2"])
    parent = told("sbatch", "--parsable", f"--output={tmp_path}/parent.log", f"--wrap=exec {command}").strip()
    slurm.wait_for(lambda: state(parent) not in ("PENDING", "RUNNING", "COMPLETING"), 300)
    assert state(parent) == "COMPLETED", (tmp_path / "parent.log").read_text()
    slurm.wait_for(lambda: not jobs())
    assert fork(*SMALL, "r_max=9", f"hydra.run.dir={alone}").returncode == 0
    assert rows(there) == rows(alone) and len(rows(there)) > 4
    assert nobody_left(Path(os.environ["SLURM_CONF"])) and (there / "pilots.log").stat().st_size < 1000


@needs_slurm
def test_a_killed_study_of_jobs_finds_them_when_slurm_was_restarted_and_decides_as_alone(
    cluster: Daemons, repo: Path, tmp_path: Path
) -> None:
    there, slowly = tmp_path / "jobs", tmp_path / "slowly"
    slowly.touch()
    settings = json.dumps({"workers": 2, "mode": "jobs"})
    words = [repo / "tests/faults/anywhere.py", there, "sha", "halving.executors.slurm:Slurm", settings]
    paths = os.pathsep.join([str(repo / "tests"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "SLOWLY": str(slowly), "PYTHONPATH": paths}
    with subprocess.Popen([sys.executable, *map(str, words)], env=env) as study:
        journal = there / "journal.jsonl"
        slurm.wait_for(lambda: journal.exists() and journal.read_text().count('"finished"') > 1)
        slurm.wait_for(lambda: bool([*there.glob(".jobs-*/*/said")]))
        study.kill()
    assert jobs(), "they do not know yet"
    restart(cluster)
    slowly.unlink()
    subprocess.run([sys.executable, *map(str, words)], env=env, check=True, timeout=300)
    slurm.wait_for(lambda: not jobs())
    assert not [*there.glob(".jobs-*")]
    assert anywhere.decided(replay(read(there))) == anywhere.alone(tmp_path / "alone", "sha")


@needs_slurm
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition": "nowhere"}, "executor=slurm: .*[Ii]nvalid partition"),
        ({"sbatch": {"wrap": "true"}}, "executor.sbatch.wrap: give long options of sbatch, but none of array"),
        ({"sbatch": {"-p": "low"}}, "executor.sbatch.-p: give long options of sbatch"),
        ({"workers": 0}, "executor.workers=0"),
        ({"mode": "pilot"}, "executor.mode=pilot: give pilots, which .* or jobs, one for each assignment"),
        ({"mode": "jobs", "address": "here"}, "executor.address=here: with executor.mode=jobs all goes through"),
        ({"mode": "jobs", "checkpoints": "carried"}, "executor.checkpoints=carried: with executor.mode=jobs"),
        ({"mode": "jobs", "partition": "nowhere"}, "executor=slurm: .*[Ii]nvalid partition"),
        ({"mode": "jobs", "python": "/no/python"}, "job .* could not start a worker: see jobs.log"),
        ({"python": "/no/python"}, "job .* could not start a worker: see pilots.log"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    cluster: Daemons, settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        executor = Slurm(Plain(), **{"workers": 1, **settings})
        try:
            executor.submit(Job(0, {}, 0, 1))
            while True:
                list(executor.wait())
        finally:
            executor.shutdown(graceful=False)
    slurm.wait_for(lambda: not jobs())


def test_without_slurm_or_with_nodes_out_of_reach_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no sinfo here"):
        Slurm(Plain(), 1)
    with pytest.raises(UserError, match="there is no scancel here"):
        Slurm(Plain(), 1, address="127.0.0.1")
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho 127.0.0.1 node17.example\n")
    (tmp_path / "sinfo").chmod(0o755)
    with pytest.raises(UserError, match=r"nodes such as node17.example have to connect .*executor.address="):
        Slurm(Plain(), 1)


@pytest.mark.parametrize(
    "setting", [{"sbatch": {"prolog": "x"}}, {"python": "./x"}, {"hosts": ["x"]}, {"address": "x"}]
)
def test_a_file_cannot_say_which_machines_work_nor_how(
    setting: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        monkeypatch.setattr(sys, "argv", ["train.py", "executor=slurm"])
        trust.remember()
        said = rf"executor\.{next(iter(setting))}: a file, and nobody at this command line"
        with pytest.raises(UserError, match=said):
            trust.check_cluster(setting)
        monkeypatch.setattr(sys, "argv", ["train.py", "executor=slurm", "trusted_packages=[cluster]"])
        trust.remember()
        trust.check_cluster(setting)
    finally:
        monkeypatch.undo()
        trust.remember()
