"""Variational autoencoders: the evidence lower bound, and a tighter one for evaluation. All figures are in nats."""

from __future__ import annotations

from functools import partial
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
from zoo.generative.vae import VAEOutput


@checked
def vae(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    beta: float = 1.0,
    pixels: Literal["probabilistic", "binarized"] = "probabilistic",
    inputs: str = "image",
    **options: Any,
) -> Task:
    """Trains `model` (see `zoo.vae.VAE`) to maximise the evidence lower bound of eq. 71, in nats for an image.

    Metrics are `loss` = `reconstruction` + β `kl`, the bound `elbo` = −`reconstruction` − `kl`, `reconstruction` =
    −E log p(x|z), estimated with one z, and `kl` = KL(q(z|x) ‖ p(z)), which is exact.

    Args:
      model: gives a `VAEOutput`.
      tx: the optimizer.
      beta: weight of the KL term (Higgins et al. 2017); at 1 the loss is −ELBO.
      pixels: what a grey level in [0, 1] means. "probabilistic", as in the guide: the cross-entropy between two
        Bernoulli distributions, that with this mean and that of the decoder. "binarized": each pixel is drawn anew,
        black or white, with this probability (Salakhutdinov & Murray 2008), and `elbo` bounds log p(x) strictly.
      inputs: the field of the batch that holds the images.
      **options: `ema_decay`, `loss_scaling`, see `gradient_task`.
    """

    def prepare(batch: Batch, key: jax.Array) -> Batch:
        return {**batch, inputs: binarize(batch[inputs], key)}

    def per_example(output: VAEOutput, batch: Batch) -> dict[str, jax.Array]:
        if not isinstance(output, VAEOutput):
            raise ValueError("the task vae trains a model that gives a zoo.vae.VAEOutput, as zoo.vae.VAE does")
        reconstruction = bernoulli_nll(output.logits, batch[inputs])
        kl = kl_to_standard_normal(output.mean, output.log_var)
        elbo = -reconstruction - kl
        return {"loss": reconstruction + beta * kl, "elbo": elbo, "kl": kl, "reconstruction": reconstruction}

    drawn = prepare if pixels == "binarized" else None
    return of_unit_images(gradient_task(model, tx, per_example, inputs=inputs, prepare=drawn, **options), inputs)


def binarize(images: jax.Array, key: jax.Array) -> jax.Array:
    """Each pixel black or white, 0 or 1, with its grey level for the probability of 1."""
    return jax.random.bernoulli(key, images).astype(images.dtype)


def bernoulli_nll(logits: jax.Array, pixels: jax.Array) -> jax.Array:
    """−log p(x|z) summed over pixels, `[batch, …]` → `[batch]`; pixels are 0, 1 or probabilities."""
    nll = losses.binary_cross_entropy(logits, pixels)
    return nll.sum(axis=tuple(range(1, nll.ndim)))


def kl_to_standard_normal(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """KL(N(μ, σ²) ‖ N(0, 1)) = ½ Σ (μ² + σ² − 1 − log σ²), `[batch, latent_size]` → `[batch]`."""
    mean, log_var = mean.astype(jnp.float32), log_var.astype(jnp.float32)
    return (jnp.square(mean) + jnp.expm1(log_var) - log_var).sum(axis=-1) / 2


def importance_weighted_bound(
    model: nn.Module, variables: Any, images: jax.Array, key: jax.Array, samples: int
) -> jax.Array:
    """log (1/k) Σ p(x|zₖ) p(zₖ) / q(zₖ|x), zₖ from q(z|x) (Burda, Grosse & Salakhutdinov 2016, eq. 8), `[batch]`.

    In nats. With one sample it is an estimate of the evidence lower bound; it rises to log p(x) with their number.

    Args:
      model: a `VAE`.
      variables: its variables.
      images: in [0, 1], `[batch, height, width, channels]`.
      key: of the samples.
      samples: k.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, not {samples}")
    total = jnp.full(len(images), -jnp.inf)
    for index in range(samples):  # not inside the program: XLA runs convolutions in loops on one thread of a CPU
        weight = _log_weight(model, variables, images, jax.random.fold_in(key, index))
        total = jnp.logaddexp(total, weight)
    return total - jnp.log(samples)


@partial(jax.jit, static_argnums=0)
def _log_weight(model: nn.Module, variables: Any, images: jax.Array, key: jax.Array) -> jax.Array:
    output: VAEOutput = model.apply(variables, images, rngs={"latent": key})  # type: ignore[assignment]
    z, mean, log_var = (part.astype(jnp.float32) for part in (output.latent, output.mean, output.log_var))
    # log p(z) − log q(z|x), where log 2π cancels
    log_ratio = (jnp.square(z - mean) * jnp.exp(-log_var) + log_var - jnp.square(z)).sum(axis=-1) / 2
    return log_ratio - bernoulli_nll(output.logits, images)
