"""Half precision: the loss scale finds its level, an overflow changes nothing, and the loss falls as in float32."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from train.metrics import summarize
from train.optim.optimizers import optimizer
from train.precision import LossScale, all_finite, select
from train.tasks import classification

KEY = jax.random.key(0, impl="rbg")  # compiles faster than threefry
YES, NO = jnp.bool_(True), jnp.bool_(False)


def after(scale, good_steps, finite):
    adjusted = LossScale(jnp.float32(scale), jnp.int32(good_steps)).adjust(finite)
    chex.assert_type([adjusted.scale, adjusted.good_steps], [jnp.float32, jnp.int32])
    return float(adjusted.scale), int(adjusted.good_steps)


def test_the_scale_begins_at_two_to_the_fifteenth():
    scale = LossScale.create()
    assert (float(scale.scale), int(scale.good_steps)) == (2**15, 0)


def test_an_overflow_halves_the_scale_and_begins_the_count_again():
    assert after(1024, 1500, NO) == (512, 0)
    assert after(1024, 1999, NO) == (512, 0)


def test_a_good_step_is_counted():
    assert after(1024, 0, YES) == (1024, 1)
    assert after(1024, 1998, YES) == (1024, 1999)


def test_the_scale_doubles_after_two_thousand_good_steps():
    assert after(1024, 1999, YES) == (2048, 0)
    _, scales = jax.jit(
        lambda start: jax.lax.scan(lambda s, _: (s.adjust(YES), s.adjust(YES).scale), start, length=4001)
    )(LossScale.create(8.0))
    np.testing.assert_array_equal(np.flatnonzero(np.diff(scales)) + 1, [1999, 3999])
    assert float(scales[-1]) == 32


def test_the_scale_stays_between_one_and_two_to_the_twenty_fourth():
    assert after(2**24, 1999, YES) == (2**24, 0)
    assert after(1, 10, NO) == (1, 0)
    assert after(1.5, 10, NO) == (1, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["first", "last"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_all_finite(bad, where, dtype):
    tree = {"first": jnp.zeros((2, 3), dtype), "between": [jnp.ones(4, dtype)], "last": jnp.zeros((), dtype)}
    assert bool(all_finite(tree))
    tree[where] = tree[where].at[...].set(bad)
    assert not bool(all_finite(tree))


def test_select():
    then, otherwise = {"a": jnp.arange(3), "b": (jnp.ones(()),)}, {"a": -jnp.arange(3), "b": (jnp.zeros(()),)}
    chex.assert_trees_all_equal(select(YES, then, otherwise), then)
    chex.assert_trees_all_equal(jax.jit(select)(NO, then, otherwise), otherwise)


def test_select_does_not_let_nan_through():
    kept = select(NO, {"a": jnp.array([np.nan, np.inf])}, {"a": jnp.ones(2)})
    chex.assert_trees_all_equal(kept, {"a": jnp.ones(2)})


@functools.cache
def digits():
    """Two hundred digits, four classes of them."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(n_class=4, return_X_y=True)
    return {"image": (images[:200] / 16).astype(np.float32), "label": labels[:200].astype(np.int32)}


@functools.cache
def trainer(precision, model="mlp", **options):
    model = zoo.create_model(model, dtype=precision, num_classes=4, **options)
    tx = optimizer("adam", 1e-2)
    task = classification(model, tx, loss_scaling=precision == "float16")
    return task, jax.jit(task.train_step)


def normed():
    """Has batch statistics; two pixels by two."""
    task, step = trainer("float16", "mini_resnet", features=4, hidden_size=6)
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(8, 2, 2, 1)).astype(np.float32), "label": np.arange(8) % 4}
    return task, step, batch


def plain():
    return (*trainer("float16", hidden_sizes=(16,), dropout_rate=0.0), digits())


@pytest.mark.slow
@pytest.mark.parametrize("setting", [plain, normed])
def test_an_overflow_changes_nothing_but_the_scale(setting):
    task, step, batch = setting()
    state, _ = step(task.init(KEY, batch), batch)
    # The gradient of the logits is as large as scale / batch, far beyond 65504.
    state = state.replace(loss_scale=LossScale(jnp.float32(2**24), jnp.int32(7)))
    new, metrics = step(state, batch)
    unchanged = (state.params, state.opt_state, state.model_state)
    chex.assert_trees_all_equal((new.params, new.opt_state, new.model_state), unchanged)
    assert (float(new.loss_scale.scale), int(new.loss_scale.good_steps)) == (2**23, 0)
    assert int(new.step) == int(state.step) + 1, "the next step draws other random numbers and sees other data"
    assert np.isfinite(summarize(metrics)["loss"]), "the loss itself is not scaled"


@pytest.mark.slow
@pytest.mark.parametrize("setting", [plain, normed])
def test_the_scale_falls_to_where_training_goes_on(setting):
    task, step, batch = setting()
    start = state = task.init(KEY, batch).replace(loss_scale=LossScale.create(2.0**24))
    scales = []
    while not scales or state.loss_scale.scale < scales[-1]:
        scales.append(float(state.loss_scale.scale))
        state, _ = step(state, batch)
    assert scales == [2.0 ** (24 - i) for i in range(len(scales))]
    assert 3 <= len(scales) <= 14
    assert int(state.loss_scale.good_steps) == 1
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), start.params, state.params)
    assert any(jax.tree.leaves(moved))


def test_an_ordinary_step_with_a_loss_scale_is_that_without():
    """The scale is a power of two, so that in float32 it changes no bit but by another order of sums."""
    model = zoo.create_model("mlp", hidden_sizes=(16,), dropout_rate=0.0, num_classes=4)
    tasks = [classification(model, optimizer("sgd", 0.1), loss_scaling=scaled) for scaled in (False, True)]
    states = [jax.jit(task.train_step)(task.init(KEY, digits()), digits())[0] for task in tasks]
    chex.assert_trees_all_close(states[0].params, states[1].params, rtol=1e-6)
    assert states[0].loss_scale is None
    assert int(states[1].loss_scale.good_steps) == 1


@functools.cache
def losses(precision):
    task, step = trainer(precision, hidden_sizes=(16,), dropout_rate=0.0)
    state = task.init(KEY, digits())
    found = []
    for _ in range(40):
        state, metrics = step(state, digits())
        found.append(summarize(metrics)["loss"])
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    return np.array(found), summarize(jax.jit(task.eval_step)(state, digits()))


@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 0.01), ("bfloat16", 0.05)])
def test_the_loss_falls_as_in_float32(precision, tolerance):
    wanted, at_the_end = losses("float32")
    assert wanted[-1] < 0.1 * wanted[0]
    found, evaluation = losses(precision)
    assert np.any(found != wanted), "it did compute in another precision"
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * wanted[0])
    assert evaluation["accuracy"] == pytest.approx(at_the_end["accuracy"], abs=0.02)


@pytest.mark.slow
def test_small_gradients_survive_float16_only_where_they_are_scaled():
    """2⁻²⁶ is zero in float16, and 2⁻²⁶ · 2¹⁵ is not."""
    model = zoo.create_model("mlp", hidden_sizes=(), num_classes=1, dtype="float16")
    # One confident and right example in a batch: σ(z) − y = e⁻¹⁸ ≈ 2⁻²⁶.
    batch = {"image": np.float32([[18.0]]), "label": np.int32([1])}
    moved = []
    for scaled in (False, True):
        task = classification(model, optimizer("sgd", 1.0), loss_scaling=scaled)
        state = task.init(KEY, batch)
        params = {"Dense_0": {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}}
        new, _ = task.train_step(state.replace(params=params), batch)
        moved.append(float(new.params["Dense_0"]["bias"][0]))
    assert moved[0] == 0
    assert moved[1] == pytest.approx(np.exp(-18.0), rel=0.01)
