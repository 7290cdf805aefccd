"""Pooling, of windows in convolution.py and of whole images in basic.py, against loops and finite differences."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.zoo.layers.arrays import normal, same_padding
from zoo import layers
from zoo.layers import convolution

# Of windows


def pool_by_loops(reduce, x, window, strides, pads, fill):
    x = np.pad(x.astype(np.float64), ((0, 0), *pads, (0, 0)), constant_values=fill)
    size = [(n - w) // s + 1 for n, w, s in zip(x.shape[1:3], window, strides, strict=True)]
    y = np.zeros((x.shape[0], *size, x.shape[-1]))
    for i, j in np.ndindex(*size):
        top, left = i * strides[0], j * strides[1]
        y[:, i, j] = reduce(x[:, top : top + window[0], left : left + window[1]], axis=(1, 2))
    return y


POOLINGS = {
    "side by side": ((6, 8), (2, 2), None, "VALID"),
    "side by side, a window that is no square": ((6, 8), (3, 2), None, "VALID"),
    "side by side, the window does not divide the size": ((7, 8), (2, 3), None, "VALID"),
    "side by side, SAME without padding": ((6, 8), (2, 2), None, "SAME"),
    "overlapping": ((7, 8), (3, 3), (2, 2), "VALID"),
    "overlapping, one stride for each axis": ((7, 8), (3, 2), (1, 2), "VALID"),
    "with gaps": ((7, 8), (2, 2), (3, 3), "VALID"),
    "padded by one": ((7, 8), (3, 3), (2, 2), 1),
    "padded, side by side": ((7, 8), (2, 2), (2, 2), 1),
    "padded by SAME": ((7, 9), (2, 2), (2, 2), "SAME"),
    "padded on one side": ((7, 8), (3, 3), (2, 2), ((0, 1), (1, 0))),
}

every_pooling = pytest.mark.parametrize(("size", "window", "strides", "padding"), POOLINGS.values(), ids=POOLINGS)


@pytest.mark.slow
@every_pooling
@pytest.mark.parametrize(
    ("pool", "reduce", "fill"), [(convolution.max_pool, np.max, -np.inf), (convolution.avg_pool, np.mean, 0.0)]
)
def test_pooling(pool, reduce, fill, size, window, strides, padding):
    x = normal((2, *size, 3)) - 1  # mostly negative, so that a maximum with zeros would show
    pads = {"VALID": [(0, 0)] * 2, "SAME": same_padding(size, window, strides or window, (1, 1))}.get(str(padding))
    pads = pads or ([(padding, padding)] * 2 if isinstance(padding, int) else padding)
    wanted = pool_by_loops(reduce, x, window, strides or window, pads, fill)
    y = pool(x, window, strides, padding)
    chex.assert_shape(y, wanted.shape)
    np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@every_pooling
def test_max_pool_gradient(size, window, strides, padding):
    """Under `jit`: the whole gradient goes to the maximum of each window, as finite differences confirm."""
    x = np.random.default_rng(0).permutation(2 * np.prod(size)).reshape(1, *size, 2).astype(np.float32)  # no ties

    def loss(x):
        y = convolution.max_pool(x, window, strides, padding)
        return (y * jnp.arange(1, y.size + 1, dtype=y.dtype).reshape(y.shape)).sum() / y.size

    gradient = jax.jit(jax.grad(loss))(x)
    value = jax.jit(loss)
    for index in [(0, 0, 0, 0), (0, 3, 4, 1), *map(tuple, np.argwhere(x == x.max()))]:
        moved = x.copy()
        moved[index] += 0.5  # less than the distance to the next value
        np.testing.assert_allclose((value(moved) - value(x)) / 0.5, gradient[index], rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool_gives_ties_to_the_first(stride):
    gradient = jax.grad(lambda x: convolution.max_pool(x, (2, 2), (stride, stride)).sum())(jnp.ones((1, 4, 4, 1)))
    first = np.arange(4) % stride == 0 if stride > 1 else np.arange(4) < 3
    chex.assert_trees_all_equal(gradient[0, :, :, 0], jnp.asarray(np.outer(first, first), jnp.float32))


def test_max_pool_gradient_is_whole_with_ties():
    for strides in ((2, 2), (1, 1)):
        x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (1, 6, 6, 2)), jnp.float32)
        y, pull_back = jax.vjp(functools.partial(convolution.max_pool, window=(2, 2), strides=strides), x)
        np.testing.assert_allclose(pull_back(jnp.ones_like(y))[0].sum(), y.size)


@pytest.mark.parametrize("strides", [(2, 2), (1, 1)])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_max_pool_of_other_dtypes(strides, dtype):
    x = jnp.arange(-16, 0).reshape(1, 4, 4, 1)
    y = convolution.max_pool(x.astype(dtype), (2, 2), strides)
    chex.assert_type(y, dtype)
    wanted = convolution.max_pool(x.astype(jnp.float32), (2, 2), strides)
    chex.assert_trees_all_equal(y.astype(jnp.float32), wanted)


def test_pooling_sees_no_padding_where_the_maximum_is_infinite():
    y = convolution.max_pool(jnp.full((1, 3, 3, 1), -jnp.inf), (3, 3), (2, 2), padding=1)
    assert np.all(np.isneginf(y))


# Of whole images


def test_global_avg_pool_and_flatten():
    x = normal((2, 3, 5, 4))
    np.testing.assert_allclose(layers.global_avg_pool(x), x.reshape(2, 15, 4).mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layers.flatten(jnp.asarray(x)), x.reshape(2, 60))


def test_adaptive_avg_pool_repeats_or_averages():
    x = jnp.arange(1.0, 4).reshape(1, 1, 3, 1)
    np.testing.assert_array_equal(layers.adaptive_avg_pool(x, (1, 2)).ravel(), [1.5, 2.5])
    np.testing.assert_array_equal(layers.adaptive_avg_pool(x, (2, 3)).ravel(), [1, 2, 3, 1, 2, 3])
    assert layers.adaptive_avg_pool(x.astype(jnp.bfloat16), (1, 2)).dtype == jnp.bfloat16
