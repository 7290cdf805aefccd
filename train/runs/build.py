"""From a recipe to what it names."""

from __future__ import annotations

import dataclasses
import inspect
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax

import data
import zoo
from data import augment
from data.text.tokens import PAD, SPECIAL
from train.class_weights import class_weights
from train.loop import parallel
from train.loop.feed import Augment
from train.loop.parallel import Plan
from train.loop.training_data import first_examples, naming_fields
from train.memory import require_memory, tree_bytes
from train.optim.freezing import Frozen, WildcardError, freeze
from train.optim.optimizers import optimizer
from train.optim.plateau import Plateau, scale_by_plateau
from train.optim.schedules import schedule
from train.recipe import Recipe, load_data, require_ranges
from train.runs.transfer import frozen_layers, named_layer_rates, start_variables
from train.state import Task
from train.tasks import CLASSIFIERS, TASKS, task_option
from train.tasks.few_shot.episode import SUPPORT
from train.tasks.step import gradient_task
from zoo.options import check_options
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
    augment: Augment | None
    plateau: Plateau | None


def build(recipe: Recipe, dataset: data.Dataset | None = None, *, rate: optax.Schedule | None = None) -> Parts:
    """Builds all that a recipe names, and so finds out what it names wrongly.

    Args:
      recipe: what to build.
      dataset: what `load_data` gives for the recipe, where it is loaded already.
      rate: a schedule in the place of the recipe's learning rate and schedule.

    Raises:
      ValueError: a name, an option or a size is wrong.
    """
    if recipe.task not in TASKS:
        raise ValueError(unknown("task", recipe.task, TASKS))
    if recipe.precision not in PRECISIONS:
        raise ValueError(unknown("precision", recipe.precision, PRECISIONS))
    if recipe.task == "gan" and recipe.precision == "float16":
        raise ValueError("the task gan scales no losses, which float16 needs; take precision=bfloat16")
    require_ranges(recipe)
    plan = parallel.plan(recipe.plan, parallel.devices_for(recipe.batch_size))
    card = zoo.model_card(recipe.model)
    dataset = load_data(recipe) if dataset is None else dataset
    options = dict(recipe.model_options)
    if dataset.spec.num_classes and "num_classes" in card.options:
        options.setdefault("num_classes", dataset.spec.num_classes)
    if dataset.spec.vocabulary and "vocab_size" in card.options:
        options.setdefault("vocab_size", len(dataset.spec.vocabulary))
    if dataset.spec.vocabulary[:1] == SPECIAL[:1] and "pad_token" in card.options:
        options.setdefault("pad_token", PAD)
    if "image" in dataset.spec.fields and "image_shape" in card.options:
        options.setdefault("image_shape", dataset.spec.fields["image"].shape)
    if "target" in dataset.spec.fields:
        for option in ("num_classes", "num_outputs"):
            if option in card.options:
                options.setdefault(option, dataset.spec.fields["target"].shape[-1])
    if recipe.precision != "float32":
        options.setdefault("dtype", recipe.precision)
    _require_sizes_of_the_data(recipe, dataset, options)
    model = zoo.create_model(recipe.model, **options)
    per_epoch = data.steps_per_epoch(len(dataset.splits["train"]), recipe.batch_size)
    plan.rows(recipe.batch_size)
    steps = _whole_windows(recipe, max(1, round(recipe.epochs * per_epoch)))
    example = first_examples(dataset)
    taken = _taken(recipe, dataset, example)
    frozen = None
    recipe = dataclasses.replace(recipe, layer_rates=named_layer_rates(model, taken, recipe.layer_rates))
    if recipe.trained_layers is not None or recipe.layer_rates:
        layers = {"trained_layers": recipe.trained_layers, "layer_rates": recipe.layer_rates}
        frozen = frozen_layers(model, taken, **layers)
    plateau = _plateau(recipe)
    rate, tx = _optimizer(recipe, steps, frozen, plateau, rate)
    extras: dict[str, Any] = {"loss_scaling": True} if recipe.precision == "float16" else {}
    if frozen is not None:
        extras["frozen"] = frozen
    if recipe.weights is not None:
        extras["start"] = start_variables(recipe, model, taken)
    _check_task_options(recipe)
    if recipe.class_weight is not None:
        extras["class_weight"] = _class_weights(recipe, dataset)
    task = TASKS[recipe.task](model, tx, **extras, **recipe.task_options)
    change = augmentation(recipe, dataset)
    _require_fit(recipe, dataset, model, task, example, plateau)
    return Parts(dataset, model, options, rate, task, plan, steps, change, plateau)


def _taken(recipe: Recipe, dataset: data.Dataset, example: dict[str, Any]) -> Any:
    """What the model is given of an example: the field that it takes, or a tuple of several."""
    inputs = task_option(recipe, "inputs")
    for name in [inputs] if isinstance(inputs, str) else inputs:
        if name not in dataset.spec.fields:
            raise ValueError(
                f"data set {recipe.data!r} has no field {name!r} for the model; it has "
                f"{', '.join(dataset.spec.fields)}: set task_options.inputs"
            )
    if not isinstance(inputs, str):
        return tuple(example[name] for name in inputs)
    return example[inputs][0] if inputs.startswith(SUPPORT) else example[inputs]  # of one episode


def _optimizer(
    recipe: Recipe, steps: int, frozen: Frozen | None, plateau: Plateau | None, rate: optax.Schedule | None
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    def scheduled(rate: float) -> optax.Schedule:
        return schedule(recipe.schedule, rate, steps, **recipe.schedule_options)

    rate = rate or scheduled(recipe.learning_rate)
    layer_rates = {pattern: scheduled(each) for pattern, each in recipe.layer_rates.items() if each}
    tx = optimizer(recipe.optimizer, rate, layer_rates=layer_rates, **recipe.optimizer_options)
    if frozen is not None:
        tx = freeze(tx, frozen)
    return rate, tx if plateau is None else optax.chain(tx, scale_by_plateau())


def _plateau(recipe: Recipe) -> Plateau | None:
    if recipe.plateau_options and recipe.optimizer.startswith("schedule_free"):
        raise ValueError(f"optimizer {recipe.optimizer!r} needs no falling rate: leave plateau_options out")
    check_options(Plateau, recipe.plateau_options, "the plateau")
    return Plateau(**recipe.plateau_options) if recipe.plateau_options else None


def _whole_windows(recipe: Recipe, steps: int) -> int:
    """So many steps, or a few more, that the last window of `accumulate_steps` closes: else its gradients were lost."""
    window = recipe.optimizer_options.get("accumulate_steps", 1)
    if not isinstance(window, int) or window < 2:  # the optimizer refuses what is wrong
        return steps
    if window > steps:
        raise ValueError(
            f"accumulate_steps={window} is more than the {steps} steps of the training: nothing would move"
        )
    return -(-steps // window) * window


def _check_task_options(recipe: Recipe) -> None:
    """Those of the task itself, and those that it passes on to `gradient_task`."""
    constructor, what = TASKS[recipe.task], f"task {recipe.task!r}"
    elsewhere = {
        "model": "set model=…",
        "tx": "set optimizer=…",
        "loss_scaling": "set precision=float16",
        "frozen": "set trained_layers=… or layer_rates…",
        "start": "set weights=…",
        "class_weight": "set class_weight=…",
    }
    parameters = inspect.signature(constructor).parameters
    passed_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    given = recipe.task_options.items()
    shared = {n: v for n, v in given if n in ("ema_decay", "sam_rho") and n not in parameters and passed_on}
    own = {name: value for name, value in recipe.task_options.items() if name not in shared}
    check_options(gradient_task, shared, what)
    check_options(constructor, own, what, elsewhere=elsewhere)


def _class_weights(recipe: Recipe, dataset: data.Dataset) -> list[float]:
    if "class_weight" not in inspect.signature(TASKS[recipe.task]).parameters:
        raise ValueError(f"class_weight is of tasks that tell classes; the task {recipe.task!r} has none")
    assert recipe.class_weight is not None
    return class_weights(recipe.class_weight, dataset)


def _require_sizes_of_the_data(recipe: Recipe, dataset: data.Dataset, options: dict[str, Any]) -> None:
    """Refuses sizes of a model that are not those of the data."""
    spec = dataset.spec
    wanted = options.get("num_classes")
    if recipe.task in CLASSIFIERS and spec.num_classes and wanted is not None:
        allowed = {spec.num_classes, 1} if spec.num_classes == 2 else {spec.num_classes}
        if wanted not in allowed:
            raise ValueError(
                f"model_options.num_classes={wanted!r} does not fit the data set {recipe.data!r}, which has "
                f"{spec.num_classes} classes; leave it out"
            )
    vocabulary = options.get("vocab_size")
    if spec.vocabulary and isinstance(vocabulary, int) and vocabulary < len(spec.vocabulary):
        raise ValueError(
            f"model_options.vocab_size={vocabulary} is less than the {len(spec.vocabulary)} tokens of the data set "
            f"{recipe.data!r}; leave it out"
        )


def augmentation(recipe: Recipe, dataset: data.Dataset) -> Augment | None:
    """What a recipe does to training images at random; None for nothing.

    Raises:
      ValueError: there is no such augmentation, or it cannot change these data.
    """
    policy = augment.policy(recipe.augmentation, **recipe.augmentation_options)
    if policy == augment.Policy():
        return None
    if (policy.mixup or policy.cutmix) and recipe.task != "classification":
        raise ValueError(f"mixup and cutmix mix the labels of a classifier; the task is {recipe.task!r}")
    policy.require_shape(dataset.raw_image_shape)
    return partial(augment.apply, policy, num_classes=dataset.spec.num_classes)


def _require_outputs(recipe: Recipe, dataset: data.Dataset, model: nn.Module, example: dict[str, np.ndarray]) -> None:
    """Refuses a classifier with other outputs than there are classes, whatever its options are called."""
    classes = dataset.spec.num_classes
    if recipe.task not in CLASSIFIERS or not classes:
        return
    names = task_option(recipe, "inputs")
    inputs = [example[name] for name in ([names] if isinstance(names, str) else names)]
    logits, _ = jax.eval_shape(lambda key: model.init_with_output(key, *inputs), jax.random.key(0))
    if logits.shape[-1] != classes and not (classes == 2 and logits.shape[-1] == 1):
        raise ValueError(
            f"model {recipe.model!r} gives {logits.shape[-1]} outputs, and the data set {recipe.data!r} has {classes} "
            "classes: let the model have an option num_classes, which is set from the data"
        )


def _require_fit(
    recipe: Recipe,
    dataset: data.Dataset,
    model: nn.Module,
    task: Task,
    example: dict[str, np.ndarray],
    plateau: Plateau | None,
) -> None:
    """Traces one evaluation: what does not fit is found before anything is compiled."""

    def trace(key: jax.Array) -> Any:
        state = task.init(key, example)
        return state, task.eval_step(state, example)

    try:
        with naming_fields(dataset):
            state, metrics = jax.eval_shape(trace, jax.random.key(0))
    except (ValueError, TypeError) as error:
        if isinstance(error, WildcardError) or isinstance(error.__cause__, KeyError):
            raise
        seen = ", ".join(f"{name} {list(dataset.spec.fields[name].shape)}" for name in dataset.spec.fields)
        raise ValueError(
            f"model {recipe.model!r}, made for {list(zoo.model_card(recipe.model).input_shape)}, does not fit the data "
            f"set {recipe.data!r}, whose examples are {seen}: {error}"
        ) from error
    require_memory(tree_bytes((state.params, state.opt_state)), f"model {recipe.model!r} with its optimizer")
    _require_outputs(recipe, dataset, model, example)
    watched = ["step", *(f"validation_{name}" for name in metrics if "validation" in dataset.splits)]
    for monitor in [recipe.monitor, *([plateau.monitor] if plateau else [])]:
        if monitor not in watched:
            watched += jax.eval_shape(task.train_step, state, example)[1]  # training may report less than evaluation
        if monitor not in watched:
            raise ValueError(unknown("metric to monitor", monitor, watched))
