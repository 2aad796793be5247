"""What an earlier study is worth: Fashion-MNIST with and without the best configuration found on digits.

python scripts/bench/warm_start.py --seeds 5

For each seed, successive halving searches the book's space of a multilayer perceptron on digits. Then random search
gets 9 full trainings on 2,000 images of Fashion-MNIST, as it is and with `searcher.initial` naming that study.
The configuration as it stands comes first in both, the earlier study's best second where it is another; from then on
both draw the same. The table shows the validation error of the best of so many trials. Its last row is the mean
difference, negative where the earlier study helped, with its 95 % t interval over seeds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import halving
from halving.report.confirmation import half_width

TRAIN = Path(__file__).resolve().parents[2] / "train.py"
SPACE = ("model=mlp", "space=mlp", "tracker=none", "executor.threads=1", "eta=3", "r_max=9")
EARLIER = ("data=digits", "scheduler=sha", "scheduler.n=27")
LATER = ("data=fashion_mnist", "data.train_samples=2000", "scheduler=fifo")


def errors(run_dir: Path, seed: int, overrides: Sequence[str]) -> list[float]:
    """Run a study; return its trials' last errors in order, infinite where one failed."""
    command = [sys.executable, str(TRAIN), *SPACE, *overrides, f"seed={seed}", f"hydra.run.dir={run_dir}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return [trial.evaluations[-1].error for trial in halving.load(run_dir).trials]


def pair(seed: int, trials: int) -> tuple[list[float], list[float]]:
    """Return the errors on Fashion-MNIST without and with the earlier study."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        errors(root / "digits", seed, EARLIER)
        later = (*LATER, f"budget.evaluations={trials}")
        cold = errors(root / "cold", seed, later)
        return cold, errors(root / "warm", seed, (*later, f"searcher.initial=[{root / 'digits'}]"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, nargs="+", default=[1, 2, 3, 9])
    arguments = parser.parse_args()
    print(f"| seed | {' | '.join(f'{k} without, with' for k in arguments.trials)} |")
    print(f"|---|{'---|' * len(arguments.trials)}")
    differences: list[list[float]] = []
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        cold, warm = pair(seed, max(arguments.trials))
        best = [(min(cold[:k]), min(warm[:k])) for k in arguments.trials]
        print(f"| {seed} | {' | '.join(f'{c:.4f}, {w:.4f}' for c, w in best)} |", flush=True)
        differences.append([w - c for c, w in best])
    columns = list(zip(*differences, strict=True))
    print(f"| with - without | {' | '.join(map(difference, columns))} |")


def difference(column: Sequence[float]) -> str:
    return f"{statistics.mean(column):+.4f} ± {half_width([*column]):.4f}"


if __name__ == "__main__":
    main()
