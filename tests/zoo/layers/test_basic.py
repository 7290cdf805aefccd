"""Functions of basic.py with which a model checks its input, records its stages and repeats its parameters."""

from __future__ import annotations

import chex
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo import layers
from zoo.graphs.linear import Linear
from zoo.layers.recurrent import GRU
from zoo.vision.mobilenet import SqueezeExcite


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


ROWS = np.random.default_rng(0).uniform(0.5, 1, (4, 400, 3)).astype(np.float32)
IMAGES = ROWS.reshape(4, 20, 20, 3)
TOKENS = np.arange(1600).reshape(4, 400) % 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda **dtypes: layers.Dense(3, **dtypes), ROWS),
        (lambda **dtypes: layers.Conv(3, 1, **dtypes), IMAGES),
        (lambda **dtypes: layers.ConvTranspose(3, 1, **dtypes), IMAGES),
        (lambda **dtypes: layers.Embed(2, 3, **dtypes), TOKENS),
        (lambda **dtypes: Linear(3, **dtypes), ROWS.reshape(-1, 3)),
        (lambda **dtypes: SqueezeExcite(2, zoo.activations.sigmoid, zoo.activations.sigmoid, **dtypes), IMAGES),
        (lambda **dtypes: GRU(3, reset_after=False, **dtypes), ROWS),
    ],
    ids=["dense", "conv", "transposed", "embed", "linear", "squeeze", "gru"],
)
def test_gradients_in_half_precision_are_those_in_single(make, x, dtype):
    """Sums over 1600 places: in bfloat16 they ended at 256 times a summand."""

    def gradients(**dtypes):
        def loss(params):
            y = make(**dtypes).apply({"params": params}, x)
            y = (y[0] if isinstance(y, tuple) else y).astype(jnp.float32)
            return (y * (1 + y)).sum() / 100

        return jax.jit(jax.grad(loss))(params)

    params = make().init(jax.random.key(0), x)["params"]
    for found, wanted in zip(jax.tree.leaves(gradients(dtype=dtype)), jax.tree.leaves(gradients()), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.03 * np.abs(wanted).max())


@pytest.mark.parametrize("token", [-1, -2, -3, 2])
def test_a_token_that_there_is_not_is_no_number(token):
    embed = layers.Embed(2, 3)
    variables = embed.init(jax.random.key(0), TOKENS)
    found = embed.apply(variables, np.array([[0, token, 1]]))
    np.testing.assert_array_equal(np.isnan(found).all(axis=-1), [[False, True, False]])
    model = zoo.char_lm.CharLSTM(vocab_size=2, hidden_size=3)
    logits = model.apply(model.init(jax.random.key(0), TOKENS[:, :3]), np.array([[0, token, 1]]))
    np.testing.assert_array_equal(np.isnan(logits).all(axis=-1), [[False, True, True]])
