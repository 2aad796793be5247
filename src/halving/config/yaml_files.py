"""YAML that OmegaConf reads as it was meant, and Hydra's own files without secrets."""

import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_omega_conf_dumper

from halving.redaction import Secrets
from halving.report.derived import replace

_BREAK = re.compile("[\x85\u2028\u2029]")


def redact_files(secrets: Secrets, *paths: Path) -> None:
    """Rewrite those of some YAML files, such as Hydra's own, that are there and hold secrets."""
    for path in paths:
        if path.is_symlink() or not path.is_file():
            continue
        content = OmegaConf.to_container(OmegaConf.load(path))
        if (clean := secrets.redact(content)) != content:
            replace(path, yaml_text(clean))


def yaml_text(content: Any) -> str:
    """Return plain containers as YAML that OmegaConf reads as they are; what the standard calls a number is quoted."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(get_omega_conf_dumper()):
    """OmegaConf's own, which also keeps the line breaks of Unicode: only double quotes escape them."""

    def represent_scalar(self, tag: str, value: str, style: str | None = None) -> yaml.ScalarNode:
        return super().represent_scalar(tag, value, '"' if _BREAK.search(value) else style)
