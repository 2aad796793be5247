"""Multi-fidelity hyperparameter optimisation for PyTorch under Hydra."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halving.app.ask_tell import AskTell
    from halving.app.simulation import simulate
    from halving.app.tune import tune
    from halving.confirming import Confirming
    from halving.conformance.training import check
    from halving.errors import UserError
    from halving.executors import Process
    from halving.schedulers import FIFO, SuccessiveHalving
    from halving.searchers import RandomSearcher
    from halving.space import Space
    from halving.study import Study, load
    from halving.targets import instantiate
    from halving.tuner import Budget

__all__ = [
    "FIFO",
    "AskTell",
    "Budget",
    "Confirming",
    "Process",
    "RandomSearcher",
    "Space",
    "Study",
    "SuccessiveHalving",
    "UserError",
    "check",
    "instantiate",
    "load",
    "simulate",
    "tune",
]

_HOMES = {
    "AskTell": "app.ask_tell",
    "Budget": "tuner",
    "Confirming": "confirming",
    "FIFO": "schedulers",
    "Process": "executors",
    "RandomSearcher": "searchers",
    "Space": "space",
    "Study": "study",
    "SuccessiveHalving": "schedulers",
    "UserError": "errors",
    "instantiate": "targets",
    "check": "conformance.training",
    "load": "study",
    "simulate": "app.simulation",
    "tune": "app.tune",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line answers before scipy and torch are loaded."""
    if name not in _HOMES:
        homes = (f"halving.{home}" for home in ("schedulers", "searchers") if not name.startswith("_"))
        home = next((home for home in homes if name in import_module(home).__all__), None)
        hint = f"; from {home} import {name}" if home else ""
        raise AttributeError(f"module 'halving' has no attribute {name!r}{hint}")
    return getattr(import_module(f"halving.{_HOMES[name]}"), name)
