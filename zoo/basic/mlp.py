"""The multi-layer perceptron (guide, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Dropout, flatten, norm, record
from zoo.layers.activations import activation
from zoo.layers.linear import Dense
from zoo.registry import register


@register(
    "mlp",
    task="classification",
    input_shape=(64,),
    num_parameters=17_226,
    paper="D. Rumelhart, G. Hinton, R. Williams, Learning representations by back-propagating errors, Nature 323, 1986",
)
class MLP(nn.Module):
    """Dense layers a = g(Wa + b) (eq. 8–9), each followed by a norm, if any, and dropout; the last one is linear.

    The defaults are the guide's network for digits (section 2.4.3). That of section 4 has `norm="batch"` and
    `dropout_rate=(0.5, 0.3)`, a rate for each hidden layer. For regression `num_classes` is the number of targets; 0
    leaves the last hidden layer's activations. `norm` is a name of `zoo.layers.norm`. Weights start as He et al. 2015
    have it, those of the last layer as LeCun et al. 1998; or all with the standard deviation `init_std`.
    """

    hidden_sizes: Sequence[int] = (128, 64)
    num_classes: int = 10
    activation: str = "relu"
    dropout_rate: float | Sequence[float] = 0.3
    norm: str = "none"
    init_std: float | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, …]` → `[batch, num_classes]`."""
        g = activation(self.activation)
        hidden_init, last_init = nn.initializers.he_normal(), nn.initializers.lecun_normal()
        if self.init_std is not None:
            hidden_init = last_init = nn.initializers.normal(self.init_std)
        rates = self.dropout_rate
        rates = list(rates) if isinstance(rates, Sequence) else [rates] * len(self.hidden_sizes)
        if len(rates) != len(self.hidden_sizes):
            raise ValueError(f"{len(rates)} rates of dropout_rate do not fit {len(self.hidden_sizes)} hidden layers")
        x = flatten(x)
        for index, (size, rate) in enumerate(zip(self.hidden_sizes, rates, strict=True), start=1):
            x = g(Dense(size, kernel_init=hidden_init, **self._dtypes)(x))
            record(self, f"hidden{index}", x)
            x = norm(self.norm, **self._dtypes, name=f"norm{index}")(x, train=train)
            x = Dropout(rate)(x, train=train)
        return Dense(self.num_classes, kernel_init=last_init, **self._dtypes)(x) if self.num_classes else x

    @property
    def _dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}
