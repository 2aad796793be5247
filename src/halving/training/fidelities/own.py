"""A training of the user's under Hydra."""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

from halving.data.keys import trial_seed
from halving.errors import UserError
from halving.history import VARIED
from halving.targets import locate
from halving.training.fidelities.base import Axis, Setting
from halving.training.own import Own, Running, is_training
from halving.training.pausing import Course, retrained, train
from halving.training.recipe import config_hash
from halving.trial import Job, Step, Value

_OF_THE_FUNCTION = "fidelity.configuration."
_STREAMS = VARIED["order"]  # which a configuration may name


class _Found(dict[str, Value]):
    """A configuration that finds any other value of the config by its path: a winner trained again searches nothing."""

    def __init__(self, own: Mapping[str, Value], config: Mapping[str, Any]) -> None:
        super().__init__(own)
        self._config = config

    def __missing__(self, path: str) -> Any:
        try:
            return reduce(lambda node, name: node[name], path.split("."), self._config)
        except (KeyError, TypeError):
            raise KeyError(path) from None

    def get(self, path: str, default: Any = None) -> Any:
        try:
            return self[path]
        except KeyError:
            return default


@dataclass(frozen=True)
class OwnTraining(Axis):
    """The resource is the epochs of `function(trial)`, which yields or reports their metrics, as `halving.tune` has it.

    `trial.configuration` is `configuration` and, by their paths, whatever else is searched, and it finds every other
    value of the config too; `trial.config` is the whole resolved config. `test_function`, a function of a trial too,
    measures the winner.
    """

    function: str
    test_function: str | None = None
    configuration: Mapping[str, Value] = field(default_factory=dict[str, Value])
    unit: str = "epochs"

    def prepare(self, setting: Setting) -> None:
        if not is_training(self._located()):
            raise UserError(
                f"fidelity.function: {self.function} takes more than a trial; fidelity=function is for those that take "
                "a configuration and a resource"
            )
        if self.test_function is not None:
            locate(self.test_function, "fidelity.test_function")

    def run(self, setting: Setting, job: Job) -> Generator[Step]:
        yield from train(partial(self._begun, setting, job), setting.store, job, _course(setting))

    def test(self, setting: Setting, job: Job) -> dict[str, float]:
        if self.test_function is None:
            return {}
        state = retrained(setting.store, job, _course(setting).config, partial(self.run, setting))
        return self._begun(setting, job).test(state, locate(self.test_function, "fidelity.test_function"))

    def _located(self) -> Callable[..., Any]:
        return locate(self.function, "fidelity.function")

    def _begun(self, setting: Setting, job: Job) -> Own:
        config = setting.config
        elsewhere = {
            name: value
            for name, value in job.configuration.items()
            if not name.startswith(_OF_THE_FUNCTION) and name not in _STREAMS
        }
        trial = Running(
            config["trial"],
            _Found({**self.configuration, **elsewhere}, config),
            trial_seed(config["seed"], config["trial"]),
            job.until,
            config=config,
            _work=partial(setting.store.working, job.trial),
        )
        return Own(self._located(), trial, _course(setting).metric)


def _course(setting: Setting) -> Course:
    config = setting.config
    every = config["executor"].get("checkpoint_every")
    return Course(config["metric"].removeprefix("max:"), config["r_max"], config_hash(config), every)
