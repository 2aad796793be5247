"""The sweeper as Hydra finds it: every Hydra app on a machine imports this file, so that all else is imported late."""

import os
import sys
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

BUDGET = ("evaluations", "resource", "seconds", "target", "patience")


@dataclass
class HalvingSweeperConf:
    """What `hydra.sweeper` may say; `docs/hydra_apps.md` says it with examples."""

    _target_: str = "hydra_plugins.hydra_halving_sweeper.halving_sweeper.HalvingSweeper"
    _recursive_: bool = False  # a space holds targets of its own
    resource: str | None = None
    resume: list[str] = field(default_factory=list)
    inject: str | None = None
    delete: list[str] = field(default_factory=list)
    direction: str = "minimize"
    metric: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    scheduler: str = "sha"
    scheduler_options: dict[str, Any] = field(default_factory=dict)
    searcher: str = "random"
    searcher_options: dict[str, Any] = field(default_factory=dict)
    eta: int = 3
    r_min: int = 1
    r_max: int | None = None
    budget: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(BUDGET))
    seed: int = 0
    launch: str = "launcher"
    workers: int | None = None
    retries: int = 2
    tracker: list[str] = field(default_factory=list)
    tracker_options: dict[str, Any] = field(default_factory=dict)
    resume_from: str | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="halving", node=HalvingSweeperConf, provider="halving")


class HalvingSweeper(Sweeper):
    """Searches an app's configuration by halving's schedulers."""

    def __init__(self, **settings: Any) -> None:
        plain: dict[str, Any] = {
            key: OmegaConf.to_container(it, resolve=key != "resume") if OmegaConf.is_config(it) else it
            for key, it in settings.items()  # what resumes may refer to what only a job has
        }
        self._settings = HalvingSweeperConf(**plain)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._context, self._function, self._config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from halving.sweep.answers import CHILD, Answering, one_job

        if CHILD in os.environ:
            own = self._settings
            answering = Answering(self._function, own.metric, own.inject, tuple(own.delete))
            return one_job(self._context, answering, self._config, arguments)
        from halving.sweep.sweeper import sweep

        try:
            return sweep(self._settings, self._context, self._function, self._config, arguments)
        except KeyboardInterrupt:
            sys.exit(130)
