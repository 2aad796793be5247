"""Slurm, spoken to by its commands: jobs of one name."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from halving.errors import UserError, last_line

_PATIENCE = 60.0  # seconds for one of its commands
GOING = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "STOPPED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
)
_ELSEWHERE = ": run the study where jobs are submitted"
INVITATION = "HALVING_PILOT"  # the variable that holds it, which `export` must not leave out
_OURS = ("array", "job-name", "parsable", "requeue", "no-requeue", "wrap", "wait", "test-only")


class Submitting:
    """Submits jobs with options of sbatch's, looks after them, and cancels them, whoever submitted them.

    Raises UserError for options that are none, or ours to say, and where Slurm is not.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self._options = [*_options(settings), f"--job-name={name}", "--no-requeue"]

    def submit(self, script: str, *more: str, env: Mapping[str, str] | None = None) -> str:
        """Return the number of a job that was submitted. Raises UserError where Slurm refuses."""
        done = run(["sbatch", *self._options, "--parsable", *more], script, env)
        if done.returncode:
            why = last_line(done.stderr) or "sbatch refuses"
            raise UserError(f"executor=slurm: {why}{_ELSEWHERE if 'configuration source' in why else ''}")
        return done.stdout.strip().partition(";")[0]

    def states(self) -> dict[str, tuple[str, str]] | None:
        """Return what becomes of jobs, and why; None where Slurm does not answer, which is no job's end.

        squeue needs no accounting, and knows those that ended a few minutes ago.
        """
        which = ["--states=all", "--array", "--me", f"--name={self.name}"]
        done = run(["squeue", "--noheader", "--format=%i|%T|%r", *which])
        if done.returncode:
            return None
        found = (line.split("|", 2) for line in done.stdout.splitlines())
        return {job.strip(): (state, reason) for job, state, reason in found}

    def cancel(self, *jobs: str) -> str:
        """Cancel jobs, or all of the name, and return why they may be left, if so."""
        done = run(["scancel", "--me", *(jobs or (f"--name={self.name}",))])
        return f"jobs named {self.name} may be left: {last_line(done.stderr)}" if done.returncode else ""


def run(
    command: Sequence[str], said: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands. Raises UserError where it is not to be had."""
    try:
        return subprocess.run(
            command, input=said, env=env, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} does not answer")
    except OSError as error:
        raise UserError(f"executor=slurm: there is no {command[0]} here ({error.strerror}){_ELSEWHERE}") from error


def _options(settings: Mapping[str, Any]) -> list[str]:
    for name in settings:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", str(name)) or name in _OURS:
            raise UserError(f"executor.sbatch.{name}: give long options of sbatch, but none of {', '.join(_OURS)}")
    if (export := settings.get("export")) is not None:
        settings = {**settings, "export": INVITATION if export == "NONE" else f"{export},{INVITATION}"}
    given = {name: value for name, value in settings.items() if value is not None and value is not False}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]
