"""The layers that most families share, with the conventions of the field made explicit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import lax
from jax.nn.initializers import Initializer

from zoo.layers import convolution
from zoo.layers.convolution import Padding

BATCH_AXIS = "batch"
"""The name of the mapped axis over which a batch is split, under `jax.pmap` and `jax.shard_map`."""

he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015, eq. 15: keeps the variance of gradients through ReLU layers."""


def batch_axis() -> str | None:
    """`BATCH_AXIS` where that axis is being mapped over, else None.

    A sharded `jit` sees the whole batch and needs no collectives; `pmap` sees a part of it and does. Asking here lets
    one model and one train step be right under both.
    """
    try:
        lax.axis_size(BATCH_AXIS)
    except NameError:
        return None
    return BATCH_AXIS


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class Conv(nn.Module):
    """2-D convolution, `[batch, height, width, channels]` → `[batch, height', width', features]` (eq. 33).

    An int for `padding` pads all sides alike, as in PyTorch; `SAME` differs from that at stride 2.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves; see the class for shapes."""
        shape = (*_pair(self.kernel_size), x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolution.conv(
            x,
            kernel,
            strides=_pair(self.strides),
            padding=self.padding,
            dilation=_pair(self.dilation),
            groups=self.groups,
        )
        return y if bias is None else y + bias[None, None, None]


class ConvTranspose(nn.Module):
    """2-D transposed convolution, `[batch, height, width, channels]` → `[batch, height', width', features]`.

    The gradient of `Conv`, as in PyTorch and Keras: `SAME` multiplies the size by the stride.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    strides: int | Sequence[int] = 1
    padding: Padding = "SAME"
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves; see the class for shapes."""
        shape = (*_pair(self.kernel_size), x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype) if self.use_bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolution.conv_transpose(x, kernel, strides=_pair(self.strides), padding=self.padding)
        return y if bias is None else y + bias[None, None, None]


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014; guide, eq. 28): kept units are divided by the keep probability.

    One random byte decides over a unit, a quarter of what `jax.random.bernoulli` draws (random bits were two thirds of
    a small network's step), or two bytes where a multiple of 1/256 would be more than 2 % off the rate. The scale uses
    the rounded rate, so that the expectation is exact.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Drops units where `train` is true, drawing from the stream "dropout"; keeps the shape."""
        if not 0 <= self.rate < 1:
            raise ValueError(f"dropout rate must be in [0, 1), not {self.rate}")
        if not train or self.rate == 0:
            return x
        near = abs(round(self.rate * 256) / 256 - self.rate) <= 0.02 * min(self.rate, 1 - self.rate)
        levels, draw = (256, jnp.uint8) if near else (65536, jnp.uint16)
        dropped = min(round(self.rate * levels), levels - 1)  # a rate next to 1 keeps some units still
        per_word = 4 // jnp.dtype(draw).itemsize
        words = jax.random.bits(self.make_rng("dropout"), (-(-x.size // per_word),), jnp.uint32)
        draws = lax.bitcast_convert_type(words, draw).reshape(-1)[: x.size].reshape(x.shape)
        return jnp.where(draws >= dropped, x * (levels / (levels - dropped)), jnp.zeros_like(x))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): drops a residual branch for whole examples, and scales what is kept."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Drops examples `x[i]` where `train` is true, drawing from the stream "dropout"; keeps the shape."""
        if not train or self.rate == 0:
            return x
        kept = Dropout(self.rate)(jnp.ones((x.shape[0],) + (1,) * (x.ndim - 1), x.dtype), train=True)
        return x * kept


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
