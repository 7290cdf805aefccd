"""One label for a whole graph: a network on its nodes, a readout, and a dense layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from zoo.graphs.linear import Linear
from zoo.layers import Dropout
from zoo.layers.basic import spread
from zoo.registry import create_model, register

Pooling = Literal["sum", "mean", "max", "attention"]


class Readout(nn.Module):
    """What the nodes of each graph have, `[graphs, nodes, features]` → `[graphs, features]`, padding left out.

    "attention" is the mean that a learned score weighs: Σ softmax(w·h) h (Li et al. 2016, eq. 7, with softmax gates).
    A graph without nodes gives zeros.
    """

    kind: Pooling = "sum"
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, node_mask: jax.Array | None = None) -> jax.Array:
        """Takes which rows are nodes, `[graphs, nodes]`; None for all."""
        mask = jnp.ones(x.shape[:2], bool) if node_mask is None else node_mask > 0
        there = mask[..., None]
        x = jnp.where(there, x, 0)  # padding may hold anything
        if self.kind == "sum":
            return x.sum(axis=1)
        if self.kind == "mean":
            return x.sum(axis=1) / jnp.maximum(there.sum(axis=1), 1).astype(x.dtype)
        if self.kind == "max":
            return jnp.where(mask.any(axis=1)[:, None], jnp.where(there, x, -jnp.inf).max(axis=1), 0)
        scores = Linear(1, False, param_dtype=self.param_dtype, name="score")(x.reshape(-1, x.shape[-1]))
        scores = scores.reshape(x.shape[:2]).astype(jnp.float32)
        lowest = jnp.finfo(jnp.float32).min
        weight = jax.nn.softmax(jnp.where(mask, scores, lowest), axis=1)
        return (x * spread((weight * mask)[..., None], x)).sum(axis=1)


@register(
    "graph_classifier",
    task="graph_classification",
    input_shape=(8, 4),
    num_parameters=30_470,
    paper="K. Xu, W. Hu, J. Leskovec, S. Jegelka, How Powerful are Graph Neural Networks?, ICLR 2019",
    num_classes=2,
)
class GraphClassifier(nn.Module):
    """Any registered network on nodes, by name, then a `Readout`, dropout and a dense layer.

    With "gin" and "sum" it is the network of the paper, whose readout takes the sums of all layers (section 4.2).
    `num_classes=0` gives what was read out.
    """

    network: str = "gin"
    network_options: Mapping[str, Any] = FrozenDict()
    readout: Pooling = "sum"
    num_classes: int = 2
    dropout_rate: float = 0.5
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, nodes: Any, senders: Any = None, receivers: Any = None, node_mask: Any = None, *, train: bool = False
    ) -> jax.Array:
        """Many graphs, `[graphs, nodes, inputs]` and `[graphs, edges]` → `[graphs, num_classes]`."""
        options = {**self.network_options, "num_classes": 0, "dtype": self.dtype, "param_dtype": self.param_dtype}
        network = create_model(self.network, **options).clone(name="network", parent=self)
        h = network(nodes, senders, receivers, node_mask=node_mask, train=train)
        if h.ndim != 3:
            raise ValueError(f"the task is on many graphs, nodes [graphs, nodes, features]; not {list(h.shape)}")
        h = Readout(self.readout, self.param_dtype, name="readout")(h, node_mask)
        h = Dropout(self.dropout_rate)(h, train=train)
        return Linear(self.num_classes, True, self.dtype, self.param_dtype, name="head")(h) if self.num_classes else h
