"""How a study's winner is trained again: as a command, and as a config file."""

import re
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from halving.config.schema import ROOT_KEYS
from halving.config.secrets import Secrets
from halving.trial import Value

_STUDY_ONLY = ("space", "searcher", "scheduler", "budget", "executor", "plan", "resume", "eta", "r_min", "trial")
_FROM_BASE = {"space": "none", "searcher": "random", "scheduler": "single", "executor": "serial", "tracker": "none"}


def command(
    source: Iterable[str],
    overrides: Iterable[str],
    trial: int,
    configuration: Mapping[str, Value],
    groups: Container[str] = (),
) -> str:
    """Return the command that trains one trial of a study from nothing to r_max.

    It is the study's own command line, its `config_source` and task `overrides`, without what only a study needs, then
    the trial's stream and values. `groups` are the names of the config groups that the study chooses from.
    """
    kept = [item for item in overrides if not _replaced(item, configuration, groups)]
    paths = {name: name.replace(".", "/") if name in groups else name for name in configuration}
    values = [f"{paths[name]}={_literal(value)}" for name, value in configuration.items()]
    threads = [item for item in overrides if item.startswith("executor.threads=")]
    words = [*source, *kept, *threads, "scheduler=single", f"trial={trial}", *values]
    return " ".join(["python", "train.py", *map(shlex.quote, words)])


def best_yaml(cfg: DictConfig, run_dir: Path, trusted: Sequence[str], secrets: Secrets) -> str:
    """Return a config file that composes to a trial's config, given as laid over the study's and unresolved.

    What is `trusted` has to be typed again, so it stands in the command only; secrets are left out.
    """
    content: dict[str, Any] = {"defaults": ["base", *({k: v} for k, v in _FROM_BASE.items()), "_self_"]}
    container = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    skipped = (*_FROM_BASE, "budget", "trusted_packages")
    content |= {key: container[key] for key in ROOT_KEYS if key in container and key not in skipped}
    content |= {"plan": None, "resume": None, "executor": {"threads": container["executor"].get("threads")}}
    words = ["-cp", str(run_dir.absolute()), "-cn", "best"]
    words += [f"trusted_packages=[{','.join(trusted)}]"] if trusted else []
    text = yaml.safe_dump(secrets.redact(content), sort_keys=False, allow_unicode=True)
    return f"# python train.py {shlex.join(words)}\n{text}"


def _replaced(override: str, configuration: Mapping[str, Value], groups: Container[str]) -> bool:
    key = re.split("=", override.lstrip("+~"), maxsplit=1)[0].partition("@")[0].replace("/", ".")
    return key in configuration or key in groups or key.partition(".")[0] in _STUDY_ONLY


def config_source(hydra: DictConfig) -> list[str]:
    """Return the options that find the config files where the study found them."""
    words: list[str] = []
    sources = {source.provider: source.path for source in hydra.runtime.config_sources}
    if hydra.job.config_name != "config":
        words += ["-cp", sources["main"], "-cn", hydra.job.config_name]
    if "command-line" in sources:
        words += ["--config-dir", str(Path(sources["command-line"]).resolve())]
    return words + [item for item in hydra.overrides.hydra if item.startswith("hydra.searchpath=")]


def _literal(value: Value) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str() if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or value.lower() in (
            "null",
            "true",
            "false",
            "nan",
            "inf",
        ):
            return QuotedString(value, Quote.single).with_quotes()
        case _:
            return repr(value) if isinstance(value, float) else str(value)


def hydra_config() -> DictConfig:
    """Return Hydra's own settings of the running job."""
    return cast(DictConfig, HydraConfig.get())
