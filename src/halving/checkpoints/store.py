"""The one place where trials are put down and taken up again: on the disk, and the last one also in memory."""

import errno
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

from halving.checkpoints.files import copy, digests, durable, make, refused, room
from halving.checkpoints.names import DIRECTORY, WORKING, draft, inside, path, remove, resources, supersede
from halving.errors import UserError
from halving.trial import Job, Restarted


@dataclass(frozen=True)
class State:
    """What a trial is after `resource` units: nested mappings and sequences of tensors and scalars, and own files."""

    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    files: Path | None = None
    resource: int = 0


class Suspended(Protocol):
    """A training that stays in memory while its trial is paused."""

    def close(self) -> None: ...


@dataclass
class Store:
    """The checkpoints of a study, below its run directory.

    Each names its trial, its resource and a hash of the configuration that it was trained with. One paused trial stays
    in memory besides, for the case that it goes on here: then nothing needs to be built or read. In another process
    that is empty.
    """

    run_dir: Path
    seconds: float = 0.0  # that the last save took
    _at: tuple[int, int, str] | None = None
    _suspended: Suspended | None = None

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.run_dir,)

    def save(self, trial: int, resource: int, config: str, state: State) -> str:
        """Write a checkpoint durably and return its path below the run directory.

        Raises StorageError if the disk refuses; older ones are then untouched.
        """
        from halving.checkpoints.content import write

        began = time.perf_counter()
        below = path(trial, resource)
        inside(self.run_dir, str(Path(below).parent))
        content = {"trial": trial, "resource": resource, "config": config, "state": dict(state.values)}
        if state.files is None:
            write(content, self.run_dir / below)
            if (files := (self.run_dir / below).with_suffix("")).is_dir():  # of a training that was mended since
                remove(files)
        else:
            below = below.removesuffix(".pt")
            with drafted(self.run_dir / below) as drawn:
                copy(state.files, drawn / "files", sync=True)
                write(content | {"files": digests(drawn / "files")}, drawn / "state.pt")
        self.seconds = time.perf_counter() - began
        return below

    def load(self, trial: int, resource: int, config: str | None) -> State:
        """Return a trial's state, trained with the configuration hashed as `config`, or any where that is None.

        Raises UserError, which names the file, if it is missing, damaged or another's.
        """
        from halving.checkpoints.content import read

        directory = inside(self.run_dir, f"{DIRECTORY}/{trial}/{resource}")
        files = directory / "files" if directory.is_dir() and not directory.is_symlink() else None
        file = directory.with_suffix(".pt") if files is None else directory / "state.pt"
        content = read(inside(self.run_dir, str(file.relative_to(self.run_dir))))
        wanted = {"trial": trial, "resource": resource, "config": content.get("config") if config is None else config}
        for name, want in wanted.items():
            if (have := content.get(name)) != want:
                raise UserError(f"{file} is not the checkpoint asked for: its {name} is {have}, not {want}")
        if files is not None and (changed := _changed(files, content["files"])):
            raise UserError(f"{files / changed} is damaged: it is not as it was saved")
        return State(content["state"], files, resource)

    def newest(self, job: Job, config: str) -> Generator[Restarted, None, State]:
        """Return the newest whole state from which a job can go on, an empty one if there is none.

        It may lie beyond `job.since`, if the assignment was interrupted. Where one is damaged, or the one at
        `job.since` is missing, an older one serves, and a Restarted says so.
        """
        reasons: list[str] = []
        state = State()
        for resource in resources(self.run_dir, job.trial):
            if resource > job.until:
                continue
            try:
                state = self.load(job.trial, resource, config)
                break
            except UserError as error:
                reasons.append(str(error))
        if state.resource < job.since and not reasons:
            reasons.append(f"{job.label} has no checkpoint at {job.since}")
        if reasons:
            yield Restarted(job.trial, state.resource, "; ".join(reasons))
        return state

    def supersede(self, trial: int, since: int, resource: int) -> None:
        """Delete a trial's checkpoints below the one at `resource`, except the one at `since`."""
        supersede(self.run_dir, trial, since, resource)

    def working(self, trial: int, files: Path | None = None) -> Path:
        """Return a new directory to work in, with a copy of `files`, on the same file system as a trial's checkpoints.

        Raises StorageError if the disk refuses.
        """
        directory = inside(self.run_dir, f"{DIRECTORY}/{trial}") / f"{WORKING}{token_hex(8)}"
        with room(lambda: directory, place=True):
            try:
                make(directory.parent)
                directory.mkdir() if files is None else copy(files, directory)
            except OSError:
                remove(directory)
                raise
        return directory

    def keep(self, trial: int, resource: int, config: str, training: Suspended) -> None:
        """Remember a trial, trained to `resource` from the configuration hashed as `config`, and forget any other."""
        self.close()
        self._at, self._suspended = (trial, resource, config), training

    def take(self, trial: int, resource: int, config: str) -> Any:
        """Give away what is remembered, if it is the trial asked for, else None; forget it in any case."""
        if self._at != (trial, resource, config):
            self.close()
        found, self._at, self._suspended = self._suspended, None, None
        return found

    def close(self) -> None:
        """Let go of what is remembered."""
        if self._suspended is not None:
            self._suspended.close()
        self._at = self._suspended = None


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Give a directory to fill; whole, it takes the place of `path`. Raises StorageError if the disk refuses."""
    drawn = draft(path)
    try:
        make(drawn)
        yield drawn
        remove(path)
        try:
            drawn.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            remove(drawn)  # another worker has just left the same there
        durable(path.parent)
    except OSError as error:
        remove(drawn)
        raise refused(path, error) from error


def _changed(directory: Path, expected: Mapping[str, str]) -> str:
    """Return the first name below a directory that is not as expected: another content, missing or too much."""
    found = digests(directory) if directory.is_dir() and not directory.is_symlink() else {}
    differing = (name for name in sorted({**expected, **found}) if found.get(name) != expected.get(name))
    return next(differing, "")
