"""Layers, parameters and operations, against counts by hand."""

from __future__ import annotations

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

import zoo
from tests.descriptors import MODELS, by_representatives
from zoo import summary
from zoo.layers import Conv


def small(name):
    x = np.zeros((2, *MODELS[name].shape), zoo.model_card(name).input_dtype)
    return zoo.create_model(name, **MODELS[name].small), x


def test_count_parameters_of_arrays_and_of_shapes():
    tree = {"a": np.zeros((2, 3)), "b": {"c": jnp.zeros(4), "d": jax.ShapeDtypeStruct((), jnp.float32)}}
    assert summary.count_parameters(tree) == 6 + 4 + 1
    assert summary.count_parameters({}) == 0


def test_abstract_variables_has_the_shapes_of_init():
    model, x = small("cnn")
    shapes = summary.abstract_variables(model, x)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    assert shapes["params"]["Conv_0"]["kernel"].shape == (3, 3, 1, 4)
    assert shapes["batch_stats"]["BatchNorm_2"]["var"].shape == (8,)


def test_layers_of_the_mlp():
    model, x = small("mlp")
    found = [layer for layer in summary.layers(model, x) if layer.kind != "Dropout"]
    assert found == [
        ("Dense_0", "Dense", (2, 8), 5 * 8 + 8),
        ("Dense_1", "Dense", (2, 6), 8 * 6 + 6),
        ("Dense_2", "Dense", (2, 3), 6 * 3 + 3),
        ("", "MLP", (2, 3), 48 + 54 + 21),
    ]


def test_layers_of_nested_modules_have_whole_paths():
    layers = {layer.path: layer for layer in summary.layers(*small("resnet18"))}
    assert layers["stage2_block1/conv_proj"] == ("stage2_block1/conv_proj", "Conv", (2, 2, 2, 8), 4 * 8)
    assert layers["stage2_block1/norm2"].num_parameters == 2 * 8
    inner = sum(layer.num_parameters for path, layer in layers.items() if path.startswith("stage2_block1/"))
    assert layers["stage2_block1"].num_parameters == inner
    order = list(layers)
    assert order.index("stage2_block1/conv1") < order.index("stage2_block1") < order.index("stage3_block1/conv1")


@by_representatives(MODELS)
def test_layers_sum_to_the_whole(name):
    """Every module that holds parameters is listed, and has those that it and the modules inside it hold."""
    model, x = small(name)
    found = summary.layers(model, x)
    params = flatten_dict(summary.abstract_variables(model, x)["params"])
    held = collections.Counter()
    for (*module, _), leaf in params.items():
        held["/".join(module)] += leaf.size
    assert found[-1].path == ""
    assert len({layer.path for layer in found}) == len(found)
    assert set(held) <= {layer.path for layer in found}
    for layer in found:
        inner = [n for path, n in held.items() if f"{path}/".startswith(f"{layer.path}/") or not layer.path]
        assert layer.num_parameters == sum(inner)


def test_flops_of_a_dense_layer():
    n, features, batch = 7, 5, 3
    assert summary.flops(nn.Dense(features, use_bias=False), jnp.zeros((batch, n))) == batch * 2 * n * features
    assert summary.flops(nn.Dense(features), jnp.zeros((batch, n))) == batch * (2 * n * features + features)


def test_flops_of_a_convolution():
    """Each of 6 × 4 outputs takes 3 × 3 × 2 multiply-adds for each of 5 features, and a bias."""
    x = jax.ShapeDtypeStruct((3, 8, 6, 2), jnp.float32)
    outputs = 3 * 6 * 4 * 5
    assert summary.flops(Conv(5, padding="VALID", use_bias=False), x) == outputs * 2 * 3 * 3 * 2
    assert summary.flops(Conv(5, padding="VALID"), x) == outputs * (2 * 3 * 3 * 2 + 1)


def test_flops_of_resnet50_are_those_of_the_literature():
    """4.1 · 10⁹ multiply-adds at 224 × 224, less those with the zeros of the padding, which XLA does not count."""
    flops = summary.flops(zoo.create_model("resnet50"), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    assert 7.8e9 < flops < 8.2e9
