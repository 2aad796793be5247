"""Folds of cross-validation as the resource."""

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from halving.checkpoints import path
from halving.checkpoints.store import State
from halving.errors import UserError
from halving.training.fidelities.base import Axis, Setting
from halving.training.pausing import retrained
from halving.training.recipe import Recipe
from halving.training.rehearsal import rehearse
from halving.training.trainer import Trainer
from halving.trial import Epoch, Finished, Job, Outcome, Step


@dataclass(frozen=True)
class Folds(Axis):
    """The resource is the number of folds evaluated, out of r_max; the error is the mean over them.

    Training and validation set together are cut into r_max folds, the same for every trial (`Data.fold`). For each in
    turn the model begins with the same weights, trains the root's `epochs` on the other folds, and its last error on
    the fold counts. A paused trial keeps its errors and models and goes on with the next fold; `curve` is the running
    mean. Epoch e of fold f is numbered (f - 1) epochs + e.

    The test error is the mean over the models of all folds so far; the weights in the checkpoint are the last fold's.

    Raises UserError, when prepared, for less than two folds, or more than there are examples. Source: Hastie et al.,
    The Elements of Statistical Learning, 7.10 (K is r_max).
    """

    unit: str = "folds"
    loads = True

    def prepare(self, setting: Setting) -> None:
        whole = setting.recipe()
        rehearse(whole)
        if whole.r_max < 2:
            raise UserError(f"r_max={whole.r_max}: fidelity=folds needs at least 2 folds, one of them to train on")
        fold = whole.data.fold(1, whole.r_max)
        if not len(fold.validation):
            raise UserError(
                f"r_max={whole.r_max}: fidelity=folds cuts the data into r_max folds, but there are only "
                f"{len(fold.train)} examples; give a smaller r_max"
            )

    def run(self, setting: Setting, job: Job) -> Generator[Step]:
        began = time.perf_counter()
        whole, store = setting.recipe(), setting.store
        state = yield from store.newest(job, whole.config)
        at, kept = state.resource, state.values
        errors: list[float] = list(kept.get("errors", ()))
        models: list[dict[str, Any]] = list(kept.get("models", ()))
        averages: list[dict[str, Any]] = list(kept.get("averages", ()))
        epochs: list[dict[str, float]] = list(kept["epochs"]) if at > job.since else []
        for i, metrics in enumerate(epochs):
            yield Epoch(job.trial, job.since * whole.epochs + i + 1, metrics)
        for fold in range(at + 1, job.until + 1):
            trainer = _trainer(whole, fold)
            after: list[float] = []
            shift = (fold - 1) * whole.epochs
            for step in trainer.train(job.trial, range(1, whole.epochs + 1), shift):
                after.append(step.metrics[whole.metric])
                if fold <= job.since:
                    continue  # a fold whose checkpoint was lost is known to the journal
                epochs.append(dict(step.metrics))
                yield step
                if cause := trainer.divergence(step.epoch - shift, step.metrics):
                    outcome = Outcome(job.trial, fold, math.nan, failed=True, curve=_means(errors, job.since))
                    yield Finished(outcome, time.perf_counter() - began, cause=f"fold {fold} {cause}")
                    return
            errors.append(after[-1])
            weights = trainer.weights()
            models.append(weights["model"])
            averages += [weights["averaged"]] if "averaged" in weights else []
            if fold > job.since:
                values = {"errors": errors, "models": models, "averages": averages, **weights, "epochs": epochs}
                store.save(job.trial, fold, whole.config, State(values))
                store.supersede(job.trial, job.since, fold)
        outcome = Outcome(job.trial, job.until, fmean(errors), curve=_means(errors, job.since))
        yield Finished(outcome, time.perf_counter() - began, path(job.trial, job.until))

    def trained(self, setting: Setting, job: Job) -> Generator[Trainer]:
        whole = setting.recipe()
        state = retrained(setting.store, job, whole.config, lambda job: self.run(setting, job))
        averages = state.values.get("averages", ())  # which are there of all folds or of none
        for i, model in enumerate(state.values["models"]):
            trainer = _trainer(whole, i + 1)
            trainer.load({"model": model, **({"averaged": averages[i]} if averages else {})})
            yield trainer

    def test(self, setting: Setting, job: Job) -> dict[str, float]:
        tests = [trainer.test() for trainer in self.trained(setting, job)]
        # Every example is validated on by one fold, therefore these counts add up where all else is averaged.
        combine = {"val_samples": sum}
        return {name: combine.get(name, fmean)([test[name] for test in tests]) for name in tests[0]}


def _means(errors: list[float], since: int) -> tuple[float, ...]:
    return tuple(fmean(errors[:fold]) for fold in range(since + 1, len(errors) + 1))


def _trainer(whole: Recipe, fold: int) -> Trainer:
    return Trainer(replace(whole, data=whole.data.fold(fold, whole.r_max)))
