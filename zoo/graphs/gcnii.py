"""Deep graph convolutional networks."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from zoo.graphs.linear import Linear, drop
from zoo.graphs.message_passing import Graph, smoothing
from zoo.graphs.network import NodeNetwork
from zoo.layers import Dropout
from zoo.registry import register


class _Layer(nn.Module):
    """One layer (eq. 5), as a step of a scan: (h, (h0, Â), β) → h."""

    teleport: float
    dropout_rate: float
    train: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, h: jax.Array, always: Any, identity: jax.Array) -> tuple[jax.Array, None]:
        first, smooth = always
        h = Dropout(self.dropout_rate)(h, train=self.train)
        mixed = (1 - self.teleport) * smooth(h) + self.teleport * first
        turned = Linear(h.shape[-1], False, self.dtype, self.param_dtype, name="linear")(mixed)
        share = identity.astype(h.dtype)
        return nn.relu(share * turned + (1 - share) * mixed), None


@register(
    "gcnii",
    task="node_classification",
    input_shape=(1433,),
    num_parameters=354_375,
    paper="M. Chen, Z. Wei, Z. Huang, B. Ding, Y. Li, Simple and Deep Graph Convolutional Networks, ICML 2020",
    num_classes=7,
)
class GCNII(NodeNetwork):
    """Layers H' = σ(((1 − α) Â H + α H⁰) ((1 − βₗ) I + βₗ Wₗ)), βₗ = log(θ / l + 1) (eq. 5), between two dense ones.

    α is `teleport` and θ `identity_strength`. The weights of all layers lie in one array, `convs/linear/kernel`
    `[num_layers, hidden_size, hidden_size]`; the layers are one loop, which is compiled once. Dropout is before each.
    """

    hidden_size: int = 64
    num_layers: int = 64
    num_classes: int = 7
    teleport: float = 0.1
    identity_strength: float = 0.5
    dropout_rate: float = 0.6

    def of_graph(self, graph: Graph, train: bool) -> jax.Array:
        """See `NodeNetwork`."""
        h = drop(self.dropout_rate, graph.nodes, train=train)
        h = nn.relu(Linear(self.hidden_size, True, self.dtype, self.param_dtype, name="stem")(h))
        shares = [math.log(self.identity_strength / layer + 1) for layer in range(1, self.num_layers + 1)]
        layers = nn.scan(
            _Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, 0),  # type: ignore[arg-type]  # one for each argument
            length=self.num_layers,
        )(self.teleport, self.dropout_rate, train, self.dtype, self.param_dtype, name="convs")
        h, _ = layers(h, (h, smoothing(graph)), jnp.asarray(np.array(shares, np.float32)))
        if self.num_classes:
            h = drop(self.dropout_rate, h, train=train)
            h = Linear(self.num_classes, True, self.dtype, self.param_dtype, name="head")(h)
        return h
