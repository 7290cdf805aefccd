"""Links of a graph: which nodes have an edge between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train.metrics import Metrics, weigh
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task
from zoo.graphs.message_passing import rows_at


@checked
def link_prediction(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    inputs: Sequence[str] = ("nodes", "senders", "receivers"),
    **options: Any,
) -> Task:
    """Trains `model` to give nodes features zᵤ such that σ(zᵤ·zᵥ) is the probability of an edge between u and v.

    That is the graph autoencoder of Kipf & Welling 2016 (eq. 2) without variance. Batches hold the graph, of each
    example `pair` `[batch, 2]`, an edge, and `negative` `[batch, 2]`, none; where it is -1, two nodes are drawn in its
    place in every step. Metrics are `loss`, the cross-entropy of a pair and a negative in nats, `accuracy`, and in
    evaluation `auc`: how often a pair has a greater score than a negative of the same batch, ties counting half. With
    the split in one batch, as in the recipes, it is the area under the ROC curve.

    Args:
      model: gives features of all nodes, `[nodes, features]`.
      tx: the optimizer.
      inputs: the fields that the model takes, in their order.
      **options: `ema_decay`, `sam_rho`, `loss_scaling`, `frozen`, `start`, see `gradient_task`.
    """

    def prepare(batch: Batch, key: jax.Array) -> Batch:
        rows = jax.tree.leaves(batch["nodes"])[0].shape[0]
        drawn = jax.random.randint(key, batch["negative"].shape, 0, rows, batch["negative"].dtype)
        return {**batch, "negative": jnp.where(batch["negative"] < 0, drawn, batch["negative"])}

    def scores(embeddings: jax.Array, pairs: jax.Array) -> jax.Array:
        if embeddings.ndim != 2:
            raise ValueError(
                f"a link is told by features of all nodes, [nodes, features], not {list(embeddings.shape)}"
            )
        ends = rows_at(embeddings.astype(jnp.float32), pairs)
        return (ends[:, 0] * ends[:, 1]).sum(axis=-1)

    def per_example(embeddings: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        yes, no = scores(embeddings, batch["pair"]), scores(embeddings, batch["negative"])
        right = ((yes > 0).astype(jnp.float32) + (no <= 0).astype(jnp.float32)) / 2
        return {"loss": jax.nn.softplus(-yes) + jax.nn.softplus(no), "accuracy": right}

    def measure(embeddings: jax.Array, batch: Batch) -> Metrics:
        yes, no = scores(embeddings, batch["pair"]), scores(embeddings, batch["negative"])
        there = batch.get("mask", jnp.ones(yes.shape, bool))
        ordered = jnp.sort(jnp.where(there, no, jnp.inf))
        below, up_to = (jnp.searchsorted(ordered, yes, side=side) for side in ("left", "right"))
        auc = (below + up_to) / (2 * jnp.maximum(there.sum(), 1))
        return weigh({**per_example(embeddings, batch), "auc": auc}, batch.get("mask"))

    return gradient_task(model, tx, per_example, inputs=tuple(inputs), prepare=prepare, measure=measure, **options)
