"""A training of one's own, and a command, from the command line."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from conftest import environment

import halving

PACKAGE = """
    import itertools, os, random
    from pathlib import Path

    import torch
    from torch import nn

    from halving import instantiate

    torch.set_num_threads(5)
    DATA = torch.rand(48, 6, generator=torch.Generator().manual_seed(0))


    def autoencoder(trial):
        began = torch.get_num_threads()
        torch.set_num_threads(2)
        model = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Dropout(0.1), nn.Linear(3, 6))
        optimizer = instantiate(trial.config["optimizer"])(model.parameters())
        assert optimizer.param_groups[0]["lr"] == trial.configuration["optimizer.lr"]
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 27)
        loader = torch.utils.data.DataLoader(DATA, 16, shuffle=True)
        done = trial.keep(model=model, optimizer=optimizer, schedule=schedule)
        for epoch in itertools.count(done + 1):
            model.train()
            for rows in loader:
                optimizer.zero_grad()
                nn.functional.mse_loss(model(rows), rows).backward()
                optimizer.step()
            schedule.step()
            model.eval()
            if (flag := os.environ.get("ENDED")) and epoch == 3 and os.path.exists(flag):
                number = int(Path(flag).read_text())
                os.unlink(flag)
                os.kill(os.getpid(), number)
            with torch.no_grad():
                yield {
                    "mse": nn.functional.mse_loss(model(DATA), DATA),
                    "threads": 10 * torch.get_num_threads() + began,
                }


    def measured(trial):
        trial.keep(model=nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Dropout(0.1), nn.Linear(3, 6)))
        return {"test_mse": 0.125 * trial.since}


    class Noise:
        built = 0

        def __init__(self, level):
            Noise.built += 1
            self.level = level


    def grouped(trial):
        noise = instantiate(trial.configuration["noise"])
        assert Noise.built == 1, "nobody but this function builds it"
        Noise.built = 0
        config = trial.config
        data = instantiate(config["data"])
        model = instantiate(config["model"])
        optimizer = instantiate(config["optimizer"])(model.parameters())
        lr = instantiate(config["lr_schedule"])
        epoch = trial.keep(model=model, optimizer=optimizer)
        while True:
            optimizer.param_groups[0]["lr"] = config["optimizer"]["lr"] * lr(epoch)
            for inputs, targets in data.batches(data.train):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), targets).backward()
                optimizer.step()
            epoch += 1
            with torch.no_grad():
                outputs, targets = zip(*((model(x), y) for x, y in data.batches(data.validation)))
                right = torch.cat(outputs).argmax(1) == torch.cat(targets)
            trial.report({"hits": right.double().mean(), "noise": noise.level})


    def counted(trial):
        total = float((trial.directory / "total").read_text()) if trial.since else 0.0
        for epoch in itertools.count(trial.since + 1):
            total += trial.configuration["lr"]
            (trial.directory / "total").write_text(str(total))
            yield 1 / total
"""
OWN = ("fidelity=training", "metric=mse", "fidelity.function=mine.autoencoder", "trusted_packages=[mine]")
SEARCH = ("space=none", "+space.optimizer.lr={_target_: scipy.stats.loguniform, a: 0.01, b: 1.0}")
SMALL = ("tracker=none", "executor.threads=1")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(dedent(PACKAGE), encoding="utf-8")
    return tmp_path


def summary(run_dir: Path) -> dict:
    return json.loads((run_dir / "summary.json").read_text("utf-8"))


def ran(run: Callable, *words: str, cwd: Path, **env: str) -> None:
    result = run(*words, cwd=cwd, **{"PYTHONPATH": path(cwd), **env})
    assert result.returncode == 0, result.stderr + result.stdout


def path(*more: Path) -> str:
    return os.pathsep.join([*map(str, more), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.mark.parametrize(
    ("scheduler", "executor"),
    [("sha", "serial"), ("asha", "serial"), ("hyperband", "process"), ("median", "serial")],
)
def test_an_own_training_pauses_exactly_and_its_winner_is_had_again(
    fork: Callable, mine: Path, scheduler: str, executor: str
) -> None:
    words = (*OWN, *SEARCH, *SMALL, "fidelity.test_function=mine.measured", "r_max=9", f"scheduler={scheduler}")
    workers = ("executor.workers=2",) if executor == "process" else ()
    ran(fork, *words, f"executor={executor}", *workers, "budget.resource=40", "hydra.run.dir=study", cwd=mine)
    told, study = summary(mine / "study"), halving.load(mine / "study")
    assert (told["metric"], told["failed"], told["unit"]) == ("mse", 0, "epochs")
    assert told["resource_spent"] == sum(len(curve) for curve in study.curves.values()), "nothing is trained twice"
    assert {name for row in study.curves[study.best.trial] for name in row} == {"resource", "epoch", "mse", "threads"}
    assert {row["threads"] for curve in study.curves.values() for row in curve} == {21}, "executor.threads, then theirs"
    assert study.history.ended and study.history.ended.test == {"test_mse": 0.125 * told["best_resource"]}
    rows = list(csv.DictReader((mine / "study/curves.csv").open()))
    fixed = ["trial", "resource", "epoch", "lr", "train_loss", "train_error", "val_loss", "val_error", "seconds"]
    assert list(rows[0]) == [*fixed, "mse", "threads"] and rows[0]["val_error"] == "" != rows[0]["mse"]
    page = (mine / "study/report.html").read_text("utf-8")
    assert page.count("<svg") == 7 and "mse" in page and "could not" not in page
    kept = study.best_state()
    assert set(kept) == {"model", "optimizer", "schedule"} and kept["model"]["0.weight"].shape == (3, 6)
    if (scheduler, executor) != ("sha", "serial"):
        return
    again = (*shlex.split(told["command"])[2:], "hydra.run.dir=again")
    ran(fork, *again, cwd=mine)
    ran(fork, "-cp", str(mine / "study"), "-cn", "best", "trusted_packages=[mine]", "hydra.run.dir=best", cwd=mine)
    for name in ("again", "best"):
        assert summary(mine / name)["best_error"] == told["best_error"]
        assert torch.equal(halving.load(mine / name).best_state()["model"]["0.weight"], kept["model"]["0.weight"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_signal_costs_an_own_training_nothing_that_was_done(fork: Callable, mine: Path, number: int) -> None:
    words = (*OWN, *SEARCH, *SMALL, "r_max=9", "scheduler=sha", "executor.checkpoint_every=1")
    ran(fork, *words, "hydra.run.dir=straight", cwd=mine)
    flag = mine / "flag"
    flag.write_text(str(int(number)))
    env = {"PYTHONPATH": path(mine), "ENDED": str(flag)}
    ended = fork(*words, "hydra.run.dir=ended", cwd=mine, **env)
    again = ["resume=ended", "trusted_packages=[mine]"]
    if number == signal.SIGINT:
        assert ended.returncode == 128 + signal.SIGINT
        again = shlex.split(ended.stdout.partition("go on with: ")[2].splitlines()[0])[2:]
        assert again == [f"resume={mine / 'ended'}", "trusted_packages=[mine]"]
    else:
        assert ended.returncode == -signal.SIGKILL
    ran(fork, *again, cwd=mine, **env)
    straight, resumed = halving.load(mine / "straight"), halving.load(mine / "ended")
    assert resumed.curves == straight.curves and resumed.summary["resource_spent"] == straight.summary["resource_spent"]
    with pytest.raises(halving.UserError, match=r"best_state\(\) and best_directory have what it kept"):
        resumed.best_model()


def test_the_groups_serve_an_own_loop_and_ours_is_not_loaded_where_it_is_not_used(fork: Callable, mine: Path) -> None:
    grouped = ("fidelity=training", "fidelity.function=mine.grouped", "metric=max:hits", "trusted_packages=[mine]")
    words = (*SMALL, "model=softmax", "optimizer=adam", "lr_schedule=cosine", "data.train_samples=100", "r_max=3")
    (mine / "conf/noise").mkdir(parents=True)
    (mine / "conf/noise/gaussian.yaml").write_text("_target_: mine.Noise\nlevel: 0\n")
    own = ("--config-dir", "conf", "+noise@fidelity.configuration.noise=gaussian")
    more = (*own, "space=none", "+space.optimizer.lr=[1.0,0.01]", "scheduler=sha")
    ran(
        fork,
        *grouped,
        *words,
        *more,
        "+space.fidelity.configuration.noise.level=[1,2]",
        "hydra.run.dir=study",
        cwd=mine,
    )
    study = halving.load(mine / "study")
    assert summary(mine / "study")["best_error"] > 0.5 and study.best.configuration["optimizer.lr"] < 1
    assert study.curves[study.best.trial][0]["noise"] == study.best.configuration["fidelity.configuration.noise.level"]
    # data that cannot be had are nobody's business
    lost = ("data=mnist", f"data_dir={mine}/nowhere", "fidelity.function=mine.counted", "metric=error")
    ran(
        fork, "fidelity=training", *lost, "trusted_packages=[mine]", "+fidelity.configuration.lr=1", *SMALL,
        "hydra.run.dir=lost", "r_max=2", cwd=mine,
    )  # fmt: skip
    assert summary(mine / "lost")["best_error"] == 0.5


def test_a_group_of_ones_own_is_part_of_a_trial(fork: Callable, mine: Path) -> None:
    (mine / "blurred.py").write_text(
        "import itertools, halving\n"
        "class Noise:\n"
        "    def __init__(self, level): self.level = level\n"
        "def train(trial):\n"
        "    level = halving.instantiate(trial.config['noise']).level\n"
        "    for epoch in itertools.count(trial.since + 1):\n"
        "        (trial.directory / 'epoch').touch()\n"
        "        yield abs(level - 0.3) + 1 / epoch\n"
    )
    (mine / "conf/noise").mkdir(parents=True)
    for name, level in (("low", 0.125), ("high", 0.5)):
        (mine / f"conf/noise/{name}.yaml").write_text(f"_target_: blurred.Noise\nlevel: {level}\n")
    own = ("--config-dir", "conf", "fidelity=training", "metric=error", "fidelity.function=blurred.train", "r_max=3")
    trusted = ("trusted_packages=[blurred]", "tracker=none")
    searched = ("scheduler=sha", "space=none", "+space.noise.level={_target_: scipy.stats.uniform}")
    ran(fork, *own, *trusted, "+noise=low", *searched, "hydra.run.dir=run", cwd=mine)
    told = summary(mine / "run")
    level = told["best_configuration"]["noise.level"]
    assert told["best_error"] == abs(level - 0.3) + 1 / 3
    ran(fork, "-cp", str(mine / "run"), "-cn", "best", *trusted, "hydra.run.dir=again", cwd=mine)
    ran(fork, *shlex.split(told["command"])[2:], "hydra.run.dir=typed", cwd=mine)
    assert {summary(mine / each)["best_error"] for each in ("again", "typed")} == {told["best_error"]}
    ran(fork, "-m", *own, *trusted, "+noise=low,high", "hydra.sweep.dir=sweep", cwd=mine)
    errors = [summary(mine / "sweep" / job)["best_error"] for job in "01"]
    assert errors == [pytest.approx(0.175 + 1 / 3), pytest.approx(0.2 + 1 / 3)]
    changed = fork(f"resume={mine / 'run'}", "noise.level=0.4", *trusted[:1], cwd=mine, PYTHONPATH=path(mine))
    assert changed.returncode == 1 and "noise.level: 0.125 in the study, 0.4 on the command line" in changed.stderr


def test_a_multirun_and_wandb_have_what_is_yielded(fork: Callable, mine: Path) -> None:
    words = ("fidelity=training", "fidelity.function=mine.counted", "metric=mse", "trusted_packages=[mine]", "r_max=3")
    space = ("+fidelity.configuration.lr=1.0", "space=none", "+space.fidelity.configuration.lr=[0.5,1.0,2.0]")
    result = fork(
        "-m", *words, *space, "executor.threads=1", "tracker.wandb.mode=offline", "scheduler=sha,asha",
        "hydra.sweep.dir=sweep", cwd=mine, PYTHONPATH=path(mine),
    )  # fmt: skip
    assert result.returncode == 0 and "finished" in result.stdout, result.stderr
    for job in "01":
        runs = sorted((mine / "sweep" / job / "wandb").glob("offline-run-*"))
        assert len(runs) == 4 and any(b"mse" in file.read_bytes() for file in runs[0].glob("*.wandb"))
    assert summary(mine / "sweep/0")["best_error"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fidelity.function=mine.nothing",), "fidelity.function: cannot import 'mine.nothing'"),
        (("fidelity.function=os.getcwd",), "fidelity.function: os.getcwd lies outside the trusted packages"),
        (("fidelity.test_function=mine.nothing",), "fidelity.test_function: cannot import 'mine.nothing'"),
        (
            ("metric=val_error",),
            "the training reports mse, threads and no val_error, which is the metric; give metric=",
        ),
        (("fidelity.function=mine.measured",), "no trial survived; 1 failed, the first with: "),
    ],
)
def test_mistakes_of_an_own_training_are_told(fork: Callable, mine: Path, words: tuple[str, ...], message: str) -> None:
    result = fork(*OWN, *SMALL, *words, "r_max=3", "hydra.run.dir=study", cwd=mine, PYTHONPATH=path(mine))
    assert result.returncode == 1 and result.stderr.startswith(f"error: {message}"), result.stderr
    assert result.stderr.count("\n") == 1


PROGRAM = """
    import argparse, json, os, pathlib, subprocess, sys, time

    parser = argparse.ArgumentParser()
    for name in ("--lr", "--until", "--ends", "--extra"):
        parser.add_argument(name)
    given = parser.parse_args()
    own = {name.removeprefix("HALVING_").lower(): value for name, value in os.environ.items() if "HALVING_" in name}
    since, until, kept = int(own["since"]), int(own["until"]), pathlib.Path(own["directory"]) / "total"
    total = float(kept.read_text()) if since else 0.0
    print("a line for the log", flush=True)
    for epoch in range(since + 1, until + 1):
        total += float(given.lr)
        if "keep" not in os.environ.get("FAULT", ""):
            kept.write_text(str(total))
        print(json.dumps({"error": 1 / total, "epoch": epoch, "since": since}), flush=True)
        match os.environ.get("FAULT"):
            case "many":
                print(json.dumps({"error": 1}) * 1, flush=True)
            case "status":
                print("the disk\\nis full", file=sys.stderr)
                sys.exit(3)
            case "few":
                break
            case "hang":
                child = subprocess.Popen(["sleep", "1000"])
                pathlib.Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {child.pid}")
                time.sleep(1000)
            case "leave":
                subprocess.Popen(["sleep", "1000"])
                subprocess.Popen(["sleep", "60"], start_new_session=True)
"""
COMMAND = "python my.py --lr {optimizer.lr} --until {until} --extra '{\"a\": 1}'"
RUN = ("fidelity=command", "metric=error", "r_max=9", "scheduler=sha", *SEARCH, *SMALL)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "my.py").write_text(dedent(PROGRAM), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("executor", [("executor=serial",), ("executor=process", "executor.workers=2")])
def test_a_command_pauses_and_its_winner_is_had_again(fork: Callable, program: Path, executor: tuple[str, ...]) -> None:
    """As somebody types it, with braces and quotes that Hydra would not read, and what it leaves running is ended."""
    words = (f"fidelity.command={COMMAND}", *RUN, *executor)
    ran(fork, *words, "hydra.run.dir=study", cwd=program, FAULT="leave")
    study = halving.load(program / "study")
    best = study.curves[study.best.trial]
    assert [row["since"] for row in best] == [0, 1, 1, *[3] * 6] and study.summary["resource_spent"] == 21
    assert (study.best_directory / "total").read_text() and best[-1]["error"] == study.summary["best_error"]
    if executor != ("executor=serial",):
        return
    ran(fork, *shlex.split(study.summary["command"])[2:], "hydra.run.dir=again", cwd=program)
    again = halving.load(program / "again").summary
    assert again["best_error"] == pytest.approx(study.summary["best_error"], rel=1e-12)

    refused = fork("resume=study", "scheduler.rounds=2", cwd=program)
    assert refused.returncode == 1 and refused.stderr.startswith("error: fidelity.command: a file, and nobody at this")
    remedy = refused.stderr.partition("type ")[2].partition(" on the command line")[0]
    ran(fork, "resume=study", "scheduler.rounds=2", remedy, cwd=program)
    ran(fork, "-cp", str(program / "study"), "-cn", "best", remedy, "hydra.run.dir=best", cwd=program)


@pytest.mark.parametrize(
    ("words", "fault", "message"),
    [
        (("fidelity.command=python my.py --lr {optimizer.rl}",), "", "fidelity.command: no {optimizer.rl} there; did"),
        (("fidelity.command=nowhere.sh {until}",), "", "fidelity.command: there is no program nowhere.sh here; "),
        (("fidelity.command=python 'my.py",), "", 'fidelity.command: "python \'my.py" is no command line: No closing'),
        (("fidelity.command=[a]",), "", "fidelity.command: ['a'] is no command line: "),
        (("metric=loss",), "", "the command prints error, since and no loss; give metric=<name>"),
        ((), "keep", "the command leaves nothing in HALVING_DIRECTORY"),
        (
            ("executor=process", "executor.workers=2", "r_min=3"),
            "status",
            "no trial survived; 3 failed, the first with: the command ended with status 3: is full; see",
        ),
        (("r_min=3",), "few", "no trial survived; 3 failed, the first with: the command told of 1 epochs after 0, and"),
        (("r_min=3",), "many", "no trial survived; 3 failed, the first with: the command says that this is epoch 2, "),
        (("r_min=9",), "", "no trial survived; 1 failed, the first with: the command ended with status 2: python: "),
    ],
)
def test_mistakes_of_a_command_are_told(
    fork: Callable, program: Path, words: tuple[str, ...], fault: str, message: str
) -> None:
    typed = (f"fidelity.command={COMMAND}", *RUN, "hydra.run.dir=study")
    if words == ("r_min=9",):
        words = ("r_min=9", "fidelity.command=python gone.py")
    result = fork(*typed, *words, cwd=program, FAULT=fault)
    assert result.returncode == 1 and result.stderr.startswith(f"error: {message}"), result.stderr
    assert result.stderr.count("\n") == 1
    assert fault != "status" or "the disk\nis full" in (program / "study/train.log").read_text("utf-8")


def gone(pids: Path) -> bool:
    return not any(Path(f"/proc/{pid}").exists() and state(pid) != "Z" for pid in pids.read_text().split())


def state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def waited(fact: Callable[[], bool]) -> bool:
    return any(fact() or time.sleep(0.1) for _ in range(300))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
@pytest.mark.parametrize("end", ["timeout", "SIGINT", "SIGKILL"])
def test_a_command_and_what_it_started_end_with_the_study(fork: Callable, repo: Path, program: Path, end: str) -> None:
    pids = program / "pids"
    words = [f"fidelity.command={COMMAND}", *RUN, "r_max=3", "scheduler=single", "hydra.run.dir=study"]
    env = environment(PYTHONPATH=path(), FAULT="hang", PIDS=str(pids))
    if end == "timeout":
        words += ["executor=process", "executor.workers=1", "executor.trial_timeout=6", "executor.retries=0"]
        result = fork(*words, cwd=program, **env)
        assert result.returncode == 1 and "timeout: it took longer than" in result.stderr and gone(pids)
        return
    with subprocess.Popen(
        [sys.executable, str(repo / "train.py"), *words], cwd=program, env=env, stderr=subprocess.DEVNULL
    ) as study:
        assert waited(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        study.send_signal(signal.Signals[end])
        if end == "SIGINT":  # the first waits for the epoch, the second does not
            time.sleep(0.5)
            study.send_signal(signal.SIGINT)
        assert waited(lambda: gone(pids)) and study.wait(60) != 0
    ran(fork, "resume=study", "trusted_packages=[command]", cwd=program)
    assert halving.load(program / "study").best.last.resource == 3


def test_a_command_from_a_file_runs_only_if_somebody_trusts_it(fork: Callable, program: Path) -> None:
    (program / "conf/experiment").mkdir(parents=True)
    (program / "conf/experiment/strange.yaml").write_text(
        "# @package _global_\ndefaults: [{override /fidelity: command}]\nmetric: error\nr_max: 3\n"
        "fidelity: {command: 'python my.py --lr {lr} --until {until}', configuration: {lr: 0.5}}\n"
    )
    words = ("--config-dir", "conf", "experiment=strange", *SMALL, "hydra.run.dir=study")
    refused = fork(*words, cwd=program)
    assert refused.returncode == 1 and refused.stderr.startswith("error: fidelity.command: a file, and nobody at this")
    assert not (program / "study/checkpoints").exists()
    ran(fork, *words, "trusted_packages=[command]", cwd=program)
    assert summary(program / "study")["best_error"] == pytest.approx(1 / 1.5)
