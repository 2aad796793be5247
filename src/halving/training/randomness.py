"""The generators that everybody shares, for a while as if they were one's own."""

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np


@contextmanager
def seeded(seed: int, device: str = "cpu") -> Iterator[None]:
    """Let Python's, NumPy's and torch's global generators begin at `seed`; afterwards they are as they were.

    An objective may do without torch: then it is not imported here.
    """
    torch: Any = sys.modules.get("torch")
    python, numpy = random.getstate(), np.random.get_state()
    with ExitStack() as restored:
        restored.callback(random.setstate, python)
        restored.callback(np.random.set_state, numpy)
        if torch is not None:
            all_gpus = device.startswith("cuda") or torch.cuda.is_initialized()
            restored.enter_context(torch.random.fork_rng(range(torch.cuda.device_count() if all_gpus else 0)))
            torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
