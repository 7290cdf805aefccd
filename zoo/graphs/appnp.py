"""Predict, then propagate: personalised PageRank behind a multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.graphs.linear import Linear, drop
from zoo.graphs.message_passing import Graph, smoothing
from zoo.graphs.network import NodeNetwork
from zoo.layers import Dropout, record
from zoo.registry import register


@register(
    "appnp",
    task="node_classification",
    input_shape=(1433,),
    num_parameters=92_231,
    paper="J. Gasteiger, A. Bojchevski, S. Günnemann, Predict then Propagate: Graph Neural Networks meet Personalized "
    "PageRank, ICLR 2019",
    num_classes=7,
)
class APPNP(NodeNetwork):
    """A perceptron's outputs H, then Z := (1 − α) Â Z + α H, `num_steps` times from Z = H (eq. 4).

    Dropout is before each layer of the perceptron, and with `edge_dropout_rate` on the entries of Â in each step.
    `num_classes=0` propagates the last hidden layer.
    """

    hidden_sizes: Sequence[int] = (64,)
    num_classes: int = 7
    num_steps: int = 10
    teleport: float = 0.1
    dropout_rate: float = 0.5
    edge_dropout_rate: float = 0.5

    def of_graph(self, graph: Graph, train: bool) -> jax.Array:
        """See `NodeNetwork`."""
        smooth, h = smoothing(graph), graph.nodes
        for index, size in enumerate(self.hidden_sizes, start=1):
            h = drop(self.dropout_rate, h, train=train)
            h = nn.relu(Linear(size, True, self.dtype, self.param_dtype, name=f"dense{index}")(h))
            record(self, f"hidden{index}", graph.outputs(h))
        if self.num_classes:
            h = drop(self.dropout_rate, h, train=train)
            h = Linear(self.num_classes, True, self.dtype, self.param_dtype, name="head")(h)
        entries = graph.num_nodes + (0 if smooth.weight is None else smooth.weight.shape[0])
        z = h
        for _ in range(self.num_steps):
            kept = None
            if train and self.edge_dropout_rate:
                kept = Dropout(self.edge_dropout_rate)(jnp.ones((entries,), h.dtype), train=True)
            z = (1 - self.teleport) * smooth(z, kept) + self.teleport * h
        return z
