"""The range test: its suggestion on curves of known shape, and that it changes nothing."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import data
import zoo
from train.loop import find_rate
from train.loop.rate_test import has_diverged, suggest
from train.tasks import classification

RATES = 1e-7 * 10 ** (8 * np.arange(100) / 99)
VALLEY = 1e-2
"""Where the loss of `curve` falls most steeply, and half-way."""


def curve(spikes=(), noise=0.02, seed=0):
    logs = np.log10(RATES)
    losses = 0.3 + 2 / (1 + np.exp(4 * (logs - np.log10(VALLEY)))) + np.exp(5 * (logs - 0.2))
    losses = losses + noise * np.random.default_rng(seed).normal(size=len(RATES))
    for place in spikes:
        losses[place] *= 5
    return losses


@pytest.mark.parametrize("spikes", [(), (3,), (1, 2, 3), (20, 40, 55), (60,), (63, 66), (30, 31), (24, 25, 26, 58, 59)])
@pytest.mark.parametrize("seed", range(3))
def test_the_suggestion_is_right_on_a_spiky_curve(spikes, seed):
    losses = list(curve(spikes, seed=seed))
    end = next((n for n in range(1, 100) if has_diverged(losses[:n])), 100)
    _, _, suggestion = suggest(RATES[:end], np.array(losses[:end]))
    assert VALLEY / 2 < suggestion < VALLEY * 2


def test_what_has_diverged_does_not_move_it():
    calm, wild = curve(), curve()
    wild[94:] = 1e6
    wild[97:] = np.nan
    assert suggest(RATES, wild)[2] == pytest.approx(suggest(RATES, calm)[2], rel=0.05)
    assert len(suggest(RATES, wild)[0]) == 97


@pytest.mark.parametrize(
    "losses",
    [
        np.full(100, 2.3),
        2.3 + 0.1 * np.random.default_rng(0).normal(size=100),
        np.linspace(1, 3, 100),
        np.full(9, np.nan),
    ],
)
def test_no_suggestion_where_the_loss_does_not_fall(losses):
    assert suggest(RATES[: len(losses)], losses)[2] is None


def test_when_it_ends():
    calm = [2.0] * 10
    assert not has_diverged(calm)
    assert not has_diverged([*calm, 30.0, 30.0, 30.0]), "three spikes are no end"
    assert not has_diverged([0.1, 0.1, *calm]), "nor are two lucky batches at the start"
    assert has_diverged([*calm, 30.0, 30.0, 2.0, 30.0, 30.0])
    assert has_diverged([*calm, np.nan])


def test_it_learns_a_rate_and_changes_nothing():
    digits = data.load("digits", flat=True, standardize=True)
    model = zoo.create_model("mlp", hidden_sizes=(32,), dropout_rate=0.0)

    def task_of(rate):
        return classification(model, optax.adam(rate))

    task = task_of(1e-3)
    state = task.init(jax.random.key(0), {"image": np.zeros((1, 64), np.float32), "label": np.zeros(1, np.int32)})
    before = jax.tree.map(np.array, (state.params, state.opt_state, state.step))
    test = find_rate(task_of, digits, batch_size=32, state=state)
    jax.tree.map(np.testing.assert_array_equal, before, (state.params, state.opt_state, state.step))
    assert 3e-4 < test.suggestion < 3e-2
    assert len(test.rates) == len(test.losses) == len(test.smoothed) < 100, "it ends when the loss rises"
    assert test.losses[0] == pytest.approx(test.losses[:5].mean(), rel=0.3)
    np.testing.assert_allclose(test.rates[[0, 33]], [1e-7, 1e-7 * 10 ** (8 * 33 / 99)])


def test_bad_input():
    digits = data.load("digits", flat=True)
    with pytest.raises(ValueError, match="rates rise from a lowest above 0"):
        find_rate(lambda rate: None, digits, batch_size=8, lowest=1.0, highest=0.1)
    with pytest.raises(ValueError, match="at least 10 steps, not 3"):
        find_rate(lambda rate: None, digits, batch_size=8, steps=3)
    with pytest.raises(ValueError, match="task_of must return a task"):
        find_rate(lambda rate: None, digits, batch_size=8)
