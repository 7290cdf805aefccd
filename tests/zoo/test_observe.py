"""What is seen of a function that calls models: outputs, gradients, nonlinearities. It changes nothing."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.descriptors import MODELS, by_representatives
from train.loop.inspection import look
from zoo.layers.activations import activation
from zoo.observe import layer_of, observe


class Net(nn.Module):
    activation: str = "relu"
    remat: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        dense = nn.remat(nn.Dense) if self.remat else nn.Dense
        x = activation(self.activation)(dense(5, name="first")(x))
        return dense(2, name="last")(x)


X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def seen(model, x=X):
    variables = model.init(jax.random.key(1), x)
    loss = jax.grad(lambda params: jnp.square(model.apply({"params": params}, x)).mean())
    gradients, observation = jax.jit(lambda params: _arrays(observe(loss)(params)))(variables["params"])
    return variables["params"], jax.jit(loss)(variables["params"]), gradients, observation


def _arrays(observed):
    gradients, observation = observed
    return gradients, {call.path: (call.output, call.gradient, call.activation) for call in observation.calls}


@pytest.mark.parametrize("remat", [False, True])
def test_outputs_and_gradients_against_their_closed_form(remat):
    params, wanted, gradients, calls = seen(Net(remat=remat))
    jax.tree.map(np.testing.assert_array_equal, wanted, gradients)
    z = X @ params["first"]["kernel"] + params["first"]["bias"][None]
    h = np.maximum(z, 0)
    y = h @ params["last"]["kernel"] + params["last"]["bias"][None]
    slope = 2 * y / y.size
    below = (slope @ params["last"]["kernel"].T) * (z > 0)
    for path, wanted in {("last",): (y, slope, y), ("first",): (z, below, h), (): (y, slope, y)}.items():
        for got, right in zip(calls[path], wanted, strict=True):
            np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-6)
    assert set(calls) == {("first",), ("last",), ()}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        *((name, name) for name in ("relu", "tanh", "sigmoid")),
        *((name, None) for name in ("silu", "gelu", "gelu_tanh", "softplus", "linear", "leaky_relu")),
    ],
)
def test_nonlinearities_are_told_from_what_looks_like_one(name, found):
    model = Net(name)
    params = model.init(jax.random.key(0), X)["params"]
    for function in (lambda p: model.apply({"params": p}, X), jax.grad(lambda p: model.apply({"params": p}, X).sum())):
        _, observation = observe(function)(params)
        told = {call.path: call.nonlinearity for call in observation.calls}
        assert told == {("first",): found, ("last",): None, (): None}


def test_a_relu_of_the_loss_is_none_of_the_model():
    model = Net("linear")
    params = model.init(jax.random.key(0), X)["params"]
    _, observation = observe(jax.grad(lambda p: jax.nn.relu(model.apply({"params": p}, X)).sum()))(params)
    assert {call.nonlinearity for call in observation.calls} == {None}


def test_second_derivatives_and_maps_pass_the_marks():
    model = Net("tanh")
    params = model.init(jax.random.key(0), X)["params"]

    def slope(params, x):
        return jax.grad(lambda x: model.apply({"params": params}, x).sum())(x)

    def objective(params):
        return jnp.square(jax.vmap(slope, (None, 0))(params, X)).sum()

    gradients, _ = observe(jax.grad(objective))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradients, jax.grad(objective)(params))
    forward = observe(lambda p: jax.jvp(objective, (p,), (p,)))(params)[0]
    np.testing.assert_allclose(forward[1], jax.jvp(objective, (params,), (params,))[1], rtol=1e-5)


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("jvp(MLP)/Dense_0", ("Dense_0", "forward")),
        ("transpose(jvp(MLP))/block/Dense_1", ("block/Dense_1", "backward")),
        ("transpose(jvp(MLP))/jvp(MLP)", ("MLP", "backward")),
        ("MLP", ("", "forward")),
        ("jvp()", None),
        ("", None),
    ],
)
def test_the_layer_of_a_name_stack(place, wanted):
    assert layer_of(place) == wanted


def _different():
    """Each module with its small options once: several names are the same."""
    found = {}
    for name, row in MODELS.items():
        key = (type(zoo.create_model(name, **row.small)), str(sorted(row.small.items(), key=str)))
        found.setdefault(key, name)
    return list(found.values())


@pytest.mark.slow
@by_representatives(_different())
def test_every_model_is_seen(name):
    """Each layer with weights has their gradient; the model has an output with a gradient; nothing is computed."""
    row = MODELS[name]
    model = zoo.create_model(name, **row.small)
    x = jax.ShapeDtypeStruct((2, *row.shape), zoo.model_card(name).example().dtype)

    def loss(outputs):
        return sum(jnp.square(leaf.astype(jnp.float32)).sum() for leaf in jax.tree.leaves(outputs))

    def inside(key, x):
        variables = model.init({"params": key, "latent": key}, x)
        return look(model, variables, x, loss, rngs={"latent": key})[0]

    layers = jax.eval_shape(inside, jax.random.key(0), x)
    weights = [layer for layer in layers if "num_weights" in layer.numbers]
    assert weights
    assert all("gradient_norm" in layer.numbers for layer in weights)
    assert layers[-1].name == ""
    assert "output_gradient_norm" in layers[-1].numbers
