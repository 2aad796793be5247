"""Studies whose trials are trained as one program decide as others do, whatever ends them on the way."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Forks
from test_resume import decisions

from halving.history import History
from halving.journal import read, replay
from halving.trial import Finished, Restarted

# In float64, and ended as DEATH says: at which evaluation of which study, by which signal.
MINE = """
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from halving.data import digits

torch.set_default_dtype(torch.float64)


def doubled(**settings):
    data = digits(**settings)
    return replace(data, mean=data.mean.double(), std=data.std.double(), metrics={"met": met})


def met(outputs, targets):
    with open("met", "a") as file:
        file.write(".")
    own = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    started = (Path(f"/proc/{each}/cmdline").read_text() for each in own)
    Path("workers").write_text(str(sum("resource_tracker" not in each for each in started)))
    at, _, signal = os.environ.get("DEATH", "0:0").partition(":")
    if 0 < int(at) <= Path("met").stat().st_size:
        with suppress(FileExistsError):  # one dies, whoever it is
            Path("died").touch(exist_ok=False)
            os.kill(os.getpid(), int(signal))
    return 0.0
"""
STUDY = [
    *("trusted_packages=[mine]", "data._target_=mine.doubled", "data.train_samples=100", "data.validation=100"),
    *("model=mlp", "model.width=8", "model.dropout=0.2", "space=batched", "scheduler=sha", "r_max=9"),
    *("metric=val_loss", "tracker=none", "executor.threads=1", "hydra.run.dir=run"),
]
SERIAL = ["executor=serial"]
BATCHED = ["executor=batched", "executor.batch=9", "executor.program=batched"]
PROCESS = ["executor=process", "executor.workers=2", "executor.batch=4", "executor.program=batched"]


def run(fork: Forks, at: Path, *words: str, death: str = "0:0", status: int = 0) -> History:
    (at / "mine.py").write_text(MINE)
    result = fork(*words, cwd=at, DEATH=death, PYTHONPATH=os.pathsep.join([str(at), os.environ.get("PYTHONPATH", "")]))
    assert result.returncode == status, result.stderr + result.stdout
    return replay(read(at / "run"))


@pytest.fixture(scope="module")
def whole(fork: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose trials were trained one by one."""
    at = tmp_path_factory.mktemp("serial")
    run(fork, at, *STUDY, *SERIAL)
    return at


def assert_same(one: Path, other: Path) -> None:
    """Two studies took the same decisions, for the same reasons, on errors that are equal but for the last digits."""
    assert _decided(one) == _decided(other)
    histories = [replay(read(at / "run")) for at in (one, other)]
    for trial in histories[0].trials.values():
        twin = histories[1].trials[trial.trial]
        assert [each.reason for each in trial.evaluations] == [each.reason for each in twin.evaluations]
        pairs = zip(trial.epochs, twin.epochs, strict=True)
        for (_, ours), (_, theirs) in pairs:
            assert ours.epoch == theirs.epoch
            close = (
                math.isclose(ours.metrics[name], theirs.metrics[name], rel_tol=1e-9) for name in ("val_loss", "lr")
            )
            assert all(close), (ours, theirs)
    summaries = [json.loads((at / "run/summary.json").read_text()) for at in (one, other)]
    assert summaries[0]["best_trial"] == summaries[1]["best_trial"]
    assert math.isclose(summaries[0]["test_error"], summaries[1]["test_error"])


def _decided(at: Path) -> set[str]:
    """What was decided, but for who had to wait for whom at a rung."""
    waiting = ("Verdict(", "state='paused'")
    return {said for said in map(str, decisions(at / "run")) if not all(word in said for word in waiting)}


@pytest.mark.parametrize("executor", [BATCHED, PROCESS])
def test_a_bracket_is_decided_the_same(executor: Sequence[str], whole: Path, fork: Forks, tmp_path: Path) -> None:
    history = run(fork, tmp_path, *STUDY, *executor)
    assert_same(whole, tmp_path)
    log = (tmp_path / "run/train.log").read_text()
    assert executor is PROCESS or "trials of MLP are trained as one program" in log
    assert (tmp_path / "workers").read_text() == "0", "none holds memory any more when the winner is tested"
    assert sum(each.finished.seconds for _, each in history.finished if each.finished) < history.seconds * 2


@pytest.mark.parametrize(("before", "after"), [(BATCHED, SERIAL), (SERIAL, BATCHED)], ids=["alone", "together"])
def test_a_killed_study_goes_on_together_or_alone(
    before: Sequence[str], after: Sequence[str], whole: Path, fork: Forks, tmp_path: Path
) -> None:
    history = run(fork, tmp_path, *STUDY, *before, "executor.checkpoint_every=1", death="13:9", status=-9)
    assert 8 < len(history.finished) < 13
    run(fork, tmp_path, "resume=run", *after, "trusted_packages=[mine]")
    assert_same(whole, tmp_path)


def test_a_study_that_is_asked_to_stop_leaves_checkpoints_of_all(whole: Path, fork: Forks, tmp_path: Path) -> None:
    run(fork, tmp_path, *STUDY, *BATCHED, death="11:2", status=130)
    run(fork, tmp_path, "resume=run", "trusted_packages=[mine]")
    assert_same(whole, tmp_path)
    tested = 1
    assert len((tmp_path / "met").read_text()) == 21 + tested, "no epoch was trained twice"


def test_a_worker_that_dies_costs_none_of_its_trials_a_retry(whole: Path, fork: Forks, tmp_path: Path) -> None:
    run(fork, tmp_path, *STUDY, *PROCESS, "executor.retries=0", death="4:9")  # of three and three
    assert_same(whole, tmp_path)
    events = [event for event, _ in read(tmp_path / "run")]
    restarts = [event for event in events if isinstance(event, Restarted)]
    assert restarts and all("trained together, and go on one by one" in event.reason for event in restarts)
    assert not any(event.outcome.failed for event in events if isinstance(event, Finished))


NORM = """
from math import prod

from torch import nn


def norm(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(prod(shape)), nn.Linear(prod(shape), outputs))
"""


def test_whoever_asks_for_programs_is_told_that_there_are_none(fork: Forks, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NORM)
    words = ["trusted_packages=[mine]", "model=softmax", "model._target_=mine.norm", "scheduler=sha", "r_max=3"]
    result = fork(*words, "executor=batched", "tracker=none", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 0
    (told,) = [line for line in result.stdout.splitlines() if "one trial at a time" in line]
    assert told.startswith("note: a model with torch.nn.modules.normalization.LayerNorm trains one trial")
