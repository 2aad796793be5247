import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from halving.errors import UserError
from halving.targets import instantiate
from halving.training.eager import step_of
from halving.training.optimizers import SGDFromScratch

CONF = Path(__file__).parents[1] / "conf" / "optimizer"
OPTIONS = sorted(CONF.glob("*.yaml"))


def values(path: Path) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path), resolve=True))


def build(path: Path, parameters: Any, **changes: Any) -> torch.optim.Optimizer:
    return instantiate(values(path) | changes, "optimizer")(parameters)


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 1, 4, 4, generator=generator)
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + step)
        optimizer.zero_grad()
        loss = (model(x) - x.mean(dim=(2, 3))).square().mean()
        loss.backward()
        optimizer.step()


IMPORTS = """
import json, sys
from halving.data.scikit_digits import digits
from halving.targets import instantiate
from halving.training.loop import train_epoch
from halving.training.models.softmax import Softmax
data = digits(batch_size=50, train_samples=100)
for config in json.loads(sys.argv[1]):
    model = Softmax(shape=(1, 28, 28), outputs=10)
    optimizer = instantiate(config, "optimizer")(model.parameters())
    assert train_epoch(model, optimizer, data, 1, lambda x: 0.01)["train_loss"] > 0
    optimizer.load_state_dict(optimizer.state_dict())
print(sorted({"torch._dynamo", "sklearn", "scipy", "torchvision"} & sys.modules.keys()))
"""


def test_a_trial_waits_for_no_library_that_it_does_without() -> None:
    command = [sys.executable, "-c", IMPORTS, json.dumps([values(path) for path in OPTIONS])]
    assert subprocess.check_output(command, text=True) == "[]\n"


@pytest.mark.parametrize("option", OPTIONS, ids=lambda path: path.stem)
def test_a_step_is_the_optimizers_own(option: Path) -> None:
    theirs, ours = network(), network()
    for model, stepped in ((theirs, lambda optimizer: optimizer.step), (ours, step_of)):
        optimizer = build(option, model.parameters())
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(8, 1, 4, 4, generator=generator)).square().mean().backward()
            stepped(optimizer)()
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(ours.parameters(), network().parameters(), strict=True))


def test_hooks_on_steps_and_a_step_of_an_optimizers_own_are_heeded() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))

    def moved(optimizer: torch.optim.Optimizer) -> float:
        before = weight.item()
        weight.grad = torch.ones(1)
        step_of(optimizer)()
        return before - weight.item()

    def halved(optimizer: Any, *rest: Any) -> None:
        weight.grad = torch.full((1,), 0.5)

    def back(optimizer: Any, *rest: Any) -> None:
        weight.data.add_(10.0)

    def make() -> torch.optim.Optimizer:
        return torch.optim.SGD([weight], lr=1.0)

    assert moved(make()) == 1.0
    (hooked := make()).register_step_pre_hook(halved)
    assert moved(hooked) == 0.5
    (hooked := make()).register_step_post_hook(back)
    assert moved(hooked) == -9.0
    handle = register_optimizer_step_pre_hook(halved)
    assert moved(make()) == 0.5
    handle.remove()
    own = make()
    own.step = lambda: back(own)  # pyright: ignore
    assert moved(own) == -10.0


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adam])
def test_a_step_that_torch_cannot_fuse_there_is_taken_unfused(kind: Any) -> None:
    # As Adagrad's on a GPU before torch 2.13; complex weights are nowhere fused.
    weights = [torch.nn.Parameter(torch.ones(2, dtype=torch.complex64)) for _ in range(2)]
    for weight, fused in zip(weights, (True, False), strict=True):
        optimizer = kind([weight], lr=0.1, fused=fused)
        weight.grad = torch.full_like(weight, 0.5)
        for _ in range(2):
            step_of(optimizer)()
    assert torch.equal(*weights) and not torch.equal(weights[0], torch.ones_like(weights[0]))


def test_sgd_from_scratch_takes_the_step_of_the_formula() -> None:
    """mean over x in {1, 3} of (w x - 2 x)^2 / 2 has the gradient 5 (w - 2); lr 0.1 leads from 0 to 1, then 1.5."""
    w, untouched = torch.zeros((), requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = SGDFromScratch([w, untouched], lr=0.1)
    x = torch.tensor([1.0, 3.0])
    for expected in (1.0, 1.5):
        optimizer.zero_grad()
        ((w * x - 2 * x).square() / 2).mean().backward()
        optimizer.step()
        assert w.item() == pytest.approx(expected)
    assert untouched.tolist() == [1.0, 1.0]


def test_sgd_from_scratch_equals_torch_sgd() -> None:
    runs = []
    for optimizer_class in (SGDFromScratch, torch.optim.SGD):
        w = torch.linspace(-1, 1, 7, dtype=torch.float64).requires_grad_()
        b = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = optimizer_class([{"params": [w]}, {"params": [b], "lr": 0.05}], lr=0.3)

        def closure(w=w, b=b, optimizer=optimizer) -> Any:
            optimizer.zero_grad()
            loss = w.sin().square().sum() + (b - w[:3]).square().sum()
            loss.backward()
            return loss.detach()

        losses = [float(cast(Any, optimizer.step(closure))) for _ in range(20)]
        runs.append((w.tolist(), b.tolist(), losses))
    assert runs[0] == runs[1]


def test_sgd_from_scratch_refuses_a_negative_rate() -> None:
    with pytest.raises(UserError, match=r"optimizer\.lr=-0\.1"):
        SGDFromScratch([torch.zeros(1)], lr=-0.1)


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_every_option_descends_a_quadratic_with_the_values_it_names(path: Path) -> None:
    w = torch.tensor([3.0, -2.0], requires_grad=True)
    optimizer = build(path, [w])
    named = {key: value for key, value in values(path).items() if not key.startswith("_")}
    group = {
        key: list(value) if isinstance(value, tuple) else value for key, value in optimizer.param_groups[0].items()
    }
    assert {key: group[key] for key in named} == named
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (w.square() * torch.tensor([1.0, 4.0])).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(later < earlier for earlier, later in pairwise(losses))


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_every_option_resumes_bit_for_bit(path: Path, tmp_path: Path) -> None:
    changes = {"momentum": 0.9} if "momentum" in values(path) else {}
    straight = network()
    optimizer = build(path, straight.parameters(), **changes)
    train(straight, optimizer, range(6))

    first = network()
    optimizer = build(path, first.parameters(), **changes)
    train(first, optimizer, range(3))
    torch.save([first.state_dict(), optimizer.state_dict()], tmp_path / "checkpoint.pt")

    second = network()
    optimizer = build(path, second.parameters(), **changes)
    weights, state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    second.load_state_dict(weights)
    optimizer.load_state_dict(state)
    train(second, optimizer, range(3, 6))

    for name, weight in straight.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name]), name
        assert not torch.equal(weight, weights[name]), name


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: path.stem)
def test_every_option_begins_with_its_command(path: Path) -> None:
    assert path.read_text().startswith(f"# python train.py optimizer={path.stem} optimizer.lr=")
