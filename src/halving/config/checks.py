"""The rules that a composed configuration must keep, checked before anything runs."""

import math
import re
from itertools import pairwise

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from halving.config.schema import GROUPS, ROOT_KEYS
from halving.config.suggestions import nearest
from halving.errors import UserError, first_line


def check_base(cfg: DictConfig) -> None:
    """Raise UserError if a primary config leaves out what every one begins with."""
    if lacking := [key for key in ROOT_KEYS if key not in cfg]:
        key = lacking[0]
        raise UserError(f"the config has no {key}: begin the defaults of its primary file with base; no ~{key} either")


def check(cfg: DictConfig) -> None:
    """Raise UserError for the first rule that the config breaks."""
    for key in cfg:
        if key not in ROOT_KEYS and not OmegaConf.is_dict(cfg[key]):  # which is a group of one's own
            raise UserError(f"unknown key {key}{nearest(str(key), cfg)}")
    check_resolves(cfg)
    for group in GROUPS:
        may_be_empty = group in ("space", "tracker") or (group == "averaging" and not cfg[group])
        if not may_be_empty and not isinstance(cfg[group].get("_target_"), str):
            raise UserError(f"{group}._target_: must name what builds it, as the options of {group} do")
    from halving.confirming import Confirming
    from halving.schedulers.base import check_ladder  # the package loads scipy, which --help does without

    check_ladder(cfg.eta, cfg.r_min, cfg.r_max)
    Confirming(**cfg.confirm)
    rules = (
        (cfg.epochs >= 1, f"epochs={cfg.epochs}: a training has at least 1 epoch"),
        (
            not _ends_early(cfg) or 1 <= cfg.until <= cfg.r_max,
            f"until={cfg.get('until')}: a single trial is trained to at least 1 and at most r_max={cfg.r_max}",
        ),
        (cfg.plan in (None, "auto"), f"plan={cfg.plan}: give auto, or null to plan yourself"),
        (cfg.plan is None or cfg.budget.seconds is not None, "plan=auto: what should it fit? Give budget.seconds=600"),
        (cfg.seed >= 0, f"seed={cfg.seed}: must not be negative"),
        (cfg.order_seed >= 0, f"order_seed={cfg.order_seed}: must not be negative"),
        (cfg.trial >= 0, f"trial={cfg.trial}: must not be negative"),
        (
            isinstance(cfg.lr_schedule.get("warmup") or 0, int | float),
            f"lr_schedule.warmup={cfg.lr_schedule.get('warmup')}: must be a number of epochs",
        ),
    )
    for kept, message in rules:
        if not kept:
            raise UserError(message)


def check_resolves(cfg: DictConfig) -> None:
    """Raise UserError for a value that is missing, or an interpolation that cannot be resolved."""
    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        cause = error.__context__
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__context__
        if cause is not None:  # a resolver's own words
            raise cause from None
        if lacking := re.search(r"interpolation: Missing mandatory value: (\S+)", first_line(error)):
            raise UserError(f"{lacking[1]}: a value must be given: {lacking[1]}=...") from error
        if isinstance(error, MissingMandatoryValue):
            raise UserError(f"{error.full_key}: a value must be given: {error.full_key}=...") from error
        if absent := re.search(r"Interpolation key '(\S+)' not found", first_line(error)):
            raise UserError(f"{error.full_key}: needs {absent[1]}, which this config does not have") from error
        raise UserError(f"{error.full_key}: {first_line(error)}" if error.full_key else first_line(error)) from error


def warnings(cfg: DictConfig, overrides: list[str]) -> list[str]:
    """Return what is allowed but probably not meant."""
    found: list[str] = []
    scheduler = OmegaConf.to_yaml(cfg.scheduler)
    warmup = cfg.lr_schedule.get("warmup") or 0
    counts_epochs = cfg.epochs == cfg.r_max
    if counts_epochs and "${r_min}" in scheduler and warmup > cfg.r_min:
        found.append(
            f"lr_schedule.warmup={warmup:g} lasts beyond r_min={cfg.r_min}: the first decisions fall inside the warm-up"
        )
    if any(item.startswith("eta=") for item in overrides) and "${eta}" not in scheduler:
        found.append(
            f"eta={cfg.eta} has no effect on a single trial; scheduler=sha runs a study"
            if cfg.scheduler.get("max_trials") == 1
            else f"eta={cfg.eta} has no effect on this scheduler's decisions; where no budget is given, it still sets "
            "how much the study spends"
        )
    if any(item.startswith(("r_max=", "r_min=", "eta=")) for item in overrides) and (text := _short_last_rung(cfg)):
        found.append(text)
    if any(item.startswith("until=") for item in overrides) and "${until}" not in scheduler:
        found.append(f"until={cfg.until} has no effect on a study; it is how far scheduler=single trains its trial")
    idle = next((item for item in overrides if item.startswith("confirm.")), None)
    if idle and not cfg.confirm.top and not any(item.startswith("confirm.top=") for item in overrides):
        found.append(f"{idle} has no effect without confirm.top=3, which says how many of the best are confirmed")
    if _ends_early(cfg):
        found.append(f"until={cfg.until} ends the training before r_max={cfg.r_max}; until={cfg.r_max} trains in full")
    return found


def _short_last_rung(cfg: DictConfig) -> str:
    """Say what a ladder costs whose last step is shorter than the others, and which one nearby costs less, if any."""
    from halving.schedulers.successive_halving import ladder, sizes

    own = cfg.scheduler
    fills = (
        own.get("_target_") == "halving.schedulers.SuccessiveHalving" and own.get("n") is None and own.eta == cfg.eta
    )
    bounds = (own.get("max_trials", 0), *(cfg.budget[name] for name in ("evaluations", "resource", "seconds")))
    spends_as_much = all(bound is None for bound in bounds)
    if not (fills or spends_as_much):
        return ""

    def cost(r_max: int) -> int:
        levels = ladder(cfg.eta, cfg.r_min, r_max)
        steps = (level - below for below, level in pairwise((0, *levels)))
        return sum(n * step for n, step in zip(sizes(levels, cfg.eta), steps, strict=True))

    levels = ladder(cfg.eta, cfg.r_min, cfg.r_max)
    if len(levels) < 2 or levels[-1] == cfg.eta * levels[-2]:
        return ""
    nearest = min((levels[-2], levels[-2] * cfg.eta), key=lambda r_max: abs(math.log(r_max / cfg.r_max)))
    if cost(nearest) >= cost(cfg.r_max):
        return ""
    return (
        f"r_max={cfg.r_max} adds a rung of {levels[-1] - levels[-2]} to a ladder of steps by {cfg.eta}, as the book's "
        f"does: a bracket begins {sizes(levels, cfg.eta)[0]} trials and costs {cost(cfg.r_max)}, where "
        f"r_max={nearest} costs {cost(nearest)}{'; where no budget is given, it is that' * spends_as_much}"
    )


def _ends_early(cfg: DictConfig) -> bool:
    """Whether the scheduler is one that `until` is for, and it is not r_max."""
    return "${until}" in OmegaConf.to_yaml(cfg.scheduler) and cfg.until != cfg.r_max
