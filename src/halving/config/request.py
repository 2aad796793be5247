"""What a command asks for: the edge beyond which nothing sees OmegaConf."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from halving.config import checks, choices, resumption, trials, winner
from halving.config.arguments import place
from halving.config.choices import Choices
from halving.config.invocation import Invocation
from halving.config.trust import check_cluster, trusted_packages
from halving.redaction import Secrets
from halving.space import Space
from halving.targets import check_trusted
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

    @classmethod
    def of(cls, cfg: DictConfig) -> "Request":
        """Take in a job's config as Hydra composed it. Raises UserError where it is not begun as every one is."""
        checks.check_base(cfg)
        placed = deepcopy(cfg)
        place(placed)
        return cls(placed)

    @classmethod
    def begun(cls, unresolved: Mapping[str, Any]) -> "Request":
        """Return what a study was begun with, as its header tells it."""
        return cls(resumption.as_recorded(unresolved))

    def __getitem__(self, key: str) -> Any:
        value = self._cfg[key]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

    @cached_property
    def values(self) -> dict[str, Any]:
        return trials.plain(self._cfg)

    @property
    def unresolved(self) -> dict[str, Any]:
        """The config as the journal keeps it, with what follows from other keys as it was written."""
        return cast(dict[str, Any], OmegaConf.to_container(self._cfg, resolve=False))

    @property
    def space(self) -> Space:
        """The space that it searches. Raises UserError for one that cannot be."""
        return trials.space(self._cfg)

    def resumed(self, now: "Request", overrides: Sequence[str]) -> "Request":
        """Return it with what the `overrides` that were typed `now` may change.

        Raises UserError, which shows the differences, where they would make it another study.
        """
        return Request(resumption.merged(self._cfg, now._cfg, overrides))

    def check_resolves(self) -> None:
        """Raise UserError for a value that is missing, or an interpolation that cannot be resolved."""
        checks.check_resolves(self._cfg)

    def checked(self) -> "Request":
        """Return it with what goes by, such as the moment, fixed, and with the packages that this process trusts.

        Raises UserError for the first rule that it breaks, and for what it names and nobody trusts.
        """
        checks.check(self._cfg)
        checked = Request(resumption.settle(deepcopy(self._cfg)), trusted_packages())
        check_trusted(checked.values, checked.trusted)
        check_cluster(checked["executor"])
        return checked

    def warnings(self, overrides: Sequence[str]) -> list[str]:
        """Return what is allowed but, by what was typed, probably not meant."""
        return checks.warnings(self._cfg, list(overrides))

    def settled(self, override: str) -> str:
        """Return an override with the value that was fixed, if what it says goes by."""
        return resumption.settled(override, self._cfg)

    def composed(self, space: Space, invocation: Invocation) -> Choices:
        """Return what it becomes with every combination of the space's options. Raises UserError as `choices` does."""
        return choices.composed(self._cfg, space, invocation.hydra)

    def defaults(self, space: Space) -> Configuration:
        """Return the configuration that it holds itself. Raises UserError for a dimension that it does not have."""
        return trials.defaults(self._cfg, space, self.choices)

    def of_trial(self, configuration: Configuration, trial: int, streams: Mapping[str, int] = _NONE) -> "Request":
        """Return a trial's own request, with a confirmation's own `streams`."""
        cfg = trials.overlay(self._cfg, configuration, self["trial"] + trial, self.choices, streams)
        return replace(self, _cfg=cfg)

    def config(self, configuration: Configuration, trial: int, streams: Mapping[str, int] = _NONE) -> dict[str, Any]:
        """Return a trial's plain resolved config, with a confirmation's own `streams`."""
        return self.of_trial(configuration, trial, streams).values

    def best_yaml(self, run_dir: Path, secrets: Secrets) -> str:
        """Return a config file that composes to it, a trial's own."""
        return winner.best_yaml(self._cfg, run_dir, self.trusted, secrets)

    def retrained_by(self, overrides: Sequence[str], invocation: Invocation) -> bool:
        """Whether the running job's config files make it, a trial's own, of a command's overrides."""
        return winner.retrains(overrides, self._cfg, invocation.hydra)

    def but(self, **values: Any) -> "Request":
        """Return the same with other values of dotted keys, and with what follows from these."""
        copy = deepcopy(self._cfg)  # a DictConfig is written to for a moment even where it is only read
        for key, value in values.items():
            OmegaConf.update(copy, key, value)
        return replace(self, _cfg=copy)

    def follows(self, key: str) -> bool:
        """Whether the value of a root key follows from others', or from the environment."""
        return OmegaConf.is_interpolation(self._cfg, key)
