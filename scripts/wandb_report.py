"""Build a W&B report of a study, or of several compared: `python scripts/wandb_report.py <run or multirun directory>`.

Without --publish nothing leaves this machine: wandb_report.json and a preview, wandb_report.html, say what would.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from halving import UserError, load
from halving.comparison import labelled
from halving.environment import expanded
from halving.history import History
from halving.journal.run_directories import run_directories
from halving.report.derived import rebuilding
from halving.report.derived import replace as write_text
from halving.report.drawing import drawing
from halving.report.tables import header_of
from halving.report.wandb_preview import empty, preview, with_figure
from halving.report.wandb_report import Report, of_studies, of_study
from halving.tracking.runs import Mirrored, project_name, study_id
from halving.tracking.terminal import one_line, printable
from halving.tracking.wandb_reports import mirrored, publish

SPECIFICATION, PREVIEW = "wandb_report.json", "wandb_report.html"


def build(paths: Sequence[Path], out: Path) -> tuple[Report, list[Mirrored], list[str]]:
    """Return the report, the runs that it rests on, and a line on each study whose runs are not as they should be."""
    histories = {directory: load(directory).history for directory in run_directories(paths)}
    found = {directory: mirrored(directory) for directory in histories}
    problems = [line for directory, runs in found.items() for line in doubts(directory, runs)]
    runs = [run for each in found.values() for run in each]
    names = {directory: named(directory, history, found[directory]) for directory, history in histories.items()}
    options = header_of(next(iter(histories.values()))).provenance.config.get("tracker", {})
    project = next((run.project for run in runs), "") or project_name(str(options.get("project") or "halving"))
    entity = next((run.entity for run in runs if run.entity), options.get("entity") or "")
    if len(histories) == 1:
        ((directory, history),) = histories.items()
        return of_study(history, directory, names[directory], project, entity), runs, problems
    if not any(history.incumbents for history in histories.values()):
        raise UserError("no study has a surviving trial: there is nothing to compare")
    figure, _ = drawing("comparison").comparison_figure(labelled(histories), out)
    report = of_studies(histories, names, project, entity, str(figure))
    return report, with_figure(report, runs), problems


def named(directory: Path, history: History, runs: Sequence[Mirrored]) -> str:
    """Return what a study is called in its runs; without any, what it would be called."""
    header = replace(header_of(history), settings={**header_of(history).settings, "run_dir": str(directory.resolve())})
    return next((run.config["study"] for run in runs if "study" in run.config), study_id(header))


def doubts(directory: Path, runs: Sequence[Mirrored]) -> list[str]:
    """Say why W&B would not have a study's runs, or not all of them."""
    anew = f"make them anew by: {rebuilding(directory)}"
    if not runs:
        return [f"{directory} has no W&B runs: it needs tracker=wandb; where it had that, {anew}"]
    if any("study" not in run.config for run in runs):
        return [f"{directory}: its W&B runs are of an earlier version, which a report cannot use; {anew}"]
    if not all(path.is_file() for run in runs for path in run.staged):
        return [
            f"{directory}: the winner's files and tables are not where its W&B runs say, as if it had moved; {anew}"
        ]
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=expanded, nargs="+", help="run directories, or directories above them")
    parser.add_argument("--out", type=expanded, help="where the files go (default: the directory; of several, here)")
    parser.add_argument("--publish", action="store_true", help="save the report and a view in W&B, or update them")
    with one_line():
        arguments = parser.parse_args()
        out = arguments.out or (arguments.paths[0] if len(arguments.paths) == 1 else Path())
        try:
            if arguments.out is not None:
                out.mkdir(parents=True, exist_ok=True)
            specification = out / SPECIFICATION
            known = published(specification)
            report, runs, problems = build(arguments.paths, out)
            problems += empty(report, runs)
            write(specification, report, known)
            write_text(out / PREVIEW, preview(report, runs, problems))
        except OSError as error:
            raise UserError(f"cannot write into {out} ({error}); name another directory by --out") from error
        for line in problems:
            print(printable(f"note: {line}"), file=sys.stderr)
        print(specification)
        print(out / PREVIEW)
        if arguments.publish:
            known = publish(report.plain, known)
            write(specification, report, known)
            print(f"report: {known['url']}\nview: {known['view_url']}")


def published(specification: Path) -> dict[str, str]:
    """Return what an earlier call has published, so that the next one updates it.

    Raises UserError for what is no file.
    """
    if specification.is_symlink() or (specification.exists() and not specification.is_file()):
        raise UserError(f"{specification} is no file; nothing was done: remove it")
    try:
        return dict(json.loads(specification.read_text("utf-8")).get("published", {}))
    except (FileNotFoundError, ValueError, AttributeError):
        return {}


def write(specification: Path, report: Report, known: Mapping[str, str]) -> None:
    text = json.dumps({**report.plain, "published": dict(known)}, indent=2, ensure_ascii=False)
    write_text(specification, text + "\n")


if __name__ == "__main__":
    main()
