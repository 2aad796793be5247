"""The files that are derived from the journal: results.csv, curves.csv, summary.json and report.html."""

import json
import os
import shlex
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from halving.checkpoints.links import create
from halving.errors import noted
from halving.history import History
from halving.report.summary import summary
from halving.report.tables import CURVES, RESULTS, curve_rows, header_of, results_rows
from halving.spreadsheet import table
from halving.tracking.wording import override_text


def results_csv(history: History) -> str:
    """Return `results_rows` as CSV, one column per dimension. What a trial lacks, or what failed, is empty.

    A configuration's values are written as an override would be: true, false, null.
    """
    dimensions = header_of(history).dimensions
    rows = (
        {name: override_text(value) if name in dimensions else value for name, value in row.items()}
        for row in results_rows(history)
    )
    return table((*RESULTS, *dimensions), rows)


def curves_csv(history: History) -> str:
    """Return `curve_rows` as CSV; a metric that is missing or not finite is empty."""
    rows = curve_rows(history)
    return table(tuple(dict.fromkeys((*CURVES, *(name for row in rows for name in row)))), rows)


def summary_json(history: History) -> str:
    """Return `summary` as strict JSON."""
    return json.dumps(summary(history), indent=2, allow_nan=False) + "\n"


TABLES: dict[str, Callable[[History], str]] = {
    "results.csv": results_csv,
    "curves.csv": curves_csv,
    "summary.json": summary_json,
}


def write_all(history: History, run_dir: Path) -> list[str]:
    """Write the tables and the report of a study that nobody runs, each replaced in one step.

    Returns a line on each that failed.
    """
    problems: list[str] = []
    over = history.closed()
    for name, text in (TABLES | {"report.html": partial(_report, problems=problems, run_dir=run_dir)}).items():
        with noted(f"{name} could not be written", problems):
            replace(run_dir / name, text(over))
    return problems


def not_written(problems: Iterable[str], run_dir: Path) -> str:
    """Return what to say of files that could not be written, and how to write them later."""
    return "; ".join((*problems, f"the journal is whole; write them later by: {rebuilding(run_dir)}"))


def rebuilding(run_dir: Path) -> str:
    """Return the command that makes all that follows from a journal anew, wherever it is typed."""
    return shlex.join(["python", "-m", "halving", "study", "rebuild", str(run_dir)])


def _report(history: History, problems: list[str], run_dir: Path) -> str:
    from halving.report.html import report_html  # it loads jinja2, which the tables do not need

    return report_html(history, problems, run_dir)


def replace(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part. A link is replaced, not followed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(create(temporary), "wb") as file:
            # What a path or a message holds that is no text becomes an escape.
            file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # of the other nobody knows
    finally:
        temporary.unlink(missing_ok=True)
