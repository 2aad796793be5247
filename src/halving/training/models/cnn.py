"""A small convolutional network whose architecture can be searched."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from halving.data.base import channels_last
from halving.errors import UserError, did_you_mean
from halving.training.models.image_shape import image_shape
from halving.training.models.lenet import AveragePool
from halving.training.models.mlp import ACTIVATIONS

STAGES = 2
POOLINGS = {"max": lambda: nn.MaxPool2d(2), "average": AveragePool}
NORMALISATIONS = ("none", "batch")


class Resize(nn.Module):
    """Interpolate images (b, c, h, w) bilinearly to (b, c, height, width)."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)

    def forward(self, images: Tensor) -> Tensor:
        return channels_last(functional.interpolate(images, self.size, mode="bilinear", align_corners=False))


class CNN(nn.Sequential):
    """Two stages of `depth` convolutions, then a linear layer: images (b, c, h, w) -> (b, outputs).

    Convolutions keep the size and have `width` channels in the first stage, twice as many in the second; each is
    followed by normalisation ("batch" or "none") and `activation`. Pooling ("max" or "average") ends a stage, before
    its last activation, which then has less to compute.

    `phi` scales all at once: alpha**phi times the depth, beta**phi the width and gamma**phi the resolution, to which
    the images are interpolated. With alpha * beta**2 * gamma**2 near 2, the work grows as 2**phi.

    Raises UserError for an unknown name, a size below 1, an even kernel, and images of less than 4 x 4 pixels after
    scaling. Source: Tan and Le, EfficientNet, 2019, section 3.3.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        depth: int = 1,
        width: int = 16,
        kernel: int = 3,
        activation: str = "relu",
        pooling: str = "max",
        normalisation: str = "batch",
        phi: float = 0.0,
        alpha: float = 1.2,
        beta: float = 1.1,
        gamma: float = 1.15,
    ) -> None:
        channels, height, wide = image_shape(shape, "cnn", 4)
        names = {"activation": activation, "pooling": pooling, "normalisation": normalisation}
        known = {"activation": ACTIVATIONS, "pooling": POOLINGS, "normalisation": NORMALISATIONS}
        for key, name in names.items():
            if name not in known[key]:
                raise UserError(f"model.{key}={name}: unknown{did_you_mean(name, known[key])}")
        if min(depth, width) < 1 or kernel < 1 or kernel % 2 == 0:
            raise UserError(
                f"model.depth={depth}, model.width={width}, model.kernel={kernel}: give at least 1 convolution and "
                "1 channel, and an odd kernel"
            )
        depth, width = math.ceil(depth * alpha**phi), max(1, round(width * beta**phi))
        scaled = round(height * gamma**phi), round(wide * gamma**phi)
        if min(scaled) < 4:
            raise UserError(f"model.phi={phi}: scales images to {scaled[0]} x {scaled[1]}; give a larger one")

        layers: list[nn.Module] = [] if scaled == (height, wide) else [Resize(*scaled)]
        for stage in range(STAGES):
            for i in range(depth):
                filters = width * 2**stage
                layers.append(nn.Conv2d(channels, filters, kernel, padding="same", bias=normalisation == "none"))
                layers += [nn.BatchNorm2d(filters)] if normalisation == "batch" else []
                layers += [POOLINGS[pooling]()] if i == depth - 1 else []
                layers.append(ACTIVATIONS[activation]())
                channels = filters
        units = channels * math.prod(side // 2**STAGES for side in scaled)
        super().__init__(*layers, nn.Flatten(), nn.Linear(units, outputs))
