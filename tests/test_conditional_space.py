"""Spaces that choose: options of config groups, dimensions under a condition, and studies over them."""

import json
import pickle
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

import halving
from halving.app.objective import ConfiguredObjective
from halving.config import trials
from halving.config.choices import Choices, composed
from halving.config.polite import register
from halving.config.request import Request
from halving.config.winner import command
from halving.errors import UserError
from halving.searchers import BayesianSearcher, BOHBSearcher, EvolutionSearcher, GridSearcher, LocalSearcher
from halving.space import Space
from halving.space.condition import When

CONF = Path(__file__).resolve().parents[1] / "conf"
LOG = {"_target_": "scipy.stats.loguniform", "a": 0.01, "b": 1.0}
UNIFORM = {"_target_": "scipy.stats.uniform", "loc": 0.0, "scale": 1.0}
SPACE = Space.from_config(
    {
        "optimizer": {
            "lr": LOG,
            "_choice_": {
                "sgd": {
                    "momentum": UNIFORM,
                    "nesterov": {"_values_": [True, False], "_when_": "optimizer.momentum > 0.5"},
                },
                "adam": {"weight_decay": LOG, "amsgrad": {"_choice_": {"on": {"beta": [0.9, 0.99]}, "off": {}}}},
                "adagrad": None,
            },
        },
        "model": {
            "depth": [1, 2, 3],
            "second": {
                "_when_": "model.depth > 1",
                "width": [8, 16],
                "dropout": {**UNIFORM, "_when_": "model.depth >= 3"},
            },
        },
    }
)
points = st.lists(st.floats(0, 1), min_size=len(SPACE.dimensions), max_size=len(SPACE.dimensions))


def test_each_option_has_its_own_dimensions_and_siblings_belong_to_all() -> None:
    assert SPACE.names == (
        *("optimizer.lr", "optimizer", "optimizer.momentum", "optimizer.nesterov", "optimizer.weight_decay"),
        *("optimizer.amsgrad", "optimizer.amsgrad.beta", "model.depth", "model.second.width", "model.second.dropout"),
    )
    kinds = {dimension.name: dimension.kind for dimension in SPACE.dimensions}
    assert (kinds["optimizer"], kinds["optimizer.amsgrad"], kinds["model.second.width"]) == (
        *("categories", "categories"),
        "ordered",
    )
    conditions = {dimension.name: " and ".join(map(str, dimension.conditions)) for dimension in SPACE.dimensions}
    assert conditions["optimizer.lr"] == conditions["optimizer"] == conditions["model.depth"] == ""
    assert conditions["optimizer.nesterov"] == "optimizer=sgd and optimizer.momentum > 0.5"
    assert conditions["optimizer.amsgrad.beta"] == "optimizer=adam and optimizer.amsgrad=on"
    assert conditions["model.second.dropout"] == "model.depth > 1 and model.depth >= 3"


@pytest.mark.parametrize(
    ("configuration", "inactive"),
    [
        ({"optimizer.lr": 0.1, "optimizer": "adagrad", "model.depth": 1}, {2, 3, 4, 5, 6, 8, 9}),
        (
            {
                "optimizer.lr": 0.1,
                "optimizer": "sgd",
                "optimizer.momentum": 0.5,
                "model.depth": 2,
                "model.second.width": 8,
            },
            {3, 4, 5, 6, 9},
        ),
        (
            {"optimizer.lr": 0.1, "optimizer": "adam", "optimizer.weight_decay": 0.1, "optimizer.amsgrad": "on"}
            | {
                "optimizer.amsgrad.beta": 0.99,
                "model.depth": 3,
                "model.second.width": 16,
                "model.second.dropout": 0.25,
            },
            {2, 3},
        ),
    ],
)
def test_inactive_dimensions_are_absent_and_lie_at_the_middle(
    configuration: dict[str, Any], inactive: set[int]
) -> None:
    point = SPACE.encode(configuration)
    assert {i for i, x in enumerate(point) if x == 0.5} >= inactive
    assert SPACE.decode(point) == pytest.approx(configuration)
    moved = [0.99 if i in inactive else x for i, x in enumerate(point)]
    assert SPACE.decode(moved) == pytest.approx(configuration), "where an inactive dimension lies changes nothing"
    names = {dimension.name for dimension in SPACE.existing(configuration)}
    assert names == configuration.keys() and len(names) == len(SPACE.names) - len(inactive)


@given(points)
def test_every_point_decodes_to_exactly_what_exists(u: list[float]) -> None:
    configuration = SPACE.decode(u)
    assert tuple(configuration) == tuple(dimension.name for dimension in SPACE.existing(configuration))
    assert ("optimizer.momentum" in configuration) == (configuration["optimizer"] == "sgd")
    assert ("optimizer.nesterov" in configuration) == (float(configuration.get("optimizer.momentum") or 0) > 0.5)
    assert ("model.second.dropout" in configuration) == (configuration["model.depth"] == 3)
    assert SPACE.decode(SPACE.encode(configuration)).keys() == configuration.keys()


def test_one_name_in_two_options_may_have_two_distributions() -> None:
    space = Space.from_config(
        {
            "kind": {"_choice_": {"a": {"x": [1, 2]}, "b": {"x": UNIFORM}}},
            "y": {"_values_": [5], "_when_": "kind.x > 1"},
        }
    )
    assert space.names == ("kind", "kind.x", "y") and len(space.dimensions) == 4
    assert space.decode([0, 0.9, 0.3, 0]) == {"kind": "a", "kind.x": 2, "y": 5}
    assert space.decode([1, 0.9, 0.3, 0]) == {"kind": "b", "kind.x": 0.3}
    assert list(space.encode({"kind": "b", "kind.x": 0.3})) == [0.75, 0.5, 0.3, 0.5]


def test_values_outside_the_space() -> None:
    space = Space.from_config({"kind": {"_choice_": {"a": {"x": UNIFORM}}}, "lr": LOG})
    assert list(space.encode({"kind": "a", "kind.x": 7.0, "lr": 1e-9})) == [0.5, 1.0, 0.0]
    for lacking in ({"kind": "c", "lr": 0.1}, {"kind": "a", "lr": 0.1}):
        with pytest.raises(ValueError, match=r"not in|lacking"):
            space.encode(lacking)


def test_combinations_are_those_of_options_that_exist_together() -> None:
    assert SPACE.combinations() == [
        {"optimizer": "sgd"},
        {"optimizer": "adam", "optimizer.amsgrad": "on"},
        {"optimizer": "adam", "optimizer.amsgrad": "off"},
        {"optimizer": "adagrad"},
    ]
    space = Space.from_config({"x": [1, 2], "g": {"_choice_": ["a"], "_when_": "x > 1"}})
    assert space.combinations() == [{"g": "a"}, {}]
    assert Space.from_config({"x": [1, 2]}).combinations() == [{}]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("model.depth > 1", True),
        ("1 < model.depth <= 2", True),
        ("model.depth > 1 and kind == 'b'", False),
        ("model.depth > 5 or kind in ['a', 'b'] and not kind != \"a\"", True),
        ("kind not in ('a',)", False),
        ("x > -0.5", True),
        ("flag", True),
        ("not flag == true", False),
        ("nothing == null", True),
        ("nothing > 0", False),
        ("kind > 0", False),
        ("absent == 1", False),
        ("absent != 1", False),
        ("not absent", True),
    ],
)
def test_expressions(text: str, holds: bool) -> None:
    values: dict[str, Any] = {"model.depth": 2, "kind": "a", "x": 0.0, "flag": True, "nothing": None}
    assert pickle.loads(pickle.dumps(When(text))).holds(values) is holds


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"x": {"_values_": [1], "_when_": "y > 1"}}, "y is no dimension and no value of the configuration"),
        ({"y": ["a"], "x": {"_values_": [1], "_when_": "y == a"}}, "a is no dimension.*strings are quoted"),
        ({"y": ["a", "b"], "x": {"_values_": [1], "_when_": "y > 1"}}, "y is no number"),
        ({"y": [1], "x": {"_values_": [1], "_when_": "y > 'a'"}}, "'a' is no number"),
        ({"y": [1], "x": {"_values_": [1], "_when_": "y >"}}, "cannot be read"),
        (
            {"y": [1], "x": {"_values_": [1], "_when_": "__import__('os').getcwd() == 1"}},
            "neither a number, a string nor",
        ),
        ({"y": [1], "x": {"_values_": [1], "_when_": "y + 1 > 1"}}, "neither a number"),
        ({"y": [1], "x": {"_values_": [1], "_when_": "1"}}, "is no condition"),
        ({"y": [1], "x": {"_values_": [1], "_when_": "y is 1"}}, "not understood"),
        ({"y": [1], "x": {"_values_": [1], "_when_": "1 in y"}}, "is a list"),
        (
            {"y": {"_values_": [1], "_when_": "x > 1"}, "x": {"_values_": [1], "_when_": "y > 1"}},
            "only if they exist: . needs .; drop one",
        ),
        ({"x": {"_values_": [1], "_values": 3}}, "nothing but _when_ stands beside"),
        ({"x": {"_values_": 3}}, "not a distribution"),
        ({"x": {"_choices_": [1]}}, "_choices_ has no meaning here; did you mean _choice_"),
        ({"x": {"_choice_": {}}}, "mapping from options"),
        ({"x": {"_choice_": {"a": [1]}}}, "mapping from options"),
        ({"x": {"_choice_": "a"}}, "mapping from options"),
        ({"_choice_": ["a"]}, "belongs below the name"),
        ({"x": {"_choice_": {"a": {"lr": [1]}}, "lr": [2]}}, "x.lr: named twice, beside an option and within it"),
    ],
)
def test_refusals_say_where_and_why(config: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=rf"^space.*{why}"):
        Space.from_config(config)


def test_a_condition_may_name_what_is_not_searched() -> None:
    config = {"x": {"_values_": [1], "_when_": "model.depth > 1"}}
    assert Space.from_config(config, {"model.depth": 2}).decode([0.5]) == {"x": 1}
    assert Space.from_config(config, {"model.depth": 1}).decode([0.5]) == {}


@pytest.mark.parametrize("searcher", [BayesianSearcher, BOHBSearcher, EvolutionSearcher, GridSearcher, LocalSearcher])
def test_searchers_propose_what_exists_and_learn_from_it(searcher: Callable[..., Any]) -> None:
    space = Space.from_config(
        {"kind": {"_choice_": {"a": {"x": UNIFORM}, "b": {}}}, "n": [1, 2, 3], "z": {**UNIFORM, "_when_": "n > 2"}}
    )
    proposer = searcher(space, seed=0)
    for trial in range(16):
        configuration = proposer.propose(trial)
        assert configuration.keys() == {dimension.name for dimension in space.existing(configuration)}
        proposer.observe(trial, configuration, 1, abs(float(configuration.get("kind.x", 1.0)) - 0.3))


def test_tune_chooses_between_sub_spaces() -> None:
    def error(configuration: dict[str, Any], resource: int) -> float:
        return abs(configuration["kind.x"] - 0.5) if configuration["kind"] == "near" else 10 + configuration["kind.k"]

    study = halving.tune(error, {"kind": {"_choice_": {"near": {"x": UNIFORM}, "far": {"k": [1, 2]}}}}, r_max=9)
    assert study.best.configuration.keys() == {"kind", "kind.x"}
    assert {tuple(trial.configuration) for trial in study.trials} == {("kind", "kind.x"), ("kind", "kind.k")}
    assert len(study.summary["best_configuration"]) == 2


@pytest.fixture(scope="module")
def hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    register(CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield
    GlobalHydra.instance().clear()


CHOICE = "+space.optimizer._choice_={sgd: {momentum: [0.0, 0.9]}, adam: {weight_decay: [0.0, 0.1]}}"
SCHEDULE = "+space.lr_schedule._choice_=[constant, cosine]"


def study(*overrides: str) -> tuple[DictConfig, Space, Choices]:
    """What the app reads of a command line."""
    cfg = compose("config", list(overrides), return_hydra_config=True)
    hydra = cfg.hydra
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    space = trials.space(cfg)
    return cfg, space, composed(cfg, space, hydra)


def test_every_combination_is_what_hydra_composes(hydra: None) -> None:
    cfg, space, choices = study(CHOICE, SCHEDULE, "optimizer.lr=0.3", "r_max=7")
    assert len(space.combinations()) == len(choices.parts) == 4 and choices.notes == []
    assert json.loads(json.dumps(choices.parts)) == choices.parts, "it goes into the journal"
    configuration = {"optimizer": "adam", "optimizer.weight_decay": 0.1, "lr_schedule": "cosine"}
    trial = trials.overlay(cfg, configuration, 5, pickle.loads(pickle.dumps(choices)))
    typed = ["optimizer=adam", "optimizer.weight_decay=0.1", "lr_schedule=cosine"]
    alone = compose("config", [CHOICE, SCHEDULE, "optimizer.lr=0.3", "r_max=7", "trial=5", *typed])
    assert OmegaConf.to_container(trial, resolve=False) == OmegaConf.to_container(alone, resolve=False)
    assert trials.plain(trial)["lr_schedule"]["epochs"] == 7
    assert trials.overlay(cfg, {}, 0, choices) == cfg, "without options it is the config itself"


def test_the_config_itself_comes_first_wherever_it_lies(hydra: None) -> None:
    cfg, space, choices = study(CHOICE, SCHEDULE, "~space.data", "optimizer.lr=5.0")
    first = {"optimizer.lr": 5.0, "optimizer": "sgd", "optimizer.momentum": 0.0, "lr_schedule": "constant"}
    assert trials.defaults(cfg, space, choices) == first
    cfg, space, choices = study(CHOICE, SCHEDULE, "~space.data", "optimizer=rmsprop", "optimizer.lr=0.5")
    first = {"optimizer.lr": 0.5, "optimizer": "rmsprop", "lr_schedule": "constant"}
    assert trials.defaults(cfg, space, choices) == first
    assert trials.overlay(cfg, first, 0, choices) == cfg
    cfg, space, choices = study(CHOICE, "~space.data", "optimizer.lr=5.0", "optimizer.momentum=0.9")
    assert trials.defaults(cfg, space, choices)["optimizer.momentum"] == 0.9, "which adam does not have"
    cfg, space, choices = study("+space.model={width: {_values_: [8, 16], _when_: 'data.batch_size > 32'}}")
    assert "model.width" in trials.defaults(cfg, space) and not choices.default


REFUSED = [
    ("+space.optimizer._choice_=[sgd,adma]", "space.optimizer: optimizer=adma: no such option; did you mean adam"),
    (
        "+space.optimzer._choice_=[sgd]",
        "space.optimzer: _choice_.* no option of a group optimzer; did you mean optimizer",
    ),
    ("+space.scheduler._choice_=[sha,asha]", "the study's and not a trial's; compare by -m scheduler=a,b"),
    (
        "+space.optimizer._choice_=[sgd,adam] optimizer.momentum=0.9",
        "with optimizer=adam the config has no optimizer.momentum.* sgd: {momentum",
    ),
    ("+space.optimizer._choice_={adam:{momentum:[0.5]}}", "has no optimizer.momentum with optimizer=adam"),
    ("~space.optimizer +space.optimizer=[sgd,adam]", "optimizer is a mapping.* chosen by optimizer: {_choice_"),
    ("+space.model={_choice_:[mlp],depth:{_target_:scipy.stats.uniform}}", "depth is an integer"),
    ("+space.model={_choice_:[mlp],width:{_values_:[8],_when_:'model.width > 6'}}", "only if they exist: model.width"),
    (
        "model=mlp +space.model={_choice_:{mlp:{},lenet_modern:{width:{_values_:[8],_when_:'model.depth == 1'}}}}",
        "_when_ names model.depth, which is None with model=lenet_modern and 1 in the config itself",
    ),
]


@pytest.mark.parametrize(("line", "why"), REFUSED)
def test_every_option_is_checked_before_the_first_trial(hydra: None, line: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        cfg, space, choices = study(*re.split(r" (?=[+~]*[\w.]+[=]|~)", line))
        trials.defaults(cfg, space, choices)


def test_what_an_experiment_sets_for_one_option_does_not_leak_silently(hydra: None, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment" / "mine.yaml"
    search = f"hydra.searchpath=[file://{tmp_path}]"
    file.write_text("# @package _global_\noptimizer: {momentum: 0.9}\n")
    with pytest.raises(
        UserError, match=r"momentum is set, for optimizer=sgd, and adam has no such key.*sgd: \{momentum"
    ):
        study(search, "experiment=mine", "+space.optimizer._choice_=[sgd,adam]")
    file.write_text("# @package _global_\noptimizer: {weight_decay: 0.5, lr: 0.3}\n")
    *_, choices = study(search, "experiment=mine", "+space.optimizer._choice_=[sgd,adam]")
    assert choices.notes == ["optimizer.weight_decay=0.5 is set for optimizer=sgd, and holds for adam too, not 0.0"]
    *_, choices = study(search, "experiment=mine", "+space.optimizer._choice_=[sgd,adam]", "optimizer.weight_decay=0.1")
    assert choices.notes == []


def test_each_option_is_built_once_before_the_first_trial(hydra: None, tmp_path: Path) -> None:
    own = "+space.optimizer._choice_={sgd: {}, adam: {}}"
    cfg, space, choices = study(own, SCHEDULE, "model=softmax", "optimizer.weight_decay=-1.0", "device=cpu")
    with pytest.raises(UserError, match="weight_decay"):
        ConfiguredObjective(Request(cfg, choices=choices), tmp_path, 1).prepare_options(space)


def test_a_nested_group_is_typed_with_a_slash() -> None:
    configuration = {"model": "mine", "model.norm": "batch", "model.norm.eps": 0.1}
    typed = ["model/norm=layer", "model=other", "model.depth=2", "lr_schedule/kind=a"]
    groups = ("model", "model.norm", "lr_schedule.kind")
    assert command([], typed, 3, configuration, groups) == (
        "python train.py model.depth=2 scheduler=single trial=3 model=mine model/norm=batch model.norm.eps=0.1"
    )


SMALL = ("data.train_samples=100", "r_max=4", "eta=2", "tracker=none", "executor.threads=1")


@pytest.fixture(scope="module")
def run_dir(fork: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study over models, optimizers and schedules, in two processes, whose winner is not the config itself."""
    run_dir = tmp_path_factory.mktemp("conditional") / "study"
    space = (
        "+space.model={_choice_: {softmax: {}, mlp: {width: [16, 32], depth: [1, 2]}}}",
        "+space.optimizer._choice_={sgd: {momentum: {_target_: scipy.stats.uniform, loc: 0.5, scale: 0.4}}, "
        "adam: {weight_decay: [0.0, 0.001]}}",
        SCHEDULE,
        "~space.data",
        "~space.optimizer.lr",
        "+space.optimizer.lr={_target_: scipy.stats.loguniform, a: 0.001, b: 0.02}",
    )
    result = fork(
        *("scheduler=sha", "scheduler.n=8", "model=softmax", "optimizer.lr=0.0001", *SMALL, *space),
        *("executor=process", "executor.workers=2", f"hydra.run.dir={run_dir}"),
    )
    assert result.returncode == 0, result.stderr
    return run_dir


def test_command_and_best_yaml_reproduce_the_winner_with_its_options(
    run_dir: Path, fork: Callable, repo: Path, tmp_path: Path
) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    best = summary["best_configuration"]
    assert (best["model"], best["optimizer"]) != ("softmax", "sgd"), "else this proves little"
    words = shlex.split(summary["command"])
    chosen = [word for word in words if re.match("(model|optimizer|lr_schedule)=", word)]
    assert sorted(chosen) == sorted(f"{group}={best[group]}" for group in ("model", "optimizer", "lr_schedule"))
    outcome = ("best_error", "test_error", "best_resource")
    for name, arguments in {"command": words[2:], "best": ("-cp", str(run_dir), "-cn", "best")}.items():
        result = fork(*arguments, f"hydra.run.dir={tmp_path / name}")
        assert result.returncode == 0, result.stderr
        again = json.loads((tmp_path / name / "summary.json").read_text())
        assert {key: again[key] for key in outcome} == {key: summary[key] for key in outcome}


def test_the_first_trial_is_the_config_itself_and_others_have_what_exists(run_dir: Path) -> None:
    configurations = [trial.configuration for trial in halving.load(run_dir).trials]
    first = {"model": "softmax", "optimizer": "sgd", "optimizer.momentum": 0.0, "lr_schedule": "constant"}
    assert configurations[0] == first | {"optimizer.lr": 0.0001}
    assert len({(each["model"], each["optimizer"]) for each in configurations}) > 2
    for each in configurations:
        assert ("optimizer.momentum" in each) == (each["optimizer"] == "sgd")
        assert ("model.width" in each) == ("model.depth" in each) == (each["model"] == "mlp")
    with (run_dir / "results.csv").open() as file:
        header = file.readline().strip().split(",")
    assert len(header) == len(set(header)) and "optimizer.weight_decay" in header


def test_resuming_takes_the_options_from_the_journal(fork: Callable, tmp_path: Path) -> None:
    group = tmp_path / "conf" / "optimizer"
    group.mkdir(parents=True)
    file = group / "mine.yaml"
    content = yaml.safe_load((CONF / "optimizer" / "adam.yaml").read_text()) | {"lr": 0.0123}
    file.write_text(yaml.safe_dump(content))
    run_dir = tmp_path / "study"
    result = fork(
        *("--config-dir", str(tmp_path / "conf"), "scheduler=fifo", "model=softmax", "space=none", *SMALL),
        *("+space.optimizer._choice_=[sgd,mine]", "budget.evaluations=1", f"hydra.run.dir={run_dir}"),
    )
    assert result.returncode == 0, result.stderr
    file.unlink()
    result = fork(f"resume={run_dir}", "budget.evaluations=2")
    assert result.returncode == 0, result.stderr
    trials_of = halving.load(run_dir).trials
    assert [trial.configuration["optimizer"] for trial in trials_of] == ["sgd", "mine"]
    assert {epoch.metrics["lr"] for _, epoch in trials_of[1].epochs} == {0.0123}


@pytest.mark.parametrize("mode", ["run", "sweep"])
def test_plan_auto_and_multirun_take_choices(mode: str, fork: Callable, tmp_path: Path) -> None:
    choice = "+space.optimizer._choice_=[sgd,adam]"
    words = ("scheduler=sha", "model=softmax", *SMALL, choice, "plan=auto", "budget.seconds=3")
    result = fork(*(["-m"] if mode == "sweep" else []), *words, f"hydra.{mode}.dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    (journal,) = tmp_path.rglob("journal.jsonl")
    assert {trial.configuration["optimizer"] for trial in halving.load(journal.parent).trials} == {"sgd", "adam"}
