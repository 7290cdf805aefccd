"""Diffusion's processes against closed forms: schedules, steps, and whole generations where the best model is known."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zoo
from tests.descriptors import random_variables
from zoo.generative import diffusion
from zoo.generative.diffusion import add_noise, cosine_schedule, generate, linear_schedule, noise_schedule, remove_noise

MEAN, DEVIATION = 0.2, 0.1


class Oracle(nn.Module):
    """The best prediction of the noise in images whose pixels are independent and N(0.2, 0.1²)."""

    num_steps: int

    def __call__(self, x, time):
        signal = jnp.asarray(linear_schedule(self.num_steps))[time]
        total = signal * DEVIATION**2 + 1 - signal
        return jnp.sqrt(1 - signal) * (x - jnp.sqrt(signal) * MEAN) / total


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_linear_schedule():
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(linear_schedule(1000), np.exp(np.log1p(-betas).cumsum()), rtol=1e-5)
    assert linear_schedule(1000)[-1] == pytest.approx(4.04e-5, rel=1e-2)  # as in Ho et al.: almost nothing is left
    assert linear_schedule(100)[-1] == pytest.approx(4e-5, rel=0.5), "another length ends about there too"


def test_cosine_schedule():
    time = np.arange(1, 1001) / 1000
    wanted = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    found = cosine_schedule(1000)
    np.testing.assert_allclose(found[:-2], wanted[:-2], rtol=1e-4)
    assert found[-1] / found[-2] == pytest.approx(0.001, rel=1e-4), "the last β is clipped"


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("num_steps", [4, 1000])
def test_schedules_fall(name, num_steps):
    signal = noise_schedule(name, num_steps)
    assert signal.shape == (num_steps,)
    assert np.all(np.diff(signal) < 0)
    assert 0 < signal[-1] < signal[0] < 1


def test_each_image_has_the_noise_of_its_time():
    schedule, clean, noise, time = (
        linear_schedule(10),
        normal(3, 2, 2, 1),
        normal(3, 2, 2, 1, seed=1),
        np.array([0, 4, 9]),
    )
    found = add_noise(schedule, clean, time, noise)
    for i, t in enumerate(time):
        wanted = np.sqrt(schedule[t]) * clean[i] + np.sqrt(1 - schedule[t]) * noise[i]
        np.testing.assert_allclose(found[i], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("time", "previous"), [(9, 8), (7, 2), (3, 0), (0, -1), (5, -1)])
def test_ddim_with_the_true_noise_goes_straight_back(time, previous):
    """To x₀ with the same noise, as much as there is of it at the time before."""
    schedule, noise = cosine_schedule(10), normal(2, 3, 3, 1)
    clean = np.clip(normal(2, 3, 3, 1, seed=1), -0.9, 0.9)
    noisy = add_noise(schedule, clean, np.full(2, time), noise)
    found = remove_noise(schedule, noisy, noise, time, previous)
    wanted = clean if previous < 0 else add_noise(schedule, clean, np.full(2, previous), noise)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("time", [1, 10, 20])
def test_with_eta_1_a_step_is_that_of_ddpm(time):
    """Ho et al. 2020, eq. 6 and 7, with x₀ from the predicted noise and clipped."""
    schedule, true, error, noise = linear_schedule(50), *(normal(2, 3, 3, 1, seed=seed) for seed in range(3))
    noisy, predicted = add_noise(schedule, normal(2, 3, 3, 1, seed=3), np.full(2, time), true), true + 0.1 * error
    signal = schedule.astype(np.float64)
    beta = 1 - signal[time] / signal[time - 1]
    clean = np.clip((noisy - np.sqrt(1 - signal[time]) * predicted) / np.sqrt(signal[time]), -1, 1)
    assert np.any(np.abs(clean) == 1)
    assert np.any(np.abs(clean) < 1)
    mean = np.sqrt(signal[time - 1]) * beta / (1 - signal[time]) * clean
    mean += np.sqrt(1 - beta) * (1 - signal[time - 1]) / (1 - signal[time]) * noisy
    variance = (1 - signal[time - 1]) / (1 - signal[time]) * beta
    found = remove_noise(schedule, noisy, predicted, time, time - 1, eta=1.0, noise=noise)
    np.testing.assert_allclose(found, mean + np.sqrt(variance) * noise, rtol=1e-4, atol=1e-5)


def test_ddim_maps_a_normal_distribution_linearly():
    """The flow from N(0, 1) to N(μ, σ²) is x ↦ μ + σ x, but for the little signal that is left at the last time."""
    noise = jnp.asarray(normal(4, 3, 3, 1))
    found = generate(Oracle(1000), {}, linear_schedule(1000), noise, steps=1000)
    np.testing.assert_allclose(found, MEAN + DEVIATION * noise, atol=5e-3)
    rough = generate(Oracle(1000), {}, linear_schedule(1000), noise, steps=5)
    assert np.abs(rough - found).max() > 1e-2, "fewer steps follow it less closely"


def test_ddpm_draws_from_the_distribution():
    """Each step is linear and adds noise: mean and variance of what 200 steps give follow from Ho's eq. 6 and 7.

    The variance falls short of the data's, for that of q(xₜ₋₁|xₜ, x₀) leaves out how uncertain x₀ is.
    """
    schedule, mean, variance = linear_schedule(200), 0.0, 1.0
    for signal, before in zip(schedule[::-1].astype(float), [*schedule[-2::-1].astype(float), 1.0], strict=True):
        beta = 1 - signal / before
        of_clean, of_noisy = np.sqrt(before) * beta / (1 - signal), np.sqrt(1 - beta) * (1 - before) / (1 - signal)
        total = signal * DEVIATION**2 + 1 - signal  # x₀ given xₜ is a normal distribution about this mean:
        slope, start = np.sqrt(signal) * DEVIATION**2 / total, (1 - signal) * MEAN / total
        mean = of_clean * (slope * mean + start) + of_noisy * mean
        variance = (of_clean * slope + of_noisy) ** 2 * variance + (1 - before) / (1 - signal) * beta
    assert 0.08 < np.sqrt(variance) < DEVIATION

    noise = jnp.asarray(normal(2000, 2, 2, 1))
    found = generate(Oracle(200), {}, schedule, noise, steps=200, eta=1.0, key=jax.random.key(0))
    assert np.mean(found) == pytest.approx(mean, abs=4 * DEVIATION / np.sqrt(8000))
    assert np.std(found) == pytest.approx(np.sqrt(variance), rel=0.03)
    assert abs(np.corrcoef(found.ravel(), noise.ravel())[0, 1]) < 0.05, "what it began with is forgotten"


@pytest.mark.parametrize(
    ("steps", "times"), [(1, [19]), (2, [19, 0]), (4, [19, 13, 6, 0]), (20, list(range(19, -1, -1)))]
)
def test_times_are_visited_evenly_from_the_last_to_the_first(steps, times, monkeypatch):
    """And each step leads to the next of them, the last one to the clean image."""
    seen = []

    def step(model, variables, schedule, image, time, previous, eta, noise):
        seen.append((time, previous))
        return image

    monkeypatch.setattr(diffusion, "_step", step)
    generate(Oracle(20), {}, linear_schedule(20), jnp.zeros((1, 2, 2, 1)), steps=steps)
    assert seen == list(zip(times, [*times[1:], -1], strict=True))


def test_generation_depends_on_its_key_alone():
    noise, schedule = jnp.asarray(normal(2, 2, 2, 1)), linear_schedule(20)

    def run(seed):
        return generate(Oracle(20), {}, schedule, noise, steps=5, eta=1.0, key=jax.random.key(seed))

    np.testing.assert_array_equal(run(0), run(0))
    assert np.all(run(0) != run(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be from 1 to the 20 of the noise schedule, not 0"),
        ({"steps": 21}, "steps must be from 1 to the 20"),
        ({"eta": 1.0}, "give a key"),
    ],
)
def test_generation_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        generate(Oracle(20), {}, linear_schedule(20), jnp.zeros((1, 2, 2, 1)), **{"steps": 5, **options})


def test_unknown_schedules_are_refused():
    with pytest.raises(ValueError, match=r"unknown noise schedule: 'cosin'; nearest: cosine"):
        noise_schedule("cosin", 10)
    with pytest.raises(ValueError, match="at least 1 step, not 0"):
        noise_schedule("cosine", 0)


@pytest.mark.slow
def test_the_network_sees_the_time_of_each_image():
    model = zoo.create_model("ddpm_unet", features=(4, 6), num_groups=2)
    x = np.repeat(normal(1, 4, 2, 1), 3, axis=0)
    variables = random_variables(model, x)
    apply = jax.jit(model.apply)
    together = apply(variables, x, np.array([0, 7, 999]))
    for index, time in enumerate((0, 7, 999)):
        alone = apply(variables, x, np.full(3, time))
        np.testing.assert_allclose(together[index], alone[index], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.apply(variables, x, time), alone, rtol=1e-4, atol=1e-5)
    assert np.abs(together[1] - together[0]).max() > 1e-3
    assert np.abs(together[2] - together[1]).max() > 1e-3


@pytest.mark.slow
def test_the_network_starts_by_predicting_nothing():
    model = zoo.create_model("ddpm_unet", features=(4, 6), num_groups=2)
    x = normal(2, 4, 2, 1)
    y, _ = jax.jit(lambda key: model.init_with_output(key, x))(jax.random.key(0, impl="rbg"))
    assert not np.any(y)


def test_odd_sides_are_refused():
    model = zoo.create_model("ddpm_unet")
    with pytest.raises(ValueError, match="sides are multiples of 4, not 28 × 30"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 28, 30, 1)))


def test_time_embedding():
    found = diffusion.time_embedding(jnp.array([0.0, 1.0, 500.0]), 6)
    angle = np.array([0.0, 1.0, 500.0])[:, None] * 10_000.0 ** -np.array([[0, 1 / 2, 1]])
    np.testing.assert_allclose(found, np.concatenate([np.sin(angle), np.cos(angle)], axis=1), atol=1e-4)


@pytest.mark.parametrize("features", [2, 3])
def test_a_single_wavelength_is_the_shortest(features):
    found = diffusion.time_embedding(jnp.array([0.0, 1.0]), features)
    np.testing.assert_allclose(found, [[0, 1], [np.sin(1), np.cos(1)]], atol=1e-6)
