"""The epoch loop: exact to resume, hand-worked averages, the learning rate of every step."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_exact_resume import build
from torch import nn

from halving.data import Data, digits, split_data
from halving.errors import UserError
from halving.training import ensemble
from halving.training.loop import evaluate, materialise, measure, place, train_epoch
from halving.training.models.lenet_modern import LeNetModern
from halving.training.models.softmax import Softmax
from halving.training.recipe import config_hash
from halving.training.trainer import Trainer


def start(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = place(LeNetModern((1, 28, 28), 10), "cpu")
    return model, torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, fused=True)


def rate(x: float) -> float:
    return 0.05 / (1 + x)


def regression(inputs: list[list[float]], targets: list[float], batch_size: int) -> Data:
    part = torch.tensor(inputs), torch.tensor(targets)
    return split_data(*part, *part, batch_size=batch_size, validation="test", classification=False)


def test_two_and_two_epochs_are_four_bit_for_bit() -> None:
    data = digits(batch_size=48, train_samples=200)
    straight, optimizer = start()
    for epoch in range(1, 5):
        last = train_epoch(straight, optimizer, data, epoch, rate)

    first, first_optimizer = start()
    for epoch in (1, 2):
        train_epoch(first, first_optimizer, data, epoch, rate)
    evaluate(first, data, data.validation)
    second, second_optimizer = start(seed=9)
    second.load_state_dict(first.state_dict())
    second_optimizer.load_state_dict(first_optimizer.state_dict())
    for epoch in (3, 4):
        resumed = train_epoch(second, second_optimizer, data, epoch, rate)

    assert resumed == last
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), second.parameters(), strict=True))
    assert evaluate(straight, data, data.validation) == evaluate(second, data, data.validation)


def test_it_learns() -> None:
    data = digits(batch_size=32, train_samples=500)
    model, optimizer = start()
    _, before = evaluate(model, data, data.test)
    for epoch in range(1, 5):
        train_epoch(model, optimizer, data, epoch, lambda _: 0.02)
    _, after = evaluate(model, data, data.test)
    assert before > 0.7 and after < 0.3


def test_rate_is_asked_at_fractional_epochs_and_set_on_every_group() -> None:
    data = digits(batch_size=48, train_samples=100)
    model = Softmax((1, 28, 28), 10)
    optimizer = torch.optim.SGD([{"params": [parameter], "lr": 7.0} for parameter in model.parameters()])
    asked: list[float] = []
    metrics = train_epoch(model, optimizer, data, 3, lambda x: asked.append(x) or x)
    assert asked == pytest.approx([2, 2 + 1 / 3, 2 + 2 / 3])
    assert metrics["lr"] == asked[-1]
    assert [group["lr"] for group in optimizer.param_groups] == [asked[-1]] * 2


def test_one_step_of_linear_regression_by_hand() -> None:
    # Features whiten to -1 and 1. At weight 0 and bias 0 the loss is (1 + 9) / 2 = 5; its gradient is -mean(2 y x) = -2
    # for the weight and -mean(2 y) = -4 for the bias, so a rate of 0.1 leads to 0.2 and 0.4: predictions 0.2 and 0.6.
    data = regression([[2.0], [4.0]], [1.0, 3.0], batch_size=2)
    model = Softmax((1,), 1)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    metrics = train_epoch(model, torch.optim.SGD(model.parameters()), data, 1, lambda _: 0.1)
    assert metrics == pytest.approx({"lr": 0.1, "train_loss": 5.0, "train_error": 5.0})
    assert [parameter.item() for parameter in model.parameters()] == pytest.approx([0.2, 0.4])
    loss = ((0.2 - 1) ** 2 + (0.6 - 3) ** 2) / 2
    assert evaluate(model, data, data.validation) == pytest.approx((loss, loss))


def test_averages_weigh_examples_not_batches() -> None:
    # With a rate of 0 every batch meets the same model, so any batch size must give the mean over the examples.
    inputs, targets = [[0.0], [1.0], [5.0]], [1.0, 2.0, 6.0]
    model = Softmax((1,), 1)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    for batch_size in (1, 2, 3):
        data = regression(inputs, targets, batch_size)
        metrics = train_epoch(model, torch.optim.SGD(model.parameters()), data, 1, lambda _: 0.0)
        assert metrics["train_loss"] == pytest.approx((1 + 4 + 36) / 3)


def test_classification_error_is_the_fraction_wrong_over_all_batches() -> None:
    count = 1500
    classes = torch.arange(count) % 3
    data = split_data(torch.rand(count, 2), classes, torch.rand(count, 2), classes, batch_size=8, validation="test")
    model = Softmax((2,), 3)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([0.0, math.log(2.0), 0.0]))
    loss, error = evaluate(model, data, data.test)
    assert error == pytest.approx(2 / 3)
    assert loss == pytest.approx((2 * math.log(4.0) + math.log(2.0)) / 3)


def test_batch_norm_meets_no_batch_of_one(tmp_path: Path) -> None:
    data = digits(batch_size=10, train_samples=81)
    model = nn.Sequential(nn.Flatten(), nn.LazyBatchNorm1d(), nn.LazyLinear(10))
    materialise(model, data)
    asked: list[float] = []
    train_epoch(model, torch.optim.SGD(model.parameters()), data, 1, lambda x: asked.append(x) or 0.1)
    assert asked == pytest.approx([i / 8 for i in range(8)])

    _, setting = build(["model=softmax", "data.batch_size=1"], tmp_path)
    trainer = Trainer(replace(setting.recipe(), model=lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784))))
    with pytest.raises(
        UserError, match=r"batch norm cannot train on a batch of one example: data.batch_size=1 of a training set of "
    ):
        trainer.epoch(1)


def test_a_lazy_layer_that_nothing_reaches_is_named() -> None:
    model = nn.ModuleDict({"used": nn.LazyLinear(3), "forgotten": nn.LazyLinear(3)})
    model.forward = lambda inputs: model["used"](inputs)  # pyright: ignore
    with pytest.raises(UserError, match=r"model: forgotten.weight of a lazy layer has no shape yet"):
        materialise(model, digits(batch_size=10))


def test_a_lazy_model_that_fails_is_refused_as_any_other() -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.Linear(17, 10))
    with pytest.raises(UserError, match=r"model: Sequential fails on inputs torch.float32 \[2, 1, 28, 28\] .* 17x10"):
        materialise(model, digits(batch_size=10))


def test_own_metrics_see_all_outputs_and_targets_at_once() -> None:
    classes = torch.arange(1500) % 3
    part = torch.rand(1500, 2), classes
    seen: list[tuple[torch.Size, bool]] = []

    def last(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append((outputs.shape, torch.equal(targets, classes)))
        return (outputs.argmax(1) == 2).double().mean()

    data = split_data(*part, *part, batch_size=8, validation="test", metrics={"last": last})
    model = Softmax((2,), 3)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    measured = measure(model, data, data.test)
    assert measured["last"] == 1.0 and isinstance(measured["last"], float)
    assert seen == [((1500, 3), True)]
    assert (measured["loss"], measured["error"]) == evaluate(model, data, data.test)


def test_what_a_trial_is_trained_from_has_one_hash_in_any_order(tmp_path: Path) -> None:
    config = build(["model=softmax"], tmp_path)[1].config

    def turned(node: Any) -> Any:
        return {key: turned(node[key]) for key in reversed(node)} if isinstance(node, dict) else node

    assert config_hash(turned(config)) == config_hash(config)
    for same in ({"data_dir": "elsewhere"}, {"device": "cuda"}, {"eta": 9}, {"notes": "x"}, {"averaging": None}):
        assert config_hash({**config, **same}) == config_hash(config)
    assert config_hash({**config, "data": {**config["data"], "device": "cuda"}}) == config_hash(config)
    others = ({"seed": 9}, {"trial": 9}, {"epochs": 9}, {"order_seed": 9}, {"averaging": {"x": 1}}, {"own": 1})
    assert len({config_hash(config), *(config_hash({**config, **other}) for other in others)}) == 1 + len(others)


def test_an_ensemble_is_the_mean_of_what_its_members_predict(tmp_path: Path) -> None:
    words = ["model=softmax", "data.train_samples=100", "device=cpu", "metric=max:val_accuracy"]
    members = [Trainer(build([*words, f"trial={trial}"], tmp_path)[1].recipe()) for trial in range(3)]
    mean = torch.stack([member.predicted() for member in members]).mean(0)
    targets = members[0].data.test.targets
    error = float((mean.argmax(1) != targets).double().mean())
    found = ensemble.test(iter(members))
    assert found == pytest.approx(
        {
            "test_loss": -float(mean[range(len(targets)), targets].log().mean()),
            "test_error": error,
            "test_accuracy": 1 - error,
        }
    )
    alone = ensemble.test(members[:1])
    assert alone["test_loss"] == pytest.approx(members[0].test()["test_loss"], rel=1e-5)
    assert len({found["test_loss"], *(member.test()["test_loss"] for member in members)}) == 4
    assert ensemble.test([]) == {}


def test_divergence_is_reported_not_hidden() -> None:
    data = digits(batch_size=48, train_samples=100)
    model, optimizer = start()
    metrics = [train_epoch(model, optimizer, data, epoch, lambda _: 1e20) for epoch in (1, 2)]
    assert not math.isfinite(metrics[-1]["train_loss"])
    assert not math.isfinite(evaluate(model, data, data.validation)[0])


def test_convolutions_stay_channels_last() -> None:
    model, _ = start()
    data = digits(batch_size=48, train_samples=100)
    images, _ = next(data.batches(data.train))
    hidden = model[0](images)  # pyright: ignore[reportIndexIssue]
    assert hidden.stride() == (28 * 28 * 6, 1, 28 * 6, 6)
