"""Data sets as tensors on the device. Names are imported on first use: reading digits never loads torchvision."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halving.data.airfoil_noise import airfoil
    from halving.data.base import Data, Split, split_data
    from halving.data.scikit_digits import digits
    from halving.data.torchvision import cifar10, fashion_mnist, mnist

__all__ = ["Data", "Split", "airfoil", "cifar10", "digits", "fashion_mnist", "mnist", "split_data"]

_HOMES = {
    "Data": "base",
    "Split": "base",
    "airfoil": "airfoil_noise",
    "cifar10": "torchvision",
    "digits": "scikit_digits",
    "fashion_mnist": "torchvision",
    "mnist": "torchvision",
    "split_data": "base",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
