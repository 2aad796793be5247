"""Which trials can be trained as one program."""

import json
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from halving.errors import UserError
from halving.targets import instantiate
from halving.training.batched.modules import JOINED
from halving.training.dropout import Dropout
from halving.training.randomness import seeded

_SAME = ("data", "seed", "order_seed", "device", "fidelity", "r_max", "epochs", "metric")
_EVERY = frozenset(vars(nn.Module()))  # the attributes that every module has
_structures: dict[str, Hashable | str] = {}


class Unlike(UserError):
    """What is trained one trial at a time, and why."""


def likeness(config: Mapping[str, Any]) -> Hashable:
    """Return a key that is equal for configurations which one program can train.

    Their data and the structure of their models are the same; optimizers, schedules, averaging and the probabilities of
    dropout may differ. Raises Unlike where no two trials can be one program.
    """
    described = json.dumps(config["model"], sort_keys=True, default=str)
    if described not in _structures:
        with seeded(0):
            _structures[described] = structure(instantiate(config["model"], "model"))
    same = json.dumps({name: config.get(name) for name in _SAME}, sort_keys=True, default=str)
    return same, _structures[described]


def structure(model: nn.Module) -> Hashable:
    """Return what models have in common that can be one: all but their weights and the probabilities of their dropout.

    Raises Unlike where no number of such models can be one.
    """
    memory: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        if not is_lazy(tensor) and memory.setdefault(tensor.untyped_storage().data_ptr(), tensor) is not tensor:
            raise Unlike("a model whose weights share memory")
    ties: dict[int, str] = {}
    tensors = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    tied = tuple((name, ties[id(tensor)]) for name, tensor in tensors if ties.setdefault(id(tensor), name) != name)
    return tied, *((name, type(module), _own(module)) for name, module in model.named_modules())


def _own(module: nn.Module) -> Hashable:
    kind, attributes = type(module), {name: value for name, value in vars(module).items() if name not in _EVERY}
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    if any(is_lazy(tensor) for _, tensor in tensors):
        raise Unlike("a model with lazy layers")
    if (tensors and kind not in JOINED) or any(isinstance(value, Tensor) for value in attributes.values()):
        raise Unlike(f"a model with {kind.__module__}.{kind.__name__}")
    if any(value for name, value in vars(module).items() if name in _EVERY and name.endswith("_hooks")) or any(
        getattr(tensor, hooks) for _, tensor in tensors for hooks in ("_backward_hooks", "_post_accumulate_grad_hooks")
    ):
        raise Unlike("a model with hooks")
    if kind.get_extra_state is not nn.Module.get_extra_state:
        raise Unlike("a model with extra state")
    if not all(_dense(tensor) for _, tensor in tensors):
        raise Unlike("a model whose weights lie apart in memory")
    match module:
        case Dropout() if kind is not Dropout:
            raise Unlike(f"a model with {kind.__module__}.{kind.__name__}")
        case Dropout():
            return ()
        case nn.Conv2d() if module.padding_mode != "zeros":
            raise Unlike(f"a model with padding_mode={module.padding_mode}")
        case nn.BatchNorm1d() | nn.BatchNorm2d() if module.momentum is None or not module.track_running_stats:
            raise Unlike("a model with batch norm of momentum=None or track_running_stats=False")
        case nn.Flatten() if (module.start_dim, module.end_dim) != (1, -1):
            raise Unlike("a model that flattens some dimensions only")
        case _:
            shapes = tuple((name, tensor.dtype, tuple(tensor.shape), tensor.requires_grad) for name, tensor in tensors)
            return shapes, tuple((name, _said(value)) for name, value in attributes.items())


def _dense(tensor: Tensor) -> bool:
    """Whether a tensor's elements lie side by side, in whatever order."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _said(value: object) -> Hashable:
    """Return what equal values have in common; of what is known by its address alone, the thing itself."""
    match value:
        case FunctionType():
            closed = tuple(_said(cell.cell_contents) for cell in value.__closure__ or ())
            given = _said(value.__defaults__), _said(value.__kwdefaults__)
            return value.__module__, value.__qualname__, value.__code__, closed, given
        case partial():
            return _said(value.func), _said(value.args), _said(value.keywords)
        case list() | tuple():
            return type(value), *map(_said, cast(Sequence[object], value))
        case dict():
            return tuple((_said(key), _said(each)) for key, each in cast(dict[object, object], value).items())
        case Hashable() if " at 0x" in repr(value):
            return value
        case _:
            if " at 0x" in (text := repr(value)):
                raise Unlike(f"a model with {text.partition(' at 0x')[0]}>, which may be another in each trial,")
            return text
