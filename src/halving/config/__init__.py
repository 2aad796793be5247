"""The edge towards Hydra: typed root, checks, polite errors, and how a trial is written as a config."""

import halving.config.schema  # noqa: F401  (registers the typed root)
