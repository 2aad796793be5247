"""A model of a disk that loses, when the power fails, what was not made durable."""

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@dataclass
class Disk:
    """Knows of the files below `root` what would be left now: `left` after every call that changes that, and whenever
    it is told to `note` it.

    What a file holds is durable once it was synced, and its name once its directory was, as POSIX has it; deletions are
    at once. `watch` is asked, at each of these moments, what had been done by then.
    """

    root: Path
    watch: Callable[[], Any]
    left: list[tuple[dict[int, bytes], dict[int, dict[str, int]], Any]] = field(default_factory=list)
    _contents: dict[int, bytes] = field(default_factory=dict)
    _names: dict[int, dict[str, int]] = field(default_factory=dict)
    _held: dict[int, int] = field(default_factory=dict)  # so that no other file gets the number of one that has gone

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand between the program and the disk."""
        unlink, rmtree = os.unlink, shutil.rmtree
        patch.setattr(os, "fsync", self._sync)
        patch.setattr(os, "unlink", lambda path, **options: (unlink(path, **options), self._forget(Path(path)))[0])
        patch.setattr(
            shutil,
            "rmtree",
            lambda path, *rest, **options: (rmtree(path, *rest, **options), self._forget(Path(path)))[0],
        )

    def note(self) -> None:
        """Remember what would be left now."""
        names = {number: dict(each) for number, each in self._names.items()}
        self.left.append((dict(self._contents), names, self.watch()))

    def restore(self, state: int, target: Path) -> None:
        """Make a directory as it would be found after the power had failed in a state of `left`."""
        contents, names, _ = self.left[state]

        def make(number: int, path: Path) -> None:
            if stat.S_ISDIR(os.fstat(self._held[number]).st_mode):
                path.mkdir()
                for name, child in names.get(number, {}).items():
                    make(child, path / name)
            else:
                path.write_bytes(contents.get(number, b""))

        make(self._number(self.root), target)

    def close(self) -> None:
        for fd in self._held.values():
            os.close(fd)

    def _sync(self, file: Any) -> None:
        path = Path(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}").readlink()
        number = self._number(path)
        if path.is_dir():
            self._names[number] = {each.name: self._number(each) for each in path.iterdir()}
        else:
            self._contents[number] = path.read_bytes()
        self.note()

    def _forget(self, path: Path) -> None:
        if path.parent.is_dir() and self._names.get(self._number(path.parent), {}).pop(path.name, None) is not None:
            self.note()

    def _number(self, path: Path) -> int:
        number = path.stat().st_ino
        if number not in self._held:
            self._held[number] = os.open(path, os.O_RDONLY)
        return number
