"""The tasks of models that make images, in numbers."""

from __future__ import annotations

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg
import scipy.special

import train.recipes  # noqa: F401
import zoo
from tests.descriptors import random_variables
from train.loop import fit, parallel
from train.metrics import summarize
from train.recipe import get_recipe, override
from train.runs.build import build
from train.tasks import diffusion, gan, reconstruction, vae
from train.tasks import step as steps
from train.tasks.vae import binarize, importance_weighted_bound
from zoo.generative.diffusion import noise_schedule

KEY = jax.random.key(0, impl="rbg")
SHAPE = (4, 4, 1)
GAN = {"image_shape": SHAPE, "latent_size": 3, "generator_features": (4, 4), "discriminator_features": (4,)}
VAE = {"image_shape": SHAPE, "features": (4,), "hidden_size": 5, "latent_size": 2}
UNET = {"features": (4,), "num_groups": 2}


def images(n, shape=SHAPE, seed=0):
    return {"image": np.random.default_rng(seed).uniform(size=(n, *shape)).astype(np.float32)}


def tasks(tx):
    """One of each kind, without dropout."""
    return {
        "reconstruction": reconstruction(
            zoo.create_model("autoencoder", image_shape=SHAPE, hidden_sizes=(6,), latent_size=3), tx, noise=0.1
        ),
        "vae": vae(zoo.create_model("vae", **VAE), tx, pixels="binarized"),
        "gan": gan(zoo.create_model("gan", **GAN, dropout_rate=0.0), tx),
        "diffusion": diffusion(zoo.create_model("ddpm_unet", **UNET), tx, ema_decay=0.9),
    }


every_task = pytest.mark.parametrize("name", ["reconstruction", "vae", "gan", "diffusion"])


# ---- randomness and devices ----


@pytest.mark.slow
@every_task
def test_training_draws_anew_in_each_step_and_evaluation_never(name):
    task, batch = tasks(optax.sgd(0.0))[name], images(6)
    state = task.init(KEY, batch)
    step, evaluation = jax.jit(task.train_step), jax.jit(task.eval_step)

    def losses(function, steps, key=KEY):
        at = [state.replace(step=jnp.int32(number), key=key) for number in steps]
        found = [function(state, batch) for state in at]
        return [summarize(metrics[1] if isinstance(metrics, tuple) else metrics)["loss"] for metrics in found]

    first, again, *others = losses(step, (5, 5, 6, 7))
    assert first == again
    assert len({first, *others}) == 3
    assert len(set(losses(evaluation, (0, 5, 6)))) == 1
    assert losses(evaluation, (0,)) != losses(evaluation, (0,), jax.random.key(1, impl="rbg"))


@pytest.mark.slow
@every_task
def test_pmap_sums_what_its_devices_find(name, monkeypatch):
    """Eight devices that see the same examples and draw the same numbers do what one does."""
    monkeypatch.setattr(steps, "_of_device", lambda key: key)
    task, few = tasks(optax.sgd(0.5))[name], images(3)
    state = task.init(KEY, few)
    wanted, wanted_metrics = jax.jit(task.train_step)(state, few)
    many = {"image": np.concatenate([few["image"]] * 8)}
    plan = parallel.pmap()

    def train(state, batch, shared):
        return task.train_step(state, batch)

    found, metrics = plan.compile(train)(plan.place(state), plan.split(many, 0), {})
    found = plan.unplace(found)
    for part in ("params", "model_state", "opt_state", "ema"):
        chex.assert_trees_all_close(getattr(found, part), getattr(wanted, part), rtol=1e-4, atol=1e-5)
    assert float(metrics["loss"].weight) == 24
    assert summarize(metrics) == pytest.approx(summarize(wanted_metrics), rel=1e-4)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), wanted.params, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reconstruction", "vae", "gan"])
def test_evaluation_of_a_padded_batch_is_that_of_the_batch(name):
    task, batch = tasks(optax.sgd(0.0))[name], images(5)
    state = task.init(KEY, batch).replace(key=jax.random.key(0))  # threefry draws for an example alone
    padded = {"image": np.concatenate([batch["image"], np.full((3, *SHAPE), 0.5)]), "mask": np.arange(8) < 5}
    evaluation = jax.jit(task.eval_step)
    found, wanted = evaluation(state, padded), evaluation(state, batch)
    assert float(found["loss"].weight) == 5
    chex.assert_trees_all_close(found, wanted, rtol=1e-4)


# ---- reconstruction ----


class Echo(nn.Module):
    """Gives back what it sees."""

    @nn.compact
    def __call__(self, x, *, train=False):
        self.param("unused", nn.initializers.zeros, ())
        return jax.scipy.special.logit(x)


def test_denoising_is_judged_by_the_clean_image():
    """What gives back its input errs by the noise: a variance of 0.05²."""
    batch = {"image": np.full((50, 8, 8, 1), 0.5, np.float32)}
    task = reconstruction(Echo(), optax.sgd(0.0), noise=0.05)
    metrics = summarize(jax.jit(task.eval_step)(task.init(KEY, batch), batch))
    assert metrics["mse"] == pytest.approx(0.05**2, rel=0.1)
    clean = reconstruction(Echo(), optax.sgd(0.0), loss="bce")
    metrics = summarize(jax.jit(clean.eval_step)(clean.init(KEY, batch), batch))
    assert metrics == pytest.approx({"loss": np.log(2), "mse": 0.0}, abs=1e-6)


# ---- VAE ----


@functools.cache
def tiny_vae():
    """One latent number, four pixels: everything can be integrated."""
    model = zoo.create_model("vae", image_shape=(2, 2, 1), features=(3,), hidden_size=4, latent_size=1)
    image = images(4, (2, 2, 1))["image"].round()
    variables = random_variables(model, image, seed=5)
    variables["params"]["log_var"] = jax.tree.map(lambda leaf: 0.2 * leaf, variables["params"]["log_var"])  # σ near 1
    z = np.linspace(-9, 9, 4001)
    logits = np.asarray(jax.jit(functools.partial(model.apply, method="decode"))(variables, z[:, None]), np.float64)
    log_likelihood = -np.logaddexp(0, np.where(image[:, None] > 0, -logits, logits)).sum(axis=(2, 3, 4))
    log_joint = log_likelihood - z**2 / 2 - np.log(2 * np.pi) / 2
    log_evidence = scipy.special.logsumexp(log_joint, axis=1) + np.log(z[1] - z[0])
    mean, log_var = (np.asarray(part, np.float64) for part in model.apply(variables, image, method="encode"))
    q = np.exp(-((z - mean) ** 2) / np.exp(log_var) / 2) / np.sqrt(2 * np.pi * np.exp(log_var))
    elbo = (q * (log_joint - np.log(np.maximum(q, 1e-300)))).sum(axis=1) * (z[1] - z[0])
    return model, variables, image, log_evidence, elbo


@pytest.mark.slow
def test_elbo_is_its_integral():
    model, variables, image, log_evidence, elbo = tiny_vae()
    batch = {"image": np.repeat(image, 4000, axis=0)}
    task = vae(model, optax.sgd(0.0))
    state = task.init(KEY, batch).replace(params=variables["params"])
    metrics = summarize(jax.jit(task.eval_step)(state, batch))
    assert metrics["elbo"] == pytest.approx(elbo.mean(), abs=0.01)
    assert metrics["loss"] == pytest.approx(-metrics["elbo"], rel=1e-5)
    assert metrics["elbo"] < log_evidence.mean() - 0.005


def test_beta_weighs_the_divergence_alone():
    model, variables, image, _, _ = tiny_vae()
    task = vae(model, optax.sgd(0.0), beta=3.0)
    state = task.init(KEY, {"image": image}).replace(params=variables["params"])
    found = summarize(jax.jit(task.eval_step)(state, {"image": image}))
    assert found["kl"] > 1e-3
    assert found["loss"] == pytest.approx(found["reconstruction"] + 3 * found["kl"], rel=1e-5)
    assert found["elbo"] == pytest.approx(-found["reconstruction"] - found["kl"], rel=1e-5)


@pytest.mark.slow
def test_the_importance_weighted_bound_rises_to_the_evidence():
    model, variables, image, log_evidence, elbo = tiny_vae()
    many = np.repeat(image, 1000, axis=0)

    def bound(samples):
        found = importance_weighted_bound(model, variables, many, jax.random.key(1), samples)
        return np.asarray(found).reshape(4, 1000).mean(axis=1)

    np.testing.assert_allclose(bound(1), elbo, atol=0.1)
    np.testing.assert_allclose(bound(300), log_evidence, atol=0.02)
    assert np.all(elbo < log_evidence)
    assert np.all(bound(1) < bound(5))
    assert np.all(bound(5) < bound(300))


def test_binarized_pixels_have_their_grey_levels_for_means():
    image = np.tile(np.float32([0, 0.25, 0.9, 1]), (20_000, 1))
    found = np.asarray(binarize(image, jax.random.key(0)))
    assert set(np.unique(found)) == {0, 1}
    np.testing.assert_allclose(found.mean(axis=0), [0, 0.25, 0.9, 1], atol=0.015)


# ---- diffusion ----


class KnowsTheImage(nn.Module):
    """The noise in images that are all of one grey level."""

    level: float

    @nn.compact
    def __call__(self, x, time, *, train=False):
        self.param("unused", nn.initializers.zeros, ())
        signal = jnp.asarray(noise_schedule("cosine", 20))[time].reshape(-1, 1, 1, 1)
        return (x - jnp.sqrt(signal) * self.level) / jnp.sqrt(1 - signal)


def test_the_model_sees_the_image_at_its_time_and_is_to_find_the_noise():
    """A grey of 0.7 in [0, 1] is one of 0.4 in [-1, 1]."""
    batch = {"image": np.full((40, *SHAPE), 0.7, np.float32)}

    def loss(level):
        task = diffusion(KnowsTheImage(level), optax.sgd(0.0), schedule="cosine", num_steps=20)
        return summarize(jax.jit(task.eval_step)(task.init(KEY, batch), batch))["loss"]

    assert loss(0.4) == pytest.approx(0, abs=1e-8)
    assert loss(0.7) > 0.01


class TellsTheTime(nn.Module):
    """Raises the loss of an example by the square of its time."""

    @nn.compact
    def __call__(self, x, time, *, train=False):
        self.param("unused", nn.initializers.zeros, ())
        return jnp.broadcast_to(1e3 * time.reshape(-1, 1, 1, 1).astype(jnp.float32), x.shape)


def test_times_are_spread_over_the_batch():
    """All 20 times once in a batch of 20, in training and evaluation; a batch of one sees any of them."""
    task = diffusion(TellsTheTime(), optax.sgd(0.0), num_steps=20)
    state, step = task.init(KEY, images(20)), jax.jit(task.train_step)
    wanted = 1e6 * np.mean(np.arange(20.0) ** 2)
    for number in range(3):
        _, metrics = step(state.replace(step=jnp.int32(number)), images(20))
        assert summarize(metrics)["loss"] == pytest.approx(wanted, rel=1e-3)
    assert summarize(jax.jit(task.eval_step)(state, images(20)))["loss"] == pytest.approx(wanted, rel=1e-3)
    seen = {
        round(np.sqrt(summarize(step(state.replace(step=jnp.int32(number)), images(1))[1])["loss"]) / 1e3)
        for number in range(60)
    }
    assert len(seen) > 12
    assert seen <= set(range(20))


# ---- GAN ----


@pytest.mark.slow
def test_each_player_has_its_optimizer():
    task = gan(zoo.create_model("gan", **GAN), optax.sgd(0.0), discriminator_tx=optax.adam(0.1))
    state = task.init(KEY, images(4))
    after, _ = jax.jit(task.train_step)(state, images(4))
    chex.assert_trees_all_equal(after.params["generator"], state.params["generator"])
    assert np.all(after.params["discriminator"]["head"]["kernel"] != state.params["discriminator"]["head"]["kernel"])
    assert int(after.opt_state["discriminator"][0].count) == 1


@pytest.mark.slow
def test_the_discriminator_learns_to_tell_and_the_generator_to_please():
    """Against a player that stands still, each brings its own loss down."""
    for moving, metric in (("discriminator", "discriminator_loss"), ("generator", "generator_loss")):
        players = {"generator": optax.set_to_zero(), "discriminator": optax.set_to_zero(), moving: optax.adam(1e-2)}
        task = gan(zoo.create_model("gan", **GAN), players["generator"], discriminator_tx=players["discriminator"])
        state, step = task.init(KEY, images(16)), jax.jit(task.train_step, donate_argnums=0)
        found = []
        for _ in range(60):
            state, metrics = step(state, images(16))
            found.append(summarize(metrics)[metric])
        assert found[-1] < 0.6 * found[0]


@pytest.mark.slow
def test_the_generator_learns_from_the_discriminator_as_it_is_after_its_move():
    """It moves as beside a discriminator that stood there from the beginning, and stays."""
    model, batch = zoo.create_model("gan", **GAN, dropout_rate=0.0), images(4)
    both = gan(model, optax.sgd(1.0), discriminator_tx=optax.sgd(3.0))
    alone = jax.jit(gan(model, optax.sgd(1.0), discriminator_tx=optax.set_to_zero()).train_step)
    before = both.init(KEY, batch)
    after, _ = jax.jit(both.train_step)(before, batch)
    moved = before.replace(params={**before.params, "discriminator": after.params["discriminator"]})
    wanted, stale = (alone(state, batch)[0].params["generator"] for state in (moved, before))
    chex.assert_trees_all_close(after.params["generator"], wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(after.params["generator"], stale, rtol=1e-2, atol=1e-4)


# ---- bad input ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tx: reconstruction(Echo(), tx, loss="mae"), "must be 'mse' or 'bce', not 'mae'"),
        (lambda tx: reconstruction(Echo(), tx, noise=-1), "noise is a standard deviation"),
        (lambda tx: vae(Echo(), tx, pixels="gray"), "must be 'probabilistic' or 'binarized', not 'gray'"),
        (lambda tx: vae(Echo(), tx, beta=-1), "beta of task 'vae' must be at least 0"),
        (lambda tx: gan(Echo(), tx), r"trains a zoo.gan.GAN, not Echo"),
        (
            lambda tx: gan(zoo.create_model("gan"), tx, loss="wgan"),
            "must be 'non_saturating' or 'hinge' or 'wgan_gp', not 'wgan'",
        ),
        (lambda tx: gan(zoo.create_model("gan"), tx, label_noise=-0.1), "label_noise must be at least 0, not -0.1"),
        (lambda tx: diffusion(Echo(), tx, schedule="quadratic"), "must be 'linear' or 'cosine', not 'quadratic'"),
    ],
)
def test_tasks_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make(optax.sgd(0.1))


@pytest.mark.slow
def test_the_average_of_a_gan_waits_for_the_update():
    tx = optax.MultiSteps(optax.sgd(0.1), 2)
    task, batch = gan(zoo.create_model("gan", **GAN), tx, ema_decay=0.5), images(4)
    first = task.init(KEY, batch)
    step = jax.jit(task.train_step)
    second, _ = step(first, batch)
    chex.assert_trees_all_equal(second.ema, first.ema)
    third, _ = step(second, batch)
    for player in ("generator", "discriminator"):
        before, after = (jax.tree.leaves(state.params[player])[0] for state in (first, third))
        assert np.abs(after - before).max() > 0
        np.testing.assert_allclose(
            jax.tree.leaves(third.ema["params"][player])[0], (before + after) / 2, rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("name", ["reconstruction", "vae", "gan", "diffusion"])
def test_images_outside_the_unit_range_are_refused(name):
    task, batch = tasks(optax.sgd(0.1))[name], images(8)
    pixels = {"image": np.where(batch["image"] > 0.5, 255, 0).astype(np.float32)}
    with pytest.raises(ValueError, match=r"takes values in \[0, 1\], and those of 'image' go from 0 to 255: divide"):
        task.init(KEY, pixels)
    with pytest.raises(ValueError, match=r"takes values in \[0, 1\]"):
        fit(task, {"image": batch["image"] * 2 - 1}, batch_size=2, epochs=1)
    jax.eval_shape(task.init, KEY, pixels)  # traced values cannot be seen


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "vae_digits",
            ["data_options.standardize=True"],
            r"takes values in \[0, 1\].*leave data_options.standardize out",
        ),
        ("vae_digits", ["data_options.flat=True"], "VAE takes images of shape"),
        ("vae_digits", ["model_options.image_shape=[28, 28, 1]"], r"images of shape \[28, 28, 1\], not \[8, 8, 1\]"),
        ("vae_digits", ["model_options.features=[4, 4, 4, 4]"], "multiples of 16"),
        ("vae_digits", ["model=autoencoder", "model_options={}"], "gives a zoo.vae.VAEOutput"),
        ("vae_digits", ["task=classification"], "a classifier gives logits"),
        ("gan_digits", ["model=mlp", "model_options={}"], "trains a zoo.gan.GAN, not MLP"),
        ("gan_digits", ["model_options.image_shape=[28, 28, 1]"], r"images of shape \[28, 28, 1\], not \[8, 8, 1\]"),
        ("gan_digits", ["precision=float16"], "take precision=bfloat16"),
        ("gan_digits", ["monitor=stepp"], "unknown metric to monitor: 'stepp'; nearest: step"),
        ("diffusion_digits", ["model_options.features=[8, 8, 8, 8, 8]"], "takes images of shape .*height ≥ 16"),
        ("diffusion_digits", ["model=autoencoder", "model_options={}"], "does not fit the data set 'digits'"),
        ("autoencoder_digits", ["data=iris", "data_options={}"], "no field 'image'"),
    ],
)
def test_build_finds_what_is_wrong(name, settings, message):
    with pytest.raises(ValueError, match=message):
        build(override(get_recipe(name), settings))


def test_a_decoder_has_the_shape_of_the_data():
    parts = build(override(get_recipe("vae_digits"), ["data_options.upsample=2"]))
    assert parts.model.image_shape == parts.model_options["image_shape"] == (16, 16, 1)
