"""The scripts on a run directory, as users call them."""

import subprocess
import sys
from pathlib import Path

import pytest

import halving


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


def call(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo / "scripts" / "study.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_explain_says_why_at_each_rung(repo: Path, run_dir: Path) -> None:
    study = halving.load(run_dir)
    said = call(repo, "explain", run_dir, "--trial", study.best.trial).stdout
    assert said.count("promoted: rank 1 of") == 2
    assert "completed: reached the last rung, 4" in said
    loser = next(trial for trial in study.trials if trial.state == "stopped")
    assert "stopped: rank" in call(repo, "explain", run_dir, "--trial", loser.trial).stdout
    missing = call(repo, "explain", run_dir, "--trial", 99)
    assert (missing.returncode, missing.stderr) == (1, "error: trial 99: the study has trials 0 to 3\n")


def test_rebuild_writes_the_same_files_from_the_journal_alone(repo: Path, run_dir: Path) -> None:
    names = ("results.csv", "curves.csv", "summary.json", "report.html")
    before = {name: (run_dir / name).read_bytes() for name in names}
    for name in names:
        (run_dir / name).unlink()
    assert call(repo, "rebuild", run_dir).returncode == 0
    assert {name: (run_dir / name).read_bytes() for name in names} == before


def test_picture_is_drawn(repo: Path, run_dir: Path, tmp_path: Path) -> None:
    assert call(repo, "picture", run_dir, tmp_path / "study.png").returncode == 0
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def test_no_journal_is_one_line(repo: Path, tmp_path: Path) -> None:
    result = call(repo, "rebuild", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path}: no journal.jsonl there")
    assert result.stderr.count("\n") == 1
