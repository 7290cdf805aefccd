"""LeNet-5 (LeCun, Bottou, Bengio, Haffner 1998)."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Conv, flatten, record, require_image
from zoo.layers.convolution import avg_pool
from zoo.layers.linear import Dense
from zoo.registry import register


@register(
    "lenet5",
    task="classification",
    input_shape=(32, 32, 1),
    num_parameters=61_706,
    paper="Y. LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998, figure 2",
)
class LeNet5(nn.Module):
    """The layer sizes of 1998 on 32×32 images, in the variant that has become common.

    As in the paper: C1 6@5×5, S2, C3 16@5×5, S4, C5 120@5×5, F6 84, tanh between them, no padding. Unlike it: S2 and S4
    average without trainable coefficients, C3 sees all six maps, and the output is a dense layer of logits in place of
    Euclidean radial basis functions. MNIST's 28×28 images are padded by 2, as the paper does.
    """

    num_classes: int = 10
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, 32, 32, channels]` (or larger) → logits `[batch, num_classes]`."""
        require_image(x, least=32, model="LeNet-5")
        conv = partial(Conv, kernel_size=5, padding="VALID", dtype=self.dtype, param_dtype=self.param_dtype)
        dense = partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        x = jnp.tanh(conv(6, name="c1")(x))
        x = avg_pool(x)
        record(self, "s2", x)
        x = jnp.tanh(conv(16, name="c3")(x))
        x = avg_pool(x)
        record(self, "s4", x)
        x = jnp.tanh(conv(120, name="c5")(x))
        x = jnp.tanh(dense(84, name="f6")(flatten(x)))
        return dense(self.num_classes, name="output")(x) if self.num_classes else x
