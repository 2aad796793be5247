"""A checkpoint's content as one file: no crash can leave half of it, and no damage goes unseen."""

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from halving.checkpoints.files import durable
from halving.errors import StorageError, UserError


def write(content: Mapping[str, Any], path: Path) -> None:
    """Write a mapping durably, with its digest: a temporary file beside it, fsync, rename, fsync of the directory.

    Raises StorageError if the disk refuses; an older file is then untouched.
    """
    serialised = io.BytesIO()
    torch.save({**content, "digest": digest(content)}, serialised)
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(serialised.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        durable(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror}; make room") from error


def read(path: Path) -> dict[str, Any]:
    """Return what `write` wrote, on the CPU. Raises UserError, which names the file, if it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint there")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        expected = content.pop("digest")
    except Exception as error:
        raise UserError(f"{path} is damaged: it is no readable checkpoint ({type(error).__name__})") from error
    if digest(content) != expected:
        raise UserError(f"{path} is damaged: its content does not match its digest")
    return content


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
