"""What the study's run shows in an experiment tracker at the end: its figures, its page and the winner's files."""

from pathlib import Path

from halving.checkpoints import inside
from halving.errors import UserError
from halving.history import History, Trial
from halving.report.confirmation import checkpoint
from halving.report.drawing import drawing
from halving.report.summary import summary
from halving.report.tables import shown_error, winner
from halving.tracking.wandb_runs import Exhibit


def exhibit(history: History, directory: Path, run_dir: Path) -> Exhibit:
    """Draw the figures into a directory, and name what of the run directory goes with them, as far as it is there."""
    best, page = winner(history), run_dir / "report.html"
    if best is None or history.header is None:
        return Exhibit()
    trial, evaluation = best
    told = summary(history)
    kept = {name: told[name] for name in ("best_configuration", "best_resource", "confirmed") if name in told}
    return Exhibit(
        pictures=drawing("figures").pictures(history, directory),
        pages=(page,) if _is_file(page) else (),
        summary={"winner": trial.trial, **kept},  # best_trial is the incumbent's, of the curve
        files=_files(history, trial, run_dir),
        winner={
            "trial": trial.trial,
            "error": shown_error(history.header, evaluation),
            "resource": evaluation.resource,
            "configuration": dict(trial.configuration),
        },
    )


def _files(history: History, trial: Trial, run_dir: Path) -> dict[str, Path]:
    """Return best.yaml and the weights, or whatever files the winner left, by their names in the artifact."""
    best, files = run_dir / "best.yaml", dict[str, Path]()
    if _is_file(best):
        files["best.yaml"] = best
    if (name := checkpoint(history, trial.trial, run_dir)[1]) is not None:
        try:
            path = inside(run_dir, name)
        except UserError:  # a journal from elsewhere names no file of this machine
            return files
        if _is_file(path):
            files[f"weights{path.suffix}"] = path
        elif path.is_dir():
            files |= {f"weights/{each.relative_to(path)}": each for each in path.rglob("*") if _is_file(each)}
    return files


def _is_file(path: Path) -> bool:
    """Whether it is one that may be sent away: a link could lead to what is nobody's business."""
    return path.is_file() and not path.is_symlink()
