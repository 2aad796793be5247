"""Whether a run directory is whole: its journal, its checkpoints, and the files that follow from the journal."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from halving.checkpoints import confirmation, inside, is_kept
from halving.checkpoints.links import strays
from halving.checkpoints.store import Store
from halving.config.trials import config_of
from halving.errors import UserError
from halving.history import Header, History, Trial
from halving.journal import FILE, decode, replay
from halving.journal.lock import owner
from halving.redaction import REDACTED
from halving.report.derived import TABLES
from halving.tracking.wording import count
from halving.training.own import hashed

_LIVE = ("running", "paused")


@dataclass(frozen=True)
class Finding:
    """What was looked at, and either what is good about it or, not `ok`, what is wrong and what to do."""

    subject: str
    ok: bool
    text: str


def verify(run_dir: Path) -> Iterator[Finding]:
    """Yield a finding on each part of a run directory.

    Raises UserError without a journal, and while a study still writes it. Where there are links, nothing else is read.
    """
    if found := list(strays(run_dir)):
        for stray, what in found:
            yield Finding(stray.relative_to(run_dir).as_posix(), False, f"is {what}; remove it, nothing here is read")
        return
    path = run_dir / FILE
    if not path.is_file():
        raise UserError(f"{run_dir}: no {FILE} there; give the directory that a run printed as its own")
    refuse_running(run_dir)
    raw = path.read_bytes()
    try:
        events, end = decode(raw, path)
    except UserError as error:
        yield Finding(FILE, False, str(error))
        return
    torn = f"{count(len(raw) - end, 'bytes')} from byte {end} on: a torn record, which resuming sets aside"
    yield Finding(FILE, end == len(raw), count(len(events), "records") if end == len(raw) else torn)
    history = replay(events).closed()
    if history.header is None:
        yield Finding(FILE, False, "it has no header: the study died before it began; start it anew")
        return
    yield from _checkpoints(run_dir, history)
    yield from _tables(run_dir, history)
    yield _present(run_dir, "report.html", "rebuild writes it")
    if history.ended is not None and history.ended.command and history.header.provenance.by_command:
        yield _present(run_dir, "best.yaml", "resuming the study writes it")


def _checkpoints(run_dir: Path, history: History) -> Iterator[Finding]:
    kept = {trial.trial: trial for trial in history.trials.values() if trial.checkpoint and _can_go_on(history, trial)}
    found = [_checkpoint(run_dir, history, trial) for trial in kept.values()]
    yield from (finding for finding in found if not finding.ok)
    if whole := sum(finding.ok for finding in found):
        yield Finding("checkpoints", True, f"{whole} whole")
    directory = run_dir / "checkpoints"
    for path in sorted((*directory.glob("*"), *directory.glob("*/*"))):
        name = path.relative_to(run_dir).as_posix()
        trial = history.trials.get(int(path.parent.name)) if path.parent.name.isdecimal() else None
        if path.is_dir() and path.parent == directory and not path.is_symlink():
            continue
        if (number := confirmation(path.parent.name)) is not None and is_kept(history, number):
            continue
        # An assignment that was interrupted goes on from whatever it has left.
        if trial is None or not (trial.state == "running" or (trial.trial in kept and trial.checkpoint == name)):
            yield Finding(name, False, "no trial can go on from it; delete it")


def _can_go_on(history: History, trial: Trial) -> bool:
    best = history.incumbent
    return trial.state in _LIVE or (best is not None and best[0] is trial)


def _checkpoint(run_dir: Path, history: History, trial: Trial) -> Finding:
    assert history.header is not None and trial.checkpoint is not None
    try:
        inside(run_dir, trial.checkpoint)
        Store(run_dir).load(trial.trial, _resource(trial), _hashed(history.header, trial))
    except UserError as error:
        return Finding(trial.checkpoint, False, str(error))
    return Finding(trial.checkpoint, True, f"trial {trial.trial} at {_resource(trial)}, whole")


def _hashed(header: Header, trial: Trial) -> str:
    """Return the hash of what a trial was trained from. Raises UserError where the header does not tell."""
    from halving.training.recipe import config_hash  # it loads torch, which a study without checkpoints does not need

    if not header.provenance.by_command:
        return hashed(header.seed, trial.trial, trial.configuration)
    config = config_of(header, trial.configuration, trial.trial)
    if REDACTED in repr(config):
        raise UserError("cannot be compared with its configuration, which holds a secret that is not recorded")
    return config_hash(config)


def _resource(trial: Trial) -> int:
    """Return the resource at which the newest checkpoint of a trial was written."""
    named = (e.finished for e in reversed(trial.evaluations) if e.finished is not None and e.finished.checkpoint)
    return next(named).outcome.resource


def _tables(run_dir: Path, history: History) -> Iterator[Finding]:
    for name, text in TABLES.items():
        yield _compared(run_dir / name, text(history).encode(errors="backslashreplace"))


def _compared(path: Path, expected: bytes) -> Finding:
    if not path.is_file():
        return Finding(path.name, False, "is not there; rebuild writes it")
    found = path.read_bytes()
    if found == expected:
        return Finding(path.name, True, "follows from the journal")
    pairs = zip(found.splitlines(), expected.splitlines(), strict=False)
    line = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), None)
    where = f"line {line} differs" if line else "its length differs"
    return Finding(path.name, False, f"{where} from what the journal gives; rebuild writes it anew")


def _present(run_dir: Path, name: str, remedy: str) -> Finding:
    there = (run_dir / name).is_file()
    return Finding(name, there, "is there" if there else f"is not there; {remedy}")


def refuse_running(run_dir: Path) -> None:
    """Raise UserError, which names the owner, while a study holds the lock of its run directory."""
    if who := owner(run_dir):
        raise UserError(f"{run_dir} is being written by {who}; wait until that has ended")
