"""Text a character at a time, by recurrent networks (Graves 2013; guide, section 14.2)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Dropout, require_tokens
from zoo.layers.linear import Dense
from zoo.layers.recurrent import LSTM, Stack, State
from zoo.registry import register


class CharLSTM(nn.Module):
    """One-hot characters, LSTM layers with dropout after each, and a dense layer.

    The guide's network tells the character after a hundred; this one tells the next after each, which is a hundred
    times as much to learn from for the same work. Its state is the (c, h) of each layer, `[batch, hidden_size]`.
    """

    vocab_size: int = 65
    hidden_size: int = 128
    num_layers: int = 2
    dropout_rate: float = 0.2
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def init_state(self, batch_size: int) -> tuple[State, ...]:
        """The state before the first character, zeros."""
        layer = LSTM(self.hidden_size, dtype=self.dtype, param_dtype=self.param_dtype, parent=None)
        return (layer.init_state(batch_size),) * self.num_layers

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        state: tuple[State, ...] | None = None,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> Any:
        """Logits of the next token after each, `[batch, time, vocab_size]`; with a state also what it has become.

        Args:
          tokens: integer `[batch, time]`; with a state, those that come next.
          state: of `init_state`, or of the call before.
          mask: boolean `[batch, time]`, which tokens are no padding; what is leaves the state as it is.
          train: whether units are dropped.

        Raises:
          ValueError: tokens or mask have no such shape.
        """
        require_tokens(tokens)
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = jax.nn.one_hot(tokens, self.vocab_size, dtype=self.dtype or self.param_dtype)
        x = jnp.where(((tokens >= 0) & (tokens < self.vocab_size))[..., None], x, jnp.nan)  # as of an embedding
        lstm = Stack(LSTM, (self.hidden_size,) * self.num_layers, self.dropout_rate, name="lstm", **options)
        x, last = lstm(x, state, mask=mask, train=train)
        x = Dropout(self.dropout_rate)(x, train=train)
        logits = Dense(self.vocab_size, name="head", **options)(x)
        return logits if state is None else (logits, last)


register(
    "char_lstm",
    task="language_modeling",
    input_shape=(100,),
    input_dtype="int32",
    num_parameters=239_297,
    paper="A. Graves, Generating sequences with recurrent neural networks, arXiv:1308.0850; the guide, section 14.2",
)(CharLSTM)
