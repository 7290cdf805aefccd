"""The space of NAS-Bench-201 (Dong, Yang 2020): 15,625 networks, each of whose training is known from a table.

A cell has four nodes; an edge goes from each to all behind it, six in all, in the order 0→1, 0→2, 1→2, 0→3, 1→3, 2→3.
A genotype is the operations on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.layers import Dense, global_avg_pool, record, require_image
from zoo.layers.activations import relu
from zoo.layers.basic import spread
from zoo.layers.convolution import avg_pool
from zoo.registry import register
from zoo.vision.cells import Layers, ReLUConvNorm, layers, mean_pool
from zoo.vision.darts import ARCHITECTURE, require_operations

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""What may stand on an edge, in the order of the table's digits."""

NUM_NODES = 4

NUM_EDGES = 6


class BenchCell(nn.Module):
    """Each node adds what the edges from all nodes before it bring; the last is the output."""

    features: int
    layers: Layers
    edge: Callable[[int, jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, features]` → the same shape."""
        states, edge = [x], 0
        for node in range(1, NUM_NODES):
            total = jnp.zeros_like(x)
            for source in range(node):
                total = total + self.edge(edge, states[source])
                edge += 1
            states.append(total)
        return states[-1]


def _operation(kind: str, features: int, layers: Layers, name: str) -> Callable[[jax.Array], jax.Array]:
    if kind == "none":
        return jnp.zeros_like
    if kind == "skip_connect":
        return lambda x: x
    if kind == "avg_pool_3x3":
        return lambda x: mean_pool(x, stride=1)
    return ReLUConvNorm(features, int(kind[-1]), layers, name=name)


class ResidualReduction(nn.Module):
    """Two 3×3 convolutions, the first at stride 2, beside a mean over 2×2 pixels and a 1×1 convolution."""

    features: int
    layers: Layers

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[batch, height, width, channels]` → `[batch, ⌈height / 2⌉, ⌈width / 2⌉, features]`."""
        conv, norm = self.layers
        y = norm("norm1")(conv(self.features, 3, 2, padding=1, name="conv1")(relu(x)))
        y = norm("norm2")(conv(self.features, 3, padding=1, name="conv2")(relu(y)))
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        return y + conv(self.features, 1, padding=0, name="conv_proj")(avg_pool(x))


class NASBench201(nn.Module):
    """The supernet of the space: three stages of cells, a residual block that halves the image between them.

    `alpha_cell`, `[6, operations]`, is shared by all cells, whose batch norms have no parameters. With `genotype`, six
    names of operations, it is the network of that genotype, which has no α, and whose batch norms all have parameters.
    """

    genotype: Sequence[str] | None = None
    num_classes: int = 10
    features: int = 16
    num_cells: int = 5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """`[batch, height, width, channels]` → logits `[batch, num_classes]`."""
        require_image(x, least=1, model="NASBench201")
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        outside = layers(train, **options)
        made = layers(train, affine=self.genotype is not None, **options)
        chosen = self.genotype
        if chosen is not None:
            if len(chosen) != NUM_EDGES:
                raise ValueError(f"a genotype of NAS-Bench-201 has {NUM_EDGES} operations, not {len(chosen)}")
            require_operations(tuple(dict.fromkeys((*chosen, *OPERATIONS))), OPERATIONS)
            weights = None
        else:
            shape = (NUM_EDGES, len(OPERATIONS))
            alpha = self.param(f"{ARCHITECTURE}cell", nn.initializers.normal(1e-3), shape, self.param_dtype)
            weights = jax.nn.softmax(alpha, axis=-1)

        def mixed(features: int) -> Callable[[int, jax.Array], jax.Array]:
            def edge(number: int, x: jax.Array) -> jax.Array:
                if weights is None:
                    assert chosen is not None
                    return _operation(chosen[number], features, made, f"edge{number}")(x)
                kinds = [(index, kind) for index, kind in enumerate(OPERATIONS) if kind != "none"]
                outputs = [_operation(kind, features, made, f"edge{number}_{kind}")(x) for _, kind in kinds]
                weighed = [spread(weights[number, index], y) * y for (index, _), y in zip(kinds, outputs, strict=True)]
                return sum(weighed[1:], start=weighed[0])

            return edge

        x = outside.norm("norm_stem")(outside.conv(self.features, 3, padding=1, name="conv_stem")(x))
        for stage in range(3):
            features = self.features * 2**stage
            if stage:
                x = ResidualReduction(features, outside, name=f"reduction{stage}")(x)
            for index in range(self.num_cells):
                x = BenchCell(features, made, mixed(features), name=f"stage{stage + 1}_cell{index + 1}")(x)
            record(self, f"stage{stage + 1}", x)
        x = global_avg_pool(relu(outside.norm("norm")(x)))
        return Dense(self.num_classes, **options, name="head")(x) if self.num_classes else x


register(
    "nas_bench_201",
    input_shape=(32, 32, 3),
    num_parameters=1_686_136,
    paper="X. Dong, Y. Yang, NAS-Bench-201: extending the scope of reproducible neural architecture search, ICLR 2020",
)(NASBench201)
