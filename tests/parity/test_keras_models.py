"""The guide's models as the guide writes them in Keras, without the final softmax, with random weights."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import zoo
from tests.descriptors import random_variables
from zoo.layers import BatchNorm, ConvTranspose

keras = pytest.importorskip("keras")
layers = keras.layers


@pytest.fixture(autouse=True)
def rank_promotion():
    """Keras adds its biases by promoting their rank."""
    with jax.numpy_rank_promotion("allow"):
        yield


def normal(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batch_norm():
    return layers.BatchNormalization(epsilon=1e-5)  # Keras has 1e-3; momentum is of no account in inference


def weights(variables, *names):
    """What Keras's `set_weights` takes for the layers `names`: kernel and bias, or scale, bias, mean and variance."""
    found = []
    for name in names:
        for collection in ("params", "batch_stats"):
            tree = variables.get(collection, {})
            for part in name.split("/"):
                tree = tree.get(part, {})
            found += [tree[leaf] for leaf in ("kernel", "scale", "bias", "mean", "var") if leaf in tree]
            if set(tree) == {"kernel"}:
                found.append(np.zeros(tree["kernel"].shape[-1], np.float32))  # a bias that is zero
    return found


def assert_same_logits(model, variables, keras_model, x):
    logits, wanted = np.asarray(jax.jit(model.apply)(variables, x)), np.asarray(keras_model(x, training=False))
    assert logits.shape == wanted.shape
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_cnn_of_section_5_3_1():
    keras_model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(32, (3, 3), activation="relu", padding="same"),
            batch_norm(),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu", padding="same"),
            batch_norm(),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(128, (3, 3), activation="relu", padding="same"),
            batch_norm(),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10),
        ]
    )
    model, x = zoo.create_model("cnn"), normal(3, 28, 28, 1)
    variables = random_variables(model, x)
    blocks = [name for i in range(3) for name in (f"Conv_{i}", f"BatchNorm_{i}")]
    keras_model.set_weights(weights(variables, *blocks, "Dense_0", "Dense_1"))
    assert_same_logits(model, variables, keras_model, x)
    trainable = sum(int(np.prod(w.shape)) for w in keras_model.trainable_weights)
    assert trainable == zoo.model_card("cnn").num_parameters


def test_mini_resnet_of_section_5_4_4():
    def residual_block(x, filters, kernel_size=3):
        shortcut = x
        x = layers.Conv2D(filters, kernel_size, padding="same")(x)
        x = batch_norm()(x)
        x = layers.Activation("relu")(x)
        x = layers.Conv2D(filters, kernel_size, padding="same")(x)
        x = batch_norm()(x)
        x = layers.Add()([x, shortcut])
        return layers.Activation("relu")(x)

    inputs = layers.Input((28, 28, 1))
    x = layers.Conv2D(32, 3, padding="same")(inputs)
    x = batch_norm()(x)
    x = layers.Activation("relu")(x)
    x = residual_block(x, 32)
    x = residual_block(x, 32)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    keras_model = keras.Model(inputs, layers.Dense(10)(x))

    model, x = zoo.create_model("mini_resnet"), normal(3, 28, 28, 1)
    variables = random_variables(model, x)
    inner = [f"residual{i}/{layer}{j}" for i in (1, 2) for j in (1, 2) for layer in ("conv", "norm")]
    keras_model.set_weights(weights(variables, "conv_stem", "norm_stem", *inner, "hidden", "head"))
    assert_same_logits(model, variables, keras_model, x)


def test_mlp_of_section_2_4_3():
    keras_model = keras.Sequential(
        [
            layers.Input((64,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )
    model, x = zoo.create_model("mlp"), normal(5, 64)
    variables = random_variables(model, x)
    keras_model.set_weights(weights(variables, "Dense_0", "Dense_1", "Dense_2"))
    assert_same_logits(model, variables, keras_model, x)
    assert keras_model.count_params() == zoo.model_card("mlp").num_parameters


def test_lenet5():
    keras_model = keras.Sequential(
        [
            layers.Input((32, 32, 1)),
            layers.Conv2D(6, 5, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 5, activation="tanh"),
            layers.AveragePooling2D(2),
            layers.Conv2D(120, 5, activation="tanh"),
            layers.Flatten(),
            layers.Dense(84, activation="tanh"),
            layers.Dense(10),
        ]
    )
    model, x = zoo.create_model("lenet5"), normal(3, 32, 32, 1)
    variables = random_variables(model, x)
    keras_model.set_weights(weights(variables, "c1", "c3", "c5", "f6", "output"))
    assert_same_logits(model, variables, keras_model, x)
    assert keras_model.count_params() == zoo.model_card("lenet5").num_parameters


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [2, 3, 4])
def test_conv_transpose(window, stride, padding):
    """Keras keeps the kernel as `[height, width, features, channels]`."""
    x, kernel, bias = normal(2, 5, 4, 3), normal(window, window, 3, 6, seed=1), normal(6, seed=2)
    reference = layers.Conv2DTranspose(6, window, stride, padding)
    reference.build(x.shape)
    reference.set_weights([kernel.swapaxes(2, 3), bias])
    ours = ConvTranspose(6, window, stride, padding.upper()).apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(ours, reference(x), rtol=1e-5, atol=1e-5)


def test_batch_norm_in_training():
    """With Keras's own momentum and epsilon, also the running statistics."""
    x = normal(4, 3, 5, 6) * 2 + 1
    variables = random_variables(BatchNorm(), x)
    reference = layers.BatchNormalization()
    reference.build(x.shape)
    params, stats = variables["params"], variables["batch_stats"]
    reference.set_weights([params["scale"], params["bias"], stats["mean"], stats["var"]])
    y, updates = BatchNorm(momentum=0.99, epsilon=1e-3).apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, reference(x, training=True), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], reference.moving_mean.value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], reference.moving_variance.value, rtol=1e-5)
