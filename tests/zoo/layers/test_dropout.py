"""Dropout and DropPath of basic.py: their rates, their draws, and when they rest."""

from __future__ import annotations

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo.layers.arrays import normal
from zoo.layers import Dropout, DropPath


def drop(x, rate, seed=0):
    return Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)})


# Rates near a multiple of 1/256 take one byte for each unit, the others two.
@pytest.mark.parametrize(
    ("rate", "rounded"), [(0.1, 26 / 256), (0.3, 77 / 256), (0.5, 0.5), (0.9, 230 / 256), (0.01, 655 / 65536)]
)
def test_dropout_rate_and_expectation(rate, rounded):
    n = 2**18
    y = np.asarray(drop(jnp.ones(n), rate))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rounded), rtol=1e-6)
    assert np.unique(y).size == 2
    deviation = np.sqrt(rounded * (1 - rounded) / n)
    assert abs(kept.mean() - (1 - rounded)) < 5 * deviation
    assert abs(y.mean() - 1) < 5 * deviation / (1 - rounded)


@given(st.floats(0.0001, 0.9999))
@settings(max_examples=200, deadline=None)
def test_dropout_rounds_its_rate_by_little(rate):
    scale = float(np.asarray(drop(jnp.ones(4096), rate)).max())
    if scale:  # else no unit was kept
        assert abs(1 - 1 / scale - rate) <= 0.02 * min(rate, 1 - rate) + 2**-17


def test_dropout_rate_is_exact_where_it_is_least():
    """One of 2¹⁶ draws drops a unit, not two."""
    n = 2**22
    dropped = np.count_nonzero(np.asarray(drop(jnp.ones(n), 2**-16)) == 0)
    assert abs(dropped - n / 2**16) < 5 * np.sqrt(n / 2**16)


def test_dropout_zeros_are_exact_also_for_infinite_inputs():
    y = np.asarray(drop(jnp.full(1000, jnp.inf), 0.5))
    assert set(np.unique(y)) == {0.0, np.inf}


def test_dropout_mask_is_a_function_of_the_key():
    x = jnp.asarray(normal((64, 5)))
    chex.assert_trees_all_equal(drop(x, 0.5, seed=3), drop(x, 0.5, seed=3))
    assert np.any(drop(x, 0.5, seed=3) != drop(x, 0.5, seed=4))
    chex.assert_trees_all_close(drop(x, 0.5) + drop(-x, 0.5), jnp.zeros_like(x))


def test_dropout_draws_are_independent():
    """Four neighbours come from one 32-bit word: neither they nor lines nor halves are correlated."""
    kept = np.asarray(drop(jnp.ones((512, 512)), 0.5)) / 2 - 0.5
    for a, b in ((kept[:, ::2], kept[:, 1::2]), (kept[:-1], kept[1:]), (kept[:256], kept[256:])):
        assert abs((a * b).mean()) / 0.25 < 5 / np.sqrt(a.size)


def test_dropout_is_the_identity_at_rate_0_and_in_inference():
    x = jnp.asarray(normal((3, 5)))
    for layer, train in ((Dropout(0.0), True), (Dropout(0.5), False)):
        chex.assert_trees_all_equal(layer.apply({}, x, train=train), x)
    chex.assert_trees_all_equal(Dropout(0.5).apply({}, x), x)


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("train", [False, True])
def test_dropout_refuses_a_rate_outside_of_0_to_1(rate, train):
    with pytest.raises(ValueError, match=r"dropout rate must be in \[0, 1\)"):
        Dropout(rate).apply({}, jnp.ones(3), train=train, rngs={"dropout": jax.random.key(0)})


def test_dropout_next_to_rate_1_stays_finite():
    chex.assert_tree_all_finite(drop(jnp.ones(2**10), 0.9999999))


def test_dropout_without_a_key_is_refused():
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        Dropout(0.5).apply({}, jnp.ones(3), train=True)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (3, 5, 7, 1), (0, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_keeps_shape_and_dtype(shape, dtype):
    y = drop(jnp.ones(shape, dtype), 0.5)
    chex.assert_shape(y, shape)
    chex.assert_type(y, dtype)
    assert set(np.unique(np.float32(y))) <= {0.0, 2.0}


def test_dropout_gradient_is_the_mask():
    x = jnp.asarray(normal((9, 9)))
    gradient = jax.grad(lambda x: drop(x, 0.5).sum())(x)
    chex.assert_trees_all_equal(gradient * x, drop(x, 0.5))


def test_drop_path_drops_whole_examples():
    x = jnp.asarray(normal((4096, 2, 3)))
    y = np.asarray(DropPath(0.25).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    kept = np.any(y != 0, axis=(1, 2))
    assert kept.mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(y[kept], x[kept] / 0.75, rtol=1e-6)
    assert DropPath(0.25).apply({}, x) is x
    assert DropPath(0.0).apply({}, x, train=True) is x
