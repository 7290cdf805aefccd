"""Peers in Keras 3, on JAX or on TensorFlow: the compiled `train_on_batch` and `predict_on_batch` of its models."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Literal

import numpy as np

from train.measure.peers import keras_gan, keras_networks
from train.measure.peers.work import GENERATED, LEAD_IN, Peer, Work, refuse
from train.measure.turns import Turn, timed

_NAMES = {"jax": "JAX", "tensorflow": "TensorFlow"}


def keras_peer(work: Work, backend: Literal["jax", "tensorflow"]) -> Peer:
    """What `zoo.create_model(work.name, **work.options)` and its task do, in Keras.

    Args:
      work: what is measured.
      backend: of Keras, which has one in a process.

    Raises:
      ValueError: Keras or the backend is not installed, or nothing is known there to compare with.
    """
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import keras
    except ImportError as error:
        missing = "Keras" if (error.name or "").startswith("keras") else _NAMES[backend]
        raise ValueError(f'{missing} is not installed; pip install "flaxzoo[bench]"') from None
    if keras.backend.backend() != backend:
        raise ValueError(f"Keras is on {keras.backend.backend()} in this process, not on {backend}")
    if work.name == "gan":
        refuse(work.options, work.name, "Keras")
        return keras_gan.gan_peer(keras, work)
    if work.name not in keras_networks.NETWORKS:
        raise ValueError(f"there is no {work.name!r} in Keras to compare with")
    network, loss = keras_networks.NETWORKS[work.name](keras, work)
    network.compile(keras.optimizers.AdamW(1e-3), loss)
    inputs, targets = _batch(work)
    inputs, targets = (keras.ops.convert_to_tensor(each) for each in (inputs, targets))
    parts: dict[str, Callable[[], Turn]] = {
        "inference": lambda: timed(partial(network.predict_on_batch, inputs)),
        "train": lambda: timed(partial(network.train_on_batch, inputs, targets)),
    }
    if work.name == "char_lstm":
        parts["generate"] = partial(_generate, keras)
    if work.name == "mlp":
        parts["epoch"] = partial(_epoch, keras, network, work)
    return Peer(sum(int(np.prod(weight.shape)) for weight in network.trainable_weights), parts)


def _batch(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """What the network takes, and what it is to give."""
    if "tokens" in work.batch:
        return work.batch["tokens"][:, :-1], work.batch["tokens"][:, 1:]
    return work.batch["image"], work.batch["image" if work.name == "vae" else "label"]


def _generate(keras: Any) -> Turn:
    """A loop over single characters: a compiled step takes a character and the states, and draws the next one."""
    network, draws = keras_networks.one_character(keras), keras.random.SeedGenerator(0)
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def write(variables: Any, seed: Any, token: Any, states: Any) -> Any:
            with keras.StatelessScope(state_mapping=[(draws.state, seed)]) as scope:
                (logits, *states), _ = network.stateless_call(*variables, [token, *states])
                token = keras.random.categorical(logits, 1, dtype="int32", seed=draws)
            return token, states, scope.get_current_value(draws.state)

        variables = [v.value for v in network.trainable_variables], [v.value for v in network.non_trainable_variables]

        def text() -> Any:
            token, states, tokens = np.zeros((1, 1), np.int32), keras_networks.no_states(1), []
            seed = draws.state.value
            for _ in range(GENERATED):
                token, states, seed = write(variables, seed, token, states)
                tokens.append(token)
            return np.concatenate(tokens, axis=1)

        return timed(text)
    tf: Any = import_module("tensorflow")

    @tf.function
    def write_one(token: Any, states: Any) -> Any:
        logits, *states = network([token, *states], training=False)
        return tf.random.categorical(logits, 1, dtype=tf.int32), states

    def text_of_tensorflow() -> Any:
        token, tokens = tf.zeros((1, 1), tf.int32), []
        states = [tf.constant(state) for state in keras_networks.no_states(1)]
        for _ in range(GENERATED):
            token, states = write_one(token, states)
            tokens.append(token)
        return tf.concat(tokens, axis=1).numpy()

    return timed(text_of_tensorflow)


def _epoch(keras: Any, network: Any, work: Work) -> Turn:
    """Epochs of `fit` with Adam, 15 steps an execution; the last rows, which make no batch, are left out as in ours."""
    size = len(work.batch["image"])
    rows = len(work.rows["image"]) // size * size
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"], steps_per_execution=15)

    def turn(count: int) -> tuple[float, Any]:
        ends = []
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ends.append(time.perf_counter()))
        images, labels = work.rows["image"][:rows], work.rows["label"][:rows]
        epochs = LEAD_IN + count
        fitted = network.fit(images, labels, batch_size=size, epochs=epochs, verbose=0, callbacks=[callback])
        return float(np.diff(ends)[-count:].mean()), fitted.history["loss"][-1]

    return turn
