"""Residual networks against timm, with random weights and random batch statistics, in float32."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import zoo
from tests.descriptors import random_variables
from tests.parity.torch_weights import channels_last, images, load, tensor, tensors
from tests.parity.torchvision_ops import timm
from zoo.pretrained import torchvision_layout
from zoo.vision.resnet import BasicBlock, Bottleneck, ResNet, _conv_and_norm

torch = pytest.importorskip("torch")

FULL, ODD = (224, 224), (161, 97)


def example(*shape):
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)


@functools.cache
def pair(name, **options):
    """Our model with its variables, and timm's with the same weights."""
    model = zoo.create_model(name, **options)
    variables = random_variables(model, np.zeros((1, 64, 64, 3), np.float32))
    return model, variables, load(timm.create_model(name, num_classes=model.num_classes), name, variables)


def assert_close(actual, wanted, rtol):
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.shape == wanted.shape
    scale = np.abs(wanted).max()
    assert 1e-3 < scale < 1e5, "values of a sane magnitude are what is worth comparing"
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
@pytest.mark.parametrize("size", [FULL, ODD])
def test_logits(name, size):
    model, variables, theirs = pair(name)
    x = example(2, *size, 3)
    x[1] = 3 * x[1] + np.linspace(-2, 2, size[1], dtype=np.float32)[:, None]  # noise looks like noise
    with torch.inference_mode():
        wanted = theirs(images(x))
    logits = jax.jit(model.apply)(variables, x)
    assert np.ptp(np.asarray(logits), axis=0).max() > 0.01 * np.abs(logits).max(), "the two images differ"
    assert_close(logits, wanted, 1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_of_each_stage(name):
    model, variables, theirs = pair(name)
    x = example(2, 33, 47, 3)
    _, extra = jax.jit(functools.partial(model.apply, mutable=["intermediates"]))(variables, x)
    with torch.inference_mode():
        y = theirs.maxpool(theirs.act1(theirs.bn1(theirs.conv1(images(x)))))
        assert_close(extra["intermediates"]["stem"], channels_last(y), 1e-4)
        for stage in range(1, 5):
            y = getattr(theirs, f"layer{stage}")(y)
            assert_close(extra["intermediates"][f"stage{stage}"], channels_last(y), 1e-4)


def test_pooled_features():
    _, variables, theirs = pair("resnet18")
    x = example(2, 64, 64, 3)
    headless = zoo.create_model("resnet18", num_classes=0)
    body = {**variables, "params": {name: tree for name, tree in variables["params"].items() if name != "head"}}
    with torch.inference_mode():
        wanted = theirs.forward_head(theirs.forward_features(images(x)), pre_logits=True)
    assert_close(jax.jit(headless.apply)(body, x), wanted, 1e-4)


def test_cifar_stem():
    """The same network with a 3×3 convolution of stride 1 and no pooling in front."""
    model = zoo.create_model("resnet18", num_classes=10, stem="cifar")
    variables = random_variables(model, np.zeros((1, 32, 32, 3), np.float32))
    theirs = timm.create_model("resnet18", num_classes=10)
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = torch.nn.Identity()
    x = example(2, 32, 32, 3)
    with torch.inference_mode():
        wanted = load(theirs, "resnet18", variables)(images(x))
    assert_close(jax.jit(model.apply)(variables, x), wanted, 1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(BasicBlock, timm.models.resnet.BasicBlock), (Bottleneck, timm.models.resnet.Bottleneck)],
)
@pytest.mark.parametrize("widen", [False, True])
def test_block(ours, theirs, stride, widen):
    features = 8
    outputs = features * ours.expansion
    inputs = outputs // 2 if widen else outputs
    conv, norm = _conv_and_norm(None, jnp.float32, False)
    model = ours(features, stride, conv, norm)
    x = example(2, 9, 6, inputs)
    variables = random_variables(model, x)
    shortcut = torch.nn.Sequential(
        torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False), torch.nn.BatchNorm2d(outputs)
    )
    projected = stride == 2 or widen
    reference = theirs(inputs, features, stride, downsample=shortcut if projected else None)

    state = {}
    for collection in ("params", "batch_stats"):
        for path, leaf in flatten_dict(variables[collection], sep="/").items():
            key = torchvision_layout.RULES[ResNet](None, f"stage1_block1/{path}").key
            state[key.removeprefix("layer1.0.")] = tensor(leaf)
    reference.load_state_dict(state, strict=False)
    unset = {key for key in reference.state_dict() if not key.endswith("num_batches_tracked")} - set(state)
    assert not unset
    with torch.inference_mode():
        wanted = channels_last(reference.eval()(images(x)))
    assert_close(jax.jit(model.apply)(variables, x), wanted, 1e-5)


@pytest.fixture(scope="module")
def one_training_step():
    """Output, statistics and gradients of ResNet-18 on a batch of four: ours, and timm's in double precision."""
    model, variables, _ = pair("resnet18", num_classes=10)
    theirs = load(timm.create_model("resnet18", num_classes=10), "resnet18", variables).double().train()
    x, label = example(4, 64, 64, 3), np.arange(4)

    @jax.jit
    def step(variables, x):
        def loss(params):
            logits, updates = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=-1)
            return -chosen.mean(), (logits, updates)

        return jax.grad(loss, has_aux=True)(variables["params"])

    grads, (logits, updates) = step(variables, x)
    counts = {}

    def count(name, inputs):
        counts[name] = inputs[0].numel() // inputs[0].shape[1]

    for name, module in theirs.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs, name=name: count(name, inputs))
    their_logits = theirs(images(x).double())
    torch.nn.functional.cross_entropy(their_logits, torch.from_numpy(label)).backward()
    return variables, logits, updates, grads, theirs, their_logits, counts


def test_training_logits(one_training_step):
    _, logits, _, _, _, their_logits, _ = one_training_step
    assert_close(logits, their_logits.detach(), 1e-4)


def test_running_statistics(one_training_step):
    """PyTorch's running variance takes the unbiased one, which is count / (count − 1) times ours."""
    variables, _, updates, _, theirs, _, counts = one_training_step
    old, ours, reference = (
        tensors("resnet18", variables),
        tensors("resnet18", {**variables, **updates}),
        theirs.state_dict(),
    )
    statistics = [key for key in ours if key.endswith(("running_mean", "running_var"))]
    assert len(statistics) == 2 * len(counts)
    for key in statistics:
        module, kind = key.rsplit(".", 1)
        value, wanted = ours[key], reference[key]
        if kind == "running_var":
            kept = 0.9 * old[key]
            wanted = kept + (wanted - kept) * (counts[module] - 1) / counts[module]
        assert not torch.equal(value, old[key])
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5, err_msg=key)


def test_gradient_of_every_parameter(one_training_step):
    """To 1e-3 of each parameter's greatest gradient.

    They agree to 1e-5, unless a unit comes so near to zero that rounding decides whether its ReLU is open: then one
    entry of a gradient moves by up to a tenth, in PyTorch's own float32 too. With the seeds here none does.
    """
    variables, _, _, grads, theirs, _, _ = one_training_step
    ours = tensors("resnet18", {**variables, "params": grads})
    for key, parameter in theirs.named_parameters():
        wanted = parameter.grad.numpy()
        np.testing.assert_allclose(ours[key], wanted, rtol=0, atol=1e-3 * np.abs(wanted).max(), err_msg=key)
