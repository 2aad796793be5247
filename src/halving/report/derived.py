"""The files that are derived from the journal: results.csv, curves.csv, summary.json and report.html."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from halving.history import History
from halving.report.tables import CURVES, RESULTS, curve_rows, header_of, override_text, results_rows, summary


def results_csv(history: History) -> str:
    """Return `results_rows` as CSV, one column per dimension. What a trial lacks, or what failed, is empty.

    A configuration's values are written as an override would be: true, false, null.
    """
    dimensions = header_of(history).dimensions
    rows = (
        {name: override_text(value) if name in dimensions else value for name, value in row.items()}
        for row in results_rows(history)
    )
    return csv_text((*RESULTS, *dimensions), rows)


def curves_csv(history: History) -> str:
    """Return `curve_rows` as CSV; a metric that is missing or not finite is empty."""
    return csv_text(CURVES, curve_rows(history))


def summary_json(history: History) -> str:
    """Return `summary` as strict JSON."""
    return json.dumps(summary(history), indent=2, allow_nan=False) + "\n"


TABLES: dict[str, Callable[[History], str]] = {
    "results.csv": results_csv,
    "curves.csv": curves_csv,
    "summary.json": summary_json,
}


def write_all(history: History, run_dir: Path) -> None:
    """Write the tables and the report into `run_dir`, each replaced in one step."""
    from halving.report.html import report_html  # it loads matplotlib, which the tables do not need

    for name, text in (TABLES | {"report.html": report_html}).items():
        replace(run_dir / name, text(history))


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
