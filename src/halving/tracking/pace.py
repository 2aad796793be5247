"""How far a study is, and how long the rest will take."""

from dataclasses import dataclass

from halving.history import Evaluation, Header, History
from halving.tracking.wording import count


@dataclass(frozen=True, slots=True)
class Pace:
    """Where this process took over: what a resumed study did before says nothing of today's speed."""

    seconds: float
    spent: float

    @classmethod
    def since(cls, header: Header, history: History) -> "Pace":
        return cls(history.seconds, spent(header, history))

    def left(self, header: Header, history: History) -> float | None:
        """Return the seconds that the rest will take; None where no cost is planned or nothing was spent since."""
        now = spent(header, history)
        if header.planned_cost is None or now <= self.spent:
            return None
        return max(0.0, header.planned_cost - now) * (history.seconds - self.seconds) / (now - self.spent)


def spent(header: Header, history: History) -> float:
    """Return the resource spent, with that of running assignments where epochs are its unit."""
    if header.unit != "epochs":
        return history.spent
    running = (trial.last for trial in history.trials.values() if trial.last.finished is None)
    return history.spent + sum(max(0, last.epochs[-1].epoch - last.since) for last in running if last.epochs)


def spent_of_planned(header: Header, history: History) -> str:
    """Say what is spent: `12 of 81 epochs`, or `12 epochs` where no cost is planned or running trials went beyond."""
    now = spent(header, history)
    if header.planned_cost is None or now > header.planned_cost:
        return count(now, header.unit)
    return f"{now:g} of {count(header.planned_cost, header.unit)}"


def last_epoch(header: Header, evaluation: Evaluation) -> int | None:
    """Return the number of the epoch at which an evaluation ends, where that is known."""
    if header.unit == "epochs":
        return evaluation.until
    epochs = header.settings.get("config", {}).get("epochs")
    # Epochs of folds go on counting from fold to fold.
    return epochs if isinstance(epochs, int) and header.unit != "folds" else None
