"""How a study's winner is trained again: as a command, and as a config file."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from halving.config.schema import ROOT_KEYS
from halving.trial import Value

_STUDY_ONLY = ("space", "searcher", "scheduler", "budget", "executor", "plan", "resume", "eta", "r_min", "trial")
_FROM_BASE = {"space": "none", "searcher": "random", "scheduler": "single", "executor": "serial", "tracker": "none"}


def command(hydra: DictConfig, trial: int, configuration: Mapping[str, Value]) -> str:
    """Return the command that trains one trial of the running study from nothing to r_max.

    It is the study's own command line without what only a study needs, then the trial's stream and values.
    """
    kept = [item for item in hydra.overrides.task if not _replaced(item, configuration)]
    values = [f"{name}={_literal(value)}" for name, value in configuration.items()]
    threads = [item for item in hydra.overrides.task if item.startswith("executor.threads=")]
    words = [*_config_source(hydra), *kept, *threads, "scheduler=single", f"trial={trial}", *values]
    return " ".join(["python", "train.py", *map(shlex.quote, words)])


def best_yaml(cfg: DictConfig) -> str:
    """Return a config file that composes to a trial's config, given as laid over the study's and unresolved."""
    content: dict[str, Any] = {"defaults": ["base", *({k: v} for k, v in _FROM_BASE.items()), "_self_"]}
    container = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    skipped = (*_FROM_BASE, "budget")
    content |= {key: container[key] for key in ROOT_KEYS if key in container and key not in skipped}
    content |= {"plan": None, "resume": None, "executor": {"threads": container["executor"].get("threads")}}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _replaced(override: str, configuration: Mapping[str, Value]) -> bool:
    key = re.split("=", override.lstrip("+~"), maxsplit=1)[0].partition("@")[0]
    return key in configuration or key.partition(".")[0] in _STUDY_ONLY


def _config_source(hydra: DictConfig) -> list[str]:
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
