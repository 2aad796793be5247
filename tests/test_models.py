"""Models: the shapes they take, their sizes, how they start, and that a faster order of layers changes nothing."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from halving.errors import UserError
from halving.targets import instantiate
from halving.training.models.cnn import CNN, Resize
from halving.training.models.dropout_mlp import DropoutMLP
from halving.training.models.lenet import LeNet
from halving.training.models.lenet_modern import LeNetModern
from halving.training.models.mlp import MLP
from halving.training.models.resnet import resnet18
from halving.training.models.softmax import Softmax

CONF = Path(__file__).parents[1] / "conf"
IMAGES = [(1, 28, 28), (1, 32, 32), (3, 32, 32), (1, 12, 20)]


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("build", "shape"),
    [(build, shape) for build in (Softmax, MLP) for shape in [(5,), *IMAGES]]
    + [(build, shape) for build in (LeNet, LeNetModern, CNN, resnet18) for shape in IMAGES],
)
def test_shape_in_and_out(build: Callable[..., nn.Module], shape: tuple[int, ...]) -> None:
    model = build(shape=list(shape), outputs=7).eval()
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("option", sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
def test_every_option_builds_from_its_file(option: str) -> None:
    file = CONF / "model" / f"{option}.yaml"
    assert file.read_text().startswith("# python train.py ")
    config = OmegaConf.create({"data": {"shape": [1, 28, 28], "outputs": 10}, "model": OmegaConf.load(file)})
    model = instantiate(OmegaConf.to_container(config, resolve=True)["model"], "model")  # pyright: ignore
    assert model.eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_sizes_counted_by_hand() -> None:
    assert size(Softmax((1, 28, 28), 10)) == 784 * 10 + 10
    assert size(MLP((5,), 1, width=3, depth=2)) == (5 * 3 + 3) + (3 * 3 + 3) + (3 + 1)
    assert size(MLP((5,), 2, depth=0)) == 5 * 2 + 2
    assert size(DropoutMLP((5,), 2, 3, 4, 0.5, 0.0)) == (5 * 3 + 3) + (3 * 4 + 4) + (4 * 2 + 2)
    lenet = (25 * 6 + 6) + (6 * 25 * 16 + 16) + (400 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert size(LeNet((1, 28, 28), 10)) == size(LeNetModern((1, 28, 28), 10)) == lenet == 61706
    wide = (25 * 12 + 12) + (12 * 25 * 32 + 32) + (800 * 120 + 120) + (120 * 84 + 84) + (84 * 10 + 10)
    assert size(LeNetModern((1, 28, 28), 10, width=12)) == wide
    convolutions = (9 * 8 + 8) + (9 * 8 * 8 + 8) + (9 * 8 * 16 + 16) + (9 * 16 * 16 + 16)
    assert size(CNN((1, 28, 28), 10, depth=2, width=8, normalisation="none")) == convolutions + 7 * 7 * 16 * 10 + 10
    assert size(CNN((1, 28, 28), 10, width=8, kernel=5)) == 25 * 8 + 25 * 8 * 16 + 2 * (8 + 16) + 7 * 7 * 16 * 10 + 10
    # torchvision's own for 1,000 classes and a 7 x 7 stem of 3 channels has 11,689,512.
    assert size(resnet18((1, 28, 28), 10)) == 11_689_512 - 3 * 64 * 49 + 64 * 9 - 990 * 513


def test_lenet_weights_fill_xaviers_interval() -> None:
    torch.manual_seed(0)
    for layer in LeNet((1, 28, 28), 10):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            area = math.prod(layer.weight.shape[2:])
            bound = math.sqrt(6 / (area * (layer.weight.shape[0] + layer.weight.shape[1])))
            assert 0.9 * bound < layer.weight.abs().max().item() <= bound


def test_pooling_before_relu_is_the_same_function() -> None:
    torch.manual_seed(0)
    fast = LeNetModern((1, 28, 28), 10).double()
    parts = list(fast)
    assert [type(part) for part in parts[1:6]] == [nn.MaxPool2d, nn.ReLU, nn.Conv2d, nn.MaxPool2d, nn.ReLU]
    usual = nn.Sequential(parts[0], nn.ReLU(), nn.MaxPool2d(2), parts[3], nn.ReLU(), nn.MaxPool2d(2), *parts[6:])
    images = torch.randn(4, 1, 28, 28, dtype=torch.float64)
    assert torch.equal(fast(images), usual(images))


def test_cnn_is_built_from_the_parts_named() -> None:
    names = [type(layer).__name__ for layer in CNN((1, 28, 28), 10, depth=2, activation="gelu", pooling="average")]
    stage = ["Conv2d", "BatchNorm2d", "GELU", "Conv2d", "BatchNorm2d", "AveragePool", "GELU"]
    assert names == [*stage, *stage, "Flatten", "Linear"]


def test_phi_scales_depth_width_and_resolution_together() -> None:
    """Tan and Le: 1.2 * 1.1^2 * 1.15^2 is about 2, so phi = 2 takes four times the work."""
    scaled = CNN((1, 28, 28), 10, depth=2, width=10, phi=2.0)
    convolutions = [layer for layer in scaled if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [12] * 3 + [24] * 3, "ceil(2.88), round(12.1)"
    sizes: list[tuple[int, ...]] = []
    convolutions[0].register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    image = torch.rand(1, 1, 28, 28)
    assert scaled.eval()(image).shape == (1, 10) and sizes == [(1, 1, 37, 37)]
    resized = scaled[0](image)
    assert abs(resized.mean() - image.mean()) < 0.02 and resized.stride() == (37 * 37, 1, 37, 1), "still channels_last"
    same = CNN((1, 28, 28), 10, depth=2, width=10, phi=0.0)
    assert size(same) == size(CNN((1, 28, 28), 10, depth=2, width=10))
    assert CNN((1, 4, 4), 3)(torch.zeros(2, 1, 4, 4)).shape == (2, 3), "the least that two halvings leave something of"
    assert not any(isinstance(layer, Resize) for layer in same)


def test_mlp_places_dropout_after_each_activation() -> None:
    names = [type(layer).__name__ for layer in MLP((5,), 1, depth=2, dropout=0.5, activation="tanh")]
    assert names == ["Flatten", "Linear", "Tanh", "Dropout", "Linear", "Tanh", "Dropout", "Linear"]


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: LeNet([5], 1), r"model=lenet needs images.*\[5\] \(data.shape\); choose model=mlp"),
        (lambda: LeNetModern([5], 1), "model=lenet_modern needs images"),
        (lambda: LeNet([1, 8, 8], 1), "at least 12 x 12"),
        (lambda: resnet18([5], 1), "model=resnet18 needs images"),
        (lambda: LeNetModern([1, 28, 28], 1, width=0), "model.width=0"),
        (lambda: CNN([5], 1), "model=cnn needs images"),
        (lambda: CNN([1, 28, 28], 1, kernel=4), "model.kernel=4.*odd"),
        (lambda: CNN([1, 28, 28], 1, depth=0), "model.depth=0"),
        (lambda: CNN([1, 28, 28], 1, pooling="mean"), "model.pooling=mean: unknown; there is average, max"),
        (lambda: CNN([1, 28, 28], 1, normalisation="layer"), "model.normalisation=layer"),
        (lambda: CNN([1, 8, 8], 1, phi=-9.0), "model.phi=-9.0: scales images to 2 x 2"),
        (lambda: MLP([5], 1, width=0), "model.width=0"),
        (lambda: DropoutMLP([5], 1, 3, 0, 0.5, 0.5), "model.width_2=0"),
        (lambda: MLP([5], 1, activation="rellu"), "model.activation=rellu.*did you mean"),
        (lambda: MLP([5], 1, dropout=1.0), "dropout"),
    ],
)
def test_misfits_are_named(build: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build()
