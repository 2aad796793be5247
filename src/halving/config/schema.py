"""The typed root of the configuration."""

from dataclasses import dataclass, field, fields
from typing import Any
from warnings import filterwarnings

from hydra.core.config_store import ConfigStore
from omegaconf import II, MISSING


@dataclass
class BudgetConfig:
    """What ends a study early; see `halving.tuner.Budget`."""

    evaluations: int | None = None
    resource: float | None = None
    seconds: float | None = None
    target: float | None = None
    patience: int | None = None


@dataclass
class ConfirmConfig:
    """What confirms a study's best; see `halving.confirming.Confirming`."""

    top: int = 0
    seeds: int = 5
    vary: str = "order"


@dataclass
class Config(dict[str, Any]):
    """The root keys. Groups are plain YAML with `_target_`; `experiment` is a group without a key.

    A mapping more is a group of one's own.
    """

    data: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    lr_schedule: dict[str, Any] = MISSING
    averaging: dict[str, Any] = field(default_factory=dict[str, Any])
    space: dict[str, Any] = MISSING
    searcher: dict[str, Any] = MISSING
    scheduler: dict[str, Any] = MISSING
    fidelity: dict[str, Any] = MISSING
    executor: dict[str, Any] = MISSING
    tracker: dict[str, Any] = MISSING

    name: str = MISSING
    seed: int = MISSING
    order_seed: int = II("seed")
    trial: int = MISSING
    eta: int = MISSING
    r_min: int = MISSING
    r_max: int = MISSING
    until: int = II("r_max")
    epochs: int = MISSING
    metric: str = MISSING
    plan: str | None = None
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    confirm: ConfirmConfig = field(default_factory=ConfirmConfig)
    device: str = MISSING
    data_dir: str = MISSING
    resume: str | None = None
    trusted_packages: list[str] = field(default_factory=list[str])
    notes: str = ""


GROUPS = (
    "data",
    "model",
    "optimizer",
    "lr_schedule",
    "averaging",
    "space",
    "searcher",
    "scheduler",
    "fidelity",
    "executor",
    "tracker",
)
ROOT_KEYS = tuple(item.name for item in fields(Config))

# There is no other way to a root that is typed and open.
filterwarnings("ignore", r"Class `Config` subclasses `Dict`")
ConfigStore.instance().store("schema", Config)


def order(key: str) -> int:
    """Return where a root key stands; groups of one's own come last."""
    return ROOT_KEYS.index(key) if key in ROOT_KEYS else len(ROOT_KEYS)
