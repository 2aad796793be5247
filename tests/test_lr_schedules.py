import math
import pickle
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from halving.errors import UserError
from halving.targets import instantiate
from halving.training.lr_schedules import (
    Constant,
    Cosine,
    Cyclic,
    Factor,
    MultiFactor,
    OneCycle,
    Plateau,
    Polynomial,
    Schedule,
    SquareRoot,
)

torch_schedules = torch.optim.lr_scheduler
CONF = Path(__file__).parents[1] / "conf" / "lr_schedule"


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (Constant(epochs=4), {0: 1.0, 2.5: 1.0, 4: 1.0, 9: 1.0}),
        (SquareRoot(epochs=8), {0: 1.0, 3: 0.5, 1.25: 2 / 3, 8: 1 / 3, 99: 1 / 3}),
        (Factor(epochs=4, factor=0.5, floor=0.1), {0: 1.0, 0.99: 1.0, 1: 0.5, 2.5: 0.25, 3: 0.125, 4: 0.1, 9: 0.1}),
        (Factor(epochs=2, factor=0.5, floor=0.0), {2: 0.25, 3: 0.25, 99: 0.25}),
        (
            MultiFactor(epochs=20, at=[0.5, 0.55], factor=0.1),
            {0: 1.0, 9.99: 1.0, 10: 0.1, 11: 0.01, 20: 0.01, 30: 0.01},
        ),
        (MultiFactor(epochs=3, at=[1.0], factor=0.5), {2.99: 1.0, 3: 0.5}),
        (Polynomial(epochs=4, power=2.0), {0: 1.0, 1: 0.5625, 2: 0.25, 4: 0.0, 5: 0.0}),
        (Polynomial(epochs=4, floor=0.2), {0: 1.0, 1: 0.8, 2: 0.6, 4: 0.2, 5: 0.2}),
        (Cosine(epochs=6, floor=0.2), {0: 1.0, 2: 0.8, 3: 0.6, 4: 0.4, 6: 0.2, 7: 0.2}),
        (
            Cyclic(epochs=8, cycles=2, floor=0.2, decay=0.5),
            {0: 0.2, 1: 0.6, 2: 1.0, 3: 0.6, 4: 0.2, 6: 0.6, 8: 0.2, 9: 0.2},
        ),
        (OneCycle(epochs=10, peak=0.4, start=0.2, end=0.1), {0: 0.2, 2: 0.6, 4: 1.0, 7: 0.55, 10: 0.1, 11: 0.1}),
    ],
)
def test_each_schedule_has_its_formula_s_values(schedule: Schedule, points: dict[float, float]) -> None:
    assert [schedule(epoch) for epoch in points] == pytest.approx(list(points.values()), abs=1e-12)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (Factor(epochs=12, factor=0.8, floor=0.0), lambda o: torch_schedules.ExponentialLR(o, 0.8)),
        (MultiFactor(epochs=12, at=[0.25, 0.75], factor=0.3), lambda o: torch_schedules.MultiStepLR(o, [3, 9], 0.3)),
        (Polynomial(epochs=12, power=1.7), lambda o: torch_schedules.PolynomialLR(o, 12, 1.7)),
        (Cosine(epochs=12, floor=0.05), lambda o: torch_schedules.CosineAnnealingLR(o, 12, 0.05)),
        (
            Cyclic(epochs=12, cycles=3, floor=0.1, decay=0.5),
            lambda o: torch_schedules.CyclicLR(o, 0.1, 1.0, step_size_up=2, mode="triangular2", cycle_momentum=False),
        ),
        # torch's peak is at step pct_start * total_steps - 1 of total_steps - 1
        (
            OneCycle(epochs=12, peak=1 / 3, start=0.04, end=4e-6),
            lambda o: torch_schedules.OneCycleLR(o, 1.0, total_steps=13, pct_start=5 / 13, cycle_momentum=False),
        ),
    ],
)
def test_each_schedule_agrees_with_torch_epoch_by_epoch(schedule: Schedule, theirs: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    chain = theirs(optimizer)
    for epoch in range(13):
        assert schedule(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), epoch
        if epoch < 12:
            optimizer.step()
            chain.step()


def test_plateau_agrees_with_torch() -> None:
    losses = [
        1.0,
        0.9,
        0.8999,
        0.9,
        math.nan,
        0.95,
        0.5,
        0.6,
        0.7,
        0.8,
        0.6,
        0.6,
        0.6,
        0.6,
        math.inf,
        0.1,
        0.1,
        0.1,
        0.1,
    ]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch_schedules.ReduceLROnPlateau(optimizer, factor=0.3, patience=2, threshold=1e-3, min_lr=0.02)
    plateau = Plateau(epochs=len(losses), factor=0.3, patience=2, threshold=1e-3, floor=0.02)
    ours = []
    for epoch, loss in enumerate(losses):
        plateau.observe(loss)
        theirs.step(loss)
        ours.append(plateau(epoch + 1))
        assert ours[-1] == pytest.approx(optimizer.param_groups[0]["lr"]), epoch
    assert ours[3:6] == [1.0, 0.3, 0.3] and ours[-1] == 0.02


def test_plateau_restored_from_its_state_goes_on_as_if_never_stopped() -> None:
    losses = [0.5, 0.6, 0.6, 0.4, 0.5, 0.5, 0.5, 0.5, 0.3, 0.4, 0.4, 0.4]
    for stop in range(len(losses)):
        straight, before, after = (Plateau(epochs=12, factor=0.5, patience=1) for _ in range(3))
        for loss in losses[:stop]:
            straight.observe(loss)
            before.observe(loss)
        state = before.state()
        assert all(type(value) in (int, float) for value in state.values())
        after.restore(state)
        before.observe(9.0)
        for loss in losses[stop:]:
            straight.observe(loss)
            after.observe(loss)
            assert after(3) == straight(3)
        assert after.state() == straight.state()
        assert straight(3) < 1.0


def test_a_shape_begins_after_the_warm_up_and_spans_the_rest() -> None:
    shifted, plain = Cosine(epochs=10, warmup=4.0, floor=0.1), Cosine(epochs=6, floor=0.1)
    for epoch in (0, 1.5, 3, 6, 8):
        assert shifted(4 + epoch) == pytest.approx(plain(epoch))
    drop = MultiFactor(epochs=10, warmup=2.0, at=[0.5], factor=0.1)
    assert (drop(5.99), drop(6)) == (1.0, 0.1)


options = st.floats(0.0, 1.0)
factors = st.floats(0.01, 1.0)
SHAPES = {
    Constant: {},
    SquareRoot: {},
    Factor: {"factor": factors, "floor": options},
    MultiFactor: {"factor": factors, "at": st.lists(factors, max_size=4)},
    Polynomial: {"power": st.floats(0.1, 9.0), "floor": options},
    Cosine: {"floor": options},
    Cyclic: {"floor": options, "cycles": st.integers(1, 9), "decay": factors},
    OneCycle: {"peak": st.floats(0.01, 0.99), "start": options, "end": options},
    Plateau: {},
}


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    shape = draw(st.sampled_from(list(SHAPES)))
    epochs = draw(st.integers(1, 300))
    common = {
        "epochs": epochs,
        "warmup": draw(st.floats(0.0, 0.99, allow_subnormal=False)) * epochs,
        "warmup_start": draw(options),
    }
    return shape(**common, **{key: draw(values) for key, values in SHAPES[shape].items()})


@given(schedules(), st.floats(0.0, 1.5))
def test_the_multiplier_stays_in_the_unit_interval_and_holds_after_the_end(schedule: Schedule, fraction: float) -> None:
    epoch = fraction * schedule.epochs
    assert -1e-12 <= schedule(epoch) <= 1.0 + 1e-12
    if epoch >= schedule.epochs:
        assert schedule(epoch) == schedule(schedule.epochs)


@given(schedules(), st.floats(0.0, 1.0, exclude_max=True))
def test_the_warm_up_rises_linearly_to_where_the_shape_begins(schedule: Schedule, fraction: float) -> None:
    top = schedule(schedule.warmup)
    epoch = fraction * schedule.warmup
    if epoch < schedule.warmup:
        gone = epoch / schedule.warmup  # which is not quite the fraction of the least numbers
        expected = top * (schedule.warmup_start + (1 - schedule.warmup_start) * gone)
        assert schedule(epoch) == pytest.approx(expected, abs=1e-9)
    if not isinstance(schedule, Cyclic | OneCycle):
        assert top == 1.0


@given(st.integers(1, 60), st.integers(1, 1000), st.integers(1, 9))
def test_stairs_are_never_missed_by_rounding(epochs: int, batches: int, tenths: int) -> None:
    """A point at k/10 of the training, met exactly by a minibatch, counts from that minibatch on."""
    step = tenths * epochs * batches
    if step % 10 == 0:
        epoch, batch = divmod(step // 10, batches)
        drop = MultiFactor(epochs=epochs, at=[tenths / 10], factor=0.5)
        assert drop(epoch + batch / batches) == 0.5
        assert drop(epoch + (batch - 0.5) / batches) == 1.0


@pytest.mark.parametrize(
    ("shape", "values", "key"),
    [
        (Constant, {"epochs": 0}, "epochs"),
        (Constant, {"epochs": math.nan}, "epochs"),
        (Cosine, {"warmup": -1.0}, "warmup"),
        (Cosine, {"warmup": 10.0}, "warmup"),
        (Cosine, {"warmup": "long"}, "warmup"),
        (Cosine, {"warmup_start": 1.5}, "warmup_start"),
        (Cosine, {"floor": -0.1}, "floor"),
        (Factor, {"factor": 0.0}, "factor"),
        (Factor, {"factor": 1.1}, "factor"),
        (Factor, {"floor": 2.0}, "floor"),
        (MultiFactor, {"at": [0.5, 15]}, "at[1]"),
        (MultiFactor, {"at": [0]}, "at[0]"),
        (MultiFactor, {"at": 0.5}, "at"),
        (MultiFactor, {"factor": None}, "factor"),
        (Polynomial, {"power": 0.0}, "power"),
        (Cyclic, {"cycles": 2.5}, "cycles"),
        (Cyclic, {"cycles": 0}, "cycles"),
        (Cyclic, {"decay": 2.0}, "decay"),
        (OneCycle, {"peak": 1.0}, "peak"),
        (OneCycle, {"start": 25.0}, "start"),
        (Plateau, {"factor": 1.0}, "factor"),
        (Plateau, {"patience": -1}, "patience"),
        (Plateau, {"threshold": 1.0}, "threshold"),
    ],
)
def test_a_bad_value_is_named(shape: type[Schedule], values: dict, key: str) -> None:
    with pytest.raises(UserError) as caught:
        shape(**{"epochs": 10, **values})
    assert str(caught.value).startswith(f"lr_schedule.{key}=")
    assert "must be" in str(caught.value)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_option_spells_out_what_its_class_takes(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# python train.py lr_schedule={path.stem}")
    root = OmegaConf.create({"epochs": 9, "lr_schedule": OmegaConf.create(text)})
    plain = cast(dict[str, Any], OmegaConf.to_container(root, resolve=True))["lr_schedule"]
    schedule = instantiate(plain, "lr_schedule")
    taken = {field.name: getattr(schedule, field.name) for field in fields(schedule) if field.init}
    written = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    assert written == {"_target_": plain["_target_"], **taken}
    assert {key: type(value) for key, value in written.items()} == {
        "_target_": str,
        **{key: type(value) for key, value in taken.items()},
    }
    defaults = type(schedule)(epochs=9)
    assert schedule == (replace(defaults, warmup=5.0) if path.stem == "cosine_warmup" else defaults)
    again = pickle.loads(pickle.dumps(schedule))
    assert [again(epoch / 4) for epoch in range(40)] == [schedule(epoch / 4) for epoch in range(40)]


def test_there_is_an_option_for_every_schedule() -> None:
    named = {cast(Any, OmegaConf.load(path))["_target_"].rpartition(".")[2] for path in CONF.glob("*.yaml")}
    assert named == {shape.__name__ for shape in SHAPES}
