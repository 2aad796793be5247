"""The book's LeNet."""

from collections.abc import Sequence

from torch import nn

from halving.training.models.image_shape import image_shape


class LeNet(nn.Sequential):
    """Two sigmoid convolutions with average pooling, three dense layers: images (b, c, h, w) -> logits (b, outputs).

    Weights are Xavier uniform. Raises UserError for inputs that are not images of at least 12 x 12 pixels.
    Source: LeCun et al., 1998; D2L, chapter "Convolutional Neural Networks (LeNet)".
    """

    def __init__(self, shape: Sequence[int], outputs: int) -> None:
        channels, height, width = image_shape(shape, "lenet", 12)
        super().__init__(
            nn.Conv2d(channels, 6, kernel_size=5, padding=2),
            nn.Sigmoid(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.Sigmoid(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * ((height // 2 - 4) // 2) * ((width // 2 - 4) // 2), 120),
            nn.Sigmoid(),
            nn.Linear(120, 84),
            nn.Sigmoid(),
            nn.Linear(84, outputs),
        )
        for layer in self:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(layer.weight)
