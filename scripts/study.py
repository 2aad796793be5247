"""Work on the run directory of a study: `python scripts/study.py explain <run dir> --trial 7`, see `--help`."""

import argparse
import sys
from pathlib import Path

from halving import UserError, load
from halving.report.explanation import explanation
from halving.report.tables import write_all


def rebuild(arguments: argparse.Namespace) -> None:
    """Write results.csv, curves.csv, summary.json and report.html anew from the journal."""
    write_all(load(arguments.run_dir).history, arguments.run_dir)
    print(f"rebuilt from {arguments.run_dir / 'journal.jsonl'}")


def picture(arguments: argparse.Namespace) -> None:
    """Draw the rungs and the learning curves into one PNG file."""
    from halving.report.figures import figure_png

    figure_png(load(arguments.run_dir).history, arguments.file)
    print(arguments.file)


def explain(arguments: argparse.Namespace) -> None:
    """Say in words why a trial was promoted, paused or stopped, at each rung."""
    for line in explanation(load(arguments.run_dir).history, arguments.trial):
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for command in (explain, rebuild, picture):
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
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
