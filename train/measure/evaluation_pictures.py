"""The pictures of an evaluation: curves of a classifier, its calibration and mistakes, errors of a regression."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.inference.scores import ClassPredictions, Estimates
from train.measure.pictures import BLUE, ORANGE, as_it_stands, cut, line, save
from train.metrics import CALIBRATION_BINS

_MOST_CURVES = 10
"""More classes than that are thin lines without names, with their mean in front."""

_MOST_TARGETS = 6
"""Of a regression with more targets than that, the first are shown."""

_MISTAKES_IN_A_ROW = 4


@as_it_stands
def roc(found: ClassPredictions, path: str | Path, *, title: str = "") -> None:
    """Draws the receiver operating characteristic as a PNG: of the second of two classes, or of each.

    Classes that have no example, or all of them, have no curve.
    """

    def curve(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        from sklearn import metrics

        wrong, right, _ = metrics.roc_curve(positive, scores)
        return wrong, right, float(metrics.auc(wrong, right))

    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle=":")
    _each_class(axes, found, curve)
    axes.set(xlabel="false positive rate", ylabel="true positive rate (recall)", title=line(title))
    _save(figure, axes, path, "lower right", "class (area)")


@as_it_stands
def precision_recall(found: ClassPredictions, path: str | Path, *, title: str = "") -> None:
    """Draws precision over recall as a PNG, in steps; classes as in `roc`."""

    def curve(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        from sklearn import metrics

        precision, recall, _ = metrics.precision_recall_curve(positive, scores)
        return recall, precision, float(metrics.average_precision_score(positive, scores))

    figure, axes = _square()
    _each_class(axes, found, curve, drawstyle="steps-post")
    axes.set(xlabel="recall", ylabel="precision", title=line(title))
    _save(figure, axes, path, "lower left", "class (average precision)")


@as_it_stands
def reliability(
    examples: np.ndarray, confidence: np.ndarray, right: np.ndarray, path: str | Path, *, title: str = ""
) -> None:
    """Draws how often predictions are right, over how sure they are, and how many there are, as a PNG.

    Args:
      examples: number in each bin of the confidence.
      confidence: mean in each bin, NaN where it is empty.
      right: share that is right.
      path: the file.
      title: of the picture.
    """
    figure = Figure(figsize=(5.4, 6.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    centres = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    width = 0.92 / CALIBRATION_BINS
    filled = examples > 0
    upper.plot([0, 1], [0, 1], color="#222222", linewidth=1, linestyle=":", zorder=3, label="perfectly calibrated")
    upper.bar(centres[filled], right[filled], width, color=BLUE, alpha=0.6, label="share that is right")
    upper.plot(confidence[filled], right[filled], "o", color=ORANGE, markersize=5, label="at the mean confidence")
    error = np.nansum(np.abs(right - confidence) * examples) / examples.sum()
    upper.set(ylabel="accuracy", ylim=(-0.02, 1.02))
    upper.set_title(f"expected calibration error {error:.3f}", fontsize=10)
    upper.legend(frameon=True, framealpha=0.85, edgecolor="none", loc="upper left", fontsize=9)
    figure.suptitle(line(title))
    lower.bar(centres, examples, width, color=BLUE)
    lower.set(xlabel="confidence (probability of the predicted class)", ylabel="examples", xlim=(0, 1))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


@as_it_stands
def mistakes(
    images: np.ndarray, found: ClassPredictions, rows: np.ndarray, path: str | Path, *, title: str = ""
) -> None:
    """Draws images that were taken for a wrong class, with their number, both classes and probabilities, as a PNG.

    Args:
      images: `[n, height, width, channels]` in [0, 1], one channel or three.
      found: all predictions.
      rows: which of the examples the images are.
      path: the file.
      title: of the picture.
    """
    columns = min(_MISTAKES_IN_A_ROW, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(max(4.0, 1.9 * columns), 2.45 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, image, row in zip(panels, images, rows, strict=False):
        axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=1)
        label, told = found.labels[row], found.predicted[row]
        shares = [_percent(float(found.probabilities[row, each])) for each in (label, told)]
        axes.set_title(f"#{row} is {_short(found.classes[label])} ({shares[0]})\n", fontsize=9, color="#222222")
        axes.text(
            *(0.5, 1.03),
            f"taken for {_short(found.classes[told])} ({shares[1]})",
            ha="center",
            va="bottom",
            fontsize=9,
            color="#b3261e",
            transform=axes.transAxes,
        )
    figure.suptitle(line(title))
    save(figure, path)


@as_it_stands
def predicted(found: Estimates, path: str | Path, *, title: str = "") -> None:
    """Draws what a regression tells over what is true as a PNG, a panel a target."""

    def panel(axes: Axes, wanted: np.ndarray, told: np.ndarray, name: str) -> None:
        least, most = min(wanted.min(), told.min()), max(wanted.max(), told.max())
        axes.plot([least, most], [least, most], color="#888888", linewidth=1, linestyle=":")
        axes.scatter(wanted, told, **_dots(len(wanted)))
        axes.set(xlabel=name, ylabel="predicted")
        axes.set_aspect("equal", adjustable="datalim")

    _targets(found, panel, path, title)


@as_it_stands
def residuals(found: Estimates, path: str | Path, *, title: str = "") -> None:
    """Draws the residuals y − ŷ of a regression over what it tells as a PNG, with their distribution at the side."""

    def panel(axes: Axes, wanted: np.ndarray, told: np.ndarray, name: str) -> None:
        rest = wanted.astype(np.float64) - told  # in float32 residuals that are nearly equal have no bins between them
        axes.axhline(0, color="#888888", linewidth=1, linestyle=":")
        axes.scatter(told, rest, **_dots(len(wanted)))
        axes.set(xlabel=f"predicted {name}", ylabel="residual (true − predicted)")
        side = axes.inset_axes((1.02, 0, 0.18, 1), sharey=axes)
        side.hist(rest, bins=min(30, max(5, len(rest) // 5)), orientation="horizontal", color=BLUE)
        side.set_axis_off()

    _targets(found, panel, path, title)


_Panel = Callable[[Axes, np.ndarray, np.ndarray, str], None]


def _targets(found: Estimates, panel: _Panel, path: str | Path, title: str) -> None:
    names = [cut(name) for name in found.names[:_MOST_TARGETS]]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.4 * columns, 4.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for index, (axes, name) in enumerate(zip(panels, names, strict=False)):
        panel(axes, found.targets[:, index], found.predictions[:, index], name)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    shown = "" if len(names) == len(found.names) else f" (the first {len(names)} of {len(found.names)} targets)"
    figure.suptitle(line(title) + shown)
    save(figure, path)


def _dots(count: int) -> dict[str, Any]:
    """Many points are small and let others show through."""
    few = count <= 200
    return {"s": 18 if few else 8, "alpha": 0.7 if few else 0.35, "color": BLUE, "linewidths": 0}


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.8, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _each_class(axes: Axes, found: ClassPredictions, curve: Callable[..., Any], **style: Any) -> None:
    """A curve for each class that has examples, and has not all of them."""
    count = len(found.classes)
    wanted = [1] if count == 2 else range(count)
    colors = matplotlib.colormaps["tab10"]
    areas = []
    for number in wanted:
        positive = found.labels == number
        if positive.all() or not positive.any():
            continue
        x, y, area = curve(positive, found.probabilities[:, number])
        areas.append(area)
        if count <= _MOST_CURVES:
            label = f"{cut(found.classes[number])} ({area:.3f})"
            axes.plot(x, y, color=colors(number % 10), linewidth=1.6, label=label, **style)
        else:
            axes.plot(x, y, color=BLUE, linewidth=0.8, alpha=max(0.08, min(0.5, 10 / count)), **style)
    if not areas:
        words = "all examples are of one class:\nthere is no curve"
        axes.text(0.5, 0.5, words, ha="center", va="center", bbox={"facecolor": "white", "edgecolor": "none"})
    elif count > _MOST_CURVES:
        axes.plot([], [], color=BLUE, label=f"{len(areas)} of {count}: mean {np.mean(areas):.3f}")


def _save(figure: Figure, axes: Axes, path: str | Path, place: Literal["lower left", "lower right"], head: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=True, framealpha=0.85, edgecolor="none", loc=place, fontsize=9, title=head)
    save(figure, path)


def _percent(share: float) -> str:
    return "<0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _short(name: str) -> str:
    name = line(name)
    return name if len(name) <= 14 else f"{name[:13]}…"
