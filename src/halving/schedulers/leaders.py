"""By what ConcordantASHA distrusted a rung before it compared all ranks; studies that began with it go on with it."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

# How far each higher rung agrees with a lower one, and how many trials had finished it.
Agreement = Mapping[int, tuple[float, int]]
Agree = Callable[[Sequence[float]], float]
Doubt = Callable[[int, Agreement], str]


def leading(errors: Sequence[float], eta: int) -> float:
    """Return the concordance of the best one in `eta` of a rung, from the errors below, its best trial first."""
    cut = len(errors) // eta
    return concordance(errors[:cut], errors[cut:])


def leaders_doubt(index: int, agreement: Agreement) -> str:
    """Return why a rung misleads: the leaders of the rung that contradicts it most did not lead there. Else nothing."""
    higher = min(agreement, key=lambda rung: (agreement[rung], rung))
    share, _ = agreement[higher]
    only = f"the leaders of rung {higher} were ahead here in only {share:.0%} of pairs"
    return f"rung {index} misleads: {only}" if share <= 0.5 else ""


def concordance(leaders: Sequence[float], others: Sequence[float]) -> float:
    """Return how often a leader's error is below another's, of all such pairs; a tie counts half.

    It is the area under the ROC curve, or Mann and Whitney's U over the number of pairs: 1/2 without any relation.
    """
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, leaders, side=side).mean() for side in ("left", "right"))
    return float(1 - (below + up_to) / 2 / len(ordered))
