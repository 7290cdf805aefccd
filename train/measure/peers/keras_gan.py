"""The two players in Keras 3: one compiled step that moves both, as the guides of Keras write it for each backend."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from train.measure.peers.work import Peer, Work
from train.measure.turns import timed

_LATENT = 100


def gan_peer(keras: Any, work: Work) -> Peer:
    """Generator and discriminator, each with its AdamW."""
    generator, discriminator = _generator(keras), _discriminator(keras)
    networks = generator, discriminator
    parameters = sum(int(np.prod(w.shape)) for network in networks for w in network.trainable_weights)
    images = keras.ops.convert_to_tensor(2 * work.batch["image"] - 1)
    latents = keras.ops.convert_to_tensor(
        np.random.default_rng(0).normal(size=(len(images), _LATENT)).astype("float32")
    )
    judged = keras.Sequential([keras.layers.Input((_LATENT,)), generator, discriminator])
    step = (_jax_step if keras.backend.backend() == "jax" else _tensorflow_step)(keras, *networks)
    parts = {
        "inference": lambda: timed(lambda: judged.predict_on_batch(latents)),
        "train": lambda: timed(lambda: float(step(images))),
    }
    return Peer(parameters, parts)


def _generator(keras: Any) -> Any:
    layers = keras.layers

    def up(features: int) -> list[Any]:
        conv = layers.Conv2DTranspose(features, 4, 2, padding="same", use_bias=False)
        return [conv, layers.BatchNormalization(), layers.LeakyReLU(0.2)]

    dense = [layers.Dense(6272, use_bias=False), layers.Reshape((7, 7, 128))]
    start = [*dense, layers.BatchNormalization(), layers.LeakyReLU(0.2)]
    pixels = layers.Conv2D(1, 3, padding="same", activation="tanh")
    return keras.Sequential([layers.Input((_LATENT,)), *start, *up(128), *up(64), pixels])


def _discriminator(keras: Any) -> Any:
    layers = keras.layers

    def down(features: int) -> list[Any]:
        return [layers.Conv2D(features, 3, 2, padding="same"), layers.LeakyReLU(0.2), layers.Dropout(0.3)]

    return keras.Sequential([layers.Input((28, 28, 1)), *down(64), *down(128), layers.Flatten(), layers.Dense(1)])


def _losses(keras: Any, draws: Any) -> tuple[Any, Any]:
    """Of the discriminator, (logits, number of real images) → a number; of the generator, logits → a number."""
    ops = keras.ops

    def judging(logits: Any, real: int) -> Any:
        labels = ops.concatenate([ops.ones((real, 1)), ops.zeros((real, 1))])
        labels = labels - 0.05 * keras.random.uniform(ops.shape(labels), seed=draws)
        return ops.mean(ops.binary_crossentropy(labels, logits, from_logits=True))

    def generating(logits: Any) -> Any:
        return ops.mean(ops.softplus(-logits))

    return judging, generating


def _tensorflow_step(keras: Any, generator: Any, discriminator: Any) -> Any:
    tf: Any = import_module("tensorflow")

    draws = keras.random.SeedGenerator(0)
    judging, generating = _losses(keras, draws)
    optimizers = [keras.optimizers.AdamW(1e-3) for _ in range(2)]
    for optimizer, network in zip(optimizers, (generator, discriminator), strict=True):
        optimizer.build(network.trainable_variables)

    @tf.function  # without XLA, which Keras too leaves out on a CPU
    def step(images: Any) -> Any:
        with tf.GradientTape() as of_generator:
            generated = generator(keras.random.normal((len(images), _LATENT), seed=draws), training=True)
            with tf.GradientTape() as tape:
                logits = discriminator(tf.concat([images, tf.stop_gradient(generated)], axis=0), training=True)
                loss = judging(logits, len(images))
            weights = discriminator.trainable_variables
            optimizers[1].apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            lost = generating(discriminator(generated, training=True))
        weights = generator.trainable_variables
        optimizers[0].apply_gradients(zip(of_generator.gradient(lost, weights), weights, strict=True))
        return loss

    return step


def _jax_step(keras: Any, generator: Any, discriminator: Any) -> Any:
    import jax

    draws = keras.random.SeedGenerator(0)
    judging, generating = _losses(keras, draws)
    optimizers = [keras.optimizers.AdamW(1e-3) for _ in range(2)]
    for optimizer, network in zip(optimizers, (generator, discriminator), strict=True):
        optimizer.build(network.trainable_variables)

    def values(variables: Any) -> list[Any]:
        return [jax.numpy.copy(variable.value) for variable in variables]  # the step takes the memory of its state

    def step(state: Any, images: Any) -> Any:
        g, g_rest, g_moments, d, d_rest, d_moments, seed = state

        def generate(g: Any) -> tuple[Any, Any]:
            return generator.stateless_call(g, g_rest, latents, training=True)

        def judge(d: Any, images: Any, d_rest: Any) -> tuple[Any, Any]:
            return discriminator.stateless_call(d, d_rest, images, training=True)

        def of_discriminator(d: Any) -> tuple[Any, Any]:
            logits, rest = judge(d, jax.numpy.concatenate([images, generated]), d_rest)
            return judging(logits, len(images)), rest

        def of_generator(generated: Any) -> tuple[Any, Any]:
            logits, rest = judge(d, generated, d_rest)
            return generating(logits), rest

        with keras.StatelessScope(state_mapping=[(draws.state, seed)]) as scope:
            latents = keras.random.normal((len(images), _LATENT), seed=draws)
            generated, pull_back, g_rest = jax.vjp(generate, g, has_aux=True)
            (loss, d_rest), slope = jax.value_and_grad(of_discriminator, has_aux=True)(d)
            d, d_moments = optimizers[1].stateless_apply(d_moments, slope, d)
            slope, d_rest = jax.grad(of_generator, has_aux=True)(generated)
            g, g_moments = optimizers[0].stateless_apply(g_moments, *pull_back(slope), g)
        return (g, g_rest, g_moments, d, d_rest, d_moments, scope.get_current_value(draws.state)), loss

    compiled = jax.jit(step, donate_argnums=0)
    state: Any = ()
    for network, optimizer in zip((generator, discriminator), optimizers, strict=True):
        variables = network.trainable_variables, network.non_trainable_variables, optimizer.variables
        state += tuple(values(each) for each in variables)
    state += (draws.state.value,)

    def take(images: Any) -> Any:
        nonlocal state
        state, loss = compiled(state, images)
        return loss

    return take
