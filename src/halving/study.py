"""A study to read: its trials, curves and best model."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from halving.checkpoints import inside
from halving.checkpoints.store import State, Store
from halving.environment import expanded
from halving.errors import UserError
from halving.history import History, Trial
from halving.journal import read, replay
from halving.journal.lock import owner
from halving.report.confirmation import Review, checkpoint, reviewed
from halving.report.summary import summary
from halving.report.tables import RESULTS, first_failure, header_of, results_rows, winner
from halving.targets import check_trusted, instantiate, trusted_in_environment
from halving.training.own import hashed
from halving.trial import AVERAGED

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Study:
    """A study as its journal tells it."""

    history: History
    run_dir: Path | None = None

    def __repr__(self) -> str:
        return f"Study({self.history!r}{'' if self.run_dir is None else f', {str(self.run_dir)!r}'})"

    @property
    def trials(self) -> list[Trial]:
        """Every trial with its configuration, state and evaluations, by id."""
        return [self.history.trials[trial] for trial in sorted(self.history.trials)]

    @property
    def best(self) -> Trial:
        """The winner: what confirmations chose, else the best at the highest resource that any trial reached.

        Raises UserError if none survived.
        """
        if (best := winner(self.history)) is None:
            raise UserError(f"no trial of this study survived, so it has no best one; {first_failure(self.history)}")
        return best[0]

    @property
    def curves(self) -> dict[int, list[dict[str, float]]]:
        """Every trial's learning curve: for each epoch its metrics, with `resource` and `epoch`."""
        return {
            trial.trial: [
                {"resource": evaluation.until, "epoch": epoch.epoch, **epoch.metrics}
                for evaluation, epoch in trial.epochs
            ]
            for trial in self.trials
        }

    @property
    def confirmed(self) -> Review | None:
        """What the best trials came to with fresh seeds, the best mean first; None where nobody asked."""
        return reviewed(self.history)

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return summary(self.history)

    def to_frame(self, table: Literal["evaluations", "curves"] = "evaluations") -> Any:
        """Return a pandas DataFrame: a row per evaluation, as in results.csv, or per epoch, as in `curves`.

        Raises UserError for another table, and where pandas is not installed.
        """
        if table not in ("evaluations", "curves"):
            raise UserError(f"to_frame: there is no table {table!r}; give evaluations or curves")
        try:
            from pandas import DataFrame  # pyright: ignore
        except ImportError as error:
            raise UserError("to_frame: needs pandas, which is not installed: pip install pandas") from error
        if table == "curves":
            return DataFrame([{"trial": trial} | row for trial, rows in self.curves.items() for row in rows])
        rows = results_rows(self.history)
        return DataFrame(rows, columns=[*RESULTS, *(self.history.header.dimensions if self.history.header else ())])

    def best_model(self, trusted: Iterable[str] = ()) -> "nn.Module":
        """Return the winner's model with its trained weights, on the CPU and ready to evaluate.

        They are the averaged ones where these are optimised, as by metric=averaged_val_error, else the last ones.

        A journal says what is built: of packages beyond our own, only `trusted` ones, and those that the environment
        variable HALVING_TRUSTED_PACKAGES names, are imported for that.

        Raises UserError if the study trained no model, has not ended, or the checkpoint is missing or damaged, and
        for a model from a package that is not trusted.
        """
        from halving.training.recipe import config_hash

        ended = self.history.ended
        if ended is None or "model" not in ended.config:
            raise UserError(
                "this study has no best model: it trained none, or has not ended; of a training of one's own, "
                "best_state() has what it kept, and best_directory its files"
            )
        values = self._best(config_hash(ended.config)).values
        if "model" not in values:
            raise UserError(
                "this study's training is its user's own: best_state() and best_directory have what it kept"
            )
        check_trusted(ended.config["model"], (*trusted, *trusted_in_environment()), "model")
        model: nn.Module = instantiate(ended.config["model"], "model", **values.get("arguments", {}))
        averaged = header_of(self.history).metric.startswith(AVERAGED) and "averaged" in values
        model.load_state_dict(values["averaged"]["model"] if averaged else values["model"])
        return model.eval()

    def best_state(self) -> dict[str, Any]:
        """Return what the winner gave to `trial.keep`, by name: state dicts, their tensors on the CPU.

        Raises UserError if it kept nothing, or its checkpoint is missing or damaged.
        """
        return dict(self._best(self._hashed()).values.get("kept", {}))

    @property
    def best_directory(self) -> Path:
        """The files that the winner left in `trial.directory`. Raises UserError if there are none, or damaged ones."""
        state = self._best(self._hashed())
        if state.files is None:
            raise UserError("the winner left no files in trial.directory; best_state() has what it kept")
        return state.files

    def _best(self, config: str) -> State:
        """Return what the winner came to: with a fresh seed, if it was trained in full with those alone."""
        directory, best = self.run_dir, self.best.trial
        trial, name = checkpoint(self.history, best, directory) if directory is not None else (best, None)
        if directory is None or name is None:
            raise UserError("this study has no checkpoint of its winner: it kept none, or has no run_dir")
        return Store(directory).load(trial, int(inside(directory, name).stem), config if trial == best else None)

    def _hashed(self) -> str:
        from halving.training.recipe import config_hash

        header, ended = self.history.header, self.history.ended
        assert header is not None
        if ended is not None and "fidelity" in ended.config:
            return config_hash(ended.config)
        return hashed(header.seed, self.best.trial, self.best.configuration)


def load(run_dir: str | Path) -> Study:
    """Read a study, finished or still running. Raises UserError if there is none or its journal is damaged."""
    directory = expanded(run_dir).absolute()
    history = replay(read(directory))
    return Study(history if owner(directory) else history.closed(), directory)
