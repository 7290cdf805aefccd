"""A fused model is the model."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

import zoo
from tests.descriptors import MODELS
from zoo.layers import BatchNorm, Conv, Dense, activations, convolution, fusion, onednn, product

FAMILIES = [
    *("mlp", "cnn", "lenet5", "alexnet", "vgg11", "resnet18", "resnet50", "densenet121", "mobilenet_v3_large"),
    *("efficientnet_b0", "convnext_tiny", "vit_tiny_patch16_224", "gpt2", "llama_15m", "bert_tiny"),
    *("transformer_classifier", "lstm_regressor", "bilstm_regressor"),
]


def random_like(tree):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape)
        return jnp.asarray(np.abs(noise) + 0.5 if path[-1].key == "var" else 0.3 * noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


def inputs_of(name, model):
    card, row = zoo.model_card(name), MODELS[name]
    rng = np.random.default_rng(1)
    if card.input_dtype == "int32":
        return rng.integers(0, model.vocab_size, (2, *row.shape), np.int32)
    return rng.uniform(size=(2, *row.shape)).astype(np.float32)


def fused_equations(function, *inputs):
    made = jax.make_jaxpr(function)(*inputs)
    found = jax.make_jaxpr(lambda *inputs: fusion._interpret(made, inputs))(*inputs)
    return Counter(
        ("epilogue", equation.params["at"].activation)
        if str(equation.primitive) == "epilogue"
        else str(equation.primitive)
        for equation in found.eqns
    )


def assert_close(found, wanted, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_fused_model_is_the_model(name):
    model = zoo.create_model(name, **MODELS[name].small)
    x = inputs_of(name, model)
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), x))
    fused = zoo.fuse(model, variables)
    assert_close(fused(x), jax.jit(model.apply)(variables, x))
    assert_close(fused(x[:1]), jax.jit(model.apply)(variables, x[:1]))


class Broadcasting(nn.Module):
    """A product of one row an example, and a summand of many; or the other way about."""

    rows: bool

    @nn.compact
    def __call__(self, x):
        y, mean = Dense(3)(x if self.rows else x.mean(1, keepdims=True)), x.mean(0, keepdims=True)
        return activations.relu((y + (x.mean(1, keepdims=True) if self.rows else x)) * 2 + mean)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("batch", [1, 4])
def test_what_broadcasts_is_no_summand(rows, batch):
    x = np.random.default_rng(0).normal(size=(batch, 4, 3)).astype(np.float32)
    model = Broadcasting(rows)
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), x))
    assert_close(zoo.fuse(model, variables)(x), model.apply(variables, x))


class Block(nn.Module):
    """All that can follow, and what cannot."""

    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        norm, dense = partial(BatchNorm, dtype=self.dtype), partial(Dense, dtype=self.dtype)
        y = activations.relu(norm()(Conv(8, 3, dtype=self.dtype)(x)))
        y = activations.relu(norm()(Conv(8, 1, dtype=self.dtype)(y)) + y)
        both = Conv(8, 3, groups=8, dtype=self.dtype)(y)  # two read it: it is computed once, with its bias alone
        y = jax.nn.silu(norm()(both)) + jnp.sin(both)
        y = activations.gelu(2 - dense(32)(y)) * 3
        return dense(4)(activations.gelu_tanh(dense(16)(y.reshape(y.shape[0], -1))))


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 5e-2)])
def test_what_follows_becomes_one_pass(dtype, tolerance):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    model = Block(dtype)
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), x))
    found, wanted = zoo.fuse(model, variables)(x), Block().apply(variables, x)
    assert found.dtype == dtype
    assert_close(found.astype(jnp.float32), wanted, tolerance)
    equations = fused_equations(lambda x: model.apply(variables, x), x)
    passes = {key[1]: count for key, count in equations.items() if isinstance(key, tuple)}
    assert passes == {"relu": 2, None: 2, "gelu": 1, "gelu_tanh": 1}
    assert not {"rsqrt", "custom_jvp_call", "convolution", "product"} & set(equations)


@jax.custom_jvp
def gelu(z):
    return 2 * z


gelu.defjvps(lambda tangent, _, z: 2 * tangent)


@jax.jit
def silu(z):
    return z - 1


@pytest.mark.parametrize("other", [gelu, silu])
def test_a_function_that_has_but_the_name_of_an_activation_is_itself(other):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return other(Dense(4)(x))

    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    variables = random_like(jax.eval_shape(Model().init, jax.random.key(0), x))
    assert_close(zoo.fuse(Model(), variables)(x), Model().apply(variables, x))


@pytest.mark.parametrize("rows", [64, 65])
def test_a_kernel_for_many_rows_is_turned_around_ahead(rows):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.relu(Dense(4)(Dense(6)(x) * np.arange(1.0, 7.0, dtype=np.float32)[None]))

    x = np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)
    variables = random_like(jax.eval_shape(Model().init, jax.random.key(0), x))
    apply = partial(Model().apply, variables)
    assert_close(zoo.fuse(Model(), variables)(x), apply(x))
    made = jax.make_jaxpr(apply)(x)
    fused = jax.make_jaxpr(lambda *leaves: fusion._interpret(made, leaves))(x)
    turned = [each.params["at"].at.transpose_b for each in fused.eqns if each.primitive.name == "epilogue"]
    assert turned == [rows > 64 and onednn.takes(jnp.float32)] * 2


def test_what_was_prepared_inside_a_trace_serves_outside_of_it():
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)
    model = Block()
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), x))
    fused = zoo.fuse(model, variables)
    wanted = model.apply(variables, x)
    assert_close(jax.jit(lambda x: fused(x))(x), wanted)
    assert_close(fused(x), wanted)
    assert_close(jax.vmap(fused)(x[:, None])[:, 0], wanted)


def test_a_fused_model_is_exported_as_operations_of_xla():
    x = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), 6, 6, 3), jnp.float32)
    model = Block()
    variables = random_like(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 6, 6, 3))))
    exported = export.export(jax.jit(zoo.fuse(model, variables)), platforms=["cpu", "cuda", "tpu"])(x)
    assert "onednn" not in exported.mlir_module()
    images = np.random.default_rng(0).normal(size=(3, 6, 6, 3)).astype(np.float32)
    assert_close(exported.call(images), model.apply(variables, images))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(["3×3", "1×1", "1×1 stride 2", "depthwise", "grouped", "product", "transposed", "one row"]),
    activation=st.sampled_from([None, *fusion.ACTIVATIONS]),
    with_summand=st.booleans(),
    batch=st.integers(1, 3),
    features=st.sampled_from([4, 16, 36, 64]),
    there=st.sampled_from([True, True, False]),
    dtype=st.sampled_from([jnp.float32, jnp.bfloat16]),
)
def test_an_epilogue_is_its_operations_apart(kind, activation, with_summand, batch, features, there, dtype):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype).astype(jnp.float32)

    if kind in ("product", "transposed", "one row"):
        rows = 1 if kind == "one row" else 60 * batch
        a, b = normal(rows, 70), normal(70, 256)
        b = b.T if kind == "transposed" else b
        primitive, at = product.PRIMITIVE, product.Form(False, kind == "transposed", jnp.dtype(jnp.float32))
    else:
        window, stride = (3, 1) if kind in ("3×3", "depthwise", "grouped") else (1, 2 if "stride" in kind else 1)
        groups = {"depthwise": features, "grouped": 2}.get(kind, 1)
        a, b = normal(batch, 9, 8, features), normal(window, window, features // groups, features)
        pads = convolution.explicit_padding(window // 2, (9, 8), (window, window), (stride, stride))
        at = convolution.Geometry((9, 8), (window, window), (stride, stride), pads, (1, 1), groups)
        primitive = convolution.OUTPUT
    y = primitive.bind(a, b, at=at)
    bias, summand = normal(y.shape[-1]), normal(*y.shape) if with_summand else None
    wanted = y + bias.reshape((1,) * (y.ndim - 1) + (-1,)) + (0 if summand is None else summand)
    wanted = fusion.ACTIVATIONS[activation](wanted) if activation else wanted
    a, b, summand = jax.tree.map(lambda array: array.astype(dtype), (a, b, summand))
    at = at._replace(dtype=jnp.dtype(dtype)) if primitive is product.PRIMITIVE else at
    with pytest.MonkeyPatch.context() as patch:
        if not there:
            patch.setattr(onednn, "takes", lambda dtype: False)
        if onednn._has_tiles():  # as with one device
            patch.setattr(onednn, "convolves", onednn.takes)
        jax.clear_caches()
        found = jax.jit(lambda: fusion.followed(primitive, a, b, at, bias, summand, activation))()
        assert found.dtype == dtype
        assert_close(found.astype(jnp.float32), wanted, 1e-5 if dtype == jnp.float32 else 2e-2)
