"""A CSV file that grows by one row per epoch, for `tail -f` and spreadsheets during a run."""

import csv
from pathlib import Path
from typing import TextIO

from halving.history import Event, Header, History
from halving.trial import Epoch


class Csv:
    """Writes `metrics.csv` in the run directory: elapsed, trial, resource, epoch and the metrics.

    `elapsed` is in seconds since the study began, `resource` what the running assignment ends at. The first epoch
    fixes the columns of the metrics: later ones that it lacks are left out. A resumed study appends.
    """

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._columns: list[str] = []

    def record(self, event: Event, history: History) -> None:
        if not isinstance(event, Epoch) or history.header is None:
            return
        if self._file is None:
            self._file = self._open(event, history.header)
        evaluation = history.trials[event.trial].last
        row = {
            **event.metrics,
            "elapsed": round(history.seconds, 3),
            "trial": event.trial,
            "resource": evaluation.until,
            "epoch": event.epoch,
        }
        csv.writer(self._file, lineterminator="\n").writerow([row.get(column, "") for column in self._columns])

    def close(self, history: History) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, event: Epoch, header: Header) -> TextIO:
        path = Path(header.settings["run_dir"]) / "metrics.csv"
        written = path.read_text() if path.exists() else ""
        if "\n" in written:
            self._columns = written.partition("\n")[0].split(",")
            file = path.open("a", buffering=1, newline="")
            if not written.endswith("\n"):
                # A kill tore the last row: the next one must not continue it.
                file.write("\n")
            return file
        self._columns = ["elapsed", "trial", "resource", "epoch", *event.metrics]
        file = path.open("w", buffering=1, newline="")
        csv.writer(file, lineterminator="\n").writerow(self._columns)
        return file
