"""What a process still has of the trial that it trained last."""

from dataclasses import dataclass

from halving.training.trainer import Trainer


@dataclass
class Memory:
    """One paused trial, for the case that it goes on here: then nothing needs to be built or read from the disk."""

    _at: tuple[int, int, str] | None = None
    _trainer: Trainer | None = None

    def keep(self, trial: int, resource: int, config: str, trainer: Trainer) -> None:
        """Remember a trial, trained to `resource` from the configuration hashed as `config`, and forget any other."""
        self._at, self._trainer = (trial, resource, config), trainer

    def take(self, trial: int, resource: int, config: str) -> Trainer | None:
        """Give away what is remembered, if it is the trial asked for; forget it in any case."""
        found = self._trainer if self._at == (trial, resource, config) else None
        self._at = self._trainer = None
        return found
