"""BERT (Devlin et al. 2019): an encoder of texts, with a head for classes or for masked words."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zoo.layers import Dropout, record, require_tokens
from zoo.layers.activations import activation
from zoo.layers.basic import spread
from zoo.layers.linear import Dense, Embed
from zoo.layers.transformer_block import Block
from zoo.registry import register


class BERT(nn.Module):
    """Embeddings of tokens, positions and segments, and blocks with the norm behind.

    The output is the pooled first token, or with `num_classes` logits of classes, or with `masked_lm` logits of the
    token at each place. With `per_token`, it is the hidden state of each token, or logits of classes of each. `encode`
    gives the hidden states whatever the output; their mean over the tokens is the usual embedding of a sentence:

        hidden = model.apply(variables, tokens, mask, method="encode")
        sentences = zoo.transformer.mean_over_tokens(hidden, mask)

    Dropout acts on the embeddings, on what the blocks add and in front of the classes, not on the weights of attention.
    `block1` … are named intermediates, `[batch, time, hidden_size]`.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    vocab_size: int = 30_522
    max_len: int = 512
    num_segments: int = 2
    num_classes: int = 0
    masked_lm: bool = False
    per_token: bool = False
    activation: str = "gelu"
    epsilon: float = 1e-12
    dropout_rate: float = 0.1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """The layers, of which each output takes its own."""
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = nn.initializers.truncated_normal(0.02)
        embed = partial(Embed, features=self.hidden_size, embedding_init=init, **options)
        dense = partial(Dense, kernel_init=init, **options)
        norm = partial(nn.LayerNorm, epsilon=self.epsilon, **options)
        block = partial(
            Block,
            self.num_heads,
            self.mlp_dim,
            activation=self.activation,
            epsilon=self.epsilon,
            dropout_rate=self.dropout_rate,
            kernel_init=init,
            **options,
        )
        self.embed = embed(self.vocab_size)
        self.embed_positions = embed(self.max_len)
        self.embed_segments = embed(self.num_segments)
        self.norm_embed = norm()
        self.blocks = [block() for _ in range(self.num_layers)]
        self.pooler = dense(self.hidden_size)
        self.head = dense(self.num_classes)
        self.transform = dense(self.hidden_size)
        self.norm_transform = norm()
        self.dropout = Dropout(self.dropout_rate)
        if self.masked_lm:
            self.word_bias = self.param("word_bias", nn.initializers.zeros, (self.vocab_size,), self.param_dtype)

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        segments: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Features `[batch, hidden_size]`, logits `[batch, num_classes]` or logits `[batch, time, vocab_size]`.

        With `per_token`, features `[batch, time, hidden_size]` or logits `[batch, time, num_classes]`.

        Args:
          tokens: integer `[batch, time]`, a "[CLS]" first.
          mask: boolean `[batch, time]`, which tokens are no padding; all where it is None.
          segments: integer `[batch, time]`, 0 for tokens of the first text and 1 of the second.
          train: whether units are dropped.

        Raises:
          ValueError: there are more tokens than `max_len`, or both kinds of logits are asked for.
        """
        if self.masked_lm and self.num_classes:
            raise ValueError("BERT has one output: num_classes or masked_lm, not both")
        x = self.encode(tokens, mask, segments, train=train)
        if self.masked_lm:
            x = self.norm_transform(activation(self.activation)(self.transform(x)))
            logits = self.embed.attend(x)
            return logits + spread(self.word_bias, logits)
        x = x if self.per_token else nn.tanh(self.pooler(x[:, 0]))
        return self.head(self.dropout(x, train=train)) if self.num_classes else x

    def encode(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        segments: jax.Array | None = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """Hidden states, `[batch, time, hidden_size]`, of the same arguments."""
        require_tokens(tokens, self.max_len)
        segments = jnp.zeros_like(tokens) if segments is None else segments
        x = self.embed(tokens) + self.embed_segments(segments)
        x = x + spread(self.embed_positions(np.arange(tokens.shape[1])[None]), x)
        x = self.dropout(self.norm_embed(x), train=train)
        seen = None if mask is None else mask.astype(bool)[:, None, None]
        for index, block in enumerate(self.blocks, start=1):
            x, _ = block(x, mask=seen, train=train)
            record(self, f"block{index}", x)
        return x


_PAPER = (
    "J. Devlin et al., BERT: pre-training of deep bidirectional transformers for language understanding, NAACL 2019"
)
_SMALL = "I. Turc et al., Well-read students learn better, 2019, table 1"

for _name, _hidden_size, _num_layers, _num_parameters, _paper in (
    ("bert_tiny", 128, 2, 4_385_920, _SMALL),
    ("bert_small", 512, 4, 28_763_648, _SMALL),
    ("bert_base", 768, 12, 109_482_240, _PAPER),
    ("bert_large", 1024, 24, 335_141_888, _PAPER),
):
    register(
        _name,
        task="classification",
        input_shape=(512,),
        input_dtype="int32",
        num_parameters=_num_parameters,
        paper=_paper,
        weights_licence="Apache 2.0",
        hidden_size=_hidden_size,
        num_layers=_num_layers,
        num_heads=_hidden_size // 64,
        mlp_dim=4 * _hidden_size,
    )(BERT)
