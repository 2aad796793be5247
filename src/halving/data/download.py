"""Fetching files that are not there, quickly or not at all, and keeping them."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 5.0


@contextmanager
def impatient() -> Iterator[None]:
    """Let network operations inside fail after `SECONDS` seconds of silence instead of hanging."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def keep(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: others may read it meanwhile."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
