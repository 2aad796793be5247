"""What people see of a study while it runs and afterwards: W&B runs, metrics.csv and the terminal."""

import csv
import io
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from rich.console import Console
from wandb.util import get_core_path

from halving.errors import UserError
from halving.history import Confirm, Confirmed, Ended, Event, Halted, Header, History, Ladder, Trial
from halving.journal import Journal, read, replay
from halving.report.conclusion import conclusion
from halving.report.explanation import explanation
from halving.report.html import report_html, trial_row
from halving.tracking.base import Trackers
from halving.tracking.csv import Csv
from halving.tracking.live import status
from halving.tracking.pace import Pace
from halving.tracking.progress import Progress
from halving.tracking.runs import run_id, steps, study_id, trial_config
from halving.tracking.wandb import Wandb
from halving.tracking.wording import duration
from halving.trial import Epoch, Finished, Outcome, Restarted, Resume, Start, Verdict

RUN_DIR = "2026-01-02_03-04-05_678901"


def header(run_dir: Path, **changes: object) -> Header:
    settings = {
        "config": {"seed": 0, "trial": 0, "epochs": 4, "optimizer": {"lr": 0.1, "momentum": 0.0}},
        "run_dir": str(run_dir),
        "tags": ["sweep-1"],
        "overrides": ["scheduler=sha"],
        "notes": "a note",
    }
    known = {
        "name": "halving",
        "scheduler": "sha",
        "searcher": "random",
        "seed": 0,
        "r_max": 4,
        "metric": "val_error",
        "full_cost": 4.0,
        "planned_cost": 8.0,
        "dimensions": ("optimizer.lr",),
        "plan": (Ladder((1, 2, 4), (4, 2, 1)),),
        "resumes": True,
        "settings": settings,
    }
    return Header(**(known | changes))


def study(run_dir: Path) -> list[Event]:
    """Four trials of 1 epoch, trial 1 fails, trials 0 and 2 go on to 2, trial 2 to 4; trial 0 stays paused."""
    errors = {0: {1: 0.5, 2: 0.45}, 2: {1: 0.4, 2: 0.3, 3: 0.25, 4: 0.2}, 3: {1: 0.6}}

    def train(trial: int, since: int, until: int) -> list[Event]:
        epochs = [
            Epoch(trial, e, {"lr": 0.1, "val_loss": 2 * errors[trial][e], "val_error": errors[trial][e]})
            for e in range(since + 1, until + 1)
        ]
        outcome = Outcome(trial, until, errors[trial][until])
        return [*epochs, Finished(outcome, seconds=2.0, checkpoint=f"{trial}.pt", cost=until - since)]

    def start(trial: int) -> Start:
        return Start(trial, {"optimizer.lr": (trial + 1) / 10}, 1)

    return [
        header(run_dir),
        *(start(0), *train(0, 0, 1), Verdict(0, "paused")),
        start(1),
        Epoch(1, 1, {"lr": 0.1, "val_loss": math.nan, "val_error": 0.9}),
        *(Finished(Outcome(1, 1, math.nan, failed=True), cause="the loss is nan", cost=1), Verdict(1, "failed")),
        *(start(2), *train(2, 0, 1), Verdict(2, "paused")),
        *(start(3), *train(3, 0, 1), Verdict(3, "paused"), Verdict(3, "stopped", "rank 3 of 4")),
        *(Resume(2, 1, 2, 1), *train(2, 1, 2), Verdict(2, "paused")),
        *(Resume(0, 1, 2, 1), *train(0, 1, 2), Verdict(0, "paused")),
        *(Resume(2, 2, 4, 2), *train(2, 2, 4), Verdict(2, "completed", "reached the last rung")),
        Ended(2, {"error": 0.22}, "python train.py trial=2"),
    ]


def play(events: list[Event], *trackers: object, before: Iterable[tuple[Event, float]] = ()) -> History:
    before = list(before)
    history = replay(before)
    together = Trackers(trackers, before)
    for second, event in enumerate(events, start=len(before)):
        history.apply(event, float(second))
        together.record(event, float(second))
    together.close()
    return history


def timed(events: list[Event]) -> list[tuple[Event, float]]:
    return [(event, float(second)) for second, event in enumerate(events)]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "halving" / RUN_DIR
    path.mkdir(parents=True)
    return path


def read_back(directory: Path) -> dict:
    """Read a run as `wandb leet inspect --json` does: its run record, its history by step and its last summary."""
    file = str(next(directory.glob("run-*.wandb")))
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", file]
    records: list[dict] = []
    for _ in range(100):  # W&B's service writes the last of it a moment after the run has finished
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        records = [json.loads(line) for line in lines]
        if any(record["type"] == "exit" for record in records):
            break
        time.sleep(0.05)
    summary: dict = {}
    for record in records:
        if record["type"] == "summary":
            summary |= record["summary"]["update"]
    history = [record["history"] for record in records if record["type"] == "history"]
    return {
        "run": next(record["run"] for record in records if record["type"] == "run"),
        "history": {row["step"]["num"]: row["item"] for row in history},
        "summary": summary,
        "exit": next(record["exit"].get("exit_code", 0) for record in records if record["type"] == "exit"),
    }


def directories(run_dir: Path) -> list[Path]:
    return list((run_dir / "wandb").glob("offline-run-*"))


def runs(run_dir: Path) -> dict[str, dict]:
    found = [read_back(directory) for directory in directories(run_dir)]
    assert len(found) == len({run["run"]["run_id"] for run in found})
    return {run["run"]["run_id"].rpartition("-")[2]: run for run in found}


@pytest.mark.parametrize("max_open", [100, 1])
def test_every_trial_is_a_wandb_run_of_its_own(run_dir: Path, max_open: int) -> None:
    tracker = Wandb(max_open=max_open)
    history = play(study(run_dir), tracker)
    mirrored = runs(run_dir)

    assert set(mirrored) == {"t0", "t1", "t2", "t3", "study"}
    for name, run in mirrored.items():
        assert run["run"]["run_group"] == f"halving-{RUN_DIR}"
        assert run["run"]["job_type"] == ("study" if name == "study" else "trial")
        assert run["run"]["tags"] == ["sha", "random", "sweep-1"]
        assert run["run"]["notes"] == "a note"
        assert run["run"]["project"] == "halving"
    winner = mirrored["t2"]
    config = winner["run"]["config"]["update"]
    assert config["optimizer"] == {"lr": 0.3, "momentum": 0.0}
    flat = {"study": f"halving-{RUN_DIR}", "method": "sha", "searcher": "random", "seed": 0}
    for run in mirrored.values():
        assert flat.items() <= run["run"]["config"]["update"].items()
        assert "trial" not in run["run"]["config"]["update"]
    assert winner["summary"]["trial"] == 2
    at = {name: value for name, value in winner["summary"].items() if "_at/" in name}
    assert at == {"error_at/1": 0.4, "error_at/2": 0.3, "error_at/4": 0.2}
    assert {step: row["val_error"] for step, row in winner["history"].items()} == {1: 0.4, 2: 0.3, 3: 0.25, 4: 0.2}
    assert {step: row["rung"] for step, row in winner["history"].items()} == {1: 0, 2: 1, 3: 2, 4: 2}
    expected = {"state": "completed", "error": 0.2, "resource": 4, "rung": 2, "reason": "reached the last rung"}
    assert expected.items() <= winner["summary"].items()
    assert mirrored["t3"]["summary"]["state"] == "stopped"
    assert {"state": "paused", "error": 0.45, "resource": 2}.items() <= mirrored["t0"]["summary"].items()
    failed = mirrored["t1"]
    assert {"state": "failed", "cause": "the loss is nan"}.items() <= failed["summary"].items()
    assert "error" not in failed["summary"]
    assert failed["exit"] == 1
    assert failed["history"][1]["val_loss"] == "NaN"

    curve = mirrored["study"]["history"]
    assert [curve[i]["best_error"] for i in range(1, 8)] == [0.5, 0.5, 0.4, 0.4, 0.3, 0.3, 0.2]
    assert [curve[i]["resource_spent"] for i in range(1, 8)] == [1, 2, 3, 4, 5, 6, 8]
    summary = mirrored["study"]["summary"]
    assert {"best_error": 0.2, "best_trial": 2, "test_error": 0.22, "full_resource": 16}.items() <= summary.items()
    (table,) = run_dir.glob("wandb/*-study/files/media/table/*.json")
    assert json.loads(table.read_text())["data"] == [
        [0, 0, 1, 2, 0.45, "paused", 4.0, 0.1],
        [1, 0, 0, 1, None, "failed", 0.0, 0.2],
        [2, 0, 2, 4, 0.2, "completed", 6.0, 0.3],
        [3, 0, 0, 1, 0.6, "stopped", 2.0, 0.4],
    ]
    assert tracker.sync_command(history) == f"wandb sync {run_dir}/wandb/offline-run-*"


def test_a_single_trial_is_one_run_with_its_test_error(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    finished = Finished(Outcome(0, 1, -0.8), cost=1)
    alone = header(run_dir, scheduler="single", maximize=True, metric="val_accuracy")
    epoch = Epoch(0, 1, {"val_accuracy": 0.8})
    play([alone, Start(0, {}, 1), epoch, finished, Verdict(0, "completed"), Ended(0, {"accuracy": 0.7})], Wandb())
    mirrored = runs(run_dir)
    assert set(mirrored) == {"t0"}
    summary = mirrored["t0"]["summary"]
    assert {"val_accuracy": 0.8, "test_accuracy": 0.7, "state": "completed"}.items() <= summary.items()
    assert capfd.readouterr() == ("", "")


def die(run_dir: Path, at: int, pause: float) -> None:
    journal, trackers = Journal(run_dir), Trackers([Csv(), Wandb(max_open=3)])
    for event, second in timed(study(run_dir))[:at]:
        journal.append(event, second)
        journal.sync()
        trackers.record(event, second)
    while not directories(run_dir):
        time.sleep(0.01)
    time.sleep(pause)
    os.kill(os.getpid(), signal.SIGKILL)


def elsewhere(call: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call a function of this module in a process of its own."""
    script = f"from pathlib import Path, PosixPath; import test_tracking; test_tracking.{call}{arguments!r}"
    command, here = [sys.executable, "-c", script], Path(__file__).parent
    # W&B's service of this process is not to serve that one.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return subprocess.run(command, cwd=here, env=clean, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("at", "pause"), [(4, 0.5), (11, 0.0), (11, 0.5), (23, 0.5)])
def test_a_killed_study_leaves_one_whole_run_for_each_trial(run_dir: Path, at: int, pause: float) -> None:
    assert elsewhere("die", run_dir, at, pause).returncode == -signal.SIGKILL
    history = play(study(run_dir)[at:], Csv(), Wandb(), before=read(run_dir))
    mirrored = runs(run_dir)

    assert set(mirrored) == {"t0", "t1", "t2", "t3", "study"}
    for trial in history.trials.values():
        run = mirrored[f"t{trial.trial}"]
        errors = {step: row["val_error"] for step, row in run["history"].items()}
        assert errors == {step: epoch.metrics["val_error"] for step, _, epoch in steps(trial)}
        assert (run["summary"]["state"], run["summary"]["resource"]) == (trial.state, trial.last.resource)
    curve = mirrored["study"]["history"]
    assert [curve[i]["resource_spent"] for i in range(1, 8)] == [1, 2, 3, 4, 5, 6, 8]
    assert mirrored["study"]["summary"]["best_error"] == 0.2

    with (run_dir / "metrics.csv").open() as file:
        rows = [tuple(map(int, (row["trial"], row["resource"], row["epoch"]))) for row in csv.DictReader(file)]
    known = {
        (t.trial, evaluation.until, epoch.epoch) for t in history.trials.values() for evaluation, epoch in t.epochs
    }
    assert len(rows) == len(known)
    assert set(rows) == known


def untouched(run_dir: Path) -> set[str]:
    return {path.parent.name.rpartition("-")[2] for path in run_dir.glob("wandb/offline-run-*/untouched")}


def test_a_finished_study_keeps_its_runs_until_it_goes_on(run_dir: Path) -> None:
    events = study(run_dir)
    play(events, Wandb())
    for directory in directories(run_dir):
        (directory / "untouched").touch()
    play([], Wandb(), before=timed(events))
    assert len(untouched(run_dir)) == 5

    more = [Resume(0, 2, 4, 2), Epoch(0, 3, {}), Finished(Outcome(0, 4, 0.1), cost=2), Verdict(0, "completed")]
    play([Restarted(0, 2, "its worker died")], Wandb(), before=timed([*events, *more[:2]]))
    play(more[2:], Wandb(), before=timed([*events, *more[:2], Restarted(0, 2, "its worker died")]))
    mirrored = runs(run_dir)
    assert set(mirrored) == {"t0", "t1", "t2", "t3", "study"}
    assert untouched(run_dir) == {"t1", "t2", "t3"}
    assert {"state": "completed", "error": 0.1, "restarts": 1}.items() <= mirrored["t0"]["summary"].items()
    assert mirrored["study"]["summary"]["best_trial"] == 0


def test_a_bracket_of_81_trials_is_81_runs_and_one(run_dir: Path) -> None:
    events: list[Event] = [header(run_dir)]
    for trial in range(81):
        events += [Start(trial, {"optimizer.lr": 0.1}, 1), Epoch(trial, 1, {"val_error": 0.5})]
        events += [Finished(Outcome(trial, 1, 0.5), cost=1), Verdict(trial, "paused")]
    play(events, Wandb())
    names = [directory.name.rpartition("-")[2] for directory in directories(run_dir)]
    assert sorted(names) == sorted([*(f"t{trial}" for trial in range(81)), "study"])
    (last,) = run_dir.glob("wandb/*-t80")
    assert read_back(last)["history"][1]["val_error"] == 0.5


def test_a_trial_is_mirrored_with_the_configuration_that_it_trained_with(run_dir: Path) -> None:
    def resolved(configuration: dict, trial: int) -> dict:
        return {
            "optimizer": {"lr": configuration["optimizer.lr"]},
            "peak": configuration["optimizer.lr"],
            "trial": trial,
        }

    play(study(run_dir)[:4], Wandb(config=resolved))
    config = runs(run_dir)["t0"]["run"]["config"]["update"]
    assert {key: config.get(key) for key in ("optimizer", "peak", "trial")} == {
        "optimizer": {"lr": 0.1},
        "peak": 0.1,
        "trial": None,
    }


def test_an_online_run_goes_on_with_the_first_step_that_wandb_lacks(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for W&B's client, since there is no server."""
    logged: dict[str, list[int]] = {}

    class Run:
        starting_step = 3  # as W&B says after `resume="allow"`
        url = ""

        def __init__(self, **options: str) -> None:
            assert (options["resume"], options["mode"]) == ("allow", "online")
            self.steps = logged.setdefault(options["id"].rpartition("-")[2], [])
            self.dir = str(run_dir / "wandb" / options["id"] / "files")
            self.summary: dict = {}
            Path(self.dir).mkdir(parents=True)

        def log(self, row: dict, step: int) -> None:
            self.steps.append(step)

        def define_metric(self, name: str, step_metric: str) -> None: ...

        def finish(self, exit_code: int = 0) -> None: ...

    monkeypatch.setattr("wandb.login", lambda **options: True)
    monkeypatch.setattr("wandb.init", Run)
    events = study(run_dir)
    cut = events.index(Resume(2, 2, 4, 2))
    play(events[cut:], Wandb(mode="online"), before=timed(events[:cut]))
    assert logged["t2"] == [3, 4]
    assert logged["study"] == [3, 4, 5, 6, 7, 7]


def test_nothing_goes_online_without_a_key(run_dir: Path, tmp_path: Path) -> None:
    """In a process of its own, as W&B reads its environment once."""
    script = (
        "import logging, sys; logging.basicConfig(format='%(message)s', stream=sys.stdout)\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from test_tracking import *\n"
        f"where = Path({str(run_dir)!r}); tracker = Wandb(mode='online')\n"
        "history = play(study(where)[:4], tracker); print(tracker.sync_command(history))"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    empty = clean | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path)}

    def said(**environment: str) -> list[str]:
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=empty | environment, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert said(WANDB_MODE="disabled") == ["None"]
    assert not (run_dir / "wandb").exists()
    warning, sync = said()
    assert "wandb login" in warning
    assert sync.startswith("wandb sync ")
    assert len(directories(run_dir)) == 2


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`anew(WANDB_X=...)`: W&B reads its environment anew."""

    def anew(**variables: str) -> None:
        wandb.teardown()
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    yield anew
    monkeypatch.undo()
    wandb.teardown()


@pytest.mark.parametrize(
    "variables",
    [
        {"WANDB_SWEEP_ID": "theirs"},
        {"WANDB_LAUNCH": "true", "WANDB_CONFIG": '{"theirs": 1}'},
        {"WANDB_RESUME_FROM": "theirs?_step=3"},
        {"WANDB_FORK_FROM": "theirs?_step=3"},
        {"WANDB_SERVICE": "3-1-unix-/theirs", "WANDB_SILENT": "false", "WANDB_RESUME": "must"},
        {
            f"WANDB_{name}": "theirs"
            for name in ("RUN_ID", "RUN_GROUP", "NAME", "NOTES", "TAGS", "JOB_TYPE", "PROJECT", "DIR", "X_FILES_DIR")
        },
        # W&B takes none of these
        {"WANDB_RUN_ID": "a/b", "WANDB_PROJECT": "a/b", "WANDB_TAGS": "t" * 65, "WANDB_SWEEP_ID": " "},
    ],
    ids=lambda variables: next(iter(variables)),
)
def test_the_environment_does_not_name_our_runs(
    run_dir: Path, anew: Callable[..., None], variables: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    anew(**variables)
    plain = header(run_dir)
    events = [replace(plain, settings={**plain.settings, "tags": [], "notes": ""}), *study(run_dir)[1:4]]
    play(events, Wandb())
    found = runs(run_dir)
    assert set(found) == {"t0", "study"}
    for name, run in found.items():
        record = run["run"]
        study_name = f"halving-{RUN_DIR}"
        assert record["run_id"] == f"{study_name}-{name}"
        assert record["display_name"] == (study_name if name == "study" else f"trial-{name[1:]}")
        assert record["run_group"] == study_name
        assert record["job_type"] == ("study" if name == "study" else "trial")
        assert record["project"] == "halving"
        assert not any(record.get(key) for key in ("notes", "sweep_id"))
        assert record["tags"] == ["sha", "random"]
        assert "theirs" not in json.dumps(record)
        assert list((run_dir / "wandb").glob(f"*-{record['run_id']}/run-{record['run_id']}.wandb"))
    play([], Wandb(), before=timed(events))
    assert len(directories(run_dir)) == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [("WANDB_MODE", "offlin"), ("WANDB_BASE_URL", "locahost"), ("WANDB_API_KEY", " secret"), ("WANDB_QUIET", "maybe")],
)
def test_a_setting_that_wandb_refuses_is_named_and_the_tracker_is_off(
    run_dir: Path, anew: Callable[..., None], name: str, value: str
) -> None:
    anew(**{name: value})
    said: list[str] = []
    trackers = Trackers([Wandb(), Csv()], say=said.append)
    for event, at in timed(study(run_dir)[:1]):
        trackers.record(event, at)
    while not said:
        time.sleep(0.01)
    trackers.close()
    (line,) = said
    assert line.startswith("tracker Wandb is switched off, and the study goes on without it: ")
    assert name in line and "\n" not in line and "secret" not in line
    assert trackers.off == said


@pytest.mark.parametrize(
    ("name", "project"),
    [
        ("a/b", "a-b"),
        ("größe 试", "größe 试"),
        ("a\nb\x1b", "a-b-"),
        ("n" * 140, None),
        (" ", "halving"),
        ("#1: 50%?", "-1- 50-"),
    ],
)
def test_any_name_is_one_that_wandb_takes(run_dir: Path, name: str, project: str | None) -> None:
    tracker = Wandb(project=name)
    assert ("W&B's project is" in tracker.note) == (project != name)
    long = header(run_dir, name=name)
    settings = {**long.settings, "tags": ["t" * 70, ""]}
    play([replace(long, settings=settings), *study(run_dir)[1:4]], tracker)
    for run in runs(run_dir).values():
        record = run["run"]
        assert len(record["project"]) <= 128 and record["project"] == (project or record["project"])
        assert len(record["run_id"]) <= 64
        assert max(len(record["run_group"]), len(record["display_name"])) <= 128
        assert [len(tag) for tag in record["tags"]] == [3, 6, 64]


def test_a_study_without_a_run_directory_says_so(run_dir: Path) -> None:
    said: list[str] = []
    trackers = Trackers([Wandb(), Csv()], say=said.append)
    for event, at in timed([replace(header(run_dir), settings={}), *study(run_dir)[1:]]):
        trackers.record(event, at)
    trackers.close()
    assert sorted(line.rpartition(": ")[2] for line in said) == [
        f"{name} writes into the run directory, but this study has none in Header.settings['run_dir']"
        for name in ("W&B", "the CSV tracker")
    ]


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(UserError, match=r"tracker\.mode=onlne: unknown; did you mean online"):
        Wandb(mode="onlne")


def test_study_and_run_ids_tell_studies_apart(tmp_path: Path) -> None:
    assert study_id(header(tmp_path / "halving" / RUN_DIR)) == f"halving-{RUN_DIR}"
    jobs = [study_id(header(tmp_path / "halving" / "multirun" / RUN_DIR / str(job))) for job in (0, 1)]
    assert jobs == [f"halving-{RUN_DIR}-0", f"halving-{RUN_DIR}-1"]
    assert run_id("halving-x", "t3") == "halving-x-t3"
    long = [run_id("n" * 80 + end, "t3") for end in "ab"]
    assert [len(identity) for identity in long] == [64, 64]
    assert long[0] != long[1]


def test_a_choice_replaces_the_options_of_the_other_one(tmp_path: Path) -> None:
    trial = Trial(7, {"optimizer.weight_decay": 0.01, "optimizer": "adam", "model.width": 8}, 0)
    config = trial_config(header(tmp_path), trial)
    assert config["optimizer"] == {"_choice_": "adam", "weight_decay": 0.01}
    assert config["model"] == {"width": 8}
    assert header(tmp_path).settings["config"]["optimizer"] == {"lr": 0.1, "momentum": 0.0}


def test_steps_grow_where_epochs_repeat() -> None:
    def numbers(*assignments: list[int]) -> list[int]:
        history = History()
        for rung, epochs in enumerate(assignments):
            history.apply(Start(0, {}, 9) if rung == 0 else Resume(0, 9, 27, rung), 0.0)
            for epoch in epochs:
                history.apply(Epoch(0, epoch, {}), 0.0)
            history.apply(Finished(Outcome(0, 9, 0.5)), 0.0)
        return [step for step, _, _ in steps(history.trials[0])]

    assert numbers([1, 2], [3, 4]) == [1, 2, 3, 4]
    assert numbers([1, 2, 1, 2, 3]) == [1, 2, 3]
    assert numbers([1, 2], [1, 2, 3]) == [1, 2, 3, 4, 5]


def test_metrics_csv_grows_row_by_row_and_is_appended_to(run_dir: Path) -> None:
    path = run_dir / "metrics.csv"
    events = study(run_dir)[:3]
    play(events, Csv())
    head = "elapsed,trial,resource,epoch,lr,val_loss,val_error\n2.0,0,1,1,0.1,1.0,0.5\n"
    assert path.read_text() == head
    path.write_text(head + "2.5,0,1")
    known = timed([*events, Epoch(0, 2, {"val_error": 0.45})])
    play([Epoch(0, 3, {"val_error": 0.4, "other": 1.0})], Csv(), before=known)
    assert path.read_text() == head + ",0,1,2,,,0.45\n4.0,0,1,3,,,0.4\n"


class Faulty:
    """Does what a test says at each event."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act
        self.told = 0
        self.closed = 0

    def resume(self, history: History) -> None: ...

    def record(self, event: Event, history: History) -> None:
        self.told += 1
        self.act()

    def close(self, history: History) -> None:
        self.closed += 1
        self.act()


def full() -> None:
    raise OSError("disk full")


def test_a_tracker_that_raises_is_named_once_and_left_out(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    faulty = Faulty(full)
    play(study(run_dir), faulty, Csv())
    assert (faulty.told, faulty.closed) == (1, 1)
    assert [record.message for record in caplog.records] == [
        "tracker Faulty failed and is switched off; the study goes on without it"
    ]
    assert len((run_dir / "metrics.csv").read_text().splitlines()) == 1 + 8


def test_a_tracker_that_blocks_holds_up_nobody_and_keeps_no_more_than_its_room(
    run_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halving.tracking.base.ROOM", 50)
    unblock = threading.Event()
    faulty = Faulty(lambda: unblock.wait() and None)
    together = Trackers([faulty, Csv()])
    begun = time.monotonic()
    for event, at in timed(study(run_dir)):
        together.record(event, at)
    kept = sys.getrefcount(event := Epoch(2, 9, {}))
    for _ in range(200):
        together.record(event, 99.0)
        time.sleep(0.0001)
    assert sys.getrefcount(event) < kept + 300  # the blocked queue and the histories, but no more
    together.close(patience=0.1)
    assert time.monotonic() - begun < 5
    assert [record.message for record in caplog.records] == [
        "tracker Faulty is 50 events behind and is switched off; the study goes on without it"
    ]
    assert len((run_dir / "metrics.csv").read_text().splitlines()) == 1 + 9
    unblock.set()


def end_blocked(run_dir: Path) -> None:
    logging.basicConfig(format="%(message)s")
    together = Trackers([Faulty(lambda: time.sleep(1000)), Csv()])
    for event, at in timed(study(run_dir)):
        together.record(event, at)
    together.close(patience=0.2)
    print("closed")


def test_a_tracker_that_blocks_at_the_end_does_not_keep_the_process(run_dir: Path) -> None:
    done = elsewhere("end_blocked", run_dir)
    assert (done.returncode, done.stdout) == (0, "closed\n")
    assert done.stderr == "tracker Faulty has stood still for 0.2 s and is switched off; the study goes on without it\n"
    assert len((run_dir / "metrics.csv").read_text().splitlines()) == 1 + 8


def shown(events: list[Event], terminal: bool = False, quiet: bool = False, width: int = 100) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=terminal, force_interactive=terminal, color_system=None)
    play(events, Progress(console, quiet=quiet))
    return text.getvalue()


SHA = {"r_max": 27, "full_cost": 27.0, "planned_cost": 81.0, "plan": (Ladder((1, 3, 9, 27), (27, 9, 3, 1)),)}
HYPERBAND = {
    "r_max": 9,
    "full_cost": 9.0,
    "planned_cost": 69.0,
    "plan": (Ladder((1, 3, 9), (9, 3, 1)), Ladder((3, 9), (5, 1)), Ladder((9,), (3,))),
}


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_a_unit_or_metric_in_brackets_is_no_markup(run_dir: Path) -> None:
    events = [header(run_dir, unit="[red]steps", metric="[/m]", **SHA), Start(0, {}, 1)]
    said = shown(events, terminal=True)
    assert said.count("[red]steps") >= 3 and "best [/m]" in said


def test_the_plan_says_what_the_study_will_cost(run_dir: Path) -> None:
    said = shown([header(run_dir, **SHA)])
    for row in (["0", "1", "27", "27"], ["1", "3", "9", "18"], ["2", "9", "3", "18"], ["3", "27", "1", "18"]):
        assert row in cells(said)
    assert "27 trials, 81 epochs instead of 729" in said


def test_the_plan_of_brackets_has_a_row_for_each(run_dir: Path) -> None:
    said = shown([header(run_dir, **(HYPERBAND | {"planned_cost": 138.0, "plan": HYPERBAND["plan"] * 2}))])
    for row in (["0,", "3", "9", "3", "1", "42"], ["1,", "4", "5", "1", "42"], ["2,", "5", "3", "54"]):
        assert row in cells(said)
    assert "34 trials, 138 epochs instead of 306" in said


def test_the_plan_charges_training_from_nothing_where_the_study_does(run_dir: Path) -> None:
    said = shown([header(run_dir, **(SHA | {"planned_cost": 108.0, "resumes": False}))])
    assert ["3", "27", "1", "27"] in cells(said)


def test_without_a_terminal_evaluations_are_lines(run_dir: Path) -> None:
    lines = shown(study(run_dir)).splitlines()
    assert lines[-7].startswith("trial 0 (rung 0, 1 epoch): val_error 0.5, the best so far [1 of 8 epochs")
    assert lines[-6].startswith("trial 1 (rung 0, 1 epoch): failed: the loss is nan")
    assert lines[-2].startswith("trial 0 (rung 1, 2 epochs): val_error 0.450 [6 of 8 epochs")
    assert "\x1b" not in "".join(lines)


def test_on_a_terminal_the_last_table_stays(run_dir: Path) -> None:
    said = shown(study(run_dir), terminal=True)
    last = said[said.rindex("promoted") :]
    rungs = [line.split() for line in last.splitlines()[1:4]]
    assert [[row[0], row[1], row[2]] for row in rungs] == [["0", "1", "4/4"], ["1", "2", "2/2"], ["2", "4", "1/1"]]
    assert [row[4:] for row in rungs] == [["2", "0.400"], ["1", "0.300"], ["0.200"]]
    assert "val_error 0.200  trial 2 at 4 epochs" in last
    assert "lr=0.3" in last
    assert "1, trial 1: the loss is nan" in last
    assert "8 of 8 epochs" in last


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("brackets", [1, 10])
def test_a_narrow_terminal_shows_whole_numbers(run_dir: Path, width: int, brackets: int) -> None:
    ladders = [Ladder(tuple(2**k for k in range(i, 10)), tuple(2**k for k in range(9 - i, -1, -1))) for i in range(10)]
    dimensions = ("optimizer.lr", *(f"group.dimension_{i}" for i in range(20)))
    known = {"r_max": 512, "full_cost": 512.0, "planned_cost": 9999.0, "plan": tuple(ladders[:brackets])}
    begun = [header(run_dir, **known, metric="val_some_long_metric_name", dimensions=dimensions)]
    begun += [Start(0, dict.fromkeys(dimensions, "a category of many words " * 9), 1), Finished(Outcome(0, 1, 0.25))]
    failed = Finished(Outcome(1, 1, math.nan, failed=True), cause="one " * 99)
    said = shown([*begun, Start(1, {"optimizer.lr": 0.1}, 1), failed], terminal=True, width=width)
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    last = said[said.rindex("best") - 40 :]
    assert max(map(len, said.splitlines())) <= width
    table = said[said.rindex("trials") if brackets == 1 else said.rindex("bracket") :].split("\n\n")[0]
    assert "2/512" in table and "0/256" in table and "0.25" in table and "\N{HORIZONTAL ELLIPSIS}" not in table
    assert len(last.splitlines()) < 24


def test_what_came_too_fast_to_be_drawn_is_drawn_when_nothing_more_comes(run_dir: Path) -> None:
    """As the starts of many workers do, of which the first frame knows one."""
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=True, force_interactive=True, color_system=None)
    known = header(run_dir)
    events = [replace(known, settings={**known.settings, "workers": 50}), *(Start(t, {}, 1) for t in range(40))]
    together = Trackers([Progress(console)])
    for event in events:
        together.record(event, 0.0)
    deadline = time.monotonic() + 20
    while "40 busy, 10 idle" not in text.getvalue() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "1 busy, 49 idle" in text.getvalue() and "40 busy, 10 idle" in text.getvalue()
    together.close()


@pytest.mark.parametrize(("width", "height"), [(60, 20), (80, 24), (200, 50)])
@pytest.mark.parametrize("brackets", [1, 10])
def test_a_hundred_workers_fit_on_a_small_terminal(run_dir: Path, width: int, height: int, brackets: int) -> None:
    """Whatever may be said is there at once: nothing wraps beyond the last line, and the last line is the time."""
    ladders = [Ladder(tuple(2**k for k in range(i, 10)), tuple(2**k for k in range(9 - i, -1, -1))) for i in range(10)]
    known = {"r_max": 512, "full_cost": 512.0, "planned_cost": 99999.0, "plan": tuple(ladders[:brackets])}
    settings = {**header(run_dir).settings, "workers": 100}
    history = replay(timed([header(run_dir, **known, settings=settings)]))
    dimensions = {f"group.dimension_{i}": "a category of many words" for i in range(20)}
    for trial in range(200):
        history.apply(Start(trial, dimensions, 1, trial % brackets), 1.0)
    for trial in range(120):
        outcome = Outcome(trial, 1, math.nan if trial == 5 else 0.1 + trial / 200)
        history.apply(Restarted(trial, 0, "its worker died of something " * 9), 30.0)
        history.apply(Finished(outcome, cause="a long cause " * 20 if trial == 5 else "", cost=1), 60.0)
    history.apply(Halted("budget.seconds=60 reached, and more words than a line holds " * 2), 60.0)
    decision = Verdict(7, "stopped", "rank 8 of 120 at rung 0 (error 0.135); the best 4 go on, the cut-off is 0.12")
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    lines = console.render_lines(status(history.header, history, Pace(0.0, 0.0), decision), pad=False)
    said = ["".join(segment.text for segment in line).rstrip() for line in lines]
    assert len(lines) < height and max(map(len, said)) <= width
    words = [line.split()[0] for line in said if line and not line.startswith(" ")]
    assert words[-8:] == ["best", "decided", "running", "retried", "failed", "halted", "workers", "spent"]
    assert said[-2].split(maxsplit=1)[1] == "80 busy, 20 idle; 2 epochs a second"
    for own, told in (
        ({"config": {"executor": {"checkpoints": None}}}, "80 busy; 2 epochs a second"),  # of nobody knows how many
        ({"workers": 4, "batch": 24}, "4 with 80 trials of up to 96 at a time; 2 epochs a second"),
    ):
        other = replace(history.header, settings={**settings, **own})
        shown = console.render_lines(status(other, history, Pace(0.0, 0.0), decision), pad=False)
        line = "".join(segment.text for segment in shown[-2]).rstrip()
        assert line.split(maxsplit=1)[1][:50] == told[:50] and len(shown) == len(lines)
    assert said[-1].split(maxsplit=1)[1].startswith("120 of 99999 epochs, 1 min ")
    assert "trial 7 stopped: rank 8 of 120" in "\n".join(said)


def test_the_last_decision_is_told_in_words(run_dir: Path) -> None:
    known = header(run_dir, maximize=True, metric="val_accuracy")
    history = replay(timed([known, Start(0, {}, 1), Finished(Outcome(0, 1, -0.5), cost=1)]))
    for decision, words in (
        (Resume(0, 1, 3, 1, "rank 1 of 3"), "trial 0 promoted to 3 (errors x -1): rank 1 of 3"),
        (Verdict(0, "paused"), "trial 0 paused\n"),
    ):
        console = Console(file=io.StringIO(), width=100, record=True)
        console.print(status(known, history, Pace(0.0, 0.0), decision))
        assert f"decided  {words}" in re.sub(" +\n", "\n", console.export_text())
    assert "decided  trial 2 completed: reached the last rung" in shown(study(run_dir), terminal=True)


@pytest.mark.parametrize(
    ("end", "words"),
    [(Ended(0), ", 24 s"), (Halted("interrupted"), ", 24 s"), (Halted("budget.seconds=20 reached"), ", 1 min 24 s")],
)
def test_the_clock_stands_still_once_a_study_has_ended(
    end: Event, words: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tables and its report are written after that; after a budget the winner is still to be tested."""
    known, console = header(run_dir), Console(file=io.StringIO(), width=100, record=True)
    history = replay([*timed([known, Start(0, {}, 1), Finished(Outcome(0, 1, 0.5), cost=1)]), (end, 24.0)])
    drawn, now = status(known, history, Pace(0.0, 0.0)), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    console.print(drawn)
    assert console.export_text().rstrip().endswith(words)


def test_confirmations_are_shown_while_they_run(run_dir: Path) -> None:
    known = header(run_dir)
    again = [Confirm(1, 2, 1, 4, "order"), Confirm(2, 2, 2, 4, "order"), Confirmed(1, 0.3)]
    events = [replace(known, settings={**known.settings, "workers": 3}), *study(run_dir)[1:-1], *again]
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(status(events[0], replay(timed(events)), Pace(0.0, 0.0)))
    said = console.export_text()
    assert "confirm  1 ended, trial 2 seed 2" in said and re.search("workers  1 busy, 2 idle *\n", said)


@pytest.mark.parametrize(
    ("cost", "seconds", "words"),
    [(1.0, 1.0, "1 epoch a second"), (2.0, 100.0, "1.2 epochs a minute"), (1.0, 86400.0, "1 epoch a day")],
)
def test_what_is_spent_in_a_while_is_told_in_the_units_of_the_study(
    run_dir: Path, cost: float, seconds: float, words: str
) -> None:
    """What an earlier process spent does not count."""
    before = [(header(run_dir), 0.0), (Start(0, {}, 1), 0.0), (Finished(Outcome(0, 1, 0.5), cost=99), 9.0)]
    after = [(Start(1, {}, 1), 9.0), (Finished(Outcome(1, 1, 0.5), cost=cost), 9.0 + seconds)]
    pace = Pace.since(header(run_dir), replay(before))
    assert pace.speed(header(run_dir), replay(before)) == ""
    assert pace.speed(header(run_dir), replay([*before, *after])) == words


def test_what_was_cut_off_does_not_run_any_more(run_dir: Path) -> None:
    events = study(run_dir)
    begun = [*events[: events.index(Resume(2, 2, 4, 2)) + 2], Halted("interrupted")]
    said = shown(begun, terminal=True)
    last = said[said.rindex("promoted  best") :]
    assert [word for word in last.splitlines()[3].split() if word[0].isdigit()] == ["2", "4", "0/1"]
    assert "cut off  trial 2 epoch 3/4" in last and "running" not in last
    history = play(begun, Wandb())
    assert {name: run["summary"].get("state") for name, run in runs(run_dir).items() if name != "study"} == {
        "t0": "paused",
        "t1": "failed",
        "t2": "interrupted",
        "t3": "stopped",
    }
    assert {row["trial"]: row["state"] for row in (trial_row(history, t) for t in history.trials.values())}[2] == (
        "interrupted"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_one_of_anything_is_singular(run_dir: Path, terminal: bool) -> None:
    one = {"r_max": 1, "full_cost": 1.0, "planned_cost": None, "plan": (), "metric": "error"}
    events = [header(run_dir, **one), Start(0, {"optimizer.lr": 0.1}, 1), Finished(Outcome(0, 1, 0.5), cost=1)]
    events += [Verdict(0, "completed"), Ended(0, {}, "")]
    for text in (shown(events, terminal), conclusion(replay(timed(events))), report_html(replay(timed(events)))):
        assert "1 epoch" in text and not re.search(r"\b1 (\w+ )?(trial|epoch|evaluation)s", text)
    known = {"planned_cost": 1.0, "plan": (Ladder((1,), (1,)),)}
    assert "1 trial, 1 epoch\n" in shown([header(run_dir, **(one | known))])
    unknown = {"planned_cost": 21.0, "plan": (Ladder((1, 3, 9), ()),)}
    said = shown([header(run_dir, **(one | unknown))])
    assert "21 epochs for as many trials as fit" in said and "0 trials" not in said


@pytest.mark.parametrize("terminal", [False, True])
def test_a_maximised_metric_is_shown_as_it_was_measured(run_dir: Path, terminal: bool) -> None:
    up = header(run_dir, maximize=True, metric="val_accuracy")
    said = shown([up, Start(0, {}, 1), Finished(Outcome(0, 1, -0.875), cost=1)], terminal)
    assert "val_accuracy 0.875" in said
    assert "-0.875" not in said


@pytest.mark.parametrize("terminal", [False, True])
def test_a_single_trial_shows_its_epochs(run_dir: Path, terminal: bool) -> None:
    one = header(run_dir, scheduler="single", planned_cost=4.0, plan=(Ladder((4,), (1,)),), dimensions=())
    epochs = [Epoch(0, e, {"lr": 0.1, "train_loss": 1 / e, "val_error": 0.5 / e}) for e in (1, 2, 3, 4)]
    said = shown([one, Start(0, {}, 4), *epochs, Finished(Outcome(0, 4, 0.125), cost=4)], terminal)
    assert "epoch 4/4" in said
    assert "train loss 0.25, val error 0.125" in said
    assert "rung" not in said


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_says_nothing_and_markup_in_causes_is_no_markup(run_dir: Path, terminal: bool) -> None:
    assert shown(study(run_dir), terminal, quiet=True) == ""
    failed = Finished(Outcome(0, 1, math.nan, failed=True), cause="Traceback\nValueError: shape [/red] [4, 4]")
    said = shown([header(run_dir), Start(0, {}, 1), failed, Halted("budget.seconds=5 is spent")], terminal)
    assert "ValueError: shape [/red] [4, 4]" in said
    assert "budget.seconds=5 is spent" in said


@pytest.mark.parametrize(
    ("terminal", "words"), [(False, "trial 0 begins again from 0 epochs: "), (True, "1, trial 0: ")]
)
def test_an_assignment_that_begins_again_is_shown_with_its_reason(run_dir: Path, terminal: bool, words: str) -> None:
    said = shown([header(run_dir), Start(0, {}, 1), Restarted(0, 0, "its worker was killed")], terminal)
    assert f"{words}its worker was killed" in said


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "0 s"), (0.4218, "0.42 s"), (4, "4 s"), (9.96, "10 s"), (59.3, "59 s"), (59.6, "1 min 0 s")),
        *((72, "1 min 12 s"), (7500, "2 h 5 min"), (277_200, "3 d 5 h")),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_errors_have_the_digits_that_tell_good_trials_apart(run_dir: Path) -> None:
    """The best quarter spreads by 3.7, so that a twentieth is 0.19; four digits while there is none."""
    errors = [76.64119, 75.82341, 79.52342, 98.31, 97.27, 135.2, 140.0, 1e5]
    events = [header(run_dir), *(Start(trial, {}, 1) for trial in range(len(errors)))]
    first = Finished(Outcome(0, 1, errors[0]), cost=1)
    assert "val_error 76.64, the best so far" in shown([*events, first])
    events += [Finished(Outcome(trial, 1, error), cost=1) for trial, error in enumerate(errors)]
    assert "best     val_error 75.82  trial 1 at 1 epoch" in shown(events, terminal=True)
    history = replay(timed(events))
    assert "validation error 75.82" in conclusion(history)
    assert "rung 0, 0 to 1 epoch: val_error 98.31" in "\n".join(explanation(history, 3))
