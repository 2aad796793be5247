"""LeNet with today's parts."""

from collections.abc import Sequence

from torch import nn

from halving.errors import UserError
from halving.training.models.image_shape import image_shape


class LeNetModern(nn.Sequential):
    """LeNet with ReLU and max pooling: images (b, c, h, w) -> logits (b, outputs).

    `width` is the number of channels of the first convolution, 6 in LeNet; the second has 16 / 6 of it. Weights are as
    torch draws them. Raises UserError for a width below 1 and inputs that are not images of at least 12 x 12 pixels.
    """

    def __init__(self, shape: Sequence[int], outputs: int, width: int = 6) -> None:
        channels, height, wide = image_shape(shape, "lenet_modern", 12)
        if width < 1:
            raise UserError(f"model.width={width}: give at least 1 channel")
        second = width * 16 // 6
        # ReLU and maximum commute, and after the pooling there is a quarter as much to rectify.
        super().__init__(
            nn.Conv2d(channels, width, kernel_size=5, padding=2),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, second, kernel_size=5),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(second * ((height // 2 - 4) // 2) * ((wide // 2 - 4) // 2), 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
            nn.Linear(84, outputs),
        )
