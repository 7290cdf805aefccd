"""What the models on differential equations promise beside shapes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
import zoo
from tests.descriptors import random_variables
from train.loop import DivergedError, fit
from train.measure import flow_pictures
from train.tasks import classification
from zoo.dynamics.latent_ode import until_next

pytestmark = pytest.mark.slow

pytest.importorskip("diffrax")


def flow(**options):
    model = zoo.create_model("ffjord", hidden_sizes=(8,), **options)
    return model, random_variables(model, jnp.zeros((1, 2)))


@pytest.mark.parametrize("solver", ["dopri5", "fixed_rk4"])
def test_a_density_integrates_to_one(solver):
    model, variables = flow(solver=solver)
    side = np.linspace(-12, 12, 301, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    total = np.exp(np.asarray(jax.jit(model.apply)(variables, grid), np.float64)).sum() * (side[1] - side[0]) ** 2
    assert total == pytest.approx(1, abs=0.01)


def test_points_flow_back_to_the_noise_that_they_came_from():
    model, variables = flow(rtol=1e-5, atol=1e-6)
    noise = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    points = model.flow(variables, noise)[-1]
    of_noise = -np.square(noise).sum(axis=-1) / 2 - np.log(2 * np.pi)
    jacobians = jax.vmap(jax.jacrev(lambda z: model.flow(variables, z[None])[-1, 0]))(noise)
    wanted = of_noise - np.linalg.slogdet(np.asarray(jacobians))[1]
    np.testing.assert_allclose(model.apply(variables, points), wanted, atol=1e-3)
    np.testing.assert_allclose(model.log_density_at(variables, points, 1.0), wanted, atol=1e-3)


def test_hutchinsons_trace_is_the_exact_one_on_average():
    exact, variables = flow(solver="fixed_rk4")
    estimate, x = exact.clone(trace="hutchinson"), np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.jit(jax.vmap(lambda key: estimate.apply(variables, x, train=True, rngs={"latent": key})))(keys)
    error = 5 * found.std(axis=0) / np.sqrt(len(keys))
    assert (error > 0).all()
    assert (np.abs(found.mean(axis=0) - exact.apply(variables, x)) < error).all()
    np.testing.assert_allclose(estimate.apply(variables, x), exact.apply(variables, x), rtol=1e-5)


def test_a_latent_ode_does_not_see_what_was_not_observed():
    model = zoo.create_model("latent_ode", hidden_size=5, encoder_size=4)
    x = np.random.default_rng(0).normal(size=(2, 6, 2)).astype(np.float32)
    times = np.sort(np.random.default_rng(1).uniform(size=(2, 6)).astype(np.float32), axis=1)
    variables, observed = random_variables(model, x), np.float32([[1, 0, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]])
    hidden = np.where(observed[..., None] > 0, x, np.nan)
    first, second = (model.apply(variables, each, times, observed) for each in (x, hidden))
    np.testing.assert_array_equal(first.prediction, second.prediction)
    for i, (time, seen) in enumerate(zip(times, observed > 0, strict=True)):
        for j in range(6):
            later = [t for t, s in zip(time[j + 1 :], seen[j + 1 :], strict=True) if s]
            assert until_next(times, observed)[i, j] == (later[0] - time[j] if later else 0)


def test_a_training_that_is_not_solved_names_the_limit():
    model = zoo.create_model("neural_ode", hidden_sizes=(4,), max_steps=1, num_classes=2)
    task = classification(model, optax.sgd(0.1), inputs="features")
    with pytest.raises(DivergedError, match=r"at step 1; an ODE was not solved within its limit of 1 steps"):
        fit(task, data.load("rings", size=32), batch_size=16, steps=2)


def test_solver_metrics_are_reported():
    model = zoo.create_model("neural_ode", hidden_sizes=(4,))
    task = classification(model, optax.sgd(0.1), inputs="features")
    (row,) = fit(task, data.load("rings", size=32, validation=8), batch_size=8, steps=2).history
    for name in ("solver_steps", "validation_solver_steps"):
        assert row[name] >= 1
    assert row["validation_field_evaluations"] == 6 * row["validation_solver_steps"] + 1


@pytest.mark.parametrize("name", ["moons", "eight_gaussians"])
def test_the_true_density_integrates_to_one(name):
    from data.tables import densities

    source = data.load(name, size=50, noise=0.3).splits["train"].arrays
    assert source["features"].shape == (50, 2)
    angle = np.arange(8) * np.pi / 4
    centres = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    side = np.linspace(-5, 5, 201)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    total = np.exp(densities._log_mixture(grid, centres, 0.3)).sum() * (side[1] - side[0]) ** 2
    assert total == pytest.approx(1, abs=1e-6)
    if name == "eight_gaussians":
        wanted = densities._log_mixture(source["features"].astype(float), centres, 0.3)
        np.testing.assert_allclose(source["log_density"], wanted, atol=1e-4)


def test_a_portrait_is_of_a_neural_ode_in_the_plane():
    import train.recipes  # noqa: F401
    from train.inference.loading import Run
    from train.recipe import get_recipe

    recipe = get_recipe("anode_rings")
    model = zoo.create_model("neural_ode")
    assert flow_pictures.shows_phase_portrait(Run(recipe, data.load("rings"), model, {}))
    assert not flow_pictures.shows_phase_portrait(Run(recipe, data.load("iris"), model, {}))
