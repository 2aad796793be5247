"""A training's own files: copied as they are at one moment, and known by their digests."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from halving.checkpoints.links import create
from halving.checkpoints.names import draft
from halving.errors import StorageError, StudyError, UserError

_CHUNK = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_PLACE = (errno.ENOTDIR, errno.EROFS, errno.EIO, errno.ESTALE)


def copy(source: Path, target: Path, sync: bool = False) -> None:
    """Copy a directory's files and subdirectories to `target`, which is made; links are followed.

    Where the file system shares blocks between files, nothing is written twice. With `sync` the copy is durable.

    Raises StudyError for what is neither, and for a link that leads to nothing or back to where it lies.
    """
    target.mkdir(parents=True)
    for entry in sorted(source.iterdir()):
        if entry.is_dir() and not source.resolve().is_relative_to(entry.resolve()):
            copy(entry, target / entry.name, sync)
        elif entry.is_file():
            _copy_file(entry, target / entry.name, sync)
        else:
            raise StudyError(
                f"{entry} in trial.directory is neither a file nor a directory, nor a link to one: remove it"
            )
    if sync:
        durable(target)


def digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a directory by its relative name, and an empty text for a directory.

    Raises UserError for what is neither: a stranger's link could lead anywhere.
    """
    return dict(_digests(directory, directory))


def durable(directory: Path) -> None:
    """Make a directory's entries durable."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def put(content: bytes | memoryview, path: Path) -> None:
    """Write a file durably: a draft beside it, fsync, rename, fsync of the directory.

    Raises StorageError if the disk refuses; an older file is then untouched.
    """
    drawn = draft(path)
    try:
        make(path.parent)
        with os.fdopen(create(drawn), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        drawn.replace(path)
        durable(path.parent)
    except OSError as error:
        drawn.unlink(missing_ok=True)
        raise refused(path, error) from error


def make(directory: Path) -> None:
    """Make a directory, and those above it that are not there yet, so that their names are durable."""
    if not directory.is_dir():
        make(directory.parent)
        directory.mkdir(exist_ok=True)
        durable(directory.parent)


def _copy_file(source: Path, target: Path, sync: bool) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        try:
            while os.copy_file_range(read.fileno(), write.fileno(), 1 << 30):
                pass
        except (AttributeError, OSError) as error:  # it is not possible on this system, or between these file systems
            if isinstance(error, OSError) and error.errno in _NO_ROOM:
                raise
            read.seek(0)
            write.seek(0)
            shutil.copyfileobj(read, write, _CHUNK)
            write.flush()
        if sync:
            os.fsync(write.fileno())
    shutil.copymode(source, target)


def _digests(root: Path, directory: Path) -> Iterator[tuple[str, str]]:
    for entry in sorted(directory.iterdir()):
        name = entry.relative_to(root).as_posix()
        if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
            raise UserError(f"{entry} is neither a file nor a directory; it is not read")
        if entry.is_dir():
            yield name, ""
            yield from _digests(root, entry)
        else:
            with entry.open("rb") as file:
                yield name, hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def room(path: Callable[[], Path], place: bool = False) -> Iterator[None]:
    """Let a disk without room for what is done at `path` end the study, as that is no trial's fault.

    So does, with `place`, one on which nothing can be there.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM or (place and error.errno in _NO_PLACE):
            raise refused(path(), error) from error
        raise


def refused(path: Path, error: OSError) -> StorageError:
    """Say that a checkpoint cannot be written, and what helps."""
    cure = "; make room" if error.errno in _NO_ROOM else ""
    at = f"{error.filename}: " if error.filename not in (None, str(path)) else ""
    return StorageError(f"cannot write {path}: {at}{error.strerror}{cure}")
