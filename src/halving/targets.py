"""A mapping with `_target_` becomes the object that it names."""

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from halving.errors import UserError, did_you_mean


def instantiate(config: Any, /, where: str = "", **extra: Any) -> Any:
    """Build what a plain (resolved) configuration describes, depth first, as Hydra's `instantiate` does.

    A mapping with `_target_` is called with its other keys and `extra`; `_partial_: true` gives the callable with
    these bound; `_args_` are positional. Other mappings and lists are rebuilt with their elements instantiated.
    Workers have no Hydra, therefore this exists. `where` is the configuration path that messages name.

    Raises UserError for a target that cannot be found or called with these keys, or refuses their values.
    """
    match config:
        case {"_target_": str(target), **rest}:
            function = locate(target, where)
            bind = bool(rest.pop("_partial_", False))
            arguments = [instantiate(item, f"{where}[{i}]") for i, item in enumerate(rest.pop("_args_", ()))]
            keywords = {key: instantiate(value, join(where, key)) for key, value in rest.items()} | extra
            check_call(function, arguments, keywords, bind, where or target)
            if bind:
                return partial(function, *arguments, **keywords)
            try:
                return function(*arguments, **keywords)
            except (TypeError, ValueError) as error:
                raise UserError(f"{where or target}: {function_name(function)}: {error}") from error
        case Mapping():
            return {key: instantiate(value, join(where, str(key))) for key, value in config.items()}
        case list() | tuple():
            return [instantiate(item, f"{where}[{i}]") for i, item in enumerate(config)]
        case _:
            return config


def locate(target: str, where: str = "") -> Callable[..., Any]:
    """Import the callable with the dotted name `target`."""
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{where or '_target_'}: cannot import {target!r}: {error}") from error
    if not callable(found):
        raise UserError(f"{where or '_target_'}: {target!r} is not callable")
    return found


def check_call(
    function: Callable[..., Any], arguments: list[Any], keywords: Mapping[str, Any], bind: bool, where: str
) -> None:
    """Refuse keys that `function` does not take, and without `bind` also the lack of one that it needs."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    names = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in keywords:
        if key not in names and not open_ended:
            raise UserError(f"{join(where, key)}: {function_name(function)} takes no {key!r}{did_you_mean(key, names)}")
    try:
        (signature.bind_partial if bind else signature.bind)(*arguments, **keywords)
    except TypeError as error:
        raise UserError(f"{where}: {function_name(function)}: {error}") from error


def function_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
