"""The block that all Transformers are made of (Vaswani et al. 2017; guide, chapter 8)."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from zoo.layers.activations import activation
from zoo.layers.attention import MultiHeadAttention
from zoo.layers.dropout import Dropout
from zoo.layers.linear import Dense


class Block(nn.Module):
    """Self-attention, attention to a memory where there is one, and a dense network; each is added to its input.

    The norm follows each sum (eq. 61–64), or with `norm_first` stands in front of each of the three (Xiong et al.
    2020), and the stack needs one more at its end.

    Attributes:
      num_heads: of attention.
      mlp_dim: units between the two dense layers.
      norm_first: where the norm stands.
      activation: between the dense layers, a name of `zoo.activations`.
      epsilon: of the norms.
      head_dim: see `MultiHeadAttention`.
      use_bias: of all layers.
      dropout_rate: of what is added.
      hidden_dropout_rate: of the units between the dense layers.
      kernel_init: of all kernels.
      residual_init: of the last layer before each sum; where it is None as the others.
    """

    num_heads: int
    mlp_dim: int
    norm_first: bool = False
    activation: str = "relu"
    epsilon: float = 1e-6
    head_dim: int | None = None
    use_bias: bool = True
    dropout_rate: float = 0.0
    hidden_dropout_rate: float = 0.0
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    residual_init: Initializer | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        *,
        train: bool = False,
        **attention: Any,
    ) -> tuple[jax.Array, Any]:
        """`[batch, time, hidden_size]` → the same, and the layer's cache where `attention` holds one (else None).

        `memory` is `[batch, source, hidden_size]`, its mask as of `zoo.attention.attend`; `attention` are the arguments
        of self-attention, see `MultiHeadAttention`.
        """
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attend = partial(
            MultiHeadAttention,
            self.num_heads,
            head_dim=self.head_dim,
            use_bias=self.use_bias,
            kernel_init=self.kernel_init,
            out_init=self.residual_init,
            **options,
        )
        dense = partial(Dense, use_bias=self.use_bias, **options)
        norm = partial(nn.LayerNorm, epsilon=self.epsilon, use_bias=self.use_bias, **options)

        def enter(name: str, x: jax.Array) -> jax.Array:
            return norm(name=name)(x) if self.norm_first else x

        def add(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
            x = x + Dropout(self.dropout_rate)(y, train=train)
            return x if self.norm_first else norm(name=name)(x)

        y = attend(name="attention")(enter("norm1", x), **attention)
        y, cached = y if "cached" in attention else (y, None)
        x = add("norm1", x, y)
        if memory is not None:
            y = attend(name="cross_attention")(enter("norm_cross", x), memory, mask=memory_mask)
            x = add("norm_cross", x, y)
        y = dense(self.mlp_dim, kernel_init=self.kernel_init, name="fc1")(enter("norm2", x))
        y = Dropout(self.hidden_dropout_rate)(activation(self.activation)(y), train=train)
        y = dense(x.shape[-1], kernel_init=self.residual_init or self.kernel_init, name="fc2")(y)
        return add("norm2", x, y), cached
