"""The training loop: one function that runs any task on any data set under any plan."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import data
from train.loop import parallel
from train.loop.checkpoints import Checkpoints, History, Pause
from train.loop.feed import Augment, feed
from train.loop.inspection import Inside
from train.loop.parallel import Plan
from train.loop.programs import (
    dispatches,
    evaluator,
    observed_program,
    suitable_steps,
    train_program,
    warn_of_waiting_gradients,
)
from train.loop.replay import Training, first_in_training
from train.loop.training_data import FIRST, Data, as_dataset, first_examples, naming_fields, require_validation
from train.metrics import Metrics, higher_is_better, summarize
from train.state import Batch, State, Task
from zoo.dynamics.solve import unsolved
from zoo.options import check_options
from zoo.registry import unknown

_LOG = logging.getLogger(__name__)

_ADVICE = (
    "Lower the learning rate, clip the gradient (clip_norm) or look at the inputs of that step; checkpoints from "
    "before it are kept"
)


class DivergedError(RuntimeError):
    """The loss is no longer a number, or the parameters are not."""


class InterruptedTraining(RuntimeError):
    """Training was asked to end, and has saved a checkpoint from which it goes on; `step` is how many were taken."""

    def __init__(self, step: int, total: int):
        super().__init__(f"training was interrupted after step {step} of {total}, and is saved: it goes on from there")
        self.step = step


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
      layers: what each layer does in a train step, where `fit` was asked to `observe_every` so many evaluations.
    """

    step: int
    total_steps: int
    epoch: float
    metrics: dict[str, float]
    history: History
    evaluated: bool
    layers: Sequence[Inside] = ()


Callback = Callable[[Report], bool | None]
"""Called with each report; a true answer after an evaluation ends the training."""


Interrupted = Callable[[int], bool]
"""steps taken → whether training is to end here, to go on later; such as `train.callbacks.sigterm` gives."""

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
    restore_best: str | None = None,
    observe_every: int | None = None,
    interrupted: Interrupted | None = None,
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
      restore_best: a column of the history, such as "validation_loss": the state that is given back is that of the best
        evaluation, and not the last one.
      observe_every: evaluations between those at which the layers are looked into, see `Report.layers`.
      interrupted: asked after each dispatch; where it says so, a checkpoint is saved and training ends with
        `InterruptedTraining`. Called again, `fit` goes on to the same bits.
      progress: whether to show a bar with the metrics of the last evaluation.

    Raises:
      ValueError: sizes that do not fit together, before anything is compiled.
      DivergedError: the loss became NaN or infinite, or at an evaluation the parameters are. The message names the
        step; and, as the steps since the last evaluation are then taken once more, the layer and the operation that
        made the first such number. A copy of the state is kept for it in the memory of the host.
      InterruptedTraining: see `interrupted`.
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
        options |= {"checkpoints": checkpoints, "restore_best": restore_best, "observe_every": observe_every}
        options |= {"interrupted": interrupted}
        with progress_bar() as bar:
            return fit(task, dataset, callbacks=[*callbacks, bar], **options)
    numbers = {"batch_size": batch_size, "epochs": epochs, "steps": steps, "seed": seed, "validation": validation}
    numbers |= {"evaluate_every": evaluate_every, "steps_per_dispatch": steps_per_dispatch}
    numbers |= {"restore_best": restore_best, "observe_every": observe_every}
    check_options(fit, numbers, "fit")
    if not isinstance(plan, Plan | None):
        raise ValueError(f"plan of fit is made by train.parallel, such as parallel.pmap(); not {plan!r}")
    dataset = as_dataset(dataset)
    require_validation(dataset, validation)
    plan = plan or parallel.jit(parallel.devices_for(batch_size))
    training = feed(dataset, "train", plan)
    per_epoch = data.steps_per_epoch(training.num_examples, batch_size)
    total = length_of(epochs, steps, per_epoch, batch_size)
    for name in ("evaluate_every", "steps_per_dispatch", "observe_every"):
        if numbers[name] is not None and numbers[name] < 1:
            raise ValueError(f"{name} must be at least 1, not {numbers[name]}")
    if interrupted is not None and checkpoints is None:
        raise ValueError("a training that can be interrupted needs checkpoints=…: else nothing would be saved")
    if restore_best is not None and checkpoints is None and jax.process_count() > 1:
        raise ValueError("several processes restore the best state from checkpoints=…: no one of them has all of it")
    if restore_best is not None and checkpoints is not None and checkpoints.monitor != restore_best:
        raise ValueError(
            f"restore_best={restore_best!r}, and the checkpoints keep the best by {checkpoints.monitor!r}: give them "
            f"monitor={restore_best!r}"
        )
    plan.rows(batch_size)
    every = min(evaluate_every or per_epoch, total)
    evaluation = feed(dataset, validation, plan) if validation is not None and validation in dataset.splits else None

    history: History = []
    example = first_examples(dataset)
    masked = {**example, "mask": np.ones(min(training.num_examples, FIRST), bool)}
    with naming_fields(dataset):
        if state is None:
            state = task.init(jax.random.key(seed), example)
        evaluated, shapes = jax.make_jaxpr(task.eval_step, return_shape=True)(state, example)
    if restore_best is not None:
        known = [*_metrics_in_training(task, state, masked)]
        known += [f"{validation}_{name}" for name in shapes if evaluation is not None]
        if restore_best not in known:
            raise ValueError(unknown("metric to restore the best by", restore_best, known))
    pause = None
    if checkpoints is not None:
        checkpoints.require_space(state)
        if (saved := checkpoints.restore(plan.unplace(plan.place(state)))) is not None:
            state, history, pause = saved.state, saved.history, saved.pause
            if saved.finished >= total:
                if saved.finished > total:
                    _LOG.warning("training has ended already, after %d steps; %d were asked for", saved.finished, total)
                return Fitted(state if restore_best is None else checkpoints.restore_best(state), history)
    first = int(state.step)
    placed = plan.place(state)
    k = min(steps_per_dispatch or suitable_steps(evaluated), every)

    program = plan.compile(train_program(task, training, augment))
    evaluate_state = evaluator(task, evaluation, plan, batch_size) if evaluation is not None else None
    look_inside = plan.compile(observed_program(task, training, augment), donate=False)
    began = time.perf_counter() - (pause.seconds if pause else history[-1]["seconds"] if history else 0.0)
    since: list[Metrics] = []
    if pause is not None and pause.metrics:
        since.append(_metrics_of(pause, _metrics_in_training(task, state, masked)))
    kept = _Kept(first, parallel.to_host(plan.unplace(placed))) if jax.process_count() == 1 else None
    best = _best(history, restore_best) if restore_best is not None else -1
    best_state = None

    def rows_of(start: int, count: int) -> np.ndarray:
        return data.batch_indices(seed, training.num_examples, batch_size, start, count)

    def collect(start: int, count: int, metrics: Metrics) -> None:
        metrics = jax.device_get(metrics)
        losses = metrics["loss"].total
        if not np.isfinite(losses).all():
            bad = int(np.argmin(np.isfinite(losses)))
            unsolved = _unsolved(metrics, bad)
            why = unsolved or replay(start, start + bad + 1)
            if (classes := dataset.spec.num_classes) and not (start or unsolved or "layer" in why):
                why = f"has the model an output for each of the {classes} classes? {why}"
            raise DivergedError(f"the loss is {losses[bad]} at step {start + bad + 1}; {why}{_ADVICE}")
        since.append(metrics)
        report = Report(start + count, total, (start + count) / per_epoch, summarize(metrics), history, False)
        for callback in callbacks:
            callback(report)

    def replay(last: int, bad: int) -> str:
        if kept is None:
            return ""
        calls = [(start, count) for start, count in dispatches(kept.step, total, every, k) if start <= last]
        again = Training(task, dataset, augment, plan, program, training)
        found = first_in_training(again, kept.state, calls, rows_of)
        return "" if not found.words else f"{found.words}{'' if found.step == bad else f', at step {found.step}'}. "

    pending: list[tuple[int, int, Metrics]] = []
    calls, ahead = itertools.tee(dispatches(first, total, every, k))
    rows = itertools.starmap(rows_of, ahead)
    for (start, count), items in zip(calls, training.items(rows), strict=True):
        placed, metrics = program(placed, items, training.shared)
        pending.append((start, count, metrics))
        if len(pending) > 1:  # the device works on the next steps while the host reads the last ones
            collect(*pending.pop(0))
        step, stop = start + count, False
        ends = interrupted is not None and interrupted(step) and step != total
        if step % every == 0 or step == total:
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
            now = plan.unplace(placed)
            copy = _Kept(step, parallel.to_host(now)) if kept is not None else None
            if copy is not None and not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(copy.state.params)):
                raise DivergedError(f"the parameters are no numbers after step {step}; {replay(start, step)}{_ADVICE}")
            if copy is not None and restore_best is not None and _best(history, restore_best) != best:
                best, best_state = len(history) - 1, copy.state
            kept = copy
            layers: Sequence[Inside] = ()
            if observe_every is not None and len(history) % observe_every == 0:
                (items,) = training.items([rows_of(step, 1)])
                layers = jax.device_get(look_inside(placed, items, training.shared)[1])
            report = Report(step, total, step / per_epoch, {}, history, True, layers)
            stop = any([callback(report) for callback in callbacks])
            if checkpoints is not None:
                checkpoints.save(step, now, history, finished=total if stop or step == total else 0)
        if stop:
            break
        if ends and checkpoints is not None:
            while pending:
                collect(*pending.pop(0))
            leaves = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(concatenate(since))] if since else []
            pause = Pause(leaves, time.perf_counter() - began)
            checkpoints.save_pause(step, plan.unplace(placed), history, pause)
            checkpoints.wait()
            raise InterruptedTraining(step, total)
    last = plan.unplace(placed)
    warn_of_waiting_gradients(last.opt_state)
    if checkpoints is not None:
        checkpoints.wait()
        return Fitted(last if restore_best is None else checkpoints.restore_best(last), history)
    return Fitted(last if best_state is None else best_state, history)


def length_of(epochs: float | None, steps: int | None, per_epoch: int, batch_size: int) -> int:
    """The steps of a training, whose length is given as epochs or as steps.

    Raises:
      ValueError: both are given, or none; or there is no step.
    """
    if (epochs is None) == (steps is None):
        raise ValueError("give the length of training as epochs or as steps, one of the two")
    total = steps if steps is not None else round((epochs or 0) * per_epoch)
    if total < 1:
        raise ValueError(f"training takes at least one step of {batch_size} examples; asked were {epochs} epochs")
    return total


class _Kept(NamedTuple):
    """A state from which steps can be taken again."""

    step: int
    state: State


def _unsolved(metrics: Metrics, index: int) -> str:
    """What is wrong where a differential equation was not solved in the step, else ""."""
    if "unsolved" not in metrics or not metrics["unsolved"].total[index] > 0:
        return ""
    limit = metrics["solver_steps"].total[index] / metrics["solver_steps"].weight[index]
    return f"{unsolved(limit)}. "


def _best(history: History, monitor: str) -> int:
    """The number of the first row that is the best by a column; -1 of no rows."""
    sign = 1 if higher_is_better(monitor) else -1
    values = [sign * row[monitor] if np.isfinite(row[monitor]) else -np.inf for row in history]
    return int(np.argmax(values)) if values else -1


def _metrics_in_training(task: Task, state: State, batch: Batch) -> Metrics:
    """What a train step reports, as shapes."""
    return jax.eval_shape(task.train_step, state, batch)[1]


def _metrics_of(pause: Pause, like: Metrics) -> Metrics:
    """The metrics of each step since the last evaluation, as they were before the pause."""
    leaves, structure = jax.tree.flatten(like)
    saved = [np.asarray(values, leaf.dtype) for values, leaf in zip(pause.metrics, leaves, strict=True)]
    return jax.tree.unflatten(structure, saved)


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


def concatenate(metrics: Sequence[Metrics], axis: int = 0) -> Metrics:
    """Metrics of several dispatches, in which one axis is that of the steps."""
    return jax.tree.map(lambda *parts: np.concatenate(parts, axis), *metrics)
