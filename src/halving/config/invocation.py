"""How the running job was called, as Hydra has it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from hydra.types import RunMode
from omegaconf import DictConfig

from halving.config import commands, resumption


@dataclass(frozen=True)
class Invocation:
    """A job of this program: what was typed, and what Hydra made of it beside the config."""

    hydra: DictConfig

    @classmethod
    def running(cls) -> Self:
        return cls(commands.hydra_config())

    @property
    def run_dir(self) -> Path:
        return Path(self.hydra.runtime.output_dir)

    @property
    def multirun(self) -> bool:
        """Whether it is one job of several."""
        return self.hydra.mode == RunMode.MULTIRUN

    @cached_property
    def overrides(self) -> list[str]:
        """What was typed, but for what an earlier command of the study is only repeated by."""
        return resumption.typed(commands.overrides(self.hydra))

    @property
    def queued(self) -> str:
        """Which job of a queue it is; nothing where it is none."""
        return commands.queued(self.hydra)

    @property
    def source(self) -> list[str]:
        """The options that make the same job of its overrides, from any directory."""
        return [*commands.config_source(self.hydra), *commands.one_job(self.hydra)]

    @property
    def tags(self) -> list[str]:
        """What all jobs of a multirun have in common."""
        return [Path(self.hydra.sweep.dir).name] if self.multirun else []

    def option(self, group: str) -> str:
        """Return the option that was chosen of a config group, or the group's name where there is none."""
        return str(self.hydra.runtime.choices.get(group, group))
