"""Reconstruction: autoencoders, also those that take noise out."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import optax

from train import losses
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task
from train.tasks.unit_images import of_unit_images


@checked
def reconstruction(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    loss: Literal["mse", "bce"] = "mse",
    noise: float = 0.0,
    inputs: str = "image",
    **options: Any,
) -> Task:
    """Trains `model` to give back its input, values in [0, 1], as the sigmoid of its logits.

    Metrics are `loss` and the mean squared error `mse`, both averaged over pixels.

    Args:
      model: gives logits of the shape of its input.
      tx: the optimizer.
      loss: mean squared error (eq. 67) or binary cross-entropy.
      noise: standard deviation of the normal noise that is added to the input, in training and evaluation, and which
        the model is to take out again (denoising autoencoder, Vincent et al. 2008).
      inputs: the field of the batch that is reconstructed.
      **options: `ema_decay`, `loss_scaling`, see `gradient_task`.
    """
    if noise < 0:
        raise ValueError(f"noise is a standard deviation and must be at least 0, not {noise}")

    def prepare(batch: Batch, key: jax.Array) -> Batch:
        clean = batch[inputs]
        return {**batch, "noisy": clean + noise * jax.random.normal(key, clean.shape, clean.dtype)}

    def per_example(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        mse = losses.mean_squared_error(jax.nn.sigmoid(logits), batch[inputs])
        if loss == "mse":
            return {"loss": mse, "mse": mse}
        pixels = losses.binary_cross_entropy(logits, batch[inputs])
        return {"loss": pixels.mean(axis=tuple(range(1, pixels.ndim))), "mse": mse}

    return of_unit_images(gradient_task(model, tx, per_example, inputs="noisy", prepare=prepare, **options), inputs)
