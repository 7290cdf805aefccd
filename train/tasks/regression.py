"""Regression: real targets for each example."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import optax

from train import losses
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task

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

    Metrics are `loss` and the mean absolute error `mae`.

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

    return gradient_task(model, tx, per_example, inputs=inputs, **options)
