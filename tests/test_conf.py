"""Every option of every group composes and instantiates, and the command at the head of its file uses it."""

import os
import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import nn

from halving.app import composition
from halving.config import arguments, checks, trials
from halving.config.choices import Choices
from halving.config.polite import register
from halving.config.request import Request
from halving.config.schema import GROUPS, ROOT_KEYS
from halving.curves import Curves, save
from halving.data.base import Data
from halving.history import History
from halving.space import Space
from halving.targets import instantiate
from halving.training.recipe import Recipe

CONF = Path(__file__).resolve().parents[1] / "conf"
OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))
FILES = sorted(str(path.relative_to(CONF)) for path in CONF.rglob("*.yaml"))
FOLDERS = {"fashion_mnist": "FashionMNIST/raw", "mnist": "MNIST/raw", "cifar10": "cifar-10-batches-py"}
FILE_NAMES = {"airfoil": "airfoil_self_noise.dat"}


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    register(CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> dict[str, Any]:
    cfg = compose("config", list(overrides))
    checks.check(cfg)
    cfg.device = "cpu"
    return trials.plain(cfg)


def skip_without_files(option: str) -> None:
    needed = FOLDERS.get(option) or FILE_NAMES.get(option)
    data_dir = Path(os.environ.get("HALVING_DATA", CONF.parent / "data"))
    if needed and not (data_dir / needed).exists():
        pytest.skip(f"{needed} is not below {data_dir} (HALVING_DATA)")


def test_the_groups_are_the_ones_of_the_schema() -> None:
    assert {group for group, _ in OPTIONS} == {*GROUPS, "experiment"}
    assert set(compose("config")) == set(ROOT_KEYS)


def needed(group: str, option: str, tmp_path: Path) -> list[str]:
    """What an option cannot do without."""
    if (group, option) in (("fidelity", "function"), ("fidelity", "training")):
        return ["fidelity.function=math.hypot"]
    if (group, option) == ("fidelity", "command"):
        return ["fidelity.command=true"]
    if option == "ssh":
        return ["executor.hosts=[nowhere.invalid]"]
    if option in ("simulated", "compare_on_curves", "table"):
        save(Curves(np.full((4, 27), 0.5), np.arange(1, 28)), tmp_path / "curves.npz")
        return ["experiment=simulated", f"executor.curves={tmp_path / 'curves.npz'}"]
    return []


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_composes_and_instantiates(group: str, option: str, tmp_path: Path) -> None:
    extra = needed(group, option, tmp_path)
    config = composed(f"{group}={option}", *extra)
    space = Space.from_config(config["space"])
    match group:
        case "data":
            skip_without_files(option)
            data = instantiate(config["data"], "data")
            assert isinstance(data, Data)
            assert min(len(data.train), len(data.validation), len(data.test)) > 0
        case "model":
            model = instantiate(config["model"], "model")
            assert isinstance(model, nn.Module)
            assert model.eval()(torch.zeros(2, *config["data"]["shape"])).shape == (2, config["data"]["outputs"])
        case "optimizer":
            parameter = nn.Parameter(torch.ones(3))
            assert instantiate(config["optimizer"], "optimizer")([parameter]).param_groups[0]["lr"] > 0
        case "lr_schedule":
            schedule = instantiate(config["lr_schedule"], "lr_schedule")
            rates = [schedule(epoch / 10) for epoch in range(10 * config["epochs"] + 1)]
            assert min(rates) >= 0 and max(rates) == pytest.approx(1, abs=1e-3)
            assert rates[-1] == schedule(config["epochs"] + 9.0), "beyond the end the last value holds"
        case "averaging":
            averaging = instantiate(config["averaging"], "averaging")
            assert averaging == {} if option == "none" else averaging.takes(config["epochs"] * 1.0)
        case "space":
            assert len(set(space.names)) == len(space.names)
        case "searcher" | "scheduler":
            if option in ("tpe", "gp", "cmaes"):
                pytest.importorskip("optuna")
                pytest.importorskip("cmaes")
            searcher = instantiate(config["searcher"], "searcher", space=space, initial=None)
            scheduler = instantiate(config["scheduler"], "scheduler", searcher=searcher)
            assert scheduler.suggest().trial == 0
        case "fidelity":
            assert instantiate(config["fidelity"], "fidelity").cost(0, 3) == 3
        case "executor":
            if option == "ray" and find_spec("ray") is None:
                pytest.skip("Ray is not installed: pip install 'halving[ray]'")
            if option == "ssh" and which("ssh") is None:
                pytest.skip("there is no ssh: install openssh-client")
            if option == "slurm":
                pytest.skip("test_slurm.py has one that runs")
            own = [] if option == "serial" else ["executor.batch=8"]
            cfg = compose("config", [f"executor={option}", "model=softmax", "device=cpu", *extra, *own])
            parts = composition.compose(Request(cfg), tmp_path, History(), lambda space: Choices())
            executor = parts.executor
            assert type(executor).__name__.lower() == option
            assert executor.idle() and executor.has_room() and getattr(executor, "batch", 8) == (8 if own else 1)
            executor.shutdown()
            why = "has no effect: what is looked up" if option == "simulated" else "most will have one of their own"
            assert sum("executor.batch=8" in note and why in note for note in parts.notes) == len(own)
        case "tracker":
            options = [item for item in config["tracker"].values() if isinstance(item, dict)]
            assert [instantiate(item, "tracker") for item in options] or option == "none"
        case "experiment":
            skip_without_files(config["data"]["_target_"].rpartition(".")[2])
            recipe = Recipe.from_config(config)
            assert recipe.model()(torch.zeros(1, *config["data"]["shape"])).shape == (1, config["data"]["outputs"])
            assert trials.defaults(OmegaConf.create(config), space).keys() == set(space.names)


@pytest.mark.parametrize("file", FILES)
def test_the_command_at_its_head_uses_it(file: str, tmp_path: Path) -> None:
    """What stands in angle brackets there is a table, a program, or a config directory of one's own."""
    lines = [line for line in (CONF / file).read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# python train.py")
    group, option = Path(file).parent.as_posix(), Path(file).stem
    own = tmp_path / "experiment" / "mine.yaml"
    own.parent.mkdir()
    own.write_text(
        f"# @package _global_\ndefaults: [override /fidelity: {option}]\nfidelity: {{function: mine.train}}\n"
    )
    typed = lines[0].partition(", which")[0].replace("<your conf>", str(tmp_path)).replace("<yours>", "mine")
    words = arguments.read(shlex.split(re.sub("[<>]", "", typed))[3:])
    overrides = [*(word for word in words if "=" in word), f"hydra.searchpath=[{tmp_path.as_uri()}]"]
    cfg = compose("config", overrides, return_hydra_config=True)
    if "/" in file:
        chosen = cfg.hydra.runtime.choices[group]
        assert option in (chosen if OmegaConf.is_list(chosen) else str(chosen))
