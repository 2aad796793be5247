"""Which packages a configuration may name: those that somebody typed, never those that a file claims."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from halving.config.schema import GROUPS
from halving.errors import UserError
from halving.targets import CLUSTER, COMMAND, trusted_in_environment

_OVERRIDE = re.compile(r"\+{0,2}trusted_packages=")
_COMMAND = re.compile(r"\+{0,2}fidelity\.command=")
_CLUSTER = re.compile(r"\+{0,2}executor\.(address|runtime_env|hosts|python|sbatch)=")
_PACKAGE = re.compile(r"^\s*#\s*@package", re.MULTILINE)


def typed(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the packages in `trusted_packages=[...]` of a command line. Raises UserError for what is no list."""
    found: list[str] = []
    for override in filter(_OVERRIDE.match, arguments):
        value = OverridesParser.create().parse_override(override).value()
        if not isinstance(value, list):
            raise UserError(f"{override}: give a list, such as trusted_packages=[my_package]")
        found += map(str, value)
    return tuple(found)


def check_best(run_dir: Path) -> None:
    """Raise UserError where Hydra would read from a study's directory what no study writes: it could run anything.

    That is settings of Hydra's own, of what else the config is made, and files that would come before ours.
    """
    path = run_dir / "best.yaml"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return  # which Hydra is about to say
    known = content if isinstance(content, dict) else {}
    listed: Any = known.get("defaults", [])
    defaults: list[Any] = listed if isinstance(listed, list) else [listed]
    groups = {str(key) for each in defaults if isinstance(each, dict) for key in cast(dict[Any, Any], each)}
    names = {str(each) for each in defaults if not isinstance(each, dict)}
    if "hydra" in known or not names <= {"base", "_self_"} or not groups <= {*GROUPS} or _PACKAGE.search(text):
        raise UserError(f"{path} sets more than a study writes there, which could run anything: type what you need")
    groups_of_ours = (f"{group}/**/*" for group in (*GROUPS, "experiment", "hydra"))
    for file in sorted(
        file for pattern in ("base", "schema", *groups_of_ours) for file in run_dir.glob(f"{pattern}.y*ml")
    ):
        raise UserError(f"{file} would come before the config of that name, which it is not: move it away")


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

    A command that was typed is trusted, too, and so is a cluster.
    """
    command = (COMMAND,) if any(map(_COMMAND.match, _arguments)) else ()
    cluster = (CLUSTER,) if any(map(_CLUSTER.match, _arguments)) else ()
    return tuple(dict.fromkeys((*typed(_arguments), *command, *cluster, *_environment)))


def check_cluster(executor: Mapping[str, Any]) -> None:
    """Raise UserError where a file, and nobody at the command line, says which machines to use, and what runs there.

    Whoever has such a machine has what is sent there, and what comes back can run anything.
    """
    if CLUSTER in (*typed(_arguments), *_environment):
        return
    said = {
        found[1]: OverridesParser.create().parse_override(word).value()
        for word in _arguments
        if (found := _CLUSTER.match(word))
    }
    for key in ("address", "runtime_env", "hosts", "python", "sbatch"):
        if (value := executor.get(key)) and said.get(key) != value:
            raise UserError(
                f"executor.{key}: a file, and nobody at this command line, says {value!r}; type it, or "
                f"trusted_packages=[{CLUSTER}] if you trust whoever wrote it"
            )


_arguments, _environment = sys.argv[1:], trusted_in_environment()
