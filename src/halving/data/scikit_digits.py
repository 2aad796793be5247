"""Handwritten digits that come with scikit-learn: no download."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from halving.data.base import stratified_order
from halving.data.keys import key
from halving.data.option import Source, option


@option(validation=0.2)
def digits() -> Source:
    """Return scikit-learn's 1,797 digits of 10 classes, 8 x 8 resized to 28 x 28, a fixed fifth of them for the test.

    Raises UserError as `option` says. Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits,
    UCI, 1998.
    """
    return Source(load)


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    images, classes = _read()
    levels = torch.as_tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) * (255 / 16)
    resized = interpolate(levels, size=(28, 28), mode="bilinear", align_corners=False).round().to(torch.uint8)
    targets = torch.as_tensor(classes, dtype=torch.int64)
    order = stratified_order(targets, key(0))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return resized[train], targets[train], resized[test], targets[test]


def _read() -> tuple[Any, Any]:
    """Return images and classes as `load_digits` does, without the second that all of scikit-learn takes."""
    package = find_spec("sklearn")
    assert package is not None and package.origin is not None, "it is a dependency"
    file = Path(package.origin).with_name("datasets") / "data/digits.csv.gz"
    if not file.is_file():  # where another version may keep it
        from sklearn.datasets import load_digits

        found: Any = load_digits(return_X_y=True)
        return found
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1], table[:, -1]
