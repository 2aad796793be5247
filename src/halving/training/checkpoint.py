"""A trial's state on disk: written so that no crash can leave half of it, read so that no damage goes unseen."""

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from halving.errors import StorageError, UserError


@dataclass(frozen=True)
class Checkpoint:
    """What trial `trial` is after `resource` units; `config` is the hash of the configuration it was trained with."""

    trial: int
    resource: int
    config: str
    state: Mapping[str, Any]


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint durably: a temporary file beside it, fsync, rename, fsync of the directory.

    Raises StorageError if the disk refuses; an older checkpoint is then untouched.
    """
    content = {
        "trial": checkpoint.trial,
        "resource": checkpoint.resource,
        "config": checkpoint.config,
        "state": checkpoint.state,
    }
    serialised = io.BytesIO()
    torch.save(content | {"digest": digest(content)}, serialised)
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(serialised.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror}; make room") from error


def load(path: Path, trial: int, resource: int, config: str) -> Checkpoint:
    """Read the checkpoint of `trial` at `resource`, trained with the configuration hashed as `config`.

    Raises UserError, which names the file, if it is missing, damaged or another's.
    """
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint there")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        expected = content.pop("digest")
    except Exception as error:
        raise UserError(f"{path} is damaged: it is no readable checkpoint ({type(error).__name__})") from error
    if digest(content) != expected:
        raise UserError(f"{path} is damaged: its content does not match its digest")
    found = Checkpoint(**content)
    for name, have, want in (
        ("trial", found.trial, trial),
        ("resource", found.resource, resource),
        ("config", found.config, config),
    ):
        if have != want:
            raise UserError(f"{path} is not the checkpoint asked for: its {name} is {have}, not {want}")
    return found


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
