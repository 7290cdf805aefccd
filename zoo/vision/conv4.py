"""The four convolutions of few-shot learning, as MAML and as prototypical networks have them."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import BatchNorm, Conv, flatten, global_avg_pool, record, require_image
from zoo.layers.activations import relu
from zoo.layers.convolution import max_pool
from zoo.layers.linear import Dense
from zoo.registry import register


class Conv4(nn.Module):
    """[3×3 convolution, batch norm, ReLU] × `num_layers`, each halving the image, and a dense layer.

    By `downsample="stride"` a convolution has stride 2 and the last image is averaged, as in MAML's code for Omniglot;
    by "pool" maxima of 2×2 follow and the last image is flattened, as in prototypical networks and in MAML's for
    larger pictures. `num_classes=0` gives the features.
    """

    features: int = 64
    num_layers: int = 4
    downsample: Literal["stride", "pool"] = "stride"
    num_classes: int = 5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` → logits `[batch, num_classes]`."""
        pooled = self.downsample == "pool"
        require_image(x, least=2**self.num_layers if pooled else 1, model="Conv4")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for index in range(1, self.num_layers + 1):
            init = nn.initializers.xavier_uniform()
            x = Conv(self.features, strides=1 if pooled else 2, kernel_init=init, **dtypes)(x)
            x = relu(BatchNorm(**dtypes)(x, train=train))
            x = max_pool(x) if pooled else x
            record(self, f"block{index}", x)
        x = flatten(x) if pooled else global_avg_pool(x)
        return Dense(self.num_classes, **dtypes)(x) if self.num_classes else x


register(
    "conv4",
    task="classification",
    input_shape=(28, 28, 1),
    num_parameters=112_261,
    paper="C. Finn, P. Abbeel, S. Levine, Model-Agnostic Meta-Learning, ICML 2017, section 5.2, arXiv:1703.03400",
)(Conv4)

register(
    "conv4_pool",
    task="classification",
    input_shape=(28, 28, 1),
    num_parameters=112_261,
    paper="J. Snell, K. Swersky, R. Zemel, Prototypical Networks, NeurIPS 2017, section 3.1, arXiv:1703.05175",
    downsample="pool",
)(Conv4)
