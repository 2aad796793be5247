"""The command line's door: from a request to objects, a study and its report."""

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from halving.app.composition import Parts, compose
from halving.app.objective import ConfiguredObjective
from halving.app.planned import Planned, planned
from halving.app.runner import Runner
from halving.config import commands, winner
from halving.config.invocation import Invocation
from halving.config.request import Request
from halving.config.resumption import unreplaced
from halving.config.trust import trusted_packages
from halving.confirming import Confirming
from halving.environment import dated, environment
from halving.errors import UserError, noted, real
from halving.history import Ended, Halted, Header, History, Resumed
from halving.journal import FILE, Journal, replay
from halving.provenance import Provenance
from halving.redaction import Secrets
from halving.report.conclusion import conclusion
from halving.report.confirmation import mean_test
from halving.report.derived import not_written, rebuilding, write_all
from halving.report.derived import replace as replace_text
from halving.report.next_steps import nothing_left
from halving.report.tables import first_failure
from halving.targets import instantiate, locate, trusted_in_environment
from halving.tracking.base import PATIENCE, Tracker
from halving.tracking.progress import Progress
from halving.tracking.tensorboard import TensorBoard
from halving.tracking.terminal import Terminal
from halving.tracking.wandb import Wandb
from halving.tracking.wording import cut
from halving.training.batched.choice import forget
from halving.trial import Job

log = logging.getLogger(__name__)


def run(request: Request, begin: Callable[[Header], None] = lambda header: None) -> None:
    """Run the study that is asked for, or go on with the one that `resume` names.

    Its files are in its run directory; `begin` is called before anything of a new one is recorded. Raises UserError for
    a mistake in the config or data, if no trial survived and, once all else is done, for a file that could not be
    written.
    """
    called = Invocation.running()
    run_dir = called.run_dir
    console = Terminal(quiet=called.multirun)
    with ExitStack() as opened:
        journal = _journal(run_dir, request["resume"], called.queued)
        opened.callback(journal.close)
        events = tuple(journal.events)
        before = replay(events)
        if before.header is not None:
            if (unresolved := before.header.provenance.unresolved) is None:
                raise UserError(f"resume: {run_dir} holds a study of a Python function; go on with it by halving.tune")
            stored = Request.begun(unresolved)
            request = stored.resumed(request, called.overrides)
            budgeted, confirming = request["budget"] != stored["budget"], Confirming(**request["confirm"])
            over = _complete(before, run_dir) and not confirming.wanted(before, request["r_max"])
            scheduler = request["scheduler"]
            grown = (scheduler, request["searcher"]) != (stored["scheduler"], stored["searcher"])
            if over and not grown and not (budgeted and before.halted):
                notes = [nothing_left(before, locate(scheduler["_target_"]), scheduler)] if budgeted else []
                if request.follows("notes") or request["notes"] not in ("", *before.notes):
                    request.check_resolves()
                if request["notes"] not in ("", *before.notes):
                    notes.append(_add_note(request, called, journal, before))
                problems = write_all(before, run_dir)
                _conclude(before, run_dir, console, notes)
                _refuse_failures(before, run_dir, problems)
                return
        request = request.checked()
        secrets = Secrets.of(request.values, called.overrides)
        _note(console, [f"note: {text}" for text in request.warnings(called.overrides)])
        parts = compose(request, run_dir, before, lambda space: request.composed(space, called))
        opened.callback(parts.executor.shutdown, graceful=False)
        fitted = parts.fitted.settings if parts.fitted is not None else {}
        request = replace(request.but(**fitted), choices=parts.objective.request.choices)
        settings = secrets.redact(_settings(request, called, parts, before))
        _note(console, parts.notes)
        seconds = request["tracker"].get("finish_seconds", PATIENCE)
        within = "must be a number of seconds, 86400 at most"
        patience = real("tracker.finish_seconds", seconds, lambda x: 0 <= x <= 86400, within)
        mirrors = _mirrors(request, parts.objective, secrets)
        _note(console, [mirror.note for mirror in mirrors if isinstance(mirror, Wandb) and mirror.note])
        header = _header(request, called, parts, settings)
        if before.header is None:
            begin(header)
        _note(console, _other_data(before, header))

        def tell(line: str) -> None:
            seen = Terminal() if console.quiet else console  # also by who looks at a multirun
            seen.print(f"note: {secrets.redact(line)}", soft_wrap=True, highlight=False, markup=False, style="yellow")

        def conclude(runner: Runner) -> None:
            history = runner.tuner.history
            if runner.signals:
                console.print(
                    f"\ninterrupted; go on with: {_again(run_dir)}", soft_wrap=True, highlight=False, markup=False
                )
                return
            notes: list[str] = []
            if parts.searcher.exhausted:
                notes.append("the space is exhausted: every configuration was tried")
            elif before.halted and not history.halted and not history.beyond(before):
                notes.append(nothing_left(history, parts.scheduler, request["scheduler"]))
            _conclude(history, run_dir, console, notes)

        runner = Runner(
            Planned(
                header,
                parts.scheduler,
                parts.executor,
                parts.fidelity.cost,
                parts.budget,
                run_dir,
                secrets.redact_event,
            ),
            journal,
            mirrors,
            run_dir=run_dir,
            say=tell,
            display=Progress(console, quiet=console.quiet),
            patience=patience,
            conclude=conclude,
        )
        with _warnings(tell):
            opened.pop_all()  # the runner sees to them from here on
            with runner:
                runner.run(
                    lambda: _ended(request, called, secrets, header.provenance, runner.tuner.history, parts),
                    lambda: runner.confirm(
                        Confirming(**request["confirm"]), request["seed"], request["r_max"], parts.objective
                    ),
                )
    history = runner.tuner.history
    for line in runner.trackers.off:  # again, as it may have been said hours ago
        tell(f"{line}. The journal has all, and what trackers lack is made from it by: {rebuilding(run_dir)}")
    for mirror in mirrors:
        if not runner.signals and isinstance(mirror, Wandb) and (line := mirror.sync_command(history)):
            console.print(f"upload: {line}", soft_wrap=True, highlight=False, markup=False)
        if not runner.signals and isinstance(mirror, TensorBoard) and (line := mirror.command(history)):
            console.print(f"curves: {line}", soft_wrap=True, highlight=False, markup=False)
    if runner.signals:
        runner.requeue()
        sys.exit(128 + runner.signals[0])
    _refuse_failures(history, run_dir, runner.problems)


@contextmanager
def _warnings(tell: Callable[[str], None]) -> Generator[None]:
    """Tell what the log warns of where trials that were to be trained together are not, and W&B cannot log in."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: tell(record.getMessage())
    forget()
    loggers = [
        logging.getLogger(name)
        for name in ("halving.training.batched", "halving.app.objective", "halving.tracking.wandb")
    ]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _journal(run_dir: Path, resume: str | None, queued: str) -> Journal:
    """Open the journal of a new study, or of the one to resume: also of one that the same job of a queue began."""
    journal = Journal(run_dir)
    problem = ""
    if journal.events and queued and resume is None:
        header = replay(journal.events).header
        if header is not None and header.provenance.queued == queued:
            resume = str(run_dir)
    if journal.events and resume is None:
        problem = f"{run_dir} already holds a study; go on with it by: {_again(run_dir)}; or take another run dir"
    if not journal.events and resume is not None and (Path(resume) / FILE).is_file():
        same = Path(resume).absolute() == run_dir
        problem = (
            f"resume: the study in {run_dir} ended before it had begun; start it anew"
            if same
            else f"resume: {resume} goes on where it lies, not in hydra.run.dir={run_dir}; leave that out"
        )
    if problem:
        journal.close()
        raise UserError(problem)
    return journal


def _settings(request: Request, called: Invocation, parts: Parts, before: History) -> dict[str, Any]:
    """Return what the journal keeps of the command: a resumed study's own, with what was typed now in its place."""
    now = [request.settled(item) for item in called.overrides if not item.startswith("resume=")]
    here = Provenance(source=called.source, run_dir=str(called.run_dir), tags=called.tags)
    begun = before.header.provenance if before.header is not None else here
    unresolved = request.unresolved
    began = Path(begun.run_dir)  # which names its W&B runs, whatever link it is resumed by
    return {
        "unresolved": unresolved,
        "choices": asdict(request.choices),
        "config_hash": hashlib.sha256(json.dumps({**unresolved, "notes": ""}, sort_keys=True).encode()).hexdigest(),
        "overrides": unreplaced(begun.overrides, now) + now,
        "source": begun.source,
        "run_dir": str(began if began.exists() and began.samefile(called.run_dir) else called.run_dir),
        "initial": parts.initial,
        "tags": begun.tags,
        "trained": begun.trained or ([called.option("data"), called.option("model")] if parts.fidelity.loads else []),
        **({"queued": called.queued} if called.queued else {}),
        **dated(request["notes"]),
    }


def _add_note(request: Request, called: Invocation, journal: Journal, history: History) -> str:
    """Add a note to a study that has come to its end, which it stays at; return what to say of that."""
    header, ended = history.header, history.ended
    assert header is not None and ended is not None
    settings = Secrets.of(request.values, called.overrides).redact(dated(request["notes"]))
    halted = [Halted(history.halted)] if history.halted else []
    for event in (Resumed(header.plan, header.planned_cost, settings), *halted, ended):
        journal.append(event, history.seconds)
        history.apply(event, history.seconds)
    return f"noted: {cut(settings['notes'], 200)}"


def _again(run_dir: Path) -> str:
    """Return the command that goes on with a study: what was trusted as typed has to be typed again."""
    lasting = trusted_in_environment()
    typed = [package for package in trusted_packages() if package not in lasting]
    return commands.line(commands.override("resume", str(run_dir)), *winner.trusting(typed))


def _other_data(before: History, now: Header) -> list[str]:
    """Say so where a study goes on with other data than it began with."""
    recorded = before.header.provenance.environment if before.header is not None else {}
    then, found = recorded.get("data"), now.provenance.environment["data"]
    if then is None or found is None or then == found:
        return []
    return [f"note: the data are others than before (their digest was {then} and is {found}): errors do not compare"]


def _note(console: Terminal, notes: Iterable[str]) -> None:
    for note in notes:
        log.info(note)
        style = "yellow" if note.startswith("note:") else None
        console.print(note, soft_wrap=True, highlight=False, markup=False, style=style)


def _complete(history: History, run_dir: Path) -> bool:
    """Whether a study has ended with all that belongs to its end: a command goes with a best.yaml."""
    ended = history.ended
    return ended is not None and not ended.failure and (not ended.command or (run_dir / "best.yaml").is_file())


def _conclude(history: History, run_dir: Path, console: Terminal, notes: Iterable[str]) -> None:
    """Say what a study came to, if any trial survived."""
    _note(console, notes)
    if history.incumbent is not None:
        console.print()
        console.print(conclusion(history, run_dir, _again(run_dir)), soft_wrap=True, highlight=False, markup=False)


def _refuse_failures(history: History, run_dir: Path, problems: list[str]) -> None:
    """Raise UserError if no trial survived, and for `problems` and failures of a study's end."""
    if history.incumbent is None:
        raise UserError(f"no trial survived; {first_failure(history)}; see {run_dir / 'train.log'}")
    failures = [not_written(problems, run_dir)] if problems else []
    if history.ended is not None and history.ended.failure:
        failures.append(f"{history.ended.failure}; {_again(run_dir)} tries again")
    if failures:
        raise UserError(f"the study has ended, but {'; '.join(failures)}; see {run_dir / 'train.log'}")


def _header(request: Request, called: Invocation, parts: Parts, settings: dict[str, Any]) -> Header:
    metric = request["metric"].removeprefix("max:")
    header = Header(
        name=request["name"],
        scheduler=called.option("scheduler"),
        searcher=called.option("searcher"),
        seed=request["seed"],
        r_max=request["r_max"],
        unit=parts.fidelity.unit,
        metric=(parts.fidelity.measures if metric == "val_error" else "") or metric,
        maximize=request["metric"].startswith("max:"),
        planned_cost=parts.budget.resource,
        dimensions=parts.dimensions,
        settings={
            **settings,
            "domains": parts.domains,
            "config": parts.objective.config({}, 0),
            "environment": {
                **environment(parts.objective.request["device"], parts.threads),
                "data": parts.objective.data() if parts.fidelity.trains else None,
            },
        },
    )
    return planned(header, parts.scheduler, parts.fidelity.cost)


def _ended(
    request: Request,
    called: Invocation,
    secrets: Secrets,
    told: Provenance,
    history: History,
    parts: Parts,
) -> Ended:
    """Test the winner, write best.yaml, and say how to train it again, to the resource that it had.

    What fails of that is said in the end. A confirmed one is trained in full, and was tested with its own seeds.
    """
    if history.incumbent is None:
        return Ended(None)
    trial, evaluation = history.incumbent
    confirmed = history.chosen if history.chosen is not None and history.chosen.trial is not None else None
    if confirmed is not None and confirmed.trial is not None:
        trial = history.trials[confirmed.trial]
    resource = evaluation.resource if confirmed is None else request["r_max"]
    if not parts.fidelity.trains:  # so there is nothing to train again
        return Ended(trial.trial)
    objective = parts.objective
    until = resource if resource < request["r_max"] else "${r_max}"
    best = request.of_trial(trial.configuration, trial.trial)
    best = best.but(**{"executor.threads": objective.threads, "until": until})
    problems: list[str] = []
    test: dict[str, float] = {}
    with noted("best.yaml could not be written", problems):
        replace_text(objective.run_dir / "best.yaml", best.best_yaml(objective.run_dir, secrets))
    if confirmed is not None:
        test = mean_test(confirmed)
        problems += [confirmed.failure] if confirmed.failure else []
    else:
        with noted("the winner's test failed", problems):
            test = objective.test(Job(trial.trial, trial.configuration, 0, resource))
    others = (item for item in told.overrides if not item.startswith("executor.threads="))
    full = resource == request["r_max"] == request.values.get("until", request["r_max"])
    reach = {} if full else {"until": resource}
    words = winner.task(
        [*others, f"executor.threads={objective.threads}"],
        request["trial"] + trial.trial,
        reach | trial.configuration,
        request.choices.default,
    )
    if best.retrained_by(words, called):
        words = [*told.source, *words]
    else:
        words = [*winner.best_words(objective.run_dir, request.trusted), *(f"until={reach[key]}" for key in reach)]
    return Ended(
        trial.trial,
        test,
        commands.line(*words),
        objective.config(trial.configuration, trial.trial),
        "; ".join(problems),
    )


def _mirrors(request: Request, objective: ConfiguredObjective, secrets: Secrets) -> list[Tracker]:
    config = request["tracker"]
    options = {name: option for name, option in config.items() if isinstance(option, dict) and "_target_" in option}
    return [_mirror(option, f"tracker.{name}", objective, secrets) for name, option in options.items()]


def _mirror(option: dict[str, Any], where: str, objective: ConfiguredObjective, secrets: Secrets) -> Tracker:
    target = locate(option["_target_"], where)
    if not (isinstance(target, type) and issubclass(target, Wandb)):
        return instantiate(option, where)
    # It works in a thread of its own, and even copying a DictConfig writes to it for a moment.
    own = objective.request.but()
    return instantiate(option, where, config=lambda *which: secrets.redact(own.config(*which)))
