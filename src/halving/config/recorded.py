"""A trial's config as a study's header tells it, in a process that has no Hydra."""

from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from halving.config import trials
from halving.config.choices import Choices
from halving.errors import UserError, first_line
from halving.history import Header
from halving.trial import Configuration


def recorded(header: Header, configuration: Configuration, trial: int) -> dict[str, Any]:
    """Return the plain resolved config of a trial; where data lay and what computed is as it was then.

    Raises UserError if the header has no config, or an interpolation cannot be resolved here.
    """
    told = header.provenance
    if told.unresolved is None:
        raise UserError("the study has no recorded config: it tuned a function")
    cfg = cast(DictConfig, OmegaConf.create(dict(told.unresolved)))
    for key in ("data_dir", "device"):
        OmegaConf.update(cfg, key, told.config[key])
    try:
        choices = Choices(**told.choices)
        return trials.plain(trials.overlay(cfg, configuration, cfg.trial + trial, choices))
    except OmegaConfBaseException as error:
        raise UserError(f"the recorded config cannot be resolved here: {first_line(error)}") from error
