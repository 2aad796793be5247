"""The journal: a study's events as checksummed JSON lines, appended by one writer, the only truth."""

import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

from halving.checkpoints.files import durable
from halving.checkpoints.links import create, refuse
from halving.errors import StorageError, UserError
from halving.fields import read as read_fields
from halving.history import Event, History
from halving.journal.lock import lock
from halving.provenance import Provenance
from halving.trial import plain

VERSION = 1
FILE = "journal.jsonl"

_EVENTS: dict[str, type[Event]] = {event.__name__.lower(): event for event in get_args(Event)}
_TYPES = {event: name for name, event in _EVENTS.items()}
# What would let a recorded command do what nobody typed: options, and Hydra's own settings, which name code to call.
_COMMANDING = re.compile(r"\s*-|[\s~+]*hydra\b|[^=]*@[^=]*\bhydra\b")
_SOURCE = re.compile(r"-cp|-cn|--config-dir|hydra\.searchpath=.*|hydra\.mode=RUN", re.DOTALL)


class Journal:
    """Appends events to `<run_dir>/journal.jsonl`.

    A line is strict JSON `{"v", "seq", "at", "type", <the event's fields>, "crc"}` with the CRC-32 of all before it;
    a non-finite number is null and named in "nonfinite". Opening takes an exclusive lock, verifies every record, and
    sets a torn tail aside. `append` only gathers; `flush` writes what was gathered by one write, `sync` makes it
    durable.

    Raises UserError if another process writes it, it is damaged before its tail, or the run directory holds what leads
    out of it.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / FILE
        refuse(run_dir)
        self._unlock = lock(run_dir)
        with ExitStack() as opened:  # whatever ends it before it is one, Ctrl-C at a slow disk too
            opened.callback(self._unlock)
            raw = self.path.read_bytes() if self.path.exists() else b""
            self.events, end = decode(raw, self.path)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
            opened.callback(os.close, self._fd)
            if end < len(raw):
                with os.fdopen(create(self.path.with_name(f"journal.torn-{end}")), "wb") as torn:
                    torn.write(raw[end:])
                os.ftruncate(self._fd, end)
            os.fsync(self._fd)
            durable(run_dir)
            self._seq = len(self.events)
            self._gathered = bytearray()
            self.durable = True
            opened.pop_all()

    def append(self, event: Event, at: float) -> None:
        """Gather an event that happened `at` seconds after the study began."""
        self._gathered += encode(event, self._seq, at)
        self._seq += 1

    def flush(self) -> None:
        """Write what was gathered. What does not fit on the disk is taken back, so the journal stays a prefix."""
        if not self._gathered:
            return
        size = os.fstat(self._fd).st_size
        self.durable = False
        try:
            if (written := os.write(self._fd, self._gathered)) < len(self._gathered):
                raise OSError(f"only {written} of {len(self._gathered)} bytes were written")
        except OSError as error:
            os.ftruncate(self._fd, size)
            raise StorageError(
                f"cannot write {self.path}: {error}; make room, then resume: what it holds so far is whole"
            ) from error
        self._gathered.clear()

    def sync(self) -> None:
        """Make everything appended so far durable. Raises StorageError if the disk refuses."""
        self.flush()
        if not self.durable:
            try:
                os.fsync(self._fd)
            except OSError as error:
                raise StorageError(f"cannot make {self.path} durable: {error}; make room, then resume") from error
            self.durable = True

    def abandon(self) -> None:
        """Write nothing more: after an interruption that may have come in the middle of an append."""
        self._gathered.clear()

    def close(self) -> None:
        try:
            self.sync()
        finally:
            os.close(self._fd)
            self._unlock()


def read(run_dir: Path) -> list[tuple[Event, float]]:
    """Return the events of a run directory with their times, leaving out a torn tail; takes no lock.

    Raises UserError without a journal, with damage before its tail, or with links in the run directory.
    """
    path = run_dir / FILE
    refuse(run_dir, written=False)
    if not path.is_file():
        raise UserError(f"{run_dir}: no {FILE} there; give the directory that a run printed as its own")
    return decode(path.read_bytes(), path)[0]


def replay(events: Iterable[tuple[Event, float]]) -> History:
    """Fold events into the state of their study. Raises UserError where one is of a trial that was never begun."""
    history = History()
    for number, (event, at) in enumerate(events):
        try:
            history.apply(event, at)
        except KeyError as error:
            raise UserError(
                f"the journal's record {number}, {_TYPES[type(event)]}, is of number {error}, which none before it "
                "begins: it is no journal of a study; restore it from a copy"
            ) from error
    return history


def encode(event: Event, seq: int, at: float) -> bytes:
    """Return the line of one event."""
    head: dict[str, Any] = {"v": VERSION, "seq": seq, "at": at, "type": _TYPES[type(event)]}
    try:
        line = _JSON.encode(head | _fields(event)).encode()
    except (TypeError, ValueError):  # seldom, so that only then every value is looked at
        nonfinite: dict[str, str] = {}
        body = head | cast(dict[str, Any], _plain(event, "", nonfinite))
        line = _JSON.encode(body | {"nonfinite": nonfinite} if nonfinite else body).encode()
    return line[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(line[:-1])


def decode(raw: bytes, path: Path) -> tuple[list[tuple[Event, float]], int]:
    """Return the events of a journal's bytes and where the valid part ends.

    Only the last line may be invalid: a record was torn there. Raises UserError with the offset of other damage.
    """
    events: list[tuple[Event, float]] = []
    offset = 0
    while offset < len(raw):
        end = raw.find(b"\n", offset) + 1
        body = _verified(raw[offset : end - 1]) if end else None
        if body is None or body["seq"] != len(events):
            if _any_valid(raw[offset + 1 :]):
                raise UserError(
                    f"{path} is damaged at byte {offset} (record {len(events)}), and whole records follow: "
                    "restore it from a copy; it is not read past the damage"
                )
            break
        events.append((_event(body), float(body["at"])))
        offset = end
    return events, offset


def _verified(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line, or None if it is no whole record."""
    body, separator, crc = line.rpartition(b',"crc":"')
    if not separator or crc != b'%08x"}' % zlib.crc32(body):
        return None
    try:
        record = cast(dict[str, Any], json.loads(body + b"}"))
    except ValueError:  # of nothing the CRC is right, too
        return None
    if record["v"] > VERSION:
        raise UserError(f"the journal has version {record['v']}; this halving reads up to {VERSION}: update it")
    return record


def _any_valid(rest: bytes) -> bool:
    # The newline between two records may be what is damaged, so that a whole one need not begin its line.
    starts = (found.start() for found in re.finditer(rb'\{"v":', rest))
    return any(_verified(rest[start:].partition(b"\n")[0]) is not None for start in starts)


def _plain(value: Any, path: str, nonfinite: dict[str, str]) -> Any:
    """Return JSON for a value; non-finite numbers become null and are named in `nonfinite` by their path."""
    match value := plain(value):
        case float():
            if math.isfinite(value):
                return value
            nonfinite[path] = str(value)
            return None
        case str() | int() | None:
            return value
        case Mapping():
            items = cast(Mapping[str, Any], value)
            return {key: _plain(item, f"{path}/{_escaped(key)}", nonfinite) for key, item in items.items()}
        case list() | tuple():
            elements = cast(list[Any], value)
            return [_plain(item, f"{path}/{i}", nonfinite) for i, item in enumerate(elements)]
        case _ if is_dataclass(value):
            return {name: _plain(item, f"{path}/{name}", nonfinite) for name, item in _fields(value).items()}
        case _:
            raise TypeError(f"{path}: {type(value).__name__} does not go into the journal")


def _fields(value: object) -> dict[str, Any]:
    """Return the fields of a dataclass. Raises TypeError for anything else."""
    return {name: getattr(value, name) for name in _names(type(value))}


@cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _json(value: Any) -> Any:
    """Return in JSON's types what json itself cannot write. Raises TypeError where it is nothing of that kind."""
    if (scalar := plain(value)) is not value:
        return scalar
    return dict(cast(Mapping[str, Any], value)) if isinstance(value, Mapping) else _fields(value)


_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_json)


def _escaped(key: str) -> str:
    """Return a key as part of a JSON pointer (RFC 6901): a metric may be called val/error."""
    return str(key).replace("~", "~0").replace("/", "~1")


def _event(body: dict[str, Any]) -> Event:
    for path, number in cast(dict[str, str], body.get("nonfinite", {})).items():
        *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:])
        node: Any = body
        for parent in parents:
            node = node[int(parent) if isinstance(node, list) else parent]
        node[int(last) if isinstance(node, list) else last] = float(number)
    if body["type"] not in _EVENTS:
        raise UserError(f"the journal has records of type {body['type']!r}, which a newer halving wrote: update it")
    _refuse_strange(body)
    try:
        return read_fields(_EVENTS[body["type"]], body)
    except ValueError as error:
        raise UserError(f"the journal's record {body['seq']} has {error}") from error


def _refuse_strange(body: dict[str, Any]) -> None:
    """Refuse a record, whole as it is, whose settings no study records."""
    settings: object = body.get("settings") or {}
    told = Provenance.of(cast(Mapping[str, Any], settings)) if isinstance(settings, Mapping) else None
    if told is None or not all(isinstance(words, list | tuple) for words in (told.source, told.overrides)):
        raise UserError(f"the journal's record {body['seq']} has settings that no study records")
    words = [word for word in told.source if not _SOURCE.fullmatch(str(word))]
    for word in map(str, (*words, *told.overrides)):
        if _COMMANDING.match(word):
            raise UserError(f"the journal's record {body['seq']} has the override {word!r}, which no study records")
