"""What schedulers, searchers and executors keep, as checks that those of others can be put through, too."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halving.conformance.suite import Result, conform

__all__ = ["Result", "conform"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from halving.conformance import suite  # which a worker can do without

    return getattr(suite, name)
