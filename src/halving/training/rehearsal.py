"""What is looked at before anything trains: every example's kind, and what the model makes of two of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halving.data.base import Data, Split
from halving.data.keys import key
from halving.errors import UserError
from halving.training.loop import kind_of, mean_loss, meeting
from halving.training.randomness import seeded
from halving.training.recipe import Recipe
from halving.training.trainer import Trainer

CHANNELS_FIRST = "; these look like (n, h, w, c), and channels come first: inputs.permute(0, 3, 1, 2) puts them there"


def rehearse(recipe: Recipe) -> None:
    """Check all splits of the data, build the trial and let its model meet two examples.

    Raises UserError for data that differ from `data.shape` and `data.outputs` or cannot be trained on, a model that
    cannot take them, and outputs that do not fit the targets.
    """
    data = recipe.data
    for name, split in _splits(data).items():
        if problem := _objection(split, data, recipe.shape) or _unfit(split, data, recipe.outputs, "data.outputs="):
            raise UserError(f"data: the {name} set has {problem}")
    model = Trainer(recipe).model.eval()
    inputs, targets = next(data.batches(data.train, size=2))
    with seeded(key(recipe.seed), recipe.device), torch.no_grad(), meeting(model, inputs, targets):
        outputs: Any = model(inputs)
        if isinstance(outputs, Tensor) and data.classification and outputs.ndim > 1:
            for name, split in _splits(data).items():
                if problem := _unfit(split, data, outputs.shape[1], "the model's outputs are "):
                    raise UserError(f"data: the {name} set has {problem}")
        mean_loss(outputs, targets)


def _splits(data: Data) -> dict[str, Split]:
    return {"training": data.train, "validation": data.validation, "test": data.test}


def _objection(split: Split, data: Data, shape: Sequence[int] | None) -> str:
    """Say what of a split cannot be meant, or nothing; `shape` is what an example was said to be."""
    inputs, targets = split.inputs, split.targets
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        return (
            f"a {type(inputs).__name__} and a {type(targets).__name__}; give tensors, as halving.data.split_data does"
        )
    found = list(inputs.shape[1:])
    if len(inputs) != len(targets):
        return f"{len(inputs)} inputs, but {len(targets)} targets"
    if not len(targets):
        return "no examples"
    if shape is not None and list(shape) != found:
        turned = found == [*shape[1:], *shape[:1]]
        return f"inputs of shape {found}, but data.shape says {list(shape)}{CHANNELS_FIRST if turned else ''}"
    if inputs.dtype == torch.uint8 and _is_channels_last(found):
        return f"images of shape {found}{CHANNELS_FIRST}"
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        return "NaN or infinite inputs; clean the data first"
    if data.classification and targets.dtype != torch.int64:
        return f"targets {kind_of(targets)}; classes are torch.int64 (n,), numbers are for classification=False"
    if not data.classification and not (targets.is_floating_point() and bool(targets.isfinite().all())):
        return f"targets {kind_of(targets)}; give finite floating-point numbers (n, 1)"
    return ""


def _is_channels_last(shape: Sequence[int]) -> bool:
    """Say whether an example can only be an image (h, w, c): two like sides before 1, 3 or 4 channels."""
    match shape:
        case [height, width, 1 | 3 | 4]:
            return min(height, width) > 4 and max(height, width) <= 4 * min(height, width)
        case _:
            return False


def _unfit(split: Split, data: Data, outputs: int | None, said: str) -> str:
    """Say which class has no output, or nothing."""
    if not data.classification or outputs is None:
        return ""
    if outputs < 2:
        return f"classes, but {said}{outputs}; give at least 2, or numbers as targets and classification=False"
    low, high = (int(bound) for bound in split.targets.aminmax())
    if low >= 0 and high < outputs:
        return ""
    return f"the class {low if low < 0 else high}, but {said}{outputs}: then classes are 0 to {outputs - 1}"
