"""A data set as tensors on the device, its split and its batches."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import LongTensor, Tensor

from halving.data.keys import key
from halving.errors import UserError

ORDER, AUGMENTATION, VALIDATION, SUBSET, FOLDS, BUILDING = range(6)
MEASURED = ("loss", "error", "accuracy")

Augment = Callable[[Tensor, torch.Generator], Tensor]
Metric = Callable[[Tensor, Tensor], float]
Validation = float | int | Literal["test"]


@dataclass(frozen=True, eq=False)
class Split:
    """Examples on the device.

    Inputs are images, uint8 (n, c, h, w), or features, float32 (n, f); targets classes, int64 (n,), or numbers,
    float32 (n, 1).
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor) -> "Split":
        """Return the examples at `indices` (k,), which may lie on the CPU."""
        chosen = indices.to(self.inputs.device)
        return Split(self.inputs[chosen], self.targets[chosen])


@dataclass(frozen=True, eq=False)
class Data:
    """What a trial trains on: three splits, the size of its batches and how these are normalised and augmented.

    `mean` and `std` are float32, one per channel (c,) or feature (f,). `augment` maps uint8 images (b, c, h, w) and a
    generator on their device to images of the same shape. Two trials with the same `seed` see the same order.
    `metrics` are functions (outputs, targets) -> number, called with those of all examples of the validation or test
    set: `metric=max:val_f1` maximises the one called f1. `order_seed` draws order and augmentation; None leaves that to
    `seed`, which draws subsets and folds.

    Raises UserError for a batch size below 1, and for a metric with the name of one that is always measured.
    """

    train: Split
    validation: Split
    test: Split
    batch_size: int
    mean: Tensor
    std: Tensor
    classification: bool = True
    seed: int = 0
    augment: Augment | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])
    order_seed: int | None = None

    def __post_init__(self) -> None:
        check_count("batch_size", self.batch_size)
        if taken := sorted(self.metrics.keys() & set(MEASURED)):
            raise UserError(f"metrics: {', '.join(taken)} is measured anyway; give yours another name")

    def order(self, epoch: int) -> LongTensor:
        """Permute the training set (n,) by (seed, epoch) alone: every trial sees the same, on every device."""
        generator = torch.Generator().manual_seed(key(self._ordering, epoch, ORDER))
        order = torch.randperm(len(self.train), generator=generator)
        return order.to(self.train.inputs.device)  # pyright: ignore[reportReturnType]

    def augmentation(self, epoch: int) -> torch.Generator:
        """Return the stream, on the device, from which the images of `epoch` are augmented."""
        generator = torch.Generator(self.train.inputs.device)
        return generator.manual_seed(key(self._ordering, epoch, AUGMENTATION))

    @property
    def _ordering(self) -> int:
        return self.seed if self.order_seed is None else self.order_seed

    def digest(self) -> str:
        """Return a short SHA-256 of all examples of the three splits, which is the same on every device."""
        total = hashlib.sha256()
        update: Any = total.update  # which takes arrays, whatever its types say
        for split in (self.train, self.validation, self.test):
            for tensor in (split.inputs, split.targets):
                update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return total.hexdigest()[:16]

    def subset(self, count: int) -> "Data":
        """Train on `count` examples of the training set, drawn by the seed in the proportions of the classes.

        A smaller subset is part of a larger one, and all examples are the training set itself. Mean and standard
        deviation stay, so that the same example looks the same in each.
        """
        order = stratified_order(strata(self.train.targets, self.classification), key(self.seed, SUBSET))
        return replace(self, train=self.train.take(order[:count].sort().values))

    def fold(self, number: int, folds: int) -> "Data":
        """Validate on the `number`-th (from 1) of `folds` parts of the data, train on the others.

        The parts are drawn by the seed in the proportions of the classes; they are disjoint and cover the training and
        the validation set, but not a validation set that is the test set itself. Mean and standard deviation stay.
        """
        parts = [self.train] if self.validation is self.test else [self.validation, self.train]
        pool = Split(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))
        order = stratified_order(strata(pool.targets, self.classification), key(self.seed, FOLDS))
        first, last = (len(pool) * bound // folds for bound in (number - 1, number))
        others = torch.cat((order[:first], order[last:]))
        return replace(self, train=pool.take(others), validation=pool.take(order[first:last]))

    def batches(
        self,
        split: Split,
        order: Tensor | None = None,
        size: int | None = None,
        augmentation: torch.Generator | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalised float32 inputs (b, ...) and targets (b, ...), as stored or in `order`, `size` at a time.

        Images come in channels_last. The last batch may be smaller, but one example left over joins the batch before:
        batch norm cannot train on it alone. Only with `augmentation` are images augmented.
        """
        shape = (1, -1, *(1,) * (split.inputs.ndim - 2))
        mean, std = self.mean.view(shape), self.std.view(shape)
        for span in spans(len(split) if order is None else len(order), size or self.batch_size):
            chosen = span if order is None else order[span]
            inputs, targets = split.inputs[chosen], split.targets[chosen]
            if self.augment is not None and augmentation is not None:
                inputs = self.augment(inputs, augmentation)
            yield channels_last((inputs - mean).div_(std)), targets


def spans(count: int, size: int) -> list[slice]:
    """Cut `count` examples into batches of `size`; one that would be left over joins the batch before."""
    alone = count % size == 1 and 1 < size < count
    starts = range(0, count - alone, size)
    return [slice(start, end) for start, end in zip(starts, (*starts[1:], count), strict=True)] if count else []


def channels_last(inputs: Tensor) -> Tensor:
    """Lay images (b, c, h, w) out as (b, h, w, c) in memory, shape unchanged; leave features (b, f) alone."""
    if inputs.ndim != 4:
        return inputs
    if inputs.shape[1] > 1:
        return inputs.contiguous(memory_format=torch.channels_last)
    # One channel is contiguous either way: `contiguous` would keep strides that send the whole net down a slower path.
    _, _, height, width = inputs.shape
    return inputs.contiguous().as_strided(inputs.shape, (height * width, 1, width, 1))


def split_data(
    train_inputs: Any,
    train_targets: Any,
    test_inputs: Any,
    test_targets: Any,
    *,
    batch_size: int,
    seed: int = 0,
    validation: Validation = 0.2,
    train_samples: int | None = None,
    device: str | torch.device = "cpu",
    classification: bool = True,
    augment: Augment | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Data:
    """Make `Data` of your own tensors or arrays: hold out a validation part, measure the rest, move all to `device`.

    Inputs: images uint8 (n, c, h, w), or features (n, f), which become float32. Targets: classes from 0, integers (n,);
    with `classification=False` numbers (n,) or (n, 1), best whitened beforehand, since errors are in their units.
    `validation` is the fraction of the training set (a float between 0 and 1) or the number of examples (an int) that
    is drawn by `seed` and held out, in the proportions of the classes; "test" validates on the test set instead, as
    the book does. `train_samples` keeps that many examples of what remains, in these proportions too; a smaller subset
    is part of a larger one. Mean and standard deviation are those of the training part. `metrics` are those of `Data`.

    Raises UserError for inputs or targets of another kind or length, and for settings out of range.
    """
    inputs, targets = checked(train_inputs, train_targets, classification, "train")
    test = checked(test_inputs, test_targets, classification, "test")
    if inputs.shape[1:] != test[0].shape[1:]:
        raise UserError(
            f"test_inputs: examples of shape {list(test[0].shape[1:])}, but train_inputs has {list(inputs.shape[1:])}"
        )
    order = stratified_order(strata(targets, classification), key(seed, VALIDATION))
    held_out = validation_count(validation, len(order))
    part = order[held_out:]
    if train_samples is not None:
        check_count("train_samples", train_samples)
        if train_samples > len(part):
            raise UserError(
                f"data.train_samples={train_samples}: the training part has {len(part)} examples; "
                f"ask for at most that many, or for null to take all"
            )
        part = part[:train_samples]
    mean, std = (moment.to(device) for moment in moments(inputs[part]))

    def split(inputs: Tensor, targets: Tensor) -> Split:
        return Split(inputs.to(device), targets.to(device))

    tested = split(*test)
    return Data(
        train=split(inputs[part], targets[part]),
        validation=split(inputs[order[:held_out]], targets[order[:held_out]]) if held_out else tested,
        test=tested,
        batch_size=batch_size,
        mean=mean,
        std=std,
        classification=classification,
        seed=seed,
        augment=augment,
        metrics=metrics or {},
    )


def strata(targets: Tensor, classification: bool) -> Tensor:
    """Return each example's stratum, int64 (n,) on the CPU: its class, or one for all where targets are numbers."""
    return targets.cpu() if classification else torch.zeros(len(targets), dtype=torch.int64)


def stratified_order(strata: Tensor, seed: int) -> Tensor:
    """Permute examples (n,) so that every run of them holds each stratum nearly in its proportion.

    The j-th example of a stratum of m, shuffled, gets a place drawn from [j / m, (j + 1) / m); places are then sorted.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(strata), generator=generator)
    grouped = shuffled[torch.argsort(strata[shuffled], stable=True)]
    sizes = torch.bincount(strata)
    first = sizes.cumsum(0) - sizes
    stratum = strata[grouped]
    jitter = torch.rand(len(strata), generator=generator, dtype=torch.float64)
    place = (torch.arange(len(strata)) - first[stratum] + jitter) / sizes[stratum]
    return grouped[torch.argsort(place, stable=True)]


def moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, float32, per channel (c,) or feature (f,); a deviation of 0 becomes 1."""
    if inputs.dtype == torch.uint8:
        # Counting grey levels is exact, and ten times faster than summing squares of floats.
        counts = torch.stack(
            [torch.bincount(channel.flatten(), minlength=256) for channel in inputs.unbind(1)]
        ).double()
        share, level = counts / counts.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64)
        mean = share @ level
        std = (share * (level - mean[:, None]).square()).sum(1).sqrt()
    else:
        std, mean = torch.std_mean(inputs.double(), dim=0, correction=0)
    return mean.float(), torch.where(std > 0, std, 1).float()


def validation_count(validation: Validation, examples: int) -> int:
    """Return how many of the `examples` are held out: 0 for "test"."""
    match validation:
        case "test":
            return 0
        case bool():
            count = 0
        case Integral():
            count = int(validation)
        case Real():
            count = round(validation * examples) if 0 < validation < 1 else 0
        case _:
            count = 0
    if 0 < count < examples:
        return count
    raise UserError(
        f"data.validation={validation}: give a fraction of the training set between 0.0 and 1.0, a number of its "
        f'{examples} examples that leaves at least one on each side, or "test" to validate on the test set'
    )


def checked(inputs: Any, targets: Any, classification: bool, part: str) -> tuple[Tensor, Tensor]:
    """Return inputs and targets as CPU tensors of the kinds that `Split` holds, or say what is wrong with them."""
    inputs, targets = torch.as_tensor(inputs).cpu(), torch.as_tensor(targets).cpu()
    match inputs.ndim, inputs.dtype:
        case 4, torch.uint8:
            pass
        case 2, dtype if dtype != torch.bool and not dtype.is_complex:
            inputs = inputs.float()
            if not bool(inputs.isfinite().all()):
                raise UserError(f"{part}_inputs: there are NaN or infinite features; clean the data first")
        case _:
            raise UserError(
                f"{part}_inputs: {inputs.dtype} of shape {list(inputs.shape)}; "
                f"give images uint8 (n, c, h, w) or features (n, f)"
            )
    if len(inputs) == 0 or len(targets) != len(inputs):
        raise UserError(
            f"{part}_targets: {len(targets)} of them for {len(inputs)} inputs; give one for each of at least one"
        )
    if classification:
        kind = targets.dtype
        whole = not (kind.is_floating_point or kind.is_complex or kind == torch.bool)
        if targets.ndim != 1 or not whole or int(targets.long().min()) < 0:
            raise UserError(
                f"{part}_targets: {kind} of shape {list(targets.shape)}; "
                f"give classes from 0 as integers (n,), or classification=False"
            )
        return inputs, targets.long()
    if targets.ndim == 1:
        targets = targets[:, None]
    if targets.ndim != 2 or targets.shape[1] != 1 or not bool(targets.isfinite().all()):
        raise UserError(f"{part}_targets: shape {list(targets.shape)}; give finite numbers (n,) or (n, 1)")
    return inputs, targets.float()


def check_count(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 1:
        raise UserError(f"data.{name}={value}: give a whole number of at least 1")
