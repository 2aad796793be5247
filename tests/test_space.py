"""Spaces: from a mapping to the unit cube and back, what is refused, and what random search draws."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from halving.errors import UserError
from halving.searchers import EvolutionSearcher, GridSearcher, RandomSearcher
from halving.searchers.transfer import transferred
from halving.space import Space

SPACE = Space.from_config(
    {
        "optimizer": {
            "lr": {"_target_": "scipy.stats.loguniform", "a": 0.0001, "b": 1.0},
            "momentum": {"_target_": "scipy.stats.uniform", "loc": 0.5, "scale": 0.5},
            "log_decay": {"_target_": "scipy.stats.norm", "loc": -3.0, "scale": 2.0},
        },
        "data.batch_size": {"_target_": "scipy.stats.randint", "low": 32, "high": 256},
        "model": {"width": [4, 8, 16.5], "activation": ["relu", "tanh", None, True]},
    }
)
KINDS = {
    "optimizer.lr": "continuous",
    "optimizer.momentum": "continuous",
    "optimizer.log_decay": "continuous",
    "data.batch_size": "integer",
    "model.width": "ordered",
    "model.activation": "categories",
}
points = st.lists(st.floats(0, 1), min_size=len(KINDS), max_size=len(KINDS))


def test_nested_and_dotted_names_and_kinds() -> None:
    assert {dimension.name: dimension.kind for dimension in SPACE.dimensions} == KINDS
    assert SPACE.names == tuple(KINDS), "in the order written"


@given(points)
def test_every_point_decodes_into_the_support_as_plain_python(u: list[float]) -> None:
    configuration: dict[str, Any] = SPACE.decode(u)
    assert 0.0001 <= configuration["optimizer.lr"] <= 1
    assert 0.5 <= configuration["optimizer.momentum"] <= 1
    assert math.isfinite(configuration["optimizer.log_decay"])
    assert configuration["data.batch_size"] in range(32, 256)
    assert configuration["model.width"] in (4, 8, 16.5)
    assert configuration["model.activation"] in ("relu", "tanh", None, True)
    assert {type(value) for value in configuration.values()} <= {bool, int, float, str, type(None)}
    assert json.loads(json.dumps(configuration)) == configuration


@given(points)
def test_decoding_then_encoding_stays_in_the_same_cell(u: list[float]) -> None:
    """A continuous value keeps its coordinate; a discrete one comes to the middle of its cell."""
    point = SPACE.encode(configuration := SPACE.decode(u))
    assert point.shape == (len(KINDS),) and point.dtype == np.float64
    assert point[:3] == pytest.approx(u[:3], abs=1e-9)
    for coordinate, width, x in zip(point[3:], (1 / 224, 1 / 3, 1 / 4), u[3:], strict=True):
        assert abs(coordinate - x) <= width / 2 + 1e-9
    again = SPACE.decode(point)
    assert {k: v for k, v in again.items() if not k.startswith("optimizer")} == {
        k: v for k, v in configuration.items() if not k.startswith("optimizer")
    }


@pytest.mark.parametrize("end", [0, 1])
def test_ends_of_the_cube_are_the_ends_of_the_support(end: int) -> None:
    configuration = SPACE.decode([end] * len(KINDS))
    assert configuration["optimizer.lr"] == pytest.approx([0.0001, 1][end])
    assert configuration["optimizer.momentum"] == [0.5, 1][end]
    assert configuration["data.batch_size"] == [32, 255][end]
    assert configuration["model.width"] == [4, 16.5][end]
    assert SPACE.decode([end - 0.5 + end] * len(KINDS)) == configuration, "outside is clipped"


@pytest.mark.parametrize(
    "distribution", [stats.randint(32, 256), stats.binom(9, 0.3), stats.poisson(4), stats.randint(7, 8)]
)
def test_integer_sits_at_the_middle_of_its_cell(distribution: Any) -> None:
    space = Space.from_config({"k": distribution})
    low, high = int(distribution.ppf(1e-6)), int(distribution.ppf(1 - 1e-6))
    for k in range(low, high + 1):
        (u,) = space.encode({"k": k})
        assert u == pytest.approx(distribution.cdf(k) - distribution.pmf(k) / 2, abs=1e-9)
        assert space.decode([u]) == {"k": k}


@given(u=st.floats(0, 1))
@pytest.mark.parametrize(
    "distribution",
    [
        stats.uniform(0.1, 3),
        stats.loguniform(1e-6, 10),
        stats.norm(2, scale=5),
        stats.truncnorm(-1, 2, loc=0.5),
        stats.beta(0.5, 2),
        stats.gamma(2.5, scale=3),
        stats.pareto(b=3),
        stats.triang(c=0.3),
        stats.semicircular(),
        stats.randint(-3, 200),
        stats.poisson(4, loc=2),
        stats.rv_discrete(values=([1, 2, 7], [0.2, 0.5, 0.3]))(),
    ],
    ids=lambda distribution: distribution.dist.name or "values",
)
def test_a_quantile_has_the_bits_of_scipy(distribution: Any, u: float) -> None:
    value = Space.from_config({"x": distribution}).decode([u])["x"]
    assert value == min(
        max(distribution.ppf(min(max(u, 2**-53), 1 - 2**-53)), distribution.support()[0]), distribution.support()[1]
    )


class Halves:
    """A user's own distribution, which scipy does not know; `dist` is a word of its own."""

    dist = "halves"

    def cdf(self, x: float) -> float:
        return 1 - 0.5**x

    def ppf(self, q: float) -> float:
        return -math.log2(1 - q)

    def support(self) -> tuple[float, float]:
        return 0.0, math.inf


def test_any_class_with_a_cdf_a_ppf_and_a_support_is_a_distribution() -> None:
    space = Space.from_config({"x": Halves()})
    assert space.decode([0.75]) == {"x": 2.0}
    assert space.encode({"x": 3.0}) == pytest.approx([0.875])


def test_the_whole_part_of_a_log_scale_has_every_integer_with_its_share() -> None:
    space = Space.from_config(
        {"k": {"_target_": "scipy.stats.loguniform", "a": 8, "b": 257, "_integer_": True}, "l": {"_values_": [1, 2]}}
    )
    assert {d.name: d.kind for d in space.dimensions} == {"k": "integer", "l": "ordered"}
    middles = [float(space.encode({"k": k, "l": 1})[0]) for k in range(8, 257)]
    assert [space.decode([u, 0])["k"] for u in middles] == list(range(8, 257))
    assert middles[0] == pytest.approx(math.log(9 / 8) / math.log(257 / 8) / 2)
    assert [space.decode([u, 0])["k"] for u in (0, 1)] == [8, 256]
    assert type(space.decode([0.3, 0])["k"]) is int


def test_the_canonical_point_is_where_the_configuration_lies() -> None:
    """For many points at once: lists and integers at the middle of their cells, what does not exist at 0.5."""
    uniform = stats.uniform(0, 1)
    whole = {"_target_": "scipy.stats.loguniform", "a": 8, "b": 257, "_integer_": True}
    space = Space.from_config(
        {
            "y": {"_values_": [1, 2], "_when_": "x > 0.4 and n >= 100"},
            "kind": {"_choice_": {"a": {"x": uniform, "inner": {"_choice_": {"c": {"z": whole}, "d": {}}}}, "b": {}}},
            "x": uniform,
            "n": stats.randint(32, 256),
            "w": {"_values_": ["p", "q"], "_when_": "kind.inner.z > 30 and depth == 3"},
            "k": {"_values_": [1, 2, 3], "_when_": "depth > 5"},
        },
        known={"depth": 3},
    )
    points = np.random.default_rng(0).random((300, len(space.dimensions)))
    middles = np.column_stack([each.middles(points[:, i]) for i, each in enumerate(space.dimensions)])
    expected = np.array([space.encode(space.decode(point)) for point in points])
    assert space.canonical(middles) == pytest.approx(expected, abs=1e-12)
    assert [space.decode(point) for point in space.canonical(points)] == [space.decode(point) for point in points]
    plain = np.random.default_rng(1).random((5, len(SPACE.dimensions)))
    assert SPACE.canonical(plain) is plain


def test_a_log_scale_halves_at_the_geometric_mean() -> None:
    assert SPACE.decode([0.5] * 6)["optimizer.lr"] == pytest.approx(0.01)
    assert SPACE.encode(SPACE.decode([0.5] * 6) | {"optimizer.lr": 0.1})[0] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("leaf", "why"),
    [
        ({"_target_": "scipy.stats.loguniform", "a": 1.0, "b": 0.01}, "reversed"),
        ({"_target_": "scipy.stats.uniform", "loc": 0.0, "scale": -1.0}, "reversed"),
        ({"_target_": "scipy.stats.randint", "low": 5, "high": 5}, "reversed"),
        ({"_target_": "scipy.stats.norm", "loc": 0.0, "scale": math.nan}, "out of range"),
        ({"_target_": "scipy.stats.uniform", "loc": [0.0, 1.0]}, "not a distribution"),
        ({"_target_": "scipy.stats.logunifrom", "a": 0.1, "b": 1.0}, "cannot import"),
        ({"_target_": "scipy.stats.loguniform", "low": 0.1, "high": 1.0}, "low"),
        ({"_target_": "builtins.dict"}, "not a distribution"),
        (0.1, "not a distribution"),
        ("0.1", "not a distribution"),
        ([], "empty list"),
        ([1, 2, 1], "twice"),
        ([0.5, np.float64(0.5)], "twice"),
        ([1.0, math.nan], "nan is no scalar"),
        (stats.randint(0, 5, loc=0.5), "values such as 2.5"),
        ([[1], [2]], "no scalar"),
        (["${model}"], "interpolation"),
    ],
)
def test_refusals_name_the_dimension_and_the_reason(leaf: Any, why: str) -> None:
    with pytest.raises(UserError) as refused:
        Space.from_config({"optimizer": {"lr": leaf}})
    assert str(refused.value).startswith("space.optimizer.lr") and why in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        [1, 1.0, "sqrt"],
        [False, 0],
        [True, 1, "1", 1.0, "True", None, "None"],
        [-0.0, 0, 0.0, math.inf],
        np.array([3, 1]),
        [np.float32(0.5), np.int64(1), np.bool_(True), np.str_("a")],
    ],
    ids=repr,
)
def test_the_values_of_a_list_are_told_apart_as_they_are(values: Any) -> None:
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    written = sorted(map(repr, plain))
    space = Space.from_config({"x": values})
    assert [repr(space.decode(space.encode({"x": value}))["x"]) for value in plain] == list(map(repr, plain))
    for kind in (GridSearcher, RandomSearcher, EvolutionSearcher):
        searcher = kind(space)
        proposed = [searcher.propose(trial) for trial in range(len(plain) + 1)]
        assert proposed.pop() is None and sorted(repr(each["x"]) for each in proposed if each) == written
        assert transferred({"x": plain[-1]}, space, {})["x"] is plain[-1]


def test_a_list_is_ordered_if_its_numbers_increase() -> None:
    kinds = {"ordered": [[1], [1, 2.5, 4]], "categories": [[2, 1], [1, 1.0], [1, "a"], [False, True], ["a"]]}
    for kind, lists in kinds.items():
        assert [Space.from_config({"x": values}).dimensions[0].kind for values in lists] == [kind] * len(lists)


def test_a_number_that_a_list_has_as_another_type_is_in_it() -> None:
    space = Space.from_config({"x": [1, 2], "y": [0.5, 1.0, "1"]})
    assert list(space.encode({"x": 2.0, "y": 1})) == [0.75, 0.5]
    with pytest.raises(ValueError, match="True is not in"):
        space.encode({"x": True, "y": 1})


def test_a_discrete_distribution_keeps_its_values_and_their_probabilities() -> None:
    target = {"_target_": "scipy.stats.rv_discrete", "values": [[0.1, 0.2, 0.5], [0.2, 0.5, 0.3]]}
    space = Space.from_config({"x": target, "n": stats.rv_discrete(values=([7, 1, 2, 3], [0.3, 0.2, 0.5, 0]))(loc=1)})
    middles = {0.1: 0.1, 0.2: 0.45, 0.5: 0.85}
    for value, u in middles.items():
        assert space.encode({"x": value, "n": 3})[0] == pytest.approx(u)
        assert space.decode([u, 0.5]) == {"x": value, "n": 3}
    assert [space.decode([u, u]) for u in (0, 1)] == [{"x": 0.1, "n": 2}, {"x": 0.5, "n": 8}]
    assert {type(space.decode([0.5, u])["n"]) for u in (0, 0.5, 1)} == {int}
    assert space.dimensions[0].middles(np.array([0.0, 0.19, 0.21, 0.71, 1.0])) == pytest.approx(
        [0.1, 0.1, 0.45, 0.85, 0.85]
    )
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng)["x"] for _ in range(2000)]
    assert [drawn.count(value) / 2000 for value in middles] == pytest.approx([0.2, 0.5, 0.3], abs=0.04)
    assert len(GridSearcher(space)) == 9, "values, not the range that they span"


@pytest.mark.parametrize(
    ("config", "domains"),
    [
        ({"x": [1, 2.5, 4]}, {"x": [1, 2.5, 4]}),
        ({"x": ["a", None, True]}, {"x": ["a", None, True]}),
        ({"x": [str(i) for i in range(64)]}, {"x": [str(i) for i in range(64)]}),
        ({"x": [str(i) for i in range(65)]}, {"x": {}}),
        ({"x": list(range(65))}, {"x": {"low": 0, "high": 64}}),
        ({"x": stats.uniform(1, 2)}, {"x": {"low": 1.0, "high": 3.0}}),
        ({"x": stats.randint(3, 8)}, {"x": {"low": 3, "high": 7}}),
        ({"x": stats.norm(0, 1)}, {"x": {}}),
        ({"x": stats.poisson(3)}, {"x": {}}),
        ({"k": {"_choice_": {"a": {"x": [9, 1]}, "b": {"x": stats.randint(3, 8)}}}}, {"k.x": {"low": 1, "high": 9}}),
        ({"k": {"_choice_": {"a": {"x": ["w"]}, "b": {"x": stats.randint(3, 8)}}}}, {"k.x": {}}),
        ({"k": {"_choice_": {"a": {"x": [1, 2]}, "b": {"x": [2, 3]}}}}, {"k.x": [1, 2, 3]}),
    ],
)
def test_a_domain_lists_the_values_or_says_where_they_end(config: dict[str, Any], domains: dict[str, Any]) -> None:
    found = {name: domain for name, domain in Space.from_config(config).domains.items() if name in domains}
    assert json.dumps(found) == json.dumps(domains), "types as well"


@pytest.mark.parametrize(
    ("leaf", "inside", "outside"),
    [
        (stats.uniform(0.7, 0.1), [0.7, 0.75, 0.7 + 0.1, 0.8], [0.69, 0.81, math.nan, math.inf, "0.75", None, True]),
        (stats.randint(3, 8), [3, 7, 5.0], [2, 8, 5.5, "5", True]),
        (stats.loguniform(1e-5, 1e-1), [1e-5, 0.1 * (1 + 1e-12)], [0.0, 0.1 * (1 + 1e-6)]),
        ([1, 2.5, True], [1, 1.0, 2.5, True], [2, False, "1", None]),
        (["a", None], ["a", None], ["b", 0]),
    ],
)
def test_a_space_holds_its_values_up_to_their_last_digits(leaf: Any, inside: list[Any], outside: list[Any]) -> None:
    space = Space.from_config({"x": leaf, "y": {"_values_": [1], "_when_": "x == 3"}})
    held = [space.holds({"x": value, "y": 1} if value == 3 else {"x": value}) for value in (*inside, *outside)]
    assert held == [True] * len(inside) + [False] * len(outside)
    assert not space.holds({}) and not space.holds({"y": 1})
    (x, _) = space.dimensions
    assert [x.holds(value) for value in (*inside, *outside)] == held


def test_one_name_for_two_dimensions_is_refused() -> None:
    with pytest.raises(UserError, match=r"space.model.width: named twice"):
        Space.from_config({"model": {"width": [1, 2]}, "model.width": [3, 4]})


def test_sample_follows_the_generator_and_the_distribution() -> None:
    first, second = (SPACE.sample(np.random.default_rng(1)) for _ in range(2))
    assert first == second != SPACE.sample(np.random.default_rng(2))
    rng = np.random.default_rng(0)
    rates = [math.log10(float(SPACE.sample(rng)["optimizer.lr"] or 0)) for _ in range(400)]
    assert stats.kstest(rates, stats.uniform(-4, 4).cdf).pvalue > 0.001


def test_random_searchers_trial_depends_on_seed_and_id_alone() -> None:
    forward, backward = RandomSearcher(SPACE, seed=3), RandomSearcher(SPACE, seed=3)
    expected = [forward.propose(t) for t in range(8)]
    backward.observe(5, {"model.width": 4}, 1, 0.1)
    assert [backward.propose(t) for t in reversed(range(8))] == expected[::-1]
    assert RandomSearcher(SPACE, seed=4).propose(0) != expected[0]
    assert len({configuration["optimizer.lr"] for configuration in expected if configuration}) == 8


def test_initial_configurations_come_first_and_shift_nobody() -> None:
    lr = Space.from_config({"lr": stats.uniform(0, 1)})
    plain = RandomSearcher(lr, seed=0)
    one = RandomSearcher(lr, seed=0, initial={"lr": 0.1})
    two = RandomSearcher(lr, seed=0, initial=[{"lr": 0.1}, {"lr": 0.2}])
    assert [one.propose(t) for t in range(3)] == [{"lr": 0.1}, plain.propose(1), plain.propose(2)]
    assert [two.propose(t) for t in range(3)] == [{"lr": 0.1}, {"lr": 0.2}, plain.propose(2)]


def test_space_without_dimensions_has_one_configuration() -> None:
    assert RandomSearcher(Space.from_config({})).propose(7) == {}
