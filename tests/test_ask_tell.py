"""Loops that stay in charge: the same study as `tune`, by asking and telling."""

import errno
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import halving
from halving import schedulers
from halving.checkpoints.store import Store
from halving.history import Ended, Header, Resumed
from halving.journal import read
from halving.trial import Resume, Start, Verdict

SPACE = {"lr": {"_target_": "scipy.stats.loguniform", "a": 0.001, "b": 1.0}, "width": [1, 2, 3]}
STUDIES = {
    "sha": (halving.SuccessiveHalving, {"r_max": 9}),
    "asha": (schedulers.ASHA, {"r_max": 9, "max_trials": 12}),
    "hyperband": (schedulers.Hyperband, {"r_max": 9}),
    "median": (schedulers.Median, {"r_max": 6, "max_trials": 8}),
}


def curve(configuration: dict[str, Any], epoch: int) -> float:
    if configuration["lr"] > 0.7:
        return math.nan
    return abs(math.log10(configuration["lr"]) + 1) + configuration["width"] / epoch


def train(trial: Any) -> Any:
    done = int((trial.directory / "done").read_text()) if trial.since else 0
    assert done == trial.since
    for epoch in range(done + 1, 100):
        (trial.directory / "done").write_text(str(epoch))
        yield {"loss": curve(trial.configuration, epoch), "epoch": epoch}


def step(study: halving.AskTell, job: Any, scratch: Path, whole: bool = True) -> None:
    """Train a job as `train` does, and tell of it."""
    assert job.since == (int((job.directory / "done").read_text()) if job.since else 0)
    scratch.mkdir(exist_ok=True)
    (scratch / "done").write_text(str(job.until))
    told = [{"loss": curve(job.configuration, epoch)} for epoch in range(job.since + 1, job.until + 1)]
    study.tell(job, told if whole else told[-1], directory=scratch)


def decisions(run_dir: Path) -> list[Any]:
    return [event for event, _ in read(run_dir) if isinstance(event, Start | Resume | Verdict)]


@pytest.mark.parametrize("name", STUDIES)
def test_asking_and_telling_decides_as_tune_does(name: str, tmp_path: Path) -> None:
    scheduler, options = STUDIES[name]
    tuned = halving.tune(
        train, SPACE, scheduler, metric="loss", seed=3, run_dir=tmp_path / "tuned", progress=False, **options
    )
    study = halving.AskTell(SPACE, scheduler, metric="loss", seed=3, run_dir=tmp_path / "asked", **options)
    while (job := study.ask()) is not None:
        assert not study.done
        step(study, job, tmp_path / "scratch")
    assert study.done and study.ask() is None
    assert decisions(tmp_path / "asked") == decisions(tmp_path / "tuned")
    assert str(study.study.curves) == str(tuned.curves) and study.study.best.last.error == tuned.best.last.error
    loaded = halving.load(tmp_path / "asked")
    assert loaded.summary["end"] == "finished" and str(loaded.trials) == str(study.study.trials)
    assert (loaded.best_directory / "done").read_text() == str(loaded.best.last.resource)
    assert [path.name for path in (tmp_path / "asked/checkpoints").iterdir()] == [str(loaded.best.trial)]
    assert (tmp_path / "asked/report.html").is_file() and (tmp_path / "asked/results.csv").is_file()


def test_several_jobs_are_out_at_once_and_come_back_in_any_order(tmp_path: Path) -> None:
    study = halving.AskTell(SPACE, metric="loss", r_max=9, seed=3)
    out: list[Any] = []
    while not study.done:
        while (job := study.ask()) is not None:
            out.append(job)
        assert out, "none is ready, and the study is not done, so that some are out"
        step(study, out.pop(0 if len(out) % 2 else -1), tmp_path / "scratch", whole=False)
    tuned = halving.tune(train, SPACE, metric="loss", r_max=9, seed=3, progress=False)
    assert {t.trial: (t.state, t.last.error) for t in study.study.trials} == {
        t.trial: (t.state, t.last.error) for t in tuned.trials
    }
    assert study.study.best.trial == tuned.best.trial


@pytest.mark.parametrize("moment", ["asked", "two out", "saved", "told", "at the end"])
def test_a_kill_loses_nothing_that_was_told(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drive(run_dir: Path, resume: bool, kill: Callable[[str, int], None] = lambda moment, told: None) -> Any:
        study = halving.AskTell(SPACE, metric="loss", r_max=9, seed=3, run_dir=run_dir, resume=resume)
        told = 0
        while (job := study.ask()) is not None:
            kill("asked", told)
            if told == 3 and (other := study.ask()) is not None:
                kill("two out", told)
                step(study, other, tmp_path / "scratch")
            step(study, job, tmp_path / "scratch")
            told += 1
            kill("told", told)
        return study.study

    straight = drive(tmp_path / "straight", False)
    if (child := os.fork()) == 0:
        try:
            if moment == "saved":
                save = Store.save

                def fatal(self: Store, trial: int, resource: int, *rest: Any) -> str:
                    if (written := save(self, trial, resource, *rest)) and resource == 3:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return written

                monkeypatch.setattr(Store, "save", fatal)
            if moment == "at the end":
                monkeypatch.setattr("halving.app.ask_tell.ended", lambda history: os.kill(os.getpid(), signal.SIGKILL))
            at = {"asked": 9, "two out": 3, "told": 7}.get(moment, -1)
            drive(
                tmp_path / "killed",
                False,
                lambda name, told: os.kill(os.getpid(), 9) if (name, told) == (moment, at) else None,
            )
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    before = [event for event, _ in read(tmp_path / "killed")]
    resumed = drive(tmp_path / "killed", True)
    events = [event for event, _ in read(tmp_path / "killed")]
    assert events[: len(before)] == before
    if moment != "two out":  # told in another order, which is no other result
        assert decisions(tmp_path / "killed") == decisions(tmp_path / "straight")
    assert (
        str(resumed.curves) == str(straight.curves)
        and resumed.summary["resource_spent"] == straight.summary["resource_spent"]
    )
    assert [type(event) for event in events if isinstance(event, Header | Resumed | Ended)] == [Header, Resumed, Ended]


def test_what_was_never_told_is_handed_out_again_first_and_a_damaged_directory_is_noticed(tmp_path: Path) -> None:
    scratch, run_dir = tmp_path / "scratch", tmp_path / "run"
    with halving.AskTell(SPACE, metric="loss", r_max=9, seed=3, run_dir=run_dir) as study:
        for _ in range(9):
            step(study, study.ask(), scratch)
        lost = [study.ask(), study.ask()]
        assert [(job.since, job.until) for job in lost if job] == [(1, 3)] * 2
    with pytest.raises(
        halving.UserError, match=r"this study is closed; AskTell\(\.\.\., run_dir=\.\.\., resume=True\)"
    ):
        study.ask()
    assert halving.load(run_dir).summary["end"] == "interrupted" and (run_dir / "results.csv").is_file()
    assert not list(run_dir.glob("checkpoints/*/working-*"))
    with pytest.raises(halving.UserError, match="already holds a study; give resume=True"):
        halving.AskTell(SPACE, metric="loss", r_max=9, seed=3, run_dir=run_dir)
    with pytest.raises(halving.UserError, match="this would be another study"):
        halving.AskTell(SPACE, metric="loss", r_max=27, seed=3, run_dir=run_dir, resume=True)
    assert lost[0] and lost[1]
    (run_dir / f"checkpoints/{lost[0].trial}/1/files/done").write_text("2")
    with halving.AskTell(SPACE, metric="loss", r_max=9, seed=3, run_dir=run_dir, resume=True) as study:
        again = [study.ask(), study.ask()]
        assert [job.trial for job in again if job] == [job.trial for job in lost if job]
        assert again[0] and again[1] and again[0].directory is None and again[0].since == 0
        assert again[1].directory and (again[1].directory / "done").read_text() == "1"
        assert "is damaged" in study.study.history.trials[again[0].trial].last.restarts[0]
        step(study, again[0], scratch)
        last = study.study.history.trials[again[0].trial].last
        assert last.finished and len(last.finished.outcome.curve) == 2 and [e.epoch for e in last.epochs] == [2, 3]


def test_a_full_disk_lends_no_half_directory_and_the_job_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    run_dir = tmp_path / "run"
    with halving.AskTell(SPACE, metric="loss", r_max=9, seed=3, run_dir=run_dir) as study:
        for _ in range(9):
            step(study, study.ask(), tmp_path / "scratch")
        with monkeypatch.context() as patched:
            patched.setattr(os, "copy_file_range", full)
            with pytest.raises(halving.UserError, match=r"cannot write .*working-.*make room"):
                study.ask()
        assert not list(run_dir.glob("checkpoints/*/working-*"))
    with halving.AskTell(SPACE, metric="loss", r_max=9, seed=3, run_dir=run_dir, resume=True) as study:
        step(study, study.ask(), tmp_path / "scratch")


def test_what_is_told_wrongly_is_refused_and_the_job_stays_out(tmp_path: Path) -> None:
    with pytest.raises(
        halving.UserError, match=r"AskTell\.r_mx: SuccessiveHalving takes no 'r_mx'; did you mean r_max"
    ):
        halving.AskTell(SPACE, r_mx=3)
    study = halving.AskTell(SPACE, r_max=3, maximize=True, metric="accuracy")
    job = study.ask()
    assert job is not None and (job.since, job.until, job.directory) == (0, 1, None)
    for told, options, message in (
        ({"loss": 0.1}, {}, "tell: there is loss and no accuracy, which is the metric"),
        ({"accuracy": "high"}, {}, "accuracy='high', which is no number"),
        (None, {}, "accuracy=None, which is no number"),
        ([0.1, 0.2], {}, "tell: metrics of 2 epochs for a job to 1"),
        (0.5, {"directory": tmp_path / "nowhere"}, "nowhere: there is no such directory"),
    ):
        with pytest.raises(halving.UserError, match=message):
            study.tell(job, told, **options)
    study.tell(job, 0.5)
    with pytest.raises(halving.UserError, match="tell: trial 0 has no job to 1 out"):
        study.tell(job, 0.5)
    failed, odd = study.ask(), study.ask()
    assert failed and odd and study.ask() is None and not study.done
    study.tell(failed, ValueError("no luck"))
    study.tell(odd, failed=True)
    last = study.ask()
    assert last and (last.trial, last.since, last.until, last.directory) == (0, 1, 3, None)
    study.tell(last, {"accuracy": 0.75, "loss": 1.0})
    assert study.done and study.study.summary["best_error"] == 0.75
    assert [t.last.finished.cause for t in study.study.trials if t.last.finished] == [
        "", "ValueError: no luck", "told that it failed",
    ]  # fmt: skip
    assert study.study.curves[0][-1] == {"resource": 3, "epoch": 3, "accuracy": 0.75, "loss": 1.0}


def test_a_finished_study_is_done_at_once_and_grows_with_its_rounds(tmp_path: Path) -> None:
    def driven(resume: bool, **more: Any) -> tuple[int, halving.AskTell]:
        study = halving.AskTell(SPACE, r_max=3, run_dir=tmp_path, resume=resume, **more)
        told = 0
        while (job := study.ask()) is not None:
            study.tell(job, 1 / job.until)
            told += 1
        return told, study

    assert driven(False)[0] == 4
    assert halving.AskTell(SPACE, r_max=3, run_dir=tmp_path, resume=True).done
    told, study = driven(True, rounds=2, budget=halving.Budget(evaluations=6))
    assert told == 2 and study.study.history.halted == "budget.evaluations=6 reached"


def test_tune_and_a_loop_of_ones_own_go_on_with_each_others_study(tmp_path: Path) -> None:
    known = {"metric": "loss", "r_max": 9, "seed": 3, "run_dir": tmp_path / "both"}
    halving.tune(train, SPACE, budget=halving.Budget(evaluations=9), progress=False, **known)
    with halving.AskTell(SPACE, name="train", resume=True, **known) as study:
        job = study.ask()
        assert job and job.since == 1 and job.directory and (job.directory / "done").read_text() == "1"
        (job.directory / "done").write_text(str(job.until))
        told = [{"loss": curve(job.configuration, e), "epoch": e} for e in range(job.since + 1, job.until + 1)]
        study.tell(job, told, directory=job.directory)
        assert not job.directory.exists()
    both = halving.tune(train, SPACE, resume=True, progress=False, **known)
    straight = halving.tune(train, SPACE, progress=False, **known | {"run_dir": tmp_path / "straight"})
    assert str(both.curves) == str(straight.curves) and decisions(tmp_path / "both") == decisions(tmp_path / "straight")
