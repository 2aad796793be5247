"""A model, data and an objective of one's own: one class or function and one YAML each, outside this project."""

import json
import math
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

PACKAGE = """
    import os

    import numpy as np
    from torch import nn

    from halving.data import split_data


    class Tiny(nn.Module):
        def __init__(self, shape, outputs, width):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(shape[0], width), nn.Tanh(), nn.Linear(width, outputs))

        def forward(self, inputs):
            return self.net(inputs)


    class Unshaped(nn.Sequential):
        def __init__(self, outputs, width):
            super().__init__(nn.LazyLinear(width), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(outputs))


    def recall(outputs, targets):
        return (outputs.argmax(1)[targets == 1] == 1).double().mean()


    def rings(*, batch_size, seed, device, shape=None, outputs=None, odd=0):
        rng = np.random.default_rng(0)
        inputs = rng.normal(size=(300, 2))
        targets = (np.hypot(*inputs.T) > 1.2).astype(int)
        targets[-1] += odd
        parts = inputs[:200], targets[:200], inputs[200:], targets[200:]
        return split_data(*parts, batch_size=batch_size, seed=seed, device=device, metrics={"recall": recall})


    def marked(*, data_dir, **options):
        with open(os.path.join(data_dir, "there")) as file:
            data = rings(**options)
            data.validation.inputs[0] += len(file.read())
        data.test.inputs[-1] = 1e6
        return data


    class Fragile(Tiny):
        def forward(self, inputs):
            os.chdir("/")
            if (inputs > 1e3).any() and os.path.exists(os.environ["FRAGILE"]):
                raise RuntimeError("out of luck\\non the test set")
            return super().forward(inputs)


    def valley(configuration, resource):
        return (configuration["x"] - 0.3) ** 2 + 1 / resource
"""
CONF = {
    "model/tiny": """
        _target_: mine.Tiny
        shape: ${data.shape}
        outputs: ${data.outputs}
        width: 8
    """,
    "model/unshaped": """
        _target_: mine.Unshaped
        outputs: ${data.outputs}
        width: 8
    """,
    "data/rings": """
        _target_: mine.rings
        batch_size: 32
        seed: ${seed}
        device: ${device}
        shape: [2]
        outputs: 2
        odd: 0
    """,
    "model/fragile": """
        defaults: [tiny]
        _target_: mine.Fragile
    """,
    "data/marked": """
        defaults: [rings]
        _target_: mine.marked
        data_dir: ${data_dir}
    """,
    "experiment/valley": """
        # @package _global_
        defaults:
          - override /fidelity: function
          - override /space: none
          - override /scheduler: sha
        fidelity:
          function: mine.valley
          configuration: {x: 0.5}
        space:
          fidelity:
            configuration:
              x: {_target_: scipy.stats.uniform, loc: 0.0, scale: 1.0}
    """,
}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(dedent(PACKAGE), encoding="utf-8")
    for name, text in CONF.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip(), encoding="utf-8")
    return tmp_path


def test_the_users_file_wins_over_ours_of_that_name(fork: Callable, mine: Path) -> None:
    """As tiny.yaml is called mlp.yaml here; the study, its resumption and the printed command must find the same."""
    (mine / "conf" / "model" / "tiny.yaml").rename(mine / "conf" / "model" / "mlp.yaml")
    for source in (("--config-dir", "conf"), ("-cd=conf",), (f"hydra.searchpath=[file://{mine / 'conf'}]",)):
        shown = fork(*source, "model=mlp", "--cfg", "job", "-p", "model", cwd=mine)
        assert "_target_: mine.Tiny" in shown.stdout, shown.stderr
    own = ("--config-dir", "conf", "model=mlp", "data=rings", "trusted_packages=[mine]")
    small = (
        "scheduler=sha",
        "space=none",
        "+space.optimizer.lr=[0.1,0.2,0.4]",
        "r_max=3",
        "tracker=none",
        "executor.threads=1",
    )
    study = fork(*own, *small, "hydra.run.dir=study", cwd=mine)
    assert study.returncode == 0, study.stderr
    more = fork("resume=study", "budget.evaluations=100", "trusted_packages=[mine]", cwd=mine)
    assert more.returncode == 0, more.stderr
    summary = json.loads((mine / "study" / "summary.json").read_text("utf-8"))
    again = fork(*shlex.split(summary["command"])[2:], "hydra.run.dir=again", cwd=mine)
    assert again.returncode == 0, again.stderr
    assert json.loads((mine / "again" / "summary.json").read_text("utf-8"))["best_error"] == summary["best_error"]


def test_a_primary_config_is_looked_for_where_the_user_says_first(fork: Callable, mine: Path) -> None:
    (mine / "conf" / "config.yaml").write_text("defaults: [base, _self_]\nname: theirs\n", encoding="utf-8")
    assert "name: theirs" in fork("--config-dir", "conf", "--cfg", "job", cwd=mine).stdout


def test_own_model_and_data(fork: Callable, repo: Path, mine: Path) -> None:
    summary = studied(
        fork, mine, "model=tiny", "data=rings", "scheduler=sha", "+space.model.width=[4,8,16]", "optimizer.lr=0.5"
    )
    assert (summary["trials"], summary["resource_spent"], summary["full_resource"]) == (3, 5, 9)
    assert summary["best_configuration"]["model.width"] in (4, 8, 16)
    assert summary["best_error"] < 0.5
    again = retrained(summary["command"], fork, repo, mine)
    assert (again["best_error"], again["test_error"]) == (summary["best_error"], summary["test_error"])


def test_own_lazy_model_and_metric_on_a_batch_size_that_leaves_one(fork: Callable, mine: Path) -> None:
    summary = studied(
        fork, mine, "model=unshaped", "data=rings", "scheduler=sha", "data.batch_size=53", "~space.data",
        "metric=max:val_recall",
    )  # fmt: skip
    assert (summary["metric"], summary["failed"]) == ("val_recall", 0)
    assert summary["best_error"] > 0.2
    code = (
        "import halving, mine; data = mine.rings(batch_size=53, seed=0, device='cpu')\n"
        "model = halving.load('study').best_model(trusted=['mine'])\n"
        "tested = halving.load('study').history.ended.test\n"
        "inputs, targets = next(data.batches(data.test, size=1000))\n"
        "assert float(mine.recall(model(inputs), targets)) == tested['test_recall'], tested"
    )
    (mine / "code.py").write_text(code)
    tested = fork(program=str(mine / "code.py"), cwd=mine)
    assert tested.returncode == 0, tested.stderr
    page = (mine / "study" / "report.html").read_text("utf-8")
    assert "best validation recall: <b>" in page and "with a test recall of <b>" in page


def test_a_label_without_an_output_is_refused_before_anything_trains(fork: Callable, mine: Path) -> None:
    own = ("model=tiny", "data=rings", "data.odd=5", "tracker=none", "trusted_packages=[mine]")
    result = fork("--config-dir", str(mine / "conf"), *own, f"hydra.run.dir={mine / 'study'}", PYTHONPATH=str(mine))
    assert result.returncode == 1
    assert result.stderr.startswith("error: data: the test set has the class 6, but data.outputs=2: then classes are 0")
    assert result.stderr.count("\n") == 1 and not (mine / "study" / "checkpoints").exists()


def test_own_objective(fork: Callable, repo: Path, mine: Path) -> None:
    summary = studied(fork, mine, "experiment=valley", "executor=process", "executor.workers=1")
    x = summary["best_configuration"]["fidelity.configuration.x"]
    assert summary["best_error"] == pytest.approx((x - 0.3) ** 2 + 1 / 3, abs=1e-12)
    # It starts anew at every rung: three trials for 1 and one for 3 units, where all in full had taken 9.
    assert (summary["trials"], summary["resource_spent"], summary["full_resource"]) == (3, 6, 9)
    assert retrained(summary["command"], fork, repo, mine)["best_error"] == summary["best_error"]


def test_what_fails_in_the_winners_test_loses_nothing_else(fork: Callable, mine: Path) -> None:
    """And a model that changes the directory finds its data, which lie where `data_dir` said from where one typed."""
    flag = mine / "flag"
    flag.touch()
    (mine / "files").mkdir()
    (mine / "files/there").touch()
    paths = os.pathsep.join((str(mine), os.environ.get("PYTHONPATH", "")))
    env = {"PYTHONPATH": paths, "FRAGILE": str(flag), "HALVING_TRUSTED_PACKAGES": "mine"}
    study = ["model=fragile", "data=marked", "data_dir=files", "scheduler=sha", "r_max=3", "tracker=none"]
    result = fork(
        "--config-dir", "conf", *study, "~space.data", "executor.threads=1", "hydra.run.dir=run", cwd=mine, **env
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith(
        "error: the study has ended, but the winner's test failed: RuntimeError: out of luck;"
    )
    assert "trial=" in result.stdout and f"resume={mine / 'run'} tries again; see" in result.stderr
    told = json.loads((mine / "run/summary.json").read_text("utf-8"))
    assert told["end"] == "finished" and told["command"] and told["test_error"] is None
    assert (mine / "run/best.yaml").is_file() and "out of luck" in (mine / "run/report.html").read_text("utf-8")
    assert "Traceback" in (mine / "run/train.log").read_text("utf-8")

    flag.unlink()
    result = fork(f"resume={mine / 'run'}", cwd=mine, **env)
    assert result.returncode == 0, result.stderr
    again = json.loads((mine / "run/summary.json").read_text("utf-8"))
    assert math.isfinite(again["test_error"]) and again["command"] == told["command"]


def test_it_has_to_be_trusted_first(fork: Callable, mine: Path) -> None:
    for choice, path in (("model=tiny", "model._target_: mine.Tiny"), ("experiment=valley", "fidelity.function: mine")):
        result = fork("--config-dir", str(mine / "conf"), choice, "tracker=none", cwd=mine)
        assert result.returncode == 1
        assert result.stderr.startswith(f"error: {path}") and "type trusted_packages=[mine] on" in result.stderr


def test_a_part_that_calls_sys_exit_ends_no_study_in_silence(fork: Callable, mine: Path) -> None:
    (mine / "mine.py").write_text("import sys\n\n\nclass Tiny:\n    def __init__(self, **_):\n        sys.exit()\n")
    own = ["--config-dir", str(mine / "conf"), "model=tiny", "trusted_packages=[mine]", "tracker=none"]
    result = fork(*own, PYTHONPATH=str(mine))
    assert result.returncode == 1 and "has called sys.exit()" in result.stderr
    assert "mine.py" in result.stderr


def studied(fork: Callable, mine: Path, *arguments: str) -> dict:
    run_dir = mine / "study"
    result = fork(
        *(
            "--config-dir",
            str(mine / "conf"),
            *arguments,
            "r_max=3",
            "tracker=none",
            "executor.threads=1",
            "trusted_packages=[mine]",
            f"hydra.run.dir={run_dir}",
        ),
        cwd=mine,  # whose modules can be imported without PYTHONPATH, as they are trusted
    )
    assert result.returncode == 0, result.stderr
    return json.loads((run_dir / "summary.json").read_text("utf-8"))


def retrained(command: str, fork: Callable, repo: Path, mine: Path) -> dict:
    run_dir = mine / "again"
    words = (*shlex.split(command)[2:], f"hydra.run.dir={run_dir}")
    result = fork(*words, cwd=repo, PYTHONPATH=os.pathsep.join((str(mine), os.environ.get("PYTHONPATH", ""))))
    assert result.returncode == 0, result.stderr
    return json.loads((run_dir / "summary.json").read_text("utf-8"))


def test_what_lies_where_one_types_is_imported_only_if_somebody_trusts(fork: Callable, mine: Path) -> None:
    words = ("--config-dir", "conf", "experiment=valley", "r_max=3", "tracker=none")
    assert "fidelity.function: mine.valley lies outside the trusted packages" in fork(*words, cwd=mine).stderr
    trusting = {"HALVING_TRUSTED_PACKAGES": "mine"}
    named = fork(*words, "hydra.job.chdir=true", cwd=mine, **trusting)
    assert named.returncode == 0, named.stderr


@pytest.mark.parametrize("gone", [False, True])
def test_an_objective_may_leave_the_directory_and_delete_what_it_likes(
    fork: Callable, tmp_path: Path, gone: bool
) -> None:
    (tmp_path / "wanderer.py").write_text(
        "import os, shutil, tempfile\n"
        "began = os.getcwd()\n"
        "def error(configuration, resource):\n"
        "    os.chdir(place := tempfile.mkdtemp())\n"
        "    os.rmdir(place)\n"
        f"    shutil.rmtree(began, ignore_errors=True) if {gone} else None\n"
        "    return 1 / resource\n"
    )
    (cwd := tmp_path / "cwd").mkdir()
    result = fork(
        *("fidelity=function", "fidelity.function=wanderer.error", "trusted_packages=[wanderer]", "scheduler=sha"),
        *("r_max=3", "tracker=none", f"hydra.run.dir={tmp_path / 'run'}"),
        cwd=cwd,
        PYTHONPATH=os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
    )
    assert result.returncode == 0, result.stderr
    assert f"-cp {tmp_path / 'run'} -cn best" in result.stdout if gone else "scheduler=single" in result.stdout
    assert json.loads((tmp_path / "run/summary.json").read_text())["end"] == "finished"


def test_other_data_are_named_where_a_study_goes_on_with_them(fork: Callable, mine: Path) -> None:
    (mine / "files").mkdir()
    (mine / "files" / "there").touch()
    study = ["model=tiny", "data=marked", "data_dir=files", "scheduler=fifo", "r_max=1", "tracker=none", "~space.data"]
    own = ["--config-dir", "conf", "trusted_packages=[mine]", "hydra.run.dir=study", "budget.evaluations=1"]
    assert fork(*own, *study, cwd=mine).returncode == 0
    goes_on = ["resume=study", "trusted_packages=[mine]"]
    same = fork(*goes_on, "budget.evaluations=2", cwd=mine)
    assert same.returncode == 0 and "data are others" not in same.stdout, same.stderr
    (mine / "files" / "there").write_text("more")
    other = fork(*goes_on, "budget.evaluations=3", cwd=mine)
    assert other.returncode == 0 and "note: the data are others than before" in other.stdout, other.stderr
