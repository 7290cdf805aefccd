"""The perceptron (Rosenblatt 1958; guide, section 2.1)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import flatten
from zoo.layers.linear import Dense
from zoo.registry import register


@register(
    "perceptron",
    task="classification",
    input_shape=(4,),
    num_parameters=5,
    paper="F. Rosenblatt, The perceptron, Psychological Review 65(6), 1958",
)
class Perceptron(nn.Module):
    """z = wᵀx + b for each output (eq. 1); the output fires where z ≥ 0 (eq. 2, `activations.step`).

    Weights start at zero, where Rosenblatt's rule may start: unlike a deep network, one layer has no symmetry to break.
    """

    num_outputs: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, …]` → logits z, `[batch, num_outputs]`."""
        return Dense(
            self.num_outputs, kernel_init=nn.initializers.zeros, dtype=self.dtype, param_dtype=self.param_dtype
        )(flatten(x))
