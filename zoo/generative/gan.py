"""The generative adversarial network (Goodfellow et al. 2014; guide, section 10), convolutional as in DCGAN."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.generative.autoencoder import require_image_shape, smallest_image
from zoo.generative.gan_resampling import resample as resample
from zoo.layers import BatchNorm, Conv, ConvTranspose, Dropout, flatten, record
from zoo.layers.linear import Dense
from zoo.registry import register

_SLOPE = 0.2
"""Of the leaky ReLU below zero."""


class Generator(nn.Module):
    """A dense layer, 4×4 transposed convolutions that each double the image, a 3×3 convolution and tanh.

    Batch norm and leaky ReLU follow each layer but the last. The guide's layers before a batch norm have biases, which
    it cancels; they are left out here.
    """

    image_shape: Sequence[int]
    features: Sequence[int]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, latent_size]` → images in [-1, 1], `[batch, *image_shape]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        rows, columns = smallest_image(self.image_shape, len(self.features) - 1)
        shape = (rows, columns, self.features[0])
        x = Dense(math.prod(shape), use_bias=False, **types, name="dense")(z).reshape(-1, *shape)
        x = nn.leaky_relu(BatchNorm(**types, name="norm0")(x, train=train), _SLOPE)
        for index, features in enumerate(self.features[1:], start=1):
            x = ConvTranspose(features, 4, 2, use_bias=False, **types, name=f"deconv{index}")(x)
            x = nn.leaky_relu(BatchNorm(**types, name=f"norm{index}")(x, train=train), _SLOPE)
            record(self, f"up{index}", x)
        return jnp.tanh(Conv(self.image_shape[-1], 3, **types, name="pixels")(x))


class Discriminator(nn.Module):
    """3×3 convolutions of stride 2 with leaky ReLU and dropout, and a dense layer."""

    features: Sequence[int]
    dropout_rate: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Images in [-1, 1], `[batch, height, width, channels]` → logits of being real, `[batch, 1]`."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for index, features in enumerate(self.features, start=1):
            x = nn.leaky_relu(Conv(features, 3, 2, **types, name=f"conv{index}")(x), _SLOPE)
            x = Dropout(self.dropout_rate)(x, train=train)
            record(self, f"down{index}", x)
        return Dense(1, **types, name="head")(flatten(x))


@register(
    "gan",
    task="gan",
    input_shape=(100,),
    num_parameters=1_102_402,
    paper="I. Goodfellow et al., Generative adversarial nets, NeurIPS 2014; A. Radford et al., Unsupervised "
    "representation learning with deep convolutional GANs, ICLR 2016; the sizes are those of the guide, section 10",
)
class GAN(nn.Module):
    """Both players in one module: their parameters are `generator` and `discriminator`.

    The first of `generator_features` belongs to the dense layer, each other to a doubling of the image.
    """

    image_shape: Sequence[int] = (28, 28, 1)
    latent_size: int = 100
    generator_features: Sequence[int] = (128, 128, 64)
    discriminator_features: Sequence[int] = (64, 128)
    dropout_rate: float = 0.3
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Names the parts."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        self.generator = Generator(self.image_shape, self.generator_features, **types)
        self.discriminator = Discriminator(self.discriminator_features, self.dropout_rate, **types)

    def generate(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """G(z): standard normal `[batch, latent_size]` → images in [-1, 1], `[batch, *image_shape]`."""
        if z.ndim != 2 or z.shape[-1] != self.latent_size:
            raise ValueError(f"GAN takes latents of shape [batch, {self.latent_size}], not {list(z.shape)}")
        return self.generator(z, train=train)

    def discriminate(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """D(x) before its sigmoid: images in [-1, 1], `[batch, *image_shape]` → logits of being real, `[batch, 1]`."""
        require_image_shape(x, self.image_shape, model="GAN")
        return self.discriminator(x, train=train)

    def __call__(self, z: jax.Array, *, train: bool = False) -> jax.Array:
        """D(G(z)), which goes through both players: `[batch, latent_size]` → logits `[batch, 1]`."""
        return self.discriminate(self.generate(z, train=train), train=train)
