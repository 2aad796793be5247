"""A checkpoint's content as one file: no crash can leave half of it, and no damage goes unseen."""

import hashlib
import io
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from halving.checkpoints.files import put
from halving.errors import StudyError, UserError

_ARRAY = "numpy.ndarray"  # marks a tensor that was one
_DTYPES = ("bool", *(f"{kind}int{n}" for kind in ("", "u") for n in (8, 16, 32, 64)), "float16", "float32", "float64")
_SCALARS = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_MAPPINGS = (dict, OrderedDict, Counter)
_SEQUENCES = (list, tuple, torch.Size)


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write a mapping durably, with its digest.

    Raises StorageError if the disk refuses, and StudyError for what could not be read again; an older file is then
    untouched.
    """
    content = storable(content, "checkpoint")
    serialised = io.BytesIO()
    torch.save({**content, "digest": digest(content)}, serialised)
    put(serialised.getbuffer(), path)


def read(path: Path) -> dict[str, Any]:
    """Return what `write` wrote, on the CPU. Raises UserError, which names the file, if it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint there")
    try:
        with torch.inference_mode(False):  # what is trained on could not be one of its tensors
            content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        expected = content.pop("digest")
    except Exception as error:
        raise UserError(f"{path} is damaged: it is no readable checkpoint ({type(error).__name__})") from error
    if digest(content) != expected:
        raise UserError(f"{path} is damaged: its content does not match its digest")
    return _returned(content)


def storable(value: Any, at: str) -> Any:
    """Return a value as a checkpoint may hold it: NumPy's scalars as Python's, and its arrays as marked tensors.

    Raises StudyError, which names the place, for what could not be loaded again without running code of its own.
    """
    match value:
        case np.generic() if type(value.item()) in _SCALARS:
            return value.item()
        case np.ndarray() if type(value) is np.ndarray and value.dtype.name in _DTYPES and value.dtype.isnative:
            return {_ARRAY: torch.from_numpy(value.copy())}
        case torch.Tensor() if type(value) in (torch.Tensor, torch.nn.Parameter) and _dense(value):
            return value
        case _ if type(value) in _SCALARS:
            return value
        case _ if type(value) in (*_MAPPINGS, *_SEQUENCES):
            return _rebuilt(value, lambda child, name: storable(child, f"{at}[{name!r}]"))
        case _:
            raise StudyError(
                f"{at} is of type {type(value).__name__}, which a checkpoint cannot hold: let the state be of numbers, "
                "text, dense tensors, arrays, lists and dicts, or write it to trial.directory yourself"
            )


def digest(content: Any) -> str:
    """Return a SHA-256 over nested mappings, sequences, scalars and tensors."""
    total = hashlib.sha256()
    _digest(content, total.update)
    return total.hexdigest()


def _digest(node: Any, update: Any) -> None:
    match node:
        case Mapping():
            update(b"{%d" % len(node))
            for name, value in node.items():
                update(repr(name).encode())
                _digest(value, update)
        case list() | tuple():
            update(b"[%d" % len(node))
            for value in node:
                _digest(value, update)
        case torch.Tensor():
            update(f"{node.dtype}{tuple(node.shape)}".encode())
            update(node.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        case _:
            update(repr(node).encode())


def _returned(value: Any) -> Any:
    """Turn what was marked back into arrays."""
    match value:
        case dict() if isinstance(tensor := value.get(_ARRAY), torch.Tensor):
            return tensor.numpy()
        case dict() | list() | tuple():
            return _rebuilt(value, lambda child, _: _returned(child))
        case _:
            return value


def _rebuilt(value: Any, each: Callable[[Any, Any], Any]) -> Any:
    """Return a mapping or sequence with `each(child, name)` in the place of its children, itself where all are same."""
    if not isinstance(value, Mapping):
        items = [each(child, i) for i, child in enumerate(value)]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else type(value)(items)
    pairs = [(each(name, name), each(child, name)) for name, child in value.items()]
    if all(new[0] is old[0] and new[1] is old[1] for new, old in zip(pairs, value.items(), strict=True)):
        return value
    rebuilt: Any = copy(value)  # which a module's state has an attribute on
    rebuilt.clear()
    for name, child in pairs:
        rebuilt[name] = child
    return rebuilt


def _dense(tensor: torch.Tensor) -> bool:
    return tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_meta or tensor.is_nested)
