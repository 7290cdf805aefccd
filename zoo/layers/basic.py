"""What most models use: the batch axis, pooling over whole images, checks of what comes in, named intermediates."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

BATCH_AXIS = "batch"
"""The name of the mapped axis over which a batch is split, under `jax.pmap` and `jax.shard_map`."""


def batch_axis() -> str | None:
    """`BATCH_AXIS` where that axis is being mapped over, else None.

    A sharded `jit` sees the whole batch and needs no collectives; `pmap` sees a part of it and does. Asking here lets
    one model and one train step be right under both.
    """
    if _alone.get():
        return None
    try:
        lax.axis_size(BATCH_AXIS)
    except NameError:
        return None
    return BATCH_AXIS


_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Inside, what is traced is a batch of its own, whatever axis is mapped over: as the pictures of one task are.

    Batch norm then takes no means over devices, of which each has other tasks.
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def wide(x: jax.Array) -> jax.Array:
    """In single precision at least: what many numbers are added in."""
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def spread(values: jax.Array, like: jax.Array) -> jax.Array:
    """`values` repeated to the shape of `like`, in its dtype.

    The gradient is a sum over what they are repeated along. In half precision XLA would add that up in a half on a CPU,
    which in bfloat16 ends at 256 times a summand: a bias of a long sequence had a third of its gradient.
    """
    return jnp.broadcast_to(wide(values), like.shape).astype(like.dtype)


def flatten(x: jax.Array) -> jax.Array:
    """`[batch, …]` → `[batch, features]`."""
    return x.reshape(x.shape[0], -1)


def global_avg_pool(x: jax.Array) -> jax.Array:
    """`[batch, height, width, channels]` → `[batch, channels]`."""
    return x.mean(axis=(1, 2))


def adaptive_avg_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """`[batch, height, width, channels]` → `[batch, *size, channels]`, whatever the size, as PyTorch defines it.

    Output i of m is the mean of the inputs from ⌊i · n / m⌋ to ⌈(i + 1) · n / m⌉ of n: means overlap where m does not
    divide n, and inputs are repeated where m is greater.
    """
    if x.shape[1:3] == size:
        return x
    rows, columns = (_averages(n, m) for n, m in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, x, precision=lax.Precision.HIGHEST).astype(x.dtype)


def _averages(inputs: int, outputs: int) -> np.ndarray:
    """The matrix `[outputs, inputs]` of an adaptive mean along one axis."""
    index, position = np.arange(outputs)[:, None], np.arange(inputs)[None]
    inside = (position >= index * inputs // outputs) & (position < -((index + 1) * -inputs // outputs))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def require_image(x: jax.Array, *, least: int, model: str) -> None:
    """Refuses what is no batch of images, or images too small for a model's strides.

    Raises:
      ValueError: names the shape that came and the shape that is needed.
    """
    if x.ndim != 4 or min(x.shape[1:3]) < least:
        wanted = f"[batch, height ≥ {least}, width ≥ {least}, channels]"
        raise ValueError(f"{model} takes images of shape {wanted}, not {list(x.shape)}")


def require_tokens(tokens: jax.Array, max_len: int | None = None) -> None:
    """Refuses what is no batch of tokens, and texts that are longer than a model takes.

    Raises:
      ValueError: names what came and what is needed.
    """
    longest = "" if max_len is None else f" with a time of at most {max_len} (max_len)"
    fits = tokens.ndim == 2 and tokens.shape[1] >= 1 and (max_len is None or tokens.shape[1] <= max_len)
    if not fits or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ValueError(f"tokens must be integers [batch, time]{longest}, not {tokens.dtype} {list(tokens.shape)}")


def record(module: nn.Module, name: str, value: jax.Array) -> None:
    """Names an intermediate: `apply(…, mutable=["intermediates"])` returns it, any other call costs nothing."""
    module.sow("intermediates", name, value, reduce_fn=lambda _, new: new, init_fn=lambda: value)
