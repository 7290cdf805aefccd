"""Regression: real targets for each example."""

from __future__ import annotations

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train import losses
from train.metrics import R2, Metrics, RootMeanSquaredError, TargetSums, rounded, weigh
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task, sum_over_devices

_LOSSES = {"mse": losses.mean_squared_error, "huber": losses.huber, "mae": losses.mean_absolute_error}


@checked
def regression(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    loss: Literal["mse", "huber", "mae"] = "mse",
    inputs: str = "inputs",
    **options: Any,
) -> Task:
    """Trains `model` to give `target`, real `[batch, targets]`, of the same shape as its output.

    Metrics are `loss` and the mean absolute error `mae`. Evaluation adds the root of the mean squared error, `rmse`,
    and `r2`; of several targets the mean over them.

    Args:
      model: the network.
      tx: the optimizer.
      loss: mean squared error (eq. 10), Huber's, or the mean absolute error.
      inputs: the field of the batch that the model takes.
      **options: `ema_decay`, `loss_scaling`, see `gradient_task`.
    """

    def per_example(prediction: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        target = batch["target"]
        return {"loss": _LOSSES[loss](prediction, target), "mae": losses.mean_absolute_error(prediction, target)}

    def measure(prediction: jax.Array, batch: Batch) -> Metrics:
        mask = batch.get("mask")
        means = weigh(per_example(prediction, batch), mask)
        sums = target_sums(prediction, batch["target"], mask)
        return {**means, "rmse": RootMeanSquaredError(*sums), "r2": R2(*sums)}

    return gradient_task(model, tx, per_example, inputs=inputs, measure=measure, **options)


def target_sums(prediction: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> TargetSums:
    """The sums over the examples that `mask` keeps; of a device's own, around the mean of all devices' examples.

    Args:
      prediction: `[batch, …]`; each of the numbers of an example is a target.
      target: likewise.
      mask: 0 or 1, `[batch]`.
    """
    kept = jnp.ones(len(target), bool) if mask is None else mask > 0
    size = math.prod(target.shape[1:])
    y, told = (jnp.asarray(x, jnp.float32).reshape(len(x), size) for x in (target, prediction))

    def total(values: jax.Array) -> jax.Array:
        return jnp.where(kept[:, None], values, 0).sum(axis=0)  # padding may hold anything

    weight = kept.sum(dtype=jnp.float32)
    count = jnp.maximum(sum_over_devices(weight), 1)
    centre = rounded(sum_over_devices(total(y)) / count)
    beside = total(y - centre[None])
    spread = total(jnp.square(y - centre[None] - (sum_over_devices(beside) / count)[None]))
    return TargetSums(total(jnp.square(y - told)), weight * centre, beside, spread, weight)
