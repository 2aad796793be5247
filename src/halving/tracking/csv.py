"""A CSV file that grows by one row per epoch, for `tail -f` and spreadsheets during a run."""

from typing import TextIO

from halving.history import Evaluation, Event, Header, History
from halving.spreadsheet import line, read
from halving.tracking.runs import run_directory
from halving.trial import Epoch


class Csv:
    """Writes `metrics.csv` in the run directory: elapsed, trial, resource, epoch and the metrics.

    `elapsed` is in seconds since the study began, `resource` what the running assignment ends at. The first epoch
    fixes the columns of the metrics: later ones that it lacks are left out. A resumed study appends what the file
    does not hold yet; when earlier epochs came is not known any more, their `elapsed` is empty.
    """

    def __init__(self) -> None:
        self._file: TextIO | None = None
        self._columns: list[str] = []
        self._written: set[tuple[int, int, int]] = set()

    def resume(self, history: History) -> None:
        for trial in history.trials.values():
            for evaluation, epoch in trial.epochs:
                self._write(epoch, evaluation, history, "")

    def record(self, event: Event, history: History) -> None:
        if isinstance(event, Epoch):
            self._write(event, history.trials[event.trial].last, history, str(round(history.seconds, 3)))

    def close(self, history: History) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, epoch: Epoch, evaluation: Evaluation, history: History, elapsed: str) -> None:
        if history.header is None:
            return
        if self._file is None:
            self._file = self._open(epoch, history.header)
        at = (epoch.trial, evaluation.until, epoch.epoch)
        if at in self._written:
            return
        self._written.add(at)
        where = dict(zip(("trial", "resource", "epoch"), at, strict=True))
        row = {**epoch.metrics, "elapsed": elapsed, **where}
        self._file.write(line(row.get(column) for column in self._columns))

    def _open(self, epoch: Epoch, header: Header) -> TextIO:
        path = run_directory(header, "the CSV tracker") / "metrics.csv"
        file = path.open("a+", buffering=1, newline="", encoding="utf-8", errors="backslashreplace")
        file.seek(0)
        whole, newline, _ = file.read().rpartition("\n")
        # A kill may have torn the last row.
        file.truncate(len((whole + newline).encode()))
        rows = read(whole)
        self._columns = next(rows, ["elapsed", "trial", "resource", "epoch", *epoch.metrics])
        named = (dict(zip(self._columns, row, strict=False)) for row in rows)
        self._written = {(int(row["trial"]), int(row["resource"]), int(row["epoch"])) for row in named}
        if not whole:
            file.write(line(self._columns))
        return file
