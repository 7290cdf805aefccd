"""The learning rate on a plateau: Keras's ReduceLROnPlateau, and where the scale lives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.loop import parallel
from train.optim.optimizers import optimizer
from train.optim.plateau import Plateau, scale_by_plateau
from train.state import State


def history(values):
    return [{"validation_loss": value, "validation_accuracy": -value} for value in values]


def test_the_rate_falls_after_patience_and_waits_again():
    plateau = Plateau(factor=0.5, patience=2, least_scale=0.2)
    losses = [3, 2, 2, 2.5, 2, 2, 1, 1, 1, 1, 1, 1, 1]
    scales = [plateau.scale(history(losses[:count])) for count in range(len(losses) + 1)]
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2, 0.2]
    highest = Plateau(monitor="validation_accuracy", factor=0.5, patience=2, least_scale=0.2)
    assert [highest.scale(history(losses[:count])) for count in range(len(losses) + 1)] == scales


def test_a_small_change_is_none():
    assert Plateau(patience=1, least_change=0.1).scale(history([1, 0.95])) == pytest.approx(0.1)
    assert Plateau(patience=1, least_change=0.01).scale(history([1, 0.95])) == 1


@pytest.mark.parametrize("monitor", ["validation_loss", "validation_accuracy"])
@pytest.mark.parametrize(
    ("losses", "scales"),
    [
        ([np.nan, np.nan, np.nan, np.nan], [1, 0.5, 0.5, 0.25]),
        ([np.nan, 3, 2, 1], [1, 1, 1, 1]),
        ([3, np.nan, np.nan, 2, np.nan, 2.5], [1, 1, 0.5, 0.5, 0.5, 0.25]),
    ],
)
def test_what_is_no_number_is_no_better(monitor, losses, scales):
    """Nor does it stand in the way of the numbers behind it."""
    plateau, rows = Plateau(monitor=monitor, factor=0.5, patience=2), history(losses)
    assert [plateau.scale(rows[:count]) for count in range(1, len(rows) + 1)] == scales


@pytest.mark.parametrize("options", [{"factor": 0}, {"factor": 1.0}, {"patience": 0}])
def test_numbers_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"factor of the plateau must be in \(|patience of the plateau must be at"):
        Plateau(**options)


@pytest.mark.parametrize("plan", ["jit", "pmap", "fsdp"])
def test_updates_are_scaled_under_every_plan(plan):
    tx = optax.chain(optimizer("sgd", 1.0, layer_rates={"a": 2.0}), scale_by_plateau())
    params = {"a": jnp.ones(4), "b": jnp.ones(4)}
    state = State(jnp.int32(0), params, {}, tx.init(params), jax.random.key(0))
    laid_out = parallel.plan(plan, jax.devices()[:2])
    plateau = Plateau(factor=0.25, patience=1)
    placed = plateau.rescale(laid_out.place(state), history([1, 2]))
    assert jax.tree.structure(placed) == jax.tree.structure(laid_out.place(state))

    def program(state, items, shared):
        updates, _ = tx.update(jax.tree.map(jnp.ones_like, state.params), state.opt_state, state.params)
        return state, {"a": updates["a"].sum(), "b": updates["b"].sum()}

    run = laid_out.compile(program, donate=False)
    _, sums = run(placed, laid_out.split({"x": np.zeros(2)}, 0), laid_out.replicate({}))
    assert float(np.asarray(sums["a"]).ravel()[0]) == -2.0 * 0.25 * 4
    assert float(np.asarray(sums["b"]).ravel()[0]) == -0.25 * 4
    assert plateau.rescale(placed, history([1, 2, 0])) is placed, "nothing changes"
