"""Functions of basic.py with which a model checks its input and records its stages."""

from __future__ import annotations

import chex
import flax
import jax
import jax.numpy as jnp
import pytest

from zoo import layers


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
