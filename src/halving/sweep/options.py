"""Our own options by name, as `conf/` holds them, for an app whose config has none of these groups."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from halving.config.suggestions import nearest_option
from halving.errors import UserError
from halving.schedulers import Scheduler
from halving.searchers import Searcher
from halving.targets import check_call, instantiate, locate
from halving.tracking.base import Tracker

_CONF = Path(__file__).parents[1] / "conf"
_OURS_ALONE = ("single", "one_at_a_time")  # which set what only our own config has


def scheduler(name: str, root: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[type[Scheduler], dict[str, Any]]:
    """Return a scheduler's class, and what it is called with beside its searcher.

    Raises UserError for no such one, and for options it does not have.
    """
    found = _option("scheduler", name, root, options)
    target = cast(type[Scheduler], locate(found.pop("_target_")))
    check_call(target, [], found, True, "hydra.sweeper.scheduler_options")
    return target, found


def searcher(name: str, root: Mapping[str, Any], options: Mapping[str, Any]) -> partial[Searcher]:
    """Return what makes a searcher of a space. Raises UserError for no such one, and for options it does not have."""
    found = _option("searcher", name, root, options)
    target = locate(found.pop("_target_"))
    for given in ("seed", "initial"):
        found.pop(given, None)
    check_call(target, [], found, True, "hydra.sweeper.searcher_options")
    return partial(target, **found)


def trackers(names: Sequence[str], root: Mapping[str, Any], options: Mapping[str, Any]) -> list[Tracker]:
    """Return the trackers with these names. Raises UserError for no such one."""
    found = [_option("tracker", name, root, options) for name in names]
    targets = [(key, value) for option in found for key, value in option.items() if isinstance(value, dict)]
    return [instantiate(value, f"hydra.sweeper.tracker.{key}") for key, value in targets]


def _option(group: str, name: str, root: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    names = [path.stem for path in (_CONF / group).glob("*.yaml") if path.stem not in _OURS_ALONE]
    if name not in names:
        raise UserError(f"hydra.sweeper.{group}={name}: there is no such {group}{nearest_option(name, names)}")
    cfg = OmegaConf.create({**root, group: OmegaConf.merge(_read(group, name), dict(options))})
    return cast(dict[str, Any], OmegaConf.to_container(cfg[group], resolve=True))


def _read(group: str, name: str) -> DictConfig:
    """Return an option's file, laid over those that it names as its defaults."""
    found = cast(DictConfig, OmegaConf.load(_CONF / group / f"{name}.yaml"))
    parents = [_read(group, parent) for parent in found.pop("defaults", [])]
    return cast(DictConfig, OmegaConf.merge(*parents, found))
