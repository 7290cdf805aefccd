"""ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell, Xie 2022): a residual network with the design of a Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Conv, DropPath, global_avg_pool, record, require_image
from zoo.layers.activations import gelu
from zoo.layers.basic import spread
from zoo.layers.linear import Dense
from zoo.registry import register

_init = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """Depthwise 7×7, layer norm, and a dense layer to four times the channels and back, scaled for each channel."""

    drop_path_rate: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` → the same."""
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dense = partial(Dense, kernel_init=_init, **options)
        channels = x.shape[-1]
        y = Conv(channels, 7, padding=3, groups=channels, kernel_init=_init, name="conv_depthwise", **options)(x)
        y = nn.LayerNorm(epsilon=1e-6, name="norm", **options)(y)
        y = gelu(dense(4 * channels, name="fc1")(y))
        y = dense(channels, name="fc2")(y)
        scale = self.param("layer_scale", nn.initializers.constant(1e-6), (channels,), self.param_dtype)
        y = y * spread(scale, y)
        return x + DropPath(self.drop_path_rate)(y, train=train)


@register(
    "convnext_tiny",
    task="classification",
    input_shape=(224, 224, 3),
    num_parameters=28_589_128,
    weights_licence="Apache-2.0 (timm)",
    paper="Z. Liu et al., A ConvNet for the 2020s, CVPR 2022, section 3 and table 9",
)
class ConvNeXt(nn.Module):
    """A 4×4 stem of stride 4 and four stages of blocks, with a 2×2 convolution of stride 2 between them.

    Blocks are dropped in training with a probability that grows linearly to `drop_path_rate` (stochastic depth). `stem`
    and `stage1` … `stage4` are named intermediates; `num_classes=0` gives pooled and normalised features.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (3, 3, 9, 3)
    features: Sequence[int] = (96, 192, 384, 768)
    drop_path_rate: float = 0.1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height ≥ 32, width ≥ 32, channels]` → logits `[batch, num_classes]`."""
        require_image(x, least=2 ** (len(self.stage_sizes) + 1), model="ConvNeXt")
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, padding=0, kernel_init=_init, **options)
        norm = partial(nn.LayerNorm, epsilon=1e-6, **options)
        x = norm(name="norm_stem")(conv(self.features[0], 4, 4, name="conv_stem")(x))
        record(self, "stem", x)
        num_blocks, last = 0, max(sum(self.stage_sizes) - 1, 1)
        for stage, (size, features) in enumerate(zip(self.stage_sizes, self.features, strict=True), start=1):
            if stage > 1:
                x = conv(features, 2, 2, name=f"stage{stage}_conv")(norm(name=f"stage{stage}_norm")(x))
            for block in range(1, size + 1):
                rate = self.drop_path_rate * num_blocks / last
                x = Block(rate, name=f"stage{stage}_block{block}", **options)(x, train=train)
                num_blocks += 1
            record(self, f"stage{stage}", x)
        x = norm(name="norm_head")(global_avg_pool(x))
        return Dense(self.num_classes, kernel_init=_init, name="head", **options)(x) if self.num_classes else x
