"""What regularises, beside PyTorch and Keras: norms by name, dropout of channels and branches, L2 and decay."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.parity.torchvision_ops import timm
from train.optim.optimizers import optimizer
from zoo.layers import DropPath, SpatialDropout, norm

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

rng = np.random.default_rng(0)
X = rng.normal(3, 2, size=(3, 4, 5, 16)).astype(np.float32)
SCALE, BIAS = rng.normal(size=16).astype(np.float32), rng.normal(size=16).astype(np.float32)


def last(x):
    """Channels in front, as PyTorch has them, put last."""
    return x.permute(0, 2, 3, 1).numpy()


X_TORCH, S, B = torch.tensor(X).permute(0, 3, 1, 2), torch.tensor(SCALE), torch.tensor(BIAS)
NORMS = {
    "layer": lambda: F.layer_norm(torch.tensor(X), (16,), S, B, 1e-3).numpy(),
    "group": lambda: last(F.group_norm(X_TORCH, 8, S, B, 1e-3)),
    "rms": lambda: F.rms_norm(torch.tensor(X), (16,), S, 1e-3).numpy(),
    "batch": lambda: last(F.batch_norm(X_TORCH, None, None, S, B, training=True, eps=1e-3)),
    "none": lambda: X,
}


def filled(tree):
    given = {"scale": jnp.asarray(SCALE), "bias": jnp.asarray(BIAS)}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: given.get(path[-1].key, leaf), tree)


@pytest.mark.parametrize("kind", NORMS)
def test_norms(kind):
    import flax.linen as nn

    class Holder(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return norm(kind, epsilon=1e-3)(x, train=train)

    variables = filled(Holder().init(jax.random.key(0), X))
    found, _ = Holder().apply(variables, X, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(found, NORMS[kind](), rtol=2e-5, atol=2e-5)


def test_group_norm_has_as_many_groups_as_divide_the_channels():
    import flax.linen as nn

    class Holder(nn.Module):
        @nn.compact
        def __call__(self, x):
            return norm("group")(x)

    x = X[..., :12]
    wanted = last(F.group_norm(X_TORCH[:, :12], 4))
    found = Holder().apply(Holder().init(jax.random.key(0), x), x)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def test_an_unknown_norm():
    with pytest.raises(ValueError, match="unknown norm: 'bacth'; nearest: batch"):
        norm("bacth")


def test_spatial_dropout_drops_whole_channels_as_that_of_pytorch_and_keras():
    x = np.ones((64, 3, 5, 32), np.float32)
    found = np.asarray(SpatialDropout(0.25).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    torch.manual_seed(0)
    theirs = last(F.dropout2d(torch.tensor(x).permute(0, 3, 1, 2), 0.25))
    keras = pytest.importorskip("keras")
    keras_layer = keras.layers.SpatialDropout2D(0.25, seed=0)
    for y in (found, theirs, np.asarray(keras_layer(jnp.asarray(x), training=True))):
        np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1], y.shape))  # one fate for all places
        np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
        assert (y[:, 0, 0] == 0).mean() == pytest.approx(0.25, abs=0.04)
        assert 0 < (y[:, 0, 0] == 0).mean(axis=1).std() < 0.2, "channels of an example have fates of their own"
    assert SpatialDropout(0.25).apply({}, x) is x
    texts = SpatialDropout(0.5).apply(
        {}, np.ones((9, 7, 8), np.float32), train=True, rngs={"dropout": jax.random.key(0)}
    )
    np.testing.assert_array_equal(texts, np.broadcast_to(texts[:, :1], texts.shape))


def test_stochastic_depth_drops_whole_examples_as_that_of_timm():
    x = np.ones((512, 3, 2), np.float32)
    torch.manual_seed(0)
    theirs = timm.layers.drop_path(torch.tensor(x), 0.25, training=True).numpy()
    found = np.asarray(DropPath(0.25).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    for y in (found, theirs):
        np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1, :1], y.shape))
        np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
        assert (y[:, 0, 0] == 0).mean() == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_l2_and_decoupled_decay_differ_where_gradients_are_scaled(name):
    """Eq. 27 goes through Adam's scaling, decoupled decay does not (Loshchilov, Hutter 2019): as in PyTorch."""
    start, gradient = rng.normal(size=(2, 4, 3)).astype(np.float32)
    weight = torch.nn.Parameter(torch.tensor(start))
    theirs = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]([weight], lr=0.1, weight_decay=0.3)
    tx = optimizer(name, 0.1, **({"l2": 0.3} if name == "adam" else {"weight_decay": 0.3}))
    params, state = jnp.asarray(start), tx.init(jnp.asarray(start))
    for _ in range(4):
        weight.grad = torch.tensor(gradient)
        theirs.step()
        updates, state = tx.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, weight.detach().numpy(), rtol=2e-5, atol=1e-5)


def test_the_guides_network_with_all_of_section_4():
    """Dense, ReLU, batch norm and dropout, twice: in inference that of Keras, with the same weights and statistics."""
    keras = pytest.importorskip("keras")
    import zoo

    layers = keras.layers
    theirs = keras.Sequential(
        [
            keras.Input((64,)),
            *(layers.Dense(128, activation="relu"), layers.BatchNormalization(epsilon=1e-5), layers.Dropout(0.5)),
            *(layers.Dense(64, activation="relu"), layers.BatchNormalization(epsilon=1e-5), layers.Dropout(0.3)),
            layers.Dense(10),
        ]
    )
    model = zoo.create_model("mlp", norm="batch", dropout_rate=(0.5, 0.3))
    x = rng.normal(size=(5, 64)).astype(np.float32)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) / max(1, leaf.shape[0] / 8),
        model.init(jax.random.key(0), x),
    )
    params, stats = variables["params"], variables["batch_stats"]
    for index, layer in enumerate(each for each in theirs.layers if isinstance(each, layers.Dense)):
        layer.set_weights([params[f"Dense_{index}"]["kernel"], params[f"Dense_{index}"]["bias"]])
    for index, layer in enumerate((each for each in theirs.layers if isinstance(each, layers.BatchNormalization)), 1):
        p, s = params[f"norm{index}"], stats[f"norm{index}"]
        layer.set_weights([p["scale"], p["bias"], s["mean"], s["var"]])
    with jax.numpy_rank_promotion("allow"):  # by Keras
        wanted = np.asarray(theirs(x))
    np.testing.assert_allclose(model.apply(variables, x), wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(zoo.fuse(model, variables)(x), wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="1 rates of dropout_rate do not fit 2 hidden layers"):
        zoo.create_model("mlp", dropout_rate=(0.5,)).init(jax.random.key(0), x)
