"""Where a VAE draws, and where it takes the mean. What its bound is, `tests/train/tasks` tests."""

from __future__ import annotations

import flax.errors
import jax
import numpy as np
import pytest

import zoo
from tests.descriptors import random_variables

MODEL = zoo.create_model("vae", image_shape=(2, 2, 1), features=(2,), hidden_size=3, latent_size=4)
IMAGES = np.random.default_rng(0).uniform(size=(3, 2, 2, 1)).astype(np.float32)


def test_training_draws_and_inference_takes_the_mean_unless_it_is_given_a_key():
    variables, stream = random_variables(MODEL, IMAGES), {"latent": jax.random.key(0)}
    plain = MODEL.apply(variables, IMAGES)
    np.testing.assert_array_equal(plain.latent, plain.mean)
    drawn = MODEL.apply(variables, IMAGES, rngs=stream)
    assert np.all(drawn.latent != drawn.mean)
    np.testing.assert_array_equal(MODEL.apply(variables, IMAGES, train=True, rngs=stream).latent, drawn.latent)
    with pytest.raises(flax.errors.InvalidRngError):
        MODEL.apply(variables, IMAGES, train=True)
