"""Every program in examples/ runs as its first lines say, ends, and leaves curves and a winner to load."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import joblib
import pytest
import torch
from conftest import Run

import halving

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# By example, the metric, the epochs of the winner, and what is loaded of it.
EXPECTED = {
    "autoencoder.py": ("mse", 9, None),
    "lightning_module.py": ("accuracy", 9, "trainer.ckpt"),
    "huggingface_trainer.py": ("eval_loss", 4, "checkpoint-*/optimizer.pt"),
    "partial_fit.py": ("accuracy", 9, "model.joblib"),
    "descent.sh": ("mse", 9, "state"),
}
NEEDED = {"lightning_module.py": "lightning", "huggingface_trainer.py": "transformers"}


def test_each_is_short_and_tried() -> None:
    found = [path for path in EXAMPLES.iterdir() if path.is_file()]
    assert {path.name for path in found} == set(EXPECTED)
    assert all(len(path.read_text().splitlines()) < 60 for path in found)


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name: str, fork: Run, tmp_path: Path) -> None:
    if name in NEEDED and find_spec(NEEDED[name]) is None:
        pytest.skip(f"needs {NEEDED[name]}")
    command = re.search(r"^# (python .*)$", (EXAMPLES / name).read_text(), re.MULTILINE)
    assert command is not None and command.start() < len("#!/bin/sh\n#")
    _, program, *arguments = shlex.split(command[1])
    (tmp_path / "examples").symlink_to(EXAMPLES)
    ended = fork(*arguments, program=program, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"trial \d+ (is best|wins)", ended.stdout), ended.stdout

    metric, r_max, file = EXPECTED[name]
    (journal,) = tmp_path.glob("outputs/**/journal.jsonl")
    study = halving.load(journal.parent)
    assert study.history.ended is not None and not study.history.ended.failure
    assert [row["epoch"] for row in study.curves[study.best.trial]] == list(range(1, r_max + 1))
    assert all(metric in row for rows in study.curves.values() for row in rows)
    paused = {trial.trial for trial in study.trials if len(trial.evaluations) > 1}
    assert study.best.trial in paused and len(study.trials) > len(paused)
    match file:
        case None:
            assert set(study.best_state()) == {"model", "optimizer", "schedule"}
        case "model.joblib":
            assert len(joblib.load(study.best_directory / file).loss_curve_) == r_max
        case "state":
            assert len((study.best_directory / file).read_text().split()) == 6
        case _:
            (found,) = study.best_directory.glob(file)
            assert torch.load(found, weights_only=True)
    if name == "autoencoder.py":  # it is there, so that nothing is trained again
        assert fork(*arguments, program=program, cwd=tmp_path).stdout == ended.stdout
