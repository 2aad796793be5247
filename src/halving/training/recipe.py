"""What a trial is trained from: its resolved configuration, made into objects."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from halving.checkpoints import path
from halving.data.base import Data
from halving.errors import UserError, did_you_mean
from halving.targets import instantiate
from halving.training.checkpoint import Checkpoint, load, save

METRICS = ("val_error", "val_loss", "train_error", "train_loss")
_TRAINED_FROM = ("data", "model", "optimizer", "lr_schedule", "fidelity", "r_max", "epochs", "seed", "trial")
_NOT_TRAINED_FROM = {"data": ("data_dir", "device"), "fidelity": ("r_min", "r_max")}


@dataclass(frozen=True)
class Recipe:
    """Factories and data for one trial.

    Keyword arguments to `model` replace the configured ones; `width` is the configured one, None where the model has
    none. A full training has `epochs` and spends `r_max`. `trial` is its random stream; `metric` names what is
    optimised, `config` hashes what it is trained from, and checkpoints go below `run_dir`.
    """

    data: Data
    model: Callable[..., nn.Module]
    width: Any
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    lr_schedule: Callable[[], Callable[[float], float]]
    epochs: int
    r_max: int
    seed: int
    trial: int
    device: str
    metric: str
    config: str
    run_dir: Path
    checkpoint_every: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], run_dir: Path) -> "Recipe":
        """Build from a plain resolved configuration.

        Raises UserError for what cannot be instantiated, and for a metric that training does not measure.
        """
        metric: str = config["metric"].removeprefix("max:")
        if metric not in METRICS:
            raise UserError(f"metric={metric}: training does not measure it{did_you_mean(metric, METRICS)}")
        return cls(
            data=instantiate(config["data"], "data"),
            model=lambda **arguments: instantiate(config["model"], "model", **arguments),
            width=config["model"].get("width"),
            optimizer=instantiate(config["optimizer"], "optimizer"),
            lr_schedule=lambda: instantiate(config["lr_schedule"], "lr_schedule"),
            epochs=config["epochs"],
            r_max=config["r_max"],
            seed=config["seed"],
            trial=config["trial"],
            device=config["device"],
            metric=metric,
            config=config_hash(config),
            run_dir=run_dir,
            checkpoint_every=config["executor"].get("checkpoint_every"),
        )

    def save(self, trial: int, resource: int, state: Mapping[str, Any]) -> str:
        """Write a checkpoint and return its path below the run directory."""
        below = path(trial, resource)
        save(Checkpoint(trial, resource, self.config, state), self.run_dir / below)
        return below

    def load(self, trial: int, resource: int) -> Mapping[str, Any]:
        """Return the state of a trial at a resource. Raises UserError if it is missing, damaged or another's."""
        return load(self.run_dir / path(trial, resource), trial, resource, self.config).state


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash what a trial's weights follow from; where its data lie and what computes them are left out."""
    parts = {name: config[name] for name in _TRAINED_FROM}
    for name, ignored in _NOT_TRAINED_FROM.items():
        if isinstance(parts[name], Mapping):
            parts[name] = {k: v for k, v in parts[name].items() if k not in ignored}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
