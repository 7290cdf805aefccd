"""The training loop: one function that runs any task on any data set under any plan."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import data
from train.loop import parallel
from train.loop.checkpoints import Checkpoints, History
from train.loop.feed import Feed, feed, padded_rows
from train.loop.parallel import Plan, Program
from train.loop.training_data import Data, as_dataset, first_examples, naming_fields
from train.metrics import Metrics, summarize
from train.state import Batch, State, Task
from train.tasks.step import step_key
from zoo.options import check_options

MAX_STEPS_PER_DISPATCH = 100

_LOG = logging.getLogger(__name__)

_AUGMENT = 3
"""What is folded into a step's key for augmentation; see also `train.tasks.step`."""


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What callbacks are told, after each dispatch and after each evaluation.

    Attributes:
      step: steps taken so far.
      total_steps: steps that the run will take.
      epoch: passes over the training data so far.
      metrics: means over the steps of the last dispatch.
      history: a row for each evaluation so far, oldest first: `step`, `epoch`, the training metrics since the row
        before it, the metrics of each evaluated split under `SPLIT_NAME`, and `seconds` since the start of the run.
      evaluated: whether the last row of the history belongs to this step.
    """

    step: int
    total_steps: int
    epoch: float
    metrics: dict[str, float]
    history: History
    evaluated: bool


Callback = Callable[[Report], bool | None]
"""Called with each report; a true answer after an evaluation ends the training."""


Augment = Callable[..., Any]
"""(raw batch, key=key) → the batch with its examples changed at random, such as a `partial` of `data.augment.apply`."""

Adapt = Callable[[State, History], State]
"""(state on its devices, rows of all evaluations) → the state to go on with. A function of the two alone."""


class Fitted(NamedTuple):
    """The state at the end of `fit`, laid out by no plan, and the history of its reports."""

    state: State
    history: History


def fit(
    task: Task,
    dataset: Data,
    *,
    batch_size: int,
    epochs: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    plan: Plan | None = None,
    state: State | None = None,
    validation: str | None = "validation",
    evaluate_every: int | None = None,
    steps_per_dispatch: int | None = None,
    augment: Augment | None = None,
    adapt: Adapt | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoints: Checkpoints | None = None,
    progress: bool = False,
) -> Fitted:
    """Trains a task.

        fitted = fit(classification(model, optax.adam(1e-3)), (images, labels), batch_size=32, epochs=5)

    Which examples a step sees is a function of (seed, step) alone: it depends neither on devices and processes nor on
    interruptions. A run that continues from a checkpoint ends with the same bits as one that was never interrupted.

    Args:
      task: what to train.
      dataset: its split "train" is trained on. Or arrays by field, such as `{"features": x, "label": y}`; or a pair,
        which is `image` and `label` where the second holds whole numbers or names, else `inputs` and `target`.
      batch_size: examples in a step, over all devices and processes.
      epochs: passes over the data, or
      steps: steps to take; one of the two.
      seed: of the initial parameters, of dropout and of the order of the data.
      plan: how to use the devices; by default `parallel.jit` over as many as divide the batch.
      state: where to start from, in place of `task.init`.
      validation: the split that is evaluated beside training, where the data set has it; None for none.
      evaluate_every: steps between evaluations, reports and checkpoints; an epoch by default.
      steps_per_dispatch: steps that one call of the compiled program takes. By default up to 100, but a single one for
        convolutional models on a CPU, where XLA runs convolutions inside a loop on one thread.
      augment: changes the training examples, before they are preprocessed, with a key of each step's own.
      adapt: changes the state after each evaluation, such as `train.optim.plateau.Plateau.rescale`.
      callbacks: told of each dispatch and evaluation.
      checkpoints: where to save; training continues from the newest one there. Where it had ended, it goes on if more
        steps are asked for than then, with the schedule of the new length.

      progress: whether to show a bar with the metrics of the last evaluation.

    Raises:
      ValueError: sizes that do not fit together, before anything is compiled.
      DivergedError: the loss became NaN or infinite; the message names the step.
    """
    if not isinstance(task, Task):
        raise ValueError(
            "fit takes a task, which pairs a model with an optimizer, such as classification(model, optax.adam(1e-3)); "
            f"not {type(task).__name__}"
        )
    if progress:
        from train.loop.callbacks import progress_bar

        options: dict[str, Any] = {"batch_size": batch_size, "epochs": epochs, "steps": steps, "seed": seed}
        options |= {"plan": plan, "state": state, "validation": validation, "evaluate_every": evaluate_every}
        options |= {"steps_per_dispatch": steps_per_dispatch, "augment": augment, "adapt": adapt}
        options |= {"checkpoints": checkpoints}
        with progress_bar() as bar:
            return fit(task, dataset, callbacks=[*callbacks, bar], **options)
    numbers = {"batch_size": batch_size, "epochs": epochs, "steps": steps, "seed": seed, "validation": validation}
    numbers |= {"evaluate_every": evaluate_every, "steps_per_dispatch": steps_per_dispatch}
    check_options(fit, numbers, "fit")
    if not isinstance(plan, Plan | None):
        raise ValueError(f"plan of fit is made by train.parallel, such as parallel.pmap(); not {plan!r}")
    dataset = as_dataset(dataset)
    if validation not in (None, "validation") and validation not in dataset.splits:
        raise ValueError(
            f"data set {dataset.name!r} has no split {validation!r} to validate on; it has {', '.join(dataset.splits)}"
        )
    plan = plan or parallel.jit(parallel.devices_for(batch_size))
    training = feed(dataset, "train", plan)
    per_epoch = data.steps_per_epoch(training.num_examples, batch_size)
    if (epochs is None) == (steps is None):
        raise ValueError("give the length of training as epochs or as steps, one of the two")
    for name, value in (("evaluate_every", evaluate_every), ("steps_per_dispatch", steps_per_dispatch)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    total = steps if steps is not None else round((epochs or 0) * per_epoch)
    if total < 1:
        raise ValueError(f"training takes at least one step of {batch_size} examples; asked were {epochs} epochs")
    plan.rows(batch_size)
    every = min(evaluate_every or per_epoch, total)
    evaluation = feed(dataset, validation, plan) if validation is not None and validation in dataset.splits else None

    history: History = []
    example = first_examples(dataset)
    with naming_fields(dataset):
        if state is None:
            state = task.init(jax.random.key(seed), example)
        evaluated = jax.make_jaxpr(task.eval_step)(state, example)
    if checkpoints is not None:
        checkpoints.require_space(state)
        if (saved := checkpoints.restore(plan.unplace(plan.place(state)))) is not None:
            state, history = saved.state, saved.history
            if saved.finished >= total:
                if saved.finished > total:
                    _LOG.warning("training has ended already, after %d steps; %d were asked for", saved.finished, total)
                return Fitted(state, history)
    first = int(state.step)
    placed = plan.place(state)
    k = min(steps_per_dispatch or suitable_steps(evaluated), every)

    program = plan.compile(train_program(task, training, augment))
    evaluate_state = evaluator(task, evaluation, plan, batch_size) if evaluation is not None else None
    began = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)
    since: list[Metrics] = []

    def collect(start: int, count: int, metrics: Metrics) -> None:
        metrics = jax.device_get(metrics)
        losses = metrics["loss"].total
        if not np.isfinite(losses).all():
            bad = int(np.argmin(np.isfinite(losses)))
            classes = dataset.spec.num_classes
            raise DivergedError(
                f"the loss is {losses[bad]} at step {start + bad + 1}; "
                + (f"has the model an output for each of the {classes} classes? " if classes and not start else "")
                + "Lower the learning rate, clip the gradient (clip_norm) or look at the inputs of that step; "
                "checkpoints from before it are kept"
            )
        since.append(metrics)
        report = Report(start + count, total, (start + count) / per_epoch, summarize(metrics), history, False)
        for callback in callbacks:
            callback(report)

    pending: list[tuple[int, int, Metrics]] = []
    dispatches, ahead = itertools.tee(dispatch_bounds(first, total, every, k))
    rows = (data.batch_indices(seed, training.num_examples, batch_size, start, count) for start, count in ahead)
    for (start, count), items in zip(dispatches, training.items(rows), strict=True):
        placed, metrics = program(placed, items, training.shared)
        pending.append((start, count, metrics))
        if len(pending) > 1:  # the device works on the next steps while the host reads the last ones
            collect(*pending.pop(0))
        step = start + count
        if step % every and step != total:
            continue
        while pending:
            collect(*pending.pop(0))
        row = {"step": float(step), "epoch": step / per_epoch, **summarize(concatenate(since))}
        since.clear()
        if evaluate_state is not None:
            row |= {f"{validation}_{name}": value for name, value in evaluate_state(placed).items()}
        row["seconds"] = time.perf_counter() - began
        history.append(row)
        if adapt is not None:
            placed = adapt(placed, history)
        report = Report(step, total, step / per_epoch, {}, history, True)
        stop = any([callback(report) for callback in callbacks])
        if checkpoints is not None:
            checkpoints.save(step, plan.unplace(placed), history, finished=total if stop or step == total else 0)
        if stop:
            break
    if checkpoints is not None:
        checkpoints.wait()
    return Fitted(plan.unplace(placed), history)


def evaluate(
    task: Task,
    dataset: Data,
    state: State,
    *,
    split: str = "test",
    plan: Plan | None = None,
    batch_size: int = 128,
) -> dict[str, float]:
    """The metrics of one split, every example counted once; or of arrays, as `fit` takes them.

    Raises:
      ValueError: there is no such split; or labels are names, whose numbers in training only its data set knows.
    """
    if not isinstance(state, State):
        raise ValueError(f"evaluate(task, data, state) takes the state of `fit` last, not {type(state).__name__}")
    if not isinstance(dataset, data.Dataset):
        labels = dataset.get("label") if isinstance(dataset, Mapping) else dataset[-1]
        if labels is not None and np.asarray(labels).dtype.kind in "OSU":
            raise ValueError("labels that are names need the order of the classes: data.from_arrays(…, classes=…)")
        dataset, split = as_dataset(dataset), "train"
    plan = plan or parallel.jit()
    with naming_fields(dataset):
        return evaluator(task, feed(dataset, split, plan), plan, batch_size)(plan.place(state))


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
        metrics = [compiled(placed, item, source.shared)[1] for item in source.items(rows)]
        return summarize(jax.tree.map(lambda *parts: np.stack(jax.device_get(parts)), *metrics))

    return evaluate_state


def train_program(task: Task, source: Feed, augment: Augment | None) -> Program:
    """One or more steps; items have the steps as their leading axis, and so have the metrics."""

    def load(state: State, item: Any, shared: Any) -> Batch:
        if augment is None:
            return source.load(item, shared)
        key = jax.random.fold_in(step_key(state), _AUGMENT)
        return source.load(item, shared, partial(augment, key=key))

    def program(state: State, items: Any, shared: Any) -> tuple[State, Metrics]:
        def step(state: State, item: Any) -> tuple[State, Metrics]:
            return task.train_step(state, load(state, item, shared))

        if jax.tree.leaves(items)[0].shape[0] > 1:
            return jax.lax.scan(step, state, items)
        state, metrics = step(state, jax.tree.map(lambda leaf: leaf[0], items))
        return state, jax.tree.map(lambda leaf: leaf[None], metrics)

    return program


def dispatch_bounds(first: int, total: int, every: int, k: int) -> Iterator[tuple[int, int]]:
    """(start, number of steps) of each call. Cut at the same steps wherever the run begins, for the same bits."""
    start = first
    while start < total:
        boundary = min((start // every + 1) * every, total)
        count = min(k, boundary - start)
        yield start, count
        start += count


def suitable_steps(evaluation: Any) -> int:
    """One step a dispatch for convolutions on a CPU, which a loop would slow down tenfold; else many."""
    return 1 if jax.default_backend() == "cpu" and "convolution" in str(evaluation) else MAX_STEPS_PER_DISPATCH


def concatenate(metrics: Sequence[Metrics]) -> Metrics:
    """Metrics of several dispatches, which have the steps as their leading axis."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *metrics)
