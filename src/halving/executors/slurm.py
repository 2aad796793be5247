"""Workers in an array of Slurm's jobs."""

import hashlib
import logging
import os
import re
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from halving.errors import UserError, whole
from halving.executors.base import Objective
from halving.executors.carried import Keeping
from halving.executors.pilot import BEGIN, invitation
from halving.executors.pilots import Piloted

log = logging.getLogger(__name__)

_LOOK = 2.0  # seconds after which Slurm is asked again
_SETTLED = 2.0  # seconds that it may take to say how a job ended
_PATIENCE = 60.0  # seconds for one of its commands
_GOING = (
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
_INVITATION = "HALVING_PILOT"
_OURS = ("array", "job-name", "parsable", "requeue", "no-requeue", "wrap", "wait", "test-only")


class Slurm(Piloted):
    """Runs jobs in an array of `workers` jobs of Slurm's, each of which takes one after the other until it is ended.

    Each gets `num_cpus`, and what `partition`, `time`, `gres` and any other option of `sbatch` say, such as
    {"qos": "low", "exclusive": True}. They run `python`, by default by the path of this one, and connect to `address`,
    this machine's name as the nodes know it. A job that is preempted or at its time limit ends the epoch and leaves a
    checkpoint; another is submitted in its place, and no trial is to blame, nor for the death of a node. Jobs that a
    killed process of the same study left behind are cancelled.

    Raises UserError where Slurm refuses, for numbers out of range, and for an address that nodes cannot reach.
    """

    def __init__(
        self,
        objective: Objective,
        workers: int,
        num_cpus: int = 1,
        partition: str | None = None,
        time: str | int | None = None,
        gres: str | None = None,
        sbatch: Mapping[str, Any] | None = None,
        python: str | None = None,
        address: str | None = None,
        checkpoints: str | None = None,
        retries: int = 2,
        trial_timeout: float | None = None,
        batch: int = 1,
        patience: float = 0.0,
    ) -> None:
        own = {
            "cpus-per-task": whole("executor.num_cpus", num_cpus),
            "partition": partition,
            "time": time,
            "gres": gres,
        }
        run_dir = objective.run_dir.absolute() if isinstance(objective, Keeping) else None
        # Of all that pilots say, only what keeps them from the study is not heard over their connection.
        output = {"output": str(run_dir / "pilots.log").replace("%", "%%") if run_dir else os.devnull}
        options = _options({**own, **output, "open-mode": "append", **(sbatch or {})})
        of = hashlib.sha256(os.fsencode(run_dir.resolve())).hexdigest() if run_dir else secrets.token_hex(8)
        each = whole("executor.workers", workers)
        array = _Array(f"halving-{of[:16]}", each, options, python or sys.executable)
        if address is None:
            _check_loopback()
        super().__init__(objective, array, each, address, checkpoints, retries, trial_timeout, batch, patience)


class _Array:
    """Jobs of one name. `options` are sbatch's."""

    def __init__(self, name: str, workers: int, options: Sequence[str], python: str) -> None:
        self._name, self._workers, self._options, self._python = name, workers, options, python
        self._jobs: set[str] = set()
        self._invitation = ""
        self._looked = time.monotonic()

    def start(self, host: str, port: int, key: bytes) -> None:
        self._invitation = invitation(host, port, key).decode().strip()
        self._cancel()
        self._submit(self._workers)

    def tend(self, joined: Container[str]) -> Iterator[str]:
        if time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        states = self._states()
        if states is None:  # it does not answer, which is no job's end
            return
        for job in sorted(self._jobs):
            state = states.get(job, "gone")
            if state in _GOING:
                continue
            self._jobs.remove(job)
            if job not in joined and state in ("FAILED", "COMPLETED"):
                self._workers -= 1
                yield f"executor=slurm: job {job} could not start a worker: see pilots.log in the run directory"
        if (lacking := self._workers - len(self._jobs)) > 0:
            try:
                self._submit(lacking)
            except UserError as error:
                log.warning("%s; this is tried again", error)

    def places(self) -> int:
        return self._workers

    def blames(self, name: str) -> bool:
        deadline = time.monotonic() + _SETTLED
        while (state := (self._states() or {}).get(name)) in (None, *_GOING) and time.monotonic() < deadline:
            time.sleep(0.2)
        return state == "OUT_OF_MEMORY"

    def close(self) -> None:
        self._cancel()
        self._jobs.clear()

    def _submit(self, jobs: int) -> None:
        words = shlex.join([self._python, "-P", "-c", BEGIN])
        script = (
            f"#!/bin/sh\ninvited=${_INVITATION}; unset {_INVITATION}\n"
            f'exec {words} "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" 1 <<END\n$invited\nEND\n'
        )
        array = ["--parsable", f"--array=0-{jobs - 1}", f"--job-name={self._name}", "--no-requeue"]
        environment = {**os.environ, _INVITATION: self._invitation}
        done = _run(["sbatch", *self._options, *array], script, environment)
        if done.returncode:
            raise UserError(f"executor=slurm: {_last_line(done.stderr) or 'sbatch refuses'}")
        number = done.stdout.strip().partition(";")[0]
        self._jobs |= {f"{number}_{task}" for task in range(jobs)}

    def _states(self) -> dict[str, str] | None:
        """Return what becomes of jobs: squeue needs no accounting, and knows those that ended a few minutes ago."""
        which = ["--states=all", "--array", "--me", f"--name={self._name}"]
        done = _run(["squeue", "--noheader", "--format=%i|%T", *which])
        if done.returncode:
            return None
        return {job: state for line in done.stdout.split() for job, _, state in (line.partition("|"),)}

    def _cancel(self) -> None:
        done = _run(["scancel", "--me", f"--name={self._name}"])
        if done.returncode:
            log.warning("executor=slurm: jobs named %s may be left: %s", self._name, _last_line(done.stderr))


def _options(settings: Mapping[str, Any]) -> list[str]:
    """Return them as sbatch has them. Raises UserError for what is none, or ours to say."""
    for name in settings:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", str(name)) or name in _OURS:
            raise UserError(f"executor.sbatch.{name}: give long options of sbatch, but none of {', '.join(_OURS)}")
    if (export := settings.get("export")) is not None:
        settings = {**settings, "export": _INVITATION if export == "NONE" else f"{export},{_INVITATION}"}
    given = {name: value for name, value in settings.items() if value is not None and value is not False}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


def _check_loopback() -> None:
    """Raise UserError where a node is another machine, which cannot connect to this one's loopback."""
    names = {"localhost", socket.gethostname(), socket.gethostname().partition(".")[0]}
    nodes = _run(["sinfo", "--noheader", "--Node", "--format=%o"]).stdout.split()
    if others := sorted({node for node in nodes if node not in names and not node.startswith("127.")}):
        raise UserError(
            f"executor.address: nodes such as {others[0]} have to connect to this machine: give its name as they know "
            f"it, such as executor.address={socket.gethostname()}"
        )


def _run(
    command: Sequence[str], said: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, input=said, env=env, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} does not answer")
    except OSError as error:
        raise UserError(
            f"executor=slurm: there is no {command[0]} here ({error.strerror}): run the study where jobs are submitted"
        ) from error


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]
