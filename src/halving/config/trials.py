"""A trial's configuration laid over the study's."""

import inspect
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halving.config.schema import Config
from halving.config.suggestions import nearest
from halving.errors import UserError
from halving.space import Space
from halving.targets import locate
from halving.trial import Configuration, Value


def overlay(cfg: DictConfig, configuration: Mapping[str, Value], trial: int) -> DictConfig:
    """Return a copy of the study's unresolved config with a trial's values and random stream set."""
    copy = deepcopy(cfg)
    for path, value in configuration.items():
        OmegaConf.update(copy, path, value)
    copy.trial = trial
    return copy


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolve a config into plain containers."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def defaults(cfg: DictConfig, space: Space) -> Configuration:
    """Return the configuration that the config itself holds: what a bare `python train.py` trains.

    Raises UserError for a dimension that the config does not have, or whose values it cannot take.
    """
    return {dimension.name: _default(cfg, dimension.name, dimension.kind) for dimension in space.dimensions}


def _default(cfg: DictConfig, path: str, kind: str) -> Value:
    if not _exists(cfg, path):
        raise UserError(f"space.{path}: the configuration has no {path}{nearest(path, cfg)}")
    value = OmegaConf.select(cfg, path)
    if OmegaConf.is_config(value):
        raise UserError(f"space.{path}: {path} is a mapping or a list, not a value that a distribution could set")
    if kind == "continuous" and _wants_integer(cfg, path):
        raise UserError(
            f"space.{path}: a real distribution, but {path} is an integer; use scipy.stats.randint, or a list"
        )
    if kind in ("continuous", "integer") and isinstance(value, str | bool):
        raise UserError(f"space.{path}: a distribution of numbers for {path}={value}, which is none; use a list")
    return cast(Value, value)


def _wants_integer(cfg: DictConfig, path: str) -> bool:
    """Whether the target that gets the value annotates it as an integer; the value may be 1 for a real 1.0."""
    parent, _, key = path.rpartition(".")
    target = OmegaConf.select(cfg, f"{parent}._target_") if parent else None
    if target is None:
        return key in Config.__annotations__ and Config.__annotations__[key] is int
    parameter = inspect.signature(locate(target, f"{parent}._target_")).parameters.get(key)
    return parameter is not None and parameter.annotation in (int, "int")


def _exists(cfg: DictConfig, path: str) -> bool:
    parent, _, key = path.rpartition(".")
    try:
        node = OmegaConf.select(cfg, parent) if parent else cfg
    except OmegaConfBaseException:
        return False
    return isinstance(node, DictConfig) and key in node
