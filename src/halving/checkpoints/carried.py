"""Checkpoints on their way between disks that are not shared."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from halving.checkpoints.files import put
from halving.checkpoints.names import DIRECTORY, inside, resources
from halving.checkpoints.store import drafted


@dataclass(frozen=True, slots=True)
class Parcel:
    """A checkpoint's content: of a file, or of each file below a directory by its name, where None is a directory."""

    trial: int
    resource: int
    content: bytes | Mapping[str, bytes | None]


def packed(run_dir: Path, trial: int, resource: int) -> Parcel:
    """Return a checkpoint below a run directory, to be carried to another."""
    directory = inside(run_dir, f"{DIRECTORY}/{trial}/{resource}")
    if not directory.is_dir():
        return Parcel(trial, resource, directory.with_suffix(".pt").read_bytes())
    return Parcel(trial, resource, dict(_below(directory, directory)))


def unpack(parcel: Parcel, run_dir: Path) -> None:
    """Put a checkpoint durably below a run directory. Raises StorageError if the disk refuses."""
    directory = inside(run_dir, f"{DIRECTORY}/{parcel.trial}/{parcel.resource}")
    if isinstance(parcel.content, bytes):
        put(parcel.content, directory.with_suffix(".pt"))
        return
    with drafted(directory) as draft:
        for name, content in parcel.content.items():
            if content is None:
                inside(draft, name).mkdir(parents=True, exist_ok=True)
            else:
                put(content, inside(draft, name))


def parcels(run_dir: Path, trial: int, most: int) -> tuple[Parcel, ...]:
    """Return what a trial could go on from to `most`, the newest first."""
    return tuple(packed(run_dir, trial, each) for each in resources(run_dir, trial) if each <= most)


def _below(root: Path, directory: Path) -> Iterator[tuple[str, bytes | None]]:
    for entry in sorted(directory.iterdir()):
        name = entry.relative_to(root).as_posix()
        if entry.is_dir():
            yield name, None
            yield from _below(root, entry)
        else:
            yield name, entry.read_bytes()
