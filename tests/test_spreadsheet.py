"""The tables that people open in spreadsheets: whatever a study holds is text or a number there, never a formula."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from halving import curves
from halving.history import Event, Header, History
from halving.report.derived import curves_csv, results_csv
from halving.spreadsheet import read, table
from halving.tracking.csv import Csv
from halving.trial import Epoch, Finished, Outcome, Start, Verdict

FORMULAS = ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "-1_0", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "-inf", "\uff1d1")
PLAIN = ("relu", "'tis", "a=b", "-0.5", "+1e-3", "-.5", "-7", "", "two\nlines", 'a "quoted", one')


def parsed(text: str) -> list[list[str]]:
    """As any other program reads it."""
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("text", [*FORMULAS, *(f"'{text}" for text in FORMULAS), *PLAIN])
def test_no_cell_is_a_formula_and_reading_gives_it_back(text: str) -> None:
    written = table(["=name", "x"], [{"=name": text, "x": -0.25}])
    head, (cell, number) = parsed(written)
    assert (head, number) == (["'=name", "x"], "-0.25")
    assert cell == (text if text in PLAIN else f"'{text}")
    assert list(read(written)) == [["=name", "x"], [text, "-0.25"]]


EVENTS: list[Event] = [
    Header("=n", "fifo", "random", 0, 2, dimensions=("=name", "@x")),
    Start(0, {"=name": "=cmd|' /C calc'!A0", "@x": -2}, 1),
    Epoch(0, 1, {"val_error": -0.5, "=metric": -1.0}),
    Finished(Outcome(0, 1, -0.5), cause="=cause"),
    Verdict(0, "completed", "=reason"),
]


def test_no_table_holds_a_formula_whatever_names_and_values_a_study_has(tmp_path: Path) -> None:
    history = History()
    for event in EVENTS:
        history.apply(event, 0.0)
    configurations = [history.trials[0].configuration]
    curves.save(curves.Curves(np.array([[0.5]]), np.array([1]), configurations=configurations), tmp_path / "own.npz")
    for text in (results_csv(history), curves_csv(history), (tmp_path / "own.csv").read_text()):
        cells = [cell for row in parsed(text) for cell in row]
        assert any(cell.startswith("'=") for cell in cells) and not any(cell[:1] in ("=", "@") for cell in cells)
        assert {"-0.5", "-2"} & set(cells)
    assert list(curves.load(tmp_path / "own.npz").configurations) == configurations


def test_the_csv_tracker_goes_on_with_columns_that_it_escaped(tmp_path: Path) -> None:
    header = Header("n", "fifo", "random", 0, 2, settings={"run_dir": str(tmp_path)})
    for events in (EVENTS[1:3], [*EVENTS[1:3], Epoch(0, 2, {"val_error": -0.25, "=metric": -2.0})]):
        history, tracker = History(), Csv()
        for event in (header, *events):
            history.apply(event, 0.0)
            tracker.record(event, history)
        tracker.close(history)
    assert parsed((tmp_path / "metrics.csv").read_text()) == [
        ["elapsed", "trial", "resource", "epoch", "val_error", "'=metric"],
        ["0.0", "0", "1", "1", "-0.5", "-1.0"],
        ["0.0", "0", "1", "2", "-0.25", "-2.0"],
    ]
