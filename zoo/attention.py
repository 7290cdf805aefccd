"""Attention (Vaswani et al. 2017; guide, chapter 7)."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention in several heads side by side (eq. 56–58).

    The four layers `query`, `key`, `value` and `out` have kernels `[features, features]`; the heads lie side by side
    along the last axis of the first three, and along the first of `out`.
    """

    num_heads: int
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, length, features]` → the same: every position attends to all.

        Raises:
          ValueError: the heads cannot share the features evenly.
        """
        batch, length, features = x.shape
        if features % self.num_heads:
            raise ValueError(f"{features} features cannot be shared evenly by {self.num_heads} heads")
        dense = partial(
            nn.Dense, features, kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype
        )
        query, key, value = (
            dense(name=name)(x).reshape(batch, length, self.num_heads, -1) for name in ("query", "key", "value")
        )
        return dense(name="out")(jax.nn.dot_product_attention(query, key, value).reshape(batch, length, features))
