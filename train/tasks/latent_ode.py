"""Latent ODEs: the evidence lower bound of time series with gaps. All figures are in nats."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from train.metrics import Mean, Metrics, weigh
from train.state import Batch, Task
from train.tasks.checked import checked
from train.tasks.step import gradient_task
from train.tasks.vae import kl_to_standard_normal
from zoo.dynamics.latent_ode import LatentODEOutput
from zoo.options import POSITIVE


class _Root(Mean):
    """The parts of a mean square, summarised as its root."""

    def summary(self) -> float:
        """See the class."""
        return math.sqrt(super().summary())


@checked
def latent_ode(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    noise: float = 0.3,
    beta: float = 1.0,
    inputs: str = "inputs",
    **options: Any,
) -> Task:
    """Trains `model` to maximise the evidence lower bound of what was observed (Chen et al. 2018, section 5).

    Batches have `inputs` `[batch, time, features]`, `times` and `observed` `[batch, time]`, and may have the `target`
    without noise. p(x|z) is normal. Metrics are `loss` = `reconstruction` + β `kl` and `elbo` = −`reconstruction` −
    `kl`, of a series; evaluation adds, in the units of the data, `rmse`, the error at times that were observed, and
    `rmse_extrapolation`, at times behind the last of them.

    Args:
      model: gives a `LatentODEOutput`.
      tx: the optimizer.
      noise: standard deviation of p(x|z).
      beta: weight of the KL term.
      inputs: the field of the batch that holds the observations.
      **options: `ema_decay`, `loss_scaling`, see `gradient_task`.
    """
    if noise not in POSITIVE:
        raise ValueError(f"noise, the standard deviation of p(x|z), must be {POSITIVE}, not {noise}")

    def per_example(output: LatentODEOutput, batch: Batch) -> dict[str, jax.Array]:
        if not isinstance(output, LatentODEOutput):
            raise ValueError("the task latent_ode trains a model that gives a LatentODEOutput, as zoo.latent_ode does")
        seen = batch["observed"][..., None] > 0
        error = jnp.where(seen, batch[inputs] - output.prediction, 0) / noise
        constant = math.log(noise) + math.log(2 * math.pi) / 2
        nll = jnp.where(seen, jnp.square(error) / 2 + constant, 0).sum(axis=(1, 2))
        kl = kl_to_standard_normal(output.mean, output.log_var)
        return {"loss": nll + beta * kl, "elbo": -nll - kl, "kl": kl, "reconstruction": nll}

    def measure(output: LatentODEOutput, batch: Batch) -> Metrics:
        mask = batch.get("mask")
        metrics: Metrics = dict(weigh(per_example(output, batch), mask))
        square = jnp.square(output.prediction - batch.get("target", batch[inputs])).mean(axis=-1)
        times, seen = batch["times"], batch["observed"] > 0
        last = jnp.where(seen, times, -jnp.inf).max(axis=1, keepdims=True)
        real = jnp.ones(len(times), bool) if mask is None else mask > 0
        for name, kept in (("rmse", seen), ("rmse_extrapolation", times > last)):
            kept = kept & real[:, None]
            metrics[name] = _Root(jnp.where(kept, square, 0).sum(), kept.sum(dtype=jnp.float32))
        return metrics

    return gradient_task(model, tx, per_example, inputs=(inputs, "times", "observed"), measure=measure, **options)
