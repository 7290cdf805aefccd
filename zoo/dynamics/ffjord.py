"""FFJORD: a continuous normalising flow with a free-form field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.dynamics.continuous import Continuous
from zoo.dynamics.neural_ode import MLPField
from zoo.dynamics.solve import Field, solve
from zoo.registry import register


@register(
    "ffjord",
    task="density",
    input_shape=(2,),
    num_parameters=4_546,
    paper="W. Grathwohl et al., FFJORD: free-form continuous dynamics for scalable reversible generative models, ICLR "
    "2019",
)
class FFJORD(Continuous):
    """Points flow from the data (time 1) to a standard normal (time 0), and their log density along with them.

    d log p / dt = −tr ∂f/∂z (Chen et al. 2018, eq. 8). `trace` "exact" takes one derivative for each dimension.
    "hutchinson" estimates it in training by vᵀ(∂f/∂z)v, v of ±1 drawn once for each solution (FFJORD, eq. 7-8);
    inference is exact. `augment` dimensions more, standard normal noise beside each point, give a bound of log p
    (Huang, Dinh & Courville 2020); drawn from the stream "latent", 0 where there is none.
    """

    hidden_sizes: Sequence[int] = (64, 64)
    activation: str = "tanh"
    trace: Literal["exact", "hutchinson"] = "exact"
    augment: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """log p(x) in nats, `[batch, features]` → `[batch]`."""
        if x.ndim != 2:
            raise ValueError(f"FFJORD takes points [batch, features], not {list(x.shape)}")
        if self.augment < 0:
            raise ValueError(
                f"augment, the number of dimensions that are added, must be at least 0, not {self.augment}"
            )
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        of_noise = jnp.zeros(x.shape[:1])
        if self.augment:
            shape = (x.shape[0], self.augment)
            drawn = train or self.has_rng("latent")
            noise = jax.random.normal(self.make_rng("latent"), shape) if drawn else jnp.zeros(shape)
            x, of_noise = jnp.concatenate([x, noise], axis=-1), normal_log_density(noise)
        _, params = self.field_of(self._module, x)
        probe = None
        if train and self.trace == "hutchinson":
            probe = jax.random.rademacher(self.make_rng("latent"), x.shape, x.dtype)
        start = jnp.concatenate([x, jnp.zeros_like(x[:, :1])], axis=-1)
        end = self.integrate(_with_divergence(self._module), start, (1.0, 0.0), (params, probe)).values[-1]
        log_density = normal_log_density(end[:, :-1]) - end[:, -1] - of_noise
        return log_density.astype(self.dtype or log_density.dtype)

    @property
    def _module(self) -> nn.Module:
        return MLPField(
            tuple(self.hidden_sizes), self.activation, dtype=self.dtype, param_dtype=self.param_dtype, parent=None
        )

    def flow(self, variables: Any, noise: jax.Array, times: Any = (0.0, 1.0)) -> jax.Array:
        """Points of the flow that starts as `noise` `[n, features + augment]` at times that begin at 0.

        Returns:
          `[times, n, features]`; the last are samples of the density.
        """
        module = self._module

        def field(t: jax.Array, y: jax.Array, params: Any) -> jax.Array:
            return module.apply({"params": params}, y, t)  # type: ignore[return-value]

        values = solve(field, noise, times, variables["params"]["field"], method=self.method).values
        return values[..., : noise.shape[-1] - self.augment]

    def log_density_at(self, variables: Any, points: jax.Array, time: float) -> jax.Array:
        """log density in nats of the flow at a time from 0 (standard normal) to 1 (the data), `[n, features]` → `[n]`.

        Raises:
          ValueError: the model has augmented dimensions, of which there is only a bound.
        """
        if self.augment:
            raise ValueError("with augmented dimensions there is no density of a point, only a bound")
        if time == 0:
            return normal_log_density(points)
        start = jnp.concatenate([points, jnp.zeros_like(points[:, :1])], axis=-1)
        args = (variables["params"]["field"], None)
        end = solve(_with_divergence(self._module), start, (time, 0.0), args, method=self.method).values[-1]
        return normal_log_density(end[:, :-1]) - end[:, -1]


def _with_divergence(module: nn.Module) -> Field:
    """The field of points and −tr ∂f/∂z, `[batch, features + 1]`; its args are parameters and the probe, or None."""

    def augmented(t: jax.Array, state: jax.Array, args: Any) -> jax.Array:
        params, probe = args
        points = state[:, :-1]

        def field(z: jax.Array) -> jax.Array:
            return module.apply({"params": params}, z, t)  # type: ignore[return-value]

        directions = [probe] if probe is not None else list(_axes(points))
        slope, divergence = points, jnp.zeros(points.shape[:1])
        for direction in directions:
            slope, along = jax.jvp(field, (points,), (direction,))
            divergence += (along * direction).sum(axis=-1)
        return jnp.concatenate([slope, -divergence[:, None]], axis=-1).astype(state.dtype)

    return augmented


def _axes(points: jax.Array) -> jax.Array:
    """Unit vectors along each dimension, each for all points, `[features, batch, features]`."""
    size = points.shape[-1]
    return jnp.broadcast_to(jnp.eye(size, dtype=points.dtype)[:, None], (size, *points.shape))


def normal_log_density(z: jax.Array) -> jax.Array:
    """Of the standard normal distribution, `[batch, features]` → `[batch]`."""
    return -(jnp.square(z).sum(axis=-1) + z.shape[-1] * math.log(2 * math.pi)) / 2
