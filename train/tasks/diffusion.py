"""Diffusion: a network that tells the noise in an image."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train import losses
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task
from train.tasks.unit_images import of_unit_images
from zoo.generative.diffusion import add_noise, noise_schedule


@checked
def diffusion(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    schedule: Literal["linear", "cosine"] = "linear",
    num_steps: int = 1000,
    inputs: str = "image",
    **options: Any,
) -> Task:
    """Trains `model` to predict the noise that was added to images (Ho et al. 2020, eq. 14: the simple loss).

    `loss` is the mean squared error of the noise, which is 1 for a model that knows nothing. The times of a batch are
    spread evenly over all of them from a random first one (Kingma et al. 2021, appendix I.1): each is uniform, and the
    loss varies less than with independent ones.

    Args:
      model: takes noisy images and their times `[batch]`, and gives what has the shape of the images.
      tx: the optimizer.
      schedule: how the noise grows, a name of `zoo.diffusion.noise_schedule`.
      num_steps: T, in how many steps.
      inputs: the field of the batch that holds the images, in [0, 1].
      **options: `ema_decay`, `loss_scaling`, see `gradient_task`.
    """
    signal = noise_schedule(schedule, num_steps)

    def prepare(batch: Batch, key: jax.Array) -> Batch:
        clean = 2 * batch[inputs] - 1
        time_key, noise_key = jax.random.split(key)
        spread = jnp.arange(len(clean)) * num_steps // len(clean)
        time = (jax.random.randint(time_key, (), 0, num_steps) + spread) % num_steps
        noise = jax.random.normal(noise_key, clean.shape)
        return {**batch, "noisy": add_noise(signal, clean, time, noise), "time": time, "noise": noise}

    def per_example(predicted: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        return {"loss": losses.mean_squared_error(predicted, batch["noise"])}

    return of_unit_images(
        gradient_task(model, tx, per_example, inputs=("noisy", "time"), prepare=prepare, **options), inputs
    )
