"""`halving.check` says of a training whether it is exact, and in words what it forgets."""

import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from test_own_training import Parts, filing, generating, keeping, moody, reporting
from torch import nn
from torch.optim import lr_scheduler

import halving
from halving import UserError
from halving.conformance.__main__ import main

CONFIGURATION = {"lr": 0.1}


def without_schedule(trial: Any) -> Iterator[dict[str, float]]:
    parts = Parts(trial)
    trial.keep(model=parts.model, optimizer=parts.optimizer)
    while True:
        yield parts.train()


def without_optimizer(trial: Any) -> None:
    torch.manual_seed(1)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    trial.keep(model=model)
    while True:
        optimizer.zero_grad()
        loss = (model(torch.randn(5, 2)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        trial.report({"loss": loss})


def unseeded(trial: Any) -> Iterator[float]:
    rng = np.random.default_rng()
    trial.keep(rng=rng)
    while True:
        yield float(rng.random())


def without_generator(trial: Any) -> Iterator[float]:
    rng = random.Random(trial.seed)
    trial.keep(model=nn.Linear(1, 1))
    while True:
        yield rng.random()


RNG = np.random.default_rng(0)


def of_its_module(trial: Any) -> Iterator[float]:
    trial.keep(model=nn.Linear(1, 1))
    while True:
        yield float(RNG.random())


def of_the_rung(trial: Any) -> Iterator[dict[str, float]]:
    parts = Parts(trial)
    parts.schedule = lr_scheduler.CosineAnnealingLR(parts.optimizer, trial.until)
    trial.keep(model=parts.model, optimizer=parts.optimizer, schedule=parts.schedule)
    for _ in itertools.count():
        yield parts.train()


def counting(trial: Any) -> Iterator[float]:
    trial.keep(model=nn.Linear(1, 1))
    best = 9.0
    while True:
        best = min(best - 1, random.random())
        yield best


def building_after(trial: Any) -> Iterator[float]:
    trial.keep(model=nn.Linear(1, 1))
    torch.nn.Linear(3, 3)
    while True:
        yield float(torch.rand(()))


def filing_without_keep(trial: Any) -> Iterator[float]:
    torch.nn.Linear(3, 3)
    while True:
        (trial.directory / "file").touch()
        yield float(torch.rand(()))


CACHE: dict[int, float] = {}


def of_its_process(trial: Any) -> Iterator[float]:
    if not trial.since:
        CACHE.clear()
    trial.keep(model=nn.Linear(1, 1))
    for epoch in itertools.count(trial.since + 1):
        CACHE[epoch] = CACHE.get(epoch - 1, 0.0) + epoch
        yield CACHE[epoch]


def hashing(trial: Any) -> Iterator[float]:
    trial.keep(model=nn.Linear(1, 1))
    while True:
        yield float(hash("text"))


def forgetting(trial: Any) -> Iterator[float]:
    yield from itertools.repeat(1.0)


def unchanging(trial: Any) -> Iterator[dict[str, float]]:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    schedule = lr_scheduler.StepLR(optimizer, 100)
    trial.keep(model=model)
    while True:
        optimizer.step()
        schedule.step()
        yield {"error": 1.0, "seconds": random.SystemRandom().random()}


def here(training: Any) -> Any:
    """Return the same training where no other process finds it: these take seconds to begin."""
    copy = FunctionType(training.__code__, training.__globals__, training.__name__)
    copy.__qualname__ = f"here.<locals>.{training.__name__}"
    return copy


counting_here = here(counting)


def test_what_forgets_nothing_is_exact(caplog: pytest.LogCaptureFixture) -> None:
    report = halving.check(filing, CONFIGURATION)
    assert report.exact and str(report).count("ok ") == len(report.results) == 6, report
    assert not report.notes and not caplog.records  # not of the kill that is part of it, either


@pytest.mark.parametrize("training", [generating, reporting, moody])
def test_what_forgets_nothing_is_exact_here(training: Any) -> None:
    assert halving.check(here(training), CONFIGURATION).exact


FORGETFUL: dict[str, tuple[Any, str, str]] = {
    "schedule": (without_schedule, "goes on from the disk", r"parts.schedule \(CosineAnnealingLR\) .* not kept"),
    "optimizer": (without_optimizer, "goes on from the disk", r"optimizer \(Adam\) changes .* not kept"),
    "seed": (unseeded, "trains twice the same", "a generator that is not seeded.*trial.seed.*; rng is likely"),
    "generator": (without_generator, "goes on from the disk", r"rng \(Random\) .* not kept"),
    "module": (of_its_module, "trains twice the same", "depends on what was trained or drawn before.*; RNG is likely"),
    "rung": (of_the_rung, "pauses in memory", "hangs on the rung"),
    "value": (counting, "goes on from the disk", "a count, a best value"),
    "order": (building_after, "goes on from the disk", "not called after all that draws is built"),
    "files": (filing_without_keep, "goes on from the disk", "without parts of its own, too"),
    "process": (of_its_process, "goes on in another process", "a global of its module or a cache"),
    "hash": (hashing, "trains the same in another process", r"hash\(\)"),
}


@pytest.mark.parametrize("name", FORGETFUL)
def test_what_is_forgotten_is_said(name: str) -> None:
    training, first, said = FORGETFUL[name]
    travels = name in ("module", "process", "hash")
    with pytest.raises(UserError) as caught:
        halving.check(training if travels else here(training), CONFIGURATION)
    failed = [line for line in str(caught.value).splitlines() if line.startswith("FAILED")]
    assert failed[0].startswith(f"FAILED  {first}: epoch "), failed
    assert re.search(said, failed[0]), failed


def test_what_was_of_no_matter_is_noted_and_time_is_not_compared() -> None:
    report = halving.check(here(unchanging))
    assert "note    schedule (StepLR) changes in training and is not kept" in str(report)


def test_a_function_within_another_is_checked_in_this_process() -> None:
    report = halving.check(lambda trial: keeping(trial), CONFIGURATION)
    assert len(report.results) == 3 and "not tried in another process" in str(report)


def test_what_cannot_be_checked_is_refused() -> None:
    with pytest.raises(UserError, match=r"keeps nothing.*trial.keep"):
        halving.check(forgetting)
    with pytest.raises(UserError, match="is no training"):
        halving.check(lambda configuration, resource: 1.0)
    with pytest.raises(UserError, match=r"failed.*diverged: error is nan"):
        halving.check(lambda trial: iter([trial.keep(model=nn.Linear(1, 1)) or float("nan")] * 9))
    with pytest.raises(UserError, match="epochs=2: must be"):
        halving.check(keeping, CONFIGURATION, epochs=2)
    with pytest.raises(UserError, match="ends before epochs=4, to which it is checked"):
        halving.check(lambda trial: iter([trial.keep(model=nn.Linear(1, 1)) or 1.0] * 3))


def test_the_command_line_checks_a_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert main(["test_own_training:keeping", "--configuration", "lr=0.1", "--epochs=3"]) == 0
    assert capsys.readouterr().out.count("ok ") == 6
    assert main(["test_checked_training:counting_here"]) == 1
    assert "FAILED  goes on from the disk: epoch 2 comes to error=" in capsys.readouterr().out
