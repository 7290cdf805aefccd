"""GraphSAGE: aggregate what neighbours have, and learn what to make of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.graphs.linear import Linear, drop
from zoo.graphs.message_passing import in_degrees, neighbours, one_graph
from zoo.layers import record
from zoo.registry import register


@register(
    "graphsage",
    task="node_classification",
    input_shape=(1433,),
    num_parameters=46_103,
    paper="W. Hamilton, R. Ying, J. Leskovec, Inductive Representation Learning on Large Graphs, NeurIPS 2017",
    num_classes=7,
)
class GraphSAGE(nn.Module):
    """Layers h' = σ(W h + W' aggregated + b) (algorithm 1), with dropout before each, and ReLU but for the last.

    Aggregators (section 3.3): "mean" of the neighbours; "max" over the neighbours of ReLU(W'' h + b''), the pooling one;
    "gcn", the mean of the neighbours and the node itself, which W' alone turns (eq. 2). `normalize` makes each node's
    features a vector of length 1 (line 7). `num_classes=0` gives the last hidden layer.
    """

    hidden_sizes: Sequence[int] = (16,)
    num_classes: int = 7
    aggregator: Literal["mean", "max", "gcn"] = "mean"
    normalize: bool = False
    dropout_rate: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        nodes: Any,
        senders: Any = None,
        receivers: Any = None,
        node: Any = None,
        node_mask: Any = None,
        *,
        train: bool = False,
    ) -> jax.Array:
        """As `zoo.graphs.gcn.GCN`."""
        graph = one_graph(nodes, senders, receivers, node_mask)
        h, dtypes = graph.nodes, (self.dtype, self.param_dtype)
        sizes = [*self.hidden_sizes, *([self.num_classes] if self.num_classes else [])]
        for index, size in enumerate(sizes, start=1):
            h = drop(self.dropout_rate, h, train=train)
            # A sum or mean of rows times a matrix is that of the products, and those are smaller.
            if self.aggregator == "max":
                pool = Linear(size, True, *dtypes, name=f"pool{index}")
                around = Linear(size, False, *dtypes, name=f"neighbours{index}")(
                    neighbours(nn.relu(pool(h)), graph, "max")
                )
                h = Linear(size, True, *dtypes, name=f"own{index}")(h) + around
            elif self.aggregator == "mean":
                around = neighbours(Linear(size, False, *dtypes, name=f"neighbours{index}")(h), graph, "mean")
                h = Linear(size, True, *dtypes, name=f"own{index}")(h) + around
            else:
                turned = Linear(size, False, *dtypes, name=f"neighbours{index}")(h)
                count = 1 if graph.receivers is None else in_degrees(graph.receivers, graph.num_nodes, turned.dtype) + 1
                bias = self.param(f"bias{index}", nn.initializers.zeros, (size,), self.param_dtype)
                h = (turned + neighbours(turned, graph)) / jnp.reshape(count, (-1, 1)) + bias.astype(turned.dtype)[None]
            if index <= len(self.hidden_sizes):
                h = nn.relu(h)
                if self.normalize:
                    h = h * jax.lax.rsqrt(jnp.maximum(jnp.square(h).sum(axis=-1, keepdims=True), 1e-24))
                record(self, f"hidden{index}", graph.outputs(h))
        return graph.outputs(h, node)
