"""How a study's winner is trained again: as a command, and as a config file."""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halving.config.arguments import place
from halving.config.commands import key_of, line, override, search_path
from halving.config.schema import ROOT_KEYS, order
from halving.config.yaml_files import yaml_text
from halving.redaction import Secrets
from halving.trial import Value

_STUDY_ONLY = (
    "space",
    "searcher",
    "scheduler",
    "budget",
    "executor",
    "plan",
    "resume",
    "eta",
    "r_min",
    "trial",
    "confirm",
    "notes",
)
_FROM_BASE = {"space": "none", "searcher": "random", "scheduler": "single", "executor": "serial", "tracker": "none"}
_RETRAINED = (
    "data",
    "model",
    "optimizer",
    "lr_schedule",
    "averaging",
    "fidelity",
    "seed",
    "order_seed",
    "trial",
    "r_max",
    "epochs",
    "until",
)
_OF_THE_JOB = re.compile(r"\$\{(hydra|now):")


def command(
    source: Iterable[str],
    overrides: Iterable[str],
    trial: int,
    configuration: Mapping[str, Value],
    groups: Container[str] = (),
) -> str:
    """Return the command that trains one trial of a study from nothing.

    It is the study's own command line, its `config_source` and task `overrides`, without what only a study needs, then
    the trial's stream and values. `groups` are the names of the config groups that the study chooses from.
    """
    return line(*source, *task(overrides, trial, configuration, groups))


def task(
    overrides: Iterable[str], trial: int, configuration: Mapping[str, Value], groups: Container[str] = ()
) -> list[str]:
    """Return the overrides of `command`."""
    overrides = list(overrides)
    kept = [item for item in overrides if not _replaced(item, configuration, groups)]
    paths = {name: name.replace(".", "/") if name in groups else name for name in configuration}
    values = [override(paths[name], value) for name, value in configuration.items()]
    threads = [item for item in overrides if item.startswith("executor.threads=")]
    stream = [] if "trial" in configuration else [f"trial={trial}"]
    return [*kept, *threads, "scheduler=single", *stream, *values]


def retrains(overrides: Sequence[str], best: DictConfig, hydra: DictConfig) -> bool:
    """Whether the running job's config files make a trial's config, `best`, of a command's overrides."""
    try:
        found = compose(hydra.job.config_name, [*search_path(hydra), *overrides])
        place(found)
        own = (str(key) for key in {**found, **best} if key not in ROOT_KEYS)
        return all(_resolved(found, key) == _resolved(best, key) for key in (*_RETRAINED, *own))
    except (HydraException, OmegaConfBaseException, OSError):  # or its files have gone since it began
        return False


def best_words(run_dir: Path, trusted: Sequence[str]) -> list[str]:
    """Return the options that train what best.yaml describes. What is `trusted` has to be typed again."""
    return ["-cp", str(run_dir.absolute()), "-cn", "best", *trusting(trusted)]


def trusting(packages: Sequence[str]) -> list[str]:
    """Return the override that trusts packages, if there are any."""
    return [f"trusted_packages=[{','.join(packages)}]"] if packages else []


def best_yaml(cfg: DictConfig, run_dir: Path, trusted: Sequence[str], secrets: Secrets) -> str:
    """Return a config file that composes to a trial's config, given as laid over the study's and unresolved.

    What the file could not resolve by itself stands as the value that it has; secrets are left out.
    """
    container = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    skipped = (*_FROM_BASE, "budget", "confirm", "trusted_packages", "notes")
    content = {key: container[key] for key in sorted(container, key=order) if key not in skipped}
    content |= {"plan": None, "resume": None, "executor": {"threads": container["executor"].get("threads")}}
    alone = OmegaConf.create(content)
    content = {key: raw if _stands(alone, key, raw) else _resolved(cfg, key) for key, raw in content.items()}
    defaults = ["base", *({group: option} for group, option in _FROM_BASE.items()), "_self_"]
    text = yaml_text(secrets.redact({"defaults": defaults, **content}))
    early = (
        ""
        if cfg.until == cfg.r_max
        else f"# It ends where the study did: until={cfg.r_max} at the end trains in full\n"
    )
    return f"# {line(*best_words(run_dir, trusted))}\n{early}{text}"


def _stands(cfg: DictConfig, key: str, raw: Any) -> bool:
    """Whether a root key can be resolved within a config, and will be the same in another job."""
    try:
        _resolved(cfg, key)
    except OmegaConfBaseException:
        return False
    return _OF_THE_JOB.search(str(raw)) is None


def _resolved(cfg: DictConfig, key: str) -> Any:
    value = cfg.get(key)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _replaced(override: str, configuration: Mapping[str, Value], groups: Container[str]) -> bool:
    key = key_of(override).replace("/", ".")
    return key in configuration or key in groups or key.partition(".")[0] in _STUDY_ONLY
