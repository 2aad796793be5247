"""Trials trained as one program: in float64 the same numbers as alone, whatever becomes of their neighbours."""

import gc
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from test_exact_resume import CONF, built, composed
from torch import Tensor, nn
from torch.nn import functional

from halving.app.objective import ConfiguredObjective
from halving.checkpoints.store import Store
from halving.config.polite import register
from halving.config.request import Request
from halving.data import Data
from halving.data.base import Split
from halving.errors import UserError
from halving.targets import locate
from halving.training.batched import choice, program
from halving.training.batched.joining import Unlike, likeness, structure
from halving.training.batched.joint import Joint
from halving.training.batched.modules import JOINED, Masks
from halving.training.batched.recorded import Recorded
from halving.training.batched.steps import Each, Vectors, stepping
from halving.training.dropout import Dropout
from halving.training.fidelities.epochs import Epochs
from halving.training.loop import minibatches
from halving.training.trainer import Trainer
from halving.trial import Epoch, Finished, Job, Step

Config = dict[str, Any]
OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
SCHEDULES = sorted(path.stem for path in (CONF / "lr_schedule").glob("*.yaml"))
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
EPOCHS = 10  # of ten steps
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True)
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def doubled(of: str, **settings: Any) -> Data:
    """Return an option's data in float64, of images every other pixel."""
    return _doubled(of, json.dumps(settings))


@cache
def _doubled(of: str, described: str) -> Data:
    data: Data = locate(of, "data")(**json.loads(described) | {"shape": None})

    def coarse(part: Split) -> Split:
        if part.inputs.ndim == 4:
            return Split(part.inputs[:, :, ::2, ::2], part.targets)
        return Split(part.inputs.double(), part.targets.double())

    parts = {name: coarse(getattr(data, name)) for name in ("train", "validation", "test")}
    return replace(data, mean=data.mean.double(), std=data.std.double(), **parts)


def shaken(images: Tensor, generator: torch.Generator) -> Tensor:
    return images.roll(int(torch.randint(14, (), generator=generator, device=generator.device)), 3)


def augmented(**settings: Any) -> Data:
    return replace(
        doubled(**settings), augment=shaken, metrics={"first": lambda outputs, _: float(outputs[0, 0] + torch.rand(()))}
    )


def drawing(**settings: Any) -> Data:
    return replace(doubled(**settings), augment=lambda images, _: images.roll(int(torch.randint(14, ())), 3))


def configuration(**groups: Any) -> Config:
    """A study's config with an option of each group, or with other values of its keys."""
    base = OmegaConf.create(deepcopy(composed("data.train_samples=40", "data.batch_size=4", "data.validation=20")))
    base.data.shape = [1, 14, 14]
    base.epochs = base.r_max = EPOCHS
    base.executor.program, base.executor.checkpoint_every = "batched", EPOCHS
    for group, option in groups.items():
        own = OmegaConf.load(CONF / group / f"{option}.yaml") if isinstance(option, str) else option
        OmegaConf.update(base, group, own, merge=not isinstance(option, str), force_add=True)
    config: Any = OmegaConf.to_container(base, resolve=True)
    config["data"]["of"], config["data"]["_target_"] = config["data"]["_target_"], "test_batched.doubled"
    return config


def trials(config: Config, *differing: Mapping[str, Any]) -> list[Config]:
    """Return the configs of as many trials, by what differs in each: {"optimizer.lr": 0.1}."""
    configs = []
    for trial, settings in enumerate(differing):
        own = deepcopy(config) | {"trial": trial}
        for path, value in settings.items():
            group, name = path.split(".")
            own[group][name] = value
        configs.append(own)
    return configs


def jobs(configs: Sequence[Config], since: int, until: int) -> list[Job]:
    return [Job(config["trial"], {}, since, until) for config in configs]


def alone(configs: Sequence[Config], run_dir: Path, since: int = 0, until: int = EPOCHS) -> list[Step]:
    parts = [built(config, run_dir) for config in configs]
    runs = [own.run(setting, job) for (own, setting), job in zip(parts, jobs(configs, since, until), strict=True)]
    return [step for run in runs for step in run]


def together(configs: Sequence[Config], run_dir: Path, since: int = 0, until: int = EPOCHS) -> list[Step]:
    fidelity = built(configs[0], run_dir)[0]
    settings = [built(config, run_dir)[1] for config in configs]
    assert len({fidelity.alike(setting) for setting in settings}) == 1
    return list(fidelity.run_together(settings, jobs(configs, since, until)))


def told(steps: Sequence[Step], trial: int) -> tuple[list[dict[str, float]], Finished]:
    """Return a trial's metrics, times apart, and its end."""
    epochs = [step for step in steps if isinstance(step, Epoch) and step.trial == trial]
    (end,) = (step for step in steps if isinstance(step, Finished) and step.outcome.trial == trial)
    assert [step.epoch for step in epochs] == sorted(step.epoch for step in epochs)
    return [{name: value for name, value in step.metrics.items() if name != "seconds"} for step in epochs], end


def assert_same(one: Any, other: Any) -> None:
    """Two values that may be nested have the same structure, and numbers that agree."""
    if isinstance(one, Mapping):
        assert list(one) == list(other)
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, Tensor):
        torch.testing.assert_close(other, one, **CLOSE)
    elif isinstance(one, float):
        assert one == other or math.isclose(one, other, rel_tol=1e-10, abs_tol=1e-10)
    else:
        assert one == other


def assert_agree(configs: Sequence[Config], tmp_path: Path, until: int = EPOCHS) -> None:
    """Trials do together as they do alone: metrics, ends, and all of their checkpoints."""
    apart, joint = alone(configs, tmp_path / "apart", 0, until), together(configs, tmp_path / "joint", 0, until)
    for config in configs:
        trial = config["trial"]
        (metrics, end), (own, own_end) = told(joint, trial), told(apart, trial)
        assert_same(own, metrics)
        assert_same((own_end.outcome.curve, own_end.checkpoint), (end.outcome.curve, end.checkpoint))
        states = [Store(tmp_path / name).load(trial, until, None).values for name in ("apart", "joint")]
        for state in states:
            for epoch in state["epochs"]:
                epoch.pop("seconds")
        assert_same(*states)


def chosen(configs: Sequence[Config], tmp_path: Path) -> dict[str, bool]:
    recipes = [built(config, tmp_path)[1].recipe() for config in configs]
    how = choice.choice([Trainer(recipe).model for recipe in recipes], recipes[0].data, forced=True)
    assert how is not None
    return how


def expanded(configs: Sequence[Config], tmp_path: Path) -> bool:
    """Whether each trial is given inputs of its own, as what differs on shared ones is."""
    return chosen(configs, tmp_path)["expanded"]


WAYS = ["norm", "dropout", "squares", "dilated"]  # in which a model of one's own may begin
LRS = [{"optimizer.lr": 0.02}, {"optimizer.lr": 0.05}, {"optimizer.lr": 0.01}]
SMALL = {"cnn": {"width": 4}, "mlp": {"width": 16, "dropout": 0.3}, "dropout_mlp": {"width_1": 16, "width_2": 16}}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "resnet18"])
def test_a_model_trains_with_others_as_alone(name: str, tmp_path: Path) -> None:
    config = configuration(model=name)
    config["model"] |= SMALL.get(name, {})
    assert_agree(trials(config, *LRS), tmp_path)
    assert not expanded(trials(config, *LRS), tmp_path)


class Squares(nn.Module):
    """A channel more, which all trials share."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat((images, images.square()), 1)


class Own(nn.Module):
    """Has a forward of its own, and may begin with layers that make shared images each trial's own."""

    def __init__(self, shape: list[int], outputs: int, first: str, dropout: float = 0.2) -> None:
        super().__init__()
        firsts = {"norm": nn.BatchNorm2d(1), "dropout": Dropout(dropout), "squares": Squares()}
        self.first, self.spare = firsts.get(first, nn.Identity()), nn.Linear(2, 2)
        wide = {"dilation": 2, "padding": (2, 1)} if first == "dilated" else {"padding": (1, 0)}
        self.conv = nn.Conv2d(2 if first == "squares" else 1, 12, 3, stride=2, **wide)
        self.deep = nn.Conv2d(12, 12, 3, padding="same", groups=2, bias=False)
        self.drop, self.out = Dropout(0.5), nn.Linear(108, 8)
        self.last = nn.Sequential(nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, outputs))

    def forward(self, images: Tensor) -> Tensor:
        images = self.conv(self.first(images)).relu()
        images = functional.avg_pool2d(images + self.deep(images), 2)
        return self.last(self.out(self.drop(images.flatten(1))))


@pytest.mark.parametrize("first", WAYS)
def test_a_model_of_ones_own_trains_with_others_as_alone(
    first: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configuration(model="softmax")
    config["model"] |= {"_target_": "test_batched.Own", "first": first}
    with caplog.at_level("INFO"):
        assert_agree(trials(config, *LRS), tmp_path, 3)
    assert "trials of Own are trained as one program: their losses, gradients and outputs agree" in caplog.messages
    assert expanded(trials(config, *LRS), tmp_path) == (first in ("norm", "dropout"))


def test_what_drops_nothing_in_most_trials_drops_in_the_others(tmp_path: Path) -> None:
    config = configuration(model="softmax")
    config["model"] |= {"_target_": "test_batched.Own", "first": "dropout"}
    assert_agree(trials(config, *({"model.dropout": each} for each in (0.0, 0.0, 0.0, 0.3))), tmp_path, 3)


class Twice(nn.Sequential):
    """Draws two masks of one size in a pass."""

    def __init__(self, shape: list[int], outputs: int) -> None:
        drop = Dropout(0.3)
        super().__init__(
            nn.Flatten(), nn.Linear(math.prod(shape), 8), drop, nn.Linear(8, 8), drop, nn.Linear(8, outputs)
        )


class Waiting(nn.Module):
    """Looks at its values, for which Python waits."""

    def __init__(self, shape: list[int], outputs: int) -> None:
        super().__init__()
        self.flat, self.out = nn.Flatten(), nn.Linear(math.prod(shape), outputs)

    def forward(self, images: Tensor) -> Tensor:
        vectors = self.flat(images)
        return self.out(vectors if vectors.sum().item() < 1e9 else vectors.relu())


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")


def on_gpu(model: str) -> list[Config]:
    """Trials of an option of `model`, or of a class of this module and what its `first` is, on the first GPU."""
    own, _, first = model.partition("-")
    config = configuration(model=model if model in MODELS else "softmax")
    if model not in MODELS:
        config["model"] |= {"_target_": f"test_batched.{own}"} | ({"first": first} if first else {})
    config["model"] |= SMALL.get(model, {})
    config["device"] = config["data"]["device"] = "cuda:0"
    return trials(config, *LRS)


@GPU
@pytest.mark.parametrize("model", [*(name for name in MODELS if name != "resnet18"), *(f"Own-{way}" for way in WAYS)])
def test_on_a_gpu_a_model_trains_with_others_as_alone_and_is_recorded(model: str, tmp_path: Path) -> None:
    configs = on_gpu(model)
    assert_agree(configs, tmp_path, 3)
    assert chosen(configs, tmp_path)["recorded"]


@GPU
@pytest.mark.parametrize("model", ["Twice", "Waiting"])
def test_on_a_gpu_what_cannot_be_recorded_is_trained_as_it_is(model: str, tmp_path: Path) -> None:
    configs = on_gpu(model)
    assert_agree(configs, tmp_path, 3)
    assert not chosen(configs, tmp_path)["recorded"]
    assert chosen(on_gpu("dropout_mlp"), tmp_path)["recorded"]


@GPU
def test_on_a_gpu_a_recording_that_fails_leaves_generators_as_they_were() -> None:
    def waits(inputs: Tensor, targets: Tensor) -> Tensor:
        torch.cuda.synchronize()
        return inputs + targets

    passed, (one, two) = Recorded(waits, []), torch.ones(2, 4, device="cuda").unbind()
    passed(one, two)
    with pytest.raises(RuntimeError):
        passed(one, two)
    generator = torch.Generator("cuda").manual_seed(3)
    torch.cuda.manual_seed(3)
    assert torch.equal(torch.rand(5, device="cuda"), torch.rand(5, device="cuda", generator=generator))


@pytest.mark.parametrize("fails", [False, True])
def test_a_group_lets_its_memory_go_at_once(fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[ReferenceType[Trainer | Joint]] = []

    def watch(kind: type[Trainer | Joint]) -> None:
        def begin(self: Trainer | Joint, *arguments: Any, **options: Any) -> None:
            plain(self, *arguments, **options)
            alive.append(ref(self))

        plain = kind.__init__
        monkeypatch.setattr(kind, "__init__", begin)

    def full(self: program.Program, epoch: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    watch(Trainer)
    watch(Joint)
    if fails:
        monkeypatch.setattr(program.Program, "epoch", full)
    configs = trials(perceptron(), *LRS)
    gc.collect()
    gc.disable()
    try:
        with suppress(torch.OutOfMemoryError):
            together(configs, tmp_path, 0, 2)
        assert len(alive) >= 4 and not any(each() for each in alive)
    finally:
        gc.enable()


class Capped(nn.ReLU):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).clamp(max=0.1)


class Capping(nn.Sequential):
    def __init__(self, shape: list[int], outputs: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), 6), Capped(), nn.Linear(6, outputs))


def test_an_activation_of_ones_own_stays_what_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = configuration(model="softmax")
    config["model"]["_target_"] = "test_batched.Capping"
    with caplog.at_level("INFO"):
        assert_agree(trials(config, *LRS), tmp_path, 3)
    assert "trials of Capping are trained as one program" in caplog.text


def test_a_residual_network_trains_with_others_as_alone(tmp_path: Path) -> None:
    config = configuration(model="resnet18", data={"train_samples": 4, "batch_size": 2, "validation": 2})
    recipes = [built(each, tmp_path)[1].recipe() for each in trials(config, *LRS[:2])]
    apart, joint = ([Trainer(recipe) for recipe in recipes] for _ in range(2))
    trained = [trainer.epoch(1) for trainer in apart]
    for one, other in zip(trained, program.Program(joint).epoch(1), strict=True):
        assert_same({**one, "seconds": 0.0}, {**other, "seconds": 0.0})
    for one, other in zip(apart, joint, strict=True):
        assert_same(one.weights(), other.weights())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_steps_with_others_as_alone(name: str, tmp_path: Path) -> None:
    config = perceptron(optimizer=name)
    values = {"weight_decay": (0.0, 0.01, 0.1), "momentum": (0.0, 0.5, 0.9)}
    values = {key: each for key, each in values.items() if key in config["optimizer"]}
    lr = config["optimizer"]["lr"]
    differing = [
        {"optimizer.lr": lr * factor} | {f"optimizer.{key}": each[i] for key, each in values.items()}
        for i, factor in enumerate((1.0, 0.3, 0.5))
    ]
    assert_agree(trials(config, *differing), tmp_path)


def perceptron(**groups: Any) -> Config:
    config = configuration(model="mlp", **groups)
    config["model"] |= SMALL["mlp"]
    return config


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_runs_with_others_as_alone(name: str, tmp_path: Path) -> None:
    config = perceptron(lr_schedule=name)
    assert_agree(trials(config, *({**each, "lr_schedule.warmup": i} for i, each in enumerate(LRS))), tmp_path)


def test_momentum_gathers_while_no_trial_moves(tmp_path: Path) -> None:
    config = perceptron(lr_schedule="cosine_warmup")
    config["optimizer"]["momentum"] = 0.9
    config["lr_schedule"] |= {"warmup": 1, "warmup_start": 0.0}
    assert_agree(trials(config, *LRS), tmp_path, 3)


class Rebinding(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.data = parameter.data - 0.1 * parameter.grad


def test_an_optimizer_that_makes_other_weights_is_refused_at_its_first_step(tmp_path: Path) -> None:
    config = perceptron()
    config["optimizer"]["_target_"] = "test_batched.Rebinding"
    with pytest.raises(RuntimeError, match="Rebinding puts other tensors in the place of weights"):
        together(trials(config, *LRS), tmp_path)


def clipped(parameters: Any, lr: float) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(list(parameters), lr=lr)

    def clip(own: torch.optim.Optimizer, *rest: Any) -> None:
        nn.utils.clip_grad_norm_(own.param_groups[0]["params"], 1e-3)

    optimizer.register_step_pre_hook(clip)
    return optimizer


class Noisy(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad.add_(torch.randn_like(parameter))
        super().step()


def noisy(epochs: float) -> Callable[[float], float]:
    return lambda epoch: 1.0 + float(torch.rand(()))


class Keeping(torch.optim.SGD):
    """Steps by the gradient of the step before, which it keeps as it was given."""

    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["last"], last = parameter.grad, self.state[parameter].get("last")
            parameter.grad = parameter.grad if last is None else last
        super().step()


@pytest.mark.parametrize("name", ["clipped", "Noisy", "Keeping"])
def test_an_optimizer_of_ones_own_steps_with_others_as_alone(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = perceptron()
    config["optimizer"] = {"_target_": f"test_batched.{name}", "_partial_": True, "lr": 0.1}
    choice.forget()
    with caplog.at_level("INFO"):
        assert_agree(trials(config, *LRS), tmp_path, 2)
    said = "trials of MLP are trained one after the other: Noisy or Constant draws random numbers of its own"
    assert (said in caplog.messages) == (name == "Noisy")


def test_a_schedule_that_draws_random_numbers_runs_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = perceptron()
    config["lr_schedule"] = {"_target_": "test_batched.noisy", "epochs": EPOCHS}
    choice.forget()
    assert_agree(trials(config, *LRS), tmp_path, 2)
    assert "noisy.<locals>.<lambda> draws random numbers of its own" in caplog.text


class Tied(nn.Sequential):
    def __init__(self, shape: list[int], outputs: int, tied: bool) -> None:
        one, two = nn.Linear(8, 8), nn.Linear(8, 8)
        if tied:
            two.weight = one.weight
        super().__init__(nn.Flatten(), nn.Linear(math.prod(shape), 8), one, nn.Tanh(), two, nn.Linear(8, outputs))


def test_trials_whose_weights_are_tied_in_other_ways_are_not_alike(tmp_path: Path) -> None:
    config = configuration(model="softmax")
    config["model"] |= {"_target_": "test_batched.Tied", "tied": False}
    configs = trials(config, *LRS, LRS[0])
    configs[3]["model"]["tied"] = True
    assert likeness(configs[0]) == likeness(configs[2]) != likeness(configs[3])
    assert_agree([config | {"model": configs[3]["model"]} for config in configs], tmp_path, 2)


@pytest.mark.parametrize("program", ["batched", None])
def test_batch_norm_on_single_examples_is_refused_in_words(program: str | None, tmp_path: Path) -> None:
    config = configuration(model="softmax", data={"batch_size": 1})
    config["model"] |= {"_target_": "test_batched.Own", "first": "squares"}
    config["executor"]["program"] = program
    with pytest.raises(UserError, match=r"batch norm cannot train on a batch of one example: data.batch_size=1 of a"):
        together(trials(config, *LRS), tmp_path)


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_an_average_is_taken_with_others_as_alone(name: str, tmp_path: Path) -> None:
    config = configuration(model="cnn", averaging=name) | {"metric": "averaged_val_error"}
    config["model"] |= SMALL["cnn"]
    assert_agree(trials(config, *LRS[:2]), tmp_path)


def test_numbers_and_augmented_images_are_trained_on_with_others_as_alone(tmp_path: Path) -> None:
    config = configuration(data="airfoil", model="mlp", optimizer="sgd")
    config["data"] |= {"train_samples": 80, "batch_size": 8}
    assert_agree(trials(config, *LRS), tmp_path / "numbers")
    assert not expanded(trials(config, *LRS), tmp_path)
    config = configuration(model="lenet_modern")
    config["data"]["_target_"] = "test_batched.augmented"
    assert_agree(trials(config, *LRS), tmp_path / "images")
    config["data"]["_target_"] = "test_batched.drawing"
    assert_agree(trials(config, *LRS), tmp_path / "drawn", 2)


def test_trials_with_optimizers_schedules_and_dropout_of_their_own_train_together(tmp_path: Path) -> None:
    configs = [
        perceptron(optimizer="sgd", lr_schedule="cosine"),
        perceptron(optimizer="adam", lr_schedule="plateau"),
        perceptron(optimizer="sgd", lr_schedule="one_cycle", averaging="ema"),
    ]
    for trial, config in enumerate(configs):
        config["trial"], config["model"]["dropout"] = trial, (0.001, 0.5, 0.2)[trial]  # 0.001 drops nothing
    assert_agree(configs, tmp_path)


def wrong_rate(patch: pytest.MonkeyPatch) -> None:
    at = Vectors.at
    patch.setattr(Vectors, "at", lambda step, rates: at(step, rates[::-1]))


def shifted_batch(patch: pytest.MonkeyPatch) -> None:
    def shifted(data: Data, epoch: int) -> Iterator[tuple[Tensor, Tensor, float, float]]:
        batches = list(minibatches(data, epoch))
        for (_, _, *times), (inputs, targets, *_) in zip(batches, batches[1:] + batches[:1], strict=True):
            yield inputs, targets, *times

    patch.setattr(program, "minibatches", shifted)


def no_weight_decay(patch: pytest.MonkeyPatch) -> None:
    stepping = program.stepping

    def without(optimizers: Any, parameters: Any) -> Any:
        for optimizer in optimizers:
            optimizer.param_groups[0]["weight_decay"] = 0.0
        return stepping(optimizers, parameters)

    patch.setattr(program, "stepping", without)


def swapped_masks(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(JOINED, Dropout, lambda layers, stack: Masks(layers[::-1], stack))


@pytest.mark.parametrize("broken", [None, wrong_rate, shifted_batch, no_weight_decay, swapped_masks])
def test_the_comparison_would_notice(
    broken: Callable[[pytest.MonkeyPatch], None] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = perceptron(optimizer="sgd")
    config["optimizer"]["weight_decay"] = 0.05
    configs = trials(config, *LRS)
    if broken is None:
        assert_agree(configs, tmp_path, 1)
        return
    expanded(configs, tmp_path)  # a probe, once for each kind of model: it would notice the masks before
    apart = alone(configs, tmp_path / "apart", 0, 1)
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        assert_same(told(apart, 0)[0], told(together(configs, tmp_path / "joint", 0, 1), 0)[0])


@pytest.mark.parametrize("model", ["cnn", "dropout_mlp", "lenet_modern"])
def test_a_trial_that_diverges_fails_and_touches_no_other(model: str, tmp_path: Path) -> None:
    config = configuration(model=model)
    config["model"] |= SMALL.get(model, {})
    configs = trials(config, LRS[0], {"optimizer.lr": 1e200}, LRS[2])
    joint = together(configs, tmp_path / "joint", 0, 3)
    apart = alone(configs, tmp_path / "apart", 0, 3)
    causes = [told(steps, 1)[1].cause for steps in (apart, joint)]
    assert causes[0] == causes[1] and causes[0].startswith("diverged: train_loss is ")
    for trial in (0, 2):
        assert_same(told(apart, trial)[0], told(joint, trial)[0])
    assert_agree([configs[0], configs[2]], tmp_path / "without", 3)
    assert_same(told(together([configs[0], configs[2]], tmp_path / "two", 0, 3), 2)[0], told(joint, 2)[0])


def single(config: Config) -> Config:
    """Return a configuration on whole digits in float32."""
    config["model"]["shape"] = [1, 28, 28]
    config["data"] |= {"shape": None, "_target_": config["data"].pop("of")}
    return config


def test_in_single_precision_trials_end_as_well_as_alone(tmp_path: Path) -> None:
    torch.set_default_dtype(torch.float32)
    config = single(perceptron(optimizer="adam"))
    config["data"] |= {"train_samples": 800, "batch_size": 32, "validation": 500}
    configs = trials(config, *({"optimizer.lr": lr} for lr in (0.001, 0.002, 0.003, 0.004, 0.005, 0.006)))
    ends = [train(configs, tmp_path / name) for train, name in ((alone, "apart"), (together, "joint"))]
    errors = torch.tensor([[told(steps, trial)[1].outcome.error for trial in range(6)] for steps in ends])
    assert 0.05 < float(errors.mean()) < 0.3  # of 0.9 by chance
    assert float((errors[0] - errors[1]).abs().max()) <= 0.02 and abs(float((errors[0] - errors[1]).mean())) <= 0.01


def test_neighbours_of_a_trial_that_diverges_keep_their_bits(tmp_path: Path) -> None:
    """In float32, whose layers are computed by other code: there is no NaN times zero."""
    torch.set_default_dtype(torch.float32)
    for name in ("cnn", "dropout_mlp", "lenet", "lenet_modern", "mlp", "softmax"):
        config = single(configuration(model=name))
        weights: list[list[Any]] = []
        for lr in (0.01, 1e30):
            configs = trials(config, *({"optimizer.lr": each} for each in (0.01, lr, 0.02)))
            trainers = [Trainer(built(each, tmp_path)[1].recipe()) for each in configs]
            metrics = program.Program(trainers).epoch(1)
            weights.append(
                [(trainer.weights(), each["val_loss"]) for trainer, each in zip(trainers, metrics, strict=True)]
            )
        assert not math.isfinite(weights[1][1][1]) or weights[1][1][1] > 1e6
        for trial in (0, 2):
            (one, loss), (other, own_loss) = weights[0][trial], weights[1][trial]
            assert loss == own_loss
            assert all(map(torch.equal, one["model"].values(), other["model"].values())), name


def test_checkpoints_go_from_alone_to_together_and_back(tmp_path: Path) -> None:
    config = configuration(model="cnn", optimizer="adam", averaging="ema", lr_schedule="plateau")
    config["model"] |= SMALL["cnn"]
    configs = trials(config, *LRS[:2])
    straight = alone(configs, tmp_path / "straight", 0, 8)
    steps = [
        *alone(configs, tmp_path / "turns", 0, 2),
        *together(configs, tmp_path / "turns", 2, 4),
        *alone(configs, tmp_path / "turns", 4, 6),
        *together(configs, tmp_path / "turns", 6, 8),
    ]
    for trial in range(2):
        told_in_turns = [step.metrics for step in steps if isinstance(step, Epoch) and step.trial == trial]
        for metrics in told_in_turns:
            metrics.pop("seconds")
        assert_same(told(straight, trial)[0], told_in_turns)
        states = [Store(tmp_path / name).load(trial, 8, None).values for name in ("straight", "turns")]
        assert_same(*({name: state[name] for name in state if name != "epochs"} for state in states))
    alone_kb, turns_kb = (sum(p.stat().st_size for p in (tmp_path / n).rglob("8.pt")) for n in ("straight", "turns"))
    assert turns_kb <= alone_kb, "no checkpoint holds the tensors of all"


def test_closed_and_raising_groups_leave_checkpoints_of_whole_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = trials(perceptron(), *LRS)
    straight = together(configs, tmp_path / "straight")
    fidelity = built(configs[0], tmp_path / "closed")[0]

    def begin(name: str) -> Any:
        settings = [built(config, tmp_path / name)[1] for config in configs]
        return fidelity.run_together(settings, jobs(configs, 0, EPOCHS))

    steps = begin("closed")
    for _ in range(4):  # the second epoch of the first
        step = next(steps)
    steps.close()
    assert (step.trial, step.epoch) == (0, 2)
    steps, train = begin("raised"), program.Program.epoch
    monkeypatch.setattr(program.Program, "epoch", lambda self, epoch: train(self, epoch) if epoch < 3 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(steps)
    monkeypatch.undo()
    for name in ("closed", "raised"):
        left = {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*.pt")}
        assert left == ({f"checkpoints/{trial}/2.pt" for trial in range(3)} if name == "closed" else set())
        first = alone(configs[:1], tmp_path / name, 0, 5)  # it goes further than the others
        assert [step.epoch for step in first if isinstance(step, Epoch)] == [1, 2, 3, 4, 5]
        rest = together(configs, tmp_path / name)
        for trial in range(3):
            assert_same(told(straight, trial)[0], told(rest, trial)[0])


def test_the_page_says_what_is_batched(tmp_path: Path) -> None:
    """Each option of the groups that a trial is trained from, with what the engine makes of it."""
    steps = {Vectors: "yes, of all trials at once where weights are few", Each: "yes, trial by trial"}
    made: dict[tuple[str, str], str] = {}
    for path in sorted(CONF.glob("*/*.yaml")):
        group, option = path.parent.name, path.stem
        match group:
            case "optimizer":
                trainers = [Trainer(built(perceptron(optimizer=option), tmp_path)[1].recipe()) for _ in range(2)]
                stack = Joint([trainer.model for trainer in trainers], torch.device("cpu")).stack
                made[group, option] = steps[type(stepping([t.optimizer for t in trainers], stack.parameters))]
            case "model":
                likeness(configuration(model=option))
                made[group, option] = "yes"
            case "fidelity":
                target = locate(OmegaConf.load(path)["_target_"], "fidelity")
                made[group, option] = "yes" if target is Epochs else "no"
            case "lr_schedule" | "averaging" | "data":
                made[group, option] = "yes"
            case _:
                pass
    rows: dict[tuple[str, str], list[str]] = {}
    for (group, option), how in made.items():
        rows.setdefault((group, how), []).append(f"`{option}`")
    table = [f"| `{group}` | {', '.join(options)} | {how} |" for (group, how), options in sorted(rows.items())]
    page = (CONF.parent / "docs/batched.md").read_text(encoding="utf-8")
    written = page.partition("| group | options | as one program |\n|---|---|---|\n")[2].partition("\n\n")[0]
    assert written.splitlines() == table, "\n".join(table)


class Mixing(nn.Module):
    """Does what layers of many cannot stand for."""

    def __init__(self, shape: list[int], outputs: int, how: str) -> None:
        super().__init__()
        self.flat, self.one, self.two = nn.Flatten(), nn.Linear(math.prod(shape), 6), nn.Linear(6, outputs)
        self.how, self.torchs = how, nn.Dropout(0.5)
        self.plain, self.gate = nn.Sequential(self.one, nn.ReLU()), nn.Linear(6, 6)
        if how == "zeros":
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.two.weight)
        if how == "depth" and torch.rand(()) < 0.5:
            self.plain.append(nn.Linear(6, 6))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.one(self.flat(inputs))
        match self.how:
            case "zeros":
                hidden = self.plain[1](hidden) + self.gate(hidden)
            case "depth":
                hidden = self.plain(self.flat(inputs))
            case "evaluates" if not self.training:
                hidden = functional.normalize(hidden, dim=1)
            case "mean":
                hidden = hidden - hidden.mean(0)
            case "halves":
                hidden = torch.cat((hidden[:, 3:], hidden[:, :3]), 1)
            case "draws":
                hidden = self.torchs(hidden)
        return self.two(hidden)


@pytest.mark.parametrize("how", ["mean", "halves", "draws", "evaluates", "zeros", "depth"])
def test_what_would_give_other_numbers_is_trained_one_after_the_other(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configuration(model="softmax")
    config["model"] |= {"_target_": "test_batched.Mixing", "how": how}
    with caplog.at_level("INFO"):
        configs = trials(config, *(*LRS, *LRS))
        # Of these the first three are alike, and the fourth is deeper.
        assert_agree([configs[i] for i in (1, 3, 5, 0)] if how == "depth" else configs[:3], tmp_path, 2)
    said = [message for message in caplog.messages if "one after the other" in message]
    assert len(said) == 1 and ("random numbers" in said[0]) == (how == "draws")


def clamped(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
    return model


class Counting(nn.Sequential):
    def get_extra_state(self) -> int:
        return 3


class Other(Dropout):
    pass


def tied() -> nn.Module:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight.data = one.weight.data
    return nn.Sequential(one, two)


def apart() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(4, 8)[:, :4])
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: clamped(nn.Linear(4, 4)), "hooks"),
        (lambda: nn.BatchNorm1d(4, track_running_stats=False), "track_running_stats=False"),
        (lambda: Counting(nn.Linear(4, 4)), "extra state"),
        (Other, "test_batched.Other"),
        (tied, "share memory"),
        (apart, "lie apart"),
    ],
)
def test_what_a_program_would_lose_is_refused(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(Unlike, match=reason):
        structure(make())


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scaled = [partial(functional.leaky_relu, negative_slope=0.1), lambda inputs: scale * inputs]


def test_functions_are_alike_by_what_they_do_and_hold() -> None:
    assert structure(Scaled(2.0)) == structure(Scaled(2.0)) != structure(Scaled(8.0))


@pytest.fixture(scope="module")
def study() -> Request:
    register(CONF)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return Request(
            compose("config", ["model=mlp", "model.dropout=0.1", "device=cpu", "r_max=4", "data.train_samples=64"])
        )


def test_jobs_that_differ_in_what_a_program_can_take_are_alike(study: Request, tmp_path: Path) -> None:
    objective = ConfiguredObjective(study, tmp_path, 1)

    def alike(**configuration: Any) -> Any:
        own = {name.replace("__", "."): value for name, value in configuration.items()}
        return objective.alike(Job(1, own, 0, 2))

    same = alike()
    assert same is not None
    assert same == objective.alike(Job(5, {"optimizer.lr": 0.5, "model.dropout": 0.7}, 0, 2))
    assert same == objective.alike(Job(-1, {}, 0, 2, streams={"trial": 77}))
    others = [
        *(alike(model__width=8), alike(model__dropout=0.0), alike(model__activation="tanh")),
        *(alike(data__batch_size=8), alike(seed=3), alike(order_seed=3)),
    ]
    assert None not in others and len({same, *others}) == 1 + len(others)


def test_what_trains_one_trial_at_a_time_says_so_once(
    study: Request, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    objective = ConfiguredObjective(study, tmp_path, 1)
    with caplog.at_level("INFO"):
        for _ in range(2):
            assert objective.alike(Job(1, {"model._target_": "torch.nn.LazyLinear"}, 0, 2)) is None  # takes no shape
            for name in ("Samples", "Width"):
                target = f"halving.training.fidelities.{name.lower()}.{name}"
                assert objective.alike(Job(1, {"fidelity._target_": target}, 0, 2)) is None
    assert caplog.messages == [
        f"fidelity={name} trains one trial at a time, not many as one program" for name in ("samples", "width")
    ]


def test_an_objective_trains_neighbours_that_are_alike_together(
    study: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_default_dtype(torch.float32)
    trained, clock = list[int](), [0.0]
    epoch, gradients, mean_loss = program.Program.epoch, choice.Joint.gradients, choice.mean_loss

    def slow(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: (clock.append(clock.pop() + seconds), work(*given))[1]

    def counted(*given: Any) -> list[dict[str, float]]:
        trained.append(len(metrics := epoch(*given)))
        return metrics

    monkeypatch.setattr(program.Program, "epoch", counted)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(choice.Joint, "gradients", slow(1.0, gradients))
    monkeypatch.setattr(choice, "mean_loss", slow(0.4, mean_loss))  # three take less time together, two do not
    widths = [256, 256, 256, 16, 16, 8]
    jobs = [Job(trial, {"model.width": width}, 0, 2) for trial, width in enumerate(widths)]
    steps = list(ConfiguredObjective(study, tmp_path, 1)(jobs))
    assert trained == [3, 3]
    list(
        ConfiguredObjective(study, tmp_path / "more", 1)([Job(trial, {"model.width": 256}, 0, 1) for trial in range(4)])
    )
    assert trained == [3, 3, 4]
    alone = [step for job in jobs for step in ConfiguredObjective(study, tmp_path / "alone", 1)([job])]
    for trial in range(len(jobs)):
        (own, own_end), (metrics, end) = told(alone, trial), told(steps, trial)
        assert own_end.checkpoint == end.checkpoint == f"checkpoints/{trial}/2.pt"
        assert [each["val_loss"] for each in metrics] == pytest.approx([each["val_loss"] for each in own], rel=1e-4)
