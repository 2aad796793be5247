"""The book's LeNet."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from halving.training.models.image_shape import image_shape


class AveragePool(nn.Module):
    """Mean over 2 x 2 windows: images (b, c, h, w) -> (b, c, h // 2, w // 2).

    As a fixed convolution of each channel with itself, which takes two thirds of the time of `nn.AvgPool2d` both ways.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        channels = inputs.shape[1]
        return functional.conv2d(inputs, inputs.new_full((channels, 1, 2, 2), 0.25), stride=2, groups=channels)


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
            AveragePool(),
            nn.Conv2d(6, 16, kernel_size=5),
            nn.Sigmoid(),
            AveragePool(),
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
