"""A run looked into: what each layer does in the next train step, and what is wrong with it (guide, section 12.4)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import data
from train.inference.loading import read_recipe
from train.inference.required_code import require_sources
from train.loop import callbacks, inspection, parallel
from train.loop.checkpoints import Checkpoints, History
from train.loop.feed import feed
from train.loop.inspection import Inside, Layer
from train.loop.nonfinite import Made, first_nonfinite
from train.loop.programs import loader
from train.loop.training_data import first_examples
from train.measure.diagnosis import Finding, Steps, findings
from train.metrics import higher_is_better, summarize
from train.runs.build import Parts, build
from train.state import State
from zoo.checkpoint import CHECKPOINTS, saved_meta

EXAMPLES = 256
"""Examples that the layers are looked at with."""

STEPS = 16
"""Steps that are tried, of which the loss is measured before and after."""


class Diagnosis(NamedTuple):
    """What was found.

    Attributes:
      step: of the checkpoint that was looked into, the newest.
      layers: what each does, in their order.
      inside: the same with samples of activations, weights and gradients, for histograms.
      findings: what is wrong; none where nothing is.
      history: of the run.
      params: of the model.
    """

    step: int
    layers: list[Layer]
    inside: list[Inside]
    findings: list[Finding]
    history: History
    params: Any


def diagnose(folder: str | Path, *, examples: int = EXAMPLES) -> Diagnosis:
    """Looks into the newest checkpoint of a run, with the train step that would come next. The run stays as it is.

    Args:
      folder: the run.
      examples: training examples to look at the layers with; no more than there are.

    Raises:
      ValueError: the folder is no run, it has no checkpoint, or its data are not here.
    """
    if examples < 1:
        raise ValueError(f"examples must be at least 1, not {examples}")
    folder = Path(folder)
    recipe = dataclasses.replace(read_recipe(folder), weights=None, plan="jit")
    if not any((folder / CHECKPOINTS).glob("[0-9]*")):
        raise ValueError(f"{folder} has no checkpoint yet: the first is written at the first evaluation")
    require_sources(folder, saved_meta(folder))
    parts = build(recipe)
    state = restored(folder, parts, recipe.monitor)
    history = callbacks.read_history(folder / "history.csv") if (folder / "history.csv").is_file() else []
    source = feed(parts.dataset, "train", parallel.jit(jax.local_devices()[:1]))
    load = loader(source, parts.augment)
    step = int(state.step)

    def batch_of(number: int, size: int) -> Any:
        rows = data.batch_indices(recipe.seed, source.num_examples, size, number, 1)
        (item,) = source.items(list(rows))
        return jax.jit(load)(state, item, source.shared)

    size = min(max(examples, recipe.batch_size), source.num_examples)
    batch = batch_of(step * recipe.batch_size // size, size)
    inside, _ = jax.jit(lambda state, batch: inspection.look(parts.task, state, batch))(state, batch)
    inside = jax.device_get(inside)
    layers = inspection.report(inside)
    made: Made | None = None
    if not all(layer.finite for layer in layers):
        made = first_nonfinite(parts.task.train_step, state, batch, of=lambda outputs: (outputs[0].params, outputs[1]))
    steps = _try_steps(parts, state, [batch_of(step + i, recipe.batch_size) for i in range(STEPS)])
    found = findings(layers, history=history, steps=steps, made=made)
    return Diagnosis(step, layers, inside, found, history, jax.device_get(state.params))


def restored(folder: Path, parts: Parts, monitor: str) -> State:
    """The state of the newest checkpoint, with that of the optimizer.

    Raises:
      CheckpointError: it cannot be read.
    """
    like = jax.jit(parts.task.init)(jax.random.key(0), first_examples(parts.dataset))
    checkpoints = Checkpoints(folder, {}, monitor=monitor, best_is_highest=higher_is_better(monitor))
    try:
        saved = checkpoints.restore(like)
    finally:
        checkpoints.close()
    assert saved is not None  # there is a checkpoint
    return saved.state


def _try_steps(parts: Parts, state: State, batches: list[Any]) -> Steps:
    """Takes steps, and measures the loss of each batch before and after its own step, with the same random numbers."""

    @jax.jit
    def both(state: State, batch: Any) -> Any:
        after, before = parts.task.train_step(state, batch)
        _, again = parts.task.train_step(dataclasses.replace(after, step=state.step), batch)
        return after, before, again

    first, second = [], []
    names: set[str] = set()
    for batch in batches:
        state, before, again = both(state, batch)
        before, again = summarize(jax.device_get(before)), summarize(jax.device_get(again))
        names |= set(before)
        first.append(before["loss"])
        second.append(again["loss"])
    return Steps(np.array(first), np.array(second), one_loss="generator_loss" not in names)
