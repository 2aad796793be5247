"""What a sweep searches: the syntax of Hydra's overrides as dimensions of a space, and back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from hydra.errors import HydraException

from halving.config.commands import literal
from halving.errors import UserError, first_line
from halving.trial import Value

Leaf = Mapping[str, Any] | list[Value]


@dataclass(frozen=True)
class Parameter:
    """How an app is told a dimension's value: by an override of `key`, with the `words` of what is no plain value."""

    key: str
    words: Mapping[str, str] = field(default_factory=dict[str, str])

    def override(self, value: Value) -> str:
        """Return the override that sets it to a value."""
        return f"{self.key}={self.words.get(str(value)) or literal(value)}"


@dataclass(frozen=True)
class Typed:
    """What was typed: overrides that all trials have, and the leaves of a space with the parameters they belong to."""

    fixed: tuple[str, ...]
    leaves: Mapping[str, Leaf | Mapping[str, Any]]
    parameters: Mapping[str, Parameter]


def typed(overrides: Iterable[str], loader: ConfigLoader) -> Typed:
    """Read overrides, of which a later one takes the place of an earlier one.

    `interval`, `range`, `choice`, `glob` and lists such as `1,2` are searched; `tag(log, ...)` makes an interval
    logarithmic, `tag(int, ...)` and `int(...)` integer. All else is fixed. Raises UserError for what cannot be read.
    """
    parser = OverridesParser.create(config_loader=loader)
    fixed: dict[str, str] = {}
    leaves: dict[str, Any] = {}
    parameters: dict[str, Parameter] = {}
    for text in overrides:
        try:
            override = parser.parse_overrides([text])[0]
        except HydraException as error:
            raise UserError(f"{text}: cannot be read as an override of Hydra: {first_line(error)}") from error
        name = name_of(override.key_or_group)
        for earlier in (fixed, leaves, parameters):
            earlier.pop(name, None)
        if override.is_sweep_override():
            leaves[name], words = _searched(override, loader)
            parameters[name] = Parameter(override.get_key_element(), words)
        else:
            fixed[name] = text
    return Typed(tuple(fixed.values()), leaves, parameters)


def name_of(key: str) -> str:
    """Return what a dimension is called that sets a key or a config group."""
    return key.replace("/", ".")


def flat(params: Mapping[str, Any], path: str = "") -> Iterable[str]:
    """Yield `hydra.sweeper.params` as overrides; keys may have dots or be nested."""
    for key, value in params.items():
        name = f"{path}{key}"
        match value:
            case Mapping():
                yield from flat(cast(Mapping[str, Any], value), f"{name}.")
            case str():
                yield f"{name}={value}"
            case list():
                yield f"{name}=[{','.join(map(literal, cast(list[Value], value)))}]"
            case _:
                yield f"{name}={literal(value)}"


def _searched(override: Override, loader: ConfigLoader) -> tuple[Any, dict[str, str]]:
    swept: Any = override.value()
    match swept:
        case IntervalSweep(start=start, end=end) if start is not None and end is not None:
            return _interval(override, start, end), {}
        case RangeSweep(start=int(start), stop=int(stop), step=1) if start < stop:
            return {"_target_": "scipy.stats.randint", "low": start, "high": stop}, {}
        case RangeSweep():
            values = cast(list[Value], list(swept.range()))
        case ChoiceSweep():
            values = cast(list[Any], swept.list)
        case _:
            values = list(override.sweep_iterator())
    words = {word: word for word in map(_word, (each for each in values if isinstance(each, list | dict)))}
    plain = [_value(each) for each in values]
    if len(set(map(repr, plain))) < len(plain):
        raise UserError(f"{override.input_line}: names a value twice")
    if loader.get_group_options(override.key_or_group):
        return {"_choice_": [str(each) for each in plain]}, words
    return plain, words


def _interval(override: Override, start: float, end: float) -> dict[str, Any]:
    tags: set[str] = cast(Any, override.value()).tags
    whole = "int" in tags or (isinstance(start, int) and isinstance(end, int))
    if not start < end:
        raise UserError(f"{override.input_line}: an interval begins below its end")
    if "log" in tags and start <= 0:
        raise UserError(f"{override.input_line}: a logarithmic interval begins above 0")
    if not whole and "log" in tags:
        return {"_target_": "scipy.stats.loguniform", "a": start, "b": end}
    if not whole:
        return {"_target_": "scipy.stats.uniform", "loc": start, "scale": end - start}
    if "log" in tags:
        return {"_target_": "scipy.stats.loguniform", "_integer_": True, "a": int(start), "b": int(end) + 1}
    return {"_target_": "scipy.stats.randint", "low": int(start), "high": int(end) + 1}


def _value(element: Any) -> Any:
    """Return the value of a choice's element; a list or mapping, which no dimension holds, as the text it is."""
    match element:
        case QuotedString():
            return element.text
        case list() | dict():
            return _word(element)
        case _:
            return element


def _word(element: Any) -> str:
    return cast(str, Override._get_value_element_as_str(element))  # pyright: ignore[reportPrivateUsage]
