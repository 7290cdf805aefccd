"""Llama (Touvron et al. 2023): a causal Transformer with RMS norms, rotary positions and gated dense layers."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import record
from zoo.layers.attention import Cache, MultiHeadAttention, causal_context, empty_cache, last_token
from zoo.layers.linear import Dense, Embed
from zoo.registry import register


class LlamaBlock(nn.Module):
    """Attention with rotary positions, and SwiGLU, each behind an RMS norm and beside a shortcut."""

    num_heads: int
    num_kv_heads: int
    mlp_dim: int
    epsilon: float
    rotary_base: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, **attention: Any) -> tuple[jax.Array, Any]:
        """`[batch, time, hidden_size]` → the same, and the layer's cache where `attention` holds one (else None)."""
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = nn.initializers.normal(0.02)
        dense = partial(Dense, use_bias=False, kernel_init=init, **options)
        norm = partial(nn.RMSNorm, epsilon=self.epsilon, **options)
        attend = MultiHeadAttention(
            self.num_heads,
            self.num_kv_heads,
            use_bias=False,
            rotary_base=self.rotary_base,
            kernel_init=init,
            name="attention",
            **options,
        )
        y = attend(norm(name="norm1")(x), **attention)
        y, cached = y if "cached" in attention else (y, None)
        x = x + y
        y = norm(name="norm2")(x)
        y = nn.silu(dense(self.mlp_dim, name="gate")(y)) * dense(self.mlp_dim, name="up")(y)
        return x + dense(x.shape[-1], name="down")(y), cached


class Llama(nn.Module):
    """Embeddings, blocks, a norm and logits. Where `num_kv_heads` is less than `num_heads`, queries are grouped.

    `block1` … are named intermediates, `[batch, time, hidden_size]`. `output` is that of GPT.

        logits = model.apply(variables, tokens)
        logits, state = model.apply(variables, tokens, model.init_state(batch_size))
    """

    vocab_size: int
    max_len: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    mlp_dim: int
    epsilon: float = 1e-5
    rotary_base: float = 10_000.0
    tied: bool = False  # logits by the table of embeddings
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
          train: makes no difference: there is no dropout.

        Raises:
          ValueError: there are more tokens than `max_len`. Where the room in a state runs out, the logits are NaN.
        """
        context = causal_context(tokens, self.max_len, state, mask)
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = nn.initializers.normal(0.02)
        embed = Embed(self.vocab_size, self.hidden_size, embedding_init=init, name="embed", **options)
        x = embed(tokens)
        caches: list[Any] = []
        for index in range(1, self.num_layers + 1):
            block = LlamaBlock(
                self.num_heads,
                self.num_kv_heads,
                self.mlp_dim,
                self.epsilon,
                self.rotary_base,
                name=f"decoder_block{index}",
                **options,
            )
            x, cached = block(x, **context.of_layer(None if state is None else state.layers[index - 1]))
            caches.append(cached)
            record(self, f"block{index}", x)
        x = nn.RMSNorm(epsilon=self.epsilon, name="norm_head", **options)(x)
        if self.output == "text":
            x = last_token(x, mask)
        if self.output == "next_token" and self.tied:
            x = embed.attend(x)
        elif self.output != "hidden":
            outputs = self.vocab_size if self.output == "next_token" else self.num_outputs
            x = Dense(outputs, use_bias=self.output == "token", kernel_init=init, name="head", **options)(x)
        return x if state is None else (x, context.next_cache(caches))

    def init_state(self, batch_size: int, room: int | None = None) -> Cache:
        """The state before the first token, with room for so many tokens, by default `max_len`."""
        return empty_cache(
            batch_size,
            min(room or self.max_len, self.max_len),
            num_layers=self.num_layers,
            num_heads=self.num_kv_heads,
            head_dim=self.hidden_size // self.num_heads,
            dtype=self.dtype,
        )


_STORIES = "R. Eldan, Y. Li, TinyStories, 2023; A. Karpathy, llama2.c, 2023"
_TINY_LLAMA = "P. Zhang et al., TinyLlama: an open-source small language model, 2024, table 1"
_LLAMA_2 = "H. Touvron et al., Llama 2: open foundation and fine-tuned chat models, 2023"

for _name, _num_parameters, _paper, _licence, _max_len, _sizes, _options in (
    # sizes: hidden_size, num_layers, num_heads, num_kv_heads, mlp_dim
    ("llama_15m", 15_191_712, _STORIES, "MIT", 256, (288, 6, 6, 6, 768), {"tied": True}),
    ("tinyllama_1b", 1_100_048_384, _TINY_LLAMA, "Apache 2.0", 2048, (2048, 22, 32, 4, 5632), {}),
    ("llama2_7b", 6_738_415_616, _LLAMA_2, "Llama 2 Community License", 4096, (4096, 32, 32, 32, 11_008), {}),
):
    register(
        _name,
        task="language_modeling",
        input_shape=(_max_len,),
        input_dtype="int32",
        num_parameters=_num_parameters,
        paper=f"{_paper}; H. Touvron et al., LLaMA: open and efficient foundation language models, 2023",
        weights_licence=_licence,
        vocab_size=32_000,
        max_len=_max_len,
        **dict(zip(("hidden_size", "num_layers", "num_heads", "num_kv_heads", "mlp_dim"), _sizes, strict=True)),
        **_options,
    )(Llama)
