"""Pictures of a search: its cells, and how many skip connections a supernet prefers as it is trained."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as MplPath
from matplotlib.ticker import MaxNLocator

from train.measure.pictures import BLUE, ORANGE, save
from zoo.vision.cells import INPUTS, Edge, Genotype

_COLOURS = {"skip": "#e4e4e4", "max": "#f6dcc3", "avg": "#f6dcc3", "sep": "#c9dcf3", "dil": "#cfe6d4"}
"""Of operations, by the beginning of their names."""

_STEP, _GAP, _ROW, _RAIL = 3.7, 1.1, 1.05, 2.05
"""Between nodes; the room for wires in front of operations; how far nodes and the wires of the inputs are from the
middle."""


def cells(genotype: Genotype, path: str | Path, *, title: str = "") -> None:
    """Draws both cells as a PNG: in front of each node stand the operations whose sum it is.

    Wires of the inputs run outside of the nodes, those of nodes between them; what dotted ones bring is the output.
    """
    nodes = max(len(edges) for edges in genotype) // INPUTS
    figure = Figure(figsize=(2.2 + 2.1 * nodes, 5.8), layout="constrained")
    for axes, (kind, edges) in zip(figure.subplots(2, 1), genotype._asdict().items(), strict=True):
        _cell(axes, edges)
        axes.set_title({"normal": "normal cell", "reduce": "reduction cell"}[kind], loc="left", fontsize=11)
    figure.suptitle(title)
    save(figure, path)


def _cell(axes: Any, edges: Sequence[Edge]) -> None:
    nodes = len(edges) // INPUTS
    places = {0: (0.0, _RAIL), 1: (0.0, -_RAIL)}
    places |= {INPUTS + node: (_STEP * (node + 1), _ROW * (-1) ** node) for node in range(nodes)}
    last = _STEP * nodes + 2.2
    for number, (kind, source) in enumerate(edges):
        x, y = places[INPUTS + number // INPUTS]
        x, y = x - 1.35, y + (0.36 if number % INPUTS == 0 else -0.36)
        _wire(axes, [(x, y), places[INPUTS + number // INPUTS]], "0.6")
        lane = places[source][1] if source < INPUTS else 0.24 * (source - INPUTS - (nodes - 1) / 2)
        _wire(axes, [*_route(places[source], lane, (x - 0.78, y)), (x, y)], "0.45")
        words = kind.replace("_connect", "").replace("_", " ").replace("3x3", "3×3").replace("5x5", "5×5")
        _box(axes, (x, y), words, _COLOURS.get(kind[:4].rstrip("_"), _COLOURS.get(kind[:3], "white")), fontsize=8.5)
    for node in range(nodes):
        place = places[INPUTS + node]
        rail = 1.75 * (1 if place[1] > 0 else -1)
        _wire(axes, _route(place, rail, (last, 0.0)), "0.75", linestyle=":")
    names = {0: "cell k−2", 1: "cell k−1", **{INPUTS + node: f"node {node}" for node in range(nodes)}}
    for node, place in places.items():
        _box(axes, place, names[node], "#f6f0e6" if node < INPUTS else "#eef3fa")
    _box(axes, (last, 0.0), "output", "#f6f0e6")
    axes.set(xlim=(-0.9, last + 0.9), ylim=(-2.45, 2.45))
    axes.set_axis_off()


def _route(start: tuple[float, float], lane: float, end: tuple[float, float]) -> list[tuple[float, float]]:
    """From a box along a lane, which is left in front of what the wire leads to."""
    near, far = start[0] + 0.6, end[0] - _GAP
    if lane == start[1]:
        return [start, (max(far, start[0]), lane), end]
    return [start, end] if far < near + _GAP else [start, (near, start[1]), (near + _GAP, lane), (far, lane), end]


def _wire(axes: Any, points: Sequence[tuple[float, float]], colour: str, **style: Any) -> None:
    """Through these points, each of which it passes horizontally."""
    corners, codes = [points[0]], [MplPath.MOVETO]
    for (x, y), (u, v) in itertools.pairwise(points):
        corners += [((x + u) / 2, y), ((x + u) / 2, v), (u, v)]
        codes += [MplPath.CURVE4] * 3
    axes.add_patch(PathPatch(MplPath(corners, codes), fill=False, edgecolor=colour, linewidth=1.3, zorder=1, **style))


def _box(axes: Any, place: tuple[float, float], words: str, colour: str, *, fontsize: float = 9) -> None:
    box = {"boxstyle": "round,pad=0.4", "facecolor": colour, "edgecolor": "#555", "linewidth": 0.8}
    axes.text(*place, words, fontsize=fontsize, ha="center", va="center", bbox=box, zorder=3)


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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set(ylabel=f"skip connections of {edges} edges", ylim=(-0.2, edges + 0.2))
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(ylabel="their weight, mean of all edges", ylim=(0, 1))
    save(figure, path, dpi=80)
