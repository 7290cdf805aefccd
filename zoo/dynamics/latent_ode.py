"""The latent ODE: a variational autoencoder of time series whose latent state flows."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.dynamics.continuous import Continuous
from zoo.dynamics.neural_ode import MLPField
from zoo.layers import Dense
from zoo.layers.activations import relu
from zoo.registry import register


class LatentODEOutput(NamedTuple):
    """What a latent ODE makes of a series.

    Attributes:
      prediction: mean of p(x|z) at each time, `[batch, time, features]`.
      mean: of q(z₀|x), `[batch, latent_size]`.
      log_var: log σ² of q(z₀|x), `[batch, latent_size]`.
    """

    prediction: jax.Array
    mean: jax.Array
    log_var: jax.Array


class _Encoder(nn.Module):
    """h ← tanh(W [x, Δt, h]) where there is an observation, else h stays."""

    hidden_size: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: jax.Array, seen: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        x, observed = seen
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        new = jnp.tanh(Dense(self.hidden_size, **types, name="hidden")(jnp.concatenate([x, h], axis=-1)))
        return jnp.where(observed[:, None] > 0, new, h).astype(h.dtype), None


@register(
    "latent_ode",
    task="latent_ode",
    input_shape=(50, 2),
    num_parameters=1_679,
    paper="R. Chen et al., Neural ordinary differential equations, NeurIPS 2018, section 5; sizes of its program",
)
class LatentODE(Continuous):
    """A recurrent network reads the observations backwards in time and gives q(z₀|x); z flows, and is decoded.

    The sizes are those of its authors' program: 4 latent dimensions, 20 units in the field and in the decoder, 25 in
    the encoder, to which the time until the observation behind is told here. Times may differ from example to example;
    with an adaptive solver that needs `error_control="example"`.
    """

    hidden_size: int = 20
    encoder_size: int = 25
    latent_size: int = 4
    solver: Any = "fixed_rk4"
    num_steps: int = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, times: jax.Array | None = None, observed: jax.Array | None = None, *, train: bool = False
    ) -> LatentODEOutput:
        """Encodes what was observed, draws z₀ from the stream "latent" (else its mean), and tells all times.

        Args:
          x: observations, `[batch, time, features]`; where there is none they may be anything.
          times: rising, `[batch, time]`, from 0 on, when z₀ is; evenly over (0, 1] by default.
          observed: 0 or 1, `[batch, time]`; all by default.
          train: whether z₀ must be drawn.
        """
        if x.ndim != 3 or x.shape[1] < 1:
            raise ValueError(f"LatentODE takes series [batch, time, features], not {list(x.shape)}")
        batch, length, features = x.shape
        if times is None:
            times = jnp.broadcast_to(jnp.arange(1, length + 1, dtype=jnp.float32) / length, (batch, length))
        observed = jnp.ones((batch, length)) if observed is None else observed
        for name, value in (("times", times), ("observed", observed)):
            if value.shape != (batch, length):
                raise ValueError(f"{name} must be [batch, time], {[batch, length]}, not {list(value.shape)}")
        mean, log_var = self._encode(x, times, observed)
        z = mean
        if train or self.has_rng("latent"):
            z = mean + jnp.exp(log_var / 2) * jax.random.normal(self.make_rng("latent"), mean.shape, mean.dtype)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        field, params = self.field_of(MLPField((self.hidden_size,) * 2, "elu", time=False, **types, parent=None), z)
        whole = jnp.concatenate([jnp.zeros((batch, 1)), times], axis=1)
        states = jnp.moveaxis(self.integrate(field, z, whole, params).values[1:], 0, 1)
        y = relu(Dense(self.hidden_size, **types, name="decoder")(states.astype(z.dtype)))
        return LatentODEOutput(Dense(features, **types, name="out")(y), mean, log_var)

    def _encode(self, x: jax.Array, times: jax.Array, observed: jax.Array) -> tuple[jax.Array, jax.Array]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = jnp.where(observed[..., None] > 0, x, 0)
        told = jnp.concatenate([x, until_next(times, observed)[..., None]], axis=-1).astype(self.dtype or x.dtype)
        scan = nn.scan(
            _Encoder, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1, reverse=True
        )
        h = jnp.zeros((x.shape[0], self.encoder_size), told.dtype)
        h, _ = scan(self.encoder_size, **types, name="encoder")(h, (told, observed))
        moments = Dense(2 * self.latent_size, **types, name="moments")(h)
        return moments[..., : self.latent_size], moments[..., self.latent_size :]


def until_next(times: jax.Array, observed: jax.Array) -> jax.Array:
    """The time from each moment to the next observation after it, 0 where there is none, `[batch, time]`."""
    far = jnp.where(observed > 0, times, jnp.inf)
    later = jax.lax.cummin(far, axis=1, reverse=True)
    later = jnp.concatenate([later[:, 1:], jnp.full_like(later[:, :1], jnp.inf)], axis=1)
    return jnp.where(jnp.isfinite(later), later - times, 0)
