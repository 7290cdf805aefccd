"""Dense layers and dropout for rows that may be sparse."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from zoo.graphs.sparse import Rows, SparseRows
from zoo.layers import Dropout, product
from zoo.layers.basic import spread


class Linear(nn.Module):
    """x W + b for `[rows, inputs]` or `SparseRows` → `[rows, features]`; weights start as Glorot & Bengio 2010."""

    features: int
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Any = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: Rows) -> jax.Array:
        """Takes rows."""
        width = x.width.shape[-1] if isinstance(x, SparseRows) else x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (width, self.features), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype) if self.use_bias else None
        if isinstance(x, SparseRows):
            values, kernel = promote_dtype(x.values, kernel, dtype=self.dtype)
            y = x._replace(values=values).product(kernel)
        else:
            x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
            y = product.dense(x, kernel)
        return y if bias is None else y + spread(bias, y)


def drop(rate: float, x: Rows, *, train: bool) -> Rows:
    """Dropout of rows that may be sparse: entries that are 0 stay 0 either way, and need no random numbers."""
    if isinstance(x, SparseRows):
        return x._replace(values=Dropout(rate)(x.values, train=train))
    return Dropout(rate)(x, train=train)
