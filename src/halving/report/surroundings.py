"""The environment that a study ran in, and what of it is different where its page is written."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from halving.environment import environment
from halving.errors import noted
from halving.tracking.wording import count


@dataclass(frozen=True)
class Fact:
    """One fact as the journal has it, and as it is now; None where it is not known."""

    name: str
    then: str | None
    now: str | None

    @property
    def differs(self) -> bool:
        return self.then is not None and self.now is not None and self.then != self.now


def surroundings(recorded: Mapping[str, Any], problems: list[str]) -> list[Fact]:
    """Return every recorded fact beside what holds now; where that cannot be told, `problems` says why."""
    then, now = dict(_flat(recorded)), dict[str, str | None]()
    with noted("what differs now could not be told", problems):
        found = environment(str(recorded.get("device")), 0)
        now = dict(_flat({key: found[key] for key in found if key not in ("device", "threads")}))
    facts = [Fact(name, then.get(name), now.get(name)) for name in then]
    return [fact for fact in facts if fact.then is not None or fact.now is not None]


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        elif key == "diff":
            text = str(value or "")
            known = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]
            yield "changes since the commit", f"{count(len(text.splitlines()), 'lines')}, {known}" if text else "none"
        else:
            yield str(key), None if value is None else str(value)
