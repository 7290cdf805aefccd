"""The losses of a GAN's players in closed form. Two players, their moves and their average: see `test_generative`."""

from __future__ import annotations

import sys

import jax
import numpy as np
import optax
import pytest

import zoo
from train.metrics import summarize
from train.tasks import gan

IMAGES = {"image": np.random.default_rng(0).uniform(size=(64, 2, 2, 1)).astype(np.float32)}
# Without convolutions the discriminator is linear.
LINEAR = {"image_shape": (2, 2, 1), "latent_size": 3, "generator_features": (2,), "discriminator_features": ()}


def test_the_penalty_is_of_the_slope_between_real_and_generated_images():
    """That of a linear critic is the same everywhere, the length of its weights."""
    task = gan(zoo.create_model("gan", **LINEAR), optax.sgd(0.0), loss="wgan_gp", gradient_penalty=7.0)
    state = task.init(jax.random.key(0), IMAGES)
    found = summarize(jax.jit(task.train_step)(state, IMAGES)[1])
    length = np.linalg.norm(state.params["discriminator"]["head"]["kernel"])
    assert abs(length - 1) > 0.05
    wanted = found["generated_logit"] - found["real_logit"] + 7 * (length - 1) ** 2
    assert found["discriminator_loss"] == pytest.approx(wanted, rel=1e-4)
    assert found["generator_loss"] == pytest.approx(-found["generated_logit"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_labels_are_one_for_real_and_zero_for_generated_images_and_lowered(noise, monkeypatch):
    """By numbers from 0 to the noise, each label by its own."""
    module, seen = sys.modules["train.tasks.gan"], []
    watched = module.LOSSES["non_saturating"]._replace(
        discriminator=lambda logits, labels: seen.append(labels) or logits.mean(axis=-1)
    )
    monkeypatch.setitem(module.LOSSES, "non_saturating", watched)
    task = gan(zoo.create_model("gan", **LINEAR), optax.sgd(0.0), label_noise=noise)
    task.train_step(task.init(jax.random.key(0), IMAGES), IMAGES)
    (labels,) = seen
    lowered = np.array([[1.0, 0.0]]) - np.broadcast_to(np.asarray(labels), (64, 2))
    assert lowered.min() >= -1e-6
    assert lowered.max() <= noise + 1e-6
    if noise:
        assert lowered.std() > 0.2 * noise
        assert len(np.unique(lowered)) > 100
