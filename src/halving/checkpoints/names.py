"""Where the checkpoints of a study lie, and which of them may go.

One is a file `<trial>/<resource>.pt` or, where a training leaves files of its own, a directory `<trial>/<resource>`.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex

from halving.errors import UserError
from halving.history import History, Trial

DIRECTORY = "checkpoints"
WORKING = "working-"  # begins the name of a directory that a training works in, beside the trial's checkpoints


def path(trial: int, resource: int) -> str:
    """Return the path of a checkpoint that is a file, below the run directory."""
    return f"{DIRECTORY}/{trial}/{resource}.pt"


def inside(run_dir: Path, name: str) -> Path:
    """Return the path of what has a name below a run directory.

    Raises UserError if it lies elsewhere: absolute, above the run directory, or behind a symbolic link.
    """
    path = run_dir / name
    if not path.resolve().is_relative_to(run_dir.resolve()):
        raise UserError(f"{path} lies outside of {run_dir}; it is neither read nor written")
    return path


def resources(run_dir: Path, trial: int) -> list[int]:
    """Return the resources at which a trial has checkpoints, the most first."""
    found = inside(run_dir, f"{DIRECTORY}/{trial}").glob("*")
    return sorted(
        {int(each.stem) for each in found if each.stem.isdecimal() and each.suffix in ("", ".pt")}, reverse=True
    )


def named(trial: Trial) -> tuple[int, ...]:
    """Return the resource of the checkpoint that the journal names as a trial's newest, if there is one."""
    return () if trial.checkpoint is None else (int(Path(trial.checkpoint).stem),)


def draft(path: Path) -> Path:
    """Return another name beside a checkpoint's: a new one each time, as two workers may write the same."""
    return path.with_name(f"{path.stem}.{token_hex(8)}.tmp")


def supersede(run_dir: Path, trial: int, since: int, resource: int) -> None:
    """Delete what lies below a checkpoint, except at `since`: a worker that was given up has newer ones to leave."""
    for path in inside(run_dir, f"{DIRECTORY}/{trial}").glob("*"):
        at = path.name.partition(".")[0]
        if at.isdecimal() and int(at) < resource and int(at) != since:
            remove(path)


def discard(run_dir: Path, trial: int, but: Iterable[int] = ()) -> None:
    """Delete a trial's checkpoints, except those at some resources and what it works in; without these, everything.

    This is for whoever knows that nobody works on the trial.
    """
    directory = inside(run_dir, f"{DIRECTORY}/{trial}")
    kept = {f"{resource}{suffix}" for resource in but for suffix in ("", ".pt")}
    if not kept:
        shutil.rmtree(directory, ignore_errors=True)
        return
    for path in directory.glob("*"):
        if path.name not in kept and not path.name.startswith(WORKING):
            remove(path)


def remove(path: Path) -> None:
    """Delete a file, or a directory with all that is in it; a link goes, and what it leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def confirmation(name: str) -> int | None:
    """Return the number of the confirmation whose checkpoints lie in a directory of this name, if they do."""
    return int(name[1:]) if name.startswith("-") and name[1:].isdecimal() else None


def is_kept(history: History, number: int) -> bool:
    """Whether the checkpoints of a confirmation are needed: to choose, and of the chosen trial afterwards."""
    found = history.confirmations.get(number)
    return found is not None and (history.chosen is None or found.asked.trial == history.chosen.trial)


def sweep(run_dir: Path, history: History) -> None:
    """Delete what nobody needs any more: checkpoints of ended trials, replaced ones, and what trainings worked in."""
    best = history.incumbent
    for found in inside(run_dir, DIRECTORY).glob("*"):
        directory = inside(run_dir, f"{DIRECTORY}/{found.name}")
        number = confirmation(directory.name)
        trial = history.trials.get(int(directory.name)) if directory.name.isdecimal() else None
        goes_on = trial is not None and (
            trial.state in ("running", "paused") or (best is not None and best[0] is trial)
        )
        if not goes_on and (number is None or not is_kept(history, number)):
            shutil.rmtree(directory, ignore_errors=True)
            continue
        for path in (*directory.glob(f"{WORKING}*"), *directory.glob("*.tmp")):
            remove(path)
        if trial is not None and trial.state != "running":
            discard(run_dir, trial.trial, named(trial))
