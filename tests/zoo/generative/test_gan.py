"""Resampling against a closed form. That the players equal PyTorch's is a matter of `tests/parity`."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo.generative.gan import resample


class Ratio(nn.Module):
    """The logit of the best discriminator between N(shift, 1) and N(0, 1) in the first coordinate."""

    shift: float

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        return (self.shift * z[:, :1] - self.shift**2 / 2).astype(jnp.bfloat16)


@pytest.mark.slow
def test_resampled_latents_are_spread_as_the_discriminator_says():
    z = jax.random.normal(jax.random.key(0), (20_000, 2))
    found = np.asarray(resample(Ratio(0.7), {}, z, jax.random.key(1), candidates=64))
    np.testing.assert_allclose(found.mean(axis=0), [0.7, 0], atol=0.03)
    np.testing.assert_allclose(np.cov(found, rowvar=False), np.eye(2), atol=0.04)
    assert 0 < (found == z).all(axis=1).mean() < 0.05, "the given latents are candidates as the others are"


def test_few_candidates_go_a_part_of_the_way():
    """The better of two is the larger with the odds of the ratio, tanh(ad/2) of ± half their distance d on average."""
    z = jax.random.normal(jax.random.key(0), (100_000, 1))
    found = np.asarray(resample(Ratio(0.7), {}, z, jax.random.key(1), candidates=2)).mean()
    distance = np.sqrt(2) * np.abs(np.random.default_rng(0).normal(size=1_000_000))
    assert found == pytest.approx(np.mean(distance / 2 * np.tanh(0.7 * distance / 2)), abs=0.01)


@pytest.mark.slow
def test_one_candidate_is_the_latent_itself():
    model = zoo.create_model("gan", image_shape=(8, 8, 1), latent_size=4, generator_features=(4, 4))
    z = jax.random.normal(jax.random.key(0), (3, 4))
    variables = model.init(jax.random.key(1), z)
    np.testing.assert_array_equal(resample(model, variables, z, jax.random.key(2), candidates=1), z)
    with pytest.raises(ValueError, match="candidates must be at least 1, not 0"):
        resample(model, variables, z, jax.random.key(2), candidates=0)
    with pytest.raises(ValueError, match=r"latents of shape \[batch, 4\], not \[3, 5\]"):
        resample(model, variables, jnp.zeros((3, 5)), jax.random.key(2))
