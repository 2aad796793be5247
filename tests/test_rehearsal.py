"""Before anything trains: data of another kind than was said are refused in one line that names the split."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_exact_resume import build
from torch import Tensor, nn

from halving.data.base import Data, Split, split_data
from halving.errors import UserError
from halving.training.models.softmax import Softmax
from halving.training.recipe import Recipe
from halving.training.rehearsal import rehearse


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    _, setting = build(["model=softmax", "data.train_samples=30"], tmp_path_factory.mktemp("run"))
    return setting.recipe()


def images(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(20, *shape, dtype=torch.uint8), torch.arange(20) % 4


def data(test: tuple[Any, Any] | None = None, shape: tuple[int, ...] = (1, 8, 8), **settings: Any) -> Data:
    return split_data(*images(*shape), *(test or images(*shape)), batch_size=5, **settings)


def numbers(targets: Tensor) -> Data:
    inputs = torch.zeros(len(targets), 3)
    split = Split(inputs, targets)
    return Data(split, split, split, 5, torch.zeros(3), torch.ones(3), classification=False)


def flat(outputs: int) -> Callable[..., nn.Module]:
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        raise KeyError("of mine")


REFUSED: dict[str, tuple[Callable[[], Data], dict[str, Any], str]] = {
    "label of the test set": (
        lambda: data((images(1, 8, 8)[0], torch.arange(20) % 7)),
        {"outputs": 4, "model": flat(4)},
        "data: the test set has the class 6, but data.outputs=4: then classes are 0 to 3",
    ),
    "label without an output": (
        lambda: data(),
        {"model": flat(3)},
        "set has the class 3, but the model's outputs are 3",
    ),
    "one output": (lambda: data(), {"model": flat(1)}, "the training set has classes, but the model's outputs are 1"),
    "channels last": (
        lambda: data(shape=(8, 9, 3)),
        {"shape": [3, 8, 9]},
        r"inputs of shape \[8, 9, 3\], but data.shape says \[3, 8, 9\]; these look like \(n, h, w, c\)",
    ),
    "channels last, as said": (lambda: data(shape=(8, 8, 1)), {"shape": [8, 8, 1]}, r"permute\(0, 3, 1, 2\)"),
    "another shape": (
        lambda: data(),
        {"shape": [1, 28, 28], "model": flat(4)},
        r"inputs of shape \[1, 8, 8\], but data.shape says \[1, 28, 28\]$",
    ),
    "nothing to validate on": (
        lambda: replace(data(), validation=data().validation.take(torch.arange(0))),
        {},
        "the validation set has no examples",
    ),
    "targets left out": (
        lambda: replace(data(), test=Split(images(1, 8, 8)[0], torch.arange(19))),
        {},
        "the test set has 20 inputs, but 19 targets",
    ),
    "infinite inputs": (
        lambda: replace(data(), test=Split(torch.full((20, 1, 8, 8), torch.inf), torch.arange(20) % 4)),
        {},
        "the test set has NaN or infinite inputs",
    ),
    "int32 classes": (
        lambda: replace(data(), test=Split(images(1, 8, 8)[0], images(1, 8, 8)[1].int())),
        {},
        r"the test set has targets torch.int32 \[20\]; classes are torch.int64",
    ),
    "NaN targets": (lambda: numbers(torch.full((9, 1), torch.nan)), {}, "training set has targets .* give finite"),
    "arrays": (
        lambda: replace(data(), test=Split(np.zeros((20, 1, 8, 8)), np.zeros(20))),  # pyright: ignore[reportArgumentType]
        {},
        "the test set has a ndarray",
    ),
    "classes in a column": (
        lambda: Data(*(Split(images(1, 8, 8)[0], images(1, 8, 8)[1][:, None]),) * 3, 5, torch.zeros(1), torch.ones(1)),
        {"model": flat(4)},
        r"model: Sequential fails on inputs torch.float32 \[2, 1, 8, 8\] with targets torch.int64 \[2, 1\]: Runtime",
    ),
    "outputs for other numbers": (
        lambda: numbers(torch.zeros(9, 1)),
        {"model": lambda: Softmax([3], 2)},
        r"model: Softmax fails .*\[2, 1\]",
    ),
    "another model": (lambda: data(), {"model": lambda: Softmax([1, 9, 9], 4)}, "model: Softmax fails .* RuntimeError"),
    "a model that raises": (lambda: data(), {"model": Fails}, "model: Fails fails .* KeyError: 'of mine'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_refused_before_anything_trains(case: str, base: Recipe) -> None:
    given, settings, said = REFUSED[case]
    recipe = replace(base, **{"data": given(), "shape": None, "outputs": None, "model": flat(4)} | settings)
    with pytest.raises(UserError, match=said) as refused:
        rehearse(recipe)
    assert "\n" not in str(refused.value)


def test_what_can_be_trained_on_passes_and_leaves_the_generators_alone(base: Recipe) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # pyright: ignore
    for fit in (data(), data(shape=(3, 8, 8)), data(validation="test")):
        shape = list(fit.train.inputs.shape[1:])
        rehearse(replace(base, data=fit, shape=shape, outputs=4, model=lambda s=shape: Softmax(s, 6)))
    rehearse(replace(base, data=numbers(torch.zeros(9, 1)), shape=[3], outputs=1, model=lambda: Softmax([3], 1)))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # pyright: ignore
    assert before[:2] == after[:2] and torch.equal(before[2], after[2])


@pytest.mark.parametrize(
    ("metric", "classification", "said"),
    [
        (
            "val_acuracy",
            True,
            "there is val_error, val_loss, train_error, train_loss, max:val_accuracy, .*, val_f1$",
        ),
        ("max:val_f2", True, "metric=max:val_f2: training does not measure it"),
        ("val_accuracy", True, "metric=val_accuracy would make the accuracy small; give metric=max:val_accuracy"),
        ("max:val_accuracy", False, "training does not measure it; there is val_error"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(
    metric: str, classification: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = data(metrics={"f1": lambda outputs, targets: 0.0}) if classification else numbers(torch.zeros(9, 1))
    monkeypatch.setattr("halving.data.digits", lambda **_: fit)
    _, setting = build([f"metric={metric}"], tmp_path)
    with pytest.raises(UserError, match=said):
        setting.recipe()


def test_a_data_set_that_returns_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halving.data.digits", lambda **_: (1, 2))
    _, setting = build([], tmp_path)
    with pytest.raises(UserError, match=r"data: halving.data.digits gives a tuple; return split_data"):
        setting.recipe()
