"""Schedules against their closed forms."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.optim.schedules import _SCHEDULES, schedule

RATE, STEPS = 0.2, 40


def one_cycle(t, peak_at=0.3):
    """Cosines from α/25 up to α, and down to α/25/10⁴."""
    peak, low = peak_at * STEPS, RATE / 25
    if t <= peak:
        return low + (RATE - low) * (1 - math.cos(math.pi * t / peak)) / 2
    end = low / 1e4
    return end + (RATE - end) * (1 + math.cos(math.pi * min(1, (t - peak) / (STEPS - peak)))) / 2


# Name, options and α(t) for t = 0 … STEPS.
FORMS = [
    ("constant", {}, lambda t: RATE),
    ("exponential", {"decay_factor": 0.9, "decay_steps": 7}, lambda t: RATE * 0.9 ** (t / 7)),  # eq. 73
    ("exponential", {}, lambda t: RATE * 0.96**t),
    ("cosine", {}, lambda t: RATE * (1 + math.cos(math.pi * t / STEPS)) / 2),
    ("cosine", {"final_fraction": 0.1}, lambda t: RATE * (0.1 + 0.9 * (1 + math.cos(math.pi * t / STEPS)) / 2)),
    ("linear", {}, lambda t: RATE * (1 - t / STEPS)),
    ("linear", {"final_fraction": 0.25}, lambda t: RATE * (1 - 0.75 * t / STEPS)),
    ("polynomial", {}, lambda t: RATE * (1 - t / STEPS) ** 2),
    (
        "polynomial",
        {"power": 3.0, "final_fraction": 0.1},
        lambda t: RATE * (0.1 + 0.9 * (1 - t / STEPS) ** 3),
    ),
    ("step", {}, lambda t: RATE * 0.1 ** ((t >= 20) + (t >= 30))),
    ("step", {"decay_factor": 0.5, "milestones": [0.25]}, lambda t: RATE * 0.5 ** (t >= 10)),
    ("one_cycle", {}, one_cycle),
    ("one_cycle", {"peak_at": 0.5}, lambda t: one_cycle(t, 0.5)),
    ("inverse_sqrt", {}, lambda t: RATE / math.sqrt(t + 1)),
]
of_each = pytest.mark.parametrize(
    ("name", "options", "form"), FORMS, ids=[f"{name}{i}" for i, (name, *_) in enumerate(FORMS)]
)


def values(alpha, steps):
    return np.asarray(jax.jit(jax.vmap(alpha))(jnp.arange(steps)))


def test_every_schedule_is_tested():
    assert {name for name, _, _ in FORMS} == set(_SCHEDULES)
    assert all(name in schedule.__doc__ for name in _SCHEDULES)


@of_each
def test_closed_form(name, options, form):
    alpha = schedule(name, RATE, STEPS, **options)
    wanted = [form(t) for t in range(STEPS + 1)]
    np.testing.assert_allclose(values(alpha, STEPS + 1), wanted, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(
        [float(alpha(t)) for t in (0, 7, STEPS)], [form(t) for t in (0, 7, STEPS)], rtol=1e-4, atol=1e-7
    )


@of_each
def test_never_above_the_highest_rate(name, options, form):
    alpha = values(schedule(name, RATE, STEPS, warmup_steps=5, **options), STEPS + 20)
    assert alpha.min() >= -1e-8  # the rounding of a line that ends at 0, past the last step
    assert alpha.max() == pytest.approx(RATE, rel=1e-5)


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial"])
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_decay_ends_with_the_training_and_stays_there(name, warmup):
    alpha = values(schedule(name, RATE, STEPS, warmup_steps=warmup, final_fraction=0.1), STEPS + 10)
    assert alpha[STEPS - 1] > 0.1 * RATE
    np.testing.assert_allclose(alpha[STEPS:], 0.1 * RATE, rtol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial", "constant", "step"])
@pytest.mark.parametrize("warmup", [1, 2, 10])
def test_warm_up_rises_linearly_to_the_highest_rate(name, warmup):
    """α·(t + 1)/w for t < w: no step is wasted at a rate of 0; then the schedule begins."""
    alpha = values(schedule(name, RATE, STEPS, warmup_steps=warmup), STEPS)
    np.testing.assert_allclose(alpha[:warmup], RATE * np.arange(1, warmup + 1) / warmup, rtol=1e-5)
    after = values(schedule(name, RATE, STEPS - warmup), STEPS - warmup)
    np.testing.assert_allclose(alpha[warmup:], after, rtol=1e-5, atol=1e-8)


def test_warm_up_and_inverse_root_are_the_schedule_of_the_transformer():
    """Vaswani et al. 2017, eq. 3: min(t^−½, t·w^−3/2) for t = 1, 2, …, scaled to the highest rate at t = w."""
    warmup, steps = 10, 200
    t = np.arange(1, steps + 1)
    wanted = RATE * math.sqrt(warmup) * np.minimum(t**-0.5, t * warmup**-1.5)
    alpha = values(schedule("inverse_sqrt", RATE, steps, warmup_steps=warmup), steps)
    np.testing.assert_allclose(alpha, wanted, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", list(_SCHEDULES))
def test_very_short_training(name, steps):
    alpha = values(schedule(name, RATE, steps), steps + 1)
    assert np.isfinite(alpha).all()
    assert alpha.min() >= -1e-8  # the rounding of a line that ends at 0, past the last step
    assert alpha.max() <= RATE * 1.0001
    assert alpha[:steps].max() > 0


def test_traced_in_a_compiled_loop():
    alpha = schedule("cosine", RATE, STEPS, warmup_steps=4)
    _, inside = jax.jit(lambda: jax.lax.scan(lambda step, _: (step + 1, alpha(step)), 0, length=STEPS))()
    np.testing.assert_allclose(inside, [float(alpha(t)) for t in range(STEPS)], rtol=1e-6, atol=1e-8)


def test_unknown_schedule():
    with pytest.raises(ValueError, match=r"unknown schedule: 'cosin'.*cosine"):
        schedule("cosin", RATE, STEPS)


@pytest.mark.parametrize("name", list(_SCHEDULES))
def test_unknown_option(name):
    with pytest.raises(ValueError, match=rf"schedule '{name}'.*nonsense"):
        schedule(name, RATE, STEPS, nonsense=1)


@pytest.mark.parametrize("warmup", [-1, STEPS, STEPS + 1])
def test_warm_up_that_does_not_fit(warmup):
    with pytest.raises(ValueError, match=rf"warmup_steps .*must be at least 0.*, not {warmup}"):
        schedule("cosine", RATE, STEPS, warmup_steps=warmup)


@pytest.mark.parametrize("warmup", [0.1, "abc", True])
def test_warm_up_is_a_number_of_steps(warmup):
    with pytest.raises(ValueError, match=f"warmup_steps of schedule 'cosine' must be a whole number, not {warmup!r}"):
        schedule("cosine", RATE, STEPS, warmup_steps=warmup)


def test_milestones_of_one_step_each_count():
    rates = schedule("step", 1.0, 3, decay_factor=0.5, milestones=(0.6, 0.7))
    assert float(rates(2)) == 0.25


@pytest.mark.parametrize("milestones", [(100,), (0.0, 0.5), (0.5, 0.5), (0.7, 0.2), (1.0,)])
def test_milestones_are_rising_fractions(milestones):
    with pytest.raises(ValueError, match=r"milestones are rising fractions of the training, in \(0, 1\), not"):
        schedule("step", 1.0, 100, milestones=milestones)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf"), 10**400, True])
def test_what_is_no_learning_rate_is_refused(rate):
    with pytest.raises(ValueError, match="learning_rate must be a finite number of at least 0, not"):
        schedule("constant", rate, 10)
