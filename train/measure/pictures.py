"""The pictures of a run: learning curves, the confusion matrix, grids of images."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from train.files import write_whole
from train.loop.checkpoints import History
from train.metrics import higher_is_better

if TYPE_CHECKING:
    from train.inference.adaptation import Curve

BLUE, ORANGE = "#2a6fbb", "#d9772b"

_COLUMNS = 3
"""The most panels in a row."""

_FEW = 5
"""So few points are marked: a line through them alone would hardly be seen."""

_MOST_NAMES = 60
"""More classes than that have no names at the sides of a confusion matrix; they could not be read."""

# A name from a file is no mathematics: `$` is a dollar.
as_it_stands = matplotlib.rc_context({"text.parse_math": False})


def line(name: str) -> str:
    """A name with control characters escaped, and so on one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def cut(name: str) -> str:
    """A class name, cut where it would leave no room."""
    name = line(name)
    return name if len(name) <= 30 else f"{name[:29]}…"


def save(picture: Figure | Image.Image, path: str | Path, *, dpi: int = 120) -> None:
    """Writes a drawing, or pixels, as a PNG; see `train.files.write_whole`."""
    content = io.BytesIO()
    if isinstance(picture, Figure):
        picture.savefig(content, format="png", dpi=dpi)
    else:
        picture.save(content, format="png")
    write_whole(path, content.getvalue())


@as_it_stands
def curves(history: History, path: str | Path, *, title: str = "") -> None:
    """Draws each metric over the epochs, training beside validation, as a PNG."""
    names = [name for name in history[0] if f"validation_{name}" in history[0]] or [
        name for name in history[0] if name not in ("step", "epoch", "seconds")
    ]
    names.sort(key=lambda name: (name != "loss", name))
    columns = min(len(names), _COLUMNS)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    epochs = [row["epoch"] for row in history]
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        marker = "o" if len(history) <= _FEW else None
        axes.plot(epochs, [row[name] for row in history], color=BLUE, marker=marker, label="training")
        if f"validation_{name}" in history[0]:
            validation = [row[f"validation_{name}"] for row in history]
            axes.plot(epochs, validation, color=ORANGE, marker=marker, label="validation")
        axes.set(xlabel="epoch", ylabel=name.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(integer=epochs[-1] >= 2))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(line(title))
    save(figure, path)


@as_it_stands
def compare(histories: Mapping[str, History], path: str | Path, *, metric: str = "loss") -> None:
    """Draws one metric of several runs over the epochs as a PNG, training dashed and validation solid.

    Args:
      histories: by what each is to be called.
      path: the file.
      metric: a column of each history.

    Raises:
      ValueError: a history has no such column.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for index, (name, history) in enumerate(histories.items()):
        if metric not in history[0]:
            raise ValueError(f"{name} has no metric {metric!r}; it has {', '.join(history[0])}")
        epochs = [row["epoch"] for row in history]
        marker = "o" if len(history) <= _FEW else None
        for column, style in ((metric, "--"), (f"validation_{metric}", "-")):
            if column in history[0]:
                label = f"{line(name)}: {'validation' if column.startswith('validation_') else 'training'}"
                values = [row[column] for row in history]
                axes.plot(epochs, values, style, color=f"C{index}", marker=marker, label=label)
    axes.set(xlabel="epoch", ylabel=metric.replace("_", " "))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save(figure, path)


@as_it_stands
def variants(
    histories: Mapping[str, Sequence[History]],
    ends: Mapping[str, Sequence[tuple[float, float]]],
    path: str | Path,
    *,
    metric: str = "loss",
    title: str = "",
) -> None:
    """Draws a metric of variants over the epochs, and beside it where training and validation ended, as a PNG.

    Args:
      histories: of each variant's runs, by what it is called. Means are drawn, in a band from the least to the
        greatest.
      ends: of each run (training, validation) at its end; of none where there is no validation split.
      path: the file.
      metric: a column of each history, drawn on the validation split where there is one.
      title: above the picture.
    """
    columns = {f"validation_{metric}" in history[0] for each in histories.values() for history in each}
    column = f"validation_{metric}" if columns == {True} else metric
    gaps = any(ends.values())
    size = (13.0 if gaps else 7.5, max(4.2, 1.2 + 0.34 * len(histories)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, 2 if gaps else 1, squeeze=False)[0]
    for index, (name, each) in enumerate(histories.items()):
        if not each:
            continue
        rows = min(map(len, each))  # one that ended early has fewer
        values = np.array([[row[column] for row in history[:rows]] for history in each])
        epochs, color, style = [row["epoch"] for row in each[0][:rows]], f"C{index % 10}", "-" if index < 10 else "--"
        marker = "o" if rows <= _FEW else None
        panels[0].plot(epochs, values.mean(axis=0), style, color=color, marker=marker, label=cut(name), linewidth=1.3)
        if len(each) > 1:
            panels[0].fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.12, linewidth=0)
    panels[0].set(xlabel="epoch", ylabel=column.replace("_", " "))
    panels[0].legend(frameon=False, fontsize=8)
    if gaps:
        for index, each in enumerate(ends.values()):
            color = f"C{index % 10}"
            if not each:
                continue
            training, validation = np.mean(each, axis=0)
            panels[1].plot([training, validation], [index, index], color=color, linewidth=2, alpha=0.6)
            if len(each) > 1:
                panels[1].plot([v for _, v in each], [index] * len(each), ".", color=color, markersize=4)
            panels[1].plot(training, index, "o", color=color, markerfacecolor="white")
            panels[1].plot(validation, index, "o", color=color)
            gap = training - validation if higher_is_better(metric) else validation - training
            at = (max(training, validation), index)
            panels[1].annotate(f"{gap:.3g}", at, (8, 0), textcoords="offset points", va="center", fontsize=8)
        panels[1].set_yticks(range(len(ends)), [cut(name) for name in ends])
        panels[1].invert_yaxis()
        panels[1].margins(x=0.12)
        label = f"{metric.replace('_', ' ')} at the end: ○ training, ● validation, and their gap"
        panels[1].set(xlabel=label)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(line(title))
    save(figure, path)


@as_it_stands
def confusion_matrix(counts: np.ndarray, classes: Sequence[str], path: str | Path, *, title: str = "") -> None:
    """Draws counts `[actual, predicted]` as a PNG, shaded by the share of each actual class."""
    size = min(14, max(4, 0.55 * len(classes) + 1.5))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= _MOST_NAMES:
        names = [cut(name) for name in classes]
        axes.set_xticks(np.arange(len(classes)), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(np.arange(len(classes)), names)
    axes.set(xlabel="predicted", ylabel="actual", title=line(title))
    if len(classes) <= 20:
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=9)
    save(figure, path)


def grid(images: np.ndarray, path: str | Path) -> None:
    """Writes images in [0, 1] side by side as a PNG, small ones enlarged.

    Args:
      images: `[rows, columns, height, width, channels]`, or `[n, height, width, channels]` to be laid out in a square;
        one channel or three.
      path: the file.
    """
    if images.ndim == 4:
        columns = math.ceil(math.sqrt(len(images)))
        empty = -len(images) % columns
        images = np.concatenate([images, np.zeros((empty, *images.shape[1:]), images.dtype)])
        images = images.reshape(-1, columns, *images.shape[1:])
    scale = max(1, 56 // images.shape[2])
    images = np.round(images * 255).astype(np.uint8).repeat(scale, axis=2).repeat(scale, axis=3)
    images = np.pad(images, ((0, 0), (0, 0), (0, scale), (0, scale), (0, 0)), constant_values=64)
    rows, columns, height, width, channels = images.shape
    picture = images.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)
    save(Image.fromarray(picture[..., 0] if channels == 1 else picture), path)


@as_it_stands
def bars(
    names: Sequence[str],
    values: Sequence[tuple[float, float, float]],
    path: str | Path,
    *,
    notes: Sequence[str],
    label: str,
) -> None:
    """Draws ratios as horizontal bars beside a line at 1, as a PNG.

    Args:
      names: of the bars, from above.
      values: of each its ratio, and the ends of its spread.
      path: the file.
      notes: words at the ends of the bars.
      label: of the axis.
    """
    figure = Figure(figsize=(8, 1.2 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    ratio, low, high = np.array(values).T
    places = list(range(len(names)))
    colors = [BLUE if value <= 1 else ORANGE for value in ratio]
    spread = np.maximum([ratio - low, high - ratio], 0)
    axes.barh(places, ratio, color=colors, xerr=spread, error_kw={"ecolor": "#444444", "elinewidth": 1})
    for place, end, value, note in zip(places, np.maximum(ratio, high), ratio, notes, strict=True):
        words = axes.annotate(
            f"{value:.2f}  {line(note)}", (end, place), (6, 0), textcoords="offset points", va="center"
        )
        words.set(fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    axes.set_yticks(places, [line(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, max(1.0, float(np.maximum(ratio, high).max())) * 1.3)
    axes.axvline(1, color="#444444", linewidth=1)
    axes.set(xlabel=label)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


@as_it_stands
def adaptation(curves: Sequence[Curve], path: str | Path, *, title: str = "") -> None:
    """Draws what a learner tells of curves before and after it has seen a few points of each, as a PNG."""
    figure = Figure(figsize=(5 * len(curves), 3.6), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False, sharey=True).ravel()
    for axes, curve in zip(panels, curves, strict=True):
        axes.plot(*curve.query, "o", color="0.6", markersize=4, label="queries")
        for steps, values in curve.told.items():
            if steps == 0:
                axes.plot(curve.x, values, color=ORANGE, linestyle=":", label="before")
            else:
                last = steps == max(curve.told)
                label = f"after {steps} step{'s' if steps > 1 else ''}"
                axes.plot(curve.x, values, color=BLUE, alpha=1.0 if last else 0.4, label=label)
        axes.plot(*curve.support, "k^", label="support set")
        axes.set_xlabel("input")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize="small")
    figure.suptitle(title)
    save(figure, path)
