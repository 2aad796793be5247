"""Where trials go on from: one store, whose names need no torch."""

from halving.checkpoints.names import DIRECTORY, discard, inside, named, path, resources, sweep

__all__ = ["DIRECTORY", "discard", "inside", "named", "path", "resources", "sweep"]
