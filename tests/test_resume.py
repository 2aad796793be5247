"""`resume=<run dir>`: a study goes on after any end, on the command line as users call it."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Forked, Forks
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_exact_resume import CONF, DAMAGE
from test_process import alive

import halving
from halving.config.commands import override
from halving.config.polite import register
from halving.config.resumption import merged
from halving.errors import UserError
from halving.history import Resumed
from halving.journal import read
from halving.trial import Restarted, Resume, Start, Verdict

SMALL = ["model=softmax", "data.train_samples=100", "data.batch_size=50", "tracker=none", "executor.threads=1"]
SHA = ["scheduler=sha", "r_max=9", "name=study", *SMALL]
PROCESS = ["executor=process", "executor.workers=2"]


def only_run(root: Path, name: str = "study") -> Path:
    (found,) = (path for path in (root / "outputs" / name).iterdir() if path.name != "multirun")
    return found


def rows(run_dir: Path, table: str = "results.csv") -> list[dict[str, str]]:
    with (run_dir / table).open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def by_trial(run_dir: Path) -> list[dict[str, str]]:
    return sorted(rows(run_dir), key=lambda row: (int(row["trial"]), int(row["rung"])))


def decisions(run_dir: Path) -> list[Any]:
    return [event for event, _ in read(run_dir) if isinstance(event, Start | Resume | Verdict)]


def winner(run_dir: Path) -> tuple[Any, ...]:
    summary = json.loads((run_dir / "summary.json").read_text())
    return summary["best_trial"], summary["best_error"], summary["test_error"], summary["resource_spent"]


@pytest.fixture(scope="module")
def undisturbed(fork: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    result = fork(*SHA, cwd=root)
    assert result.returncode == 0, result.stderr
    return only_run(root)


@pytest.fixture(scope="module")
def ended(fork: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ended")
    result = fork(*SHA, "budget.evaluations=12", cwd=root)
    assert result.returncode == 0, result.stderr
    return only_run(root)


@pytest.fixture
def halted(ended: Path, tmp_path: Path) -> Path:
    """A study that its budget ended with 12 of 13 evaluations done: one trial is paused, and will be promoted."""
    return Path(shutil.copytree(ended, tmp_path / "halted"))


def test_a_finished_study_is_left_alone(undisturbed: Path, fork: Forks, tmp_path: Path) -> None:
    before = (undisturbed / "journal.jsonl").read_bytes()
    result = fork(f"resume={undisturbed}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (undisturbed / "journal.jsonl").read_bytes() == before
    assert "wins after 9 epochs" in result.stdout
    assert not (tmp_path / "outputs").exists()


def test_a_study_ended_by_its_budget_is_extended(halted: Path, undisturbed: Path, fork: Forks) -> None:
    assert len(rows(halted)) == 12
    hydra = {path: path.read_bytes() for path in (halted / ".hydra").iterdir()}
    result = fork(f"resume={halted}", "budget.evaluations=60")
    assert result.returncode == 0, result.stderr
    assert rows(halted) == rows(undisturbed)
    assert rows(halted, "curves.csv") == rows(undisturbed, "curves.csv")
    assert decisions(halted) == decisions(undisturbed)
    assert winner(halted) == winner(undisturbed)
    assert {path: path.read_bytes() for path in (halted / ".hydra").iterdir()} == hydra
    assert json.loads((halted / "summary.json").read_text())["end"] == "finished"
    command = json.loads((halted / "summary.json").read_text())["command"]
    assert command == json.loads((undisturbed / "summary.json").read_text())["command"]


def test_a_study_goes_on_with_the_references_that_it_was_begun_with(fork: Forks, tmp_path: Path) -> None:
    typed = [*SHA, "optimizer.momentum=${optimizer.lr}", "+optimizer.dampening=${.weight_decay}", "notes=\\${nope}"]
    assert fork(*typed, "seed=3", "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    begun = fork(*typed, "seed=${oc.env:SEED}", "budget.evaluations=7", "hydra.run.dir=part", cwd=tmp_path, SEED="3")
    assert begun.returncode == 0, begun.stderr
    result = fork("resume=part", *typed, "seed=3", "budget.evaluations=60", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert rows(tmp_path / "part") == rows(tmp_path / "whole")
    refused = fork("resume=part", "optimizer.momentum=0.1", cwd=tmp_path)
    assert "optimizer.momentum: ${optimizer.lr} in the study, 0.1 on the command line" in refused.stderr


def test_a_finished_study_gets_another_round(fork: Forks, tmp_path: Path) -> None:
    assert fork(*SHA, "r_max=3", "hydra.run.dir=one", cwd=tmp_path).returncode == 0
    assert fork(*SHA, "r_max=3", "scheduler=sha_twice", "hydra.run.dir=two", cwd=tmp_path).returncode == 0
    result = fork("resume=one", "scheduler.rounds=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert rows(tmp_path / "one") == rows(tmp_path / "two")


@pytest.mark.parametrize(
    ("option", "path"),
    [
        ("scheduler=sha", "scheduler.rounds"),
        ("scheduler=asha", "scheduler.max_trials"),
        ("searcher=one_at_a_time", "searcher.seeds"),
    ],
)
def test_what_may_grow_does_not_shrink(option: str, path: str) -> None:
    register(CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        fewer, begun, more = (compose("config", [option, f"{path}={n}"]) for n in (3, 4, 5))
    assert OmegaConf.select(merged(begun, more, [option, f"{path}=5"]), path) == 5
    with pytest.raises(UserError, match=f"another study:\n  {path}: 4 in the study, 3 on the command line\n"):
        merged(begun, fewer, [option, f"{path}=3"])


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (["scheduler=sha"], "scheduler.rounds=2 does"),
        (["scheduler=sha", "budget.evaluations=4"], "scheduler.rounds=2 does"),
        (["scheduler=hyperband"], "scheduler.rounds=2 does"),
        (["scheduler=median", "scheduler.max_trials=2"], "scheduler.max_trials=4 does"),
        (["scheduler=asha", "scheduler.max_trials=3"], "begin a new one, with a budget in place of max_trials"),
        (["scheduler=fifo", "scheduler.max_trials=9", "space=none"], "the space is exhausted"),
    ],
)
def test_a_study_that_no_budget_extends_says_what_does(
    options: list[str], cure: str, fork: Forks, tmp_path: Path
) -> None:
    assert fork(*SMALL, *options, "r_max=3", "hydra.run.dir=run", cwd=tmp_path).returncode == 0
    before = rows(tmp_path / "run")
    result = fork("resume=run", "budget.evaluations=60", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"which no budget extends; {cure}\n" in result.stdout
    assert rows(tmp_path / "run") == before
    if cure.endswith("does"):
        assert fork("resume=run", "budget.evaluations=60", cure.split()[0], cwd=tmp_path).returncode == 0
        assert len(rows(tmp_path / "run")) == 2 * len(before)


def test_a_study_of_a_python_function_goes_on_in_python(fork: Forks, undisturbed: Path, tmp_path: Path) -> None:
    halving.tune(lambda c, r: c["x"], {"x": [1.0, 2.0]}, r_max=1, run_dir=tmp_path / "run")
    result = fork("resume=run", cwd=tmp_path)
    assert result.returncode == 1 and "holds a study of a Python function" in result.stderr
    with pytest.raises(halving.UserError, match=f"python -m halving resume={undisturbed}"):
        halving.tune(lambda c, r: c["x"], {"x": [1.0, 2.0]}, r_max=1, run_dir=undisturbed, resume=True)


def test_a_report_that_cannot_be_written_is_said_last(fork: Forks, tmp_path: Path) -> None:
    (tmp_path / "run/report.html/in the way").mkdir(parents=True)
    result = fork(*SHA, "r_max=3", "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 1 and "wins after 3 epochs" in result.stdout
    assert result.stderr.startswith("error: the study has ended, but report.html could not be written:")
    assert f"rebuild {tmp_path / 'run'}" in result.stderr and "Traceback" not in result.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text())["end"] == "finished"
    (tmp_path / "run/best.yaml").unlink()
    shutil.rmtree(tmp_path / "run/report.html")
    assert fork("resume=run", cwd=tmp_path).returncode == 0
    assert (tmp_path / "run/best.yaml").is_file() and (tmp_path / "run/report.html").is_file()


def test_endless_schedulers_go_on_to_a_larger_budget(fork: Forks, tmp_path: Path) -> None:
    asha = [*SHA[1:], "scheduler=asha"]
    assert fork(*asha, "budget.evaluations=8", "hydra.run.dir=part", cwd=tmp_path).returncode == 0
    assert fork(*asha, "budget.evaluations=20", "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    result = fork("resume=part", "budget.evaluations=20", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert rows(tmp_path / "part") == rows(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (["space.optimizer.lr.b=0.5"], "space.optimizer.lr.b: 1.0 in the study, 0.5 on the command line"),
        (["~space.data"], r"space.data.batch_size._target_: scipy.stats.randint in the study, \(absent\)"),
        (["scheduler=asha"], "scheduler._target_: halving.schedulers.SuccessiveHalving in the study"),
        (["seed=1"], "seed: 0 in the study, 1 on the command line"),
        (["data=mnist"], r"data\._target_: \S+digits in the study, \S+mnist on the command line"),
        (["eta=2"], "eta: 3 in the study, 2 on the command line"),
        (["optimizer.lr=0.2", "seed=0"], "optimizer.lr: 0.1 in the study, 0.2"),
        (["experiment=lenet_halving"], r"data\._target_: halving.data.digits in the study, halving.data.fashion"),
    ],
)
def test_another_study_is_refused_with_the_difference(
    change: list[str], difference: str, undisturbed: Path, fork: Forks
) -> None:
    before = (undisturbed / "journal.jsonl").read_bytes()
    result = fork(f"resume={undisturbed}", *change)
    assert result.returncode == 1
    assert result.stderr.startswith("error: resume: this would be another study")
    assert re.search(difference, result.stderr)
    assert "Traceback" not in result.stderr
    assert (undisturbed / "journal.jsonl").read_bytes() == before


def test_repeating_what_the_study_was_begun_with_is_no_difference(halted: Path, undisturbed: Path, fork: Forks) -> None:
    result = fork(f"resume={halted}", *SHA, "budget.evaluations=60", "tracker=csv", "device=cpu")
    assert result.returncode == 0, result.stderr
    assert rows(halted) == rows(undisturbed)
    assert (halted / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "holds no study"), (b"", "ended before it had begun")],
)
def test_there_must_be_a_study(content: bytes | None, message: str, fork: Forks, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    if content is not None:
        (tmp_path / "there/journal.jsonl").write_bytes(content)
    result = fork("resume=there", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: resume: ") and message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_used_run_directory_is_not_trained_into(undisturbed: Path, fork: Forks) -> None:
    result = fork(*SHA, f"hydra.run.dir={undisturbed}")
    assert result.returncode == 1
    assert "already holds a study; go on with it by: python " in result.stderr


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_changes_nothing_but_the_work(
    damage: str, halted: Path, undisturbed: Path, fork: Forks
) -> None:
    (path,) = halted.glob("checkpoints/*/3.pt")
    other = next(file for file in halted.glob("checkpoints/*/3.pt"))
    trial = int(path.parent.name)
    if damage == "swapped":
        result = fork(*SHA, "trial=7", "scheduler=single", "r_max=3", f"hydra.run.dir={halted.parent / 'other'}")
        assert result.returncode == 0, result.stderr
        other = halted.parent / "other/checkpoints/0/3.pt"
    DAMAGE[damage][0](path, other)
    result = fork(f"resume={halted}", "budget.evaluations=60")
    assert result.returncode == 0, result.stderr
    restarted = [event for event, _ in read(halted) if isinstance(event, Restarted)]
    assert [(event.trial, event.since) for event in restarted] == [(trial, 0)]
    assert rows(halted) == rows(undisturbed)
    assert winner(halted) == winner(undisturbed)


def test_tables_that_a_death_prevented_are_written(undisturbed: Path, fork: Forks, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed, run_dir)
    tables = ("results.csv", "curves.csv", "summary.json", "report.html")
    for name in tables:
        (run_dir / name).unlink()
    assert fork(f"resume={run_dir}").returncode == 0
    assert all((run_dir / name).is_file() for name in tables)
    assert rows(run_dir) == rows(undisturbed)


def test_a_refused_resume_leaves_the_tables(undisturbed: Path, fork: Forks, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(undisturbed, run_dir)
    result = fork(f"resume={run_dir}", "scheduler.rounds=2", "budget.evaluations=0")
    assert result.returncode == 1
    assert (run_dir / "results.csv").read_bytes() == (undisturbed / "results.csv").read_bytes()


def test_a_study_with_a_plan_is_resumed_by_repeating_its_command(fork: Forks, tmp_path: Path) -> None:
    planned = [*SHA, "plan=auto", "budget.seconds=3", "hydra.run.dir=run"]
    assert fork(*planned, cwd=tmp_path).returncode == 0
    result = fork(*planned[:-1], "resume=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_executor_may_change(halted: Path, undisturbed: Path, fork: Forks, tmp_path: Path) -> None:
    begun = fork(*SHA, *PROCESS, "budget.evaluations=12", "hydra.run.dir=run", cwd=tmp_path)
    assert begun.returncode == 0, begun.stderr
    result = fork("resume=run", "executor=serial", "budget={evaluations: 60}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert by_trial(tmp_path / "run") == by_trial(undisturbed)
    result = fork(f"resume={halted}", "executor=process", "executor.workers=2", "budget.evaluations=60")
    assert result.returncode == 0, result.stderr
    assert by_trial(halted) == by_trial(undisturbed)


def test_a_study_goes_on_where_it_lies(undisturbed: Path, fork: Forks, tmp_path: Path) -> None:
    result = fork(f"resume={undisturbed}", "hydra.run.dir=elsewhere", cwd=tmp_path)
    assert result.returncode == 1
    assert "goes on where it lies" in result.stderr


@pytest.mark.parametrize("fidelity", ["epochs", "samples", "width", "folds"])
def test_a_damaged_winner_is_trained_again_for_its_test(fidelity: str, fork: Forks, tmp_path: Path) -> None:
    small = ["r_max=3", "epochs=3", "model=mlp", "model.width=8", "data.train_samples=30"]
    result = fork(*SHA, *small, f"fidelity={fidelity}", "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run_dir = tmp_path / "run"
    expected = winner(run_dir)
    (path,) = run_dir.glob("checkpoints/*/3.pt")
    # As if the process had died before the test: the last record goes, and the checkpoint rots meanwhile.
    lines = (run_dir / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (run_dir / "journal.jsonl").write_bytes(b"".join(lines[:-1]))
    path.write_bytes(path.read_bytes()[:500])
    result = fork("resume=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert winner(run_dir) == expected
    assert "3.pt is damaged" in (run_dir / "train.log").read_text()
    assert "is trained again from nothing" in (run_dir / "train.log").read_text()
    assert halving.load(run_dir).best_model() is not None


def begin(fork: Forks, root: Path, *arguments: str, until: str) -> Forked:
    """Start a study and return once it has printed `until`."""
    process = fork.begin(*arguments, cwd=root)
    process.said(until)
    return process


def children(pid: int) -> list[int]:
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def wait_for_the_end_of(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


# Slow enough to be struck in the middle: a convolutional net on some of the digits.
STRUCK = ["scheduler=sha", "r_max=9", "name=study", "data.train_samples=400", "tracker=none", "executor.threads=1"]


@pytest.fixture(scope="module")
def struck(fork: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("struck")
    assert fork(*STRUCK, cwd=root).returncode == 0
    return only_run(root)


@pytest.mark.parametrize("executor", [[], PROCESS], ids=["serial", "process"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_study_struck_by_a_signal_goes_on(
    executor: list[str], number: signal.Signals, status: int, struck: Path, fork: Forks, tmp_path: Path
) -> None:
    process = begin(fork, tmp_path, *STRUCK, *executor, until="rung 1")
    workers = children(process.pid)
    time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    run_dir = only_run(tmp_path)
    if number != signal.SIGKILL:
        assert f"go on with: python {Path(__file__).resolve().parents[1] / 'train.py'} resume={run_dir}\n" in out
        assert (run_dir / "results.csv").exists()
        assert "Traceback" not in err
    wait_for_the_end_of(workers)
    # Its own executor goes on once; elsewhere another does, which needs no workers.
    result = fork(f"resume={run_dir}", *([] if number == signal.SIGINT else ["executor=serial"]))
    assert result.returncode == 0, result.stderr
    assert by_trial(run_dir) == by_trial(struck)
    assert winner(run_dir) == winner(struck)
    epochs = [(row["trial"], row["resource"], row["epoch"]) for row in rows(run_dir, "curves.csv")]
    assert len(epochs) == len(set(epochs)) == 9 + 3 * 2 + 6
    assert len(list(run_dir.glob("checkpoints/*/*"))) == 1


@pytest.mark.parametrize("executor", [[], PROCESS], ids=["serial", "process"])
def test_a_second_signal_ends_at_once(executor: list[str], fork: Forks, struck: Path, tmp_path: Path) -> None:
    process = begin(fork, tmp_path, *STRUCK, *executor, until="rung 1")
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130
    wait_for_the_end_of(workers)
    result = fork(f"resume={only_run(tmp_path)}", "executor=serial")
    assert result.returncode == 0, result.stderr
    assert by_trial(only_run(tmp_path)) == by_trial(struck)


def test_a_killed_worker_is_made_up_for(fork: Forks, struck: Path, tmp_path: Path) -> None:
    process = begin(fork, tmp_path, *STRUCK, *PROCESS, "executor.checkpoint_every=1", until="rung 1")
    workers = [pid for pid in children(process.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    run_dir = only_run(tmp_path)
    restarted = [event for event, _ in read(run_dir) if isinstance(event, Restarted)]
    assert 1 <= len(restarted) <= 2 and all("SIGKILL" in event.reason for event in restarted)
    assert by_trial(run_dir) == by_trial(struck)


@pytest.mark.parametrize("scheduler", ["asha", "hyperband"])
def test_workers_killed_with_their_parent_in_an_asynchronous_study(scheduler: str, fork: Forks, tmp_path: Path) -> None:
    study = [f"scheduler={scheduler}", *STRUCK[1:], *PROCESS, "budget.evaluations=14"]
    process = begin(fork, tmp_path, *study, until="rung 1")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run_dir = only_run(tmp_path)
    before = decisions(run_dir)
    result = fork(f"resume={run_dir}")
    assert result.returncode == 0, result.stderr
    assert decisions(run_dir)[: len(before)] == before
    assert len(rows(run_dir)) == 14
    history = halving.load(run_dir).history
    assert history.running == 0 and history.halted.startswith("budget.evaluations=14")


def test_a_second_signal_while_workers_wind_up_ends_at_once(fork: Forks, struck: Path, tmp_path: Path) -> None:
    process = begin(fork, tmp_path, *STRUCK, *PROCESS, until="rung 1")
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - began < 10
    assert fork(f"resume={only_run(tmp_path)}", "executor=serial").returncode == 0
    assert by_trial(only_run(tmp_path)) == by_trial(struck)


def test_a_second_parent_is_refused_with_the_first_ones_name(tmp_path: Path, fork: Forks) -> None:
    process = begin(fork, tmp_path, *STRUCK, until="rung 0")
    try:
        result = fork(f"resume={only_run(tmp_path)}")
        assert result.returncode == 1
        assert f"pid {process.pid}" in result.stderr and "is being written by host" in result.stderr
        assert "Traceback" not in result.stderr
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert fork(f"resume={only_run(tmp_path)}").returncode == 0  # a dead owner's lock does not block


def test_each_process_is_in_the_journal(halted: Path, fork: Forks) -> None:
    assert fork(f"resume={halted}", "budget.evaluations=60", "executor.threads=1").returncode == 0
    (resumed,) = [event for event, _ in read(halted) if isinstance(event, Resumed)]
    assert "budget.evaluations=60" in resumed.settings["overrides"]
    assert resumed.settings["unresolved"]["budget"]["evaluations"] == 60
    assert resumed.settings["environment"]["threads"] == 1


def test_several_studies_resume_in_one_multirun(fork: Forks, undisturbed: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        done = "5" if name == "a" else "11"
        assert fork(*SHA, f"budget.evaluations={done}", f"hydra.run.dir={name}", cwd=tmp_path).returncode == 0
    result = fork("-m", "resume=a,b", "budget.evaluations=60", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert rows(tmp_path / "a") == rows(tmp_path / "b") == rows(undisturbed)


def test_a_multirun_goes_on_where_it_was(fork: Forks, undisturbed: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "it's a sweep"
    jobs = ["-m", *SHA, "seed=0,1", "notes='a b'", "optimizer.momentum=${optimizer.nesterov}"]
    assert fork(*jobs, override("hydra.sweep.dir", str(sweep)), cwd=tmp_path).returncode == 0
    expected = [rows(sweep / job) for job in "01"]
    finished = (sweep / "0/journal.jsonl").read_bytes()
    lines = (sweep / "1/journal.jsonl").read_bytes().splitlines(keepends=True)
    (sweep / "1/journal.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))  # as a kill would have left it
    result = fork(*jobs, override("resume", str(sweep)), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (sweep / "0/journal.jsonl").read_bytes() == finished
    assert [rows(sweep / job) for job in "01"] == expected
    assert expected[0] == rows(undisturbed)
    assert result.stdout.count("finished") == 2
    result = fork(override("resume", str(sweep)), cwd=tmp_path)
    assert result.returncode == 1
    (pasted,) = re.findall(r"is a multirun; repeat it: (.*)\n", result.stderr)
    result = fork(*shlex.split(pasted)[2:], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("finished") == 2 and f"{sweep / 'jobs.csv'}\n" in result.stdout
