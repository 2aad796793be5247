"""What a trial is trained from: its resolved configuration, made into objects."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from halving.data.base import BUILDING, Data
from halving.data.keys import key
from halving.errors import UserError
from halving.targets import instantiate
from halving.training.averaging import Averaging
from halving.training.randomness import seeded
from halving.trial import AVERAGED

METRICS = ("val_error", "val_loss", "train_error", "train_loss")
ACCURACIES = {
    "val_accuracy": "val_error",
    "train_accuracy": "train_error",
    "averaged_val_accuracy": "averaged_val_error",
}
_TRAINED_FROM = ("data", "model", "optimizer", "lr_schedule", "fidelity", "r_max", "epochs", "seed", "trial")
_OF_THE_STUDY = (
    *("space", "searcher", "scheduler", "executor", "tracker", "name", "eta", "r_min", "until", "metric", "plan"),
    *("budget", "confirm", "order_seed", "device", "data_dir", "resume", "trusted_packages", "notes", "averaging"),
)
_NOT_TRAINED_FROM = {"data": ("data_dir", "device"), "fidelity": ("r_min", "r_max")}


@dataclass(frozen=True)
class Recipe:
    """Factories and data for one trial.

    Keyword arguments to `model` replace the configured ones; `width` is the configured one, None where the model has
    none. A full training has `epochs` and spends `r_max`. `trial` is its random stream; `metric` names what is
    optimised, and `config` hashes what it is trained from. `shape` and `outputs` are what the configuration says of the
    data.
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
    checkpoint_every: int | None = None
    shape: Sequence[int] | None = None
    outputs: int | None = None
    averaging: Averaging | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], data: Data | None = None) -> "Recipe":
        """Build from a plain resolved configuration.

        The data are built with the global generators seeded by the study's seed alone, the same for every trial, unless
        they are given: then they are another one's that has the same.

        Raises UserError for what cannot be instantiated, and for a metric that training does not measure.
        """
        if data is None:
            with seeded(key(config["seed"], BUILDING), config["device"]):
                data = instantiate(config["data"], "data")
        if not isinstance(data, Data):
            raise UserError(
                f"data: {config['data'].get('_target_')} gives a {type(data).__name__}; return split_data(...)"
            )
        return cls(
            data=data if (order := _order(config)) is None else replace(data, order_seed=order),
            model=lambda **arguments: instantiate(config["model"], "model", **arguments),
            width=config["model"].get("width"),
            optimizer=instantiate(config["optimizer"], "optimizer"),
            lr_schedule=lambda: instantiate(config["lr_schedule"], "lr_schedule"),
            epochs=config["epochs"],
            r_max=config["r_max"],
            seed=config["seed"],
            trial=config["trial"],
            device=config["device"],
            metric=measured(config["metric"], data),
            config=config_hash(config),
            checkpoint_every=config["executor"].get("checkpoint_every"),
            shape=config["data"].get("shape"),
            outputs=config["data"].get("outputs"),
            averaging=instantiate(config.get("averaging"), "averaging") or None,
        )


def measured(metric: str, data: Data) -> str:
    """Return the name in a `metric` as configured. Raises UserError where training on `data` does not measure it.

    Every one of the validation set is also measured with averaged weights; without averaging these are the last ones.
    """
    accuracies = [f"max:{name}" for name in ACCURACIES if not name.startswith(AVERAGED)] if data.classification else []
    known = [*METRICS, *accuracies, *(f"val_{name}" for name in data.metrics)]
    name = metric.removeprefix("max:")
    if name.startswith(AVERAGED):
        known += [each.replace("val_", f"{AVERAGED}val_", 1) for each in known if "val_" in each]
    if name not in {each.removeprefix("max:") for each in known}:
        raise UserError(f"metric={metric}: training does not measure it; there is {', '.join(known)}")
    if metric in ACCURACIES:
        raise UserError(f"metric={metric} would make the accuracy small; give metric=max:{metric}")
    return name


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash what a trial's weights follow from; where its data lie and what computes them are left out."""
    own = (name for name in config if name not in (*_TRAINED_FROM, *_OF_THE_STUDY))
    parts = {name: config[name] for name in (*_TRAINED_FROM, *own)}
    if (order := _order(config)) is not None:
        parts["order_seed"] = order
    if averaging := config.get("averaging"):  # of which studies before 0.5 know nothing
        parts["averaging"] = averaging
    for name, ignored in _NOT_TRAINED_FROM.items():
        if isinstance(parts[name], Mapping):
            parts[name] = {k: v for k, v in parts[name].items() if k not in ignored}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _order(config: Mapping[str, Any]) -> int | None:
    """Return the seed of the data's order where it has one of its own; studies before 0.4 have no such key."""
    order = config.get("order_seed", config["seed"])
    return None if order == config["seed"] else order
