"""GPT-2 (Radford et al. 2019): a stack of causal blocks that tells the next token."""

from __future__ import annotations

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Dropout, record
from zoo.layers.attention import Cache, causal_context, empty_cache, last_token
from zoo.layers.basic import spread
from zoo.layers.linear import Dense, Embed
from zoo.layers.transformer_block import Block
from zoo.registry import register


class GPT(nn.Module):
    """Embeddings of tokens and positions, blocks with the norm in front, and logits by the table of embeddings.

    All weights start with a deviation of 0.02, and those in front of a sum with 1/√(2 · num_layers) of it (section
    2.3). Dropout acts on the embeddings and on what the blocks add, not on the weights of attention. `block1` … are
    named intermediates, `[batch, time, hidden_size]`.

    `output` is what comes out: logits of the next token after each, the last hidden states ("hidden"), or `num_outputs`
    logits of each token ("token") or of the whole text ("text"), made of its last token.

        logits = model.apply(variables, tokens)
        logits, state = model.apply(variables, tokens, model.init_state(batch_size))
    """

    vocab_size: int
    max_len: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_dim: int | None = None  # four times hidden_size
    use_bias: bool = True
    activation: str = "gelu_tanh"
    epsilon: float = 1e-5
    dropout_rate: float = 0.1
    output: Literal["next_token", "hidden", "token", "text"] = "next_token"
    num_outputs: int = 2  # of the outputs "token" and "text"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: jax.Array,
        state: Cache | None = None,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> Any:
        """Logits of the next token after each, `[batch, time, vocab_size]`; with a state also what it has become.

        By another `output`: hidden states `[batch, time, hidden_size]`, logits `[batch, time, num_outputs]`, or logits
        `[batch, num_outputs]`.

        Args:
          tokens: integer `[batch, time]`; with a state, those that come next.
          state: of `init_state`, or of the call before.
          mask: `[batch, time]`, which tokens are no padding, see `zoo.attention.causal_context`.
          train: whether units are dropped.

        Raises:
          ValueError: there are more tokens than `max_len`. Where the room in a state runs out, the logits are NaN.
        """
        context = causal_context(tokens, self.max_len, state, mask)
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = nn.initializers.normal(0.02)
        embed = Embed(self.vocab_size, self.hidden_size, embedding_init=init, name="embed", **options)
        position_embedding = self.param("position_embedding", init, (self.max_len, self.hidden_size), self.param_dtype)
        x = embed(tokens)
        x = x + spread(jnp.asarray(position_embedding)[context.positions], x)
        x = Dropout(self.dropout_rate)(x, train=train)
        caches: list[Any] = []
        for index in range(1, self.num_layers + 1):
            block = Block(
                self.num_heads,
                self.mlp_dim or 4 * self.hidden_size,
                norm_first=True,
                activation=self.activation,
                epsilon=self.epsilon,
                use_bias=self.use_bias,
                dropout_rate=self.dropout_rate,
                kernel_init=init,
                residual_init=nn.initializers.normal(0.02 / math.sqrt(2 * self.num_layers)),
                name=f"decoder_block{index}",
                **options,
            )
            x, cached = block(x, train=train, **context.of_layer(None if state is None else state.layers[index - 1]))
            caches.append(cached)
            record(self, f"block{index}", x)
        x = nn.LayerNorm(epsilon=self.epsilon, use_bias=self.use_bias, name="norm_head", **options)(x)
        if self.output == "text":
            x = last_token(x, mask)
        if self.output == "next_token":
            x = embed.attend(x)
        elif self.output != "hidden":
            x = Dense(self.num_outputs, use_bias=self.output == "token", kernel_init=init, name="head", **options)(x)
        return x if state is None else (x, context.next_cache(caches))

    def init_state(self, batch_size: int, room: int | None = None) -> Cache:
        """The state before the first token, with room for so many tokens, by default `max_len`."""
        return empty_cache(
            batch_size,
            min(room or self.max_len, self.max_len),
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            head_dim=self.hidden_size // self.num_heads,
            dtype=self.dtype,
        )


for _name, _hidden_size, _num_layers, _num_heads, _num_parameters in (
    ("gpt2", 768, 12, 12, 124_439_808),
    ("gpt2_medium", 1024, 24, 16, 354_823_168),
    ("gpt2_large", 1280, 36, 20, 774_030_080),
    ("gpt2_xl", 1600, 48, 25, 1_557_611_200),
):
    register(
        _name,
        task="language_modeling",
        input_shape=(1024,),
        input_dtype="int32",
        num_parameters=_num_parameters,
        paper="A. Radford et al., Language models are unsupervised multitask learners, 2019, table 2",
        weights_licence="MIT",
        vocab_size=50_257,
        max_len=1024,
        hidden_size=_hidden_size,
        num_layers=_num_layers,
        num_heads=_num_heads,
    )(GPT)

register(
    "char_gpt",
    task="language_modeling",
    input_shape=(64,),
    input_dtype="int32",
    num_parameters=804_096,
    paper="A. Karpathy, nanoGPT, 2022, the small model of Shakespeare's characters for a CPU",
    vocab_size=65,
    max_len=64,
    hidden_size=128,
    num_layers=4,
    num_heads=4,
    use_bias=False,
    activation="gelu",
    dropout_rate=0.0,
)(GPT)
