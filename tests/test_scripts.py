"""The scripts on a run directory, as users call them."""

import fcntl
import importlib
import json
import math
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import colours

import halving
from halving.checkpoints.content import write
from halving.errors import UserError
from halving.journal import encode
from halving.report.canvas import ACCENT, INK, PAPER
from halving.review.rebuilding import rebuild
from halving.review.verification import verify


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    halving.tune(
        lambda configuration, resource: configuration["x"] / resource,
        {"x": [4.0, 3.0, 2.0, 1.0]},
        halving.SuccessiveHalving,
        eta=2,
        r_min=1,
        r_max=4,
        run_dir=tmp_path / "study",
    )
    return tmp_path / "study"


def call(fork: Callable, *arguments: object) -> subprocess.CompletedProcess[str]:
    return fork(*map(str, arguments), program="scripts/study.py")


def test_explain_says_why_at_each_rung(fork: Callable, run_dir: Path) -> None:
    study = halving.load(run_dir)
    said = call(fork, "explain", run_dir, "--trial", study.best.trial).stdout
    assert said.count("promoted: rank 1 of") == 2
    assert "completed: reached the last rung, 4" in said
    loser = next(trial for trial in study.trials if trial.state == "stopped")
    assert "stopped: rank" in call(fork, "explain", run_dir, "--trial", loser.trial).stdout
    missing = call(fork, "explain", run_dir, "--trial", 99)
    assert (missing.returncode, missing.stderr) == (1, "error: trial 99: the study has trials 0 to 3\n")


@pytest.mark.parametrize("signal", [1.0, 0.0])
def test_importance_is_one_number_on_the_page_and_on_the_terminal(
    fork: Callable, tmp_path: Path, signal: float
) -> None:
    noise = np.random.default_rng(0)
    halving.tune(
        lambda configuration, _: signal * configuration["x"] + 0.1 * noise.random(),
        {"x": list(range(1, 41)), "opt.decay": [0.0, 1e300, math.inf]},
        halving.FIFO,
        r_max=1,
        max_trials=30,
        run_dir=tmp_path / "study",
    )
    said = call(fork, "importance", tmp_path / "study").stdout
    page = " ".join(re.sub("<[^>]*>", " ", (tmp_path / "study" / "report.html").read_text()).split())
    shares = re.findall(r"(-?[\d.]+ ± [\d.]+)  (\S+)", said)
    if signal:
        assert [name for _, name in shares] == ["x", "opt.decay"]
        assert all(f"{name} {share}" in page for share, name in shares)
        (explained,) = re.findall(r"explains (\d+ %)", said)
        assert f"The forest explains {explained} of the ranks" in page
    else:
        (score,) = re.findall(r"explains next to nothing of their ranks \(R² (-?[\d.]+)\)", said)
        assert f"explains next to nothing (R² {score})" in page
        assert not shares and " ± " not in page and " importance " not in page


def test_rebuild_writes_the_same_files_from_the_journal_alone(fork: Callable, run_dir: Path) -> None:
    names = ("results.csv", "curves.csv", "summary.json", "report.html")
    before = {name: (run_dir / name).read_bytes() for name in names}
    for name in names:
        (run_dir / name).unlink()
    assert fork("rebuild", str(run_dir), program="scripts/study.py", drawn=True).returncode == 0
    assert {name: (run_dir / name).read_bytes() for name in names} == before


def test_rebuild_from_an_empty_journal_leaves_what_there_is(fork: Callable, run_dir: Path, tmp_path: Path) -> None:
    at = tmp_path / "copy"
    shutil.copytree(run_dir, at)
    (at / "journal.jsonl").write_bytes(b"")
    before = {path.name: path.read_bytes() for path in at.iterdir() if path.is_file()}
    result = fork("rebuild", str(at), program="scripts/study.py")
    assert result.returncode == 1 and "no header" in result.stderr
    assert {path.name: path.read_bytes() for path in at.iterdir() if path.is_file()} == before


@pytest.fixture(scope="module")
def finished(fork: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with checkpoints and W&B runs; it is copied before anything is changed in it."""
    run_dir = tmp_path_factory.mktemp("finished") / "study"
    small = ("r_max=3", "data.train_samples=60", "executor.threads=1", "scheduler=sha", "notes='as noted'")
    result = fork(*small, f"hydra.run.dir={run_dir}")
    assert result.returncode == 0, result.stderr
    return run_dir


@pytest.fixture
def whole(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied", symlinks=True))


def wrong(run_dir: Path) -> list[str]:
    return [f"{finding.subject}: {finding.text}" for finding in verify(run_dir) if not finding.ok]


def test_check_finds_nothing_wrong_with_whole_studies(fork: Callable, whole: Path, run_dir: Path) -> None:
    assert wrong(run_dir) == []
    result = call(fork, "check", whole)
    assert result.returncode == 0 and "WRONG" not in result.stdout
    said = result.stdout
    assert "ok     checkpoints: 1 whole" in said
    for name in ("journal.jsonl", "results.csv", "curves.csv", "summary.json", "report.html", "best.yaml"):
        assert f"ok     {name}: " in said


def test_check_says_what_is_wrong_and_where(fork: Callable, whole: Path) -> None:
    (checkpoint,) = whole.glob("checkpoints/*/*.pt")
    name = checkpoint.relative_to(whole).as_posix()
    raw = bytearray(checkpoint.read_bytes())
    raw[len(raw) // 2] ^= 1
    checkpoint.write_bytes(raw)
    (whole / "checkpoints" / "99").mkdir()
    (whole / "checkpoints" / "99" / "1.pt").write_bytes(b"")
    table = (whole / "results.csv").read_text().splitlines(keepends=True)
    (whole / "results.csv").write_text("".join([*table[:2], table[2].replace("ok", "failed"), *table[3:]]))
    (whole / "curves.csv").unlink()
    (whole / "summary.json").write_text((whole / "summary.json").read_text() + "\n")
    (whole / "best.yaml").unlink()
    with (whole / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"v":1,"seq"')
    result = call(fork, "check", whole)
    assert result.returncode == 1
    found = [line.removeprefix("WRONG  ") for line in result.stdout.splitlines() if line.startswith("WRONG")]
    assert len(found) == 7
    assert found[0].startswith("journal.jsonl: 12 bytes from byte ")
    assert found[1].startswith(f"{name}: ") and "damaged" in found[1]
    assert found[2] == "checkpoints/99/1.pt: no trial can go on from it; delete it"
    assert found[3].startswith("results.csv: line 3 differs")
    assert found[4].startswith("curves.csv: is not there")
    assert found[5].startswith("summary.json: line ") or found[5].startswith("summary.json: its length")
    assert found[6].startswith("best.yaml: is not there")


def test_check_knows_a_checkpoint_from_another_ones(whole: Path) -> None:
    (checkpoint,) = whole.glob("checkpoints/*/*.pt")
    content = torch.load(checkpoint, weights_only=True)
    content.pop("digest")
    for other in ({"trial": content["trial"] + 1}, {"resource": 1}, {"config": "0" * 16}):
        write(content | other, checkpoint)
        (found,) = wrong(whole)
        assert "is not the checkpoint asked for: its " in found
    elsewhere = whole.parent / "elsewhere.pt"
    write(content, elsewhere)
    checkpoint.unlink()
    checkpoint.symlink_to(elsewhere)
    (found,) = wrong(whole)
    assert "is a symbolic link to" in found
    checkpoint.unlink()
    (found,) = wrong(whole)
    assert "no checkpoint there" in found


def test_check_of_a_damaged_journal_ends_there(whole: Path) -> None:
    raw = (whole / "journal.jsonl").read_bytes()
    (whole / "journal.jsonl").write_bytes(raw.replace(b'"seq":3,', b'"seq":4,', 1))
    (found,) = wrong(whole)
    offset = sum(map(len, raw.splitlines(keepends=True)[:3]))
    assert f"damaged at byte {offset} (record 3)" in found


def test_a_study_that_runs_is_left_alone(whole: Path) -> None:
    with (whole / "journal.lock").open("r+") as lock:
        lock.write("host here, pid 7\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (verify, rebuild):
            with pytest.raises(UserError, match="is being written by host here, pid 7"):
                list(command(whole))


def test_a_study_without_its_process_is_interrupted(fork: Callable, finished: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "killed"
    run_dir.mkdir()
    lines = (finished / "journal.jsonl").read_bytes().splitlines(keepends=True)
    begun = next(i for i, line in enumerate(lines) if b'"type":"resume"' in line)
    (run_dir / "journal.jsonl").write_bytes(b"".join(lines[: begun + 1]))
    with (run_dir / "journal.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        study = halving.load(run_dir)
        (trial,) = (trial for trial in study.trials if study.history.state(trial) == "running")
        assert study.summary["end"] == "running"
        assert call(fork, "explain", run_dir, "--trial", trial.trial).stdout.endswith(
            ": still running\n  now running\n"
        )
    assert call(fork, "explain", run_dir, "--trial", trial.trial).stdout.endswith(": interrupted\n  now interrupted\n")
    rebuild(run_dir)
    assert json.loads((run_dir / "summary.json").read_text())["end"] == "interrupted"
    assert "<td>interrupted</td>" in (page := (run_dir / "report.html").read_text()) and ">running<" not in page
    assert not any(line.startswith("summary.json") for line in wrong(run_dir))


def mirrored(run_dir: Path) -> dict[str, list[dict]]:
    """Every offline run by its id, as W&B reads it: the records that do not say when or where it was written."""
    found: dict[str, list[dict]] = {}
    for directory in (run_dir / "wandb").glob("offline-run-*"):
        command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(directory)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        records = [json.loads(line) for line in lines]
        (run,) = (record["run"] for record in records if record["type"] == "run")
        history = [
            {key: value for key, value in record["history"]["item"].items() if not key.startswith(("_", "trials."))}
            | {"step": record["history"]["step"]}
            for record in records
            if record["type"] == "history"
        ]
        summary: dict = {}
        for record in records:
            if record["type"] == "summary":
                summary |= record["summary"]["update"]
        kept = {key: run[key] for key in ("config", "run_group", "job_type", "display_name", "notes") if key in run}
        kept["config"] = {key: value for key, value in kept["config"]["update"].items() if not key.startswith("_")}
        summary = {key: value for key, value in summary.items() if not key.startswith(("_", "trials"))}
        assert run["run_id"] not in found
        found[run["run_id"]] = [kept, *history, summary]
    return found


def test_rebuild_writes_the_wandb_runs_anew_and_none_twice(fork: Callable, finished: Path, tmp_path: Path) -> None:
    # The ids of runs follow from the name of the directory.
    run_dir = Path(shutil.copytree(finished, tmp_path / finished.name, symlinks=True))
    before = mirrored(run_dir)
    assert len(before) == 1 + len(halving.load(run_dir).trials)
    damaged = next((run_dir / "wandb").glob("offline-run-*"))
    next(damaged.glob("*.wandb")).write_bytes(b"")
    result = call(fork, "rebuild", run_dir)
    assert result.returncode == 0, result.stderr
    assert f"{len(before)} offline W&B runs" in result.stdout
    assert mirrored(run_dir) == before
    assert not list(run_dir.glob(".rebuild-*"))
    shutil.rmtree(run_dir / "wandb")
    rebuild(run_dir)
    assert mirrored(run_dir) == before
    assert wrong(run_dir) == []


def test_a_tracker_that_is_off_says_so_and_rebuild_makes_up_for_it(fork: Callable, tmp_path: Path) -> None:
    run_dir = tmp_path / "study"
    small = ("r_max=3", "data.train_samples=60", "executor.threads=1", "scheduler=sha", "name=a/b", "model=softmax")
    result = fork(*small, f"hydra.run.dir={run_dir}", WANDB_MODE="offlin")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert any("W&B's project is a-b, as it takes neither /" in line for line in lines[:2])
    off = [line for line in lines if "tracker Wandb is switched off" in line]
    assert len(off) == 2 and all("WANDB_MODE" in line for line in off)
    assert off[-1].endswith(f"python -m halving study rebuild {run_dir}")
    assert "upload:" not in result.stdout
    assert f"{len(halving.load(run_dir).trials) + 1} offline W&B runs" in rebuild(run_dir)
    assert all(run[0]["run_group"] == "a-b-study" for run in mirrored(run_dir).values())


def test_what_a_journal_says_does_not_command_the_terminal(fork: Callable, tmp_path: Path) -> None:
    events = (
        halving.history.Header("s\x1b[2J", "sha", "random", 0, 1),
        halving.trial.Start(0, {"a\x1b[2J": "\x1b]0;x\x07"}, 1),
    )
    (tmp_path / "journal.jsonl").write_bytes(b"".join(encode(event, i, 0.0) for i, event in enumerate(events)))
    said = call(fork, "explain", tmp_path, "--trial", 0).stdout
    assert "\\x1b[2J" in said and "\x1b" not in said


def test_picture_is_drawn(fork: Callable, run_dir: Path, tmp_path: Path) -> None:
    assert call(fork, "picture", run_dir, tmp_path / "study.png").returncode == 0
    nowhere = call(fork, "picture", run_dir, tmp_path / "none" / "study.png")
    assert nowhere.returncode == 1 and nowhere.stderr.startswith("error: ") and nowhere.stderr.count("\n") == 1
    drawn = colours(tmp_path / "study.png")
    assert drawn[ACCENT] > 100 and drawn[PAPER] > sum(drawn.values()) / 2, "the winner's curve, on white paper"


def test_no_journal_is_one_line(fork: Callable, tmp_path: Path) -> None:
    result = call(fork, "rebuild", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path}: no journal.jsonl there")
    assert result.stderr.count("\n") == 1


def test_check_knows_the_checkpoint_of_an_own_training(tmp_path: Path) -> None:
    def train(trial: Any) -> Iterator[float]:
        for epoch in range(trial.since + 1, 4):
            (trial.directory / "epoch").write_text(str(epoch))
            yield trial.configuration["x"] / epoch

    halving.tune(train, {"x": [1.0, 2.0]}, halving.SuccessiveHalving, eta=2, r_max=3, run_dir=tmp_path)
    assert wrong(tmp_path) == []
    (file,) = tmp_path.glob("checkpoints/*/3/files/epoch")
    file.write_text("2")
    (found,) = wrong(tmp_path)
    assert "files/epoch is damaged: it is not as it was saved" in found


def test_four_ways_to_one_matrix_product_are_timed(fork: Callable, repo: Path, tmp_path: Path) -> None:
    left, right = torch.randn(2, 12, 12, generator=torch.Generator().manual_seed(0))
    ways = runpy.run_path(str(repo / "scripts/vectorization.py"))["ways"](5)
    for way in ways.values():
        way(product := torch.full((12, 12), math.nan), left, right)
        torch.testing.assert_close(product, left @ right)

    def timed(*words: str) -> subprocess.CompletedProcess[str]:
        return fork(*words, cwd=tmp_path, program="scripts/vectorization.py")

    shown = timed("--size", "12", "--block", "5", "--repeats", "2", "--threads", "1", "--figure", "rates.png")
    first, _, *rows, last = shown.stdout.splitlines()
    assert first == "12 x 12 product, float32, 1 thread: median of 2 timings" and last == "rates.png"
    assert [row[:24].strip() for row in rows] == [*ways] and rows[3].startswith("in blocks of 5 columns")
    for row in rows:
        seconds, rate, slowest, fastest, _ = map(float, row[24:].split())
        assert rate == pytest.approx(2e-9 * 12**3 / seconds, rel=0.02) and slowest <= rate <= fastest
    area = colours(tmp_path / "rates.png")
    assert 4 * 0.62 * 40 * 20 < area[ACCENT] / 4 < 4 * 0.62 * 40 * 430 and area[INK] > 100, "a bar a way, and words"
    wrong = {
        "--size=0": "--size=0: must be an integer of at least 1",
        "--block=13": "--block=13: must be at most 12",
        "--threads=0": "--threads=0: must be an integer of at least 1",
        "--figure=no/rates.png": "--figure no/rates.png: give a file that ends in .png, in a directory that is there",
    }
    for word, message in wrong.items():
        refused = timed("--size", "12", "--block", "5", word)
        assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", f"error: {message}\n")
    assert "in blocks of 12 columns" in timed("--size", "12", "--repeats", "1", "--threads", "1").stdout


def test_what_a_large_study_takes_is_measured(
    monkeypatch: pytest.MonkeyPatch, repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(repo / "scripts/bench")
    scale = importlib.import_module("scale")
    monkeypatch.setattr(scale, "apart", lambda part, *given: part(*given))
    sizes = ("--trials", "30", "--workers", "3", "--failing", "0.02", "--messages", "90", "--dir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["scale.py", *sizes, "--only", "study", "pool"])
    scale.main()
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said] == [
        ["study", "1"], ["resumed", "1"], ["study", "3"], ["resumed", "3"], ["study", "30"],
        ["pool", "1"], ["pool", "3"],
    ]  # fmt: skip
    (share,) = re.findall(r" evaluations, ([\d.]+)% failed", said[4])
    assert 0 < float(share) < 50 and "bytes each; memory" in said[4]
    assert not [*tmp_path.iterdir()]
