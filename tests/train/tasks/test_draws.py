"""No two draws of a training share a key: initial parameters, augmentation, noise, latents, labels, times, dropout."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import zoo
from data import augment
from tests.draws import assert_all_differ, keys_drawn_from
from train.loop import parallel
from train.loop.fitting import evaluate, fit
from train.tasks import classification, diffusion, gan, reconstruction, vae
from zoo.layers import Dropout

pytestmark = pytest.mark.slow

SHAPE = (4, 4, 1)
EXAMPLES = 4
"""Of a step; each is mirrored, or not, by a draw of its own."""

GAN = {"image_shape": SHAPE, "latent_size": 3, "generator_features": (2, 2), "discriminator_features": (2,)}


class Dropping(nn.Module):
    """Gives back what it sees of an image, at any time."""

    @nn.compact
    def __call__(self, x, time=None, *, train=False):
        self.param("unused", nn.initializers.normal(), (2,))
        return Dropout(0.5)(x, train=train)


def tasks():
    """Of each kind the one that draws most, and what a step draws beside augmentation."""
    tx = optax.sgd(0.1)
    dropping = {"num_classes": 3, "hidden_sizes": (4, 4), "dropout_rate": 0.5}
    return {
        "classification": (classification(zoo.create_model("mlp", **dropping), tx), 2),
        "reconstruction": (reconstruction(Dropping(), tx, noise=0.1), 2),
        "vae": (
            vae(zoo.create_model("vae", image_shape=SHAPE, features=(2,), hidden_size=3), tx, pixels="binarized"),
            2,
        ),
        # Latents, labels, the place of the penalty, and dropout three times.
        "gan": (gan(zoo.create_model("gan", **GAN), tx, loss="wgan_gp"), 6),
        "diffusion": (diffusion(Dropping(), tx, num_steps=9), 3),
    }


@pytest.mark.parametrize("name", ["classification", "reconstruction", "vae", "gan", "diffusion"])
def test_a_training_draws_from_each_key_once(name):
    """Also on the other device, where there are two."""
    task, of_step = tasks()[name]
    rng = np.random.default_rng(0)
    arrays = {"image": rng.uniform(size=(8, *SHAPE)).astype(np.float32)}
    if name == "classification":
        arrays |= {"label": rng.integers(0, 3, 8).astype(np.int32)}
    change = partial(augment.apply, augment.policy(flip=True))
    plan = parallel.pmap(jax.devices()[:2]) if name == "gan" else parallel.jit(jax.devices()[:1])
    with keys_drawn_from() as keys:
        fitted = fit(task, arrays, batch_size=EXAMPLES, steps=2, plan=plan, augment=change)
        evaluate(task, arrays, fitted.state, plan=plan)
    assert_all_differ(keys, at_least=2 * (of_step + EXAMPLES))
