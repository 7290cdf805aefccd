"""The pictures of a study: how the best value came down, which settings matter, and how they go together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train.measure.pictures import BLUE, ORANGE, as_it_stands, cut, save

_GREY = "#9a9a9a"

_MOST_AXES = 12
"""More settings than that are not drawn side by side: the first of them are."""

Row = Mapping[str, Any]
"""A trial: `trial`, `state`, `value`, `draws`."""


def _told(table: Sequence[Row], state: str) -> list[Row]:
    return [row for row in table if row["state"] == state and row["value"] is not None]


@as_it_stands
def history(table: Sequence[Row], path: str | Path, *, label: str, maximize: bool) -> None:
    """Draws the value of each trial and the best so far as a PNG; trials that failed are marked below."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    complete, pruned = _told(table, "complete"), _told(table, "pruned")
    best = (np.maximum if maximize else np.minimum).accumulate([row["value"] for row in complete])
    if pruned:
        axes.plot(*_points(pruned), "x", color=_GREY, markersize=5, label="pruned")
    axes.plot(*_points(complete), "o", color=BLUE, markersize=5, label="trained to the end")
    if failed := [row["trial"] for row in table if row["state"] == "failed"]:
        axes.plot(
            failed, [0.02] * len(failed), "|", color="black", transform=axes.get_xaxis_transform(), label="failed"
        )
    last = max(row["trial"] for row in table)
    at = [*(row["trial"] for row in complete), last]
    axes.step(at, [*best, best[-1]], where="post", color=ORANGE, label="best so far")
    values = np.array([row["value"] for row in complete])
    if values.min() > 0 and max(row["value"] for row in [*complete, *pruned]) > 20 * values.min():
        axes.set_yscale("log")
    axes.set(xlabel="trial", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save(figure, path)


def _points(rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    return [row["trial"] for row in rows], [row["value"] for row in rows]


@as_it_stands
def importance(shares: Mapping[str, float], path: str | Path, *, label: str) -> None:
    """Draws the share of each setting as a bar, the greatest above, as a PNG."""
    figure = Figure(figsize=(7, 1.2 + 0.32 * len(shares)), layout="constrained")
    axes = figure.subplots()
    places, values = list(range(len(shares))), list(shares.values())
    axes.barh(places, values, color=BLUE)
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, f"  {value:.2f}", va="center", fontsize=8)
    axes.set_yticks(places, [_short(name) for name in shares])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max(values))
    axes.set(xlabel=f"importance for the {label}")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


@as_it_stands
def parallel(
    table: Sequence[Row],
    path: str | Path,
    *,
    label: str,
    maximize: bool,
    logarithmic: frozenset[str] | set[str] = frozenset(),
    order: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Draws each trial as a line through its settings to its value, the best darkest and on top, as a PNG.

    A setting that a trial did not draw, such as the width of a layer that it does not have, is below the axis.

    Args:
      table: the trials; those without a value are left out.
      path: the file.
      label: of the value.
      maximize: whether more of it is better.
      logarithmic: settings on a logarithmic scale.
      order: the choices of settings that are choices.
    """
    order = order or {}
    shown = [*_told(table, "pruned"), *_told(table, "complete")]
    names = sorted({name for row in shown for name in row["draws"]}, key=_natural)[:_MOST_AXES]
    figure = Figure(figsize=(2.2 + 1.35 * len(names), 4.6), layout="constrained")
    axes = figure.subplots()
    values = np.array([row["value"] for row in shown])
    low, high = _readable(values, [row["value"] for row in _told(table, "complete")], maximize)
    color = colormaps["Blues" if maximize else "Blues_r"]
    norm = Normalize(low, high)
    columns = [_places([row["draws"].get(n) for row in shown], n in logarithmic, order.get(n)) for n in names]
    last = np.clip((values - low) / (high - low), 0, 1)
    order_drawn = np.argsort(values if maximize else -values)
    for index in order_drawn:
        heights = [column[0][index] for column in columns] + [last[index]]
        complete = shown[index]["state"] == "complete"
        shade = color(0.15 + 0.85 * norm(np.clip(values[index], low, high)) * (1 if maximize else 0.85))
        axes.plot(range(len(heights)), heights, color=shade, linewidth=1.6 if complete else 0.8, alpha=0.9)
    for place, (_, ticks) in enumerate([*columns, (last, _ticks(low, high, False))]):
        axes.axvline(place, color="#444444", linewidth=0.8)
        for height, word in ticks:
            axes.text(place + 0.04, height, word, fontsize=7, va="center", bbox=_BEHIND)
    if any((column[0] < 0).any() for column in columns):
        axes.text(-0.08, _ABSENT, "none", fontsize=7, va="center", ha="right")
    axes.set_xticks(range(len(names) + 1), [*(_short(n).replace(".", "\n") for n in names), label], fontsize=8)
    axes.set_yticks([])
    axes.set_xlim(-0.35, len(names) + 0.6)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    save(figure, path)


_ABSENT = -0.12
"""Where a line goes through a setting that its trial does not have."""

_BEHIND = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5}


def _readable(values: np.ndarray, complete: Sequence[float], maximize: bool) -> tuple[float, float]:
    """The ends of the axis of values: of trials that were pruned, the worst quarter lies at its end."""
    worst = float(np.quantile(values, 0.25 if maximize else 0.75))
    ends = [*complete, worst]
    low, high = min(ends), max(ends)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _places(
    drawn: Sequence[Any], logarithmic: bool, choices: Sequence[str] | None
) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """The height of each value on its axis, from 0 to 1, and the words beside the axis."""
    if choices is not None:
        heights = {choice: index / max(1, len(choices) - 1) for index, choice in enumerate(choices)}
        places = [_ABSENT if value is None else heights[str(value)] for value in drawn]
        return np.array(places), [(height, cut(choice)) for choice, height in heights.items()]
    scale = math.log if logarithmic else float
    numbers = [scale(value) for value in drawn if value is not None]
    low, high = min(numbers), max(numbers)
    width = high - low or 1.0
    places = [_ABSENT if value is None else (scale(value) - low) / width for value in drawn]
    ends = [value for value in drawn if value is not None]
    return np.array(places), _ticks(min(ends), max(ends), logarithmic)


def _ticks(low: float, high: float, logarithmic: bool) -> list[tuple[float, str]]:
    """Places along an axis and the numbers there; whole numbers where both ends are."""
    if low == high:
        return [(0.0, f"{low:.4g}")]
    if logarithmic:
        return [(share, f"{low * (high / low) ** share:.2g}") for share in (0, 0.25, 0.5, 0.75, 1)]
    numbers = [low + share * (high - low) for share in (0, 0.25, 0.5, 0.75, 1)]
    if isinstance(low, int) and isinstance(high, int):
        numbers = sorted({round(number) for number in numbers})
    return [((number - low) / (high - low), f"{number:.4g}") for number in numbers]


def _short(name: str) -> str:
    """A setting without its group."""
    group, dot, option = name.partition(".")
    return cut(option if dot and group.endswith("_options") else name)


def _natural(name: str) -> tuple[str, int, int]:
    """Sorts the length of a list before its items, and these by number."""
    stem, bracket, rest = name.partition("[")
    if bracket:
        return stem, 1, int(rest.partition("]")[0])
    return name.removesuffix(".length"), 0, 0
