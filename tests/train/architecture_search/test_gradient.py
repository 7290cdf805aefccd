"""The gradient of DARTS against finite differences, and the task that uses it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
from train.architecture_search.darts import architecture_gradient, darts, split_params
from train.architecture_search.supernet import in_halves, train_supernet, weights_over_time
from zoo.vision.cells import MixedOperation, layers, operation

pytestmark = pytest.mark.slow


class Tiny(nn.Module):
    """A dense mixture, smooth, so that differences are exact enough."""

    @nn.compact
    def __call__(self, x, *, train=False):
        alpha = self.param("alpha_cell", nn.initializers.normal(0.5), (3,))
        x = x.reshape(x.shape[0], -1)
        weights = jax.nn.softmax(alpha)
        hidden = nn.Dense(5, name="hidden")(x)
        mixed = weights[0] * jnp.tanh(hidden) + weights[1] * jnp.sin(hidden) + weights[2] * hidden
        return nn.Dense(3, name="head")(mixed)


def batch(n=6):
    rng = np.random.default_rng(0)
    images = {f"{half}image": rng.normal(size=(n, 2, 2, 1)).astype(np.float32) for half in ("", "architecture_")}
    return {**images, **{f"{half}label": rng.integers(0, 3, n) for half in ("", "architecture_")}}


def losses():
    model, at = Tiny(), batch()
    params = model.init(jax.random.key(1), at["image"])["params"]

    def loss(weights, alphas, half):
        logits = model.apply({"params": {**weights, **alphas}}, at[f"{half}image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, at[f"{half}label"]).mean()

    return split_params(params), lambda w, a: loss(w, a, ""), lambda w, a: (loss(w, a, "architecture_"), {})


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "tx",
    [optax.sgd(0.7), optax.chain(optax.clip_by_global_norm(0.1), optax.add_decayed_weights(0.1), optax.sgd(0.7, 0.9))],
)
def test_the_gradient_is_that_of_the_bilevel_objective(order, tx):
    (weights, alphas), training, held = losses()
    memory = tx.init(weights)

    @jax.jit
    def objective(alphas):
        ahead = weights
        if order == 2:
            gradients = jax.grad(training)(weights, alphas)
            ahead = optax.apply_updates(weights, tx.update(gradients, memory, weights)[0])
        return held(ahead, alphas)[0]

    found, _ = architecture_gradient(training, held, tx, weights, alphas, memory, order=order)
    exact = jax.grad(objective)(alphas)
    np.testing.assert_allclose(found["alpha_cell"], exact["alpha_cell"], rtol=1e-4, atol=1e-6)
    for index in range(3):
        step = 1e-2 * jnp.eye(3)[index]
        up, down = (objective({"alpha_cell": alphas["alpha_cell"] + sign * step}) for sign in (1, -1))
        np.testing.assert_allclose(found["alpha_cell"][index], (up - down) / 2e-2, atol=2e-3)


def test_the_second_order_differs_from_the_first():
    (weights, alphas), training, held = losses()
    tx = optax.sgd(0.7)
    first, second = (
        architecture_gradient(training, held, tx, weights, alphas, tx.init(weights), order=order)[0]["alpha_cell"]
        for order in (1, 2)
    )
    assert np.abs(first - second).max() > 1e-3


def test_a_step_moves_alpha_first_and_then_the_weights():
    model, at, tx, alpha_tx = Tiny(), batch(), optax.sgd(0.1), optax.sgd(0.5)
    task = darts(model, tx, alpha_tx)
    state = task.init(jax.random.key(0), at)
    (weights, alphas), (_, training, held) = split_params(state.params), losses()
    moved, metrics = jax.jit(task.train_step)(state, at)
    (gradient, _) = jax.grad(held, argnums=1, has_aux=True)(weights, alphas)
    alphas = jax.tree.map(lambda a, g: a - 0.5 * g, alphas, gradient)
    weights = jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(training)(weights, alphas))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), moved.params, {**weights, **alphas})
    assert set(metrics) == {"loss", "accuracy", "architecture_loss", "architecture_accuracy"}


def test_what_is_no_supernet_or_order_is_refused():
    with pytest.raises(ValueError, match="order of darts must be 1 or 2, not 3"):
        darts(Tiny(), optax.sgd(0.1), optax.sgd(0.1), order=3)

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    with pytest.raises(ValueError, match="Plain has no parameters alpha_"):
        darts(Plain(), optax.sgd(0.1), optax.sgd(0.1)).init(jax.random.key(0), batch())


def test_a_mixture_is_the_weighted_sum_of_its_operations():
    kinds = ("none", "skip_connect", "sep_conv_3x3")
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 4)), jnp.float32)

    class Alone(nn.Module):
        @nn.compact
        def __call__(self, x):
            return operation("sep_conv_3x3", 4, 1, layers(False), "sep_conv_3x3")(x)

    made = layers(False)
    mixed = MixedOperation(kinds, 4, 1, made)
    weights = jnp.array([0.2, 0.3, 0.5])
    variables = mixed.init(jax.random.key(0), x, weights)
    expected = 0.3 * x + 0.5 * Alone().apply(variables, x)
    np.testing.assert_allclose(mixed.apply(variables, x, weights), expected, atol=1e-6)


META = {"model": "tiny", "model_options": {}}


def digits_like():
    rng = np.random.default_rng(0)
    image, label = rng.normal(size=(41, 2, 2, 1)).astype(np.float32), rng.integers(0, 3, 41)
    return data.from_arrays(image=image, label=label, validation=0.2)


def test_halves_share_no_example():
    dataset = digits_like()
    halves = in_halves(dataset, 0).splits["train"][np.arange(16)]
    first, second = (halves[f"{half}image"].reshape(16, -1) for half in ("", "architecture_"))
    assert not (first[:, None] == second[None]).all(-1).any()
    assert len(np.unique(np.concatenate([first, second]), axis=0)) == 32


def test_an_interrupted_supernet_ends_with_the_same_bits(tmp_path, monkeypatch):
    import train.architecture_search.supernet as module

    def run(folder):
        rates = module.Rates(batch_size=4, architecture_rate=0.1)
        return train_supernet(Tiny(), digits_like(), folder, meta=META, epochs=3, rates=rates, order=2)

    run(tmp_path / "whole")
    write = module.write_whole

    def killed(path, content):
        write(path, content)
        if path.name == "step_000008.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "twice")
    monkeypatch.setattr(module, "write_whole", write)
    run(tmp_path / "twice")
    whole, twice = (weights_over_time(tmp_path / name) for name in ("whole", "twice"))
    assert [step for step, _ in whole] == [step for step, _ in twice] == [4, 8, 12]
    for (_, a), (_, b) in zip(whole, twice, strict=True):
        np.testing.assert_array_equal(a["cell"], b["cell"])
