"""Whether trials are trained as one program or one after the other: as one where that is right, and faster."""

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from halving.checkpoints.content import digest
from halving.data.base import Data
from halving.errors import first_line
from halving.training.batched.joining import Unlike, structure
from halving.training.batched.joint import Joint
from halving.training.batched.recorded import Recorded, without_waiting
from halving.training.dropout import Dropout
from halving.training.eager import is_torchs
from halving.training.loop import mean_loss, minibatches
from halving.training.randomness import captured, seeded
from halving.training.trainer import Trainer

log = logging.getLogger(__name__)

How = dict[str, bool]
_COMPARED, _EXAMPLES = 3, 16  # trials and examples
_TIMED, _REPEATS = 4, 3  # trials, and passes of which the first does not count

_agreed: dict[Hashable, How | None] = {}
_differing: set[type[nn.Module]] = set()
_chosen: dict[Hashable, How | None] = {}
_enough: dict[Hashable, int] = {}  # trials that were faster together
_drawing: set[str] = set()  # what was said of optimizers and schedules


def choice(models: Sequence[nn.Module], data: Data, forced: bool) -> How | None:
    """Return how `Program` is to take these models, None where they are better trained one after the other.

    A probe compares losses, gradients and outputs in float64 and, unless `forced`, times both ways: of more trials,
    what is faster of few is so, too. On a GPU it also tries whether a pass can be recorded. The log says what came of
    it once for each kind of model.
    """
    why, structures = "their structures differ", set[Hashable]()
    try:
        structures = {structure(model) for model in models}
    except Unlike as reason:
        why = str(reason)
    if len(structures) != 1:
        if type(models[0]) not in _differing:
            _differing.add(type(models[0]))
            _log(models, None, why, logging.WARNING)
        return None
    kind = structures.pop(), data.mean.device, data.classification, data.augment
    if kind not in _agreed:
        with seeded(0, str(data.mean.device)):
            how, why = _agreement(models, data)
            if how is not None and data.mean.device.type == "cuda":
                how["recorded"] = _recordable(models, data, how)
                why += ", and a CUDA graph replays them" if how["recorded"] else ""
        _agreed[kind] = how
        _log(models, how, why, logging.WARNING if how is None else logging.INFO)
    how = _agreed[kind]
    timed = *kind, torch.get_num_threads(), data.batch_size
    if how is None or forced or len(models) >= _enough.get(timed, _TIMED + 1):
        return how
    key = *timed, min(len(models), _TIMED)
    if key not in _chosen:
        with seeded(0, str(data.mean.device)):
            took, alone = _seconds(models[:_TIMED], *next(data.batches(data.train)), how)
        count = min(len(models), _TIMED)
        _chosen[key] = how if took < count * alone else None
        if _chosen[key] is not None:
            _enough[timed] = count
        told = f"at batch size {data.batch_size}, a step of {count} takes {took:.2g} s, of one alone {alone:.2g} s"
        _log(models, _chosen[key], told)
    return _chosen[key]


def steady(trainer: Trainer) -> bool:
    """Whether optimizer and schedule draw no random numbers that all trials would share; else the log says so once.

    Those of one's own are asked twice for that, on a copy of the model.
    """
    kind, of = type(trainer.optimizer), getattr(trainer.schedule, "__qualname__", type(trainer.schedule).__qualname__)
    known = kind.__module__.startswith("halving.") or is_torchs(trainer.optimizer)
    if known and trainer.schedule.__module__.startswith("halving."):
        return True
    with seeded(0, str(trainer.data.mean.device)):
        copy = _copy(trainer.model)
        optimizer, schedule = trainer.steppers(copy)
        before = digest(captured())
        try:
            for at in (0.0, 0.5):
                schedule(at)
                for parameter in copy.parameters():
                    parameter.grad = torch.ones_like(parameter)
                optimizer.step()
        except Exception as error:
            why = f"{kind.__name__} with {of} cannot be tried ({type(error).__name__}: {first_line(error)})"
        else:
            why = "" if digest(captured()) == before else f"{kind.__name__} or {of} draws random numbers of its own"
    if why and why not in _drawing:
        _drawing.add(why)
        _log([trainer.model], None, why, logging.WARNING)
    return not why


def forget() -> None:
    """Let the next study have verdicts of its own, and its log say them."""
    for known in (_agreed, _differing, _chosen, _enough, _drawing):
        known.clear()


def _log(models: Sequence[nn.Module], how: How | None, why: str, level: int = logging.INFO) -> None:
    said = "one after the other" if how is None else "as one program"
    log.log(level, "trials of %s are trained %s: %s", type(models[0]).__name__, said, why)


def _agreement(models: Sequence[nn.Module], data: Data) -> tuple[How | None, str]:
    """Return how models give the same together as alone, None where they do not, and why."""
    before = digest(captured())
    next(minibatches(data, 1))
    if digest(captured()) != before:
        return None, "the data's augmentation draws random numbers of its own"
    few = next(data.batches(data.train, size=_EXAMPLES))
    why = ""
    for how in ({"expanded": False}, {"expanded": True}):
        if not (why := _difference(models[:_COMPARED], *few, how)):
            return how, "their losses, gradients and outputs agree"
    return None, why


def _difference(models: Sequence[nn.Module], inputs: Tensor, targets: Tensor, how: How) -> str:
    """Say in what trials trained together differ from the same alone, or nothing."""
    try:
        inputs, targets = _doubled(inputs, targets)
        moved = [_moved(_copy(model).double(), 64 + 32 * i) for i, model in enumerate(models)]
        alone, together = (deepcopy(moved) for _ in range(2))
        expected = [_alone(model, inputs, targets) for model in alone]
        before = digest(captured())
        joint = Joint(together, inputs.device, **how)
        joint.model.train()
        losses, _, gradients = joint.gradients(inputs, targets)
        outputs = _evaluated(alone, joint, inputs)
    except Exception as error:
        return f"they cannot be compared ({type(error).__name__}: {first_line(error)})"
    if digest(captured()) != before:
        return "the model draws random numbers of its own"
    if not all(loss.isfinite() for loss, _ in expected):
        return "their losses are not finite"
    for i, (loss, own) in enumerate(expected):
        given = [None if each is None else each[i] for each in gradients]
        if not _close(loss, losses[i]) or not all(map(_close, own, given)):
            return "their losses or gradients would be others"
    if not _close(*outputs):
        return "their outputs in evaluation would be others"
    return "" if _same_buffers(alone, together) else "their statistics would be others"


@torch.no_grad()
def _moved(model: nn.Module, dropped: int) -> nn.Module:
    """Return a model, in training, whose weights are none that hide something, as zeros do, and whose dropout drops."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for dropout in model.modules():
        if isinstance(dropout, Dropout):
            dropout.dropped, dropout.scale = dropped, 256 / (256 - dropped)
    return model.train()


@torch.inference_mode()
def _evaluated(alone: Sequence[nn.Module], joint: Joint, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs of models in evaluation, and together, in smaller batches."""
    joint.model.eval()
    together = torch.cat([joint.outputs(each) for each in inputs.split(_EXAMPLES // 2)], 1)
    return torch.stack([model.eval()(inputs) for model in alone]).view_as(together), together


def _recordable(models: Sequence[nn.Module], data: Data, how: How) -> bool:
    """Whether a pass that is recorded as a CUDA graph gives what it gives else, of other minibatches, too."""
    batches = [_doubled(*batch) for batch in islice(data.batches(data.train, size=_EXAMPLES), 3)]
    moved = [_moved(_copy(model).double(), 64 + 32 * i) for i, model in enumerate(models[:_COMPARED])]
    plain, replayed = (deepcopy(moved) for _ in range(2))
    joint = Joint(plain, data.mean.device, how["expanded"])
    other = Joint(replayed, data.mean.device, how["expanded"])
    recorded = Recorded(other.gradients, other.masks)
    try:
        for inputs, targets in (batches[0], *batches):
            with without_waiting():
                losses, _, gradients = joint.gradients(inputs, targets)
            given, _, own = recorded(inputs, targets)
            if not (_close(losses, given) and all(map(_close, gradients, own)) and _same_buffers(plain, replayed)):
                return False
    except RuntimeError as error:
        log.info("a pass of %s is no CUDA graph: %s", type(models[0]).__name__, first_line(error))
        return False
    return True


def _doubled(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return inputs.double(), targets.double() if targets.is_floating_point() else targets


def _same_buffers(some: Sequence[nn.Module], others: Sequence[nn.Module]) -> bool:
    buffers = (zip(one.buffers(), other.buffers(), strict=True) for one, other in zip(some, others, strict=True))
    return all(_close(*pair) for pairs in buffers for pair in pairs)


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.allclose(one, other, rtol=1e-8, atol=1e-11, equal_nan=True)


def _seconds(models: Sequence[nn.Module], inputs: Tensor, targets: Tensor, how: How) -> tuple[float, float]:
    """Return what a forward and backward pass of all trials takes, and one of the first alone."""
    copies = [_copy(model).train() for model in models]
    alone = _copy(models[0]).train()
    joint = Joint(copies, inputs.device, how["expanded"])
    joint.model.train()
    passed = Recorded(joint.gradients, joint.masks) if how.get("recorded") else joint.gradients
    return _least(lambda: passed(inputs, targets)), _least(lambda: _alone(alone, inputs, targets))


def _least(work: Callable[[], Any]) -> float:
    taken: list[float] = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        work()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def _alone(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    loss = mean_loss(model(inputs), targets)
    weights = [each for each in model.parameters() if each.requires_grad]
    return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)


def _copy(model: nn.Module) -> nn.Module:
    """Return a copy whose dropout begins anew."""
    for dropout in model.modules():
        if isinstance(dropout, Dropout):
            dropout.key(0)
    return deepcopy(model)
