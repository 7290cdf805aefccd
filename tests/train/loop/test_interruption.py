"""A training that is interrupted between two evaluations goes on to the same bits; the best state comes back."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import data
import zoo
from train.loop import InterruptedTraining, fit, parallel
from train.loop.checkpoints import Checkpoints
from train.tasks import classification


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", flat=True, validation=0.1)


@pytest.fixture(scope="module")
def task():
    return classification(zoo.create_model("mlp", hidden_sizes=(8,)), optax.adam(1e-2))


OPTIONS = {"batch_size": 32, "steps": 30, "evaluate_every": 10, "steps_per_dispatch": 3}


def checkpoints(folder, **options):
    return Checkpoints(folder, {"model": "mlp", "model_options": {}}, monitor="validation_loss", **options)


def same(first, second):
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "at"), [("pmap", (3,)), ("jit", (13, 20))])  # dispatches end at 3, 6, 9, 10, 13 …
def test_it_goes_on_to_the_same_bits(digits, task, tmp_path, plan, at):
    options = {**OPTIONS, "plan": parallel.plan(plan, jax.devices()[:2])}
    whole = fit(task, digits, **options)
    for step in at:
        kept = checkpoints(tmp_path, every=2)
        with pytest.raises(InterruptedTraining, match=f"interrupted after step {step} of 30") as caught:
            fit(task, digits, checkpoints=kept, interrupted=lambda taken, step=step: taken >= step, **options)
        kept.close()
        assert caught.value.step == step
    kept = checkpoints(tmp_path, every=2)
    rest = fit(task, digits, checkpoints=kept, **options)
    kept.close()
    same((whole.state.params, whole.state.opt_state), (rest.state.params, rest.state.opt_state))
    assert without_seconds(rest.history) == without_seconds(whole.history), "rows too, with all steps in their means"
    assert [row["seconds"] for row in rest.history] == sorted(row["seconds"] for row in rest.history)


@pytest.mark.slow
def test_the_last_step_is_the_end_and_no_interruption(digits, task, tmp_path):
    kept = checkpoints(tmp_path)
    fitted = fit(task, digits, checkpoints=kept, interrupted=lambda taken: taken == 30, **OPTIONS)
    kept.close()
    assert len(fitted.history) == 3


def test_a_pause_is_never_the_best(digits, task, tmp_path):
    kept = checkpoints(tmp_path)
    with pytest.raises(InterruptedTraining):
        fit(task, digits, checkpoints=kept, interrupted=lambda taken: taken >= 13, **OPTIONS)
    kept.close()
    assert zoo.checkpoint.best_first(tmp_path)[0].name == "10"


@pytest.mark.slow
@pytest.mark.parametrize("on_disk", [False, True])
def test_restore_best(digits, task, tmp_path, on_disk):
    states = {}

    def remember(state, history):
        states[len(history)] = jax.tree.map(np.array, state.params)
        return state

    spoilt = optax.piecewise_constant_schedule(1e-2, {20: 300.0})
    task = classification(zoo.create_model("mlp", hidden_sizes=(8,)), optax.sgd(lambda step: spoilt(step) * 10))
    kept = checkpoints(tmp_path) if on_disk else None
    fitted = fit(task, digits, restore_best="validation_loss", checkpoints=kept, adapt=remember, **OPTIONS)
    losses = [row["validation_loss"] for row in fitted.history]
    best = int(np.argmin(losses))
    assert best < len(losses) - 1, "the last is spoilt"
    same(fitted.state.params, states[best + 1])
    if kept is not None:
        again = fit(task, digits, restore_best="validation_loss", checkpoints=kept, **OPTIONS)
        same(again.state.params, fitted.state.params)
        kept.close()


def test_bad_input(digits, task, tmp_path):
    with pytest.raises(ValueError, match="unknown metric to restore the best by: 'validation_los'"):
        fit(task, digits, restore_best="validation_los", **OPTIONS)
    with pytest.raises(ValueError, match="that can be interrupted needs checkpoints"):
        fit(task, digits, interrupted=lambda step: False, **OPTIONS)
    kept = checkpoints(tmp_path)
    with pytest.raises(ValueError, match="keep the best by 'validation_loss': give them monitor='loss'"):
        fit(task, digits, restore_best="loss", checkpoints=kept, **OPTIONS)
    kept.close()
    with pytest.raises(ValueError, match="observe_every"):
        fit(task, digits, observe_every=0, **OPTIONS)
