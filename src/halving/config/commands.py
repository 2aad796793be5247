"""How commands are written so that they can be pasted: quoted for Hydra and the shell, with the program as typed."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from halving.trial import Value


def program() -> list[str]:
    """Return the words by which this program was called, `python train.py` where they do not tell."""
    path = Path(sys.argv[0])
    if path.name == "train.py":
        return ["python", sys.argv[0]]
    if path.stem == "halving":
        return ["halving"]
    module = path.parts[-2:] == ("halving", "__main__.py")
    return ["python", "-m", "halving"] if module else ["python", "train.py"]


def line(*words: str) -> str:
    """Return the command that gives this program some words."""
    return shlex.join([*program(), *words])


def override(key: str, value: Value) -> str:
    """Return the override that sets a key to exactly a value."""
    return f"{key}={literal(value)}"


def literal(value: Value) -> str:
    """Return how an override writes a value: text that Hydra would read as something else is quoted."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            text = escaped(value)
            return text if read(f"x={text}") == text else QuotedString(text, Quote.single).with_quotes()
        case _:
            return repr(value)


def escaped(text: str) -> str:
    """Return what a config must hold so that its value is the text: `${` would refer to another key."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def key_of(override: str) -> str:
    """Return the key that an override sets, or the group."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def read(text: str) -> Any:
    """Return the value of an override, which is the text of a quoted one; None where Hydra cannot read it."""
    try:
        value = OverridesParser.create().parse_override(text).value()
    except HydraException:
        return None
    return value.text if isinstance(value, QuotedString) else value


def hydra_config() -> DictConfig:
    """Return Hydra's own settings of the running job."""
    return cast(DictConfig, HydraConfig.get())


def queued(hydra: DictConfig) -> str:
    """Return which of submitit's jobs this is, however often its queue begins it; nothing where it is none."""
    launcher = str(hydra.launcher.get("_target_"))
    return f"{launcher.rpartition('.')[2]} {hydra.job.id}" if "submitit" in launcher else ""


def overrides(hydra: DictConfig, of: str = "task") -> list[str]:
    """Return a job's overrides as they were typed; Hydra itself would resolve what they refer to."""
    return cast(list[str], OmegaConf.to_container(hydra.overrides[of], resolve=False))


def search_path(hydra: DictConfig) -> list[str]:
    """Return the override by which a job was given more places for config files, if there is one."""
    return [item for item in overrides(hydra, "hydra") if item.startswith("hydra.searchpath=")]


def config_source(hydra: DictConfig) -> list[str]:
    """Return the options that find the config files where a job found them, from any directory."""
    words: list[str] = []
    found = [(each.provider, _location(each, hydra)) for each in hydra.runtime.config_sources]
    main, name = dict(found)["main"], str(hydra.job.config_name).removesuffix(".yaml")
    if (main, name) != (dict(found).get("halving"), "config"):
        words += ["-cp", main, "-cn", name]
    words += [word for provider, path in found if provider == "command-line" for word in ("--config-dir", path)]
    paths = [path for provider, path in found if provider.startswith("hydra.searchpath in ")]
    return words + ([f"hydra.searchpath=[{','.join(map(literal, paths))}]"] if paths else [])


def one_job(hydra: DictConfig) -> list[str]:
    """Return the override by which a config that is a multirun by itself is one job, if it is."""
    return ["hydra.mode=RUN"] if hydra.sweeper.get("params") else []


def _location(source: DictConfig, hydra: DictConfig) -> str:
    return str(Path(hydra.runtime.cwd, source.path)) if source.schema == "file" else f"{source.schema}://{source.path}"
