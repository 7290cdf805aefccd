"""Graph isomorphism networks."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from zoo.graphs.linear import Linear, drop
from zoo.graphs.message_passing import Graph, neighbours
from zoo.graphs.network import NodeNetwork
from zoo.graphs.sparse import SparseRows
from zoo.layers import batch_axis, record
from zoo.layers.basic import spread
from zoo.registry import register


class NodeNorm(nn.Module):
    """Batch norm over the nodes of all graphs of a batch, under every plan; rows of padding are not counted.

    As `zoo.layers.BatchNorm`: running statistics keep `momentum` of their old value and take the biased variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None, *, train: bool = False) -> jax.Array:
        """`[nodes, features]`, and which rows are nodes → the same shape."""
        shape = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        now_mean, now_var = mean.value, var.value
        if train:
            weight = jnp.ones(x.shape[:1], jnp.float32) if mask is None else mask.astype(jnp.float32)
            count = jnp.maximum(_sum(weight.sum()), 1)
            now_mean = _sum((weight[:, None] * wide).sum(axis=0)) / count
            now_var = _sum((weight[:, None] * jnp.square(wide - now_mean[None])).sum(axis=0)) / count
            if not self.is_initializing():
                mean.value = self.momentum * mean.value + (1 - self.momentum) * now_mean
                var.value = self.momentum * var.value + (1 - self.momentum) * now_var
        y = (wide - now_mean[None]) * (scale * jax.lax.rsqrt(now_var + self.epsilon))[None] + bias[None]
        return y.astype(x.dtype)


def _sum(x: jax.Array) -> jax.Array:
    """Over the devices."""
    axis = batch_axis()
    return x if axis is None else jax.lax.psum(x, axis)


@register(
    "gin",
    task="node_classification",
    input_shape=(1433,),
    num_parameters=123_211,
    paper="K. Xu, W. Hu, J. Leskovec, S. Jegelka, How Powerful are Graph Neural Networks?, ICLR 2019",
    num_classes=7,
)
class GIN(NodeNetwork):
    """Layers h' = MLP((1 + ε) h + Σ hᵤ over the neighbours) (eq. 4.1) with a learned ε.

    Each MLP has two layers, and batch norm follows both. What all layers give stands side by side (section 4.2): a
    dense layer on it is the sum of one for each, as the paper has it. `num_classes=0` gives it as it is, for
    `graph_classifier`.
    """

    hidden_size: int = 64
    num_layers: int = 4
    num_classes: int = 7
    dropout_rate: float = 0.5

    def of_graph(self, graph: Graph, train: bool) -> jax.Array:
        """See `NodeNetwork`."""
        dtypes = (self.dtype, self.param_dtype)
        h, seen = graph.nodes, []
        for index in range(1, self.num_layers + 1):
            epsilon = self.param(f"epsilon{index}", nn.initializers.zeros, (), self.param_dtype)
            if isinstance(h, SparseRows):  # the sum of rows times a matrix is the sum of the products
                h = Linear(self.hidden_size, False, *dtypes, name=f"mlp{index}_1")(h)
                h = spread(1 + epsilon, h) * h + neighbours(h, graph)
            else:
                h = jnp.asarray(h, self.dtype or h.dtype)
                h = spread(1 + epsilon, h) * h + neighbours(h, graph)
                h = Linear(self.hidden_size, False, *dtypes, name=f"mlp{index}_1")(h)
            h = nn.relu(NodeNorm(param_dtype=self.param_dtype, name=f"norm{index}_1")(h, graph.mask, train=train))
            h = Linear(self.hidden_size, False, *dtypes, name=f"mlp{index}_2")(h)
            h = nn.relu(NodeNorm(param_dtype=self.param_dtype, name=f"norm{index}_2")(h, graph.mask, train=train))
            record(self, f"hidden{index}", graph.outputs(h))
            seen.append(h)
        h = jnp.concatenate(seen, axis=-1)
        if self.num_classes:
            h = drop(self.dropout_rate, h, train=train)
            h = Linear(self.num_classes, True, *dtypes, name="head")(h)
        return h
