"""Images classified by a trained run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import data
from data.scaling import to_unit
from train.inference.loading import Run, classes_of, load
from train.tasks.classification import class_probabilities

_BATCH = 64
"""The most image files that are classified at a time."""


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
    classes = classes_of(run)
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
    classes_of(run)
    _, dataset, model, variables = run
    if "image" not in dataset.spec.fields:
        raise ValueError(
            f"the data of this run ({run.recipe.data}) are not images, but {', '.join(dataset.spec.fields)}"
        )

    def classify(images: Any) -> jax.Array:
        return class_probabilities(jnp.asarray(model.apply(variables, dataset.preprocess({"image": images})["image"])))

    return classify
