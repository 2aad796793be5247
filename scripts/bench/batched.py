"""Many trials as one program against one after the other: how many times faster, and how near the limit.

python scripts/bench/batched.py
python scripts/bench/batched.py --device cuda

Of each row the ways run in turn, and the median of the pairs' ratios counts. `in two` is two processes of half as many
threads, each with half of the trials, as `executor=process executor.workers=2` trains them; the better of the two is
compared with what is wanted. `limit` is what the arithmetic of a trial's step would take at the rate that a large
matrix product reaches here, in this run; memory is what the process, or the device, takes at its peak beyond what it
had before, of all trials together and of one alone. With `--vmap` the same step is also taken by torch.func.vmap, for
comparison, of models that evaluate: it draws no mask, and batch norm counts nothing.

`book` is the book's study, two rounds of successive halving over LeNet: its own way, a DataLoader and each rung anew,
one trial after the other, is timed for one epoch with its validation and multiplied by its 116 epochs; ours is the
study that `python train.py experiment=lenet_halving` runs, from its first assignment to its last, and trains 68.
`first` is the first study of the README, with batch sizes from a list, in one process and in
two. Exits with 1 where a row is below what is wanted. Means nothing while other programs use the cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from halving.environment import expanded, wait_briefly

wait_briefly()  # as train.py does

import torch
from epoch import book_epoch, book_loader
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from halving.data import Data, fashion_mnist
from halving.training.batched.allocation import keep_memory
from halving.training.batched.program import Program
from halving.training.dropout import Dropout
from halving.training.loop import mean_loss
from halving.training.lr_schedules import Constant
from halving.training.models.lenet import LeNet
from halving.training.models.softmax import Softmax
from halving.training.recipe import Recipe
from halving.training.trainer import Trainer

SHAPE, OUTPUTS = (1, 28, 28), 10
TRAIN = Path(__file__).resolve().parents[2] / "train.py"
BOOK = ("experiment=lenet_halving", "space=learning_rate")
FIRST = ("scheduler=sha", "eta=3", "space=batched")
BOOK_EPOCHS, OUR_EPOCHS = 116, 68


class Residual(nn.Module):
    """Two convolutions with batch norm around which the images also go, at half the size where channels double."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        stride = filters // channels
        self.one = nn.Sequential(nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters))
        self.two = nn.Sequential(nn.Conv2d(filters, filters, 3, 1, 1, bias=False), nn.BatchNorm2d(filters))
        self.by = nn.Conv2d(channels, filters, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return (self.two(self.one(images).relu()) + self.by(images)).relu()


def resnet8(width: int = 16) -> nn.Module:
    """Return the smallest residual network of He et al., 2016, section 4.2, for grey images."""
    first = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    blocks = (Residual(width, width), Residual(width, 2 * width), Residual(2 * width, 4 * width))
    return nn.Sequential(first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, OUTPUTS))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), Dropout(0.5), nn.Linear(256, OUTPUTS))


@dataclass(frozen=True)
class Row:
    """So many trials of a model at a batch size, `wanted` times as fast together on a kind of device."""

    name: str
    model: Callable[[], nn.Module]
    trials: int
    batch: int
    wanted: float | None
    device: str = "cpu"

    def recipe(self, data: Data, trial: int) -> Recipe:
        sgd = partial(torch.optim.SGD, lr=0.01, fused=True)
        model = lambda **_: self.model()  # noqa: E731
        constant = partial(Constant, epochs=10)
        place = str(data.mean.device)
        return Recipe(data, model, None, sgd, constant, 10, 10, 0, trial, place, "val_error", "")


lenet = partial(LeNet, SHAPE, OUTPUTS)
ROWS = [
    Row("softmax", partial(Softmax, SHAPE, OUTPUTS), 16, 32, 8.0),
    Row("perceptron with dropout", perceptron, 16, 128, 1.6),
    *(Row("LeNet", lenet, trials, 128, 2.2) for trials in (8, 16)),
    *(Row("LeNet", lenet, trials, 32, 3.0) for trials in (8, 16)),
    Row("ResNet-8", resnet8, 8, 32, None),
    Row("LeNet", lenet, 64, 128, 15.0, "cuda"),
    Row("ResNet-8", resnet8, 16, 128, 3.0, "cuda"),
    Row("softmax", partial(Softmax, SHAPE, OUTPUTS), 64, 128, None, "cuda"),
]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def megabytes(name: str) -> float:
    """Return what Linux calls VmRSS, the memory that this process has, or VmHWM, the most of it that it had."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def product_rate(device: str) -> float:
    """Return the operations per second of a large product of float32 matrices, at their best."""
    left, right = torch.randn(2, 4096 if device == "cuda" else 2048, 4096, device=device)
    product = partial(torch.mm, left, right.t())
    product()
    return 2 * left.shape[0] ** 2 * left.shape[1] / min(seconds(product) for _ in range(5))


class Bench:
    """Times and weighs rows; each in processes of its own."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._given = given
        self._context = get_context("fork")

    def data(self, row: Row, device: str) -> Data:
        count = {"train_samples": self._given.steps * row.batch, "validation": 500}
        return fashion_mnist(data_dir=self._given.data_dir, batch_size=row.batch, device=device, **count)

    def apart(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do work in a process of its own."""
        with ProcessPoolExecutor(1, self._context) as pool:
            return pool.submit(work, *arguments).result()

    def timed(self, row: Row) -> dict[str, list[float]]:
        """Return the seconds of a trial's step, one alone and all together, of each repeat."""
        if self._given.device != "cpu" or self._given.threads < 2:
            return self._timed(row, None)
        pipes = [self._context.Pipe() for _ in range(2)]
        processes = [self._context.Process(target=self._half, args=(row, theirs)) for _, theirs in pipes]
        for process in processes:
            process.start()

        def halves(epoch: int) -> float:
            for ours, _ in pipes:
                ours.send(epoch)
            return max(ours.recv() for ours, _ in pipes) / 2

        try:
            return self._timed(row, halves)
        finally:
            for process in processes:
                process.terminate()

    def _half(self, row: Row, asked: Any) -> None:
        """Train half of the trials for the epochs that are asked for; answer with the seconds of each trial."""
        torch.set_num_threads(self._given.threads // 2)
        data = self.data(row, self._given.device)
        keep_memory()
        program = Program([Trainer(row.recipe(data, trial)) for trial in range(row.trials // 2)])
        while True:
            asked.send(program.epoch(asked.recv())[0]["seconds"])

    def _timed(self, row: Row, halves: Callable[[int], float] | None) -> dict[str, list[float]]:
        torch.set_num_threads(self._given.threads)
        data = self.data(row, self._given.device)
        one, all_ = Trainer(row.recipe(data, 0)), [Trainer(row.recipe(data, trial)) for trial in range(row.trials)]
        if self._given.device == "cpu":
            keep_memory()
        program = Program(all_)
        ways: dict[str, Callable[[int], float]] = {
            "alone": lambda epoch: one.epoch(epoch)["seconds"],
            "together": lambda epoch: program.epoch(epoch)[0]["seconds"],
        }
        if halves is not None:
            ways["halves"] = halves
        if self._given.vmap:
            ways["vmap"] = self.mapped(row, data)
        found: dict[str, list[float]] = {name: [] for name in ways}
        for epoch in range(1, self._given.repeats + 2):
            for name, way in ways.items():
                took = way(epoch) / self._given.steps
                if epoch > 1:
                    found[name].append(took)
        return found

    def mapped(self, row: Row, data: Data) -> Callable[[int], float]:
        """Return what takes a trial's share of an epoch of plain SGD, on models that torch.func.vmap maps over."""
        from torch.func import functional_call, grad, stack_module_state, vmap

        models = [row.model().eval().to(data.mean.device) for _ in range(row.trials)]
        weights, buffers = stack_module_state(models)

        def loss(weights: Any, buffers: Any, inputs: Tensor, targets: Tensor) -> Tensor:
            return mean_loss(functional_call(models[0], (weights, buffers), (inputs,)), targets)

        gradients = vmap(grad(loss), in_dims=(0, 0, None, None))

        def train(epoch: int) -> None:
            for inputs, targets in data.batches(data.train, data.order(epoch)):
                images = inputs.clone(memory_format=torch.contiguous_format)  # it knows no channels_last
                for name, gradient in gradients(weights, buffers, images, targets).items():
                    weights[name].data.sub_(gradient, alpha=0.01)

        return lambda epoch: seconds(partial(train, epoch)) / row.trials

    def weighed(self, row: Row, trials: int) -> float:
        """Return the MB that so many trials take at their peak."""
        torch.set_num_threads(self._given.threads)
        data = self.data(row, self._given.device)
        if self._given.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() / 1e6
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is counted anew
            before = megabytes("VmRSS")
        trainers = [Trainer(row.recipe(data, trial)) for trial in range(trials)]
        trainers[0].epoch(1) if trials == 1 else Program(trainers).epoch(1)
        most = torch.cuda.max_memory_allocated() / 1e6 if self._given.device == "cuda" else megabytes("VmHWM")
        return most - before

    def rated(self) -> float:
        torch.set_num_threads(self._given.threads)
        return product_rate(self._given.device)

    def work(self, row: Row) -> int:
        """Return the floating-point operations of a trial's step: forward and backward."""
        inputs, targets = torch.zeros(row.batch, *SHAPE), torch.zeros(row.batch, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            mean_loss(row.model()(inputs), targets).backward()
        return counter.get_total_flops()

    def row(self, row: Row, rate: float) -> bool:
        """Print a row; return whether it is what is wanted."""
        found = self.apart(self.timed, row)
        ratios = {
            name: statistics.median(a / b for a, b in zip(found["alone"], each, strict=True))
            for name, each in found.items()
        }
        alone, together = (1e3 * statistics.median(found[name]) for name in ("alone", "together"))
        all_, one = (self.apart(self.weighed, row, trials) for trials in (row.trials, 1))
        limit = 1e3 * self.apart(self.work, row) / rate
        wanted = "" if row.wanted is None else f"{row.wanted:g}"
        best = max(ratio for name, ratio in ratios.items() if name in ("together", "halves"))
        in_two = f"{ratios['halves']:.2f}" if "halves" in ratios else ""
        mapped = f" {ratios['vmap']:.2f} |" if "vmap" in ratios else ""
        print(
            f"| {row.name}, {row.trials} trials, batch {row.batch} | {alone:.3g} | {together:.3g} | "
            f"{ratios['together']:.2f} | {in_two} | {wanted} |{mapped} {limit:.2g}, {limit / together:.0%} | "
            f"{all_ / row.trials:.1f} | {one:.1f} |",
            flush=True,
        )
        return row.wanted is None or best >= row.wanted

    def study(self, *overrides: str) -> float:
        """Return the seconds of a study, from its first assignment to its last."""
        with tempfile.TemporaryDirectory() as directory:
            threads = self._given.threads
            own = ("tracker=none", "hydra.run.dir=run", f"executor.threads={threads}", f"device={self._given.device}")
            command = [sys.executable, str(TRAIN), *own, *overrides, f"data_dir={self._given.data_dir.absolute()}"]
            subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)
            return json.loads((Path(directory) / "run/summary.json").read_text(encoding="utf-8"))["wall_seconds"]

    def book(self) -> float:
        """Return the seconds of an epoch in the book's way, with its validation."""
        torch.set_num_threads(self._given.threads)
        loader, model = book_loader(self._given.data_dir), lenet()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        training, held = (torch.utils.data.Subset(loader.dataset, range(n)) for n in (self._given.samples, 10000))
        batches, validation = (
            torch.utils.data.DataLoader(part, loader.batch_size, shuffle=shuffled, num_workers=loader.num_workers)
            for part, shuffled in ((training, True), (held, False))
        )

        @torch.no_grad()
        def validated() -> list[float]:
            return [float((model(inputs).argmax(1) == targets).float().mean()) for inputs, targets in validation]

        return seconds(partial(book_epoch, model, optimizer, batches)) + seconds(validated)

    def ways(self, batch: int) -> dict[str, tuple[str, ...]]:
        """Return how a study takes so many trials at a time: in one process, and in two with half of the threads."""
        half = ("executor=process", "executor.workers=2", f"executor.threads={max(1, self._given.threads // 2)}")
        return {
            "in one process": ("executor=batched", f"executor.batch={batch}"),
            "in two": (*half, f"executor.batch={batch // 2}"),
        }

    def books_study(self) -> bool:
        """Print the book's study in one process and in two; return whether the better one is what is wanted."""
        more, best = (*BOOK, f"data.train_samples={self._given.samples}"), 0.0
        for name, way in self.ways(16).items():
            pairs = [(self.apart(self.book), self.study(*more, *way)) for _ in range(self._given.studies)]
            ratio = statistics.median(BOOK_EPOCHS * book / own for book, own in pairs)
            book, own = (statistics.median(column) for column in zip(*pairs, strict=True))
            best = max(best, ratio)
            print(
                f"| the book's study, its own way: {BOOK_EPOCHS} epochs of {book:.1f} s, ours: {OUR_EPOCHS} epochs "
                f"{name} | {BOOK_EPOCHS * book:.0f} s | {own:.0f} s | {ratio:.2f} | 12 | of which "
                f"{BOOK_EPOCHS / OUR_EPOCHS:.2f} is resuming |",
                flush=True,
            )
        return best >= 12

    def first_study(self) -> bool:
        """Print the README's first study in one process and in two; return whether the better one is what is wanted."""
        ways = self.ways(28)
        alone: list[float] = []
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self._given.studies):
            alone.append(self.study(*FIRST))
            for name, way in ways.items():
                found[name].append(self.study(*FIRST, *way))
        ratios = [statistics.median(a / b for a, b in zip(alone, each, strict=True)) for each in found.values()]
        for (name, each), ratio in zip(found.items(), ratios, strict=True):
            took = f"{statistics.median(alone):.1f} s | {statistics.median(each):.1f} s | {ratio:.2f}"
            print(f"| the first study of the README, {name} | {took} | 2 |", flush=True)
        return max(ratios) >= 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads for torch (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="pairs to time of each row (default: 5)")
    parser.add_argument("--steps", type=int, default=20, help="steps of a timed epoch (default: 20)")
    parser.add_argument("--studies", type=int, default=1, help="pairs to time of each study, 0: none (default: 1)")
    parser.add_argument("--samples", type=int, default=60000, help="images of the book's study (default: all)")
    parser.add_argument("--only", default="", help="rows whose name begins so; book and first are the studies")
    parser.add_argument("--vmap", action="store_true", help="time torch.func.vmap, too")
    parser.add_argument("--data-dir", type=expanded, default=os.environ.get("HALVING_DATA", "data"))
    given = parser.parse_args()
    given.data_dir = Path(given.data_dir)
    bench = Bench(given)
    rate = bench.apart(bench.rated)
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{given.device}, {given.threads} threads, a large product {rate / 1e9:.0f} Gflop/s, load average {load}\n")
    mapped = " vmap |" if given.vmap else ""
    print(
        f"| work | alone, ms | together, ms | times as fast | in two | wanted |{mapped} limit, ms | MB each | alone |"
    )
    print(f"|---|--:|--:|--:|--:|--:|{'--:|' if mapped else ''}--:|--:|--:|")
    rows = [row for row in ROWS if row.device == given.device and row.name.startswith(given.only)]
    reached = [bench.row(row, rate) for row in rows]
    if given.studies and given.device == "cpu":
        reached += [bench.books_study()] if "book".startswith(given.only) else []
        reached += [bench.first_study()] if "first".startswith(given.only) else []
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
