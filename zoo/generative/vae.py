"""The variational autoencoder (Kingma & Welling 2014; guide, section 9.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.generative.autoencoder import ConvDecoder, ConvEncoder, glorot, require_image_shape
from zoo.layers.activations import relu
from zoo.layers.linear import Dense
from zoo.registry import register


class VAEOutput(NamedTuple):
    """What a VAE makes of images.

    Attributes:
      logits: of the pixels, `[batch, *image_shape]`; their sigmoid is the mean of p(x|z).
      mean: of q(z|x), `[batch, latent_size]`.
      log_var: log σ² of q(z|x), `[batch, latent_size]`.
      latent: the z that was decoded, `[batch, latent_size]`.
    """

    logits: jax.Array
    mean: jax.Array
    log_var: jax.Array
    latent: jax.Array


@register(
    "vae",
    task="vae",
    input_shape=(28, 28, 1),
    num_parameters=229_265,
    paper="D. Kingma, M. Welling, Auto-encoding variational Bayes, ICLR 2014; the sizes are those of the guide, "
    "section 9.2",
)
class VAE(nn.Module):
    """q(z|x) is a diagonal normal distribution, p(z) the standard normal one, p(x|z) independent Bernoulli pixels."""

    image_shape: Sequence[int] = (28, 28, 1)
    features: Sequence[int] = (32, 64)
    hidden_size: int = 16
    latent_size: int = 32
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Names the parts `encoder`, `hidden`, `mean`, `log_var` and `decoder`."""
        types = {"kernel_init": glorot, "dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = ConvEncoder(self.features, self.dtype, self.param_dtype)
        self.hidden = Dense(self.hidden_size, **types)
        self.mean = Dense(self.latent_size, **types)
        self.log_var = Dense(self.latent_size, **types)
        self.decoder = ConvDecoder(self.image_shape, self.features, self.dtype, self.param_dtype)

    def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Eq. 68 and 69: `[batch, *image_shape]` → mean and log σ² of q(z|x), `[batch, latent_size]`."""
        require_image_shape(x, self.image_shape, model="VAE")
        x = relu(self.hidden(self.encoder(x)))
        return self.mean(x), self.log_var(x)

    def decode(self, z: jax.Array) -> jax.Array:
        """`[batch, latent_size]` → logits of pixels `[batch, *image_shape]`."""
        return self.decoder(z)

    def __call__(self, x: jax.Array, *, train: bool = False) -> VAEOutput:
        """Encodes, samples z = μ + σ ε (eq. 70) from the stream "latent" and decodes.

        In inference without that stream z is the mean.
        """
        mean, log_var = self.encode(x)
        z = mean
        if train or self.has_rng("latent"):
            z = mean + jnp.exp(log_var / 2) * jax.random.normal(self.make_rng("latent"), mean.shape, mean.dtype)
        return VAEOutput(self.decode(z), mean, log_var, z)
