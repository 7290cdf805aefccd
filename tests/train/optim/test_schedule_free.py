"""Schedule-free optimizers: the algorithm of Defazio et al. 2024 by hand, and evaluation by its average."""

from __future__ import annotations

from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import zoo
from train.optim.freezing import freeze
from train.optim.optimizers import optimizer
from train.optim.schedules import schedule
from train.recipe import get_recipe, override
from train.runs.build import build
from train.tasks import classification, gan

STEPS = 7


def by_hand(y, gradients, rates, *, beta1, beta2=None, eps=1e-8, decay=0.0):
    """As facebookresearch/schedule_free writes it: y is where gradients are, x what is evaluated. Yields (y, x)."""
    z, v, total, highest = y.copy(), np.zeros_like(y), 0.0, 0.0
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        highest = max(highest, rate)
        total += highest**2
        share = highest**2 / total
        if beta2 is not None:
            v = beta2 * v + (1 - beta2) * gradient**2
            gradient = gradient / (np.sqrt(v / (1 - beta2**step)) + eps)
        gradient = gradient + decay * y
        y = y + share * (z - y) + rate * (beta1 * (1 - share) - 1) * gradient
        z = z - rate * gradient
        yield y, (y - (1 - beta1) * z) / beta1


class Linear(zoo.layers.Dense):
    """A linear classifier."""

    def __call__(self, x, *, train=False):
        return super().__call__(x)


BATCH = {"image": jax.random.normal(jax.random.key(1), (8, 3)), "label": jnp.arange(8) % 2}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["schedule_free_sgd", "schedule_free_adamw"])
@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_the_steps_are_those_of_the_paper_and_evaluation_is_at_the_average(name, warmup_steps):
    rate = schedule("constant", 0.1, STEPS, warmup_steps=warmup_steps)
    adam = {"beta2": 0.95, "decay": 0.1} if name.endswith("adamw") else {}
    options: dict[str, Any] = {"b2": 0.95, "weight_decay": 0.1} if adam else {}
    tx = optimizer(name, rate, b1=0.8, **options)
    task = classification(Linear(2, use_bias=False), tx)
    state = task.init(jax.random.key(0), BATCH)
    chex.assert_trees_all_equal(state.variables["params"], state.params)

    def loss(params):
        logits = jax.nn.log_softmax(BATCH["image"] @ params["kernel"])
        return -jnp.take_along_axis(logits, BATCH["label"][:, None], axis=1).mean()

    ys, gradients, xs, step = [state.params], [], [], jax.jit(task.train_step)
    for _ in range(STEPS):
        gradients.append(np.float64(jax.grad(loss)(state.params)["kernel"]))
        state, _ = step(state, BATCH)
        ys.append(state.params)
        xs.append(state.variables["params"])
    wanted = by_hand(
        np.float64(ys[0]["kernel"]), gradients, [np.asarray(rate(t)).item() for t in range(STEPS)], beta1=0.8, **adam
    )
    for (y, x), got_y, got_x in zip(wanted, ys[1:], xs, strict=True):
        np.testing.assert_allclose(got_y["kernel"], y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got_x["kernel"], x, rtol=1e-4, atol=1e-5)
    told = task.eval_step(state, BATCH)["loss"]
    np.testing.assert_allclose(told.total / told.weight, loss(xs[-1]), rtol=1e-5)
    assert abs(loss(xs[-1]) - loss(ys[-1])) > 1e-4


def test_groups_accumulation_and_what_is_frozen():
    """Each group has a state of its own; what is frozen is evaluated as it is, and the average waits for the update."""
    model = zoo.create_model("mlp", hidden_sizes=(4,), num_classes=2, dropout_rate=0.0)

    def frozen(path):
        return path.startswith("Dense_0")

    options = {"layer_rates": {"*/bias": 0.02}, "accumulate_steps": 2}
    tx = freeze(optimizer("schedule_free_sgd", 0.1, **options), frozen)
    task = classification(model, tx, frozen=frozen)
    start = state = task.init(jax.random.key(0), BATCH)
    step = jax.jit(task.train_step)
    state, _ = step(state, BATCH)
    chex.assert_trees_all_close(state.variables["params"], start.params, atol=1e-7)
    for _ in range(3):
        state, _ = step(state, BATCH)
    kept, moved = state.variables["params"]["Dense_0"], state.variables["params"]["Dense_1"]
    chex.assert_trees_all_equal(kept, start.params["Dense_0"])
    # After two updates of one rate the average is that of z, whose last one is farther on.
    for name in moved:
        before, y, x = start.params["Dense_1"][name], state.params["Dense_1"][name], moved[name]
        assert np.all(np.abs(y - before) > np.abs(x - before)), name


@pytest.mark.slow
def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="max_norm would constrain others than are evaluated"):
        optimizer("schedule_free_sgd", 0.1, max_norm=1.0)
    with pytest.raises(ValueError, match=r"b1 of a schedule-free optimizer must be in \(0, 1\], not 0"):
        optimizer("schedule_free_adamw", 0.1, b1=0.0)
    tx = optimizer("schedule_free_adamw", 0.1)
    with pytest.raises(ValueError, match="averages the parameters itself: leave ema_decay out"):
        classification(Linear(2), tx, ema_decay=0.9).init(jax.random.key(0), BATCH)
    players = zoo.create_model("gan", image_shape=(8, 8, 1))
    with pytest.raises(ValueError, match="the task gan takes no schedule-free optimizer"):
        gan(cast(Any, players), tx).init(jax.random.key(0), {"image": jnp.zeros((2, 8, 8, 1))})
    recipe = override(get_recipe("mlp_digits"), ["optimizer=schedule_free_adamw", "plateau_options.patience=2"])
    with pytest.raises(ValueError, match="needs no falling rate: leave plateau_options out"):
        build(recipe)


def test_it_is_optax_that_counts():
    """At a constant rate it is Optax's own optimizer."""
    params = {"w": jnp.array([1.0, -2.0])}

    def walk(tx):
        state, y = tx.init(params), params
        for _ in range(3):
            updates, state = tx.update(y, state, y)
            y = optax.apply_updates(y, updates)
        return y

    chex.assert_trees_all_close(
        walk(optimizer("schedule_free_adamw", 0.1)), walk(optax.contrib.schedule_free_adamw(0.1)), rtol=1e-6
    )
