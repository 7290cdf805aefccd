"""Solutions and gradients beside closed forms, finite differences and torchdiffeq."""

from __future__ import annotations

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from zoo.dynamics import Method, SolverError, solve

pytest.importorskip("diffrax")

SIZES = (2, 6, 2)


def mlp_field(t, y, params):
    for index, (kernel, bias) in enumerate(params):
        y = y @ kernel + jnp.expand_dims(bias, 0)
        y = y if index == len(params) - 1 else jnp.tanh(y)
    return y * (1 + t)


def params_of(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(size=(n, m)).astype(dtype), rng.normal(size=m).astype(dtype)) for n, m in itertools.pairwise(SIZES)
    ]


def start(dtype, batch=3):
    return np.random.default_rng(1).normal(size=(batch, 2)).astype(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["tsit5", "dopri5", "heun", "fixed_euler", "fixed_heun", "fixed_rk4"])
@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, 0.5, 0.2, 0.0)])
def test_exponential_decay(solver, times):
    y, rates = np.float32([[1.0, 2.0], [3.0, -1.0]]), np.float32([[0.5, 2.0]])
    found = solve(
        lambda t, y, rates: -rates * y,
        y,
        times,
        rates,
        solver=solver,
        rtol=1e-5,
        atol=1e-6,
        num_steps=20,
        max_steps=2000,
    )
    passed = np.asarray(times)[:, None, None] - times[0]
    np.testing.assert_allclose(
        found.values, y * np.exp(-rates * passed), rtol={"fixed_euler": 0.15, "fixed_heun": 1e-2}.get(solver, 1e-4)
    )
    assert bool(found.solved.all())


@pytest.mark.parametrize(("solver", "order"), [("fixed_euler", 1), ("fixed_heun", 2), ("fixed_rk4", 4)])
def test_the_order_of_convergence(solver, order):
    with jax.enable_x64(True):
        errors = [
            abs(
                float(
                    solve(
                        lambda t, y, _: y * jnp.cos(t), jnp.ones((1,)), (0.0, 2.0), solver=solver, num_steps=n
                    ).values[-1, 0]
                )
                - np.exp(np.sin(2.0))
            )
            for n in (10, 20)
        ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("control", ["batch", pytest.param("example", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("adjoint", ["direct", "checkpoint", "backsolve"])
@pytest.mark.parametrize("times", [pytest.param((0.0, 1.0), marks=pytest.mark.exhaustive), (0.0, 0.4, 1.0)])
def test_gradients_are_finite_differences(adjoint, times, control):
    with jax.enable_x64(True):
        params, y = params_of(np.float64), start(np.float64)
        options = {"solver": "dopri5", "rtol": 1e-9, "atol": 1e-10, "adjoint": adjoint, "error_control": control}

        @jax.jit
        def loss(params, y):
            return jnp.square(solve(mlp_field, y, times, params, **options).values).sum()

        gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, y)
        direction = jax.tree.map(lambda x: np.random.default_rng(2).normal(size=x.shape), (params, y))
        wanted = [loss(*jax.tree.map(lambda x, d, s=s: x + s * d, (params, y), direction)) for s in (1e-5, -1e-5)]
        found = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True))
        np.testing.assert_allclose(found, (wanted[0] - wanted[1]) / 2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["dopri5", "fixed_rk4"])
def test_gradients_for_times(solver):
    with jax.enable_x64(True):
        options = {"solver": solver, "rtol": 1e-9, "atol": 1e-10, "num_steps": 50}

        @jax.jit
        def loss(times):
            return jnp.square(solve(mlp_field, start(np.float64), times, params_of(np.float64), **options).values).sum()

        times = np.array([0.1, 0.4, 1.0])
        found = jax.grad(loss)(times)
        for index, step in enumerate(1e-5 * np.eye(3)):
            np.testing.assert_allclose(found[index], (loss(times + step) - loss(times - step)) / 2e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_values_and_gradients_are_torchdiffeqs(method):
    torch, torchdiffeq = pytest.importorskip("torch"), pytest.importorskip("torchdiffeq")
    params, y, times = params_of(np.float32), start(np.float32), (0.0, 0.4, 1.0)
    ours = {"dopri5": {"solver": "dopri5", "rtol": 1e-6, "atol": 1e-6}, "rk4": {"solver": "fixed_rk4", "num_steps": 20}}
    theirs = {"dopri5": {"rtol": 1e-6, "atol": 1e-6}, "rk4": {"options": {"step_size": 0.02}}}
    leaves = [[torch.tensor(x, requires_grad=True) for x in layer] for layer in params]

    def field(t, y):
        for index, (kernel, bias) in enumerate(leaves):
            y = y @ kernel + bias
            y = y if index == len(leaves) - 1 else torch.tanh(y)
        return y * (1 + t)

    values = torchdiffeq.odeint(field, torch.tensor(y), torch.tensor(times), method=method, **theirs[method])
    values.square().sum().backward()
    found, gradients = jax.jit(
        jax.value_and_grad(
            lambda params: ((v := solve(mlp_field, y, times, params, **ours[method]).values) ** 2).sum() + 0 * v.sum()
        )
    )(params)
    np.testing.assert_allclose(found, values.square().sum().item(), rtol=1e-4)
    for ours_, theirs_ in zip(jax.tree.leaves(gradients), [x for layer in leaves for x in layer], strict=True):
        np.testing.assert_allclose(ours_, theirs_.grad, rtol=1e-3, atol=1e-3 * theirs_.grad.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize(
    "adjoint", ["direct", *(pytest.param(other, marks=pytest.mark.exhaustive) for other in ("checkpoint", "backsolve"))]
)
def test_a_flax_module_leaks_no_tracer(adjoint):
    model = zoo.create_model("neural_ode", hidden_sizes=(4,), adjoint=adjoint)
    x = start(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    with jax.checking_leaks():
        gradients = jax.jit(jax.grad(lambda v: jnp.square(model.apply(v, x, train=True)).sum()))(variables)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients))


@pytest.mark.slow
def test_evaluations_are_counted():
    counted = []

    def field(t, y, _):
        jax.debug.callback(lambda: counted.append(1))
        return -y

    found = jax.block_until_ready(solve(field, start(np.float32), (0.0, 3.0), solver="dopri5"))
    jax.effects_barrier()
    assert len(counted) == found.evaluations[0]


@pytest.mark.slow
def test_each_example_takes_its_own_steps():
    y = np.float32([[1.0], [1.0]])
    times = np.float32([[0.0, 0.5], [0.0, 8.0]])
    options = {"solver": "dopri5", "error_control": "example"}
    found = solve(lambda t, y, _: -y * (1 + jnp.sin(5 * t)), y, times, **options)
    alone = solve(lambda t, y, _: -y * (1 + jnp.sin(5 * t)), y[1:], times[1:], **options)
    assert found.steps[1] > 2 * found.steps[0]
    np.testing.assert_allclose(found.values[:, 1], alone.values[:, 0], rtol=1e-5)
    with pytest.raises(ValueError, match="choose error_control='example'"):
        solve(lambda t, y, _: -y, y, times, solver="dopri5")


def test_what_is_not_solved_is_an_error_and_nan_inside_a_program():
    def stiff(t, y, _):
        return -1e6 * (y - jnp.cos(t))

    y = start(np.float32)
    with pytest.raises(SolverError, match=r"not solved within its limit of 20 steps \(max_steps\): it is stiff"):
        solve(stiff, y, (0.0, 10.0), max_steps=20)
    found = jax.jit(lambda y: solve(stiff, y, (0.0, 10.0), max_steps=20))(y)
    assert np.isnan(found.values).all()
    assert not found.solved.any()
    assert (found.steps == 20).all()


@pytest.mark.parametrize("tolerance", [{"rtol": 1e-8}, {"atol": 1e-8}, {"rtol": float("nan")}])
def test_tolerances_finer_than_float32_are_refused(tolerance):
    with pytest.raises(ValueError, match=r"finer than float32 is.*Loosen them, or compute in float64"):
        solve(lambda t, y, _: -y, start(np.float32), (0.0, 1.0), **tolerance)


def test_wrong_calls_are_refused():
    y = start(np.float32)
    for message, call in {
        "unknown solver: 'rk45'": lambda: Method("rk45"),
        "max_steps must be at least 1, not 0": lambda: Method(max_steps=0),
        r"times must be at least two, \[times\]": lambda: solve(lambda t, y, _: y, y, (0.0,)),
        r"the shape of the state, \[3, 2\], not \[3, 1\]": lambda: solve(lambda t, y, _: y[:, :1], y, (0.0, 1.0)),
        r"real numbers \[batch, …\], not int32": lambda: solve(lambda t, y, _: y, np.ones((2, 2), int), (0.0, 1.0)),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_without_diffrax_fixed_steps_work_and_others_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffrax", None)
    assert solve(lambda t, y, _: -y, start(np.float32), (0.0, 1.0), solver="fixed_rk4").solved.all()
    with pytest.raises(ImportError, match=r'pip install "flaxzoo\[ode\]"'):
        solve(lambda t, y, _: -y, start(np.float32), (0.0, 1.0))
