"""Drawing points from a trained continuous flow."""

from __future__ import annotations

import jax
import numpy as np

from train.inference.loading import Run
from zoo.dynamics.ffjord import FFJORD


def require_flow(run: Run) -> FFJORD:
    """The model of a run that draws points.

    Raises:
      ValueError: the run's model is no flow.
    """
    if not isinstance(run.model, FFJORD):
        raise ValueError(f"this run trains {type(run.model).__name__}; points are drawn from a flow, as ffjord is")
    return run.model


def draw_points(run: Run, n: int, seed: int = 0, times: tuple[float, ...] = (0.0, 1.0)) -> np.ndarray:
    """Points that flow from a standard normal at time 0 to the density of the data at time 1.

    Args:
      run: of the task density, with an FFJORD.
      n: how many points.
      seed: the same seed draws the same points.
      times: rising from 0.

    Returns:
      `[times, n, features]`.

    Raises:
      ValueError: n is not positive, or the run's model is no flow.
    """
    if n < 1:
        raise ValueError(f"n, the number of points, must be at least 1, not {n}")
    model = require_flow(run)
    size = run.dataset.spec.fields[run.recipe.task_options.get("inputs", "features")].shape[0] + model.augment
    noise = jax.random.normal(jax.random.key(seed), (n, size))
    return np.asarray(model.flow(run.variables, noise, times))
