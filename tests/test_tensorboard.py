"""What TensorBoard's own reader finds of a study: every point once, and the table of the HParams plugin."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Forks
from scipy import stats
from test_tracking import header, play, study, timed

import halving
from halving.errors import UserError
from halving.history import Confirm, Confirmed, Event, History
from halving.journal import read, replay
from halving.review.rebuilding import rebuild
from halving.tracking.base import Trackers
from halving.tracking.tensorboard import FILE, TensorBoard
from halving.trial import Epoch, Start, Verdict

SMALL = ("model=softmax", "data.train_samples=100", "r_max=9", "executor.threads=1", "scheduler=sha")
DOMAINS = {"optimizer.lr": {"low": 0.1, "high": 0.4}}


def scalars(run_dir: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return the points of each tag of each run that has any."""
    found = multiplexer(run_dir)
    tags = {run: has["scalars"] for run, has in found.Runs().items() if has["scalars"]}
    return {
        run: {
            tag: [(point.step, pytest.approx(point.value, nan_ok=True)) for point in found.Scalars(run, tag)]
            for tag in own
        }
        for run, own in tags.items()
    }


def multiplexer(run_dir: Path) -> Any:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_multiplexer")
    found = events.EventMultiplexer(size_guidance={"scalars": 0, "tensors": 0})
    found.AddRunsFromDirectory(str(run_dir / "tensorboard"))
    found.Reload()
    return found


def hparams(run_dir: Path, kind: str) -> dict[str, Any]:
    """Return what the HParams plugin reads of a kind: experiment, session_start_info or session_end_info; by run."""
    metadata = pytest.importorskip("tensorboard.plugins.hparams.metadata")
    found = multiplexer(run_dir).PluginRunToTagToContent("hparams")
    parse = getattr(metadata, f"parse_{kind}_plugin_data")
    tag = f"_hparams_/{kind}"
    return {run: parse(tags[tag]) for run, tags in found.items() if tag in tags}


def values(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Return each run's hyperparameters in the table."""
    started = hparams(run_dir, "session_start_info")
    return {
        run: {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
        for run, session in started.items()
    }


def known(history: History) -> dict[str, list[tuple[int, float]]]:
    """Return each trial's curve as the journal has it."""
    return {
        f"trial-{trial.trial}": [(epoch.epoch, pytest.approx(epoch.metrics["val_error"])) for _, epoch in trial.epochs]
        for trial in history.trials.values()
    }


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    pytest.importorskip("tensorboard")
    return tmp_path


def events(run_dir: Path) -> list[Event]:
    first, *rest = study(run_dir)
    again = Confirm(1, 2, 1, 4, "order"), Confirm(2, 0, 1, 4, "order"), Confirmed(1, 0.21), Confirmed(2, float("inf"))
    return [header(run_dir, settings={**first.settings, "domains": DOMAINS}), *rest[:-1], *again, rest[-1]]


def test_every_trial_is_a_run_and_a_row(run_dir: Path) -> None:
    tracker = TensorBoard()
    history = play(events(run_dir), tracker)
    found = scalars(run_dir)
    assert {run: tags.get("val_error", []) for run, tags in found.items() if "again" not in run} == known(history)
    assert found["trial-2"]["final/error"] == [(1, 0.4), (2, 0.3), (4, 0.2)]
    assert found["trial-2"]["final/resource"] == [(1, 1), (2, 2), (4, 4)]
    assert found["trial-1"]["val_loss"] == [(1, float("nan"))] and "final/error" not in found["trial-1"]
    assert found["trial-2-again-1"] == {"final/error": [(4, 0.21)], "final/resource": [(4, 4)]}

    (experiment,) = hparams(run_dir, "experiment").values()
    (column,) = experiment.hparam_infos
    assert (column.name, column.domain_interval.min_value, column.domain_interval.max_value) == (
        "optimizer.lr",
        0.1,
        0.4,
    )
    assert [metric.name.tag for metric in experiment.metric_infos] == ["final/error", "final/resource"]
    assert (experiment.name, experiment.description) == ("halving", "a note")
    lr = {f"trial-{i}": {"optimizer.lr": (i + 1) / 10} for i in range(4)}
    assert values(run_dir) == {**lr, "trial-2-again-1": lr["trial-2"], "trial-0-again-2": lr["trial-0"]}
    sessions = hparams(run_dir, "session_start_info")
    assert {session.group_name for session in sessions.values()} == {
        ""
    }  # so that each is a row, of several studies too
    status = {run: session.status for run, session in hparams(run_dir, "session_end_info").items()}
    success, failure = 1, 2
    assert status == {
        "trial-1": failure,
        "trial-2": success,
        "trial-3": success,  # trial 0 is paused
        "trial-2-again-1": success,
        "trial-0-again-2": failure,
    }
    assert tracker.command(history) == f"tensorboard --logdir {run_dir}/tensorboard"


@pytest.mark.parametrize("at", [2, 4, 6, 11, 23, 31])
def test_wherever_it_was_cut_off_each_point_is_there_once(run_dir: Path, at: int) -> None:
    """After any event, and at any byte of what was written last."""
    whole = events(run_dir)
    play(whole[:at], TensorBoard())
    newest = max(run_dir.rglob(FILE), key=lambda path: path.stat().st_mtime_ns)
    raw = newest.read_bytes()
    play(whole, TensorBoard())
    expected = scalars(run_dir)
    for end in (0, 5, len(raw) - 20, len(raw) - 1, len(raw)):
        newest.write_bytes(raw[:end])
        play(whole[at:], TensorBoard(), before=timed(whole[:at]))
        assert scalars(run_dir) == expected and len(list(run_dir.rglob("*tfevents*"))) == 7
    newest.unlink()
    play([], TensorBoard(), before=timed(whole))
    assert scalars(run_dir) == expected


def test_a_killed_study_goes_on_and_is_rebuilt(run_dir: Path, fork: Forks, tmp_path: Path) -> None:
    process = fork.begin(
        *SMALL, "tracker=[csv,tensorboard]", "confirm.top=1", "confirm.seeds=2", f"hydra.run.dir={run_dir}"
    )
    process.said("trial 3 ")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = fork(f"resume={run_dir}", "notes=killed")
    assert result.returncode == 0, result.stderr
    assert f"curves: tensorboard --logdir {run_dir}/tensorboard\n" in result.stdout
    history = replay(read(run_dir))
    curves = {run: tags["val_error"] for run, tags in scalars(run_dir).items() if "again" not in run}
    assert curves == known(history)
    (experiment,) = hparams(run_dir, "experiment").values()
    assert experiment.description == "killed"
    domains = {
        each.name: (each.domain_interval.min_value, each.domain_interval.max_value) for each in experiment.hparam_infos
    }
    assert domains == {"optimizer.lr": (0.01, 1.0), "data.batch_size": (32, 255)}
    before, rows = scalars(run_dir), values(run_dir)
    assert len(rows) == 9 + 2
    run_dir.joinpath("tensorboard").rename(tmp_path / "old")
    assert "TensorBoard's files" in rebuild(run_dir)
    assert scalars(run_dir) == before and values(run_dir) == rows


def test_values_of_any_type_have_columns(run_dir: Path) -> None:
    space = {
        "mixed": [1, "a", None],
        "whole": [1, 2.5],
        "flag": [True, False],
        "normal": stats.norm(0, 1),
        "units": stats.randint(8, 65),
        "kind": {"_choice_": {"one": {"rate": stats.uniform(0, 1)}, "two": {"rate": [2, 3]}}},
        "many": list(range(100)),
        "words": [f"w{i}" for i in range(100)],
    }
    with pytest.raises(UserError, match=r"TensorBoard writes into the run directory; give run_dir"):
        halving.tune(lambda c, r: 1.0, space, halving.FIFO, max_trials=1, r_max=1, trackers=[TensorBoard()])
    found = halving.tune(
        lambda c, r: -1.0 / r, space, halving.FIFO, max_trials=30, r_max=1, maximize=True, metric="max:score",
        run_dir=run_dir, trackers=[TensorBoard()],
    )  # fmt: skip
    (experiment,) = hparams(run_dir, "experiment").values()
    columns = {each.name: each for each in experiment.hparam_infos}
    discrete = {
        name: [getattr(value, value.WhichOneof("kind")) for value in each.domain_discrete.values]
        for name, each in columns.items()
        if each.HasField("domain_discrete")
    }
    assert discrete == {
        "mixed": ["1", "a", "None"], "whole": [1, 2.5], "flag": [True, False], "kind": ["one", "two"],
    }  # fmt: skip
    ends = {
        name: (each.domain_interval.min_value, each.domain_interval.max_value)
        for name, each in columns.items()
        if each.HasField("domain_interval")
    }
    assert ends == {"units": (8, 64), "kind.rate": (0, 3), "many": (0, 99)}
    assert [metric.name.tag for metric in experiment.metric_infos] == ["final/score", "final/resource"]
    configurations = {f"trial-{trial.trial}": trial.configuration for trial in found.trials}
    assert values(run_dir) == {run: {**own, "mixed": str(own["mixed"])} for run, own in configurations.items()}


def test_many_trials_keep_no_file_open(run_dir: Path) -> None:
    told = Trackers([tracker := TensorBoard()])
    begun: list[Event] = [header(run_dir), *(Start(i, {"optimizer.lr": 0.1}, 1) for i in range(300))]
    for event, at in timed([*begun, *(Epoch(i, 1, {"val_error": 1e300}) for i in range(300)), Verdict(0, "failed")]):
        told.record(event, at)
    told.close()
    assert told.off == [] and tracker.command(History()) is None
    assert len(list(run_dir.rglob(FILE))) == 300
    assert not [fd for fd in Path("/proc/self/fd").iterdir() if FILE in str(fd.resolve())]


def test_what_it_cannot_write_does_not_end_the_study(run_dir: Path, fork: Forks) -> None:
    (run_dir / "tensorboard").write_text("in the way")
    result = fork(*SMALL, "tracker=[wandb,tensorboard]", "scheduler.n=3", f"hydra.run.dir={run_dir}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("note: tracker TensorBoard is switched off, and the study goes on without it") == 2
    assert len(list((run_dir / "wandb").glob("offline-run-*"))) == 4 and "curves: " not in result.stdout
    (run_dir / "tensorboard").unlink()
    assert "TensorBoard's files" in rebuild(run_dir) and len(scalars(run_dir)) == 3


def test_without_tensorboard_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halving.tracking.tensorboard.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: pip install 'halving\[tensorboard\]'"):
        TensorBoard()


def test_nothing_of_it_is_imported_before_it_is_used() -> None:
    program = "import halving.tracking.tensorboard, sys; print([it for it in sys.modules if it[:6] == 'tensor'])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
