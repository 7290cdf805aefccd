"""Attention (Vaswani et al. 2017; guide, chapter 7), what tells it where tokens stand, and its cache for decoding."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn.initializers import Initializer

from zoo.layers.basic import require_tokens
from zoo.layers.linear import Dense
from zoo.layers.product import matmul

_HIDDEN = -0.7 * float(np.finfo(np.float32).max)
"""The score of a key that a query may not see: its exponential is 0, and where no key is seen, nothing is NaN."""


def attention_weights(
    query: jax.Array,
    key: jax.Array,
    *,
    mask: jax.Array | None = None,
    causal: bool = False,
    key_lengths: jax.Array | None = None,
) -> jax.Array:
    """softmax(Q Kᵀ / √d) of eq. 56, float32 `[batch, heads, queries, keys]`; arguments as of `attend`."""
    return jax.nn.softmax(_scores(query, key, mask=mask, causal=causal, key_lengths=key_lengths))


def _scores(
    query: jax.Array, key: jax.Array, *, mask: jax.Array | None, causal: bool, key_lengths: jax.Array | None
) -> jax.Array:
    batch, queries, heads, head_dim = query.shape
    keys, kv_heads = key.shape[1:3]
    scale = 1 / math.sqrt(head_dim)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    in_front = query.dtype == wide  # of the queries, fewer numbers; in half precision it would round them again
    query = query * scale if in_front else query
    # With the heads in front, and those that share a key side by side, this is one product of matrices.
    q = query.transpose(0, 2, 1, 3).reshape(batch, kv_heads, -1, head_dim)
    scores = matmul(q, key.transpose(0, 2, 1, 3), transpose_b=True, dtype=wide)
    scores = scores.reshape(batch, heads, queries, keys) * (1 if in_front else scale)
    if causal:
        scores = jnp.where(np.tri(queries, keys, dtype=bool)[None, None], scores, _HIDDEN)
    if key_lengths is not None:
        scores = jnp.where(np.arange(keys)[None, None, None] < key_lengths[:, None, None, None], scores, _HIDDEN)
    if mask is not None:
        scores = jnp.where(mask, scores, _HIDDEN)
    return scores


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    mask: jax.Array | None = None,
    causal: bool = False,
    key_lengths: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention (eq. 56).

    On GPUs, in half precision and without a `mask`, this is cuDNN's flash attention, which never writes the scores
    down. Elsewhere it is two products of matrices, which XLA compiles to less time on a CPU than what
    `jax.nn.dot_product_attention` makes of the same.

    Args:
      query: `[batch, queries, heads, head_dim]`.
      key: `[batch, keys, kv_heads, head_dim]`. Where there are fewer of these heads, each serves as many queries' heads
        that lie side by side (Ainslie et al. 2023: grouped queries).
      value: as `key`.
      mask: boolean, of four axes that broadcast to `[batch, heads, queries, keys]`: which query sees which key. One
        that sees none gets the mean of all values.
      causal: query i sees the keys up to i, both counted from the first, also where there are fewer queries than keys.
        Queries that stand behind keys of a cache say by `mask` what they see, as `causal_context` does.
      key_lengths: integer `[batch]`; keys from there on are not seen.

    Returns:
      `[batch, queries, heads, head_dim]`.
    """
    seen: dict[str, Any] = {"mask": mask, "causal": causal, "key_lengths": key_lengths}
    if mask is None and _has_flash_attention(query):
        flash = partial(_flash, causal=causal, key_lengths=key_lengths)
        return lax.platform_dependent(query, key, value, cuda=flash, default=partial(_attend, **seen))
    return _attend(query, key, value, **seen)


def _flash(
    query: jax.Array, key: jax.Array, value: jax.Array, *, causal: bool, key_lengths: jax.Array | None
) -> jax.Array:
    """cuDNN's attention. JAX refuses to train with odd numbers of tokens: those get one more, which no token sees."""
    (batch, queries), keys = query.shape[:2], key.shape[1]
    lengths = None if key_lengths is None else key_lengths.astype(jnp.int32)
    if lengths is None and keys % 2 and not (causal and queries <= keys):
        lengths = jnp.full((batch,), keys, jnp.int32)
    query, key, value = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
    y = jax.nn.dot_product_attention(
        query, key, value, is_causal=causal, key_value_seq_lengths=lengths, implementation="cudnn"
    )
    return y[:, :queries]


_PARTS, _LEAST = 4, 128
"""Into how many parts the queries of a causal attention are cut, and how many are in a part at least."""


def _attend(query: jax.Array, key: jax.Array, value: jax.Array, **seen: Any) -> jax.Array:
    """Of a long causal attention, part by part of the queries, with those keys alone that the part sees.

    That is 5/8 of the work, and of the memory for scores a fraction. Measured: GPT-2 of 1024 tokens on 2 CPU cores,
    1181 ms → 1079, its train step 4409 → 4279.
    """
    queries = query.shape[1]
    size = max(-(-queries // _PARTS), _LEAST) if isinstance(queries, int) else queries
    if not seen["causal"] or seen["mask"] is not None or size == queries:
        return _attend_at_once(query, key, value, **seen)
    parts = []
    for first in range(0, queries, size):
        part = query[:, first : first + size]
        last = first + part.shape[1]
        mask = np.tri(part.shape[1], min(last, key.shape[1]), first, dtype=bool)[None, None]
        where = {**seen, "causal": False, "mask": mask}
        parts.append(_attend_at_once(part, key[:, :last], value[:, :last], **where))
    return jnp.concatenate(parts, axis=1)


def _attend_at_once(query: jax.Array, key: jax.Array, value: jax.Array, **seen: Any) -> jax.Array:
    """The softmax's sum divides the outputs, which are fewer than its weights."""
    scores = _scores(query, key, **seen)
    batch, heads, queries, keys = scores.shape
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(value.dtype).reshape(batch, value.shape[2], -1, keys)
    y = matmul(weights, value.transpose(0, 2, 1, 3), dtype=scores.dtype)
    y = y.reshape(batch, heads, queries, -1) / total
    return y.astype(value.dtype).transpose(0, 2, 1, 3)


def _has_flash_attention(query: jax.Array) -> bool:
    """Whether this process computes on an NVIDIA GPU from Ampere on, and cuDNN takes such heads."""
    if jax.default_backend() != "gpu" or query.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))  # "9.0"; of AMD's, "gfx942"
    fits = query.shape[-1] % 8 == 0 and query.shape[-1] <= 128 and all(isinstance(n, int) for n in query.shape)
    return fits and capability[:1].isdigit() and float(capability) >= 8


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention in several heads side by side (eq. 57–58).

    The four layers `query`, `key`, `value` and `out` are dense; the heads lie side by side along the last axis of the
    first three kernels, and along the first of `out`. `mutable=["attention_weights"]` in `apply` returns the weights
    `[batch, heads, queries, keys]` of every such module of a model under its path.

    Attributes:
      num_heads: of the queries.
      num_kv_heads: of keys and values; as many as of the queries where it is None.
      head_dim: features of a head; where it is None the heads share those of the input (the guide gives each head all).
      use_bias: of the four layers.
      rotary_base: base of the rotary position embeddings of queries and keys; None for none.
      kernel_init: of `query`, `key` and `value`.
      out_init: of `out`; where it is None as the others.
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    use_bias: bool = True
    rotary_base: float | None = None
    kernel_init: Initializer = nn.initializers.xavier_uniform()
    out_init: Initializer | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        causal: bool = False,
        key_lengths: jax.Array | None = None,
        positions: jax.Array | None = None,
        cached: KeyValue | None = None,
        start: jax.Array | int = 0,
    ) -> Any:
        """Every position of `x` attends to those of `memory`, or of `x` itself.

        Args:
          x: `[batch, queries, features]`.
          memory: `[batch, keys, …]`, what the keys and values are made of.
          mask: see `attend`.
          causal: see `attend`.
          key_lengths: see `attend`.
          positions: of the queries and keys, integer `[batch or 1, queries]`, for rotary embeddings; by default those
            in the array.
          cached: keys and values of earlier calls, with room for those of this one: where there is none, all becomes
            NaN. What may be seen is for `mask` to say.
          start: where in `cached` those of this call go.

        Returns:
          `[batch, queries, features]`, and where `cached` is given, what it has become.

        Raises:
          ValueError: the heads cannot share the features, or one another's keys, evenly.
        """
        features, kv_heads = x.shape[-1], self.num_kv_heads or self.num_heads
        if self.head_dim is None and features % self.num_heads:
            raise ValueError(f"{features} features cannot be shared evenly by {self.num_heads} heads")
        if self.num_heads % kv_heads:
            raise ValueError(f"{kv_heads} heads of keys cannot serve {self.num_heads} heads of queries evenly")
        head_dim = self.head_dim or features // self.num_heads
        dense = partial(Dense, use_bias=self.use_bias, dtype=self.dtype, param_dtype=self.param_dtype)

        def split(name: str, source: jax.Array, heads: int) -> jax.Array:
            y = dense(heads * head_dim, kernel_init=self.kernel_init, name=name)(source)
            return y.reshape(*source.shape[:2], heads, head_dim)

        source = x if memory is None else memory
        query = split("query", x, self.num_heads)
        key, value = (split(name, source, kv_heads) for name in ("key", "value"))
        if self.rotary_base is not None:
            where = np.arange(x.shape[1])[None] if positions is None else positions
            query, key = (rotate(each, where, self.rotary_base) for each in (query, key))
        if cached is not None:
            has_room = start + x.shape[1] <= cached.key.shape[1]
            key, value = (
                lax.dynamic_update_slice_in_dim(old, jnp.where(has_room, new, jnp.nan).astype(old.dtype), start, axis=1)
                for old, new in zip(cached, (key, value), strict=True)
            )
        seen: dict[str, Any] = {"mask": mask, "causal": causal, "key_lengths": key_lengths}
        if self.is_mutable_collection("attention_weights") and not self.is_initializing():
            weights = attention_weights(query, key, **seen)
            self.sow("attention_weights", "weights", weights, reduce_fn=lambda _, new: new, init_fn=lambda: weights)
        y = attend(query, key, value, **seen).reshape(*x.shape[:2], -1)
        y = dense(features, kernel_init=self.out_init or self.kernel_init, name="out")(y)
        return y if cached is None else (y, KeyValue(key, value))


def sinusoids(length: int, features: int) -> np.ndarray:
    """The positions of eq. 59–60, float32 `[length, features]`: sines at even indices, cosines at odd ones.

    A sine and the cosine beside it have one frequency, as the equations say; in the guide's code every index has its
    own.
    """
    rates = 10_000.0 ** (-(np.arange(features) // 2 * 2) / features)
    angles = np.arange(length)[:, None] * rates
    return np.where(np.arange(features) % 2, np.cos(angles), np.sin(angles)).astype(np.float32)


def rotate(x: jax.Array, positions: jax.Array | np.ndarray, base: float = 10_000.0) -> jax.Array:
    """Rotary position embeddings (Su et al. 2021, eq. 34): each head's features turned in pairs, by their position.

    Feature i and feature i + d/2 of a head make a pair, as in the published weights of Llama in Hugging Face's format;
    in the paper (and in Meta's files) neighbours do.

    Args:
      x: `[batch, time, heads, head_dim]`, with an even number of features.
      positions: integer `[batch or 1, time]`.
      base: pair i turns by position · base^(-2i/d).
    """
    head_dim = x.shape[-1]
    rates = (base ** (-np.arange(0, head_dim, 2) / head_dim)).astype(np.float32)
    angles = jnp.asarray(positions, jnp.float32)[..., None, None] * rates[None, None, None]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.promote_types(x.dtype, jnp.float32)), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class KeyValue(NamedTuple):
    """Keys and values of one layer, `[batch, max_len, kv_heads, head_dim]`."""

    key: jax.Array
    value: jax.Array


class Cache(NamedTuple):
    """What a causal Transformer keeps of the tokens that it has seen, so that each is computed once.

    Attributes:
      layers: keys and values.
      seen: boolean `[batch, room]`: which of them are of tokens, and not of padding or still to come.
      length: how many places are taken, int32 scalar.
    """

    layers: tuple[KeyValue, ...]
    seen: jax.Array
    length: jax.Array


def empty_cache(
    batch_size: int, room: int, *, num_layers: int, num_heads: int, head_dim: int, dtype: Any = None
) -> Cache:
    """The cache before the first token, with room for so many; the heads are those of keys and values."""
    zeros = jnp.zeros((batch_size, room, num_heads, head_dim), dtype or jnp.float32)
    layers = tuple(KeyValue(zeros, zeros) for _ in range(num_layers))
    return Cache(layers, jnp.zeros((batch_size, room), bool), jnp.int32(0))


class Context(NamedTuple):
    """Where the tokens of one call stand, and which others they see.

    Attributes:
      positions: integer `[batch or 1, time]`.
      mask: see `attend`, or None.
      causal: see `attend`.
      seen: of the cache after this call, or None where there is none.
      start: where in the cache the tokens go.
    """

    positions: jax.Array | np.ndarray
    mask: jax.Array | None
    causal: bool
    seen: jax.Array | None = None
    start: jax.Array | int = 0

    def of_layer(self, cached: KeyValue | None) -> dict[str, Any]:
        """What the attention of one layer is told."""
        told = {"mask": self.mask, "causal": self.causal, "positions": self.positions}
        return told if cached is None else {**told, "cached": cached, "start": self.start}

    def next_cache(self, layers: list[Any]) -> Cache:
        """The cache after this call."""
        assert self.seen is not None
        return Cache(tuple(layers), self.seen, jnp.int32(self.start + self.positions.shape[1]))


def causal_context(tokens: jax.Array, max_len: int, cache: Cache | None, mask: jax.Array | None) -> Context:
    """The context of tokens that see themselves and those before them.

    Args:
      tokens: `[batch, time]`.
      max_len: the longest sequence that the model takes.
      cache: of the tokens before these.
      mask: `[batch, time]`, which tokens are no padding: boolean, or without a cache also integers that number the
        sequences which are packed in a row (0 for padding). A position is the number of earlier tokens of the same
        sequence, wherever padding stands.

    Raises:
      ValueError: the shapes do not fit, or the tokens are more than the model takes.
    """
    require_tokens(tokens, max_len)
    if mask is not None and mask.shape != tokens.shape:
        raise ValueError(f"the mask has the shape {list(mask.shape)}, and the tokens have {list(tokens.shape)}")
    time = tokens.shape[1]
    if cache is not None:
        rows, room = cache.seen.shape
        if rows != tokens.shape[0] or not time <= room <= max_len:
            raise ValueError(
                f"the state has room for {[rows, room]} tokens [batch, time], not for {list(tokens.shape)} of at most "
                f"{max_len}; make it with init_state"
            )
        new = jnp.ones(tokens.shape, bool) if mask is None else mask.astype(bool)
        before = cache.seen.sum(axis=1, keepdims=True, dtype=jnp.int32)
        positions = jnp.maximum(before + jnp.cumsum(new, axis=1, dtype=jnp.int32) - 1, 0)
        seen = lax.dynamic_update_slice_in_dim(cache.seen, new, cache.length, axis=1)
        reach = jnp.arange(room)[None] <= cache.length + np.arange(time)[:, None]
        return Context(positions, reach[None, None] & seen[:, None, None], False, seen, cache.length)
    index = np.arange(time)[None]
    if mask is None:
        return Context(index, None, True)
    number = mask.astype(jnp.int32)
    same = (number[:, :, None] == number[:, None, :]) & (number != 0)[:, None]
    before = (same & (index[:, :, None] > index[:, None])).sum(axis=2, dtype=jnp.int32)
    so_far = jnp.maximum(jnp.cumsum(number != 0, axis=1, dtype=jnp.int32) - 1, 0)
    positions = jnp.where(number != 0, before, so_far)  # those of padding as with a cache
    return Context(positions, same[:, None], True)


def last_token(x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """`[batch, time, features]` → `[batch, features]` of the last token that the mask `[batch, time]` keeps."""
    if mask is None:
        return x[:, -1]
    last = jnp.max(jnp.where(mask != 0, np.arange(x.shape[1])[None], 0), axis=1)
    return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
