"""Regression: its losses and updates by hand, against scikit-learn, and on every platform."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax import export
from sklearn.linear_model import Ridge

import zoo
from tests.train.tasks.small import BATCH, iris, kernel_and_bias, linear, train_on
from train.metrics import summarize
from train.optim.optimizers import optimizer
from train.tasks import regression


@pytest.mark.parametrize("loss", ["mse", "huber", "mae"])
def test_regression_loss_and_update(loss):
    rng = np.random.default_rng(0)
    batch = {
        "inputs": rng.normal(size=(BATCH, 3)).astype(np.float32),
        "target": 2 * rng.normal(size=(BATCH, 2)).astype(np.float32),
    }
    task = regression(linear(2), optimizer("sgd", 0.3), loss=loss)
    state = task.init(jax.random.key(0), batch)
    kernel, bias = kernel_and_bias(state)
    x = batch["inputs"].astype(np.float64)
    error = x @ kernel + bias - batch["target"]
    assert np.any(np.abs(error) > 1)
    assert np.any(np.abs(error) < 1)
    value = {"mse": error**2, "huber": scipy.special.huber(1.0, error), "mae": np.abs(error)}[loss]
    slope = {"mse": 2 * error, "huber": np.clip(error, -1, 1), "mae": np.sign(error)}[loss] / error.size
    new, metrics = jax.jit(task.train_step)(state, batch)
    assert summarize(metrics) == {
        "loss": pytest.approx(value.mean(), rel=1e-5),
        "mae": pytest.approx(np.abs(error).mean(), rel=1e-5),
    }
    found = kernel_and_bias(new)
    np.testing.assert_allclose(found[0], kernel - 0.3 * x.T @ slope, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], bias - 0.3 * slope.sum(axis=0), rtol=1e-4, atol=1e-6)
    evaluated = jax.jit(task.eval_step)(state, batch)
    chex.assert_trees_all_close({name: evaluated[name] for name in metrics}, metrics, rtol=1e-5)


def test_linear_regression_ends_where_ridge_does():
    """The mean of squares with λ/2 ‖w‖² is Ridge with α = nλ/2."""
    x, _ = iris()
    inputs, target = x[:, :3], x[:, 3:]
    task = regression(linear(1), optimizer("sgd", 0.1, l2=0.02, momentum=0.9))
    state, _ = train_on(task, {"inputs": inputs, "target": target}, 800)
    reference = Ridge(alpha=len(x) * 0.01).fit(inputs, target[:, 0])
    kernel, bias = kernel_and_bias(state)
    np.testing.assert_allclose(kernel[:, 0], reference.coef_, atol=1e-4)
    np.testing.assert_allclose(bias, reference.intercept_, atol=1e-4)


def test_regression_with_another_shape_is_refused():
    task = regression(linear(1), optimizer("sgd", 0.1))
    batch = {"inputs": jnp.zeros((4, 3)), "target": jnp.zeros(4)}
    with pytest.raises(ValueError, match=r"differ in shape: \[4, 1\] and \[4\]"):
        task.eval_step(task.init(jax.random.key(0), batch), batch)


def test_regression_lowers_for_every_platform():
    task = regression(zoo.create_model("mlp", hidden_sizes=(4,), num_classes=2), optimizer("sgd", 0.1))
    batch = {"inputs": np.zeros((4, 3), np.float32), "target": np.zeros((4, 2), np.float32)}
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    exported = export.export(jax.jit(task.train_step), platforms=["cpu", "cuda", "tpu"])(state, batch)
    assert exported.platforms == ("cpu", "cuda", "tpu")
