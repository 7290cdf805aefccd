"""Batch norm of norms.py against NumPy and its closed form, and the mapped axis that it averages over."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tests.zoo.layers.arrays import normal
from zoo import layers
from zoo.layers import BATCH_AXIS, BatchNorm

# Batch normalisation


def batch_norm_variables(features, seed=0):
    rng = np.random.default_rng(seed)
    draw = functools.partial(rng.uniform, size=features)
    return {
        "params": {"scale": np.float32(draw(0.5, 2)), "bias": np.float32(draw(-1, 1))},
        "batch_stats": {"mean": np.float32(draw(-1, 1)), "var": np.float32(draw(0.5, 2))},
    }


both_ranks = pytest.mark.parametrize("shape", [(16, 5), (4, 3, 2, 5), (7, 2, 5)])


@both_ranks
@pytest.mark.parametrize(("momentum", "epsilon"), [(0.9, 1e-5), (0.99, 1e-3), (0.0, 1e-5)])
def test_batch_norm_in_training(shape, momentum, epsilon):
    x, variables = normal(shape) * 3 + 1, batch_norm_variables(5)
    layer = BatchNorm(momentum, epsilon)
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])

    z = x.astype(np.float64).reshape(-1, 5)
    mean = z.sum(0) / len(z)  # eq. 29
    var = np.square(z - mean).sum(0) / len(z)  # eq. 30, biased
    normalised = (z - mean) / np.sqrt(var + epsilon)  # eq. 31
    wanted = variables["params"]["scale"] * normalised + variables["params"]["bias"]  # eq. 32
    np.testing.assert_allclose(y, wanted.reshape(shape), rtol=1e-4, atol=1e-5)
    old, new = variables["batch_stats"], updates["batch_stats"]
    np.testing.assert_allclose(new["mean"], momentum * old["mean"] + (1 - momentum) * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["var"], momentum * old["var"] + (1 - momentum) * var, rtol=1e-5)


@both_ranks
def test_batch_norm_in_inference(shape):
    x, variables = normal(shape) * 3 + 1, batch_norm_variables(5)
    y, updates = BatchNorm().apply(variables, x, mutable=["batch_stats"])
    params, stats = variables["params"], variables["batch_stats"]
    wanted = params["scale"] * (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) + params["bias"]
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(updates["batch_stats"], stats)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_starts_as_the_standard_normal(train):
    variables = BatchNorm().init(jax.random.key(0), normal((8, 3)) + 5, train=train)
    stats = {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}
    params = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    chex.assert_trees_all_equal(variables, {"params": params, "batch_stats": stats})


def test_batch_norm_running_statistics_converge():
    x, layer = normal((64, 3)) * 2 + 4, BatchNorm()
    variables = layer.init(jax.random.key(0), x)
    for _ in range(150):
        variables |= layer.apply(variables, x, train=True, mutable=["batch_stats"])[1]
    np.testing.assert_allclose(variables["batch_stats"]["mean"], x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(variables["batch_stats"]["var"], x.var(0), rtol=1e-4)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_in_bfloat16_keeps_statistics_in_float32(train):
    x, variables = normal((512, 3)) + 3, batch_norm_variables(3)
    x16 = jnp.asarray(x, jnp.bfloat16)
    y, updates = BatchNorm(dtype=jnp.bfloat16).apply(variables, x16, train=train, mutable=["batch_stats"])
    wanted, wanted_updates = BatchNorm().apply(variables, np.float32(x16), train=train, mutable=["batch_stats"])
    chex.assert_type(y, jnp.bfloat16)
    chex.assert_type(wanted, jnp.float32)
    np.testing.assert_allclose(np.float32(y), wanted, rtol=0.01, atol=0.01)
    chex.assert_trees_all_close(updates, wanted_updates, rtol=1e-6)


def test_batch_norm_gradient_goes_through_the_statistics():
    """The outputs do not move with a shift or a scale of their inputs, so neither does any loss of them."""
    x, variables = normal((16, 3)), batch_norm_variables(3)

    def loss(x):
        return (BatchNorm(epsilon=0.0).apply(variables, x, train=True, mutable=["batch_stats"])[0] ** 3).sum()

    gradient = np.asarray(jax.grad(loss)(x))
    assert np.abs(gradient).max() > 0.1
    np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-4)
    np.testing.assert_allclose((gradient * (x - x.mean(0))).sum(0), 0, atol=1e-3)


@pytest.mark.slow
def test_batch_norm_derivatives_are_those_of_its_formula():
    """Of the output and of the statistics, along a direction and backwards, and along a direction of the gradient."""
    variables = batch_norm_variables(3)
    old = variables["batch_stats"]

    def layer(x, params):
        state = {"params": params, "batch_stats": old}
        y, updates = BatchNorm(0.5, 0.1).apply(state, x, train=True, mutable=["batch_stats"])
        return y, updates["batch_stats"]

    def formula(x, params):
        new = {"mean": x.mean((0, 1)), "var": x.var((0, 1))}
        slope = params["scale"] / jnp.sqrt(new["var"] + 0.1)
        y = slope[None, None] * (x - new["mean"][None, None]) + params["bias"][None, None]
        return y, jax.tree.map(lambda a, b: (a + b) / 2, old, new)

    at = (jnp.asarray(normal((6, 2, 3)) * 2 + 3), variables["params"])
    along = jax.tree.map(lambda leaf: jnp.asarray(normal(leaf.shape, seed=1)), at)

    def derivatives(function):
        def loss(*at):
            return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(function(*at)))

        return jax.jvp(function, at, along), jax.jvp(jax.grad(loss, (0, 1)), at, along)

    chex.assert_trees_all_close(derivatives(layer), derivatives(formula), rtol=1e-4, atol=1e-5)


# The mapped axis


def test_batch_axis_outside_a_map():
    assert layers.batch_axis() is None
    assert jax.jit(lambda x: x * (layers.batch_axis() is None))(1) == 1


def test_batch_axis_under_another_name():
    assert jax.pmap(lambda x: x * (layers.batch_axis() is None), axis_name="model")(jnp.ones(8)).sum() == 8


def test_batch_axis_inside_a_map():
    def inside(x):
        assert layers.batch_axis() == BATCH_AXIS
        return jax.lax.pmean(x, BATCH_AXIS)

    x = jnp.arange(8.0)
    mesh = jax.make_mesh((8,), (BATCH_AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec(BATCH_AXIS)
    maps = (
        jax.pmap(inside, axis_name=BATCH_AXIS),
        jax.vmap(inside, axis_name=BATCH_AXIS),
        jax.jit(jax.shard_map(inside, mesh=mesh, in_specs=spec, out_specs=PartitionSpec())),
    )
    for mapped in maps:
        np.testing.assert_allclose(mapped(x), 3.5)


@pytest.mark.parametrize("map_", [jax.pmap, jax.vmap])
def test_batch_norm_normalises_by_the_whole_batch_under_a_map(map_):
    """The shards have different means, so the variance is not the mean of theirs."""
    x, variables = normal((8, 4, 3)) + np.arange(8, dtype=np.float32)[:, None, None], batch_norm_variables(3)

    def forward(x):
        return BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])

    y, updates = map_(forward, axis_name=BATCH_AXIS)(x)
    wanted, wanted_updates = forward(x.reshape(32, 3))
    np.testing.assert_allclose(y.reshape(32, 3), wanted, rtol=1e-4, atol=1e-5)
    for shard in range(8):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, shard=shard: leaf[shard], updates), wanted_updates, rtol=1e-5
        )
