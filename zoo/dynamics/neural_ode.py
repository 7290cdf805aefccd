"""A neural ODE on a table, with or without augmented dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.dynamics.continuous import Continuous, with_time
from zoo.layers import Dense, flatten, record
from zoo.layers.activations import activation
from zoo.registry import register


class MLPField(nn.Module):
    """f: dense layers with a smooth activation, on the state and, where `time` is true, the time.

    Kinks, as of ReLU, make an adaptive solver take tiny steps.
    """

    hidden_sizes: Sequence[int]
    activation: str = "tanh"
    time: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, y: jax.Array, t: jax.Array) -> jax.Array:
        """`[batch, features]` → the same shape."""
        size, act = y.shape[-1], activation(self.activation)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = with_time(y, t) if self.time else y
        for index, features in enumerate(self.hidden_sizes):
            y = act(Dense(features, **types, name=f"hidden{index + 1}")(y))
        return Dense(size, **types, name="out")(y)


class NeuralODE(Continuous):
    """The features flow along a field from time 0 to 1, and a linear layer reads where they arrive.

    A flow is a homeomorphism of its space: it cannot take an inner ring out of an outer one. With `augment`
    dimensions more, which start at 0, it goes around (Dupont, Doucet & Teh 2019, section 4). `flow`, the state at the
    end, is a named intermediate.
    """

    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    augment: int = 0
    num_classes: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, …]` → logits `[batch, num_classes]`."""
        if self.augment < 0:
            raise ValueError(
                f"augment, the number of dimensions that are added, must be at least 0, not {self.augment}"
            )
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        y = jnp.pad(flatten(x), ((0, 0), (0, self.augment)))
        field, params = self.field_of(MLPField(self.hidden_sizes, self.activation, **types, parent=None), y)
        y = self.integrate(field, y, (0.0, 1.0), params).values[-1]
        y = y.astype(self.dtype or jnp.result_type(y))
        record(self, "flow", y)
        return y if self.num_classes == 0 else Dense(self.num_classes, **types, name="head")(y)

    def vector_field(self, variables: Any, y: jax.Array, t: jax.Array) -> jax.Array:
        """dy/dt at states `[batch, features + augment]`; a function of the variables."""
        field = MLPField(
            self.hidden_sizes, self.activation, dtype=self.dtype, param_dtype=self.param_dtype, parent=None
        )
        return field.apply({"params": variables["params"]["field"]}, y, t)  # type: ignore[return-value]


for _name, _num_parameters, _paper, _augment in (
    ("neural_ode", 4_552, "R. Chen et al., Neural ordinary differential equations, NeurIPS 2018", 0),
    ("augmented_neural_ode", 4_683, "E. Dupont, A. Doucet, Y. W. Teh, Augmented neural ODEs, NeurIPS 2019", 1),
):
    register(_name, input_shape=(2,), num_parameters=_num_parameters, paper=_paper, augment=_augment)(NeuralODE)
