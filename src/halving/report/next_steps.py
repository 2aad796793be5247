"""Commands with which one goes on from a study."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from halving.history import History
from halving.report.tables import header_of, number, winner

_BUDGET = re.compile(r"budget\.(evaluations|resource|seconds|patience)=([\d.e+]+) reached")


@dataclass(frozen=True)
class Step:
    """What a command is for, and the command, which holds as it is pasted."""

    what: str
    command: str


def next_steps(history: History, run_dir: str) -> Iterator[Step]:
    """Yield what suits the study's state: to retrain, resume, extend, confirm, repeat and compare.

    A study of a Python function has no command line; it is gone on with by the same call.
    """
    header, ended = header_of(history), history.ended
    if ended is not None and ended.command:
        yield Step("Train the winner again", ended.command)
    if "unresolved" not in header.settings or not run_dir:
        return
    typed = [str(word) for word in header.settings.get("overrides", ())]
    trust = [word for word in typed if word.startswith("trusted_packages=")]
    resume = [*_program(history), f"resume={_value(run_dir)}", *trust]
    if ended is None:
        yield Step("Go on where it stopped", shlex.join(resume))
    elif ended.failure:
        yield Step("Try again what failed in the end", shlex.join(resume))
    if (more := _extended(history.halted)) and header.scheduler != "single":
        yield Step("Extend it to twice its budget", shlex.join([*resume, more]))
    if confirmable(history):
        yield Step("Confirm the best three with fresh seeds", shlex.join([*resume, "confirm.top=3"]))
    source = [str(word) for word in header.settings.get("source", ())]
    again = [*_program(history), *source, "-m", *_without(typed, "seed", "scheduler")]
    other = "sha" if header.scheduler in ("fifo", "single") else "fifo"
    seeds = ",".join(str(header.seed + i) for i in range(3))
    yield Step(
        "Compare it with another method over three seeds",
        shlex.join([*again, f"scheduler={_first(header.scheduler, other)}", f"seed={seeds}"]),
    )


def confirmable(history: History) -> bool:
    """Whether fresh seeds could tell more of the winner, and a command can train them."""
    header = header_of(history)
    found = history.ended is not None and winner(history) is not None and len(history.trials) > 1
    simulated = "curves" in header.settings.get("config", {}).get("executor", {})
    return found and "unresolved" in header.settings and not simulated


def _extended(halted: str) -> str:
    found = _BUDGET.search(halted)
    return f"budget.{found[1]}={number(2 * float(found[2]))}" if found else ""


def _first(own: str, other: str) -> str:
    return other if own == "single" else f"{own},{other}"


def _without(words: Sequence[str], *keys: str) -> list[str]:
    return [word for word in words if word.partition("=")[0].lstrip("+") not in (*keys, "resume", "trial")]


def _program(history: History) -> list[str]:
    """The words by which the study's program was called, as the winner's command has them."""
    words = shlex.split(history.ended.command) if history.ended is not None else []
    if words[:3] == ["python", "-m", "halving"]:
        return words[:3]
    return ["halving"] if words[:1] == ["halving"] else words[:2] or ["python", "train.py"]


def _value(path: str) -> str:
    """A path as Hydra reads it."""
    return path if re.fullmatch(r"[\w/.+@:\-]+", path) else "'" + path.replace("'", r"\'") + "'"
