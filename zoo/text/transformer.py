"""The Transformer (Vaswani et al. 2017; guide, chapter 8): a classifier of texts, and encoder with decoder."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Dropout, record, require_tokens
from zoo.layers.activations import relu
from zoo.layers.attention import Cache, causal_context, empty_cache, sinusoids
from zoo.layers.linear import Dense, Embed
from zoo.layers.transformer_block import Block
from zoo.registry import register


class TransformerClassifier(nn.Module):
    """The guide's classifier of texts (section 8.1): blocks with the norm behind, and the mean over the tokens.

    Where there is a `pad_token`, such tokens are neither attended to nor counted; the guide's has none. `block1` … are
    named intermediates, `[batch, time, hidden_size]`; `num_classes=0` gives the `head_size` units before the logits. In
    the guide each head has all of the 128 features (`head_dim=128`); here as in the paper they share them.

    `token_dropout_rate` is the share of tokens that training leaves out, each text anew (word dropout: Iyyer et al.
    2015, section 2.3): where texts are few and short, no one word may decide.
    """

    vocab_size: int = 10_000
    hidden_size: int = 128
    num_layers: int = 1
    num_heads: int = 8
    head_dim: int | None = None
    mlp_dim: int = 512
    head_size: int = 20
    num_classes: int = 2
    pad_token: int | None = None
    dropout_rate: float = 0.1
    token_dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
        """Integer `[batch, time]`, of any length → logits `[batch, num_classes]`."""
        require_tokens(tokens)
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = partial(Dense, kernel_init=nn.initializers.xavier_uniform(), **options)
        # As large as the positions: with a small embedding the order drowns the words, and nothing is learned at first.
        embed = Embed(
            self.vocab_size, self.hidden_size, embedding_init=nn.initializers.normal(1.0), name="embed", **options
        )
        x = embed(tokens)
        x = x + jnp.asarray(sinusoids(tokens.shape[1], self.hidden_size), x.dtype)[None]
        is_token = None if self.pad_token is None else tokens != self.pad_token
        if train and self.token_dropout_rate:
            kept = Dropout(self.token_dropout_rate)(jnp.ones(tokens.shape), train=True) > 0
            is_token = kept if is_token is None else is_token & kept
        mask = None if is_token is None else is_token[:, None, None]
        for index in range(1, self.num_layers + 1):
            block = Block(
                self.num_heads,
                self.mlp_dim,
                head_dim=self.head_dim,
                dropout_rate=self.dropout_rate,
                name=f"encoder_block{index}",
                **options,
            )
            x, _ = block(x, mask=mask, train=train)
            record(self, f"block{index}", x)
        x = Dropout(self.dropout_rate)(mean_over_tokens(x, is_token), train=train)
        x = relu(dense(self.head_size, name="hidden")(x))
        return dense(self.num_classes, name="head")(x) if self.num_classes else x


def mean_over_tokens(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """`[batch, time, features]` → `[batch, features]`, the mean over the tokens that the mask `[batch, time]` keeps.

    Of hidden states of BERT this is the usual embedding of a sentence (Reimers & Gurevych 2019). Without any token it
    is zero.
    """
    if mask is None:
        return x.mean(axis=1)
    weights = mask.astype(x.dtype)[..., None]
    return (x * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)


class Memory(NamedTuple):
    """What the encoder makes of a source, `[batch, time, hidden_size]`, and its tokens that are no padding."""

    values: jax.Array
    mask: jax.Array


class Transformer(nn.Module):
    """Encoder and decoder (paper, section 3): a sequence of tokens into another.

    One table of embeddings serves the source, the target and, transposed, the logits (section 3.4). Tokens equal to
    `pad_token` are padding in a source; in a target they may follow the end. The paper has the norm behind each sum;
    with `norm_first` it trains without a warm-up.

        memory = model.apply(variables, source, method="encode")
        state = model.init_state(batch_size)
        logits, state = model.apply(variables, tokens, memory, state, method="decode")
    """

    vocab_size: int = 37_000
    max_len: int = 512
    hidden_size: int = 512
    num_layers: int = 6
    num_heads: int = 8
    mlp_dim: int = 2048
    dropout_rate: float = 0.1
    norm_first: bool = False
    pad_token: int = 0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """The layers; `max_len` is the length of targets, sources may have any."""
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        embedding_init = nn.initializers.normal(self.hidden_size**-0.5)
        self.embed = Embed(self.vocab_size, self.hidden_size, embedding_init=embedding_init, **options)
        block = partial(
            Block,
            self.num_heads,
            self.mlp_dim,
            norm_first=self.norm_first,
            dropout_rate=self.dropout_rate,
            **options,
        )
        self.encoder_blocks = [block() for _ in range(self.num_layers)]
        self.decoder_blocks = [block() for _ in range(self.num_layers)]
        if self.norm_first:
            self.encoder_norm, self.decoder_norm = (nn.LayerNorm(epsilon=1e-6, **options) for _ in range(2))
        self.dropout = Dropout(self.dropout_rate)

    def __call__(self, source: jax.Array, target: jax.Array | None = None, *, train: bool = False) -> jax.Array:
        """Logits of the token after each of the target, `[batch, target_time, vocab_size]`.

        Args:
          source: integer `[batch, source_time]`.
          target: integer `[batch, target_time]`, from a start token on. The source where it is None.
          train: whether units are dropped.
        """
        memory = self.encode(source, train=train)
        return self.decode(source if target is None else target, memory, train=train)

    def encode(self, source: jax.Array, *, train: bool = False) -> Memory:
        """Integer `[batch, time]` → what `decode` attends to."""
        require_tokens(source)
        mask = source != self.pad_token
        x = self._embed(source, sinusoids(source.shape[1], self.hidden_size)[None], train)
        for block in self.encoder_blocks:
            x, _ = block(x, mask=mask[:, None, None], train=train)
        return Memory(self.encoder_norm(x) if self.norm_first else x, mask)

    def decode(self, target: jax.Array, memory: Memory, state: Cache | None = None, *, train: bool = False) -> Any:
        """Logits `[batch, time, vocab_size]`, and where a state is given, what it has become.

        Args:
          target: integer `[batch, time]`: a target from its start token on, or with a state what comes next of it.
          memory: of the source.
          state: of `init_state`, or of the call before.
          train: whether units are dropped.
        """
        context = causal_context(target, self.max_len, state, None)
        x = self._embed(target, jnp.asarray(sinusoids(self.max_len, self.hidden_size))[context.positions], train)
        caches: list[Any] = []
        for index, block in enumerate(self.decoder_blocks):
            told = context.of_layer(None if state is None else state.layers[index])
            x, cached = block(x, memory.values, memory.mask[:, None, None], train=train, **told)
            caches.append(cached)
        logits = self.embed.attend(self.decoder_norm(x) if self.norm_first else x)
        return logits if state is None else (logits, context.next_cache(caches))

    def init_state(self, batch_size: int) -> Cache:
        """The decoder's state before the first token."""
        return empty_cache(
            batch_size,
            self.max_len,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            head_dim=self.hidden_size // self.num_heads,
            dtype=self.dtype,
        )

    def _embed(self, tokens: jax.Array, positions: Any, train: bool) -> jax.Array:
        x = self.embed(tokens) * math.sqrt(self.hidden_size)
        return self.dropout(x + jnp.asarray(positions, x.dtype), train=train)


_PAPER = "A. Vaswani et al., Attention is all you need, NeurIPS 2017"

register(
    "transformer_classifier",
    task="classification",
    input_shape=(100,),
    input_dtype="int32",
    num_parameters=1_480_894,
    paper=f"{_PAPER}; the guide, section 8.1",
)(TransformerClassifier)

for _name, _num_parameters, _options in (
    ("transformer_base", 63_082_496, {}),  # table 3; about 37,000 tokens, section 5.1
    (
        "transformer_tiny",
        237_824,
        {
            "vocab_size": 64,
            "max_len": 64,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "mlp_dim": 256,
            "norm_first": True,
        },
    ),
):
    register(
        _name,
        task="seq2seq",
        input_shape=(64,),
        input_dtype="int32",
        num_parameters=_num_parameters,
        paper=_PAPER,
        **_options,
    )(Transformer)
