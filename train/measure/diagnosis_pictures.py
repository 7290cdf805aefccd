"""The pictures of a diagnosis: gradients by depth, histograms of layers, the first filters, a range test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from train.files import as_json, write_whole
from train.loop.inspection import Inside, Layer
from train.loop.rate_test import RateTest
from train.measure import pictures
from train.measure.diagnosis import Diagnosis
from train.measure.pictures import BLUE, ORANGE, as_it_stands, cut, line, save

MOST_ROWS = 30
"""Layers with weights that are drawn; of deeper models evenly chosen ones, the first and the last among them."""

MOST_FILTERS = 64
"""Filters that are drawn."""


_plain = FuncFormatter(lambda value, place: f"{value:g}")
"""Numbers of a logarithmic scale as they are typed: mathematics are off in our pictures."""


def write(found: Diagnosis, params: Any, folder: str | Path, *, title: str = "") -> list[Path]:
    """Writes all that is to be seen of a diagnosis.

    `diagnosis.json`, the findings and the table of layers; `gradient_flow.png`; `histograms.png`; `curves.png`, where
    there is a history; and `filters.png`, where the first convolution sees images of one channel or three.

    Args:
      found: the diagnosis.
      params: of the model.
      folder: made if it is not there; files of these names are replaced.
      title: of the pictures.

    Returns:
      The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "diagnosis.json", as_json(as_facts(found)) + "\n")
    gradient_flow(found.layers, folder / "gradient_flow.png", title=title)
    histograms(found.inside, folder / "histograms.png", title=title)
    names = ["diagnosis.json", "gradient_flow.png", "histograms.png"]
    if found.history:
        pictures.curves(found.history, folder / "curves.png", title=title)
        names.append("curves.png")
    if (images := first_filters(found.layers, params)) is not None:
        pictures.grid(images, folder / "filters.png")
        names.append("filters.png")
    return [folder / name for name in names]


def as_facts(found: Diagnosis) -> dict[str, Any]:
    """A diagnosis as plain data."""
    return {
        "step": found.step,
        "findings": [finding._asdict() for finding in found.findings],
        "loss_before_steps": float(found.steps.before.mean()),
        "loss_after_steps": float(found.steps.after.mean()),
        "blank_loss": found.blank.training,
        "layers": [layer._asdict() for layer in found.layers],
    }


def _chosen(rows: Sequence[Any]) -> list[Any]:
    if len(rows) <= MOST_ROWS:
        return list(rows)
    return [rows[round(index)] for index in np.linspace(0, len(rows) - 1, MOST_ROWS)]


@as_it_stands
def gradient_flow(layers: Sequence[Layer], path: str | Path, *, title: str = "") -> None:
    """Draws the gradients and the updates of the layers with weights by their depth, as a PNG.

    Args:
      layers: of `train.loop.inspect`.
      path: the file.
      title: of the picture.
    """
    rows = _chosen([layer for layer in layers if layer.num_weights])
    figure = Figure(figsize=(max(6, 0.35 * len(rows) + 4), 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(rows))

    def draw(axes: Any, values: Sequence[float | None], color: str, label: str) -> None:
        positive = [value if value else np.nan for value in values]  # zero has no place on a logarithmic scale
        axes.plot(places, positive, color=color, marker="o", label=label)

    draw(upper, [row.output_gradient_norm for row in rows], BLUE, "by the outputs of the layer")
    draw(upper, [row.gradient_norm for row in rows], ORANGE, "by its weights")
    upper.set(ylabel="norm of the gradient", title=line(title))
    draw(lower, [row.update_ratio for row in rows], BLUE, "kernels")
    lower.axhspan(1e-4, 1e-2, color="#888888", alpha=0.15, label="usual")
    lower.set(ylabel="norm of update / norm of weights")
    lower.set_xticks(places, [cut(row.name or row.kind) for row in rows], rotation=90)
    for axes in (upper, lower):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_plain)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    save(figure, path)


@as_it_stands
def histograms(inside: Sequence[Inside], path: str | Path, *, title: str = "") -> None:
    """Draws a row of histograms for each layer with weights: activations, weights, gradients of the weights; a PNG."""
    rows = _chosen([each for each in inside if "weights" in each.samples])
    what = ("activations", "weights", "gradients")
    figure = Figure(figsize=(10, 1.3 * len(rows) + 0.8), layout="constrained")
    for panels, each in zip(figure.subplots(len(rows), 3, squeeze=False), rows, strict=True):
        for axes, name in zip(panels, what, strict=True):
            values = np.asarray(each.samples.get(name, ()), np.float64)
            values = values[np.isfinite(values)]
            axes.set_yticks([])
            axes.spines[["top", "right", "left"]].set_visible(False)
            axes.tick_params(labelsize=7)
            if values.size:
                axes.hist(values, bins=50, color=BLUE)
            else:
                axes.set_xticks([])
        panels[0].set_ylabel(cut(each.name or each.kind), rotation=0, ha="right", va="center", fontsize=8)
        if each is rows[0]:
            for axes, name in zip(panels, what, strict=True):
                axes.set_title(name, fontsize=10)
    figure.suptitle(line(title))
    save(figure, path, dpi=100)


def first_filters(layers: Sequence[Layer], params: Any) -> np.ndarray | None:
    """The kernels of the first convolution as images in [0, 1], `[filters, height, width, channels]`.

    None where the model has none, or it sees something else than one channel or three.
    """
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    kernels: Mapping[str, Any] = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    for layer in layers:
        kernel = kernels.get(f"{layer.name}/kernel")
        if kernel is None:
            continue
        kernel = np.asarray(kernel, np.float32)
        if kernel.ndim != 4 or kernel.shape[2] not in (1, 3) or max(kernel.shape[:2]) == 1:
            return None
        images = np.moveaxis(kernel, 3, 0)[:MOST_FILTERS]
        least = images.min(axis=(1, 2, 3), keepdims=True)
        spread = images.max(axis=(1, 2, 3), keepdims=True) - least
        return (images - least) / np.where(spread > 0, spread, 1)
    return None


@as_it_stands
def rate_test(test: RateTest, path: str | Path, *, title: str = "") -> None:
    """Draws the loss over the learning rate, and the suggestion, as a PNG."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(test.rates, test.losses, color=BLUE, alpha=0.35, label="loss of the step")
    axes.plot(test.rates, test.smoothed, color=BLUE, label="smoothed")
    if test.suggestion is not None:
        label = f"suggestion: {test.suggestion:.2g}"
        axes.axvline(test.suggestion, color=ORANGE, linestyle="--", label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain)
    if test.smoothed.size:  # a spike would flatten all the rest
        low, high = float(test.losses.min()), float(test.smoothed.max())
        margin = 0.1 * (high - low) + 1e-12
        axes.set_ylim(low - margin, min(float(test.losses.max()), high + 2 * margin) + margin)
    axes.set(xlabel="learning rate", ylabel="loss", title=line(title))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save(figure, path)
