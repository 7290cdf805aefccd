"""Denoising diffusion (Ho, Jain & Abbeel 2020): a U-Net that predicts noise, and the processes to and from it.

Times are 0 … T − 1, from the least noise to the most, and images lie in [-1, 1]. A noise schedule is the array of ᾱₜ,
the share of the image's variance that is left at time t, `[T]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zoo.layers import Conv, Dropout, record, require_image
from zoo.layers.attention import MultiHeadAttention
from zoo.layers.basic import spread
from zoo.layers.convolution import avg_pool
from zoo.layers.linear import Dense
from zoo.registry import register, unknown


def linear_schedule(num_steps: int) -> np.ndarray:
    """βₜ rises evenly from 1e-4 to 0.02 (Ho et al. 2020, section 4), scaled for other lengths than 1000."""
    betas = np.linspace(1e-4, 0.02, num_steps) * (1000 / num_steps)
    return np.cumprod(1 - np.minimum(betas, 0.999)).astype(np.float32)


def cosine_schedule(num_steps: int) -> np.ndarray:
    """ᾱ falls as cos² (Nichol & Dhariwal 2021, eq. 17), slowly at both ends; βₜ is at most 0.999."""
    time = np.arange(num_steps + 1) / num_steps
    wanted = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(np.maximum(wanted[1:] / wanted[:-1], 0.001)).astype(np.float32)


_SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}


def noise_schedule(name: str, num_steps: int) -> np.ndarray:
    """ᾱ `[num_steps]` by the name of a schedule, "linear" or "cosine".

    Raises:
      ValueError: there is none of this name, or no step.
    """
    if name not in _SCHEDULES:
        raise ValueError(unknown("noise schedule", name, _SCHEDULES))
    if num_steps < 1:
        raise ValueError(f"a noise schedule has at least 1 step, not {num_steps}")
    return _SCHEDULES[name](num_steps)


def add_noise(schedule: jax.Array | np.ndarray, clean: jax.Array, time: jax.Array, noise: jax.Array) -> jax.Array:
    """A sample of q(xₜ|x₀) = √ᾱₜ x₀ + √(1 − ᾱₜ) ε (Ho et al. 2020, eq. 4).

    Args:
      schedule: ᾱ `[T]`.
      clean: x₀, `[batch, …]`.
      time: integer `[batch]`.
      noise: ε, standard normal, of the shape of x₀.
    """
    signal = jnp.asarray(schedule)[time].reshape(-1, *(1,) * (clean.ndim - 1))
    return jnp.sqrt(signal) * clean + jnp.sqrt(1 - signal) * noise


def remove_noise(
    schedule: jax.Array | np.ndarray,
    noisy: jax.Array,
    predicted: jax.Array,
    time: jax.Array,
    previous: jax.Array,
    *,
    eta: float | jax.Array = 0.0,
    noise: jax.Array | None = None,
) -> jax.Array:
    """One step back, from xₜ to a time before it (Song, Meng & Ermon 2021, eq. 12 and 16).

    With η = 0 it is the deterministic step of DDIM. With η = 1 and t − 1 for the time before, it is the ancestral step
    of DDPM (Ho et al. 2020, eq. 6 and 7), whose variance is that of q(xₜ₋₁|xₜ, x₀). The x₀ that the prediction implies
    is clipped to [-1, 1].

    Args:
      schedule: ᾱ `[T]`.
      noisy: xₜ, `[batch, …]`.
      predicted: the noise ε in it, as a network sees it.
      time: t, an integer scalar.
      previous: the time to go to, less than t; -1 is the clean image.
      eta: η.
      noise: standard normal, of the shape of xₜ; needed unless η is 0.
    """
    signal, before = jnp.asarray(schedule)[time], jnp.where(previous < 0, 1.0, jnp.asarray(schedule)[previous])
    clean = jnp.clip((noisy - jnp.sqrt(1 - signal) * predicted) / jnp.sqrt(signal), -1, 1)
    direction = (noisy - jnp.sqrt(signal) * clean) / jnp.sqrt(1 - signal)
    variance = eta**2 * (1 - before) / (1 - signal) * (1 - signal / before)
    result = jnp.sqrt(before) * clean + jnp.sqrt(1 - before - variance) * direction
    return result if noise is None else result + jnp.sqrt(variance) * noise


def generate(
    model: nn.Module,
    variables: Any,
    schedule: np.ndarray,
    noise: jax.Array,
    *,
    steps: int = 50,
    eta: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Images in [-1, 1] out of standard normal noise, `[batch, height, width, channels]`.

    Args:
      model: predicts the noise in an image at a time, as `UNet` does.
      variables: its variables.
      schedule: ᾱ `[T]` that the model was trained with.
      noise: the image at the last time.
      steps: how many of the T times are visited, evenly spaced.
      eta: see `remove_noise`. With 1 and T steps this is DDPM.
      key: of the noise that is added on the way; needed unless η is 0.

    Raises:
      ValueError: the steps are not between 1 and T, or η is not 0 and there is no key.
    """
    if not 1 <= steps <= len(schedule):
        raise ValueError(f"steps must be from 1 to the {len(schedule)} of the noise schedule, not {steps}")
    if eta and key is None:
        raise ValueError("give a key: with an eta other than 0 noise is added on the way")
    times = np.linspace(len(schedule) - 1, 0, steps).round().astype(np.int32)
    image = noise
    # Not inside the program: XLA runs convolutions in loops on one thread of a CPU.
    for index, (time, previous) in enumerate(zip(times, [*times[1:], np.int32(-1)], strict=True)):
        fresh = None if key is None else jax.random.normal(jax.random.fold_in(key, index), noise.shape)
        image = _step(model, variables, schedule, image, time, previous, np.float32(eta), fresh)
    return image


@partial(jax.jit, static_argnums=0)
def _step(
    model: nn.Module,
    variables: Any,
    schedule: jax.Array,
    image: jax.Array,
    time: jax.Array,
    previous: jax.Array,
    eta: jax.Array,
    noise: jax.Array | None,
) -> jax.Array:
    predicted: Any = model.apply(variables, image, time)
    return remove_noise(schedule, image, predicted, time, previous, eta=eta, noise=noise)


def time_embedding(time: jax.Array, features: int) -> jax.Array:
    """Sines and cosines of wavelengths from 2π to 20000π (Vaswani et al. 2017), `[batch]` → `[batch, features]`."""
    half = features // 2
    frequency = jnp.exp(-jnp.log(10_000.0) * jnp.arange(half) / max(half - 1, 1))
    angle = time[:, None].astype(jnp.float32) * frequency[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, each after group norm and SiLU, with the time added between them, beside a shortcut."""

    features: int
    num_groups: int
    dropout_rate: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` and `[batch, time features]` → `[batch, height, width, features]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = partial(nn.GroupNorm, self.num_groups, epsilon=1e-5, **types)
        y = Conv(self.features, 3, **types, name="conv1")(nn.silu(norm(name="norm1")(x)))
        y += spread(Dense(self.features, **types, name="time")(nn.silu(time))[:, None, None], y)
        y = Dropout(self.dropout_rate)(nn.silu(norm(name="norm2")(y)), train=train)
        y = Conv(self.features, 3, kernel_init=nn.initializers.zeros, **types, name="conv2")(y)
        return y + (x if x.shape == y.shape else Conv(self.features, 1, **types, name="shortcut")(x))


@register(
    "ddpm_unet",
    task="diffusion",
    input_shape=(28, 28, 1),
    num_parameters=673_665,
    paper="J. Ho, A. Jain, P. Abbeel, Denoising diffusion probabilistic models, NeurIPS 2020, appendix B, made small",
)
class UNet(nn.Module):
    """Residual blocks down to small images and up again, with attention at the bottom and skips across.

    Each entry of `features` is a level, half as large as the one before. Images get smaller by average pooling and
    larger by repetition, where Ho's have convolutions besides, which would be most of the cost. The last convolutions
    of the blocks and of the network start at zero, as Ho's do. `down1` …, `middle` and `up1` … are named intermediates.
    """

    features: Sequence[int] = (32, 64, 64)
    num_blocks: int = 1
    num_heads: int = 1
    num_groups: int = 8
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array | float = 0.0, *, train: bool = False) -> jax.Array:
        """Predicts the noise in images.

        Args:
          x: `[batch, height, width, channels]`, sides divisible by 2 for each level but the last.
          time: of all images, or of each, `[batch]`.
          train: whether dropout acts.

        Returns:
          Of the shape of x.
        """
        halvings = len(self.features) - 1
        require_image(x, least=2**halvings, model="UNet")
        if x.shape[1] % 2**halvings or x.shape[2] % 2**halvings:
            raise ValueError(
                f"this UNet takes images whose sides are multiples of {2**halvings}, not {x.shape[1]} × {x.shape[2]}; "
                "take fewer levels of features, or pad the images"
            )
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = partial(ResidualBlock, num_groups=self.num_groups, dropout_rate=self.dropout_rate, **types)
        width = 4 * self.features[0]
        t = time_embedding(jnp.broadcast_to(time, x.shape[:1]), self.features[0])
        t = Dense(width, **types, name="time2")(nn.silu(Dense(width, **types, name="time1")(t)))
        channels = x.shape[-1]
        x = Conv(self.features[0], 3, **types, name="conv_in")(x)
        skips = []
        for level, features in enumerate(self.features, start=1):
            for index in range(1, self.num_blocks + 1):
                x = block(features, name=f"down{level}_block{index}")(x, t, train=train)
            record(self, f"down{level}", x)
            skips.append(x)
            if level <= halvings:
                x = avg_pool(x)
        x = block(self.features[-1], name="middle_block1")(x, t, train=train)
        x = x + self._attend(x, types)
        x = block(self.features[-1], name="middle_block2")(x, t, train=train)
        record(self, "middle", x)
        for level, features in reversed(list(enumerate(self.features, start=1))):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            for index in range(1, self.num_blocks + 1):
                x = block(features, name=f"up{level}_block{index}")(x, t, train=train)
            record(self, f"up{level}", x)
            if level > 1:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
        x = nn.silu(nn.GroupNorm(self.num_groups, epsilon=1e-5, **types, name="norm_out")(x))
        return Conv(channels, 3, kernel_init=nn.initializers.zeros, **types, name="conv_out")(x)

    def _attend(self, x: jax.Array, types: dict[str, Any]) -> jax.Array:
        y = nn.GroupNorm(self.num_groups, epsilon=1e-5, **types, name="norm_attention")(x)
        y = MultiHeadAttention(self.num_heads, **types, name="attention")(y.reshape(x.shape[0], -1, x.shape[-1]))
        return y.reshape(x.shape)
