"""EfficientNet (Tan, Le 2019): one network, scaled in width, depth and resolution together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import BatchNorm, Conv, Dropout, global_avg_pool, he_normal, record, require_image
from zoo.layers.linear import Dense
from zoo.registry import register
from zoo.vision.mobilenet import InvertedResidual, SqueezeExcite, round_channels

_STAGES = (  # table 1: window, stride, expansion, channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class EfficientNet(nn.Module):
    """Seven stages of MBConv blocks with squeeze-and-excitation and SiLU, padded as in PyTorch or TensorFlow.

    `width` multiplies the channels; fewer stages than seven are the first ones. Blocks are dropped in training with a
    probability that grows linearly to `drop_path_rate` (stochastic depth). `epsilon` is batch norm's: timm's weights
    are for 1e-5, torchvision's from b5 on and Keras's for 1e-3, these also for `same_padding`. `stem` and `stage1` …
    `stage7` are named intermediates; `num_classes=0` gives pooled features.
    """

    stage_sizes: Sequence[int]
    width: float = 1.0
    num_classes: int = 1000
    dropout_rate: float = 0.2
    drop_path_rate: float = 0.2
    epsilon: float = 1e-5
    same_padding: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` of any size → logits `[batch, num_classes]`."""
        require_image(x, least=1, model="EfficientNet")
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv = partial(Conv, use_bias=False, kernel_init=he_normal, **options)
        norm = partial(BatchNorm, epsilon=self.epsilon, **options)
        padding = "SAME" if self.same_padding else 1
        x = conv(round_channels(32 * self.width), 3, 2, padding=padding, name="conv_stem")(x)
        x = nn.silu(norm(name="norm_stem")(x, train=train))
        record(self, "stem", x)
        num_blocks = 0
        rows = _STAGES[: len(self.stage_sizes)]
        for stage, (size, row) in enumerate(zip(self.stage_sizes, rows, strict=True), start=1):
            kernel_size, stride, expansion, features, _ = row
            for block in range(size):
                channels = x.shape[-1]
                x = InvertedResidual(
                    features=round_channels(self.width * features),
                    expanded=expansion * channels,
                    kernel_size=kernel_size,
                    stride=stride if block == 0 else 1,
                    activation=nn.silu,
                    conv=conv,
                    norm=norm,
                    squeeze_excite=partial(SqueezeExcite, channels // 4, nn.silu, nn.sigmoid, **options),
                    drop_path_rate=self.drop_path_rate * num_blocks / sum(self.stage_sizes),
                    same_padding=self.same_padding,
                    name=f"stage{stage}_block{block + 1}",
                )(x, train=train)
                num_blocks += 1
            record(self, f"stage{stage}", x)
        x = conv(round_channels(1280 * self.width), 1, padding=0, name="conv_head")(x)
        x = global_avg_pool(nn.silu(norm(name="norm_head")(x, train=train)))
        x = Dropout(self.dropout_rate)(x, train=train)
        return Dense(self.num_classes, name="head", **options)(x) if self.num_classes else x


for _name, _width, _depth, _resolution, _dropout_rate, _num_parameters in (
    ("efficientnet_b0", 1.0, 1.0, 224, 0.2, 5_288_548),
    ("efficientnet_b1", 1.0, 1.1, 240, 0.2, 7_794_184),
    ("efficientnet_b2", 1.1, 1.2, 260, 0.3, 9_109_994),
    ("efficientnet_b3", 1.2, 1.4, 300, 0.3, 12_233_232),
    ("efficientnet_b4", 1.4, 1.8, 380, 0.4, 19_341_616),
    ("efficientnet_b5", 1.6, 2.2, 456, 0.4, 30_389_784),
    ("efficientnet_b6", 1.8, 2.6, 528, 0.5, 43_040_704),
    ("efficientnet_b7", 2.0, 3.1, 600, 0.5, 66_347_960),
):
    register(
        _name,
        task="classification",
        input_shape=(_resolution, _resolution, 3),
        num_parameters=_num_parameters,
        weights_licence="BSD-3-Clause (torchvision)"
        if _name in ("efficientnet_b6", "efficientnet_b7")
        else "Apache-2.0 (timm)",
        paper="M. Tan, Q. V. Le, EfficientNet: rethinking model scaling for CNNs, ICML 2019, table 1 and section 3.3",
        stage_sizes=tuple(math.ceil(_depth * row[-1]) for row in _STAGES),
        width=_width,
        dropout_rate=_dropout_rate,
    )(EfficientNet)
