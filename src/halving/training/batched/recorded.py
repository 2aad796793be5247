"""A pass of all trials as a CUDA graph: recorded once and replayed, so that a GPU does not wait for Python."""

import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import Tensor

from halving.training.batched.modules import Masks

Given = TypeVar("Given")


class Recorded(Generic[Given]):
    """A pass over CUDA minibatches, recorded at the second in a row of one shape; others are taken as they are.

    What a replay gives lies where the recording had it, and is another's from the next replay on. Masks are drawn
    before: their generators are no part of the graph. Raises RuntimeError for a pass that cannot be recorded.
    """

    def __init__(self, taken: Callable[[Tensor, Tensor], Given], masks: Sequence[Masks]) -> None:
        self._taken, self._masks = taken, masks
        self._last: torch.Size | None = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, inputs: Tensor, targets: Tensor) -> Given:
        if self._replay is None and inputs.shape == self._last:
            self._record(inputs, targets)
        elif self._replay is None or inputs.shape != self._inputs.shape:
            self._last = inputs.shape
            return self._taken(inputs, targets)
        else:
            self._inputs.copy_(inputs)
            self._targets.copy_(targets)
        for masks in self._masks:
            masks.draw()
        assert self._replay is not None
        self._replay()
        return self._given

    def _record(self, inputs: Tensor, targets: Tensor) -> None:
        self._inputs, self._targets = inputs.clone(), targets.clone()
        graph, device = torch.cuda.CUDAGraph(), inputs.device
        try:
            with (
                torch.cuda.device(device),
                torch.cuda.stream(torch.cuda.current_stream(device)),  # to which torch goes not back where it fails
                torch.cuda.graph(graph, capture_error_mode="thread_local"),  # others may do what they like meanwhile
            ):
                self._given = self._taken(self._inputs, self._targets)
        except Exception:
            for generator in torch.cuda.default_generators:  # which else believe for ever that they are recorded
                generator.graphsafe_set_state(generator.clone_state())
            raise
        self._replay = graph.replay


@contextmanager
def without_waiting() -> Generator[None]:
    """Raise RuntimeError where something waits for the device, as a recording would, after which little works."""
    with warnings.catch_warnings(action="ignore"):
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
