"""Torch's switches that everybody shares, for a while as one training left them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Modes:
    """How many threads compute, whether gradients are recorded, inference mode is on, and where autocast, in what."""

    threads: int
    gradients: bool = True
    inference: bool = False
    autocast: tuple[tuple[str, bool, torch.dtype], ...] = ()

    def switch(self) -> None:
        """Switch to these modes, inference mode apart, which only a context can."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        torch.set_grad_enabled(self.gradients)
        for device, enabled, dtype in self.autocast:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        torch.clear_autocast_cache()


def captured() -> Modes:
    """Return the modes of now."""
    autocast = tuple((each, torch.is_autocast_enabled(each), torch.get_autocast_dtype(each)) for each in _DEVICES)
    return Modes(torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast)


def initial() -> Modes:
    """Return the modes that a training begins in: as many threads as now, gradients, and nothing else."""
    off = tuple((each, False, torch.get_autocast_dtype(each)) for each in _DEVICES)
    return Modes(torch.get_num_threads(), autocast=off)


@contextmanager
def switched(modes: Modes) -> Iterator[list[Modes]]:
    """Be in these modes for a while; afterwards the list has those that were left, and they are as they were before."""
    outside, left = captured(), list[Modes]()
    try:
        with torch.inference_mode(modes.inference):
            modes.switch()
            try:
                yield left
            finally:
                left.append(captured())
    finally:
        outside.switch()
