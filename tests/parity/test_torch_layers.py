"""Layers, activations and small models against PyTorch."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.compiling import optimised
from tests.descriptors import random_variables
from tests.parity.torch_weights import channels_last, images, tensor
from zoo.layers import BatchNorm, Conv, ConvTranspose, activations, convolution

torch = pytest.importorskip("torch")
F = torch.nn.functional


def normal(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(actual, wanted, rtol=1e-5):
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.shape == wanted.shape
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=rtol * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("window", "stride", "padding", "dilation", "groups"),
    [
        (3, 1, 1, 1, 1),
        (3, 2, 1, 1, 1),
        (7, 2, 3, 1, 1),
        (1, 2, 0, 1, 1),
        (5, 1, 0, 1, 1),
        (3, 1, 2, 2, 1),
        (3, 2, 1, 1, 2),
        (3, 1, 1, 1, 4),
        ((3, 5), (2, 1), 2, (1, 2), 2),
    ],
)
def test_conv(window, stride, padding, dilation, groups):
    x, layer = normal(2, 11, 14, 4), Conv(8, window, stride, padding, dilation, groups)
    params = random_variables(layer, x)["params"]
    wanted = F.conv2d(images(x), tensor(params["kernel"]), tensor(params["bias"]), stride, padding, dilation, groups)
    assert_close(layer.apply({"params": params}, x), channels_last(wanted))


@pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [(3, 2, 1), (4, 2, 1), (2, 2, 0), (3, 1, 1), (5, 3, 2), (1, 2, 0), ((4, 3), (2, 1), 1)],
)
def test_conv_transpose(window, stride, padding):
    """PyTorch keeps the kernel as `[channels, features, height, width]`; its output padding is zero."""
    x, layer = normal(2, 5, 7, 4), ConvTranspose(6, window, stride, padding)
    params = random_variables(layer, x)["params"]
    kernel = torch.from_numpy(params["kernel"].transpose(2, 3, 0, 1).copy())
    wanted = F.conv_transpose2d(images(x), kernel, tensor(params["bias"]), stride, padding)
    assert_close(layer.apply({"params": params}, x), channels_last(wanted))


def test_conv_transpose_doubles_the_image():
    """The layer of DCGAN: window 4, stride 2, padding 1 is `SAME`."""
    x, kernel = normal(2, 5, 7, 4), normal(4, 4, 4, 3)
    wanted = F.conv_transpose2d(images(x), torch.from_numpy(kernel.transpose(2, 3, 0, 1).copy()), None, 2, 1)
    assert wanted.shape == (2, 3, 10, 14)
    assert_close(convolution.conv_transpose(x, kernel, strides=(2, 2)), channels_last(wanted))


@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 1, 1), (2, 2, 1), (3, 3, 0)]
)
def test_pooling(window, stride, padding):
    x = normal(2, 10, 13, 3) - 1
    options = {"window": (window, window), "strides": (stride, stride), "padding": padding}
    assert_close(convolution.max_pool(x, **options), channels_last(F.max_pool2d(images(x), window, stride, padding)))
    assert_close(convolution.avg_pool(x, **options), channels_last(F.avg_pool2d(images(x), window, stride, padding)))


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1)])
def test_pooling_gradients(window, stride, padding):
    x, theirs = normal(2, 10, 13, 3), images(normal(2, 10, 13, 3)).requires_grad_()
    for ours, reference in ((convolution.max_pool, F.max_pool2d), (convolution.avg_pool, F.avg_pool2d)):
        theirs.grad = None
        reference(theirs, window, stride, padding).square().sum().backward()
        pool = functools.partial(ours, window=(window, window), strides=(stride, stride), padding=padding)
        assert_close(jax.jit(jax.grad(lambda x, pool=pool: jnp.square(pool(x)).sum()))(x), channels_last(theirs.grad))


def test_batch_norm():
    x = normal(3, 5, 4, 6) * 2 + 1
    variables = random_variables(BatchNorm(), x)
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    ours = {**variables["params"], **variables["batch_stats"]}
    theirs = torch.nn.BatchNorm2d(6)
    theirs.load_state_dict({key: tensor(ours[name]) for key, name in names.items()}, strict=False)
    assert_close(BatchNorm().apply(variables, x), channels_last(theirs.eval()(images(x))))
    y, updates = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    assert_close(y, channels_last(theirs.train()(images(x))))
    assert_close(updates["batch_stats"]["mean"], theirs.running_mean)
    kept, count = 0.9 * ours["var"], 3 * 5 * 4
    assert_close(updates["batch_stats"]["var"], kept + (theirs.running_var.numpy() - kept) * (count - 1) / count)


ACTIVATIONS = {
    "elu": F.elu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "leaky_relu": F.leaky_relu,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    """Values, and derivatives at all points but 0, where conventions differ; PyTorch's in double precision."""
    z = np.concatenate([np.linspace(-20, 20, 801), [-1e4, 1e4]]).astype(np.float32)
    z = z[z != 0]
    theirs = torch.from_numpy(z.astype(np.float64)).requires_grad_()
    wanted = ACTIVATIONS[name](theirs)
    wanted.sum().backward()
    ours = activations.activation(name)
    np.testing.assert_allclose(ours(jnp.asarray(z)), wanted.detach(), rtol=1e-5, atol=1e-6)
    with optimised():  # as users compile it: where tanh is nearly 1, its rounding is what is seen
        slopes = jax.jit(jax.vmap(jax.grad(ours)))(jnp.asarray(z))
    np.testing.assert_allclose(slopes, theirs.grad, rtol=1e-5, atol=4e-6)


def test_softmax():
    z = normal(4, 7) * 5
    assert_close(activations.softmax(jnp.asarray(z)), torch.softmax(torch.from_numpy(z), -1))


class ChannelsLastFlatten(torch.nn.Module):
    """The order in which NHWC images are flattened."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def cnn():
    nn = torch.nn
    blocks = [
        layer
        for inputs, features in ((1, 32), (32, 64), (64, 128))
        for layer in (nn.Conv2d(inputs, features, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(features), nn.MaxPool2d(2))
    ]
    dense = [nn.Linear(3 * 3 * 128, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)]
    names = [name for i in range(3) for name in (f"Conv_{i}", f"BatchNorm_{i}")]
    return nn.Sequential(*blocks, ChannelsLastFlatten(), *dense), [*names, "Dense_0", "Dense_1"]


def lenet5():
    nn = torch.nn
    layers = [nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2)]
    layers += [nn.Conv2d(16, 120, 5), nn.Tanh(), nn.Flatten(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10)]
    return nn.Sequential(*layers), ["c1", "c3", "c5", "f6", "output"]


def mlp():
    nn = torch.nn
    layers = [nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers), ["Dense_0", "Dense_1", "Dense_2"]


@pytest.mark.parametrize("build", [cnn, lenet5, mlp])
def test_small_model(build):
    """Logits in inference, and gradients in inference mode of every parameter."""
    name = build.__name__
    model, shape = zoo.create_model(name), zoo.model_card(name).input_shape
    x = normal(3, *shape)
    variables = random_variables(model, x)
    theirs, names = build()
    with_weights = [layer for layer in theirs if list(layer.parameters())]
    keys = {"weight": ("kernel", "scale"), "bias": ("bias",), "running_mean": ("mean",), "running_var": ("var",)}
    for layer, ours in zip(with_weights, names, strict=True):
        leaves = {**variables["params"][ours], **variables.get("batch_stats", {}).get(ours, {})}
        state = {key: tensor(leaves[leaf]) for key, known in keys.items() for leaf in known if leaf in leaves}
        layer.load_state_dict(state, strict="running_mean" not in state)
    wanted = theirs.eval()(images(x) if len(shape) == 3 else torch.from_numpy(x))
    wanted.square().mean().backward()

    @jax.jit
    def loss(params):
        logits = model.apply({**variables, "params": params}, x)
        return jnp.square(logits).mean(), logits

    grads, logits = jax.grad(loss, has_aux=True)(variables["params"])
    assert_close(logits, wanted.detach())
    for layer, ours in zip(with_weights, names, strict=True):
        for leaf, grad in grads[ours].items():
            parameter = layer.bias if leaf == "bias" else layer.weight
            assert_close(tensor(grad), parameter.grad, 1e-4)
