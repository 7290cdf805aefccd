"""Backpropagation by hand: equal to automatic differentiation and to differences; gradient descent by its equations."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from train.measure.gradient_check import check_gradients
from zoo import backpropagation as by_hand

SIZES = [[5, 3], [5, 4, 3], [7, 5, 6, 2], [3, 1, 4, 4, 10]]


def problem(sizes, batch=6, seed=0):
    rng = np.random.default_rng(seed)
    layers = by_hand.init(jax.random.key(seed), sizes)
    layers = [{**layer, "bias": layer["bias"] + 0.1 * rng.normal(size=layer["bias"].shape)} for layer in layers]
    x = jnp.asarray(rng.normal(size=(batch, sizes[0])), jnp.float32)
    return layers, x, jnp.asarray(rng.integers(0, sizes[-1], batch))


def loss(layers, x, targets, share=None):
    return by_hand.loss(by_hand.forward(layers, x), targets, share)


def gradients(layers, x, targets, share=None):
    return by_hand.backward(layers, by_hand.forward(layers, x), targets, share)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_automatic_differentiation_and_of_differences(sizes, weighted):
    layers, x, labels = problem(sizes)
    targets = jax.nn.one_hot(labels, sizes[-1])
    share = jnp.array([0.5, 0.0, 0.1, 0.2, 0.0, 0.3]) if weighted else None
    both = jax.jit(lambda *problem: (gradients(*problem), jax.grad(loss)(*problem)))
    chex.assert_trees_all_close(*both(layers, x, targets, share), atol=1e-6)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (layers, x, targets, share))
        chex.assert_trees_all_close(*both(*wide), atol=1e-14, rtol=1e-12)
    check = check_gradients(loss, layers, x, targets, share, gradient=gradients, coordinates=2)
    assert check.ok, check
    assert check.dtype == "float64"


@pytest.mark.slow
def test_forward_is_the_mlp_of_the_zoo():
    layers, x, _ = problem([7, 5, 6, 2])
    model = zoo.create_model("mlp", hidden_sizes=(5, 6), num_classes=2, dropout_rate=0)
    params = by_hand.params_of(layers)
    seen = by_hand.forward(layers, x)
    np.testing.assert_allclose(model.apply({"params": params}, x), seen.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.activations[-1].sum(axis=1), 1, rtol=1e-6)
    assert [a.shape for a in seen.activations] == [(6, 7), (6, 5), (6, 6), (6, 2)]
    chex.assert_trees_all_equal(by_hand.layers_of(params), list(layers))
    assert jax.tree.structure(params) == jax.tree.structure(model.init(jax.random.key(0), x)["params"])


def test_logits_that_are_large_give_no_nan():
    layers = [{"kernel": jnp.array([[1000.0, -1000.0]]), "bias": jnp.zeros(2)}]
    targets = jnp.array([[0.0, 1.0]])
    assert loss(layers, jnp.ones((1, 1)), targets) == 2000
    chex.assert_trees_all_equal(gradients(layers, jnp.ones((1, 1)), targets)[0]["bias"], jnp.array([1.0, -1.0]))


@pytest.mark.parametrize(("std", "deviation"), [("he", (2 / 400) ** 0.5), (0.01, 0.01)])
def test_initial_weights(std, deviation):
    first, last = by_hand.init(jax.random.key(0), [400, 300, 10], std=std)
    assert float(first["kernel"].std()) == pytest.approx(deviation, rel=0.02)
    assert last["kernel"].shape == (300, 10)
    assert not np.any(first["bias"])


def descend(layers, x, labels, batches, rate):
    """In NumPy: w := w − α/m Σ ∇ℒ over each batch in turn, and the loss before each update."""
    layers = [{k: np.float64(v) for k, v in layer.items()} for layer in layers]
    losses = []
    for rows in batches:
        a = [np.float64(x[rows])]
        for index, layer in enumerate(layers):
            z = a[-1] @ layer["kernel"] + layer["bias"]
            a.append(np.maximum(z, 0) if index < len(layers) - 1 else np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))
        y = np.eye(a[-1].shape[1])[labels[rows]]
        losses.append(-np.log((y * a[-1]).sum(axis=1)).mean())
        delta, moved = (a[-1] - y) / len(rows), []
        for index in reversed(range(len(layers))):
            step = {"kernel": a[index].T @ delta, "bias": delta.sum(axis=0)}
            delta = (delta @ layers[index]["kernel"].T) * (a[index] > 0)
            moved.insert(0, {k: layers[index][k] - rate * step[k] for k in step})
        layers = moved
    return layers, losses


@pytest.mark.parametrize("batch_size", [None, 1, 4, 10])
def test_the_batch_size_alone_tells_the_kinds_of_gradient_descent_apart(batch_size):
    """All at once (eq. 16), one by one (eq. 17), or in parts (eq. 18), in the order of each epoch's draw."""
    layers, x, labels = problem([5, 4, 3], batch=10)
    key, size = jax.random.key(7), batch_size or 10
    found, losses = by_hand.gradient_descent(
        layers, x, labels, learning_rate=0.1, epochs=2, batch_size=batch_size, key=key
    )
    orders = [np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), 10)) for epoch in range(2)]
    batches = [order[at : at + size] for order in orders for at in range(0, 10 - size + 1, size)]
    wanted, each = descend(layers, np.asarray(x), np.asarray(labels), batches, 0.1)
    chex.assert_trees_all_close(found, jax.tree.map(jnp.float32, wanted), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(losses, np.reshape(each, (2, -1)).mean(axis=1), rtol=1e-4)


def test_all_at_once_needs_no_key():
    layers, x, labels = problem([5, 3])
    options = {"learning_rate": 0.1, "epochs": 3}
    first, second = (
        by_hand.gradient_descent(layers, x, labels, **options, **k) for k in ({}, {"key": jax.random.key(9)})
    )
    chex.assert_trees_all_close(first, second, rtol=1e-5)


@pytest.mark.slow
def test_the_learning_curve_of_digits_falls():
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = jnp.asarray(images / 16, jnp.float32)
    layers = by_hand.init(jax.random.key(0), [64, 32, 10])
    layers, losses = by_hand.gradient_descent(
        layers, x, labels, learning_rate=0.1, epochs=12, batch_size=32, key=jax.random.key(1)
    )
    assert losses.shape == (12,)
    assert losses[-1] < 0.2 < 1.0 < losses[0]
    assert np.mean(by_hand.forward(layers, x).activations[-1].argmax(axis=1) == labels) > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": jnp.zeros((6, 4))}, r"x must be \[examples, 5\], not \[6, 4\]"),
        ({"labels": jnp.zeros(5, jnp.int32)}, r"labels must be integers \[6\], not int32 \[5\]"),
        ({"labels": jnp.zeros(6)}, r"labels must be integers \[6\], not float32 \[6\]"),
        ({"labels": jnp.full(6, 3)}, "labels must be from 0 to 2, not from 3 to 3"),
        ({"epochs": 0}, "epochs must be at least 1 and batch_size from 1 to 6, not 0 and 6"),
        ({"batch_size": 7}, "batch_size from 1 to 6, not 1 and 7"),
        ({"batch_size": 2}, "give a key, such as jax.random.key"),
        ({"x": jnp.zeros((0, 5)), "labels": jnp.zeros(0, jnp.int32)}, "batch_size from 1 to 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    layers, x, labels = problem([5, 3])
    given = {"x": x, "labels": labels, "epochs": 1, "learning_rate": 0.1, **changes}
    with pytest.raises(ValueError, match=message):
        by_hand.gradient_descent(layers, **given)


@pytest.mark.parametrize(("sizes", "std"), [([5], "he"), ([5, 0], "he"), ([5, 3], 0.0), ([5, 3], "xavier")])
def test_layers_that_cannot_be(sizes, std):
    with pytest.raises(ValueError, match=r"sizes are those of|std must be"):
        by_hand.init(jax.random.key(0), sizes, std=std)
