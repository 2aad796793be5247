"""The generators that everybody shares, for a while as if they were one's own."""

import logging
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

_one = Lock()
_warned: list[bool] = []
_within: ContextVar[bool] = ContextVar("halving_randomness", default=False)


@contextmanager
def one_thread() -> Iterator[None]:
    """Warn once where another thread is in a trial: the generators are the process's, and one would draw for both.

    To wait for it could be for ever: the other may wait for this one, as a trial that runs a study in a thread does.
    """
    if _within.get():
        yield
        return
    token, first = _within.set(True), _one.acquire(blocking=False)
    if not first and not _warned:
        _warned.append(True)
        log.warning(
            "two threads are in trials at once, and share the global generators of Python, NumPy and torch: where both "
            "draw from them, neither study can be repeated; give each a process of its own, or executor=Process"
        )
    try:
        yield
    finally:
        _within.reset(token)
        if first:
            _one.release()


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Let Python's, NumPy's and torch's global generators begin at `seed`; afterwards they are as they were.

    An objective may do without torch: then it is not imported here.
    """
    torch: Any = sys.modules.get("torch")
    with ExitStack() as restored:
        restored.enter_context(one_thread())
        python, numpy = random.getstate(), np.random.get_state()
        restored.callback(random.setstate, python)
        restored.callback(np.random.set_state, numpy)
        if torch is not None:
            all_gpus = device.startswith("cuda") or torch.cuda.is_initialized()
            restored.enter_context(torch.random.fork_rng(range(torch.cuda.device_count() if all_gpus else 0)))
        begin(seed)
        yield


def begin(seed: int) -> None:
    """Let the global generators begin at `seed`."""
    if torch := sys.modules.get("torch"):
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:  # which, for GPUs that are not there, would format a traceback at each epoch
            torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def captured() -> dict[str, Any]:
    """Return the states of the global generators, in what a checkpoint may hold; CUDA's where it is in use."""
    version, state, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    states: dict[str, Any] = {
        "python": [version, list(state), gauss],
        "numpy": [kind, [int(key) for key in keys], position, has_gauss, cached],
    }
    if torch := sys.modules.get("torch"):
        states["torch"] = torch.get_rng_state()
        states["cuda"] = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return states


def restore(states: Mapping[str, Any]) -> None:
    """Go back to what `captured` returned."""
    version, state, gauss = states["python"]
    random.setstate((version, tuple(state), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, cached))
    if "torch" in states:
        import torch

        torch.set_rng_state(states["torch"])
        if states["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])
