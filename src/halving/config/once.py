"""Hydra composes a job's config twice, the first time only to ask it for hydra.mode: here once."""

from typing import Any

from hydra._internal import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode
from omegaconf import DictConfig


class Once(ConfigLoaderImpl):
    """Composes what Hydra asks for its mode as the job that it probably is, and gives that job what came of it."""

    _found: tuple[str | None, list[str], DictConfig | Exception] | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Return a config, as Hydra does, raising what it raises."""
        given: dict[str, Any] = {"config_name": config_name, "overrides": overrides, "from_shell": from_shell}
        if not validate_sweep_overrides:  # so much for the mode
            try:
                found = super().load_configuration(**given, run_mode=RunMode.RUN)
            except Exception as error:  # it may be a multirun's
                self._found = config_name, [*overrides], error
            else:
                self._found = config_name, [*overrides], found
                return found
        elif self._found is not None and run_mode == RunMode.RUN:
            (name, asked, found), self._found = self._found, None
            if (config_name, overrides) in ((name, asked), (name, [*asked, _RUN])):
                if isinstance(found, Exception):
                    raise found
                if overrides != asked:
                    found.hydra.mode = RunMode.RUN
                    found.hydra.overrides.hydra.append(_RUN)
                return found
        return super().load_configuration(**given, run_mode=run_mode, validate_sweep_overrides=validate_sweep_overrides)


_RUN = "hydra.mode=RUN"  # what Hydra adds where nobody sets it


def compose_once() -> None:
    """Let Hydra's command line compose by Once."""
    hydra.ConfigLoaderImpl = Once  # pyright: ignore[reportPrivateImportUsage]
