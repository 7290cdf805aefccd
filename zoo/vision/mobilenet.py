"""MobileNetV3 (Howard et al. 2019), and the inverted residual block that it shares with EfficientNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import BatchNorm, Conv, Dropout, DropPath, global_avg_pool, he_normal, record, require_image
from zoo.layers.activations import Activation, relu
from zoo.layers.basic import spread
from zoo.layers.linear import Dense
from zoo.registry import register

Layer = Callable[..., Any]

_depthwise_init = nn.initializers.he_normal()
"""He et al. 2015, eq. 10: by fan-in, which of a depthwise convolution is its window alone."""


def round_channels(channels: float) -> int:
    """The multiple of 8 that is nearest, but no less than 90 % of `channels` (the rule of the authors' code)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole image holds (Hu, Shen, Sun 2018): pool, reduce, expand, gate."""

    reduced: int
    activation: Activation
    gate: Activation
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` → the same."""
        dense = partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        weights = self.activation(dense(self.reduced, name="reduce")(global_avg_pool(x)))
        weights = self.gate(dense(x.shape[-1], name="expand")(weights))
        return x * spread(weights[:, None, None], x)


class InvertedResidual(nn.Module):
    """MBConv (Sandler et al. 2018): 1×1 to `expanded` channels, depthwise, squeeze-and-excitation, 1×1 to `features`.

    The first 1×1 is left out where it would not widen; the input is added where the shape allows. `same_padding` is
    TensorFlow's, which at stride 2 may pad one side more than the other.
    """

    features: int
    expanded: int
    kernel_size: int
    stride: int
    activation: Activation
    conv: Layer
    norm: Layer
    squeeze_excite: Layer | None
    drop_path_rate: float = 0.0
    same_padding: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` → the same, or divided by the stride, `features` wide."""
        y, k = x, self.kernel_size
        if self.expanded != x.shape[-1]:
            y = self.conv(self.expanded, 1, padding=0, name="conv_expand")(y)
            y = self.activation(self.norm(name="norm_expand")(y, train=train))
        depthwise = partial(self.conv, groups=self.expanded, kernel_init=_depthwise_init, name="conv_depthwise")
        y = depthwise(self.expanded, k, self.stride, padding="SAME" if self.same_padding else k // 2)(y)
        y = self.activation(self.norm(name="norm_depthwise")(y, train=train))
        if self.squeeze_excite:
            y = self.squeeze_excite(name="squeeze_excite")(y)
        y = self.conv(self.features, 1, padding=0, name="conv_project")(y)
        y = self.norm(name="norm_project")(y, train=train)
        return x + DropPath(self.drop_path_rate)(y, train=train) if x.shape == y.shape else y


_STAGES = (  # table 1: window, stride, expanded channels of each block, channels, squeeze-and-excitation, activation
    (3, 1, (16,), 16, False, relu),
    (3, 2, (64, 72), 24, False, relu),
    (5, 2, (72, 120, 120), 40, True, relu),
    (3, 2, (240, 200, 184, 184), 80, False, nn.hard_swish),
    (3, 1, (480, 672), 112, True, nn.hard_swish),
    (5, 2, (672, 960, 960), 160, True, nn.hard_swish),
)


@register(
    "mobilenet_v3_large",
    task="classification",
    input_shape=(224, 224, 3),
    num_parameters=5_483_032,
    weights_licence="Apache-2.0 (timm)",
    paper="A. Howard et al., Searching for MobileNetV3, ICCV 2019, table 1",
)
class MobileNetV3(nn.Module):
    """MobileNetV3-Large, padded as in PyTorch.

    `width` multiplies the channels of all convolutions; stages longer than the paper's repeat their last block, and
    fewer stages are the first ones. `epsilon` is batch norm's: timm's weights are for 1e-5, torchvision's and Keras's
    for 1e-3. `stem` and `stage1` … `stage6` are named intermediates; `num_classes=0` gives the features of the dense
    layer after pooling.
    """

    num_classes: int = 1000
    stage_sizes: Sequence[int] = (1, 2, 3, 4, 2, 3)
    width: float = 1.0
    hidden_size: int = 1280
    dropout_rate: float = 0.2
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` of any size → logits `[batch, num_classes]`."""
        require_image(x, least=1, model="MobileNetV3")
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=he_normal, **options)
        norm = partial(BatchNorm, epsilon=self.epsilon, **options)
        x = conv(round_channels(16 * self.width), 3, 2, padding=1, name="conv_stem")(x)
        x = nn.hard_swish(norm(name="norm_stem")(x, train=train))
        record(self, "stem", x)
        rows = _STAGES[: len(self.stage_sizes)]
        for stage, (size, row) in enumerate(zip(self.stage_sizes, rows, strict=True), start=1):
            kernel_size, stride, expansions, features, squeezes, activation = row
            for block in range(size):
                expanded = round_channels(self.width * expansions[min(block, len(expansions) - 1)])
                reduced = round_channels(expanded / 4)
                x = InvertedResidual(
                    features=round_channels(self.width * features),
                    expanded=expanded,
                    kernel_size=kernel_size,
                    stride=stride if block == 0 else 1,
                    activation=activation,
                    conv=conv,
                    norm=norm,
                    squeeze_excite=partial(SqueezeExcite, reduced, relu, nn.hard_sigmoid, **options)
                    if squeezes
                    else None,
                    name=f"stage{stage}_block{block + 1}",
                )(x, train=train)
            record(self, f"stage{stage}", x)
        x = conv(6 * x.shape[-1], 1, padding=0, name="conv_head")(x)
        x = global_avg_pool(nn.hard_swish(norm(name="norm_head")(x, train=train)))
        x = nn.hard_swish(Dense(self.hidden_size, name="hidden", **options)(x))
        x = Dropout(self.dropout_rate)(x, train=train)
        return Dense(self.num_classes, name="head", **options)(x) if self.num_classes else x
