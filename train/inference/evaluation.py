"""What a trained run does on a split of its data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import data
from train.data_facts import require_same_data
from train.inference.beam_search import exact_match
from train.inference.loading import Run, classes_of, is_classifier, load
from train.inference.scores import ClassPredictions, Estimates, class_report, ranking, require_finite
from train.loop import evaluate as evaluate_task
from train.loop import parallel
from train.loop.feed import padded_rows, require_split
from train.recipe import load_data, override
from train.state import State
from train.tasks import TASKS, task_option
from train.tasks.few_shot import FEW_SHOT
from train.tasks.few_shot.episode import statistics_of
from train.tasks.vae import binarize, importance_weighted_bound
from zoo.checkpoint import saved_meta
from zoo.published import find

_LOG = logging.getLogger(__name__)


def evaluate(folder: str | Path, split: str = "test", settings: Sequence[str] = ()) -> dict[str, Any]:
    """The metrics of the best checkpoint on one split, and for classifiers the scores of each class.

    `settings` are those of `load_with_data`.
    """
    return examine(load_with_data(folder, settings), split).report


def load_with_data(folder: str | Path, settings: Sequence[str] = ()) -> Run:
    """The best checkpoint of a run, and the data that it was trained on.

    Args:
      folder: the run.
      settings: of a few-shot learner, other tasks to judge it by, or another way to learn them, such as
        `data_options.shots=5` or `task_options.test_steps=10`.

    Raises:
      ValueError: the run names no data, or they are not those that it was trained on; or a setting is not possible.
    """
    folder = find(folder)
    run = load(folder)
    if settings:
        return _judged_by_others(run, settings)
    if not run.recipe.data:
        raise ValueError(f"{folder} holds weights that were not trained here: it names no data to evaluate them on")
    dataset = load_data(run.recipe)
    meta = saved_meta(folder)
    if "table" in meta and isinstance(dataset.reader, data.TableReader):
        trained = data.TableReader.of(**meta["table"])
        for what in ("columns", "categories", "target"):
            if getattr(trained, what) != getattr(dataset.reader, what):
                raise ValueError(
                    f"the {what} of {run.recipe.data!r} have changed since the run in {folder} was trained:\n"
                    f"  then: {getattr(trained, what)}\n  now:  {getattr(dataset.reader, what)}"
                )
    if seen := meta.get("data"):
        require_same_data(folder, seen, dataset, exactly=False)
    return run._replace(dataset=dataset)


def _judged_by_others(run: Run, settings: Sequence[str]) -> Run:
    """A few-shot learner with other tasks."""
    if run.recipe.task not in FEW_SHOT:
        raise ValueError(
            f"settings change the tasks that a few-shot learner is judged by; this run does {run.recipe.task}: leave "
            f"out {settings[0]}"
        )
    for setting in settings:
        if not setting.startswith(("data_options.", "task_options.")):
            raise ValueError(
                "of a trained run data_options and task_options can be set, such as data_options.shots=5, "
                f"not {setting}"
            )
    recipe = override(run.recipe, settings)
    dataset = load_data(recipe)
    ways, outputs = dataset.spec.num_classes, getattr(run.model, "num_classes", None)
    if recipe.task != "prototypical" and ways and ways != outputs:
        raise ValueError(
            f"the model has {outputs} outputs, and the tasks have {ways} classes; only prototypical networks take any "
            "number"
        )
    return run._replace(recipe=recipe, dataset=dataset)


def likelihood_bound(folder: str | Path, split: str = "test", *, samples: int = 64) -> float:
    """The importance-weighted bound on log p(x) of a VAE's best checkpoint, in nats, as a mean over a split.

    Raises:
      ValueError: the run is no VAE, or the number of samples is not positive.
    """
    run = load(folder)
    if run.recipe.task != "vae":
        raise ValueError(f"this run is no VAE, but does {run.recipe.task}")
    source = require_split(load_data(run.recipe), split)
    inputs, pixels = task_option(run.recipe, "inputs"), task_option(run.recipe, "pixels")
    bounds = []
    for index, rows in enumerate(padded_rows(len(source), min(len(source), 4 * run.recipe.batch_size))):
        pixel_key, latent_key = jax.random.split(jax.random.fold_in(jax.random.key(0), index))
        images = jnp.asarray(run.dataset.preprocess(source[np.maximum(rows, 0)])[inputs])
        if pixels == "binarized":
            images = binarize(images, pixel_key)
        bound = importance_weighted_bound(run.model, run.variables, images, latent_key, samples)
        bounds.append(np.asarray(bound)[rows >= 0])
    return float(np.concatenate(bounds).mean())


class Evaluation(NamedTuple):
    """What a run does on one split.

    Attributes:
      report: its metrics, see `train.inference.scores`, and for classifiers the scores of each class (eq. 75-78).
      predictions: of each example, where the run tells classes or numbers.
    """

    report: dict[str, Any]
    predictions: ClassPredictions | Estimates | None = None


_FIRST = (
    *("loss", "accuracy", "top_5_accuracy", "balanced_accuracy", "precision_macro", "recall_macro", "f1_macro"),
    *("precision_weighted", "f1_weighted", "log_loss", "expected_calibration_error"),
)
"""Metrics that a report begins with, in this order."""


def examine(run: Run, split: str) -> Evaluation:
    """`evaluate` of a run that is loaded already.

    Of a run of the task seq2seq, `exact_match` is the share of targets that greedy decoding finds whole. Of a table,
    errors are told in the units of its target too.

    Raises:
      ValueError: the data set has no such split, or no examples in it; or the model's outputs are no numbers.
    """
    # One device takes any batch, whatever the run was trained on.
    plan = parallel.jit(jax.local_devices()[:1])
    task = TASKS[run.recipe.task](run.model, optax.identity(), **run.recipe.task_options)
    model_state = {collection: tree for collection, tree in run.variables.items() if collection != "params"}
    state = State(jnp.int32(0), run.variables["params"], model_state, (), jax.random.key(0))
    metrics = evaluate_task(task, run.dataset, state, split=split, plan=plan, batch_size=run.recipe.batch_size)
    names = [*(name for name in _FIRST if name in metrics), *(name for name in metrics if name not in _FIRST)]
    result: dict[str, Any] = {f"{split}_{name}": metrics[name] for name in names}
    if run.recipe.task in FEW_SHOT:
        result["tasks"] = len(run.dataset.splits[split])
        result["batch_norm"] = statistics_of(task_option(run.recipe, "transductive"))
    if run.recipe.task == "seq2seq":
        inputs = task_option(run.recipe, "inputs")
        result[f"{split}_exact_match"] = exact_match(run.model, run.variables, run.dataset, split, inputs=inputs)
    if run.recipe.task == "regression":
        return Evaluation(result, _estimates(run, split, result))
    if not is_classifier(run):
        return Evaluation(result)
    predictions = ClassPredictions.of_logits(*_outputs(run, split, "label"), classes_of(run))
    classes = class_report(predictions)
    result |= {f"{split}_{name}": value for name, value in ranking(predictions, classes).items()}
    _tell_of_missing_classes(predictions, f"the {split} split of {run.dataset.name!r}")
    return Evaluation({**result, "classes": classes}, predictions)


def _estimates(run: Run, split: str, result: dict[str, Any]) -> Estimates:
    """The predictions of a regression; of a table, its errors in the units of the file join the result."""
    targets, values = (x.reshape(len(x), -1) for x in _outputs(run, split, "target"))
    reader = run.dataset.reader
    if not isinstance(reader, data.TableReader):
        return Estimates(targets, values, tuple(f"target {index}" for index in range(targets.shape[1])))
    for error in ("mae", "rmse"):
        result[f"{split}_{error}_of_{reader.target}"] = result[f"{split}_{error}"] * reader.target_std
    return Estimates(reader.unscaled(targets), reader.unscaled(values), (str(reader.target),))


def _tell_of_missing_classes(predictions: ClassPredictions, where: str) -> None:
    counts = np.bincount(predictions.labels, minlength=len(predictions.classes))
    if missing := [name for name, count in zip(predictions.classes, counts, strict=True) if not count]:
        shown = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        _LOG.warning(
            "%s has no example of %s: areas under their curves are not defined, nor the means over all classes",
            where,
            shown,
        )


def _outputs(run: Run, split: str, wanted: str) -> tuple[np.ndarray, np.ndarray]:
    """What is to be told of each example of a split, and what the model tells, in float32."""
    source = run.dataset.splits[split]
    names = task_option(run.recipe, "inputs")
    names = (names,) if isinstance(names, str) else tuple(names)

    @jax.jit
    def predict_batch(variables: Any, *inputs: jax.Array) -> jax.Array:
        return jnp.asarray(run.model.apply(variables, *inputs), jnp.float32)

    found, told = [], []
    for rows in padded_rows(len(source), min(len(source), 4 * run.recipe.batch_size)):
        batch = run.dataset.preprocess(source[np.maximum(rows, 0)])
        found.append(np.asarray(batch[wanted])[rows >= 0])
        told.append(np.asarray(predict_batch(run.variables, *(batch[name] for name in names)))[rows >= 0])
    values = np.concatenate(told)
    require_finite(values, f"the {split} split of {run.dataset.name!r}")
    return np.concatenate(found), values
