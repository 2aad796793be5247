"""A command in any language, in place of training."""

import json
import logging
import math
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from halving.checkpoints.store import State
from halving.data.keys import trial_seed
from halving.errors import StudyError, UserError, did_you_mean, last_line
from halving.training.fidelities.base import Axis, Setting
from halving.training.program import grouped
from halving.training.recipe import config_hash
from halving.trial import Epoch, Finished, Job, Outcome, Step, Value

log = logging.getLogger(__name__)

_NAME = re.compile(r"\{([A-Za-z_][\w.]*)\}")


@dataclass(frozen=True)
class Command(Axis):
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

    def prepare(self, setting: Setting) -> None:
        program, *_ = self._words(setting, Job(0, {}, 0, 1), Path())
        if shutil.which(program) is None:
            raise UserError(f"fidelity.command: there is no program {program} here; install it, or give its path")

    def run(self, setting: Setting, job: Job) -> Generator[Step]:
        began = time.perf_counter()
        config, metric = config_hash(setting.config), setting.config["metric"].removeprefix("max:")
        state = yield from setting.store.newest(job, config)
        since, done = min(state.resource, job.since), list[dict[str, float]]()
        work = setting.store.working(job.trial, state.files)
        try:
            if state.resource > job.since:  # it was whole before the journal could name it
                done = list(state.values["epochs"])
                for i, metrics in enumerate(done):
                    yield Epoch(job.trial, job.since + i + 1, metrics)
            else:
                for epoch, metrics in self._epochs(setting, replace(job, since=since), work, metric):
                    if metric not in metrics:
                        raise StudyError(f"the command prints {', '.join(metrics)} and no {metric}; give metric=<name>")
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
                raise StudyError(
                    "the command leaves nothing in HALVING_DIRECTORY, so that it could not go on from there"
                )
            checkpoint = setting.store.save(job.trial, job.until, config, State({"epochs": done}, work))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        yield Finished(Outcome(job.trial, job.until, curve[-1], curve=curve), time.perf_counter() - began, checkpoint)

    def _words(self, setting: Setting, job: Job, directory: Path) -> list[str]:
        """Return the command as its program gets it. Raises UserError for a name that the config does not have."""
        values = {**_flat(setting.config), **_flat(self.configuration), **_own(setting, job, directory)}

        def value(found: re.Match[str]) -> str:
            if found[1] not in values:
                raise UserError(f"fidelity.command: no {found[0]} there{did_you_mean(found[1], values)}")
            return str(values[found[1]])

        try:
            words = [_NAME.sub(value, word) for word in shlex.split(self.command)]
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"fidelity.command: {self.command!r} is no command line: {error}") from error
        if not words:
            raise UserError("fidelity.command: is empty; give a program with its arguments")
        return words

    def _epochs(self, setting: Setting, job: Job, work: Path, metric: str) -> Generator[tuple[int, dict[str, float]]]:
        """Run the program; yield the number and the metrics of each epoch. Raises UserError where it fails."""
        words = self._words(setting, job, work)
        # A Python program's lines come as they are printed, and libraries take the threads that a job has.
        own = {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(setting.threads), **os.environ}
        own |= {f"HALVING_{name.upper()}": str(value) for name, value in _own(setting, job, work).items()}
        epoch = job.since
        with tempfile.TemporaryFile("w+", errors="replace") as errors, grouped(words, own, errors) as (program, lines):
            for line in lines:
                if (metrics := _metrics(line, metric)) is None:
                    log.info("%s: %s", job.label, line.rstrip())
                    continue
                epoch += 1
                if epoch > job.until:
                    raise UserError(
                        f"the command tells of more than the {job.until} epochs it was asked for: {line.strip()}"
                    )
                if (said := metrics.pop("epoch", epoch)) != epoch:
                    raise UserError(
                        f"the command says that this is epoch {said:g}, where {epoch} follows: {line.strip()}"
                    )
                yield epoch, metrics
            if status := program.wait():
                errors.seek(0)
                said = errors.read().strip()
                last = last_line(said) or "it says nothing"
                error = UserError(f"the command ended with status {status}: {last}")
                error.add_note(said)  # for the log
                raise error
        if epoch < job.until:
            raise UserError(
                f"the command told of {epoch - job.since} epochs after {job.since}, and was asked for {job.until}: "
                f'it prints one line for each, as {{"{metric}": 0.5}}'
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


def _metrics(line: str, metric: str) -> dict[str, float] | None:
    """Return the numbers of a line of JSON, None of any other line. NaN and Infinity count as numbers.

    Raises UserError where the metric is there, and something is no number.
    """
    told: Any = None
    try:
        told = json.loads(line)
        return {str(name): float(value) for name, value in told.items()} if isinstance(told, dict) and told else None
    except RecursionError:
        return None
    except (ValueError, TypeError, OverflowError) as error:
        if told is None or metric not in told:
            return None
        raise UserError(f"the command prints what is no number: {line.strip()}") from error
