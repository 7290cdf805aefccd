"""Pictures of a search: its cells, and how many skip connections a supernet prefers as it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.measure.pictures import BLUE, ORANGE
from zoo.vision.cells import INPUTS, Edge, Genotype

_COLOURS = {"skip": "#9a9a9a", "none": "#cccccc", "max": ORANGE, "avg": ORANGE, "sep": BLUE, "dil": "#3f8f5b"}


def cells(genotype: Genotype, path: str | Path, *, title: str = "") -> None:
    """Draws both cells as a PNG: boxes are nodes, an edge bears its operation."""
    nodes = max(len(edges) for edges in genotype) // INPUTS
    figure = Figure(figsize=(3.2 + 2.1 * nodes, 8.4), layout="constrained")
    for axes, (kind, edges) in zip(figure.subplots(2, 1), genotype._asdict().items(), strict=True):
        _cell(axes, edges)
        axes.set_title({"normal": "normal cell", "reduce": "reduction cell"}[kind], loc="left", fontsize=11)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)


def _cell(axes: Any, edges: Sequence[Edge]) -> None:
    nodes = len(edges) // INPUTS
    places = {0: (0.0, 1.0), 1: (0.0, -1.0)}
    places |= {INPUTS + node: (2.2 * (node + 1), 0.75 if node % 2 == 0 else -0.75) for node in range(nodes)}
    last = 2.2 * (nodes + 1)
    for node in range(nodes):
        _arrow(axes, places[INPUTS + node], (last, 0.0), "#dddddd", 0.0)
    seen: dict[tuple[int, int], int] = {}
    for number, (kind, source) in enumerate(edges):
        target = INPUTS + number // INPUTS
        repeated = seen[source, target] = seen.get((source, target), 0) + 1
        start, end = places[source], places[target]
        bend = (0.12 if start[1] >= end[1] else -0.12) * (1 if repeated == 1 else -2)
        _arrow(axes, start, end, _COLOURS.get(kind[:4].rstrip("_"), _COLOURS.get(kind[:3], BLUE)), bend)
        share = 0.42 + 0.16 * (number % INPUTS)
        dx, dy = end[0] - start[0], end[1] - start[1]
        x, y = start[0] + share * dx - bend * dy * 0.5, start[1] + share * dy - (-bend) * dx * -0.5
        words = kind.replace("_connect", "").replace("_", " ").replace("3x3", "3×3").replace("5x5", "5×5")
        axes.text(
            x,
            y,
            words,
            fontsize=8,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    names = {0: "cell k−2", 1: "cell k−1", **{INPUTS + node: f"node {node}" for node in range(nodes)}}
    for node, (x, y) in [*places.items(), (-1, (last, 0.0))]:
        name = names.get(node, "output")
        box = {
            "boxstyle": "round,pad=0.4",
            "facecolor": "#eef3fa" if node >= INPUTS else "#f6f0e6",
            "edgecolor": "#555",
        }
        axes.text(x, y, name, fontsize=9, ha="center", va="center", bbox=box, zorder=3)
    axes.set(xlim=(-0.8, last + 0.8), ylim=(-1.7, 1.7))
    axes.set_axis_off()


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 26, "shrinkB": 26}
    axes.annotate("", xy=end, xytext=start, arrowprops={**style, "connectionstyle": f"arc3,rad={bend}"}, zorder=1)


def skips(
    epochs: Sequence[float],
    counts: Mapping[str, Sequence[Sequence[float]]],
    shares: Mapping[str, Sequence[Sequence[float]]],
    path: str | Path,
    *,
    edges: int,
) -> None:
    """Draws as a PNG how skip connections gain ground while supernets are trained.

    A line is a mean over supernets, each of which is a thin one.

    Args:
      epochs: at which cells were derived.
      counts: of the skip connections in the cell that a supernet stands for, `[supernet, epoch]`, by what the line is
        called.
      shares: the mean weight of skip connections over all edges of the supernet's cells, likewise.
      path: of the file.
      edges: of a cell, the most that there can be.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, lines in ((left, counts), (right, shares)):
        for (label, rows), color, style in zip(lines.items(), (BLUE, ORANGE), ("-", "--"), strict=False):
            for row in rows if len(rows) > 1 else ():
                axes.plot(epochs, row, style, color=color, lw=0.8, alpha=0.5)
            axes.plot(epochs, np.mean(rows, axis=0), style, color=color, lw=2, label=label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        axes.set(xlabel="epoch")
    left.set(ylabel=f"skip connections of {edges} edges", ylim=(-0.2, edges + 0.2))
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(ylabel="weight of skip connections, mean of all edges", ylim=(0, 1))
    figure.savefig(path, dpi=80)
