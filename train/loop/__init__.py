"""The training loop and what it runs on: data, devices, checkpoints, callbacks."""

from train.loop.fitting import Adapt, Augment, Callback, DivergedError, Fitted, Report, evaluate, fit

__all__ = ["Adapt", "Augment", "Callback", "DivergedError", "Fitted", "Report", "evaluate", "fit"]
