"""The multi-layer perceptron (guide, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Dropout, flatten, record
from zoo.layers.activations import activation
from zoo.layers.dense import Dense
from zoo.registry import register


@register(
    "mlp",
    task="classification",
    input_shape=(64,),
    num_parameters=17_226,
    paper="D. Rumelhart, G. Hinton, R. Williams, Learning representations by back-propagating errors, Nature 323, 1986",
)
class MLP(nn.Module):
    """Dense layers a = g(Wa + b) (eq. 8–9), each followed by dropout; the last one is linear.

    The defaults are the guide's network for digits (section 2.4.3). For regression `num_classes` is the number of
    targets; 0 leaves the last hidden layer's activations.
    """

    hidden_sizes: Sequence[int] = (128, 64)
    num_classes: int = 10
    activation: str = "relu"
    dropout_rate: float = 0.3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, …]` → `[batch, num_classes]`."""
        g = activation(self.activation)
        x = flatten(x)
        for index, size in enumerate(self.hidden_sizes, start=1):
            x = g(Dense(size, kernel_init=nn.initializers.he_normal(), **self._dtypes)(x))
            record(self, f"hidden{index}", x)
            x = Dropout(self.dropout_rate)(x, train=train)
        return Dense(self.num_classes, **self._dtypes)(x) if self.num_classes else x

    @property
    def _dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}
