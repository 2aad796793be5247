"""Fetching files that are not there, quickly or not at all."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

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
