"""One epoch of LeNet on Fashion-MNIST: the book's way against ours, alternating, in one run.

python scripts/bench/epoch.py --repeats 3

The book's way: torchvision's data set with Resize and ToTensor, a DataLoader with 4 workers, loss and accuracy read at
every batch. Both train on all 60,000 images with plain SGD. Exits with 1 where the median ratio is below 3.
Means nothing while other programs use the cores: two threads that wait for each other suffer most.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from halving.data import Data, fashion_mnist
from halving.data.torchvision_shim import allow_import
from halving.environment import expanded
from halving.training.loop import place, train_epoch
from halving.training.models.lenet import LeNet

LEAST_RATIO = 3.0
BATCH_SIZE, LR = 128, 0.1


def book_loader(data_dir: Path) -> DataLoader:
    allow_import()
    from torchvision import transforms
    from torchvision.datasets import FashionMNIST

    # Four workers are the book's, however many cores there are.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    transform = transforms.Compose([transforms.Resize((28, 28)), transforms.ToTensor()])
    dataset = FashionMNIST(data_dir, train=True, transform=transform)
    return DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=4)


def book_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> float:
    """Train as the book's `train_epoch_ch3` does and return the accuracy."""
    model.train()
    loss_function = nn.CrossEntropyLoss(reduction="none")
    loss_sum, right, seen = 0.0, 0.0, 0
    for inputs, targets in loader:
        outputs = model(inputs)
        loss = loss_function(outputs, targets)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        loss_sum += float(loss.detach().sum())
        right += float((outputs.argmax(dim=1).type(targets.dtype) == targets).sum())
        seen += targets.numel()
    return right / seen


def our_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, epoch: int) -> float:
    return 1 - train_epoch(model, optimizer, data, epoch, lambda _: LR)["train_error"]


def seconds(epoch: Callable[[], object]) -> float:
    began = time.perf_counter()
    epoch()
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="pairs of epochs to time (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="threads for torch (default: 2)")
    parser.add_argument("--data-dir", type=expanded, default=os.environ.get("HALVING_DATA", "data"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    data = fashion_mnist(data_dir=arguments.data_dir, batch_size=BATCH_SIZE, validation="test")
    loader = book_loader(arguments.data_dir)
    theirs, ours = LeNet((1, 28, 28), 10), place(LeNet((1, 28, 28), 10), "cpu")
    their_sgd = torch.optim.SGD(theirs.parameters(), lr=LR)
    our_sgd = torch.optim.SGD(ours.parameters(), lr=LR, fused=True)

    warm_up = fashion_mnist(data_dir=arguments.data_dir, batch_size=BATCH_SIZE, validation="test", train_samples=2560)
    our_epoch(ours, our_sgd, warm_up, 1)
    few = torch.utils.data.Subset(loader.dataset, range(2560))
    book_epoch(theirs, their_sgd, DataLoader(few, BATCH_SIZE, shuffle=True, num_workers=4))

    pairs: list[tuple[float, float]] = []
    for repeat in range(1, arguments.repeats + 1):
        book = seconds(partial(book_epoch, theirs, their_sgd, loader))
        own = seconds(partial(our_epoch, ours, our_sgd, data, repeat))
        pairs.append((book, own))
        print(f"epoch {repeat}: book {book:.2f} s, ours {own:.2f} s, ratio {book / own:.2f}", flush=True)
    book, own = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / o for b, o in pairs)
    print(f"median:  book {book:.2f} s, ours {own:.2f} s, ratio {ratio:.2f} (at least {LEAST_RATIO} wanted)")
    return 0 if ratio >= LEAST_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
