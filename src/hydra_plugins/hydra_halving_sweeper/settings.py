"""The settings of the sweeper."""

from dataclasses import dataclass, field
from typing import Any

BUDGET = ("evaluations", "resource", "seconds", "target", "patience")


@dataclass
class Settings:
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
