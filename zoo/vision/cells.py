"""Cells of searched networks: the operations on their edges, genotypes as plain data, and mixtures of operations.

A genotype names for each cell the operations on its edges, as pairs `[operation, input]`, two for each node: inputs 0
and 1 are the outputs of the two cells before it, 2 is the first node. It is JSON, such as

    {"normal": [["sep_conv_3x3", 0], ["sep_conv_3x3", 1]], "reduce": [["max_pool_3x3", 0], ["skip_connect", 1]]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zoo.layers import BatchNorm, Conv, DropPath, he_normal
from zoo.layers.activations import relu
from zoo.layers.basic import spread
from zoo.layers.convolution import avg_pool, max_pool
from zoo.options import unknown

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""What may stand on an edge of a cell (Liu, Simonyan, Yang 2019, section 3.1)."""

INPUTS = 2
"""Of a cell, and of each node that is kept."""

Edge = tuple[str, int]


class Genotype(NamedTuple):
    """The edges of the two kinds of cells, two for each node, in the order of the nodes."""

    normal: tuple[Edge, ...]
    reduce: tuple[Edge, ...]

    def plain(self) -> dict[str, list[list[Any]]]:
        """As JSON has it."""
        return {kind: [[operation, source] for operation, source in edges] for kind, edges in self._asdict().items()}


GENOTYPES = {
    "darts_v1": Genotype(
        normal=(
            *(("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0), ("sep_conv_3x3", 1)),
            *(("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 2)),
        ),
        reduce=(
            *(("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0)),
            *(("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("avg_pool_3x3", 0)),
        ),
    ),
    "darts_v2": Genotype(
        normal=(
            *(("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
            *(("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2)),
        ),
        reduce=(
            *(("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1)),
            *(("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1)),
        ),
    ),
}
"""Those of the paper, found with the first-order (figure 4 of its appendix) and the second-order gradient (4, 5)."""


def read_genotype(genotype: str | Mapping[str, Any] | Genotype) -> Genotype:
    """A genotype by name, or from plain data.

    Raises:
      ValueError: there is none of this name; or a cell is missing, has an unknown operation, or an edge from a node
        that is not before it. The message names the edge.
    """
    if isinstance(genotype, Genotype):
        genotype = genotype.plain()
    if isinstance(genotype, str):
        if genotype not in GENOTYPES:
            raise ValueError(
                f"{unknown('genotype', genotype, GENOTYPES)}; one of your own is "
                '{"normal": [["skip_connect", 0], …], "reduce": […]}'
            )
        return GENOTYPES[genotype]
    if not isinstance(genotype, Mapping) or set(genotype) != set(Genotype._fields):
        named = ", ".join(map(str, genotype)) if isinstance(genotype, Mapping) else repr(genotype)
        raise ValueError(f"a genotype has the cells normal and reduce, not {named or 'none'}")
    cells = {kind: _edges(kind, genotype[kind]) for kind in Genotype._fields}
    return Genotype(**cells)


def _edges(kind: str, edges: Any) -> tuple[Edge, ...]:
    if not isinstance(edges, Sequence) or isinstance(edges, str) or not edges or len(edges) % INPUTS:
        raise ValueError(f"the cell {kind!r} of a genotype is a list of edges, two for each node, not {edges!r}")
    known = [name for name in OPERATIONS if name != "none"]
    for number, edge in enumerate(edges):
        if not isinstance(edge, Sequence) or isinstance(edge, str) or len(edge) != 2:
            raise ValueError(f"edge {number} of the cell {kind!r} must be [operation, input], not {edge!r}")
        operation, source = edge
        where = f"edge {number} of the cell {kind!r}"
        if operation not in known:
            raise ValueError(f"{where}: {unknown('operation', str(operation), known)}")
        node = number // INPUTS
        if type(source) is not int or not 0 <= source < INPUTS + node:
            raise ValueError(
                f"{where} comes from {source!r}: node {node} has the inputs 0 to {INPUTS + node - 1}, where 0 and 1 "
                "are the cells before it and 2 is the first node"
            )
    return tuple((operation, source) for operation, source in edges)


class Layers(NamedTuple):
    """The layers that cells are made of, with what is the same for all of them bound."""

    conv: Any
    norm: Any


def layers(train: bool, *, affine: bool = True, dtype: Any = None, param_dtype: Any = jnp.float32) -> Layers:
    """Convolutions without bias, and batch norm, which in a search has no parameters."""
    conv = partial(Conv, use_bias=False, kernel_init=he_normal, dtype=dtype, param_dtype=param_dtype)
    return Layers(
        conv,
        lambda name: partial(BatchNorm(affine=affine, dtype=dtype, param_dtype=param_dtype, name=name), train=train),
    )


class ReLUConvNorm(nn.Module):
    """ReLU, a convolution, batch norm."""

    features: int
    kernel_size: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` → `[batch, height, width, features]`."""
        x = self.layers.conv(self.features, self.kernel_size, padding=self.kernel_size // 2, name="conv")(relu(x))
        return self.layers.norm("norm")(x)


class FactorizedReduce(nn.Module):
    """Half the channels of each second pixel, and half those of the pixels between them: half the size."""

    features: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` → `[batch, ⌈height / 2⌉, ⌈width / 2⌉, features]`."""
        x = relu(x)
        between = jnp.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))
        first = self.features // 2
        conv = partial(self.layers.conv, kernel_size=1, padding=0)
        y = [
            conv(first, name="conv1")(x[:, ::2, ::2]),
            conv(self.features - first, name="conv2")(between[:, ::2, ::2]),
        ]
        return self.layers.norm("norm")(jnp.concatenate(y, axis=-1))


class DepthwiseSeparable(nn.Module):
    """ReLU, a depthwise and a 1×1 convolution and batch norm; twice, the second at stride 1, where not dilated."""

    features: int
    kernel_size: int
    stride: int
    dilation: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, features]` → the same, or halved by the stride."""
        padding = self.dilation * (self.kernel_size - 1) // 2
        for index, stride in enumerate((self.stride,) if self.dilation > 1 else (self.stride, 1)):
            spatial = {"strides": stride, "padding": padding, "dilation": self.dilation, "groups": self.features}
            name = str(index + 1)
            x = self.layers.conv(self.features, self.kernel_size, **spatial, name=f"depthwise{name}")(relu(x))
            x = self.layers.conv(self.features, 1, padding=0, name=f"pointwise{name}")(x)
            x = self.layers.norm(f"norm{name}")(x)
        return x


def operation(kind: str, features: int, stride: int, layers: Layers, name: str) -> Any:
    """An operation by name, as a function of images `[batch, height, width, features]`.

    Raises:
      ValueError: there is none of this name.
    """
    if kind == "none":
        return lambda x: jnp.zeros_like(x[:, ::stride, ::stride])
    if kind == "skip_connect":
        return (lambda x: x) if stride == 1 else FactorizedReduce(features, layers, name=name)
    if kind == "max_pool_3x3":
        return partial(max_pool, window=(3, 3), strides=(stride, stride), padding=1)
    if kind == "avg_pool_3x3":
        return partial(mean_pool, stride=stride)
    family, _, size = kind.rpartition("_")
    if family in ("sep_conv", "dil_conv") and kind in OPERATIONS:
        dilation = 2 if family == "dil_conv" else 1
        return DepthwiseSeparable(features, int(size[0]), stride, dilation, layers, name=name)
    raise ValueError(unknown("operation", kind, OPERATIONS))


def mean_pool(x: jax.Array, *, stride: int) -> jax.Array:
    """The mean of 3×3 pixels, of those that are there at the edge, as PyTorch's `count_include_pad=False`."""
    places = (np.arange(0, n, stride) for n in x.shape[1:3])
    rows, columns = (np.minimum(at + 2, n) - np.maximum(at - 1, 0) for at, n in zip(places, x.shape[1:3], strict=True))
    inside = (rows[:, None] * columns[None] / 9)[None, :, :, None].astype(np.float32)
    return (avg_pool(x, (3, 3), (stride, stride), padding=1) / inside).astype(x.dtype)


class MixedOperation(nn.Module):
    """Σ wₒ o(x) over the operations of an edge (DARTS, eq. 2). Pools are normalised, as the convolutions are."""

    operations: Sequence[str]
    features: int
    stride: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        """`[batch, height, width, features]` and `[operations]` → the same shape, or halved by the stride."""
        total = jnp.zeros_like(x[:, :: self.stride, :: self.stride])
        for index, kind in enumerate(self.operations):
            if kind == "none":
                continue
            y = operation(kind, self.features, self.stride, self.layers, kind)(x)
            if "pool" in kind:
                y = self.layers.norm(f"{kind}_norm")(y)
            total = total + spread(weights[index], y) * y
        return total


def drop(x: jax.Array, kind: str, stride: int, rate: float, train: bool) -> jax.Array:
    """Drop-path on an edge; the identity is never dropped (DARTS, section A.3)."""
    identity = kind == "skip_connect" and stride == 1
    return x if identity else DropPath(rate)(x, train=train)
