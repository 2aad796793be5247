"""A connection whose every message is signed."""

import hashlib
import hmac
import pickle
from multiprocessing.connection import Connection
from secrets import token_bytes
from typing import Any

_NONCE = _SIGNATURE = 32


class Signed:
    """Says and hears what is signed with `key`: what anybody else says, changes, repeats or leaves out ends it.

    Both sides give a nonce, so that nothing of another connection counts; which of them was connected to says `door`.
    What is said can be read by who listens.

    Raises OSError, at any time, where the other side has not the key.
    """

    def __init__(self, connection: Connection, key: bytes, door: bool) -> None:
        self._connection = connection
        own = token_bytes(_NONCE)
        connection.send_bytes(own)
        nonces = own + connection.recv_bytes(_NONCE) if door else connection.recv_bytes(_NONCE) + own
        keys = [hmac.digest(key, side + nonces, hashlib.sha256) for side in (b"door", b"guest")]
        self._own, self._theirs = keys if door else reversed(keys)
        self._sent = self._heard = 0

    def fileno(self) -> int:
        return self._connection.fileno()

    def poll(self) -> bool:
        return self._connection.poll()

    def send(self, what: object) -> None:
        self.send_bytes(pickle.dumps(what))

    def recv(self) -> Any:
        return pickle.loads(self.recv_bytes())

    def send_bytes(self, content: bytes) -> None:
        self._connection.send_bytes(_signature(self._own, self._sent, content) + content)
        self._sent += 1

    def recv_bytes(self, most: int | None = None) -> bytes:
        """Return what was said; whoever says more than `most` is not heard."""
        said = self._connection.recv_bytes(None if most is None else most + _SIGNATURE)
        signature, content = said[:_SIGNATURE], said[_SIGNATURE:]
        if not hmac.compare_digest(signature, _signature(self._theirs, self._heard, content)):
            raise ConnectionError("what it says is not signed with the study's key")
        self._heard += 1
        return content

    def close(self) -> None:
        self._connection.close()


def _signature(key: bytes, number: int, content: bytes) -> bytes:
    return hmac.digest(key, number.to_bytes(8) + content, hashlib.sha256)
