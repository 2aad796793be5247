"""CSV that a spreadsheet opens as numbers and text, and is not commanded by."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

# What begins so is a formula to one spreadsheet or another, full-width signs among them, or moves what follows.
_SIGNS = "=+@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}-"
_COMMAND = re.compile(rf"'*(\s*[{_SIGNS}]|[\t\r\n])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def cell(value: Any) -> str:
    """Return what a cell holds: a number as it is; before text that would be a formula an apostrophe, None as nothing.

    `original` gives the text back.
    """
    text = "" if value is None else str(value)
    return f"'{text}" if _COMMAND.match(text) and not _NUMBER.fullmatch(text) else text


def original(text: str) -> str:
    """Return the text that `cell` wrote; older files, without apostrophes before formulas, give theirs."""
    return text[1:] if text.startswith("'") and _COMMAND.match(text) else text


def line(values: Iterable[Any]) -> str:
    """Return values as one line of CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(map(cell, values))  # with "\n" it would not quote what has "\r"
    return text.getvalue().removesuffix("\r\n") + "\n"


def table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV below the names of `columns`; what a row lacks is empty, what else it has is left out."""
    return line(columns) + "".join(line(row.get(name) for name in columns) for row in rows)


def read(text: str) -> Iterator[list[str]]:
    """Yield the rows of CSV, the names of the columns first, each cell as it was before it was written."""
    return ([original(each) for each in row] for row in csv.reader(io.StringIO(text, newline="")))
