"""Which images of a GAN are drawn: its discriminator knows which ones it makes too often and too seldom."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def resample(model: nn.Module, variables: Any, z: jax.Array, key: jax.Array, *, candidates: int = 16) -> jax.Array:
    """Latents whose images are spread more as real ones are: each of z, or another that the discriminator prefers.

    Of the best discriminator the logit is log p_data(x) / p_G(x) (Goodfellow et al. 2014, proposition 1), so that it
    knows what its generator makes too often and too seldom (Azadi et al. 2019). Each latent is drawn from as many
    candidates in proportion to that ratio, which is sampling importance resampling (Rubin 1987; Grover et al. 2019):
    with more of them the images come nearer to p_data, as far as the discriminator is right, and take longer.

    Args:
      model: gives the logits of what it generates, as `GAN` does, and was trained with the non-saturating loss: the
        other losses have critics that are no ratios.
      variables: its variables.
      z: the first candidates, standard normal `[batch, latent_size]`.
      key: of the other candidates and of the draw.
      candidates: for each latent.

    Raises:
      ValueError: the candidates are not at least 1.
    """
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, not {candidates}")
    chosen, highest = z, jnp.full(len(z), -jnp.inf)
    # Not inside one program: XLA runs convolutions in loops on one thread of a CPU.
    for index in range(candidates):
        latent_key, score_key = jax.random.split(jax.random.fold_in(key, index))
        z = jax.random.normal(latent_key, z.shape) if index else z
        score = _score(model, variables, z, score_key)
        chosen = jnp.where((score > highest)[:, None], z, chosen)
        highest = jnp.maximum(score, highest)
    return chosen


@partial(jax.jit, static_argnums=0)
def _score(model: nn.Module, variables: Any, z: jax.Array, key: jax.Array) -> jax.Array:
    """`[batch]`; the candidate of the highest is drawn in proportion to exp of its logit (Gumbel 1954)."""
    logits: Any = model.apply(variables, z)
    return logits[:, 0].astype(jnp.float32) + jax.random.gumbel(key, (len(z),))
