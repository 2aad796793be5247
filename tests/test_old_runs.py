"""A run directory that an earlier version left: it goes on as if that version had gone on."""

import csv
import shutil
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from subprocess import CompletedProcess

import torch

from halving.config.resumption import as_recorded
from halving.journal import read
from halving.schedulers import ASHA
from halving.trial import Restarted

# Killed after ten evaluations of thirteen; results.csv and winner.pt are of the same study, undisturbed, by 0.2.0.
KILLED = Path(__file__).parent / "golden/killed_0.2.0"


def test_a_study_that_0_2_0_began_ends_with_its_decisions_and_weights(
    fork: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(KILLED, run_dir, ignore=shutil.ignore_patterns("results.csv", "winner.pt"))
    done = fork(f"resume={run_dir}", "device=cpu", "data_dir=/data")
    assert done.returncode == 0, done.stderr
    assert not [event for event, _ in read(run_dir) if isinstance(event, Restarted)]
    with (run_dir / "results.csv").open() as now, (KILLED / "results.csv").open() as then:
        found, expected = list(csv.DictReader(now)), list(csv.DictReader(then))
    for row in (*found, *expected):
        del row["seconds"]
    assert found == expected
    (checkpoint,) = run_dir.glob("checkpoints/*/*")
    winner, golden = (torch.load(path, weights_only=True) for path in (checkpoint, KILLED / "winner.pt"))
    assert winner.keys() == golden.keys() and winner["config"] == golden["config"]
    for name, weight in golden["state"]["model"].items():  # another processor may round otherwise
        torch.testing.assert_close(winner["state"]["model"][name], weight, rtol=1e-4, atol=1e-5)


def test_what_an_earlier_study_of_asha_could_not_choose_may_be_typed() -> None:
    """All of `scheduler=asha` is in its config then, so that typing it again makes no other study."""
    cfg = as_recorded({"scheduler": {"_target_": "halving.schedulers.ASHA", "eta": 3}})
    assert cfg.scheduler.count_failed is signature(ASHA).parameters["count_failed"].default
