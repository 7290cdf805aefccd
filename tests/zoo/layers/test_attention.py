"""Attention, positions and the cache against closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.descriptors import random_variables
from zoo.layers import attention
from zoo.layers.attention import (
    MultiHeadAttention,
    attend,
    attention_weights,
    causal_context,
    empty_cache,
    rotate,
    sinusoids,
)


def normal(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_hand(query, key, value, seen):
    """Eq. 56 in double precision, for one head at a time; `seen` is `[batch, queries, keys]`."""
    heads, shared = query.shape[2], query.shape[2] // key.shape[2]
    weights = np.zeros((len(query), heads, query.shape[1], key.shape[1]))
    for head in range(heads):
        scores = np.einsum("bqd,bkd->bqk", np.float64(query[:, :, head]), key[:, :, head // shared])
        e = np.where(seen, np.exp(scores / np.sqrt(query.shape[-1])), 0)
        weights[:, head] = e / e.sum(-1, keepdims=True)
    return weights, np.einsum("bhqk,bkhd->bqhd", weights, value.repeat(shared, axis=2))


@pytest.mark.slow
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("kind", ["all", "causal", "lengths", "mask", "mask and causal"])
def test_attention_is_equation_56(kind, kv_heads):
    query, key, value = normal(2, 5, 4, 6), normal(2, 5, kv_heads, 6, seed=4), normal(2, 5, kv_heads, 6, seed=5)
    lengths, padded = np.array([3, 5], np.int32), np.array([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]], bool)
    before, everywhere = np.tri(5, dtype=bool)[None], np.ones((1, 5, 5), bool)
    options, seen = {
        "all": ({}, everywhere),
        "causal": ({"causal": True}, before),
        "lengths": ({"key_lengths": lengths}, (np.arange(5) < lengths[:, None])[:, None] & everywhere),
        "mask": ({"mask": padded[:, None, None]}, padded[:, None] & everywhere),
        "mask and causal": ({"mask": padded[:, None, None], "causal": True}, padded[:, None] & before),
    }[kind]
    weights, wanted = by_hand(query, key, value, np.broadcast_to(seen, (2, 5, 5)))
    np.testing.assert_allclose(attention_weights(query, key, **options), weights, atol=1e-6)
    np.testing.assert_allclose(attend(query, key, value, **options), wanted, atol=1e-5)
    np.testing.assert_allclose(
        attend(query, key, value, **options),
        jax.nn.dot_product_attention(
            query,
            key,
            value,
            mask=options.get("mask"),
            is_causal="causal" in options,
            key_value_seq_lengths=options.get("key_lengths"),
        ),
        atol=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "keys"), [(2, 5), (1, 4), (5, 2)])
def test_causal_queries_count_from_the_first_key(queries, keys):
    """Where they are not as many: query i sees keys 0 … i, and not, as where a cache stands before them, more."""
    query, key, value = normal(2, queries, 2, 4), normal(2, keys, 2, 4, seed=4), normal(2, keys, 2, 4, seed=5)
    seen = np.arange(keys) <= np.arange(queries)[:, None]
    weights, wanted = by_hand(query, key, value, np.broadcast_to(seen, (2, queries, keys)))
    np.testing.assert_allclose(attention_weights(query, key, causal=True), weights, atol=1e-6)
    found = attend(query, key, value, causal=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(found, jax.nn.dot_product_attention(query, key, value, is_causal=True), atol=1e-5)


@pytest.mark.parametrize(("queries", "keys", "parts"), [(9, 9, 3), (8, 5, 4), (5, 9, 2), (3, 3, 1)])
def test_long_causal_attention_part_by_part_is_that_of_all_at_once(queries, keys, parts, monkeypatch):
    monkeypatch.setattr(attention, "_LEAST", 2 + queries % 2)
    options = {"mask": None, "causal": True, "key_lengths": np.array([keys, 2], np.int32)}
    arrays = normal(2, queries, 4, 6), normal(2, keys, 2, 6, seed=4), normal(2, keys, 2, 6, seed=5)

    def values_and_gradients(function):
        def weighted(*arrays):
            y = function(*arrays, **options)
            return (y * normal(*y.shape, seed=6)).sum(), y

        return jax.tree.leaves(jax.jit(jax.grad(weighted, (0, 1, 2), has_aux=True))(*arrays))

    found, wanted = map(values_and_gradients, (attention._attend, attention._attend_at_once))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    program = str(jax.make_jaxpr(lambda *arrays: attention._attend(*arrays, **options))(*arrays))
    assert program.count(" exp ") == parts


def test_a_query_that_sees_nothing_gives_numbers():
    query, key, value = normal(1, 2, 1, 4), normal(1, 3, 1, 4, seed=4), normal(1, 3, 1, 4, seed=5)
    mask = np.array([[False] * 3, [True] * 3])[None, None]
    y, grads = jax.value_and_grad(lambda *qkv: attend(*qkv, mask=mask).sum(), (0, 1, 2))(query, key, value)
    assert np.isfinite(y)
    assert all(np.isfinite(grad).all() for grad in grads)
    np.testing.assert_allclose(attend(query, key, value, mask=mask)[0, 0], value[0].mean(axis=0), rtol=1e-6)


def test_half_precision_keeps_the_weights_in_single():
    query, key, value = (jnp.bfloat16(normal(1, 7, 2, 8, seed=seed)) for seed in range(3))
    assert attention_weights(query, key).dtype == jnp.float32
    y = attend(query, key, value)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(y), attend(*map(jnp.float32, (query, key, value))), atol=0.02)


def test_flash_attention_is_for_gpus_from_ampere_on(monkeypatch):
    """This process has no GPU: only what is asked before cuDNN is called can be seen here."""
    query = jnp.zeros((1, 4, 2, 64), jnp.bfloat16)
    assert not attention._has_flash_attention(query)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for capability, has in (("9.0", True), ("8.0", True), ("7.5", False), ("gfx942", False)):
        device = type("Device", (), {"compute_capability": capability})
        monkeypatch.setattr(jax, "local_devices", lambda device=device: [device])
        assert attention._has_flash_attention(query) == has
    monkeypatch.setattr(jax, "local_devices", lambda: [type("Device", (), {"compute_capability": "9.0"})])
    assert not attention._has_flash_attention(query.astype(jnp.float32))
    assert not attention._has_flash_attention(query[..., :33])


def test_weights_of_a_module_on_request():
    x, layer = normal(2, 5, 8), MultiHeadAttention(2)
    variables = random_variables(layer, x)
    assert set(variables) == {"params"}
    y, extra = layer.apply(variables, x, causal=True, mutable=["attention_weights"])
    weights = extra["attention_weights"]["weights"]
    assert weights.shape == (2, 2, 5, 5)
    assert not np.triu(weights, 1).any()
    value = (x @ variables["params"]["value"]["kernel"] + variables["params"]["value"]["bias"]).reshape(2, 5, 2, 4)
    heads = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(2, 5, 8)
    wanted = heads @ variables["params"]["out"]["kernel"] + variables["params"]["out"]["bias"]
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    np.testing.assert_allclose(y, layer.apply(variables, x, causal=True), atol=1e-6)


def test_shapes_of_the_kernels():
    """The heads' size is free, keys may have fewer heads, and a memory its own number of features."""
    x, memory = jax.ShapeDtypeStruct((1, 3, 8), jnp.float32), jax.ShapeDtypeStruct((1, 4, 6), jnp.float32)
    layer = MultiHeadAttention(4, num_kv_heads=2, head_dim=5, use_bias=False)
    shapes = jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(layer.init, jax.random.key(0), x, memory)["params"])
    kernels = {name: layer["kernel"] for name, layer in shapes.items()}
    assert kernels == {"query": (8, 20), "key": (6, 10), "value": (6, 10), "out": (20, 8)}
    assert all(set(layer) == {"kernel"} for layer in shapes.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "8 features cannot be shared evenly by 3 heads"),
        ({"num_heads": 4, "num_kv_heads": 3}, "3 heads of keys cannot serve 4 heads of queries"),
    ],
)
def test_heads_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(**options).init(jax.random.key(0), jnp.zeros((1, 3, 8)))


def test_sinusoids_are_equations_59_and_60():
    table = sinusoids(50, 6)
    for position in (0, 1, 49):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            np.testing.assert_allclose(table[position, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-6)


def test_an_odd_number_of_features_ends_with_a_sine():
    table, rates = sinusoids(9, 5), 10_000.0 ** (-np.array([0, 0, 2, 2, 4]) / 5)
    angles = np.arange(9)[:, None] * rates
    np.testing.assert_allclose(table[:, 0::2], np.sin(angles)[:, 0::2], atol=1e-6)
    np.testing.assert_allclose(table[:, 1::2], np.cos(angles)[:, 1::2], atol=1e-6)


def test_rotations_are_those_of_complex_numbers():
    """Feature i and i + d/2 are a number's real and imaginary part (Su et al. 2021, eq. 12–13)."""
    x, positions = normal(2, 4, 3, 6), np.array([[0, 1, 2, 3], [7, 100, 2000, 5]])
    numbers = x[..., :3] + 1j * x[..., 3:]
    turned = numbers * np.exp(1j * positions[..., None, None] * 500.0 ** (-2 * np.arange(3) / 6))
    wanted = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(rotate(x, positions, 500.0), wanted, atol=2e-4)
    np.testing.assert_allclose(rotate(x, np.zeros((1, 4), int)), x)


def test_rotated_scores_depend_on_the_distance_alone():
    query, key = normal(1, 4, 2, 8), normal(1, 4, 2, 8, seed=4)
    here, there = np.arange(4)[None], np.arange(4)[None] + 50
    weights = [attention_weights(rotate(query, where), rotate(key, where)) for where in (here, there)]
    np.testing.assert_allclose(*weights, atol=1e-5)


@pytest.mark.parametrize(
    ("mask", "positions"),
    [
        ([True, True, False, False, True, True, True], [0, 1, 1, 1, 2, 3, 4]),
        ([1, 1, 0, 0, 1, 1, 1], [0, 1, 1, 1, 2, 3, 4]),
        ([0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 2, 3, 4]),
        ([1, 1, 1, 2, 2, 2, 0], [0, 1, 2, 0, 1, 2, 5]),
        ([1, 0, 1, 2, 0, 2, 2], [0, 0, 1, 0, 2, 1, 2]),
    ],
)
def test_positions_count_the_tokens_of_a_sequence_wherever_padding_stands(mask, positions):
    """As with a cache, and as transformers counts them; sequences that are packed in a row each begin at 0."""
    tokens, mask = jnp.ones((1, 7), jnp.int32), jnp.asarray([mask])
    np.testing.assert_array_equal(causal_context(tokens, 9, None, mask).positions, [positions])
    if mask.max() == 1:
        cache = empty_cache(1, 9, num_layers=1, num_heads=1, head_dim=2)
        np.testing.assert_array_equal(causal_context(tokens, 9, cache, mask).positions, [positions])
