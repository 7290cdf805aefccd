"""Tasks: what a model is trained to do, one file a kind."""

import inspect
from collections.abc import Callable
from typing import Any

from train.recipe import Recipe
from train.state import Task
from train.tasks.classification import classification
from train.tasks.diffusion import diffusion
from train.tasks.gan import gan
from train.tasks.language_modeling import language_modeling
from train.tasks.reconstruction import reconstruction
from train.tasks.regression import regression
from train.tasks.seq2seq import seq2seq
from train.tasks.vae import vae

TASKS: dict[str, Callable[..., Task]] = {
    "classification": classification,
    "diffusion": diffusion,
    "gan": gan,
    "language_modeling": language_modeling,
    "reconstruction": reconstruction,
    "regression": regression,
    "seq2seq": seq2seq,
    "vae": vae,
}
"""Task constructors by the name that a recipe gives."""

OF_UNIT_IMAGES = ("diffusion", "gan", "reconstruction", "vae")
"""The tasks that make images, and take them with values in [0, 1]."""


def task_option(recipe: Recipe, name: str) -> Any:
    """An option of the recipe's task, as it is given there or by default."""
    return recipe.task_options.get(name, inspect.signature(TASKS[recipe.task]).parameters[name].default)


__all__ = [
    "OF_UNIT_IMAGES",
    "TASKS",
    "classification",
    "diffusion",
    "gan",
    "language_modeling",
    "reconstruction",
    "regression",
    "seq2seq",
    "task_option",
    "vae",
]
