"""Several studies from one command: every job for itself, one tag, one table."""

import csv
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_resume import STRUCK, begin

import halving
from halving.app.command_line import _journal
from halving.config.multirun import compared
from halving.history import Halted, Header, Resumed
from halving.journal import FILE, Journal, read
from halving.journal.lock import owner
from halving.report.methods import mean_and_error
from halving.report.tables import uncertainty
from halving.tracking.wording import digits
from halving.trial import Epoch

SMALL = ("model=softmax", "data.train_samples=100", "r_max=9", "tracker=none", "executor.threads=1")


def jobs(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "jobs.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_methods_and_seeds_side_by_side(fork: Callable, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    result = fork("-m", "scheduler=fifo,sha", "seed=0,1", *SMALL, f"hydra.sweep.dir={sweep}")
    assert result.returncode == 0, result.stderr

    summaries = [json.loads((sweep / str(job) / "summary.json").read_text("utf-8")) for job in range(4)]
    settings = [(summary["scheduler"], summary["seed"]) for summary in summaries]
    assert settings == [("fifo", 0), ("fifo", 1), ("sha", 0), ("sha", 1)]
    # One bracket of 9, 3 and 1 trials spends 9 + 6 + 6 epochs; whole trials of 9 reach that with the third.
    assert [summary["resource_spent"] for summary in summaries] == [27, 27, 21, 21]
    assert [summary["trials"] for summary in summaries] == [3, 3, 9, 9]
    assert len({summary["best_error"] for summary in summaries}) > 1

    headers = [json.loads((sweep / str(job) / "journal.jsonl").open(encoding="utf-8").readline()) for job in range(4)]
    assert [header["settings"]["tags"] for header in headers] == [["sweep"]] * 4

    rows = jobs(sweep)
    assert [row["job"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["error"]) for row in rows] == [summary["best_error"] for summary in summaries]
    assert [float(row["epochs"]) for row in rows] == [27, 27, 21, 21]
    assert {row["state"] for row in rows} == {"finished"}
    assert all({"scheduler=fifo", "seed=1"} <= set(row["overrides"].split()) for row in rows[1:2])

    table = result.stdout[result.stdout.index("all jobs: ") :]
    for row in rows:
        scheduler, seed = row["overrides"].split()[:2]
        line = next(line for line in table.splitlines() if line.startswith(row["job"]) and "finished" in line)
        error, epochs = line.split()[3:5]
        assert line.split()[1:3] == [scheduler, seed] and float(epochs) == float(row["epochs"])
        assert float(error) == pytest.approx(float(row["error"]), abs=0.005) and len(error) <= len("0.1234")
    assert "trial 0" not in result.stdout and "rung" not in result.stdout
    assert result.stdout.endswith(f"{sweep}/jobs.csv\n{sweep}/comparison.html\n")
    page = (sweep / "comparison.html").read_text("utf-8")
    assert all(f'<a href="{job}/report.html">{job}</a>' in page for job in range(4)) and "Of 2 methods" in page


def test_a_job_that_fails_leaves_the_others_alone(fork: Callable, tmp_path: Path) -> None:
    result = fork("-m", "optimizer.lr=0.1,-1.0,0.2", *SMALL, f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 1
    assert result.stderr.endswith("\nerror: optimizer: Invalid learning rate: -1.0\n")
    assert "Traceback" not in result.stderr
    rows = jobs(tmp_path)
    assert [row["state"] for row in rows] == ["finished", "failed: optimizer: Invalid learning rate: -1.0", "finished"]
    assert rows[1]["error"] == "" and float(rows[2]["error"]) < 1
    assert "failed: optimizer: Invalid learning rate: -1.0" in result.stdout


def test_a_value_that_cannot_be_stops_the_sweep_before_its_first_job(fork: Callable, tmp_path: Path) -> None:
    result = fork("-m", "eta=3,abc", *SMALL, f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 1
    assert result.stderr.startswith("error: eta") and "abc" in result.stderr
    assert not list(tmp_path.rglob("journal.jsonl"))


TINY = ("model=softmax", "data.train_samples=40", "r_max=1", "tracker=none", "executor.threads=1")
SINGLE = (*TINY, "scheduler=single")
Fork = Callable[..., subprocess.CompletedProcess[str]]


def journals(sweep: Path) -> dict[str, bytes]:
    return {str(path.parent.relative_to(sweep)): path.read_bytes() for path in sweep.rglob("journal.jsonl")}


def settings_of(sweep: Path) -> dict[str, tuple[str, int]]:
    headers = {name: json.loads(journal.splitlines()[0]) for name, journal in journals(sweep).items()}
    return {name: (header["scheduler"], header["seed"]) for name, header in headers.items()}


def test_a_job_is_what_its_overrides_say(fork: Fork, tmp_path: Path) -> None:
    sweep = tmp_path / "my runs"
    assert fork("-m", "scheduler=fifo,sha", "seed=0,1", *TINY, f"hydra.sweep.dir='{sweep}'").returncode == 0
    before = journals(sweep)
    # Reordered, with a job less and others more, another tracker, and a default that was not typed before.
    more = ("seed=0,2,1", "device=cpu", "tracker=csv", "scheduler=sha,asha", "metric=val_error")
    result = fork("-m", *more, *TINY[:3], f"resume='{sweep}'", "executor.threads=1")
    assert result.returncode == 0, result.stderr
    after = journals(sweep)
    assert {name: after[name] for name in before} == before
    assert settings_of(sweep) == {
        str(number): method
        for number, method in enumerate(
            [("fifo", 0), ("fifo", 1), ("sha", 0), ("sha", 1), ("asha", 0), ("sha", 2), ("asha", 2), ("asha", 1)]
        )
    }
    assert [(row["job"], row["state"]) for row in jobs(sweep)] == [(str(job), "finished") for job in range(8)]
    assert result.stdout.count("done before") == 2


def test_a_swept_budget_makes_jobs_of_its_own(fork: Fork, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    study = ("scheduler=sha", "r_max=3", *SINGLE[:2], *SINGLE[3:5])
    assert fork("-m", *study, "budget.evaluations=1,2", f"hydra.sweep.dir={sweep}").returncode == 0
    before = journals(sweep)
    result = fork("-m", *study, "budget.evaluations=3,2,1", f"resume={sweep}")
    assert result.returncode == 0, result.stderr
    after = journals(sweep)
    assert len(after) == 3 and {name: after[name] for name in before} == before
    # Two jobs could become the one with a budget of 4, so that it is neither.
    assert fork("-m", *study, "budget.evaluations=4", f"resume={sweep}").returncode == 0
    assert len(journals(sweep)) == 4


def test_another_constant_is_another_multirun(fork: Fork, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    assert fork("-m", "seed=0,1", *SINGLE, "optimizer.lr=0.2", f"hydra.sweep.dir={sweep}").returncode == 0
    before = journals(sweep)
    result = fork("-m", "seed=0,1", *SINGLE[:-1], "optimizer.lr=0.3", "model=mlp", f"resume={sweep}")
    assert result.returncode == 1
    assert result.stderr.startswith("error: resume: this would be another multirun:\n")
    assert "optimizer.lr: 0.2 in the multirun, 0.3 on the command line" in result.stderr
    assert "model._target_: halving.training.models.softmax.Softmax in the multirun" in result.stderr
    assert f"train.py -m seed=0,1 {' '.join(SINGLE)} optimizer.lr=0.2" in result.stderr
    result = fork("-m", "seed=0,1", *SINGLE, "optimizer.lr=0.2,0.3", f"resume={sweep}")
    assert result.returncode == 0, result.stderr
    assert {name: journals(sweep)[name] for name in before} == before and len(journals(sweep)) == 4
    # What varies among the earlier jobs may be anything.
    assert fork("-m", "seed=5", *SINGLE, "optimizer.lr=0.4", f"resume={sweep}").returncode == 0
    assert len(jobs(sweep)) == 5


NAMED = (
    ["hydra.sweep.subdir=seed_${seed}"],
    ["hydra.sweep.subdir=a/${hydra.job.num}_${hydra.job.override_dirname}"],
    ["hydra.sweep.subdir=${hydra.job.override_dirname}", "hydra.job.config.override_dirname.exclude_keys=[name]"],
)


@pytest.mark.parametrize("named", NAMED)
def test_jobs_are_found_whatever_their_directories_are_called(named: list[str], fork: Fork, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    assert fork("-m", "seed=0,1", *SINGLE, *named, f"hydra.sweep.dir={sweep}").returncode == 0
    assert [row["state"] for row in jobs(sweep)] == ["finished", "finished"]
    before = journals(sweep)
    assert set(before) == {row["job"] for row in jobs(sweep)}
    result = fork("-m", "seed=0,1,2", *SINGLE, *named, f"resume={sweep}")
    assert result.returncode == 0, result.stderr
    assert {name: journals(sweep)[name] for name in before} == before
    assert len(journals(sweep)) == len(jobs(sweep)) == 3


def test_two_multiruns_do_not_share_a_directory(fork: Fork, tmp_path: Path) -> None:
    here = f"hydra.sweep.dir={tmp_path}"
    assert fork("-m", "seed=0,1", *SINGLE, here).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix not in ("", ".lock")}
    for words in (("seed=0,1", here), ("seed=2", here), ("seed=0,1", f"resume={tmp_path}", "hydra.sweep.dir=x")):
        result = fork("-m", *SINGLE, *words)
        assert result.returncode == 1
        assert re.fullmatch(r"error: .*(go on with it by resume=|goes on where it lies).*\n", result.stderr)
    # A job whose directory is another's leaves that as it was.
    result = fork("-m", *SINGLE, "seed=5,6", f"hydra.sweep.dir={tmp_path / 'new'}", "hydra.sweep.subdir=../0")
    assert result.returncode == 1
    assert ["finished", *["failed"] * 2] == [row["state"].partition(":")[0] for row in jobs(tmp_path / "new")]
    assert all("already holds a study" in row["state"] for row in jobs(tmp_path / "new")[1:])
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_is_interrupted(number: signal.Signals, status: int, fork: Fork, tmp_path: Path) -> None:
    words = ["-m", *STRUCK, "seed=0,1,2", "hydra.sweep.subdir=seed_${seed}"]
    process = begin(fork, tmp_path, *words, until="job seed_1 ")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, "")
    (sweep,) = (tmp_path / "outputs/study/multirun").iterdir()
    assert [row["state"] for row in jobs(sweep)] == ["finished", "interrupted", "not started"]
    assert [job.state for job in compared(sweep)] == ["finished", "interrupted", "not started"]
    assert not (sweep / "comparison.html").exists()
    (command,) = re.findall(r"^interrupted; go on with: python \S*train.py (.*)$", out, re.MULTILINE)
    if number == signal.SIGTERM:  # after which it goes on as after the other
        return
    finished = journals(sweep)["seed_0"]
    result = fork(*command.replace("'", "").split(), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [row["state"] for row in jobs(sweep)] == ["finished"] * 3
    assert journals(sweep)["seed_0"] == finished


def test_an_interrupt_that_an_import_makes_another_error_of_is_heeded(fork: Fork, tmp_path: Path) -> None:
    interrupted = "import os, signal\n\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    signal.pause()\n"
    torn = "except KeyboardInterrupt:\n    raise ImportError('torn') from None\n"
    (tmp_path / "late.py").write_text(interrupted + torn, encoding="utf-8")
    own = ("model._target_=late.Model", "trusted_packages=[late]", "hydra.sweep.dir=sweep")
    result = fork("-m", "seed=0,1", *SINGLE, *own, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (130, "")
    assert [row["state"] for row in jobs(tmp_path / "sweep")] == ["interrupted", "not started"]
    assert "interrupted; go on with: " in result.stdout


def test_what_users_typed_is_not_markup(fork: Fork, tmp_path: Path) -> None:
    space = ("scheduler=fifo", "scheduler.max_trials=1", "space=none", "+space.notes=[relu,tanh],[/abs]", *TINY)
    for name in ("first", "second"):
        words = ("name=':fire:'", f"searcher.initial=[{tmp_path}/first/0]", f"hydra.sweep.dir={tmp_path}/{name}")
        result = fork("-m", *space, *words[name == "first" and 2 :])
        assert result.returncode == 0, result.stderr
        overrides = [row["overrides"].split()[3] for row in jobs(tmp_path / name)]
        assert overrides == ["'+space.notes=[relu,tanh]'", "'+space.notes=[/abs]'"]
        for text in ("job 0 (+space.notes=[relu,tanh])", "0    +space.notes=[relu,tanh]", "1    +space.notes=[/abs]"):
            assert text in result.stdout
    assert "name=':fire:'" in result.stdout and f"searcher.initial=[{tmp_path}/first/0]" in result.stdout


def test_a_seed_counts_once_whatever_watches_it(fork: Fork, tmp_path: Path) -> None:
    result = fork("-m", "seed=0,1", "tracker=none,csv", *TINY[:3], TINY[4], f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    errors = [float(row["error"]) for row in jobs(tmp_path) if "tracker=csv" in row["overrides"]]
    table = result.stdout[result.stdout.index("over seeds") :].splitlines()
    assert table[1].split() == ["all", "jobs", *mean_and_error(errors).split(), "2"]


def test_each_job_says_how_it_ended_and_how_long_the_rest_takes(fork: Fork, tmp_path: Path) -> None:
    metric = ("metric=max:val_error", "optimizer.lr=0.1,-1.0", "seed=0,1,2", "notes='a b'")
    result = fork("-m", *metric, *SINGLE, f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 1
    rows = jobs(tmp_path)
    errors = [float(row["error"]) for row in rows[:3]]
    lines = [line for line in result.stdout.splitlines() if line.startswith("job ") and "begins" not in line]
    for seed, (error, line) in enumerate(zip(errors, lines, strict=False)):
        told = digits(error, uncertainty(halving.load(tmp_path / str(seed)).history))
        said = rf"job {seed} \(optimizer.lr=0.1 seed={seed}\): val_error {told}, 1 epoch in [\d.]+ s"
        assert re.fullmatch(rf"{said} \[{seed + 1} of 6 jobs, about \d+ s left\]", line) and len(told) <= 5
    assert lines[3].startswith(
        "job 3 (optimizer.lr=-1.0 seed=0): failed: optimizer: Invalid learning rate: -1.0 [4 of 6"
    )
    assert lines[5].endswith("[6 of 6 jobs]")
    table = result.stdout[result.stdout.index("over seeds") :].splitlines()
    assert table[0].split() == ["over", "seeds", "mean", "val_error", "±", "standard", "error", "seeds"]
    assert table[1].split() == ["optimizer.lr=0.1", *mean_and_error(errors).split(), "3"]
    assert table[2].split() == ["optimizer.lr=-1.0", "0", "3", "not", "finished"]
    assert "all jobs: " in result.stdout and "notes='a b'" in result.stdout


ENDLESS = (*SMALL[:2], *SMALL[3:], "scheduler=fifo", "r_max=1000000")


def training(job: Path) -> int:
    """Return the process that runs a job, once its study has epochs."""
    deadline = time.monotonic() + 120
    while not (job / FILE).is_file() or b'"type":"epoch"' not in (job / FILE).read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return int(owner(job).rpartition(" ")[2])


def test_ctrl_c_lets_the_jobs_of_joblib_end_their_studies(fork: Fork, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    launched = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path}")
    process = fork.begin("-m", "seed=0", *ENDLESS, *launched, "executor=process", "executor.workers=1")
    worker = training(tmp_path / "0")
    for pid in (worker, process.pid):  # as a terminal does
        os.kill(pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in err) == (130, False), err
    assert [event for event, _ in read(tmp_path / "0")][-1] == Halted("interrupted")
    assert [row["state"] for row in jobs(tmp_path)] == ["interrupted"]
    assert re.search(r"^interrupted; go on with: python .* -m hydra/launcher=joblib .*resume=", out, re.MULTILINE)


def test_a_requeued_job_of_submitit_goes_on_in_its_own_directory(fork: Fork, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    study = ("seed=0", *SMALL[:2], *SMALL[3:], "r_max=150", f"hydra.sweep.dir={tmp_path}")
    process = fork.begin("-m", *study, "hydra/launcher=submitit_local")
    os.kill(training(tmp_path / "0"), signal.SIGUSR2)  # as before its time is over
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    events = [event for event, _ in read(tmp_path / "0")]
    kept = [type(event) for event in events if isinstance(event, Header | Halted | Resumed)]
    assert kept == [Header, Halted, Resumed] and sum(isinstance(event, Epoch) for event in events) == 150
    assert [(row["job"], row["state"], float(row["epochs"])) for row in jobs(tmp_path)] == [("0", "finished", 150)]


def test_a_job_of_a_queue_goes_on_with_its_own_study_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(Header("study", "fifo", "random", 0, 1, settings={"queued": "SlurmLauncher 7_0"}), 0.0)
    journal.close()
    for other in ("", "SlurmLauncher 7_1", "LocalLauncher 7_0"):
        with pytest.raises(halving.UserError, match="already holds a study"):
            _journal(tmp_path, None, other)
    _journal(tmp_path, None, "SlurmLauncher 7_0").close()
