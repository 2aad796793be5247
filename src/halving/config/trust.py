"""Which packages a configuration may name: those that somebody typed, never those that a file claims."""

import re
import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

from halving.errors import UserError
from halving.targets import COMMAND, trusted_in_environment

_OVERRIDE = re.compile(r"\+{0,2}trusted_packages=")
_COMMAND = re.compile(r"\+{0,2}fidelity\.command=")


def typed(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the packages in `trusted_packages=[...]` of a command line. Raises UserError for what is no list."""
    found: list[str] = []
    for override in filter(_OVERRIDE.match, arguments):
        value = OverridesParser.create().parse_override(override).value()
        if not isinstance(value, list):
            raise UserError(f"{override}: give a list, such as trusted_packages=[my_package]")
        found += map(str, value)
    return tuple(found)


def remember() -> None:
    """Note what was typed before Hydra reads a file: one could set hydra.overrides.task and hydra.job.env_set."""
    global _arguments, _environment
    _arguments, _environment = sys.argv[1:], trusted_in_environment()


def let_in(directory: str) -> None:
    """Let what somebody trusts be imported from a directory, here and in workers; what is installed goes first."""
    if trusted_packages() and directory not in sys.path:
        sys.path.append(directory)


def trusted_packages() -> tuple[str, ...]:
    """Return the packages that the command line and the environment of this process trust beyond our own.

    A command that was typed is trusted, too.
    """
    command = (COMMAND,) if any(map(_COMMAND.match, _arguments)) else ()
    return tuple(dict.fromkeys((*typed(_arguments), *command, *_environment)))


_arguments, _environment = sys.argv[1:], trusted_in_environment()
