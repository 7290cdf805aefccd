"""What is seen of recurrent layers: outputs, and gradients on their way back through time; the sick are named."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.loop import inspect
from train.loop.inspection import FADED
from train.measure.diagnosis import findings
from train.tasks import regression
from zoo.layers.recurrent import GRU, LSTM, RNN

TIME, WIDTH = 14, 4
BATCH = {"inputs": np.random.default_rng(0).normal(size=(3, TIME, WIDTH)).astype(np.float32), "target": np.ones((3, 1))}


class Net(nn.Module):
    """A recurrent layer, and a dense one on where it ends."""

    layer: type = LSTM
    reverse: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        _, state = self.layer(WIDTH, reverse=self.reverse, name="memory")(x)
        return nn.Dense(1)(state[-1])


def inspected(layer, change=lambda params: params, batch=BATCH, **options):
    task = regression(Net(layer, **options), optax.sgd(0.1))
    state = task.init(jax.random.key(1), batch)
    params = {**state.params, "memory": change(state.params["memory"])}
    state = dataclasses.replace(state, params=params)
    layers = inspect(task, state, batch)
    (memory,) = [layer for layer in layers if layer.name == "memory"]
    return memory, findings(layers), state.params


def scaled(factor, **others):
    return lambda params: {**params, "recurrent_kernel": factor * params["recurrent_kernel"], **others}


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layer", [RNN, LSTM, GRU])
def test_outputs_and_gradients_of_all_steps(layer, reverse):
    """The kernel is the identity, or several: the gradient by what goes in is then that by the inputs, gate by gate."""
    memory, told, params = inspected(layer, reverse=reverse)
    net = Net(layer, reverse=reverse)
    outputs, _ = layer(WIDTH, reverse=reverse).apply({"params": params["memory"]}, BATCH["inputs"])
    assert memory.kind == layer.__name__
    assert memory.output_shape == (3, TIME, WIDTH)
    assert [memory.mean, memory.std] == pytest.approx([float(outputs.mean()), float(outputs.std())], rel=1e-4, abs=1e-6)
    assert memory.nonlinearity == "tanh"
    assert memory.saturated == pytest.approx(np.mean(1 - np.square(outputs) < 0.05))
    assert told == []

    gates = layer.num_gates
    wide = {**params["memory"], "kernel": np.eye(gates * WIDTH, dtype=np.float32)}
    x = BATCH["inputs"] @ params["memory"]["kernel"]

    def loss(x):
        y: Any = net.apply({"params": {**params, "memory": wide}}, x)
        return jnp.square(y - 1).mean()

    by_step = np.sqrt(np.square(jax.grad(loss)(x)).sum(axis=(0, 2)))
    ratios = (by_step if reverse else by_step[::-1]) / by_step[0 if reverse else -1]
    steps = min([i for i, ratio in enumerate(ratios) if ratio < FADED] or [TIME - 1])
    assert memory.time_steps == steps
    assert memory.through_time == pytest.approx(ratios[steps], rel=1e-3)


FORGETFUL = np.repeat([0.0, -9.0, 0.0, 0.0], WIDTH).astype(np.float32)
SICK = {
    "RNN that forgets": (RNN, scaled(0.01), "vanishing"),
    "LSTM that forgets": (LSTM, scaled(0.01, bias=FORGETFUL), "vanishing"),
    "GRU that forgets": (GRU, scaled(0.01, bias=np.repeat([0.0, -9.0, 0.0], WIDTH).astype(np.float32)), "vanishing"),
    "relu that explodes": (
        partial(RNN, activation="relu"),
        lambda params: {**params, "kernel": abs(params["kernel"]), "recurrent_kernel": 3 * np.eye(WIDTH)},
        "exploding",
    ),
    "LSTM that explodes": (LSTM, scaled(40.0), "exploding"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SICK)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_sick_are_named(case, reverse):
    layer, change, illness = SICK[case]
    # Next to 0 nothing saturates, and what is made of the state is a matter of the weights alone.
    batch = {**BATCH, "inputs": 1e-12 * np.abs(BATCH["inputs"])}
    memory, told, _ = inspected(layer, change, batch, reverse=reverse)
    (finding,) = [each for each in told if "through time" in each.words]
    assert (finding.illness, finding.layer) == (illness, "memory")
    assert (
        f"in layer memory: {memory.time_steps} steps before the last it is {memory.through_time:.2g}" in finding.words
    )
    if illness == "vanishing":
        assert 0 < (memory.time_steps or 0) < 8
    else:
        assert memory.time_steps == TIME - 1


@pytest.mark.slow
def test_saturated_and_dead_states():
    memory, told, _ = inspected(RNN, lambda params: {**params, "bias": np.full(WIDTH, 9.0, np.float32)})
    assert memory.saturated == pytest.approx(1, abs=0.1)
    assert ("saturated", "memory") in [(each.illness, each.layer) for each in told]
    memory, told, _ = inspected(
        partial(RNN, activation="relu"), lambda params: {**params, "bias": np.full(WIDTH, -9.0, np.float32)}
    )
    assert memory.dead_units == memory.units == WIDTH
    assert ("dead", "memory") in [(each.illness, each.layer) for each in told]


@pytest.mark.slow
def test_padding_is_no_gradient_that_vanishes():
    """Backwards a sequence begins with its padding; forwards it ends with it."""

    class Padded(Net):
        @nn.compact
        def __call__(self, x, *, train=False):
            mask = jnp.broadcast_to(jnp.arange(TIME)[None] < 5, x.shape[:2])
            return nn.Dense(1)(self.layer(WIDTH, reverse=self.reverse, name="memory")(x, mask=mask)[1][-1])

    for reverse in (False, True):
        task = regression(Padded(LSTM, reverse), optax.sgd(0.1))
        layers = inspect(task, task.init(jax.random.key(1), BATCH), BATCH)
        assert {layer.name: layer.time_steps for layer in layers}["memory"] == 4
        assert findings(layers) == []


def test_one_step_has_no_way_back():
    memory, told, _ = inspected(LSTM, batch={**BATCH, "inputs": BATCH["inputs"][:, :1]})
    assert (memory.time_steps, told) == (0, [])
