"""Networks in Keras 3, the same for each of its backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.measure.peers.work import Work, refuse


def _classes(keras: Any) -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _mlp(keras: Any, work: Work) -> tuple[Any, Any]:
    layers = keras.layers
    hidden = [layer for size in (128, 64) for layer in (layers.Dense(size, activation="relu"), layers.Dropout(0.3))]
    return keras.Sequential([layers.Input((64,)), *hidden, layers.Dense(work.outputs)]), _classes(keras)


def _cnn(keras: Any, work: Work) -> tuple[Any, Any]:
    layers = keras.layers

    def block(features: int) -> list[Any]:
        conv = layers.Conv2D(features, 3, padding="same", activation="relu")
        return [conv, layers.BatchNormalization(), layers.MaxPooling2D()]

    dense = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dropout(0.5), layers.Dense(work.outputs)]
    blocks = [*block(32), *block(64), *block(128)]
    return keras.Sequential([layers.Input((28, 28, 1)), *blocks, *dense]), _classes(keras)


def _vae(keras: Any, work: Work) -> tuple[Any, Any]:
    refuse(work.options, work.name, "Keras")
    layers, ops = keras.layers, keras.ops

    class Sample(layers.Layer):
        """Draws a latent, and adds its divergence from the standard normal distribution to the loss."""

        def __init__(self) -> None:
            super().__init__()
            self.draws = keras.random.SeedGenerator(0)

        def call(self, mean: Any, log_var: Any, training: bool = False) -> Any:
            if not training:
                return mean
            kl = ops.sum(ops.square(mean) + ops.exp(log_var) - 1 - log_var, axis=-1) / 2
            self.add_loss(ops.mean(kl))
            return mean + ops.exp(log_var / 2) * keras.random.normal(ops.shape(mean), seed=self.draws)

    def up(features: int, stride: int, activation: str | None) -> Any:
        return layers.Conv2DTranspose(features, 3, stride, padding="same", activation=activation)

    def nll(pixels: Any, logits: Any) -> Any:
        return ops.sum(ops.binary_crossentropy(pixels, logits, from_logits=True), axis=(1, 2, 3))

    images = layers.Input((28, 28, 1))
    x = layers.Conv2D(32, 3, 2, padding="same", activation="relu")(images)
    x = layers.Conv2D(64, 3, 2, padding="same", activation="relu")(x)
    x = layers.Dense(16, activation="relu")(layers.Flatten()(x))
    z = Sample()(layers.Dense(32)(x), layers.Dense(32)(x))
    x = layers.Reshape((7, 7, 64))(layers.Dense(3136, activation="relu")(z))
    return keras.Model(images, up(1, 1, None)(up(32, 2, "relu")(up(64, 2, "relu")(x)))), nll


def _resnet(stage_sizes: Sequence[int], bottleneck: bool, keras: Any, work: Work) -> tuple[Any, Any]:
    """`keras.applications` has the stride in the first 1×1 convolution, and biases; these are as PyTorch's."""
    layers = keras.layers
    options = {option: value for option, value in work.options.items() if option != "num_classes"}
    small = options.pop("stem", "imagenet") == "cifar"
    refuse(options, work.name, "Keras")

    def conv(x: Any, features: int, size: int, stride: int = 1, *, activation: bool = True) -> Any:
        if stride > 1 and size > 1:
            x = layers.ZeroPadding2D(size // 2)(x)
        padding = "valid" if stride > 1 else "same"
        x = layers.Conv2D(features, size, stride, padding=padding, use_bias=False)(x)
        x = layers.BatchNormalization(epsilon=1e-5)(x)
        return layers.ReLU()(x) if activation else x

    def block(x: Any, features: int, stride: int) -> Any:
        if bottleneck:
            y = conv(conv(x, features, 1), features, 3, stride)
            y = conv(y, 4 * features, 1, activation=False)
        else:
            y = conv(conv(x, features, 3, stride), features, 3, activation=False)
        if x.shape != y.shape:
            x = conv(x, y.shape[-1], 1, stride, activation=False)
        return layers.ReLU()(layers.Add()([x, y]))

    images = layers.Input(work.batch["image"].shape[1:])
    x = conv(images, 64, 3) if small else conv(images, 64, 7, 2)
    if not small:
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage, size in enumerate(stage_sizes):
        for index in range(size):
            x = block(x, 64 * 2**stage, 2 if stage and not index else 1)
    x = layers.Dense(work.outputs)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, x), _classes(keras)


def _application(name: str, keras: Any, work: Work) -> tuple[Any, Any]:
    """A network of `keras.applications`, with random weights."""
    refuse({option: value for option, value in work.options.items() if option != "num_classes"}, work.name, "Keras")
    shape = work.batch["image"].shape[1:]
    make = getattr(keras.applications, name)
    network = make(weights=None, input_shape=shape, classes=work.outputs, classifier_activation=None)
    return network, _classes(keras)


def _char_lstm(keras: Any, work: Work) -> tuple[Any, Any]:
    refuse(work.options, work.name, "Keras")
    layers = keras.layers
    tokens = layers.Input((None,), dtype="int32")
    x = keras.ops.one_hot(tokens, _CHARACTERS)
    for _ in range(2):
        x = layers.Dropout(0.2)(layers.LSTM(_UNITS, return_sequences=True)(x))
    return keras.Model(tokens, layers.Dense(_CHARACTERS)(x)), _classes(keras)


_CHARACTERS, _UNITS = 65, 128


def one_character(keras: Any) -> Any:
    """The network of characters that takes one, `[batch, 1]`, and the states; gives logits and the states then."""
    layers = keras.layers
    token = layers.Input((1,), dtype="int32")
    states = [layers.Input((_UNITS,)) for _ in range(4)]
    x, after = keras.ops.one_hot(token, _CHARACTERS), []
    for before in (states[:2], states[2:]):
        x, *last = layers.LSTM(_UNITS, return_sequences=True, return_state=True)(x, initial_state=before)
        after += last
    return keras.Model([token, *states], [layers.Dense(_CHARACTERS)(x[:, -1]), *after])


def no_states(batch: int) -> list[np.ndarray]:
    """The states in front of a text."""
    return [np.zeros((batch, _UNITS), np.float32)] * 4


def _char_gpt(keras: Any, work: Work) -> tuple[Any, Any]:
    refuse(work.options, work.name, "Keras")
    layers, ops = keras.layers, keras.ops
    depth, heads, width, time = 4, 4, 128, work.batch["tokens"].shape[1] - 1

    def norm() -> Any:
        return layers.LayerNormalization(epsilon=1e-5, center=False)

    class Positions(layers.Layer):
        def build(self, shape: Any) -> None:
            self.table = self.add_weight(shape=(64, width), initializer=keras.initializers.RandomNormal(stddev=0.02))

        def call(self, x: Any) -> Any:
            return x + self.table[: x.shape[1]]

    table = layers.ReversibleEmbedding(
        _CHARACTERS, width, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02)
    )
    tokens = layers.Input((time,), dtype="int32")
    x = Positions()(table(tokens))
    for _ in range(depth):
        y = norm()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads, use_bias=False)(y, y, use_causal_mask=True)
        y = layers.Dense(4 * width, use_bias=False)(norm()(x))
        x = x + layers.Dense(width, use_bias=False)(ops.gelu(y, approximate=False))
    return keras.Model(tokens, table(norm()(x), reverse=True)), _classes(keras)


def _text_classifier(keras: Any, work: Work) -> tuple[Any, Any]:
    refuse({option: value for option, value in work.options.items() if option != "num_classes"}, work.name, "Keras")
    layers = keras.layers
    width, heads, units = 128, 8, 512
    time = work.batch["image"].shape[1]
    angles = np.arange(time)[:, None] * np.exp(np.arange(0, width, 2) * (-np.log(1e4) / width))
    positions = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)

    def add(x: Any, y: Any) -> Any:
        return layers.LayerNormalization(epsilon=1e-6)(x + layers.Dropout(0.1)(y))

    tokens = layers.Input((time,), dtype="int32")
    x = layers.Embedding(10_000, width)(tokens) + positions
    x = add(x, layers.MultiHeadAttention(heads, width // heads)(x, x))
    x = add(x, layers.Dense(width)(layers.Dense(units, activation="relu")(x)))
    x = layers.Dropout(0.1)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(tokens, layers.Dense(work.outputs)(layers.Dense(20, activation="relu")(x))), _classes(keras)


def _bound(function: Any, *first: Any) -> Any:
    return lambda keras, work: function(*first, keras, work)


NETWORKS = {
    "mlp": _mlp,
    "cnn": _cnn,
    "vae": _vae,
    "resnet18": _bound(_resnet, (2, 2, 2, 2), False),
    "resnet50": _bound(_resnet, (3, 4, 6, 3), True),
    "vgg16": _bound(_application, "VGG16"),
    "efficientnet_b0": _bound(_application, "EfficientNetB0"),
    "char_lstm": _char_lstm,
    "char_gpt": _char_gpt,
    "transformer_classifier": _text_classifier,
}
"""By the names of the models: (keras, work) → the network and its loss."""
