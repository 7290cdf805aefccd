"""What a trained run does on a split of its data."""

from __future__ import annotations

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
from train.loop import evaluate as evaluate_task
from train.loop import parallel
from train.loop.feed import padded_rows, require_split
from train.recipe import load_data
from train.state import State
from train.tasks import TASKS, task_option
from train.tasks.classification import class_probabilities
from train.tasks.vae import binarize, importance_weighted_bound
from zoo.checkpoint import saved_meta


def evaluate(folder: str | Path, split: str = "test") -> dict[str, Any]:
    """The metrics of the best checkpoint on one split, and for classifiers precision, recall and F1 of each class."""
    run = load(folder)
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
    return examine(run._replace(dataset=dataset), split).report


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
      report: its metrics, and for classifiers precision, recall and F1 of each class (eq. 75-78).
      confusion: how often each class was taken for each, counts `[actual, predicted]`; None where it is no classifier.
    """

    report: dict[str, Any]
    confusion: np.ndarray | None = None


def examine(run: Run, split: str) -> Evaluation:
    """`evaluate` of a run that is loaded already.

    Of a run of the task seq2seq, `exact_match` is the share of targets that greedy decoding finds whole.

    Raises:
      ValueError: the data set has no such split.
    """
    # One device takes any batch, whatever the run was trained on.
    plan = parallel.jit(jax.local_devices()[:1])
    task = TASKS[run.recipe.task](run.model, optax.identity(), **run.recipe.task_options)
    model_state = {collection: tree for collection, tree in run.variables.items() if collection != "params"}
    state = State(jnp.int32(0), run.variables["params"], model_state, (), jax.random.key(0))
    metrics = evaluate_task(task, run.dataset, state, split=split, plan=plan, batch_size=run.recipe.batch_size)
    result: dict[str, Any] = {f"{split}_{name}": value for name, value in metrics.items()}
    if run.recipe.task == "seq2seq":
        inputs = task_option(run.recipe, "inputs")
        result[f"{split}_exact_match"] = exact_match(run.model, run.variables, run.dataset, split, inputs=inputs)
    reader = run.dataset.reader
    if run.recipe.task == "regression" and isinstance(reader, data.TableReader):
        result[f"{split}_mae_of_{reader.target}"] = metrics["mae"] * reader.target_std  # in the units of the file
    if not is_classifier(run):
        return Evaluation(result)
    from sklearn.metrics import classification_report, confusion_matrix

    labels, predicted = _predictions(run, split)
    classes = classes_of(run)
    numbers = list(range(len(classes)))
    result["classes"] = classification_report(
        labels,
        predicted,
        labels=numbers,
        target_names=classes,
        output_dict=True,
        zero_division=0,  # type: ignore[arg-type]  # scikit-learn takes it; its stubs do not say so
    )
    return Evaluation(result, confusion_matrix(labels, predicted, labels=numbers))


def _predictions(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    source = run.dataset.splits[split]
    inputs = task_option(run.recipe, "inputs")

    @jax.jit
    def predict_batch(variables: Any, x: jax.Array) -> jax.Array:
        return class_probabilities(jnp.asarray(run.model.apply(variables, x))).argmax(axis=-1)

    labels, predicted = [], []
    for rows in padded_rows(len(source), min(len(source), 4 * run.recipe.batch_size)):
        batch = run.dataset.preprocess(source[np.maximum(rows, 0)])
        labels.append(np.asarray(batch["label"])[rows >= 0])
        predicted.append(np.asarray(predict_batch(run.variables, batch[inputs]))[rows >= 0])
    return np.concatenate(labels), np.concatenate(predicted)
