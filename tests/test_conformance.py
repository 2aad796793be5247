"""Every scheduler, searcher and executor passes the conformance suite, which tells what is wrong with broken ones."""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from halving.conformance import Result, conform
from halving.conformance.__main__ import main
from halving.errors import StorageError, UserError
from halving.executors import Serial
from halving.schedulers import ASHA, FIFO, SuccessiveHalving
from halving.searchers import Searcher
from halving.trial import Configuration, Done, Epoch, Finished, Outcome, Resume, Start, Step, Verdict, Wait

SCHEDULERS: list[tuple[str, dict[str, Any]]] = [
    ("FIFO", {"r_max": 9}),
    ("FIFO", {"r_max": 9, "max_trials": 20}),
    ("SuccessiveHalving", {"n": 20, "rounds": 3}),
    ("SuccessiveHalving", {"eta": 2, "r_min": 2, "r_max": 10, "rounds": 2}),
    ("Hyperband", {"eta": 2, "r_max": 40}),
    ("Hyperband", {"eta": 3, "r_max": 100, "rounds": 2}),
    ("Hyperband", {"eta": 4, "r_max": 40}),
    ("Hyperband", {"eta": 5, "r_max": 100}),
    ("ASHA", {}),
    ("ASHA", {"variant": "stopping", "eta": 2, "r_max": 40}),
    ("ASHA", {"max_trials": 30, "eta": 4, "r_max": 100}),
    ("AsyncHyperband", {"seed": 3}),
    ("AsyncHyperband", {"variant": "stopping", "max_trials": 40, "r_max": 100}),
    ("PASHA", {"r_max": 243, "eta": 2}),
    ("ConcordantASHA", {"r_max": 27}),
    ("Median", {"r_max": 9, "step": 2}),
    ("Curve", {"r_max": 9, "max_trials": 8}),
    ("OneEpoch", {"k": 4, "n": 30}),
    ("OneEpoch", {}),
]

SEARCHERS: list[tuple[str, dict[str, Any]]] = [
    ("RandomSearcher", {}),
    ("GridSearcher", {}),
    ("SobolSearcher", {}),
    ("LocalSearcher", {}),
    ("OneAtATimeSearcher", {"seeds": 1, "points": 2}),  # with more it proposes the same again, on purpose
    ("AnnealingSearcher", {}),
    ("EvolutionSearcher", {"population": 4, "tournament": 2}),
    ("PriorSearcher", {}),
    ("BOHBSearcher", {}),
    ("BayesianSearcher", {}),
    ("BayesianSearcher", {"surrogate": "forest"}),
    ("OptunaSearcher", {"options": {"n_startup_trials": 3}}),
    ("OptunaSearcher", {"sampler": "gp", "options": {"n_startup_trials": 29}}),
    ("OptunaSearcher", {"sampler": "cmaes", "options": {"popsize": 3}}),
]


@pytest.fixture(autouse=True)
def elsewhere(fork: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process is a fork of one that has imported all, but where the command line calls the suite."""
    run, program = subprocess.run, "src/halving/conformance/__main__.py"

    def forked(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "--digests" not in command:
            return run(command, **options)
        return fork(*command[3:], program=program, PYTHONPATH=options["env"]["PYTHONPATH"])

    monkeypatch.setattr(subprocess, "run", forked)


def complaints(results: list[Result]) -> dict[str, str]:
    return {result.check: result.complaint for result in results if result.complaint}


@pytest.mark.parametrize(("name", "options"), SCHEDULERS, ids=lambda value: str(value).replace(" ", ""))
def test_every_scheduler_conforms(name: str, options: dict[str, Any]) -> None:
    assert not complaints(conform(f"halving.schedulers:{name}", options, schedules=3 if name == "Curve" else 8))


@pytest.mark.parametrize(("name", "options"), SEARCHERS, ids=lambda value: str(value).replace(" ", ""))
def test_every_searcher_conforms(name: str, options: dict[str, Any]) -> None:
    if name == "OptunaSearcher":
        pytest.importorskip("optuna")
    assert not complaints(conform(f"halving.searchers:{name}", options, schedules=6))


@pytest.mark.parametrize(
    ("name", "options"), [("Serial", {}), ("Batched", {}), ("Process", {}), ("Process", {"batch": 3})]
)
def test_every_executor_conforms(name: str, options: dict[str, Any]) -> None:
    assert not complaints(conform(f"halving.executors:{name}", options))


# Broken on purpose, one fault each.


class PromotesTwice(SuccessiveHalving):
    """A promotion is given out again as long as no outcome arrives."""

    def __init__(self, searcher: Searcher) -> None:
        super().__init__(searcher)
        self._again: Resume | None = None

    def suggest(self) -> Start | Resume | Wait | Done:
        suggestion = super().suggest()
        if isinstance(suggestion, Wait) and self._again is not None:
            suggestion, self._again = self._again, None
        elif isinstance(suggestion, Resume):
            self._again = suggestion
        return suggestion


class LosesATrial(SuccessiveHalving):
    """The losers of a rung are never told."""

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in super().update(outcome) if verdict.trial == outcome.trial)


class ExceedsRMax(FIFO):
    """It measures from 0."""

    def suggest(self) -> Start | Wait | Done:
        match super().suggest():
            case Start(trial, configuration, until):
                return Start(trial, configuration, until + 1, reason="next")
            case other:
                return other


class WaitsForever(SuccessiveHalving):
    """It waits for failed trials."""

    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        if outcome.failed:
            return (Verdict(outcome.trial, "failed", "failed"),)
        return super().update(outcome)


class MutatesOnWait(SuccessiveHalving):
    waits = 0

    def suggest(self) -> Start | Resume | Wait | Done:
        suggestion = super().suggest()
        self.waits += isinstance(suggestion, Wait)
        return suggestion


class Unseeded(ASHA):
    """A coin is thrown whether to start a trial in full."""

    def suggest(self) -> Start | Resume | Wait | Done:
        match super().suggest():
            case Start() as start:
                return Start(start.trial, start.configuration, start.until, reason=f"drew {random.random()}")
            case other:
                return other


class PromotesFailures(ASHA):
    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        return super().update(Outcome(outcome.trial, outcome.resource, min(outcome.rank_error, 1e9)))


class Crashes(ASHA):
    def update(self, outcome: Outcome) -> tuple[Verdict, ...]:
        if outcome.resource == 0:
            raise ZeroDivisionError("no epoch was trained")
        return super().update(outcome)


class Mute(ASHA):
    def suggest(self) -> Start | Resume | Wait | Done:
        match super().suggest():
            case Resume(trial, since, until, rung):
                return Resume(trial, since, until, rung)
            case other:
                return other


class Silent(ASHA):
    def __init__(self, searcher: Any, **options: Any) -> None:
        super().__init__(searcher, **options)
        self._searcher = Unheard(searcher)


@dataclass
class Unheard:
    searcher: Any

    def propose(self, trial: int) -> Any:
        return self.searcher.propose(trial)

    def observe(self, *told: Any) -> None: ...


@pytest.mark.parametrize(
    ("broken", "options", "checks", "story"),
    [
        (LosesATrial, {}, {"leaves_nobody_behind"}, "are left paused, as trial"),
        (ExceedsRMax, {"r_max": 9}, {"resource_grows_up_to_r_max"}, "r_max is 9; trial 0: start to 10"),
        (
            WaitsForever,
            {},
            {"comes_to_an_end", "tells_the_searcher_of_each_outcome"},
            "waits although nothing runs",
        ),
        (MutatesOnWait, {}, {"wait_and_done_change_nothing", "replay_gives_the_same_state"}, "Wait() changed it"),
        (Unseeded, {}, {"replay_gives_the_same_state", "decides_the_same_in_another_process"}, "in the replay Start"),
        (
            PromotesFailures,
            {},
            {"every_outcome_has_its_verdict", "resumes_where_it_paused"},
            "verdicts ['paused'] on error nan",
        ),
        (Crashes, {}, {"comes_to_an_end"}, "raised ZeroDivisionError: no epoch was trained"),
        (Mute, {}, {"reasons_say_something"}, "has no reason"),
        (Silent, {}, {"tells_the_searcher_of_each_outcome"}, "it was told nothing"),
    ],
)
def test_suite_names_what_a_broken_scheduler_does_wrong(
    broken: type, options: dict[str, Any], checks: set[str], story: str
) -> None:
    found = complaints(conform(f"{__name__}:{broken.__name__}", options, schedules=8))
    assert set(found) == checks
    assert story in " ".join(found.values())


def test_suite_finds_a_second_promotion() -> None:
    found = complaints(conform(f"{__name__}:PromotesTwice", schedules=8))
    assert "enters rung 1 twice" in found["promotes_nobody_twice"]
    assert found["promotes_nobody_twice"].count("resume from 1 to 3 at rung 1") == 2


class Repeats(Serial):
    """Every end comes twice."""

    def wait(self) -> Iterator[Step]:
        for step in super().wait():
            yield step
            if isinstance(step, Finished):
                yield step


class Skips(Serial):
    """First epochs are lost."""

    def wait(self) -> Iterator[Step]:
        return (step for step in super().wait() if not (isinstance(step, Epoch) and step.epoch == 1))


class Forgives(Serial):
    """Nothing ends the study, be the disk full."""

    def wait(self) -> Iterator[Step]:
        with suppress(StorageError):
            yield from super().wait()


class Deaf(Serial):
    """It asks nobody to stop, and says that nothing runs."""

    deaf = False

    def stop(self) -> Iterator[Step]:
        self.deaf = True
        return iter(())

    def idle(self) -> bool:
        return self.deaf or super().idle()


@pytest.mark.parametrize(
    ("broken", "checks", "told"),
    [
        (Repeats, {"every_job_ends_once"}, "trial 0 had 1 jobs and 2 ends"),
        (
            Skips,
            {"epochs_come_in_order", "what_one_does_costs_no_other_its_trial", "stopping_leaves_checkpoints"},
            "the epochs of trial 0 came as [2, 3]",
        ),
        (Forgives, {"a_full_disk_ends_the_study", "keeps_what_it_promises"}, "a full disk came to [Epoch("),
        (Deaf, {"stopping_leaves_checkpoints"}, "told of epochs [1], and left"),
    ],
)
def test_suite_names_what_a_broken_executor_does_wrong(broken: type, checks: set[str], told: str) -> None:
    found = complaints(conform(f"{__name__}:{broken.__name__}"))
    assert set(found) == checks, found
    assert told in " ".join(found.values())


class Sloppy:
    """Every fault: scalars of numpy, out of bounds, depends on order, refuses failures, goes on after None."""

    def __init__(self, space: Any) -> None:
        self.space = space
        self.calls = 0

    def propose(self, trial: int) -> Configuration | None:
        import numpy as np

        if trial == 11 and self.calls == 11:
            self.calls += 1
            return None
        self.calls += 1
        u = np.random.default_rng(self.calls + 1000 * trial).random(len(self.space.dimensions))
        configuration: dict[str, Any] = self.space.decode(u)
        name = self.space.dimensions[0].name
        if isinstance(configuration[name], float):
            configuration[name] = np.float64(configuration[name] + (100.0 if trial == 3 else 0.0))
        return configuration

    def observe(self, trial: int, configuration: Configuration, resource: int, error: float) -> None:
        if error == float("inf"):
            raise ValueError("infinite")


def test_suite_names_what_a_broken_searcher_does_wrong() -> None:
    assert set(complaints(conform(f"{__name__}:Sloppy", schedules=8))) == {
        "proposes_within_the_space",
        "values_are_plain",
        "proposes_nothing_twice",
        "goes_on_after_a_resume",
        "takes_failures",
        "stays_exhausted",
    }


MODULE = """
from halving.schedulers import SuccessiveHalving

class Mine(SuccessiveHalving):
    def __init__(self, searcher, r_max=9, mode="sound"):
        super().__init__(searcher, r_max=r_max * (1 + (mode == "greedy")))
"""


def test_command_line_for_a_users_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    command = [sys.executable, "-m", "halving.conformance", "mine:Mine", "--option", "r_max=27", "--schedules=6"]
    sound = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert {line[:4].strip() for line in sound.stdout.splitlines()} == {"ok"}

    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["mine.Mine", "--option", "mode=greedy", "--schedules=6"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("ok")]
    assert line.startswith("FAILED  resource grows up to r max: r_max is 9; trial")


class Needy(FIFO):
    """As a user's own may be: without defaults."""

    def __init__(self, searcher: Searcher, r_max: int, *, share: float) -> None:
        super().__init__(searcher, int(r_max * share))


def test_what_has_no_default_is_supplied_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{__name__}:Needy", "--option=share=1.0", "--schedules=3"]) == 0
    assert capsys.readouterr().out.startswith("built with r_max=9; --option gives others\nok ")
    assert not complaints(conform("halving.schedulers:FIFO", schedules=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere:Mine"], "cannot import 'nowhere:Mine'"),
        (["halving.space:Space"], "neither `suggest` (a scheduler) nor `propose` (a searcher)"),
        (["halving.schedulers:ASHA", "--option", "etta=3"], "takes no 'etta'; did you mean eta?"),
        (["halving.schedulers:ASHA", "--option", "eta=1"], "eta=1: must be an integer of at least 2"),
        ([f"{__name__}:Needy"], "Needy needs share, which has no default: give --option share=VALUE"),
    ],
)
def test_command_line_refuses_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_suite_raises_where_it_cannot_begin() -> None:
    with pytest.raises(UserError):
        conform("halving.schedulers:Nothing")
