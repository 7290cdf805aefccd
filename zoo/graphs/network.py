"""How every network on the nodes of graphs is called."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.graphs.message_passing import Graph, one_graph


class NodeNetwork(nn.Module, kw_only=True):
    """A network on nodes; a family says in `of_graph` what it makes of one graph."""

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
        """Nodes `[nodes, inputs]` and edges `[edges]`, or those of many graphs → `[nodes, num_classes]`.

        See `zoo.graphs.message_passing.one_graph`. Where `node [batch]` is given, those nodes' alone.
        """
        graph = one_graph(nodes, senders, receivers, node_mask)
        return graph.outputs(self.of_graph(graph, train), node)

    def of_graph(self, graph: Graph, train: bool) -> jax.Array:
        """One graph → `[nodes, num_classes]`, for all its nodes."""
        raise NotImplementedError
