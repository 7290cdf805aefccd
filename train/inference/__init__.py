"""Trained runs in use."""

from train.inference.adaptation import adapt
from train.inference.evaluation import Evaluation, evaluate, examine, likelihood_bound, load_with_data
from train.inference.loading import Run, load, read_recipe
from train.inference.prediction import Estimate, Prediction, image_classifier, predict

__all__ = [
    "Estimate",
    "Evaluation",
    "Prediction",
    "Run",
    "adapt",
    "evaluate",
    "examine",
    "image_classifier",
    "likelihood_bound",
    "load",
    "load_with_data",
    "predict",
    "read_recipe",
]
