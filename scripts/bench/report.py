"""Time the page of a large study, and weigh it.

python scripts/bench/report.py
"""

import argparse
import sys
import time

import numpy as np

from halving.history import Ended, Header, History
from halving.report.html import report_html
from halving.trial import Configuration, Epoch, Finished, Outcome, Resume, Start, Verdict

MOST_SECONDS, MOST_BYTES = 5.0, 2_000_000
DIMENSIONS = ("optimizer", "optimizer.lr", "optimizer.momentum", "model.width", "data.batch_size", "lr_schedule")


def study(trials: int, epochs: int, workers: int = 8) -> History:
    """A third of the trials go on to three times the resource, a third of these again, up to so many epochs."""
    rng = np.random.default_rng(0)
    history, at = History(), 0.0
    config = {"executor": {"workers": workers}}
    history.apply(
        Header("large", "asha", "random", 0, epochs, metric="val_error", full_cost=epochs, dimensions=DIMENSIONS,
               settings={"config": config}), 0.0,
    )  # fmt: skip
    for trial in range(trials):
        lr = float(10 ** rng.uniform(-4, 0))
        configuration: Configuration = {"optimizer": "sgd" if trial % 2 else "adamw", "optimizer.lr": lr}
        configuration |= {"optimizer.momentum": float(rng.random())} if trial % 2 else {}
        configuration |= {"model.width": 2 ** int(rng.integers(4, 10)), "data.batch_size": int(rng.integers(32, 256))}
        configuration["lr_schedule"] = ("constant", "cosine", "step")[trial % 3]
        since, until, floor = 0, max(1, epochs // 27), 0.1 + 0.03 * (np.log10(lr) + 2) ** 2
        history.apply(Start(trial, configuration, until), at)
        while True:
            errors = floor + 0.6 / np.sqrt(1 + np.arange(since, until)) + 0.01 * rng.standard_normal(until - since)
            for epoch, error in enumerate(errors, start=since + 1):
                at += 1 / workers
                metrics = {"val_error": float(error), "val_loss": 2 * float(error), "train_loss": 1.0, "lr": lr}
                history.apply(Epoch(trial, epoch, metrics), at)
            spent = until - since
            history.apply(Finished(Outcome(trial, until, float(errors[-1])), float(spent), None, "", spent), at)
            if until == epochs or rng.random() > 1 / 3:
                break
            since, until = until, min(3 * until, epochs)
            history.apply(Resume(trial, since, until, 1, "error among the best third of its rung"), at)
        state = "completed" if until == epochs else "stopped"
        history.apply(Verdict(trial, state, f"error {errors[-1]:.4f} is not among the best third of its rung"), at)
    best = history.incumbent
    history.apply(Ended(best[0].trial if best else None, {"val_samples": 10_000.0}, "python train.py trial=1"), at)
    return history


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=81)
    arguments = parser.parse_args()
    history, problems = study(arguments.trials, arguments.epochs), list[str]()
    began = time.perf_counter()
    page = report_html(history, problems)
    seconds, size = time.perf_counter() - began, len(page.encode())
    print(f"{arguments.trials} trials, {len(history.finished)} evaluations: {seconds:.1f} s, {size / 1e6:.2f} MB")
    print("\n".join(problems), end="")
    return 1 if problems or seconds > MOST_SECONDS or size > MOST_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
