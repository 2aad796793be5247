"""A program that a trial runs, which leaves nothing behind."""

import os
import signal
import subprocess
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from secrets import token_hex
from typing import IO

from halving.errors import UserError

# Ends the group of a program when the pipe closes, whose other end this process holds until its death.
_WATCH = 'read -r _; kill -KILL -"$0"'


@contextmanager
def grouped(
    words: Sequence[str], env: Mapping[str, str], errors: IO[str]
) -> Generator[tuple[subprocess.Popen[bytes], Iterator[str]]]:
    """Run a program whose whole process group ends with it, with the context, and with this process.

    Its lines end with it as well: what it leaves behind, outside of the group too, may hold its output open.
    """
    reading, writing = os.pipe()
    output, mark = os.fdopen(reading, errors="replace"), f"{token_hex(16)}\n"
    try:
        program = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=writing, stderr=errors, env=env, start_new_session=True
        )
    except OSError as error:
        output.close()
        os.close(writing)
        raise UserError(f"fidelity.command: cannot run {words[0]}: {error.strerror}") from error

    def end() -> None:
        program.wait()
        with suppress(OSError):
            os.killpg(program.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            os.write(writing, f"\n{mark}".encode())
        os.close(writing)

    ending = threading.Thread(target=end, daemon=True)
    ending.start()
    watch = subprocess.Popen(["/bin/sh", "-c", _WATCH, str(program.pid)], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield program, iter(output.readline, mark)
    finally:
        with suppress(OSError):
            os.killpg(program.pid, signal.SIGKILL)
        output.close()
        ending.join()
        watch.kill()
        watch.communicate()
