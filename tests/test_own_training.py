"""A training of the user's, paused, resumed, moved and killed, ends bit for bit where it would have ended untouched."""

import errno
import hashlib
import inspect
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

import halving
from halving import Process, SuccessiveHalving, UserError
from halving.checkpoints.store import State, Store
from halving.errors import StudyError
from halving.journal import read
from halving.schedulers import (
    ASHA,
    FIFO,
    PASHA,
    AsyncHyperband,
    ConcordantASHA,
    Curve,
    Hyperband,
    Median,
    OneEpoch,
)
from halving.training import randomness
from halving.training.own import Trainings
from halving.trial import Epoch, Job, Resume

SPACE = {"lr": {"_target_": "scipy.stats.loguniform", "a": 0.003, "b": 0.3}}
DATA = torch.linspace(-1, 1, 96).reshape(24, 4).sin()


class Parts:
    """A model with dropout, whose loader, dropout and noise draw from the global generators."""

    def __init__(self, trial: Any) -> None:
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 4))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=trial.configuration["lr"])
        self.schedule = lr_scheduler.CosineAnnealingLR(self.optimizer, 9)
        self.loader = DataLoader(TensorDataset(DATA), 8, shuffle=True)

    def train(self, noise: Callable[[], float] = random.random) -> dict[str, float]:
        self.model.train()
        for (batch,) in self.loader:
            self.optimizer.zero_grad()
            noisy = batch + 0.1 * torch.randn_like(batch) + 0.1 * float(np.random.rand()) + 0.1 * noise()
            (self.model(noisy) - batch).square().mean().backward()
            self.optimizer.step()
        self.schedule.step()
        self.model.eval()
        with torch.no_grad():
            error = float((self.model(DATA) - DATA).square().mean())
        # A curve that agrees in this agrees in every bit of every weight.
        return {"mse": error, "weights": weights(self.model.state_dict())}


def weights(state: dict[str, torch.Tensor]) -> float:
    content = b"".join(tensor.numpy().tobytes() for tensor in state.values())
    return float(int.from_bytes(hashlib.sha256(content).digest()[:6]))


def keeping(trial: Any) -> Iterator[dict[str, float]]:
    parts = Parts(trial)
    done = trial.keep(model=parts.model, optimizer=parts.optimizer, schedule=parts.schedule)
    for _ in itertools.count(done + 1):
        yield parts.train()


def reporting(trial: Any) -> None:
    parts = Parts(trial)
    trial.keep(model=parts.model, optimizer=parts.optimizer, schedule=parts.schedule)
    while True:
        trial.report(parts.train())


def filing(trial: Any) -> Iterator[dict[str, float]]:
    """Leaves files in every shape that people's frameworks leave."""
    parts, kept = Parts(trial), ("model", "optimizer", "schedule")
    if trial.since:
        assert {each.relative_to(trial.directory).as_posix() for each in trial.directory.rglob("*")} == LEFT
        for name in kept:
            file = trial.directory / "deep" / "er" / f"{name}.pt"
            getattr(parts, name).load_state_dict(torch.load(file, weights_only=True))
        assert int((trial.directory / "last.ckpt").read_text()) == int((trial.directory / "5").read_text())
    trial.keep()  # nothing but the generators, which building has drawn from
    while True:
        metrics = parts.train()
        deep = trial.directory / "deep" / "er"
        deep.mkdir(parents=True, exist_ok=True)
        (trial.directory / "empty").mkdir(exist_ok=True)
        for name in kept:
            torch.save(getattr(parts, name).state_dict(), deep / f"{name}.pt")
        (trial.directory / "5").write_text(str(metrics["weights"])[:3])
        (trial.directory / "last.ckpt").unlink(missing_ok=True)
        (trial.directory / "last.ckpt").symlink_to("5")
        yield metrics


LEFT = {"5", "deep", "deep/er", "deep/er/model.pt", "deep/er/optimizer.pt", "deep/er/schedule.pt", "empty", "last.ckpt"}


def generating(trial: Any) -> Iterator[dict[str, float]]:
    """Draws from generators of its own, of every kind."""
    parts = Parts(trial)
    ours: dict[str, Any] = {"torch": torch.Generator().manual_seed(trial.seed), "python": random.Random(trial.seed)}
    for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64):
        ours[kind.__name__] = np.random.Generator(kind(trial.seed))
    ours["old"] = np.random.RandomState(trial.seed % 2**32)
    parts.loader = DataLoader(TensorDataset(DATA), 8, shuffle=True, generator=ours["torch"])
    trial.keep(model=parts.model, optimizer=parts.optimizer, schedule=parts.schedule, **ours)

    def noise() -> float:
        return sum(float(each.normal()) for name, each in ours.items() if name not in ("torch", "python")) + (
            ours["python"].gauss(0, 1)
        )

    while True:
        yield parts.train(noise)


def moody(trial: Any) -> Iterator[dict[str, float]]:
    """Yields inside of modes, where people evaluate."""
    parts = Parts(trial)
    done = trial.keep(model=parts.model, optimizer=parts.optimizer, schedule=parts.schedule)
    torch.set_num_threads(2)
    for epoch in itertools.count(done + 1):
        metrics = parts.train()
        assert torch.get_num_threads() == 2
        match epoch % 3:
            case 0:
                with torch.no_grad():
                    yield metrics
                    assert not torch.is_grad_enabled()
            case 1:
                with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
                    yield metrics
                    assert torch.is_autocast_enabled("cpu") and torch.is_inference_mode_enabled()
            case _:
                with torch.inference_mode(), torch.autocast("cpu", torch.float16):
                    yield metrics
                    assert torch.get_autocast_dtype("cpu") == torch.float16


TRAININGS = [keeping, reporting, filing, generating, moody]


def tune(function: Any, scheduler: Any = SuccessiveHalving, space: Any = SPACE, **options: Any) -> halving.Study:
    options = {"eta": 3, "r_max": 9} | options if scheduler is not FIFO else options
    return halving.tune(function, space, scheduler, metric="mse", progress=False, **options)


def curves(study: halving.Study) -> dict[int, list[tuple[float, ...]]]:
    return {
        trial: [(row["epoch"], *(row[name] for name in ("mse", "weights"))) for row in rows]
        for trial, rows in study.curves.items()
    }


@pytest.fixture(scope="module", params=TRAININGS, ids=lambda each: each.__name__)
def training(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_two_threads_in_trials_at_once_are_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(randomness, "_warned", [])
    both = threading.Barrier(2, timeout=20)

    def meeting(configuration: Any, resource: int) -> float:
        both.wait()
        return 1.0

    def studied(_: int) -> None:
        halving.tune(meeting, SPACE, FIFO, r_max=1, max_trials=2, progress=False)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(studied, range(2)))
    assert [each.message[:35] for each in caplog.records] == ["two threads are in trials at once, "]


@pytest.mark.parametrize("trains", [False, True])
def test_a_trial_may_run_a_study_in_a_thread(trains: bool) -> None:
    def inner() -> float:
        found = halving.tune(lambda configuration, _: 1.0, SPACE, FIFO, r_max=1, max_trials=2, progress=False)
        return found.best.last.error

    def outer(configuration: Any, resource: int) -> float:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(inner).result(20)

    def training(trial: Any) -> Iterator[dict[str, float]]:
        trial.keep()
        while True:
            yield {"error": outer(None, 0)}

    study = halving.tune(training if trains else outer, SPACE, FIFO, r_max=1, max_trials=2, progress=False)
    assert [trial.last.error for trial in study.trials] == [1.0, 1.0]


@pytest.fixture(scope="module")
def straight(training: Any) -> dict[int, list[tuple[float, ...]]]:
    """Every trial of a study, trained to its end without a pause."""
    return curves(tune(training, FIFO, r_max=9, max_trials=9))


def assert_as_straight(study: halving.Study, straight: dict[int, list[tuple[float, ...]]]) -> None:
    for trial, rows in curves(study).items():
        assert rows == straight[trial][: len(rows)], trial
        assert [row[0] for row in rows] == list(range(1, len(rows) + 1))


def final(study: halving.Study) -> float:
    """Return the weights that the winner left."""
    kept = study.best_state()
    return weights(kept["model"] if kept else torch.load(study.best_directory / "deep/er/model.pt", weights_only=True))


def test_paused_at_every_rung_equals_straight(training: Any, straight: Any, tmp_path: Path) -> None:
    study = tune(training, run_dir=tmp_path / "study")
    assert_as_straight(study, straight)
    (best,) = [trial for trial, rows in curves(study).items() if len(rows) == 9]
    assert final(halving.load(tmp_path / "study")) == straight[best][-1][-1]
    left = [each.name for each in (tmp_path / "study/checkpoints").glob("*/*")]
    assert left == ["9" if training is filing else "9.pt"]


YIELDING = [keeping, filing, generating, moody]


def each_in_turn(trial: Any) -> Iterator[dict[str, float]]:
    yield from YIELDING[trial.number % len(YIELDING)](trial)


TWO_WORKERS = [
    (reporting, ASHA, {}, 9),
    (each_in_turn, partial(OneEpoch, r_min=3, n=8, k=8), {"r_max": 9}, 15),  # where all go on, whoever is first
]


@pytest.mark.parametrize(("function", "scheduler", "options", "evaluations"), TWO_WORKERS)
def test_two_workers_equal_straight(
    function: Any, scheduler: Any, options: dict[str, Any], evaluations: int, tmp_path: Path
) -> None:
    budget = halving.Budget(evaluations=evaluations)  # which leaves trials that are paused
    executor = partial(Process, workers=2)
    study = tune(function, scheduler, budget=budget, executor=executor, run_dir=tmp_path / "study", **options)
    assert not list(tmp_path.rglob("working-*"))
    resumed = {event.trial % len(YIELDING) for event, _ in read(tmp_path / "study") if isinstance(event, Resume)}
    assert len(resumed) == len(YIELDING) if function is each_in_turn else resumed
    straight = curves(tune(function, FIFO, r_max=9, max_trials=len(study.curves)))
    assert_as_straight(study, straight)
    assert final(study) == straight[study.best.trial][len(curves(study)[study.best.trial]) - 1][-1]


FAMILY: dict[str, tuple[Any, dict[str, Any]]] = {
    "sha": (SuccessiveHalving, {}),
    "asha": (ASHA, {"max_trials": 5}),
    "asha stopping": (ASHA, {"max_trials": 5, "variant": "stopping"}),
    "hyperband": (Hyperband, {}),
    "async_hyperband": (AsyncHyperband, {"max_trials": 5}),
    "pasha": (PASHA, {"max_trials": 5}),
    "median": (Median, {"max_trials": 5}),
    "curve": (Curve, {"max_trials": 5}),
    "concordant_asha": (ConcordantASHA, {"max_trials": 5}),
    "one_epoch": (OneEpoch, {}),
    "fifo": (FIFO, {"max_trials": 3}),
}


def test_every_scheduler_gives_the_same_curves(tmp_path: Path) -> None:
    straight = curves(tune(keeping, FIFO, r_max=4, max_trials=20))
    for name, (scheduler, options) in FAMILY.items():
        accepted = inspect.signature(scheduler).parameters
        given = {key: value for key, value in {"eta": 2, "r_max": 4}.items() if key in accepted} | options
        study = halving.tune(keeping, SPACE, scheduler, metric="mse", progress=False, run_dir=tmp_path / name, **given)
        assert_as_straight(study, straight)
        trained = sum(len(rows) for rows in study.curves.values())
        assert study.history.spent == trained, name
        assert not list((tmp_path / name).rglob("working-*")), name


@pytest.fixture(scope="module")
def killed(repo: Path) -> Iterator[Callable[[Any, Path, float | None], int]]:
    """`killed(training, run_dir, after)` tunes in another process, which is killed `after` some seconds."""
    server = subprocess.Popen(
        [sys.executable, str(repo / "tests/faults/killed_training.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    requests, replies = server.stdin, server.stdout

    def tune(training: Any, run_dir: Path, after: float | None) -> int:
        requests.write(json.dumps({"training": training.__name__, "run_dir": str(run_dir), "after": after}) + "\n")
        requests.flush()
        return int(replies.readline())

    yield tune
    requests.close()
    server.wait(timeout=60)


def test_ten_kills_at_random_moments_change_nothing(training: Any, straight: Any, killed: Any, tmp_path: Path) -> None:
    run_dir, rng = tmp_path / "study", random.Random(training.__name__)
    for _ in range(10):
        assert killed(training, run_dir, rng.uniform(0.02, 0.12)) == -signal.SIGKILL
    assert killed(training, run_dir, None) == 0
    study = halving.load(run_dir)
    assert_as_straight(study, straight)
    assert study.history.spent == sum(len(rows) for rows in study.curves.values())
    epochs = [(event.trial, event.epoch) for event, _ in read(run_dir) if isinstance(event, Epoch)]
    assert len(epochs) == len(set(epochs))
    assert final(study) == straight[study.best.trial][-1][-1]
    assert len(list((run_dir / "checkpoints").glob("*/*"))) == 1


def refused(function: Any, match: str, tmp_path: Path | None = None, **options: Any) -> None:
    with pytest.raises(StudyError, match=match):
        tune(function, run_dir=tmp_path, **options)


def test_keeping_nothing_ends_the_study_at_its_first_pause_and_the_mended_function_goes_on(tmp_path: Path) -> None:
    keeps = False

    def training(trial: Any) -> Iterator[dict[str, float]]:
        yield from keeping(trial) if keeps else (Parts(trial).train() for _ in itertools.count())

    def empty(trial: Any) -> Iterator[float]:
        (trial.directory / "nothing in here").mkdir()
        (trial.directory / "nothing in here").rmdir()
        yield from itertools.repeat(1.0)

    refused(empty, "keeps nothing.*trial.keep.*trial.directory")
    refused(training, "keeps nothing", tmp_path / "study")
    assert not halving.load(tmp_path / "study").history.finished
    with pytest.raises(UserError, match="already holds a study"):
        tune(training, run_dir=tmp_path / "study")
    keeps = True
    study = tune(training, run_dir=tmp_path / "study", resume=True)
    assert curves(study) == curves(tune(keeping))


def test_what_a_study_kept_less_of_it_cannot_go_on_with(tmp_path: Path) -> None:
    more: dict[str, Any] = {}

    def training(trial: Any) -> Iterator[float]:
        if trial.since and not more:
            more["ema"] = nn.Linear(1, 1)
            raise halving.errors.StudyError("cut off")
        trial.keep(model=nn.Linear(1, 1), **more)
        for _ in range(trial.since, trial.until):  # so that it is built again after each pause
            yield 1.0

    refused(training, "cut off", tmp_path)
    refused(
        training,
        r"trial.keep\(ema=...\): the checkpoint after 1 has no such part.*begin another",
        tmp_path,
        resume=True,
    )


class Bag:
    """Something with a state, of whatever one puts in."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


def bagging(trial: Any, **extra: Any) -> Iterator[float]:
    bag = Bag(
        best=np.float64(0.1), rows=np.arange(6, dtype=np.uint16).reshape(2, 3)[:, ::2], flag=np.bool_(True), **extra
    )
    model = nn.BatchNorm1d(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    kept: dict[str, Any] = {
        "lambda_": lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
        "steps": lr_scheduler.MultiStepLR(optimizer, [1, 2, 2]),
        "plateau": lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
        "cycle": lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=27, cycle_momentum=False),
    }
    done = trial.keep(bag=bag, model=model, optimizer=optimizer, **kept)
    if done:
        assert isinstance(bag.state["rows"], np.ndarray) and bag.state["rows"].dtype == np.uint16
        assert bag.state["rows"].tolist() == [[0, 2], [3, 5]] and bag.state["best"] == 0.1 + done
    for _ in range(done, trial.until):  # it ends at the rung, so that what follows comes from the disk
        bag.state["best"] += np.float64(1)
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        for name, schedule in kept.items():
            schedule.step(np.float64(0.5)) if name == "plateau" else schedule.step()
        yield float(optimizer.param_groups[0]["lr"])


def test_states_hold_what_schedules_and_numpy_put_into_them(tmp_path: Path) -> None:
    study = tune(bagging, run_dir=tmp_path)
    straight = tune(bagging, FIFO, r_max=9, max_trials=9)
    for trial, rows in study.curves.items():
        assert [row["mse"] for row in rows] == [row["mse"] for row in straight.curves[trial]][: len(rows)]
    bag = halving.load(tmp_path).best_state()["bag"]
    assert type(bag["best"]) is float and bag["flag"] is True and bag["rows"].tolist() == [[0, 2], [3, 5]]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "object"),
        (len, "builtin"),
        ({1, 2}, "set"),
        (np.array(["a"]), "ndarray"),
        (np.longdouble(1), "longdouble"),
        (torch.eye(2).to_sparse(), "Tensor"),
        (signal.SIGINT, "Signals"),
        (Path(), "Path"),
        (partial(len, ""), "partial"),
    ],
)
def test_what_could_not_be_loaded_again_is_refused_when_it_is_kept(value: Any, kind: str, tmp_path: Path) -> None:
    match = rf"trial.keep\(bag=...\)\['deep'\]\[1\]\['er'\] is of type \w*{kind}.* cannot hold.*trial.directory"
    refused(lambda trial: bagging(trial, deep=[0, {"er": value}]), match, tmp_path)


def test_what_cannot_be_loaded_and_comes_into_a_state_later_is_refused_at_the_pause(tmp_path: Path) -> None:
    def training(trial: Any) -> Iterator[float]:
        bag = Bag()
        trial.keep(bag=bag)
        while True:
            bag.state["late"] = object()
            yield 1.0

    refused(training, r"trial.keep\(bag=...\)\['late'\] is of type object", tmp_path)


def test_what_has_no_state_is_refused() -> None:
    refused(lambda trial: (trial.keep(loader=[1]) for _ in range(9)), r"keep\(loader=...\): a list has no state_dict")
    refused(lambda trial: (trial.keep(nn.Linear(1, 1)) for _ in range(9)), r"each part has a name: trial.keep\(model=")


def test_a_trial_that_is_taken_for_its_configuration_says_what_it_is() -> None:
    refused(
        lambda configuration: configuration["lr"], r"trial.configuration\['lr'\]; one that returns an error has two"
    )


YIELDED: dict[str, tuple[Any, str | None]] = {
    "a plain number": (0.5, None),
    "a tensor": (torch.tensor(0.5, requires_grad=True), None),
    "an array": (np.array([0.5]), None),
    "tensors": ({"mse": torch.tensor(0.5), "more": np.float32(1)}, None),
    "the epoch": ({"mse": 0.5, "epoch": 1}, None),
    "another epoch": ({"mse": 0.5, "epoch": 3}, "says that this is epoch 3, where 1 follows"),
    "a curve's own column": ({"mse": 0.5, "resource": 1}, "reports resource, which a curve has of its own"),
    "no metric": ({"loss": 0.5}, "reports loss and no mse.*metric=<name>"),
    "nothing": ({}, "reports nothing and no mse"),
    "none": (None, "mse=None, which is no number"),
    "a string": ("0.5", "mse='0.5', which is no number"),
    "a string in it": ({"mse": 0.5, "note": "0.5"}, "note='0.5', which is no number"),
    "two numbers": (torch.ones(2), "mse=tensor.*which is no number"),
}


@pytest.mark.parametrize("reports", [False, True])
@pytest.mark.parametrize("name", YIELDED)
def test_what_is_yielded_is_taken_or_refused_in_words(name: str, reports: bool) -> None:
    value, match = YIELDED[name]

    def yielding(trial: Any) -> Iterator[Any]:
        yield value

    training = (lambda trial: trial.report(value)) if reports else yielding
    if match is None:
        assert tune(training, FIFO, r_max=1, max_trials=1).best.last.error == 0.5
    else:
        refused(training, match, scheduler=FIFO, r_max=1, max_trials=1)


def test_a_trial_that_raises_or_returns_too_early_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    def training(trial: Any) -> Iterator[float]:
        trial.keep()
        (trial.directory / "file").touch()
        for epoch in itertools.count(trial.since + 1):
            match trial.number, epoch:
                case 0, 3:
                    return
                case 1, 3:
                    raise ValueError("mine")
                case 2, 2:
                    yield float("nan")
                case 3, 1:
                    trial.report(0.0)
                case 4, 1:
                    next(iter(()))
                case _:
                    yield 1.0 + trial.number

    study = tune(training, FIFO, r_max=4, max_trials=6)
    causes = [trial.last.finished.cause for trial in study.trials]
    assert "ended after 2 of 4 epochs" in causes[0] and "itertools.count" in causes[0]
    assert causes[1] == "ValueError: mine"
    assert causes[2] == "diverged: mse is nan after epoch 2"
    assert "yields its metrics" in causes[3]
    assert "StopIteration" in causes[4]
    assert causes[5] == "" and study.best.trial == 5 and study.best.last.error == 6.0
    blocking = tune(lambda trial: next(iter(())) if trial.number else trial.report(1), FIFO, r_max=1, max_trials=2)
    assert "StopIteration" in blocking.trials[1].last.finished.cause


def test_what_is_no_training_is_said_in_words() -> None:
    def bare(*arguments: Any) -> Any:
        yield 1.0

    with pytest.raises(UserError, match="the training returned a list"):
        tune(lambda trial: [1.0, 2.0])
    refused(bare, "a training takes one argument, the trial")


def test_a_function_that_catches_everything_pauses_all_the_same(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def training(trial: Any) -> None:
        trial.keep(model=nn.Linear(1, 1))
        for _ in range(100):
            try:
                trial.report({"mse": trial.number})
            except BaseException as error:
                caught.append(error)

    began = time.monotonic()
    assert tune(training, run_dir=tmp_path).best.trial == 0
    assert len(caught) > 100 and time.monotonic() - began < 8


def test_nothing_of_a_training_leaks_out_or_in() -> None:
    def world() -> list[Any]:
        modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        return [*modes, torch.get_autocast_dtype("cpu"), torch.get_num_threads(), randomness.captured()]

    expected = curves(tune(moody, r_max=3))
    for context in (torch.no_grad, torch.inference_mode, partial(torch.autocast, "cpu", torch.float16)):
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        torch.set_num_threads(1)
        with context():
            before = world()
            assert curves(tune(moody, r_max=3)) == expected
            assert curves(tune(reporting, r_max=3)) == curves(tune(keeping, r_max=3))
            assert str(world()) == str(before)
    threads: list[int] = []

    def counting(trial: Any) -> None:
        threads.append(torch.get_num_threads())
        torch.set_num_threads(3)
        trial.report(1.0)

    for given in (1, 2):
        torch.set_num_threads(given)
        tune(counting, FIFO, r_max=1, max_trials=2)
        assert torch.get_num_threads() == given
    torch.set_num_threads(1)
    assert threads == [1, 1, 2, 2]


def test_files_that_cannot_be_copied_are_named(tmp_path: Path) -> None:
    def leaving(make: Callable[[Path], object]) -> Any:
        def training(trial: Any) -> Iterator[float]:
            make(trial.directory)
            yield 1.0

        return training

    for name, make in {
        "circle": lambda directory: (directory / "circle").symlink_to("."),
        "gone": lambda directory: (directory / "gone").symlink_to("nowhere"),
        "pipe": lambda directory: os.mkfifo(directory / "pipe"),
    }.items():
        refused(leaving(make), f"{name} in trial.directory is neither", tmp_path / name)


def test_a_full_disk_ends_the_study_where_the_training_writes_itself(tmp_path: Path) -> None:
    def training(trial: Any) -> Iterator[float]:
        yield 1.0
        raise OSError(errno.ENOSPC, "No space left on device", "model.joblib")

    def writing(trial: Any) -> Iterator[float]:
        yield trial.directory and os.write(os.open("/dev/full", os.O_WRONLY), b"x")

    refused(
        writing,
        "cannot write .*working-[0-9a-f]*: No space left on device; make room",
        scheduler=FIFO,
        r_max=2,
        max_trials=1,
    )
    refused(
        training, "model.joblib: No space left on device; make room", tmp_path, scheduler=FIFO, r_max=2, max_trials=3
    )
    assert not halving.load(tmp_path).history.finished


def test_a_signal_leaves_a_checkpoint_and_nothing_is_trained_twice(tmp_path: Path) -> None:
    trained: list[tuple[int, int]] = []

    def training(trial: Any) -> Iterator[dict[str, float]]:
        for metrics in keeping(trial):
            epoch = 1 + max([trial.since, *(epoch for number, epoch in trained if number == trial.number)])
            trained.append((trial.number, epoch))
            if (trial.number, epoch) in ((2, 1), (1, 2), (1, 5)) and trained.count((trial.number, epoch)) == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield metrics

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt, match="the same call with resume=True goes on"):
            tune(training, FIFO, r_max=6, max_trials=3, run_dir=tmp_path, resume=True)
    study = tune(training, FIFO, r_max=6, max_trials=3, run_dir=tmp_path, resume=True)
    assert sorted(trained) == [(trial, epoch) for trial in range(3) for epoch in range(1, 7)]
    assert curves(study) == curves(tune(keeping, FIFO, r_max=6, max_trials=3))


def test_the_winner_is_tested_with_what_it_kept_and_left(tmp_path: Path) -> None:
    def kept(trial: Any) -> dict[str, float]:
        parts = Parts(trial)
        assert trial.keep(model=parts.model) == trial.since == 9
        return {"test_mse": parts.train()["mse"], "weights": weights(parts.model.state_dict())}

    def left(trial: Any) -> dict[str, float]:
        content = torch.load(trial.directory / "deep/er/model.pt", weights_only=True)
        return {"weights": weights(content)}

    first = tune(keeping, test=kept, run_dir=tmp_path / "kept")
    assert first.history.ended is not None and first.history.ended.test["test_mse"] > 0
    second = tune(filing, test=left, run_dir=tmp_path / "left")
    assert second.history.ended is not None and second.history.ended.test == {"weights": final(second)}
    assert not list(tmp_path.rglob("working-*"))


def test_a_training_mended_to_keep_parts_instead_of_files_goes_on_with_these(tmp_path: Path) -> None:
    store = Store(tmp_path)
    directory = store.working(0)
    (directory / "file").touch()
    assert store.save(0, 3, "same", State({"kept": "files"}, directory)) == "checkpoints/0/3"
    assert store.save(0, 3, "same", State({"kept": "parts"})) == "checkpoints/0/3.pt"
    assert store.load(0, 3, "same").values == {"kept": "parts"}


def counting_threads(trial: Any) -> Iterator[float]:
    while True:
        yield float(trial.keep(generator=torch.Generator()) * 0 + torch.get_num_threads())


@pytest.mark.parametrize("number", [1, 3])
def test_trainings_have_the_threads_of_the_call_in_workers_too(number: int) -> None:
    torch.set_num_threads(number)
    study = halving.tune(counting_threads, {"x": [1, 2, 3]}, r_max=3, executor=partial(Process, workers=1))
    assert {row["error"] for curve in study.curves.values() for row in curve} == {float(number)}


def test_a_training_that_cannot_go_on_leaves_nothing_behind(tmp_path: Path) -> None:
    def train(trial: Any) -> Iterator[float]:
        (trial.directory / "epoch").write_text("1")
        for epoch in itertools.count(trial.since + 1):
            if epoch == 2:
                raise ValueError("no further")
            yield 1.0

    store = Store(tmp_path)
    trainings = Trainings(train, store, 0, "error", 9)
    with pytest.raises(ValueError, match="no further"):  # an earlier checkpoint is lost, and its epochs trained again
        list(trainings([Job(0, {}, 4, 9)]))
    assert not list(tmp_path.rglob("working-*"))
