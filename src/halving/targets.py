"""A mapping with `_target_` becomes the object that it names."""

import inspect
import os
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from types import ModuleType
from typing import Any, cast

from halving.errors import UserError, did_you_mean

TRUSTED = ("halving", "torch", "torchvision", "scipy.stats")
VARIABLE = "HALVING_TRUSTED_PACKAGES"
COMMAND = "command"  # among trusted packages: what a configuration names as a command may be run
CLUSTER = "cluster"  # and here what it names as one may be joined

# Where these define what a configuration builds. The rest of them also loads code, unpickles or writes files.
_PARTS = (
    *(f"halving.{part}" for part in ("data", "executors", "schedulers", "searchers", "tracking", "training")),
    *(f"torch.{part}" for part in ("nn", "optim")),
    *(f"torchvision.{part}" for part in ("datasets", "models", "ops", "transforms")),
    "scipy.stats",
)
_REFUSED = ("torchvision.datasets.utils",)
# The compiled functions that torch.nn.functional shows.
_COMPILED = ("torch", "torch._C._nn")


def check_trusted(config: Any, packages: Iterable[str] = (), where: str = "") -> None:
    """Refuse a plain configuration that names what lies outside the trusted packages, before any of it is imported.

    Names are every `_target_`, and functions beside a `_target_` of this package. Trusted are the parts of halving,
    torch, torchvision and scipy.stats that build what a study needs, and all of `packages`. A name must also lead to
    what a trusted module defines: `halving.journal.os.system` does not. A command needs `COMMAND` among the packages.

    Raises UserError with the configuration path, and what to type to trust the name.
    """
    own = tuple(sorted(set(packages)))
    named = list(_names(config, where))
    if COMMAND not in own and (command := _command(config)):
        raise UserError(
            f"fidelity.command: a file, and nobody at this command line, says to run {command!r}; {_remedy(COMMAND)}"
        )
    for path, target in named:
        if problem := _objection_to_name(target, own):
            raise UserError(f"{path}: {problem}; {_remedy(target)}")
    for path, target in named:  # only now, since this imports what was named
        try:
            problem = _objection_to_object(target, own)
        except UserError:
            locate(target, path.removesuffix("._target_"))  # the same error with its path
            raise
        if problem:
            raise UserError(f"{path}: {problem}; {_remedy(target)}")


def trusted_in_environment() -> tuple[str, ...]:
    """Return the packages that HALVING_TRUSTED_PACKAGES names, separated by commas."""
    return tuple(name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip())


def instantiate(config: Any, /, where: str = "", **extra: Any) -> Any:
    """Build what a plain (resolved) configuration describes, depth first, as Hydra's `instantiate` does.

    A mapping with `_target_` is called with its other keys and `extra`; `_partial_: true` gives the callable with
    these bound; `_args_` are positional; with `_recursive_: false` the keys stay as they are. Other mappings and lists
    are rebuilt with their elements instantiated.
    Workers have no Hydra, therefore this exists. `where` is the configuration path that messages name.

    Raises UserError for a target that cannot be found or called with these keys, or refuses their values.
    """
    match config:
        case {"_target_": str(target), **rest}:
            function = locate(target, where)
            bind = bool(rest.pop("_partial_", False))
            build = instantiate if rest.pop("_recursive_", True) else lambda value, _: value
            arguments = [build(item, f"{where}[{i}]") for i, item in enumerate(rest.pop("_args_", ()))]
            keywords = {key: build(value, join(where, key)) for key, value in rest.items()} | extra
            check_call(function, arguments, keywords, bind, where or target)
            if bind:
                return partial(function, *arguments, **keywords)
            try:
                return function(*arguments, **keywords)
            except (TypeError, ValueError) as error:
                said = f"{where or target}: {function_name(function)}: {error}"
                raise UserError(lacking(function, keywords, where) or said) from error
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
    except Exception as error:  # a module may raise anything while it is imported
        lacking = isinstance(error, ModuleNotFoundError) and error.name == target.partition(".")[0]
        remedy = "; type this where the package lies, or put that directory in PYTHONPATH" if lacking else ""
        raise UserError(f"{where or '_target_'}: cannot import {target!r}: {error}{remedy}") from error
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


def lacking(function: Callable[..., Any], keywords: Mapping[str, Any], where: str) -> str:
    """Say which of the keys is null although `function` does not do without, or nothing."""
    for key, parameter in inspect.signature(function).parameters.items():
        if key in keywords and keywords[key] is None and parameter.default is not None:
            such = "" if parameter.default is parameter.empty else f", such as {parameter.default}"
            return f"{join(where, key)}=null: {function_name(function)} needs a value{such}"
    return ""


def function_name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))


def join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _names(node: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted names that building `node` would import, each with its configuration path."""
    match node:
        case Mapping():
            mapping = cast(Mapping[Any, Any], node)
            target = mapping.get("_target_")
            if isinstance(target, str):
                yield join(where, "_target_"), target
            if isinstance(target, str) and _within(target, ("halving",)):
                positional = mapping.get("_args_")
                first = list(cast(Iterable[Any], positional))[:1] if isinstance(positional, list | tuple) else []
                functions = [(key, mapping.get(key)) for key in ("function", "test_function")]
                for key, name in [*functions, *(("_args_[0]", name) for name in first)]:
                    if isinstance(name, str):
                        yield join(where, key), name
            for key, value in mapping.items():
                yield from _names(value, join(where, str(key)))
        case list() | tuple():
            for i, item in enumerate(cast(list[Any], node)):
                yield from _names(item, f"{where}[{i}]")
        case _:
            pass


def _command(config: Any) -> object:
    """Return the command that a config would run, if it has one."""
    match config:
        case {"fidelity": {"_target_": str(), "command": command}}:
            return command
        case _:
            return None


@cache
def _objection_to_name(target: str, own: tuple[str, ...]) -> str:
    """Say what speaks against importing `target`, or nothing."""
    parts = target.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return f"{target!r} is no dotted name of something in a package"
    if any(part.startswith("__") for part in parts):
        return f"{target} reaches into what Python keeps for itself"
    if _within(target, own):
        return ""
    if not _within(target, TRUSTED):
        return f"{target} lies outside the trusted packages ({', '.join((*TRUSTED, *own))})"
    shown_by_halving = parts[0] == "halving" and len(parts) == 2
    private = any(part.startswith("_") for part in parts)
    if private or _within(target, _REFUSED) or not (shown_by_halving or _within(target, _PARTS)):
        return f"{target} is not trusted, since it builds no part of a study ({', '.join(_PARTS)} do)"
    return ""


@cache
def _objection_to_object(target: str, own: tuple[str, ...]) -> str:
    """Say what speaks against calling what `target` leads to, or nothing; imports it."""
    found: Any = locate(target)
    if target in own:
        return ""
    trusted = (*_PARTS, *own)
    parts = target.split(".")
    for name in (".".join(parts[:i]) for i in range(1, len(parts))):
        step = pkgutil.resolve_name(name)
        if isinstance(step, ModuleType) and step.__name__ != name and not _within(step.__name__, trusted):
            return f"{target} goes through the module {step.__name__}, which is not trusted"
    while isinstance(found, partial):
        found = cast("partial[Any]", found).func
    home = str(getattr(found, "__module__", None))
    compiled = home in _COMPILED and _within(target, ("torch.nn",))
    if compiled or _within(home, own) or (_within(home, _PARTS) and not _within(home, _REFUSED)):
        return ""
    return f"{target} is defined in {home}, which is not trusted"


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _remedy(target: str) -> str:
    package = target if _within(target, TRUSTED) else target.partition(".")[0]
    if not package.replace(".", "").isidentifier():
        return "give package.module.name"
    return (
        f"if you trust it, type trusted_packages=[{package}] on the command line, "
        f"or set {VARIABLE}={package} in the environment"
    )
