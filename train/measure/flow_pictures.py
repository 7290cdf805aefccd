"""Pictures of differential equations: a field with its trajectories, a density that flows, extrapolated series."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from train.inference.flow_sampling import require_flow
from train.inference.loading import Run
from train.measure.pictures import BLUE, ORANGE, as_it_stands, save
from zoo.dynamics.neural_ode import NeuralODE
from zoo.dynamics.solve import solve

_TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)
_SIDE = 120
"""Places along each side at which a density is computed."""


def shows_phase_portrait(run: Run) -> bool:
    """Whether the run's model is a neural ODE of two features."""
    field = run.dataset.spec.fields.get(run.recipe.task_options.get("inputs", "image"))
    return isinstance(run.model, NeuralODE) and field is not None and field.shape == (2,)


@as_it_stands
def density_flow(run: Run, points: np.ndarray, path: str | Path, *, title: str = "") -> None:
    """Draws the density of a 2-D flow at times from 0 to 1, and drawn points beside those of the data.

    Args:
      run: of an FFJORD on points of the plane.
      points: drawn ones, `[n, 2]`.
      path: a PNG.
      title: of the picture.

    Raises:
      ValueError: the flow is not one of the plane.
    """
    model, size = require_flow(run), points.shape[-1]
    if size != 2:
        raise ValueError(f"a picture of a flow shows points of the plane; these have {size} features")
    name = run.recipe.task_options.get("inputs", "features")
    source = next(iter(run.dataset.splits.values()))
    real = np.asarray(run.dataset.preprocess(source[np.arange(min(len(source), 2000))])[name])
    low, high = (f([f(real, axis=0), [s * 2.5] * 2], axis=0) for f, s in ((np.min, -1), (np.max, 1)))
    middle, half = (low + high) / 2, float((high - low).max()) * 0.55
    sides = [np.linspace(c - half, c + half, _SIDE, dtype=np.float32) for c in middle]
    grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    extent = (sides[0][0], sides[0][-1], sides[1][0], sides[1][-1])
    times = () if model.augment else _TIMES  # of augmented points there is no density
    count = len(times) + 2
    rows, columns = (2, 4) if count > 4 else (1, count)
    figure = Figure(figsize=(3 * columns, 3.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.set_axis_off()
    for axes, time in zip(panels, times, strict=False):
        density = np.exp(np.asarray(jax.jit(partial(model.log_density_at, time=time))(run.variables, grid)))
        axes.imshow(density.reshape(_SIDE, _SIDE), origin="lower", extent=extent, cmap="viridis")
        axes.set_title(f"density at time {time:g}")
    for axes, (what, places, colour) in zip(
        panels[len(times) : count], (("drawn points", points, BLUE), ("data", real, ORANGE)), strict=True
    ):
        axes.scatter(*places[:2000].T, s=3, color=colour, alpha=0.6, linewidths=0)
        axes.set(title=what, xlim=extent[:2], ylim=extent[2:], aspect="equal")
    _finish(figure, path, title)


@as_it_stands
def phase_portrait(run: Run, path: str | Path, *, title: str = "") -> None:
    """Draws the field of a neural ODE in the plane of its two features at times 0, 1/2 and 1, and trajectories.

    Augmented dimensions are 0 for the arrows; trajectories are seen from above.
    """
    model, name = run.model, run.recipe.task_options.get("inputs", "image")
    source = next(iter(run.dataset.splits.values()))
    batch = run.dataset.preprocess(source[np.arange(min(len(source), 80))])
    start = np.pad(np.asarray(batch[name]), ((0, 0), (0, model.augment)))
    labels = np.asarray(batch.get("label", np.zeros(len(start))))
    moments = np.linspace(0, 1, 41, dtype=np.float32)
    module = model.clone()

    def field(t: jax.Array, y: jax.Array, variables: Any) -> jax.Array:
        return module.vector_field(variables, y, t)

    ways = np.asarray(solve(field, jnp.asarray(start), moments, run.variables, method=model.method).values)
    low, high = ways[..., :2].min(axis=(0, 1)), ways[..., :2].max(axis=(0, 1))
    middle, half = (low + high) / 2, 0.55 * float((high - low).max())
    sides = [np.linspace(c - half, c + half, 17, dtype=np.float32) for c in middle]
    grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    window = {"xlim": sides[0][[0, -1]], "ylim": sides[1][[0, -1]]}
    figure = Figure(figsize=(16, 4.3), layout="constrained")
    panels = figure.subplots(1, 4)
    for axes, time in zip(panels, (0.0, 0.5, 1.0), strict=False):
        arrows = np.asarray(field(jnp.float32(time), jnp.pad(grid, ((0, 0), (0, model.augment))), run.variables))
        axes.quiver(*grid.T, *arrows[:, :2].T, np.linalg.norm(arrows[:, :2], axis=1), cmap="viridis", angles="xy")
        axes.set(title=f"field at time {time:g}", aspect="equal", **window)
    for index, label in enumerate(labels):
        colour = (BLUE, ORANGE)[int(label) % 2]
        panels[3].plot(*ways[:, index, :2].T, color=colour, linewidth=0.7, alpha=0.7)
        panels[3].plot(*ways[-1, index, :2], "o", color=colour, markersize=3)
    panels[3].set(title="trajectories, ending in dots", aspect="equal", **window)
    _finish(figure, path, title)


@as_it_stands
def extrapolation(run: Run, split: str, path: str | Path, *, title: str = "") -> None:
    """Draws the first series of a split in the plane: observations, the truth, and what a latent ODE tells.

    Raises:
      ValueError: the series do not have two features.
    """
    inputs = run.recipe.task_options.get("inputs", "inputs")
    batch = run.dataset.preprocess(run.dataset.splits[split][np.arange(min(len(run.dataset.splits[split]), 6))])
    if batch[inputs].shape[-1] != 2:
        raise ValueError(
            f"the picture shows series of points of the plane; these have {batch[inputs].shape[-1]} features"
        )
    output: Any = jax.jit(run.model.apply)(run.variables, *(batch[n] for n in (inputs, "times", "observed")))
    told = np.asarray(output.prediction)
    figure = Figure(figsize=(13, 8.6), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    for axes, index in zip(panels, range(len(told)), strict=False):
        seen = batch["observed"][index] > 0
        last = int(np.flatnonzero(seen)[-1])
        if "target" in batch:
            axes.plot(*batch["target"][index].T, color="0.7", linewidth=3, label="truth")
        axes.plot(*told[index, : last + 1].T, color=BLUE, label="told, in the time of observations")
        axes.plot(*told[index, last:].T, color=ORANGE, label="extrapolated")
        axes.plot(*batch[inputs][index][seen].T, "o", color="black", markersize=3, label="observed")
        axes.set_aspect("equal")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    _finish(figure, path, title)


def _finish(figure: Figure, path: str | Path, title: str) -> None:
    if title:
        figure.suptitle(title)
    save(figure, path, dpi=110)
