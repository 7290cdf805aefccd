"""Few-shot learners against closed forms, finite differences, plain loops and NumPy; under every plan."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import zoo
from tests.train.tasks.small import kernel_and_bias, linear
from train.loop import parallel
from train.metrics import HalfWidth, summarize
from train.tasks import anil, maml, prototypical, reptile
from train.tasks.few_shot.episode import Learner
from train.tasks.few_shot.maml import solve, step_weights
from train.tasks.few_shot.prototypical import logits_of

TASKS, SHOTS, QUERIES, RATE = 3, 4, 5, 0.05
WAVES = {"loss": "mse", "inputs": "support_inputs", "inner_rate": RATE}


@functools.cache
def lines() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {}
    for part, size in (("support", SHOTS), ("query", QUERIES)):
        batch[f"{part}_inputs"] = rng.normal(size=(TASKS, size, 3)).astype(np.float32)
        batch[f"{part}_target"] = rng.normal(size=(TASKS, size, 1)).astype(np.float32)
    return batch


@functools.cache
def drawings(tasks: int = 2, ways: int = 3, shots: int = 1, queries: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    batch = {}
    for part, each in (("support", shots), ("query", queries)):
        batch[f"{part}_image"] = rng.random((tasks, ways * each, 8, 8, 1), dtype=np.float32)
        batch[f"{part}_label"] = np.tile(np.arange(ways, dtype=np.int32), (tasks, each))
    return batch


@functools.cache
def conv4(num_classes: int = 3) -> nn.Module:
    return zoo.create_model("conv4", features=4, num_layers=1, num_classes=num_classes)


def with_ones(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x.astype(np.float64), np.ones((*x.shape[:-1], 1))], axis=-1)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_maml_of_a_line_is_its_closed_form(first_order, steps):
    """Of a quadratic loss a step is φ = w − α H w + …, so that the chain rule multiplies by I − α H for each step."""
    batch = lines()
    task = maml(linear(1), optax.sgd(1.0), inner_steps=steps, first_order=first_order, **WAVES)
    state = task.init(jax.random.key(0), batch)
    w = np.concatenate([part.reshape(-1) for part in kernel_and_bias(state)])
    gradients, losses = [], []
    for x, y, q, t in zip(
        *(batch[f"{p}_{n}"] for p in ("support", "query") for n in ("inputs", "target")), strict=True
    ):
        x, q = with_ones(x), with_ones(q)
        hessian, moved = 2 / SHOTS * x.T @ x, w
        for _ in range(steps):
            moved = moved - RATE * 2 / SHOTS * x.T @ (x @ moved - y[:, 0])
        error = q @ moved - t[:, 0]
        losses.append(np.mean(error**2))
        chain = np.eye(4) if first_order else np.linalg.matrix_power(np.eye(4) - RATE * hessian, steps)
        gradients.append(chain @ (2 / QUERIES * q.T @ error))
    new, metrics = jax.jit(task.train_step)(state, batch)
    found = w - np.concatenate([part.reshape(-1) for part in kernel_and_bias(new)])
    np.testing.assert_allclose(found, np.mean(gradients, axis=0), rtol=2e-4, atol=1e-5)
    assert summarize(metrics)["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def away(state):
    """The state with parameters in general position: at the start all shifts are zero."""
    flat, unravel = ravel_pytree(state.params)
    return state.replace(
        params=unravel(flat + 0.2 * np.random.default_rng(1).normal(size=flat.shape).astype(np.float32))
    )


def moved_by(task, batch) -> tuple[np.ndarray, np.ndarray]:
    """Flat parameters, and how far a step of gradient descent at rate 1 moves them."""
    state = away(task.init(jax.random.key(0), batch))
    new, _ = jax.jit(task.train_step)(state, batch)
    before, after = (np.asarray(ravel_pytree(each.params)[0]) for each in (state, new))
    return before, before - after


@pytest.mark.slow
def test_second_order_gradients_are_finite_differences_and_first_order_ones_are_not():
    """Through convolutions with a kernel for each task and batch norm, along the second-order gradient itself.

    The loss jumps where an inner gradient passes a corner of a ReLU, so that the step is short.
    """
    batch = drawings()
    options = {"inner_rate": 0.4, "inner_steps": 2}
    task = maml(conv4(), optax.sgd(1.0), **options)
    state = away(task.init(jax.random.key(0), batch))
    _, unravel = ravel_pytree(state.params)
    loss = jax.jit(lambda flat: summable(task.train_step(state.replace(params=unravel(flat)), batch)[1]))
    flat, gradient = moved_by(task, batch)
    norm = np.linalg.norm(gradient)
    step = 1e-3
    slope = (loss(flat + step * gradient / norm) - loss(flat - step * gradient / norm)) / (2 * step)
    assert float(slope) == pytest.approx(norm, rel=2e-3)
    _, first = moved_by(maml(conv4(), optax.sgd(1.0), first_order=True, **options), batch)
    assert abs(first @ gradient / norm - norm) > 0.05 * norm


def summable(metrics):
    return metrics["loss"].total / metrics["loss"].weight


def test_reptile_is_a_plain_loop():
    batch = lines()
    task = reptile(linear(1), optax.sgd(0.5), inner_steps=4, **WAVES)
    state = task.init(jax.random.key(0), batch)
    start = np.concatenate([part.reshape(-1) for part in kernel_and_bias(state)])
    ends = []
    for x, y in zip(batch["support_inputs"], batch["support_target"], strict=True):
        x, w = with_ones(x), start
        for _ in range(4):
            w = w - RATE * 2 / SHOTS * x.T @ (x @ w - y[:, 0])
        ends.append(w)
    new, _ = jax.jit(task.train_step)(state, batch)
    found = np.concatenate([part.reshape(-1) for part in kernel_and_bias(new)])
    np.testing.assert_allclose(found, start + 0.5 * (np.mean(ends, axis=0) - start), rtol=1e-5, atol=1e-6)


def test_prototypical_loss_is_numpys():
    batch = drawings(shots=2)
    model = conv4(0)
    task = prototypical(model, optax.sgd(0.1))
    state = task.init(jax.random.key(0), batch)
    state = state.replace(model_state=jax.tree.map(lambda s: s + 0.3, state.model_state))
    losses, right = [], []
    for index in range(2):
        f, g = (
            np.asarray(model.apply(state.variables, batch[f"{p}_image"][index]), np.float64)
            for p in ("support", "query")
        )
        centres = np.stack([f[batch["support_label"][index] == k].mean(axis=0) for k in range(3)])
        logits = -((g[:, None] - centres[None]) ** 2).sum(axis=-1)
        wanted = batch["query_label"][index]
        losses.append(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), wanted]))
        right.append(np.mean(logits.argmax(axis=1) == wanted))
    found = summarize(jax.jit(task.eval_step)(state, batch))
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(right))


def test_prototypes_of_classes_of_different_sizes():
    support, told = np.array([[0.0], [2.0], [10.0]], np.float32), np.array([0, 0, 1])
    logits = logits_of(jnp.asarray(support), jnp.asarray(told), jnp.asarray([[1.0], [7.0]]), 3)
    np.testing.assert_allclose(logits, [[0, -81, -np.inf], [-36, -9, -np.inf]])


@pytest.mark.slow
def test_anil_adapts_the_head_alone():
    batch, model = drawings(), conv4()
    task = anil(model, optax.sgd(1.0), inner_rate=0.4)
    variables = task.init(jax.random.key(0), batch).variables
    from train.tasks.few_shot.anil import all_but
    from train.tasks.few_shot.episode import Episode
    from train.tasks.few_shot.maml import descend

    episode = Episode(batch["support_image"][0], batch["support_label"][0], None, None)
    state = {"batch_stats": variables["batch_stats"]}
    kept = all_but(variables["params"], "Dense_0")
    moved = descend(
        Learner(model, True), variables["params"], state, episode, 0.4, 2, kept, "cross_entropy", True, False, None
    )
    changed = {
        name: not np.array_equal(a, b) for (name, a), (_, b) in zip(flat(moved), flat(variables["params"]), strict=True)
    }
    assert {name for name, each in changed.items() if each} == {"Dense_0/bias", "Dense_0/kernel"}
    with pytest.raises(ValueError, match=r"head='last' names none of the parameters: .*Dense_0/kernel"):
        anil(model, optax.sgd(1.0), head="last").train_step(task.init(jax.random.key(0), batch), batch)


def flat(tree):
    from flax.traverse_util import flatten_dict

    return sorted(flatten_dict(tree, sep="/").items())


@pytest.mark.slow
def test_what_a_query_is_told_depends_on_others_where_batch_norm_is_transductive():
    batch, model = drawings(), conv4()
    variables = maml(model, optax.sgd(1.0)).init(jax.random.key(0), batch).variables
    support, told, query = batch["support_image"][0], batch["support_label"][0], batch["query_image"][0]

    def outputs(query, transductive):
        return solve(model, variables, support, told, query, inner_rate=0.4, steps=1, transductive=transductive)

    np.testing.assert_allclose(outputs(query, False)[:1], outputs(query[:1], False), rtol=1e-4, atol=1e-5)
    assert np.abs(outputs(query, True)[:1] - outputs(query[:2], True)[:1]).max() > 1e-3


@pytest.mark.slow
def test_without_transduction_statistics_are_those_of_the_support_set():
    batch, model = drawings(), conv4()
    variables = maml(model, optax.sgd(1.0)).init(jax.random.key(0), batch).variables
    support = batch["support_image"][0]
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    found = Learner(model, False).of_queries(params, state, support, support)
    np.testing.assert_allclose(found, Learner(model, True).outputs(params, state, support), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["maml", "reptile", "prototypical"])
def test_plans_agree(kind):
    """Tasks of a batch are split over 8 devices: batch norm is each task's own, the update is that of one device."""
    batch = drawings(tasks=8)
    task = {
        "maml": lambda: maml(conv4(), optax.sgd(0.5), inner_rate=0.4),
        "reptile": lambda: reptile(conv4(), optax.sgd(0.5), inner_rate=0.4, inner_steps=2),
        "prototypical": lambda: prototypical(conv4(0), optax.sgd(0.5)),
    }[kind]()
    found = {}
    plans = {"one": parallel.jit(jax.devices()[:1]), "pmap": parallel.pmap()}
    if kind == "maml":
        plans |= {"jit": parallel.jit(), "fsdp": parallel.fsdp(least_size=1)}
    for name, plan in plans.items():
        step = plan.compile(lambda state, batch, _: task.train_step(state, batch), donate=False)
        placed = plan.place(task.init(jax.random.key(0), batch))
        new, metrics = step(placed, plan.split(batch, 0), plan.replicate({}))
        found[name] = (jax.device_get(plan.unplace(new).params), summarize(jax.device_get(metrics)))
    for name in plans:
        for a, b in zip(jax.tree.leaves(found["one"][0]), jax.tree.leaves(found[name][0]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5, err_msg=name)
        assert found[name][1] == pytest.approx(found["one"][1], rel=1e-4)


def test_masked_episodes_count_nothing():
    batch = lines()
    task = maml(linear(1), optax.sgd(0.1), **WAVES)
    state = task.init(jax.random.key(0), batch)
    broken = {name: np.concatenate([x, np.full_like(x[:1], np.nan)]) for name, x in batch.items()}
    step = jax.jit(task.train_step)
    _, metrics = step(state, batch)
    _, told = step(state, {**broken, "mask": np.array([1, 1, 1, 0])})
    assert summarize(told) == pytest.approx(summarize(metrics), rel=1e-6)
    evaluated = jax.jit(task.eval_step)(state, {**broken, "mask": np.array([1, 1, 1, 0])})
    assert summarize(evaluated) == pytest.approx(summarize(jax.jit(task.eval_step)(state, batch)), rel=1e-5)
    assert {"loss_after_1", "loss_after_5", "loss_after_10", "loss_after_10_interval"} <= set(evaluated)


def test_per_step_weights_go_from_equal_to_the_last():
    np.testing.assert_allclose(step_weights(4, jnp.int32(0), 10), [0.25] * 4)
    np.testing.assert_allclose(step_weights(4, jnp.int32(5), 10), [0.125] * 3 + [0.625])
    np.testing.assert_allclose(step_weights(4, jnp.int32(99), 10), [0, 0, 0, 1])
    batch = lines()
    options = {"inner_steps": 3, **WAVES}

    def loss_of(**changes):
        task = maml(linear(1), optax.sgd(0.1), **{**options, **changes})
        return summarize(jax.jit(task.train_step)(task.init(jax.random.key(0), batch), batch)[1])["loss"]

    losses = [loss_of(per_step_losses=100), *(loss_of(inner_steps=steps) for steps in (1, 2, 3))]
    assert losses[0] == pytest.approx(np.mean(losses[1:]), rel=1e-5)


def test_half_width_is_that_of_the_whole_however_it_is_cut():
    values = np.random.default_rng(0).normal(50, 2, 600).astype(np.float32)
    wanted = 1.96 * values.std(ddof=1) / np.sqrt(600)
    parts = [HalfWidth.of(jnp.asarray(part)) for part in np.split(values, [7, 200])]
    assert functools.reduce(HalfWidth.merge, parts).summary() == pytest.approx(wanted, rel=1e-3)
    mask = jnp.arange(601) < 600
    assert HalfWidth.of(jnp.append(values, jnp.nan), mask).summary() == pytest.approx(wanted, rel=1e-4)
    assert np.isnan(HalfWidth.of(jnp.ones(1)).summary())


def test_inputs_that_are_no_support_set_are_refused():
    with pytest.raises(ValueError, match="names the field of the support set, such as support_image, not 'image'"):
        maml(conv4(), optax.sgd(0.1), inputs="image")


@pytest.mark.parametrize(
    "options", [{"inner_steps": 0}, {"test_steps": 0}, {"inner_rate": 0.0}, {"per_step_losses": -1}]
)
def test_numbers_out_of_their_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        maml(conv4(), optax.sgd(0.1), **options)
