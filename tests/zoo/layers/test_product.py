"""Products of matrices, on a CPU by oneDNN, equal XLA's own, and so do their derivatives of every order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import export, lax

from zoo.layers import Dense, Embed, lowering, onednn, product

FORMS = [(False, False), (True, False), (False, True), (True, True)]


def plain(a, b, form=(False, False)):
    a, b = (jnp.swapaxes(x, -1, -2) if turned else x for x, turned in zip((a, b), form, strict=True))
    return a @ b


def ours(a, b, form=(False, False)):
    return product.matmul(a, b, transpose_a=form[0], transpose_b=form[1])


def arrays(form, batch=(), m=3, k=5, n=4):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(*batch, *((k, m) if form[0] else (m, k)))).astype(np.float32)
    return a, rng.normal(size=(*batch, *((n, k) if form[1] else (k, n)))).astype(np.float32)


def assert_close(actual, wanted, rtol=1e-5):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        b = np.asarray(b, np.float64)
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=0, atol=rtol * max(1.0, np.abs(b).max(initial=0)))


sizes = st.integers(1, 40)


@pytest.fixture
def at_any_size(monkeypatch):
    monkeypatch.setattr(product, "_SMALL", 1)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.usefixtures("at_any_size")
@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(FORMS),
    batch=st.lists(st.integers(1, 3), max_size=2),
    m=sizes,
    k=sizes,
    n=sizes,
    dtype=st.sampled_from(["float32", "bfloat16"]),
    wide=st.booleans(),
)
def test_value_and_gradients_are_those_of_the_plain_operation(form, batch, m, k, n, dtype, wide):
    a, b = (jnp.asarray(x, dtype) for x in arrays(form, batch, m, k, n))
    exact = plain(*(np.asarray(x, np.float64) for x in (a, b)), form)
    out = jnp.float32 if wide else dtype
    g = jnp.asarray(np.random.default_rng(1).normal(size=exact.shape), dtype).astype(out)

    @jax.jit
    def compute(a, b, g):
        found, transpose = jax.vjp(
            lambda a, b: product.matmul(a, b, transpose_a=form[0], transpose_b=form[1], dtype=out), a, b
        )
        single = (x.astype(jnp.float32) for x in (a, b))
        wanted = jax.vjp(lambda a, b: plain(a, b, form), *single)[1](g.astype(jnp.float32))
        return found, transpose(g), [x.astype(dtype) for x in wanted]

    found, gradients, wanted = compute(a, b, g)
    rtol = 1e-5 if dtype == "float32" else 2e-2
    assert found.dtype == out
    assert_close(found.astype(jnp.float32), exact.astype(jnp.float32), rtol if not wide else 1e-5)
    assert_close(gradients, wanted, rtol)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_derivatives_of_every_order_and_mode(form, library):
    a, b = arrays(form, (2,))
    v, u = a[::-1], b[:, ::-1]

    def derivatives(multiply):
        def value(a, b):
            return jnp.sin(multiply(a, b, form)).sum()

        def norm(a, b):
            return jnp.square(jax.grad(value)(a, b)).sum()

        forward = jax.jvp(lambda a, b: multiply(a, b, form), (a, b), (v, u))
        curvature = jax.jvp(jax.grad(value, argnums=(0, 1)), (a, b), (v, u))
        return jax.jit(lambda: (forward, curvature, jax.grad(norm, argnums=(0, 1))(a, b)))()

    assert_close(derivatives(ours), derivatives(plain), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("form", FORMS)
def test_vmap_over_either_or_both(form, batch, library):
    a, b = arrays(form, batch)
    more_a, more_b = jnp.stack([a, 2 * a, -a], 1), jnp.stack([b, -b, 3 * b], 1)
    for axes, operands in (((1, None), (more_a, b)), ((None, 1), (a, more_b)), ((1, 1), (more_a, more_b))):
        found, wanted = (
            jax.jit(jax.vmap(lambda a, b, multiply=multiply: multiply(a, b, form), axes))(*operands)
            for multiply in (ours, plain)
        )
        assert_close(found, wanted)


def calls(function, *arguments):
    return jax.jit(function).lower(*arguments).as_text().count("__onednn$matmul")


def test_where_it_is_called(monkeypatch):
    a, b = arrays((False, False), m=8, k=512, n=512)
    there = int(onednn.takes(jnp.float32))
    assert calls(ours, a, b) == there
    assert calls(ours, a[:1], b) == calls(ours, a[:2], b) == 0, "a call takes longer than so few multiplications"
    assert calls(jax.vmap(ours), jnp.stack([a] * 2), jnp.stack([b] * 2)) == there
    assert calls(jax.grad(lambda a, b: ours(a, b).sum(), argnums=(0, 1)), a, b) == 2 * there
    assert calls(ours, a[:0], b) == calls(ours, a.astype(jnp.float16), b.astype(jnp.float16)) == 0
    few, large = jax.ShapeDtypeStruct((4, 2**12), jnp.float32), jax.ShapeDtypeStruct((2**12, 2**11), jnp.float32)
    assert calls(ours, few, large) == 0, "XLA reads a large matrix once faster"
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(a, jax.NamedSharding(mesh, jax.P("batch")))
    assert calls(ours, split, b) == 0, "the partitioner does not know it"
    assert_close(jax.jit(ours)(split, b), a @ b)
    large = np.tile(a, (8, 1))
    each = jax.shard_map(ours, mesh=mesh, in_specs=(jax.P("batch"), jax.P()), out_specs=jax.P("batch"))
    assert calls(each, large, b) == there, "each device by itself"
    assert_close(jax.jit(each)(split, b), a @ b)
    mapped = jax.pmap(ours, in_axes=(0, None))
    assert mapped.lower(large.reshape(8, 8, -1), b).as_text().count("__onednn$matmul") == there
    assert_close(mapped(a[:, None], b)[:, 0], a @ b)
    partly = jax.make_mesh((4, 2), ("batch", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    some = jax.shard_map(
        ours, mesh=partly, in_specs=(jax.P("batch"), jax.P()), out_specs=jax.P("batch"), axis_names={"batch"}
    )
    assert calls(some, a, b) == 0, "the axis model is left to the partitioner"
    assert "onednn" not in export.export(jax.jit(ours))(a, b).mlir_module()
    monkeypatch.setattr(lowering, "ENABLED", False)
    jax.clear_caches()
    assert calls(ours, a, b) == 0


@pytest.mark.parametrize(("rows", "columns"), [(70, 2560), (70, 4096), (70, 2304), (60, 2560)])
def test_rows_that_fall_on_the_same_lines_of_the_cache_are_turned_around(rows, columns):
    a, b = arrays((False, False), m=rows, k=16, n=columns)
    turned = "\\22transpose_b\\22: true" in jax.jit(ours).lower(a, b).as_text()
    on_cpu = jax.default_backend() == "cpu" and onednn.takes(jnp.float32)
    assert turned == (on_cpu and (rows, columns) == (70, 2560))
    assert_close(jax.jit(ours)(a, b), a @ b)
    assert_close(jax.jit(ours, static_argnums=2)(a.T, b, (True, False)), a @ b)


@pytest.mark.parametrize("target", ["cuda", "tpu"])
def test_gpu_and_tpu_programs_are_the_plain_operation(target):
    a, b = arrays((False, True), (2,))

    def products(multiply):
        gradients = jax.grad(lambda a, b: jnp.square(multiply(a, b)).sum(), argnums=(0, 1))
        return (
            export.export(jax.jit(gradients), platforms=[target])(a, b).mlir_module().count("= stablehlo.dot_general")
        )

    def einsum(a, b):
        return lax.dot_general(a, b, (((2,), (2,)), ((0,), (0,))))

    assert products(lambda a, b: ours(a, b, (False, True))) == products(einsum) == 3


def test_odd_large_sizes_are_padded_for_tensor_cores():
    rng = np.random.default_rng(0)
    x, table = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((3, 8), (50_257, 8)))

    def loss(x, table):
        return jnp.square(ours(x, table, (False, True)).astype(jnp.float32)).sum()

    gradients = jax.grad(loss, argnums=(0, 1))
    text = export.export(jax.jit(gradients), platforms=["cuda"])(x, table).mlir_module()
    assert text.count("= stablehlo.dot_general") == 3
    assert "50304" in text
    for form in FORMS:
        a, b = (jnp.asarray(each, jnp.bfloat16) for each in arrays(form, (2,), 9000, 8, 9))
        at = product.Form(*form, jnp.dtype(jnp.float32))
        assert_close(product._on_cuda(a, b, at), product._plain(a, b, at))
        assert_close(
            product._on_cuda(b, a, product.Form(not form[1], not form[0], at.dtype)), product._plain(a, b, at).mT
        )


def test_not_a_number_comes_through():
    a, b = arrays((False, False), m=64, k=64, n=64)
    a[0, 0], b[3, 5] = np.nan, np.inf
    np.testing.assert_array_equal(jnp.isfinite(ours(a, b)), np.isfinite(a @ b))


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 3, 5), (0, 5)])
def test_dense_is_that_of_flax(shape):
    import flax.linen as nn

    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    variables = nn.Dense(4).init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, Dense(4).init(jax.random.key(0), x))
    assert_close(Dense(4).apply(variables, x), nn.Dense(4).apply(variables, x))
    assert Dense(4, dtype=jnp.bfloat16).apply(variables, x).dtype == jnp.bfloat16


def test_an_embedding_as_the_output_layer_is_that_of_flax():
    import flax.linen as nn

    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5)), jnp.float32)
    variables = nn.Embed(7, 5).init(jax.random.key(0), jnp.zeros((1,), jnp.int32))
    assert_close(Embed(7, 5).apply(variables, x, method="attend"), nn.Embed(7, 5).apply(variables, x, method="attend"))
