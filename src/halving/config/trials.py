"""A trial's configuration laid over the study's."""

import inspect
from collections.abc import Iterator, Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halving.config.choices import Choices
from halving.config.commands import escaped
from halving.config.schema import Config
from halving.config.suggestions import nearest
from halving.config.trust import trusted_packages
from halving.errors import UserError, first_line
from halving.history import Header
from halving.space import Space
from halving.targets import check_trusted, join, locate
from halving.trial import Configuration, Value

NO_CHOICES = Choices()


def overlay(
    cfg: DictConfig,
    configuration: Mapping[str, Value],
    trial: int,
    choices: Choices = NO_CHOICES,
    streams: Mapping[str, int] = MappingProxyType({}),
) -> DictConfig:
    """Return a copy of the study's unresolved config with a trial's options, values and random stream set.

    A configuration may name its random streams itself; `streams` are a confirmation's own, by the root keys that draw
    them.
    """
    copy = deepcopy(cfg)
    for root, content in choices.of(configuration).items():
        OmegaConf.update(copy, root, content, merge=False, force_add=True)
    for path, value in configuration.items():
        if path not in choices.default:
            OmegaConf.update(copy, path, escaped(value) if isinstance(value, str) else value)
    if "trial" not in configuration:
        copy.trial = trial
    for name, seed in streams.items():
        OmegaConf.update(copy, name, seed, force_add=True)
    return copy


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolve a config into plain containers."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def config_of(header: Header, configuration: Configuration, trial: int) -> dict[str, Any]:
    """Return a trial's plain resolved config as a study's header tells it, without Hydra.

    Where data lay and what computed is as it was then. Raises UserError if the header has no config, or an
    interpolation cannot be resolved here.
    """
    told = header.provenance
    if told.unresolved is None:
        raise UserError("the study has no recorded config: it tuned a function")
    cfg = OmegaConf.create(dict(told.unresolved))
    for key in ("data_dir", "device"):
        OmegaConf.update(cfg, key, told.config[key])
    try:
        return plain(overlay(cfg, configuration, cfg.trial + trial, Choices(**told.choices)))
    except OmegaConfBaseException as error:
        raise UserError(f"the recorded config cannot be resolved here: {first_line(error)}") from error


def space(cfg: DictConfig) -> Space:
    """Read the config's space, whose conditions may name any value of the config. Raises UserError, as Space does."""
    config = plain(cfg)
    return Space.from_config(config["space"], dict(_values(config, "")))


def defaults(cfg: DictConfig, space: Space, choices: Choices = NO_CHOICES) -> Configuration:
    """Return the configuration that the config itself holds, be it in the space or not: what `python train.py` trains.

    Raises UserError for a dimension that the config of any combination of options does not have, or whose values it
    cannot take, and for a combination that names a package that is not trusted.
    """
    for chosen in space.combinations():
        _check(cfg, space, choices, chosen)
    here = {dimension.name: OmegaConf.select(cfg, dimension.name) for dimension in space.dimensions}
    values = {**{name: value for name, value in here.items() if _exists(cfg, name)}, **choices.default}
    return {each.name: values[each.name] for each in space.existing(values) if each.name in values}


def _check(cfg: DictConfig, space: Space, choices: Choices, chosen: Mapping[str, str]) -> None:
    """Check every dimension that a combination of options may have."""
    options = overlay(cfg, chosen, cfg.trial, choices)
    if chosen:
        check_trusted(plain(options), trusted_packages())
    suffix = "".join(f" with {name}={option}" for name, option in chosen.items())
    for dimension in space.possible(chosen):
        if dimension.name in choices.default:
            continue
        _check_dimension(options, dimension.name, dimension.kind, suffix)
        for name in (name for condition in dimension.conditions for name in condition.names):
            if name in space.constants and OmegaConf.select(options, name) != space.constants[name]:
                raise UserError(
                    f"space.{dimension.name}: _when_ names {name}, which is {OmegaConf.select(options, name)}{suffix} "
                    f"and {space.constants[name]} in the config itself; add it to the space, as a list of one value"
                )


def _values(node: Any, path: str) -> Iterator[tuple[str, Value]]:
    """Yield the scalars of a plain config by their dotted names."""
    if isinstance(node, Mapping):
        for key, value in cast(Mapping[Any, Any], node).items():
            yield from _values(value, join(path, str(key)))
    elif isinstance(node, Value):
        yield path, node


def _check_dimension(cfg: DictConfig, path: str, kind: str, suffix: str) -> None:
    """Check that a dimension can be set: `suffix` tells the options of the config."""
    if not _exists(cfg, path):
        raise UserError(f"space.{path}: the configuration has no {path}{suffix}{nearest(path, cfg)}")
    value = OmegaConf.select(cfg, path)
    if OmegaConf.is_config(value):
        raise UserError(
            f"space.{path}: {path} is a mapping or a list{suffix}, not a value that a distribution could set; "
            f"options of a group are chosen by {path}: {{_choice_: [a, b]}}"
        )
    if kind == "continuous" and _wants_integer(cfg, path):
        raise UserError(
            f"space.{path}: a real distribution, but {path} is an integer; use scipy.stats.randint, or a list"
        )
    if kind in ("continuous", "integer") and isinstance(value, str | bool):
        raise UserError(
            f"space.{path}: a distribution of numbers for {path}={value}, which is none; give {path} one, or use a list"
        )


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
