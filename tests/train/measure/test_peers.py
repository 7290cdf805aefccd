"""The same models elsewhere: as many parameters, and they learn."""

from __future__ import annotations

import math
import os
import shutil
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

import zoo
from train.measure import bench as measure
from train.measure import peers
from train.measure.peers.work import GENERATED, Work
from train.measure.processes import beside
from train.measure.suite import ROWS
from zoo.summary import abstract_variables, count_parameters

pytestmark = pytest.mark.slow

NOT_IN_KERAS = {"gpt2", "bert_base", "vit_base_patch16_224"}
"""Of the suite's models those that Keras has not."""

MODELS = {row.model: {k: v for k, v in row.arguments.items() if k in ("stem", "num_classes")} for row in ROWS.values()}

SMALL = dict.fromkeys(["mlp", "cnn", "vae", "gan", "char_lstm", "char_gpt", "transformer_classifier"])
"""Those that are trained here too."""

SECOND_BIASES = {"char_lstm": 1024, "lstm_regressor": 384, "gru_regressor": 192, "bilstm_regressor": 768}
"""What PyTorch's recurrent layers have more than ours: each gate has two biases, which are added."""


def parameters(name, **options):
    card = zoo.model_card(name)
    return count_parameters(abstract_variables(zoo.create_model(name, **options), card.example())["params"])


def work(name, parts, batch_size=4, **options):
    card, model = zoo.model_card(name), zoo.create_model(name, **options)
    image_size = 32 if options.get("stem") == "cifar" else None
    length = 16 if card.input_dtype == "int32" and name != "char_gpt" else None
    shape = measure._shape(card, model, image_size, length)
    batch, _ = measure._random_batch(card, model, batch_size, shape)
    return Work(name, batch, getattr(model, "num_classes", 2), options, parts)


def seed_library(name):
    """One seed for what a library draws: from some weights a rate of 1e-3 makes the loss jump before it falls."""
    if name.startswith("torch"):
        import torch

        torch.manual_seed(0)
    else:
        os.environ["KERAS_BACKEND"] = {"keras": "jax"}.get(name, name)
        import keras

        keras.utils.set_random_seed(0)


def peer_of(name):
    """Makes a peer, and gives its parameters and the losses of some steps: the same ones each time."""

    def measured(work, steps):
        seed_library(name)
        peer = peers.PEERS[name](work)
        turns = [peer.parts[part]() for part in work.parts]
        return peer.parameters, [float(np.ravel(turn(1)[1])[0]) for turn in turns for _ in range(steps)]

    return measured


@cache
def needs(name):
    """Skips where a library is missing."""
    for library in {"torch": ["torch"], "torch-compile": ["torch"], "keras": ["keras"]}.get(name, ["tensorflow"]):
        if find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    if name == "torch-compile" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a compiler")


def assert_learns(losses):
    assert all(map(math.isfinite, losses))
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize("name", [name for name in MODELS if name not in SMALL])
def test_pytorch_has_as_many_parameters(name):
    needs("torch")
    found, _ = peer_of("torch")(work(name, (), batch_size=1, **MODELS[name]), 0)
    assert found == parameters(name, **MODELS[name])


@pytest.mark.parametrize("name", {**SMALL, **SECOND_BIASES})
def test_pytorch_has_as_many_and_learns(name):
    needs("torch")
    found, losses = peer_of("torch")(work(name, ("train",)), 20)
    assert found == parameters(name) + SECOND_BIASES.get(name, 0)
    assert_learns(losses)


def test_what_torch_compiles_learns():
    needs("torch-compile")
    with beside(peer_of, "torch-compile") as measured:
        found, losses = measured(work("mlp", ("train",)), 5)
    assert found == parameters("mlp")
    assert_learns(losses)


@pytest.fixture(scope="module", params=["keras", "tensorflow"])
def keras(request):
    """Keras on a backend, in a process of its own: it can have one only."""
    needs(request.param)
    with beside(peer_of, request.param) as measured:
        yield measured


@pytest.mark.parametrize("name", [name for name in MODELS if name not in {*SMALL, *NOT_IN_KERAS}])
def test_keras_has_as_many_parameters(keras, name):
    found, _ = keras(work(name, (), batch_size=1, **MODELS[name]), 0)
    assert found == parameters(name, **MODELS[name])


@pytest.mark.parametrize("name", SMALL)
def test_keras_has_as_many_and_learns(keras, name):
    found, losses = keras(work(name, ("train",)), 20)
    assert found == parameters(name)
    assert_learns(losses)


def epoch():
    rng = np.random.default_rng(0)
    rows = {"image": rng.normal(size=(70, 64)).astype(np.float32), "label": np.arange(70) % 10}
    return work("mlp", ("epoch",), batch_size=32)._replace(rows=rows)


def test_an_epoch_of_pytorch_learns():
    needs("torch")
    assert_learns(peer_of("torch")(epoch(), 2)[1])


def test_an_epoch_of_keras_learns(keras):
    assert_learns(keras(epoch(), 2)[1])


def test_a_text_of_pytorch_has_all_its_characters():
    needs("torch")
    _, text = peers.PEERS["torch"](work("char_lstm", ("generate",))).parts["generate"]()(1)
    assert np.shape(text) == (1, GENERATED)


def test_a_text_of_keras_has_characters(keras):
    _, (first,) = keras(work("char_lstm", ("generate",)), 1)
    assert 0 <= first < 65


@pytest.mark.parametrize("model", ["perceptron", "attention_regressor"])
def test_what_keras_has_not_is_said(keras, model):
    with pytest.raises(ValueError, match=f"no '{model}' in Keras"):
        keras(work(model, ("train",)), 1)


@pytest.mark.parametrize("model", ["perceptron", "attention_regressor"])
def test_what_pytorch_has_not_is_said(model):
    needs("torch")
    with pytest.raises(ValueError, match=f"no '{model}' in PyTorch"):
        peer_of("torch")(work(model, ("train",)), 1)


def test_a_part_that_others_have_not_is_said():
    needs("torch")
    message = "no 'epoch' of 'cnn' in torch"
    with pytest.raises(ValueError, match=message), peers.beside("torch", work("cnn", ("epoch",))):
        pass


def test_an_option_that_others_have_not_is_said():
    needs("torch")
    with pytest.raises(ValueError, match="PyTorch's 'vae' has no option latent_size"):
        peer_of("torch")(work("vae", ("train",), latent_size=8), 0)
