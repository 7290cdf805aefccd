"""From a recipe to what it names."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

import data
import zoo
from train import parallel
from train.optimizers import optimizer
from train.parallel import Plan
from train.recipe import Recipe
from train.schedules import schedule
from train.state import Task
from train.tasks import OF_UNIT_IMAGES, TASKS
from zoo.registry import unknown

PRECISIONS = ("float32", "bfloat16", "float16")


class Parts(NamedTuple):
    """What a recipe names, built."""

    dataset: data.Dataset
    model: nn.Module
    model_options: dict[str, Any]
    schedule: optax.Schedule
    task: Task
    plan: Plan
    steps: int


def build(recipe: Recipe) -> Parts:
    """Builds all that a recipe names, and so finds out what it names wrongly.

    Raises:
      ValueError: a name, an option or a size is wrong.
    """
    if recipe.task not in TASKS:
        raise ValueError(unknown("task", recipe.task, TASKS))
    if recipe.precision not in PRECISIONS:
        raise ValueError(unknown("precision", recipe.precision, PRECISIONS))
    if recipe.task == "gan" and recipe.precision == "float16":
        raise ValueError("the task gan scales no losses, which float16 needs; take precision=bfloat16")
    if recipe.epochs <= 0:
        raise ValueError(f"epochs must be positive, not {recipe.epochs}")
    plan = parallel.plan(recipe.plan, parallel.devices_for(recipe.batch_size))
    card = zoo.model_card(recipe.model)
    dataset = load_data(recipe)
    options = dict(recipe.model_options)
    if dataset.spec.num_classes and "num_classes" in card.options:
        options.setdefault("num_classes", dataset.spec.num_classes)
    if "image" in dataset.spec.fields and "image_shape" in card.options:
        options.setdefault("image_shape", dataset.spec.fields["image"].shape)
    if recipe.precision != "float32":
        options.setdefault("dtype", recipe.precision)
    model = zoo.create_model(recipe.model, **options)
    per_epoch = data.steps_per_epoch(len(dataset.splits["train"]), recipe.batch_size)
    plan.rows(recipe.batch_size)
    steps = max(1, round(recipe.epochs * per_epoch))
    rate = schedule(recipe.schedule, recipe.learning_rate, steps, **recipe.schedule_options)
    tx = optimizer(recipe.optimizer, rate, **recipe.optimizer_options)
    scaling = {"loss_scaling": True} if recipe.precision == "float16" else {}
    try:
        task = TASKS[recipe.task](model, tx, **scaling, **recipe.task_options)
    except TypeError as error:
        raise ValueError(f"task {recipe.task!r}: {error}") from None
    _require_fit(recipe, dataset, model, task)
    return Parts(dataset, model, options, rate, task, plan, steps)


def load_data(recipe: Recipe) -> data.Dataset:
    """The data set of a recipe, its validation split held out."""
    return data.load(recipe.data, validation=recipe.validation, seed=recipe.seed, **recipe.data_options)


def _require_fit(recipe: Recipe, dataset: data.Dataset, model: nn.Module, task: Task) -> None:
    """Traces one evaluation: what does not fit is found before anything is compiled."""
    inputs = inspect.signature(TASKS[recipe.task]).parameters["inputs"].default
    inputs = recipe.task_options.get("inputs", inputs)
    if inputs not in dataset.spec.fields:
        raise ValueError(
            f"data set {recipe.data!r} has no field {inputs!r} for the model; it has "
            f"{', '.join(dataset.spec.fields)}: set task_options.inputs"
        )
    if recipe.task in OF_UNIT_IMAGES:
        _require_unit_range(recipe, dataset, inputs)
    example = dataset.spec.example(2)

    def trace(key: jax.Array) -> Any:
        return task.eval_step(task.init(key, example), example)

    try:
        metrics = jax.eval_shape(trace, jax.random.key(0))
    except (ValueError, TypeError) as error:
        raise ValueError(f"model {recipe.model!r} does not fit the data set {recipe.data!r}: {error}") from error
    watched = ["step", *metrics, *(f"validation_{name}" for name in metrics if "validation" in dataset.splits)]
    if recipe.monitor not in watched:
        raise ValueError(unknown("metric to monitor", recipe.monitor, watched))


def _require_unit_range(recipe: Recipe, dataset: data.Dataset, inputs: str) -> None:
    source = dataset.splits["train"]
    values = np.asarray(dataset.preprocess(source[np.arange(min(len(source), 100))])[inputs])
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"the task {recipe.task!r} takes values in [0, 1], and those of {inputs!r} in the data set {recipe.data!r} "
            f"go from {values.min():.3g} to {values.max():.3g}; leave data_options.standardize out"
        )
