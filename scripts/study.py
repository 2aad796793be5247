"""Work on the run directory of a study: `python scripts/study.py explain <run dir> --trial 7`, see `--help`."""

import argparse
import sys
from pathlib import Path

from halving import UserError, load
from halving.report.explanation import explanation
from halving.terminal import printable


def check(arguments: argparse.Namespace) -> None:
    """Say of the journal, each checkpoint and each derived file whether it is whole; exit status 1 if one is not."""
    from halving.verification import verify

    whole = True
    for finding in verify(arguments.run_dir):
        print(printable(f"{'ok   ' if finding.ok else 'WRONG'}  {finding.subject}: {finding.text}"))
        whole &= finding.ok
    if not whole:
        sys.exit(1)


def rebuild(arguments: argparse.Namespace) -> None:
    """Write results.csv, curves.csv, summary.json, report.html and the offline W&B runs anew from the journal."""
    from halving.rebuilding import rebuild

    for name in rebuild(arguments.run_dir):
        print(name)
    print(f"rebuilt from {arguments.run_dir / 'journal.jsonl'}")


def picture(arguments: argparse.Namespace) -> None:
    """Draw the rungs and the learning curves into one PNG file."""
    from halving.report.figures import figure_png

    figure_png(load(arguments.run_dir).history, arguments.file)
    print(arguments.file)


def explain(arguments: argparse.Namespace) -> None:
    """Say in words why a trial was promoted, paused or stopped, at each rung."""
    for line in explanation(load(arguments.run_dir).history, arguments.trial):
        print(printable(line))


def importance(arguments: argparse.Namespace) -> None:
    """Say which dimensions mattered for a trial's rank, by a random forest on the journal."""
    from halving.report.importance import importances

    found = importances(load(arguments.run_dir).history)
    where = f"{found.trials} trials at resource {found.resource}"
    if not found.telling:
        print(
            f"{where}: a random forest explains next to nothing of their ranks (R² {found.explained:.2f}), so that it "
            "cannot tell which dimensions mattered; it takes more trials"
        )
        return
    print(f"{where}; the forest explains {100 * found.explained:.0f} % of their ranks")
    for row in found.dimensions:
        print(printable(f"{row.share:5.2f} ± {row.deviation:.2f}  {row.dimension}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for command in (explain, importance, check, rebuild, picture):
        options = commands.add_parser(command.__name__, help=command.__doc__)
        options.add_argument("run_dir", type=Path)
        options.set_defaults(command=command)
        if command is picture:
            options.add_argument("file", type=Path)
        if command is explain:
            options.add_argument("--trial", type=int, required=True)
    arguments = parser.parse_args()
    try:
        arguments.command(arguments)
    except UserError as error:
        sys.exit(printable(f"error: {error}"))


if __name__ == "__main__":
    main()
