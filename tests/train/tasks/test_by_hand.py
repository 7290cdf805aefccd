"""The task whose gradients are computed by hand: the same steps as by `jax.grad`, whatever the step is asked for."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zoo
from train.loop import parallel
from train.tasks import classification

rng = np.random.default_rng(0)
BATCH = {
    "image": rng.normal(size=(16, 3, 2)).astype(np.float32),
    "label": np.arange(16, dtype=np.int32) % 3,
    "mask": np.float32(np.arange(16) % 5 > 0),
}
PLAIN = {"hidden_sizes": (5, 4), "num_classes": 3, "dropout_rate": 0.0}


def step(gradients, batch=BATCH, plan=None, **options):
    task = classification(zoo.create_model("mlp", **PLAIN), optax.sgd(0.1), gradients=gradients, **options)
    plan = plan or parallel.jit(jax.devices()[:1])
    program = plan.compile(lambda state, batch, shared: task.train_step(state, batch))
    state, metrics = program(plan.place(task.init(jax.random.key(0), batch)), plan.split(batch, 0), {})
    return jax.device_get((plan.unplace(state).variables, metrics))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.1},
        {"sam_rho": 0.1},
        {"ema_decay": 0.5},
        {"loss_scaling": True},
        {"frozen": lambda path: path.startswith("Dense_0")},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_a_step_is_that_of_automatic_differentiation(options):
    chex.assert_trees_all_close(step("by_hand", **options), step("autodiff", **options), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_labels_may_be_probabilities():
    labels = rng.dirichlet(np.ones(3), 16).astype(np.float32)
    batch = {**BATCH, "label": labels}
    chex.assert_trees_all_close(step("by_hand", batch), step("autodiff", batch), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_examples_are_weighed():
    batch = {**BATCH, "sample_weight": np.where(BATCH["mask"], rng.uniform(0, 3, 16), np.nan).astype(np.float32)}
    weighed = step("by_hand", batch)
    chex.assert_trees_all_close(weighed, step("autodiff", batch), rtol=1e-5, atol=1e-7)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(weighed, step("by_hand"), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jit", "fsdp", "pmap"])
def test_the_plans_agree(name):
    chex.assert_trees_all_close(step("by_hand", plan=parallel.plan(name)), step("autodiff"), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("mlp", {"dropout_rate": 0.3}),
        ("mlp", {"dropout_rate": (0.0, 0.1)}),
        ("mlp", {"activation": "tanh", "dropout_rate": 0}),
        ("mlp", {"norm": "batch", "dropout_rate": 0}),
        ("mlp", {"num_classes": 1, "dropout_rate": 0}),
        ("mlp", {"dtype": jnp.bfloat16, "dropout_rate": 0}),
        ("lenet5", {}),
    ],
)
def test_other_models_are_refused(model, options):
    with pytest.raises(ValueError, match="gradients by hand are those of an mlp in float32 that has activation=relu"):
        classification(zoo.create_model(model, **options), optax.sgd(0.1), gradients="by_hand")


def test_other_losses_are_refused():
    model = zoo.create_model("mlp", **PLAIN)
    with pytest.raises(ValueError, match="those of the cross-entropy of one input"):
        classification(model, optax.sgd(0.1), gradients="by_hand", loss="perceptron")
    with pytest.raises(ValueError, match="know no class_weight"):
        classification(model, optax.sgd(0.1), gradients="by_hand", class_weight="balanced")
    with pytest.raises(ValueError, match="gradients of task 'classification' must be 'autodiff' or 'by_hand'"):
        classification(model, optax.sgd(0.1), gradients="numerical")
