"""When a dimension exists: an option was chosen, or an expression over other dimensions holds."""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, TypeGuard, cast

from halving.trial import Value

Values = Mapping[str, Value]
Operand = Callable[[Values], Any]

_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EQUALITY: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda value, values: value in values,
    ast.NotIn: lambda value, values: value not in values,
}
# As YAML writes them, too.
_WORDS: dict[str, Value] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True)
class Chosen:
    """The choice `name` has taken `option`."""

    name: str
    option: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def holds(self, values: Values) -> bool:
        return values.get(self.name) == self.option

    def __str__(self) -> str:
        return f"{self.name}={self.option}"


@dataclass(frozen=True)
class When:
    """An expression such as `model.depth > 1 and optimizer != "adam"` holds.

    It knows comparisons (also `in` a list), `and`, `or`, `not`, numbers, strings and dotted names. A comparison with a
    name that has no value is false, and so is an order between what are not numbers.

    Raises ValueError, which says why, for any other expression.
    """

    text: str

    def __post_init__(self) -> None:
        _expression(self.text)

    @property
    def names(self) -> tuple[str, ...]:
        """The dotted names, each once."""
        return tuple(dict.fromkeys(_expression(self.text).names))

    @property
    def ordered(self) -> tuple[str, ...]:
        """Those names that are compared by size."""
        return tuple(dict.fromkeys(_expression(self.text).ordered))

    def holds(self, values: Values) -> bool:
        return _expression(self.text).holds(values)

    def __str__(self) -> str:
        return self.text


Condition = Chosen | When


class _Expression:
    """An expression as nested functions of the values."""

    def __init__(self, text: str) -> None:
        self.names: list[str] = []
        self.ordered: list[str] = []
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except SyntaxError as error:
            raise ValueError(f"cannot be read: {error.msg}") from error
        self.holds = self._test(tree.body)

    def _test(self, node: ast.expr) -> Callable[[Values], bool]:
        match node:
            case ast.BoolOp(op=op, values=nodes):
                tests, combined = [self._test(each) for each in nodes], all if isinstance(op, ast.And) else any
                return lambda values: combined(test(values) for test in tests)
            case ast.UnaryOp(op=ast.Not(), operand=inner):
                negated = self._test(inner)
                return lambda values: not negated(values)
            case ast.Compare(left=left, ops=ops, comparators=others):
                pairs = pairwise((left, *others))
                links = [self._comparison(op, a, b) for op, (a, b) in zip(ops, pairs, strict=True)]
                return lambda values: all(link(values) for link in links)
            case ast.Name() | ast.Attribute():
                operand = self._operand(node)
                return lambda values: bool(_or_none(operand, values))
            case _:
                raise ValueError(f"{ast.unparse(node)!r} is no condition; compare, such as model.depth > 1")

    def _comparison(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Callable[[Values], bool]:
        first, second = self._operand(left), self._operand(right)
        if (compare := _ORDER.get(type(op))) is not None:
            for node in (left, right):
                if (name := _dotted(node)) is not None:
                    self.ordered.append(name)
                elif not is_number(self._operand(node)({})):
                    raise ValueError(f"{ast.unparse(node)} is no number; only numbers have an order")
            return lambda values: _both(
                first, second, values, lambda a, b: is_number(a) and is_number(b) and compare(a, b)
            )
        compare = _EQUALITY.get(type(op))
        if compare is None:
            raise ValueError("`is` is not understood; compare by == and !=")
        if isinstance(op, ast.In | ast.NotIn) and not isinstance(right, ast.List | ast.Tuple):
            raise ValueError(f"what follows `in` is a list, such as [1, 2], not {ast.unparse(right)}")
        return lambda values: _both(first, second, values, compare)

    def _operand(self, node: ast.expr) -> Operand:
        if (name := _dotted(node)) is not None:
            self.names.append(name)
            return operator.itemgetter(name)
        match node:
            case ast.Name(id=word):
                constant: Any = _WORDS[word]
            case ast.Constant(value=constant) if isinstance(constant, Value):
                pass
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                constant = -number
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                parts = [self._operand(element) for element in elements]
                return lambda values: [part(values) for part in parts]
            case _:
                raise ValueError(f"{ast.unparse(node)!r} is neither a number, a string nor the name of a dimension")
        return lambda values: constant


@cache
def _expression(text: str) -> _Expression:
    return _Expression(text)


def _dotted(node: ast.expr) -> str | None:
    """Return the dotted name that a node is, if it is one."""
    match node:
        case ast.Name(id=word):
            return None if word in _WORDS else word
        case ast.Attribute(value=inner, attr=last):
            first = _dotted(inner)
            return None if first is None else f"{first}.{last}"
        case _:
            return None


def _both(first: Operand, second: Operand, values: Values, compare: Callable[[Any, Any], bool]) -> bool:
    try:
        return compare(first(values), second(values))
    except KeyError:
        return False


def _or_none(operand: Operand, values: Values) -> Value:
    try:
        return cast(Value, operand(values))
    except KeyError:
        return None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number, which True is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
