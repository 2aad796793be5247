"""Seeds for independent random streams."""

import numpy as np


def key(*parts: int) -> int:
    """Derive the 63-bit seed of the random stream that the non-negative integers `parts` name.

    The number of parts enters too: `numpy.random.SeedSequence` pads with zeros, so (1,) and (1, 0) would be one stream.
    """
    state = np.random.SeedSequence((len(parts), *parts)).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def trial_seed(seed: int, trial: int) -> int:
    """Return a trial's own seed, of 31 bits: libraries and programs that take seeds take no more."""
    return key(seed, trial) % 2**31
