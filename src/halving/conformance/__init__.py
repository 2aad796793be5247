"""What every scheduler and every searcher keeps, as checks that those of others can be put through, too."""

from halving.conformance.suite import Result, conform

__all__ = ["Result", "conform"]
