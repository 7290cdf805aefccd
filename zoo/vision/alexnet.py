"""AlexNet (Krizhevsky, Sutskever, Hinton 2012; guide, section 5.4.2) in one column (Krizhevsky 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Conv, Dropout, adaptive_avg_pool, flatten, he_normal, record, require_image
from zoo.layers.activations import relu
from zoo.layers.convolution import max_pool
from zoo.layers.linear import Dense
from zoo.registry import register


@register(
    "alexnet",
    task="classification",
    input_shape=(224, 224, 3),
    num_parameters=61_100_840,
    weights_licence="BSD-3-Clause (torchvision)",
    paper="A. Krizhevsky, One weird trick for parallelizing convolutional neural networks, arXiv:1404.5997",
)
class AlexNet(nn.Module):
    """Five convolutions, three of them followed by max-pooling, and three dense layers, as in torchvision.

    Unlike the network of 2012 it has one column (no groups), 64 filters of 11×11, and no local response normalisation.
    Adaptive pooling to 6×6 lets the dense layers take images of other sizes. `stage1` … `stage3` are named
    intermediates, after each max-pool; `num_classes=0` gives the features of the second dense layer.
    """

    num_classes: int = 1000
    features: Sequence[int] = (64, 192, 384, 256, 256)
    hidden_size: int = 4096
    dropout_rate: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height ≥ 63, width ≥ 63, channels]` → logits `[batch, num_classes]`."""
        require_image(x, least=63, model="AlexNet")
        conv = partial(Conv, kernel_init=he_normal, dtype=self.dtype, param_dtype=self.param_dtype)
        dense = partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        x = relu(conv(self.features[0], 11, 4, padding=2, name="conv1")(x))
        x = max_pool(x, (3, 3), (2, 2))
        record(self, "stage1", x)
        x = relu(conv(self.features[1], 5, padding=2, name="conv2")(x))
        x = max_pool(x, (3, 3), (2, 2))
        record(self, "stage2", x)
        for index in (3, 4, 5):
            x = relu(conv(self.features[index - 1], 3, padding=1, name=f"conv{index}")(x))
        x = max_pool(x, (3, 3), (2, 2))
        record(self, "stage3", x)
        x = flatten(adaptive_avg_pool(x, (6, 6)))
        for name in ("fc1", "fc2"):
            x = Dropout(self.dropout_rate)(x, train=train)
            x = relu(dense(self.hidden_size, kernel_init=nn.initializers.he_normal(), name=name)(x))
        return dense(self.num_classes, name="head")(x) if self.num_classes else x
