"""How numbers, metrics and configurations are put into words on the console."""

import math
from collections.abc import Iterable, Mapping

from halving.history import Evaluation, Header
from halving.history import count as count
from halving.trial import Configuration


def duration(seconds: float) -> str:
    """Say seconds in words: `45 s`, `1 min 12 s`, `2 h 5 min`, `3 d 4 h`."""
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def number(value: float) -> str:
    """Say a metric: three decimals, or three digits where it is too small or too large for that."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 1000 else f"{value:.3g}"


def shown(header: Header, error: float) -> str:
    """Say an error as the metric that the user knows; nothing where there is none."""
    return "" if math.isinf(error) else number(-error if header.maximize else error)


def losses(metrics: Mapping[str, float]) -> str:
    """Say losses and errors of training and validation, or what else the first four metrics are."""
    parts = {
        part: [f"{name.removeprefix(part)} {number(value)}" for name, value in metrics.items() if name.startswith(part)]
        for part in ("train_", "val_")
    }
    if any(parts.values()):
        return ", ".join(f"{part[:-1]} {' '.join(said)}" for part, said in parts.items() if said)
    return ", ".join(f"{name} {number(value)}" for name, value in list(metrics.items())[:4])


def values(configuration: Configuration) -> str:
    """Say a configuration in a few short lines at most."""
    names = short(configuration)
    said = {key: f"{value:.3g}" if isinstance(value, float) else str(value) for key, value in configuration.items()}
    return cut(" ".join(f"{names[key]}={cut(value, 24)}" for key, value in said.items()), 200)


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
    said = evaluation.finished.cause.strip() if evaluation.finished is not None else ""
    return said.splitlines()[-1] if said else "its error is not a finite number"
