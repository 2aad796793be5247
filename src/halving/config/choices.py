"""Choices of config groups in a space: what Hydra composes for each combination of options."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from hydra import compose
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from halving.config.commands import key_of, override, overrides, search_path
from halving.config.resumption import settle
from halving.config.schema import GROUPS, ROOT_KEYS
from halving.config.suggestions import nearest_option
from halving.errors import UserError, first_line
from halving.space import Choice, Space
from halving.trial import Value

_OF_A_TRIAL = ("data", "model", "optimizer", "lr_schedule", "averaging")
_OF_THE_STUDY = {"experiment", *GROUPS} - {*_OF_A_TRIAL}


@dataclass(frozen=True)
class Choices:
    """What a study's config becomes with other options of its groups.

    `default` names the config's own option of each group that is chosen from; `parts` holds, for each combination of
    options, the root keys that it changes, unresolved. `notes` say what is allowed but probably not meant. All is
    plain, for the journal and for processes without Hydra.
    """

    default: Mapping[str, str] = field(default_factory=dict[str, str])
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    notes: Sequence[str] = ()

    def of(self, configuration: Mapping[str, Value]) -> Mapping[str, Any]:
        """Return the root keys that a configuration's options change.

        Raises UserError for a combination that was not composed.
        """
        chosen = {name: str(configuration[name]) for name in self.default if name in configuration}
        if not chosen:
            return {}
        if _label(chosen) not in self.parts:
            raise UserError(f"{_label(chosen)}: the study's space has no such combination of options")
        return self.parts[_label(chosen)]


def composed(cfg: DictConfig, space: Space, hydra: DictConfig) -> Choices:
    """Compose every combination of options, as the running job's command line would with them typed at its end.

    What is typed for a dimension of the config's own options goes to these alone. There is a note for each value that
    an experiment sets for the config's own option, and that holds for others too.

    Raises UserError for a group or option that there is not, an override that an option lacks, keys that an option gets
    although its file lacks them, and for what changes more than a trial.
    """
    groups = dict.fromkeys(each.name for each in space.dimensions if isinstance(each, Choice) and each.options)
    if not groups:
        return Choices()
    own = {str(group).replace("/", "."): option for group, option in hydra.runtime.choices.items()}
    for name in groups:
        _check_group(name, own)
    command = _Command(hydra)
    default = {name: str(own[name]) for name in groups}
    base = _plain(cfg)
    parts: dict[str, Mapping[str, Any]] = {}
    notes: list[str] = []
    for chosen in space.combinations():
        lacking = {each.name for each in space.possible(default)} - {each.name for each in space.possible(chosen)}
        found = command.composed(chosen, without=lacking)
        parts[_label(chosen)] = {root: found[root] for root in found if found[root] != base.get(root)}
        for root in parts[_label(chosen)]:
            if root in ROOT_KEYS and root not in _OF_A_TRIAL:
                raise UserError(f"space: {_label(chosen)} also sets {root}, which is the study's and not a trial's")
        known = {dimension.name for dimension in space.existing(chosen)}
        for name, option in chosen.items():
            notes += command.leaks(found, name, option, default[name], known)
    parts.setdefault(_label({name: default[name] for name in default if _exists(name, default, space)}), {})
    return Choices(default, parts, list(dict.fromkeys(notes)))


class _Command:
    """The running job's command line, to be composed with other options."""

    def __init__(self, hydra: DictConfig) -> None:
        self._config = str(hydra.job.config_name)
        self._task = overrides(hydra)
        self._path = search_path(hydra)
        self._typed = set(map(key_of, self._task))
        self._bare = cache(self._bare_option)

    def composed(self, chosen: Mapping[str, str], without: Container[str]) -> dict[str, Any]:
        """Return the plain unresolved config of a combination, `without` what was typed for these keys."""
        options = [override(name.replace(".", "/"), option) for name, option in chosen.items()]
        task = [item for item in self._task if key_of(item) not in without]
        try:
            return _plain(settle(compose(self._config, [*self._path, *task, *options])))
        except MissingConfigException as error:
            group, _, option = str(error.missing_cfg_file).rpartition("/")
            name = group.replace("/", ".")
            raise UserError(
                f"space.{name}: {group}={option}: no such option{nearest_option(option, error.options or ())}"
            ) from error
        except ConfigCompositionException as error:
            key = getattr(error.__cause__, "full_key", None)
            what = f"the config has no {key}, which the command line overrides" if key else first_line(error)
            raise UserError(
                f"space: with {_label(chosen)} {what}; write it below the option in the space that has it, as in "
                "sgd: {momentum: [0.9]}"
            ) from error

    def leaks(self, found: Mapping[str, Any], name: str, option: str, default: str, searched: set[str]) -> list[str]:
        """Compare what an option came to with its own file.

        Returns a note for each other value that nobody typed or searches. Raises UserError for keys that the file
        lacks.
        """
        bare = self._bare(name, option)
        here: Any = OmegaConf.select(OmegaConf.create(dict(found)), name)
        if option == default or bare is None or not isinstance(here, DictConfig):
            return []
        notes: list[str] = []
        for key, value in _plain(here).items():
            path = f"{name}.{key}"
            if any(each == path or each.startswith(f"{path}.") for each in (*self._typed, *searched)):
                continue
            if key not in bare:
                raise UserError(
                    f"space.{name}: {path} is set, for {name}={default}, and {option} has no such key; "
                    f"write it below its option in the space, as in {default}: {{{key}: [{value}]}}"
                )
            if bare[key] != value:
                notes.append(f"{path}={value} is set for {name}={default}, and holds for {option} too, not {bare[key]}")
        return notes

    def _bare_option(self, name: str, option: str) -> dict[str, Any] | None:
        """Return what an option's own file holds, or None where it is not placed below its group's name."""
        cfg = compose(f"{name.replace('.', '/')}/{option}", self._path)
        node: Any = OmegaConf.select(cfg, name)
        return _plain(node) if isinstance(node, DictConfig) else None


def _check_group(name: str, own: Mapping[str, Any]) -> None:
    if name.partition(".")[0] in _OF_THE_STUDY:
        raise UserError(f"space.{name}: _choice_: {name} is the study's and not a trial's; compare by -m {name}=a,b")
    if not isinstance(own.get(name), str):
        groups = [group for group in own if group.partition(".")[0] in _OF_A_TRIAL]
        raise UserError(
            f"space.{name}: _choice_: this config chooses no option of a group {name}{nearest_option(name, groups)}; "
            "for other values give a list"
        )


def _exists(name: str, default: Mapping[str, str], space: Space) -> bool:
    return any(dimension.name == name for dimension in space.existing(default))


def _label(chosen: Mapping[str, str]) -> str:
    return " ".join(f"{name}={option}" for name, option in chosen.items())


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
