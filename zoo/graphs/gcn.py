"""Graph convolutional networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.graphs.linear import Linear, drop
from zoo.graphs.message_passing import Graph, Rows, Smoothing, smoothing
from zoo.graphs.network import NodeNetwork
from zoo.layers import record
from zoo.layers.basic import spread
from zoo.registry import register


class GraphConv(nn.Module):
    """Â x W + b: `[nodes, inputs]` → `[nodes, features]`."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Rows, smooth: Smoothing) -> jax.Array:
        """Takes Â as `zoo.graphs.message_passing.smoothing` gives it."""
        y = smooth(Linear(self.features, False, self.dtype, self.param_dtype, name="linear")(x))
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        return y + spread(bias, y)


@register(
    "gcn",
    task="node_classification",
    input_shape=(1433,),
    num_parameters=23_063,
    paper="T. Kipf, M. Welling, Semi-Supervised Classification with Graph Convolutional Networks, ICLR 2017",
    num_classes=7,
)
class GCN(NodeNetwork):
    """Layers H' = σ(Â H W + b) (eq. 2), with dropout before each, and ReLU behind all but the last.

    `num_classes=0` gives the last hidden layer. The defaults are the paper's network for Cora.
    """

    hidden_sizes: Sequence[int] = (16,)
    num_classes: int = 7
    dropout_rate: float = 0.5

    def of_graph(self, graph: Graph, train: bool) -> jax.Array:
        """See `NodeNetwork`."""
        smooth, h = smoothing(graph), graph.nodes
        sizes = [*self.hidden_sizes, *([self.num_classes] if self.num_classes else [])]
        for index, size in enumerate(sizes, start=1):
            h = drop(self.dropout_rate, h, train=train)
            h = GraphConv(size, self.dtype, self.param_dtype, name=f"conv{index}")(h, smooth)
            if index <= len(self.hidden_sizes):
                h = nn.relu(h)
                record(self, f"hidden{index}", graph.outputs(h))
        return h
