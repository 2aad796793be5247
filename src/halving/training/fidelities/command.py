"""A command in any language, in place of training."""

import json
import logging
import math
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import IO, Any

from halving.checkpoints.files import copy
from halving.checkpoints.store import State
from halving.data.keys import trial_seed
from halving.errors import UserError, did_you_mean
from halving.training.fidelities.base import Setting
from halving.training.recipe import config_hash
from halving.trial import Epoch, Finished, Job, Outcome, Step, Value

log = logging.getLogger(__name__)

_NAME = re.compile(r"\{([A-Za-z_][\w.]*)\}")


@dataclass(frozen=True)
class Command:
    """The resource is the epochs of a program, which trains from `HALVING_SINCE` to `HALVING_UNTIL` and ends.

    `{optimizer.lr}` in the command is that value of the trial's config, and `{lr}` that of `configuration`; `{since}`,
    `{until}`, `{directory}`, `{trial}` and `{seed}` are the job's. No shell reads the command. After each epoch the
    program prints one line of JSON with its metrics; other lines are for the log. What it leaves in
    `HALVING_DIRECTORY` is there when the trial resumes: an assignment that is interrupted begins anew, since nobody
    knows at which moment the files belong together. All that the program has started ends with it.
    """

    command: str
    configuration: Mapping[str, Value] = field(default_factory=dict[str, Value])
    unit: str = "epochs"
    r_min: int = 1
    r_max: int = 27
    epochs: int = 27
    resumable: bool = True
    measures: str = ""
    trains: bool = True

    def cost(self, since: int, until: int) -> float:
        return until - since

    def prepare(self, setting: Setting) -> None:
        self._words(setting, Job(0, {}, 0, 1), Path())

    def run(self, setting: Setting, job: Job) -> Generator[Step]:
        began = time.perf_counter()
        config, metric = config_hash(setting.config), setting.config["metric"].removeprefix("max:")
        state = yield from setting.store.newest(job, config)
        since, done = min(state.resource, job.since), list[dict[str, float]]()
        work = setting.store.working(job.trial)
        try:
            if state.files is not None:
                rmtree(work)
                copy(state.files, work)
            if state.resource > job.since:  # it was whole before the journal could name it
                done = list(state.values["epochs"])
                for i, metrics in enumerate(done):
                    yield Epoch(job.trial, job.since + i + 1, metrics)
            else:
                for epoch, metrics in self._epochs(setting, Job(job.trial, job.configuration, since, job.until), work):
                    if metric not in metrics:
                        raise UserError(f"the command prints {', '.join(metrics)} and no {metric}; give metric=<name>")
                    if epoch <= job.since:
                        continue  # lost with a checkpoint, and known to the journal
                    done.append(metrics)
                    yield Epoch(job.trial, epoch, metrics)
            curve = tuple(metrics[metric] for metrics in done)
            if not math.isfinite(curve[-1]):
                cause = f"diverged: {metric} is {curve[-1]} after epoch {job.until}"
                outcome = Outcome(job.trial, job.until, math.nan, failed=True, curve=curve)
                yield Finished(outcome, time.perf_counter() - began, cause=cause)
                return
            if job.until < setting.config["r_max"] and not any(work.iterdir()):
                raise UserError(
                    "the command leaves nothing in HALVING_DIRECTORY, so that it could not go on from there"
                )
            checkpoint = setting.store.save(job.trial, job.until, config, State({"epochs": done}, work))
        finally:
            rmtree(work, ignore_errors=True)
        yield Finished(Outcome(job.trial, job.until, curve[-1], curve=curve), time.perf_counter() - began, checkpoint)

    def test(self, setting: Setting, job: Job) -> dict[str, float]:
        return {}

    def _words(self, setting: Setting, job: Job, directory: Path) -> list[str]:
        """Return the command as its program gets it. Raises UserError for a name that the config does not have."""
        values = {**_flat(setting.config), **self.configuration, **_own(setting, job, directory)}

        def value(found: re.Match[str]) -> str:
            if found[1] not in values:
                raise UserError(f"fidelity.command: no {found[0]} there{did_you_mean(found[1], values)}")
            return str(values[found[1]])

        words = [_NAME.sub(value, word) for word in shlex.split(self.command)]
        if not words:
            raise UserError("fidelity.command: is empty; give a program with its arguments")
        return words

    def _epochs(self, setting: Setting, job: Job, work: Path) -> Generator[tuple[int, dict[str, float]]]:
        """Run the program; yield the number and the metrics of each epoch. Raises UserError where it fails."""
        words = self._words(setting, job, work)
        own = {f"HALVING_{name.upper()}": str(value) for name, value in _own(setting, job, work).items()}
        epoch = job.since
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            try:
                program = subprocess.Popen(
                    words,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={**os.environ, **own},
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
            except OSError as error:
                raise UserError(f"fidelity.command: cannot run {words[0]}: {error.strerror}") from error
            try:
                assert program.stdout is not None
                for line in program.stdout:
                    if (metrics := _metrics(line)) is None:
                        log.info("trial %d: %s", job.trial, line.rstrip())
                        continue
                    epoch += 1
                    if epoch > job.until or metrics.pop("epoch", epoch) != epoch:
                        raise UserError(
                            f"the command tells of another epoch than {min(epoch, job.until)}: {line.strip()}"
                        )
                    yield epoch, metrics
                status = program.wait()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(program.pid, signal.SIGKILL)
                program.wait()
            if status:
                raise UserError(f"the command ended with status {status}: {_last(errors, job.trial)}")
        if epoch < job.until:
            raise UserError(
                f"the command told of {epoch - job.since} epochs from {job.since} on, not up to {job.until}"
            )


def _own(setting: Setting, job: Job, directory: Path) -> dict[str, Any]:
    trial, seed = setting.config["trial"], trial_seed(setting.config["seed"], setting.config["trial"])
    return {"directory": directory, "since": job.since, "until": job.until, "trial": trial, "seed": seed}


def _flat(node: Any, path: str = "") -> dict[str, Any]:
    """Return the values of a config by their dotted paths."""
    if not isinstance(node, Mapping):
        return {path: node}
    items = (_flat(value, f"{path}.{name}" if path else str(name)) for name, value in node.items())
    return {name: value for item in items for name, value in item.items()}


def _metrics(line: str) -> dict[str, float] | None:
    """Return the numbers of a line of JSON, None of any other line. NaN and Infinity count as numbers."""
    try:
        told = json.loads(line)
        return {str(name): float(value) for name, value in told.items()} if isinstance(told, dict) and told else None
    except (ValueError, TypeError):
        return None


def _last(errors: IO[str], trial: int) -> str:
    """Log what a program printed as errors, and return its last line."""
    errors.seek(0)
    text = errors.read().strip()
    if text:
        log.error("trial %d: %s", trial, text)
    return text.rpartition("\n")[2] or "it says nothing"
