"""Dropout of units, of whole channels, and of whole branches."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


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


class SpatialDropout(nn.Module):
    """Drops whole channels of an example (Tompson et al. 2015): neighbours in a feature map tell the same."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, …, channels]`; drops `x[i, …, c]` where `train` is true, drawing from the stream "dropout"."""
        if not train or self.rate == 0:
            return x
        kept = Dropout(self.rate)(jnp.ones((x.shape[0],) + (1,) * (x.ndim - 2) + x.shape[-1:], x.dtype), train=True)
        return x * kept


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
