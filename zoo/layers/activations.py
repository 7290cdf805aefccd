"""Activation functions of the guide (section 2.2) and their derivatives, written as the equations stand.

All are elementwise except `softmax`. Models name their activation, so that a model's options stay plain data.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zoo.registry import unknown

Activation = Callable[[jax.Array], jax.Array]


def step(z: jax.Array) -> jax.Array:
    """Heaviside step, eq. 2: 1 where z ≥ 0, else 0. Its derivative is 0 wherever it exists."""
    return (z >= 0).astype(z.dtype)


def sigmoid(z: jax.Array) -> jax.Array:
    """Logistic function, eq. 3, in the form that does not overflow."""
    return jax.nn.sigmoid(z)


def sigmoid_derivative(z: jax.Array) -> jax.Array:
    """σ'(z) = σ(z) (1 − σ(z)), eq. 3."""
    return sigmoid(z) * sigmoid(-z)  # 1 - σ(z) = σ(-z), without the cancellation


def tanh(z: jax.Array) -> jax.Array:
    """Hyperbolic tangent, eq. 4."""
    return jnp.tanh(z)


def tanh_derivative(z: jax.Array) -> jax.Array:
    """tanh'(z) = 1 − tanh²(z), eq. 4."""
    return 1 - jnp.square(jnp.tanh(z))


@jax.custom_jvp
def relu(z: jax.Array) -> jax.Array:
    """Rectified linear unit, eq. 5: max(0, z). NaN stays NaN.

    Not written as a maximum: on a CPU, XLA hands one that goes into a sum to a library which takes NaN for 0.
    """
    return lax.clamp(np.zeros((), z.dtype), z, np.full((), np.inf, z.dtype))


relu.defjvps(lambda tangent, _, z: jnp.where(z > 0, tangent, jnp.zeros_like(tangent)))


def relu_derivative(z: jax.Array) -> jax.Array:
    """ReLU'(z), eq. 5: 1 where z > 0, else 0 (also at z = 0, where `jax.grad` of `relu` agrees)."""
    return (z > 0).astype(z.dtype)


def leaky_relu(z: jax.Array, alpha: float = 0.01) -> jax.Array:
    """Leaky ReLU, eq. 6: max(αz, z) for 0 ≤ α ≤ 1."""
    return jnp.where(z >= 0, z, alpha * z)


def leaky_relu_derivative(z: jax.Array, alpha: float = 0.01) -> jax.Array:
    """1 where z ≥ 0, else α."""
    return jnp.where(z >= 0, jnp.ones_like(z), jnp.full_like(z, alpha))


def softmax(z: jax.Array, axis: int = -1) -> jax.Array:
    """Softmax along `axis`, eq. 7, shifted by its maximum so that it does not overflow."""
    return jax.nn.softmax(z, axis=axis)


@jax.custom_jvp
def gelu(z: jax.Array) -> jax.Array:
    """Gaussian error linear unit (Hendrycks, Gimpel 2016): z Φ(z), computed in float32 at least.

    Φ(z) = (1 + erf(z / √2)) / 2, as in PyTorch. The complement erfc, which JAX's own takes, is more exact where z Φ(z)
    is next to nothing, and takes six times as long on a CPU.
    """
    x = _widened(z)
    return (x * _normal_cdf(x)).astype(z.dtype)


@gelu.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Φ(z) + z φ(z)."""
    (z,), (tangent,) = primals, tangents
    x = _widened(z)
    slope = _normal_cdf(x) + x * jnp.exp(-jnp.square(x) / 2) * (1 / math.sqrt(2 * math.pi))
    return gelu(z), (tangent * slope).astype(z.dtype)


def _widened(z: jax.Array) -> jax.Array:
    return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def _normal_cdf(x: jax.Array) -> jax.Array:
    return (1 + lax.erf(x * math.sqrt(0.5))) / 2


@jax.custom_jvp
def gelu_tanh(z: jax.Array) -> jax.Array:
    """The approximation of `gelu` by a hyperbolic tangent (ibid.), as in GPT-2."""
    return jax.nn.gelu(z, approximate=True)


@gelu_tanh.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(lambda z: jax.nn.gelu(z, approximate=True), primals, tangents)


_ACTIVATIONS: dict[str, Activation] = {
    "elu": jax.nn.elu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "leaky_relu": leaky_relu,
    "linear": lambda z: z,
    "relu": relu,
    "sigmoid": sigmoid,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "step": step,
    "tanh": tanh,
}


def activation(name: str) -> Activation:
    """The elementwise activation of this name ("gelu" is the exact form, "gelu_tanh" its approximation).

    Raises:
      ValueError: there is none of this name; the nearest are listed.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(unknown("activation", name, _ACTIVATIONS))
    return _ACTIVATIONS[name]
