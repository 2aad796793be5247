"""Workers in Slurm's jobs."""

import hashlib
import logging
import math
import os
import secrets
import shlex
import socket
import sys
import time
from collections.abc import Container, Iterator, Mapping
from typing import Any, cast

from halving.errors import UserError, whole
from halving.executors.base import Objective
from halving.executors.carried import Keeping
from halving.executors.pilot import BEGIN, invitation
from halving.executors.pilots import Piloted
from halving.executors.pool import Batching, Pool, limits
from halving.executors.sbatch import GOING, INVITATION, Submitting, run
from halving.executors.slurm_jobs import Jobs

log = logging.getLogger(__name__)

_LOOK = 2.0  # seconds after which Slurm is asked again
_SETTLED = 2.0  # seconds that it may take to say how a job ended


class Slurm(Piloted):
    """Runs jobs in `workers` jobs of Slurm's: pilots, which take one after the other, or with mode="jobs" one for each.

    Each gets `num_cpus`, and what `partition`, `time`, `gres` and any other option of `sbatch` say, such as
    {"qos": "low", "exclusive": True}. They run `python`, by default by the path of this one. Pilots are an array, and
    connect to `address`, this machine's name as the nodes know it. What is submitted for one job only leaves what it
    says in the run directory, which nodes and this machine must see. A job that is preempted or at its time limit ends
    the epoch and leaves a checkpoint; another is submitted in its place, and no trial is to blame, nor for the death of
    a node. Jobs that a killed process of the same study left behind are cancelled.

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
        mode: str = "pilots",
    ) -> None:
        if mode not in ("pilots", "jobs"):
            raise UserError(
                f"executor.mode={mode}: give pilots, which connect to this machine, or jobs, one for each assignment"
            )
        if not isinstance(cast(object, sbatch), Mapping | None):
            raise UserError(f"executor.sbatch={sbatch}: give sbatch's options by their names, such as {{qos: low}}")
        own = {
            "cpus-per-task": whole("executor.num_cpus", num_cpus),
            "partition": partition,
            "time": time,
            "gres": gres,
        }
        run_dir = objective.run_dir.absolute() if isinstance(objective, Keeping) else None
        # Of all that jobs say, only what keeps them from the study is not heard in another way.
        output = {"output": str(run_dir / f"{mode}.log").replace("%", "%%") if run_dir else os.devnull}
        of = hashlib.sha256(os.fsencode(run_dir.resolve())).hexdigest() if run_dir else secrets.token_hex(8)
        settings = {**own, **output, "open-mode": "append", **(sbatch or {})}
        submitting = Submitting(f"halving-{of[:16]}", settings)
        each, interpreter = whole("executor.workers", workers), python or sys.executable
        self._jobs: Jobs | None = None
        self._now = 0.0
        if mode == "pilots":
            if address is None:
                _check_loopback()
            array = _Array(submitting, each, interpreter)
            super().__init__(objective, array, each, address, checkpoints, retries, trial_timeout, batch, patience)
            return
        for name, value in (("address", address), ("checkpoints", None if checkpoints == "shared" else checkpoints)):
            if value is not None:
                raise UserError(f"executor.{name}={value}: with executor.mode=jobs all goes through the run directory")
        within, batching = limits(retries, trial_timeout), Batching.of(objective, batch, patience)
        self.workers = each
        self._jobs = Jobs(objective, submitting, each, interpreter, run_dir)
        Pool.__init__(self, self._jobs, *within, math.inf, batching)

    def now(self) -> float:
        """Return the seconds that the study had any worker."""
        self._now = max(self._now, super().now() - (self._jobs.waited() if self._jobs is not None else 0.0))
        return self._now


class _Array:
    """Launches pilots as an array of jobs."""

    def __init__(self, submitting: Submitting, workers: int, python: str) -> None:
        self._submitting, self._workers, self._python = submitting, workers, python
        self._jobs: set[str] = set()
        self._invitation = ""
        self._looked = time.monotonic()

    def start(self, host: str, port: int, key: bytes) -> None:
        self._invitation = invitation(host=host, port=port, key=key.hex()).decode().strip()
        self._cancel()
        self._submit(self._workers)

    def tend(self, joined: Container[str]) -> Iterator[str]:
        if time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        if (states := self._submitting.states()) is None:
            return
        for job in sorted(self._jobs):
            state, _ = states.get(job, ("gone", ""))
            if state in GOING:
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
        deadline, unknown = time.monotonic() + _SETTLED, ("", "")
        while (state := (self._submitting.states() or {}).get(name, unknown)[0]) in ("", *GOING):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.2)
        return state == "OUT_OF_MEMORY"

    def close(self) -> None:
        self._cancel()
        self._jobs.clear()

    def _submit(self, jobs: int) -> None:
        words = shlex.join([self._python, "-P", "-c", BEGIN])
        script = (
            f"#!/bin/sh\ninvited=${INVITATION}; unset {INVITATION}\n"
            f'exec {words} "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" 1 <<END\n$invited\nEND\n'
        )
        environment = {**os.environ, INVITATION: self._invitation}
        number = self._submitting.submit(script, f"--array=0-{jobs - 1}", env=environment)
        self._jobs |= {f"{number}_{task}" for task in range(jobs)}

    def _cancel(self) -> None:
        if left := self._submitting.cancel():
            log.warning("executor=slurm: %s", left)


def _check_loopback() -> None:
    """Raise UserError where a node is another machine, which cannot connect to this one's loopback."""
    names = {"localhost", socket.gethostname(), socket.gethostname().partition(".")[0]}
    nodes = run(["sinfo", "--noheader", "--Node", "--format=%o"]).stdout.split()
    if others := sorted({node for node in nodes if node not in names and not node.startswith("127.")}):
        raise UserError(
            f"executor.address: nodes such as {others[0]} have to connect to this machine: give its name as they know "
            f"it, such as executor.address={socket.gethostname()}"
        )
