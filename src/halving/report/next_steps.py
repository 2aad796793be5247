"""Commands with which one goes on from a study."""

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halving.history import History
from halving.report.tables import header_of
from halving.tracking.wording import number

_BUDGET = re.compile(r"budget\.(evaluations|resource|seconds|patience)=([\d.e+]+) reached")


@dataclass(frozen=True)
class Step:
    """What a command is for, and the command, which holds as it is pasted."""

    what: str
    command: str


def resuming(history: History, run_dir: str) -> str:
    """Return the command that goes on with a study; nothing for one of a Python function, where the same call does."""
    told = header_of(history).provenance
    if not told.by_command or not run_dir:
        return ""
    trust = [word for word in map(str, told.overrides) if word.startswith("trusted_packages=")]
    return shlex.join([*_program(history), f"resume={_value(run_dir)}", *trust])


def next_steps(history: History, run_dir: str) -> Iterator[Step]:
    """Yield what suits the study's state: to retrain the winner, to resume, to extend and to compare."""
    header, ended = header_of(history), history.ended
    if ended is not None and ended.command:
        yield Step("Train the winner again", ended.command)
    if not (resume := resuming(history, run_dir)):
        return
    if ended is None:
        yield Step("Go on where it stopped", resume)
    elif ended.failure:
        yield Step("Try again what failed in the end", resume)
    if (more := _extension(history)) and not header.single:
        yield Step(
            "Extend it to twice its budget" if history.halted else "Extend it by one more round", f"{resume} {more}"
        )
    typed = [str(word) for word in header.provenance.overrides]
    source = [str(word) for word in header.provenance.source if word != "hydra.mode=RUN"]
    again = [*_program(history), *source, "-m", *_without(typed, "seed", "scheduler")]
    other = "sha" if header.scheduler in ("fifo", "single") else "fifo"
    seeds = ",".join(str(header.seed + i) for i in range(3))
    yield Step(
        "Compare it with another method over three seeds",
        shlex.join([*again, f"scheduler={_first(header.scheduler, other)}", f"seed={seeds}"]),
    )


def _extension(history: History) -> str:
    """The override with which a study that is over goes on, where there is one: a larger budget, or another round."""
    if found := _BUDGET.search(history.halted):
        return f"budget.{found[1]}={number(2 * float(found[2]))}"
    header = header_of(history)
    planned = sum(ladder.sizes[0] for ladder in header.plan if ladder.sizes)
    match header.provenance.config:
        case {"scheduler": {"rounds": int(rounds)}} if history.ended is not None and len(history.trials) >= planned:
            return f"scheduler.rounds={rounds + 1}"
        case _:
            return ""


def _first(own: str, other: str) -> str:
    return other if own == "single" else f"{own},{other}"


def _without(words: Sequence[str], *keys: str) -> list[str]:
    named = [(word.partition("=")[0].lstrip("+"), word) for word in words]
    return [
        word for key, word in named if key not in (*keys, "trial") and not key.startswith(("confirm.", "scheduler."))
    ]


def _program(history: History) -> list[str]:
    """The words by which the study's program was called, as the winner's command has them."""
    words = shlex.split(history.ended.command) if history.ended is not None else _called()
    if words[:3] == ["python", "-m", "halving"]:
        return words[:3]
    return ["halving"] if words[:1] == ["halving"] else words[:2] if words[1:] else ["python", "train.py"]


def _called() -> list[str]:
    """The words by which the reader's program was called, where that is ours."""
    path = Path(sys.argv[0])
    return ["python", "-m", "halving"] if path.parts[-2:] == ("halving", "__main__.py") else [path.stem]


def _value(path: str) -> str:
    """A path as Hydra reads it."""
    return path if re.fullmatch(r"[\w/.+@:\-]+", path) else "'" + path.replace("'", r"\'") + "'"


def nothing_left(history: History, scheduler: object, options: Mapping[str, Any]) -> str:
    """Say of a study whose scheduler is done what would extend it, since a larger budget does not."""
    assert history.header is not None
    knob = getattr(scheduler, "extended_by", "")
    value = options.get(knob, 1)
    group = "scheduler." if history.header.provenance.by_command else ""
    planned = sum(ladder.sizes[0] for ladder in history.header.plan if ladder.sizes)
    if value is None or len(history.trials) < planned:
        cure = "the space is exhausted"
    elif knob and not history.header.single:
        cure = f"{group}{knob}={value + 1 if knob == 'rounds' else 2 * value} does"
    else:
        cure = "begin a new one" + (", with a budget in place of max_trials" if "max_trials" in options else "")
    planner = history.header.scheduler
    return f"nothing is left to do: {planner} has finished what it planned, which no budget extends; {cure}"
