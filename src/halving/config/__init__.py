"""The edge towards Hydra: typed root, checks, polite errors, and how a trial is written as a config."""

from functools import lru_cache

from omegaconf import _utils, base

import halving.config.schema  # noqa: F401  (registers the typed root)

# OmegaConf reads an interpolation anew each time that it is resolved: in every trial's config.
base.parse = _utils.parse = lru_cache(4096)(base.parse)  # pyright: ignore[reportPrivateImportUsage]
