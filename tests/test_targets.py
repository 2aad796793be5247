"""A mapping with `_target_` becomes what it names, and mistakes in it are told by their path."""

from fractions import Fraction
from functools import partial
from typing import Any

import pytest

from halving.errors import UserError
from halving.targets import instantiate


def test_nested_targets_lists_and_plain_values_are_built_depth_first() -> None:
    config = {
        "ratio": {"_target_": "fractions.Fraction", "numerator": {"_target_": "builtins.int", "_args_": ["6"]}},
        "items": [{"_target_": "fractions.Fraction", "_args_": [1, 2]}, "as it is", None],
        "deep": {"deeper": 0.5},
    }
    assert instantiate(config) == {
        "ratio": Fraction(6),
        "items": [Fraction(1, 2), "as it is", None],
        "deep": {"deeper": 0.5},
    }
    assert config["items"][0] == {"_target_": "fractions.Fraction", "_args_": [1, 2]}, "the configuration stays"


def test_partial_binds_and_extra_arguments_win() -> None:
    config = {"_target_": "fractions.Fraction", "_partial_": True, "denominator": 4}
    bound = instantiate(config)
    assert isinstance(bound, partial) and bound(3) == Fraction(3, 4)
    assert instantiate({"_target_": "fractions.Fraction", "numerator": 1}, numerator=3, denominator=4) == Fraction(3, 4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_target_": "fractions.Fractoin"}, "model: cannot import 'fractions.Fractoin'"),
        ({"_target_": "no_such_package.Model"}, "model: cannot import 'no_such_package.Model'"),
        ({"_target_": "not a name"}, "model: cannot import"),
        ({"_target_": "math.pi"}, "model: 'math.pi' is not callable"),
        (
            {"_target_": "halving.tuner.Budget", "evaluation": 3},
            "model.evaluation: Budget takes no 'evaluation'; did you mean evaluations?",
        ),
        ({"_target_": "halving.trial.Verdict", "trial": 1}, "model: Verdict: missing a required argument: 'state'"),
        (
            {"_target_": "builtins.dict", "inner": [{"_target_": "halving.trial.Wait", "x": 1}]},
            "model.inner[0].x: Wait takes no 'x'",
        ),
    ],
)
def test_mistakes_are_told_by_their_path(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        instantiate(config, "model")
    assert str(refused.value).startswith(message)


def test_errors_of_the_target_itself_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        instantiate({"_target_": "fractions.Fraction", "_args_": [1, 0]})
