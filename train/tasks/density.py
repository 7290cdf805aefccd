"""Density estimation by maximum likelihood."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import optax

from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task


@checked
def density(model: nn.Module, tx: optax.GradientTransformation, *, inputs: str = "features", **options: Any) -> Task:
    """Trains `model` to give points a high log density.

    Metrics are `loss` = −log p(x) in nats and, where a batch has the true `log_density` `[batch]`, the divergence
    `kl` = log p_true(x) − log p(x), whose mean estimates KL(p_true ‖ p).

    Args:
      model: gives log p(x) in nats, `[batch]`, see `zoo.ffjord.FFJORD`.
      tx: the optimizer.
      inputs: the field of the batch that holds the points, `[batch, features]`.
      **options: `ema_decay`, `loss_scaling`, see `gradient_task`.
    """

    def per_example(log_density: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        if not isinstance(log_density, jax.Array) or log_density.shape != batch[inputs].shape[:1]:
            found = jax.tree.map(lambda leaf: list(leaf.shape), log_density)
            raise ValueError(f"the task density trains a model that gives log densities [batch], not {found}")
        values = {"loss": -log_density}
        return values if "log_density" not in batch else {**values, "kl": batch["log_density"] - log_density}

    return gradient_task(model, tx, per_example, inputs=inputs, **options)
