"""The inner loops: one epoch of training, one evaluation."""

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from halving.data.base import Data, Split, spans
from halving.errors import UserError, first_line
from halving.training.eager import step_of

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

# A block over 32 MB goes back to the system when freed, and faults its pages anew at every batch: the widest
# activation of LeNet has 19 MB at this size.
EVALUATION_BATCH = 1000


def place(model: Model, device: str | torch.device) -> Model:
    """Move `model` to `device`, its convolutions' weights laid out for images in channels_last, and return it."""
    return model.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def materialise(model: nn.Module, data: Data) -> None:
    """Give the lazy layers of `model`, on the CPU, their shapes: by a pass over two examples where it has any.

    Raises UserError for one that the pass does not reach, and where the pass fails.
    """

    def lazy() -> list[str]:
        return [name for name, each in chain(model.named_parameters(), model.named_buffers()) if is_lazy(each)]

    if lazy():
        inputs, targets = next(data.batches(data.train, size=2))
        with torch.no_grad(), meeting(model, inputs, targets):
            model.eval()(inputs.cpu())
    if left := lazy():
        raise UserError(f"model: {left[0]} of a lazy layer has no shape yet: the forward pass does not reach it")


@contextmanager
def meeting(model: nn.Module, inputs: Tensor, targets: Tensor) -> Generator[None]:
    """Raise UserError for whatever a model, which is the user's, raises where it first meets examples."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        log.info("the model fails on the first examples", exc_info=True)
        raise UserError(
            f"model: {type(model).__name__} fails on inputs {kind_of(inputs)} with targets {kind_of(targets)}: "
            f"{type(error).__name__}: {first_line(error)}; "
            "train.log has the traceback"
        ) from error


@contextmanager
def enough_examples(data: Data) -> Generator[None]:
    """Raise UserError where batch norm meets a batch of one example."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            f"model: batch norm cannot train on a batch of one example: data.batch_size={data.batch_size} of a "
            f"training set of {len(data.train)}; give 2 or more of both"
        ) from error


def kind_of(tensor: Tensor) -> str:
    """Say type and shape of a tensor."""
    return f"{tensor.dtype} {list(tensor.shape)}"


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Data,
    epoch: int,
    rate: Callable[[float], float],
    stepped: Callable[[float], None] | None = None,
) -> dict[str, float]:
    """Train for one pass over the training set, epoch `epoch` counting from 1, in the order that `data` gives it.

    Before each step every parameter group gets the learning rate `rate(x)`, x being the epochs done so far (0.0 at the
    first step of epoch 1, epoch - 1 + i / batches at its i-th). After each step `stepped` is told the epochs done by
    then, exactly `epoch` after the last. Returns "lr" of the last step, and "train_loss" and "train_error", averaged
    over the examples as each was met; not finite where training diverged. Loss is cross entropy and error the fraction
    that is wrong; on numeric targets both are the mean squared error, in units of the whitened target. Layers that draw
    random numbers are seeded by the caller. One example left over belongs to the last batch.
    """
    model.train()
    totals = torch.zeros(2, dtype=torch.float64, device=data.mean.device)
    lr, step = 0.0, step_of(optimizer)
    for inputs, targets, before, after in minibatches(data, epoch):
        lr = rate(before)
        for group in optimizer.param_groups:
            group["lr"] = lr
        outputs = model(inputs)
        loss = mean_loss(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        step()
        if stepped is not None:
            stepped(after)
        totals += sums(loss.detach(), outputs.detach(), targets)
    train_loss, train_error = (totals / len(data.train)).tolist()
    return {"lr": lr, "train_loss": train_loss, "train_error": train_error}


def minibatches(data: Data, epoch: int) -> Iterator[tuple[Tensor, Tensor, float, float]]:
    """Yield the inputs and targets of epoch `epoch` (from 1), with the epochs done before each step and after it."""
    batches = len(spans(len(data.train), data.batch_size))
    augmentation = data.augmentation(epoch) if data.augment else None
    for i, (inputs, targets) in enumerate(data.batches(data.train, data.order(epoch), augmentation=augmentation)):
        yield inputs, targets, epoch - 1 + i / batches, epoch - 1 + (i + 1) / batches


def evaluate(model: nn.Module, data: Data, split: Split) -> tuple[float, float]:
    """Return loss and error, as `train_epoch` defines them, of `model` on a split of `data`: means over examples."""
    measured = measure(model, data, split)
    return measured["loss"], measured["error"]


@torch.inference_mode()
def measure(model: nn.Module, data: Data, split: Split) -> dict[str, float]:
    """Return "loss", "error", and what the data's own `metrics` make of all outputs and targets of a split."""
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=data.mean.device)
    kept: list[tuple[Tensor, Tensor]] = []
    for inputs, targets in data.batches(split, size=EVALUATION_BATCH):
        outputs = model(inputs)
        totals += sums(mean_loss(outputs, targets), outputs, targets)
        if data.metrics:
            kept.append((outputs, targets))
    loss, error = (totals / len(split)).tolist()
    everything = tuple(map(torch.cat, zip(*kept, strict=True)))
    return {"loss": loss, "error": error, **{name: float(own(*everything)) for name, own in data.metrics.items()}}


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return cross entropy where the targets are classes (b,), mean squared error where they are numbers (b, 1)."""
    if targets.is_floating_point():
        return functional.mse_loss(outputs.view_as(targets), targets)
    return functional.cross_entropy(outputs, targets)


def sums(loss: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return (2,): a batch's summed loss and error, left on the device so that no step waits for it."""
    loss_sum = loss * len(targets)
    if targets.is_floating_point():
        return torch.stack((loss_sum, loss_sum))
    return torch.stack((loss_sum, (outputs.argmax(1) != targets).sum()))
