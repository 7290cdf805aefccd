"""Regression on sequences by recurrent networks (guide, sections 6.3.2, 6.4 and 7.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Dropout, record
from zoo.layers.basic import spread
from zoo.layers.linear import Dense
from zoo.layers.recurrent import GRU, LSTM, Recurrent, Stack, merge_directions
from zoo.registry import register


class SequenceRegressor(nn.Module):
    """Recurrent layers with dropout after each, and a dense layer on the last state.

    In both directions that is where each direction ends, concatenated. `outputs1` …, those of each layer, are named
    intermediates.
    """

    layer: type[Recurrent]
    hidden_sizes: Sequence[int] = (64, 32)
    dropout_rate: float = 0.2
    bidirectional: bool = False
    num_outputs: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """`[batch, time, features]`, and which steps there are, `[batch, time]` → `[batch, num_outputs]`."""
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        stack = Stack(self.layer, self.hidden_sizes, self.dropout_rate, self.bidirectional, name="recurrent", **options)
        _, states = stack(x, mask=mask, train=train)
        if self.bidirectional:
            forwards, backwards = states[-1]
            last = merge_directions("concat", forwards[-1], backwards[-1])
        else:
            last = states[-1][-1]
        return Dense(self.num_outputs, name="head", **options)(Dropout(self.dropout_rate)(last, train=train))


class AdditiveAttention(nn.Module):
    """What a query finds in values: their mean, weighed by how well each fits (Bahdanau, Cho, Bengio 2015, section 3).

    Scores are v · tanh(W₁ q + W₂ values) (the guide's listing in section 7.2). The guide's v has a bias; the softmax
    cancels it, and it is left out here.
    """

    hidden_size: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, query: jax.Array, values: jax.Array, *, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Query `[batch, features]` and values `[batch, time, features]` → context `[batch, features]` and weights.

        The weights, `[batch, time]`, sum to 1; they are 0 where `mask`, of that shape, is false.
        """
        dense = partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        keys = dense(self.hidden_size, name="key")(values)
        fit = jnp.tanh(spread(dense(self.hidden_size, name="query")(query[:, None]), keys) + keys)
        scores = dense(1, use_bias=False, name="score")(fit)[..., 0]
        weights = jax.nn.softmax(scores, axis=1, where=None if mask is None else mask.astype(bool))
        return (spread(weights[..., None], values) * values).sum(axis=1), weights


class AttentionRegressor(nn.Module):
    """An LSTM whose outputs are attended to by the last state of another one, and a dense layer.

    `attention_weights`, `[batch, time]`, is a named intermediate.
    """

    hidden_size: int = 64
    num_outputs: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """`[batch, time, features]`, and which steps there are, `[batch, time]` → `[batch, num_outputs]`."""
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        values, _ = LSTM(self.hidden_size, name="values", **options)(x, mask=mask)
        _, (_, query) = LSTM(self.hidden_size, name="query", **options)(x, mask=mask)
        context, weights = AdditiveAttention(self.hidden_size, name="attention", **options)(query, values, mask=mask)
        record(self, "attention_weights", weights)
        return Dense(self.num_outputs, name="head", **options)(context)


for _name, _num_parameters, _layer, _bidirectional, _dropout_rate, _paper in (
    (
        *("lstm_regressor", 29_345, LSTM, False, 0.2),
        "S. Hochreiter, J. Schmidhuber, Long short-term memory, Neural Computation 1997; the guide, section 6.3.2",
    ),
    (
        *("gru_regressor", 22_113, GRU, False, 0.2),
        "K. Cho et al., Learning phrase representations using RNN encoder–decoder, 2014; the guide, section 6.3.2",
    ),
    (
        *("bilstm_regressor", 75_073, LSTM, True, 0.0),
        "M. Schuster, K. Paliwal, Bidirectional recurrent neural networks, 1997; the guide, section 6.4",
    ),
):
    register(
        _name,
        task="regression",
        input_shape=(50, 1),
        num_parameters=_num_parameters,
        paper=_paper,
        layer=_layer,
        bidirectional=_bidirectional,
        dropout_rate=_dropout_rate,
    )(SequenceRegressor)

register(
    "attention_regressor",
    task="regression",
    input_shape=(50, 1),
    num_parameters=42_241,
    paper="D. Bahdanau, K. Cho, Y. Bengio, Neural machine translation by jointly learning to align and translate, "
    "ICLR 2015; the guide, section 7.2",
)(AttentionRegressor)
