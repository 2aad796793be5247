"""What a study optimises: training one trial, as executors run it here or in other processes."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from halving.checkpoints.store import Store
from halving.config import trials
from halving.config.choices import Choices
from halving.errors import UserError
from halving.space import Space
from halving.targets import check_trusted, instantiate
from halving.training.fidelities.base import Fidelity, Setting
from halving.trial import Configuration, Job, Step


@dataclass(frozen=True)
class Objective:
    """Trains a study's jobs from its unresolved config, with `threads` each; it may name `trusted` packages too.

    `choices` hold what the config becomes with other options of its groups, for processes that have no Hydra.
    """

    cfg: DictConfig
    run_dir: Path
    threads: int
    trusted: tuple[str, ...] = ()
    choices: Choices = trials.NO_CHOICES
    store: Store = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "store", Store(self.run_dir))

    def __call__(self, jobs: Sequence[Job]) -> Generator[Step]:
        """Run jobs. Raises MemoryError where the machine's memory is full, UserError where the device's is."""
        for job in jobs:
            yield from self._run(job)

    def _run(self, job: Job) -> Generator[Step]:
        fidelity, setting = self._prepared(job.configuration, job.trial)
        try:
            yield from fidelity.run(setting, job)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"out of memory on {self.cfg.device}: a smaller data.batch_size or model needs less, and a lower "
                f"executor.trials_per_gpu leaves more ({str(error).splitlines()[0]})"
            ) from error
        except RuntimeError as error:
            if "can't allocate memory" in str(error):
                raise MemoryError(str(error).splitlines()[0]) from error
            raise

    def prepare(self, configuration: Configuration) -> Fidelity:
        """Return the fidelity, after building everything once. Raises UserError for what could not run."""
        fidelity, setting = self._prepared(configuration, 0)
        fidelity.prepare(setting)
        return fidelity

    def prepare_options(self, space: Space) -> None:
        """Build every option of the space's choices once. Raises UserError for what could not run."""
        built: set[tuple[str, str]] = set()
        for chosen in space.combinations():
            if not built.issuperset(chosen.items()):
                self.prepare(dict(chosen))
                built.update(chosen.items())

    def test(self, trial: int, configuration: Configuration, resource: int) -> dict[str, float]:
        """Return the test metrics of a finished trial."""
        fidelity, setting = self._prepared(configuration, trial)
        return fidelity.test(setting, Job(trial, dict(configuration), 0, resource))

    def config(self, configuration: Configuration, trial: int) -> dict[str, Any]:
        """Return a trial's plain resolved config."""
        return trials.plain(trials.overlay(self.cfg, configuration, self.cfg.trial + trial, self.choices))

    def _prepared(self, configuration: Configuration, trial: int) -> tuple[Fidelity, Setting]:
        config = self.config(configuration, trial)
        check_trusted(config, self.trusted)
        torch.set_num_threads(self.threads)  # after what is the user's was imported, as that may set it
        fidelity: Fidelity = instantiate(config["fidelity"], "fidelity")
        return fidelity, Setting(config, self.store, self.threads)
