"""How a study came about: the one place where a header's settings are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from halving.trial import Configuration


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a header tells beside what every study has; how much of it depends on the door that the study came by.

    Of a command there are its config, `unresolved` and as it came out, what it becomes with other options of its
    groups (`choices`), the `overrides` that were typed and the options that find its config files (`source`), the job
    of a queue that it is (`queued`), and the `environment`. Of a function there are its `space` in words and the
    `options` of scheduler and searcher. `initial` is what the searcher proposes first: configurations, or a function's
    one. `domains` are the values of the dimensions; `trained` names data and model, `noted` is when `notes` came.
    """

    unresolved: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    choices: Mapping[str, Any] = field(default_factory=dict[str, Any])
    overrides: Sequence[str] = ()
    source: Sequence[str] = ()
    queued: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict[str, Any])
    space: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    initial: Sequence[Configuration] | Configuration | None = None
    domains: Mapping[str, Any] = field(default_factory=dict[str, Any])
    run_dir: str = ""
    trained: Sequence[str] = ()
    tags: Sequence[str] = ()
    notes: str = ""
    noted: str = ""
    workers: int | None = None
    batch: int = 1

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Read a header's settings, as far as they tell."""
        return cls(**{name: settings[name] for name in _NAMES if settings.get(name) is not None})

    @property
    def by_command(self) -> bool:
        """Whether it is a study of the command line, which has a config."""
        return self.unresolved is not None


_NAMES = tuple(each.name for each in fields(Provenance))
