"""The suite: every check on every story of a scheduler or a searcher, and on what an executor tells."""

import hashlib
import inspect
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from halving.conformance import executor, scheduler, searcher
from halving.errors import UserError
from halving.searchers import Searcher
from halving.space import Space
from halving.targets import check_call, locate

SCHEDULES = 40
# What a constructor may ask for without having a default.
_SUPPLIED: Mapping[str, Any] = {"eta": 3, "r_min": 1, "r_max": 9, "seed": 0, "max_trials": 20, "workers": 2}

Story = scheduler.Story | searcher.Proposals


@dataclass(frozen=True)
class Result:
    """A check and the shortest story of what went wrong, or nothing."""

    check: str
    complaint: str

    def __str__(self) -> str:
        name = self.check.replace("_", " ")
        return f"FAILED  {name}: {self.complaint}" if self.complaint else f"ok      {name}"


def conform(target: str, options: Mapping[str, Any] | None = None, schedules: int = SCHEDULES) -> list[Result]:
    """Put a scheduler or searcher through every check, in `schedules` random schedules or spaces; or an executor.

    It is built with `options`, its own defaults and what `supplied` says.

    Raises UserError for a target that cannot be imported, is none of these, or cannot be built with these options.
    """
    options = options or {}
    if hasattr(locate(target), "submit"):
        told = executor.play(*_maker(target, options), options)
        return [_result(check, [told]) for check in executor.CHECKS]
    stories, checks = _play(target, options, schedules)
    results = [_result(check, stories) for check in checks]
    there = _digests_elsewhere(target, options, schedules)

    def decides_the_same_in_another_process(story: Story) -> str:
        """The same seed gives the same decisions in a new interpreter."""
        said = there[story.seed]
        return "" if said == _digest(story) else f"schedule {story.seed} was decided otherwise there ({said[-200:]})"

    return [*results, _result(decides_the_same_in_another_process, stories)]


def digests(target: str, options: Mapping[str, Any], schedules: int) -> list[str]:
    """Return a digest of the decisions in each story; raises UserError as `conform` does."""
    stories, _ = _play(target, options, schedules)
    return [_digest(story) for story in stories]


def supplied(target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a class is built with that has no default and is not among `options`.

    Raises UserError for what is no scheduler or searcher, and where it cannot be guessed, with what to type.
    """
    subject = locate(target)
    if not any(hasattr(subject, name) for name in ("suggest", "propose", "submit")):
        raise UserError(
            f"{target} has neither `suggest` (a scheduler) nor `propose` (a searcher) nor `submit` (an executor)"
        )
    parameters = list(inspect.signature(subject).parameters.values())[1:]
    named = [each for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    lacking = [each.name for each in named if each.default is each.empty and each.name not in options]
    if unknown := [name for name in lacking if name not in _SUPPLIED]:
        typed = " ".join(f"--option {name}=VALUE" for name in unknown)
        raise UserError(f"{target} needs {', '.join(unknown)}, which has no default: give {typed}")
    return {name: _SUPPLIED[name] for name in lacking}


def _maker(target: str, options: Mapping[str, Any]) -> tuple[Callable[..., Any], Mapping[str, inspect.Parameter]]:
    """Return what builds one with these options, and what it can be given."""
    subject: Callable[..., Any] = locate(target)
    options = {**supplied(target, options), **options}

    def make(first: Any, **extra: Any) -> Any:
        check_call(subject, [first], {**options, **extra}, False, target)
        return subject(first, **{**options, **extra})

    return make, inspect.signature(subject).parameters


def _play(
    target: str, options: Mapping[str, Any], schedules: int
) -> tuple[Sequence[Story], Sequence[Callable[[Any], str]]]:
    """Return every story of a class, and the checks of its kind."""
    make, parameters = _maker(target, options)

    def make_searcher(space: Space, seed: int) -> Searcher:
        return make(space, seed=seed) if "seed" in parameters else make(space)

    if hasattr(locate(target), "propose"):
        return [searcher.Proposals(make_searcher, seed) for seed in range(schedules)], searcher.CHECKS
    default = _default(locate(target), "r_max")
    r_max = {"r_max": default, **supplied(target, options), **options}["r_max"]
    return [scheduler.play(make, r_max, seed) for seed in range(schedules)], scheduler.CHECKS


def _default(subject: Any, name: str) -> Any:
    """Return the default of a parameter that a class, or the nearest above it that names it, has; inf without any."""
    for each in inspect.getmro(subject) if inspect.isclass(subject) else (subject,):
        with suppress(ValueError):  # of a built-in class, which does not tell
            if (parameter := inspect.signature(each).parameters.get(name)) is not None:
                return parameter.default
    return math.inf


def _result(check: Callable[[Any], str], stories: Sequence[Story | executor.Told]) -> Result:
    complaints = [f"{text} ({story})" for story in stories if (text := _complaint(check, story))]
    return Result(check.__name__, min(complaints, key=len, default=""))


def _complaint(check: Callable[[Any], str], story: Story | executor.Told) -> str:
    """Return a check's answer; a user's class may also raise on the way."""
    try:
        return check(story)
    except UserError:
        raise
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"


def _digest(story: Story) -> str:
    return hashlib.sha256(repr(story.decisions).encode()).hexdigest()


def _digests_elsewhere(target: str, options: Mapping[str, Any], schedules: int) -> list[str]:
    """Return the digests of the same stories from another process, whose strings hash differently."""
    asked = [*(f"--option={name}={value!r}" for name, value in options.items()), f"--schedules={schedules}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "random"}
    command = [sys.executable, "-m", "halving.conformance", target, "--digests", *asked]
    child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return child.stdout.split()[-schedules:] if child.returncode == 0 else [child.stderr[-300:]] * schedules
