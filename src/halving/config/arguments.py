"""What was typed, as Hydra shall read it: paths from where it was typed, and dimensions that replace others."""

import re
import sys
from collections.abc import Iterable, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from halving.config.schema import GROUPS
from halving.environment import expanded
from halving.errors import UserError

_DIRECTORIES = ("-cp", "--config-path", "-cd", "--config-dir")
_VALUED = ("-cn", "--config-name", "-c", "--cfg", "-p", "--package", "--experimental-rerun")
_PATHS = re.compile(
    r"\+{0,2}(?:(?:data\.)?data_dir|resume|executor\.curves|searcher\.initial|hydra\.(?:(?:run|sweep)\.dir|searchpath))="
)
_HOME = re.compile(r"""(?<![^=\[,'"\s])((?:file://)?)(~[^/,'"\]]*)""")
_QUOTES = re.compile("['\"]")
_LETTERS = re.compile(r"(?:^|(?<=[\[,]))[^\[\]{}(),]*[^\x00-\x7f][^\[\]{}(),]*(?=[\],]|$)")  # Hydra wants them quoted
_GROUP = re.compile(rf"\+?(?:{'|'.join((*GROUPS, 'experiment'))})=")
_COMMAND = re.compile(r"(\+{0,2}fidelity\.command=)(.+)", re.DOTALL)
_NOTES = re.compile(r"(notes=)(.+)", re.DOTALL)
_DIMENSION = re.compile(r"(?:\+\+)?(space\.[^=]+)=.*[\[{]")
_NO_TEXT = re.compile(r"(?<=[=,\[])[^\[\]{},'\"]+(?=[\],]|$)")


_typed_in: Path | None = None


def remember() -> None:
    """Note where the command was typed, as Hydra may change the directory later. Raises UserError if it is gone."""
    global _typed_in
    try:
        _typed_in = Path.cwd()
    except FileNotFoundError as error:
        raise UserError("the directory in which this was typed has been deleted; change to another") from error


def placed(path: str) -> Path:
    """Return a path with `~` expanded, and if it is relative, from where the command was typed."""
    return (_typed_in or Path.cwd()) / expanded(path)


def place(cfg: DictConfig) -> None:
    """Make the paths in a config absolute; what is an interpolation stays one."""
    for key in ("data_dir", "data.data_dir", "executor.curves", "searcher.initial", "resume"):
        parent, _, name = key.rpartition(".")
        node = cfg[parent] if parent else cfg
        if name in node and not OmegaConf.is_missing(node, name) and not OmegaConf.is_interpolation(node, name):
            match node[name]:
                case "":
                    raise UserError(f"{key}=: names no place; leave it out, or give . for the directory you are in")
                case str(path):
                    node[name] = str(placed(path))
                case ListConfig() as paths:
                    node[name] = [str(placed(path)) if isinstance(path, str) else path for path in paths]
                case _:
                    pass


def read(words: Iterable[str]) -> list[str]:
    """Return a command line's options, then its overrides, with `~` expanded and config directories made absolute.

    A group that is null or an empty list has the option none, and so has ~space. A dimension that is a list or a
    distribution takes the place of the one in the space, as a mapping of them does of all, where Hydra would merge.

    Raises UserError for what is no text.
    """
    options: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if re.search(r"[\ud800-\udfff]", word):
            raise UserError(f"cannot read {word!r}: it is not written in {sys.getfilesystemencoding()}")
        if option in _DIRECTORIES:
            options += (option, *map(_directory, [value] if equals else islice(rest, 1)))
        elif word.startswith("-"):
            options += (word, *(islice(rest, 1) if word in _VALUED else ()))
        else:
            overrides += _override(word)
    return options + overrides


def as_typed(overrides: Iterable[str]) -> list[str]:
    """Return overrides without what `read` puts before a dimension that replaces another."""
    return [item for item, following in pairwise([*overrides, ""]) if _override(following)[0] != item]


def directories(words: Sequence[str]) -> list[str]:
    """Return the config directories that a command line adds, the first to look in first."""
    found = [f"file://{word}" for option, word in pairwise(words) if option in _DIRECTORIES[2:]]
    for word in words:
        if word.startswith("hydra.searchpath=") and isinstance(paths := _value(word), list):
            found += map(str, paths)
    return found


def config_paths(words: Sequence[str]) -> list[str]:
    """Return the directories that a command line names by Hydra's own options."""
    return [word for option, word in pairwise(words) if option in _DIRECTORIES]


def _override(word: str) -> list[str]:
    if (command := _COMMAND.fullmatch(word)) and _value(word) is None:  # braces and quotes are the command's own
        return [command[1] + QuotedString(command[2], Quote.single).with_quotes()]
    if (note := _NOTES.fullmatch(word)) and note[2] != "null" and not isinstance(_value(word), str | QuotedString):
        return [note[1] + QuotedString(note[2], Quote.single).with_quotes()]  # one text, whatever is in it
    if _PATHS.match(word):
        word = _HOME.sub(lambda found: f"{found[1]}{expanded(found[2])}", word)
    if not word.isascii() and not _QUOTES.search(word):
        key, equals, value = word.partition("=")
        return [key + equals + _LETTERS.sub(lambda found: QuotedString(found[0], Quote.single).with_quotes(), value)]
    if re.fullmatch(r"~space(=.*)?", word):
        return ["space=none"]
    if re.match(r"\+{0,2}space=.*{", word) and _replaces(word):
        return ["~space", f"+{word.lstrip('+')}"]
    if _GROUP.match(word):
        word = re.sub(r"(?<=[=,])(null|\[\])(?=,|$)", "none", word)
        return [word if _names(_value(word)) else _NO_TEXT.sub(lambda found: f"'{found[0]}'", word)]
    if (dimension := _DIMENSION.match(word)) and _replaces(word):
        return [f"++{dimension[1]}=null", word.lstrip("+")]  # a sweep takes the last of equal keys, prefix and all
    return [word]


def _directory(text: str) -> str:
    return text if "://" in text else str(placed(text))


def _replaces(override: str) -> bool:
    """Whether an override of a dimension gives one, or choices of a sweep: `{b: 0.5}` only changes what is there."""
    value = _value(override)
    return all(map(_is_dimension, value.list if isinstance(value, ChoiceSweep) else [value]))


def _value(override: str) -> Any:
    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException:  # Hydra will say so
        return None


def _names(value: Any) -> bool:
    """Whether a group's value is one that Hydra can look for, or objects to in words: no number or truth value."""
    match value:
        case list() | ChoiceSweep(list=list()):
            return all(map(_names, value if isinstance(value, list) else value.list))
        case bool() | int() | float():
            return False
        case _:
            return True


def _is_dimension(value: Any) -> bool:
    match value:
        case list():
            return True
        case {"_target_": _} | {"_choice_": _}:
            return True
        case dict():
            return any(map(_is_dimension, value.values()))
        case _:
            return False
