"""A terminal that shows what a study is called and what failed, and is not commanded by it."""

import io
import os
import re
import select
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from halving.errors import UserError

_coming: list[str] = []  # what a terminal shows for now
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text with control characters, except newline and tab, written as escapes: `\\x1b[2J`."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def one_line(*mistakes: type[Exception]) -> Iterator[None]:
    """End the program with one line, and exit status 1, after a UserError or another of the user's `mistakes`.

    What a terminal has no letters for is shown as escapes, and a reader that has left, as `head` does, ends it quietly.
    """
    if os.environ.get("COLUMNS") == "0":  # so Emacs says that it does not know, and rich shows nothing
        del os.environ["COLUMNS"]
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115  (for those that are closed)
    sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        print(end="", flush=True)
    except BrokenPipeError:
        if not _unread():
            raise
        sys.exit(128 + signal.SIGPIPE)  # as what that ends, and no verdict
    except SystemExit:
        if refused := _refused():
            sys.exit(refused)
        raise
    except (UserError, *mistakes) as error:
        sys.exit(_refused() or printable(f"error: {error}"))
    except OSError:
        if not (refused := _refused()):
            raise
        sys.exit(refused)


def _refused() -> str:
    """Say why what was printed cannot arrive, as on a full disk, or nothing; if so, the rest goes nowhere."""
    try:
        print(end="", flush=True)
    except BrokenPipeError:  # its reader has left, which is no fault
        _print_nowhere()
    except OSError as error:
        _print_nowhere()
        return f"error: cannot print: {error.strerror}"
    return ""


def _unread() -> bool:
    """Whether what is printed has lost its reader; if so, the rest goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    lost = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if lost:
        _print_nowhere()
    return lost


def _print_nowhere() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def coming(text: str) -> Iterator[None]:
    """Show on a terminal that something is coming, until a Terminal prints, or what fails has to be said."""
    if sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        print(text, end="\r", file=sys.stderr, flush=True)
        _coming.append(text)
    try:
        yield
    finally:
        _come()


def _come() -> None:
    if _coming:
        _coming.clear()
        print(end="\x1b[K", file=sys.stderr, flush=True)


class Terminal(Console):
    """A rich console on which only rich itself moves the cursor or sets colours, and which reads no text as markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        _come()
        super().print(*objects, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        except OSError as full:  # as is the disk that the output is redirected to
            self.quiet = True
            _print_nowhere()
            with suppress(OSError):
                print(f"cannot print any more, and go on in silence: {full.strerror}", file=sys.stderr, flush=True)

    def on_broken_pipe(self) -> None:
        """Go on in silence: a study is worth more than what `head` left unread."""
        self.quiet = _unread()
