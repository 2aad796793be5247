"""What an event's fields may hold, by their types: what a record is read as, and where a user's secrets may stand."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache, partial
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

_PRIVATE = "private"
_CHECKPOINT = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*(\.pt)?")


@dataclass(frozen=True, slots=True)
class Only:
    """What a field of a record on disk must be, and what is said of another value."""

    test: Callable[[Any], bool]
    otherwise: str

    def read(self, name: str, value: Any) -> Any:
        """Return the value. Raises ValueError if it is another."""
        if not self.test(value):
            raise ValueError(f"{name}={value!r}, which {self.otherwise}")
        return value


# Paths are built from these, and must not lead out of the run directory.
Count = Annotated[int, Only(lambda value: type(value) is int and value >= 0, "is no count")]
Checkpoint = Annotated[
    str, Only(lambda value: _CHECKPOINT.fullmatch(str(value)) is not None, "is no checkpoint of a study")
]
# What a user keeps secret may stand in these.
Words = Annotated[str, _PRIVATE]
Private = Annotated[Mapping[str, Any], _PRIVATE]


def read(kind: type[T], record: Mapping[str, Any]) -> T:
    """Return a frozen dataclass from JSON's types, without what it does not know.

    Raises ValueError for what a field must not hold.
    """
    known: dict[str, Any] = {}
    for name, reader in _readers(kind):
        if name in record:
            known[name] = record[name] if reader is None else reader(record[name])
    return kind(**known)


@cache
def private(kind: type[Any]) -> tuple[str, ...]:
    """Return the fields of an event that may hold what a user keeps secret."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(name for name, hint in hints.items() if _PRIVATE in getattr(hint, "__metadata__", ()))


@cache
def _readers(kind: type[Any]) -> tuple[tuple[str, Callable[[Any], Any] | None], ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple((name, _reader(name, hint)) for name, hint in hints.items())


def _reader(name: str, hint: Any) -> Callable[[Any], Any] | None:
    """Return what makes a field's value of JSON's, None where that is the value."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        only = next((each for each in parts[1:] if isinstance(each, Only)), None)
        return _reader(name, parts[0]) if only is None else partial(only.read, name)
    if origin in (Union, UnionType):
        reader = next(filter(None, (_reader(name, part) for part in parts)), None)
        return None if reader is None else lambda value: None if value is None else reader(value)
    if origin is tuple:
        each = _reader(name, parts[0])
        return tuple if each is None else lambda value: tuple(map(each, value))
    if is_dataclass(hint):
        return partial(read, cast(type[Any], hint))
    return None
