"""The doors, and what stands behind them: a request becomes parts, and these one study that runs."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from halving.environment import importing

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from halving.history import Header

__all__ = ["run"]


def run(cfg: "DictConfig", begin: Callable[["Header"], None] = lambda header: None) -> None:
    """Run the study that Hydra's config describes, as `command_line.run` does what it is asked for."""
    _door()(cfg, begin)


@cache
def _door() -> Callable[["DictConfig", Callable[["Header"], None]], None]:
    """Import the command line on first use: it loads torch, which other doors may do without."""
    with importing():
        from halving.app.command_line import run
        from halving.config.request import Request
    return lambda cfg, begin: run(Request.of(cfg), begin)
