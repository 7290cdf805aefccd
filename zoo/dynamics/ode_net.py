"""ODE-Net: an image classifier whose residual blocks are one ordinary differential equation."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.dynamics.continuous import Continuous, with_time
from zoo.layers import Conv, Dense, global_avg_pool, record, require_image
from zoo.registry import register

_GROUPS = 32
"""The most groups of a group norm, as its authors have it."""


def _group_norm(features: int, **options: Any) -> nn.GroupNorm:
    """Of two channels or more: in a group of one the bias before it would do nothing."""
    return nn.GroupNorm(max(1, min(_GROUPS, features // 2)), epsilon=1e-5, **options)


class ConvField(nn.Module):
    """f: two 3×3 convolutions that see the time as one more channel, with group norms before, between and behind."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, y: jax.Array, t: jax.Array) -> jax.Array:
        """`[batch, height, width, features]` → the same shape."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm, conv = partial(_group_norm, self.features, **types), partial(Conv, self.features, 3, padding=1, **types)
        y = nn.relu(norm(name="norm1")(y))
        y = nn.relu(norm(name="norm2")(conv(name="conv1")(with_time(y, t))))
        return norm(name="norm3")(conv(name="conv2")(with_time(y, t)))


class ODENet(Continuous):
    """Three convolutions make 28×28 pixels 6×6, the state of an ODE from time 0 to 1; a linear layer on its mean.

    Without the `block` it is the same network: what its authors' comparison lacks. `stem` and `block` are named
    intermediates. The ReLU of the field has kinks, at which an adaptive solver takes small steps.
    """

    features: int = 64
    block: Literal["ode", "none"] = "ode"
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]`, sides of at least 8 → logits `[batch, num_classes]`."""
        require_image(x, least=8, model="ODENet")
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm, conv = partial(_group_norm, self.features, **types), partial(Conv, self.features, **types)
        x = conv(3, padding=0, name="conv1")(x)
        x = conv(4, strides=2, padding=1, name="conv2")(nn.relu(norm(name="norm1")(x)))
        x = conv(4, strides=2, padding=1, name="conv3")(nn.relu(norm(name="norm2")(x)))
        record(self, "stem", x)
        if self.block == "ode":
            field, params = self.field_of(ConvField(self.features, **types, parent=None), x)
            x = self.integrate(field, x, (0.0, 1.0), params).values[-1].astype(x.dtype)
            record(self, "block", x)
        x = global_avg_pool(nn.relu(norm(name="norm3")(x)))
        return x if self.num_classes == 0 else Dense(self.num_classes, **types, name="head")(x)


_PAPER = (
    "R. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural ordinary differential equations, NeurIPS 2018, table 1"
)

for _name, _num_parameters, _paper, _options in (
    ("ode_net", 208_266, _PAPER, {"solver": "dopri5", "atol": 1e-3, "max_steps": 64}),
    ("ode_net_without_block", 132_874, f"{_PAPER}, without its ODE", {"block": "none"}),
):
    register(_name, input_shape=(28, 28, 1), num_parameters=_num_parameters, paper=_paper, **_options)(ODENet)
