"""A mapping with `_target_` becomes what it names, and mistakes in it are told by their path."""

import sys
from fractions import Fraction
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from halving.errors import UserError
from halving.targets import check_trusted, instantiate


def test_nested_targets_lists_and_plain_values_are_built_depth_first() -> None:
    config = {
        "ratio": {"_target_": "fractions.Fraction", "numerator": {"_target_": "builtins.int", "_args_": ["6"]}},
        "items": [{"_target_": "fractions.Fraction", "_args_": [1, 2]}, "as it is", None],
        "deep": {"deeper": 0.5},
    }
    assert instantiate(config) == {
        "ratio": Fraction(6),
        "items": [Fraction(1, 2), "as it is", None],
        "deep": {"deeper": 0.5},
    }
    assert config["items"][0] == {"_target_": "fractions.Fraction", "_args_": [1, 2]}, "the configuration stays"


def test_partial_binds_and_extra_arguments_win() -> None:
    config = {"_target_": "fractions.Fraction", "_partial_": True, "denominator": 4}
    bound = instantiate(config)
    assert isinstance(bound, partial) and bound(3) == Fraction(3, 4)
    assert instantiate({"_target_": "fractions.Fraction", "numerator": 1}, numerator=3, denominator=4) == Fraction(3, 4)


_ABSENT = "model: cannot import 'absent.Model': No module named 'absent'; type this where the package lies, or put"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "fractions.Fractoin"}, "model: cannot import 'fractions.Fractoin'"),
        ({"_target_": "absent.Model"}, _ABSENT),
        ({"_target_": "not a name"}, "model: cannot import"),
        ({"_target_": "math.pi"}, "model: 'math.pi' is not callable"),
        (
            {"_target_": "halving.tuner.Budget", "evaluation": 3},
            "model.evaluation: Budget takes no 'evaluation'; did you mean evaluations?",
        ),
        ({"_target_": "halving.trial.Verdict", "trial": 1}, "model: Verdict: missing a required argument: 'state'"),
        (
            {"_target_": "builtins.dict", "inner": [{"_target_": "halving.trial.Wait", "x": 1}]},
            "model.inner[0].x: Wait takes no 'x'",
        ),
    ],
)
def test_mistakes_are_told_by_their_path(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        instantiate(config, "model")
    assert str(refused.value).startswith(message)


def test_errors_of_the_target_itself_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        instantiate({"_target_": "fractions.Fraction", "_args_": [1, 0]})


CALLS = "halving.training.fidelities.function.Function"


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "pickle.loads",
        "halvings.models.Mine",
        "torchaudio.load",
        "scipy.optimize.minimize",
        # What a trusted module has imported is not its own.
        "halving.journal.os.system",
        "halving.training.own.Path.write_text",
        "halving.searchers.random.np.load",
        "halving.training.trainer.time.sleep",
        "torch.nn.functional.torch.load",
        "torch.nn.functional.importlib.import_module",
        "torch.optim.optimizer.functools.partial",
        "scipy.stats.contingency.np.load",
        # What of a trusted package loads code, unpickles, runs strings or writes files.
        "torch.load",
        "torch.save",
        "torch.compile",
        "torch.from_file",
        "torch.hub.load",
        "torch.jit.load",
        "torch.package.PackageImporter",
        "torch.ops.load_library",
        "torch.serialization.load",
        "torch.utils.benchmark.Timer",
        "torch.utils.cpp_extension.load_inline",
        "torch.multiprocessing.spawn",
        "torchvision.datasets.utils.download_and_extract_archive",
        "torchvision.io.write_file",
        "halving.load",
        "halving.targets.instantiate",
        "halving.targets.locate",
        "halving.training.fidelities.function.locate",
        "halving.conformance.main",
        "halving.journal.Journal",
        # scipy executes the strings that this private method gets.
        "scipy.stats.norm._construct_argparser",
        "torch.nn.Module.__subclasses__",
        "halving.schedulers.SuccessiveHalving.__init__.__globals__",
    ],
)
def test_what_is_not_trusted_is_refused(target: str) -> None:
    with pytest.raises(UserError, match=r"^model\[0\]\.inner\._target_: .*trusted_packages=\["):
        check_trusted({"model": [{"inner": {"_target_": target}}]})


@pytest.mark.parametrize("target", ["os:system", "halving.journal:os.system", "halving..journal", "system", ""])
def test_what_is_no_plain_dotted_name_is_refused(target: str) -> None:
    """`pkgutil.resolve_name` would take some of these."""
    with pytest.raises(UserError, match="is no dotted name"):
        check_trusted({"_target_": target}, ["os", "halving"])


@pytest.mark.parametrize(
    "target",
    [
        "halving.SuccessiveHalving",
        "halving.data.digits",
        "halving.executors.Serial",
        "halving.schedulers.ASHA",
        "halving.searchers.RandomSearcher",
        "halving.tracking.wandb.Wandb",
        "halving.training.models.lenet.LeNet",
        "scipy.stats.loguniform",
        "scipy.stats.randint",
        "torch.nn.GELU",
        "torch.nn.functional.conv2d",
        "torch.nn.functional.gelu",
        "torch.nn.functional.relu",
        "torch.optim.SGD",
        "torch.optim.lr_scheduler.StepLR",
    ],
)
def test_what_configurations_need_is_trusted(target: str) -> None:
    check_trusted({"_target_": target})


def test_every_target_in_conf_is_trusted(repo: Path) -> None:
    files = [path for path in (repo / "conf").rglob("*.yaml") if path.name != "base.yaml"]
    assert len(files) > 30
    for path in files:
        text = path.read_text("utf-8").replace("function: ???", "")
        check_trusted(yaml.safe_load(text), where=path.name)


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"_target_": CALLS, "function": "os.system"}, "fidelity.function"),
        ({"_target_": CALLS, "_args_": ["os.system"]}, r"fidelity\._args_\[0\]"),
        ({"_target_": "halving.training.fidelities.base.Function", "function": "os.system"}, "fidelity.function"),
        ({"_target_": CALLS, "function": "fractions.Fraction", "x": [{"_target_": "os.system"}]}, "fidelity"),
    ],
)
def test_the_function_of_an_objective_is_a_name_too(config: dict[str, Any], path: str) -> None:
    with pytest.raises(UserError, match=rf"^{path}.*os\.system lies outside"):
        check_trusted(config, ["fractions"], "fidelity")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that leaves a file when it is imported."""
    (tmp_path / "minepkg").mkdir()
    (tmp_path / "minepkg" / "__init__.py").write_text(
        f"import os, json\nfrom json import loads\nopen({str(tmp_path / 'imported')!r}, 'w').close()\n"
        "class Net:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("minepkg", None)


def test_nothing_is_imported_before_all_is_trusted(mine: Path) -> None:
    net = {"_target_": "minepkg.Net"}
    with pytest.raises(UserError, match=r"model\._target_: minepkg\.Net lies .* type trusted_packages=\[minepkg\]"):
        check_trusted({"model": net})
    with pytest.raises(UserError, match=r"z\._target_: os\.system"):
        check_trusted({"model": net, "z": {"_target_": "os.system"}}, ["minepkg"])
    assert not (mine / "imported").exists()
    check_trusted({"model": net}, ["minepkg"])
    assert (mine / "imported").exists()


@pytest.mark.parametrize("name", ["minepkg.os.system", "minepkg.json.loads", "minepkg.loads", "minepkg.Net.__new__"])
def test_a_trusted_package_does_not_vouch_for_what_it_imports(mine: Path, name: str) -> None:
    with pytest.raises(UserError, match="trusted_packages="):
        check_trusted({"_target_": name}, ["minepkg"])


def test_what_is_named_in_full_is_trusted_and_no_more(mine: Path) -> None:
    check_trusted({"_target_": "torch.load"}, ["torch.load"])
    with pytest.raises(UserError, match=r"minepkg\.Net"):
        check_trusted({"_target_": "minepkg.Net"}, ["mine", "minepkg.Nettle"])


@pytest.mark.parametrize("group", ["averaging", "executor", "fidelity", "lr_schedule", "scheduler", "searcher"])
def test_from_python_numbers_are_by_default_what_the_configuration_says(group: str, repo: Path) -> None:
    """Only what an option is for differs, and a third has fewer digits in YAML."""
    compared = 0
    for path in (repo / "conf" / group).glob("*.yaml"):
        config = yaml.safe_load(path.read_text())
        module, _, name = config.pop("_target_", "").rpartition(".")
        if module.startswith("halving."):
            taken = signature(getattr(import_module(module), name)).parameters
            root = {"${eta}": 3, "${r_min}": 1, "${seed}": 0}
            for key, value in ((key, root.get(str(value), value)) for key, value in config.items()):
                default = taken[key].default if key in taken else Parameter.empty
                if {type(value), type(default)} <= {int, float, bool, str} and "${" not in str(value):
                    compared += 1
                    if (path.stem, key) not in (("cosine_warmup", "warmup"), ("cmaes", "sampler"), ("gp", "sampler")):
                        assert value == (pytest.approx(default, rel=1e-2) if type(value) is float else default), path
    assert compared
