"""Optimizers: the guide's equations by hand, and one convergence test for all of them."""

from __future__ import annotations

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.optim.optimizers import _OPTIMIZERS, optimizer

# Name → options and learning rate with which it must reach the minimum of both problems below.
SETTINGS = {
    "adadelta": (0.03, {"eps": 1e-3}),
    "adafactor": (1e-2, {"multiply_by_parameter_scale": False}),
    "adagrad": (1.0, {}),
    "adam": (1e-2, {}),
    "adamax": (1e-2, {}),
    "adamw": (1e-2, {"weight_decay": 0.0}),
    "heavy_ball": (1e-2, {}),
    "lamb": (1e-3, {}),
    "lars": (1e-2, {"trust_coefficient": 1.0}),
    "lion": (1e-3, {}),
    "momentum": (1e-2, {}),
    "muon": (1e-2, {}),
    "nadam": (1e-2, {}),
    "nesterov": (1e-3, {}),
    "radam": (1e-2, {}),
    "rmsprop": (3e-3, {}),
    "schedule_free_adamw": (5e-2, {}),
    "schedule_free_sgd": (5e-2, {}),
    "sgd": (1e-2, {}),
}


def quadratic(p):
    """Convex, its curvature 1, 2 and 5; the least value is 0, at (1, −1, 2)."""
    return jnp.sum(jnp.array([0.5, 1.0, 2.5]) * (p - jnp.array([1.0, -1.0, 2.0])) ** 2)


def parabola(p):
    """A valley along y = x²: not convex, 0 at (1, 1). Rosenbrock's function with 2 in place of 100."""
    return (1 - p[0]) ** 2 + 2 * (p[1] - p[0] ** 2) ** 2


PROBLEMS = {
    "quadratic": (quadratic, [-1.0, 3.0, 0.5], [1.0, -1.0, 2.0]),
    "parabola": (parabola, [-0.5, 1.5], [1.0, 1.0]),
}


def minimise(tx, function, start, steps):
    params = jnp.array(start)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(function)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps)[0][0])(params)


def test_every_optimizer_is_tested():
    assert set(SETTINGS) == set(_OPTIMIZERS)
    documented = " ".join(optimizer.__doc__.split()).split("name: ")[1].split(".")[0]
    assert sorted(documented.replace(" or ", ", ").split(", ")) == sorted(_OPTIMIZERS)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", SETTINGS)
def test_convergence(name, problem):
    rate, options = SETTINGS[name]
    function, start, wanted = PROBLEMS[problem]
    found = minimise(optimizer(name, rate, **options), function, start, 4000)
    np.testing.assert_allclose(found, wanted, atol=0.03)


# ---- the guide's equations, step by step in float64 ----

RATE = 0.05


class Numpy:
    """The updates of one equation, kept apart for each parameter."""

    def __init__(self, update):
        self._update, self._state, self._t = update, {}, 0

    def step(self, params, grads):
        self._t += 1
        return {
            name: p - RATE * self._update(grads[name], self._state.setdefault(name, {}), self._t)
            for name, p in params.items()
        }


def _momentum(g, s, t, beta=0.9):
    """Eq. 19."""
    s["v"] = beta * s.get("v", 0) + (1 - beta) * g
    return s["v"]


def _rmsprop(g, s, t, beta=0.9, eps=1e-8):
    """Eq. 21-22: ε under the root."""
    s["s"] = beta * s.get("s", 0) + (1 - beta) * g**2
    return g / np.sqrt(s["s"] + eps)


def _adam(g, s, t, b1=0.9, b2=0.999, eps=1e-8):
    """Eq. 23-26."""
    s["m"] = b1 * s.get("m", 0) + (1 - b1) * g
    s["v"] = b2 * s.get("v", 0) + (1 - b2) * g**2
    return s["m"] / (1 - b1**t) / (np.sqrt(s["v"] / (1 - b2**t)) + eps)


def _heavy_ball(g, s, t, momentum=0.9):
    """As in PyTorch and Keras: v := βv + g."""
    s["v"] = momentum * s.get("v", 0) + g
    return s["v"]


def _nesterov(g, s, t, momentum=0.8):
    """Sutskever et al. 2013: the gradient's look ahead is that of the velocity after it."""
    return g + momentum * _heavy_ball(g, s, t, momentum)


def _rmsprop_outside(g, s, eps, beta=0.9):
    s["s"] = beta * s.get("s", 0) + (1 - beta) * g**2
    return g / (np.sqrt(s["s"]) + eps)


EQUATIONS = {
    "sgd": ("sgd", {}, lambda g, s, t: g),
    "heavy_ball": ("heavy_ball", {}, _heavy_ball),
    "nesterov": ("nesterov", {"momentum": 0.8}, _nesterov),
    "rmsprop with epsilon outside": (
        "rmsprop",
        {"eps": 0.1, "eps_in_sqrt": False},
        lambda g, s, t: _rmsprop_outside(g, s, 0.1),
    ),
    "sgd with momentum": ("sgd", {"momentum": 0.9}, _heavy_ball),
    "momentum": ("momentum", {}, _momentum),
    "momentum .5": ("momentum", {"beta": 0.5}, lambda g, s, t: _momentum(g, s, t, 0.5)),
    "rmsprop": ("rmsprop", {}, _rmsprop),
    "rmsprop with a large epsilon": (
        "rmsprop",
        {"decay": 0.8, "eps": 0.1},
        lambda g, s, t: _rmsprop(g, s, t, 0.8, 0.1),
    ),
    "adam": ("adam", {}, _adam),
    "adam with other constants": (
        "adam",
        {"b1": 0.8, "b2": 0.9, "eps": 0.1},
        lambda g, s, t: _adam(g, s, t, 0.8, 0.9, 0.1),
    ),
}


def tree(seed):
    rng = np.random.default_rng(seed)
    return {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}


def float32(tree):
    return jax.tree.map(jnp.float32, tree)


def follow(tx, reference, steps=6, gradients=lambda grads, params: grads, rtol=2e-5):
    """Both walk on the same gradients; after each step they must be at the same place."""
    wanted = tree(0)
    params = float32(wanted)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for index in range(steps):
        grads = tree(index + 1)
        updates, state = update(float32(grads), state, params)
        params = optax.apply_updates(params, updates)
        wanted = reference.step(wanted, gradients(grads, wanted))
        chex.assert_trees_all_close(params, float32(wanted), rtol=rtol, atol=1e-6)
    return params


@pytest.mark.parametrize("case", EQUATIONS)
def test_equations_of_the_guide(case):
    name, options, equation = EQUATIONS[case]
    follow(optimizer(name, RATE, **options), Numpy(equation))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_l2_penalty_on_kernels_alone(name):
    """Eq. 27: the gradient of λ/2 ‖W‖² is λW; biases go free."""

    def penalised(grads, params):
        return {"kernel": grads["kernel"] + 0.3 * params["kernel"], "bias": grads["bias"]}

    follow(optimizer(name, RATE, l2=0.3), Numpy(EQUATIONS[name][2]), gradients=penalised)


def test_l2_penalty_is_that_of_the_loss():
    """The step on ℒ with `l2` is the plain step on ℒ + λ/2 ‖W‖²."""
    params, x, lam = float32(tree(0)), jnp.ones((2, 3)), 0.3

    def loss(p):
        return jnp.sum((x @ p["kernel"] + p["bias"][None] - 1) ** 2)

    def move(tx, function):
        return optax.apply_updates(params, tx.update(jax.grad(function)(params), tx.init(params), params)[0])

    wanted = move(optimizer("sgd", RATE), lambda p: loss(p) + lam / 2 * jnp.sum(p["kernel"] ** 2))
    chex.assert_trees_all_close(move(optimizer("sgd", RATE, l2=lam), loss), wanted, rtol=1e-5)


def clip_norm(grads, threshold):
    """Eq. 74, over all parameters together."""
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    return {name: min(1.0, threshold / norm) * g for name, g in grads.items()}


@pytest.mark.parametrize("threshold", [0.5, 4.0, 100.0])
def test_clip_norm(threshold):
    follow(
        optimizer("sgd", RATE, clip_norm=threshold),
        Numpy(EQUATIONS["sgd"][2]),
        gradients=lambda g, _: clip_norm(g, threshold),
    )


@pytest.mark.parametrize("threshold", [0.1, 0.7, 100.0])
def test_clip_value(threshold):
    follow(
        optimizer("sgd", RATE, clip_value=threshold),
        Numpy(EQUATIONS["sgd"][2]),
        gradients=lambda grads, _: {name: np.clip(g, -threshold, threshold) for name, g in grads.items()},
    )


def test_order_of_penalty_and_clipping():
    """The penalty first, then the norm is clipped, then each component, then Adam."""

    def all_of_it(grads, params):
        grads = clip_norm({"kernel": grads["kernel"] + 0.3 * params["kernel"], "bias": grads["bias"]}, 2.0)
        return {name: np.clip(g, -0.5, 0.5) for name, g in grads.items()}

    follow(optimizer("adam", RATE, l2=0.3, clip_norm=2.0, clip_value=0.5), Numpy(_adam), gradients=all_of_it)


def test_gradient_of_zero_norm_is_clipped_to_zero():
    tx = optimizer("sgd", RATE, clip_norm=1.0)
    zero = {"w": jnp.zeros(3)}
    chex.assert_trees_all_equal(tx.update(zero, tx.init(zero), zero)[0], zero)


def test_nan_is_not_clipped_to_a_number():
    """An overflow must stay visible to the loss scale and to the loop."""
    tx = optimizer("sgd", RATE, clip_norm=1.0, clip_value=1.0)
    params = {"w": jnp.zeros(3)}
    updates, _ = tx.update({"w": jnp.array([np.nan, 1.0, 1.0])}, tx.init(params), params)
    assert np.isnan(updates["w"][0])


@pytest.mark.parametrize("name", ["sgd", "adam", "momentum"])
@pytest.mark.parametrize("k", [2, 3])
def test_accumulation_is_one_step_on_the_mean(name, k):
    options = {"l2": 0.1, "clip_norm": 2.0}
    one, many = optimizer(name, RATE, **options), optimizer(name, RATE, accumulate_steps=k, **options)
    start = params = whole = float32(tree(0))
    state, whole_state = many.init(params), one.init(whole)
    update = jax.jit(many.update)
    for big_step in range(3):
        grads = [float32(tree(10 * big_step + i)) for i in range(k)]
        before = params
        for index, g in enumerate(grads):
            updates, state = update(g, state, params)
            params = optax.apply_updates(params, updates)
            if index < k - 1:
                chex.assert_trees_all_equal(params, before)
        mean = jax.tree.map(lambda *g: sum(g) / k, *grads)
        updates, whole_state = one.update(mean, whole_state, whole)
        whole = optax.apply_updates(whole, updates)
        chex.assert_trees_all_close(params, whole, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(params, start, rtol=1e-2)


def test_micro_batches_are_one_batch():
    """Four batches of 4 examples move the parameters as one of 16 does."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 3)).astype(np.float32), rng.normal(size=16).astype(np.float32)

    def loss(w, rows):
        return jnp.mean((x[rows] @ w - y[rows]) ** 2)

    w = jnp.ones(3)
    big, small = optimizer("adam", RATE), optimizer("adam", RATE, accumulate_steps=4)
    wanted = w + big.update(jax.grad(loss)(w, slice(16)), big.init(w), w)[0]
    state = small.init(w)
    for start in range(0, 16, 4):
        updates, state = small.update(jax.grad(loss)(w, slice(start, start + 4)), state, w)
        w = w + updates
    np.testing.assert_allclose(w, wanted, rtol=1e-5)


@pytest.mark.parametrize("k", [1, 4])
def test_a_schedule_counts_steps_also_where_they_accumulate(k):
    """The rate of an update is that of the step in which it is made: a schedule ends with the training."""
    tx = optimizer("sgd", lambda step: step + 1.0, accumulate_steps=k)
    w = jnp.zeros(())
    state = tx.init(w)
    for _ in range(8):
        updates, state = tx.update(jnp.ones(()), state, w)
        w = w + updates
    assert float(w) == -sum(step + 1 for step in range(8) if (step + 1) % k == 0)


@pytest.mark.parametrize("name", [name for name in SETTINGS if not name.startswith("schedule_free")])
def test_takes_a_schedule(name):
    """With a rate that falls to zero at the third step the parameters stand still from there on.

    Those of a schedule-free optimizer go on into its average; its rates are tried in `test_schedule_free.py`.
    """
    options = {**SETTINGS[name][1], **({"momentum": 0.0} if name == "lars" else {})}  # its momentum holds past rates
    tx = optimizer(name, optax.piecewise_constant_schedule(0.1, {2: 0.0}), **options)
    params = float32(tree(0))
    state = tx.init(params)
    update = jax.jit(tx.update)
    moved = []
    for index in range(4):
        updates, state = update(float32(tree(index + 1)), state, params)
        moved.append(float(optax.tree.norm(updates)))
        params = optax.apply_updates(params, updates)
    assert min(moved[:2]) > 0
    assert max(moved[2:]) == 0


@pytest.mark.parametrize("name", SETTINGS)
def test_optimizer_state_is_scanned_and_donated(name):
    """Shapes, dtypes and structure stay as they are from the first step on, or a loop could not carry them."""
    tx = optimizer(name, 0.1, l2=0.1, clip_norm=1.0, accumulate_steps=2)
    params = float32(tree(0))
    before = jax.eval_shape(tx.init, params)
    after = jax.eval_shape(lambda p: tx.update(p, tx.init(p), p)[1], params)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)


def test_unknown_optimizer():
    with pytest.raises(ValueError, match=r"unknown optimizer: 'adan'.*adam"):
        optimizer("adan", 0.1)


@pytest.mark.parametrize("name", SETTINGS)
def test_unknown_option(name):
    with pytest.raises(ValueError, match=f"unknown option of optimizer '{name}': 'nonsense'"):
        optimizer(name, 0.1, nonsense=1)


def test_the_nearest_option_is_named():
    with pytest.raises(ValueError, match="weight_decay"):
        optimizer("adamw", 0.1, weight_dekay=1)


@pytest.mark.parametrize(
    "options",
    [
        {"l2": -1.0},
        {"clip_norm": 0.0},
        {"clip_norm": -1.0},
        {"clip_value": 0},
        {"clip_value": -0.1},
        {"accumulate_steps": 0},
        {"accumulate_steps": -2},
    ],
)
def test_numbers_that_make_no_sense(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}.*{options[name]}"):
        optimizer("sgd", 0.1, **options)


def test_the_options_are_those_of_the_signature():
    """`clip_norm` and its kin are arguments of all; no optimizer may have an option of the same name."""
    own = set(inspect.signature(optimizer).parameters)
    for name, build in _OPTIMIZERS.items():
        assert not (own - {"learning_rate"}) & set(inspect.signature(build).parameters), name


def test_weight_decay_of_kernels_alone():
    params = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)}
    tx = optimizer("adamw", 0.1, weight_decay=0.5, mask="kernels")
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 2, rtol=1e-6)
    assert not np.any(updates["bias"])
    with pytest.raises(ValueError, match="unknown mask of weight decay: 'kernel'; nearest: kernels"):
        optimizer("adamw", 0.1, mask="kernel")
