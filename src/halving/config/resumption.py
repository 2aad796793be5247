"""Going on with a study: where it lies, and what of its config a command may change."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, reduce
from itertools import count
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halving.checkpoints.links import refuse, strays
from halving.config import commands
from halving.config.arguments import as_typed, config_paths, directories, placed
from halving.config.commands import config_source, key_of, line, override, read
from halving.config.schema import ROOT_KEYS, Config, order
from halving.errors import UserError
from halving.history import Header
from halving.journal import FILE, decode
from halving.provenance import Provenance
from halving.redaction import REDACTED, redacted_paths

SWEEP = "multirun.yaml"  # Hydra leaves it where the jobs of a multirun lie
_MAY_CHANGE = ("executor", "tracker", "device", "data_dir", "budget", "confirm", "notes", "resume", "trusted_packages")
_MAY_GROW = ("scheduler.rounds", "scheduler.max_trials", "searcher.seeds")
_MISSING = "(absent)"
_OWN = ".hydra"  # where Hydra leaves what a job was, whatever became of it
_OF_A_SWEEP = ("hydra.mode=", "hydra.run.dir=", "hydra.sweep.dir=", "hydra.searchpath=")
_OF_A_TRIAL = ("data", "model", "optimizer", "lr_schedule", "averaging", "fidelity")
_FLEETING = re.compile(r"\$\{(oc\.env|now|hydra):")


_BEFORE = {
    "halving.schedulers.ASHA": {"count_failed": True},
    "halving.schedulers.ConcordantASHA": {"evidence": None},
}

_repeated: list[str] = []


def repeat(arguments: list[str]) -> list[str]:
    """Put in front of a command that resumes one study what that study was begun with.

    So `resume=<run dir> scheduler.rounds=2` finds the scheduler that it speaks of. What the command says itself wins.
    """
    named = [read(item) for item in arguments if item.startswith("resume=")]
    if not named or not isinstance(named[-1], str) or {"-m", "--multirun"}.intersection(arguments):
        return arguments
    refuse(placed(named[-1]), written=False)
    begun = _recorded(placed(named[-1]) / FILE)
    recorded = [item for item in unreplaced(begun.overrides, arguments) if REDACTED not in item]
    _repeated[:] = recorded
    options = {"-cp", "-cn", "-cd", "--config-path", "--config-name", "--config-dir"}
    elsewhere = options.intersection(item.partition("=")[0] for item in arguments)
    source = [] if elsewhere else [str(word) for word in begun.source]
    for place in (*config_paths(source), *directories(source)):
        if Path(place.removeprefix("file://")).resolve().is_relative_to(placed(named[-1]).resolve()):
            raise UserError(f"resume: the study's config files would lie in it, at {place}, where no study has them")
    return [*source, *recorded, *arguments]


def unreplaced(begun: Iterable[str], now: Iterable[str]) -> list[str]:
    """Return what a study was begun with but for what a command says `now`: with another executor, all of the last."""
    keys = {key_of(item) for item in now}
    replaced = tuple(keys) + tuple(f"{group}." for group in keys.intersection(_MAY_CHANGE))
    return [item for item in begun if not _named(key_of(item), replaced)]


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
    key = key_of(item)
    return override(key, cfg[key]) if Config.__annotations__.get(key) is int and _FLEETING.search(item) else item


def _recorded(journal: Path) -> Provenance:
    if not journal.is_file():
        return Provenance()
    with journal.open("rb") as file:
        events, _ = decode(file.readline(), journal)
    return events[0][0].provenance if events and isinstance(events[0][0], Header) else Provenance()


def register_resolvers() -> None:
    """Let Hydra's run directories be those of the study that `resume` names."""
    OmegaConf.register_new_resolver("folder", _folder, replace=True)
    OmegaConf.register_new_resolver("run_or_new", _run_or_new, replace=True)
    OmegaConf.register_new_resolver("sweep_or_new", _sweep_or_new, replace=True)
    OmegaConf.register_new_resolver("job_or_number", _job_or_number, replace=True)
    OmegaConf.register_new_resolver("hydra_or_kept", _hydra_or_kept, replace=True)


def as_recorded(unresolved: Mapping[str, Any]) -> DictConfig:
    """Return a study's own config, with what its scheduler did where it had no such option yet."""
    cfg = OmegaConf.create(dict(unresolved))
    for name, value in _BEFORE.get(str(cfg.scheduler.get("_target_")), {}).items():
        cfg.scheduler.setdefault(name, value)
    return cfg


def merged(stored: DictConfig, composed: DictConfig, overrides: Iterable[str]) -> DictConfig:
    """Return a study's own config with what the typed `overrides` may change taken from the one composed with them.

    Raises UserError, which shows the differences, where they would make it another study.
    """
    overrides = list(overrides)
    keys = [key_of(item) for item in overrides]
    result = stored.copy()
    OmegaConf.set_struct(result, False)
    result.setdefault("averaging", {})  # of which studies before 0.5 know nothing
    differences = _differences(_plain(result), _plain(composed), _roots(overrides).difference(_MAY_CHANGE), keys)
    if refused := _refused(differences, keys):
        raise UserError(
            "resume: this would be another study:\n" + _listed(refused, "study") + "\n"
            f"only {', '.join(_MAY_CHANGE[:-2])} may change, and {', '.join(_MAY_GROW)} may grow"
        )
    for key in ("order_seed", "confirm"):  # which studies before 0.4 do not have
        if key not in stored:
            result[key] = _plain(composed)[key]
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
    if lacking := sorted({*redacted_paths(cast(dict[str, Any], OmegaConf.to_container(result)))} - {"notes"}):
        raise UserError(f"resume: {', '.join(lacking)}: a secret, which is not recorded; type it again")
    return result


def _folder(name: str) -> str:
    """Return the folder below outputs/ that a study's name gives."""
    if any(part.strip() in ("", ".", "..") or part.startswith("~") for part in name.split("/")):
        raise UserError(f"name={name}: names a folder below outputs/, and the W&B project; give a word")
    return name


def _run_or_new(resume: str | None, new: str) -> str:
    if resume is None:
        return new
    path = placed(resume)
    if (path / SWEEP).is_file() and not (path / FILE).is_file():
        raise UserError(f"resume: {resume} is a multirun; repeat it: {sweep_command(swept_by(path), path)}")
    if not (path / FILE).is_file():
        raise UserError(f"resume: {resume} holds no study; give the directory that a run printed as its own")
    return str(path)


def _sweep_or_new(resume: str | None, new: str) -> str:
    return str(placed(resume)) if resume is not None and (placed(resume) / SWEEP).is_file() else new


def _job_or_number(resume: str | None, number: int, *, _root_: DictConfig) -> str:
    if resume is None:
        return str(number)
    if not (placed(resume) / SWEEP).is_file():
        return _run_or_new(resume, "")
    sweep = placed(resume)
    if (sweep, number) not in _directories:
        _directories[sweep, number] = _earlier(sweep, _plain(_root_)) or _free(sweep)
    return _directories[sweep, number]


_directories: dict[tuple[Path, int], str] = {}  # of this process's jobs: what is free now is not so a moment later


def _hydra_or_kept(new: str, *, _root_: DictConfig) -> str | None:
    """Return where Hydra puts its own files: nowhere, if the run directory holds a study, which has them already."""
    run_dir = OmegaConf.select(_root_, "hydra.runtime.output_dir", throw_on_missing=False)
    return None if run_dir is not None and (Path(run_dir) / FILE).is_file() else new


def job_directories(sweep: Path) -> Iterator[Path]:
    """Yield the directories below a multirun's in which a job has begun, whatever they are called."""
    for path, folders, files in os.walk(sweep):
        if FILE in files or _OWN in folders:
            folders.clear()
            yield Path(path)


def check_sweep(cfg: DictConfig, sweep: Path) -> None:
    """Raise UserError where a multirun goes on with what all of its earlier jobs have otherwise."""
    composed, begun = _plain(cfg), list(_begun(sweep).values())
    if not begun:
        return
    (stored, overrides), words = begun[0], composed["hydra"]["overrides"]["task"]
    earlier = [set(own) for _, own in begun]
    keys = [key_of(item) for item in words]
    varied = _swept(cfg.hydra).union(map(key_of, set.union(*earlier) - set.intersection(*earlier)))
    differences = _differences(stored, composed, _roots([*words, *overrides]).difference(_MAY_CHANGE), keys)
    refused = {path: pair for path, pair in _refused(differences, keys).items() if not _typed_by(path, varied)}
    if refused and "experiment" not in varied:
        raise UserError(
            "resume: this would be another multirun:\n" + _listed(refused, "multirun") + "\n"
            "sweep over both values, begin a new multirun, or repeat this one: " + sweep_command(swept_by(sweep), sweep)
        )


def _earlier(sweep: Path, composed: Mapping[str, Any]) -> str | None:
    """Return the directory of the earlier job that this one is: all is the same, or only what may change differs.

    What the command sweeps over makes another job, and so does what may change where several jobs come into question.
    """
    words = composed["hydra"]["overrides"]["task"]
    keys = [key_of(item) for item in words]
    swept = _swept(swept_by(sweep))
    alike: list[str] = []
    for directory, (stored, overrides) in _begun(sweep).items():
        differences = _differences(stored, composed, _roots([*words, *overrides]), keys)
        if not differences:
            return directory
        if not _refused(differences, keys) and not any(_typed_by(path, swept) for path in differences):
            alike.append(directory)
    return alike[0] if len(alike) == 1 else None


def _free(sweep: Path) -> str:
    """Take the least number that no directory has; other jobs may look for one at the same time."""
    for number in map(str, count()):
        with suppress(FileExistsError):
            (sweep / number).mkdir()
            return number
    raise AssertionError


@cache
def _begun(sweep: Path) -> dict[str, tuple[Mapping[str, Any], list[str]]]:
    """Return the config and overrides of each job that a multirun had when this process began."""
    found = {str(path.relative_to(sweep)): begun_with(path) for path in job_directories(sweep)}
    return {
        name: (told.unresolved, list(told.overrides)) for name, told in found.items() if told.unresolved is not None
    }


def begun_with(directory: Path) -> Provenance:
    """Return what is known of the job that began in a directory: at least its unresolved config and its overrides."""
    if any(strays(directory, written=False)):
        return Provenance()
    with suppress(UserError):  # a damaged journal is its own job's affair
        if (told := _recorded(directory / FILE)).by_command:
            return told
    files = (directory / _OWN / "config.yaml", directory / _OWN / "overrides.yaml")
    if not all(file.is_file() for file in files):
        return Provenance()
    config, overrides = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in files)
    return Provenance(config, overrides=[item for item in overrides if key_of(item) != "resume"])


def swept_by(sweep: Path) -> DictConfig:
    """Return Hydra's own settings of the multirun in a directory. Raises UserError where that holds links."""
    refuse(sweep, written=False)
    return cast(DictConfig, OmegaConf.load(sweep / SWEEP)).hydra


def sweep_words(hydra: DictConfig) -> list[str]:
    """Return the overrides that a multirun sweeps over or that all of its jobs have, given Hydra's settings of it."""
    params = (_plain(hydra.sweeper).get("params") or {}).items()
    return [*(f"{key}={values}" for key, values in params), *_plain(hydra.overrides)["task"]]


def _swept(hydra: DictConfig) -> set[str]:
    found = OverridesParser.create().parse_overrides(sweep_words(hydra))
    return {item.key_or_group for item in found if item.is_sweep_override()}


def sweep_command(hydra: DictConfig, sweep: str | Path) -> str:
    """Return the command that goes on with a multirun, given Hydra's own settings of it."""
    own = [item for item in commands.overrides(hydra, "hydra") if not item.startswith(_OF_A_SWEEP)]
    kept = [item for item in as_typed(commands.overrides(hydra)) if key_of(item) != "resume"]
    return line("-m", *config_source(hydra), *own, *kept, override("resume", str(sweep)))


def _roots(overrides: Iterable[str]) -> set[str]:
    """Return the root keys that overrides change."""
    roots = {key_of(item).partition(".")[0] for item in overrides} - {"resume"}
    return set(ROOT_KEYS) - {"resume"} if "experiment" in roots else roots


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))


def flat(container: Mapping[str, Any], roots: Iterable[str]) -> dict[str, Any]:
    """Return the leaves below some root keys of a plain config by their paths."""
    flat: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, Mapping) and node:
            for key, value in cast(Mapping[str, Any], node).items():
                walk(value, f"{path}.{key}")
        else:
            flat[path] = node

    for root in roots:
        walk(container.get(root, {}), root)
    return flat


def _below(node: Any, name: str) -> Any:
    return cast(Mapping[str, Any], node).get(name) if isinstance(node, Mapping) else None


def _differences(
    stored: Mapping[str, Any], composed: Mapping[str, Any], roots: set[str], keys: Iterable[str]
) -> dict[str, tuple[Any, Any]]:
    """Return what differs below some root keys between a study's config and one composed with the typed `keys`."""
    ordered = sorted(roots, key=order)
    old, new = flat(stored, ordered), flat(composed, ordered)
    pairs = {path: (old.get(path, _MISSING), new.get(path, _MISSING)) for path in dict.fromkeys([*old, *new])}
    # What was planned is in the study's config, where the command has nothing.
    planned = stored.get("plan") == "auto"
    configs = OmegaConf.create(dict(stored)), OmegaConf.create(dict(composed))
    return {
        path: (old, new)
        for path, (old, new) in pairs.items()
        if old != new and not (planned and _planned(path, new, keys)) and not _same(path, *configs)
    }


def _refused(differences: Mapping[str, tuple[Any, Any]], keys: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """Return those of the differences that make another study."""
    return {
        path: values
        for path, values in differences.items()
        if path.partition(".")[0] not in _MAY_CHANGE
        and not (REDACTED in str(values[0]) or (_grows(path, *values) and _typed_by(path, keys)))
    }


def _listed(differences: Mapping[str, tuple[Any, Any]], where: str) -> str:
    return "\n".join(
        f"  {path}: {old} in the {where}, {new} on the command line" for path, (old, new) in differences.items()
    )


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
