"""VGG (Simonyan, Zisserman 2014; guide, section 5.4.3), with and without batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import BatchNorm, Conv, Dropout, adaptive_avg_pool, flatten, he_normal, record, require_image
from zoo.layers.activations import relu
from zoo.layers.convolution import max_pool
from zoo.layers.linear import Dense
from zoo.registry import register


class VGG(nn.Module):
    """Stages of 3×3 convolutions with a max-pool after each, and three dense layers.

    Adaptive pooling to 7×7 lets the dense layers take images of other sizes, as in torchvision. `stage1` … `stage5` are
    named intermediates, after each max-pool; `num_classes=0` gives the features of the second dense layer.
    """

    stage_sizes: Sequence[int]
    batch_norm: bool = False
    num_classes: int = 1000
    features: Sequence[int] = (64, 128, 256, 512, 512)
    hidden_size: int = 4096
    dropout_rate: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height ≥ 32, width ≥ 32, channels]` → logits `[batch, num_classes]`."""
        require_image(x, least=2 ** len(self.stage_sizes), model="VGG")
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for stage, (num_layers, features) in enumerate(zip(self.stage_sizes, self.features, strict=True), start=1):
            for layer in range(1, num_layers + 1):
                x = Conv(features, 3, padding=1, kernel_init=he_normal, name=f"stage{stage}_conv{layer}", **options)(x)
                if self.batch_norm:
                    x = BatchNorm(name=f"stage{stage}_norm{layer}", **options)(x, train=train)
                x = relu(x)
            x = max_pool(x)
            record(self, f"stage{stage}", x)
        x = flatten(adaptive_avg_pool(x, (7, 7)))
        dense = partial(Dense, **options)
        for name in ("fc1", "fc2"):
            x = relu(dense(self.hidden_size, kernel_init=nn.initializers.he_normal(), name=name)(x))
            x = Dropout(self.dropout_rate)(x, train=train)
        return dense(self.num_classes, name="head")(x) if self.num_classes else x


for _name, _stage_sizes, _plain, _normalised in (
    ("vgg11", (1, 1, 2, 2, 2), 132_863_336, 132_868_840),
    ("vgg13", (2, 2, 2, 2, 2), 133_047_848, 133_053_736),
    ("vgg16", (2, 2, 3, 3, 3), 138_357_544, 138_365_992),
    ("vgg19", (2, 2, 4, 4, 4), 143_667_240, 143_678_248),
):
    for _variant, _batch_norm, _num_parameters in ((_name, False, _plain), (f"{_name}_bn", True, _normalised)):
        register(
            _variant,
            task="classification",
            input_shape=(224, 224, 3),
            num_parameters=_num_parameters,
            weights_licence="BSD-3-Clause (torchvision)",
            paper="K. Simonyan, A. Zisserman, Very deep convolutional networks, ICLR 2015, table 1 (A, B, D, E)",
            stage_sizes=_stage_sizes,
            batch_norm=_batch_norm,
        )(VGG)
