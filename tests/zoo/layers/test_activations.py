"""Activations against their closed forms in NumPy and SciPy, and the derivatives against JAX."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from zoo.layers import activations

Z = np.concatenate([np.linspace(-8, 8, 401), [0.0, -0.0, 1e-6, -1e-6]])
EXTREME = np.array([-1e4, -100.0, -30.0, 30.0, 100.0, 1e4])

CLOSED_FORMS = {
    "elu": lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    "gelu": lambda z: z * special.ndtr(z),
    "gelu_tanh": lambda z: z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
    "leaky_relu": lambda z: np.maximum(0.01 * z, z),
    "linear": lambda z: z,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": special.expit,
    "silu": lambda z: z * special.expit(z),
    "softplus": lambda z: np.logaddexp(z, 0),
    "step": lambda z: np.where(z >= 0, 1.0, 0.0),
    "tanh": np.tanh,
}
DERIVATIVES = {
    "leaky_relu": (activations.leaky_relu_derivative, lambda z: np.where(z >= 0, 1.0, 0.01)),
    "relu": (activations.relu_derivative, lambda z: np.where(z > 0, 1.0, 0.0)),
    "sigmoid": (activations.sigmoid_derivative, lambda z: special.expit(z) * special.expit(-z)),
    "tanh": (activations.tanh_derivative, lambda z: 1 / np.cosh(np.clip(z, -300, 300)) ** 2),
}

every_activation = pytest.mark.parametrize("name", CLOSED_FORMS)


def in_float32(z):
    """The same numbers for both sides: what float32 holds of `z`, once in float32 and once in float64."""
    z = np.float32(z)
    return jnp.asarray(z), z.astype(np.float64)


def test_every_activation_has_a_closed_form_here():
    assert set(CLOSED_FORMS) == set(activations._ACTIVATIONS)


@every_activation
@pytest.mark.parametrize("z", [Z, EXTREME], ids=["usual", "extreme"])
def test_closed_form(name, z):
    z32, z64 = in_float32(z)
    y = activations.activation(name)(z32)
    chex.assert_shape(y, z.shape)
    chex.assert_type(y, jnp.float32)
    np.testing.assert_allclose(y, CLOSED_FORMS[name](z64), rtol=2e-6, atol=1e-6)


@every_activation
def test_gradient_is_finite_everywhere(name):
    z = in_float32(np.concatenate([Z, EXTREME]))[0]
    chex.assert_tree_all_finite(jax.vmap(jax.grad(activations.activation(name)))(z))


@pytest.mark.parametrize("name", DERIVATIVES)
@pytest.mark.parametrize("z", [Z, EXTREME], ids=["usual", "extreme"])
def test_derivative(name, z):
    derivative, closed_form = DERIVATIVES[name]
    z32, z64 = in_float32(z)
    chex.assert_tree_all_finite(derivative(z32))
    chex.assert_type(derivative(z32), jnp.float32)
    np.testing.assert_allclose(derivative(z32), closed_form(z64), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        derivative(z32), jax.vmap(jax.grad(getattr(activations, name)))(z32), rtol=1e-5, atol=1e-6
    )


def test_sigmoid_derivative_does_not_cancel():
    np.testing.assert_allclose(activations.sigmoid_derivative(jnp.float32(30)), np.exp(-30), rtol=1e-5)


def test_step_has_no_gradient():
    z = in_float32(Z)[0]
    chex.assert_trees_all_equal(jax.vmap(jax.grad(activations.step))(z), jnp.zeros_like(z))


@pytest.mark.parametrize("name", ["step", "relu_derivative", "leaky_relu_derivative"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_indicators_keep_the_dtype(name, dtype):
    chex.assert_type(getattr(activations, name)(jnp.ones(3, dtype)), dtype)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.3, 1.0])
def test_leaky_relu_alpha(alpha):
    z32, z64 = in_float32(Z)
    np.testing.assert_allclose(activations.leaky_relu(z32, alpha), np.maximum(alpha * z64, z64), rtol=1e-6)
    np.testing.assert_allclose(activations.leaky_relu_derivative(z32, alpha), np.where(z64 >= 0, 1, alpha), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(axis):
    z32, z64 = in_float32(np.random.default_rng(0).normal(0, 3, (4, 5)))
    p = activations.softmax(z32, axis)
    np.testing.assert_allclose(p, special.softmax(z64, axis), rtol=1e-5)
    np.testing.assert_allclose(p.sum(axis), 1, rtol=1e-6)


def test_softmax_is_invariant_under_shifts():
    z = jnp.arange(8, dtype=jnp.float32).reshape(2, 4) / 4
    chex.assert_trees_all_close(activations.softmax(z + 1024), activations.softmax(z), rtol=1e-6)


def test_softmax_of_extreme_values():
    z = jnp.array([[1e4, -1e4, 1e4], [-1e4, -1e4, -1e4]])
    np.testing.assert_allclose(activations.softmax(z), [[0.5, 0, 0.5], [1 / 3] * 3], rtol=1e-6)
    chex.assert_tree_all_finite(jax.jacobian(activations.softmax)(z))


def test_softmax_jacobian():
    """∂pᵢ/∂zⱼ = pᵢ (δᵢⱼ − pⱼ)."""
    z = jnp.array([0.3, -1.0, 2.0])
    p = special.softmax(np.asarray(z, np.float64))
    np.testing.assert_allclose(jax.jacobian(activations.softmax)(z), np.diag(p) - np.outer(p, p), rtol=1e-5, atol=1e-7)


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(ValueError, match=r"unknown activation: 'rellu'; nearest: .*relu"):
        activations.activation("rellu")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_is_that_of_jax_and_keeps_nan(dtype):
    """Also where it goes into a sum in one compiled program."""
    z = jnp.array([-jnp.inf, -1.5, -0.0, 0.0, 2.0, jnp.inf], dtype)
    np.testing.assert_array_equal(activations.relu(z), jax.nn.relu(z))
    np.testing.assert_array_equal(jax.vmap(jax.grad(activations.relu))(z), jax.vmap(jax.grad(jax.nn.relu))(z))
    assert activations.relu(z).dtype == dtype
    images = jnp.full((4, 8, 8, 3), jnp.nan, dtype)
    assert np.isnan(np.asarray(jax.jit(lambda x: activations.relu(x).mean(axis=(1, 2)))(images), np.float32)).all()
