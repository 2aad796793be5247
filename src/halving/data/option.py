"""What every option of the `data` group shares: read once, split once, check against the configuration."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache

from torch import Tensor

from halving.data.base import Augment, Data, Validation, split_data
from halving.errors import UserError

Loader = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


def option(
    load: Loader,
    *arguments: Hashable,
    shape: Sequence[int] | None,
    outputs: int | None,
    batch_size: int,
    seed: int,
    validation: Validation,
    train_samples: int | None,
    device: str,
    classification: bool = True,
    augment: Augment | None = None,
) -> Data:
    """Return the data that `load(*arguments)` reads, split by `split_data`; the trials of a process share its tensors.

    `shape` of an input and number of `outputs` are what models were told; None leaves them unchecked.

    Raises UserError where they differ from what was read, and whatever `load` and `split_data` raise.
    """
    data, found_outputs = _split(load, arguments, classification, augment, seed, validation, train_samples, device)
    found_shape = list(data.train.inputs.shape[1:])
    if shape is not None and list(shape) != found_shape:
        raise UserError(f"data.shape={list(shape)}: this data set has {found_shape}; models are built from this key")
    if outputs is not None and outputs != found_outputs:
        raise UserError(f"data.outputs={outputs}: this data set has {found_outputs}; models are built from this key")
    return replace(data, batch_size=batch_size)


@lru_cache(maxsize=2, typed=True)
def _split(
    load: Loader,
    arguments: tuple[Hashable, ...],
    classification: bool,
    augment: Augment | None,
    seed: int,
    validation: Validation,
    train_samples: int | None,
    device: str,
) -> tuple[Data, int]:
    tensors = load(*arguments)
    outputs = max(int(tensors[1].max()), int(tensors[3].max())) + 1 if classification else 1
    data = split_data(
        *tensors,
        batch_size=1,
        seed=seed,
        validation=validation,
        train_samples=train_samples,
        device=device,
        classification=classification,
        augment=augment,
    )
    return data, outputs
