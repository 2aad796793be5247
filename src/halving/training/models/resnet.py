"""ResNet-18 for small images."""

from collections.abc import Sequence

from torch import nn

from halving.data.torchvision_shim import allow_import
from halving.training.models.image_shape import image_shape


def resnet18(shape: Sequence[int], outputs: int) -> nn.Module:
    """Return torchvision's ResNet-18 with a 3 x 3 first convolution and no first pooling: (b, c, h, w) -> (b, outputs).

    Raises UserError for inputs that are not images of at least 9 x 9 pixels (below, batch norm may see one value).
    Source: He et al., Deep Residual Learning, 2016; D2L, chapter "Residual Networks".
    """
    channels, _, _ = image_shape(shape, "resnet18", 9)
    allow_import()
    from torchvision import models

    net = models.resnet18(num_classes=outputs)
    net.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return net
