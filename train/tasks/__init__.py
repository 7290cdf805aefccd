"""Tasks: what a model is trained to do, one file a kind."""

from collections.abc import Callable

from train.state import Task
from train.tasks.classification import classification
from train.tasks.regression import regression

TASKS: dict[str, Callable[..., Task]] = {"classification": classification, "regression": regression}
"""Task constructors by the name that a recipe gives."""

__all__ = ["TASKS", "classification", "regression"]
