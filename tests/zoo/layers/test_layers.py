"""Layers against direct NumPy implementations, closed forms and transposition."""

from __future__ import annotations

import functools
import itertools

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from zoo import layers
from zoo.layers import BATCH_AXIS, BatchNorm, Conv, ConvTranspose, Dropout, DropPath, convolution

few = settings(max_examples=25, deadline=None, database=None, derandomize=True)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


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


def same_padding(size, window, strides, dilation):
    """⌈n / s⌉ outputs, with the odd zero at the end."""
    pads = []
    for n, f, s, d in zip(size, window, strides, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (f - 1) * d + 1 - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


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


# Pooling


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


def test_global_avg_pool_and_flatten():
    x = normal((2, 3, 5, 4))
    np.testing.assert_allclose(layers.global_avg_pool(x), x.reshape(2, 15, 4).mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(layers.flatten(jnp.asarray(x)), x.reshape(2, 60))


# Batch normalisation


def batch_norm_variables(features, seed=0):
    rng = np.random.default_rng(seed)
    draw = functools.partial(rng.uniform, size=features)
    return {
        "params": {"scale": np.float32(draw(0.5, 2)), "bias": np.float32(draw(-1, 1))},
        "batch_stats": {"mean": np.float32(draw(-1, 1)), "var": np.float32(draw(0.5, 2))},
    }


both_ranks = pytest.mark.parametrize("shape", [(16, 5), (4, 3, 2, 5), (7, 2, 5)])


@both_ranks
@pytest.mark.parametrize(("momentum", "epsilon"), [(0.9, 1e-5), (0.99, 1e-3), (0.0, 1e-5)])
def test_batch_norm_in_training(shape, momentum, epsilon):
    x, variables = normal(shape) * 3 + 1, batch_norm_variables(5)
    layer = BatchNorm(momentum, epsilon)
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])

    z = x.astype(np.float64).reshape(-1, 5)
    mean = z.sum(0) / len(z)  # eq. 29
    var = np.square(z - mean).sum(0) / len(z)  # eq. 30, biased
    normalised = (z - mean) / np.sqrt(var + epsilon)  # eq. 31
    wanted = variables["params"]["scale"] * normalised + variables["params"]["bias"]  # eq. 32
    np.testing.assert_allclose(y, wanted.reshape(shape), rtol=1e-4, atol=1e-5)
    old, new = variables["batch_stats"], updates["batch_stats"]
    np.testing.assert_allclose(new["mean"], momentum * old["mean"] + (1 - momentum) * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["var"], momentum * old["var"] + (1 - momentum) * var, rtol=1e-5)


@both_ranks
def test_batch_norm_in_inference(shape):
    x, variables = normal(shape) * 3 + 1, batch_norm_variables(5)
    y, updates = BatchNorm().apply(variables, x, mutable=["batch_stats"])
    params, stats = variables["params"], variables["batch_stats"]
    wanted = params["scale"] * (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) + params["bias"]
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(updates["batch_stats"], stats)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_starts_as_the_standard_normal(train):
    variables = BatchNorm().init(jax.random.key(0), normal((8, 3)) + 5, train=train)
    stats = {"mean": np.zeros(3, np.float32), "var": np.ones(3, np.float32)}
    params = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    chex.assert_trees_all_equal(variables, {"params": params, "batch_stats": stats})


def test_batch_norm_running_statistics_converge():
    x, layer = normal((64, 3)) * 2 + 4, BatchNorm()
    variables = layer.init(jax.random.key(0), x)
    for _ in range(150):
        variables |= layer.apply(variables, x, train=True, mutable=["batch_stats"])[1]
    np.testing.assert_allclose(variables["batch_stats"]["mean"], x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(variables["batch_stats"]["var"], x.var(0), rtol=1e-4)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_in_bfloat16_keeps_statistics_in_float32(train):
    x, variables = normal((512, 3)) + 3, batch_norm_variables(3)
    x16 = jnp.asarray(x, jnp.bfloat16)
    y, updates = BatchNorm(dtype=jnp.bfloat16).apply(variables, x16, train=train, mutable=["batch_stats"])
    wanted, wanted_updates = BatchNorm().apply(variables, np.float32(x16), train=train, mutable=["batch_stats"])
    chex.assert_type(y, jnp.bfloat16)
    chex.assert_type(wanted, jnp.float32)
    np.testing.assert_allclose(np.float32(y), wanted, rtol=0.01, atol=0.01)
    chex.assert_trees_all_close(updates, wanted_updates, rtol=1e-6)


def test_batch_norm_gradient_goes_through_the_statistics():
    """The outputs do not move with a shift or a scale of their inputs, so neither does any loss of them."""
    x, variables = normal((16, 3)), batch_norm_variables(3)

    def loss(x):
        return (BatchNorm(epsilon=0.0).apply(variables, x, train=True, mutable=["batch_stats"])[0] ** 3).sum()

    gradient = np.asarray(jax.grad(loss)(x))
    assert np.abs(gradient).max() > 0.1
    np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-4)
    np.testing.assert_allclose((gradient * (x - x.mean(0))).sum(0), 0, atol=1e-3)


def test_batch_norm_derivatives_are_those_of_its_formula():
    """Of the output and of the statistics, along a direction and backwards, and along a direction of the gradient."""
    variables = batch_norm_variables(3)
    old = variables["batch_stats"]

    def layer(x, params):
        state = {"params": params, "batch_stats": old}
        y, updates = BatchNorm(0.5, 0.1).apply(state, x, train=True, mutable=["batch_stats"])
        return y, updates["batch_stats"]

    def formula(x, params):
        new = {"mean": x.mean((0, 1)), "var": x.var((0, 1))}
        slope = params["scale"] / jnp.sqrt(new["var"] + 0.1)
        y = slope[None, None] * (x - new["mean"][None, None]) + params["bias"][None, None]
        return y, jax.tree.map(lambda a, b: (a + b) / 2, old, new)

    at = (jnp.asarray(normal((6, 2, 3)) * 2 + 3), variables["params"])
    along = jax.tree.map(lambda leaf: jnp.asarray(normal(leaf.shape, seed=1)), at)

    def derivatives(function):
        def loss(*at):
            return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(function(*at)))

        return jax.jvp(function, at, along), jax.jvp(jax.grad(loss, (0, 1)), at, along)

    chex.assert_trees_all_close(derivatives(layer), derivatives(formula), rtol=1e-4, atol=1e-5)


# The mapped axis


def test_batch_axis_outside_a_map():
    assert layers.batch_axis() is None
    assert jax.jit(lambda x: x * (layers.batch_axis() is None))(1) == 1


def test_batch_axis_under_another_name():
    assert jax.pmap(lambda x: x * (layers.batch_axis() is None), axis_name="model")(jnp.ones(8)).sum() == 8


def test_batch_axis_inside_a_map():
    def inside(x):
        assert layers.batch_axis() == BATCH_AXIS
        return jax.lax.pmean(x, BATCH_AXIS)

    x = jnp.arange(8.0)
    mesh = jax.make_mesh((8,), (BATCH_AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec(BATCH_AXIS)
    maps = (
        jax.pmap(inside, axis_name=BATCH_AXIS),
        jax.vmap(inside, axis_name=BATCH_AXIS),
        jax.jit(jax.shard_map(inside, mesh=mesh, in_specs=spec, out_specs=PartitionSpec())),
    )
    for mapped in maps:
        np.testing.assert_allclose(mapped(x), 3.5)


@pytest.mark.parametrize("map_", [jax.pmap, jax.vmap])
def test_batch_norm_normalises_by_the_whole_batch_under_a_map(map_):
    """The shards have different means, so the variance is not the mean of theirs."""
    x, variables = normal((8, 4, 3)) + np.arange(8, dtype=np.float32)[:, None, None], batch_norm_variables(3)

    def forward(x):
        return BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])

    y, updates = map_(forward, axis_name=BATCH_AXIS)(x)
    wanted, wanted_updates = forward(x.reshape(32, 3))
    np.testing.assert_allclose(y.reshape(32, 3), wanted, rtol=1e-4, atol=1e-5)
    for shard in range(8):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, shard=shard: leaf[shard], updates), wanted_updates, rtol=1e-5
        )


# Dropout


def drop(x, rate, seed=0):
    return Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(seed)})


# Rates near a multiple of 1/256 take one byte for each unit, the others two.
@pytest.mark.parametrize(
    ("rate", "rounded"), [(0.1, 26 / 256), (0.3, 77 / 256), (0.5, 0.5), (0.9, 230 / 256), (0.01, 655 / 65536)]
)
def test_dropout_rate_and_expectation(rate, rounded):
    n = 2**18
    y = np.asarray(drop(jnp.ones(n), rate))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rounded), rtol=1e-6)
    assert np.unique(y).size == 2
    deviation = np.sqrt(rounded * (1 - rounded) / n)
    assert abs(kept.mean() - (1 - rounded)) < 5 * deviation
    assert abs(y.mean() - 1) < 5 * deviation / (1 - rounded)


@given(st.floats(0.0001, 0.9999))
@settings(max_examples=200, deadline=None)
def test_dropout_rounds_its_rate_by_little(rate):
    scale = float(np.asarray(drop(jnp.ones(4096), rate)).max())
    if scale:  # else no unit was kept
        assert abs(1 - 1 / scale - rate) <= 0.02 * min(rate, 1 - rate) + 2**-17


def test_dropout_rate_is_exact_where_it_is_least():
    """One of 2¹⁶ draws drops a unit, not two."""
    n = 2**22
    dropped = np.count_nonzero(np.asarray(drop(jnp.ones(n), 2**-16)) == 0)
    assert abs(dropped - n / 2**16) < 5 * np.sqrt(n / 2**16)


def test_dropout_zeros_are_exact_also_for_infinite_inputs():
    y = np.asarray(drop(jnp.full(1000, jnp.inf), 0.5))
    assert set(np.unique(y)) == {0.0, np.inf}


def test_dropout_mask_is_a_function_of_the_key():
    x = jnp.asarray(normal((64, 5)))
    chex.assert_trees_all_equal(drop(x, 0.5, seed=3), drop(x, 0.5, seed=3))
    assert np.any(drop(x, 0.5, seed=3) != drop(x, 0.5, seed=4))
    chex.assert_trees_all_close(drop(x, 0.5) + drop(-x, 0.5), jnp.zeros_like(x))


def test_dropout_draws_are_independent():
    """Four neighbours come from one 32-bit word: neither they nor lines nor halves are correlated."""
    kept = np.asarray(drop(jnp.ones((512, 512)), 0.5)) / 2 - 0.5
    for a, b in ((kept[:, ::2], kept[:, 1::2]), (kept[:-1], kept[1:]), (kept[:256], kept[256:])):
        assert abs((a * b).mean()) / 0.25 < 5 / np.sqrt(a.size)


def test_dropout_is_the_identity_at_rate_0_and_in_inference():
    x = jnp.asarray(normal((3, 5)))
    for layer, train in ((Dropout(0.0), True), (Dropout(0.5), False)):
        chex.assert_trees_all_equal(layer.apply({}, x, train=train), x)
    chex.assert_trees_all_equal(Dropout(0.5).apply({}, x), x)


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("train", [False, True])
def test_dropout_refuses_a_rate_outside_of_0_to_1(rate, train):
    with pytest.raises(ValueError, match=r"dropout rate must be in \[0, 1\)"):
        Dropout(rate).apply({}, jnp.ones(3), train=train, rngs={"dropout": jax.random.key(0)})


def test_dropout_next_to_rate_1_stays_finite():
    chex.assert_tree_all_finite(drop(jnp.ones(2**10), 0.9999999))


def test_dropout_without_a_key_is_refused():
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        Dropout(0.5).apply({}, jnp.ones(3), train=True)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (3, 5, 7, 1), (0, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dropout_keeps_shape_and_dtype(shape, dtype):
    y = drop(jnp.ones(shape, dtype), 0.5)
    chex.assert_shape(y, shape)
    chex.assert_type(y, dtype)
    assert set(np.unique(np.float32(y))) <= {0.0, 2.0}


def test_dropout_gradient_is_the_mask():
    x = jnp.asarray(normal((9, 9)))
    gradient = jax.grad(lambda x: drop(x, 0.5).sum())(x)
    chex.assert_trees_all_equal(gradient * x, drop(x, 0.5))


def test_drop_path_drops_whole_examples():
    x = jnp.asarray(normal((4096, 2, 3)))
    y = np.asarray(DropPath(0.25).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    kept = np.any(y != 0, axis=(1, 2))
    assert kept.mean() == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(y[kept], x[kept] / 0.75, rtol=1e-6)
    assert DropPath(0.25).apply({}, x) is x
    assert DropPath(0.0).apply({}, x, train=True) is x


def test_adaptive_avg_pool_repeats_or_averages():
    x = jnp.arange(1.0, 4).reshape(1, 1, 3, 1)
    np.testing.assert_array_equal(layers.adaptive_avg_pool(x, (1, 2)).ravel(), [1.5, 2.5])
    np.testing.assert_array_equal(layers.adaptive_avg_pool(x, (2, 3)).ravel(), [1, 2, 3, 1, 2, 3])
    assert layers.adaptive_avg_pool(x.astype(jnp.bfloat16), (1, 2)).dtype == jnp.bfloat16


# What a model checks and records


@pytest.mark.parametrize("shape", [(2, 3, 5, 3), (2, 4, 3, 3), (4, 5, 3)])
def test_require_image(shape):
    layers.require_image(jnp.zeros((2, 4, 5, 3)), least=4, model="M")
    wanted = r"M takes images of shape \[batch, height ≥ 4, width ≥ 4, channels\], not \[" + ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=wanted):
        layers.require_image(jnp.zeros(shape), least=4, model="M")


def test_record_costs_nothing_unless_asked():
    class Twice(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            layers.record(self, "input", x)
            layers.record(self, "input", 2 * x)
            return x

    x = jnp.ones(3)
    assert Twice().init(jax.random.key(0), x) == {}
    chex.assert_trees_all_equal(Twice().apply({}, x), x)
    _, extra = Twice().apply({}, x, mutable=["intermediates"])
    chex.assert_trees_all_equal(extra, {"intermediates": {"input": 2 * x}})
