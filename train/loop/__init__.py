"""The training loop and what it runs on: data, devices, checkpoints, callbacks."""

from train.loop.feed import Augment
from train.loop.fitting import (
    Adapt,
    Callback,
    DivergedError,
    Fitted,
    InterruptedTraining,
    Report,
    evaluate,
    fit,
)
from train.loop.inspection import Layer, inspect
from train.loop.rate_test import RateTest, find_rate

__all__ = [
    "Adapt",
    "Augment",
    "Callback",
    "DivergedError",
    "Fitted",
    "InterruptedTraining",
    "Layer",
    "RateTest",
    "Report",
    "evaluate",
    "find_rate",
    "fit",
    "inspect",
]
