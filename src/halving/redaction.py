"""What no file, log or service may show: values whose key says that they are secret."""

import json
import os
import re
from base64 import b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast
from urllib.parse import quote, quote_plus

from halving.fields import private
from halving.history import Event

REDACTED = "<redacted>"

_PASSWORD = re.compile(
    r"\b(\w*(passphrase|passwd|password|secret)s?|\w*pwd|sshpass"
    r"|(admin|database|db|ftp|key|ldap|mail|mysql|pg|postgres|redis|root|smtp|user) ?pass)\b"
)
# What a tokenizer calls its own is none, nor is what is said of tokens, such as their number.
_TOKEN = (
    r"(?<!\b(?:bos|cls|eos|pad|sep|unk) )(?<!\b(?:mask|stop) )"
    r"\b(access|api|auth|bearer|csrf|id|oauth|refresh|session|xsrf)?tokens?\b"
    r"(?! (count|dim|drop|embed|len|level|merg|mix|pool|prun|shift|size|type))"
)
_CERTAIN = re.compile(
    rf"{_PASSWORD.pattern}|{_TOKEN}|\b(authorization"
    r"|(((secret|shared) ?)?access|account|api|auth|encryption|master|private|secret|signing|ssh) ?keys?"
    r"|(basic|http|proxy) auth|bearer|connection ?string|cookies?|cred(ential)?s?|dsn|jwt"
    r"|(amqp|broker|database|db|mongo|mongodb|mysql|postgres|redis|webhook) ?(uri|url))\b"
)
_SECRET = re.compile(rf"{_CERTAIN.pattern}|\bkey\b")
_BOUNDARY = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_OVERRIDE = re.compile(r"([~+]*[\w.@/:-]+)=(.*)", re.DOTALL)
_NESTED = re.compile(
    r"""(?<![\w.-])([\w.-]+)(\s*:\s*)('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|\$\{[^}]*\}|[^,{}\[\]'"]+)"""
)
_NUMBER = re.compile(r"[+-]?(\d[\d_]*)?\.?\d*(e[+-]?\d+)?|null|true|false", re.IGNORECASE)
_REFERENCE = re.compile(r"\$\{[^,}]*\}")  # with a comma it may hold the secret as its default
_LEAST = 8  # shorter ones, such as 1 or yes, also occur for other reasons
_CALL = 200  # characters of a line before an argument, among which its call begins
_DIRECTORIES = ("PWD", "OLDPWD")  # as a shell's environment calls them

_QUOTED = r"""[bru]?(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")"""
# What assigns, each with what the value is that follows.
_ASSIGNED = (
    re.compile(rf"""(?P<name>(?P<q>['"])[\w. -]+(?P=q)|(?<![\w.@/-])[\w.@/-]+)(?P<is>\s*[:=]\s*(?={_QUOTED})|=)"""),
    re.compile(rf"""{_QUOTED}|\$\{{[^}}]{{,200}}\}}|[^\s,;&'"]+"""),
)
_FLAG = re.compile(r"(?<!\S)(?P<name>--[\w-]+)(?P<is> +(?!-))"), re.compile(rf"{_QUOTED}|\S+")
_URL = re.compile(
    r"""(?P<before>(?<![a-z0-9+.-])[a-z][a-z0-9+.-]*://(?:\$\{[^}]{,200}\}|[^\s/?#:@'"])*:)(?!\d+[/?#])"""
    r"""(?P<password>[^\s/'"]+)@""",
    re.IGNORECASE,
)
_SCHEME = r"(?:basic|bearer|digest|token)\s"
_CODED = r"(?=\S{6})(?!(?-i:[A-Za-z]?[a-z]{,11})\W?(?:\s|$))"  # is no word such as those of "bearer certificates are"
_HEADER = re.compile(
    rf"""(?P<name>(?<![\w-])(?:(?:proxy-)?authorization|x(?:-\w+){{,4}}-(?:key|token))['"]?\s*[:=]\s*['"]?"""
    rf"""(?:{_SCHEME}+|(?!{_SCHEME}){_CODED})|\bbearer\s+{_CODED})[^\s'",;<>]+""",
    re.IGNORECASE,
)
_BASIC = re.compile(r"(\bbasic\s+)([A-Za-z0-9+/]{6,}={0,2})", re.IGNORECASE)
# What issuers begin their tokens with, signed tokens (JWT), and private keys.
_TELLING = re.compile(
    r"""(?<![A-Za-z0-9])(?:
    gh[a-z]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w-]{16,} | hf_[A-Za-z0-9]{20,} | npm_[A-Za-z0-9]{30,}
    | pypi-[\w-]{40,} | sk-(?=[\w-]*(?:[0-9A-Z]|[a-z]{20}))[\w-]{16,} | [rs]k_(?:live|test)_\w{10,} | xapp-[\w-]{10,}
    | xox[a-z]-[\w-]{8,} | (?:AKIA|ASIA)[A-Z0-9]{16} | AIza[\w-]{30,} | ya29\.[\w-]{20,} | wandb_v\d+_\w{20,}
    | SG\.[\w-]{16,}\.[\w-]{16,} | dop_v1_\w{20,} | nvapi-[\w-]{20,} | gsk_\w{20,} | r8_\w{20,}
    | eyJ[\w-]{6,}\.[\w-]{6,}(?:\.[\w-]*)?)
    | (?<=hooks\.slack\.com/services/)[\w/]+ | (?<=[?&]sig=)[^\s&'"]+ | (?<=-Signature=)[^\s&'"]+
    | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY.*?(?:-----END\ [A-Z\ ]*PRIVATE\ KEY[A-Z\ ]*-----|\Z)
    """,
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class Secrets:
    """Takes secrets out of plain containers and texts, and puts "<redacted>" in their place.

    Secret by name is a string below a key with a word such as key, token, secret or password (of passwords a number
    too), and what a text assigns to one; by shape the password of a URL, what follows Bearer or Basic, a signed token,
    a private key, and what begins as issuers' tokens do; and `values` are, wherever they occur. `max_tokens: 5` and
    `monkey` are none, and a reference such as `${oc.env:X}` stays.
    """

    values: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Any, overrides: Sequence[str] = ()) -> "Secrets":
        """Know what a plain resolved config, overrides and the environment hold below secret keys, and in URLs.

        What a mere key is called, as in `sort_key: val_error`, is left out: it may be a common word. So is what is
        shorter than 8 characters.
        """
        found = [*_held(config, False), *(value for text in overrides for value in _held_by_override(text))]
        environment = {name: value for name, value in os.environ.items() if name not in _DIRECTORIES}
        found += [each for name, value in environment.items() for each in _held(value, is_secret(name))]
        whole = {value for value in found if not _REFERENCE.fullmatch(value)}
        kept = {form for value in whole for form in _forms(value) if len(form) >= _LEAST}
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
        told = {name: value for name in private(type(event)) if (value := getattr(event, name))}
        return replace(event, **{name: self.redact(value) for name, value in told.items()}) if told else event

    def _text(self, text: str) -> str:
        """Return a text without the known values, however they overlap, and without what is assigned or has a shape."""
        done = [found.span() for found in re.finditer(REDACTED, text)]  # of which a value may be a part
        spans = sorted(
            (start, stop)
            for value in filter(None, self.values)
            for start, stop in ((found.start(), found.start() + len(value)) for found in _overlapping(value, text))
            if not any(first <= start and stop <= last for first, last in done)
        )
        parts, end = list[str](), 0
        for start, stop in spans:
            if start >= end:
                parts += [text[end:start], REDACTED]
            end = max(end, stop)
        text = _TELLING.sub(REDACTED, "".join([*parts, text[end:]]))
        text = _HEADER.sub(rf"\g<name>{REDACTED}", _BASIC.sub(_without_basic, text))
        return _without_assigned(*_ASSIGNED, _without_assigned(*_FLAG, _URL.sub(_without_password, text)))


def is_secret(key: str) -> bool:
    """Say whether a key's last part names a secret: `db.Password`, `WANDB_API_KEY`, `authToken`; not `monkey`."""
    return _names(_SECRET, key)


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


def _without_assigned(assigning: re.Pattern[str], values: re.Pattern[str], text: str) -> str:
    """Take out what a text assigns to names that are certain to be a secret's; what code passes on is no value."""
    parts, end, at = list[str](), 0, 0
    while found := assigning.search(text, at):
        at, name = found.end(), found["name"].strip("'\"")
        if name in _DIRECTORIES or not _names(_CERTAIN, name) or (value := values.match(text, at)) is None:
            continue
        if _is_secret_text(name, value[0]) and not _is_passed_on(text, found, name, value[0]):
            parts += [text[end:at], REDACTED]
            at = end = value.end()
    return "".join([*parts, text[end:]])


def _is_passed_on(text: str, found: re.Match[str], name: str, value: str) -> bool:
    """Say whether code passes a variable on in a call, as by `login(token=self.token)`; of passwords nobody knows."""
    line = text[max(0, found.start() - _CALL) : found.start()].rpartition("\n")[2]
    literal = found["is"] != "=" or value[-1] in "'\""
    return not literal and line.count("(") > line.count(")") and not _names(_PASSWORD, name)


def _without_password(found: re.Match[str]) -> str:
    password = found["password"]
    return found[0] if _REFERENCE.fullmatch(password) else f"{found['before']}{REDACTED}@"


def _without_basic(found: re.Match[str]) -> str:
    """Take out what HTTP's Basic goes before: a name and a password, which a colon parts."""
    try:
        return f"{found[1]}{REDACTED}" if b":" in b64decode(found[2]) else found[0]
    except ValueError:
        return found[0]


def _overlapping(value: str, text: str) -> Iterator[re.Match[str]]:
    return re.finditer(f"(?={re.escape(value)})", text)


def _forms(value: str) -> Iterator[str]:
    """Yield a secret as it may stand in a text: as it is, quoted by Python, JSON, a URL or a form, and line by line."""
    yield from (value, repr(value)[1:-1], repr(value.encode())[2:-1], json.dumps(value)[1:-1])
    yield from (quote(value, safe=""), quote(value), quote_plus(value), *value.splitlines())


def _held(node: Any, secret: bool) -> Iterator[str]:
    match node:
        case Mapping():
            for name, item in cast(Mapping[Any, Any], node).items():
                yield from _held(item, secret or _names(_CERTAIN, str(name)))
        case list() | tuple():
            for item in cast(Iterable[Any], node):
                yield from _held(item, secret)
        case str():
            yield from (node,) if secret else ()
            yield from (found["password"] for found in _URL.finditer(node))
        case _:
            pass


def _held_by_override(text: str) -> Iterator[str]:
    yield from _held(text, False)
    if found := _OVERRIDE.fullmatch(text):
        for key, value in (found.groups(), *((m[1], m[3]) for m in _NESTED.finditer(found[2]))):
            if _is_secret_text(key, value) and _names(_CERTAIN, key):
                yield value.strip().strip("'\"")
