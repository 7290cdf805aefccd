"""Residual networks (He, Zhang, Ren, Sun 2015; guide, section 5.4.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import (
    Conv,
    Dropout,
    DropPath,
    SpatialDropout,
    flatten,
    global_avg_pool,
    he_normal,
    norm,
    record,
    require_image,
)
from zoo.layers.activations import relu
from zoo.layers.convolution import max_pool
from zoo.layers.linear import Dense
from zoo.registry import register

Layer = Callable[..., Any]


class BasicBlock(nn.Module):
    """H(x) = F(x) + x (eq. 38) with two 3×3 convolutions in F; a 1×1 projection where the shape changes.

    `drop_inside` stands between the convolutions and `drop_branch` behind F, where they are given.
    """

    features: int
    stride: int
    conv: Layer
    norm: Layer
    drop_inside: Layer | None = None
    drop_branch: Layer | None = None
    expansion: ClassVar[int] = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` → the same, or halved by the stride and `features · expansion` wide."""
        y = self.conv(self.features, 3, self.stride, padding=1, name="conv1")(x)
        y = relu(self.norm(name="norm1")(y))
        y = self.drop_inside(y) if self.drop_inside else y
        y = self.conv(self.features, 3, padding=1, name="conv2")(y)
        y = self.norm(name="norm2", scale_init=nn.initializers.zeros)(y)
        y = self.drop_branch(y) if self.drop_branch else y
        return relu(y + _shortcut(self, x))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions in F, the last four times as wide.

    The stride is in the 3×3 convolution, as in PyTorch and timm ("v1.5"), or in the first 1×1, as in the paper.
    """

    features: int
    stride: int
    conv: Layer
    norm: Layer
    stride_in: Literal["3x3", "1x1"] = "3x3"
    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` → the same, or halved by the stride and `features · expansion` wide."""
        first, second = (self.stride, 1) if self.stride_in == "1x1" else (1, self.stride)
        y = relu(self.norm(name="norm1")(self.conv(self.features, 1, first, padding=0, name="conv1")(x)))
        y = self.conv(self.features, 3, second, padding=1, name="conv2")(y)
        y = relu(self.norm(name="norm2")(y))
        y = self.conv(self.features * self.expansion, 1, padding=0, name="conv3")(y)
        y = self.norm(name="norm3", scale_init=nn.initializers.zeros)(y)
        return relu(y + _shortcut(self, x))


def _shortcut(block: BasicBlock | Bottleneck, x: jax.Array) -> jax.Array:
    features = block.features * block.expansion
    if block.stride == 1 and x.shape[-1] == features:
        return x
    return block.norm(name="norm_proj")(block.conv(features, 1, block.stride, padding=0, name="conv_proj")(x))


class ResNet(nn.Module):
    """A stem, four stages of blocks, global average pooling and a dense layer.

    `stem="imagenet"` is a 7×7 convolution of stride 2 and a max-pool of stride 2; `stem="cifar"` is a 3×3 convolution
    alone, for images of about 32×32. The last scale of each block starts at zero, so that blocks start as identities
    (Goyal et al. 2017). `stride_in` is where bottlenecks have their stride, `epsilon` is batch norm's; Keras's weights
    are for "1x1" and 1.001e-5. `num_classes=0` gives pooled features; `stem` and `stage1` … `stage4` are named
    intermediates.
    """

    block: type[BasicBlock] | type[Bottleneck]
    stage_sizes: Sequence[int]
    num_classes: int = 1000
    features: int = 64
    stem: Literal["imagenet", "cifar"] = "imagenet"
    stride_in: Literal["3x3", "1x1"] = "3x3"
    epsilon: float = 1e-5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` of any size → logits `[batch, num_classes]`."""
        require_image(x, least=1, model="ResNet")
        if self.stride_in not in ("3x3", "1x1"):
            raise ValueError(f'stride_in must be "3x3" or "1x1", not {self.stride_in!r}')
        conv, norm = _conv_and_norm(self.dtype, self.param_dtype, train, self.epsilon)
        block = partial(Bottleneck, stride_in=self.stride_in) if self.block is Bottleneck else self.block
        if self.stem == "imagenet":
            x = relu(norm(name="norm_stem")(conv(self.features, 7, 2, padding=3, name="conv_stem")(x)))
            x = max_pool(x, (3, 3), (2, 2), padding=1)
        elif self.stem == "cifar":
            x = relu(norm(name="norm_stem")(conv(self.features, 3, padding=1, name="conv_stem")(x)))
        else:
            raise ValueError(f'stem must be "imagenet" or "cifar", not {self.stem!r}')
        record(self, "stem", x)
        for stage, num_blocks in enumerate(self.stage_sizes):
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"stage{stage + 1}_block{index + 1}"
                x = block(self.features * 2**stage, stride, conv, norm, name=name)(x)
            record(self, f"stage{stage + 1}", x)
        x = global_avg_pool(x)
        return (
            Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype, name="head")(x)
            if self.num_classes
            else x
        )


class MiniResNet(nn.Module):
    """The guide's small residual network: a convolution, two basic blocks, max-pooling and two dense layers.

    The guide's convolutions have biases; those stand before batch norm, which cancels them, and are left out here.

    To compare what regularises (section 4), there are dropout before the head, spatial dropout between the convolutions
    of a block, stochastic depth, which drops its branch (from `drop_path_rate / 2` for the first block), and each of
    `zoo.layers.norm` in the place of batch norm.
    """

    num_classes: int = 10
    features: int = 32
    hidden_size: int = 128
    norm: str = "batch"
    dropout_rate: float = 0.0
    spatial_dropout_rate: float = 0.0
    drop_path_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` → logits `[batch, num_classes]`."""
        require_image(x, least=2, model="MiniResNet")
        conv, norm = _conv_and_norm(self.dtype, self.param_dtype, train, kind=self.norm)
        dense = partial(Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        x = relu(norm(name="norm_stem")(conv(self.features, 3, padding=1, name="conv_stem")(x)))
        for index in (1, 2):
            inside = _drop(SpatialDropout, self.spatial_dropout_rate, train)
            branch = _drop(DropPath, self.drop_path_rate * index / 2, train)
            x = BasicBlock(self.features, 1, conv, norm, inside, branch, name=f"residual{index}")(x)
            record(self, f"block{index}", x)
        x = relu(dense(self.hidden_size, name="hidden")(flatten(max_pool(x))))
        x = Dropout(self.dropout_rate)(x, train=train)
        return dense(self.num_classes, name="head")(x) if self.num_classes else x


def _drop(kind: Callable[[float], Any], rate: float, train: bool) -> Layer:
    return lambda x: kind(rate)(x, train=train)


def _conv_and_norm(
    dtype: Any, param_dtype: Any, train: bool, epsilon: float = 1e-5, kind: str = "batch"
) -> tuple[Layer, Layer]:
    """The two layers that blocks are made of, with what is the same for all of them bound."""
    conv = partial(Conv, use_bias=False, kernel_init=he_normal, dtype=dtype, param_dtype=param_dtype)

    def bound(**options: Any) -> Layer:
        return partial(norm(kind, epsilon=epsilon, dtype=dtype, param_dtype=param_dtype, **options), train=train)

    return conv, bound


_PAPER = "K. He et al., Deep residual learning for image recognition, CVPR 2016, table 1"

for _name, _block, _stage_sizes, _num_parameters in (
    ("resnet18", BasicBlock, (2, 2, 2, 2), 11_689_512),
    ("resnet34", BasicBlock, (3, 4, 6, 3), 21_797_672),
    ("resnet50", Bottleneck, (3, 4, 6, 3), 25_557_032),
    ("resnet101", Bottleneck, (3, 4, 23, 3), 44_549_160),
    ("resnet152", Bottleneck, (3, 8, 36, 3), 60_192_808),
):
    register(
        _name,
        task="classification",
        input_shape=(224, 224, 3),
        num_parameters=_num_parameters,
        weights_licence="Apache-2.0 (timm)",
        paper=_PAPER,
        block=_block,
        stage_sizes=_stage_sizes,
    )(ResNet)

register(
    "mini_resnet",
    task="classification",
    input_shape=(28, 28, 1),
    num_parameters=841_706,
    paper=f"the guide, section 5.4.4; {_PAPER}",
)(MiniResNet)
