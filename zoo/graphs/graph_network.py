"""The guide's graph network."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax

from zoo.graphs.linear import Linear, drop
from zoo.graphs.message_passing import Graph, neighbours
from zoo.graphs.network import NodeNetwork
from zoo.layers import record
from zoo.registry import register


@register(
    "graph_network",
    task="node_classification",
    input_shape=(1433,),
    num_parameters=23_575,
    paper="F. Scarselli, M. Gori, A. Tsoi, M. Hagenbuchner, G. Monfardini, The Graph Neural Network Model, IEEE "
    "Transactions on Neural Networks 20, 2009",
    num_classes=7,
)
class GraphNetwork(NodeNetwork):
    """Layers hᵥ' = σ(W hᵥ + Σ hᵤ over the neighbours u of v) (guide, eq. 81), between two dense ones; σ is ReLU.

    The sum has the size of h, so that W is square. A sum grows with the degree and the depth; `aggregator="mean"` does
    not. `num_classes=0` gives the last hidden layer.
    """

    hidden_size: int = 16
    num_layers: int = 2
    num_classes: int = 7
    aggregator: Literal["sum", "mean"] = "sum"
    dropout_rate: float = 0.5

    def of_graph(self, graph: Graph, train: bool) -> jax.Array:
        """See `NodeNetwork`."""
        dtypes = (self.dtype, self.param_dtype)
        h = Linear(self.hidden_size, True, *dtypes, name="stem")(drop(self.dropout_rate, graph.nodes, train=train))
        for index in range(1, self.num_layers + 1):
            own = Linear(self.hidden_size, False, *dtypes, name=f"layer{index}")(h)
            h = nn.relu(own + neighbours(h, graph, self.aggregator))
            record(self, f"hidden{index}", graph.outputs(h))
            h = drop(self.dropout_rate, h, train=train)
        if self.num_classes:
            h = Linear(self.num_classes, True, *dtypes, name="head")(h)
        return h
