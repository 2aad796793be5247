"""What a process need not do again, or at such length, and comes to the same."""

import copy
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra._internal import defaults_list
from hydra.core.default_element import InputDefault
from omegaconf import OmegaConf
from omegaconf.base import ContainerMetadata, Metadata

import halving.config

_choices = defaults_list._create_interpolation_map
_read, _texts = yaml.load, dict[tuple[str, str], Any]()


def _load(stream: Any, Loader: Any) -> Any:
    text = stream if isinstance(stream, str) else stream.read()
    if (Loader.__name__, text) not in _texts:
        _texts[Loader.__name__, text] = _read(text, Loader)
    return copy.deepcopy(_texts[Loader.__name__, text])


def _copied(metadata: Metadata, memo: Any) -> Metadata:
    """Copy what has no depth but in its flags and its cache, which copy.deepcopy would find out at length."""
    found = object.__new__(type(metadata))
    found.__dict__.update(metadata.__dict__, flags=copy.copy(metadata.flags))
    found.resolver_cache = copy.deepcopy(metadata.resolver_cache)
    return found


def _chosen(overrides: Any, found: list[InputDefault], self_added: bool) -> Any:
    """Note what was chosen, which only an interpolation asks."""
    asked = any(isinstance(each, InputDefault) and each.is_interpolation() for each in found)
    return _choices(overrides, found, self_added) if asked else None


defaults_list._create_interpolation_map = _chosen
Metadata.__deepcopy__ = ContainerMetadata.__deepcopy__ = _copied  # type: ignore[attr-defined]
for _kind in (torch.cuda, torch.xpu, torch.mtia):
    if (
        not _kind._is_compiled()
    ):  # else torch.manual_seed formats a traceback for each kind of device, once there is one
        _kind.manual_seed_all = lambda seed: None  # type: ignore[assignment]
yaml.load = _load
for _path in Path(halving.__path__[0], "conf").rglob("*.yaml"):  # whose interpolations are read, too
    OmegaConf.load(_path)
