"""Tables of recorded learning curves: what simulated studies look up."""

import csv
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from halving.environment import expanded
from halving.errors import UserError
from halving.spreadsheet import read, table
from halving.trial import Configuration, Value

ROW = "row"
_WORDS: dict[str, Value] = {"true": True, "false": False, "null": None}


@dataclass(frozen=True, eq=False)
class Curves:
    """Learning curves of many configurations at the same levels of resource.

    `error`, shape (n, levels), is lower for better and NaN from where a trial diverged; `resource`, shape (levels,),
    ascends; `seconds`, shape (n, levels), is cumulative where known. One configuration belongs to each row.

    Raises UserError for shapes or numbers that are no such table.
    """

    error: NDArray[np.float64]
    resource: NDArray[np.int64]
    seconds: NDArray[np.float64] | None = None
    configurations: Sequence[Configuration] = ()
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __repr__(self) -> str:
        n, levels = self.error.shape
        what = f"{n} configurations, {levels} levels from {self.resource[0]} to {self.resource[-1]}"
        return f"Curves({what}; columns: {', '.join(self.columns) or 'none'})"

    def __post_init__(self) -> None:
        for name, array in (("error", self.error), ("resource", self.resource), ("seconds", self.seconds)):
            if array is not None and not (isinstance(array, np.ndarray) and np.issubdtype(array.dtype, np.number)):
                raise UserError(f"{name}: must be an array of numbers")
        error = np.where(np.isfinite(self.error), self.error, np.nan).astype(np.float64)
        if error.ndim != 2 or 0 in error.shape:
            raise UserError(f"error: has the shape {error.shape}; it must be (configurations, levels), none of them 0")
        if self.resource.shape != error.shape[1:]:
            raise UserError(f"resource: has the shape {self.resource.shape}, but error has {error.shape[1]} levels")
        if self.resource[0] < 1 or (np.diff(self.resource) <= 0).any() or (self.resource % 1).any():
            raise UserError(f"resource: {self.resource.tolist()} must be ascending integers from 1 on")
        lost = np.isnan(error)
        if (row := _first(lost[:, :-1] & ~lost[:, 1:])) is not None:
            raise UserError(f"error: row {row} has a number after a NaN, but a trial that diverged stays so")
        object.__setattr__(self, "error", error)
        object.__setattr__(self, "resource", self.resource.astype(np.int64))
        if not self.configurations:
            object.__setattr__(self, "configurations", [{} for _ in error])
        if len(self.configurations) != len(error):
            raise UserError(f"{len(self.configurations)} configurations for {len(error)} rows of error")
        if self.seconds is not None:
            self._check_seconds(self.seconds, lost)
            object.__setattr__(self, "seconds", self.seconds.astype(np.float64))

    def __len__(self) -> int:
        return len(self.error)

    @property
    def unit(self) -> str:
        """What one unit of resource is called: "levels" where every one has been recorded."""
        return "levels" if self.dense else "units"

    @cached_property
    def dense(self) -> bool:
        """Whether the levels are 1, 2, 3, ..."""
        return bool((self.resource == np.arange(1, len(self.resource) + 1)).all())

    @cached_property
    def columns(self) -> dict[str, list[Value]]:
        """The values of each dimension that the rows have, ascending where they are numbers."""
        names = dict.fromkeys(name for configuration in self.configurations for name in configuration)
        return {name: _distinct([c[name] for c in self.configurations if name in c]) for name in names}

    @cached_property
    def final(self) -> NDArray[np.float64]:
        """The error of each row at the last level, shape (n,); one that diverged counts as the worst that did not."""
        last = self.error[:, -1]
        survived = last[np.isfinite(last)]
        return np.where(np.isfinite(last), last, survived.max() if len(survived) else np.inf)

    @property
    def optimum(self) -> float:
        """The least error at the last level."""
        return float(self.final.min())

    def level(self, resource: int) -> int:
        """Return the index of the last level that `resource` has passed, or -1 before the first."""
        return int(np.searchsorted(self.resource, resource, side="right")) - 1

    def of_rows(self, rows: NDArray[np.int64]) -> "Curves":
        """Return a table of some rows, each as often as it is named."""
        seconds = None if self.seconds is None else self.seconds[rows]
        return Curves(
            self.error[rows], self.resource, seconds, [self.configurations[row] for row in rows.tolist()], self.meta
        )

    def _check_seconds(self, seconds: NDArray[Any], lost: NDArray[np.bool_]) -> None:
        if seconds.shape != lost.shape:
            raise UserError(f"seconds: has the shape {seconds.shape}, but error has {lost.shape}")
        if (row := _first(~lost & ~np.isfinite(seconds))) is not None:
            raise UserError(f"seconds: row {row} has an error without its seconds")
        known = np.where(lost, np.inf, seconds)
        if (row := _first((known[:, :1] < 0) | (known[:, 1:] < known[:, :-1]))) is not None:
            raise UserError(f"seconds: row {row} is not cumulative: it must not descend")


def load(path: str | Path) -> Curves:
    """Read a table: `NAME.npz` with error, resource and perhaps seconds and meta, beside it `NAME.csv`.

    The CSV has one row per configuration; a first column `trial` only numbers them. Raises UserError, which names the
    file, if either is missing or is no such table.
    """
    file = expanded(path)
    arrays = _read_arrays(file, "error", "resource")
    configurations = _read_configurations(file.with_suffix(".csv"))
    try:
        meta = _meta(str(arrays["meta"])) if "meta" in arrays else {}
        error, seconds = (_as_written(arrays[name]) if name in arrays else None for name in ("error", "seconds"))
        assert error is not None
        return Curves(error, arrays["resource"], seconds, configurations, meta)
    except (UserError, ValueError) as error:
        raise UserError(f"{file}: {error}") from error


def save(curves: Curves, path: str | Path) -> None:
    """Write a table as `load` reads it: the .npz at `path`, the CSV beside it."""
    file = expanded(path)
    file = file if file.suffix == ".npz" else file.with_name(f"{file.name}.npz")
    arrays: dict[str, Any] = {"error": _single(curves.error), "resource": curves.resource}
    if curves.seconds is not None:
        arrays["seconds"] = _single(curves.seconds)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays, meta=np.array(json.dumps(dict(curves.meta))))
    rows = (
        {name: _text(value) for name, value in each.items()} | {"trial": i}
        for i, each in enumerate(curves.configurations)
    )
    file.with_suffix(".csv").write_text(table(("trial", *curves.columns), rows), encoding="utf-8", newline="")


def _single(array: NDArray[Any]) -> NDArray[Any]:
    """Return numbers in single precision, where it has room for all of them."""
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    fits = np.array_equal(np.isinf(single), np.isinf(array)) and np.array_equal(single == 0, array == 0)
    return single if fits else array


def first_level(path: str) -> int:
    """Return the resource of a table's first level."""
    return int(_resource(path)[0])


def last_level(path: str, times: int = 1) -> int:
    """Return the resource of a table's last level: what `times` full trainings spend."""
    return times * int(_resource(path)[-1])


def row_of(configuration: Configuration) -> int:
    """Return the row that a configuration names."""
    row = configuration.get(ROW)
    if not isinstance(row, int):
        raise UserError(
            f"the configuration {configuration} names no row of a table; executor=simulated needs space=table"
        )
    return row


def _resource(path: str) -> NDArray[Any]:
    resource = _read_arrays(expanded(path), "resource", only=("resource",))["resource"].ravel()
    if not (len(resource) and np.issubdtype(resource.dtype, np.number)):
        raise UserError(f"{path}: resource holds no levels")
    return resource


def _read_arrays(file: Path, *needed: str, only: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if only is None or name in only}
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such file; give the .npz of a table of recorded curves") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        why = "" if isinstance(error, ValueError) else f": {error}"  # which may advise to unpickle it
        raise UserError(f"{file}: is no .npz of arrays, or damaged{why}") from error
    if missing := [name for name in needed if name not in arrays]:
        raise UserError(
            f"{file}: has no array {' and no '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'none'}"
        )
    return arrays


def _meta(text: str) -> dict[str, Any]:
    try:
        meta = json.loads(text)
    except ValueError as error:
        raise UserError(f"meta: is no JSON: {error}") from error
    if not isinstance(meta, dict):
        raise UserError(f"meta: must be a JSON object, and is {text[:40]}")
    return cast(dict[str, Any], meta)


def _as_written(array: NDArray[Any]) -> NDArray[Any]:
    """Return single precision as the decimals that it was written from: 0.3446, not 0.34460002183914185."""
    return array.astype(str).astype(np.float64) if array.dtype == np.float32 else array


def _read_configurations(file: Path) -> list[Configuration]:
    try:
        rows = list(read(file.read_bytes().decode("utf-8-sig")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: a table needs its configurations there, one row each: {error}") from error
    if not rows:
        raise UserError(f"{file}: is empty; its first row names the columns")
    names, numbered = rows[0], rows[0][:1] == ["trial"]
    if len(names) == 1 and any(separator in names[0] for separator in ";\t"):
        raise UserError(f"{file}: its cells are parted by {';' if ';' in names[0] else 'tabs'}; commas must part them")
    if ROW in names or len(set(names)) < len(names):
        raise UserError(f"{file}: its columns {', '.join(names)} must be different, and none may be {ROW!r}")
    if (bad := next((i for i, row in enumerate(rows) if len(row) != len(names)), None)) is not None:
        raise UserError(f"{file}: line {bad + 1} has {len(rows[bad])} cells, but there are {len(names)} columns")
    cells = ([*zip(names, row, strict=True)][numbered:] for row in rows[1:])
    return [{name: _value(cell) for name, cell in row if cell != ""} for row in cells]


def _value(cell: str) -> Value:
    if cell in _WORDS:
        return _WORDS[cell]
    if "_" in cell:  # which Python takes for a part of a number
        return cell
    for kind in (int, float):
        try:
            value = kind(cell)
        except ValueError:
            continue
        return value if math.isfinite(value) else cell
    return cell


def _text(value: Value) -> str:
    return next((word for word, meant in _WORDS.items() if meant is value), str(value))


def _distinct(values: Sequence[Value]) -> list[Value]:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return sorted(dict.fromkeys(values), key=lambda value: cast(float, value))
    return list({repr(value): value for value in values}.values())


def _first(wrong: NDArray[np.bool_]) -> int | None:
    rows = np.flatnonzero(wrong.any(axis=1))
    return int(rows[0]) if len(rows) else None
