"""What YAML says, and the interpolations in it, which depends on nothing but their text: read once by a process."""

import copy
import functools
import sys
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf, grammar_parser

import halving

_read, _texts = yaml.load, dict[tuple[str, str], Any]()


def _load(stream: Any, Loader: Any) -> Any:
    text = stream if isinstance(stream, str) else stream.read()
    if (Loader.__name__, text) not in _texts:
        _texts[Loader.__name__, text] = _read(text, Loader)
    return copy.deepcopy(_texts[Loader.__name__, text])


yaml.load = _load
_parse = grammar_parser.parse
for _name, _module in [*sys.modules.items()]:
    if _name.startswith("omegaconf.") and getattr(_module, "parse", None) is _parse:
        _module.parse = functools.cache(_parse)  # pyright: ignore[reportAttributeAccessIssue]
for _path in Path(halving.__path__[0], "conf").rglob("*.yaml"):
    OmegaConf.load(_path)
