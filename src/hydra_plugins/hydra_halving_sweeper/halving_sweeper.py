"""The sweeper as Hydra finds it: every Hydra app on a machine imports this, so that all else is imported late."""

import os
import sys
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.hydra_halving_sweeper.settings import Settings

ConfigStore.instance().store(group="hydra/sweeper", name="halving", node=Settings, provider="halving")


class HalvingSweeper(Sweeper):
    """Searches an app's configuration by halving's schedulers."""

    def __init__(self, **settings: Any) -> None:
        plain: dict[str, Any] = {
            key: OmegaConf.to_container(it, resolve=key != "resume") if OmegaConf.is_config(it) else it
            for key, it in settings.items()  # what resumes may refer to what only a job has
        }
        self._settings = Settings(**plain)

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
