"""`hydra/sweeper=halving` for apps that know nothing of it."""

import csv
import re
import shlex
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import Forks, environment

import halving
from halving.config.commands import read
from halving.errors import UserError
from halving.space import Space
from halving.sweep.answers import Rung, begin, matching
from halving.sweep.jobs import App, filled
from halving.sweep.parameters import flat, typed

CURVE, TORCH = "tests/apps/curve/train.py", "tests/apps/plain_torch/train.py"
SWEEP = ("-m", "hparams_search=halving", "hydra.sweep.dir=sweep", "hydra.output_subdir=null")

MOMENTS = (
    *("journal.jsonl 1", "journal.jsonl 3"),  # the jobs of the first rung are handed out
    *(r"/0/.halving/1\..*.tmp 1", "/0/.halving/1.json 1", "/0/.halving 1"),  # trial 0 has trained, and answers
    *(r"/2/.halving/1\..*.tmp 1", "/2/.halving 1"),  # the last of the rung does
    "journal.jsonl 2",  # what was decided of it is written
    *("/0/.halving/3.json 1", "/0/.halving 1"),  # the one that went on has trained, and answers
    "results.csv 1",
)


def rows(sweep: Path) -> list[dict[str, str]]:
    """What a study came to, in the order of its trials, but for the time that it took."""
    with (sweep / "results.csv").open() as file:
        found = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    return sorted(found, key=lambda row: (int(row["resource"]), int(row["trial"])))


def epochs(sweep: Path) -> int:
    """How many epochs the app has trained, by its own logs."""
    return sum(path.read_text().count(" - epoch ") for path in sweep.glob("*/train.log"))


@pytest.fixture(scope="module")
def straight(fork: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the curve that nothing happens to."""
    cwd = tmp_path_factory.mktemp("straight")
    assert (done := fork(*SWEEP, program=CURVE, cwd=cwd)).returncode == 0, done.stderr
    return cwd / "sweep"


def test_a_plain_torch_app_trains_81_epochs_for_27_trials(fork: Forks, tmp_path: Path) -> None:
    done = fork(*SWEEP, program=TORCH, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = halving.load(tmp_path / "sweep")
    assert (len(study.trials), epochs(tmp_path / "sweep"), study.history.spent) == (27, 81, 81)
    best = study.best
    assert [path.parent.name for path in (tmp_path / "sweep").glob("*/checkpoint.pt")] == [str(best.trial)]
    assert (tmp_path / "sweep/report.html").is_file() and (tmp_path / "sweep/multirun.yaml").is_file()
    assert {"optimizer.lr", "model", "model.width", "batch_size"} == best.configuration.keys()
    command = re.search(r"train it again: (.*)", done.stdout)
    assert command is not None and command[1] == study.summary["command"]
    python, program, *words = shlex.split(command[1])  # its four rungs, each from the app's checkpoint, were exact
    assert (python, program) == ("python", str(Path(TORCH).absolute()))
    again = fork(*words, program=TORCH, cwd=tmp_path)
    assert f"epoch 27: loss {best.last.error!r}" in again.stdout, again.stderr
    assert "trial 0" in fork("explain", str(study.run_dir), "--trial", "0", program="scripts/study.py").stdout
    checked = fork("check", str(study.run_dir), program="scripts/study.py")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local"],
        ["hydra.sweeper.launch=subprocess", "hydra.sweeper.workers=2"],
    ],
    ids=["joblib", "submitit", "subprocess"],
)
def test_launchers_come_to_the_same_whatever_dies(
    launcher: list[str], fork: Forks, straight: Path, tmp_path: Path
) -> None:
    done = fork(*SWEEP, *launcher, program=CURVE, cwd=tmp_path, ENDS="1")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "sweep") == rows(straight)
    assert (tmp_path / "sweep/1/ended").exists()
    restarts = [each for trial in halving.load(tmp_path / "sweep").trials for each in trial.last.restarts]
    assert restarts and "retry 1 of 2" in restarts[0]


def test_killed_again_and_again_it_decides_as_if_nothing_had_been(fork: Forks, straight: Path, tmp_path: Path) -> None:
    curve, sweep = Path(CURVE).absolute(), tmp_path / "sweep"
    answered = dict[Path, int]()  # with the epochs that the trial had by then
    for at in (*MOMENTS, "nowhere 1"):
        done = fork(str(curve), *SWEEP, program="tests/faults/killed_sweep.py", cwd=tmp_path, AT=at)
        assert done.returncode == (0 if at == "nowhere 1" else -signal.SIGKILL), (at, done.stderr)
        for answer, trained in answered.items():  # what was answered is not run again
            assert at_most(answer) == trained
        answered = {answer: at_most(answer) for answer in sweep.glob("*/.halving/*.json")}
    assert rows(sweep) == rows(straight)


def at_most(answer: Path) -> int:
    """How many epochs up to an answer's a trial has trained, again and again perhaps."""
    log = (answer.parents[1] / "train.log").read_text()
    return sum(int(epoch) <= int(answer.stem) for epoch in re.findall(r" - epoch (\d+)", log))


def test_an_interrupted_sweep_says_how_it_goes_on(fork: Forks, straight: Path, tmp_path: Path) -> None:
    stopped = fork(*SWEEP, program=CURVE, cwd=tmp_path, ENDS="1", BY=str(signal.SIGINT.value))
    assert stopped.returncode == 130 and epochs(tmp_path / "sweep") == 2  # the running job has ended, none has begun
    assert not (tmp_path / "sweep/2").exists() and "interrupted: 1 of 3 jobs left for later" in stopped.stdout
    command = re.search(r"interrupted; go on with: python \S+ (.*)", stopped.stdout)
    assert command is not None and "hydra.sweeper.resume_from=" in command[1]
    assert fork(*shlex.split(command[1]), program=CURVE, cwd=tmp_path).returncode == 0
    assert rows(tmp_path / "sweep") == rows(straight) and epochs(tmp_path / "sweep") == epochs(straight)
    again = fork(*SWEEP, program=CURVE, cwd=tmp_path)  # it is over, and nothing is run
    assert again.returncode == 0 and epochs(tmp_path / "sweep") == epochs(straight)
    other = fork(*SWEEP, "hydra.sweeper.seed=2", program=CURVE, cwd=tmp_path)
    assert other.returncode == 1 and "seed: 0 in the study, 2 now" in other.stderr


def test_an_asynchronous_scheduler_runs_programs_until_its_default_budget_is_spent(fork: Forks, tmp_path: Path) -> None:
    options = ["scheduler=asha", "launch=subprocess", "workers=2", "eta=2", "r_max=2"]
    done = fork(*SWEEP, *(f"hydra.sweeper.{option}" for option in options), program=CURVE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study = halving.load(tmp_path / "sweep")
    assert study.best.last.resource == 2 and 3 <= study.history.spent <= 6
    assert "resource=3 reached" in study.history.halted


def test_a_space_of_ones_own_has_choices_and_conditions(fork: Forks, tmp_path: Path) -> None:
    words = ["-m", "hparams_search=space", "returns=dict", "hydra.sweep.dir=sweep", "+api_key=hunter2hunter2"]
    assert (done := fork(*words, program=CURVE, cwd=tmp_path)).returncode == 0, done.stderr
    study = halving.load(tmp_path / "sweep")
    found = [trial.configuration for trial in study.trials]
    assert found[0] == {"model": "narrow", "model.lr": 0.01}  # as the config stands
    assert {"model": "wide", "model.width": 32} in found  # there is no rate where the width is 32
    best = max(float(row["error"]) for row in rows(tmp_path / "sweep") if row["resource"] == "3")
    assert study.summary["best_error"] == best == 1 - study.curves[study.best.trial][-1]["error"]
    assert len((tmp_path / "sweep/metrics.csv").read_text().splitlines()) == 1 + 6
    assert not [path for path in (tmp_path / "sweep").glob("*.*") if "hunter2" in path.read_text()]  # the app's own may
    assert fork(*words, program=CURVE, cwd=tmp_path).returncode == 0  # which is the same study
    assert re.findall(r"Launching (\d) jobs", done.stdout) == ["3", "1", "2"]  # a batch is a rung
    assert "HALVING" not in done.stdout and "ckpt_path=last\n" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["returns=none"], "the app's function returns None; let it return the metric to optimise"),
        (["returns=dict"], "returns a dict (error, accuracy); say which of them counts by hydra.sweeper.metric=error"),
        (["returns=dict", "hydra.sweeper.metric=eror"], "metric=eror: .* no such number; did you mean error?"),
        (["returns=exit"], "no trial survived; 3 failed, the first with: the app exited with status 2; see "),
        (["trainer.max_epochs=3,9"], "trainer.max_epochs is set for each job; it cannot be searched, too"),
        (["hydra.sweeper.resource=trainer.max_epoch"], "config has no such key; did you mean trainer.max_epochs?"),
        (["hydra.sweeper.resume=['ckpt_pat=last']"], "hydra.sweeper.resume: Could not override 'ckpt_pat'.*ckpt_path?"),
        (["hydra.sweeper.resume=['ckpt_path={dir}']"], "there is no {dir}; there is directory, since, trial, until"),
        (["model.lrr=interval(1,2)"], "Could not override 'model.lrr'. .*; did you mean model.lr"),
        (["model=narow,wide"], "Could not find 'model/narow' Available options in 'model': narrow wide"),
        (["+hydra.sweeper.params.a='tag(log, interval(0, 1'"], "a=tag(log, interval(0, 1: cannot be read"),
        (["hydra.sweeper.scheduler=shaa"], "there is no such scheduler; did you mean sha"),
        (["hydra.sweeper.searcher=rnd"], "there is no such searcher; did you mean random?"),
        (["+hydra.sweeper.scheduler_options.nn=6"], "scheduler_options.nn: .* takes no 'nn'; did you mean n?"),
        (["hydra.sweeper.delete=[../1]"], "hydra.sweeper.delete=../1: give a pattern below a trial's directory"),
        (["hydra.sweeper.resume_from=nowhere"], "to begin there, give hydra.sweep.dir=nowhere instead"),
    ],
)
def test_mistakes_are_said_in_one_line(words: list[str], said: str, fork: Forks, tmp_path: Path) -> None:
    done = fork(*SWEEP, *words, program=CURVE, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert re.search(".*".join(map(re.escape, said.split(".*"))), done.stderr), done.stderr
    assert epochs(tmp_path / "sweep") <= 3  # at most one of a trial, and of none more once that is known


def test_a_trial_that_raises_fails_alone(fork: Forks, tmp_path: Path) -> None:
    assert fork(*SWEEP, "returns=raise", program=CURVE, cwd=tmp_path).returncode == 0
    failed = [trial for trial in halving.load(tmp_path / "sweep").trials if trial.state == "failed"]
    causes = [trial.last.finished.cause for trial in failed if trial.last.finished]
    assert causes == ["ValueError: the rate is too high"]


@pytest.mark.skipif(find_spec("lightning") is None, reason="needs Lightning")
def test_a_lightning_app_ends_at_its_rungs_and_plans_for_r_max(fork: Forks, tmp_path: Path) -> None:
    done = fork(*SWEEP[:-1], program="tests/apps/lightning_app/src/train.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    study, sweep = halving.load(tmp_path / "sweep"), tmp_path / "sweep"
    assert [len(study.curves[trial.trial]) for trial in study.trials] == [t.last.resource for t in study.trials]
    assert {trial.last.resource for trial in study.trials} == {1, 2, 4} and study.history.spent == 8
    assert all("trainer.max_epochs=4" in path.read_text() for path in sweep.glob("*/.hydra/overrides.yaml"))
    best = sweep / str(study.best.trial)
    left = {*sweep.glob("*/.halving/*.ckpt"), *sweep.glob("*/checkpoints")}
    assert left == {best / ".halving/4.ckpt", best / "checkpoints"}


class Groups:
    """A config loader that knows one group."""

    def get_group_options(self, group: str, results_filter: object = None) -> list[str]:
        return ["cnn", "mlp"] if group == "net/model" else []


def test_every_form_of_hydra_is_a_dimension_or_fixed() -> None:
    params = {
        "a": "tag(log, interval(0.1, 1))",
        "b": {"c": "int(interval(1, 8))"},
        "d": 5,
        "e": "range(1, 4)",
        "g": "1",
    }
    params |= {"h": "range(0, 1, 0.5)", "i": "'x y',null,[1, 2]", "l": "tag(log, int, interval(1, 8))"}
    overrides = [*flat(params), "e=1,2", "net/model=glob(*)", "+j@k=u", "~m", "g=2", "+n=interval(0,2)"]
    words = typed(overrides, Groups())  # type: ignore[arg-type]
    assert words.fixed == ("d=5", "+j@k=u", "~m", "g=2")
    space = Space.from_config(words.leaves)
    ends = {dimension.name: (dimension.decode(0.0), dimension.decode(1.0)) for dimension in space.dimensions}
    assert ends["a"] == (pytest.approx(0.1), pytest.approx(1)) and ends["n"] == (pytest.approx(0), pytest.approx(2))
    assert (ends["b.c"], ends["l"], ends["h"]) == ((1, 8), (1, 8), (0.0, 0.5))
    assert (ends["e"], ends["i"], ends["net.model"]) == ((1, 2), ("x y", "[1,2]"), ("cnn", "mlp"))
    told = words.parameters
    assert told["net.model"].override("cnn") == "net/model=cnn" and told["n"].override(0.5) == "+n=0.5"
    assert [told["i"].override(value) for value in ("x y", None, "[1,2]")] == ["i=x y", "i=null", "i=[1,2]"]


@pytest.mark.parametrize(
    "text", ["a=interval(2, 1)", "a=tag(log, interval(0, 1))", "a=choice(1, 1)", "a=interval(1", "b"]
)
def test_what_is_no_dimension_is_said_so(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        typed([text], Groups())  # type: ignore[arg-type]


STRUCTURED = """
import enum
from dataclasses import dataclass

import hydra
from hydra.core.config_store import ConfigStore


class Act(enum.Enum):
    relu = 1
    tanh = 2


@dataclass
class Config:
    lr: float = 0.1
    act: Act = Act.relu
    epochs: int = 3
    token: str = "a-secret-of-ours"


ConfigStore.instance().store("config", Config)


@hydra.main(version_base=None, config_name="config")
def main(cfg):
    if cfg.lr > 0.5:
        raise ValueError(f"{cfg.token}\\nand the real reason")
    return cfg.lr + (cfg.act is Act.tanh)


main()
"""


def structured(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "app.py").write_text(STRUCTURED)
    own = ("-m", "hydra/sweeper=halving", "hydra.sweeper.resource=epochs", "hydra.sweep.dir=sweep")
    command = [sys.executable, "app.py", *own, *words]
    return subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)


def test_a_value_that_the_app_cannot_take_is_refused_before_the_first_job(tmp_path: Path) -> None:
    done = structured(tmp_path, "lr=choice(0.1,0.2,0.3,0.4,big)")
    assert done.returncode == 1 and "lr=big" in done.stderr and "could not be converted to Float" in done.stderr
    assert not list(tmp_path.rglob("journal.jsonl"))


def test_an_apps_own_configuration_is_the_first_and_what_it_raises_is_shown(tmp_path: Path) -> None:
    done = structured(tmp_path, "lr=0.1,0.9", "act=tanh,relu", "hydra.sweeper.scheduler=fifo")
    assert done.returncode == 0, done.stderr
    study = halving.load(tmp_path / "sweep")
    assert study.trials[0].configuration == {"lr": 0.1, "act": "relu"}
    assert "a-secret-of-ours" not in "".join(path.read_text() for path in tmp_path.rglob(".halving/*.json"))
    assert study.trials[1].state == "failed" and "and the real reason" in done.stderr + done.stdout


def test_what_an_app_left_is_put_back_and_ours_stays(tmp_path: Path) -> None:
    left, ours = tmp_path / "weights/last.pt", tmp_path / ".halving/3.json"
    for path, text in ((left, "at 1"), (ours.with_name("1.json"), "{}")):
        path.parent.mkdir()
        path.write_text(text)
    rung = Rung(tmp_path, 1, 3)
    begin(rung, ("*", "weights/*"))
    left.write_text("at 2")
    left.with_name("other.pt").write_text("of a job that was killed")
    begin(rung, ("*", "weights/*"))
    assert left.read_text() == "at 1" and [*left.parent.iterdir()] == [left]
    assert matching(tmp_path, ("*",)) == {left.parent} and ours.with_name("1.json").exists()


def test_a_resume_override_is_filled_in_whatever_the_directory_is_called() -> None:
    places = {"directory": Path("/a b/é='x'"), "since": 3, "until": 9, "trial": 0}
    assert read(filled("ckpt={directory}/{since}.pt", places)) == "/a b/é='x'/3.pt"
    assert filled("+more={a: {until}}", places) == "+more={a: 9}" and filled("~x", places) == "~x"


def test_what_a_resource_counts_is_named_as_the_app_names_it() -> None:
    keys = ["epochs", "+trainer.max_epochs", "trainer.num_epoch", "trainer.max_steps", "fit.n_iter"]
    apps = [App(Path(), (), {}, key, (), None, None, 9) for key in keys]
    assert [app.unit for app in apps] == ["epochs", "epochs", "epochs", "steps", "units"]


def test_the_plugin_imports_nothing_of_halving() -> None:
    package = "hydra_plugins.hydra_halving_sweeper"
    plugin = f"{package}.halving_sweeper"
    before = "import sys, hydra.plugins.sweeper, hydra.types; before = {*sys.modules}"
    code = f"{before}; import {plugin}; print(*{{*sys.modules}} - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert {*done.stdout.split()} <= {"hydra_plugins", package, f"{package}.settings", plugin}
