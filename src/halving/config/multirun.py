"""The table of all jobs that a multirun ends with, read from their directories: any launcher will do."""

import csv
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from halving.config.secrets import Secrets

_FAILURE = "failure.txt"
_COLUMNS: tuple[str, ...] = ("job", "overrides", "error", "epochs", "seconds", "state")
_sweeps: list[Path] = []


class RememberSweep(Callback):
    """Notes where a multirun puts its jobs: Hydra does not call back at the end when a job has failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _sweeps.append(Path(config.hydra.sweep.dir).absolute())


def note_failure(message: str) -> None:
    """Leave the reason of a job's failure in its directory."""
    directory = Path(HydraConfig.get().runtime.output_dir)
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / _FAILURE).write_text(message + "\n", encoding="utf-8")


def forget_failure() -> None:
    """Remove the reason of an earlier failure, as the job runs again."""
    (Path(HydraConfig.get().runtime.output_dir) / _FAILURE).unlink(missing_ok=True)


def print_table() -> None:
    """Print the jobs of the multirun that has just ended, if there was one, and write them to jobs.csv beside them."""
    for sweep in _sweeps:
        Secrets.of({}, sys.argv[1:]).redact_files(sweep)
        rows = [_row(directory) for directory in sorted(_jobs(sweep), key=lambda path: int(path.name))]
        if not rows:
            continue
        with (sweep / "jobs.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        _print(rows, sweep)
    _sweeps.clear()


def _jobs(sweep: Path) -> list[Path]:
    return [path for path in sweep.glob("*") if path.is_dir() and path.name.isdigit()]


def _row(directory: Path) -> dict[str, Any]:
    overrides = directory / ".hydra" / "overrides.yaml"
    lines = overrides.read_text(encoding="utf-8").splitlines() if overrides.is_file() else []
    row = {"job": directory.name, "overrides": " ".join(line.removeprefix("- ") for line in lines)}
    failure = directory / _FAILURE
    state = failure.read_text(encoding="utf-8").strip() if failure.is_file() else "did not finish"
    summary = directory / "summary.json"
    if not summary.is_file():
        return row | {"error": None, "epochs": None, "seconds": None, "state": f"failed: {state}"}
    found = json.loads(summary.read_text(encoding="utf-8"))
    return row | {
        "error": found["best_error"],
        "epochs": found["resource_spent"],
        "seconds": round(found["wall_seconds"], 1),
        "state": f"failed: {state}" if failure.is_file() else "finished",
    }


def _print(rows: list[dict[str, Any]], sweep: Path) -> None:
    common = set.intersection(*(set(row["overrides"].split()) for row in rows)) if len(rows) > 1 else set[str]()
    from rich.console import Console
    from rich.table import Table

    table = Table("job", "overrides", box=None, pad_edge=False, header_style="bold", title_justify="left")
    for name in ("error", "epochs", "seconds"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for row in rows:
        error = "" if row["error"] is None else f"{row['error']:.4f}"
        epochs = "" if row["epochs"] is None else f"{row['epochs']:g}"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.1f}"
        own = " ".join(word for word in row["overrides"].split() if word not in common)
        table.add_row(row["job"], own, error, epochs, seconds, row["state"])
    console = Console()
    console.print()
    if common:
        console.print(f"all jobs: {' '.join(sorted(common))}", highlight=False)
    console.print(table)
    console.print(f"\n{sweep / 'jobs.csv'}", soft_wrap=True, highlight=False)
