"""Convolutions under `jax.vmap`, with one kernel for all and with a kernel for each."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo.layers.convolution import conv, conv_transpose

SETTINGS = [
    {"padding": "SAME"},
    {"strides": (2, 2), "padding": "SAME"},
    {"strides": (2, 1), "padding": ((1, 0), (0, 2))},
    {"padding": "VALID", "dilation": (2, 1)},
    {"padding": 1, "groups": 2},
    {"padding": ((-1, 0), (1, 1))},
]


def arrays(groups: int = 1, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, 2, 7, 6, 4)).astype(np.float32), rng.normal(size=(3, 3, 3, 4 // groups, 6)).astype(
        np.float32
    )


@pytest.mark.slow
@pytest.mark.parametrize("mapped", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_a_mapped_convolution_is_one_for_each(options, mapped):
    """Its output, and its gradients for images and kernels."""
    x, kernel = arrays(options.get("groups", 1))
    x, kernel = (a if axis == 0 else a[0] for a, axis in zip((x, kernel), mapped, strict=True))

    def one(x, kernel):
        y, back = jax.vjp(partial(conv, **options), x, kernel)
        return y, *back(jnp.cos(y))

    found = jax.jit(jax.vmap(one, in_axes=mapped))(x, kernel)
    for index in range(3):
        wanted = one(*(a[index] if axis == 0 else a for a, axis in zip((x, kernel), mapped, strict=True)))
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-4, atol=1e-4)


def test_a_mapped_transposed_convolution_is_one_for_each():
    x, kernel = arrays()
    found = jax.vmap(partial(conv_transpose, strides=(2, 2)))(x, kernel)
    for index in range(3):
        np.testing.assert_allclose(
            found[index], conv_transpose(x[index], kernel[index], strides=(2, 2)), rtol=1e-4, atol=1e-4
        )


@pytest.mark.slow
def test_second_derivatives_of_a_mapped_convolution():
    """As MAML has them: the gradient through a step of gradient descent with a kernel for each task."""
    x, _ = arrays()
    kernel = arrays(seed=1)[1][0]

    def after_a_step(kernel, x, convolve):
        def loss(kernel):
            return jnp.square(convolve(x, kernel)).mean()

        return loss(kernel - 0.1 * jax.grad(loss)(kernel))

    ours = partial(conv, strides=(2, 2))
    found = jax.grad(lambda k: jax.vmap(lambda x: after_a_step(k, x, ours))(x).sum())(kernel)

    def xla(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    wanted = sum(jax.grad(after_a_step)(kernel, each, xla) for each in x)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_no_groups_are_made_of_kernels():
    """Else a step of MAML takes several times as long on a CPU."""
    x, kernel = arrays()
    text = jax.jit(jax.vmap(conv)).lower(x, kernel).as_text()
    assert "feature_group_count = 3" not in text
    assert "batch_group_count = 3" not in text
