"""Takes the steps of a training that diverged once more, to tell what made the first number that is none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import data
from train.loop import parallel
from train.loop.feed import Augment, Feed, feed
from train.loop.nonfinite import Made, first_nonfinite
from train.loop.parallel import Plan, Program
from train.loop.programs import loader
from train.metrics import Metrics
from train.precision import all_finite
from train.state import Batch, State, Task

_LOG = logging.getLogger(__name__)


class Training(NamedTuple):
    """What the steps were taken with."""

    task: Task
    dataset: data.Dataset
    augment: Augment | None
    plan: Plan
    program: Program
    source: Feed


class Found(NamedTuple):
    """What is to be told, "" for nothing, and the step in which it happened, counted from 1."""

    words: str
    step: int = 0


def first_in_training(
    training: Training,
    state: State,
    calls: Iterable[tuple[int, int]],
    rows_of: Callable[[int, int], np.ndarray],
) -> Found:
    """What made the first NaN or infinity of a loss, or of the parameters, in these steps.

    The calls are made as they were, to the same bits, until one ends badly; its steps are then taken one by one on one
    device, and each operation of the bad one is looked at.

    Args:
      training: what the steps were taken with.
      state: before the first of them, laid out by no plan.
      calls: (first step, number of steps) of each call of the program.
      rows_of: (first step, number of steps) → the examples of each.
    """
    try:
        return _first(training, state, calls, rows_of)
    except Exception as error:  # what is told of a failure must not hide it
        _LOG.warning("the step that failed could not be looked into: %s", str(error).partition("\n")[0])
        return Found("")


def _first(
    training: Training, state: State, calls: Iterable[tuple[int, int]], rows_of: Callable[[int, int], np.ndarray]
) -> Found:
    placed = training.plan.place(state)
    for first, count in calls:
        before = parallel.to_host(training.plan.unplace(placed))
        (items,) = training.source.items([rows_of(first, count)])
        placed, metrics = training.program(placed, items, training.source.shared)
        if not (_is_finite(metrics["loss"]) and _is_finite(placed.params)):
            break
    else:
        return Found("")
    state = jax.tree.map(jnp.asarray, before)
    source = feed(training.dataset, "train", parallel.jit(jax.local_devices()[:1]))
    load, step = jax.jit(loader(source, training.augment)), jax.jit(training.task.train_step)
    rows = rows_of(first, count)
    for offset, item in enumerate(source.items(rows)):
        batch = load(state, item, source.shared)
        after, metrics = step(state, batch)
        if not _is_finite(metrics["loss"]):
            made = first_nonfinite(training.task.train_step, state, batch, of=_loss)
        elif not _is_finite(after.params):
            made = first_nonfinite(training.task.train_step, state, batch, of=_params)
            # The loss is fine: what the forward pass made is the slope that the backward pass multiplies by.
            made = made and made._replace(direction="backward" if made.direction else "")
        else:
            state = after
            continue
        return Found("" if made is None else _words(made, batch, rows[offset]), first + offset + 1)
    return Found("")


def _loss(outputs: tuple[State, Metrics]) -> Any:
    return outputs[1]["loss"]


def _params(outputs: tuple[State, Metrics]) -> Any:
    return outputs[0].params


def _is_finite(tree: Any) -> bool:
    return bool(all_finite(tree))


def _words(made: Made, batch: Batch, rows: np.ndarray) -> str:
    if made.operation:
        return str(made)
    for field, array in batch.items():
        values = np.asarray(array)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
            return f"the field {field!r} of the data holds {made.what}, first in example {rows[bad].min()} of the split"
    return f"{made.what} is in the state before it, in {made.where.removeprefix('[0].')}"
