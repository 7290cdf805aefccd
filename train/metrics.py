"""Metrics as sums and counts, so that they merge exactly across batches, devices and hosts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Mean(NamedTuple):
    """A weighted mean in parts: `total` is Σ wᵢ vᵢ, `weight` is Σ wᵢ."""

    total: jax.Array
    weight: jax.Array

    def summary(self) -> float:
        """The mean as a number. Totals may have leading axes, such as steps, which are summed in float64."""
        # Of an array of JAX, np.sum would be JAX's own, in float32.
        total, weight = (np.asarray(part).sum(dtype=np.float64) for part in self)
        return float(total / weight)


class Perplexity(Mean):
    """The parts of a mean cross-entropy in nats, summarised as its exponential."""

    def summary(self) -> float:
        """See the class."""
        with np.errstate(over="ignore"):
            return float(np.exp(super().summary()))


class Bits(Mean):
    """The parts of a mean in nats, summarised in bits."""

    def summary(self) -> float:
        """See the class."""
        return super().summary() / math.log(2)


Metrics = dict[str, Mean]


def weigh(values: Mapping[str, jax.Array], mask: jax.Array | None = None) -> Metrics:
    """Sums per-example values, each `[batch, …]`, over the examples that `mask` (0 or 1, of the same shape) keeps.

    Without a mask every example counts once.
    """

    def mean(value: jax.Array) -> Mean:
        value = value.astype(jnp.float32)
        weight = jnp.ones_like(value) if mask is None else mask.astype(jnp.float32)
        # A masked example may hold anything, also NaN.
        return Mean(jnp.where(weight > 0, value * weight, 0).sum(), weight.sum())

    return {name: mean(value) for name, value in values.items()}


def merge(first: Metrics, second: Metrics) -> Metrics:
    """The metrics of both sets of examples together."""
    return jax.tree.map(lambda a, b: a + b, first, second)


def higher_is_better(name: str) -> bool:
    """Whether more of a metric is better: of an accuracy or a bound on the likelihood, yes; of a loss or an error, no.

    Of "step" too: a GAN has no metric that tells, and its newest checkpoint is taken for the best.
    """
    return name == "step" or name.endswith(("accuracy", "elbo"))


def summarize(metrics: Metrics) -> dict[str, float]:
    """Each metric as a number, see `Mean.summary`."""
    return {name: mean.summary() for name, mean in metrics.items()}
