"""Autoencoders, dense and convolutional (Hinton & Salakhutdinov 2006; guide, section 9.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Conv, ConvTranspose, flatten, record, require_image
from zoo.layers.activations import relu
from zoo.layers.linear import Dense
from zoo.registry import register

glorot = nn.initializers.glorot_uniform()
"""The initial kernels of Keras, which the guide's networks have.

A variational autoencoder that starts from larger ones (LeCun's) spends thousands of steps ignoring its latents.
"""


class ConvEncoder(nn.Module):
    """3×3 convolutions of stride 2 with ReLU, each halving the image."""

    features: Sequence[int]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` → `[batch, features]`."""
        types = {"kernel_init": glorot, "dtype": self.dtype, "param_dtype": self.param_dtype}
        for index, features in enumerate(self.features, start=1):
            x = relu(Conv(features, 3, 2, **types, name=f"conv{index}")(x))
            record(self, f"down{index}", x)
        return flatten(x)


class ConvDecoder(nn.Module):
    """`ConvEncoder` mirrored: a dense layer, transposed convolutions of stride 2, one of stride 1 for the logits."""

    image_shape: Sequence[int]
    features: Sequence[int]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """`[batch, latent_size]` → logits of pixels `[batch, *image_shape]`."""
        types = {"kernel_init": glorot, "dtype": self.dtype, "param_dtype": self.param_dtype}
        rows, columns = smallest_image(self.image_shape, len(self.features))
        shape = (rows, columns, self.features[-1])
        x = relu(Dense(math.prod(shape), **types, name="dense")(z)).reshape(-1, *shape)
        for index, features in enumerate(reversed(self.features), start=1):
            x = relu(ConvTranspose(features, 3, 2, **types, name=f"deconv{index}")(x))
            record(self, f"up{index}", x)
        return ConvTranspose(self.image_shape[-1], 3, **types, name="pixels")(x)


def smallest_image(image_shape: Sequence[int], halvings: int) -> tuple[int, int]:
    """Height and width after so many halvings.

    Raises:
      ValueError: they do not come out even.
    """
    height, width, _ = image_shape
    if height % 2**halvings or width % 2**halvings:
        raise ValueError(
            f"height and width are halved {halvings} times and must be multiples of {2**halvings}; "
            f"image_shape is {list(image_shape)}"
        )
    return height // 2**halvings, width // 2**halvings


def require_image_shape(x: jax.Array, image_shape: Sequence[int], *, model: str) -> None:
    """Refuses images of another shape than a decoder gives.

    Raises:
      ValueError: names the shape that came and the shape that is needed.
    """
    require_image(x, least=1, model=model)
    if x.shape[1:] != tuple(image_shape):
        raise ValueError(
            f"this {model} takes images of shape {list(image_shape)}, not {list(x.shape[1:])}; its option image_shape "
            "sets that"
        )


@register(
    "autoencoder",
    task="reconstruction",
    input_shape=(28, 28, 1),
    num_parameters=222_384,
    paper="G. Hinton, R. Salakhutdinov, Reducing the dimensionality of data with neural networks, Science 313, 2006",
)
class DenseAutoencoder(nn.Module):
    """Dense layers with ReLU down to a code of `latent_size` numbers, and the same sizes up again."""

    image_shape: Sequence[int] = (28, 28, 1)
    hidden_sizes: Sequence[int] = (128, 64)
    latent_size: int = 32
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Names the layers: `encoder_0` …, `code`, `decoder_0` …, `pixels`."""
        types = {"kernel_init": glorot, "dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = [Dense(size, **types) for size in self.hidden_sizes]
        self.code = Dense(self.latent_size, **types)
        self.decoder = [Dense(size, **types) for size in reversed(self.hidden_sizes)]
        self.pixels = Dense(math.prod(self.image_shape), **types)

    def encode(self, x: jax.Array) -> jax.Array:
        """Eq. 65: `[batch, *image_shape]` → `[batch, latent_size]`."""
        require_image_shape(x, self.image_shape, model="DenseAutoencoder")
        x = flatten(x)
        for layer in self.encoder:
            x = relu(layer(x))
        return self.code(x)

    def decode(self, z: jax.Array) -> jax.Array:
        """Eq. 66: `[batch, latent_size]` → logits of pixels `[batch, *image_shape]`."""
        for layer in self.decoder:
            z = relu(layer(z))
        return self.pixels(z).reshape(-1, *self.image_shape)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, *image_shape]` → logits of pixels, of the same shape."""
        z = self.encode(x)
        record(self, "latent", z)
        return self.decode(z)


@register(
    "conv_autoencoder",
    task="reconstruction",
    input_shape=(28, 28, 1),
    num_parameters=278_369,
    paper="J. Masci et al., Stacked convolutional auto-encoders for hierarchical feature extraction, ICANN 2011; "
    "the sizes are those of the guide, section 9.2",
)
class ConvAutoencoder(nn.Module):
    """A convolutional encoder, a code of `latent_size` numbers and a decoder of transposed convolutions."""

    image_shape: Sequence[int] = (28, 28, 1)
    features: Sequence[int] = (32, 64)
    latent_size: int = 32
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def setup(self) -> None:
        """Names the parts `encoder`, `code` and `decoder`."""
        types = {"kernel_init": glorot, "dtype": self.dtype, "param_dtype": self.param_dtype}
        self.encoder = ConvEncoder(self.features, self.dtype, self.param_dtype)
        self.code = Dense(self.latent_size, **types)
        self.decoder = ConvDecoder(self.image_shape, self.features, self.dtype, self.param_dtype)

    def encode(self, x: jax.Array) -> jax.Array:
        """Eq. 65: `[batch, *image_shape]` → `[batch, latent_size]`."""
        require_image_shape(x, self.image_shape, model="ConvAutoencoder")
        return self.code(self.encoder(x))

    def decode(self, z: jax.Array) -> jax.Array:
        """Eq. 66: `[batch, latent_size]` → logits of pixels `[batch, *image_shape]`."""
        return self.decoder(z)

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, *image_shape]` → logits of pixels, of the same shape."""
        z = self.encode(x)
        record(self, "latent", z)
        return self.decode(z)
