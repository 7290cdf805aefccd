"""The guide's convolutional network (section 5.3): [conv, ReLU, batch norm, max-pool] × 3, then two dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import BatchNorm, Conv, Dropout, flatten, record, require_image
from zoo.layers.activations import relu
from zoo.layers.convolution import max_pool
from zoo.layers.linear import Dense
from zoo.registry import register


@register(
    "cnn",
    task="classification",
    input_shape=(28, 28, 1),
    num_parameters=241_994,
    paper="the guide, section 5.3.1; the pattern is that of LeCun et al. 1998",
)
class CNN(nn.Module):
    """3×3 convolutions with `features` filters, each halving the image; `num_classes=0` gives the dense features."""

    features: Sequence[int] = (32, 64, 128)
    hidden_size: int = 128
    num_classes: int = 10
    dropout_rate: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` → logits `[batch, num_classes]`."""
        require_image(x, least=2 ** len(self.features), model="CNN")
        dense = partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        for index, features in enumerate(self.features, start=1):
            x = relu(Conv(features, dtype=self.dtype, param_dtype=self.param_dtype)(x))
            x = BatchNorm(dtype=self.dtype, param_dtype=self.param_dtype)(x, train=train)
            x = max_pool(x)
            record(self, f"block{index}", x)
        x = relu(dense(self.hidden_size)(flatten(x)))
        x = Dropout(self.dropout_rate)(x, train=train)
        return dense(self.num_classes)(x) if self.num_classes else x
