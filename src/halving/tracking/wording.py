"""How numbers, metrics and configurations are put into words, on the console and in reports."""

import math
from collections.abc import Iterable, Mapping

from halving.errors import last_line
from halving.history import Evaluation, Header, History
from halving.history import amount as amount
from halving.history import count as count
from halving.trial import AVERAGED, Configuration, Value

_SETS = {"train": "training", "val": "validation"}


def come_and_go(header: Header) -> bool:
    """Whether the workers are on other machines, whose checkpoints may have to be carried: how many is not known."""
    match header.provenance.config:
        case {"executor": {"checkpoints": _}}:
            return True
        case _:
            return False


def duration(seconds: float) -> str:
    """Say seconds in words: `0.42 s`, `45 s`, `1 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def number(value: float) -> str:
    """Say a number as people write it: four significant digits, and whole numbers whole."""
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e7):
        return str(int(value))
    return f"{value:.4g}"


def digits(value: float, uncertainty: float | None = None) -> str:
    """Say a number with the digits that its standard error allows; four significant ones where that is not known."""
    if not math.isfinite(value) or not uncertainty or not math.isfinite(uncertainty):
        return number(value) if math.isfinite(value) else "-"
    return rounded(value, uncertainty)


def rounded(value: float, uncertainty: float) -> str:
    """Say a number with the digits that its standard error allows.

    The last digit is worth between 3 % and 28 % of the standard error, as particle physicists round theirs.
    """
    places = min(-math.floor(math.log10(max(uncertainty / 3.55, 1e-300))), 12)
    rounded = round(value, places) + 0.0 if abs(value) < 1e7 else value  # + 0.0 makes -0.0 a zero
    if rounded == 0 or 1e-4 <= abs(rounded) < 1e7:
        return f"{rounded:.{max(places, 0)}f}"
    return f"{rounded:.{min(max(math.floor(math.log10(abs(rounded))) + places, 0), 15)}e}"


def shown(history: History, error: float) -> str:
    """Say an error as the metric that the user knows, with digits that tell good trials apart; nothing for none."""
    if history.header is None or math.isinf(error):
        return ""
    return digits(history.header.sign * error, resolution(history))


def resolution(history: History) -> float | None:
    """Return what tells good trials apart, None where nothing does.

    That is a twentieth of how far the best quarter of all errors spreads, and at most 4 % of the best.
    """
    errors = sorted(evaluation.error for _, evaluation in history.finished if math.isfinite(evaluation.error))
    spread = errors[len(errors) // 4] - errors[0] if errors else 0.0
    return min(spread / 20, abs(errors[0]) / 25 or math.inf) if 0 < spread < math.inf else None


def measure(metric: str) -> str:
    """Say what is measured: `validation loss` for val_loss, `averaged test error` for averaged_test_error."""
    if metric == "lr":
        return "learning rate"
    averaged = AVERAGED if metric.startswith(AVERAGED) else ""
    of, _, name = (rest := metric.removeprefix(averaged)).partition("_")
    return f"{averaged}{f'{_SETS[of]} {name}' if name and of in _SETS else rest}".replace("_", " ")


def metric_label(header: Header) -> str:
    """Say what is optimised, as `measure` does: an error is one of validation."""
    return measure("val_error" if header.metric == "error" else header.metric)


def losses(metrics: Mapping[str, float]) -> str:
    """Say losses and errors of training and validation, or what else the first four metrics are."""
    parts = {
        word: [f"{name.removeprefix(part)} {digits(value)}" for name, value in metrics.items() if name.startswith(part)]
        for word, part in (("train", "train_"), ("val", "val_"), ("averaged", f"{AVERAGED}val_"))
    }
    if any(parts.values()):
        return ", ".join(f"{word} {' '.join(said)}" for word, said in parts.items() if said)
    return ", ".join(f"{name} {digits(value)}" for name, value in list(metrics.items())[:4])


def override_text(value: Value) -> Value:
    """Return a value as it is written in an override: true, false and null instead of Python's words."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case _:
            return value


def value_text(value: Value) -> str:
    """Say a configuration's value: a float to four significant digits, all else as an override would have it."""
    return number(value) if isinstance(value, float) else str(override_text(value))


def values(configuration: Configuration) -> str:
    """Say a configuration in a few short lines at most."""
    names = short(configuration)
    said = (f"{names[key]}={cut(value_text(value), 24)}" for key, value in configuration.items())
    return cut(" ".join(said), 200)


def setting(configuration: Configuration, between: str = ", ") -> str:
    """Say a configuration by its full names."""
    return between.join(f"{name}={value_text(value)}" for name, value in configuration.items())


def cut(text: str, length: int) -> str:
    """Return the beginning of a text that is too long."""
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def short(keys: Iterable[str]) -> dict[str, str]:
    """Give each dotted key its last part, or all of it where two end alike."""
    last = [(key, key.rpartition(".")[2]) for key in keys]
    ends = [end for _, end in last]
    return {key: end if ends.count(end) == 1 else key for key, end in last}


def cause(evaluation: Evaluation) -> str:
    """Say why an evaluation failed."""
    said = evaluation.finished.cause if evaluation.finished is not None else ""
    return last_line(said) or "its error is not a finite number"
