"""The doors, and what stands behind them: a request becomes parts, and these one study that runs."""

from typing import TYPE_CHECKING, Any

from halving.environment import importing

if TYPE_CHECKING:
    from halving.app.command_line import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    """Import the command line on first use: it loads torch, which other doors may do without."""
    if name != "run":
        raise AttributeError(f"module 'halving.app' has no attribute {name!r}")
    with importing():
        from halving.app.command_line import run
    globals()["run"] = run
    return run
