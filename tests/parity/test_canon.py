"""The convolutional canon and ViT against timm and torchvision: random weights and batch statistics, in float32."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.descriptors import random_variables
from tests.parity.torch_weights import channels_last, images, tensor, tensors
from tests.parity.torchvision_ops import timm
from zoo import layers, pretrained
from zoo.layers import attention
from zoo.pretrained import torchvision_layout

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

VGGS = [f"vgg{depth}{suffix}" for depth in (11, 13, 16, 19) for suffix in ("", "_bn")]
EFFICIENTNETS = [f"efficientnet_b{i}" for i in range(8)]
IN_TIMM = {"mobilenet_v3_large": "mobilenetv3_large_100"}
IN_TORCHVISION = {"vit_base_patch16_224": "vit_b_16"}
VITS = ["vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"]
OF_TIMM = [*VGGS, "densenet121", "mobilenet_v3_large", *EFFICIENTNETS, "convnext_tiny", *VITS]
OF_TORCHVISION = ["alexnet", *VGGS, "densenet121", "mobilenet_v3_large", *EFFICIENTNETS, "convnext_tiny", VITS[-1]]
COMPUTED = [name for name in OF_TORCHVISION if name not in {*VGGS, *EFFICIENTNETS} - {"vgg11", "vgg11_bn", "vgg16"}]
COMPUTED += ["efficientnet_b0", "efficientnet_b5"]  # from b5 on, torchvision has another epsilon

# The dense layers are nine tenths of the weights of every VGG: whole in one, narrow in the others.
OPTIONS = {name: {"hidden_size": 64} for name in VGGS if name != "vgg16"}


def example(*shape):
    """Noise, but an image that is brighter to the right, for noise looks like noise to a deep network."""
    x = np.random.default_rng(7).normal(size=shape)
    return np.float32(x + np.linspace(-2, 2, shape[2])[:, None])


def assert_close(actual, wanted, rtol, name=""):
    actual, wanted = np.asarray(actual), np.asarray(wanted)
    assert actual.shape == wanted.shape
    scale = np.abs(wanted).max()
    assert 1e-3 < scale < 1e5, "values of a sane magnitude are what is worth comparing"
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=rtol * scale, err_msg=name)


def of_timm(name, **options):
    """timm's model, without weights."""
    with torch.device("meta"):
        return resized(name, timm.create_model(IN_TIMM.get(name, name), **options))


def of_torchvision(name):
    """torchvision's model, without weights."""
    with torch.device("meta"):
        return resized(name, torchvision.models.get_model(IN_TORCHVISION.get(name, name)))


def resized(name, module):
    """`module` with the `hidden_size` of `OPTIONS` in place of 4096."""
    hidden_size = OPTIONS.get(name, {}).get("hidden_size", 4096)
    for layer in module.modules():
        for leaf, parameter in list(layer.named_parameters(recurse=False)):
            if 4096 in parameter.shape:
                shape = [hidden_size if n == 4096 else n for n in parameter.shape]
                setattr(layer, leaf, torch.nn.Parameter(torch.empty(shape)))
    return module


def with_random_weights(module):
    """`module` for inference, with random weights and batch statistics, drawn as `random_variables` draws them."""
    generator = torch.Generator().manual_seed(5)

    def draw(key, tensor):
        uniform = functools.partial(torch.rand, tensor.shape, generator=generator)
        normal = functools.partial(torch.randn, tensor.shape, generator=generator)
        kind = key.rsplit(".", 1)[-1]
        if kind == "num_batches_tracked":
            return torch.tensor(0)
        if kind == "running_var":
            return 0.5 + uniform()
        if kind in ("gamma", "layer_scale") or (kind == "weight" and tensor.ndim == 1):
            return (1 + uniform()) / 2
        if kind in ("weight", "in_proj_weight"):
            return normal() * (2 / tensor[0].numel()) ** 0.5
        return 0.2 * normal()

    state = {key: draw(key, tensor) for key, tensor in module.state_dict().items()}
    module.load_state_dict(state, strict=True, assign=True)
    return module.eval()


def stages(name, model):
    """The modules of timm whose outputs are our intermediates, in their order."""
    if name in VGGS:
        return [module for module in model.features if isinstance(module, torch.nn.MaxPool2d)]
    if name in VITS:
        return [model.norm_pre, *model.blocks]
    if name == "densenet121":
        return [model.features.pool0, *(getattr(model.features, f"denseblock{i}") for i in (1, 2, 3, 4))]
    if name == "convnext_tiny":
        return [model.stem, *model.stages]
    return [model.bn1, *model.blocks][: 8 if name in EFFICIENTNETS else 7]


@pytest.mark.parametrize("name", OF_TIMM)
def test_logits_and_stages_of_timm(name):
    """At the size that the card states; back in timm's layout, the weights are the same bits."""
    options = OPTIONS.get(name, {})
    model, x = zoo.create_model(name, **options), example(1, *zoo.model_card(name).input_shape)
    theirs = with_random_weights(of_timm(name))
    variables = pretrained.from_torch(name, theirs.state_dict(), **options).variables
    seen = []
    for module in stages(name, theirs):
        module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        wanted = theirs(images(x))
    logits, extra = jax.jit(functools.partial(model.apply, mutable=["intermediates"]))(variables, x)
    assert_close(logits, wanted, 1e-5)
    names = sorted(extra["intermediates"], key=lambda name: (name != "stem", len(name), name))
    assert len(names) == len(seen)
    for stage, output in zip(names, seen, strict=True):
        output = output.numpy() if name in VITS else channels_last(output)
        assert_close(extra["intermediates"][stage], output, 1e-5, stage)
    again, state = tensors(name, variables, **options), theirs.state_dict()
    assert set(again) == set(state)
    assert all(torch.equal(again[key], state[key]) and again[key].dtype == state[key].dtype for key in state)


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_logits_of_torchvision(name):
    """At an odd size that is no square, where the layout of the weights is torchvision's.

    Of networks of one kind that differ by how many layers they have, the logits of some; the weights of all fit.
    """
    epsilon = torchvision_layout.EPSILON.get(name)
    options = {"epsilon": epsilon} if epsilon else OPTIONS.get(name, {})
    theirs = with_random_weights(of_torchvision(name))
    variables = pretrained.from_torch(name, theirs.state_dict(), **options).variables
    if name not in COMPUTED:
        return
    x = example(1, *((224, 224) if name in VITS else (161, 97)), 3)
    with torch.inference_mode():
        wanted = theirs(images(x))
    assert_close(jax.jit(zoo.create_model(name, **options).apply)(variables, x), wanted, 1e-5)


@pytest.mark.parametrize("name", VITS)
def test_logits_of_vit_at_another_size(name):
    """Larger and smaller, and no square: timm resamples the position embeddings likewise."""
    model, x = zoo.create_model(name, num_layers=1), example(1, 240, 112, 3)
    theirs = with_random_weights(of_timm(name, dynamic_img_size=True, depth=1))
    variables = pretrained.from_torch(name, theirs.state_dict(), num_layers=1).variables
    with torch.inference_mode():
        wanted = theirs(images(x))
    assert_close(jax.jit(model.apply)(variables, x), wanted, 1e-5)


FEATURES = ["vgg11", "densenet121", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny", "vit_tiny_patch16_224"]


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_what_timm_gives_without_classes(name):
    """And one channel in place of three."""
    size = 224 if name in VITS else 65
    options = {**OPTIONS.get(name, {}), "num_classes": 0}
    model, x = zoo.create_model(name, **options), example(1, size, size, 1)
    theirs = with_random_weights(of_timm(name, num_classes=0, in_chans=1))
    variables = pretrained.from_torch(name, theirs.state_dict(), **options, channels=1).variables
    with torch.inference_mode():
        wanted = theirs(images(x))
    assert_close(jax.jit(model.apply)(variables, x), wanted, 1e-5)


SMOOTH = {  # without dropout
    "efficientnet_b0": {"dropout_rate": 0.0, "drop_path_rate": 0.0},
    "convnext_tiny": {"drop_path_rate": 0.0},
    "vit_tiny_patch16_224": {"dropout_rate": 0.0},
}
WITH_RELU = {
    "vgg11_bn": {"dropout_rate": 0.0},
    "densenet121": {},
    "mobilenet_v3_large": {"dropout_rate": 0.0},
}
SHALLOW = {  # what repeats is trained with few repetitions; logits and stages are compared at full depth
    "densenet121": ({"stage_sizes": (2, 2, 2, 2)}, {"block_config": (2, 2, 2, 2)}),
    "convnext_tiny": ({"stage_sizes": (1, 2, 2, 1)}, {"depths": (1, 2, 2, 1)}),
    "vit_tiny_patch16_224": ({"num_layers": 3}, {"depth": 3, "dynamic_img_size": True}),
}
"""Our options and timm's."""


def assert_same_statistics(name, variables, updates, theirs, counts, **options):
    """PyTorch's running variance takes the unbiased one, which is count / (count − 1) times ours."""
    old, new = (tensors(name, tree, **options) for tree in (variables, {**variables, **updates}))
    wanted = theirs.state_dict()
    for key, count in counts.items():
        mean, var = f"{key}.running_mean", f"{key}.running_var"
        np.testing.assert_allclose(new[mean], wanted[mean], rtol=1e-4, atol=1e-5, err_msg=key)
        kept = 0.9 * old[var]
        biased = kept + (wanted[var] - kept) * (count - 1) / count
        np.testing.assert_allclose(new[var], biased, rtol=1e-4, atol=1e-5, err_msg=key)


def assert_same_gradients(rtol, name, variables, grads, theirs, **options):
    """Relative to each parameter's greatest, or where that is zero, as before batch norm, to 1/1000 of them all."""
    found = tensors(name, {**variables, "params": grads}, **options)
    wanted = {key: parameter.grad.numpy() for key, parameter in theirs.named_parameters()}
    greatest = max(np.abs(grad).max() for grad in wanted.values())
    for key, grad in wanted.items():
        atol = rtol * max(np.abs(grad).max(), 1e-3 * greatest)
        np.testing.assert_allclose(found[key], grad, rtol=0, atol=atol, err_msg=key)


def cross_entropy(logits, label):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=-1).mean()


@pytest.mark.parametrize("name", [*SMOOTH, *WITH_RELU])
def test_training(name):
    """Logits and new statistics by the batch; of smooth networks the gradient of every parameter, in timm's double.

    Where a unit comes so near to zero that rounding decides whether its ReLU is open, single precision gives another
    gradient.
    """
    shallow, of_theirs = SHALLOW.get(name, ({}, {}))
    options = {**OPTIONS.get(name, {}), **SMOOTH.get(name, {}), **WITH_RELU.get(name, {}), **shallow, "num_classes": 10}
    model, x, label = zoo.create_model(name, **options), example(4, 64, 64, 3), np.arange(4)
    theirs = of_timm(name, num_classes=10, **of_theirs)
    theirs = with_random_weights(theirs).train()
    variables = pretrained.from_torch(name, theirs.state_dict(), **options).variables
    theirs = theirs.double() if name in SMOOTH else theirs

    @jax.jit
    def step(variables, x):
        def loss(params):
            logits, updates = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return cross_entropy(logits, label), (logits, updates)

        if name in SMOOTH:
            return jax.grad(loss, has_aux=True)(variables["params"])
        return None, loss(variables["params"])[1]

    grads, (logits, updates) = step(variables, x)
    counts = {}

    def count(key, inputs):
        counts[key] = inputs[0].numel() // inputs[0].shape[1]

    for key, module in theirs.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs, key=key: count(key, inputs))
    wanted = theirs(images(x).double() if name in SMOOTH else images(x))
    assert_close(logits, wanted.detach(), 1e-4)
    assert_same_statistics(name, variables, updates, theirs, counts, **options)
    if name in SMOOTH:
        torch.nn.functional.cross_entropy(wanted, torch.from_numpy(label)).backward()
        assert_same_gradients(1e-3, name, variables, grads, theirs, **options)


def test_gradient_of_every_parameter_of_resnet50():
    """In double precision on both sides, so that the same units are open; batch norm by the running statistics."""
    name, label = "resnet50", np.arange(2)
    model, x = zoo.create_model(name, num_classes=10), example(2, 40, 40, 3)
    theirs = with_random_weights(of_timm(name, num_classes=10))
    variables = pretrained.from_torch(name, theirs.state_dict(), num_classes=10).variables
    theirs = theirs.double()
    torch.nn.functional.cross_entropy(theirs(images(x).double()), torch.from_numpy(label)).backward()
    with jax.enable_x64(True):
        variables, x = jax.tree.map(np.float64, (variables, x))

        @jax.jit
        def gradient(params, batch_stats, x):
            def loss(params):
                return cross_entropy(model.apply({"params": params, "batch_stats": batch_stats}, x), label)

            return jax.grad(loss)(params)

        grads = jax.device_get(gradient(variables["params"], variables["batch_stats"], x))
    assert_same_gradients(1e-9, name, variables, grads, theirs, num_classes=10)


@pytest.mark.parametrize("size", [(7, 7), (5, 3), (6, 14), (9, 11), (1, 1)])
def test_adaptive_avg_pool(size):
    for shape in ((7, 7), (14, 21), (4, 9), (1, 2)):
        x = example(2, *shape, 3)
        wanted = torch.nn.functional.adaptive_avg_pool2d(images(x), size)
        np.testing.assert_allclose(layers.adaptive_avg_pool(x, size), channels_last(wanted), atol=1e-6)


def test_multi_head_attention():
    x, model = example(1, 2, 5, 12)[0], attention.MultiHeadAttention(num_heads=3)
    variables = random_variables(model, x)
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    fused = {"kernel": [], "bias": []}
    for layer in ("query", "key", "value"):
        for leaf, parts in fused.items():
            parts.append(tensor(variables["params"][layer][leaf]))
    out = variables["params"]["out"]
    state = {"in_proj_weight": torch.cat(fused["kernel"]), "in_proj_bias": torch.cat(fused["bias"])}
    theirs.load_state_dict({**state, "out_proj.weight": tensor(out["kernel"]), "out_proj.bias": tensor(out["bias"])})
    z = torch.from_numpy(x)
    assert_close(model.apply(variables, x), theirs(z, z, z, need_weights=False)[0].detach(), 1e-5)
    with pytest.raises(ValueError, match="12 features cannot be shared evenly by 5 heads"):
        attention.MultiHeadAttention(num_heads=5).init(jax.random.key(0), x)
