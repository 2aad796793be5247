"""What a command asks for, once it is checked: the edge beyond which nothing sees OmegaConf."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from halving.config import trials
from halving.config.choices import Choices
from halving.space import Space
from halving.trial import Configuration

_NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Request:
    """A study's config, plain and resolved by root key, and how a trial's own follows from it. Picklable.

    It may name `trusted` packages beyond our own. `choices` hold what it becomes with other options of its groups, for
    processes that have no Hydra.
    """

    _cfg: DictConfig
    trusted: tuple[str, ...] = ()
    choices: Choices = trials.NO_CHOICES

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @cached_property
    def values(self) -> dict[str, Any]:
        return trials.plain(self._cfg)

    @property
    def space(self) -> Space:
        """The space that it searches. Raises UserError for one that cannot be."""
        return trials.space(self._cfg)

    def defaults(self, space: Space) -> Configuration:
        """Return the configuration that it holds itself. Raises UserError for a dimension that it does not have."""
        return trials.defaults(self._cfg, space, self.choices)

    def config(self, configuration: Configuration, trial: int, streams: Mapping[str, int] = _NONE) -> dict[str, Any]:
        """Return a trial's plain resolved config, with a confirmation's own `streams`."""
        return trials.plain(trials.overlay(self._cfg, configuration, self["trial"] + trial, self.choices, streams))

    def but(self, **values: Any) -> "Request":
        """Return the same with other values of dotted keys, and with what follows from these."""
        copy = deepcopy(self._cfg)  # a DictConfig is written to for a moment even where it is only read
        for key, value in values.items():
            OmegaConf.update(copy, key, value)
        return replace(self, _cfg=copy)

    def follows(self, key: str) -> bool:
        """Whether the value of a root key follows from others', or from the environment."""
        return OmegaConf.is_interpolation(self._cfg, key)
