"""What training will see, before it begins."""

from __future__ import annotations

import contextlib

import jax
import numpy as np

from data.scaling import to_unit
from train.recipe import Recipe, load_data
from train.runs.build import augmentation
from train.runs.transfer import resolve


def augmented(recipe: Recipe, *, rows: int = 8, columns: int = 8, seed: int = 0) -> np.ndarray:
    """Training images of a recipe and what its augmentation makes of them, before they are scaled by mean and std.

    Args:
      recipe: with an augmentation.
      rows: number of images.
      columns: draws of each.
      seed: of the draws.

    Returns:
      `[rows, 1 + columns, height, width, channels]` in [0, 1]; first in each row is the image as it is.

    Raises:
      ValueError: the recipe has no augmentation, or its data are no images.
    """
    # Weights that are not here: the settings of the recipe itself will do for a preview.
    with contextlib.suppress(FileNotFoundError, ValueError):
        recipe = resolve(recipe)
    dataset = load_data(recipe)
    change = augmentation(recipe, dataset)
    if change is None:
        raise ValueError("this recipe has no augmentation; choose one, such as augmentation=guide")
    source = dataset.splits["train"]
    batch = source[np.linspace(0, len(source) - 1, rows, dtype=np.int32)]
    draw = jax.jit(lambda key: change(batch, key=key)["image"])
    keys = jax.random.split(jax.random.key(seed), columns)
    return np.stack([to_unit(batch["image"]), *(np.asarray(draw(key)) for key in keys)], axis=1)
