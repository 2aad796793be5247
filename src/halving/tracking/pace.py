"""How far a study is, and how long the rest will take."""

from dataclasses import dataclass

from halving.history import Evaluation, Header, History
from halving.tracking.wording import amount, count

_WHILES = (("a second", 1), ("a minute", 60), ("an hour", 3600), ("a day", 86400))


@dataclass(frozen=True, slots=True)
class Pace:
    """Where this process took over: what a resumed study did before says nothing of today's speed."""

    seconds: float
    spent: float

    @classmethod
    def since(cls, header: Header, history: History) -> "Pace":
        return cls(history.seconds, spent(header, history))

    def left(self, header: Header, history: History) -> float | None:
        """Return the seconds that the rest will take; None where that is not planned or nothing was spent since."""
        now = spent(header, history)
        if header.planned_cost is None or not self.spent < now <= header.planned_cost:
            return None
        return (header.planned_cost - now) * (history.seconds - self.seconds) / (now - self.spent)

    def speed(self, header: Header, history: History) -> str:
        """Say what is spent in a while: `2.5 epochs a second`; nothing where nothing was spent since."""
        now, seconds = spent(header, history) - self.spent, history.seconds - self.seconds
        if now <= 0 or seconds <= 0:
            return ""
        while_, long = next((each for each in _WHILES if now / seconds * each[1] >= 1), _WHILES[-1])
        return f"{count(float(f'{now / seconds * long:.3g}'), header.unit)} {while_}"


def spent(header: Header, history: History) -> float:
    """Return the resource spent, with that of running assignments where epochs are its unit."""
    if header.unit != "epochs":
        return history.spent
    running = (trial.last for trial in history.at_work.values())
    return history.spent + sum(max(0, last.epochs[-1].epoch - last.since) for last in running if last.epochs)


def spent_of_planned(header: Header, history: History) -> str:
    """Say what is spent: `12 of 81 epochs`, or `12 epochs` where no cost is planned or running trials went beyond."""
    now = spent(header, history)
    if header.planned_cost is None or now > header.planned_cost:
        return count(now, header.unit)
    return f"{amount(now)} of {count(header.planned_cost, header.unit)}"


def last_epoch(header: Header, evaluation: Evaluation) -> int | None:
    """Return the number of the epoch at which an evaluation ends, where that is known."""
    if header.unit == "epochs":
        return evaluation.until
    epochs = header.provenance.config.get("epochs")
    # Epochs of folds go on counting from fold to fold.
    return epochs if isinstance(epochs, int) and header.unit != "folds" else None
