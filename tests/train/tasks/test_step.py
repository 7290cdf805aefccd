"""The train step that all models with one loss share: its draws, its update, its averages, and masks of examples."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

import zoo
from tests.descriptors import MODELS
from tests.train.tasks.small import BATCH, KEY, assert_same_state, batch_of, kernel_and_bias, linear, trainer
from train.metrics import summarize
from train.optim.optimizers import optimizer
from train.state import State
from train.tasks import classification, regression

# ---- randomness ----


def dropping(rate=0.5):
    model = zoo.create_model("mlp", hidden_sizes=(32,), num_classes=3, dropout_rate=rate)
    return classification(model, optimizer("sgd", 0.0))


def test_each_step_drops_other_units():
    task, batch = dropping(), batch_of("mlp")
    state, step = task.init(jax.random.key(0), batch), jax.jit(task.train_step)
    losses = []
    for _ in range(4):  # at a rate of 0 nothing but the step changes
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"].total))
    assert len(set(losses)) == 4
    again = step(state.replace(step=jnp.int32(2)), batch)[1]
    assert float(again["loss"].total) == losses[2]
    other = step(state.replace(step=jnp.int32(2), key=jax.random.key(1)), batch)[1]
    assert float(other["loss"].total) != losses[2]


def test_evaluation_drops_nothing():
    batch = batch_of("mlp")
    task, without = dropping(), dropping(0.0)
    state = task.init(jax.random.key(0), batch)
    wanted = without.eval_step(state, batch)
    for step in range(3):
        chex.assert_trees_all_equal(task.eval_step(state.replace(step=jnp.int32(step)), batch), wanted)


@pytest.mark.slow
def test_evaluation_uses_the_running_statistics():
    _, step, evaluate, state = trainer("cnn")
    state, _ = step(state, batch_of("cnn"))
    one = {name: value[:1] for name, value in batch_of("cnn").items()}
    rest = {name: value[1:] for name, value in batch_of("cnn").items()}
    total = evaluate(state, one)["loss"].total + evaluate(state, rest)["loss"].total
    np.testing.assert_allclose(total, evaluate(state, batch_of("cnn"))["loss"].total, rtol=1e-4)


def test_init_looks_at_shapes_alone():
    task, _, _, state = trainer("cnn")
    zeros = jax.tree.map(lambda x: np.zeros((1, *x.shape[1:]), x.dtype), batch_of("cnn"))
    assert_same_state(task.init(KEY, zeros), state)


def test_init_depends_on_the_key():
    task, _, _, state = trainer("mlp")
    other = task.init(jax.random.key(1, impl="rbg"), batch_of("mlp"))
    first, second = state.params["Dense_0"]["kernel"], other.params["Dense_0"]["kernel"]
    assert np.all(first != second)
    assert np.any(jax.random.key_data(state.key) != jax.random.key_data(other.key))


# ---- the update itself ----


def softmax_gradient(kernel, bias, x, labels):
    p = scipy.special.softmax(x @ kernel + bias, axis=1) - np.eye(kernel.shape[1])[labels]
    return x.T @ p / len(x), p.mean(axis=0)


def test_the_update_is_the_mean_gradient():
    """Softmax regression by hand: W := W − α xᵀ(p − y)/n."""
    task = classification(linear(), optimizer("sgd", 0.5))
    batch = batch_of("mlp")
    state = task.init(jax.random.key(0), batch)
    x = batch["image"].astype(np.float64)
    kernel, bias = kernel_and_bias(state)
    step = jax.jit(task.train_step)
    for _ in range(3):
        wanted_loss = -scipy.special.log_softmax(x @ kernel + bias, axis=1)[np.arange(BATCH), batch["label"]].mean()
        slope = softmax_gradient(kernel, bias, x, batch["label"])
        kernel, bias = kernel - 0.5 * slope[0], bias - 0.5 * slope[1]
        state, metrics = step(state, batch)
        assert summarize(metrics)["loss"] == pytest.approx(wanted_loss, rel=1e-5)
        found = kernel_and_bias(state)
        np.testing.assert_allclose(found[0], kernel, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found[1], bias, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["perceptron", "mlp", "lenet5"])
def test_training_on_a_padded_batch_is_that_on_the_batch(name):
    batch = batch_of(name)
    padded = {
        "image": np.concatenate([batch["image"], np.ones((4, *MODELS[name].shape), np.float32)]),
        "label": np.concatenate([batch["label"], np.int32([0, -1, 99, 1])]),
        "mask": np.arange(12) < BATCH,
    }
    # Adam divides gradients that are nearly zero by their own size; plain descent shows what was averaged.
    options = {"dropout_rate": 0.0} if "dropout_rate" in zoo.model_card(name).options else {}
    task = classification(zoo.create_model(name, **{**MODELS[name].small, **options}), optimizer("sgd", 1.0))
    state, step = task.init(KEY, batch), jax.jit(task.train_step)
    (wanted, wanted_metrics), (found, metrics) = step(state, batch), step(state, padded)
    chex.assert_trees_all_close(found.params, wanted.params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(metrics, wanted_metrics, rtol=1e-5)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(found.params, state.params, rtol=1e-3)


@pytest.mark.parametrize("target", [np.nan, np.inf])
def test_a_target_that_is_masked_may_be_no_number(target):
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    batch = {"inputs": x, "target": x[:, :1], "mask": np.arange(6) < 4}
    task = regression(linear(1), optax.sgd(0.5))
    state = task.init(jax.random.key(0), batch)
    wanted = task.train_step(state, {name: field[:4] for name, field in batch.items()})[0]
    strange = np.where(batch["mask"][:, None], batch["target"], target).astype(np.float32)
    found = task.train_step(state, {**batch, "target": strange})[0]
    chex.assert_trees_all_close(found.params, wanted.params, rtol=1e-6)


def test_ema():
    """θ̄ := d θ̄ + (1 − d) θ after each step, from θ̄ = θ at the beginning; evaluation takes θ̄."""
    decay, batch = 0.7, batch_of("mlp")
    task = classification(linear(), optimizer("sgd", 1.0), ema_decay=decay)
    plain = classification(linear(), optimizer("sgd", 1.0))
    state = task.init(jax.random.key(0), batch)
    chex.assert_trees_all_equal(state.ema, {"params": state.params})
    step = jax.jit(task.train_step)
    wanted = np.asarray(state.params["Dense_0"]["kernel"], np.float64)
    for _ in range(5):
        state, _ = step(state, batch)
        wanted = decay * wanted + (1 - decay) * np.asarray(state.params["Dense_0"]["kernel"], np.float64)
        np.testing.assert_allclose(state.ema["params"]["Dense_0"]["kernel"], wanted, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_equal(state.variables, state.ema)
    averaged = plain.eval_step(state.replace(params=state.ema["params"], ema=None), batch)
    chex.assert_trees_all_equal(task.eval_step(state, batch), averaged)
    assert float(plain.eval_step(state.replace(ema=None), batch)["loss"].total) != float(averaged["loss"].total)


def test_variables_are_those_of_the_model():
    state = trainer("cnn")[-1]
    assert set(state.variables) == {"params", "batch_stats"}
    assert state.variables["params"] is state.params
    ema = {"params": {"w": 3}, "batch_stats": 4}
    assert State(state.step, {"w": 1}, {"batch_stats": 2}, (), state.key, ema=ema).variables == ema


@pytest.mark.slow
def test_batch_statistics_are_averaged_with_the_parameters():
    task = classification(zoo.create_model("cnn", **MODELS["cnn"].small), optimizer("sgd", 0.1), ema_decay=0.75)
    batch = batch_of("cnn")
    state = task.init(KEY, batch)
    step = jax.jit(task.train_step)
    wanted = state.variables
    for _ in range(3):
        state, _ = step(state, batch)
        live = {"params": state.params, **state.model_state}
        wanted = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, wanted, live)
    chex.assert_trees_all_close(state.ema, wanted, rtol=1e-5, atol=1e-7)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(state.ema["batch_stats"], state.model_state["batch_stats"], rtol=1e-2)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("loss_scaling", [False, True])
def test_a_state_can_be_donated(ema_decay, loss_scaling):
    """Its buffers are its own: neither shared among themselves nor with the key that was passed in."""
    key, batch = jax.random.key(0), batch_of("mlp")
    task = classification(linear(), optimizer("adam", 0.1), ema_decay=ema_decay, loss_scaling=loss_scaling)
    step = jax.jit(task.train_step, donate_argnums=0)
    state = task.init(key, batch)
    old = state
    for _ in range(2):
        state, _ = step(state, batch)
    assert old.params["Dense_0"]["kernel"].is_deleted()
    assert old.key.is_deleted()
    assert not key.is_deleted()
    chex.assert_trees_all_equal(jax.random.key_data(task.init(key, batch).key), jax.random.key_data(state.key))
    assert int(state.step) == 2


def test_averages_are_taken_after_updates():
    """Not after the steps that only gather gradients for one."""
    k, decay = 3, 0.5
    task = classification(linear(), optimizer("sgd", 0.1, accumulate_steps=k), ema_decay=decay)
    batch = {"image": np.eye(3, dtype=np.float32), "label": np.arange(3)}
    state = task.init(KEY, batch)
    averages, params = [state.ema["params"]], [state.params]
    for _ in range(2 * k):
        state, _ = jax.jit(task.train_step)(state, batch)
        averages.append(state.ema["params"])
        params.append(state.params)
    for step in range(1, 2 * k + 1):
        before = averages[step - 1]
        wanted = before if step % k else jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), before, params[step])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), averages[step], wanted)
    assert not np.array_equal(*(jax.tree.leaves(a)[-1] for a in (averages[0], averages[k])))
