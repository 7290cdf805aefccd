"""The programs of a training: what is compiled, and in which calls its steps are taken."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from train.loop import inspection
from train.loop.feed import Augment, Feed, padded_rows
from train.loop.inspection import Inside
from train.loop.parallel import Plan, Program
from train.metrics import Metrics, summarize
from train.state import Batch, State, Task
from train.tasks.step import step_key

_LOG = logging.getLogger(__name__)

MAX_STEPS_PER_DISPATCH = 100

_AUGMENT = 3
"""What is folded into a step's key for augmentation; see also `train.tasks.step`."""


def evaluator(task: Task, source: Feed, plan: Plan, batch_size: int) -> Callable[[State], dict[str, float]]:
    """A function from a placed state to the metrics of one split; compiled once.

    Batches are four training batches large where the split is: no gradients have to be kept.
    """
    size = min(4 * batch_size, source.num_examples)
    rows = padded_rows(source.num_examples, -(-size // plan.num_devices) * plan.num_devices)

    def program(state: State, item: Any, shared: Any) -> tuple[None, Metrics]:
        return None, task.eval_step(state, source.load(item, shared))

    compiled = plan.compile(program, donate=False)

    def evaluate_state(placed: State) -> dict[str, float]:
        metrics = jax.device_get([compiled(placed, item, source.shared)[1] for item in source.items(rows)])
        return summarize(jax.tree.map(lambda *parts: np.stack(parts), *metrics))

    return evaluate_state


def loader(source: Feed, augment: Augment | None) -> Callable[[State, Any, Any], Batch]:
    """(state, item, shared) → the batch of the step, changed at random by a key of its own."""

    def load(state: State, item: Any, shared: Any) -> Batch:
        if augment is None:
            return source.load(item, shared)
        return source.load(item, shared, partial(augment, key=jax.random.fold_in(step_key(state), _AUGMENT)))

    return load


def train_program(task: Task, source: Feed, augment: Augment | None) -> Program:
    """One or more steps; items have the steps as their leading axis, and so have the metrics."""

    load = loader(source, augment)

    def program(state: State, items: Any, shared: Any) -> tuple[State, Metrics]:
        def step(state: State, item: Any) -> tuple[State, Metrics]:
            return task.train_step(state, load(state, item, shared))

        if jax.tree.leaves(items)[0].shape[0] > 1:
            return jax.lax.scan(step, state, items)
        state, metrics = step(state, jax.tree.map(lambda leaf: leaf[0], items))
        return state, jax.tree.map(lambda leaf: leaf[None], metrics)

    return program


def observed_program(task: Task, source: Feed, augment: Augment | None) -> Program:
    """What each layer does in the first of the steps; the state stays as it is."""
    load = loader(source, augment)

    def program(state: State, items: Any, shared: Any) -> tuple[None, list[Inside]]:
        batch = load(state, jax.tree.map(lambda leaf: leaf[0], items), shared)
        return None, inspection.look(task, state, batch)[0]

    return program


def dispatches(first: int, total: int, every: int, k: int) -> Iterator[tuple[int, int]]:
    """(start, number of steps) of each call. Cut at the same steps wherever the run begins, for the same bits."""
    start = first
    while start < total:
        boundary = min((start // every + 1) * every, total)
        count = min(k, boundary - start)
        yield start, count
        start += count


def warn_of_waiting_gradients(opt_state: Any) -> None:
    """Says how many steps at the end of a training moved nothing, as an optimizer waits for others to add to them."""

    def accumulates(node: Any) -> bool:
        return isinstance(node, optax.MultiStepsState)

    found = [node for node in jax.tree.leaves(opt_state, is_leaf=accumulates) if accumulates(node)]
    if waiting := max((int(node.mini_step) for node in found), default=0):
        _LOG.warning(
            "the last %d steps moved nothing: the optimizer makes one update of several steps (accumulate_steps); take "
            "a multiple of that number",
            waiting,
        )


def suitable_steps(evaluation: Any) -> int:
    """One step a dispatch for convolutions on a CPU, which a loop would slow down tenfold; else many."""
    return 1 if jax.default_backend() == "cpu" and "convolution" in str(evaluation) else MAX_STEPS_PER_DISPATCH
