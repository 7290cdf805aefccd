"""Tasks over one model of each family, and by name."""

from __future__ import annotations

import chex
import jax
import numpy as np
import optax
import pytest
import scipy.special
from jax import export

import zoo
from tests.descriptors import MODELS, REPRESENTATIVES, by_representatives
from tests.train.tasks.small import BATCH, assert_same_state, batch_of, linear, task_of, trainer
from train.metrics import summarize
from train.optim.optimizers import optimizer
from train.tasks import TASKS, classification, regression

# One model of each class, that with the fewest blocks, for what depends on the task more than on the model.
last_wins = sorted(MODELS, key=lambda n: (-sum(MODELS[n].small.get("stage_sizes", ())), n in REPRESENTATIVES))
families = {type(zoo.create_model(name)): name for name in last_wins}.values()
every_family = by_representatives(families)
every_classifier = by_representatives(n for n in families if zoo.model_card(n).task == "classification")


# ---- one model of each family ----


@pytest.mark.slow
@every_classifier
def test_the_loss_falls(name):
    _, step, _, state = trainer(name)
    losses = []
    for _ in range(25):
        state, metrics = step(state, batch_of(name))
        losses.append(summarize(metrics)["loss"])
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.8 * losses[0], losses
    assert int(state.step) == 25


@pytest.mark.slow
@every_family
def test_a_step_is_a_function_of_state_and_batch(name):
    _, step, _, state = trainer(name)
    first, metrics = step(state, batch_of(name))
    second, again = step(state, batch_of(name))
    assert_same_state(first, second)
    chex.assert_trees_all_equal(metrics, again)
    np.testing.assert_array_equal(jax.random.key_data(first.key), jax.random.key_data(state.key))


@pytest.mark.slow
@every_family
def test_a_step_lowers_for_every_platform(name):
    """With dropout, where the model has it, and with the state as a pytree with its typed key."""
    options = {} if zoo.model_card(name).task == "gan" else {"ema_decay": 0.99}
    task = task_of(name, optimizer("adamw", 1e-3, clip_norm=1.0), **options)
    state = jax.eval_shape(task.init, jax.random.key(0), batch_of(name))
    exported = export.export(jax.jit(task.train_step), platforms=["cpu", "cuda", "tpu"])(state, batch_of(name))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    inputs = jax.tree.leaves(state)
    assert [(a.shape, a.dtype) for a in exported.out_avals[: len(inputs)]] == [(a.shape, a.dtype) for a in inputs]


@pytest.mark.slow
@every_classifier
def test_evaluation_of_a_padded_batch_is_that_of_the_batch(name):
    _, _, evaluate, state = trainer(name)
    batch, more = batch_of(name), batch_of(name, 11)
    padded = {
        "image": np.concatenate([batch["image"], more["image"][:3]]),
        "label": np.concatenate([batch["label"], np.int32([0, -1, 99])]),
        "mask": np.arange(11) < BATCH,
    }
    metrics, wanted = evaluate(state, padded), evaluate(state, batch)
    assert float(metrics["loss"].weight) == BATCH
    chex.assert_trees_all_close(metrics, wanted, rtol=1e-4)


@pytest.mark.slow
@every_classifier
def test_evaluation_is_the_loss_of_the_models_logits(name):
    _, _, evaluate, state = trainer(name)
    batch = batch_of(name)
    model = zoo.create_model(name, **MODELS[name].small)
    logits = np.asarray(jax.jit(model.apply)(state.variables, batch["image"]), np.float64)
    wanted = -scipy.special.log_softmax(logits, axis=1)[np.arange(BATCH), batch["label"]]
    found = summarize(evaluate(state, batch))
    assert found["loss"] == pytest.approx(wanted.mean(), rel=1e-4)
    assert found["accuracy"] == np.mean(logits.argmax(axis=1) == batch["label"])


# ---- by name ----


def test_tasks_by_name():
    assert TASKS["classification"] is classification
    assert TASKS["regression"] is regression


def test_unknown_losses():
    with pytest.raises(ValueError, match="'classification' must be 'cross_entropy' or 'perceptron', not 'hinge'"):
        classification(linear(), optax.sgd(0.1), loss="hinge")
    with pytest.raises(ValueError, match=r"loss of task 'regression' must be 'mse' or 'huber' or 'mae', not 'l2'"):
        regression(linear(), optax.sgd(0.1), loss="l2")
