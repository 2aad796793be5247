"""Several studies from one command: every job for itself, one tag, one table."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

SMALL = ("model=softmax", "data.train_samples=100", "r_max=9", "tracker=none", "executor.threads=1")


def jobs(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "jobs.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_methods_and_seeds_side_by_side(run: Callable, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    result = run("-m", "scheduler=fifo,sha", "seed=0,1", *SMALL, f"hydra.sweep.dir={sweep}")
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
        assert line.split()[1:5] == [scheduler, seed, f"{float(row['error']):.4f}", f"{float(row['epochs']):g}"]
    assert "trial 0" not in result.stdout and "rung" not in result.stdout


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
