"""The command of a study that changes one thing at a time around another study's winner."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from halving.config.commands import key_of, override
from halving.config.resumption import SWEEP, flat
from halving.config.schema import ROOT_KEYS
from halving.config.trials import config_of
from halving.errors import UserError
from halving.history import Header
from halving.redaction import REDACTED
from halving.study import Study
from halving.tracking.wording import count, duration
from halving.trial import Configuration

SEARCHER = "one_at_a_time"
_DROPPED = (
    *("searcher", "scheduler", "budget", "plan", "confirm", "eta", "r_min", "until", "resume", "notes"),
    "trusted_packages",  # which has to be typed
)
_OF_A_TRIAL = (
    *("data", "model", "optimizer", "lr_schedule", "averaging", "fidelity", "seed", "epochs", "r_max"),
    "metric",  # by which it is judged
)
_PLACES = ("data_dir", "data.data_dir")


def directory(run_dir: Path) -> Path:
    """Return where the sensitivity of a study belongs: beside its run directory, or beside its whole multirun."""
    whole = next((each for each in run_dir.parents if (each / SWEEP).is_file()), run_dir)
    return whole.with_name(f"{whole.name}-sensitivity") / run_dir.relative_to(whole)


def begins(study: Study, typed: Sequence[str], points: int, seeds: int) -> list[str]:
    """Return the words that begin it, to which what was `typed` is added.

    They are the study's own, without what made it a search, and its winner's values. Raises UserError where no trial
    survived, and for studies that this cannot be done with.
    """
    header, best = study.history.header, study.best
    assert header is not None and study.run_dir is not None
    _check(header, study.run_dir, typed)
    told = header.provenance
    unresolved = told.unresolved or {}
    groups = told.choices.get("default", {})
    anew = {key_of(item) for item in typed}
    added = {key_of(item) for item in told.overrides if item.startswith("+")}
    kept = [
        override("data_dir", unresolved["data_dir"]) if item.startswith("data_dir=") and "${" not in item else item
        for item in told.overrides
        if key_of(item).partition(".")[0] not in _DROPPED
        and key_of(item).replace("/", ".") not in (*best.configuration, *groups)
        and REDACTED not in item
    ]
    winner = [
        ("++" if name in added else "") + override(name.replace(".", "/") if name in groups else name, value)
        for name, value in best.configuration.items()
    ]
    ended = [f"budget.{name}=null" for name, value in unresolved["budget"].items() if value is not None]
    ended += ["plan=null"] * (unresolved.get("plan") is not None)
    ended += ["confirm.top=0"] * bool(unresolved.get("confirm", {}).get("top"))
    own = ["scheduler=fifo", f"searcher={SEARCHER}", f"searcher.points={points}", f"searcher.seeds={seeds}"]
    note = [override("notes", f"the sensitivity of trial {best.trial} of {study.run_dir}")]
    words = [*kept, *winner, *ended, *own, *note]
    return [
        *told.source,
        *(item for item in words if not any(_within(key_of(item), key) for key in anew)),
        override("hydra.run.dir", str(directory(study.run_dir.resolve()))),
    ]


def begin(study: Study, typed: Sequence[str], now: Header) -> None:
    """Say what it is going to cost, in time by what an epoch of the winner took.

    Raises UserError where the config files make another base than the winner, but for what was `typed`.
    """
    _insist(study, now, typed)
    config, trials = now.provenance.config, now.plan[0].sizes[0]
    seeds, best = config["searcher"]["seeds"], study.best
    finished = [each.finished for each in best.evaluations if each.finished is not None]
    spent = sum(each.cost for each in finished)
    pace = sum(each.seconds for each in finished) / spent if spent else 0.0
    total, workers = trials * now.full_cost, config["executor"].get("workers") or 1
    print(
        f"sensitivity of trial {best.trial} of {study.run_dir}: {count(trials // seeds, 'points')} of "
        f"{count(len(now.dimensions), 'dimensions')} with {count(seeds, 'seeds')} each, {count(trials, 'trainings')}, "
        f"{count(total, now.unit)}: about {duration(round(total * pace / workers))}"
        + (f" with {workers} workers" if workers > 1 else ""),
        flush=True,
    )


def goes_on(begun: Study, around: Study | None, asked: Mapping[str, int]) -> list[str]:
    """Return the overrides by which more seeds than it has are added to a sensitivity.

    Raises UserError where it lies around another trial than the winner of the study `around`, and for what else was
    asked for than it was begun with.
    """
    header, move = begun.history.header, f"move {begun.run_dir} away for a fresh one"
    assert header is not None
    if header.searcher != SEARCHER:
        raise UserError(f"sensitivity: {begun.run_dir} holds another study; move it away")
    told = header.provenance
    searcher, base = told.config["searcher"], cast(Sequence[Configuration], told.initial)[-1]
    if around is not None and any(base.get(name, value) != value for name, value in around.best.configuration.items()):
        raise UserError(f"sensitivity: {begun.run_dir} lies around another trial than {around.best.trial}; {move}")
    if asked.get("points", searcher["points"]) != searcher["points"]:
        raise UserError(f"sensitivity: {begun.run_dir} was begun with --points {searcher['points']}; {move}")
    if (seeds := asked.get("seeds", searcher["seeds"])) < searcher["seeds"]:
        raise UserError(f"sensitivity: {begun.run_dir} was begun with --seeds {searcher['seeds']}; {move}")
    return [f"searcher.seeds={seeds}"] if seeds > searcher["seeds"] else []


def _check(header: Header, run_dir: Path, typed: Sequence[str]) -> None:
    """Raise UserError for a study whose dimensions cannot be tried one at a time."""
    if (unresolved := header.provenance.unresolved) is None:
        raise UserError(
            f"sensitivity: {run_dir} holds a study of a Python function; call halving.tune with it again, and with "
            "scheduler=FIFO, searcher=OneAtATimeSearcher, initial=load(run_dir).best.configuration"
        )
    if "curves" in unresolved["executor"]:
        raise UserError(f"sensitivity: {run_dir} holds a study on recorded curves, which trains nothing")
    if not header.dimensions and not any(key_of(item).partition(".")[0] == "space" for item in typed):
        raise UserError(
            f"sensitivity: {run_dir} searched nothing; say what to vary, such as space=default or "
            "'+space.optimizer.lr=[0.01,0.1]'"
        )


def _insist(study: Study, now: Header, typed: Sequence[str]) -> None:
    """Raise UserError where the config files make another base than the winner, but for what was `typed`."""
    header, best = study.history.header, study.best
    assert header is not None
    then, found = (
        flat(config, [key for key in config if key in _OF_A_TRIAL or key not in ROOT_KEYS])
        for config in (config_of(header, best.configuration, 0), now.provenance.config)
    )
    anew = [key_of(item) for item in typed]
    anew += ["epochs", "fidelity.epochs", "lr_schedule", "averaging"] * ("r_max" in anew)  # they follow it
    for path, value in then.items():
        typed_anew = "experiment" in anew or any(_within(path, key) for key in anew)
        if typed_anew or path in _PLACES or REDACTED in str(value):
            continue
        if (other := found.get(path)) != value:
            raise UserError(
                f"sensitivity: the config files make another base than trial {best.trial} of {study.run_dir}: {path} "
                f"was {value} and is {other}; add {path}={value}"
            )


def _within(path: str, key: str) -> bool:
    return path == key or path.startswith(f"{key}.")
