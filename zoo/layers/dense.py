"""Dense layers and embeddings: Flax's, with the zoo's product of matrices."""

from __future__ import annotations

from typing import Any, cast

import flax.linen as nn
import jax

from zoo.layers import product


def _dot_general(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    return product.dense(x, kernel)


class Dense(nn.Dense):
    """`[…, inputs]` → `[…, features]`: x W + b (guide, eq. 7)."""

    dot_general: Any = _dot_general


class Embed(nn.Embed):
    """Integers `[…]` → their rows of a table, `[…, features]`."""

    def attend(self, query: jax.Array) -> jax.Array:
        """`[…, features]` → `[…, num_embeddings]`: the products with all rows, where they are the output layer, too."""
        query, embedding = cast(Any, self.promote_dtype(query, self.embedding, dtype=self.dtype))
        return product.dense(query, embedding, transpose=True)
