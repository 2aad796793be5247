"""Whatever follows from a journal, made anew: tables, the report and the offline W&B runs."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from halving.config.trials import config_of
from halving.errors import UserError, noted
from halving.history import Event, Header, History, Resumed
from halving.journal import read, replay
from halving.report.derived import write_all
from halving.report.exhibits import exhibit
from halving.report.tables import header_of
from halving.review.verification import refuse_running
from halving.tracking.runs import notes_text
from halving.tracking.tensorboard import FOLDER, TensorBoard, clear
from halving.tracking.wandb import Wandb
from halving.tracking.wandb_runs import STAGED
from halving.tracking.wording import count
from halving.trial import Configuration


def rebuild(run_dir: Path) -> list[str]:
    """Write results.csv, curves.csv, summary.json, report.html and what trackers wrote; return what was written.

    Offline W&B runs that were there are replaced once the new ones are whole, and nothing is uploaded. A study that was
    not mirrored in W&B or TensorBoard gets no runs there.

    Raises UserError if the journal is missing or damaged, while a study still writes it, and, once all else is
    written, for a file that cannot be.
    """
    events = read(run_dir)
    refuse_running(run_dir)
    history = replay(events)
    header = header_of(history)  # before anything is replaced by what an empty journal says
    problems = write_all(history, run_dir)
    written = ["results.csv", "curves.csv", "summary.json", "report.html"]
    if _options(header, TensorBoard) is not None or (run_dir / FOLDER).is_dir():
        with noted("TensorBoard's files could not be written", problems):
            _rebuild_tensorboard(run_dir.resolve(), events)
            written.append("TensorBoard's files")
    if (options := _options(header, Wandb)) is not None and options.get("mode") != "disabled":
        with noted("the offline W&B runs could not be written", problems):
            written.append(count(_rebuild_runs(run_dir, events, options), "offline W&B runs"))
    if problems:
        raise UserError("; ".join(problems))
    return written


def _options(header: Header, tracker: type[Wandb | TensorBoard]) -> dict[str, Any] | None:
    """Return the options of a tracker that a study had."""
    trackers: dict[str, Any] = header.provenance.config.get("tracker", {})
    name = f"{tracker.__module__}.{tracker.__name__}"
    return next((each for each in trackers.values() if isinstance(each, dict) and each.get("_target_") == name), None)


def _rebuild_tensorboard(run_dir: Path, events: list[tuple[Event, float]]) -> None:
    history = replay(events)
    moved = replay((_moved(event, run_dir, notes_text(history.notes)), at) for event, at in events)
    tracker = TensorBoard()
    clear(run_dir)
    tracker.resume(moved)


def _rebuild_runs(run_dir: Path, events: list[tuple[Event, float]], options: dict[str, Any]) -> int:
    here = run_dir.resolve()
    staged = list((here / "wandb" / STAGED).glob("*"))
    with TemporaryDirectory(dir=here, prefix=".rebuild-") as directory:
        header = header_of(replay(events))
        known = {key: options[key] for key in ("project", "entity", "max_open") if key in options}
        tracker = Wandb(mode="offline", **known, config=_configs(header), below=Path(directory))
        tracker.exhibits = partial(exhibit, run_dir=here)
        history, notes = History(), notes_text(replay(events).notes)
        for event, at in events:
            moved = _moved(event, here, notes)
            history.apply(moved, at)
            tracker.record(moved, history)
        tracker.close(history)
        runs = list((Path(directory) / "wandb").glob("offline-run-*"))
        if not runs:  # W&B is switched off on this machine
            return 0
        for old in (here / "wandb").glob("offline-run-*"):
            shutil.rmtree(old)
        for old in staged:
            old.unlink()
        (here / "wandb").mkdir(exist_ok=True)
        for run in runs:
            run.rename(here / "wandb" / run.name)
    return len(runs)


def _configs(header: Header) -> Callable[[Configuration, int], dict[str, Any]] | None:
    try:
        config_of(header, {}, 0)
    except UserError:
        return None
    return partial(config_of, header)


def _moved(event: Event, run_dir: Path, notes: str) -> Event:
    """Return the event as of where the study lies now, with all that has been noted of it."""
    match event:
        case Header() | Resumed() if event.settings:
            return replace(event, settings={**event.settings, "run_dir": str(run_dir), "notes": notes})
        case _:
            return event
