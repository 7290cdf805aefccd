"""Densely connected networks (Huang, Liu, van der Maaten, Weinberger 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import BatchNorm, Conv, Dropout, global_avg_pool, record, require_image
from zoo.layers.activations import relu
from zoo.layers.convolution import avg_pool, max_pool
from zoo.layers.linear import Dense
from zoo.registry import register

Layer = Callable[..., Any]


class DenseLayer(nn.Module):
    """BN-ReLU-conv 1×1 to four times the growth rate and BN-ReLU-conv 3×3 to the growth rate, beside the input."""

    growth_rate: int
    dropout_rate: float
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` → `[…, channels + growth_rate]`."""
        y = relu(self.norm(name="norm1")(x, train=train))
        y = self.conv(4 * self.growth_rate, 1, padding=0, name="conv1")(y)
        y = relu(self.norm(name="norm2")(y, train=train))
        y = self.conv(self.growth_rate, 3, padding=1, name="conv2")(y)
        return jnp.concatenate([x, Dropout(self.dropout_rate)(y, train=train)], axis=-1)


class Transition(nn.Module):
    """BN-ReLU-conv 1×1 to half the channels, and mean pooling to half the size."""

    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` → `[batch, height // 2, width // 2, channels // 2]`."""
        y = relu(self.norm(name="norm")(x, train=train))
        return avg_pool(self.conv(x.shape[-1] // 2, 1, padding=0, name="conv")(y))


@register(
    "densenet121",
    task="classification",
    input_shape=(224, 224, 3),
    num_parameters=7_978_856,
    weights_licence="Apache-2.0 (timm)",
    paper="G. Huang et al., Densely connected convolutional networks, CVPR 2017, table 1",
)
class DenseNet(nn.Module):
    """A stem, and stages in which every layer sees the outputs of all before it (DenseNet-BC, compression 1/2).

    `stem` and `stage1` … `stage4` are named intermediates, the latter before their transitions; `num_classes=0` gives
    pooled features.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (6, 12, 24, 16)
    growth_rate: int = 32
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height ≥ 29, width ≥ 29, channels]` → logits `[batch, num_classes]`."""
        require_image(x, least=2 ** (len(self.stage_sizes) + 1) - 3, model="DenseNet")
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=nn.initializers.he_normal(), **options)
        norm = partial(BatchNorm, **options)
        x = conv(2 * self.growth_rate, 7, 2, padding=3, name="conv_stem")(x)
        x = max_pool(relu(norm(name="norm_stem")(x, train=train)), (3, 3), (2, 2), padding=1)
        record(self, "stem", x)
        for stage, size in enumerate(self.stage_sizes, start=1):
            if stage > 1:
                x = Transition(conv, norm, name=f"stage{stage}_transition")(x, train=train)
            for layer in range(1, size + 1):
                x = DenseLayer(self.growth_rate, self.dropout_rate, conv, norm, name=f"stage{stage}_layer{layer}")(
                    x, train=train
                )
            record(self, f"stage{stage}", x)
        x = global_avg_pool(relu(norm(name="norm_head")(x, train=train)))
        return Dense(self.num_classes, name="head", **options)(x) if self.num_classes else x
