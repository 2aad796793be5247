"""One study from the command line: what it prints, what it leaves, and how its winner is trained again."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from conftest import environment
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from scipy.stats import binomtest

import halving
from halving.config.commands import escaped, override, program
from halving.config.polite import command_line
from halving.config.winner import best_yaml, command
from halving.data import digits
from halving.redaction import Secrets

SMALL = ("model=softmax", "data.train_samples=100", "r_max=3", "tracker=none", "executor.threads=1")
SUMMARY = {
    *("best_trial", "best_error", "best_resource", "best_configuration", "test_error", "trials", "evaluations"),
    *("resource_spent", "full_resource", "wall_seconds", "train_seconds", "scheduler", "searcher", "seed", "command"),
}


@dataclass(frozen=True)
class Finished:
    run_dir: Path
    stdout: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.run_dir / "summary.json").read_text("utf-8"))

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.run_dir / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def study(fork: Callable, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A study whose winner is not the first trial, and that has dropout, momentum and a schedule to get wrong."""
    run_dir = tmp_path_factory.mktemp("study") / "it's here"
    result = fork(
        *("scheduler=sha", "eta=3", "r_max=9", "data.train_samples=200", "tracker=[wandb,csv]"),
        *("model=mlp", "model.width=32", "model.dropout=0.5", "lr_schedule=cosine", "executor.threads=1"),
        *("optimizer.lr=0.001", "optimizer.momentum=0.5", f'hydra.run.dir="{run_dir}"'),
    )
    assert result.returncode == 0, result.stderr
    return Finished(run_dir, result.stdout)


def studied(result: subprocess.CompletedProcess[str], cwd: Path) -> Finished:
    assert result.returncode == 0, result.stderr
    (journal,) = cwd.rglob("journal.jsonl")
    return Finished(journal.parent, result.stdout)


def test_the_plan_comes_before_the_first_trial_and_the_end_says_how_to_go_on(study: Finished) -> None:
    plan, trials, end = (study.stdout.index(text) for text in ("21 epochs instead of 81", "trial 0 (", " wins after 9"))
    assert plan < trials < end
    assert re.findall(r"^ +(\d) +(\d) +(\d) +(\d)", study.stdout, re.M) == [tuple("0199"), tuple("1336"), tuple("2916")]
    assert "9 trials, 13 evaluations: 21 epochs instead of 81 in" in study.stdout
    assert f"train it again: {study.summary['command']}\n" in study.stdout
    assert f"files: {study.run_dir}\n" in study.stdout


def test_the_run_directory_holds_what_is_promised(study: Finished) -> None:
    names = "journal.jsonl results.csv curves.csv summary.json best.yaml report.html metrics.csv train.log .hydra wandb"
    assert {*names.split(), "checkpoints"} <= {path.name for path in study.run_dir.iterdir()}
    checkpoints = [path.relative_to(study.run_dir) for path in study.run_dir.glob("checkpoints/**/*") if path.is_file()]
    assert checkpoints == [Path("checkpoints", str(study.summary["best_trial"]), "9.pt")]


def test_results_curves_and_summary_agree(study: Finished) -> None:
    results, curves, summary = study.rows("results.csv"), study.rows("curves.csv"), study.summary
    columns = "trial bracket rung resource error status verdict seconds optimizer.lr data.batch_size"
    assert list(results[0]) == columns.split()
    assert Counter((row["rung"], row["verdict"]) for row in results) == {
        ("0", "promoted"): 3,
        ("0", "stopped"): 6,
        ("1", "promoted"): 1,
        ("1", "stopped"): 2,
        ("2", "completed"): 1,
    }
    assert ",".join(curves[0]) == "trial,resource,epoch,lr,train_loss,train_error,val_loss,val_error,seconds"
    assert len(curves) == 21
    measured = {(row["trial"], row["epoch"]): row["val_error"] for row in curves}
    assert [row["error"] for row in results] == [measured[row["trial"], row["resource"]] for row in results]

    assert set(summary) >= SUMMARY
    counts = ("trials", "evaluations", "resource_spent", "full_resource", "best_resource", "seed")
    assert [summary[name] for name in counts] == [9, 13, 21, 81, 9, 0]
    assert (summary["scheduler"], summary["searcher"]) == ("sha", "random")
    last = results[-1]
    assert (summary["best_trial"], summary["best_error"]) == (int(last["trial"]), float(last["error"]))
    assert summary["best_trial"] != 0
    assert {name: str(value) for name, value in summary["best_configuration"].items()} == {
        name: last[name] for name in ("optimizer.lr", "data.batch_size")
    }


def test_every_trial_and_the_study_are_wandb_runs(study: Finished) -> None:
    runs = [path.name.rpartition("-")[2] for path in study.run_dir.glob("wandb/offline-run-*")]
    assert sorted(runs) == ["study", *(f"t{trial}" for trial in range(9))]
    assert f"upload: wandb sync {shlex.quote(str(study.run_dir / 'wandb'))}/offline-run-*\n" in study.stdout


def test_best_yaml_retrains_the_winner_exactly_from_anywhere(study: Finished, fork: Callable, tmp_path: Path) -> None:
    again = studied(fork("-cp", str(study.run_dir), "-cn", "best", cwd=tmp_path), tmp_path).summary
    assert_same(again, study.summary)


def test_the_command_retrains_the_winner_exactly(study: Finished, repo: Path, tmp_path: Path) -> None:
    assert_same(by_shell(study.summary["command"], repo, tmp_path), study.summary)


def test_best_yaml_takes_further_overrides_and_multirun(study: Finished, fork: Callable, tmp_path: Path) -> None:
    result = fork("-cp", str(study.run_dir), "-cn", "best", "-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    same, other = (Finished(tmp_path / job, "").summary for job in "01")
    assert_same(same, study.summary)
    assert other["seed"] == 1 and other["train_seconds"] > 0
    assert (other["best_error"], other["test_error"]) != (same["best_error"], same["test_error"])


def test_the_loaded_model_has_the_test_error_of_the_summary(study: Finished) -> None:
    data = digits(batch_size=64, seed=0, train_samples=200)
    model = halving.load(study.run_dir).best_model()
    inputs = (data.test.inputs - data.mean.view(1, -1, 1, 1)) / data.std.view(1, -1, 1, 1)
    wrong = (model(inputs).argmax(1) != data.test.targets).sum().item()
    assert wrong / len(data.test) == pytest.approx(study.summary["test_error"], abs=1e-12)


def test_a_used_run_directory_is_refused_and_left_alone(study: Finished, fork: Callable) -> None:
    before = (study.run_dir / "journal.jsonl").read_bytes()
    result = fork(*SMALL, f'hydra.run.dir="{study.run_dir}"')
    assert result.returncode == 1 and result.stderr.startswith("error: ")
    assert "already holds a study" in result.stderr and str(study.run_dir) in result.stderr
    assert (study.run_dir / "journal.jsonl").read_bytes() == before


def test_a_single_trial_prints_its_error_with_an_interval(fork: Callable, tmp_path: Path) -> None:
    single = studied(fork(*SMALL, cwd=tmp_path), tmp_path)
    error = single.summary["best_error"]
    # 1,797 digits, a fifth of them for the test, a fifth of the rest for validation.
    low, high = binomtest(round(error * 288), 288).proportion_ci(method="wilson")
    assert f"validation error {error:.3f} (95 %: {low:.3f} to {high:.3f})" in single.stdout
    assert f"files: {single.run_dir}" in single.stdout
    assert ": single, seed 0\n" in single.stdout  # nothing is drawn
    assert single.summary["trials"] == 1 and single.summary["resource_spent"] == 3


def test_another_metric_decides(fork: Callable, tmp_path: Path) -> None:
    study = studied(fork(*SMALL, "scheduler=sha", "metric=val_loss", cwd=tmp_path), tmp_path)
    losses = {(row["trial"], row["epoch"]): row["val_loss"] for row in study.rows("curves.csv")}
    results = study.rows("results.csv")
    assert [row["error"] for row in results] == [losses[row["trial"], row["resource"]] for row in results]
    first = sorted((float(row["error"]), row["trial"]) for row in results if row["rung"] == "0")
    assert [row["trial"] for row in results if row["verdict"] == "promoted"] == [first[0][1]]


def test_a_maximised_metric_promotes_the_largest(fork: Callable, tmp_path: Path) -> None:
    study = studied(fork(*SMALL, "scheduler=sha", "metric=max:val_error", cwd=tmp_path), tmp_path)
    first = [row for row in study.rows("results.csv") if row["rung"] == "0"]
    shown = {row["trial"]: float(row["error"]) for row in first}
    (promoted,) = (row["trial"] for row in first if row["verdict"] == "promoted")
    assert shown[promoted] == max(shown.values()) > 0


@pytest.mark.parametrize("fidelity", ["epochs", "folds"])
def test_an_accuracy_decides_as_its_error_does_and_is_shown_unflipped(
    fidelity: str, fork: Callable, tmp_path: Path
) -> None:
    chosen = [*SMALL, "data.train_samples=300", "scheduler=sha", f"fidelity={fidelity}"] + ["epochs=2"] * (
        fidelity != "epochs"
    )
    metrics = ("val_error", "max:val_accuracy")
    errors, accuracies = (
        studied(fork(*chosen, f"metric={metric}", f"hydra.run.dir={tmp_path / metric[:3]}"), tmp_path / metric[:3])
        for metric in metrics
    )
    rows = [
        [{**row, "seconds": "", "error": ""} for row in study.rows("results.csv")] for study in (errors, accuracies)
    ]
    assert rows[0] == rows[1] and errors.rows("curves.csv")[0].keys() == accuracies.rows("curves.csv")[0].keys()
    accuracy, test = 1 - errors.summary["best_error"], 1 - errors.summary["test_error"]
    assert accuracies.summary["best_error"] == pytest.approx(accuracy) and accuracy > 0.6
    assert accuracies.summary["test_error"] == errors.summary["test_error"]
    assert f"validation accuracy {accuracy:.3f} (95 %: " in accuracies.stdout
    assert f", test accuracy {test:.3f} (95 %: " in accuracies.stdout
    page = (accuracies.run_dir / "report.html").read_text("utf-8")
    assert "best validation accuracy: <b>" in page and "with a test accuracy of <b>" in page
    assert ">validation accuracy" in page and "validation error" not in page


def test_a_diverging_trial_fails_and_the_study_goes_on(fork: Callable, tmp_path: Path) -> None:
    space = ("~space.data", "~space.optimizer.lr", "+space.optimizer.lr=[0.1,1e38]")
    study = studied(fork(*SMALL, "scheduler=sha", "scheduler.n=6", *space, cwd=tmp_path), tmp_path)
    failed = [row for row in study.rows("results.csv") if row["optimizer.lr"] == "1e+38"]
    assert failed and {(row["status"], row["verdict"], row["error"]) for row in failed} == {("failed", "failed", "")}
    assert study.summary["best_configuration"] == {"optimizer.lr": 0.1}
    assert study.summary["best_resource"] == 3


def test_a_study_without_survivors_says_why(fork: Callable, tmp_path: Path) -> None:
    huge = ("~space.data", "space.optimizer.lr.a=1e37", "space.optimizer.lr.b=1e38", "optimizer.lr=1e38")
    result = fork(*SMALL, "scheduler=sha", *huge, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: no trial survived; 3 failed, the first with: diverged")
    assert result.stderr.count("\n") == 1
    (summary,) = tmp_path.rglob("summary.json")
    assert json.loads(summary.read_text("utf-8"))["best_trial"] is None


def test_the_space_is_edited_from_the_shell(fork: Callable, tmp_path: Path) -> None:
    overrides = ("space.optimizer.lr.b=0.5", "~space.data", "+space.optimizer.momentum=[0.0,0.9]", "scheduler.n=9")
    study = studied(fork(*SMALL, "scheduler=sha", *overrides, cwd=tmp_path), tmp_path)
    rows = study.rows("results.csv")
    assert list(rows[0])[8:] == ["optimizer.lr", "optimizer.momentum"]
    assert all(0.01 <= float(row["optimizer.lr"]) <= 0.5 for row in rows)
    assert {row["optimizer.momentum"] for row in rows} == {"0.0", "0.9"}


def test_odd_words_come_back_from_the_command(fork: Callable, repo: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    word = """it's a=[b], {c: "d"} $HOME \\ é"""
    quoted = word.replace("'", "\\'")
    space = ("~space.data", "~space.optimizer", f"+space.notes=['{quoted}']", f"notes='{quoted}'")
    study = studied(fork(*SMALL, "scheduler=sha", *space, cwd=first), first).summary
    assert study["best_configuration"] == {"notes": word}
    assert_same(by_shell(study["command"], repo, second), study)
    header = json.loads((second / "journal.jsonl").read_text("utf-8").splitlines()[0])
    assert header["settings"]["config"]["notes"] == word


ODD = ("695e0514", "1e3", "1_000", "0x10", "inf", ".5", ".5e+", "null", "~", "yes", "2020-01-01", "1:30", "", " a ")
ODD += (
    "${x}",
    "a\u2028b",
    "\\\\${x",
    "it's",
    '"',
    "a\tb\n",
    "a,b",
    "lr=1",
    "[a]",
    "{a: b}",
    "é",
    "\x85",
    "glob(*)",
    "#",
    "a: b",
)
texts = st.sampled_from(ODD) | st.text() | st.text(alphabet="0123456789eE+-._:xo~nulinfay${}'\\\" ")
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts


@given(scalars.filter(lambda value: not isinstance(value, str) or "\0" not in value))
def test_any_value_comes_back_from_the_command(value: Any) -> None:
    words = shlex.split(command([], ["eta=3", "optimizer.lr=0.5"], 17, {"optimizer.lr": value}))
    assert words[:4] == ["python", "train.py", "scheduler=single", "trial=17"]
    (last,) = OverridesParser.create().parse_overrides(words[4:])
    found = last.value()
    config = OmegaConf.create({"value": getattr(found, "text", found)})
    assert (last.key_or_group, config.value, type(config.value)) == ("optimizer.lr", value, type(value))


@settings(deadline=None)
@given(texts, texts)
def test_any_text_comes_back_from_best_yaml(value: str, key: str) -> None:
    """Whatever YAML or OmegaConf could take it for."""
    config = {"model": {"x": escaped(value), "below": [{key: escaped(value)}]}, "executor": {"threads": 1}}
    assume(Secrets().redact(config) == config)
    cfg = OmegaConf.create(config | {"r_max": 1, "until": 1})
    found = OmegaConf.create(best_yaml(cfg, Path("run"), (), Secrets()))
    assert OmegaConf.to_container(found.model, resolve=True) == {"x": value, "below": [{key: value}]}


@pytest.mark.parametrize(
    ("called", "words"),
    [
        ("train.py", ["python", "train.py"]),
        ("../a b/train.py", ["python", "../a b/train.py"]),
        ("/venv/bin/halving", ["halving"]),
        ("/venv/halving/__main__.py", ["python", "-m", "halving"]),
        ("/venv/bin/pytest", ["python", "train.py"]),
    ],
)
def test_commands_call_the_program_as_it_was(called: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [called, "eta=3"])
    assert program() == words


ENDED = (*SMALL, "scheduler=asha", "budget.evaluations=4", "r_max=9", "lr_schedule=cosine")
RETRAINED = {
    "folds": (*ENDED, "epochs=3", "fidelity=folds"),
    "width": (*ENDED, "epochs=3", "fidelity=width", "model=mlp", "model.width=18"),
    "references": (
        *(*ENDED, "optimizer.momentum=${optimizer.lr}", "+optimizer.dampening=${.weight_decay}", "notes=\\${nope}"),
        *("model=mlp", "model.depth=${eta}", "eta=2", "seed=${oc.env:SEED}", "name=${hydra:runtime.choices.model}"),
    ),
    "study's own": (*SMALL, "scheduler=sha", "optimizer.weight_decay=${scheduler.rounds}", "optimizer.lr=0.01"),
    "directories": (
        *("--config-dir", "own", "hydra.searchpath=[file://more]", "hydra.job.chdir=true"),
        *(*SMALL, "scheduler=sha", "model=tiny", "data=few"),
    ),
    "primary": ("-cp", "<own>", *SMALL[1:], "scheduler=sha"),
    "composed": ("-cp", "<own>/composed", "-cn", "config", "scheduler.n=4"),
}


def recorded_threads(run_dir: Path) -> int:
    header = halving.load(run_dir).history.header
    assert header is not None
    return header.settings["environment"]["threads"]


@pytest.mark.parametrize("case", RETRAINED)
def test_a_winner_comes_to_the_same_error_again(case: str, fork: Callable, repo: Path, tmp_path: Path) -> None:
    """At the resource that it had, of what was typed, and from the files that were meant."""
    config = (repo / "conf/config.yaml").read_text().replace("model: lenet_modern", "model: mlp")
    files = {
        "own/config.yaml": config.replace("seed: 0", "seed: 5"),
        "own/composed/config.yaml": fork(*SMALL, "seed=4", "scheduler=sha", "--cfg", "job").stdout,
        "own/model/tiny.yaml": "defaults: [mlp]\nwidth: 5\n",
        "more/data/few.yaml": "defaults: [digits]\nvalidation: 0.4\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    words = (word.replace("<own>", str(tmp_path / "own")) for word in RETRAINED[case])
    study = studied(fork(*words, "hydra.run.dir=study", cwd=tmp_path, SEED="3"), tmp_path)
    assert (" until=" in study.summary["command"]) == ("r_max=9" in RETRAINED[case])
    best = (study.run_dir / "best.yaml").read_text().partition("\n")[0]
    for retrained in {study.summary["command"], best.removeprefix("# ")}:
        run_dir = tmp_path / f"again {len(retrained)}"
        again = fork(*shlex.split(retrained)[2:], f"hydra.run.dir={run_dir}", cwd=tmp_path, OMP_NUM_THREADS="2")
        assert again.returncode == 0, again.stderr
        assert_same(Finished(run_dir, "").summary, study.summary)
        assert recorded_threads(run_dir) == recorded_threads(study.run_dir) == 1, "others give other bits"


def test_a_winner_that_was_ended_early_can_be_trained_in_full(fork: Callable, tmp_path: Path) -> None:
    study = studied(fork(*ENDED, "hydra.run.dir=study", cwd=tmp_path), tmp_path)
    said = "that is to 3 of 9 epochs, as it had here; until=9 at the end trains it in full"
    assert f"{study.summary['command']}\n{said}\n" in study.stdout
    assert said[1:] in (study.run_dir / "report.html").read_text()
    best = ("-cp", str(study.run_dir), "-cn", "best", "hydra.run.dir=again")
    for words in ((*shlex.split(study.summary["command"])[2:], "until=9"), (*best, "until=9")):
        result = fork(*words, cwd=tmp_path / "study")
        assert "after 9 epochs" in result.stdout, result.stderr
    result = fork(*best[:-1], "hydra.run.dir=study2", "scheduler=sha", cwd=tmp_path)
    assert "wins after 9 epochs" in result.stdout, result.stderr  # until is of a single trial
    assert "trains it in full" not in result.stdout
    refused = fork(*best[:-1], "r_max=2", cwd=tmp_path)
    assert refused.stderr == "error: until=3: a single trial is trained to at least 1 and at most r_max=2\n"


@pytest.mark.parametrize(("program", "option"), [("train.py", "--help"), ("train.py", "--cfg"), ("halving", "--help")])
def test_looking_loads_nothing_heavy(program: str, option: str, repo: Path, tmp_path: Path) -> None:
    installed = "__import__('halving.__main__').__main__.main()"
    checked_out = f"runpy.run_path({str(repo / 'train.py')!r}, run_name='__main__')"
    code = (
        "import contextlib, runpy, sys\n"
        f"sys.argv = [{program!r}, {option!r}, *{['job'] if option == '--cfg' else []!r}]\n"
        "with contextlib.suppress(SystemExit):\n"
        f"    {installed if program == 'halving' else checked_out}\n"
        "heavy = {'torch', 'torchvision', 'wandb', 'scipy', 'sklearn', 'numpy', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "[]\n")
    called = "halving" if program == "halving" else f"python {repo / 'train.py'}"
    assert (f"  {called} scheduler=sha eta=3\n" if option == "--help" else "r_max: ${fidelity.r_max}") in result.stdout


def test_its_version_is_shown(fork: Callable) -> None:
    assert fork("--version").stdout.splitlines()[0] == f"halving {version('halving')}"


def test_the_resolved_config_is_shown(fork: Callable, repo: Path) -> None:
    for data, directory in (("/d", "/d"), ("", str(repo / "data"))):
        config = yaml.safe_load(fork("--cfg", "job", "--resolve", "fidelity.r_max=9", HALVING_DATA=data).stdout)
        assert [config[key] for key in ("r_max", "epochs", "data_dir")] == [9, 9, directory]
        assert config["scheduler"]["r_max"] == 9


def assert_same(again: dict[str, Any], study: dict[str, Any]) -> None:
    names = ("best_error", "test_error", "best_resource")
    assert {name: again[name] for name in names} == {name: study[name] for name in names}
    assert again["trials"] == 1


def by_shell(command: str, repo: Path, run_dir: Path) -> dict[str, Any]:
    """Run a command where train.py is, as one would paste it, and return the summary that it leaves."""
    words = f"{command} tracker=none hydra.run.dir={shlex.quote(str(run_dir))}"
    result = subprocess.run(
        words, shell=True, cwd=repo, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    return Finished(run_dir, result.stdout).summary


def test_a_budget_of_seconds_becomes_a_plan_that_is_said(fork: Callable, tmp_path: Path) -> None:
    small = ["model=softmax", "data.train_samples=100", "r_max=9", "tracker=none", "executor.threads=1"]
    result = fork("scheduler=asha", "plan=auto", "budget.seconds=3", *small, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (plan,) = [line for line in result.stdout.splitlines() if line.startswith("plan: ")]
    assert "r_min=1 and max_trials=" in plan
    refused = fork("scheduler=sha", "plan=auto", *small, cwd=tmp_path)
    assert refused.stderr == "error: plan=auto: what should it fit? Give budget.seconds=600\n"


@pytest.mark.parametrize("mode", [(), ("-m",)])
def test_ctrl_c_while_a_compiled_module_is_imported_is_no_bug(
    mode: tuple[str, ...], fork: Callable, repo: Path, tmp_path: Path
) -> None:
    """Such a module turns it into an ImportError."""
    program = (repo / "train.py").read_text("utf-8").replace("Path(__file__)", f"Path({str(repo / 'train.py')!r})")
    imported = "    raise ImportError('initialization failed') from KeyboardInterrupt()\n"
    (tmp_path / "train.py").write_text(
        program.replace("    from halving.app import run\n", imported).replace('"conf"', repr(str(repo / "conf")))
    )
    result = fork(*mode, *SMALL, program=str(tmp_path / "train.py"), cwd=tmp_path)
    assert (result.returncode, result.stderr) == (130, "")
    assert ("interrupted; go on with: " in result.stdout) == bool(mode)


def test_ctrl_c_leaves_a_whole_journal_and_its_tables(fork: Callable, repo: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "my runs, it's $lr=1/é"
    small = ["r_max=9", "data.train_samples=200", "executor.threads=1", "tracker=csv"]
    study = ["scheduler=sha", *small, override("hydra.run.dir", str(run_dir))]
    command = [sys.executable, "-u", os.path.relpath(repo / "train.py", tmp_path), *study]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        # A parent in the background may have handed down that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("trial 2 "):
            process.send_signal(signal.SIGINT)
            break
    said = process.stdout.read()
    assert process.wait(timeout=30) == 130
    study = halving.load(run_dir)
    assert study.history.halted == "interrupted"
    with (run_dir / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(study.history.finished) >= 3
    (pasted,) = re.findall("^interrupted; go on with: (.*)$", said, re.M)
    assert shlex.split(pasted)[:2] == ["python", command[2]]
    result = fork(*shlex.split(pasted)[2:])
    assert result.returncode == 0, result.stderr
    assert halving.load(run_dir).history.halted == ""


def test_the_command_of_the_book_study_retrains_its_winner(fork: Callable, tmp_path: Path) -> None:
    """An experiment's own settings for its scheduler must not reach the one that retrains."""
    small = ["data=digits", "model=softmax", "data.train_samples=60", "tracker=none", "executor.threads=1"]
    run_dir = tmp_path / "book"
    result = fork("experiment=lenet_halving", *small, f"hydra.run.dir={run_dir}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    study = halving.load(run_dir).summary
    assert (study["evaluations"], study["resource_spent"], study["trials"]) == (30, 68, 16)
    words = shlex.split(study["command"])[2:]
    again = fork(*words, f"hydra.run.dir={tmp_path / 'again'}", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert halving.load(tmp_path / "again").summary["best_error"] == study["best_error"]


def test_one_job_of_an_experiment_that_is_a_multirun_goes_on_and_is_repeated_alone(
    fork: Callable, tmp_path: Path
) -> None:
    small = ["data=digits", "data.train_samples=60", "r_max=1", "tracker=none", "executor.threads=1"]
    result = fork("experiment=lr_schedules", "hydra.mode=RUN", *small, "hydra.run.dir=alone", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = halving.load(tmp_path / "alone").summary
    for words in (["resume=alone"], [*shlex.split(summary["command"])[2:], "hydra.run.dir=again"]):
        result = fork(*words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert "1 epoch in" in result.stdout and "all jobs" not in result.stdout
    assert halving.load(tmp_path / "again").summary["best_error"] == summary["best_error"]


def test_an_earlier_winner_comes_second(fork: Callable, tmp_path: Path) -> None:
    earlier = studied(fork(*SMALL, "scheduler=sha", "hydra.run.dir=earlier", cwd=tmp_path), tmp_path)
    best = json.loads((tmp_path / "earlier/summary.json").read_text("utf-8"))["best_configuration"]
    narrower = ("space.optimizer.lr.b=0.2", "searcher.initial=[earlier]", "hydra.run.dir=later")
    assert fork(*SMALL, "scheduler=sha", *narrower, cwd=tmp_path).returncode == 0
    trials = halving.load(tmp_path / "later").trials
    assert trials[0].configuration == halving.load(tmp_path / "earlier").trials[0].configuration
    assert trials[1].configuration == best | {"optimizer.lr": pytest.approx(min(best["optimizer.lr"], 0.2))}
    assert earlier is not None


def test_a_grid_says_its_size_and_an_exhausted_space_that_it_is(fork: Callable, tmp_path: Path) -> None:
    lists = ("space=none", "+space.optimizer.lr=[0.1,0.2]", "+space.data.batch_size=[32,64]")
    result = fork(*SMALL, *lists, "scheduler=fifo", "searcher=grid", "budget.evaluations=100", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "grid: 4 configurations" in result.stdout
    assert "the space is exhausted: every configuration was tried" in result.stdout
    (run_dir,) = (tmp_path / "outputs/halving").iterdir()
    assert 4 <= len(halving.load(run_dir).trials) <= 5
    for wanted in (("scheduler=fifo", "searcher=grid", "budget.evaluations=4"), ("scheduler=single",)):
        result = fork(*SMALL, "space=none", "+space.optimizer.lr=[0.1,0.2,0.3,0.4]", *wanted, cwd=tmp_path)
        assert result.returncode == 0 and "exhausted" not in result.stdout, "no more was wanted"


def test_what_a_budget_leaves_paused_is_said_and_goes_on(fork: Callable, tmp_path: Path) -> None:
    """The median rule looks at every epoch: its third trial has had one of three."""
    median = (*SMALL, "scheduler=median", "r_max=3", "hydra.run.dir=run")
    result = fork(*median, "budget.evaluations=7", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "7 evaluations, 1 paused (a higher budget takes it up again): 7 epochs" in result.stdout
    assert fork("resume=run", "budget.evaluations=9", cwd=tmp_path).returncode == 0
    assert [trial.state for trial in halving.load(tmp_path / "run").trials] == ["completed"] * 3


HALVING = "src/halving/__main__.py"


def test_halving_does_from_any_directory_what_the_scripts_do(fork: Callable, tmp_path: Path) -> None:
    result = fork(*SMALL, "scheduler=sha", "hydra.run.dir=study", cwd=tmp_path, program=HALVING)
    assert result.returncode == 0, result.stderr
    best = halving.load(tmp_path / "study").best
    said = fork("study", "explain", "study", "--trial", str(best.trial), cwd=tmp_path, program=HALVING)
    assert (said.returncode, said.stderr) == (0, "") and "completed: reached the last rung, 3" in said.stdout
    (tmp_path / "study" / "report.html").unlink()
    assert fork("study", "report", "study", cwd=tmp_path, program=HALVING).stdout == "study/report.html\n"
    assert "</html>" in (tmp_path / "study" / "report.html").read_text("utf-8")
    missing = fork("study", "check", "nowhere", cwd=tmp_path, program=HALVING)
    assert missing.returncode == 1 and missing.stderr.startswith("error: nowhere: no journal.jsonl there")
    again = fork("-cp", "study", "-cn", "best", "hydra.run.dir=again", cwd=tmp_path, program=HALVING)
    assert again.returncode == 0, again.stderr
    assert_same(halving.load(tmp_path / "again").summary, halving.load(tmp_path / "study").summary)


def test_what_is_installed_has_all_of_conf(repo: Path) -> None:
    """An editable install and PYTHONPATH see the link, an sdist and a wheel hold the files in its place."""
    project = tomllib.loads((repo / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["scripts"] == {"halving": "halving.__main__:main"}
    package = repo / "src" / "halving"
    held = {
        path.resolve()
        for pattern in project["tool"]["setuptools"]["package-data"]["halving"]
        for path in package.glob(pattern)
    }
    pages = ("report.html", "report.js", "comparison.html", "style.css")
    assert held == {*(repo / "conf").rglob("*.yaml"), *(package / "report" / name for name in pages)}


def test_data_lie_where_one_types_if_there_is_no_checkout(fork: Callable, repo: Path, tmp_path: Path) -> None:
    shutil.copytree(repo / "src" / "halving", tmp_path / "site" / "halving")
    installed, cwd = str(tmp_path / "site" / "halving" / "__main__.py"), tmp_path / "here"
    cwd.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "HALVING_DATA"}
    result = subprocess.run(
        [sys.executable, installed, "--cfg", "job", "--resolve", "-p", "data_dir"],
        cwd=cwd, env=environment | {"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.stdout == f"{cwd / 'data'}\n", result.stderr


def test_a_dimension_is_replaced_by_one_override(fork: Callable, tmp_path: Path) -> None:
    wide = "space.data={batch_size: {_target_: scipy.stats.randint, low: 10, high: 30}}"
    run_dir = tmp_path / "study"
    result = fork(
        *SMALL, "scheduler=sha", "scheduler.n=6", "space.optimizer.lr=[0.1,0.2]", wide, f"hydra.run.dir={run_dir}"
    )
    assert result.returncode == 0, result.stderr
    study = halving.load(run_dir)
    values = [tuple(trial.configuration.values()) for trial in study.trials[1:]]
    assert len(values) == 5 and all(lr in (0.1, 0.2) and 10 <= size < 30 for lr, size in values)
    more = fork(f"resume={run_dir}", "scheduler.rounds=2", "space.optimizer.lr=[0.1,0.2]")
    assert more.returncode == 0, more.stderr
    assert len(halving.load(run_dir).trials) == 12
    other = fork(f"resume={run_dir}", "scheduler.rounds=3", "space.optimizer.lr=[0.1,0.3]")
    assert other.returncode == 1 and "space.optimizer.lr: [0.1, 0.2] in the study, [0.1, 0.3]" in other.stderr


@pytest.mark.parametrize(
    "words", [("~space", "+space.optimizer.lr=[0.2,0.3]"), ("space={optimizer: {lr: [0.2,0.3]}}",)]
)
def test_a_whole_space_is_replaced(words: tuple[str, ...], fork: Callable, tmp_path: Path) -> None:
    for begun in ("hydra.run.dir=study", "resume=study"):
        result = fork(*SMALL, "scheduler=sha", *words, begun, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    found = [trial.configuration["optimizer.lr"] for trial in halving.load(tmp_path / "study").trials]
    assert found[0] == 0.1 and {*found[1:]} == {0.2, 0.3}
    assert halving.load(tmp_path / "study").history.header.dimensions == ("optimizer.lr",)


@pytest.mark.parametrize("option", ["disabled", "none", "stdout"])
def test_logs_go_where_hydra_is_told(option: str, fork: Callable, tmp_path: Path) -> None:
    result = fork(*SMALL, f"hydra/job_logging={option}", "hydra/hydra_logging=disabled", "lr_schedule.warmup=2",
                  "hydra.run.dir=run", cwd=tmp_path)  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert not (tmp_path / "run" / "train.log").exists()


def test_a_dimension_is_replaced_in_each_job_of_a_multirun(fork: Callable, tmp_path: Path) -> None:
    uniform = "{_target_: scipy.stats.uniform, loc: 0.3, scale: 0.1}"
    dimensions = (f"space.optimizer.lr=[0.1,0.2],{uniform}", "space.optimizer.momentum=[0.0,0.9]", "~space.data")
    result = fork("-m", *dimensions, *SMALL, "scheduler=sha", f"hydra.sweep.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    # Shown and told to repeat is what was typed, and the multirun is found from anywhere.
    repeated = fork(f"resume={tmp_path.name}", cwd=tmp_path.parent).stderr
    assert all("++" not in said for said in (result.stdout, (tmp_path / "jobs.csv").read_text("utf-8"), repeated))
    assert repeated.endswith(f"'~space.data' {' '.join(SMALL)} scheduler=sha resume={tmp_path}\n")
    for job, low, high in (("0", 0.1, 0.2), ("1", 0.3, 0.4)):
        trials = halving.load(tmp_path / job).trials[1:]
        assert trials and all(low <= trial.configuration["optimizer.lr"] <= high for trial in trials)
        assert {trial.configuration["optimizer.momentum"] for trial in trials} <= {0.0, 0.9}


def test_a_home_directory_is_found_wherever_a_path_is_given(
    fork: Callable, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, cwd = tmp_path / "Zuhause größer", tmp_path / "cwd"
    home.mkdir()
    cwd.mkdir()
    monkeypatch.setenv("HOME", str(home))
    first = fork(*SMALL, "scheduler=sha", "hydra.run.dir=~/study", cwd=cwd)
    assert first.returncode == 0, first.stderr
    trials = halving.load("~/study").trials
    more = fork("resume=~/study", "scheduler.rounds=2", "hydra.job.chdir=true", cwd=cwd)
    assert more.returncode == 0, more.stderr
    assert len(halving.load(home / "study").trials) == 2 * len(trials)
    # Relative ones are relative to where it was typed, although the job works elsewhere.
    near = ("searcher.initial=[~/study,../Zuhause größer/study]", "hydra.job.chdir=true", "hydra.run.dir=there")
    assert fork(*SMALL, "scheduler=sha", *near, cwd=cwd).returncode == 0
    header = json.loads((cwd / "there" / "journal.jsonl").read_text("utf-8").splitlines()[0])
    earlier = header["settings"]["unresolved"]["searcher"]["initial"]
    assert [Path(path).resolve() for path in earlier] == [home / "study"] * 2 and earlier[1].startswith(str(cwd))
    assert fork("resume=there", "hydra.job.chdir=true", cwd=cwd).returncode == 0
    sweep = fork(*SMALL, "-m", "seed=0,1", "hydra.sweep.dir=~/sweep", cwd=cwd)
    assert sweep.returncode == 0 and (home / "sweep" / "1" / "summary.json").is_file()
    assert fork("study", "explain", "~/study", "--trial", "0", program=HALVING, cwd=cwd).returncode == 0
    proxy = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    airfoil = ("data=airfoil", "model=mlp", "hydra.job.chdir=true")
    for data, where in (("~/data", home / "data"), ("data", cwd / "data")):
        for arguments, env in (
            ((f"data_dir={data}",), {}),
            ((), {"HALVING_DATA": data}),
            ((f"data.data_dir={data}",), {}),
        ):
            result = fork(*airfoil, *arguments, cwd=cwd, **proxy, **env)
            assert f"there is no {where / 'airfoil_self_noise.dat'} " in result.stderr
    assert not [path for path in tmp_path.rglob("*") if "~" in path.name]


def test_hydra_composes_a_job_once(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives it what it would have: the mode is asked of what the job gets then."""
    composed, compose = list[object](), ConfigLoaderImpl._load_configuration_impl

    def count(loader: ConfigLoaderImpl, **given: Any) -> DictConfig:
        composed.append(given["run_mode"])
        return compose(loader, **given)

    typed = ["hydra/job_logging=none", "hydra/hydra_logging=none", f"hydra.run.dir={tmp_path / 'run'}"]
    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", count)
    monkeypatch.setattr(sys, "argv", ["train.py", *typed, "seed=1"])

    @command_line(conf=repo / "conf")
    @hydra.main(version_base="1.3", config_path=str(repo / "conf"), config_name="config")
    def main(cfg: DictConfig) -> None:
        composed.append(cfg.seed)

    main()
    assert composed == [RunMode.RUN, 1]
    found = OmegaConf.load(tmp_path / "run" / ".hydra" / "hydra.yaml").hydra
    assert found.overrides == {"hydra": [*typed, "hydra.mode=RUN"], "task": ["seed=1"]} and found.mode == "RUN"
