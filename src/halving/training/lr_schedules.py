"""Learning-rate schedules: multipliers of the optimizer's learning rate, by the epochs trained so far."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from halving.errors import UserError

# An epoch made of minibatch fractions may miss the edge of a stair by rounding; no minibatch is this small a fraction.
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Multiplier in [0, 1] of the learning rate after `epoch` epochs of training (from 0, fractional inside an epoch).

    `epochs` is the length of a full training, never a rung's; from there on the last value holds. The multiplier first
    rises linearly over `warmup` epochs, from `warmup_start` times the shape's first value (not from 0, which would
    waste the first step) up to that first value: 1, or where `Cyclic` and `OneCycle` begin. The shape is not clipped
    by the warm-up but shifted: it begins after it and spans the other `epochs - warmup`, as the cosine does in
    *Dive into Deep Learning*, chapter "Learning Rate Scheduling".

    Raises UserError for a value out of its range.
    """

    epochs: float
    warmup: float = 0.0
    warmup_start: float = 0.01

    def __post_init__(self) -> None:
        require("epochs", self.epochs, "above 0", lambda v: v > 0)
        require("warmup", self.warmup, f"at least 0 and below epochs={self.epochs}", lambda v: 0 <= v < self.epochs)
        require_fraction("warmup_start", self.warmup_start)

    def __call__(self, epoch: float) -> float:
        if epoch < self.warmup:
            rise = self.warmup_start + (1.0 - self.warmup_start) * epoch / self.warmup
            return rise * self._shape(0.0)
        return self._shape(min(epoch, self.epochs) - self.warmup)

    @property
    def _span(self) -> float:
        return self.epochs - self.warmup

    @abstractmethod
    def _shape(self, since: float) -> float:
        """Multiplier at `since` epochs after the warm-up, 0 <= since <= _span."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The optimizer's own learning rate, after the warm-up."""

    def _shape(self, since: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class SquareRoot(Schedule):
    """(t + 1)^(-1/2) at t epochs, `SquareRootScheduler` of D2L, chapter "Learning Rate Scheduling"."""

    def _shape(self, since: float) -> float:
        return (since + 1.0) ** -0.5


@dataclass(frozen=True, kw_only=True)
class Factor(Schedule):
    """max(floor, factor^k) in the k-th epoch (from 0), `FactorScheduler` of D2L, chapter "Learning Rate Scheduling".

    `factor` in (0, 1]; `floor` in [0, 1] is the book's `stop_factor_lr` over its `base_lr`.
    """

    factor: float = 0.9
    floor: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        require_factor(self.factor)
        require_fraction("floor", self.floor)

    def _shape(self, since: float) -> float:
        return max(self.floor, self.factor ** math.floor(since + ROUNDING))


@dataclass(frozen=True, kw_only=True)
class MultiFactor(Schedule):
    """factor^k once k of the points `at` are passed.

    `at` holds fractions in (0, 1] of the epochs after the warm-up, so that it fits a training of any length. The
    piecewise constant schedule (`MultiStepLR`) of D2L, chapter "Learning Rate Scheduling".
    """

    at: Sequence[float] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.at, str) or not isinstance(self.at, Sequence):
            raise UserError(
                f"lr_schedule.at={self.at!r} must be a list of fractions of the training, such as [0.5, 0.75]"
            )
        for i, point in enumerate(self.at):
            require(f"at[{i}]", point, "in (0, 1]: a fraction of the training, not an epoch", lambda v: 0 < v <= 1)
        require_factor(self.factor)
        object.__setattr__(self, "at", tuple(self.at))

    def _shape(self, since: float) -> float:
        return self.factor ** sum(since + ROUNDING >= point * self._span for point in self.at)


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """floor + (1 - floor) (1 - t)^power at the fraction t of the training; power = 1 is linear decay."""

    power: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("power", self.power, "above 0", lambda v: v > 0)
        require_fraction("floor", self.floor)

    def _shape(self, since: float) -> float:
        return self.floor + (1.0 - self.floor) * (1.0 - since / self._span) ** self.power


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """floor + (1 - floor) (1 + cos(pi t)) / 2 at the fraction t of the training.

    Loshchilov and Hutter, "SGDR" (ICLR 2017), equation 5 without restarts; `CosineScheduler` of D2L, chapter
    "Learning Rate Scheduling". `floor` is eta_min / eta_max.
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction("floor", self.floor)

    def _shape(self, since: float) -> float:
        return cosine(1.0, self.floor, since / self._span)


@dataclass(frozen=True, kw_only=True)
class Cyclic(Schedule):
    """Triangles: `cycles` times linearly from `floor` up to the peak and back; the peaks are 1, then nearer to `floor`.

    Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017): `floor` is base_lr / max_lr, his stepsize
    is half a cycle (he advises 2 to 10 epochs), `decay` multiplies the height above `floor` after each cycle (1.0 is
    his triangular, 0.5 his triangular2).
    """

    floor: float = 0.1
    cycles: int = 3
    decay: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fraction("floor", self.floor)
        require("cycles", self.cycles, "a whole number, at least 1", lambda v: v >= 1 and v == int(v))
        require_factor(self.decay, "decay")

    def _shape(self, since: float) -> float:
        cycle, phase = divmod(since / self._span * self.cycles, 1.0)
        height = 1.0 - abs(2.0 * phase - 1.0)
        return self.floor + (1.0 - self.floor) * height * self.decay**cycle


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """By half a cosine from `start` up to 1 at the fraction `peak` of the training, by another down to `end`.

    Smith and Topin, "Super-Convergence" (2019), with cosines in place of their lines. The optimizer's learning rate is
    their maximum; `start` is 1 / div_factor and `end` is 1 / (div_factor final_div_factor) of `torch`'s `OneCycleLR`.
    The momentum, which they cycle against it, stays as it is.
    """

    peak: float = 0.3
    start: float = 0.04
    end: float = 4e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        require("peak", self.peak, "between 0 and 1", lambda v: 0 < v < 1)
        require_fraction("start", self.start)
        require_fraction("end", self.end)

    def _shape(self, since: float) -> float:
        t = since / self._span
        if t < self.peak:
            return cosine(self.start, 1.0, t / self.peak)
        return cosine(1.0, self.end, (t - self.peak) / (1.0 - self.peak))


@dataclass
class Observations:
    """What a plateau remembers: the least loss, the epochs since without improvement, and the multiplier."""

    best: float = math.inf
    bad_epochs: int = 0
    multiplier: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Plateau(Schedule):
    """Multiplied by `factor`, down to `floor`, after more than `patience` epochs without a better validation loss.

    The one schedule that is no function of the epoch alone: the loop tells it each epoch's validation loss by
    `observe`, and `state` belongs into the checkpoint. A loss improves when it is below (1 - threshold) times the least
    so far; NaN never does. The rule is that of `torch`'s `ReduceLROnPlateau` with threshold_mode "rel". Losses inside
    the warm-up count. Every trial needs its own instance.
    """

    factor: float = 0.1
    patience: int = 3
    threshold: float = 1e-4
    floor: float = 0.0
    _seen: Observations = field(default_factory=Observations, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require("factor", self.factor, "in (0, 1): the learning rate would never fall", lambda v: 0 < v < 1)
        require("patience", self.patience, "a whole number, at least 0", lambda v: v >= 0 and v == int(v))
        require("threshold", self.threshold, "in [0, 1)", lambda v: 0 <= v < 1)
        require_fraction("floor", self.floor)

    def _shape(self, since: float) -> float:
        return self._seen.multiplier

    def observe(self, validation_loss: float) -> None:
        """Take in the validation loss at the end of an epoch."""
        seen = self._seen
        if validation_loss < seen.best * (1.0 - self.threshold):
            seen.best, seen.bad_epochs = float(validation_loss), 0
            return
        seen.bad_epochs += 1
        if seen.bad_epochs > self.patience:
            seen.multiplier, seen.bad_epochs = max(self.floor, seen.multiplier * self.factor), 0

    def state(self) -> dict[str, float]:
        """What `restore` needs to go on from here, in plain numbers; best is inf before the first loss."""
        return asdict(self._seen)

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from where `state` was taken."""
        self._seen.best = float(state["best"])
        self._seen.bad_epochs = int(state["bad_epochs"])
        self._seen.multiplier = float(state["multiplier"])


def cosine(first: float, last: float, t: float) -> float:
    """Half a cosine from `first` at t = 0 to `last` at t = 1."""
    return last + (first - last) * (1.0 + math.cos(math.pi * t)) / 2.0


def require(key: str, value: Any, rule: str, holds: Callable[[float], bool]) -> None:
    """Raise UserError unless `value` is a finite number that `holds`."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and holds(value)):
        raise UserError(f"lr_schedule.{key}={value!r} must be {'' if number else 'a number '}{rule}")


def require_fraction(key: str, value: Any) -> None:
    require(key, value, "in [0, 1]", lambda v: 0 <= v <= 1)


def require_factor(value: Any, key: str = "factor") -> None:
    require(key, value, "in (0, 1]", lambda v: 0 < v <= 1)
