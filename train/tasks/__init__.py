"""Tasks: what a model is trained to do, one file a kind."""

from collections.abc import Callable

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
    "vae",
]
