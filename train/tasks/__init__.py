"""Tasks: what a model is trained to do, one file a kind."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from train.recipe import Recipe
from train.state import Task
from train.tasks.classification import classification
from train.tasks.density import density
from train.tasks.diffusion import diffusion
from train.tasks.few_shot import anil, maml, prototypical, reptile
from train.tasks.gan import gan
from train.tasks.graphs import graph_classification, link_prediction, node_classification
from train.tasks.language_modeling import language_modeling
from train.tasks.latent_ode import latent_ode
from train.tasks.reconstruction import reconstruction
from train.tasks.regression import regression
from train.tasks.seq2seq import seq2seq
from train.tasks.vae import vae

Constructor = TypeVar("Constructor", bound=Callable[..., Task])

TASKS: dict[str, Callable[..., Task]] = {
    "anil": anil,
    "classification": classification,
    "density": density,
    "diffusion": diffusion,
    "gan": gan,
    "graph_classification": graph_classification,
    "language_modeling": language_modeling,
    "link_prediction": link_prediction,
    "node_classification": node_classification,
    "maml": maml,
    "prototypical": prototypical,
    "latent_ode": latent_ode,
    "reconstruction": reconstruction,
    "regression": regression,
    "reptile": reptile,
    "seq2seq": seq2seq,
    "vae": vae,
}
"""Task constructors by the name that a recipe gives."""

CLASSIFIERS = ("classification", "node_classification", "graph_classification")
"""Tasks whose models give logits `[batch, classes]`."""


def register(constructor: Constructor) -> Constructor:
    """Decorator that makes a task constructor known to recipes under the name of its function.

        @train.tasks.register
        def mine(model, tx, *, inputs: str = "image", **options) -> Task: …

    Its keyword arguments are what a recipe's `task_options` set; `inputs` names the field of a batch that the model
    takes.

    Raises:
      ValueError: the name is taken.
    """
    name = constructor.__name__
    if name in TASKS:
        raise ValueError(f"a task named {name!r} is registered already; choose another name")
    TASKS[name] = constructor
    return constructor


def task_option(recipe: Recipe, name: str) -> Any:
    """An option of the recipe's task, as it is given there or by default.

    Raises:
      ValueError: it is not given, and the task has no default for it.
    """
    if name in recipe.task_options:
        return recipe.task_options[name]
    parameter = inspect.signature(TASKS[recipe.task]).parameters.get(name)
    if parameter is None or parameter.default is parameter.empty:
        raise ValueError(f"the task {recipe.task!r} has no default for {name!r}; set task_options.{name}")
    return parameter.default


__all__ = [
    "CLASSIFIERS",
    "TASKS",
    "anil",
    "classification",
    "density",
    "diffusion",
    "gan",
    "graph_classification",
    "language_modeling",
    "latent_ode",
    "link_prediction",
    "maml",
    "node_classification",
    "prototypical",
    "reconstruction",
    "register",
    "regression",
    "reptile",
    "seq2seq",
    "task_option",
    "vae",
]
