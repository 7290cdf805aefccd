"""Optimizers and SAM in a task: the same under each plan, resumed to the same bits, and SAM by its equations."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
import zoo
from train.loop import parallel
from train.loop.checkpoints import Checkpoints
from train.loop.fitting import fit
from train.optim.optimizers import optimizer
from train.tasks import classification

WAYS = {
    "heavy_ball": ("heavy_ball", 0.05, {}),
    "nesterov": ("nesterov", 0.05, {}),
    "muon": ("muon", 0.02, {}),
    "max_norm": ("sgd", 0.1, {"max_norm": 0.5}),
    "groups": ("momentum", 0.1, {"l2": {"Dense_0": 0.1, "*/kernel": 0.01}}),
    "sam": ("sgd", 0.1, {}),
    "schedule free": ("schedule_free_sgd", 0.1, {}),
}

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(32, 16)).astype(np.float32), np.arange(32) % 3


def task_of(way, sam_rho=0.1):
    name, rate, options = WAYS[way]
    model = zoo.create_model("mlp", hidden_sizes=(8,), num_classes=3, dropout_rate=0)
    return classification(model, optimizer(name, rate, **options), sam_rho=sam_rho if way == "sam" else 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_the_plans_agree(way):
    task, batch = task_of(way), {"image": X, "label": Y.astype(np.int32)}
    found = {}
    for name, plan in {
        "one": parallel.jit(jax.devices()[:1]),
        "pmap": parallel.pmap(),
        "fsdp": parallel.fsdp(least_size=16),
    }.items():
        state = plan.place(task.init(jax.random.key(0), batch))
        program = plan.compile(lambda state, batch, shared: task.train_step(state, batch))
        for _ in range(4):
            state, _ = program(state, plan.split(batch, 0), {})
        found[name] = jax.device_get(plan.unplace(state).params)
    for name in ("pmap", "fsdp"):
        chex.assert_trees_all_close(found[name], found["one"], rtol=1e-4, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_training_ends_with_the_same_bits(way, tmp_path):
    dataset = data.from_arrays(image=X, label=Y, name="arrays")
    plan = parallel.jit(jax.devices()[:1])

    def train(steps, folder):
        checkpoints = Checkpoints(tmp_path / folder, {}, monitor="loss", keep=2)
        options = {"batch_size": 8, "evaluate_every": 3, "plan": plan, "validation": None}
        fitted = fit(task_of(way), dataset, steps=steps, checkpoints=checkpoints, **options)
        checkpoints.close()
        return jax.device_get((fitted.state.params, fitted.state.opt_state))

    whole = train(6, "whole")
    train(3, "parts")
    chex.assert_trees_all_equal(train(6, "parts"), whole)


def test_sam_takes_the_gradient_where_the_loss_rises_most():
    """Foret et al. 2021, eq. 2–3, on softmax regression."""
    model = zoo.create_model("mlp", hidden_sizes=(), num_classes=3)
    batch = {"image": X, "label": Y.astype(np.int32)}
    task = classification(model, optax.sgd(1.0), sam_rho=0.5)
    state = task.init(jax.random.key(0), batch)
    moved, metrics = jax.jit(task.train_step)(state, batch)

    def gradients(w, b):
        z = X @ w + b
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        delta = (p - np.eye(3)[Y]) / len(X)
        return X.T @ delta, delta.sum(axis=0), -np.log(p[np.arange(len(X)), Y]).mean()

    (layer,), (after,) = state.params.values(), moved.params.values()
    w, b = np.float64(layer["kernel"]), np.float64(layer["bias"])
    g, h, loss = gradients(w, b)
    norm = np.sqrt((g**2).sum() + (h**2).sum())
    g, h, _ = gradients(w + 0.5 * g / norm, b + 0.5 * h / norm)
    np.testing.assert_allclose(after["kernel"], w - g, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["bias"], b - h, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"].total / metrics["loss"].weight, loss, rtol=1e-5)


def test_sam_where_there_is_no_gradient():
    model = zoo.create_model("mlp", hidden_sizes=(), num_classes=3)
    batch = {"image": jnp.zeros((3, 16)), "label": jnp.arange(3), "mask": jnp.zeros(3).at[0].set(1.0)}
    task = classification(model, optax.sgd(1.0), sam_rho=0.5)
    state = task.init(jax.random.key(0), batch)
    state = state.replace(params=jax.tree.map(lambda p: p.at[...].set(0), state.params))
    state = state.replace(params={"Dense_0": {**state.params["Dense_0"], "bias": jnp.array([300.0, 0.0, 0.0])}})
    moved, _ = jax.jit(task.train_step)(state, batch)
    chex.assert_trees_all_equal(moved.params, state.params)


def test_statistics_of_batch_norm_are_those_before_sam_moves():
    model = zoo.create_model("mlp", hidden_sizes=(4,), num_classes=3, dropout_rate=0, norm="batch")
    batch = {"image": X, "label": Y.astype(np.int32)}
    found = []
    for rho in (0.0, 0.5):
        task = classification(model, optax.sgd(1.0), sam_rho=rho)
        found.append(jax.jit(task.train_step)(task.init(jax.random.key(0), batch), batch)[0])
    chex.assert_trees_all_equal(found[0].model_state, found[1].model_state)
    assert np.any(found[0].params["Dense_0"]["kernel"] != found[1].params["Dense_0"]["kernel"])


def test_a_radius_that_makes_no_sense():
    with pytest.raises(ValueError, match="sam_rho of task 'gradient_task' must be at least 0, not -1"):
        classification(zoo.create_model("mlp"), optax.sgd(1.0), sam_rho=-1)
