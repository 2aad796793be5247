"""What a snapshot costs beside the training that it interrupts, as a kept state and as files, by its size.

python scripts/bench/snapshot.py --megabytes 1 100 1000 --repeats 5

A training of one's own keeps so many bytes, in trial.keep or in two files below trial.directory, and trains an epoch of
`--epoch` seconds. Epochs that leave a checkpoint and epochs that leave none take turns. `ratio` is an epoch with its
snapshot over one without; `save` is the snapshot alone, and `load` what taking it up again costs; `every` is after how
many such epochs a checkpoint is left by default, as a snapshot may cost a tenth of what it saves from being lost.
Where the file system shares blocks between files, files cost no second copy: `--dir` puts them on the disk that counts.
No limit is set: by the default, snapshots never take more than a tenth of the training between them.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from halving.checkpoints import discard
from halving.checkpoints.store import State, Store
from halving.environment import expanded
from halving.training.own import Own, Running

WORTH = 10  # a snapshot is worth a tenth of the training that it saves


@dataclass(frozen=True)
class Work:
    """Trains for some seconds, and changes all of a state of so many bytes."""

    size: int
    seconds: float
    files: bool

    def __call__(self, trial: Running) -> Iterator[float]:
        half = torch.zeros(max(1, self.size // 8))
        model = torch.nn.ParameterDict({"one": half, "other": half.clone()})
        if not self.files:
            trial.keep(model=model)
        while True:
            began = time.perf_counter()
            with torch.no_grad():
                for part in model.values():
                    part.add_(1.0)
            while time.perf_counter() - began < self.seconds:
                torch.mm(torch.ones(64, 64), torch.ones(64, 64))
            if self.files:
                for name, part in model.items():
                    part.detach().numpy().tofile(trial.directory / name)
            yield 0.0


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measured(work: Work, root: Path, repeats: int) -> tuple[float, float, float, float]:
    """Return the medians of ratio, seconds to save, seconds to load, and seconds of an epoch."""
    store = Store(root)
    training = Own(work, Running(0, {}, 0, _work=partial(store.working, 0)), "error")
    training.aim(2 * repeats + 1)
    rows: list[tuple[float, float, float, float]] = []
    try:
        training.epoch(1)
        for repeat in range(repeats):
            epoch = 2 * repeat + 2
            plain = seconds(partial(training.epoch, epoch))
            train = seconds(partial(training.epoch, epoch + 1))
            save = seconds(partial(saved, training, store, epoch + 1))
            load = seconds(partial(loaded, work, store, epoch + 1))
            store.supersede(0, 0, epoch + 1)
            rows.append(((train + save) / plain, save, load, plain))
    finally:
        training.close()
        discard(root, 0)
    ratio, save, load, plain = (statistics.median(column) for column in zip(*rows, strict=True))
    return ratio, save, load, plain


def saved(training: Own, store: Store, epoch: int) -> None:
    state = training.state()
    assert state is not None
    store.save(0, epoch, "bench", State({**state.values, "epochs": []}, state.files))


def loaded(work: Work, store: Store, epoch: int) -> None:
    training = Own(work, Running(0, {}, 0, _work=partial(store.working, 0)), "error")
    try:
        training.restore(store.load(0, epoch, "bench"))
    finally:
        training.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--megabytes", type=float, nargs="+", default=[1, 100, 1000], help="sizes (default: 1 100 1000)"
    )
    parser.add_argument("--epoch", type=float, default=1.0, help="seconds that an epoch takes at least (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of epochs to time (default: 5)")
    parser.add_argument("--dir", type=expanded, help="where checkpoints go (default: a temporary directory)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'MB':>8}  {'as':6} {'epoch s':>8} {'save s':>8} {'load s':>8} {'ratio':>6} {'every':>6}")
    with tempfile.TemporaryDirectory(dir=arguments.dir) as root:
        for size in arguments.megabytes:
            for files in (False, True):
                work = Work(int(size * 1e6), arguments.epoch, files)
                ratio, save, load, plain = measured(work, Path(root), arguments.repeats)
                every = math.ceil(WORTH * save / plain)
                kind = "files" if files else "state"
                row = f"{size:8g}  {kind:6} {plain:8.3f} {save:8.3f} {load:8.3f} {ratio:6.3f} {every:6}"
                print(row, flush=True)


if __name__ == "__main__":
    main()
