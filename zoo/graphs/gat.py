"""Graph attention networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.graphs.linear import Linear, drop
from zoo.graphs.message_passing import Graph, Rows, aggregate, gather, softmax_of_incoming, with_self_loops
from zoo.graphs.network import NodeNetwork
from zoo.layers import Dropout, record
from zoo.layers.basic import spread
from zoo.registry import register


class GraphAttention(nn.Module):
    """Heads that each weigh the neighbours of a node and itself (eq. 3), and a bias.

    `[nodes, inputs]` → `[nodes, num_heads * features]`, or where heads are `averaged`, `[nodes, features]`.
    The weight of an edge is the softmax over all that lead to its receiver of LeakyReLU(aᵣ·W hᵣ + aₛ·W hₛ), with a
    slope of .2. The graph has its self loops already.
    """

    features: int
    num_heads: int
    dropout_rate: float = 0.0
    averaged: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Rows, graph: Graph, *, train: bool = False) -> jax.Array:
        """Takes features of the nodes and their graph; `train` asks for dropout of the attention."""
        shape, glorot = (self.num_heads, self.features), nn.initializers.glorot_uniform()
        h = Linear(self.num_heads * self.features, False, self.dtype, self.param_dtype, name="linear")(x)
        h = h.reshape(-1, *shape)
        of_sender, of_receiver = (
            (h * spread(self.param(name, glorot, shape, self.param_dtype), h)).sum(axis=-1)
            for name in ("sender", "receiver")
        )
        senders, receivers = graph.senders, graph.receivers
        assert senders is not None
        assert receivers is not None
        scores = nn.leaky_relu(gather(of_sender, senders) + gather(of_receiver, receivers), 0.2)
        weight = softmax_of_incoming(scores, receivers, graph.num_nodes)
        weight = Dropout(self.dropout_rate)(weight, train=train)
        sent = gather(h, senders)
        y = aggregate(sent * spread(weight[..., None], sent), receivers, graph.num_nodes)
        y = y.mean(axis=1) if self.averaged else y.reshape(-1, self.num_heads * self.features)
        bias = self.param("bias", nn.initializers.zeros, y.shape[-1:], self.param_dtype)
        return y + spread(bias, y)


@register(
    "gat",
    task="node_classification",
    input_shape=(1433,),
    num_parameters=92_373,
    paper="P. Veličković, G. Cucurull, A. Casanova, A. Romero, P. Liò, Y. Bengio, Graph Attention Networks, ICLR 2018",
    num_classes=7,
)
class GAT(NodeNetwork):
    """Attention layers whose heads stand side by side (eq. 5), ELU, and a last one whose heads are averaged (eq. 6).

    Dropout is before each layer and on the attention. `num_classes=0` gives the last hidden layer. The defaults are the
    paper's network for Cora.
    """

    features: Sequence[int] = (8,)
    num_heads: int = 8
    num_output_heads: int = 1
    num_classes: int = 7
    dropout_rate: float = 0.6

    def of_graph(self, graph: Graph, train: bool) -> jax.Array:
        """See `NodeNetwork`."""
        graph = with_self_loops(graph)
        rate = self.dropout_rate
        h = graph.nodes
        for index, size in enumerate(self.features, start=1):
            h = drop(rate, h, train=train)
            h = GraphAttention(
                size, self.num_heads, rate, dtype=self.dtype, param_dtype=self.param_dtype, name=f"attention{index}"
            )(h, graph, train=train)
            h = nn.elu(h)
            record(self, f"hidden{index}", graph.outputs(h))
        if self.num_classes:
            h = drop(rate, h, train=train)
            heads = (self.num_classes, self.num_output_heads, rate, True)
            h = GraphAttention(*heads, self.dtype, self.param_dtype, name="head")(h, graph, train=train)
        return h
