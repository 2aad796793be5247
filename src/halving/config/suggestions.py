"""What somebody probably meant: by spelling, by last segment, and by the words of the book and of other tools."""

import difflib
from collections.abc import Iterable, Iterator

from omegaconf import DictConfig, OmegaConf

from halving.config.commands import line

_ALIASES = {
    "averager": "averaging",
    "batch": "data.batch_size",
    "dataset": "data",
    "ema": "averaging",
    "ema_decay": "averaging",
    "gpu": "device",
    "grace_period": "r_min",
    "learning_rate": "optimizer.lr",
    "lr-schedule": "lr_schedule",
    "lr_scheduler": "lr_schedule",
    "max_epochs": "r_max",
    "max_resource": "r_max",
    "max_t": "r_max",
    "max_trials": "scheduler.max_trials",
    "min_resource": "r_min",
    "momentum": "optimizer.momentum",
    "n_trials": "budget.evaluations",
    "num_epochs": "r_max",
    "num_samples": "budget.evaluations",
    "number_of_trials": "budget.evaluations",
    "output_dir": "hydra.run.dir",
    "prefact": "scheduler.n",
    "pruner": "scheduler",
    "reduction_factor": "eta",
    "resume_from": "resume",
    "sampler": "searcher",
    "search_space": "space",
    "swa": "averaging",
    "swa_start": "averaging",
    "time_budget": "budget.seconds",
    "timeout": "budget.seconds",
    "wandb": "tracker",
    "weight_average": "averaging",
    "weight_averaging": "averaging",
}
_OF_OTHER_OPTIONS = {
    **dict.fromkeys(("executor.batch", "executor.patience", "executor.program"), "executor=batched"),
    **dict.fromkeys(("executor.workers", "executor.retries", "executor.trial_timeout"), "executor=process"),
}
_OPTION_ALIASES = {
    "basic": "fifo",
    "bo": "bayesian",
    "cifar": "cifar10",
    "exponential": "ema",
    "fashion-mnist": "fashion_mnist",
    "fashionmnist": "fashion_mnist",
    "genetic": "evolution",
    "qmc": "sobol",
    "priorband": "prior",
    "simulated_annealing": "annealing",
    "hyperopt": "tpe",
    "lenet5": "lenet",
    "polyak": "ema",
    "resnet": "resnet18",
    "sh": "sha",
    "stochastic_weight_averaging": "swa",
    "successive_halving": "sha",
}


def nearest(path: str, cfg: DictConfig, otherwise: str | None = None) -> str:
    """Return "; did you mean a or b?" for a path that the config lacks; otherwise, by default, how to see it."""
    if path in _OF_OTHER_OPTIONS:
        return f"; {_OF_OTHER_OPTIONS[path]} has one"
    known = [name for name in _paths(cfg) if name not in (path, f"space.{path}")]
    last = path.rpartition(".")[2]
    alias = _ALIASES.get(path) or _ALIASES.get(last)
    found = [alias] if alias and (alias in known or alias.startswith("hydra.")) else []
    found += [name for name in known if name.rpartition(".")[2] == last]
    found += difflib.get_close_matches(path, known, n=3, cutoff=0.6)
    found += [name for name in known if difflib.SequenceMatcher(None, last, name.rpartition(".")[2]).ratio() >= 0.8]
    return _question(found) or (f"; see what there is: {line('--cfg', 'job')}" if otherwise is None else otherwise)


def nearest_option(option: str, options: Iterable[str]) -> str:
    """Return "; did you mean a or b?" for an option that a group lacks, and all that it has."""
    known = sorted(options)
    alias = _OPTION_ALIASES.get(option.lower())
    found = [alias] if alias in known else []
    found += difflib.get_close_matches(option, known, n=3, cutoff=0.6)
    return f"{_question(found) or ';'} there is {', '.join(known)}"


def _question(found: list[str]) -> str:
    names = list(dict.fromkeys(found))[:3]
    return f"; did you mean {' or '.join(names)}?" if names else ""


def _paths(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in cfg:
        if str(key).startswith("_"):
            continue
        path = f"{prefix}{key}"
        yield path
        if key == "hydra" or OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, str(key)):
            continue
        node = cfg[key]
        if isinstance(node, DictConfig):
            yield from _paths(node, f"{path}.")
