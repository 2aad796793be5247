"""Where an assignment can go on: at its newest whole checkpoint."""

import logging
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

from halving.checkpoints import resources
from halving.errors import UserError
from halving.training.recipe import Recipe
from halving.trial import Job, Restarted, Step

log = logging.getLogger(__name__)


def restored(recipe: Recipe, job: Job) -> Generator[Restarted, None, tuple[int, Mapping[str, Any]]]:
    """Return the newest checkpoint's resource and state, or (0, {}) where there is none.

    It may lie beyond `job.since`, if the assignment was interrupted. Where one is damaged, or the one at `job.since`
    is missing, an older one serves, and a Restarted says so.
    """
    reasons: list[str] = []
    at, state = 0, dict[str, Any]()
    for resource in resources(recipe.run_dir, job.trial):
        if resource > job.until:
            continue
        try:
            at, state = resource, dict(recipe.load(job.trial, resource))
            break
        except UserError as error:
            reasons.append(str(error))
    if at < job.since and not reasons:
        reasons.append(f"trial {job.trial} has no checkpoint at {job.since}")
    if reasons:
        yield Restarted(job.trial, at, "; ".join(reasons))
    return at, state


def reloaded(recipe: Recipe, trial: int, resource: int, run: Callable[[Job], Iterable[Step]]) -> Mapping[str, Any]:
    """Return a finished trial's state; where its checkpoint is damaged, `run` trains it again, and the log says so."""
    try:
        return recipe.load(trial, resource)
    except UserError as error:
        log.warning("%s; trial %d is trained again from nothing", error, trial)
    for _ in run(Job(trial, {}, 0, resource)):
        pass
    return recipe.load(trial, resource)
