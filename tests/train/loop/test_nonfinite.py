"""NaN and infinity are followed back to what made them, also through `fit`."""

from __future__ import annotations

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import data
from train.loop import DivergedError, fit, parallel
from train.loop.nonfinite import first_nonfinite
from train.search.populations import fit_population
from train.tasks import classification
from train.tasks.step import gradient_task

BATCH = {"image": np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32), "label": np.arange(8) % 2}


def _in_loop(x):
    def turn(carry, time):
        carry = carry + jnp.where(time == 5, jnp.log(-jnp.square(carry)), 0)
        return carry, carry

    return jax.lax.scan(turn, x, jnp.arange(8))[1][-1]


SICK = {
    "log": jnp.log,
    "exp": lambda x: jax.nn.softmax(jnp.exp(jnp.abs(x) * 1e4)),
    "root": lambda x: x + jnp.sqrt(x * 0),
    "unused log": lambda x: jnp.where(x * 0 > 0, jnp.log(x * 0), x),
    "all masked": lambda x: jax.nn.softmax(jnp.where(x > -1e9, -jnp.inf, x)),
    "loop": _in_loop,
    "masked": lambda x: jax.nn.softmax(jnp.where(jnp.arange(4)[None] > 1, -jnp.inf, x)),
}


class Sick(nn.Module):
    how: str

    @nn.compact
    def __call__(self, x):
        return SICK[self.how](x)


class Net(nn.Module):
    how: str

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(4)(x)
        x = Sick(self.how, name="sick")(x)
        return nn.Dense(2)(x)


def task_of(how, rate=0.1):
    return classification(Net(how), optax.sgd(rate))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "in_loss", "in_params"),
    [
        ("log", "the first NaN is made by `log` in layer sick (forward, test_nonfinite.py:", None),
        ("exp", "the first infinity is made by `exp` in layer sick (forward,", None),
        ("root", None, "the first infinity is made by `div` in layer sick"),
        ("unused log", None, "the first NaN is made by `div` in layer sick (backward,"),
        ("all masked", "the first NaN is made by `sub` in layer sick (forward,", None),
        ("loop", "the first NaN is made by `log` in layer sick (forward, turn 5 of its loop,", None),
        ("masked", None, None),  # an infinity by intention
    ],
)
def test_what_made_it(how, in_loss, in_params):
    task = task_of(how)
    state = task.init(jax.random.key(0), BATCH)
    made = first_nonfinite(task.train_step, state, BATCH, of=lambda outputs: outputs[1]["loss"])
    assert (made is None) == (in_loss is None)
    if in_loss:
        assert str(made).startswith(in_loss)
        return
    made = first_nonfinite(task.train_step, state, BATCH, of=lambda outputs: outputs[0].params)
    assert (made is None) == (in_params is None)
    if in_params:
        assert str(made).startswith(in_params)


def test_an_argument_that_is_none():
    task = task_of("masked")
    state = task.init(jax.random.key(0), BATCH)
    image = BATCH["image"].copy()
    image[3, 2] = np.inf
    made = first_nonfinite(task.train_step, state, {**BATCH, "image": image})
    assert str(made) == "infinity is in [1]['image']"


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "per_dispatch"), [(parallel.jit, 4), (parallel.pmap, 1)])
def test_fit_names_layer_and_step(plan, per_dispatch):
    """The parameters become NaN in the step before that whose loss does; the examples are fine."""
    options = {"evaluate_every": 6, "steps_per_dispatch": per_dispatch, "plan": plan(jax.devices()[:2])}
    words = r"the loss is nan at step 2; .*made by `div` in layer sick \(backward, .*\), at step 1\. "
    with pytest.raises(DivergedError, match=words):
        fit(task_of("root"), BATCH, batch_size=8, steps=6, **options)


def test_the_last_step_is_looked_at_too():
    """No loss comes behind it that would be NaN, and the history is fine where nothing validates."""
    words = r"the parameters are no numbers after step 1; .*made by `div` in layer sick \(backward, .*\)\. Lower the"
    with pytest.raises(DivergedError, match=words):
        fit(task_of("root"), BATCH, batch_size=8, steps=1)
    (trained,) = fit_population([task_of("root")], BATCH, batch_size=8, steps=1)
    assert trained.diverged == 1


def test_fit_names_the_example_that_is_none():
    image = np.tile(np.abs(BATCH["image"]) / 10, (2, 1))
    image[11] = 0
    dataset = data.from_arrays(image=image, label=np.arange(16) % 2)
    dataset = dataclasses.replace(dataset, preprocess=lambda batch: {**batch, "image": jnp.log(batch["image"])})
    words = r"the field 'image' of the data holds infinity, first in example 11 of the split"
    with pytest.raises(DivergedError, match=words):
        fit(task_of("masked"), dataset, batch_size=4, steps=4)


def test_the_step_after_many_good_ones_is_found():
    """A factor under a root that training pulls down until it is less than zero."""

    class Root(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            scale = self.param("scale", nn.initializers.ones, (1,))
            return jnp.broadcast_to(jnp.sqrt(scale)[None], (len(x), 1))

    task = gradient_task(Root(), optax.sgd(0.05), lambda y, batch: {"loss": y[:, 0]}, inputs="image")
    with pytest.raises(DivergedError) as caught:
        fit(task, BATCH, batch_size=8, steps=200, evaluate_every=7, steps_per_dispatch=5)
    pattern = r"the loss is nan at step (\d+); the first NaN is made by `sqrt` in the model \(forward"
    words = re.search(pattern, str(caught.value))
    assert words, caught.value
    assert int(words[1]) > 7
