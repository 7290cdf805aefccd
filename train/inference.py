"""Trained runs in use: loading, evaluating, classifying images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import data
import zoo
from data.scaling import to_unit
from train import parallel, pictures
from train.build import load_data
from train.decode import exact_match
from train.feed import padded_rows
from train.loop import evaluate as evaluate_task
from train.recipe import Recipe, from_json
from train.state import State
from train.tasks import TASKS, task_option
from train.tasks.classification import class_probabilities
from train.tasks.vae import binarize, importance_weighted_bound
from zoo.checkpoint import saved_meta

_BATCH = 64
"""The most image files that are classified at a time."""


class Run(NamedTuple):
    """A trained run, ready for inference."""

    recipe: Recipe
    dataset: data.Dataset
    model: Any  # a Flax module, with the methods and attributes that its task knows
    variables: dict[str, Any]


def load(folder: str | Path) -> Run:
    """The best checkpoint of a run and what its recipe names. The data themselves are read only when asked for.

    A folder of `zoo convert` will do as well: it is as a run that was trained on pictures which are not here.

    Raises:
      ValueError: the folder is no run, or has no checkpoint yet.
    """
    folder = Path(folder)
    if (folder / "recipe.json").exists() or not (folder / "meta").is_dir():
        recipe = read_recipe(folder)
    else:
        recipe = Recipe(model=saved_meta(folder)["model"], data="")
    model, variables = zoo.load_model(folder)
    meta = saved_meta(folder)
    if "preprocessing" in meta:
        dataset = _pictures(str(folder), meta, model)
    elif recipe.data:
        dataset = data.load(recipe.data, seed=recipe.seed, **recipe.data_options)
    else:
        raise ValueError(f"{folder} was saved without preprocessing: it is not known what its model wants to see")
    return Run(recipe, dataset, model, jax.device_put(variables))


def _pictures(name: str, meta: dict[str, Any], model: nn.Module) -> data.Dataset:
    """What a model of pictures needs to know of its data, without the pictures."""
    reader = data.ImageReader.of(**meta["preprocessing"])
    classes = tuple(meta["classes"]) or tuple(map(str, range(getattr(model, "num_classes", 0))))
    spec = data.Spec({"image": data.Field(reader.shape, "float32"), "label": data.Field((), "int32")}, classes)
    return data.Dataset(name, spec, {}, reader.preprocess, image_shape=reader.shape, reader=reader)


def read_recipe(folder: Path) -> Recipe:
    """The recipe of a run.

    Raises:
      ValueError: the folder is no run.
    """
    path = folder / "recipe.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no recipe.json, which `zoo train` writes")
    try:
        return from_json(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def evaluate(folder: str | Path, split: str = "test") -> dict[str, Any]:
    """The metrics of the best checkpoint on one split, and for classifiers precision, recall and F1 of each class."""
    run = load(folder)
    return report(run._replace(dataset=load_data(run.recipe)), split)


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


def require_split(dataset: data.Dataset, split: str) -> data.Source:
    """A split by name.

    Raises:
      ValueError: there is none of this name.
    """
    if split not in dataset.splits:
        raise ValueError(
            f"data set {dataset.name!r} has no split {split!r}; it has {', '.join(sorted(dataset.splits))}"
        )
    return dataset.splits[split]


class Prediction(NamedTuple):
    """The class of one image, its probability, and the probabilities of all classes by name."""

    file: str
    label: str
    probability: float
    probabilities: dict[str, float]


def predict(folder: str | Path, files: Sequence[str | Path], *, invert: bool = False) -> list[Prediction]:
    """Classifies image files with the best checkpoint of a run.

    Args:
      folder: the run of a classifier of images, or a folder of `zoo convert`.
      files: in any format that Pillow reads; resized to what the data set has, and cropped where its were.
      invert: for dark strokes on a light ground, where the data set has light ones on a dark ground.

    Raises:
      ValueError: the run is no classifier of images, or a file is no image.
    """
    run = load(folder)
    classes = _classes(run)
    classify = jax.jit(image_classifier(run))
    shape, reader = run.dataset.raw_image_shape, run.dataset.reader

    def decode(file: str | Path) -> np.ndarray:
        if reader is None:
            return data.decode_image(file, shape, invert=invert)
        image = to_unit(reader.read(file))
        return 1 - image if invert else image

    batches = [files[start : start + _BATCH] for start in range(0, len(files), _BATCH)]
    probabilities = np.concatenate(
        [np.asarray(classify(np.stack([decode(file) for file in each]))) for each in batches]
    )
    best = probabilities.argmax(axis=1)
    return [
        Prediction(str(file), classes[index], float(row[index]), dict(zip(classes, map(float, row), strict=True)))
        for file, index, row in zip(files, best, probabilities, strict=True)
    ]


def image_classifier(run: Run) -> Callable[[Any], jax.Array]:
    """A function from images in [0, 1], `[batch, height, width, channels]` as in the data set, to class probabilities.

    Preprocessing is part of it.

    Raises:
      ValueError: the run is no classifier of images.
    """
    _classes(run)
    _, dataset, model, variables = run
    if "image" not in dataset.spec.fields:
        raise ValueError(
            f"the data of this run ({run.recipe.data}) are not images, but {', '.join(dataset.spec.fields)}"
        )

    def classify(images: Any) -> jax.Array:
        return class_probabilities(jnp.asarray(model.apply(variables, dataset.preprocess({"image": images})["image"])))

    return classify


def _classes(run: Run) -> tuple[str, ...]:
    classes = run.dataset.spec.classes
    if run.recipe.task != "classification" or not classes:
        raise ValueError(f"this run is no classifier, but does {run.recipe.task}")
    return classes


def report(run: Run, split: str, picture: Path | None = None) -> dict[str, Any]:
    """The metrics of a run on one split, and for classifiers precision, recall and F1 of each class (eq. 75-78).

    A classifier's confusion matrix is drawn to `picture`. Of a run of the task seq2seq, `exact_match` is the share of
    targets that greedy decoding finds whole.

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
    if run.recipe.task != "classification":
        return result
    from sklearn.metrics import classification_report, confusion_matrix

    labels, predicted = _predictions(run, split)
    classes = _classes(run)
    numbers = list(range(len(classes)))
    result["classes"] = classification_report(
        labels,
        predicted,
        labels=numbers,
        target_names=classes,
        output_dict=True,
        zero_division=0,  # type: ignore[arg-type]  # scikit-learn takes it; its stubs do not say so
    )
    if picture is not None:
        counts = confusion_matrix(labels, predicted, labels=numbers)
        pictures.confusion_matrix(counts, classes, picture, title=f"{picture.parent.name}: {split}")
    return result


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
