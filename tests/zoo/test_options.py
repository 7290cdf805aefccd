"""Options are checked by name, type and range before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import optax
import pytest

import zoo
from zoo.options import RANGES, Range, check_options, fits


def function(
    model: Any,
    *,
    dropout_rate: float = 0.1,
    features: int | Sequence[int] = 3,
    kind: Literal["a", "b"] = "a",
    flag: bool = False,
    path: str | None = None,
    hook: Callable[[], None] | None = None,
    untold=0.5,
    **others: Any,
) -> None: ...


@pytest.mark.parametrize(
    "options",
    [
        {"dropout_rate": 0},
        {"dropout_rate": 0.5, "features": 4, "kind": "b", "flag": True, "path": None},
        {"features": [1, 2]},
        {"features": (1, 2), "hook": print, "untold": 3},
        {"path": "x"},
        {"dropout_rate": np.float32(0.5), "features": np.int64(3), "flag": np.bool_(True)},
        {"features": [np.int64(3), 4]},
    ],
)
def test_what_is_taken(options):
    check_options(function, options, "it")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout_rate": "abc"}, "dropout_rate of it must be a number, not 'abc'"),
        ({"dropout_rate": True}, "dropout_rate of it must be a number, not True"),
        ({"dropout_rate": 1}, r"dropout_rate of it must be in \[0, 1\), not 1"),
        ({"dropout_rate": -0.1}, r"dropout_rate of it must be in \[0, 1\), not -0.1"),
        ({"dropout_rate": float("nan")}, "dropout_rate of it must be finite, not nan"),
        ({"untold": float("inf")}, "untold of it must be finite, not inf"),
        ({"untold": "x"}, "untold of it must be a number, not 'x'"),
        ({"features": 1.5}, "features of it must be a whole number or a list of whole numbers, not 1.5"),
        ({"features": 0}, "features of it must be at least 1, not 0"),
        ({"features": [1, 0]}, r"features of it must be at least 1, not \[1, 0\]"),
        ({"features": [1, "a"]}, "must be a whole number or a list of whole numbers"),
        ({"features": [1, True]}, "must be a whole number or a list of whole numbers"),
        ({"kind": "c"}, "kind of it must be 'a' or 'b', not 'c'"),
        ({"flag": "maybe"}, "flag of it must be True or False, not 'maybe'"),
        ({"flag": 1}, "flag of it must be True or False, not 1"),
        ({"path": 3}, "path of it must be a text or None, not 3"),
        ({"dropuot_rate": 0.1}, "unknown option of it: 'dropuot_rate'; nearest: dropout_rate"),
        ({"model": 3}, "model is no option of it: it is given elsewhere"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        check_options(function, options, "it", elsewhere={"model": "it is given elsewhere"})


@pytest.mark.parametrize("optimizer", [optax.adam, optax.adamw, optax.sgd, optax.lion], ids=lambda f: f.__name__)
def test_functions_of_others(optimizer):
    """Also where only type checkers can resolve their annotations."""
    name = "momentum" if optimizer is optax.sgd else "b1"
    check_options(optimizer, {name: 0.5}, "it")
    for value in ("abc", 2, -1):
        with pytest.raises(ValueError, match=f"{name} of it must be "):
            check_options(optimizer, {name: value}, "it")


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "words"),
    [
        (Range(1), [1, 5], [0, float("nan"), "1"], "at least 1"),
        (Range(0, open_least=True), [0.1], [0], "greater than 0"),
        (Range(0, 1, open_most=True), [0, 0.9], [1, -0.1], "in [0, 1)"),
        (Range(0, 1), [0, 1], [1.1], "in [0, 1]"),
    ],
)
def test_ranges(allowed, inside, outside, words):
    assert all(number in allowed for number in inside)
    assert not any(number in allowed for number in outside)
    assert str(allowed) == words


@pytest.mark.parametrize("name", zoo.list_models())
def test_the_defaults_of_every_model_are_in_range(name):
    for option, value in zoo.model_card(name).options.items():
        for number in value if isinstance(value, tuple) else [value]:
            assert option not in RANGES or number is None or number in RANGES[option], option


def test_every_model_is_checked():
    with pytest.raises(ValueError, match="num_classes of model 'resnet18' must be at least 0, not -2"):
        zoo.create_model("resnet18", num_classes=-2)
    with pytest.raises(ValueError, match="stem of model 'resnet18' must be 'imagenet' or 'cifar', not 'x'"):
        zoo.create_model("resnet18", stem="x")
    with pytest.raises(ValueError, match="name is no option of model 'mlp'"):
        zoo.create_model("mlp", name="x")


def test_a_named_tuple_is_taken_without_a_warning():
    genotype = zoo.cells.GENOTYPES["darts_v1"]
    assert zoo.create_model("mini_darts", genotype=genotype).genotype == genotype


def test_a_list_is_a_list_and_will_do_for_a_tuple():
    assert fits([1, 2], list[int])
    assert fits([{"a": True}], list[dict[str, Any]])
    assert fits([1, 2], tuple[int, ...])
    assert not fits([1, "2"], list[int])
    assert not fits([1, True], list[int])
    assert not fits((1, 2), list[int])
