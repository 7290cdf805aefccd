"""Models by name: what is entered, found, described and refused."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax.numpy as jnp
import pytest

import zoo
from tests.descriptors import MODELS
from zoo import registry
from zoo.cells import Genotype
from zoo.summary import abstract_variables

ENTRY = {"task": "regression", "input_shape": (3,), "num_parameters": 8, "paper": "none"}


class Line(nn.Module):
    features: int
    sizes: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.features)(x)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    monkeypatch.setattr(registry, "_cards", dict(registry._cards))


def test_register_and_create():
    assert zoo.register("line", **ENTRY, features=2)(Line) is Line
    assert "line" in zoo.list_models()
    assert zoo.create_model("line") == Line(2)
    assert zoo.create_model("line", features=5) == Line(5)


def test_variants_of_one_class_keep_their_own_defaults():
    for features in (1, 2):
        zoo.register(f"line{features}", input_shape=(3,), features=features)(Line)
    assert zoo.create_model("line1") == Line(1)
    assert zoo.create_model("line2") == Line(2)


def test_a_name_is_taken_once():
    zoo.register("line", **ENTRY)(Line)
    with pytest.raises(ValueError, match="'line' is registered already"):
        zoo.register("line", **ENTRY)(Line)
    with pytest.raises(ValueError, match="'resnet50' is registered already"):
        zoo.register("resnet50", **ENTRY)(Line)
    assert zoo.model_card("resnet50").num_parameters == 25_557_032, "the first entry stands"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("resnet*", ["resnet101", "resnet152", "resnet18", "resnet34", "resnet50"]),
        ("*resnet", ["mini_resnet"]),
        ("resnet[35]?", ["resnet34", "resnet50"]),
        ("resnet1?", ["resnet18"]),
        ("mlp", ["mlp"]),
        ("MLP", []),
        ("", []),
    ],
)
def test_list_models_takes_a_wildcard(pattern, names):
    assert zoo.list_models(pattern) == names


def test_list_models_is_sorted():
    assert zoo.list_models() == sorted(zoo.list_models()) == zoo.list_models("*")


@pytest.mark.parametrize("ask", [zoo.create_model, zoo.model_card])
def test_an_unknown_model_lists_the_nearest(ask):
    with pytest.raises(ValueError, match=r"unknown model: 'resnet51'; nearest: .*resnet50") as error:
        ask("resnet51")
    assert "perceptron" not in str(error.value)


def test_an_unknown_model_that_is_near_none_lists_all():
    with pytest.raises(ValueError, match="unknown model: 'zzz'; known: ") as error:
        zoo.create_model("zzz")
    assert all(name in str(error.value) for name in MODELS)


def test_an_unknown_option_lists_the_nearest():
    with pytest.raises(ValueError, match=r"unknown option of model 'cnn': 'num_clases'; nearest: num_classes"):
        zoo.create_model("cnn", num_clases=3)
    with pytest.raises(ValueError, match=r"unknown option of model 'cnn': 'parent'; "):
        zoo.create_model("cnn", parent=None)


def test_an_option_without_default_must_be_given():
    zoo.register("line", **ENTRY)(Line)
    with pytest.raises(ValueError, match="model 'line' needs a value for: features"):
        zoo.create_model("line")
    assert zoo.create_model("line", features=4) == Line(4)


@pytest.mark.parametrize("option", ["dtype", "param_dtype"])
def test_a_dtype_may_be_given_by_name(option):
    by_name = zoo.create_model("mlp", **{option: "bfloat16"})
    assert getattr(by_name, option) == jnp.bfloat16
    variables = abstract_variables(by_name, jnp.zeros((1, 4)))
    assert variables["params"]["Dense_0"]["kernel"].dtype == (jnp.bfloat16 if option == "param_dtype" else jnp.float32)
    with pytest.raises(ValueError, match=f"{option} 'bfloat17' does not exist"):
        zoo.create_model("mlp", **{option: "bfloat17"})


def test_lists_become_tuples():
    model = zoo.create_model("mlp", hidden_sizes=[8, 4])
    assert model.hidden_sizes == (8, 4)
    assert hash(model) == hash(zoo.create_model("mlp", hidden_sizes=(8, 4)))


@pytest.mark.parametrize("name", MODELS)
def test_cards_tell_the_truth(name):
    """The exact count is that of `test_exact_parameter_count` in test_models.py."""
    card = zoo.model_card(name)
    assert card.name == name
    assert card.task
    assert card.paper
    model = zoo.create_model(name)
    chex.assert_shape(card.example(2), (2, *card.input_shape))
    for option, value in card.options.items():
        kept = getattr(model, option)
        assert (kept.plain() if isinstance(kept, Genotype) else kept) == value
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.num_parameters = 0


@pytest.mark.slow
def test_counts_are_told_and_not_counted():
    """Counting takes a second for a large network, and `zoo list` shows all. A fresh process has asked for no card."""
    code = "import zoo; from zoo.registry import _UNKNOWN, _cards; "
    code += "print([name for name, card in _cards.items() if card.num_parameters == _UNKNOWN])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


# ---- what a user registers ----


class Small(nn.Module):
    num_classes: int = 3

    @nn.compact
    def __call__(self, x, *, train=False):
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))


def test_a_name_and_a_shape_are_enough():
    zoo.register("small", input_shape=(2, 2, 1))(Small)
    card = zoo.model_card("small")
    assert (card.num_parameters, card.task, card.paper, card.weights_licence) == (4 * 3 + 3, "classification", "", None)
    assert card.example().shape == (1, 2, 2, 1)


def test_a_wrong_count_is_refused():
    with pytest.raises(ValueError, match="'small' has 15 parameters, not 16: correct num_parameters or leave it out"):
        zoo.register("small", input_shape=(2, 2, 1), num_parameters=16)(Small)
    assert "small" not in zoo.list_models()
    zoo.register("small", input_shape=(2, 2, 1), num_parameters=15)(Small)
    assert zoo.model_card("small").num_parameters == 15


def test_an_option_that_is_no_field_is_refused():
    with pytest.raises(ValueError, match="unknown field of Small, registered as 'small': 'num_class'; nearest: num_cl"):
        zoo.register("small", input_shape=(2, 2, 1), num_class=2)(Small)


class Offer(NamedTuple):
    """An entry point of an installed package."""

    value: str
    load: Callable[[], None]
    dist: None = None


@pytest.mark.parametrize("find", [lambda: zoo.list_models(), lambda: zoo.model_card("theirs")], ids=["list", "by name"])
def test_installed_packages_offer_models(monkeypatch, caplog, find):
    def broken():
        raise RuntimeError("no such device")

    offers = [
        Offer("broken_package", broken),
        Offer("their_package", lambda: zoo.register("theirs", input_shape=(2,))(Small)),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: offers if group == "flaxzoo" else [])
    registry.load_installed.cache_clear()
    find()
    assert zoo.model_card("theirs").num_parameters == 9
    assert "a package offers broken_package to flaxzoo, which cannot be imported: no such device" in caplog.text
    registry.load_installed.cache_clear()
