"""Which dimensions mattered: permutation importance under a random forest (Breiman 2001)."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from halving.errors import UserError
from halving.history import Evaluation, Header, History
from halving.report.tables import header_of
from halving.tracking.wording import digits
from halving.trial import Configuration, Value

_MOST = 5_000  # trials: a forest takes more than a minute to grow on them ten times
_FEWEST = 8


@dataclass(frozen=True)
class Importance:
    """How much worse a forest tells trials apart without a dimension.

    `loss` is that of R² when the dimension's values are shuffled, 0 for one that does not matter; it may exceed 1.
    `deviation` is its standard deviation over bootstrap samples of the trials.
    """

    dimension: str
    loss: float
    deviation: float

    def __str__(self) -> str:
        return f"{digits(self.loss, self.deviation)} ± {digits(self.deviation, self.deviation)}"


@dataclass(frozen=True)
class Importances:
    """The dimensions, the most important first, and what they rest on.

    `explained` is the forest's R² on trials that it was not fitted to: near or below 0 the rest says nothing.
    """

    resource: int
    trials: int
    explained: float
    dimensions: tuple[Importance, ...]

    @property
    def clear(self) -> bool:
        """Whether the first is ahead of the second by more than the deviation of what lies between them."""
        first, second, *_ = (*self.dimensions, Importance("", 0.0, 0.0))
        return first.loss - second.loss > math.hypot(first.deviation, second.deviation)

    @property
    def telling(self) -> bool:
        """Whether the forest explains so much that what it loses says something."""
        return self.explained >= 0.1


def importances(history: History, resource: int | None = None, samples: int = 10, seed: int = 0) -> Importances:
    """Estimate each dimension's importance for the rank of a trial's error at one resource.

    By default at the one that the most trials have reached without failing, and of several the highest: higher rungs
    hold only the selected. Trials that failed on the way there rank last. A choice is shuffled with all that is below
    its options, what a condition names with all that the condition is for, and these among the trials that have them.
    Of more than 5,000 trials, an even selection counts.

    Raises UserError for fewer than 8 trials there, and for a study that searched no dimension.
    """
    from sklearn.ensemble import RandomForestRegressor  # pyright: ignore

    counts = Counter(each.resource for _, each in history.finished if math.isfinite(each.error))
    if resource is None:
        resource = max(counts, key=lambda r: (counts[r], r), default=0)
    ended = [(trial.trial, each) for trial, each in history.finished]

    def failed(each: Evaluation) -> bool:
        return not math.isfinite(each.error) and each.since < resource and each.resource <= resource

    errors = {trial: math.inf for trial, each in ended if failed(each)}
    errors |= {trial: each.error for trial, each in ended if each.resource == resource and math.isfinite(each.error)}
    if len(errors) < _FEWEST:
        raise UserError(
            f"importance: {len(errors)} trials at resource {resource} are too few to tell; it takes at least {_FEWEST}"
        )
    header = header_of(history)
    dimensions = header.dimensions
    if not dimensions:
        raise UserError("importance: the study searched no dimension")
    errors = dict(sorted(errors.items())[:: -(-len(errors) // _MOST)])
    configurations = [history.trials[trial].configuration for trial in errors]
    inputs, together = _columns(configurations, dimensions), _together(configurations, dimensions, _named(header))
    ranks = _ranks(np.array(list(errors.values())))

    rng = np.random.default_rng(seed)
    explained: list[float] = []
    losses: list[NDArray[np.float64]] = []
    for _ in range(samples):
        drawn = rng.integers(len(ranks), size=len(ranks))
        left = np.setdiff1d(np.arange(len(ranks)), drawn)
        if len(left) < 2 or np.ptp(ranks[left]) == 0:
            continue
        state = int(rng.integers(2**31))
        forest: Any = RandomForestRegressor(50, random_state=state, n_jobs=1).fit(inputs[drawn], ranks[drawn])
        score, lost = _scores(forest, inputs[left], ranks[left], together, rng)
        explained.append(score)
        losses.append(lost)
    if not losses:
        raise UserError(f"importance: all {len(errors)} trials at resource {resource} have the same error")
    rows = [
        Importance(name, float(mean), float(deviation))
        for name, mean, deviation in zip(dimensions, np.mean(losses, axis=0), np.std(losses, axis=0), strict=True)
    ]
    ordered = tuple(sorted(rows, key=lambda row: (-row.loss, row.dimension)))
    return Importances(resource, len(errors), float(np.mean(explained)), ordered)


def early_and_late(history: History) -> tuple[Importances, ...]:
    """Return the importances where the most trials are, and then at the highest resource that enough have reached.

    What matters early need not matter in the end. Raises UserError where there is too little for the first.
    """
    early = importances(history)
    counts = Counter(each.resource for _, each in history.finished if math.isfinite(each.error))
    late = max(resource for resource, n in counts.items() if n >= _FEWEST or resource == early.resource)
    if late > early.resource:
        with suppress(UserError):
            return early, importances(history, late)
    return (early,)


def _scores(
    forest: Any,
    inputs: NDArray[np.float64],
    ranks: NDArray[np.float64],
    together: Sequence[list[int]],
    rng: np.random.Generator,
    repeats: int = 3,
) -> tuple[float, NDArray[np.float64]]:
    """Return R² on these trials, and for each dimension what of it is lost on average when its values are shuffled."""
    trials, dimensions = inputs.shape
    variants = np.tile(inputs, (1 + repeats * dimensions, 1, 1))
    for i, variant in enumerate(variants[1:]):
        shuffled = together[i % dimensions]
        active = np.flatnonzero(variant[:, i % dimensions] >= 0)
        variant[np.ix_(active, shuffled)] = variant[np.ix_(rng.permutation(active), shuffled)]
    predicted = forest.predict(variants.reshape(-1, dimensions)).reshape(-1, trials)
    scores = 1 - ((predicted - ranks) ** 2).sum(axis=1) / ((ranks - ranks.mean()) ** 2).sum()
    return float(scores[0]), (scores[0] - scores[1:].reshape(repeats, dimensions)).mean(axis=0)


def _columns(configurations: Sequence[Configuration], dimensions: Sequence[str]) -> NDArray[np.float64]:
    """Return one column per dimension: the place of each value among all, numbers first, and -1 where there is none.

    Only the order of numbers counts in a tree, so that any range will do.
    """

    def place(value: Value) -> tuple[bool, float, str]:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return False, value, ""
        return True, 0.0, repr(value)

    columns: list[list[int]] = []
    for name in dimensions:
        places = [place(configuration[name]) if name in configuration else None for configuration in configurations]
        known = {at: i for i, at in enumerate(sorted({at for at in places if at is not None}))}
        columns.append([-1 if at is None else known[at] for at in places])
    return np.array(columns, dtype=np.float64).T


def _together(
    configurations: Sequence[Configuration], dimensions: Sequence[str], named: Mapping[str, set[str]]
) -> list[list[int]]:
    """Return for each dimension the columns that are shuffled with it: those that exist by its value, too."""
    conditional = [any(name not in each for each in configurations) for name in dimensions]

    def below(found: list[int]) -> list[int]:
        names = [dimensions[i] for i in found]
        more = [
            j
            for j, name in enumerate(dimensions)
            if conditional[j] and j not in found
            if any(name.startswith(f"{each}.") or each in named.get(name, ()) for each in names)
        ]
        return below([*found, *more]) if more else found

    return [below([i]) for i in range(len(dimensions))]


def _named(header: Header) -> dict[str, set[str]]:
    """Return what the conditions of each dimension name, of a space that is written as a config or described."""
    described = (each.partition(" if ") for each in header.provenance.space or ())
    found: dict[str, set[str]] = {}
    for name, conditions in (
        *((text.partition(": ")[0], conditions) for text, _, conditions in described),
        *_whens(header.provenance.config.get("space")),
    ):
        found.setdefault(name, set()).update(re.findall(r"[\w.]+", conditions))
    return found


def _whens(node: Any, path: str = "", conditions: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        items = cast(Mapping[str, Any], node)
        conditions = f"{conditions} {items.get('_when_', '')}"
        for key, below in items.items():
            options = list(cast(Mapping[str, Any], below).values()) if isinstance(below, Mapping) else []
            for each in options if key == "_choice_" else [below]:
                yield from _whens(each, path if key.startswith("_") else f"{path}.{key}".lstrip("."), conditions)
    yield path, conditions


def _ranks(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks scaled to [0, 1]; equal errors share their mean rank."""
    _, places, counts = np.unique(errors, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    return middle[places] / max(len(errors) - 1, 1)
