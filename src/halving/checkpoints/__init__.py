"""Where trials go on from: one store, whose names need no torch."""

from halving.checkpoints.names import (
    DIRECTORY,
    confirmation,
    discard,
    inside,
    is_kept,
    named,
    path,
    resources,
    sweep,
)

__all__ = ["DIRECTORY", "confirmation", "discard", "inside", "is_kept", "named", "path", "resources", "sweep"]
