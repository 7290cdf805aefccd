"""Dense layers, embeddings and convolution layers: weights, and the zoo's products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax.nn.initializers import Initializer

from zoo.layers import convolution, product
from zoo.layers.basic import spread
from zoo.layers.convolution import Padding

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015, eq. 15: keeps the variance of gradients through ReLU layers."""


class Dense(nn.Dense):
    """`[…, inputs]` → `[…, features]`: x W + b (guide, eq. 7)."""

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """See the class for shapes."""
        kernel = self.param("kernel", self.kernel_init, (inputs.shape[-1], self.features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel = promote_dtype(inputs, kernel, dtype=self.dtype)
        y = product.dense(x, kernel)
        return y if bias is None else y + spread(bias, y)


class Embed(nn.Embed):
    """Integers `[…]` → their rows of a table, `[…, features]`; NaN for one that the table has no row of."""

    def __call__(self, inputs: jax.Array | np.ndarray) -> jax.Array:
        """Rounded to `dtype` after they are looked up: in half precision the gradient of a frequent row would stop."""
        if not jnp.issubdtype(inputs.dtype, jnp.integer):
            raise ValueError(f"an embedding takes integers, not {inputs.dtype}")
        table = jnp.asarray(self.embedding)
        rows = table.at[inputs].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        (rows,) = self.promote_dtype(rows, dtype=self.dtype, inexact=False)
        return cast(jax.Array, rows)

    def attend(self, query: jax.Array) -> jax.Array:
        """`[…, features]` → `[…, num_embeddings]`: the products with all rows, where they are the output layer, too."""
        query, embedding = cast(Any, self.promote_dtype(query, self.embedding, dtype=self.dtype))
        return product.dense(query, embedding, transpose=True)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class Conv(nn.Module):
    """2-D convolution, `[batch, height, width, channels]` → `[batch, height', width', features]` (eq. 33).

    An int for `padding` pads all sides alike, as in PyTorch; `SAME` differs from that at stride 2.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves; see the class for shapes."""
        shape = (*_pair(self.kernel_size), x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        y = convolution.conv(
            x,
            kernel,
            strides=_pair(self.strides),
            padding=self.padding,
            dilation=_pair(self.dilation),
            groups=self.groups,
        )
        return y if bias is None else y + spread(bias, y)


class ConvTranspose(nn.Module):
    """2-D transposed convolution, `[batch, height, width, channels]` → `[batch, height', width', features]`.

    The gradient of `Conv`, as in PyTorch and Keras: `SAME` multiplies the size by the stride.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves; see the class for shapes."""
        shape = (*_pair(self.kernel_size), x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        y = convolution.conv_transpose(x, kernel, strides=_pair(self.strides), padding=self.padding)
        return y if bias is None else y + spread(bias, y)
