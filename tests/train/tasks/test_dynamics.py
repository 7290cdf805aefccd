"""Tasks of models that integrate: the same on one device and on several."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.train.tasks.small import KEY, batch_of, task_of
from train.loop import parallel
from train.metrics import summarize
from train.tasks import step as steps

pytestmark = pytest.mark.slow

every_task = pytest.mark.parametrize("model", ["ffjord", "latent_ode"])


@every_task
def test_pmap_sums_what_its_devices_find(model, monkeypatch):
    """Eight devices that see the same examples and draw the same numbers do what one does."""
    monkeypatch.setattr(steps, "_of_device", lambda key: key)
    task, few = task_of(model, optax.sgd(0.01)), batch_of(model, 3)
    state = task.init(KEY, few)
    wanted, wanted_metrics = jax.jit(task.train_step)(state, few)
    plan = parallel.pmap()
    many = {name: np.concatenate([values] * 8) for name, values in few.items()}
    found, metrics = plan.compile(lambda state, batch, shared: task.train_step(state, batch))(
        plan.place(state), plan.split(many, 0), {}
    )
    chex.assert_trees_all_close(plan.unplace(found).params, wanted.params, rtol=1e-4, atol=1e-5)
    assert summarize(metrics) == pytest.approx(summarize(wanted_metrics), rel=1e-4)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), wanted.params, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


@every_task
@pytest.mark.parametrize("plan", [parallel.jit, lambda: parallel.fsdp(least_size=8)], ids=["jit", "fsdp"])
def test_a_step_over_eight_devices_is_that_of_one(model, plan):
    task, batch = task_of(model, optax.sgd(0.01)), batch_of(model, 8)
    state = task.init(KEY, batch)
    wanted, wanted_metrics = jax.jit(task.train_step)(state, batch)
    plan = plan()
    found, metrics = plan.compile(lambda state, batch, shared: task.train_step(state, batch))(
        plan.place(state), plan.split(batch, 0), {}
    )
    chex.assert_trees_all_close(plan.unplace(found).params, wanted.params, rtol=1e-4, atol=1e-5)
    assert summarize(metrics) == pytest.approx(summarize(wanted_metrics), rel=1e-4)
