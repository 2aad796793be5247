"""What every option of the `data` group shares: read once, split once, check against the configuration."""

import inspect
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, update_wrapper
from typing import Any

from torch import Tensor

from halving.data.base import Augment, Data, Validation, split_data
from halving.errors import UserError


@dataclass(frozen=True)
class Source:
    """What a data set is read by, `load(*arguments)`, and what is known of it beforehand."""

    load: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
    arguments: tuple[Hashable, ...] = ()
    classification: bool = True
    augment: Augment | None = None


def option(*, validation: Validation):
    """Make of a function that names a source one that returns its data, and also takes what all data sets take.

    `shape` of an input and number of `outputs` are what models were told, None leaves them unchecked; all else is as in
    `split_data`, with another default of `validation`. The trials of a process share the tensors.

    It raises UserError where shape or outputs differ from what was read, and whatever reading and `split_data` raise.
    """

    def decorate(source: Callable[..., Source]):
        def data(
            *,
            batch_size: int,
            seed: int = 0,
            validation: Validation = validation,
            train_samples: int | None = None,
            device: str = "cpu",
            shape: Sequence[int] | None = None,
            outputs: int | None = None,
            **own: Any,
        ) -> Data:
            found, found_outputs = _split(source(**own), seed, validation, train_samples, device)
            found_shape = list(found.train.inputs.shape[1:])
            for name, told, there in (
                ("shape", shape if shape is None else list(shape), found_shape),
                ("outputs", outputs, found_outputs),
            ):
                if told is not None and told != there:
                    raise UserError(f"data.{name}={told}: this data set has {there}; models are built from this key")
            return replace(found, batch_size=batch_size)

        *shared, _ = inspect.signature(data).parameters.values()
        own = inspect.signature(source).parameters.values()
        update_wrapper(data, source)
        data.__signature__ = inspect.Signature([*own, *shared], return_annotation=Data)  # pyright: ignore
        return data

    return decorate


@lru_cache(maxsize=2, typed=True)
def _split(
    source: Source, seed: int, validation: Validation, train_samples: int | None, device: str
) -> tuple[Data, int]:
    tensors = source.load(*source.arguments)
    outputs = max(int(tensors[1].max()), int(tensors[3].max())) + 1 if source.classification else 1
    data = split_data(
        *tensors,
        batch_size=1,
        seed=seed,
        validation=validation,
        train_samples=train_samples,
        device=device,
        classification=source.classification,
        augment=source.augment,
    )
    return data, outputs
