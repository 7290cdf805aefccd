"""What a convolution is lowered to on a CPU equals XLA's own convolution, and so do its derivatives of every order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax

from zoo.layers import convolution, cpu_convolution, lowering, onednn
from zoo.layers.cpu_convolution import Geometry

PLATFORMS = ("cpu", "cuda", "tpu")


def plain(x, kernel, at):
    # Padded before, since XLA's gradient for the kernel is wrong where padding is negative.
    return lax.conv_general_dilated(
        lax.pad(x, np.zeros((), x.dtype), ((0, 0, 0), *((*p, 0) for p in at.pads), (0, 0, 0))),
        kernel,
        at.strides,
        "VALID",
        rhs_dilation=at.dilation,
        feature_group_count=at.groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def ours(x, kernel, at):
    return convolution.conv(x, kernel, strides=at.strides, padding=at.pads, dilation=at.dilation, groups=at.groups)


def assert_close(actual, wanted, rtol=1e-5):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(1.0, float(jnp.abs(b).max(initial=0))))


@st.composite
def convolutions(draw):
    """(batch, inputs, outputs, geometry), of every kind that has an output."""

    def pair(low, high):
        return draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    groups = draw(st.integers(1, 3))
    inputs, outputs = (groups * draw(st.integers(1, 3)) for _ in range(2))
    window, dilation, strides = pair(1, 4), pair(1, 2), pair(1, 3)
    pads = (pair(-1, 3), pair(-1, 3))
    least = [max((f - 1) * d + 1 - sum(p), 2) for f, d, p in zip(window, dilation, pads, strict=True)]
    rows, columns = (n + draw(st.integers(0, 6)) for n in least)
    return draw(st.integers(1, 3)), inputs, outputs, Geometry((rows, columns), window, strides, pads, dilation, groups)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=convolutions())
def test_output_and_gradients_are_those_of_the_plain_operation(case):
    """With oneDNN, without it, and where nothing but XLA's operation is asked for: a program each."""
    batch, inputs, outputs, at = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *at.size, inputs)).astype(np.float32)
    kernel = rng.normal(size=(*at.window, inputs // at.groups, outputs)).astype(np.float32)
    g = rng.normal(size=(batch, *at.out(), outputs)).astype(np.float32)

    def with_gradients(conv, x, kernel, g):
        y, transpose = jax.vjp(lambda x, kernel: conv(x, kernel, at), x, kernel)
        return y, *transpose(g)

    def in_every_way(x, kernel, g):
        """Output, gradients of the image and of the kernel; those of the kernel another way; the output another way."""
        found = (
            cpu_convolution.output(x, kernel, at)[0],
            cpu_convolution.image_gradient(g, kernel, at),
            cpu_convolution.kernel_gradient(x, g, at),
        )
        inside = cpu_convolution.cropped(x, at)
        gradients, values = [cpu_convolution._exchanged_kernel_gradient(inside[0], g, inside[1])], []
        if at.groups == 1:
            gradients.append(cpu_convolution._thin_kernel_gradient(x, g, at))
            if min(min(p) for p in at.pads) >= 0:
                values.append(cpu_convolution._thin_output(x, kernel, at))
        return found, gradients, values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "ENABLED", False)
        wanted, unchanged = jax.jit(
            lambda *arrays: [with_gradients(conv, *arrays) for conv in (plain, ours)],
        )(x, kernel, g)
    assert_close(unchanged, wanted)
    for there in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not there:
                patch.setattr(onednn, "takes", lambda dtype: False)
            found, gradients, values = jax.jit(lambda *arrays: in_every_way(*arrays))(x, kernel, g)
        assert_close(found, wanted)
        assert_close(gradients, [wanted[2]] * len(gradients))
        assert_close(values, [wanted[0]] * len(values))


CASES = {
    "3×3": (5, 4, Geometry((7, 6), (3, 3), (1, 1), ((1, 1), (1, 1)))),
    "3×3 stride 2": (5, 4, Geometry((7, 6), (3, 3), (2, 2), ((1, 1), (1, 1)))),
    "thin output": (32, 3, Geometry((7, 6), (3, 3), (1, 1), ((1, 1), (1, 1)))),
    "1×1 stride 2": (5, 4, Geometry((7, 6), (1, 1), (2, 2), ((0, 0), (0, 0)))),
    "depthwise": (4, 4, Geometry((7, 6), (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 4)),
    "grouped, dilated": (4, 6, Geometry((9, 8), (2, 3), (2, 1), ((1, 1), (2, 2)), (2, 2), 2)),
}
every_case = pytest.mark.parametrize("case", CASES)
HALVES = {**CASES, "16 channels and more": (16, 17, Geometry((7, 6), (3, 2), (2, 1), ((1, -1), (0, 2)), (1, 2)))}


def arrays(case, batch=2):
    inputs, outputs, at = HALVES[case]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, *at.size, inputs)).astype(np.float32)
    return x, rng.normal(size=(*at.window, inputs // at.groups, outputs)).astype(np.float32), at


@every_case
def test_compiled_and_eager_agree_with_the_plain_operation(case, library):
    x, kernel, at = arrays(case)
    wanted = plain(x, kernel, at)
    assert_close(ours(x, kernel, at), wanted)
    assert_close(jax.jit(ours, static_argnums=2)(x, kernel, at), wanted)


@pytest.mark.slow
@every_case
def test_derivatives_of_every_order_and_mode(case, library):
    x, kernel, at = arrays(case)
    v, u = x[::-1], kernel[::-1, ::-1]

    def derivatives(conv):
        def value(x, kernel):
            return jnp.sin(conv(x, kernel, at)).sum()

        def norm(x, kernel):  # the gradient penalty of a GAN: a gradient of gradients
            return jnp.square(jax.grad(value)(x, kernel)).sum()

        forward = jax.jvp(lambda x, kernel: conv(x, kernel, at), (x, kernel), (v, u))
        curvature = jax.jvp(jax.grad(value, argnums=(0, 1)), (x, kernel), (v, u))
        return jax.jit(lambda: (forward, curvature, jax.grad(norm, argnums=(0, 1))(x, kernel)))()

    assert_close(derivatives(ours), derivatives(plain), rtol=1e-4)


@pytest.mark.slow
@every_case
def test_vmap_over_images_kernels_or_both(case, library):
    x, kernel, at = arrays(case)
    xs, kernels = jnp.stack([x, 2 * x, x[::-1]]), jnp.stack([kernel, -kernel, kernel[::-1]])
    for axes, operands in (((0, None), (xs, kernel)), ((None, 0), (x, kernels)), ((0, 0), (xs, kernels))):
        found, wanted = (
            jax.jit(jax.vmap(lambda x, kernel, conv=conv: conv(x, kernel, at), axes))(*operands)
            for conv in (ours, plain)
        )
        assert_close(found, wanted)
    per_example = jax.vmap(jax.grad(lambda kernel, x: jnp.square(ours(x[None], kernel, at)).sum()), (None, 0))
    whole = jax.jit(jax.grad(lambda kernel: jnp.square(ours(x, kernel, at)).sum()))(kernel)
    assert_close(jax.jit(per_example)(kernel, x).sum(0), whole, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", HALVES)
def test_half_precision_is_single_precision_rounded(case, dtype, monkeypatch):
    if onednn._has_tiles():  # as with one device
        monkeypatch.setattr(onednn, "convolves", onednn.takes)
    x, kernel, at = arrays(case)
    halves = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype)
    singles = [half.astype(jnp.float32) for half in halves]
    y, transpose = jax.vjp(lambda x, kernel: ours(x, kernel, at), *halves)
    wanted, transpose_wanted = jax.vjp(lambda x, kernel: plain(x, kernel, at), *singles)
    found = (y, *transpose(y))
    assert {a.dtype for a in found} == {jnp.dtype(dtype)}
    found = [a.astype(jnp.float32) for a in found]
    assert_close(found, (wanted, *transpose_wanted(found[0])), rtol=1e-2)


def test_nothing_in_is_nothing_out():
    x, kernel, at = arrays("3×3", batch=0)
    y, transpose = jax.vjp(lambda x, kernel: ours(x, kernel, at), x, kernel)
    assert y.shape == (0, 7, 6, 4)
    dx, dkernel = transpose(y)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dkernel, np.zeros_like(kernel))


def test_infinities_and_nans_come_through():
    x, kernel, at = arrays("3×3")
    x[0, 0, 0, 0], x[1, 2, 2, 1] = np.inf, np.nan
    np.testing.assert_array_equal(jnp.isfinite(ours(x, kernel, at)), jnp.isfinite(plain(x, kernel, at)))


def test_a_sharded_program_keeps_the_operation_that_the_partitioner_knows():
    x, kernel, at = arrays("3×3", batch=8)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(x, jax.NamedSharding(mesh, jax.P("batch")))
    compiled = jax.jit(ours, static_argnums=2).lower(split, kernel, at).compile()
    assert "all-gather" not in (compiled.as_text() or "")
    y = compiled(split, jax.device_put(kernel, jax.NamedSharding(mesh, jax.P())))
    assert y.sharding.is_equivalent_to(split.sharding, y.ndim)
    assert_close(y, plain(x, kernel, at))


def test_each_device_of_a_mapped_program_computes_as_one_alone():
    x, kernel, at = arrays("3×3 stride 2", batch=8)
    gradient = jax.grad(lambda kernel, x: jnp.square(ours(x, kernel, at)).sum())
    mapped = jax.pmap(lambda kernel, x: lax.psum(gradient(kernel, x), "batch"), axis_name="batch", in_axes=(None, 0))
    assert_close(mapped(kernel, x[:, None])[0], gradient(kernel, x), rtol=1e-4)


@pytest.mark.parametrize("target", PLATFORMS)
def test_exported_programs_call_no_library(target):
    x, kernel, at = arrays("3×3 stride 2")

    def step(x, kernel):
        y = ours(x, kernel, at)
        return jax.grad(lambda kernel: jnp.square(convolution.max_pool(ours(x, kernel, at), (3, 3), (1, 1))).sum())(
            kernel
        ), y

    text = export.export(jax.jit(step), platforms=[target])(x, kernel).mlir_module()
    assert "onednn" not in text
    assert text.count("stablehlo.convolution") >= 2, "XLA's convolution on every platform"
    assert ("select_and_scatter" in text) == (target != "cpu"), "pooling as XLA has it, except on a CPU"


def test_gpu_and_tpu_programs_are_the_plain_operation():
    x, kernel, at = arrays("depthwise")

    def gradients(conv):
        def loss(x, kernel):
            return jnp.square(conv(x, kernel, at)).sum()

        return jax.grad(loss, argnums=(0, 1))

    for target in ("cuda", "tpu"):
        counts = [
            export.export(jax.jit(gradients(conv)), platforms=[target])(x, kernel)
            .mlir_module()
            .count("stablehlo.convolution")
            for conv in (ours, plain)
        ]
        assert counts[0] == counts[1] > 0


@pytest.mark.slow
@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    window=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.tuples(st.integers(0, 1), st.integers(0, 1))] * 2),
    levels=st.integers(1, 4),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_max_pool_on_a_cpu_gives_ties_to_the_first_like_the_plain_operation(size, window, strides, pads, levels):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, levels, (2, *size, 3)), jnp.float32)

    def windows(x):
        return convolution._max_of_windows(x, window=window, strides=strides, pads=pads)

    def taps(x):
        return convolution._max_of_taps(x, window=window, strides=strides, pads=pads)

    g = rng.normal(size=jax.eval_shape(windows, x).shape).astype(np.float32)

    def with_gradient(pool, x):
        y, transpose = jax.vjp(pool, x)
        return y, transpose(g)

    (wanted, wanted_gradient), (found, gradient) = jax.jit(lambda x: [with_gradient(f, x) for f in (windows, taps)])(x)
    np.testing.assert_array_equal(found, wanted)
    assert_close(gradient, wanted_gradient)
