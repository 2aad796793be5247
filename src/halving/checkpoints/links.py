"""What a run directory may not hold: links, pipes and devices, by which a stranger's could reach what lies outside."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from halving.errors import UserError

# What a study or a multirun leaves in its directory, which may hold other things of its user's besides.
_OURS = re.compile(
    r"journal\..*|checkpoints|(results|curves|metrics|jobs)\.csv|summary\.json|(best|multirun)\.yaml|failure\.txt|.*\.log"
    r"|report\.html|comparison\.(html|csv|png|svg)|sensitivity\.png|wandb_report\.(json|html)"
    r"|\.hydra|wandb|tensorboard|\..*\.tmp|\.rebuild-.*|\d+"
)
_WORKING = re.compile(r"checkpoints/[^/]+/working-[^/]+")  # a training's own, deleted without being read
# W&B's own links, which it replaces and nobody follows: to its newest run, and to the log of its service.
_NEWEST = re.compile(r"wandb/(latest-run|debug(-internal|-cli\..*)?\.log)(\.\d+)?")
_SERVICE = re.compile(r"wandb/[^/]*run-[^/]+/logs/debug-core\.log")
_KINDS = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def strays(run_dir: Path, written: bool = True, more: str = "") -> Iterator[tuple[Path, str]]:
    """Yield what among a run directory's own files is none, with what it is instead.

    A file of several names is one only where it may be `written`: what is read through another name is the same.
    The directory itself may be reached by a link. `more` is the name of another one that Hydra writes there.
    """
    yield from _strays(run_dir, run_dir, written, more)


def refuse(run_dir: Path, written: bool = True, more: str = "") -> None:
    """Raise UserError, which names the first, where a run directory holds what leads out of it."""
    for path, what in strays(run_dir, written, more):
        raise UserError(
            f"{path} is {what}, as no study leaves it; nothing was done: remove it, or put what it stands for into "
            f"{run_dir} itself (which may be a link as a whole)"
        )


def create(path: Path) -> int:
    """Return a descriptor of a new file to write; what had this name before is removed, and not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o666)
    except FileExistsError:
        path.unlink()
        return os.open(path, flags, 0o666)


def _strays(root: Path, directory: Path, written: bool, more: str = "") -> Iterator[tuple[Path, str]]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):  # a study that runs may have deleted it
        return
    for entry in entries:
        path = Path(entry.path)
        below = path.relative_to(root).as_posix()
        ours = directory != root or entry.name == more or _OURS.fullmatch(entry.name)
        if not ours or _WORKING.fullmatch(below):
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(found.st_mode):
            if directory != root or not entry.name.isdigit():  # a multirun's job, which is looked at by itself
                yield from _strays(root, path, written)
        elif stat.S_ISLNK(found.st_mode):
            if not (_SERVICE.fullmatch(below) or (_NEWEST.fullmatch(below) and _within(path, root / "wandb"))):
                yield path, f"a symbolic link to {path.readlink()}"
        elif not stat.S_ISREG(found.st_mode):
            yield path, f"a {_KINDS.get(stat.S_IFMT(found.st_mode), 'special file')}"
        elif written and found.st_nlink > 1:
            yield path, "a file that has another name elsewhere (a hard link)"


def _within(path: Path, directory: Path) -> bool:
    try:
        return path.resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError):  # a circle
        return False
