"""Published weights for images of another size or of other channels than they were trained on, as timm adapts them."""

from __future__ import annotations

import logging
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from zoo.vision.vit import resample_positions

_LOG = logging.getLogger(__name__)

TRAINED_CHANNELS = 3
"""Of the images that published weights were trained on."""


def adapt_positions(embedding: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """Position embeddings `[1, 1 + n², features]` of a class token and a square image, for one of another size.

    Resampled bicubically with antialiasing. What is no square, or has other features, stays as it is.
    """
    before, after = square_side(embedding.shape), square_side(wanted)
    if not before or not after or before == after or embedding.shape[::2] != wanted[::2]:
        return embedding
    _LOG.warning("the position embeddings of %d × %d patches are resampled to %d × %d", before, before, after, after)
    return np.asarray(resample_positions(jnp.asarray(embedding, jnp.float32), before, [after, after]))


def square_side(shape: tuple[int, ...]) -> int:
    """n of position embeddings `[1, 1 + n², features]`; 0 where the shape is another."""
    side = math.isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0
    return side if side and side**2 + 1 == shape[1] else 0


def adapt_input_channels(kernel: np.ndarray, channels: int, axis: int, name: str) -> np.ndarray:
    """The kernel of a first convolution for images of so many channels.

    For one channel, those for red, green and blue are added up. For more they are repeated in this order, and scaled so
    that the outputs keep their size.
    """
    if channels == TRAINED_CHANNELS or kernel.shape[axis] != TRAINED_CHANNELS:
        return kernel
    _LOG.warning("%s is adapted from images of %d channels to %d", name, TRAINED_CHANNELS, channels)
    kernel = kernel.astype(np.float32)
    if channels == 1:
        return kernel.sum(axis=axis, keepdims=True)
    return np.take(kernel, np.arange(channels) % TRAINED_CHANNELS, axis=axis) * np.float32(TRAINED_CHANNELS / channels)


def input_kernels(wanted: dict[str, Any], usual: dict[str, Any]) -> set[str]:
    """The paths of the variables whose shapes depend on the channels of the images.

    Args:
      wanted: variables by path, for the images at hand.
      usual: likewise, for images of three channels.
    """
    return {path for path, leaf in wanted.items() if leaf.shape != usual[path].shape}
