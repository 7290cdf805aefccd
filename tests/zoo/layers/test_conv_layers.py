"""The layers Conv and ConvTranspose of basic.py against loops and transposition, and how they start."""

from __future__ import annotations

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo.layers.arrays import normal, same_padding
from zoo import layers
from zoo.layers import Conv, ConvTranspose, convolution

few = settings(max_examples=25, deadline=None, database=None, derandomize=True)


# Convolution


def conv_by_loops(x, kernel, strides, pads, dilation, groups):
    """Eq. 33 as it stands, in float64: one output at a time."""
    x = np.pad(x.astype(np.float64), ((0, 0), *pads, (0, 0)))
    height, width, inputs, features = kernel.shape
    reach = [(f - 1) * d + 1 for f, d in zip((height, width), dilation, strict=True)]
    size = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:3], reach, strides, strict=True)]
    y = np.zeros((x.shape[0], *size, features))
    for i, j, feature in np.ndindex(*size, features):
        first = feature // (features // groups) * inputs
        for m, n in np.ndindex(height, width):
            pixel = x[:, i * strides[0] + m * dilation[0], j * strides[1] + n * dilation[1], first : first + inputs]
            y[:, i, j, feature] += pixel @ kernel[m, n, :, feature]
    return y


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.slow
@few
@given(
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    window=pairs,
    strides=pairs,
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.sampled_from(["SAME", "VALID", 0, 1, 2, ((0, 1), (2, 0))]),
    groups=st.sampled_from([1, 2]),
    use_bias=st.booleans(),
)
def test_conv_is_the_sum_of_eq_33(size, window, strides, dilation, padding, groups, use_bias):
    x, kernel, bias = normal((2, *size, 4)), normal((*window, 4 // groups, 6), 1), normal((6,), 2)
    match padding:
        case "SAME":
            pads = same_padding(size, window, strides, dilation)
        case "VALID":
            pads = [(0, 0), (0, 0)]
        case int():
            pads = [(padding, padding)] * 2
        case _:
            pads = padding
    layer = Conv(6, window, strides, padding, dilation, groups, use_bias)
    params = {"kernel": kernel, "bias": bias} if use_bias else {"kernel": kernel}
    y = layer.apply({"params": params}, x)
    wanted = conv_by_loops(x, kernel, strides, pads, dilation, groups) + (bias if use_bias else 0)
    chex.assert_shape(y, wanted.shape)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-4)


@few
@given(n=st.integers(5, 12), f=st.integers(1, 5), s=st.integers(1, 4), p=st.integers(0, 3), other=st.integers(5, 12))
def test_conv_output_size_is_eq_34(n, f, s, p, other):
    layer = Conv(1, f, s, padding=p)
    shape = jax.eval_shape(layer.init_with_output, jax.random.key(0), jnp.zeros((1, n, other, 1)))[0].shape
    assert shape == (1, (n + 2 * p - f) // s + 1, (other + 2 * p - f) // s + 1, 1)


def test_conv_dtypes():
    x = jnp.ones((1, 4, 4, 2))
    variables = Conv(3, dtype=jnp.bfloat16).init(jax.random.key(0), x)
    chex.assert_type(jax.tree.leaves(variables), jnp.float32)
    chex.assert_type(Conv(3, dtype=jnp.bfloat16).apply(variables, x), jnp.bfloat16)
    chex.assert_type(Conv(3).apply(variables, x.astype(jnp.bfloat16)), jnp.float32)


def test_conv_starts_without_bias_and_with_the_variance_of_lecun():
    kernel, bias = (
        Conv(64, 5).init(jax.random.key(0), jnp.zeros((1, 5, 5, 32)))["params"][k] for k in ("kernel", "bias")
    )
    assert not np.any(bias)
    np.testing.assert_allclose(kernel.var(), 1 / (5 * 5 * 32), rtol=0.05)


def test_he_normal_has_the_variance_of_the_paper():
    np.testing.assert_allclose(layers.he_normal(jax.random.key(0), (3, 3, 32, 64)).var(), 2 / (3 * 3 * 64), rtol=0.05)


# Transposed convolution


@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "stride", "padding"),
    [
        (window, stride, padding)
        for window, stride, padding in itertools.product(range(1, 6), range(1, 4), ("SAME", "VALID", 0, 1, 2))
        if isinstance(padding, str) or padding < window  # beyond that, outputs would see zeros alone
    ],
)
def test_conv_transpose_is_the_transpose_of_conv(window, stride, padding):
    """⟨conv(x), y⟩ = ⟨x, conv_transpose(y)⟩ for all x, so the transpose that JAX derives is matched everywhere."""
    sizes, inputs, features = (3, 4), 2, 3
    kernel = normal((window, window, inputs, features))
    y = normal((2, *sizes, features), 1)

    transposed = convolution.conv_transpose(y, kernel.swapaxes(2, 3), strides=(stride, stride), padding=padding)
    match padding:
        case "SAME":
            wanted = tuple(n * stride for n in sizes)
        case "VALID":
            wanted = tuple((n - 1) * stride + max(window, stride) for n in sizes)
        case p:
            wanted = tuple((n - 1) * stride + window - 2 * p for n in sizes)
    chex.assert_shape(transposed, (2, *wanted, inputs))

    x = normal(transposed.shape, 2)
    conv = functools.partial(convolution.conv, kernel=kernel, strides=(stride, stride), padding=padding)
    forward, pull_back = jax.vjp(conv, x)
    chex.assert_trees_all_close(transposed, pull_back(y)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.vdot(forward, y), np.vdot(x, transposed), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("use_bias", [True, False])
def test_conv_transpose_layer(use_bias):
    x, layer = normal((2, 3, 5, 4)), ConvTranspose(6, (4, 3), (2, 1), use_bias=use_bias, dtype=jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    chex.assert_shape(variables["params"]["kernel"], (4, 3, 4, 6))
    chex.assert_type(jax.tree.leaves(variables), jnp.float32)
    chex.assert_shape(y, (2, 6, 5, 6))
    chex.assert_type(y, jnp.bfloat16)
    assert set(variables["params"]) == ({"kernel", "bias"} if use_bias else {"kernel"})
    if use_bias:
        one_more = {"params": {**variables["params"], "bias": jnp.ones(6)}}
        chex.assert_trees_all_close(layer.apply(one_more, x), y + 1, rtol=0.02, atol=0.02)
