import math
import pickle

import pytest
import torch
from torch import nn

from halving.errors import UserError
from halving.training.dropout import Dropout

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


def keyed(p: float, seed: int) -> Dropout:
    layer = Dropout(p)
    layer.key(seed)
    return layer


@pytest.mark.parametrize("device", DEVICES)
def test_masks_depend_on_the_key_and_nothing_else(device: str) -> None:
    x = torch.ones(32, 33, device=device)
    layer, same = keyed(0.5, 7), keyed(0.5, 7)
    first, second = layer(x), layer(x)
    torch.manual_seed(123)
    torch.rand(5, device=device)
    assert torch.equal(same(x), first) and torch.equal(same(x), second)
    assert not torch.equal(first, second)
    layer.key(7)
    assert torch.equal(layer(x), first)
    layer.key(8)
    assert not torch.equal(layer(x), first)


def test_a_layer_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    keyed(0.5, 7)(torch.ones(100))
    assert torch.equal(torch.get_rng_state(), before)


def test_keys_that_agree_in_their_low_bits_differ() -> None:
    """torch's CPU generator takes 32 bits of a seed; a trial's number may stand above them."""
    x = torch.ones(1000)
    masks = {tuple(keyed(0.5, key)(x).tolist()) for key in (1, 1 + 2**32, 1 + 2**63, 1 + 2**80)}
    assert len(masks) == 4


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("p", "dropped"), [(0.5, 128), (0.1, 26), (0.9, 230), (0.003, 1), (0.999, 255)])
def test_units_are_dropped_at_the_rounded_rate_and_the_mean_is_kept(device: str, p: float, dropped: int) -> None:
    """The count of kept units is binomial: within 5 standard deviations, and all of them carry the exact scale."""
    n, keep = 200_003, 1 - dropped / 256
    y = keyed(p, 1)(torch.ones(n, device=device, dtype=torch.float64))
    assert set(y.unique().tolist()) == {0.0, 1 / keep}
    kept = int((y != 0).sum())
    assert abs(kept - n * keep) < 5 * math.sqrt(n * keep * (1 - keep))
    assert abs(y.mean().item() - 1) < 5 * math.sqrt((1 - keep) / (keep * n))


def test_units_are_dropped_independently_of_their_neighbours() -> None:
    """Eight units share a random word: for each lag up to 8 the agreement of dropped units is still binomial."""
    n = 160_000
    kept = keyed(0.5, 3)(torch.ones(n)) != 0
    for lag in range(1, 9):
        agree = int((kept[lag:] == kept[:-lag]).sum())
        assert abs(agree - (n - lag) / 2) < 5 * math.sqrt((n - lag) / 4), lag
    for place in range(8):
        assert abs(int(kept[place::8].sum()) - n / 16) < 5 * math.sqrt(n / 32), place


@pytest.mark.parametrize("device", DEVICES)
def test_the_gradient_flows_through_kept_units_only(device: str) -> None:
    x = torch.randn(64, 10, device=device).requires_grad_()
    y = keyed(0.25, 5)(x)
    upstream = torch.randn(64, 10, device=device)
    y.backward(upstream)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.where(y != 0, upstream / 0.75, 0.0))
    assert (y == 0).any()


def test_evaluation_and_p_zero_are_the_identity() -> None:
    x = torch.randn(4, 5)
    assert keyed(0.5, 1).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_evaluation_between_minibatches_does_not_shift_the_masks() -> None:
    x = torch.ones(50)
    straight, interrupted = keyed(0.5, 2), keyed(0.5, 2)
    expected = [straight(x), straight(x)]
    first = interrupted(x)
    interrupted.eval()(x)
    assert torch.equal(first, expected[0]) and torch.equal(interrupted.train()(x), expected[1])


def test_a_mask_does_not_depend_on_type_and_memory_format() -> None:
    x = torch.ones(2, 6, 4, 4)
    expected = keyed(0.5, 4)(x)
    y = keyed(0.5, 4)(x.to(memory_format=torch.channels_last))
    assert torch.equal(y, expected) and y.is_contiguous(memory_format=torch.channels_last)
    half = keyed(0.5, 4)(x.bfloat16())
    assert half.dtype == torch.bfloat16 and torch.equal(half.float(), expected)
    assert keyed(0.5, 4)(x[:0]).shape == (0, 6, 4, 4)


def test_a_layer_in_use_travels_between_processes_and_has_no_state() -> None:
    model = nn.Sequential(nn.Linear(3, 8), keyed(0.5, 6))
    x = torch.ones(4, 3)
    model(x)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(x), model(x))
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("p", [-0.1, 1.0, 1, 1.5, math.nan, "half", True, None])
def test_a_bad_probability_is_refused(p: object) -> None:
    with pytest.raises(UserError, match=r"dropout=.*\[0, 1\)"):
        Dropout(p)  # type: ignore[arg-type]
