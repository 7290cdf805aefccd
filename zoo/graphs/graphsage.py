"""GraphSAGE: aggregate what neighbours have, and learn what to make of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.graphs.linear import Linear, drop
from zoo.graphs.message_passing import Graph, Rows, in_degrees, neighbours
from zoo.graphs.network import NodeNetwork
from zoo.layers import record
from zoo.layers.basic import spread
from zoo.registry import register

Aggregator = Literal["mean", "max", "gcn"]


class SAGELayer(nn.Module):
    """W h + W' aggregated + b, `[nodes, inputs]` → `[nodes, features]`; see `GraphSAGE`."""

    features: int
    aggregator: Aggregator
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, h: Rows, graph: Graph) -> jax.Array:
        """Takes features of the nodes and their graph."""
        linear = partial(Linear, self.features, dtype=self.dtype, param_dtype=self.param_dtype)
        if self.aggregator == "max":
            pooled = neighbours(nn.relu(linear(name="pool")(h)), graph, "max")
            return linear(name="own")(h) + linear(use_bias=False, name="neighbours")(pooled)
        # A sum or mean of rows times a matrix is that of the products, and those are smaller.
        turned = linear(use_bias=False, name="neighbours")(h)
        if self.aggregator == "mean":
            return linear(name="own")(h) + neighbours(turned, graph, "mean")
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        total = turned + neighbours(turned, graph)
        if graph.receivers is not None:
            total = total / (in_degrees(graph.receivers, graph.num_nodes) + 1)[:, None].astype(total.dtype)
        return total + spread(bias, total)


@register(
    "graphsage",
    task="node_classification",
    input_shape=(1433,),
    num_parameters=46_103,
    paper="W. Hamilton, R. Ying, J. Leskovec, Inductive Representation Learning on Large Graphs, NeurIPS 2017",
    num_classes=7,
)
class GraphSAGE(NodeNetwork):
    """Layers h' = σ(W h + W' aggregated + b) (algorithm 1), with dropout before each, and ReLU but for the last.

    Aggregators (section 3.3): "mean" of the neighbours; "max" over the neighbours of ReLU(W'' h + b''), the pooling
    one; "gcn", the mean of the neighbours and the node itself, which W' alone turns (eq. 2). `normalize` makes each
    node's features a vector of length 1 (line 7). `num_classes=0` gives the last hidden layer.
    """

    hidden_sizes: Sequence[int] = (16,)
    num_classes: int = 7
    aggregator: Aggregator = "mean"
    normalize: bool = False
    dropout_rate: float = 0.5

    def of_graph(self, graph: Graph, train: bool) -> jax.Array:
        """See `NodeNetwork`."""
        h = graph.nodes
        sizes = [*self.hidden_sizes, *([self.num_classes] if self.num_classes else [])]
        for index, size in enumerate(sizes, start=1):
            h = drop(self.dropout_rate, h, train=train)
            layer = SAGELayer(size, self.aggregator, self.dtype, self.param_dtype, name=f"layer{index}")
            h = layer(h, graph)
            if index <= len(self.hidden_sizes):
                h = nn.relu(h)
                if self.normalize:
                    h = h * jax.lax.rsqrt(jnp.maximum(jnp.square(h).sum(axis=-1, keepdims=True), 1e-24))
                record(self, f"hidden{index}", graph.outputs(h))
        return h
