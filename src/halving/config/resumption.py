"""Going on with a study: where it lies, and what of its config a command may change."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halving.config.commands import config_source, line, override, overrides, read
from halving.config.schema import ROOT_KEYS, Config
from halving.config.secrets import REDACTED, redacted_paths
from halving.errors import UserError
from halving.history import Header
from halving.journal import FILE, decode

SWEEP = "multirun.yaml"  # Hydra leaves it where the jobs of a multirun lie
_MAY_CHANGE = ("executor", "tracker", "device", "data_dir", "budget", "notes", "resume", "trusted_packages")
_MAY_GROW = ("scheduler.rounds", "scheduler.max_trials")
_MISSING = "(absent)"
_OF_A_SWEEP = ("hydra.mode=", "hydra.run.dir=", "hydra.sweep.dir=", "hydra.searchpath=")
_OF_A_TRIAL = ("data", "model", "optimizer", "lr_schedule", "fidelity")
_FLEETING = re.compile(r"\$\{(oc\.env|now|hydra):")

_repeated: list[str] = []


def repeat(arguments: list[str]) -> list[str]:
    """Put in front of a command that resumes one study what that study was begun with.

    So `resume=<run dir> scheduler.rounds=2` finds the scheduler that it speaks of. What the command says itself wins.
    """
    named = [read(item) for item in arguments if item.startswith("resume=")]
    if not named or not isinstance(named[-1], str) or {"-m", "--multirun"}.intersection(arguments):
        return arguments
    settings = _recorded_settings(Path(named[-1]) / FILE)
    keys = {_key(item) for item in arguments}
    replaced = tuple(keys) + tuple(f"{group}." for group in keys.intersection(_MAY_CHANGE))
    recorded = [
        item for item in settings.get("overrides", ()) if not _named(_key(item), replaced) and REDACTED not in item
    ]
    _repeated[:] = recorded
    options = {"-cp", "-cn", "-cd", "--config-path", "--config-name", "--config-dir"}
    elsewhere = options.intersection(item.partition("=")[0] for item in arguments)
    return [*(() if elsewhere else settings.get("source", ())), *recorded, *arguments]


def typed(overrides: Iterable[str]) -> list[str]:
    """Return those of a job's overrides that were typed, leaving out what was only repeated."""
    return [item for item in overrides if item not in _repeated]


def settle(cfg: DictConfig) -> DictConfig:
    """Fix the root's whole numbers that come from the environment or the moment, which go by; return the config."""
    for key, value in cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False)).items():
        if Config.__annotations__.get(key) is int and _FLEETING.search(str(value)):
            cfg[key] = cfg[key]
    return cfg


def settled(item: str, cfg: DictConfig) -> str:
    """Return an override with what `settle` made of it."""
    key = _key(item)
    return override(key, cfg[key]) if Config.__annotations__.get(key) is int and _FLEETING.search(item) else item


def _recorded_settings(journal: Path) -> Mapping[str, Any]:
    if not journal.is_file():
        return {}
    with journal.open("rb") as file:
        events, _ = decode(file.readline(), journal)
    return events[0][0].settings if events and isinstance(events[0][0], Header) else {}


def register_resolvers() -> None:
    """Let Hydra's run directories be those of the study that `resume` names."""
    OmegaConf.register_new_resolver("run_or_new", _run_or_new, replace=True)
    OmegaConf.register_new_resolver("sweep_or_new", _sweep_or_new, replace=True)
    OmegaConf.register_new_resolver("job_or_number", _job_or_number, replace=True)
    OmegaConf.register_new_resolver("hydra_or_kept", _hydra_or_kept, replace=True)


def merged(stored: DictConfig, composed: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """Return a study's own config with what the typed `overrides` may change taken from the one composed with them.

    Raises UserError, which shows the differences, where they would make it another study.
    """
    keys = [_key(item) for item in overrides]
    roots = {key.partition(".")[0] for key in keys} - {"resume"}
    if "experiment" in roots:
        roots = set(ROOT_KEYS)
    differing = [root for root in ROOT_KEYS if root in roots and root not in _MAY_CHANGE]
    differences = _differences(_flat(stored, differing), _flat(composed, differing))
    differences = {path: values for path, values in differences.items() if not _same(path, stored, composed)}
    if stored.plan == "auto":  # what was planned is in the study's config, where the command has nothing
        differences = {path: values for path, values in differences.items() if not _planned(path, values[1], keys)}
    refused = {
        path: values
        for path, values in differences.items()
        if not (REDACTED in str(values[0]) or (_grows(path, *values) and _typed_by(path, keys)))
    }
    if refused:
        shown = [f"  {path}: {old} in the study, {new} on the command line" for path, (old, new) in refused.items()]
        raise UserError(
            "resume: this would be another study:\n" + "\n".join(shown) + "\n"
            f"only {', '.join(_MAY_CHANGE[:-1])} may change, and {' and '.join(_MAY_GROW)} may grow"
        )
    result = stored.copy()
    OmegaConf.set_struct(result, False)
    for path, (_, new) in differences.items():
        OmegaConf.update(result, path, new)
    raw = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
    for key in keys:
        root = key.partition(".")[0]
        if key in _MAY_CHANGE:
            result[key] = raw[key]
        elif root in _MAY_CHANGE:
            OmegaConf.update(result, key, reduce(_below, key.split("."), raw))
        elif key == "experiment":
            result.merge_with({name: raw[name] for name in _MAY_CHANGE if name != "resume"})
    if lacking := sorted(redacted_paths(cast(dict[str, Any], OmegaConf.to_container(result)))):
        raise UserError(f"resume: {', '.join(lacking)}: a secret, which is not recorded; type it again")
    return result


def _run_or_new(resume: str | None, new: str) -> str:
    if resume is None:
        return new
    path = Path(resume).absolute()
    if (path / SWEEP).is_file() and not (path / FILE).is_file():
        hydra = OmegaConf.load(path / SWEEP).hydra
        raise UserError(f"resume: {resume} is a multirun; repeat it: {sweep_command(hydra, resume)}")
    if not (path / FILE).is_file():
        raise UserError(f"resume: {resume} holds no study; give the directory that a run printed as its own")
    return str(path)


def _sweep_or_new(resume: str | None, new: str) -> str:
    return str(Path(resume).absolute()) if resume is not None and (Path(resume) / SWEEP).is_file() else new


def _job_or_number(resume: str | None, number: int) -> str:
    return str(number) if resume is None or (Path(resume) / SWEEP).is_file() else _run_or_new(resume, "")


def _hydra_or_kept(resume: str | None, new: str, *, _root_: DictConfig) -> str | None:
    """Return where Hydra puts its own files: nowhere, if the study that is resumed has them already."""
    if resume is None:
        return new
    number = OmegaConf.select(_root_, "hydra.job.num", throw_on_missing=False)
    job = Path(_job_or_number(resume, number)) if number is not None else Path()
    return None if (Path(resume) / job / ".hydra").is_dir() or not (Path(resume) / SWEEP).is_file() else new


def sweep_command(hydra: DictConfig, sweep: str | Path) -> str:
    """Return the command that goes on with a multirun, given Hydra's own settings of it."""
    own = [item for item in overrides(hydra, "hydra") if not item.startswith(_OF_A_SWEEP)]
    kept = [item for item in overrides(hydra) if _key(item) != "resume"]
    return line("-m", *config_source(hydra), *own, *kept, override("resume", str(sweep)))


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def _flat(cfg: DictConfig, roots: Iterable[str]) -> dict[str, Any]:
    container = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    flat: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, Mapping) and node:
            for key, value in cast(Mapping[str, Any], node).items():
                walk(value, f"{path}.{key}")
        else:
            flat[path] = node

    for root in roots:
        walk(container.get(root), root)
    return flat


def _below(node: Any, name: str) -> Any:
    return cast(Mapping[str, Any], node).get(name) if isinstance(node, Mapping) else None


def _differences(stored: Mapping[str, Any], composed: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    paths = dict.fromkeys([*stored, *composed])
    pairs = {path: (stored.get(path, _MISSING), composed.get(path, _MISSING)) for path in paths}
    return {path: (old, new) for path, (old, new) in pairs.items() if old != new}


def _same(path: str, *configs: DictConfig) -> bool:
    """Whether two texts of what is the study's and not a trial's come to one value."""
    if path.partition(".")[0] in _OF_A_TRIAL:
        return False
    with suppress(OmegaConfBaseException):
        one, other = (OmegaConf.select(cfg, path) for cfg in configs)
        return one is not None and one == other
    return False


def _named(key: str, names: tuple[str, ...]) -> bool:
    """Whether a key is one of some names, or below one that ends with a dot."""
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in names)


def _typed_by(path: str, keys: Iterable[str]) -> bool:
    """Whether a path was typed, or a group that it lies in."""
    return any(path == key or path.startswith(f"{key}.") for key in keys)


def _planned(path: str, new: Any, keys: Iterable[str]) -> bool:
    count = path.removeprefix("scheduler.")
    return path not in keys and (path == "r_min" or (count in ("n", "max_trials", "rounds") and new in (None, 1)))


def _grows(path: str, old: Any, new: Any) -> bool:
    return path in _MAY_GROW and isinstance(old, int) and (new is None or (isinstance(new, int) and new > old))
