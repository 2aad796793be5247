"""What no file, log or service may show: values whose key says that they are secret."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from halving.history import Chosen, Confirmed, Ended, Event, Header, Resumed
from halving.terminal import printable
from halving.trial import Finished, Restarted

REDACTED = "<redacted>"

_PASSWORD = re.compile(r"\b(passphrase|passwd|passwords?|secrets?)\b")
_CERTAIN = re.compile(rf"{_PASSWORD.pattern}|\b(api ?keys?|access keys?|(auth|private) key|credentials?|tokens?)\b")
_SECRET = re.compile(rf"{_CERTAIN.pattern}|\bkey\b")
_BOUNDARY = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_OVERRIDE = re.compile(r"([~+]*[\w.@/:-]+)=(.*)", re.DOTALL)
_NESTED = re.compile(
    r"""(?<![\w.-])([\w.-]+)(\s*:\s*)('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\$\{[^}]*\}|[^,{}\[\]'"]+)"""
)
_NUMBER = re.compile(r"[+-]?(\d[\d_]*)?\.?\d*(e[+-]?\d+)?|null|true|false", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{[^,}]*\}")  # with a comma it may hold the secret as its default
_BREAK = re.compile("[\x85\u2028\u2029]")
_LEAST = 8  # shorter ones, such as 1 or yes, also occur for other reasons


@dataclass(frozen=True)
class Secrets:
    """Takes secrets out of plain containers and texts, and puts "<redacted>" in their place.

    Secret is a string below a key with a word such as key, token, secret or password (of passwords a number too), and
    `values`, wherever they occur. `max_tokens: 5` and `monkey` are none, and a reference such as `${oc.env:X}` stays.
    """

    values: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Any, overrides: Sequence[str] = ()) -> "Secrets":
        """Know what a plain resolved config, overrides and the environment hold below secret keys.

        What a mere key is called, as in `sort_key: val_error`, is left out: it may be a common word.
        """
        found = [*_held(config, False), *(value for text in overrides for value in _held_by_override(text))]
        found += [value for name, value in os.environ.items() if is_secret(name)]
        kept = {value for value in found if len(value) >= _LEAST and not _REFERENCE.fullmatch(value)}
        return cls(tuple(sorted(kept, key=len, reverse=True)))

    def redact(self, value: Any, below: str = "") -> Any:
        """Return a copy of plain containers without secrets; `below` is the nearest secret key that `value` is under.

        A string under none only loses the known values.
        """
        match value:
            case Mapping():
                mapping = cast(Mapping[Any, Any], value)
                return {
                    name: self.redact(item, str(name) if is_secret(str(name)) else below)
                    for name, item in mapping.items()
                }
            case list() | tuple():
                return [self.redact(item, below) for item in cast(list[Any], value)]
            case str() if below and not _REFERENCE.fullmatch(value):
                return REDACTED if value else value
            case str():
                return self.redact_override(value)
            case int() | float() if not isinstance(value, bool) and _names(_PASSWORD, below):
                return REDACTED
            case _:
                return value

    def redact_override(self, text: str) -> str:
        """Return an override without its secret: `+tracker.api_key=<redacted>`, `+db={password: <redacted>}`."""
        found = _OVERRIDE.fullmatch(text)
        if found is None:
            return self._text(text)
        key, value = found.groups()
        if _is_secret_text(key, value):
            return f"{key}={REDACTED}"
        nested = _NESTED.sub(lambda m: f"{m[1]}{m[2]}{REDACTED}" if _is_secret_text(m[1], m[3]) else m[0], value)
        return self._text(f"{key}={nested}")

    def redact_event(self, event: Event) -> Event:
        """Return an event as it may be written down."""
        match event:
            case Header() | Resumed():
                return replace(event, settings=self.redact(event.settings))
            case Ended():
                command, config, failure = map(self.redact, (event.command, event.config, event.failure))
                return replace(event, command=command, config=config, failure=failure)
            case Chosen():
                return replace(event, failure=self.redact(event.failure))
            case Finished() | Confirmed() if event.cause:
                return replace(event, cause=self.redact(event.cause))
            case Restarted():
                return replace(event, reason=self.redact(event.reason))
            case _:
                return event

    def redact_files(self, folder: Path) -> None:
        """Rewrite the YAML files of a folder, such as Hydra's own, that hold secrets."""
        for path in folder.glob("*.yaml"):
            content = OmegaConf.to_container(OmegaConf.load(path))
            if (clean := self.redact(content)) != content:
                path.write_text(yaml_text(clean), encoding="utf-8")

    def _text(self, text: str) -> str:
        for value in self.values:
            text = text.replace(value, REDACTED)
        return text


class RedactingFilter(logging.Filter):
    """Takes known secrets and control characters out of what is logged, tracebacks too; for a handler."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._secrets.redact(printable(record.getMessage())), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._secrets.redact(printable(record.exc_text))
        return True


def is_secret(key: str) -> bool:
    """Say whether a key's last part names a secret: `db.Password`, `WANDB_API_KEY`, `authToken`; not `monkey`."""
    return _names(_SECRET, key)


def yaml_text(content: Any) -> str:
    """Return plain containers as YAML that OmegaConf reads as they are; what the standard calls a number is quoted."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(get_omega_conf_dumper()):
    """OmegaConf's own, which also keeps the line breaks of Unicode: only double quotes escape them."""

    def represent_scalar(self, tag: str, value: str, style: str | None = None) -> yaml.ScalarNode:
        return super().represent_scalar(tag, value, '"' if _BREAK.search(value) else style)


def redacted_paths(config: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """Yield the dotted keys of a recorded config whose values were taken out."""
    for name, value in config.items():
        path = f"{where}.{name}" if where else name
        if isinstance(value, Mapping):
            yield from redacted_paths(cast(Mapping[str, Any], value), path)
        elif REDACTED in str(value):
            yield path


def _names(kind: re.Pattern[str], key: str) -> bool:
    """Say whether a key's last part, in lower-case words with spaces between them, has what `kind` looks for."""
    return kind.search(_BOUNDARY.sub(" ", key.rpartition(".")[2]).lower()) is not None


def _is_secret_text(key: str, value: str) -> bool:
    """Say whether an override's value is secret; a number is one only below a password."""
    bare = value.strip().strip("'\"")
    if not is_secret(key) or not bare or _REFERENCE.fullmatch(bare):
        return False
    return _names(_PASSWORD, key) or _NUMBER.fullmatch(bare) is None


def _held(node: Any, secret: bool) -> Iterator[str]:
    match node:
        case Mapping():
            for name, item in cast(Mapping[Any, Any], node).items():
                yield from _held(item, secret or _names(_CERTAIN, str(name)))
        case list() | tuple():
            for item in cast(Iterable[Any], node):
                yield from _held(item, secret)
        case str() if secret:
            yield node
        case _:
            pass


def _held_by_override(text: str) -> Iterator[str]:
    if found := _OVERRIDE.fullmatch(text):
        for key, value in (found.groups(), *((m[1], m[3]) for m in _NESTED.finditer(found[2]))):
            if _is_secret_text(key, value) and _names(_CERTAIN, key):
                yield value.strip().strip("'\"")
