"""Trained runs in use."""

from train.inference.evaluation import evaluate, examine, likelihood_bound
from train.inference.loading import Run, load, read_recipe
from train.inference.prediction import Estimate, Prediction, image_classifier, predict

__all__ = [
    "Estimate",
    "Prediction",
    "Run",
    "evaluate",
    "examine",
    "image_classifier",
    "likelihood_bound",
    "load",
    "predict",
    "read_recipe",
]
