"""The whole way to W&B, against a stand-in on loopback: runs, artifacts, reports and views, and W&B slow or away."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from conftest import environment
from wandb_server import ENTITY, Server, serving

import halving
from halving.report.wandb_preview import empty
from halving.report.wandb_report import WINNER, Grid, Panel, of_study
from halving.schedulers import ASHA
from halving.tracking.wandb import Wandb
from halving.tracking.wandb_reports import mirrored

SMALL = ("model=softmax", "data.train_samples=100", "r_max=9", "executor.threads=1", "scheduler=sha", "device=cpu")


@pytest.fixture(scope="module")
def made(fork: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of nine trials, mirrored offline; its user's home is beside it."""
    here = tmp_path_factory.mktemp("made")
    result = fork(*SMALL, f"hydra.run.dir={here / 'study'}", HOME=str(here / "home"))
    assert result.returncode == 0, result.stderr
    return here / "study"


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """A copy of it that lies elsewhere."""
    return Path(shutil.copytree(made, tmp_path / made.name, symlinks=True))


def sync(server: Server, *run_dirs: Path) -> None:
    command = [str(Path(sys.executable).with_name("wandb")), "sync", "--no-skip-synced"]
    runs = [str(path) for run_dir in run_dirs for path in run_dir.glob("wandb/offline-run-*")]
    variables = environment(**server.environment)
    subprocess.run([*command, *runs], cwd=run_dirs[0], env=variables, check=True, capture_output=True)


def report(fork: Callable, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return fork(*map(str, words), program="scripts/wandb_report.py", **variables)


def specified(directory: Path) -> dict:
    return json.loads((directory / "wandb_report.json").read_text("utf-8"))


def arrived(run_dir: Path, server: Server) -> None:
    """Check that the study's run came with all that it carries."""
    best = halving.load(run_dir).best
    assert best.checkpoint is not None
    winner = server.artifact("model")
    assert (winner.state, server.artifact("run_table").state) == ("COMMITTED", "COMMITTED")
    assert winner.files["best.yaml"] == (run_dir / "best.yaml").read_bytes()
    assert winner.files["weights.pt"] == (run_dir / best.checkpoint).read_bytes()
    run = server.run("study")
    assert (run.complete, run.config["method"], run.said["tags"]) == (
        True,
        "sha",
        ["sha", "random", "digits", "softmax"],
    )
    names = {name.rpartition("_")[0].rpartition("_")[0] for name in run.files if name.startswith("media/")}
    pictures = {f"media/images/figures/{name}" for name in ("trials", "incumbent", "hyperparameters")}
    assert names == {"media/table/trials", *pictures}
    assert run.files["report.html"] == (run_dir / "report.html").read_bytes()
    assert run.summary["winner"] == best.trial
    assert server.run(f"t{best.trial}").summary["error_at/9"] == server.run(f"t{best.trial}").summary["error"]
    assert not server.unknown


def test_sync_needs_nothing_from_outside_of_the_run_directory(made: Path) -> None:
    assert not (made.parent / "home" / ".local").exists()
    with serving() as server:
        sync(server, made)
        arrived(made, server)


def test_a_study_that_was_moved_is_whole_again_after_rebuild(fork: Callable, made: Path, tmp_path: Path) -> None:
    study = made.rename(tmp_path / "study")
    try:
        first = report(fork, study)
        assert "not where its W&B runs say" in first.stderr and f"study rebuild {study}" in first.stderr
        result = fork("rebuild", str(study), program="scripts/study.py")
        assert result.returncode == 0, result.stderr
        assert report(fork, study).stderr == ""
        with serving() as server:
            sync(server, study)
            arrived(study, server)
    finally:
        study.rename(made)
        fork("rebuild", str(made), program="scripts/study.py")


def test_without_publish_the_report_is_written_and_nothing_leaves(fork: Callable, made: Path, tmp_path: Path) -> None:
    with serving() as server:
        result = report(fork, made, "--out", tmp_path, **server.environment)
        assert not server.operations
    assert (result.returncode, result.stderr) == (0, "")
    best = halving.load(made).best.trial
    said = specified(tmp_path)
    grids = [block for block in said["blocks"] if block["block"] == "grid"]
    kinds = [panel["kind"] for grid in grids for panel in grid["panels"]]
    wanted = ["lines", "lines", "lines", "media", "parallel", "importance", "scatter", "scatter", "comparer", "table"]
    assert kinds == wanted
    colours = grids[0]["run_sets"][0]["colours"]
    assert [run.rpartition("-")[2] for run, colour in colours.items() if colour == WINNER] == [f"t{best}"]
    assert len(set(colours.values())) == 3  # two rungs below the winner's
    words = " ".join(block["text"] for block in said["blocks"] if "text" in block)
    summary = json.loads((made / "summary.json").read_text())
    assert f"trial {best} wins after 9 epochs" in words and summary["command"] in words and "confirm.top=3" in words
    page = (tmp_path / "wandb_report.html").read_text("utf-8")
    assert (
        summary["command"].split()[-1] in page and page.count("<figure") == len(wanted) and "To be mended" not in page
    )
    assert page.count("data:image/png") == 3 and not re.search(r"src=.http|<script", page)


def test_confirmations_are_in_the_study_s_run_and_in_the_report(fork: Callable, study: Path, tmp_path: Path) -> None:
    before = {run.attributes["ID"] for run in mirrored(study)}
    result = fork(f"resume={study}", "confirm.top=2", "confirm.seeds=2")
    assert result.returncode == 0, result.stderr
    runs = {run.attributes["ID"]: run for run in mirrored(study)}
    assert set(runs) == before
    (told,) = [run.summary for run in runs.values() if run.attributes["JobType"] == "study"]
    summary = json.loads((study / "summary.json").read_text())
    assert (told["confirmed"], told["winner"]) == (summary["confirmed"], summary["best_trial"])
    assert report(fork, study).stderr == ""
    heading = [block.get("text") for block in specified(study)["blocks"]].index("Is the winner real?")
    assert "confirmed with 2 fresh seeds each" in specified(study)["blocks"][heading + 1]["text"]


def test_what_would_show_nothing_is_named(fork: Callable, study: Path, made: Path) -> None:
    history = halving.load(made).history
    runs = mirrored(made)
    name = runs[0].config["study"]
    whole = of_study(history, made, name, "halving")
    assert empty(whole, runs) == []
    without = [replace(run, config={k: v for k, v in run.config.items() if k != "study"}) for run in runs]
    assert len(empty(whole, without)) == len([each for grid in whole.grids for each in grid.run_sets])
    (table,) = [grid for grid in whole.grids if grid.name == "every trial"]
    wrong = Panel("table", "Nobody's", (replace(table.panels[0].keys[0], name="other"),))
    odd = replace(whole, blocks=(Grid("odd", table.run_sets, (*table.panels, wrong)),))
    assert empty(odd, runs) == ['odd, "Nobody\'s" would show nothing: no run has summary other']

    for directory in study.glob("wandb/*-study"):
        shutil.rmtree(directory)
    result = report(fork, study)
    assert result.returncode == 0
    assert f"run set 'the study' holds no run with study = {name} and JobType = study" in result.stderr
    shutil.rmtree(study / "wandb")
    assert f"{study} has no W&B runs: it needs tracker=wandb" in report(fork, study).stderr


def test_publishing_again_updates_the_report_and_the_view(fork: Callable, made: Path, tmp_path: Path) -> None:
    with serving() as server:
        early = report(fork, made, "--out", tmp_path, "--publish", **server.environment)
        assert early.returncode == 1 and "upload the runs first, by `wandb sync`" in early.stderr
        sync(server, made)
        for _ in range(2):
            result = report(fork, made, "--out", tmp_path, "--publish", **server.environment)
            assert (result.returncode, result.stderr) == (0, "")
        assert not server.unknown
    published, view = server.views.values()
    assert (published["type"], view["type"]) == ("runs", "project-view")
    known = specified(tmp_path)["published"]
    assert [known["report"], known["view"]] == list(server.views)
    assert f"report: {known['url']}\nview: {known['view_url']}\n" in result.stdout
    blocks = published["spec"]["blocks"]
    (code,) = [block for block in blocks if block["type"] == "code-block"]
    assert "scheduler=single" in json.dumps(code)
    grids = [block["metadata"] for block in blocks if block["type"] == "panel-grid"]
    curves, *_, finalists, _ = grids
    name = mirrored(made)[0].config["study"]
    (run_set,) = curves["runSets"]
    assert run_set["project"]["entityName"] == ENTITY
    filters = {each["key"]["name"]: each["value"] for each in run_set["filters"]["filters"]}
    assert filters == {"study": name, "jobType": "trial"}
    (panel,) = curves["panelBankSectionConfig"]["panels"]
    best = f"{name}-t{halving.load(made).best.trial}"
    assert panel["config"]["overrideLineWidths"] == {f"{best}:val_error": 4.0} and panel["config"]["limit"] == 1000
    assert curves["customRunColors"][best] == WINNER
    chosen = {each["key"]["name"]: each["value"] for each in finalists["runSets"][0]["filters"]["filters"]}["name"]
    assert len(chosen) == 5 and set(chosen) <= set(server.runs)
    assert not view["spec"]["section"]["runSets"][0]["grouping"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("extra", "publishing needs wandb-workspaces: pip install 'halving[report]'"),
        ("key", "publishing needs W&B's key on this machine: `wandb login` sets one"),
        ("study", "no journal.jsonl there or below; give run directories, or a multirun's directory"),
        ("away", "W&B did not take the report: "),
    ],
)
def test_a_report_that_cannot_be_published_says_why(
    fork: Callable, made: Path, tmp_path: Path, case: str, message: str
) -> None:
    (tmp_path / "wandb_workspaces.py").write_text("raise ImportError")
    variables = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_CONFIG_DIR": str(tmp_path)}
    if case == "extra":
        variables["PYTHONPATH"] = str(tmp_path)
    if case == "away":
        variables |= Server("http://127.0.0.1:1").environment | {"WANDB_HTTP_TIMEOUT": "1"}
    place = (tmp_path / "none",) if case == "study" else (made, "--out", tmp_path)
    result = report(fork, *place, "--publish", **variables)
    assert result.returncode == 1 and not (tmp_path / "none").exists()
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_several_studies_are_compared_by_method(fork: Callable, tmp_path: Path) -> None:
    for seed in (0, 1):
        for scheduler in (halving.SuccessiveHalving, partial(ASHA, max_trials=9)):
            name = "asha" if isinstance(scheduler, partial) else "sha"
            halving.tune(
                falling, {"x": [1.0, 2.0, 3.0, 4.0]}, scheduler, r_max=9, seed=seed, trackers=[Wandb()],
                run_dir=tmp_path / "studies" / f"{name}-{seed}",
            )  # fmt: skip
    with serving() as server:
        sync(server, *(tmp_path / "studies").iterdir())
        result = report(fork, tmp_path / "studies", "--publish", **server.environment)
    assert (result.returncode, result.stderr) == (0, "")
    (figure,) = [run for run in server.runs.values() if run.said.get("jobType") == "comparison"]
    assert [name for name in figure.files if name.startswith("media/images/figures/comparison")]
    published = next(view for view in server.views.values() if view["type"] == "runs")
    grids = [block["metadata"] for block in published["spec"]["blocks"] if block["type"] == "panel-grid"]
    sets = grids[-1]["runSets"]
    assert [each["name"] for each in sets] == ["ASHA", "SuccessiveHalving"]
    for each in sets:
        conditions = {one["key"]["name"]: one["value"] for one in each["filters"]["filters"]}
        assert len(conditions["study"]) == 2 and each["grouping"]
    (panel,) = grids[-1]["panelBankSectionConfig"]["panels"]
    assert (panel["config"]["groupArea"], panel["config"]["aggregate"]) == ("stderr", True)
    assert len(grids[-1]["customRunColors"]) == 2
    text = " ".join(block.get("content", "") for block in published["spec"]["blocks"])
    assert "95 % t interval" in text and "| SuccessiveHalving | 2 |" in text


def falling(configuration: dict, resource: int) -> float:
    return configuration["x"] / resource


@pytest.mark.parametrize("fault", ["hangs", "slow", "refuses"])
def test_wandb_holds_nobody_up(fork: Callable, tmp_path: Path, fault: str) -> None:
    run_dir = tmp_path / "study"
    with serving() as server:
        variables = server.environment
        if fault == "hangs":
            server.hanging.set()
        elif fault == "slow":
            server.latency = 3.0
        else:
            variables["WANDB_BASE_URL"] = "http://127.0.0.1:1"
        words = (*SMALL, "r_max=3", "tracker.mode=online", "tracker.finish_seconds=1.5", f"hydra.run.dir={run_dir}")
        process = fork.begin(*words, **variables)
        process.said("files: ")
        concluded = time.monotonic()
        assert "trial 1 wins after 3 epochs" in process.out.read_text()
        out, err = process.communicate(60)
        assert time.monotonic() - concluded < 10
    assert (process.returncode, err) == (0, "")
    end = out[out.index("files: ") :]
    assert "note: waiting for tracker Wandb, at most 1.5 s" in end
    assert f"python -m halving study rebuild {run_dir}\n" in end
    assert end.endswith(f"upload: wandb sync {run_dir}/wandb/offline-run-*\n")
    log = (run_dir / "train.log").read_text()
    assert log.count("\n") == 1 and "tracker Wandb has stood still for 1.5 s and is switched off" in log
    rebuilt = fork("rebuild", str(run_dir), program="scripts/study.py")
    assert "4 offline W&B runs" in rebuilt.stdout


def test_a_signal_ends_the_wait_and_not_the_study(fork: Callable, tmp_path: Path) -> None:
    with serving() as server:
        server.hanging.set()
        words = (*SMALL, "r_max=3", "tracker.mode=online", "tracker.finish_seconds=500", f"hydra.run.dir={tmp_path}")
        process = fork.begin(*words, **server.environment)
        process.said("note: waiting for tracker Wandb, at most 500 s; Ctrl-C goes on without")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(60)
    assert (process.returncode, err) == (0, "")
    assert "interrupted" not in out and f"upload: wandb sync {tmp_path}" in out
    assert halving.load(tmp_path).history.ended is not None
